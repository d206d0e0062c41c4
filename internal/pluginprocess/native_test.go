//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package pluginprocess_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func library(t testing.TB, flags ...string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no C compiler")
	}
	path := filepath.Join(t.TempDir(), "plugin.so")
	args := append([]string{"-shared", "-fPIC", "-O1", "-o", path, "../falcoplugin/testdata/plugin.c", "-lpthread"}, flags...)
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// hosted are the options for a library in a process of its own.
func hosted(library string) pluginprocess.Options {
	return pluginprocess.Options{Name: "testbed", Command: os.Args[0], Args: []string{"plugin-host", library}, Logger: slog.New(slog.DiscardHandler)}
}

func start(t testing.TB, config string, change ...func(*pluginprocess.Options)) *pluginprocess.Process {
	t.Helper()
	o := hosted(library(t))
	for _, c := range change {
		c(&o)
	}
	p, err := pluginprocess.Launch(t.Context(), o, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

// read reads a stream up to its end, or an error.
func read(t testing.TB, p sourceplugin.Plugin, params string) (events []sourceplugin.Event, dropped int, err error) {
	t.Helper()
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: params})
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	var b sourceplugin.Batch
	for {
		err := s.Next(t.Context(), &b)
		n := 0
		for rest := bytes.Clone(b.Events); len(rest) > 0; n++ {
			var e scapevent.Event
			var bad error
			if e, rest, bad = scapevent.Next(rest); bad != nil {
				t.Fatal(bad)
			}
			events = append(events, sourceplugin.Event{Event: e, Number: uint64(len(events) + 1), Source: p.Describe().EventSource})
		}
		if n != b.Count {
			t.Errorf("%d events in a batch of %d", n, b.Count)
		}
		dropped += b.Dropped
		if err != nil {
			return events, dropped, err
		}
	}
}

func TestPlugin(t *testing.T) {
	p := start(t, "")
	d := p.Describe()
	if d.Name != "testbed" || d.Version != "1.2.3" || d.ID != 1073742001 || d.EventSource != "test_source" || len(d.Fields) < 20 || !d.Capabilities.Source || d.Fields[1].Type != sourceplugin.String {
		t.Errorf("%+v", d)
	}
	params, err := p.OpenParams(t.Context())
	if err != nil || len(params) != 2 || params[0].Value != "count;count=5" {
		t.Error(params, err)
	}
	events, _, err := read(t, p, "count;count=3;size=4")
	if !errors.Is(err, io.EOF) || len(events) != 3 || string(events[2].Data()) != "cccc" || events[2].Nanos() != 3 {
		t.Fatal(events, err)
	}
	texts, err := p.Strings(t.Context(), events)
	if err != nil || fmt.Sprint(texts) != "[test_source #1: aaaa test_source #2: bbbb test_source #3: cccc]" {
		t.Errorf("%q %v", texts, err)
	}
	v, err := p.Extract(t.Context(), events, []sourceplugin.FieldRequest{{Index: 0}, {Index: 1}})
	if err != nil || fmt.Sprint(v.Counts) != "[1 1 1 1 1 1]" || fmt.Sprint(v.Lengths) != "[8 4 8 4 8 4]" || string(v.Bytes[8:12]) != "aaaa" {
		t.Errorf("%+v %v", v, err)
	}
	metrics, err := p.Metrics(t.Context())
	if err != nil || len(metrics) == 0 {
		t.Error(metrics, err)
	}
	if err := p.SetConfig(t.Context(), "refuse"); err != nil {
		t.Log(err)
	}
	if _, err := p.Open(t.Context(), sourceplugin.Open{Params: "open-fail"}); err == nil || !strings.HasPrefix(err.Error(), "plugin testbed: ") {
		t.Error(err)
	}
}

func TestFailures(t *testing.T) {
	for params, want := range map[string]string{
		"fail-at-end;count=5": "5 plugin testbed: ",
		"fail":                "0 plugin testbed: ",
		"foreign-id;count=5":  "2 plugin testbed: ",
		"crash":               "0 plugin testbed: " + sourceplugin.ErrExited.Error(),
	} {
		t.Run(params, func(t *testing.T) {
			events, _, err := read(t, start(t, ""), params)
			if got := fmt.Sprintf("%d %v", len(events), err); !strings.Contains(got, want) {
				t.Errorf("%s", got)
			}
			if params == "crash" && !errors.Is(err, sourceplugin.ErrExited) {
				t.Error(err)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	p := start(t, "")
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: "count;count=2;size=2000", MaxEventBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	dropped := 0
	var b sourceplugin.Batch
	for err == nil {
		err = s.Next(t.Context(), &b)
		dropped += b.Dropped
	}
	if dropped != 2 || !errors.Is(err, io.EOF) {
		t.Error(dropped, err)
	}
}

// A stream that waits is left at the end of the context and by Close, one that hangs in the
// library by the end of the process; none is left.
func TestEnds(t *testing.T) {
	for _, params := range []string{"idle", "hang"} {
		t.Run(params, func(t *testing.T) {
			p := start(t, "")
			s, err := p.Open(t.Context(), sourceplugin.Open{Params: params})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			var b sourceplugin.Batch
			for err == nil {
				err = s.Next(ctx, &b)
			}
			if !errors.Is(err, context.DeadlineExceeded) || b.Count > 0 {
				t.Error(err)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := p.Metrics(t.Context()); !errors.Is(err, sourceplugin.ErrExited) {
				t.Error(err)
			}
		})
	}
}

func BenchmarkStream(b *testing.B) {
	p := start(b, "")
	b.ResetTimer()
	s, err := p.Open(b.Context(), sourceplugin.Open{Params: fmt.Sprintf("count;count=%d;size=16;batch=128", b.N)})
	if err != nil {
		b.Fatal(err)
	}
	var batch sourceplugin.Batch
	n := 0
	for err == nil {
		err = s.Next(b.Context(), &batch)
		n += batch.Count
	}
	if n != b.N {
		b.Fatal(n, err)
	}
}

// BenchmarkExtract asks for 10 fields with texts of 256 events of 700 bytes at once.
func BenchmarkExtract(b *testing.B) {
	p := start(b, "")
	var fields []sourceplugin.FieldRequest
	for i, f := range p.Describe().Fields {
		if len(f.Name) == len("t.s0") && strings.HasPrefix(f.Name, "t.s") && f.Name[3] <= '9' {
			fields = append(fields, sourceplugin.FieldRequest{Index: i})
		}
	}
	if len(fields) != 10 {
		b.Fatal(len(fields))
	}
	var events []sourceplugin.Event
	for i := range 256 {
		e := scapevent.Append(nil, p.Describe().ID, 1, bytes.Repeat([]byte("x"), 700))
		events = append(events, sourceplugin.Event{Event: e, Number: uint64(i + 1), Source: p.Describe().EventSource})
	}
	n := 0
	for b.Loop() {
		if _, err := p.Extract(b.Context(), events, fields); err != nil {
			b.Fatal(err)
		}
		n += len(events)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
