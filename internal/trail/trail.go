// Package trail is the hub's own audit: what was done to it becomes events of types
// "tocsin/..." in the journal, beside those of others. Changes are recorded before
// they are answered; what is seen often (subscriptions, denials, logins) is recorded
// in the background, bounded, and counted where it was too much.
//
// It decides nothing: what is worth a record, and what of it is no secret, is known
// to those who call it.
package trail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/token"
)

// What waits for the journal is bounded by both, together with what is on its way.
// The count has room for the ends of as many subscriptions as there are by default.
const (
	maxWaiting      = 32 << 10 // records
	maxWaitingBytes = 32 << 20
)

// LostType is the type of the event that stands for records that were not kept. Its
// metadata has "count" and "since", when the first of them was made.
const LostType = typePrefix + "trail-lost"

// LostPath is the path of events of [LostType].
const LostPath = "sys/trail"

// ErrClosed means that the trail was closed.
var ErrClosed = errors.New("trail is closed")

// Who is the one who did something, without secrets.
type Who struct {
	DisplayName string
	Accessor    string
	EntityID    string
	Policies    []string
	Provider    string // "token", "upstream", the name of a JWT issuer, or "" for nobody known
	Remote      string // address without port
}

// Record is one thing that was done, or refused.
//
// It becomes an event with these texts as metadata: path, operation, modified
// ("true" or "false"), outcome ("done" or "refused"), and, where they are not empty,
// error, display_name, accessor, entity_id, policies (a JSON array), provider,
// remote_address and Fields. What is too long for an event is cut, and what is not
// UTF-8 is replaced. A Namespace or Path that cannot be kept as it is leaves the
// event without a path, for root only, because another one would be judged by other
// policies; what can be shown of them is then under shown_namespace and shown_path.
type Record struct {
	// What follows "tocsin/" in the type: "token-create", ...
	What string
	// Namespace and Path are those of the API that was used; whoever may see events
	// of Path sees the record.
	Namespace, Path string
	Operation       string // "create", "read", "update", "delete", "list", "subscribe", ...
	Modified        bool
	Who             Who
	// Error is why it was refused, empty when it was done.
	Error string
	// Fields are further metadata, without secrets. Values are kept as texts. The
	// names above are taken.
	Fields event.Fields
}

// SetTarget adds the token that was made, changed or ended, under the names
// target_accessor, target_display_name, target_policies (a JSON array),
// target_namespace (without one: root) and target_expires (without one: never).
func (r *Record) SetTarget(e *token.Entry) {
	r.Fields.Set("target_accessor", e.Accessor)
	r.Fields.Set("target_display_name", e.DisplayName)
	r.Fields.Set("target_policies", policiesJSON(e.Policies, maxText))
	if e.Namespace != "" {
		r.Fields.Set("target_namespace", e.Namespace)
	}
	if !e.Expires.IsZero() {
		r.Fields.Set("target_expires", e.Expires.UTC().Format(time.RFC3339))
	}
}

// Journal is where records go; *journal.Journal is one.
type Journal interface {
	Append(ctx context.Context, events ...*event.Event) (journal.Position, error)
}

// Options configure a Trail. Journal is required.
type Options struct {
	Journal Journal
	// Node names this hub in the source of events, "tocsin://NODE".
	Node string
	// Metrics counts; nil keeps the counters private. Received are records, Appended
	// those that are durable, refused those that are not kept, by reason.
	Metrics *metrics.Metrics
	// Logger gets what operators should know; nil discards it.
	Logger *slog.Logger
	// Limits are those of the journal; the zero value means event.DefaultLimits.
	Limits event.Limits
}

// Trail records. It is safe for concurrent use. Records of one goroutine are in the
// journal in the order in which they were made.
type Trail struct {
	journal Journal
	maker   maker
	log     *slog.Logger
	metrics *metrics.Component

	ctx     context.Context // of appends; ended when Close gives up
	cancel  context.CancelFunc
	wake    chan struct{} // something waits, or the trail was closed
	hurry   chan struct{} // somebody waits for an answer
	written chan struct{} // closed when the writer has ended

	mu      sync.Mutex
	waiting []item
	commits int // of waiting
	count   int // waiting or being written, without commits
	bytes   int // of those
	lost    loss
	closed  bool // nothing more is accepted
	over    bool // nothing can be written any more
}

// item is an event that waits. A record of a Commit has an answer, which is given
// exactly once and never blocks.
type item struct {
	event  *event.Event
	size   int
	answer chan error // nil: nobody waits
	report int        // of how many lost records it is the report; 0 for a record
}

// loss is what was not kept and not reported yet.
type loss struct {
	count int
	since time.Time
}

// New returns a Trail, which runs until Close.
func New(o Options) *Trail {
	if o.Metrics == nil {
		o.Metrics = metrics.New(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Limits == (event.Limits{}) {
		o.Limits = event.DefaultLimits
	}
	t := &Trail{
		journal: o.Journal,
		maker:   newMaker(o.Node, o.Limits),
		log:     o.Logger,
		metrics: o.Metrics.Component("trail", "trail"),
		wake:    make(chan struct{}, 1),
		hurry:   make(chan struct{}, 1),
		written: make(chan struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	go t.write()
	return t
}

// Record has r recorded soon. It never blocks. What cannot be kept is counted, and
// a record of type [LostType] says how many as soon as that can be written.
func (t *Trail) Record(r Record) {
	t.metrics.Received.Inc()
	e, err := t.maker.event(r, time.Now())
	if err != nil {
		t.metrics.Refused("invalid").Inc()
		t.log.Error("A record of the audit trail is not valid and not kept.", "what", r.What, "error", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	one := newItem(e)
	switch {
	case t.closed:
		t.metrics.Refused("closed").Inc()
		return
	case t.over:
		t.metrics.Refused("journal_closed").Inc()
		t.loseLocked(1, e.Time)
		return
	case t.count >= maxWaiting || t.bytes+one.size > maxWaitingBytes:
		t.metrics.Refused("busy").Inc()
		t.loseLocked(1, e.Time)
		return
	case t.lost.count > 0: // the loss comes before this one
		t.reportLocked()
	}
	t.addLocked(one)
	signal(t.wake)
}

// Commit returns after r is durable, in its turn behind what was recorded before.
// While the journal pushes back it fails at once: the error wraps
// [journal.ErrPushback]. After Close it wraps [ErrClosed]. When ctx ends first its error
// is returned, and r may be recorded all the same.
func (t *Trail) Commit(ctx context.Context, r Record) error {
	t.metrics.Received.Inc()
	e, err := t.maker.event(r, time.Now())
	if err != nil {
		t.metrics.Refused("invalid").Inc()
		return fmt.Errorf("record %s: %w", r.What, err)
	}
	one := newItem(e)
	one.answer = make(chan error, 1)
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		t.metrics.Refused("closed").Inc()
		return fmt.Errorf("record %s: %w", r.What, ErrClosed)
	}
	t.addLocked(one)
	signal(t.wake)
	signal(t.hurry)
	t.mu.Unlock()
	select {
	case err = <-one.answer:
	case <-ctx.Done():
		err = ctx.Err()
		t.withdraw(one)
	}
	if err != nil {
		return fmt.Errorf("record %s: %w", r.What, err)
	}
	return nil
}

// Close writes what is left, until ctx ends. What could not be written is counted
// and the error says how much it is. Later records are refused. Close may be called
// again; only the first call's ctx counts.
func (t *Trail) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	signal(t.wake)
	signal(t.hurry) // one more try, whatever the journal said last
	t.mu.Unlock()
	select {
	case <-t.written:
	case <-ctx.Done():
		t.cancel()
		<-t.written
	}
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.lost.count; n > 0 {
		return fmt.Errorf("%d records of the audit trail could not be written", n)
	}
	return nil
}

// itemOverhead is what an item takes beside the content of its event.
const itemOverhead = 512

func newItem(e *event.Event) item { return item{event: e, size: e.Size() + itemOverhead} }

// addLocked puts an item at the end of those who wait. Commits are not bounded: each
// has a caller who waits, and who calls is bounded by who may.
func (t *Trail) addLocked(one item) {
	t.waiting = append(t.waiting, one)
	if one.answer != nil {
		t.commits++
		return
	}
	t.count++
	t.bytes += one.size
}

// withdraw removes the item of a commit whose caller gave up, unless it is being
// written.
func (t *Trail) withdraw(one item) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.waiting {
		if t.waiting[i].answer == one.answer {
			copy(t.waiting[i:], t.waiting[i+1:])
			t.waiting[len(t.waiting)-1] = item{}
			t.waiting = t.waiting[:len(t.waiting)-1]
			t.commits--
			t.metrics.Refused("cancelled").Inc()
			return
		}
	}
}

// loseLocked notes records that are not kept.
func (t *Trail) loseLocked(n int, since time.Time) {
	if t.lost.count == 0 || since.Before(t.lost.since) {
		t.lost.since = since
	}
	t.lost.count += n
}

// reportLocked puts an event about what was lost at the end of those who wait.
func (t *Trail) reportLocked() {
	if e, err := t.maker.lost(t.lost, time.Now()); err == nil {
		one := newItem(e)
		one.report = t.lost.count
		t.addLocked(one)
	}
	t.lost = loss{} // without an event, the limits are such that there are no records either
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
