//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func TestInit(t *testing.T) {
	for config, want := range map[string]string{
		"":           "",
		"tables":     "",
		"init-null":  "it says that it worked, but it returned NULL",
		"init-fail":  "plugin testbed: cannot be initialised: told to fail",
		"init-lost":  "it returned failure and does not say why",
		"long-error": strings.Repeat("e", 1024),
		"a\x00b":     "NUL",
	} {
		p, err := load(t).Init(t.Context(), config, slog.New(slog.DiscardHandler))
		wantError(t, err, want)
		if err == nil {
			err = p.Close(t.Context())
			wantError(t, err, "")
		}
	}
}

func TestInitChecksConfig(t *testing.T) {
	l := load(t, `-DSCHEMA="{\"properties\":{\"port\":{\"type\":\"integer\"}}}"`)
	// The plugin would refuse it, too, but is not asked.
	_, err := l.Init(t.Context(), `{"port":"init-fail"}`, slog.New(slog.DiscardHandler))
	wantError(t, err, "plugin testbed: the config does not fit the schema of the plugin: /port must be integer, is string")
}

// What the plugin does with each code, and with events that cannot be.
func TestStream(t *testing.T) {
	p := start(t, "")
	for params, want := range map[string]struct {
		events int
		err    string
	}{
		"count;count=10":                      {10, "EOF"},
		"count;count=0":                       {0, "EOF"},
		"count;count=1000;batch=7;size=0":     {1000, "EOF"},
		"count;count=70000;batch=1;size=100":  {70000, "EOF"},
		"later;count=10":                      {10, "EOF"},
		"fail-at-end;count=10":                {10, "plugin testbed: plugin_next_batch: broke at the end"},
		"fail":                                {0, "plugin testbed: plugin_next_batch: the stream broke"},
		"silent-fail":                         {0, "plugin_next_batch returned failure and does not say why"},
		"unsupported":                         {0, "plugin_next_batch returned not supported"},
		"unknown":                             {0, "plugin_next_batch returned the unknown code 42"},
		"zero":                                {0, "it says that it worked, but gave no event"},
		"null-list":                           {0, "says that there are 3 events, but gave NULL"},
		"many":                                {0, "4294967295 events in a batch"},
		"null-event":                          {2, "event 3 of 4: it is NULL"},
		"foreign-id":                          {2, "event 3 of 4: it has the plugin id 12 instead of 1073742001"},
		"bad-type":                            {2, "type 402 with 2 parameters"},
		"bad-nparams":                         {2, "type 322 with 3 parameters"},
		"bad-length":                          {2, "malformed event"},
		"bad-param":                           {2, "malformed event"},
		"tiny":                                {2, "5 bytes are no event"},
		"count;count=3;size=20971520;batch=1": {3, "EOF"},
		"no-id;count=3":                       {3, "EOF"},
		"no-time;count=3":                     {3, "EOF"},
		"zero-time;count=3":                   {3, "EOF"},
	} {
		t.Run(params, func(t *testing.T) {
			before := uint64(time.Now().Add(-time.Millisecond).UnixNano())
			g := read(t, p, params, 0)
			wantError(t, g.err, want.err)
			if len(g.events) != want.events || g.dropped != 0 {
				t.Fatalf("%d events, %d dropped", len(g.events), g.dropped)
			}
			for i, e := range g.events {
				if e.PluginID() != 1073742001 || e.Thread() != scapevent.NoThread || e.Type() != scapevent.Plugin {
					t.Fatalf("%x", e[:scapevent.PayloadOffset])
				}
				if data := e.Data(); len(data) > 0 && (data[0] != byte('a'+i%26) || data[len(data)-1] != data[0]) {
					t.Fatalf("event %d begins with %q", i, data[0])
				}
				switch nanos := e.Nanos(); {
				case strings.HasPrefix(params, "no-time"):
					if nanos < before || nanos%1000 != 0 || nanos > uint64(time.Now().UnixNano()) {
						t.Fatalf("time %d", nanos)
					}
				case strings.HasPrefix(params, "zero-time"):
					if nanos != 0 {
						t.Fatalf("time %d", nanos)
					}
				case nanos != uint64(i+1):
					t.Fatalf("event %d has the time %d", i, nanos)
				}
			}
		})
	}
}

func TestLimitDrops(t *testing.T) {
	p := start(t, "")
	g := read(t, p, "count;count=10;size=2000", 1024)
	wantEOF(t, g.err)
	if g.dropped != 10 || len(g.events) != 0 || g.reason != "an event of 2038 bytes is larger than 1024" {
		t.Errorf("%d dropped, %d events, %s", g.dropped, len(g.events), g.reason)
	}
	g = read(t, p, "foreign-id;count=10;size=2000", 2038)
	if g.dropped != 0 || len(g.events) != 2 {
		t.Errorf("%d dropped, %d events", g.dropped, len(g.events))
	}
}

func TestOpenFails(t *testing.T) {
	p := start(t, "")
	_, err := p.Open(t.Context(), sourceplugin.Open{Params: "open-fail"})
	wantError(t, err, "plugin testbed: cannot be opened: plugin_open: no such stream")
	_, err = p.Open(t.Context(), sourceplugin.Open{Params: "a\x00"})
	wantError(t, err, "NUL")
	if g := read(t, p, "count", 0); len(g.events) != 10 {
		t.Errorf("%d events after that", len(g.events))
	}
}

// Several streams, params and states at once.
func TestManyStreams(t *testing.T) {
	p := start(t, "")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			want := 100 * (i + 1)
			s, err := p.Open(t.Context(), sourceplugin.Open{Params: fmt.Sprintf("count;count=%d;batch=%d", want, i+1)})
			if err != nil {
				t.Error(err)
				return
			}
			g := readAll(t, s, 0)
			if len(g.events) != want {
				t.Errorf("%d events instead of %d", len(g.events), want)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			var b sourceplugin.Batch
			if err := s.Next(t.Context(), &b); !errors.Is(err, errClosed) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.streams) != 0 || len(p.idle) != 1 {
		t.Errorf("%d streams and %d states are left", len(p.streams), len(p.idle))
	}
}

// A plugin that never waits is not called all the time.
func TestTimeoutDoesNotSpin(t *testing.T) {
	p := start(t, "")
	s := open(t, p, sourceplugin.Open{Params: "idle"})
	var b sourceplugin.Batch
	for range 3 {
		if err := s.Next(t.Context(), &b); err != nil || b.Count != 0 {
			t.Fatal(b.Count, err)
		}
	}
	metrics, err := p.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if calls := metrics[0].Value; calls < 2 || calls > 100 {
		t.Errorf("%v calls in 0.3 s", calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Next(ctx, &b); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCloseEndsNext(t *testing.T) {
	p := start(t, "")
	s := open(t, p, sourceplugin.Open{Params: "block"})
	done := make(chan error)
	go func() {
		var b sourceplugin.Batch
		var err error
		for err == nil {
			err = s.Next(context.Background(), &b)
		}
		done <- err
	}()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

func TestOpenParams(t *testing.T) {
	p := start(t, "")
	params, err := p.OpenParams(t.Context())
	if err != nil || len(params) != 2 || params[0] != (sourceplugin.OpenParam{Value: "count;count=5", Description: "five events"}) || params[1].Separator != "," {
		t.Errorf("%+v %v", params, err)
	}
	for config, want := range map[string]string{"params-fail": "no params today", "params-bad": "param 0 has no value", "params-nonsense": "plugin_list_open_params: a list of params is expected", "params-null": ""} {
		_, err := start(t, config).OpenParams(t.Context())
		wantError(t, err, want)
	}
}

// Metrics and a progress that make no sense are errors, or nothing.
func TestWildNumbers(t *testing.T) {
	for config, want := range map[string]string{
		"metrics-null":     "plugin testbed: plugin_get_metrics returned NULL and says that there are 7",
		"metrics-many":     "plugin testbed: plugin_get_metrics: 4294967295 metrics are more than 4096",
		"metrics-nameless": "plugin testbed: plugin_get_metrics: metric 1 has no name",
	} {
		_, err := start(t, config).Metrics(t.Context())
		wantError(t, err, want)
	}
	s := open(t, start(t, ""), sourceplugin.Open{Params: "progress-wild"})
	if p, err := s.Progress(t.Context()); err != nil || p.Fraction != 1 || p.Text != "" {
		t.Errorf("%+v %v", p, err)
	}
}

func TestProgressMetricsConfig(t *testing.T) {
	p := start(t, "")
	s := open(t, p, sourceplugin.Open{Params: "stay;count=8"})
	if g := readAll(t, s, 8); g.err != nil {
		t.Fatal(g.err)
	}
	progress, err := s.Progress(t.Context())
	if err != nil || progress.Fraction != 1 || progress.Text != "8 of 8" {
		t.Errorf("%+v %v", progress, err)
	}
	metrics, err := p.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []sourceplugin.Metric{{Name: "calls", Monotonic: true}, {Name: "level", Value: -3}, {Name: "ratio", Value: 1.5}, {Name: "small", Value: 2.5}, {Name: "small.count", Monotonic: true, Value: 5}, {Name: "large.level", Value: -5e9}, {Name: "int", Value: -7}} {
		if i == 0 {
			want.Value = metrics[0].Value
			if want.Value < 2 {
				t.Errorf("%v calls", want.Value)
			}
		}
		if metrics[i] != want {
			t.Errorf("%+v", metrics[i])
		}
	}
	wantError(t, p.SetConfig(t.Context(), "refuse"), "plugin testbed: the config is refused: plugin_set_config: this config is refused")
	if err := p.SetConfig(t.Context(), "params-fail"); err != nil {
		t.Error(err)
	}
	_, err = p.OpenParams(t.Context())
	wantError(t, err, "no params today")
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.Progress(t.Context()); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

func TestLog(t *testing.T) {
	var out lockedBuffer
	l := load(t)
	p, err := l.Init(t.Context(), "log", slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	for _, want := range []string{"level=WARN msg=\"a warning \uFFFD\" component=part", `level=DEBUG msg="a detail"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s lacks %s", out.String(), want)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Asynchronous events come from a thread of the plugin, in order, into the open stream.
func TestAsync(t *testing.T) {
	var out lockedBuffer
	l := load(t, "-DASYNC")
	pl, err := l.Init(t.Context(), "ticks=50000;bad-name", slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	p := pl.(*Plugin)
	for range 2 { // the handler is taken away and given again
		s := open(t, p, sourceplugin.Open{Params: "stay;count=100;batch=3"})
		g := readAll(t, s, 50000-1+100)
		if g.err != nil || len(g.events) != 50000-1+100 {
			t.Fatal(len(g.events), g.err)
		}
		next, plain := uint32(0), uint64(0)
		for _, e := range g.events {
			if e.Type() == scapevent.Plugin {
				if plain++; e.Nanos() != plain {
					t.Fatalf("time %d instead of %d", e.Nanos(), plain)
				}
				continue
			}
			if next == 2 {
				next++ // it was refused
			}
			name := []string{"tick", "tock"}[next%2]
			if e.Name() != name || uint32(e.Data()[0])|uint32(e.Data()[1])<<8 != next || e.PluginID() != 1073742001 || e.Nanos() == scapevent.NoTime || e.Thread() != scapevent.NoThread {
				t.Fatalf("event %d: %s %x", next, e.Name(), e)
			}
			next++
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(out.String(), "not among those of plugin_get_async_events") {
		t.Error(out.String())
	}
	// With a full stream nobody reads, the plugin's thread waits. Close does not.
	s := open(t, p, sourceplugin.Open{Params: "idle"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for full := false; !full; runtime.Gosched() {
		st := s.(*Stream)
		st.mu.Lock()
		full = len(st.events) >= pendingBytes
		st.mu.Unlock()
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	l := load(t)
	p, err := l.Init(t.Context(), "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: "block"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	var b sourceplugin.Batch
	for name, err := range map[string]error{
		"Next":      s.Next(t.Context(), &b),
		"SetConfig": p.SetConfig(t.Context(), ""),
	} {
		if !errors.Is(err, errClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := p.Open(t.Context(), sourceplugin.Open{}); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if _, err := p.Strings(t.Context(), nil); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

// A batch of many large events takes no more memory than what is read ahead and one event.
func TestBatchIsBounded(t *testing.T) {
	p := start(t, "")
	s := open(t, p, sourceplugin.Open{Params: "count;count=20;size=1000000;batch=20"})
	var b sourceplugin.Batch
	var err error
	n := 0
	for err == nil {
		err = s.Next(t.Context(), &b)
		if n += b.Count; len(b.Events) > pendingBytes+1_000_100 {
			t.Fatalf("%d bytes at once", len(b.Events))
		}
	}
	wantEOF(t, err)
	if n != 20 {
		t.Errorf("%d events", n)
	}
	// Nobody reads the next one. It can be closed nevertheless.
	s2 := open(t, p, sourceplugin.Open{Params: "count;count=20;size=1000000;batch=20"})
	if err := s2.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whoever asks while the plugin is closed gets an answer or errClosed, and the library is never
// called with what is destroyed.
func TestCloseWhileAsked(t *testing.T) {
	l := load(t)
	for range 20 {
		p, err := l.Init(t.Context(), "", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		begun := make(chan struct{}, 100)
		for _, ask := range []func() error{
			func() error { _, err := p.Metrics(t.Context()); return err },
			func() error { _, err := p.OpenParams(t.Context()); return err },
			func() error { return p.SetConfig(t.Context(), "x") },
			func() error {
				_, err := p.Extract(t.Context(), []sourceplugin.Event{event("a", 1)}, []sourceplugin.FieldRequest{{Index: 1}})
				return err
			},
		} {
			wg.Go(func() {
				for i := 0; ; i++ {
					if err := ask(); err != nil {
						if !errors.Is(err, errClosed) {
							t.Error(err)
						}
						return
					}
					if i == 5 {
						begun <- struct{}{}
					}
				}
			})
		}
		for range 4 {
			<-begun
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

// FuzzEvents: what the loader takes is what scapevent takes, and else nothing is taken.
func FuzzEvents(f *testing.F) {
	f.Add(scapevent.Append(nil, 5, 1, []byte("data")))
	f.Add(scapevent.Append(nil, 0, scapevent.NoTime, nil))
	f.Add(scapevent.AppendAsync(nil, 5, 1, "tick", []byte("data")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := loadLibc(); err != nil || len(data) < scapevent.HeaderSize {
			t.Skip()
		}
		l := &Library{asyncNames: map[string]bool{"tick": true}}
		l.description.ID = 5
		p := &Plugin{library: l}
		s := &Stream{plugin: p, limit: 1 << 20, ready: make(chan struct{}, 1), enough: make(chan struct{}, 1)}
		s.asyncs.L = &s.mu
		// The memory is that large whatever the header says, and no library can be checked for that.
		m := newMemory(1<<20 + 100)
		defer m.free()
		length := copy(view(m.addr, m.size), data)
		put32(m.addr+16, uint32(length))
		e, _, err := scapevent.Next(view(m.addr, uintptr(length)))
		good := err == nil && e.Type() == scapevent.Plugin && (e.PluginID() == 5 || e.PluginID() == 0)
		if err := s.takeEvent(m.addr, 1); (err == nil) != good || (s.count == 1) != good || (len(s.events) > 0) != good {
			t.Errorf("%x: %v", data, err)
		}
		if good {
			if got, rest, err := scapevent.Next(s.events); err != nil || len(rest) > 0 || !bytes.Equal(got.Data(), e.Data()) || got.PluginID() != 5 || got.Nanos() == scapevent.NoTime {
				t.Errorf("%x became %x", e, got)
			}
		}
		s.events, s.count = nil, 0
		st := &state{plugin: p}
		st.stream.Store(s)
		good = err == nil && e.Type() == scapevent.Async && e.Name() == "tick"
		if problem := st.takeAsync(m.addr); (problem == "") != good || (s.count == 1) != good {
			t.Errorf("%x: %s", data, problem)
		}
	})
}
