package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if killChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

// memorySink keeps what it is sent.
type memorySink struct {
	mu     sync.Mutex
	answer func([]Event) error // nil: everything is taken
	events []Event
	calls  int
	closed int
	more   chan struct{}
}

func newMemorySink() *memorySink { return &memorySink{more: make(chan struct{}, 1)} }

func (s *memorySink) Send(ctx context.Context, events []Event) error {
	s.mu.Lock()
	s.calls++
	answer := s.answer
	s.mu.Unlock()
	var err error
	if answer != nil {
		err = answer(events)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var said *SendError
	switch {
	case errors.As(err, &said) && said.Events != nil:
		bad := make(map[int]bool)
		for _, i := range said.Events {
			bad[i] = true
		}
		for i, e := range events {
			if !bad[i] {
				s.events = append(s.events, e)
			}
		}
	case err == nil:
		s.events = append(s.events, events...)
	}
	select {
	case s.more <- struct{}{}:
	default:
	}
	return err
}

func (s *memorySink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

func (s *memorySink) set(answer func([]Event) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *memorySink) ids() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		ids = append(ids, e.ID)
	}
	return ids
}

// quick are outputs that try again soon.
func quick(name string, s Sink) Output {
	o := To(name, s)
	o.FirstRetry, o.MaxRetry = time.Millisecond, 5*time.Millisecond
	return o
}

func newLogger(t testing.TB, o Options) *Logger {
	t.Helper()
	if o.Service == "" {
		o.Service = "shop"
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_ = l.Close(ctx)
	})
	return l
}

func logEvent(t testing.TB, l *Logger, id string) {
	t.Helper()
	if err := l.Log(t.Context(), Event{ID: id, Action: "create", Target: Target{Type: "order", ID: "7"}}); err != nil {
		t.Fatal(err)
	}
}

func flush(t testing.TB, l *Logger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// until waits for something to become true.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not become true: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}

// inBoth runs a test with a queue in memory and on disk.
func inBoth(t *testing.T, f func(t *testing.T, dir string)) {
	t.Run("memory", func(t *testing.T) { f(t, "") })
	t.Run("disk", func(t *testing.T) { f(t, t.TempDir()) })
}

func TestLogger(t *testing.T) {
	inBoth(t, func(t *testing.T, dir string) {
		s := newMemorySink()
		l := newLogger(t, Options{Dir: dir, Outputs: []Output{quick("own", s)}})
		ctx := WithActor(t.Context(), Actor{ID: "u1", Name: "Ada", Roles: []string{"admin"}})
		ctx = WithRequest(ctx, Request{ID: "r1", Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Tracestate: "a=b"})
		at := time.Date(2026, 3, 1, 13, 0, 0, 123456789, time.FixedZone("", 3600))
		meta := map[string]string{"plan": "gold", "password": "correct horse"}
		if err := l.Log(ctx, Event{
			Time: at, Action: "update", Target: Target{Type: "order", ID: "7", Name: "seven", Namespace: "team-a"}, Reason: "asked for",
			Actor:  Actor{ID: "u1", Name: "Ada L.", IP: "192.0.2.1"},
			Before: map[string]any{"n": 1, "old": true, "secret": "hunter22"}, After: map[string]any{"n": 2, "new": []int{1}, "secret": "hunter23"},
			Metadata: meta, Payload: json.RawMessage(`{ "a" : 1 }`),
		}); err != nil {
			t.Fatal(err)
		}
		meta["plan"] = "changed"
		logEvent(t, l, "second")
		flush(t, l)
		if len(s.events) != 2 {
			t.Fatalf("%d events", len(s.events))
		}
		e := s.events[0]
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		want := `{"version":"1","sequence":1,"id":"` + e.ID + `","time":"2026-03-01T12:00:00.123456789Z","service":"shop","action":"update","outcome":"success","reason":"asked for",` +
			`"target":{"type":"order","id":"7","name":"seven","namespace":"team-a"},"actor":{"id":"u1","name":"Ada L.","ip":"192.0.2.1","roles":["admin"]},` +
			`"request_id":"r1","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","tracestate":"a=b","metadata":{"password":"\u003cmasked:secret-name\u003e","plan":"gold"},` +
			`"changes":{"added":["/new"],"removed":["/old"],"changed":["/n","/secret"]},"before":{"n":1,"old":true,"secret":"\u003cmasked:secret-name\u003e"},` +
			`"after":{"n":2,"new":[1],"secret":"\u003cmasked:secret-name\u003e"},"payload":{"a":1}}`
		if string(text) != want {
			t.Errorf("got\n%s\nwant\n%s", text, want)
		}
		if second := s.events[1]; second.ID != "second" || second.Sequence != 2 || second.Time.IsZero() || second.Time.Location() != time.UTC || second.Outcome != Success {
			t.Errorf("%+v", second)
		}
		st := l.Stats()
		if st.Logged != 2 || st.Sinks[0].Delivered != 2 || st.Sinks[0].Condition != "running" || st.Sinks[0].Name != "own" {
			t.Errorf("%+v", st)
		}
		if err := l.Health(); err != nil {
			t.Error(err)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := l.Close(t.Context()); err != nil || s.closed != 1 {
			t.Error(err, s.closed)
		}
		if err := l.Log(t.Context(), Event{}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if err := l.Health(); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestInvalidEvents(t *testing.T) {
	s := newMemorySink()
	l := newLogger(t, Options{Oversize: Refuse, Outputs: []Output{quick("own", s)}})
	good := Event{Action: "create", Target: Target{Type: "order"}}
	for _, c := range []struct {
		change func(*Event)
		want   string
	}{
		{func(e *Event) { e.Action = "" }, "no Action"},
		{func(e *Event) { e.Target.Type = "" }, "no Target.Type"},
		{func(e *Event) { e.Action = "a b" }, "letters"},
		{func(e *Event) { e.Target.Type = strings.Repeat("x", 65) }, "letters"},
		{func(e *Event) { e.Outcome = "ok" }, "Outcome"},
		{func(e *Event) { e.ID = "a b" }, "ID"},
		{func(e *Event) { e.Time = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) }, "year"},
		{func(e *Event) { e.Payload = make(chan int) }, "Payload"},
		{func(e *Event) { e.Before = math.NaN() }, "Before"},
	} {
		e := good
		c.change(&e)
		if err := l.Log(t.Context(), e); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", e, err, c.want)
		}
	}
	if st := l.Stats(); st.Invalid != 9 || st.Logged != 0 {
		t.Errorf("%+v", st)
	}
}

func TestOptions(t *testing.T) {
	s := newMemorySink()
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "Service"},
		{Options{Service: "a/b"}, "Service"},
		{Options{Service: "a"}, "Outputs"},
		{Options{Service: "a", Outputs: []Output{{Name: "x"}}}, "make it"},
		{Options{Service: "a", Outputs: []Output{To("X", s)}}, "name"},
		{Options{Service: "a", Outputs: []Output{To("x", nil)}}, "nil"},
		{Options{Service: "a", Outputs: []Output{To("x", s), To("x", s)}}, "two sinks"},
		{Options{Service: "a", Outputs: []Output{To("x", s).Only(Filter{Pairs: []string{"a"}})}}, "pair"},
		{Options{Service: "a", Outputs: []Output{To("x", s).Only(Filter{Outcomes: []Outcome{"good"}})}}, "outcome"},
		{Options{Service: "a", Outputs: []Output{To("x", s)}, MaxEventBytes: 1}, "MaxEventBytes"},
		{Options{Service: "a", Outputs: []Output{To("x", s)}, MaxBytes: 1}, "MaxBytes"},
		{Options{Service: "a", Outputs: []Output{To("x", s)}, WhenFull: 9}, "WhenFull"},
		{Options{Service: "a", Outputs: []Output{To("x", s)}, Oversize: 9}, "Oversize"},
		{Options{Service: "a", Outputs: []Output{To("x", s)}, Source: "a b\x00"}, "Source"},
		{Options{Service: "a", Outputs: []Output{To("x", s)}, Redact: Redaction{Names: []string{""}}}, "redact"},
	} {
		if l, err := New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			if l != nil {
				_ = l.Close(t.Context())
			}
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
}

// A sink that is down delays no other, and gets everything when it is back, in order.
func TestDeadSink(t *testing.T) {
	inBoth(t, func(t *testing.T, dir string) {
		dead, alive := newMemorySink(), newMemorySink()
		dead.set(func([]Event) error { return errors.New("down") })
		l := newLogger(t, Options{Dir: dir, Outputs: []Output{quick("dead", dead), quick("alive", alive)}})
		var want []string
		for i := range 500 {
			id := fmt.Sprint("e", i)
			want = append(want, id)
			logEvent(t, l, id)
		}
		until(t, "the live sink has all", func() bool { return len(alive.ids()) == 500 })
		if n := len(dead.ids()); n != 0 {
			t.Fatalf("the dead one has %d", n)
		}
		if st := l.Stats(); st.Queue.Waiting != 500 {
			t.Errorf("%+v", st.Queue)
		}
		dead.set(nil)
		flush(t, l)
		for _, s := range []*memorySink{dead, alive} {
			if got := s.ids(); strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("%d events, or another order", len(got))
			}
		}
		for i, e := range dead.events {
			if e.Sequence != uint64(i+1) {
				t.Fatalf("event %d has the sequence %d", i, e.Sequence)
			}
		}
	})
}

// What is not delivered when the logger ends is told, and delivered by the next one.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	down := newMemorySink()
	down.set(func([]Event) error { return errors.New("down") })
	closeSoon := func(l *Logger) error {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("hurry"))
		defer cancel()
		return l.Close(ctx)
	}
	for round := range 3 {
		l := newLogger(t, Options{Dir: dir, Outputs: []Output{quick("own", down)}})
		if _, err := New(Options{Service: "x", Dir: dir, Outputs: []Output{quick("own", down)}}); !errors.Is(err, ErrLocked) {
			t.Fatalf("a second logger: %v", err)
		}
		logEvent(t, l, fmt.Sprint("e", round))
		var remaining *RemainingError
		if err := closeSoon(l); !errors.As(err, &remaining) || remaining.Events != uint64(round+1) || !remaining.Kept || !strings.Contains(err.Error(), "hurry") {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	up := newMemorySink()
	l := newLogger(t, Options{Dir: dir, Outputs: []Output{quick("own", up), quick("new", up)}})
	logEvent(t, l, "e3")
	flush(t, l)
	if got := up.ids(); len(got) != 8 {
		t.Errorf("two sinks have %v", got)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Nothing is sent again.
	again := newMemorySink()
	l = newLogger(t, Options{Dir: dir, Outputs: []Output{quick("own", again)}})
	logEvent(t, l, "e4")
	flush(t, l)
	if got := again.ids(); len(got) != 1 || again.events[0].Sequence != 5 {
		t.Errorf("got %v", again.events)
	}

	memory := newLogger(t, Options{Outputs: []Output{quick("own", down)}})
	logEvent(t, memory, "x")
	var remaining *RemainingError
	if err := closeSoon(memory); !errors.As(err, &remaining) || remaining.Events != 1 || remaining.Kept || !strings.Contains(err.Error(), "lost") {
		t.Error(err)
	}
}

func TestDeadLetters(t *testing.T) {
	inBoth(t, func(t *testing.T, dir string) {
		s := newMemorySink()
		s.set(func(events []Event) error {
			var bad []int
			for i, e := range events {
				if strings.HasPrefix(e.ID, "bad") {
					bad = append(bad, i)
				}
			}
			if bad == nil {
				return nil
			}
			return &SendError{Err: errors.New("we want no AKIAABCDEFGHIJKLMNOP"), Refused: true, Events: bad}
		})
		l := newLogger(t, Options{Dir: dir, Outputs: []Output{quick("own", s)}})
		for _, id := range []string{"a", "bad1", "b", "bad2", "c", "bad3"} {
			logEvent(t, l, id)
		}
		flush(t, l)
		if got := strings.Join(s.ids(), " "); got != "a b c" {
			t.Errorf("delivered %s", got)
		}
		list, err := l.DeadLetters(t.Context(), "own", 0, 2)
		if err != nil || len(list) != 2 || list[0].Event.ID != "bad1" || list[0].Event.Sequence != 2 || list[0].Cause != "refused" || list[0].Attempts != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		if strings.Contains(list[0].Reason, "AKIA") || list[0].Reason == "" {
			t.Errorf("the reason is %q", list[0].Reason)
		}
		if st := l.Stats(); st.Sinks[0].DeadLetters != 3 || st.Queue.Waiting > 0 && dir == "" {
			t.Errorf("%+v", st)
		}
		s.set(nil)
		if n, err := l.Redrive(t.Context(), "own", list[0].ID); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		until(t, "bad1 is delivered", func() bool { return strings.Contains(strings.Join(s.ids(), " "), "bad1") })
		if n, err := l.Redrive(t.Context(), "own"); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		until(t, "no dead letter is left", func() bool {
			list, err := l.DeadLetters(t.Context(), "own", 0, 10)
			return err == nil && len(list) == 0
		})
		s.set(func([]Event) error { return &SendError{Refused: true} })
		logEvent(t, l, "d")
		flush(t, l)
		if n, err := l.Purge(t.Context(), "own", math.MaxUint64); n != 1 || err != nil {
			t.Error(n, err)
		}
		for _, err := range []error{l.Pause(t.Context(), "x", ""), l.Resume(t.Context(), "x")} {
			if !errors.Is(err, ErrNoSink) {
				t.Error(err)
			}
		}
		if _, err := l.DeadLetters(t.Context(), "x", 0, 1); !errors.Is(err, ErrNoSink) {
			t.Error(err)
		}
	})
}

func TestPause(t *testing.T) {
	dir := t.TempDir()
	s := newMemorySink()
	l := newLogger(t, Options{Dir: dir, Outputs: []Output{quick("own", s)}})
	if err := l.Pause(t.Context(), "own", "lunch"); err != nil {
		t.Fatal(err)
	}
	logEvent(t, l, "a")
	flush(t, l)
	if st := l.Stats().Sinks[0]; st.Condition != "paused" || st.Reason != "lunch" || len(s.ids()) != 0 {
		t.Errorf("%+v", st)
	}
	_ = l.Close(t.Context())
	l = newLogger(t, Options{Dir: dir, Outputs: []Output{quick("own", s)}})
	until(t, "it is paused after a restart", func() bool { return l.Stats().Sinks[0].Condition == "paused" })
	if err := l.Resume(t.Context(), "own"); err != nil {
		t.Fatal(err)
	}
	flush(t, l)
	if got := s.ids(); len(got) != 1 {
		t.Error(got)
	}
}

func TestFilter(t *testing.T) {
	pairs, outcomes, match, broken := newMemorySink(), newMemorySink(), newMemorySink(), newMemorySink()
	l := newLogger(t, Options{Outputs: []Output{
		quick("pairs", pairs).Only(Filter{Pairs: []string{"order:delete", "user:*", "*:login"}}),
		quick("outcomes", outcomes).Only(Filter{Outcomes: []Outcome{Denied, Error}}),
		quick("match", match).Only(Filter{Match: func(e *Event) bool { return e.Actor.ID == "ada" }}),
		quick("broken", broken).Only(Filter{Match: func(*Event) bool { panic("x") }}),
	}})
	for _, e := range []Event{
		{ID: "1", Action: "delete", Target: Target{Type: "order"}, Actor: Actor{ID: "ada"}},
		{ID: "2", Action: "create", Target: Target{Type: "order"}, Outcome: Denied},
		{ID: "3", Action: "create", Target: Target{Type: "user"}, Outcome: Failure},
		{ID: "4", Action: "login", Target: Target{Type: "session"}, Outcome: Error},
	} {
		if err := l.Log(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, l)
	for want, s := range map[string]*memorySink{"1 3 4": pairs, "2 4": outcomes, "1": match, "1 2 3 4": broken} {
		if got := strings.Join(s.ids(), " "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestSelfTest(t *testing.T) {
	good, bad, panics := newMemorySink(), newMemorySink(), newMemorySink()
	bad.set(func([]Event) error { return errors.New("no room") })
	panics.set(func([]Event) error { panic("x") })
	l := newLogger(t, Options{Outputs: []Output{quick("good", good).Only(Filter{Pairs: []string{"a:b"}}), quick("bad", bad), quick("panics", panics)}})
	err := l.Test(t.Context())
	if err == nil || !strings.Contains(err.Error(), "sink bad: doubtful: no room") || !strings.Contains(err.Error(), "sink panics") || strings.Contains(err.Error(), "good") {
		t.Error(err)
	}
	if e := good.events[0]; e.Type() != "shop/audit-trail/test" || e.Sequence != 0 {
		t.Errorf("%+v", e)
	}
	if st := l.Stats(); st.Logged != 0 {
		t.Errorf("%+v", st)
	}
}

// With Drop, an event tells how many are missing, where they are missing.
func TestDrop(t *testing.T) {
	s := newMemorySink()
	s.set(func([]Event) error { return errors.New("down") })
	l := newLogger(t, Options{Outputs: []Output{quick("own", s)}, WhenFull: Drop, MaxBytes: 1 << 20, MaxEventBytes: 16 << 10})
	payload := strings.Repeat("x", 8000)
	for l.Stats().Dropped < 50 {
		if err := l.Log(t.Context(), Event{Action: "a", Target: Target{Type: "t"}, Payload: payload}); err != nil {
			t.Fatal(err)
		}
	}
	st := l.Stats()
	if err := l.Health(); err == nil || !strings.Contains(err.Error(), "50 events were dropped") {
		t.Errorf("health: %v", err)
	}
	s.set(nil)
	flush(t, l)
	logEvent(t, l, "after")
	flush(t, l)
	n := len(s.events)
	e := s.events[n-2]
	if e.Dropped == nil || e.Dropped.Events != st.Dropped || e.Type() != "shop/audit-trail/dropped" || e.Outcome != Error || e.Sequence != uint64(n-1) || s.events[n-1].ID != "after" {
		t.Errorf("%+v", e)
	}
	if n != int(st.Logged)+2 {
		t.Errorf("%d events, %d were logged", n, st.Logged)
	}
}

func TestReject(t *testing.T) {
	s := newMemorySink()
	s.set(func([]Event) error { return errors.New("down") })
	l := newLogger(t, Options{Outputs: []Output{quick("own", s)}, WhenFull: Reject, MaxBytes: 1 << 20})
	var err error
	for err == nil {
		err = l.Log(t.Context(), Event{Action: "a", Target: Target{Type: "t"}, Payload: strings.Repeat("x", 8000)})
	}
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "own") {
		t.Error(err)
	}
	s.set(nil)
	flush(t, l)
	logEvent(t, l, "x")
}

// A context that has ended does not keep an event out of the trail.
func TestEndedContext(t *testing.T) {
	inBoth(t, func(t *testing.T, dir string) {
		s := newMemorySink()
		l := newLogger(t, Options{Dir: dir, Outputs: []Output{quick("own", s)}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Log(ctx, Event{Action: "a", Target: Target{Type: "t"}}); err != nil {
			t.Error(err)
		}
		flush(t, l)
		if len(s.events) != 1 {
			t.Error("it is not there")
		}
	})
}

func TestLogValue(t *testing.T) {
	var b strings.Builder
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	log.Info("x", "event", Event{
		ID: "1", Service: "s", Action: "a", Target: Target{Type: "t", ID: "7"}, Actor: Actor{Name: "Ada", Roles: []string{"r"}}, Payload: "not shown", Reason: "why",
	})
	if want := "level=INFO msg=x event.id=1 event.service=s event.action=a event.outcome=success event.reason=why event.target.type=t event.target.id=7 event.actor.name=Ada event.actor.roles=[r]\n"; b.String() != want {
		t.Errorf("got  %swant %s", b.String(), want)
	}
}

func discardLog() *stdlog.Logger { return stdlog.New(io.Discard, "", 0) }

// Whatever is logged while the logger ends is delivered, told as remaining, or refused.
func TestCloseWhileLogging(t *testing.T) {
	inBoth(t, func(t *testing.T, dir string) {
		for round := range 5 {
			s := newMemorySink()
			if round%2 == 1 {
				s.set(func([]Event) error { return errors.New("down") })
			}
			sub := dir
			if dir != "" {
				sub = fmt.Sprint(dir, "/", round)
			}
			l := newLogger(t, Options{Dir: sub, Outputs: []Output{quick("own", s)}})
			var group sync.WaitGroup
			var logged atomic.Uint64
			for range 4 {
				group.Go(func() {
					for {
						err := l.Log(t.Context(), Event{Action: "a", Target: Target{Type: "t"}})
						if errors.Is(err, ErrClosed) {
							return
						}
						if err != nil {
							t.Error(err)
							return
						}
						logged.Add(1)
					}
				})
			}
			until(t, "something is logged", func() bool { return logged.Load() > 20 })
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			err := l.Close(ctx)
			cancel()
			group.Wait()
			left := uint64(0)
			var remaining *RemainingError
			if errors.As(err, &remaining) {
				left = remaining.Events
			} else if err != nil {
				t.Error(err)
			}
			if got := uint64(len(s.ids())); got+left != logged.Load() {
				t.Errorf("%d were logged, %d delivered, %d remain", logged.Load(), got, left)
			}
		}
	})
}
