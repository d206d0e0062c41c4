package deliver

import (
	"context"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
)

// Journal is where events come from: the journal of the hub, or the queue of an audit
// logger.
type Journal interface {
	// Read returns a reader of what comes after a position; the zero position is before the
	// oldest event that there is.
	Read(after position.Position) Reader
	// End returns the position of the newest event, zero when there was never one.
	End() position.Position
}

// Reader reads a journal on, for one goroutine.
type Reader interface {
	// Next returns the next records and blocks until there is one. Where events are missing
	// it returns a [*Gap] once, and goes on behind it with the next call.
	Next(ctx context.Context) (Record, error)
}

// Record is some successive events of a journal. It is immutable and may be kept. Events
// before Start are not due to the reader.
type Record interface {
	Len() int
	Start() int
	Event(i int) *event.Event
	Position(i int) position.Position
	End() position.Position // of the last event
	Recorded() time.Time
	Size() int // bytes of memory, about
}

// Gap tells of events that were removed from a journal before they were read.
type Gap struct {
	Next   position.Position // where reading goes on
	Events uint64            // how many are missing; 0: it cannot be told
	Err    error             // why
}

// Error describes the gap.
func (g *Gap) Error() string { return g.Err.Error() }

// Unwrap returns the reason.
func (g *Gap) Unwrap() error { return g.Err }

// Store keeps durably what a delivery must know after a restart. What was stored when a
// method returned nil is synced. It is safe for concurrent use. A method returns soon after
// its ctx has ended.
type Store interface {
	// Load returns the state saved last, false when there is none.
	Load(ctx context.Context) (State, bool, error)
	Save(ctx context.Context, s State) error
	DeadLetters
}

// State is what a delivery remembers.
type State struct {
	// Through is the position up to which every event is delivered, was set aside as a dead
	// letter, or is not for this sink.
	Through position.Position
	// Held says that nothing is sent; see [Delivery.Pause] and [Gone].
	Held Held
	// Replays and Redrives are under way.
	Replays  []ReplayState
	Redrives []RedriveState
}

// What [Held.By] can be.
const (
	HeldPaused   = "paused"
	HeldDisabled = "disabled"
)

// Held is why nothing is sent.
type Held struct {
	By     string // "" (nobody: it runs), HeldPaused, HeldDisabled
	Reason string
	Since  time.Time
	// ByEndpoint says that the endpoint wanted it, with an answer that means [Gone].
	ByEndpoint bool
}

// ReplayState is a range of the journal that is sent once more.
type ReplayState struct {
	ID             string
	Begun          time.Time
	Through, Until position.Position // what comes after Through is still to be sent, up to Until
	Sent, SetAside uint64
	Missed         uint64 // events that the journal did not have any more
}

// RedriveState is dead letters that are tried once more: those with ids from Next to Last,
// and, if there are IDs, only these, which are sorted.
type RedriveState struct {
	ID         string
	Begun      time.Time
	Next, Last uint64
	IDs        []uint64
	// Sent were delivered and are no dead letters any more; Refused are dead letters again.
	Sent, Refused uint64
}

// DeadLetters are the events of one sink that were given up. Ids are in the order in which
// they were set aside, and never used again.
type DeadLetters interface {
	// Add sets events aside and returns when they are durable. One that is there already (of the
	// same position) is replaced. The error wraps [ErrFull] when there is no room.
	Add(ctx context.Context, letters []DeadLetter) error
	// List returns up to limit dead letters with ids after after, in order. One that cannot be
	// read is an [*UnreadableLetter], after those before it were returned.
	List(ctx context.Context, after uint64, limit int) ([]DeadLetter, error)
	// Get returns one; the error wraps [ErrNoLetter], or is an [*UnreadableLetter].
	Get(ctx context.Context, id uint64) (DeadLetter, error)
	// Remove removes those with these ids; what is not there is no error.
	Remove(ctx context.Context, ids ...uint64) error
	// Purge removes all up to an id, and returns how many.
	Purge(ctx context.Context, through uint64) (uint64, error)
	// Count returns how many there are, and the bytes that they take.
	Count(ctx context.Context) (letters, bytes uint64, err error)
}

// What [DeadLetter.Cause] can be.
const (
	CauseRefused = "refused" // the endpoint said no
	CauseFailed  = "failed"  // the system could not
)

// DeadLetter is an event that was given up, with the event itself: the journal may have
// removed it.
type DeadLetter struct {
	ID    uint64
	Event *event.Event
	At    position.Position
	Cause string // CauseRefused or CauseFailed
	Failure
}

// Failure is why events were given up.
type Failure struct {
	Outcome  Outcome
	Attempts int
	First    time.Time // attempt
	Last     time.Time
	Status   int
	Reason   string // of the last attempt
}
