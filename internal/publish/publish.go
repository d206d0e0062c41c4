// Package publish takes in what others say: whatever edge an event comes by (HTTP, gRPC,
// a hosted plugin), it passes the same rules here and is in the journal when the answer
// is given. A repeat of an event, one with the same source and id, is recognised for a
// while and not stored again, so that producers may repeat until they get an answer.
//
// It speaks no protocol and knows no tokens: an edge parses, asks who it is, and hands
// both over. What sources read from elsewhere, and what the hub says itself, goes into
// the journal directly.
package publish

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/policy"
)

// PathPrefix is what goes before the event type in the path on which a publisher needs
// the capability create, behind the namespace of the event.
const PathPrefix = "sys/events/publish/"

// Publisher is who publishes; [access.Identity] is one. See also [Host].
type Publisher interface {
	// Allows says whether an operation is allowed on a path, which begins with the
	// namespace.
	Allows(op policy.Capabilities, path string, parameters map[string]any) bool
}

// Host is the hub itself as a publisher, for what it says on behalf of a plugin that it
// hosts: it may publish every type that is not reserved, and set the plugin info.
var Host Publisher = host{}

type host struct{}

func (host) Allows(policy.Capabilities, string, map[string]any) bool { return true }

// Journal is where events go; *[journal.Journal] is one.
type Journal interface {
	Submit(ctx context.Context, events ...*event.Event) (*journal.Receipt, error)
}

// Secrets looks for secrets in what is no payload.
type Secrets interface {
	// Check returns an error for an event that has to be refused. It may mask values of
	// the event instead.
	Check(e *event.Event) error
}

// Catalog knows the types of events.
type Catalog interface {
	// Check returns an error for an event that does not adhere to the schema of its
	// type, or, where that is not required, a warning.
	Check(e *event.Event) (warning string, err error)
	// Learn takes notice of an event that was accepted.
	Learn(e *event.Event)
}

// Request is something to be published together.
type Request struct {
	By Publisher
	// Namespace is that of the request, in canonical form. Events without a namespace
	// get it, others must lie in it or below it.
	Namespace string
	// Events belong to the intake from now on: what is missing is completed, what looks
	// like a secret may be masked.
	Events []*event.Event
	// Partial stores the events that are not refused also when others are; else none of
	// them is stored then.
	Partial bool
}

// Result is what became of the events of a request, of which each is accepted, a
// duplicate or refused.
type Result struct {
	// Accepted were stored now, Duplicates earlier.
	Accepted, Duplicates int
	// Refused, by ascending index, are those that were not; only of partial requests.
	Refused []*Refusal
	// Warnings are about events that were stored all the same.
	Warnings []Warning
}

// Code is why an event was refused, for programs.
type Code string

// Why events are refused.
const (
	Invalid  Code = "invalid"   // not well-formed
	TooLarge Code = "too-large" // larger than the limits
	Denied   Code = "denied"    // the policies of the publisher do not allow it
	Reserved Code = "reserved"  // only the hub says such things
	Secret   Code = "secret"    // has what looks like a secret
	Schema   Code = "schema"    // does not adhere to the schema of its type
)

// Refusal says which event was refused, and why.
type Refusal struct {
	Index int    // among the events of the request
	ID    string // of the event, possibly empty
	Code  Code
	Text  string // for people; names the attribute and never has the value of a secret
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("event %d: %s", r.Index, r.Text)
}

// Warning is about an event that is not as it should be, and was stored.
type Warning struct {
	Index int
	Text  string
}

// RefusedError is the error of a request of which nothing was stored because events
// of it were refused.
type RefusedError struct {
	Refused []*Refusal // by ascending index, at least one
}

func (e *RefusedError) Error() string {
	text := e.Refused[0].Error()
	if more := len(e.Refused) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more were refused)", more)
	}
	return text
}

// Options configure an Intake. Journal is required.
type Options struct {
	Journal Journal
	// Limits are those of the journal; the zero value means event.DefaultLimits.
	Limits event.Limits
	// Secrets and Catalog may be nil.
	Secrets Secrets
	Catalog Catalog
	// Metrics counts, by edge; nil keeps the counters private.
	Metrics *metrics.Metrics
}

// Intake takes events in. It is safe for concurrent use.
type Intake struct {
	options Options
}

// New returns an intake.
func New(o Options) *Intake {
	if o.Limits == (event.Limits{}) {
		o.Limits = event.DefaultLimits
	}
	return &Intake{options: o}
}

// Publish stores the events of a request and returns when all are durable. The error is
// a [*RefusedError], one that wraps [journal.ErrPushback] when they cannot be stored
// now (some may have been; repeating the same request is safe), or that of ctx.
func (i *Intake) Publish(ctx context.Context, r Request) (Result, error) {
	receipt, err := i.Submit(ctx, r)
	if err != nil {
		return Result{}, err
	}
	return receipt.Wait(ctx)
}

// Receipt is the promise of an answer for a request given to [Intake.Submit].
type Receipt struct {
	result Result
	waits  []*journal.Receipt
}

// Wait returns the result when all events are durable. Its errors are those of
// [Intake.Publish] but for refusals.
func (r *Receipt) Wait(ctx context.Context) (Result, error) {
	for _, w := range r.waits {
		if _, err := w.Wait(ctx); err != nil {
			return Result{}, err
		}
	}
	return r.result, nil
}

// Submit hands the events of a request over and returns before they are durable, with
// the errors of [Intake.Publish]. It blocks while too much waits for the disk. Requests
// that one goroutine submits are stored in this order.
func (i *Intake) Submit(ctx context.Context, r Request) (*Receipt, error) {
	receipt := new(Receipt)
	events := make([]*event.Event, 0, len(r.Events))
	now := time.Now()
	for index, e := range r.Events {
		warning, refused := i.check(&r, e, now)
		if refused != nil {
			refused.Index, refused.ID = index, e.ID
			receipt.result.Refused = append(receipt.result.Refused, refused)
			continue
		}
		if warning != "" {
			receipt.result.Warnings = append(receipt.result.Warnings, Warning{index, warning})
		}
		events = append(events, e)
	}
	if len(receipt.result.Refused) > 0 && !r.Partial {
		return nil, &RefusedError{receipt.result.Refused}
	}
	if len(events) == 0 {
		return receipt, nil
	}
	w, err := i.options.Journal.Submit(ctx, events...)
	if err != nil {
		return nil, err
	}
	receipt.waits = append(receipt.waits, w)
	receipt.result.Accepted = len(events)
	return receipt, nil
}

// check completes an event and applies all rules.
func (i *Intake) check(r *Request, e *event.Event, now time.Time) (warning string, refused *Refusal) {
	if e.Namespace == "" {
		e.Namespace = r.Namespace
	}
	e.Complete(now)
	if err := i.options.Limits.Check(e); err != nil {
		code := Invalid
		if errors.Is(err, event.ErrTooLarge) {
			code = TooLarge
		}
		return "", &Refusal{Code: code, Text: err.Error()}
	}
	if !strings.HasPrefix(e.Namespace, r.Namespace) {
		return "", &Refusal{Code: Denied, Text: "namespace: is not below that of the request"}
	}
	if !r.By.Allows(policy.Create, e.Namespace+PathPrefix+e.Type, nil) {
		return "", &Refusal{Code: Denied, Text: fmt.Sprintf("type: publishing needs the capability create on %q", e.Namespace+PathPrefix+e.Type)}
	}
	if s := i.options.Secrets; s != nil {
		if err := s.Check(e); err != nil {
			return "", &Refusal{Code: Secret, Text: err.Error()}
		}
	}
	if c := i.options.Catalog; c != nil {
		var err error
		if warning, err = c.Check(e); err != nil {
			return "", &Refusal{Code: Schema, Text: err.Error()}
		}
		c.Learn(e)
	}
	return warning, nil
}
