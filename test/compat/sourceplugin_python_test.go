package compat

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/tocsin-events/tocsin/plugin/plugintest"
)

// pythonPlugin returns how testdata/plugin.py is started.
func pythonPlugin(t *testing.T) pluginprocess.Options {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	dir := t.TempDir()
	path := "PYTHONPATH=" + dir
	command := func(args ...string) *exec.Cmd {
		c := exec.CommandContext(t.Context(), python, args...)
		c.Env = append(os.Environ(), path, "PYTHONDONTWRITEBYTECODE=1")
		return c
	}
	if out, err := command(append([]string{"-m", "pip", "install", "--quiet", "--only-binary=:all:", "--target", dir}, pythonPackages...)...).CombinedOutput(); err != nil {
		t.Skipf("the packages cannot be installed: %v\n%s", err, out)
	}
	proto := filepath.Join("..", "..", "proto", "tocsin", "plugin", "v1")
	if out, err := command("-m", "grpc_tools.protoc", "-I", proto, "--python_out", dir, "--grpc_python_out", dir, filepath.Join(proto, "plugin.proto")).CombinedOutput(); err != nil {
		t.Fatalf("protoc: %v\n%s", err, out)
	}
	return pluginprocess.Options{
		Name: "python", Command: python, Args: []string{filepath.Join("testdata", "plugin.py")}, Env: []string{path, "PYTHONDONTWRITEBYTECODE=1"},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// numbersOf returns the numbers in events.
func numbersOf(t *testing.T, events []sourceplugin.Event) (numbers []int) {
	t.Helper()
	for _, e := range events {
		var data struct{ N int }
		if err := json.Unmarshal(e.Data(), &data); err != nil {
			t.Fatalf("%q: %v", e.Data(), err)
		}
		numbers = append(numbers, data.N)
	}
	return numbers
}

// A plugin in another language, over another gRPC, does all that the protocol has.
func TestSourcePluginInPython(t *testing.T) {
	o := pythonPlugin(t)
	if _, err := pluginprocess.Launch(t.Context(), o, `{"step":0}`); !errors.Is(err, pluginprocess.ErrConfig) || !strings.Contains(err.Error(), "/step") {
		t.Error(err)
	}
	p, err := pluginprocess.Launch(t.Context(), o, "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background())
	d := p.Describe()
	if d.Name != "python" || d.ID != 1_073_742_200 || d.EventSource != "numbers" || len(d.Fields) != 3 {
		t.Errorf("%+v", d)
	}
	if params, err := p.OpenParams(t.Context()); err != nil || len(params) != 1 || params[0].Value != "10" {
		t.Error(params, err)
	}
	if _, err := p.Open(t.Context(), sourceplugin.Open{Params: "x"}); err == nil || err.Error() != "plugin python: the params must be a number, not 'x'" {
		t.Error(err)
	}

	read := func(open sourceplugin.Open) (events []sourceplugin.Event, position []byte) {
		t.Helper()
		s, err := p.Open(t.Context(), open)
		if err != nil {
			t.Fatal(err)
		}
		var b sourceplugin.Batch
		for err == nil {
			if err = s.Next(t.Context(), &b); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			for rest := bytes.Clone(b.Events); len(rest) > 0; {
				var e scapevent.Event
				var bad error
				if e, rest, bad = scapevent.Next(rest); bad != nil {
					t.Fatal(bad)
				}
				if age := time.Since(e.Time()); age < 0 || age > time.Minute {
					t.Fatalf("an event is %v old", age)
				}
				events = append(events, sourceplugin.Event{Event: e, Number: uint64(len(events) + 1), Source: d.EventSource})
			}
			if b.Position == nil {
				continue
			}
			position = b.Position
			if err := s.Acknowledge(t.Context(), position); err != nil {
				t.Fatal(err)
			}
			if progress, err := s.Progress(t.Context()); err != nil || progress.Fraction <= 0 || progress.Text != "counting" {
				t.Error(progress, err)
			}
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		return events, position
	}
	events, position := read(sourceplugin.Open{Params: "2500"})
	if n := numbersOf(t, events); len(n) != 2500 || n[0] != 1 || n[2499] != 2500 || string(position) != "2500" {
		t.Errorf("%d events up to %s", len(n), position)
	}
	more, _ := read(sourceplugin.Open{Params: "2510", Resume: position})
	if n := numbersOf(t, more); fmt.Sprint(n) != "[2501 2502 2503 2504 2505 2506 2507 2508 2509 2510]" {
		t.Error(n)
	}
	if err := p.SetConfig(t.Context(), `{"step":5}`); err != nil {
		t.Error(err)
	}
	if fives, _ := read(sourceplugin.Open{Params: "20"}); fmt.Sprint(numbersOf(t, fives)) != "[5 10 15 20]" {
		t.Error(numbersOf(t, fives))
	}

	texts, err := p.Strings(t.Context(), events[41:43])
	if err != nil || fmt.Sprint(texts) != "[number 42 number 43]" {
		t.Error(texts, err)
	}
	v, err := p.Extract(t.Context(), events[41:43], []sourceplugin.FieldRequest{{Index: 0}, {Index: 1}, {Index: 1, Arg: "1", ArgIndex: 1, ArgPresent: true}, {Index: 1, Arg: "7", ArgIndex: 7, ArgPresent: true}, {Index: 2}})
	if err != nil || fmt.Sprint(v.Counts, v.Lengths) != "[1 2 1 0 1 1 2 1 0 1] [8 1 1 1 1 8 1 1 1 1]" || string(v.Bytes) != "*\x00\x00\x00\x00\x00\x00\x00422\x01+\x00\x00\x00\x00\x00\x00\x00433\x00" {
		t.Errorf("%+v %v", v, err)
	}
	if m, err := p.Metrics(t.Context()); err != nil || len(m) != 1 || m[0].Name != "counted" || m[0].Value != 2514 {
		t.Error(m, err)
	}
	began := time.Now()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v to end", took)
	}
	if err := p.ExitError(); !errors.Is(err, sourceplugin.ErrExited) {
		t.Error(err)
	}
}

// It passes what plugins in Go are tried with.
func TestKitOfSourcePluginInPython(t *testing.T) {
	o := pythonPlugin(t)
	plugintest.RunProgram(t, plugintest.Program{Command: o.Command, Args: o.Args, Env: o.Env}, plugintest.Options{
		Config: `{"step":1}`, BadConfigs: []string{`{"step":0}`, `{"stride":1}`},
		Params: "2500", BadParams: []string{"x", "-1", ""},
		Events: 2500,
		Values: map[string][]string{"py.n": {"1", "2"}, "py.digit": {"(1)"}, "py.digit[0]": {"(1)"}, "py.digit[1]": {"<NA>"}, "py.even": {"false", "true"}},
	})
}
