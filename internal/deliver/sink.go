package deliver

import (
	"context"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
)

// Sink brings events to one place outside. It has one verb, keeps nothing, and never tries
// again by itself: all that is the business of a [Delivery].
//
// Every sink passes the suite of package delivertest.
type Sink interface {
	// Send tries once to deliver the events of b, in their order, and says what became of
	// them: the result is that of every event for which b.Decide was not called. Send may be
	// called concurrently, as often as the policy of the delivery allows. It returns soon
	// after ctx has ended, or Close was called; what it then cannot know is Retry.
	//
	// The events are shared with others and must not be changed. They may be kept; b and its
	// Items may not be when Send has returned.
	Send(ctx context.Context, b *Batch) Result
	// Close releases what the sink holds. It may be called while Send runs, and more than
	// once.
	Close() error
}

// Syncer is a sink whose events are delivered durably only after Sync, such as a file. It is
// called before the progress of a delivery is stored, possibly while Send runs, but not twice
// at a time. After an error all events since the last Sync that worked are sent again.
type Syncer interface {
	Sync(ctx context.Context) error
}

// Reopener is a sink that can begin anew what it writes to, such as a file that somebody has
// moved away.
type Reopener interface {
	Reopen() error
}

// Item is an event on its way.
type Item struct {
	Event *event.Event
	// At is the place of the event in the journal. Its text is the sequence of the event. It
	// is zero for an event that is in no journal, as those of tests are.
	At position.Position
}

// Batch is what a sink is given at once: at least one event.
type Batch struct {
	Items []Item
	// Attempt counts how often these events were tried, from 1.
	Attempt int
	// Replay names the replay that the events are sent for, and Redriven says that they were
	// dead letters: receivers are told so where the format has a place for it.
	Replay   string
	Redriven bool

	decided []decision
}

// decision is the result of one event that differs from that of its batch.
type decision struct {
	item   int
	result Result
}

// Decide says what became of event i, when that is not what Send returns for the batch. Of
// several calls for one event the last counts. It is called before Send returns, by one
// goroutine at a time.
//
// A sink that goes on behind an event that has to be sent again (Retry, Doubtful) leaves out
// later ones of the same path and namespace, and decides Retry for them: otherwise they would
// overtake it.
func (b *Batch) Decide(i int, r Result) { b.decided = append(b.decided, decision{i, r}) }

// Results returns what became of each event, in their order: what Decide was called with
// last, and rest, which Send returned, for the others.
func (b *Batch) Results(rest Result) []Result {
	results := make([]Result, len(b.Items))
	for i := range results {
		results[i] = rest
	}
	for _, d := range b.decided {
		results[d.item] = d.result
	}
	return results
}

// Outcome is what became of an attempt.
type Outcome uint8

// The outcomes.
const (
	// Delivered: the receiver has taken the events.
	Delivered Outcome = iota
	// Retry: nothing can be delivered at the moment, whatever the events are: no
	// connection, a timeout, an answer such as 429 or 503. Nothing is held against the
	// events, for however long it lasts.
	Retry
	// Doubtful: the receiver failed, which may be because of the events, as with an answer of
	// 500. They are tried again, and given up when that does not change while others are
	// delivered, or after the time that the policy says.
	Doubtful
	// Refused: the endpoint said no, and would say so again: an answer such as 400. The events
	// become dead letters.
	Refused
	// Impossible: the events cannot be made what is to be sent, or are larger than the
	// receiver allows. The endpoint was not asked. They become dead letters.
	Impossible
	// Gone: the endpoint does not want anything any more, as an answer of 410 says. The
	// delivery is disabled, the events are kept.
	Gone
)

// String returns the name of the outcome, as in logs and answers.
func (o Outcome) String() string {
	names := [...]string{"delivered", "retry", "doubtful", "refused", "impossible", "gone"}
	if int(o) < len(names) {
		return names[o]
	}
	return "unknown"
}

// Result says what became of events.
type Result struct {
	Outcome Outcome
	// After is how long the receiver wants to be left alone; 0: it does not say.
	After time.Duration
	// Status is that of the response, if there was one: of HTTP, or the code of another
	// protocol; 0: none.
	Status int
	// Reason is for people, and names what to do where that is known. It is one line, has no
	// secrets, and is at most [MaxReasonBytes] long. A delivered batch needs none.
	Reason string
}

// MaxReasonBytes bounds [Result.Reason]; longer ones are cut.
const MaxReasonBytes = 512
