// Package delivertest is the suite that every sink passes: what a [deliver.Delivery] relies
// on, tried against a real receiver that works, fails, hangs and comes back.
//
// A sink's test says how to start a receiver and how to send to it, and calls [Run]:
//
//	func TestConformance(t *testing.T) {
//		delivertest.Run(t, delivertest.Harness{
//			Receiver: func(t testing.TB) delivertest.Receiver { return newReceiver(t) },
//			Modes:    []delivertest.Mode{delivertest.Fails, delivertest.Hangs},
//			Without:  map[delivertest.Mode]string{delivertest.Slow: "why a receiver cannot be that"},
//			Secrets:  []string{"the password in the options of the sink"},
//		})
//	}
//
// Nothing is left out in silence: a [Mode] that a receiver cannot show must be listed with
// the reason.
package delivertest

import (
	"cmp"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

// Receiver is the other end of a sink, for one check.
type Receiver interface {
	// Sink makes a sink that sends to the receiver and logs to log, if it logs. It must not
	// connect, and is called also when the receiver does not work.
	Sink(log *slog.Logger) (deliver.Sink, error)
	// Set makes the receiver behave so from now on, towards new connections and those that
	// there are.
	Set(Mode)
	// Arrived returns what the receiver has taken, in the order in which it did, with what
	// came more than once.
	Arrived() []Arrival
}

// Arrival is an event that a receiver has taken.
type Arrival struct {
	ID string
	// Event is what the receiver read, as [event.ParseCloudEvent] does, nil where the form has
	// not all of an event. It is compared with what was sent.
	Event *event.Event
}

// Mode is how a receiver behaves.
type Mode int

// The modes.
const (
	// Works takes everything.
	Works Mode = iota
	// Fails answers that it cannot take anything now, and takes nothing.
	Fails
	// Refuses cannot be connected to: nobody listens, or a name has no address.
	Refuses
	// Closes ends connections instead of answering. It may have taken the events.
	Closes
	// Hangs accepts connections, and neither reads from them nor answers. When the mode
	// changes, what had come in may be taken or not.
	Hangs
	// Slow takes everything, but needs a while for each request, or reads slowly.
	Slow
	// RefusesOne takes everything but events of type [RefusedType], which it says no to for
	// ever.
	RefusesOne
)

// String returns the name of the mode.
func (m Mode) String() string {
	names := [...]string{"works", "fails", "refuses", "closes", "hangs", "slow", "refuses one"}
	if m >= 0 && int(m) < len(names) {
		return names[m]
	}
	return "unknown"
}

// RefusedType is the type of events that a receiver refuses in the mode [RefusesOne].
const RefusedType = "delivertest/refused"

// Harness says how to try one kind of sink. Receiver is required.
type Harness struct {
	// Receiver starts a receiver that works. It ends in a cleanup of t, when all of its sinks
	// are closed.
	Receiver func(t testing.TB) Receiver
	// Modes are those that the receiver has besides [Works]. Those that it cannot have are in
	// Without, with the reason.
	Modes   []Mode
	Without map[Mode]string

	// MaxBatch is how many events the sink takes at once; 0: any number.
	MaxBatch int
	// Parallel is how many calls of Send there are at the same time; default 8.
	Parallel int
	// LargestData is how many bytes of data the sink takes in one event; default 8 MiB.
	LargestData int
	// TooLargeData is how many bytes of data are more than the sink can send; 0: nothing is.
	TooLargeData int
	// Impossible says which events cannot be made what the sink sends; nil: none.
	Impossible func(e *event.Event) bool
	// Deduplicates says that the receiver takes an event once, however often it is sent.
	Deduplicates bool

	// Secrets are those in the options of the sinks, in each form in which they must not be
	// seen. They are not part of events.
	Secrets []string
	// Options are values that hold secrets, as the options of the sink: they are printed in
	// every way.
	Options []any
	// Errors makes sinks that cannot be made, with secrets in their options, and returns the
	// errors; nil: there are none.
	Errors func(t testing.TB) []error

	// Leaks are goroutines that the receiver leaves behind, or that a library keeps for the
	// whole process; say why beside each.
	Leaks []goleak.Option

	// soon is in which a sink must have returned when its context has ended, patient how long
	// something that works may take.
	soon, patient time.Duration
}

// defaults of a [Harness].
const (
	defaultParallel    = 8
	defaultLargestData = 8 << 20
	defaultSoon        = 3 * time.Second
	defaultPatient     = 20 * time.Second
)

// check is one part of the suite.
type check struct {
	name string
	mode Mode // the receiver must have it
	run  func(*trial)
}

// checks are the suite.
func checks() []check {
	return []check{
		{"in order", Works, inOrder},
		{"exactly once", Works, exactlyOnce},
		{"sent again", Works, sentAgain},
		{"hostile events", Works, hostile},
		{"large events", Works, large},
		{"too large", Works, tooLarge},
		{"events are shared", Works, unchanged},
		{"ended context", Works, endedContext},
		{"close", Works, closing},
		{"close while sending", Works, closeWhileSending},
		{"sync and reopen", Works, syncAndReopen},
		{"secrets", Works, secrets},
		{"one is refused", RefusesOne, refusesOne},
		{"receiver fails", Fails, failing(Fails)},
		{"receiver refuses", Refuses, failing(Refuses)},
		{"receiver closes", Closes, failing(Closes)},
		{"receiver hangs", Hangs, hanging},
		{"large to a receiver that hangs", Hangs, hangingLarge},
		{"cancel", Hangs, cancel},
		{"close while it hangs", Hangs, closeWhileHanging},
		{"slow receiver", Slow, slow},
		{"outages leave nothing behind", Works, outages},
		{"a delivery recovers", Works, recovers},
	}
}

// Run tries a kind of sink.
func Run(t *testing.T, h Harness) {
	known, err := h.modes()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			if !known[c.mode] {
				t.Skipf("a receiver that %s: %s", c.mode, h.Without[c.mode])
			}
			c.try(t, h)
		})
	}
}

// modes returns those that the receiver has.
func (h *Harness) modes() (map[Mode]bool, error) {
	known := map[Mode]bool{Works: true}
	for _, m := range h.Modes {
		known[m] = true
	}
	for m := Fails; m <= RefusesOne; m++ {
		reason, without := h.Without[m]
		switch {
		case known[m] && without:
			return nil, fmt.Errorf("the mode %q is among those that there are, and among those that there are not", m)
		case !known[m] && reason == "":
			return nil, fmt.Errorf("the mode %q is neither in Modes nor in Without with a reason", m)
		}
	}
	return known, nil
}

// try runs the check, and looks at what is left when everything has ended.
func (c check) try(t testing.TB, h Harness) {
	h.Parallel = cmp.Or(h.Parallel, defaultParallel)
	h.LargestData = cmp.Or(h.LargestData, defaultLargestData)
	h.soon, h.patient = cmp.Or(h.soon, defaultSoon), cmp.Or(h.patient, defaultPatient)
	leaks := append([]goleak.Option{goleak.IgnoreCurrent()}, h.Leaks...)
	t.Cleanup(func() { // the last one
		if err := goleak.Find(leaks...); err != nil {
			t.Errorf("goroutines are left behind: %v", err)
		}
	})
	c.run(newTrial(t, h))
}
