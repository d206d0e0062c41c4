//go:build (amd64 || arm64) && !tocsin_static

package pluginprocess_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// What a library does while it is loaded is the end of its process at most, and told.
func TestConstructors(t *testing.T) {
	for what, want := range map[string]string{
		"*(volatile int *)8 = 1": "plugin testbed: the process of the plugin has ended before it was ready (exit status 2): SIGSEGV: segmentation violation",
		"abort()":                "plugin testbed: the process of the plugin has ended before it was ready (exit status 2): SIGABRT: abort",
		"exit(5)":                "plugin testbed: the process of the plugin has ended (exit status 5)",
		"pause()":                "plugin testbed: it was not ready within 2s",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			o := hosted(library(t, "-DCONSTRUCTOR="+what))
			o.StartTimeout = 30 * time.Second
			if what == "pause()" {
				o.StartTimeout = 2 * time.Second
			}
			if _, err := pluginprocess.Start(t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// What a library prints goes into the log, and not between what the hub reads.
func TestLibraryPrints(t *testing.T) {
	var logged log
	o := hosted(library(t, `-DCONSTRUCTOR=puts("1|9|tcp|not for the hub"); fflush(stdout)`))
	o.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p, err := pluginprocess.Launch(t.Context(), o, "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background())
	if events, _, err := read(t, p, "count"); len(events) != 10 || !errors.Is(err, io.EOF) {
		t.Error(len(events), err)
	}
	eventually(t, "what was printed is not in the log", func() bool { return strings.Contains(logged.String(), "not for the hub") })
}

// A process that ends itself is told with how it ended.
func TestEndings(t *testing.T) {
	for params, want := range map[string]string{
		"exit":  "plugin testbed: the process of the plugin has ended (exit status 3)",
		"abort": "plugin testbed: the process of the plugin has ended (exit status 2); it wrote: SIGABRT: abort",
		"crash": "plugin testbed: the process of the plugin has ended (exit status 2); it wrote: SIGSEGV: segmentation violation",
	} {
		t.Run(params, func(t *testing.T) {
			_, _, err := read(t, start(t, ""), params)
			if !errors.Is(err, sourceplugin.ErrExited) || err.Error() != want {
				t.Error(err)
			}
		})
	}
}

// Twelve megabytes on standard error without the end of a line hold up nobody, and are cut.
func TestFloodedLog(t *testing.T) {
	var logged log
	p := start(t, "", func(o *pluginprocess.Options) { o.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
	if events, _, err := read(t, p, "flood;count=10"); len(events) != 10 || !errors.Is(err, io.EOF) {
		t.Error(len(events), err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	text := logged.String()
	if len(text) > 1<<20 || !strings.Contains(text, "fff ... (cut)") {
		t.Errorf("%d bytes are logged", len(text))
	}
}

// A process that keeps the pipes of the plugin in a session of its own, where no signal to the
// group of the plugin comes, does not keep the plugin from being ended.
func TestPipesAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace")
	p := start(t, "", func(o *pluginprocess.Options) { o.Env = append(o.Env, "TESTBED_TRACE="+file) })
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: "leave;count=1"})
	if err != nil {
		t.Fatal(err)
	}
	var b sourceplugin.Batch
	for err == nil {
		err = s.Next(t.Context(), &b)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, number, _ := strings.Cut(string(text), "left ")
	pid, err := strconv.Atoi(strings.Fields(number)[0])
	if err != nil {
		t.Fatal(string(text))
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	began := time.Now()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second || !gone(p.PID()) {
		t.Errorf("it took %v", took)
	}
	if gone(pid) {
		t.Error("there was nobody who kept the pipes")
	}
}

// A library that hangs, and does not let its process be asked to end, is ended with it.
func TestStubborn(t *testing.T) {
	p := start(t, "", func(o *pluginprocess.Options) { o.StopTimeout = time.Second })
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: "stubborn"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var b sourceplugin.Batch
	for err == nil {
		err = s.Next(ctx, &b)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if !gone(p.PID()) {
		t.Error("it is still there")
	}
}

// Everything that was opened is closed, and then destroyed, when the process is to end.
func TestOrderOfTheEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace")
	p := start(t, "", func(o *pluginprocess.Options) { o.Env = append(o.Env, "TESTBED_TRACE="+file) })
	var streams []sourceplugin.Stream
	for range 2 { // the same plugin, opened twice
		s, err := p.Open(t.Context(), sourceplugin.Open{Params: "stay;count=1"})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	for _, s := range streams {
		var b sourceplugin.Batch
		for b.Count == 0 {
			if err := s.Next(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(file)
	if got := strings.Join(strings.Fields(string(text)), " "); err != nil || got != "init open init open close destroy close destroy" && got != "init open init open close close destroy destroy" {
		t.Error(got, err)
	}
}

// A plugin that sends asynchronous events has to stop that before its stream is closed.
func TestOrderOfTheHandler(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace")
	o := hosted(library(t, "-DASYNC"))
	o.Env = []string{"TESTBED_TRACE=" + file}
	p, err := pluginprocess.Launch(t.Context(), o, "ticks=10")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if events, _, err := read(t, p, "count"); len(events) < 10 || !errors.Is(err, io.EOF) {
			t.Error(len(events), err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(file)
	if got := strings.Join(strings.Fields(string(text)), " "); err != nil || got != "init open handler no-handler close open handler no-handler close destroy" && got != "init open handler init open handler no-handler close destroy no-handler close destroy" {
		t.Error(got, err)
	}
}

// 20 MiB are an event as any other, and so is what is extracted from it; the memory of the process
// goes back to where it was.
func TestLargeEvents(t *testing.T) {
	p := start(t, "", func(o *pluginprocess.Options) { o.CallTimeout = 5 * time.Minute })
	const size = 20 << 20
	events, dropped, err := read(t, p, fmt.Sprintf("count;count=3;size=%d;batch=1", size))
	if len(events) != 3 || dropped != 0 || !errors.Is(err, io.EOF) {
		t.Fatal(len(events), dropped, err)
	}
	for i, e := range events {
		if data := e.Data(); len(data) != size || data[0] != byte('a'+i) || data[size-1] != byte('a'+i) || e.Nanos() != uint64(i+1) {
			t.Fatalf("event %d has %d bytes", i, len(data))
		}
	}
	v, err := p.Extract(t.Context(), events[:2], []sourceplugin.FieldRequest{{Index: 1}})
	if err != nil || len(v.Bytes) != 2*size || v.Bytes[0] != 'a' || v.Bytes[2*size-1] != 'b' {
		t.Fatal(len(v.Bytes), err)
	}
	if _, err := p.Extract(t.Context(), append(events, events...), []sourceplugin.FieldRequest{{Index: 1}}); err == nil || !strings.Contains(err.Error(), "have more than 60 MiB") {
		t.Error(err)
	}
	v, events = sourceplugin.Values{}, nil
	runtime.GC()
	if events, _, err := read(t, p, "count"); len(events) != 10 || !errors.Is(err, io.EOF) {
		t.Error(len(events), err)
	}
}
