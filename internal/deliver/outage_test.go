package deliver_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
)

func down(context.Context, *deliver.Batch) deliver.Result {
	return deliver.Result{Outcome: deliver.Retry, Reason: "connection refused"}
}

// perPath checks that the events of each path are in order, all there, and each once.
func perPath(t *testing.T, got []int, n, paths int) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%d events, want %d", len(got), n)
	}
	next := make([]int, paths)
	for i := range next {
		next[i] = i
	}
	for _, v := range got {
		if p := v % paths; v != next[p] {
			t.Fatalf("event %d of path %d, want %d", v, p, next[p])
		} else {
			next[p] += paths
		}
	}
}

func paths(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint("path/", i))
	}
	return list
}

// TestOutage: an endpoint is down for an hour, or for three days, while events come. The
// attempts are few, nothing is given up, and afterwards everything comes at full speed.
func TestOutage(t *testing.T) {
	for _, test := range []struct {
		how      deliver.Outcome
		lasts    time.Duration
		attempts int
		batch    int
	}{
		{deliver.Retry, time.Hour, 60, 1}, {deliver.Retry, 72 * time.Hour, 2200, 1}, {deliver.Retry, time.Hour, 60, 100},
		{deliver.Doubtful, time.Hour, 60, 1}, {deliver.Doubtful, 72 * time.Hour, 2200, 1}, {deliver.Doubtful, 72 * time.Hour, 2200, 100},
	} {
		bubble(t, func(t *testing.T) {
			const n, keys, concurrency = 20_000, 7, 8
			r := start(t, deliver.Options{Policy: deliver.Policy{Concurrency: concurrency, MaxEvents: test.batch}})
			r.append(0, 1000, 50, paths(keys)...)
			r.flush(t)
			begun, before := time.Now(), r.sink.attempts()
			r.sink.set(always(deliver.Result{Outcome: test.how, Status: 503, Reason: "down"}))
			for i := 1000; i < n; i += 100 {
				r.append(i, 100, 50, paths(keys)...)
				time.Sleep(test.lasts / (n / 100))
			}
			time.Sleep(time.Until(begun.Add(test.lasts)))
			s := r.Status()
			if got := r.sink.attempts() - before; got > test.attempts+concurrency || got < test.attempts/5 {
				t.Errorf("%v for %v: %d attempts", test.how, test.lasts, got)
			}
			if s.Condition != deliver.Failing || s.Outage == nil || s.Outage.Reason != "down" || s.Outage.Status != 503 || s.Lag < test.lasts-time.Hour || s.LagEvents != n-1000 || s.Outage.Next.IsZero() {
				t.Errorf("during the outage: %+v", s)
			}
			if err := r.Health(); err == nil || !strings.Contains(err.Error(), "19000 events wait in the journal") {
				t.Errorf("health: %v", err)
			}
			window := 2000
			if test.batch > 1 {
				window = 10_000
			}
			if w := s.Waiting; w > window+100 { // one record may exceed it
				t.Errorf("%d of %d events in memory", w, s.LagEvents)
			}
			r.sink.set(nil)
			up := time.Now()
			r.flush(t)
			if took := time.Since(up); took > 5*time.Minute {
				t.Errorf("%v after %v: delivered %v after the end", test.how, test.lasts, took)
			}
			perPath(t, r.sink.got(), n, keys)
			if s := r.Status(); s.Condition != deliver.Running || s.LagEvents != 0 || s.Lag != 0 || s.Outage != nil || s.Refused+s.Failed > 0 || s.Delivered != n {
				t.Errorf("in the end: %+v", s)
			}
			if err := r.Health(); err != nil {
				t.Error(err)
			}
			if got := r.kinds(); !slices.Equal(got, []deliver.Kind{deliver.ChangeFailing, deliver.ChangeRecovered}) {
				t.Errorf("changes %v", got)
			}
		})
	}
}

// TestStorm: an endpoint that answers half of the requests with 429 is obeyed, and gets
// everything.
func TestStorm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(sink)
		quiet := time.Now()
		s.answer = func(context.Context, *deliver.Batch) deliver.Result {
			if time.Now().Before(quiet) {
				t.Errorf("sent %v too early", time.Until(quiet))
			}
			time.Sleep(10 * time.Millisecond)
			if rand.N(2) == 0 {
				after := time.Duration(1+rand.N(30)) * time.Second
				if until := time.Now().Add(after); until.After(quiet) {
					quiet = until
				}
				return deliver.Result{Outcome: deliver.Retry, Status: 429, After: after, Reason: "too many"}
			}
			return deliver.Result{}
		}
		r := start(t, deliver.Options{Sink: s, Policy: deliver.Policy{Concurrency: 1, MaxEvents: 1}})
		r.append(0, 500, 10, paths(3)...)
		r.flush(t)
		perPath(t, s.got(), 500, 3)
	})
}

// TestAfter: what a receiver asks for is obeyed, but not for ever.
func TestAfter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(sink)
		s.answer = always(deliver.Result{Outcome: deliver.Retry, After: 10_000 * time.Hour})
		r := start(t, deliver.Options{Sink: s})
		r.append(0, 1, 1)
		time.Sleep(25 * time.Hour)
		if got := s.attempts(); got != 2 {
			t.Errorf("%d attempts in 25 hours", got)
		}
		// Whoever resumes it does not want to wait.
		s.set(nil)
		if err := r.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		r.flush(t)
		if took := time.Since(begun); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestPoison: an event that a sink always fails with holds up only those of its path, and is
// given up; the batches that it is in are taken apart.
func TestPoison(t *testing.T) {
	for _, test := range []struct {
		policy deliver.Policy
		result deliver.Result
		most   int           // attempts with the event
		within time.Duration // of all
	}{
		{deliver.Policy{MaxEvents: 1}, deliver.Result{Outcome: deliver.Doubtful, Status: 500}, 10, time.Hour},
		{deliver.Policy{MaxEvents: 1, Concurrency: 4}, deliver.Result{Outcome: deliver.Doubtful, Status: 500}, 10, time.Hour},
		{deliver.Policy{MaxEvents: 100}, deliver.Result{Outcome: deliver.Doubtful, Status: 500}, 20, time.Hour},
		{deliver.Policy{MaxEvents: 100, Concurrency: 4, Order: deliver.None}, deliver.Result{Outcome: deliver.Doubtful, Status: 500}, 20, time.Hour},
		{deliver.Policy{MaxEvents: 1, Attempts: 3}, deliver.Result{Outcome: deliver.Doubtful, Status: 500}, 3, time.Minute},
		{deliver.Policy{MaxEvents: 1, GiveUp: time.Minute, Attempts: 1000}, deliver.Result{Outcome: deliver.Doubtful}, 100, 2 * time.Hour},
		{deliver.Policy{MaxEvents: 100, Order: deliver.All, Attempts: 3}, deliver.Result{Outcome: deliver.Doubtful}, 13, time.Hour},
		{deliver.Policy{MaxEvents: 1}, deliver.Result{Outcome: deliver.Refused, Status: 400}, 1, time.Second},
		{deliver.Policy{MaxEvents: 100}, deliver.Result{Outcome: deliver.Refused, Status: 400}, 9, time.Second},
		{deliver.Policy{MaxEvents: 100}, deliver.Result{Outcome: deliver.Impossible}, 9, time.Second},
	} {
		bubble(t, func(t *testing.T) {
			const n, keys, bad = 1000, 10, 321
			s := new(sink)
			tries := 0
			s.answer = func(_ context.Context, b *deliver.Batch) deliver.Result {
				for _, item := range b.Items {
					if number(item.Event) == bad {
						s.mu.Lock()
						tries++
						s.mu.Unlock()
						return test.result
					}
				}
				return deliver.Result{}
			}
			r := start(t, deliver.Options{Sink: s, Policy: test.policy})
			begun := time.Now()
			r.append(0, n, 50, paths(keys)...)
			r.flush(t)
			if took := time.Since(begun); took > test.within {
				t.Errorf("took %v", took)
			}
			if tries > test.most {
				t.Errorf("%d attempts with the event, want at most %d", tries, test.most)
			}
			got := s.got()
			if len(got) != n-1 || slices.Contains(got, bad) {
				t.Fatalf("%d events", len(got))
			}
			for i, v := range got {
				if test.policy.Order == deliver.None || v%keys != bad%keys {
					continue
				}
				for _, later := range got[:i] {
					if later%keys == v%keys && later > v {
						t.Fatalf("%d before %d", later, v)
					}
				}
			}
			letters, _ := r.store.List(t.Context(), 0, 10)
			if len(letters) != 1 || number(letters[0].Event) != bad {
				t.Fatalf("dead letters: %+v", letters)
			}
			l := letters[0]
			cause := deliver.CauseFailed
			if test.result.Outcome == deliver.Refused {
				cause = deliver.CauseRefused
			}
			if l.Cause != cause || l.Outcome != test.result.Outcome || l.Status != test.result.Status || l.Attempts != tries || l.First.IsZero() || l.Last.Before(l.First) {
				t.Errorf("dead letter %+v after %d attempts", l, tries)
			}
			st := r.Status()
			if st.Refused+st.Failed != 1 || st.Delivered != n-1 {
				t.Errorf("%+v", st)
			}
			if err := r.Health(); err == nil || !strings.Contains(err.Error(), "became dead letters (1 since the start") {
				t.Errorf("health: %v", err)
			}
			time.Sleep(11 * time.Minute)
			if err := r.Health(); err != nil {
				t.Errorf("health: %v", err)
			}
		})
	}
}

// TestOthersGoOn: while an event fails, those of other paths are delivered, and those of its
// own wait.
func TestOthersGoOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(sink)
		s.answer = func(_ context.Context, b *deliver.Batch) deliver.Result {
			if b.Items[0].Event.Path == "bad" {
				return deliver.Result{Outcome: deliver.Doubtful}
			}
			return deliver.Result{}
		}
		r := start(t, deliver.Options{Sink: s, Policy: deliver.Policy{MaxEvents: 1, Attempts: 1000}})
		r.append(0, 500, 5, "good", "bad")
		time.Sleep(time.Hour)
		if got := s.got(); len(got) != 250 {
			t.Errorf("%d delivered", len(got))
		}
		if st := r.Status(); st.Waiting != 250 {
			t.Errorf("%d wait", st.Waiting)
		}
		s.set(nil)
		r.flush(t)
		perPath(t, s.got(), 500, 2)
	})
}

// TestPanic: a sink that panics is one that fails.
func TestPanic(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(sink)
		n := 0
		s.answer = func(context.Context, *deliver.Batch) deliver.Result {
			if n++; n < 4 {
				panic("oh")
			}
			return deliver.Result{}
		}
		r := start(t, deliver.Options{Sink: s})
		r.append(0, 10, 10)
		r.flush(t)
		checkOrder(t, s.got(), 10)
		a := r.Attempts()
		if last := a[len(a)-1]; last.Outcome != deliver.Doubtful || last.Reason != "the sink panicked: oh" || last.Events != 10 || last.First != "0" || last.Type != "test/event" || last.Number != 1 {
			t.Errorf("%+v", last)
		}
	})
}

// TestReasons: what a sink says is made one line of bounded length.
func TestReasons(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(sink)
		s.answer = always(deliver.Result{Outcome: 77, Reason: "a\nb\x00\xffc" + strings.Repeat("ü", 1000)})
		r := start(t, deliver.Options{Sink: s})
		got := r.Test(t.Context(), testEvent(1, "p"))
		if got.Outcome != deliver.Doubtful || len(got.Reason) > deliver.MaxReasonBytes || !strings.HasPrefix(got.Reason, "a b ?cü") {
			t.Errorf("%+v", got)
		}
		if a := r.Attempts(); len(a) != 1 || !a[0].Test || a[0].Reason != got.Reason {
			t.Errorf("%+v", a)
		}
	})
}

// TestRate: in no time of the given length more is sent than allowed.
func TestRate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, deliver.Options{Policy: deliver.Policy{MaxEvents: 7, Rate: deliver.Rate{Events: 10, Per: time.Minute}}})
		begun := time.Now()
		r.append(0, 205, 50)
		r.flush(t)
		if took := time.Since(begun); took < 20*time.Minute || took > 21*time.Minute {
			t.Errorf("took %v", took)
		}
		checkOrder(t, r.sink.got(), 205)
		for i, c := range r.sink.history() {
			n := 0
			for _, other := range r.sink.history()[i:] {
				if other.at.Sub(c.at) < time.Minute {
					n += len(other.events)
				}
			}
			if n > 10 {
				t.Errorf("%d events in the minute from %v", n, c.at)
			}
		}
	})
}

// TestDelay: events wait for others, but not for longer than they should.
func TestDelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, deliver.Options{Policy: deliver.Policy{MaxEvents: 10, MaxDelay: time.Second, Concurrency: 3}})
		begun := time.Now()
		for i := range 12 {
			r.append(i, 1, 1)
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		calls := r.sink.history()
		if len(calls) != 2 || len(calls[0].events) != 10 || len(calls[1].events) != 2 {
			t.Fatalf("%v", calls)
		}
		if at := calls[0].at.Sub(begun); at != 450*time.Millisecond {
			t.Errorf("the first at %v", at)
		}
		if at := calls[1].at.Sub(begun); at != 1500*time.Millisecond {
			t.Errorf("the second at %v", at)
		}
	})
}

// TestBatchBytes: a batch is not much larger than it may be.
func TestBatchBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, deliver.Options{Policy: deliver.Policy{MaxBytes: 10_000}})
		var events []*event.Event
		for i := range 100 {
			e := testEvent(i, "p")
			e.Data = make([]byte, 3000)
			if i == 50 {
				e.Data = make([]byte, 50_000)
			}
			events = append(events, e)
		}
		r.journal.Append(events...)
		r.flush(t)
		checkOrder(t, r.sink.got(), 100)
		for _, c := range r.sink.history() {
			if len(c.events) > 3 || len(c.events) > 1 && slices.Contains(c.events, 50) {
				t.Errorf("a batch of %v", c.events)
			}
		}
	})
}

// TestMaxAge: what is too old becomes a dead letter, in a crowd, and is not sent.
func TestMaxAge(t *testing.T) {
	for _, order := range []deliver.Order{deliver.ByPath, deliver.All, deliver.None} {
		bubble(t, func(t *testing.T) {
			s := &sink{answer: down}
			calls := 0
			store := &delivermem.Store{Fail: func(_ context.Context, what string) error {
				if what == "add" {
					calls++
				}
				return nil
			}}
			r := start(t, deliver.Options{Sink: s, Store: store, Policy: deliver.Policy{Order: order, MaxAge: time.Hour}})
			r.append(0, 1000, 100)
			time.Sleep(2 * time.Hour)
			r.append(1000, 10, 10)
			s.set(nil)
			r.flush(t)
			got := s.got()
			if len(got) != 10 || got[0] != 1000 {
				t.Fatalf("delivered %v", got)
			}
			letters, _ := store.List(t.Context(), 0, 2000)
			if len(letters) != 1000 || letters[0].Cause != deliver.CauseFailed || !strings.HasPrefix(letters[0].Reason, "expired: it is 1h") || !strings.HasSuffix(letters[0].Reason, "the last attempt: connection refused") {
				t.Errorf("%d dead letters, %+v", len(letters), letters[0])
			}
			if calls > 50 {
				t.Errorf("they were set aside with %d calls", calls)
			}
			if st := r.Status(); st.Failed != 1000 || st.Expired != 1000 {
				t.Errorf("%+v", st)
			}
			// A replay is of old events, and sends them all the same.
			if _, err := r.Replay(t.Context(), letters[0].At, r.journal.End()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := s.got(); len(got) != 10+1009 {
				t.Errorf("%d delivered after the replay", len(got))
			}
		})
	}
}

// TestPoisonAfterOutage: an outage that looks as if it was because of an event is not held
// against it when others are delivered again.
func TestPoisonAfterOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := new(sink)
		failing := deliver.Result{Outcome: deliver.Doubtful, Status: 500, Reason: "500"}
		s.answer = always(failing)
		r := start(t, deliver.Options{Sink: s, Policy: deliver.Policy{MaxEvents: 1}})
		r.append(0, 2, 1, "a", "b")
		time.Sleep(3 * time.Hour)
		bad := 3 // it is not well yet
		s.set(func(_ context.Context, b *deliver.Batch) deliver.Result {
			if number(b.Items[0].Event) == 0 && bad > 0 {
				bad--
				return failing
			}
			return deliver.Result{}
		})
		r.append(2, 50, 1, "c")
		for i := range 20 {
			time.Sleep(time.Minute)
			r.append(52+i, 1, 1, "c")
		}
		r.flush(t)
		if letters, _ := r.store.List(t.Context(), 0, 10); len(letters) > 0 {
			t.Errorf("event %d became a dead letter after %d attempts", number(letters[0].Event), letters[0].Attempts)
		}
	})
}
