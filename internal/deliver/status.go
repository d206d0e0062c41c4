package deliver

import (
	"time"

	"github.com/tocsin-events/tocsin/internal/position"
)

// Condition is in one word how a delivery is.
type Condition string

// The conditions.
const (
	Starting Condition = "starting" // Run has not begun to send
	Running  Condition = "running"
	Failing  Condition = "failing" // the last attempt failed; it will be tried again
	Paused   Condition = "paused"
	Disabled Condition = "disabled"
	Ended    Condition = "ended" // Run has returned
)

// Status is how a delivery is.
type Status struct {
	Condition Condition
	Held      Held // why nothing is sent, if it is Paused or Disabled

	// Position is the place in the journal up to which every event is delivered, was set
	// aside, or is not for this sink.
	Position position.Position
	// LagEvents is how many events of the journal come after Position, also those that are
	// not for this sink, and Lag is the age of the oldest of them.
	LagEvents uint64
	Lag       time.Duration
	// Waiting is how many events are read and not decided, InFlight how many of them the
	// sink has just now, in Sending calls of Send.
	Waiting, InFlight, Sending int

	Counts
	Outage *Outage // nil: the last attempt worked
	// Problem is what is wrong with the store of the delivery, "" if nothing is.
	Problem string

	// Replays and Redrives are those under way, and those that ended in the last hour.
	Replays  []Replay
	Redrives []Redrive
	// DeadLetters is how many there are, and the bytes that they take, as the store said
	// last.
	DeadLetters, DeadLetterBytes uint64
}

// Counts are the counters of a delivery, since [New] and of events where nothing else is
// said. Those of replays and redrives count, too.
type Counts struct {
	Delivered uint64
	// Retried is how often an event was handed to the sink once more.
	Retried uint64
	// Refused and Failed became dead letters with that cause. Expired of Failed were too old.
	Refused, Failed, Expired uint64
	Filtered                 uint64 // not for this sink
	Gaps, Missed             uint64 // places where the journal lacked events, and events there
	Attempts, FailedAttempts uint64 // calls of Send, and those that did not deliver everything
}

// Outage is a time in which nothing can be delivered.
type Outage struct {
	Since    time.Time
	Attempts int // that failed in a row
	Reason   string
	Status   int       // of the last response, 0: none
	Next     time.Time // when the next attempt is made, if nothing else prevents that
}

// Replay is how a replay is.
type Replay struct {
	ReplayState
	Done      bool
	Cancelled bool
	Ended     time.Time
}

// Redrive is how a redrive is.
type Redrive struct {
	RedriveState
	Done      bool
	Cancelled bool
	Ended     time.Time
}

// Attempt is one call of [Sink.Send].
type Attempt struct {
	At       time.Time
	Took     time.Duration
	Events   int
	First    string // id of the first event
	Type     string // of it
	Number   int    // how often these events were tried, from 1
	Replay   string // see Batch
	Redriven bool
	Test     bool // see Delivery.Test
	// Outcome, Status and Reason are those of the batch, or, when that was delivered but for
	// some events, those of the first of these.
	Outcome Outcome
	Status  int
	Reason  string
}
