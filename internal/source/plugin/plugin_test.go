package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// A stream becomes events, and its end is no failure.
func TestEvents(t *testing.T) {
	j := newJournal(t)
	var incidents log
	f := newFake(func(_ context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
		if n == 1 {
			put(b, `{"a":1}`, "text")
			return nil
		}
		put(b, "last") // with the end
		b.Events = scapevent.AppendAsync(b.Events, 999, scapevent.NoTime, "renewed", []byte("x"))
		b.Count++
		return io.EOF
	})
	before := time.Now()
	s, _ := start(t, config(), Deps{Launch: launches(f), Journal: j, Record: incidents.record})
	awaitState(t, s, Ended)
	all := events(t, j)
	if len(all) != 4 {
		t.Fatalf("%d events", len(all))
	}
	if e := all[0]; e.Type != "falco/fakes" || e.Source != "plugin://test" || e.Path != "falco/fakes/test" || string(e.Data) != `{"a":1}` ||
		e.DataContentType != "application/json" || e.Time.UnixNano() != 1_700_000_000_000_000_000 {
		t.Errorf("%+v", e)
	}
	if e := all[3]; e.Type != "falco/fakes/renewed" || e.Time.Before(before.Add(-time.Second)) || e.Time.After(time.Now().Add(time.Second)) {
		t.Errorf("%+v", e)
	}
	ids := make(map[string]bool)
	for _, e := range all {
		ids[e.ID] = true
	}
	if st := s.Status(); len(ids) != 4 || st.Events != 4 || st.Plugin != "fake" || st.Version != "1.2.3" || st.ID != 999 || st.LastError != "" || s.Health() != nil {
		t.Errorf("%v %+v %v", ids, st, s.Health())
	}
	if got := incidents.names(); got != "ended" {
		t.Error(got)
	}
	if f.opened[0].Params != "params" || f.opened[0].Resume != nil || !f.closed {
		t.Errorf("%+v", f.opened)
	}
	if _, ok := s.Plugin(); ok {
		t.Error("it still runs")
	}
}

// What was stored is where it goes on, what is repeated behind has the same ids whatever the
// batches are, and what was stored is acknowledged.
func TestResume(t *testing.T) {
	j := newJournal(t)
	give := func(size int, positionAt int) *fake {
		return newFake(func(ctx context.Context, f *fake, n int, b *sourceplugin.Batch) error {
			from := (n-1)*size + 1
			if resume := f.opened[len(f.opened)-1].Resume; resume != nil {
				if string(resume) != "4" {
					t.Errorf("resumed at %q", resume)
				}
				from += 4
			}
			if from > 12 {
				return idle(ctx)
			}
			for i := from; i < from+size; i++ {
				put(b, fmt.Sprint(i))
			}
			if from+size-1 == positionAt {
				b.Position = fmt.Append(nil, positionAt)
			}
			return nil
		})
	}
	first := give(2, 4)
	s, stop := start(t, config(), Deps{Launch: launches(first), Journal: j})
	eventually(t, "12 events", func() bool { return s.Status().Events == 12 })
	stop()
	if got := strings.Join(first.acks, " "); got != "4" {
		t.Errorf("acknowledged: %s", got)
	}
	second := give(4, 0)
	s, stop = start(t, config(), Deps{Launch: launches(second), Journal: j})
	eventually(t, "8 more", func() bool { return s.Status().Events == 8 })
	stop()
	all := events(t, j)
	byPayload := make(map[string]string)
	for _, e := range all {
		if id, ok := byPayload[string(e.Data)]; ok && id != e.ID {
			t.Errorf("%s came again with another id", e.Data)
		}
		byPayload[string(e.Data)] = e.ID
	}
	if len(all) != 20 || len(byPayload) != 12 {
		t.Errorf("%d events, %d different", len(all), len(byPayload))
	}

	// Positions of another plugin are none.
	other := newFake(once("x"))
	other.about.Name = "other"
	s, stop = start(t, config(), Deps{Launch: launches(other), Journal: j})
	eventually(t, "an event", func() bool { return s.Status().Events == 1 })
	stop()
	if other.opened[0].Resume != nil {
		t.Errorf("%q", other.opened[0].Resume)
	}
}

// Another payload at the same place is another event.
func TestIDsDependOnPayload(t *testing.T) {
	j := newJournal(t)
	for _, payload := range []string{"a", "b", "a"} {
		s, stop := start(t, config(), Deps{Launch: launches(newFake(once(payload))), Journal: j})
		eventually(t, "an event", func() bool { return s.Status().Events == 1 })
		stop()
	}
	all := events(t, j)
	if len(all) != 3 || all[0].ID == all[1].ID || all[0].ID != all[2].ID {
		t.Errorf("%v", all)
	}
}

// However a plugin fails, that is told, it is started again, and then its events come.
func TestFailures(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	bad := func(change func(*fake)) *fake {
		f := newFake(once())
		change(f)
		return f
	}
	next := func(fn func(ctx context.Context, b *sourceplugin.Batch) error) *fake {
		return newFake(func(ctx context.Context, _ *fake, _ int, b *sourceplugin.Batch) error { return fn(ctx, b) })
	}
	for name, tc := range map[string]struct {
		plugin *fake
		kind   Kind
		want   string
	}{
		"open": {bad(func(f *fake) { f.open = func(sourceplugin.Open) error { return errors.New(secret + "\nbad params") } }), NotStarted, "its stream cannot be opened: " + secret + " bad params"},
		"open hangs": {bad(func(f *fake) {
			c := make(chan struct{})
			f.open = func(sourceplugin.Open) error { <-c; return errors.New("ended") }
			f.close = func() { close(c) }
		}), Hanging, "its stream cannot be opened: it has taken more than 2s"},
		"next": {next(func(context.Context, *sourceplugin.Batch) error { return errors.New(secret) }), Broken, "its stream has failed: " + secret},
		"next hangs": {bad(func(f *fake) {
			c := make(chan struct{})
			f.next = func(context.Context, *fake, int, *sourceplugin.Batch) error { <-c; return errors.New("killed") }
			f.close = func() { close(c) }
		}), Hanging, "it has not answered for"},
		"metrics hang": {bad(func(f *fake) {
			f.metrics = func(ctx context.Context) ([]sourceplugin.Metric, error) { <-ctx.Done(); return nil, ctx.Err() }
		}), Hanging, "it has not answered for 2s when it was asked for its metrics"},
		"progress hangs": {bad(func(f *fake) {
			f.tell = func(ctx context.Context) (sourceplugin.Progress, error) {
				<-ctx.Done()
				return sourceplugin.Progress{}, ctx.Err()
			}
		}), Hanging, "it has not answered for 2s when it was asked for its progress"},
		"acknowledge hangs": {bad(func(f *fake) {
			f.next = func(ctx context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
				if n == 1 {
					b.Position = []byte("1")
					return nil
				}
				return idle(ctx)
			}
			f.ack = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		}), Hanging, "it has not answered for 2s when it was told what is durable"},
		"exits": {bad(func(f *fake) {
			f.exit = make(chan struct{})
			close(f.exit)
			f.next = func(context.Context, *fake, int, *sourceplugin.Batch) error { return errors.New("connection lost") }
		}), Broken, "its stream has failed: connection lost"},
		"malformed": {next(func(_ context.Context, b *sourceplugin.Batch) error {
			b.Events, b.Count = []byte(secret), 1
			return nil
		}), Lying, "event 1 of a batch: malformed event: 7 bytes are less than a header"},
		"count": {next(func(_ context.Context, b *sourceplugin.Batch) error {
			b.Count = 1
			return nil
		}), Lying, "a batch has 0 events, but says that there are 1"},
		"foreign, asynchronous": {next(func(_ context.Context, b *sourceplugin.Batch) error {
			b.Events, b.Count = scapevent.AppendAsync(nil, 998, 1, "x", nil), 1
			return nil
		}), Lying, "event 1 of a batch has the plugin id 998, that of the plugin is 999"},
		"foreign": {next(func(_ context.Context, b *sourceplugin.Batch) error {
			b.Events, b.Count = scapevent.Append(nil, 998, 1, nil), 1
			return nil
		}), Lying, "event 1 of a batch has the plugin id 998, that of the plugin is 999"},
		"position": {next(func(_ context.Context, b *sourceplugin.Batch) error {
			b.Position = make([]byte, maxPositionBytes+1)
			return nil
		}), Lying, "a resume position has 65537 bytes, which is more than 65536"},
		"flood": {next(func(_ context.Context, b *sourceplugin.Batch) error {
			b.Events, b.Count = make([]byte, 90<<20), 1
			return nil
		}), Lying, "a batch has 94371840 bytes, which is more than 88080384"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var incidents log
			j := newJournal(t)
			c := config()
			s, _ := start(t, c, Deps{Launch: launches(tc.plugin, newFake(once("good"))), Journal: j, Record: incidents.record})
			eventually(t, "a failure", func() bool { return s.Status().LastError != "" })
			if st := s.Status(); st.LastErrorKind != tc.kind || !strings.HasPrefix(st.LastError, tc.want) {
				t.Errorf("%s: %q", st.LastErrorKind, st.LastError)
			}
			if err := s.Health(); err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("health: %v", err)
			}
			eventually(t, "an event", func() bool { return s.Status().Events == 1 })
			eventually(t, "health", func() bool { return s.Health() == nil })
			eventually(t, "records", func() bool { return incidents.names() == "failed recovered" })
			if i := incidents.all[0]; i.Kind != tc.kind || i.Name != "test" || i.Failures != 1 {
				t.Errorf("%+v", i)
			}
			if !tc.plugin.closed {
				t.Error("it was not closed")
			}
		})
	}
}

// A launch that fails, or hangs, is repeated; one that is late is closed.
func TestLaunch(t *testing.T) {
	t.Parallel()
	j := newJournal(t)
	late := newFake(once())
	var n atomic.Int32
	c := config()
	c.StartTimeout = 200 * time.Millisecond
	s, _ := start(t, c, Deps{Journal: j, Launch: func(context.Context) (sourceplugin.Plugin, error) {
		switch n.Add(1) {
		case 1:
			return nil, errors.New("no such file")
		case 2:
			time.Sleep(c.StartTimeout + grace + 100*time.Millisecond) // deaf to the context
			return late, nil
		}
		return newFake(once("good")), nil
	}})
	eventually(t, "a failure", func() bool { return s.Status().LastErrorKind == NotStarted })
	eventually(t, "a timeout", func() bool { return s.Status().LastErrorKind == Hanging })
	eventually(t, "an event", func() bool { return s.Status().Events == 1 })
	late.mu.Lock()
	defer late.mu.Unlock()
	if st := s.Status(); !late.closed || st.Starts != 3 {
		t.Errorf("closed: %v, starts: %d", late.closed, st.Starts)
	}
}

// A plugin that cannot be ended is not started a second time beside itself.
func TestStuck(t *testing.T) {
	t.Parallel()
	j := newJournal(t)
	release := make(chan struct{})
	bad := newFake(func(context.Context, *fake, int, *sourceplugin.Batch) error { <-release; return io.EOF })
	c := config()
	c.CallTimeout, c.StopTimeout = 100*time.Millisecond, 100*time.Millisecond
	s, _ := start(t, c, Deps{Launch: launches(bad, newFake(once("good"))), Journal: j})
	awaitState(t, s, Stuck)
	if st := s.Status(); st.Starts != 1 || s.Health() == nil {
		t.Errorf("%+v", st)
	}
	close(release)
	eventually(t, "an event", func() bool { return s.Status().Events == 1 })
}

func TestPolicies(t *testing.T) {
	for _, tc := range []struct {
		restart Restart
		err     error
		want    State // "" when it is started again
	}{
		{Always, io.EOF, ""}, {Always, errors.New("x"), ""}, {OnFailure, io.EOF, Ended}, {OnFailure, errors.New("x"), ""}, {Never, io.EOF, Ended}, {Never, errors.New("x"), Failed},
	} {
		t.Run(fmt.Sprint(tc.restart, tc.err), func(t *testing.T) {
			t.Parallel()
			f := newFake(func(context.Context, *fake, int, *sourceplugin.Batch) error { return tc.err })
			c := config()
			c.Restart = tc.restart
			s, _ := start(t, c, Deps{Launch: launches(f), Journal: newJournal(t)})
			if tc.want == "" {
				eventually(t, "three starts", func() bool { return s.Status().Starts >= 3 })
				return
			}
			awaitState(t, s, tc.want)
			if st := s.Status(); st.Starts != 1 || (s.Health() == nil) != (tc.want == Ended) {
				t.Errorf("%+v %v", st, s.Health())
			}
		})
	}
}

func TestRefused(t *testing.T) {
	with := func(change func(*sourceplugin.Description)) *fake {
		f := newFake(once("x"))
		change(&f.about)
		return f
	}
	for name, tc := range map[string]struct {
		plugin  *fake
		extract bool
		want    string
	}{
		"no stream":   {with(func(d *sourceplugin.Description) { d.Capabilities = sourceplugin.Capabilities{Extract: true} }), false, `the plugin "fake" opens no stream; set extract_only: true to have it extract fields only`},
		"no fields":   {with(func(*sourceplugin.Description) {}), true, `the plugin "fake" extracts no fields, but extract_only is true`},
		"no source":   {with(func(d *sourceplugin.Description) { d.EventSource = "" }), false, `the plugin "fake" does not say what its events are about (its event source is empty)`},
		"long source": {with(func(d *sourceplugin.Description) { d.EventSource = strings.Repeat("é", 100) }), false, `events of the plugin "fake" cannot be stored: type: 606 is more than the limit of 256 bytes`},
		"no id":       {with(func(d *sourceplugin.Description) { d.ID = 0 }), false, `the plugin "fake" has the id 0 and the event source "fakes"; it must have both or neither`},
		"another id":  {with(func(d *sourceplugin.Description) { d.ID = 7 }), false, `the plugin "fake" has the id 7, and so has the plugin "seventh": each plugin needs an id of its own; that one is already the plugin of the source "first", so remove one of the two from plugins.sources`},
	} {
		t.Run(name, func(t *testing.T) {
			claims := new(Claims)
			claims.take("first", &sourceplugin.Description{Name: "seventh", ID: 7, EventSource: "sevens"})
			c := config()
			c.ExtractOnly, c.Restart = tc.extract, Always
			s, _ := start(t, c, Deps{Launch: launches(tc.plugin), Journal: newJournal(t), Claims: claims})
			awaitState(t, s, Failed)
			if st := s.Status(); st.LastErrorKind != Refused || st.LastError != tc.want || st.Starts != 1 || s.Health() == nil {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A plugin that extracts only runs, can be asked, and is started again when its process ends.
func TestExtractOnly(t *testing.T) {
	make := func() *fake {
		f := newFake(nil)
		f.about = sourceplugin.Description{Name: "json", Version: "1.0.0", Capabilities: sourceplugin.Capabilities{Extract: true}}
		f.exit = make(chan struct{})
		return f
	}
	first, second := make(), make()
	c := config()
	c.ExtractOnly = true
	s, _ := start(t, c, Deps{Launch: launches(first, second), Journal: newJournal(t)})
	awaitState(t, s, Running)
	if p, ok := s.Plugin(); !ok || p != sourceplugin.Plugin(first) {
		t.Error(p)
	}
	close(first.exit)
	eventually(t, "the second", func() bool { p, _ := s.Plugin(); return p == sourceplugin.Plugin(second) })
}

// A plugin that extracts fields does so when its stream has ended, too. That is not opened again,
// whatever becomes of the plugin.
func TestExtractsAfterTheEnd(t *testing.T) {
	make := func() *fake {
		f := newFake(func(_ context.Context, _ *fake, _ int, b *sourceplugin.Batch) error {
			put(b, "one")
			return io.EOF
		})
		f.about.Capabilities.Extract = true
		f.exit = make(chan struct{})
		return f
	}
	first, second, third := make(), make(), make()
	j := newJournal(t)
	c := config()
	c.Restart = OnFailure
	s, _ := start(t, c, Deps{Launch: launches(first, second, third), Journal: j})
	runs := func(f *fake) func() bool {
		return func() bool {
			p, _ := s.Plugin()
			return p == sourceplugin.Plugin(f) && s.Status().State == Ended
		}
	}
	eventually(t, "the second", runs(second))
	if !first.closed {
		t.Error("the first goes on")
	}
	close(second.exit)
	eventually(t, "the third", runs(third))
	if n := len(first.opened) + len(second.opened) + len(third.opened); n != 1 || len(events(t, j)) != 1 {
		t.Errorf("%d streams, %d events", n, len(events(t, j)))
	}
}

// One whose stream is opened again and again extracts fields between two streams, too.
func TestExtractsBetweenStreams(t *testing.T) {
	ended := make(chan struct{})
	var begun time.Time
	f := newFake(func(context.Context, *fake, int, *sourceplugin.Batch) error {
		begun = time.Now()
		close(ended)
		return io.EOF
	})
	f.about.Capabilities.Extract = true
	next := newFake(func(ctx context.Context, _ *fake, _ int, _ *sourceplugin.Batch) error { <-ctx.Done(); return ctx.Err() })
	c := config()
	c.Restart, c.MaxPause = Always, 2*time.Second
	s, _ := start(t, c, Deps{Launch: launches(f, next), Journal: newJournal(t)})
	<-ended
	eventually(t, "the next stream", func() bool { p, _ := s.Plugin(); return p == sourceplugin.Plugin(next) })
	f.mu.Lock()
	defer f.mu.Unlock()
	if after := f.closedAt.Sub(begun); after < firstPause/4 {
		t.Errorf("it was closed %s after its stream had ended", after)
	}
}

// Large events are dropped and counted, or kept beside the journal.
func TestLarge(t *testing.T) {
	t.Parallel()
	j := newJournal(t)
	big := strings.Repeat("x", 2<<20) // more than the journal takes
	c := config()
	c.MaxEvent = 3 << 20
	give := func(ctx context.Context, _ *fake, n int, b *sourceplugin.Batch) error {
		if n > 1 {
			return idle(ctx)
		}
		put(b, "small", big, big+big, "small too")
		b.Dropped, b.DroppedReason = 2, "too large for the wire"
		return nil
	}
	var kept []byte
	s, stop := start(t, c, Deps{Launch: launches(newFake(give)), Journal: j, Keep: func(_ context.Context, data []byte) (string, error) {
		if kept == nil {
			kept = bytes.Clone(data)
			return "", errors.New("not yet")
		}
		return "/api/v1/payloads/x", nil
	}})
	eventually(t, "3 events", func() bool { return s.Status().Events == 3 })
	stop()
	if st := s.Status(); st.Dropped != 3 || string(kept) != big {
		t.Errorf("%+v, %d bytes kept", st, len(kept))
	}
	all := events(t, j)
	if e := all[1]; e.DataRef != "/api/v1/payloads/x" || len(e.Data) != 0 {
		t.Errorf("%+v", e)
	}
	if size, _ := all[1].Metadata.Text("size"); size != "2097152" {
		t.Error(size)
	}
	if _, ok := all[2].Metadata.Text("size"); ok || string(all[2].Data) != "small too" {
		t.Errorf("%+v", all[2])
	}
	c.Name = "nowhere"
	s, _ = start(t, c, Deps{Launch: launches(newFake(give)), Journal: j})
	eventually(t, "2 events", func() bool { return s.Status().Events == 2 })
	if st := s.Status(); st.Dropped != 4 {
		t.Errorf("%+v", st)
	}
}

// grudging is a journal that refuses at first.
type grudging struct {
	*journal.Journal
	refusals atomic.Int32
}

func (g *grudging) Submit(ctx context.Context, events ...*event.Event) (*journal.Receipt, error) {
	if g.refusals.Add(-1) >= 0 {
		return nil, &journal.PushbackError{Reason: "not now", RetryAfter: time.Millisecond}
	}
	return g.Journal.Submit(ctx, events...)
}

func (g *grudging) State(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	if g.refusals.Load() > 0 {
		return nil, errors.New("not now")
	}
	return g.Journal.State(ctx, bucket)
}

// While the journal does not accept events the plugin waits, and each event comes once.
func TestPushback(t *testing.T) {
	t.Parallel()
	j := &grudging{Journal: newJournal(t)}
	give, refusing := numbered(1000, 20_000, "x"), make(chan struct{})
	f := newFake(func(ctx context.Context, f *fake, n int, b *sourceplugin.Batch) error {
		if n == 5 {
			<-refusing
		}
		return give(ctx, f, n, b)
	})
	s, _ := start(t, config(), Deps{Launch: launches(f), Journal: j})
	eventually(t, "4,000 events", func() bool { return s.Status().Events == 4000 })
	j.refusals.Store(5)
	close(refusing)
	awaitState(t, s, Ended)
	seen := make(map[string]bool)
	for _, e := range events(t, j.Journal) {
		if seen[e.ID] {
			t.Fatal("twice:", string(e.Data))
		}
		seen[e.ID] = true
	}
	if len(seen) != 20_000 || j.refusals.Load() >= 0 {
		t.Errorf("%d events, %d refusals left", len(seen), j.refusals.Load())
	}
	if st := s.Status(); st.Starts != 1 {
		t.Errorf("%+v", st)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.acks); n == 0 || f.acks[n-1] != "\x00\x00\x00\x00\x00\x00\x4e\x20" {
		t.Errorf("acknowledged: %q", f.acks)
	}
}

// A plugin that says at once, again and again, that it has nothing costs little.
func TestEmptyBatches(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	f := newFake(func(context.Context, *fake, int, *sourceplugin.Batch) error { calls.Add(1); return nil })
	s, stop := start(t, config(), Deps{Launch: launches(f), Journal: newJournal(t)})
	awaitState(t, s, Running)
	before := time.Now()
	eventually(t, "some calls", func() bool { return calls.Load() > 10 })
	time.Sleep(200 * time.Millisecond) // the time is what is measured
	stop()
	if took := time.Since(before); calls.Load() > 100+took.Milliseconds() {
		t.Errorf("%d calls in %v", calls.Load(), took)
	}
}

func TestMetrics(t *testing.T) {
	f := newFake(once("x"))
	f.progress = sourceplugin.Progress{Fraction: 7, Text: "almost\x1b[31m\nthere"}
	f.metrics = func(context.Context) ([]sourceplugin.Metric, error) {
		all := []sourceplugin.Metric{{Name: "queue.len", Value: 3}, {Name: "queue.len", Value: 4, Monotonic: true}, {Name: "seen\xff\n", Value: 5, Monotonic: true}, {Name: ""}}
		for i := range 1000 {
			all = append(all, sourceplugin.Metric{Name: fmt.Sprint("n", i)})
		}
		return all, nil
	}
	s, _ := start(t, config(), Deps{Launch: launches(f), Journal: newJournal(t)})
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(s.Collector())
	eventually(t, "progress", func() bool { return s.Status().Progress != nil })
	if p := s.Status().Progress; p.Fraction != 1 || p.Text != "almost\uFFFD[31m there" {
		t.Errorf("%+v", p)
	}
	want := `
# HELP tocsin_plugin_metric_total What a plugin tells of itself: numbers that only rise.
# TYPE tocsin_plugin_metric_total counter
tocsin_plugin_metric_total{metric="seen` + "\uFFFD" + `",source="test"} 5
# HELP tocsin_plugin_source_progress_ratio How far the stream of a plugin is, from 0 to 1, if it tells.
# TYPE tocsin_plugin_source_progress_ratio gauge
tocsin_plugin_source_progress_ratio{source="test"} 1
# HELP tocsin_plugin_source_up 1 while the plugin of a source runs.
# TYPE tocsin_plugin_source_up gauge
tocsin_plugin_source_up{source="test"} 1
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "tocsin_plugin_metric_total", "tocsin_plugin_source_up", "tocsin_plugin_source_progress_ratio"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(r, "tocsin_plugin_metric", "tocsin_plugin_metric_total"); n != maxMetrics || err != nil {
		t.Error(n, err)
	}
}

func TestPause(t *testing.T) {
	s := New(Config{Name: "x", MaxPause: time.Minute}, Deps{Logger: slog.New(slog.DiscardHandler)})
	for failures, want := range map[int]time.Duration{1: 200 * time.Millisecond, 2: 400 * time.Millisecond, 5: 3200 * time.Millisecond, 20: time.Minute, 1000: time.Minute} {
		for range 100 {
			if got := s.pause(failures); got < want/2 || got > want {
				t.Fatalf("%d: %v", failures, got)
			}
		}
	}
}

// FuzzConvert: whatever a plugin gives, what comes out is what the journal takes.
func FuzzConvert(f *testing.F) {
	f.Add(scapevent.Append(nil, 999, 2, []byte("{}")), 1, []byte("p"))
	f.Add(scapevent.AppendAsync(scapevent.Append(nil, 999, 2, nil), 1, 5, "a b", []byte("{}")), 2, []byte{})
	f.Add(scapevent.Append(nil, 3, 2, []byte("{}")), 1, []byte(nil))
	f.Add(bytes.Repeat(scapevent.Append(nil, 999, 2, nil), 2*partEvents+1), 2*partEvents+1, []byte("p"))
	s := New(config(), Deps{Journal: unitSize(4 << 20), Logger: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, in []byte, count int, position []byte) {
		plugin := newFake(nil)
		r := &run{Source: s, plugin: plugin, about: &plugin.about, place: place{Stream: "s"}}
		var b batch
		b.batch.Events, b.batch.Count, b.batch.Position = in, count, position
		var parts []batch
		err := r.convert(t.Context(), &b, func(b *batch) bool {
			var first batch
			b.giveEvents(&first)
			parts = append(parts, first)
			return true
		})
		if err != nil && b.position != nil {
			t.Error("a position behind a lie")
		}
		all := 0
		for _, b := range append(parts, b) {
			n, bytes := 0, 0
			for _, u := range b.units {
				if u.from != n || u.to <= u.from {
					t.Fatalf("%+v", b.units)
				}
				n = u.to
			}
			if n != len(b.pointers) || n != len(b.events) || n > partEvents {
				t.Fatalf("%d of %d events are in units", n, len(b.events))
			}
			for i, e := range b.pointers {
				if err := event.DefaultLimits.Check(e); err != nil {
					t.Error(err)
				}
				if want := journal.StoredBytes(e); b.sizes[i] != want {
					t.Errorf("an event of %d bytes is taken for %d", want, b.sizes[i])
				}
				bytes += b.sizes[i]
			}
			if b.bytes != bytes {
				t.Errorf("%d bytes instead of %d", b.bytes, bytes)
			}
			all += n
		}
		if err == nil && all != count {
			t.Errorf("%d of %d events", all, count)
		}
	})
}

type unitSize int

func (u unitSize) MaxUnitBytes() int { return int(u) }
func (unitSize) Submit(context.Context, ...*event.Event) (*journal.Receipt, error) {
	return nil, journal.ErrClosed
}
func (unitSize) State(context.Context, string) (jetstream.KeyValue, error) {
	return nil, journal.ErrClosed
}
