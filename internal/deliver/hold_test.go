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

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
)

// TestPause: what is paused or disabled sends nothing, keeps everything, and stays so over
// restarts, whenever it was done.
func TestPause(t *testing.T) {
	for _, outage := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := start(t, deliver.Options{})
			r.append(0, 10, 10)
			r.flush(t)
			if outage {
				r.sink.set(down)
				r.append(10, 1, 1)
				time.Sleep(time.Hour)
			}
			if err := r.Pause(t.Context(), "maintenance\nof it"); err != nil {
				t.Fatal(err)
			}
			before := r.sink.attempts()
			r.append(20, 10, 10)
			time.Sleep(24 * time.Hour)
			if got := r.sink.attempts(); got != before {
				t.Errorf("%d attempts while it is paused", got-before)
			}
			s := r.Status()
			if s.Condition != deliver.Paused || s.Held.By != deliver.HeldPaused || s.Held.Reason != "maintenance of it" || s.LagEvents < 10 || s.Lag < 23*time.Hour {
				t.Errorf("%+v", s)
			}
			if err := r.Health(); err != nil {
				t.Errorf("health: %v", err)
			}
			r.stop()

			again := start(t, deliver.Options{Journal: r.journal, Store: r.store})
			time.Sleep(time.Hour)
			if s := again.Status(); s.Condition != deliver.Paused || s.Held.Reason != "maintenance of it" || again.sink.attempts() > 0 {
				t.Errorf("after a restart: %+v", s)
			}
			if err := again.Disable(t.Context(), "for good"); err != nil {
				t.Fatal(err)
			}
			if s := again.Status(); s.Condition != deliver.Disabled || s.Held.Reason != "for good" {
				t.Errorf("%+v", s)
			}
			if err := again.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			again.flush(t)
			if got := again.sink.got(); len(got) < 10 || got[len(got)-1] != 29 {
				t.Errorf("delivered %v", got)
			}
			if got := again.kinds(); !slices.Equal(got, []deliver.Kind{deliver.ChangeHeld, deliver.ChangeResumed}) {
				t.Errorf("changes %v", got)
			}
			again.stop()
			if err := again.Pause(t.Context(), "after the end"); err != nil {
				t.Error(err)
			}
			third := start(t, deliver.Options{Journal: r.journal, Store: r.store})
			synctest.Wait()
			if s := third.Status(); s.Held.Reason != "after the end" {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestPauseFirst: a sink can be paused before it ever ran, and then begins where the journal
// ended at that time.
func TestPauseFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j, store, s := new(delivermem.Journal), new(delivermem.Store), new(sink)
		j.Append(testEvent(0, "p"))
		d := deliver.New(deliver.Options{Name: "x", Sink: s, Journal: j, Store: store, From: deliver.FromEnd})
		if err := d.Pause(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		if s := d.Status(); s.Condition != deliver.Paused {
			t.Errorf("%+v", s)
		}
		j.Append(testEvent(1, "p"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(time.Hour)
		if s.attempts() > 0 {
			t.Error("it was sent")
		}
		if err := d.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.got(); !slices.Equal(got, []int{1}) {
			t.Errorf("%v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := d.Flush(t.Context()); err != nil && !errors.Is(err, deliver.ErrEnded) {
			t.Error(err)
		}
		if err := d.Run(t.Context()); err == nil {
			t.Error("a second Run")
		}
	})
}

// TestPauseStored: what could not be stored has not happened.
func TestPauseStored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		failing := false
		store := &delivermem.Store{Fail: func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			if failing {
				return errors.New("the disk is full")
			}
			return nil
		}}
		r := start(t, deliver.Options{Store: store})
		r.append(0, 5, 5)
		r.flush(t)
		mu.Lock()
		failing = true
		mu.Unlock()
		if err := r.Pause(t.Context(), ""); err == nil {
			t.Error("no error")
		}
		r.append(5, 5, 5)
		r.flush(t)
		checkOrder(t, r.sink.got(), 10)
		time.Sleep(time.Minute)
		if err := r.Health(); err == nil || !strings.Contains(err.Error(), "cannot store how far the sink is: the disk is full") {
			t.Errorf("health: %v", err)
		}
		mu.Lock()
		failing = false
		mu.Unlock()
		time.Sleep(time.Minute)
		if err := r.Health(); err != nil {
			t.Errorf("health: %v", err)
		}
		s, _, _ := store.Load(t.Context())
		if s.Through != r.journal.End() {
			t.Error("it was not stored when that was possible again")
		}
	})
}

// TestGone: an endpoint that wants nothing any more disables its sink, durably, and the events
// are kept.
func TestGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(sink)
		s.answer = always(deliver.Result{Outcome: deliver.Gone, Status: 410, Reason: "410 Gone"})
		r := start(t, deliver.Options{Sink: s, Policy: deliver.Policy{Concurrency: 4, MaxEvents: 1}})
		r.append(0, 10, 10)
		time.Sleep(100 * time.Hour)
		if got := s.attempts(); got > 4 {
			t.Errorf("%d attempts", got)
		}
		if st := r.Status(); st.Condition != deliver.Disabled || !st.Held.ByEndpoint || st.Held.Reason != "410 Gone" || st.LagEvents != 10 {
			t.Errorf("%+v", st)
		}
		if err := r.Health(); err == nil || !strings.Contains(err.Error(), "410 Gone") {
			t.Errorf("health: %v", err)
		}
		r.stop()
		again := start(t, deliver.Options{Journal: r.journal, Store: r.store})
		time.Sleep(time.Hour)
		if st := again.Status(); st.Condition != deliver.Disabled {
			t.Errorf("%+v", st)
		}
		if err := again.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		again.flush(t)
		checkOrder(t, again.sink.got(), 10)
		if letters, _ := r.store.List(t.Context(), 0, 10); len(letters) > 0 {
			t.Errorf("dead letters: %v", letters)
		}
	})
}

// TestTest: an event is tried beside everything else.
func TestTest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, deliver.Options{})
		if err := r.Pause(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		r.append(0, 5, 5)
		if got := r.Test(t.Context(), testEvent(77, "p")); got.Outcome != deliver.Delivered {
			t.Errorf("%+v", got)
		}
		r.sink.set(always(deliver.Result{Outcome: deliver.Refused, Status: 400, Reason: "no"}))
		if got := r.Test(t.Context(), testEvent(78, "p")); got.Outcome != deliver.Refused || got.Status != 400 {
			t.Errorf("%+v", got)
		}
		r.sink.set(func(ctx context.Context, _ *deliver.Batch) deliver.Result {
			<-ctx.Done()
			return deliver.Result{Outcome: deliver.Retry, Reason: "timeout"}
		})
		begun := time.Now()
		if got := r.Test(t.Context(), testEvent(79, "p")); got.Outcome != deliver.Retry || time.Since(begun) != deliver.DefaultTimeout {
			t.Errorf("%+v after %v", got, time.Since(begun))
		}
		if got := r.sink.got(); !slices.Equal(got, []int{77}) {
			t.Errorf("%v", got)
		}
		a := r.Attempts()
		if len(a) != 3 || a[2].First != "77" || a[0].Outcome != deliver.Retry || a[0].Took != deliver.DefaultTimeout || !a[1].Test || a[1].Status != 400 {
			t.Errorf("%+v", a)
		}
		if letters, _ := r.store.List(t.Context(), 0, 10); len(letters) > 0 {
			t.Errorf("dead letters: %v", letters)
		}
	})
}

// TestFrom: the first time a sink begins at the end, and that is stored before anything else.
func TestFrom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j, store := new(delivermem.Journal), new(delivermem.Store)
		j.Append(testEvent(0, "p"))
		first := start(t, deliver.Options{Journal: j, Store: store, From: deliver.FromEnd})
		synctest.Wait()
		if s, ok, _ := store.Load(t.Context()); !ok || s.Through != j.End() {
			t.Errorf("stored %v %v", s, ok)
		}
		first.stop()
		j.Append(testEvent(1, "p"))
		second := start(t, deliver.Options{Journal: j, Store: store, From: deliver.FromEnd})
		second.flush(t)
		if got := second.sink.got(); !slices.Equal(got, []int{1}) {
			t.Errorf("%v", got)
		}
	})
}

// TestPassesOver: the place moves and is stored when nothing is for the sink, but not often.
func TestPassesOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, deliver.Options{Match: func(e *event.Event) bool { return e.Path == "mine" }})
		for i := range 3600 {
			r.append(i, 1, 1, "other")
			time.Sleep(time.Second)
		}
		if s := r.Status(); s.LagEvents != 0 || s.Filtered != 3600 || s.Delivered != 0 {
			t.Errorf("%+v", s)
		}
		s, _, _ := r.store.Load(t.Context())
		if behind := r.journal.End().Ordinal - s.Through.Ordinal; behind > 12 {
			t.Errorf("what is stored is %d events behind", behind)
		}
		if n := r.store.Saves(); n > 800 {
			t.Errorf("stored %d times in an hour", n)
		}
		// An event that is stuck does not make it stay for ever behind it, once it is decided.
		r.sink.set(down)
		r.append(3600, 1, 1, "mine")
		r.append(3601, 100, 1, "other")
		time.Sleep(time.Hour)
		r.sink.set(nil)
		r.flush(t)
		if s := r.Status(); s.Position != r.journal.End() || s.Delivered != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestGap: what the journal removed is counted and told, and it goes on behind it.
func TestGap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, deliver.Options{Policy: deliver.Policy{Window: deliver.Window{Events: 10}}})
		r.sink.set(down)
		r.append(0, 1000, 10)
		time.Sleep(time.Hour)
		r.journal.Trim(10)
		r.sink.set(nil)
		r.flush(t)
		s := r.Status()
		if s.Gaps != 1 || s.Missed == 0 || s.Missed+s.Delivered != 1000 {
			t.Errorf("%+v", s)
		}
		if err := r.Health(); err == nil || !strings.Contains(err.Error(), "events were removed from the journal") {
			t.Errorf("health: %v", err)
		}
		r.mu.Lock()
		i := slices.IndexFunc(r.changes, func(c deliver.Change) bool { return c.Kind == deliver.ChangeGap })
		if i < 0 || r.changes[i].Missed != s.Missed {
			t.Errorf("%+v", r.changes)
		}
		r.mu.Unlock()
		time.Sleep(time.Hour)
		if err := r.Health(); err != nil {
			t.Errorf("health: %v", err)
		}
	})
}

// TestStop: what is on its way at the end is waited for, but not for ever.
func TestStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(sink)
		s.answer = func(ctx context.Context, b *deliver.Batch) deliver.Result {
			time.Sleep(time.Second)
			return deliver.Result{}
		}
		r := start(t, deliver.Options{Sink: s, Policy: deliver.Policy{MaxEvents: 1}})
		r.append(0, 10, 10)
		time.Sleep(1500 * time.Millisecond)
		begun := time.Now()
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != 500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		state, _, _ := r.store.Load(t.Context())
		if got := s.got(); !slices.Equal(got, []int{0, 1}) || state.Through.Ordinal != 1 {
			t.Errorf("%v, stored %v", got, state.Through)
		}
		if st := r.Status(); st.Condition != deliver.Ended {
			t.Errorf("%+v", st)
		}

		hanging := new(sink)
		hanging.answer = func(ctx context.Context, b *deliver.Batch) deliver.Result {
			<-ctx.Done()
			return deliver.Result{Outcome: deliver.Doubtful}
		}
		r = start(t, deliver.Options{Sink: hanging, Policy: deliver.Policy{Attempts: 1, Timeout: time.Hour}})
		r.append(0, 10, 10)
		time.Sleep(time.Minute)
		begun = time.Now()
		r.stop()
		if took := time.Since(begun); took != deliver.DefaultStopTimeout {
			t.Errorf("took %v", took)
		}
		if n, _, _ := r.store.Count(t.Context()); n > 0 || !hanging.closed {
			t.Error("what was interrupted is a dead letter, or the sink is not closed")
		}

		deaf := new(sink)
		free := make(chan struct{})
		deaf.answer = func(ctx context.Context, b *deliver.Batch) deliver.Result {
			<-free
			return deliver.Result{}
		}
		r = start(t, deliver.Options{Sink: deaf})
		r.append(0, 10, 10)
		time.Sleep(time.Minute)
		begun = time.Now()
		r.stop()
		if took := time.Since(begun); took > deliver.DefaultStopTimeout+3*time.Second {
			t.Errorf("took %v", took)
		}
		close(free)
	})
}

// TestClosedJournal: a delivery whose journal has ended says so.
func TestClosedJournal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		j := new(delivermem.Journal)
		d := deliver.New(deliver.Options{Name: "x", Sink: new(sink), Journal: j, Store: new(delivermem.Store)})
		done := make(chan error)
		go func() { done <- d.Run(t.Context()) }()
		synctest.Wait()
		j.Close()
		if err := <-done; !errors.Is(err, delivermem.ErrClosed) || !errors.Is(d.Health(), delivermem.ErrClosed) {
			t.Errorf("%v, health %v", err, d.Health())
		}
	})
}

// TestFromEndStored: a sink begins where the journal ended when it was started, although
// the store could not take that for long.
func TestFromEndStored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		failing := true
		store := &delivermem.Store{Fail: func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			if failing {
				return errors.New("the disk is full")
			}
			return nil
		}}
		j := new(delivermem.Journal)
		j.Append(testEvent(100, "p"))
		r := start(t, deliver.Options{Store: store, Journal: j, From: deliver.FromEnd})
		time.Sleep(time.Minute)
		r.append(0, 10, 1)
		time.Sleep(time.Minute)
		mu.Lock()
		failing = false
		mu.Unlock()
		time.Sleep(time.Minute)
		checkOrder(t, r.sink.got(), 10)
	})
}

// TestCloseHangs: a sink that cannot be closed does not keep a delivery from ending.
func TestCloseHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &stuck{release: make(chan struct{})}
		r := start(t, deliver.Options{Sink: s})
		r.append(0, 10, 10)
		r.flush(t)
		begun := time.Now()
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("took %v", took)
		}
		close(s.release)
	})
}

// stuck is a sink whose Close waits.
type stuck struct {
	sink
	release chan struct{}
}

func (s *stuck) Close() error {
	<-s.release
	return nil
}
