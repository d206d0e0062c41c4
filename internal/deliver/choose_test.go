package deliver_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/position"
)

// chooser chooses events whose number is even. It cannot choose the others while it is broken.
type chooser struct {
	mu     sync.Mutex
	broken error
	poison int // a number that it can never choose; 0: none
	asked  int
	lasts  int
}

func (c *chooser) set(broken error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = broken
}

func (c *chooser) choose(_ context.Context, r deliver.Record, choices []deliver.Choice, last bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if last {
		c.lasts++
	}
	for i := r.Start(); i < r.Len(); i++ {
		if choices[i] != (deliver.Choice{}) {
			panic("a choice that is not zero")
		}
		n := number(r.Event(i))
		switch {
		case c.poison != 0 && n == c.poison:
			choices[i].Problem = "the plugin refuses this event"
		case n%2 == 0:
			choices[i].Take = true
		case c.broken != nil && last:
			choices[i].Problem = c.broken.Error()
		case c.broken != nil:
			choices[0].Take = true // what it leaves behind does not count
			return c.broken
		}
	}
	return nil
}

var errNoPlugin = errors.New("the plugin of the source k8s does not run")

func checkEven(t *testing.T, got []int, n int) {
	t.Helper()
	if len(got) != n/2 {
		t.Fatalf("%d events are delivered, want %d: %v", len(got), n/2, got)
	}
	for i, v := range got {
		if v != 2*i {
			t.Fatalf("event %d is %d", i, v)
		}
	}
}

// While it cannot be told what is for the sink nothing is sent or lost; then everything comes, in
// order and once.
func TestChooseWaits(t *testing.T) {
	for _, order := range []deliver.Order{deliver.ByPath, deliver.All} {
		bubble(t, func(t *testing.T) {
			c := new(chooser)
			r := start(t, deliver.Options{Choose: c.choose, Policy: deliver.Policy{Order: order, Concurrency: 3}})
			r.append(0, 100, 10)
			r.flush(t)
			checkEven(t, r.sink.got(), 100)

			c.set(errNoPlugin)
			r.append(100, 100, 10)
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if s := r.Status(); len(r.sink.got()) != 50 || s.LagEvents != 100 || s.Condition != deliver.Running ||
				s.Problem != "" ||
				!strings.HasPrefix(s.Undecided, "cannot be told since ") || !strings.HasSuffix(s.Undecided, errNoPlugin.Error()) {
				t.Errorf("%+v", s)
			}
			if err := r.Health(); err != nil {
				t.Errorf("a plugin that starts again is a matter of health: %v", err)
			}
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if err := r.Health(); err == nil || !strings.Contains(err.Error(), "100 events wait in the journal") || !strings.Contains(err.Error(), errNoPlugin.Error()) {
				t.Errorf("health: %v", err)
			}
			if n := c.asked; n > 60 {
				t.Errorf("it was asked %d times in 40 s", n)
			}

			c.set(nil)
			r.flush(t)
			checkEven(t, r.sink.got(), 200)
			s := r.Status()
			if s.Undecided != "" || s.DeadLetters != 0 || s.Filtered != 100 || r.Health() != nil || c.lasts != 0 {
				t.Errorf("%+v, %v", s, r.Health())
			}
		})
	}
}

// Events of which it cannot be told for too long become dead letters, with the reason; the others
// are delivered in order, and nothing waits again until it could be told once.
func TestChooseGivesUp(t *testing.T) {
	for _, order := range []deliver.Order{deliver.ByPath, deliver.All, deliver.None} {
		bubble(t, func(t *testing.T) {
			c := &chooser{broken: errNoPlugin}
			r := start(t, deliver.Options{Choose: c.choose, Policy: deliver.Policy{Order: order, GiveUp: time.Hour}})
			begin := time.Now()
			r.append(0, 100, 10, "a", "b", "c")
			r.flush(t)
			if took := time.Since(begin); took < time.Hour || took > time.Hour+time.Minute {
				t.Errorf("it waited for %s", took)
			}
			if got := r.sink.got(); order == deliver.All {
				checkEven(t, got, 100)
			} else { // what waits for a dead letter is overtaken by other paths
				last := map[int]int{0: -1, 1: -1, 2: -1}
				for _, n := range got {
					if order == deliver.ByPath && n <= last[n%3] {
						t.Errorf("event %d came after %d", n, last[n%3])
					}
					last[n%3] = n
				}
				slices.Sort(got)
				checkEven(t, got, 100)
			}
			letters, err := r.store.List(t.Context(), 0, 1000)
			if err != nil || len(letters) != 50 {
				t.Fatalf("%d dead letters, %v", len(letters), err)
			}
			for i, l := range letters {
				if n := number(l.Event); n != 2*i+1 || l.Cause != deliver.CauseFailed || l.Reason != errNoPlugin.Error() || l.Attempts != 0 {
					t.Errorf("dead letter %d: %+v", i, l)
				}
			}
			if s := r.Status(); s.Failed != 50 || s.Refused != 0 || s.Expired != 0 || s.Filtered != 0 {
				t.Errorf("%+v", s.Counts)
			}

			c.set(nil)
			r.append(100, 10, 10)
			r.flush(t)
			c.set(errNoPlugin) // a new trouble has its own time
			begin = time.Now()
			r.append(110, 10, 10)
			r.flush(t)
			if took := time.Since(begin); took < time.Hour {
				t.Errorf("it waited for %s", took)
			}
			if got := r.sink.got(); len(got) != 60 {
				t.Errorf("%d events", len(got))
			}
		})
	}
}

// A single event that can never be told of delays nobody, but those of its path until it is a dead
// letter.
func TestChooseRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := &chooser{poison: 6}
		r := start(t, deliver.Options{Choose: c.choose, Policy: deliver.Policy{Concurrency: 2, MaxEvents: 3}})
		begin := time.Now()
		r.append(0, 20, 20)
		r.flush(t)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
		letters, _ := r.store.List(t.Context(), 0, 10)
		if got := r.sink.got(); len(got) != 9 || len(letters) != 1 || number(letters[0].Event) != 6 || letters[0].Reason != "the plugin refuses this event" {
			t.Errorf("%v, %+v", got, letters)
		}
		if s, _, _ := r.store.Load(t.Context()); s.Through.Compare(r.journal.End()) < 0 && r.Status().Position != r.journal.End() {
			t.Errorf("it stands at %v", r.Status().Position)
		}
	})
}

// A replay that waits delays no live events, and what works there does not end the time of what
// waits.
func TestChooseOfReplay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := new(chooser)
		r := start(t, deliver.Options{Choose: c.choose, Policy: deliver.Policy{GiveUp: time.Minute}})
		r.append(1, 1, 1)
		r.flush(t)
		c.set(errNoPlugin)
		if _, err := r.Replay(t.Context(), position.Position{}, position.Position{}); err != nil {
			t.Fatal(err)
		}
		for n := range 60 {
			r.append(2+2*n, 1, 1)
			r.flush(t)
			time.Sleep(2 * time.Second)
		}
		s := r.Status()
		if got := r.sink.got(); len(got) != 60 || s.Failed != 1 || len(s.Replays) != 1 || !s.Replays[0].Done {
			t.Errorf("%d events, %+v", len(got), s)
		}
	})
}

// The end of a delivery does not wait for who cannot tell.
func TestChooseAtTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hang := func(ctx context.Context, _ deliver.Record, _ []deliver.Choice, _ bool) error {
			<-ctx.Done()
			return ctx.Err()
		}
		r := start(t, deliver.Options{Choose: hang})
		r.append(0, 10, 10)
		synctest.Wait()
		begin := time.Now()
		if err := r.stop(); err != nil || time.Since(begin) > time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		if s, _, _ := r.store.Load(t.Context()); !s.Through.IsZero() || len(r.sink.got()) != 0 {
			t.Errorf("%+v, %v", s, r.sink.got())
		}
	})
}
