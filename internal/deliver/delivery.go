package deliver

import (
	"context"
	"log/slog"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
)

// Options say what is delivered, and how. Name, Sink, Journal and Store are required.
type Options struct {
	// Name of the sink, for logs and errors.
	Name string
	// Sink is closed by Run.
	Sink Sink
	// Match selects the events for the sink; nil: all. It is called by one goroutine at a
	// time for the events of the journal, and by others for those of replays.
	Match  func(*event.Event) bool
	Policy Policy
	// From says where to begin the first time; default [FromEnd].
	From    From
	Journal Journal
	Store   Store
	Logger  *slog.Logger // default: none
	// AttemptsKept is how many attempts are remembered; default [DefaultAttempts].
	AttemptsKept int
	// Changed is told what happens; nil: nobody. It is called by one goroutine at a time, in
	// the order of what happened, must not block, and may call Status and Health.
	Changed func(Change)
}

// Delivery brings events to one sink. Its methods are safe for concurrent use.
type Delivery struct {
}

// New returns a delivery that sends nothing before Run.
func New(o Options) *Delivery { return &Delivery{} }

// Run delivers until ctx ends. Then it waits for what is on its way, for at most
// Policy.StopTimeout, stores how far it has come, and closes the sink. It returns nil after
// ctx has ended, and an error when the journal or what is stored cannot be read for ever.
// It must be called once.
func (d *Delivery) Run(ctx context.Context) error { return ErrEnded }

// Flush returns when every event that was in the journal at the call is delivered, was set
// aside, or is not for this sink. Meanwhile events do not wait for others to fill batches.
// The error is that of ctx, or [ErrEnded].
func (d *Delivery) Flush(ctx context.Context) error { return ErrEnded }

// Pause makes that nothing is sent, and stores that, so that it is so after a restart, too.
// What is on its way may still be delivered. Events are kept as long as the journal keeps
// them. When it returns an error, nothing has changed. It works at any time: before and
// after Run, and during an outage.
func (d *Delivery) Pause(ctx context.Context, reason string) error { return ErrEnded }

// Disable is Pause for good: it differs in what Held says. A sink whose endpoint is [Gone]
// disables itself.
func (d *Delivery) Disable(ctx context.Context, reason string) error { return ErrEnded }

// Resume ends what Pause or Disable began. An outage is not waited for: the next attempt is
// made at once.
func (d *Delivery) Resume(ctx context.Context) error { return ErrEnded }

// Test hands an event to the sink, once, beside the queue and also when it is paused. Nothing
// follows from the result but an entry in Attempts.
func (d *Delivery) Test(ctx context.Context, e *event.Event) Result { return Result{Outcome: Retry} }

// Replay sends once more the events that the sink selects in a range of the journal: those
// after the first position, up to the second one; a zero one stands for the beginning and
// the present end of the journal. It happens beside the live events, with a small share of
// what can be sent, and goes on after a restart. Replay returns when that is stored. The
// error wraps [ErrBusy] when there are as many as there may be.
func (d *Delivery) Replay(ctx context.Context, after, until position.Position) (id string, err error) {
	return "", ErrEnded
}

// CancelReplay ends a replay; the error wraps [ErrNoReplay] when it is not under way.
func (d *Delivery) CancelReplay(ctx context.Context, id string) error { return ErrEnded }

// Letters chooses dead letters: those with these ids, or, without any, those with ids from
// First to Last; a zero Last stands for the newest one.
type Letters struct {
	IDs         []uint64
	First, Last uint64
}

// Redrive tries dead letters again, beside the live events like a replay. Those that are
// delivered are removed; those that are not stay, with what was said last. It returns how
// many there are, when it is stored that they are tried; none is no error, and has no id.
func (d *Delivery) Redrive(ctx context.Context, which Letters) (id string, letters uint64, err error) {
	return "", 0, ErrEnded
}

// CancelRedrive ends a redrive; the error wraps [ErrNoReplay] when it is not under way.
func (d *Delivery) CancelRedrive(ctx context.Context, id string) error { return ErrEnded }

// Reopen makes the sink begin anew what it writes to, if it is a [Reopener].
func (d *Delivery) Reopen() error { return ErrEnded }

// Status returns how the delivery is now.
func (d *Delivery) Status() Status { return Status{} }

// Attempts returns the last attempts, the newest first.
func (d *Delivery) Attempts() []Attempt { return nil }

// Health returns what is wrong with the delivery, for people; nil: nothing.
func (d *Delivery) Health() error { return ErrEnded }
