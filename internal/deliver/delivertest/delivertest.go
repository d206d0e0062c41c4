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
	"slices"
	"strings"
	"sync"
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

	// attempt is how long a sink may try to reach a receiver that does not work. soon is in
	// which it must have returned when its context has ended, patient how long something that
	// works may take: both are long, because a machine that does much else is slow.
	attempt, soon, patient time.Duration
}

// defaults of a [Harness].
const (
	defaultParallel    = 8
	defaultLargestData = 8 << 20
	defaultAttempt     = 3 * time.Second
	defaultSoon        = 20 * time.Second
	defaultPatient     = time.Minute
)

// check is one part of the suite.
type check struct {
	name string
	mode Mode // the receiver must have it
	run  func(*trial)
	// alone says that it counts what there is in the process.
	alone bool
}

// checks are the suite.
func checks() []check {
	return []check{
		{"in order", Works, inOrder, false},
		{"exactly once", Works, exactlyOnce, false},
		{"sent again", Works, sentAgain, false},
		{"hostile events", Works, hostile, false},
		{"large events", Works, large, false},
		{"too large", Works, tooLarge, false},
		{"events are shared", Works, unchanged, false},
		{"ended context", Works, endedContext, false},
		{"close", Works, closing, false},
		{"close while sending", Works, closeWhileSending, false},
		{"sync and reopen", Works, syncAndReopen, false},
		{"secrets", Works, secrets, false},
		{"one is refused", RefusesOne, refusesOne, false},
		{"receiver fails", Fails, failing(Fails), false},
		{"receiver refuses", Refuses, failing(Refuses), false},
		{"receiver closes", Closes, failing(Closes), false},
		{"receiver hangs", Hangs, hanging, false},
		{"large to a receiver that hangs", Hangs, hangingLarge, false},
		{"cancel", Hangs, cancel, false},
		{"close while it hangs", Hangs, closeWhileHanging, false},
		{"slow receiver", Slow, slow, false},
		{"outages leave nothing behind", Works, outages, true},
		{"a delivery recovers", Works, recovers, false},
	}
}

// Run tries a kind of sink. Checks run beside each other, but for those that look at the whole
// process, and so no other test may run meanwhile.
func Run(t *testing.T, h Harness) { RunEach(t, map[string]Harness{"": h}) }

// atOnce is how many checks run beside each other, because most of their time they wait.
const atOnce = 8

// RunEach is Run for variants of a sink, all beside each other. Their names lead those of
// their checks, unless they are empty.
func RunEach(t *testing.T, variants map[string]Harness) {
	runEach(t, variants, func(name string, f func(testing.TB)) {
		t.Run(name, func(t *testing.T) { f(t) })
	})
}

// runEach is RunEach with what runs one check.
func runEach(t testing.TB, variants map[string]Harness, sub func(name string, f func(testing.TB))) {
	all := []goleak.Option{goleak.IgnoreCurrent()}
	for _, h := range variants {
		if _, err := h.modes(); err != nil {
			t.Fatal(err)
		}
		all = append(all, h.Leaks...)
	}
	defer func() {
		if err := goleak.Find(all...); err != nil {
			t.Errorf("goroutines are left behind: %v", err)
		}
	}()
	each := func(alone bool, do func(name string, f func(testing.TB))) {
		for _, c := range slices.Backward(checks()) { // those that wait longest are the last ones
			for variant, h := range variants {
				if c.alone == alone {
					do(strings.TrimPrefix(variant+"/"+c.name, "/"), func(t testing.TB) { c.try(t, h) })
				}
			}
		}
	}
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	each(false, func(name string, f func(testing.TB)) {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			sub(name, f)
		})
	})
	running.Wait()
	each(true, sub)
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

// try runs the check.
func (c check) try(t testing.TB, h Harness) {
	if known, _ := h.modes(); !known[c.mode] {
		t.Skipf("a receiver that %s: %s", c.mode, h.Without[c.mode])
	}
	h.Parallel = cmp.Or(h.Parallel, defaultParallel)
	h.LargestData = cmp.Or(h.LargestData, defaultLargestData)
	h.attempt, h.soon, h.patient = cmp.Or(h.attempt, defaultAttempt), cmp.Or(h.soon, defaultSoon), cmp.Or(h.patient, defaultPatient)
	c.run(newTrial(t, h))
}
