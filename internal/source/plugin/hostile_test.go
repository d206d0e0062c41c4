package plugin

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// A batch of very many small events comes in order and whole, its position is stored when all of
// it is durable, and the memory that it took does not stay.
func TestManySmallEvents(t *testing.T) {
	t.Parallel()
	const batches, size = 6, 100_000
	j := newJournal(t)
	f := newFake(func(ctx context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
		if n > batches {
			return idle(ctx)
		}
		for i := range size {
			b.Events = scapevent.Append(b.Events, 999, 1, binary.LittleEndian.AppendUint32(nil, uint32((n-1)*size+i)))
		}
		b.Count, b.Position = size, fmt.Append(nil, n)
		return nil
	})
	s, stop := start(t, config(), Deps{Launch: launches(f), Journal: j})
	eventually(t, "all events", func() bool { return s.Status().Events == batches*size })
	eventually(t, "the last position", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.acks) > 0 && f.acks[len(f.acks)-1] == fmt.Sprint(batches)
	})
	stop()
	ids := make(map[string]bool)
	for i, e := range events(t, j) {
		if got := binary.LittleEndian.Uint32(e.Data); got != uint32(i) || ids[e.ID] {
			t.Fatalf("event %d is %d, with the id %s", i, got, e.ID)
		}
		ids[e.ID] = true
	}
}

// What a run keeps to use again is bounded, whatever the plugin has given.
func TestKeptMemory(t *testing.T) {
	p := newPump(&run{})
	var all []*batch
	for range maxBatches {
		b := p.take(t.Context())
		b.batch.Events = make([]byte, 0, 4<<20)
		b.events = make([]event.Event, 0, 1000)
		all = append(all, b)
	}
	ended, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if p.take(ended) != nil {
		t.Error("more batches than allowed")
	}
	for _, b := range all {
		p.put(b)
	}
	if p.kept > keptBytes || len(p.idle) == 0 {
		t.Errorf("%d bytes in %d batches", p.kept, len(p.idle))
	}
	for range maxBatches {
		p.take(t.Context())
	}
	if p.kept != 0 {
		t.Errorf("%d bytes too much", p.kept)
	}
	p.abandon()
	if p.take(t.Context()) != nil {
		t.Error("a batch that nobody wants")
	}
}

// While the journal takes nothing, a plugin that floods is read up to a bound, and no further.
func TestFlood(t *testing.T) {
	j := &grudging{Journal: newJournal(t)}
	j.refusals.Store(math.MaxInt32)
	raw := bytes.Repeat(scapevent.Append(nil, 999, 1, make([]byte, 1000)), 4000)
	var mu sync.Mutex
	read := 0
	f := newFake(func(_ context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
		b.Events, b.Count = append(b.Events, raw...), 4000
		mu.Lock()
		defer mu.Unlock()
		read += len(raw)
		return nil
	})
	f.about.Capabilities.Resume = false
	s, stop := start(t, config(), Deps{Launch: launches(f), Journal: j})
	awaitState(t, s, Running)
	eventually(t, "refusals", func() bool { return j.refusals.Load() < math.MaxInt32-3 })
	mu.Lock()
	got := read
	mu.Unlock()
	if most := maxFlightBytes + 4*len(raw); got > most {
		t.Errorf("%d MiB were read, and nothing was durable", got>>20)
	}
	j.refusals.Store(0)
	eventually(t, "events", func() bool { return s.Status().Events > 20_000 })
	stop()
	if st := s.Status(); st.Starts != 1 {
		t.Errorf("%+v", st)
	}
}

// Times that nobody can have, and payloads that are none, are stored as they are.
func TestOddEvents(t *testing.T) {
	j := newJournal(t)
	f := newFake(func(ctx context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
		if n > 1 {
			return idle(ctx)
		}
		for _, nanos := range []uint64{0, 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64 - 1} {
			b.Events = scapevent.Append(b.Events, 999, nanos, []byte{0xff, 0})
			b.Count++
		}
		return nil
	})
	s, stop := start(t, config(), Deps{Launch: launches(f), Journal: j})
	eventually(t, "5 events", func() bool { return s.Status().Events == 5 })
	stop()
	last := time.Unix(0, math.MaxInt64)
	for i, e := range events(t, j) {
		want := []time.Time{time.Unix(0, 0), time.Unix(0, 1), last, last, last}[i]
		if !e.Time.Equal(want) || !bytes.Equal(e.Data, []byte{0xff, 0}) {
			t.Errorf("%d: %v %x", i, e.Time, e.Data)
		}
	}
}

// Positions without events are stored, and however many come, not more often than others.
func TestOnlyPositions(t *testing.T) {
	t.Parallel()
	f := newFake(func(_ context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
		b.Position = fmt.Append(nil, n)
		return nil
	})
	began := time.Now()
	s, stop := start(t, config(), Deps{Launch: launches(f), Journal: newJournal(t)})
	eventually(t, "three positions", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.acks) >= 3
	})
	stop()
	if most := 2 + int(time.Since(began)/saveInterval); len(f.acks) > most {
		t.Errorf("%d acknowledgements in %v", len(f.acks), time.Since(began))
	}
	if st := s.Status(); st.Starts != 1 || st.Saved.IsZero() {
		t.Errorf("%+v", st)
	}
}

// A start that fails slowly does not count as running, so the pauses grow.
func TestSlowFailures(t *testing.T) {
	t.Parallel()
	c := config()
	c.StartTimeout, c.SteadyAfter, c.MaxPause = 50*time.Millisecond, 10*time.Millisecond, time.Hour
	var incidents log
	s, _ := start(t, c, Deps{Journal: newJournal(t), Record: incidents.record, Launch: func(ctx context.Context) (sourceplugin.Plugin, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	eventually(t, "three failures", func() bool { return s.Status().Failures == 3 })
	if got := incidents.names(); got != "failed" {
		t.Error(got)
	}
}

// A plugin that owes an answer does not run well, however long it runs.
func TestNotWell(t *testing.T) {
	t.Parallel()
	c := config()
	c.SteadyAfter, c.CallTimeout = time.Second, 500*time.Millisecond
	var incidents log
	hang := func() *fake {
		f := newFake(once())
		f.metrics = func(ctx context.Context) ([]sourceplugin.Metric, error) { <-ctx.Done(); return nil, ctx.Err() }
		return f
	}
	s, _ := start(t, c, Deps{Launch: launches(hang(), hang(), hang(), newFake(once())), Journal: newJournal(t), Record: incidents.record})
	eventually(t, "health", func() bool { return s.Status().Starts == 4 && s.Health() == nil })
	eventually(t, "records", func() bool { return incidents.names() == "failed recovered" })
}

// What a plugin says about its failure is shown without the secrets that it was given.
func TestSecrets(t *testing.T) {
	const secret = "s3cr3t-token"
	var out bytes.Buffer
	var mu sync.Mutex
	var incidents log
	c := config()
	c.Secrets = []string{secret}
	c.Restart = Never
	f := newFake(func(_ context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
		if n == 1 {
			b.Dropped, b.DroppedReason = 1, "of "+secret
			return nil
		}
		return errors.New("401 with " + secret)
	})
	s, stop := start(t, c, Deps{Launch: launches(f), Journal: newJournal(t), Record: incidents.record, Logger: slog.New(slog.NewTextHandler(locked{&mu, &out}, nil))})
	awaitState(t, s, Failed)
	stop()
	if st := s.Status(); st.LastError != "its stream has failed: 401 with <secret>" || incidents.all[0].Reason != st.LastError {
		t.Errorf("%+v %+v", st, incidents.all)
	}
	if log := out.String(); strings.Contains(log, secret) || strings.Count(log, "<secret>") != 2 {
		t.Error(log)
	}
}

type locked struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (l locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(b)
}

// Whatever a plugin does just then, a source ends soon when it is to end, and the plugin is
// closed.
func TestStop(t *testing.T) {
	t.Parallel()
	deaf := make(chan struct{}) // to every context
	t.Cleanup(func() { close(deaf) })
	for name, tc := range map[string]struct {
		launch func(ctx context.Context, reached func()) error
		change func(f *fake, reached func())
		full   bool // the journal
		closed bool // the plugin is
	}{
		"launch": {launch: func(ctx context.Context, reached func()) error { reached(); <-ctx.Done(); return ctx.Err() }},
		"launch, deaf": {launch: func(_ context.Context, reached func()) error {
			reached()
			<-deaf
			return errors.New("ended")
		}},
		"between": {launch: func(_ context.Context, reached func()) error { reached(); return errors.New("not now") }},
		"open, deaf": {closed: true, change: func(f *fake, reached func()) {
			f.open = func(sourceplugin.Open) error { reached(); <-deaf; return nil }
		}},
		"next, deaf": {closed: true, change: func(f *fake, reached func()) {
			f.next = func(context.Context, *fake, int, *sourceplugin.Batch) error { reached(); <-deaf; return nil }
		}},
		"metrics, deaf": {closed: true, change: func(f *fake, reached func()) {
			f.metrics = func(context.Context) ([]sourceplugin.Metric, error) { reached(); <-deaf; return nil, nil }
		}},
		"acknowledge, deaf": {closed: true, change: func(f *fake, reached func()) {
			f.next = numbered(10, math.MaxInt32, "x")
			f.ack = func(context.Context) error { reached(); <-deaf; return nil }
		}},
		"close, deaf": {closed: true, change: func(f *fake, reached func()) {
			f.next = func(ctx context.Context, _ *fake, _ int, _ *sourceplugin.Batch) error { reached(); return idle(ctx) }
			f.close = func() { <-deaf }
		}},
		"flood": {closed: true, change: func(f *fake, reached func()) {
			next := numbered(1000, math.MaxInt32, "x")
			f.next = func(ctx context.Context, f *fake, n int, b *sourceplugin.Batch) error {
				if n == 20 {
					reached()
				}
				return next(ctx, f, n, b)
			}
		}},
		"full journal": {closed: true, full: true, change: func(f *fake, reached func()) {
			f.about.Capabilities.Resume = false
			f.next = func(_ context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
				reached()
				put(b, "x")
				return nil
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			there := make(chan struct{})
			reached := sync.OnceFunc(func() { close(there) })
			f := newFake(once("x"))
			if tc.change != nil {
				tc.change(f, reached)
			}
			c := config()
			c.StartTimeout, c.CallTimeout, c.MaxPause = time.Minute, time.Minute, time.Minute
			j := &grudging{Journal: newJournal(t)}
			if tc.full {
				j.refusals.Store(math.MaxInt32)
			}
			s, stop := start(t, c, Deps{Journal: j, Launch: func(ctx context.Context) (sourceplugin.Plugin, error) {
				if tc.launch != nil {
					return nil, tc.launch(ctx, reached)
				}
				return f, nil
			}})
			<-there
			began := time.Now()
			stop()
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("after %v", took)
			}
			if st := s.Status(); st.State != Stopped {
				t.Errorf("%+v", st)
			}
			if f.isClosed() != tc.closed {
				t.Errorf("closed: %v", !tc.closed)
			}
		})
	}
}

// A plugin that fails again and again, in the same way, does not fill the log; another failure is
// told.
func TestFailuresInLog(t *testing.T) {
	var out bytes.Buffer
	var mu sync.Mutex
	n := 0
	c := config()
	c.MaxPause = time.Millisecond
	s, stop := start(t, c, Deps{Journal: newJournal(t), Logger: slog.New(slog.NewTextHandler(locked{&mu, &out}, nil)), Launch: func(context.Context) (sourceplugin.Plugin, error) {
		if n++; n == 20 {
			return nil, errors.New("another")
		}
		return nil, errors.New("the same")
	}})
	eventually(t, "100 failures", func() bool { return s.Status().Failures >= 100 })
	stop()
	if log := out.String(); strings.Count(log, "another") != 1 || strings.Count(log, "the same") < 2 || strings.Count(log, "the same") > 30 {
		t.Error(log)
	}
}
