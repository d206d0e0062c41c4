package deliver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
	"github.com/tocsin-events/tocsin/internal/position"
)

// refuse refuses events that are divisible by n.
func refuse(n int) func(context.Context, *deliver.Batch) deliver.Result {
	return func(_ context.Context, b *deliver.Batch) deliver.Result {
		for i, item := range b.Items {
			if number(item.Event)%n == 0 {
				b.Decide(i, deliver.Result{Outcome: deliver.Refused, Status: 400, Reason: fmt.Sprint("no ", item.Event.ID)})
			}
		}
		return deliver.Result{}
	}
}

// TestLettersFull: when there is no room for dead letters, what should become one waits, with
// those that may not overtake it, and others go on; then it goes on by itself.
func TestLettersFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := &delivermem.Store{MaxLetters: 5}
		s := new(sink)
		s.answer = func(_ context.Context, b *deliver.Batch) deliver.Result {
			if b.Items[0].Event.Path == "path/0" && number(b.Items[0].Event)%30 == 0 {
				return deliver.Result{Outcome: deliver.Refused, Reason: "no"}
			}
			return deliver.Result{}
		}
		r := start(t, deliver.Options{Sink: s, Store: store, Policy: deliver.Policy{MaxEvents: 1, Concurrency: 4}})
		r.append(0, 300, 10, paths(3)...) // 10 of 100 of path 0 are refused
		time.Sleep(time.Hour)
		got := s.got()
		if others := slices.DeleteFunc(slices.Clone(got), func(n int) bool { return n%3 == 0 }); len(others) != 200 {
			t.Errorf("%d of other paths", len(others))
		}
		if own := len(got) - 200; own != 5*9 { // up to the sixth that is refused
			t.Errorf("%d of the path", own)
		}
		if err := r.Health(); err == nil || !strings.Contains(err.Error(), "redrive or purge some") {
			t.Errorf("health: %v", err)
		}
		if kinds := r.kinds(); !slices.Equal(kinds, []deliver.Kind{deliver.ChangeLettersFull}) {
			t.Errorf("changes %v", kinds)
		}
		if st := r.Status(); st.DeadLetters != 5 || st.Refused != 5 || !strings.Contains(st.Problem, "no room for dead letters") || st.Position.Ordinal != 149 {
			t.Errorf("%+v", st)
		}
		if n, err := store.Purge(t.Context(), 5); n != 5 || err != nil {
			t.Fatal(n, err)
		}
		r.flush(t)
		if letters, _ := store.List(t.Context(), 0, 100); len(letters) != 5 || len(s.got()) != 290 {
			t.Errorf("%d dead letters, %d delivered", len(letters), len(s.got()))
		}
		time.Sleep(time.Minute)
		if st := r.Status(); st.Problem != "" {
			t.Errorf("%+v", st)
		}
	})
}

// TestLettersBroken: the place does not pass an event of which nobody knows whether it was
// set aside.
func TestLettersBroken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		store := &delivermem.Store{Fail: func(_ context.Context, what string) error {
			if what == "add" && broken.Load() {
				return errors.New("no answer")
			}
			return nil
		}}
		r := start(t, deliver.Options{Sink: &sink{answer: refuse(100)}, Store: store, Policy: deliver.Policy{Order: deliver.None}})
		r.append(0, 1000, 50)
		time.Sleep(time.Hour)
		if st := r.Status(); st.Delivered != 990 || st.Refused != 0 || !st.Position.IsZero() || st.Problem != "cannot set events aside: no answer" {
			t.Errorf("%+v", st)
		}
		r.stop()
		if s, _, _ := store.Load(t.Context()); !s.Through.IsZero() {
			t.Errorf("stored %v", s.Through)
		}
		broken.Store(false)
		// It is all sent again: nobody could know that it was not necessary.
		again := start(t, deliver.Options{Journal: r.journal, Store: store, Sink: &sink{answer: refuse(100)}})
		again.flush(t)
		letters, _ := store.List(t.Context(), 0, 100)
		if len(letters) != 10 || letters[3].Reason != "no 300" || letters[3].Status != 400 || letters[3].Attempts != 1 {
			t.Errorf("%+v", letters)
		}
		again.stop()
		// After a crash behind setting aside, and before the place was stored: not twice.
		if err := store.Save(t.Context(), deliver.State{}); err != nil {
			t.Fatal(err)
		}
		third := start(t, deliver.Options{Journal: r.journal, Store: store, Sink: &sink{answer: refuse(100)}})
		third.flush(t)
		if letters, _ := store.List(t.Context(), 0, 100); len(letters) != 10 {
			t.Errorf("%d dead letters", len(letters))
		}
	})
}

// TestRedrive: dead letters are tried again, by id, by range, and all of them.
func TestRedrive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, deliver.Options{Sink: &sink{answer: refuse(10)}, Policy: deliver.Policy{MaxEvents: 3, Concurrency: 2}})
		r.append(0, 1000, 50, paths(4)...)
		r.flush(t)
		ids := func() (list []uint64) {
			letters, _ := r.store.List(t.Context(), 0, 1000)
			for _, l := range letters {
				list = append(list, l.ID)
			}
			return list
		}
		if got := ids(); len(got) != 100 || got[99] != 100 {
			t.Fatalf("dead letters: %v", got)
		}
		if err := r.Health(); err == nil || !strings.Contains(err.Error(), "events became dead letters") {
			t.Errorf("health: %v", err)
		}
		wait := func(which deliver.Letters, want uint64) deliver.Redrive {
			t.Helper()
			id, n, err := r.Redrive(t.Context(), which)
			if err != nil || n != want || (id == "") != (want == 0) {
				t.Fatalf("%q, %d of %d: %v", id, n, want, err)
			}
			for range 1000 {
				for _, d := range r.Status().Redrives {
					if d.ID == id && d.Done {
						return d
					}
				}
				time.Sleep(time.Second)
			}
			t.Fatal("it does not end")
			return deliver.Redrive{}
		}
		before, _ := r.store.Get(t.Context(), 7)
		time.Sleep(time.Second)
		if d := wait(deliver.Letters{IDs: []uint64{9, 7, 9}}, 2); d.Sent != 0 || d.Refused != 2 || d.Cancelled {
			t.Errorf("%+v", d)
		}
		letters, _ := r.store.List(t.Context(), 100, 10)
		if len(letters) != 2 || letters[0].At != before.At || letters[0].Attempts != 2 || !letters[0].First.Equal(before.First) || !letters[0].Last.After(before.Last) {
			t.Errorf("%+v, before %+v", letters, before)
		}
		if _, err := r.store.Get(t.Context(), 7); !errors.Is(err, deliver.ErrNoLetter) {
			t.Errorf("it is there twice: %v", err)
		}
		for which, want := range map[*deliver.Letters]string{
			{IDs: []uint64{7}}:               "no such dead letter",
			{IDs: make([]uint64, 5000)}:      "at most 1000",
			{IDs: []uint64{1, 2, 3, 12_345}}: "no such dead letter",
		} {
			if _, _, err := r.Redrive(t.Context(), *which); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v", which.IDs[:1], err)
			}
		}
		r.sink.set(func(_ context.Context, b *deliver.Batch) deliver.Result {
			if !b.Redriven || b.Replay != "" || b.Attempt < 2 {
				t.Errorf("%+v", b)
			}
			return deliver.Result{}
		})
		if d := wait(deliver.Letters{IDs: []uint64{1, 5}}, 2); d.Sent != 2 || d.Refused != 0 {
			t.Errorf("%+v", d)
		}
		if d := wait(deliver.Letters{First: 1, Last: 20}, 16); d.Sent != 16 {
			t.Errorf("%+v", d)
		}
		if d := wait(deliver.Letters{}, 82); d.Sent != 82 {
			t.Errorf("%+v", d)
		}
		if got := ids(); len(got) > 0 {
			t.Errorf("left: %v", got)
		}
		time.Sleep(11 * time.Second)
		_ = r.Health() // has them counted
		time.Sleep(time.Second)
		if err := r.Health(); err != nil {
			t.Errorf("health when there are none any more: %v", err)
		}
		if id, n, err := r.Redrive(t.Context(), deliver.Letters{}); id != "" || n != 0 || err != nil {
			t.Error(id, n, err)
		}
	})
}

// TestReplay: a range is sent once more, and marked, beside the live events, over restarts.
func TestReplay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		all := make(map[string][]int)
		replayed := func(id string) []int {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all[id])
		}
		answer := func(_ context.Context, b *deliver.Batch) deliver.Result {
			time.Sleep(10 * time.Millisecond)
			if b.Replay != "" {
				mu.Lock()
				defer mu.Unlock()
				for _, item := range b.Items {
					all[b.Replay] = append(all[b.Replay], number(item.Event))
				}
			}
			return deliver.Result{}
		}
		r := start(t, deliver.Options{Sink: &sink{answer: answer}, Policy: deliver.Policy{MaxEvents: 1}})
		var at []position.Position
		for i := range 1000 {
			at = append(at, r.append(i, 1, 1))
		}
		r.flush(t)
		id, err := r.Replay(t.Context(), at[99], at[299])
		if err != nil {
			t.Fatal(err)
		}
		// Live events have most of the sink, but not all of it.
		begun := time.Now()
		r.append(1000, 300, 10)
		r.flush(t)
		took := time.Since(begun)
		if took > 4200*time.Millisecond || took < 3900*time.Millisecond {
			t.Errorf("300 live events took %v", took)
		}
		if n := len(replayed(id)); n < 90 || n > 110 {
			t.Errorf("%d were replayed meanwhile", n)
		}
		r.stop()
		again := start(t, deliver.Options{Journal: r.journal, Store: r.store, Sink: &sink{answer: answer}, Policy: deliver.Policy{MaxEvents: 1}})
		time.Sleep(time.Minute)
		st := again.Status()
		if len(st.Replays) != 1 || !st.Replays[0].Done || st.Replays[0].Sent != 200 || st.Replays[0].ID != id {
			t.Errorf("%+v", st.Replays)
		}
		if got := replayed(id); len(got) != 200 || got[0] != 100 || got[199] != 299 || !slices.IsSorted(got) {
			t.Errorf("%d replayed", len(got))
		}
		if s, _, _ := r.store.Load(t.Context()); len(s.Replays) != 0 {
			t.Errorf("stored %+v", s)
		}
		time.Sleep(2 * time.Hour)
		if st := again.Status(); len(st.Replays) != 0 {
			t.Errorf("%+v", st.Replays)
		}

		// All, cancelled.
		id, err = again.Replay(t.Context(), position.Position{}, position.Position{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := again.CancelReplay(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		n := len(replayed(id))
		if n < 90 || n > 110 {
			t.Errorf("%d replayed", n)
		}
		time.Sleep(time.Hour - time.Minute)
		if len(replayed(id)) != n {
			t.Error("it goes on")
		}
		if err := again.CancelReplay(t.Context(), id); !errors.Is(err, deliver.ErrNoReplay) {
			t.Error(err)
		}
		if st := again.Status(); len(st.Replays) != 1 || !st.Replays[0].Cancelled {
			t.Errorf("%+v", st.Replays)
		}
		// As many as there may be.
		if err := again.Pause(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		for range 16 {
			if _, err := again.Replay(t.Context(), position.Position{}, position.Position{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := again.Replay(t.Context(), position.Position{}, position.Position{}); !errors.Is(err, deliver.ErrBusy) {
			t.Error(err)
		}
	})
}

// syncer is a sink that keeps what it takes in memory until Sync, and loses it when that fails.
type syncer struct {
	sink
	fail    bool
	pending []int
	durable []int
	reopens int
}

func (s *syncer) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	s.mu.Lock()
	for _, item := range b.Items {
		s.pending = append(s.pending, number(item.Event))
	}
	s.mu.Unlock()
	return deliver.Result{}
}

func (s *syncer) Sync(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail {
		s.pending = nil
		return errors.New("input/output error")
	}
	s.durable = append(s.durable, s.pending...)
	s.pending = nil
	return nil
}

func (s *syncer) Reopen() error {
	s.reopens++
	return nil
}

// TestSync: what a sink could not make durable is sent again, without a crash.
func TestSync(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(syncer)
		store := new(delivermem.Store)
		store.Fail = func(_ context.Context, what string) error {
			if what != "save" {
				return nil
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			return nil
		}
		r := start(t, deliver.Options{Sink: s, Store: store, Policy: deliver.Policy{Concurrency: 3, MaxEvents: 10}})
		r.append(0, 1000, 10, paths(5)...)
		r.flush(t)
		time.Sleep(time.Second)
		s.mu.Lock()
		s.fail = true
		s.mu.Unlock()
		r.append(1000, 1000, 10, paths(5)...)
		time.Sleep(time.Hour)
		if st, _, _ := store.Load(t.Context()); st.Through.Ordinal != 999 {
			t.Errorf("stored %v", st.Through)
		}
		if err := r.Health(); err == nil || !strings.Contains(err.Error(), "cannot make durable what was delivered: input/output error") {
			t.Errorf("health: %v", err)
		}
		if st := r.Status(); st.Attempts > 250 {
			t.Errorf("%d attempts", st.Attempts)
		}
		s.mu.Lock()
		s.fail = false
		s.mu.Unlock()
		for range 1000 {
			if st, _, _ := store.Load(t.Context()); st.Through == r.journal.End() {
				break
			}
			time.Sleep(time.Second)
		}
		r.stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		slices.Sort(s.durable)
		checkOrder(t, slices.Compact(s.durable), 2000)
		if err := r.Reopen(); err != nil || s.reopens != 1 {
			t.Errorf("reopened %d times: %v", s.reopens, err)
		}
	})
}

// TestSyncOnce: a sink tells only once that what it had is lost, as a system does. Until that
// is sent again nothing may count as durable, whoever syncs, and whatever is on its way.
func TestSyncOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &slowSyncer{}
		r := start(t, deliver.Options{Sink: s, Policy: deliver.Policy{MaxEvents: 5}})
		r.append(0, 10, 10)
		time.Sleep(time.Second)
		s.mu.Lock()
		s.failures, s.slowFrom = 1, 15
		s.mu.Unlock()
		r.append(10, 10, 5) // written, and with the second half on its way the sync fails
		time.Sleep(5 * time.Second)
		state, _, _ := r.store.Load(t.Context())
		s.mu.Lock()
		if n := len(s.durable); uint64(n) < state.Through.NextOrdinal() {
			t.Errorf("stored that %d events are delivered, of which %d are durable", state.Through.NextOrdinal(), n)
		}
		s.mu.Unlock()
		time.Sleep(time.Minute)
		r.stop()
		slices.Sort(s.durable)
		checkOrder(t, slices.Compact(s.durable), 20)
	})
}

// TestSyncRedrive: dead letters that were delivered are removed only when that is durable.
func TestSyncRedrive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &slowSyncer{}
		s.refuse = true
		r := start(t, deliver.Options{Sink: s, Policy: deliver.Policy{MaxEvents: 1}})
		r.append(0, 10, 10)
		r.flush(t)
		time.Sleep(10 * time.Second)
		s.mu.Lock()
		s.refuse = false
		s.failures, s.slowFrom = 1, 5
		s.mu.Unlock()
		if _, n, err := r.Redrive(t.Context(), deliver.Letters{}); n != 10 || err != nil {
			t.Fatal(n, err)
		}
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			letters, _ := r.store.List(t.Context(), 0, 100)
			s.mu.Lock()
			durable := slices.Clone(s.durable)
			s.mu.Unlock()
			for i := range 10 {
				if !slices.Contains(durable, i) && !slices.ContainsFunc(letters, func(l deliver.DeadLetter) bool { return number(l.Event) == i }) {
					t.Fatalf("event %d is neither durable nor a dead letter", i)
				}
			}
		}
		time.Sleep(time.Hour)
		if letters, _ := r.store.List(t.Context(), 0, 100); len(letters) > 0 {
			t.Errorf("%d dead letters are left", len(letters))
		}
	})
}

// slowSyncer is a syncer that loses what it has some times, and is slow from an event on.
type slowSyncer struct {
	sink
	failures int
	slowFrom int // 0: never
	refuse   bool
	pending  []int
	durable  []int
}

func (s *slowSyncer) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	s.mu.Lock()
	slow := s.slowFrom > 0 && number(b.Items[0].Event) >= s.slowFrom
	if slow {
		s.slowFrom = 0
	}
	refuse := s.refuse
	s.mu.Unlock()
	if refuse {
		return deliver.Result{Outcome: deliver.Refused}
	}
	if slow {
		time.Sleep(3 * time.Second)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, item := range b.Items {
		s.pending = append(s.pending, number(item.Event))
	}
	return deliver.Result{}
}

func (s *slowSyncer) Sync(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures > 0 && len(s.pending) > 0 {
		s.failures--
		s.pending = nil
		return errors.New("input/output error")
	}
	s.durable = append(s.durable, s.pending...)
	s.pending = nil
	return nil
}

// TestFullCost: to find out again and again that there is no room costs little, however many
// events wait for it.
func TestFullCost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{answer: always(deliver.Result{Outcome: deliver.Refused})}
		var mu sync.Mutex
		adds, full := 0, true
		store := &delivermem.Store{Fail: func(_ context.Context, what string) error {
			mu.Lock()
			defer mu.Unlock()
			if what != "add" {
				return nil
			}
			if adds++; full {
				return fmt.Errorf("%w: none", deliver.ErrFull)
			}
			return nil
		}}
		r := start(t, deliver.Options{Sink: s, Store: store, Policy: deliver.Policy{MaxEvents: 1}})
		r.append(0, 2000, 100, paths(2000)...)
		time.Sleep(time.Hour)
		mu.Lock()
		before := adds
		mu.Unlock()
		time.Sleep(time.Hour)
		mu.Lock()
		if n := adds - before; n > 60_000 {
			t.Errorf("%d attempts to set aside in an hour", n)
		}
		full = false
		mu.Unlock()
		r.flush(t)
		if n, _, _ := store.Count(t.Context()); n != 2000 {
			t.Errorf("%d dead letters", n)
		}
	})
}

// slowStore takes its time for each dead letter.
type slowStore struct{ *delivermem.Store }

const perLetter = 10 * time.Millisecond

func (s slowStore) Add(ctx context.Context, letters []deliver.DeadLetter) error {
	time.Sleep(time.Duration(len(letters)) * perLetter)
	return s.Store.Add(ctx, letters)
}

func (s slowStore) Remove(ctx context.Context, ids ...uint64) error {
	time.Sleep(time.Duration(len(ids)) * perLetter)
	return s.Store.Remove(ctx, ids...)
}

// TestLiveLettersFirst: the place of live events does not wait for the dead letters of a
// long redrive, neither for those that are delivered nor for those that are refused again.
func TestLiveLettersFirst(t *testing.T) {
	for name, redriven := range map[string]deliver.Outcome{"delivered": deliver.Delivered, "refused again": deliver.Refused} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := slowStore{new(delivermem.Store)}
				s := &sink{answer: always(deliver.Result{Outcome: deliver.Refused, Reason: "no"})}
				r := start(t, deliver.Options{Sink: s, Store: store, Policy: deliver.Policy{MaxEvents: 100, Concurrency: 4}})
				r.append(0, 2000, 100)
				r.flush(t)
				s.set(func(_ context.Context, b *deliver.Batch) deliver.Result {
					if b.Redriven {
						return deliver.Result{Outcome: redriven, Reason: "no"}
					}
					return deliver.Result{Outcome: deliver.Refused, Reason: "no"}
				})
				if _, _, err := r.Redrive(t.Context(), deliver.Letters{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				end := r.append(2000, 1, 1)
				time.Sleep(time.Second)
				st := r.Status()
				if len(st.Redrives) != 1 || !st.Redrives[0].Ended.IsZero() {
					t.Fatalf("nothing was tested: %+v", st.Redrives)
				}
				if st.Position != end {
					t.Errorf("the live event waits: %v of %v", st.Position, end)
				}
				r.flush(t)
			})
		})
	}
}
