//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// What ends the process, or never returns, happens in a process of its own.
func TestDangerous(t *testing.T) {
	short := func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(context.Background(), 300*time.Millisecond)
	}
	for name, tc := range map[string]struct {
		crash bool
		run   func(t *testing.T)
	}{
		"crash in init": {true, func(t *testing.T) {
			_, _ = load(t).Init(context.Background(), "init-crash", slog.New(slog.DiscardHandler))
		}},
		"crash in next_batch": {true, func(t *testing.T) {
			readAll(t, open(t, start(t, ""), sourceplugin.Open{Params: "crash"}), 0)
		}},
		"panic in Go": {true, func(t *testing.T) {
			l, err := Load(buildGo(t))
			if err != nil {
				t.Fatal(err)
			}
			_ = initPlugin(t, l, "").SetConfig(t.Context(), "")
		}},
		"hang in init": {false, func(t *testing.T) {
			l := load(t) // which takes a while
			ctx, cancel := short()
			defer cancel()
			_, err := l.Init(ctx, "init-hang", slog.New(slog.DiscardHandler))
			wantError(t, err, "plugin testbed: plugin_init has not returned: context deadline exceeded")
		}},
		"hang in next_batch": {false, func(t *testing.T) {
			p, err := load(t).Init(context.Background(), "", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			s := open(t, p.(*Plugin), sourceplugin.Open{Params: "hang"})
			ctx, cancel := short()
			defer cancel()
			var b sourceplugin.Batch
			for err == nil {
				err = s.Next(ctx, &b)
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			// Other streams and fields of the plugin are not held up.
			if g := read(t, p.(*Plugin), "count", 0); len(g.events) != 10 {
				t.Errorf("%d events", len(g.events))
			}
			v, err := p.Extract(t.Context(), []sourceplugin.Event{event("abc", 1)}, []sourceplugin.FieldRequest{{Index: 1}})
			if err != nil || string(v.Bytes) != "abc" {
				t.Error(err)
			}
			closing, cancel2 := short()
			defer cancel2()
			_, err = s.Progress(closing)
			wantError(t, err, "another call has not returned")
			ending, cancel3 := short()
			defer cancel3()
			wantError(t, p.Close(ending), "plugin testbed: plugin_next_batch has not returned")
		}},
		"hang in close": {false, func(t *testing.T) {
			p, err := load(t).Init(context.Background(), "", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			s := open(t, p.(*Plugin), sourceplugin.Open{Params: "close-hang"})
			readAll(t, s, 0)
			ctx, cancel := short()
			defer cancel()
			wantError(t, s.Close(ctx), "plugin testbed: plugin_close has not returned")
		}},
		"hang in destroy": {false, func(t *testing.T) {
			p, err := load(t).Init(context.Background(), "destroy-hang", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := short()
			defer cancel()
			wantError(t, p.Close(ctx), "plugin testbed: plugin_destroy has not returned")
		}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			child, out, err := inChild(t)
			switch {
			case child:
				tc.run(t)
			case tc.crash && err == nil, tc.crash && !strings.Contains(out, "goroutine "):
				t.Errorf("it did not crash: %v\n%s", err, out)
			case !tc.crash && (err != nil || !strings.Contains(out, "--- PASS: "+t.Name())):
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

const soakVariable = "TOCSIN_FALCOPLUGIN_SOAK"

// TestSoak has a library of C and two of Go in one process, with streams and extractions at
// once, while garbage is collected all the time. TOCSIN_FALCOPLUGIN_SOAK=5m makes it longer.
func TestSoak(t *testing.T) {
	child, out, err := inChildFor(t, 10*time.Minute+soakTime(t))
	if !child {
		if err != nil || !strings.Contains(out, "--- PASS: TestSoak") {
			t.Errorf("%v\n%s", err, out)
		}
		if at := strings.Index(out, "soak:"); at >= 0 {
			t.Log(strings.SplitN(out[at:], "\n", 2)[0])
		}
		return
	}
	debug.SetGCPercent(5)
	ctx, cancel := context.WithTimeout(context.Background(), soakTime(t))
	defer cancel()
	var libs []*Library
	for _, path := range []string{build(t, "-DASYNC"), buildGo(t), buildGo(t, "-ldflags=-s"), build(t)} {
		l, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		libs = append(libs, l)
	}
	var events, values, collections atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = make([]byte, 1<<16)
			runtime.GC()
			collections.Add(1)
			recovered()
		}
	})
	for _, l := range libs {
		wg.Go(func() {
			for ctx.Err() == nil {
				if !soakOnce(t, l, &events, &values) {
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("soak: %d events, %d values, %d collections in %v", events.Load(), values.Load(), collections.Load(), soakTime(t))
}

// recovered has a fault of ours that is caught, which takes the signal handler of Go.
func recovered() {
	defer func() { _ = recover() }()
	var nothing *[1]int
	nothing[0]++
}

func soakTime(t testing.TB) time.Duration {
	if v := os.Getenv(soakVariable); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	return 2 * time.Second
}

// soakOnce initialises a plugin, reads a stream, asks for the fields of its events and closes it.
func soakOnce(t *testing.T, l *Library, events, values *atomic.Int64) bool {
	isGo := l.Describe().Name == "gobed"
	pl, err := l.Init(context.Background(), "ticks=200", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Error(err)
		return false
	}
	p := pl.(*Plugin)
	params, own := "count;count=3000;size=100;batch=13", 3000
	fields := []sourceplugin.FieldRequest{{Index: 1}, {Index: 0}}
	if isGo {
		params = "3000"
		fields = []sourceplugin.FieldRequest{{Index: 0}, {Index: 1}}
	}
	s, err := p.Open(context.Background(), sourceplugin.Open{Params: params})
	if err != nil {
		t.Error(err)
		return false
	}
	g := readAll(t, s, 0)
	wantEOF(t, g.err)
	var asked []sourceplugin.Event
	for i, e := range g.events {
		if e.Name() == "" {
			asked = append(asked, sourceplugin.Event{Event: e, Number: uint64(i + 1), Source: l.Describe().EventSource})
		}
	}
	if len(asked) != own {
		t.Errorf("%d events instead of %d", len(asked), own)
		return false
	}
	v, err := p.Extract(context.Background(), asked, fields)
	if err != nil {
		t.Error(err)
		return false
	}
	for i, text := range show(p, v, fields) {
		data := string(asked[i/2].Data())
		want := "100"
		switch {
		case i%2 == 0:
			want = fmt.Sprintf("%q", strings.TrimSpace(data))
		case isGo:
			want = fmt.Sprint(i / 2)
		}
		if text != want {
			t.Errorf("value %d of %s is %s instead of %s", i, l.Describe().Name, text, want)
			return false
		}
	}
	events.Add(int64(len(g.events)))
	values.Add(int64(len(v.Counts)))
	if err := p.Close(context.Background()); err != nil {
		t.Error(err)
		return false
	}
	return true
}
