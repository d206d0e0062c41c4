package compat

import (
	"bytes"
	"context"
	little "encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// rustPlugins returns the libraries that Falco's Rust SDK makes: of our plugin, and of the one that
// comes with the SDK.
func rustPlugins(t *testing.T) (own, dummy string) {
	t.Helper()
	out, err := exec.Command("../../scripts/falcorust.sh").Output()
	failed := (*exec.ExitError)(nil)
	if errors.As(err, &failed) && failed.ExitCode() == 3 {
		t.Skipf("SKIPPED: the Rust SDK cannot be had: %s", failed.Stderr)
	}
	if err != nil {
		if failed != nil {
			t.Fatalf("%v\n%s", err, failed.Stderr)
		}
		t.Fatal(err)
	}
	paths := strings.Fields(string(out))
	if len(paths) != 2 {
		t.Fatalf("%q", out)
	}
	return paths[0], paths[1]
}

// heard is what was logged.
type heard struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.Write(b)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.String()
}

// hosted are the options for a library in a process of its own, which logs to the returned text.
func hosted(t *testing.T, library string) (pluginprocess.Options, *heard) {
	t.Helper()
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	log := new(heard)
	return pluginprocess.Options{
		Name: "rust", Command: program, Args: []string{"plugin-host", library},
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, log
}

// Plugins that were built with Falco's own SDK for Rust, on which ours has had no influence, do
// everything that they can.
func TestSourcePluginInRust(t *testing.T) {
	library, dummy := rustPlugins(t)
	o, log := hosted(t, library)
	for config, want := range map[string]string{
		`{"step":-1}`:  "/step must be at least 0",
		`{"stepp":1}`:  `must not have "stepp"`,
		`{"step":13}`:  "cannot be initialised: 13 is no step",
		`{"step":"x"}`: "/step must be integer",
	} {
		if _, err := pluginprocess.Launch(t.Context(), o, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
	p, err := pluginprocess.Launch(t.Context(), o, "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background())
	d := p.Describe()
	if d.Name != "rustbed" || d.Version != "0.1.0" || d.ID != 1_073_742_003 || d.EventSource != "rust_source" || len(d.Fields) != 10 || fmt.Sprint(d.AsyncNames) != "[tick]" ||
		d.Fields[0].Display != "Text" || !d.Fields[0].AddOutput || !d.Fields[3].List || d.Fields[4].Arg != (sourceplugin.ArgRule{Required: true, Key: true}) {
		t.Errorf("%+v", d)
	}
	if params, err := p.OpenParams(t.Context()); err != nil || fmt.Sprint(params) != "[{10 up to ten } {1,2 several ,}]" {
		t.Error(params, err)
	}
	if _, err := p.Open(t.Context(), sourceplugin.Open{Params: "x"}); err == nil || err.Error() != `plugin rustbed: cannot be opened: plugin_open: "x" is no number` {
		t.Error(err)
	}

	events := make([]sourceplugin.Event, 0, 250)
	ticks := ""
	s, err := p.Open(t.Context(), sourceplugin.Open{Params: "250"})
	if err != nil {
		t.Fatal(err)
	}
	var b sourceplugin.Batch
	for err == nil {
		err = s.Next(t.Context(), &b)
		for rest := bytes.Clone(b.Events); len(rest) > 0; {
			var e scapevent.Event
			var bad error
			if e, rest, bad = scapevent.Next(rest); bad != nil {
				t.Fatal(bad)
			}
			if age := time.Since(e.Time()); age < 0 || age > time.Minute || e.PluginID() != d.ID {
				t.Fatalf("an event of %d is %v old", e.PluginID(), age)
			}
			if e.Type() == scapevent.Async {
				ticks += string(e.Data())
				continue
			}
			events = append(events, sourceplugin.Event{Event: e, Number: uint64(len(events) + 1), Source: d.EventSource})
		}
	}
	if !errors.Is(err, io.EOF) || len(events) != 250 || string(events[249].Data()) != "number 250" {
		t.Fatalf("%d events: %v", len(events), err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	// The thread that ticks may be slower than the stream; what it has sent is in order.
	if !strings.HasPrefix("012", ticks) {
		t.Errorf("ticks %q", ticks)
	}
	if s, err = p.Open(t.Context(), sourceplugin.Open{Params: "18446744073709551615"}); err != nil {
		t.Fatal(err)
	}
	ticks = ""
	for deadline := time.Now().Add(time.Minute); ticks != "012" && time.Now().Before(deadline); {
		if err := s.Next(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		for rest := b.Events; len(rest) > 0; {
			var e scapevent.Event
			if e, rest, err = scapevent.Next(rest); err != nil {
				t.Fatal(err)
			}
			if e.Type() == scapevent.Async {
				ticks += string(e.Data())
			}
		}
	}
	if err := s.Close(t.Context()); err != nil || ticks != "012" {
		t.Errorf("ticks %q: %v", ticks, err)
	}

	texts, err := p.Strings(t.Context(), events[40:42])
	if err != nil || fmt.Sprint(texts) != "[number 41 number 42]" {
		t.Error(texts, err)
	}
	all := []sourceplugin.FieldRequest{
		{Index: 0}, {Index: 1}, {Index: 2}, {Index: 3}, {Index: 3, Arg: "1", ArgIndex: 1, ArgPresent: true}, {Index: 4, Arg: "a.b", ArgPresent: true},
		{Index: 5}, {Index: 6}, {Index: 7}, {Index: 8}, {Index: 9},
	}
	var want bytes.Buffer
	var counts, lengths []uint32
	value := func(parts ...[]byte) {
		counts = append(counts, uint32(len(parts)))
		for _, part := range parts {
			lengths = append(lengths, uint32(len(part)))
			want.Write(part)
		}
	}
	number := func(n uint64) []byte { return little.LittleEndian.AppendUint64(nil, n) }
	for n := uint64(41); n <= 42; n++ {
		word := []byte(fmt.Sprint(n))
		value(append([]byte("number "), word...))
		value(number(n))
		value([]byte{byte(n % 2)})
		value([]byte("number"), word)
		value(word)
		value([]byte("a.b"))
		value(number(uint64(1500 * time.Millisecond)))
		value(number(1_700_000_000_000_000_000))
		value([]byte{127, 0, 0, 1}, append(make([]byte, 15), 1))
		value([]byte("10.0.0.0/32"))
		value()
	}
	v, err := p.Extract(t.Context(), events[40:42], all)
	if err != nil || fmt.Sprint(v.Counts) != fmt.Sprint(counts) || fmt.Sprint(v.Lengths) != fmt.Sprint(lengths) || !bytes.Equal(v.Bytes, want.Bytes()) {
		t.Errorf("%v %v\n%v\n%v\n%q\n%q", err, v.Counts, counts, v.Lengths, v.Bytes, want.Bytes())
	}
	if v, err := p.Extract(t.Context(), events[40:41], all[:1]); err != nil || fmt.Sprint(v.Offsets) != "[38 9]" {
		t.Error(v.Offsets, err)
	}
	if err := p.SetConfig(t.Context(), `{"step":13}`); err == nil || !strings.Contains(err.Error(), "13 is still no step") {
		t.Error(err)
	}
	if err := p.SetConfig(t.Context(), `{"step":5}`); err != nil {
		t.Error(err)
	}
	if m, err := p.Metrics(t.Context()); err != nil || len(m) != 3 || m[0].Name != "counted" || m[0].Value < 250 || fmt.Sprint(m[1:]) != "[{depth false -3} {ratio false 0.25}]" {
		t.Error(m, err)
	}
	if _, err := p.Open(t.Context(), sourceplugin.Open{Params: "panic"}); !errors.Is(err, sourceplugin.ErrExited) || !strings.Contains(err.Error(), "told to panic") {
		t.Error(err)
	}
	for _, want := range []string{"level=WARN msg=\"[WARN] the step is 1\"", "level=INFO msg=\"[INFO] refused: the name of the event is not among those of plugin_get_async_events"} {
		if text := log.String(); !strings.Contains(text, want) {
			t.Errorf("%s\nlacks %s", text, want)
		}
	}

	o, _ = hosted(t, dummy)
	if _, err := pluginprocess.Launch(t.Context(), o, ""); err == nil || !strings.Contains(err.Error(), `plugin dummy: cannot be initialised: I only accept "testing" as the config string`) {
		t.Error(err)
	}
	p, err = pluginprocess.Launch(t.Context(), o, "testing")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.Background())
	if d := p.Describe(); d.Name != "dummy" || d.ID != 1111 || d.EventSource != "dummy" {
		t.Errorf("%+v", d)
	}
	if s, err = p.Open(t.Context(), sourceplugin.Open{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Next(t.Context(), &b); !errors.Is(err, io.EOF) || b.Count != 0 {
		t.Error(b.Count, err)
	}
	if texts, err := p.Strings(t.Context(), []sourceplugin.Event{{Event: scapevent.Append(nil, 1111, 1, []byte("x")), Number: 1, Source: "dummy"}}); err != nil || fmt.Sprint(texts) != "[what event?]" {
		t.Error(texts, err)
	}
	if err := p.SetConfig(t.Context(), "other"); err == nil || !strings.Contains(err.Error(), "even in an update") {
		t.Error(err)
	}
}
