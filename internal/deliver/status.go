package deliver

import (
	"errors"
	"fmt"
	"slices"
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
	// Undecided is since when, and why, it cannot be told which events are for the sink; "": it
	// can.
	Undecided string

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

const (
	// failingFor is how long nothing may be delivered before that is a matter of health.
	failingFor = 30 * time.Second
	// noticedFor is how long it stays one that events were missed or became dead letters.
	noticedFor = 10 * time.Minute
	// finishedFor is how long a replay is told of that has ended.
	finishedFor = time.Hour
)

// Status returns how the delivery is now.
func (d *Delivery) Status() Status {
	end := d.options.Journal.End()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	l := d.live
	s := Status{
		Condition: d.condition(), Held: d.held, Position: l.through,
		Waiting: d.undecided(), InFlight: l.inFlight, Sending: d.sending,
		Counts: d.counts, Problem: d.problem(), Undecided: d.undecidable().problem(),
		DeadLetters: d.letters.letters, DeadLetterBytes: d.letters.bytes,
	}
	if d.loaded {
		s.LagEvents, s.Lag = d.lag(end, now)
	}
	for _, b := range d.backgrounds {
		s.InFlight += b.stream.inFlight
	}
	if d.gate.failures > 0 {
		o := d.gate.outage()
		s.Outage = &o
	}
	d.finished = slices.DeleteFunc(d.finished, func(b *background) bool { return now.Sub(b.endedAt) > finishedFor })
	for _, list := range [...][]*background{d.backgrounds, d.finished} {
		for _, b := range list {
			if b.redrive == nil {
				s.Replays = append(s.Replays, Replay{b.replayState(), !b.endedAt.IsZero(), b.cancelled, b.endedAt})
			} else {
				s.Redrives = append(s.Redrives, Redrive{b.redriveState(), !b.endedAt.IsZero(), b.cancelled, b.endedAt})
			}
		}
	}
	d.recountLetters(now)
	return s
}

// LettersRemoved says that dead letters were removed from the store: they are counted anew,
// and what waited for room goes on.
func (d *Delivery) LettersRemoved() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.letters.asked = true
	d.kickClerk()
}

// recountLetters has dead letters counted anew if their number is old.
func (d *Delivery) recountLetters(now time.Time) {
	if !d.letters.asked && now.Sub(d.letters.at) > recount {
		d.letters.asked = true
		d.kickClerk()
	}
}

// undecided is how many events are read and not decided.
func (d *Delivery) undecided() int {
	n := d.live.undecided
	for _, b := range d.backgrounds {
		n += b.stream.undecided
	}
	return n
}

func (d *Delivery) condition() Condition {
	switch {
	case d.ended != nil:
		return Ended
	case d.held.By == HeldPaused:
		return Paused
	case d.held.By != "":
		return Disabled
	case !d.running:
		return Starting
	case d.gate.failures > 0:
		return Failing
	}
	return Running
}

func (d *Delivery) problem() string {
	p := &d.problems
	if p.state != "" && p.letters != "" {
		return p.state + "; " + p.letters
	}
	return p.state + p.letters
}

// lag is how far the sink is behind the journal.
func (d *Delivery) lag(end position.Position, now time.Time) (events uint64, age time.Duration) {
	through := d.live.through
	if end.IsZero() || through.Compare(end) >= 0 {
		return 0, 0
	}
	if events = end.Ordinal + 1; !through.IsZero() {
		events = end.Ordinal - min(through.Ordinal, end.Ordinal)
	}
	recorded, ok := d.live.oldest()
	if !ok && !d.caughtUp {
		recorded, ok = d.live.recorded, !d.live.recorded.IsZero()
	}
	if ok {
		age = max(now.Sub(recorded), 0)
	}
	return events, age
}

// Health returns what is wrong with the delivery, for people; nil: nothing.
func (d *Delivery) Health() error {
	end := d.options.Journal.End()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	switch {
	case d.ended != nil:
		if d.ended == ErrEnded {
			return nil
		}
		return d.ended
	case d.held.ByEndpoint:
		return fmt.Errorf("disabled since %s, because the endpoint wants nothing any more: %s; events stay in the journal until it is resumed or removed", clock(d.held.Since), d.held.Reason)
	case d.held.By != "":
		return nil // somebody wanted it
	}
	if g := &d.gate; g.failures > 0 && now.Sub(g.since) > failingFor && d.undecided() > 0 {
		events, _ := d.lag(end, now)
		return fmt.Errorf("nothing is delivered since %s (%d attempts): %s; %d events wait in the journal and are lost for this sink once the journal removes them (journal.max_age, max_bytes)",
			clock(g.since), g.failures, g.reason, events)
	}
	if d.problems.full {
		return fmt.Errorf("%s; events that should become dead letters wait, and others after them: redrive or purge some", d.problems.letters)
	}
	if c := d.undecidable(); !c.since.IsZero() && now.Sub(c.since) > failingFor {
		events, _ := d.lag(end, now)
		return fmt.Errorf("it %s; %d events wait in the journal and are lost for this sink once the journal removes them (journal.max_age, max_bytes)", c.problem(), events)
	}
	if p := d.problem(); p != "" {
		return errors.New(p)
	}
	if g := &d.lastGap; !g.at.IsZero() && now.Sub(g.at) < noticedFor {
		return fmt.Errorf("%d events were removed from the journal before they were delivered (at %s, %d since the start): %s", g.events, clock(g.at), d.counts.Missed, g.reason)
	}
	if l := &d.lastLetter; !l.at.IsZero() && now.Sub(l.at) < noticedFor {
		if d.letters.letters == 0 && d.letters.at.After(l.at) {
			return nil // they were redriven or purged
		}
		d.recountLetters(now)
		return fmt.Errorf("events became dead letters (%d since the start, the last one at %s, %s): %s", d.counts.Refused+d.counts.Failed, clock(l.at), l.cause, l.reason)
	}
	return nil
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
