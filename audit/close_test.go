package audit

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// A sink that hangs does not keep Close much longer than its caller wants.
func TestCloseInTime(t *testing.T) {
	called := make(chan struct{}, 1)
	l, err := New(Options{Service: "shop", Outputs: []Output{To("own", sinkFunc(func(ctx context.Context, _ []Event) error {
		called <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))}})
	if err != nil {
		t.Fatal(err)
	}
	logEvent(t, l, "a")
	<-called
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err = l.Close(ctx)
	var left *RemainingError
	if !errors.As(err, &left) || left.Events != 1 || left.Kept || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("Close took %v", took)
	}
	for _, err := range []error{l.Flush(t.Context()), l.Reopen(), l.Health(), l.Log(t.Context(), Event{})} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// sinkFunc is a sink.
type sinkFunc func(ctx context.Context, events []Event) error

func (f sinkFunc) Send(ctx context.Context, events []Event) error { return f(ctx, events) }

// What was dropped is told to the sinks before Close returns, though the disk is full.
func TestCloseAfterDrop(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "disk": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			s := newMemorySink()
			size := int64(1 << 20)
			if dir != "" {
				size = 16 << 20
			}
			l, err := New(Options{Service: "shop", Dir: dir, MaxBytes: size, WhenFull: Drop, Redact: Redaction{Off: true}, Outputs: []Output{To("own", sinkFunc(func(ctx context.Context, events []Event) error {
				select {
				case <-release:
				case <-ctx.Done():
					return ctx.Err()
				}
				return s.Send(ctx, events)
			}))}})
			if err != nil {
				t.Fatal(err)
			}
			payload := strings.Repeat("x", 200_000)
			for l.Stats().Dropped < 3 {
				if err := l.Log(t.Context(), Event{Action: "a", Target: Target{Type: "b"}, Payload: payload}); err != nil {
					t.Fatal(err)
				}
			}
			close(release)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := l.Close(ctx); err != nil {
				t.Fatal(err)
			}
			var told uint64
			for _, e := range s.events {
				if e.Dropped != nil {
					told += e.Dropped.Events
				}
			}
			if st := l.Stats(); told != st.Dropped {
				t.Errorf("the sink was told of %d dropped events, and there were %d", told, st.Dropped)
			}
		})
	}
}

func TestRejectionsAreUnhealthy(t *testing.T) {
	l := newLogger(t, Options{MaxBytes: 1 << 20, WhenFull: Reject, Outputs: []Output{To("own", newMemorySink())}})
	if err := l.Pause(t.Context(), "own", "test"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Resume(t.Context(), "own"); err != nil {
			t.Error(err)
		}
	}()
	var err error
	for err == nil {
		err = l.Log(t.Context(), Event{Action: "a", Target: Target{Type: "b"}, Payload: strings.Repeat("x", 50_000)})
	}
	if !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	if err := l.Health(); err == nil || !strings.Contains(err.Error(), "rejected") {
		t.Errorf("the health is %v", err)
	}
}

// What somebody has sent to a service does not keep an event out of the trail.
func TestStrangePayload(t *testing.T) {
	s := newMemorySink()
	l := newLogger(t, Options{Outputs: []Output{To("own", s)}})
	var none *struct{ N int }
	for _, e := range []Event{
		{Payload: json.RawMessage("{broken \xff")},
		{Payload: json.RawMessage(strings.Repeat("[", 20_000))},
		{Payload: json.RawMessage(strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000))},
		{Payload: map[string]any{"body": json.RawMessage("{broken")}, After: 1},
		{Before: none, After: struct{ N int }{1}},
	} {
		e.Action, e.Target.Type = "create", "order"
		if err := l.Log(t.Context(), e); err != nil {
			t.Error(err)
		}
	}
	flush(t, l)
	if len(s.events) != 5 {
		t.Fatalf("%d events are in the trail", len(s.events))
	}
	text := func(v any) string { b, _ := v.(json.RawMessage); return string(b) }
	if got := text(s.events[0].Payload); got != `"{broken \ufffd"` {
		t.Errorf("broken JSON became %s", got)
	}
	for _, i := range []int{1, 2} {
		if got := text(s.events[i].Payload); len(got) < 20_002 {
			t.Errorf("nested JSON became %.20s", got)
		}
	}
	if e := s.events[3]; e.Payload != nil || len(e.Truncated) != 1 || e.Truncated[0].Path != "/payload" || text(e.After) != "1" {
		t.Errorf("%+v", e)
	}
	if e := s.events[4]; e.Before != nil || e.Changes != nil || text(e.After) != `{"N":1}` {
		t.Errorf("%+v", e)
	}
}
