// Package publish takes in what others say: whatever edge an event comes by (HTTP, gRPC,
// a hosted plugin), it passes the same rules here and is in the journal when the answer
// is given. A repeat of an event, one with the same source and id and of the same type
// and namespace, is recognised for a while and not stored again, so that producers may
// repeat until they get an answer.
//
// It speaks no protocol and knows no tokens: an edge parses, asks who it is, and hands
// both over. What sources read from elsewhere, and what the hub says itself, goes into
// the journal directly.
//
// # Repeats
//
// An event is a repeat if one with its source, id, type and namespace is among the newest
// [Options.MaxIDs] events of the journal and was stored in the last [Options.Window].
// That the journal itself is what is remembered makes it survive restarts: after one,
// and after a failure of the storage that left open what was stored, its end is read
// again before anything is accepted. A repeat of an event that is on its way waits for
// the answer that the first one gets.
package publish

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
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
	MaxUnitBytes() int
	Health() error
	End() journal.Position
	Recent(ctx context.Context, n uint64) (journal.Position, error)
	Since(ctx context.Context, since string, now time.Time) (journal.Position, error)
	Read(after journal.Position) *journal.Reader
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
	// Edge is what the events came by, for counters: "http", "grpc", "plugin".
	Edge string
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
	// Namespace and Type are those of an event that is Denied or Reserved.
	Namespace, Type string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("event %d: %s", r.Index, r.Text)
}

// forbids says whether it is the publisher who must not, and not the event that is wrong.
func (r *Refusal) forbids() bool { return r.Code == Denied || r.Code == Reserved }

// Forbidden returns the first refusal that is Denied or Reserved, nil if there is none, and
// how many are.
func Forbidden(all []*Refusal) (first *Refusal, count int) {
	for _, r := range all {
		if r.forbids() {
			if count++; first == nil {
				first = r
			}
		}
	}
	return first, count
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
	// Window is how long repeats are recognised, as long as no more than MaxIDs events
	// came after the first; 0 means DefaultWindow and DefaultMaxIDs.
	Window time.Duration
	MaxIDs int
	// Metrics counts, by edge; nil keeps the counters private. Duplicates count as
	// refused.
	Metrics *metrics.Metrics
	// Logger gets what operators should know; default slog.Default.
	Logger *slog.Logger
}

// Defaults of [Options].
const (
	DefaultWindow = 10 * time.Minute
	DefaultMaxIDs = 1_000_000
)

// Intake takes events in. It is safe for concurrent use.
type Intake struct {
	options Options
	window  *window
	edges   sync.Map // name to *metrics.Component
}

// New returns an intake, which [Intake.Close] ends.
func New(o Options) *Intake {
	if o.Limits == (event.Limits{}) {
		o.Limits = event.DefaultLimits
	}
	o.Window, o.MaxIDs = cmp.Or(o.Window, DefaultWindow), cmp.Or(o.MaxIDs, DefaultMaxIDs)
	if o.Metrics == nil {
		o.Metrics = metrics.New(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Intake{options: o, window: newWindow(o.Journal, o.Window, o.MaxIDs, o.Logger)}
}

// Close ends the intake once what it has submitted is answered; those who still wait
// when ctx ends are answered when the journal answers. A later Submit fails with
// [journal.ErrClosed].
func (i *Intake) Close(ctx context.Context) error { return i.window.close(ctx) }

// Publish stores the events of a request and returns when all are durable. The error is
// a [*RefusedError], one that wraps [journal.ErrPushback] when they cannot be stored
// now (some may have been; repeating the same request is safe), [journal.ErrClosed], or
// that of ctx.
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
	waits  []*flight
}

// Wait returns the result when all events are durable. Its errors are those of
// [Intake.Publish] but for refusals. That of ctx says nothing about the events: Wait may
// be called again.
func (r *Receipt) Wait(ctx context.Context) (Result, error) {
	for _, f := range r.waits {
		select {
		case <-f.settled:
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
		if f.err != nil {
			return Result{}, f.err
		}
	}
	return r.result, nil
}

// Submit hands the events of a request over and returns before they are durable, with
// the errors of [Intake.Publish]. It blocks while too much waits for the disk. Requests
// that one goroutine submits are stored in this order.
func (i *Intake) Submit(ctx context.Context, r Request) (*Receipt, error) {
	edge := i.edge(r.Edge)
	edge.Received.Add(float64(len(r.Events)))
	receipt := new(Receipt)
	events := r.Events // those that pass
	c := checker{Intake: i, request: &r, now: time.Now()}
	for index, e := range r.Events {
		warning, refused := c.check(e)
		if refused != nil {
			edge.Refused(string(refused.Code)).Inc()
			refused.Index, refused.ID = index, shown(e.ID)
			if refused.forbids() {
				refused.Namespace, refused.Type = e.Namespace, e.Type
			}
			if len(receipt.result.Refused) == 0 {
				events = slices.Clone(events[:index])
			}
			receipt.result.Refused = append(receipt.result.Refused, refused)
			continue
		}
		if warning != "" {
			receipt.result.Warnings = append(receipt.result.Warnings, Warning{index, warning})
		}
		if len(receipt.result.Refused) > 0 {
			events = append(events, e)
		}
	}
	if len(receipt.result.Refused) > 0 && !r.Partial {
		return nil, &RefusedError{receipt.result.Refused}
	}
	if len(events) == 0 {
		return receipt, nil
	}
	waits, accepted, err := i.window.submit(ctx, events, edge.Appended)
	if err != nil {
		return nil, err
	}
	receipt.waits = waits
	receipt.result.Accepted, receipt.result.Duplicates = accepted, len(events)-accepted
	if accepted < len(events) {
		edge.Refused("duplicate").Add(float64(len(events) - accepted))
	}
	if i.options.Catalog != nil {
		for _, e := range events {
			i.options.Catalog.Learn(e)
		}
	}
	return receipt, nil
}

func (i *Intake) edge(name string) *metrics.Component {
	if c, ok := i.edges.Load(name); ok {
		return c.(*metrics.Component)
	}
	c, _ := i.edges.LoadOrStore(name, i.options.Metrics.Component("publish", name))
	return c.(*metrics.Component)
}

// shown returns an id as it is repeated in answers.
func shown(id string) string {
	const most = 200
	if len(id) > most {
		return id[:most]
	}
	return id
}
