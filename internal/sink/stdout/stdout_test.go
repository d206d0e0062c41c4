package stdout

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reader is who reads a pipe that the sink writes to, and does what a test wants.
type reader struct {
	t        testing.TB
	out      *Output
	from, to *os.File
	done     chan struct{}

	mu      sync.Mutex
	mode    delivertest.Mode
	changed chan struct{} // closed when the mode changes
	text    []byte
}

func newReader(t testing.TB) *reader {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, from: from, to: to, done: make(chan struct{}), changed: make(chan struct{})}
	r.out = NewOutput(r)
	go r.read()
	t.Cleanup(func() {
		r.Set(delivertest.Works)
		_ = to.Close()
		<-r.done
		_ = from.Close()
	})
	return r
}

// Write is that of the pipe, or fails as one does.
func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	mode := r.mode
	r.mu.Unlock()
	switch mode {
	case delivertest.Fails: // in the middle of a line
		n, _ := r.to.Write(p[:len(p)/3])
		return n, &os.PathError{Op: "write", Path: "|1", Err: syscall.EIO}
	case delivertest.Closes:
		return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
	}
	return r.to.Write(p)
}

func (r *reader) read() {
	defer close(r.done)
	buf := make([]byte, 64<<10)
	for {
		r.mu.Lock()
		mode, changed := r.mode, r.changed
		r.mu.Unlock()
		switch mode {
		case delivertest.Hangs:
			<-changed
			continue
		case delivertest.Slow:
			time.Sleep(time.Millisecond)
		}
		n, err := r.from.Read(buf)
		r.mu.Lock()
		r.text = append(r.text, buf[:n]...)
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (r *reader) Sink(*slog.Logger) (deliver.Sink, error) {
	return New(Options{Output: r.out, Format: "cloudevents"})
}

func (r *reader) Set(m delivertest.Mode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mode = m
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *reader) Arrived() []delivertest.Arrival {
	r.mu.Lock()
	text := bytes.Clone(r.text)
	r.mu.Unlock()
	end := bytes.LastIndexByte(text, '\n') + 1
	var list []delivertest.Arrival
	s := bufio.NewScanner(bytes.NewReader(text[:end]))
	s.Buffer(nil, 32<<20)
	for s.Scan() {
		e, err := event.ParseCloudEvent(s.Bytes())
		if err != nil {
			r.t.Errorf("a line is no event: %v: %.200q", err, s.Bytes())
			continue
		}
		list = append(list, delivertest.Arrival{ID: e.ID, Event: e})
	}
	return list
}

// TestConformance leaves out hanging with little to write: that fits into the pipe.
func TestConformance(t *testing.T) {
	delivertest.Run(t, delivertest.Harness{
		Receiver: func(t testing.TB) delivertest.Receiver { return newReader(t) },
		Modes:    []delivertest.Mode{delivertest.Closes, delivertest.Slow},
		Without: map[delivertest.Mode]string{
			delivertest.Fails:      "a pipe has taken a part of what was written, see TestPartOfALine",
			delivertest.Refuses:    "the output is open from the beginning",
			delivertest.Hangs:      "a pipe takes 64 KiB that nobody reads, see TestNobodyReads",
			delivertest.RefusesOne: "an output takes every event",
		},
	})
}

func batch(first, n int) *deliver.Batch {
	return &deliver.Batch{Items: delivertest.Events(first, n)}
}

// TestNobodyReads: a pipe that is full bounds nothing but the context.
func TestNobodyReads(t *testing.T) {
	r := newReader(t)
	r.Set(delivertest.Hangs)
	s, err := r.Sink(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := r.Sink(nil)
	if err != nil {
		t.Fatal(err)
	}
	full := func(s deliver.Sink) deliver.Result {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var last deliver.Result
		for i := 0; ctx.Err() == nil; i += 100 {
			last = s.Send(ctx, batch(i, 100))
		}
		return last
	}
	for _, s := range []deliver.Sink{s, other} {
		if got := full(s); got.Outcome != deliver.Retry || !strings.Contains(got.Reason, "nobody reads") {
			t.Errorf("got %+v", got)
		}
	}
	done := make(chan deliver.Result)
	go func() { done <- s.Send(t.Context(), batch(0, 1)) }()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	select {
	case got := <-done:
		if got.Outcome != deliver.Retry {
			t.Errorf("closed: %+v", got)
		}
	case <-time.After(time.Minute):
		t.Fatal("Send has not returned after Close")
	}
	// Somebody reads again: what was being written is whole, and what comes is behind it.
	r.Set(delivertest.Works)
	if got := other.Send(t.Context(), batch(1_000_000, 3)); got.Outcome != deliver.Delivered {
		t.Errorf("read again: %+v", got)
	}
	want := batch(1_000_000, 3).Items[2].Event.ID
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		if list := r.Arrived(); len(list) > 0 && list[len(list)-1].ID == want {
			break
		}
		if time.Since(begun) > time.Minute {
			t.Fatal("the last event has not arrived")
		}
	}
}

// TestPartOfALine: what was written is not written again, and a line that was begun is ended
// before any other.
func TestPartOfALine(t *testing.T) {
	r := newReader(t)
	s, err := r.Sink(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Set(delivertest.Fails)
	b := batch(0, 30)
	results := b.Results(s.Send(t.Context(), b))
	var left []deliver.Item
	for i, got := range results {
		switch got.Outcome {
		case deliver.Retry:
			left = append(left, b.Items[i])
		case deliver.Delivered:
			if len(left) > 0 {
				t.Error("a later event is delivered, and an earlier one is not")
			}
		default:
			t.Errorf("event %d: %+v", i, got)
		}
	}
	if n := len(left); n == 0 || n == len(results) {
		t.Fatalf("%d of %d are left", n, len(results))
	}
	r.Set(delivertest.Works)
	if got := s.Send(t.Context(), &deliver.Batch{Items: left}); got.Outcome != deliver.Delivered {
		t.Fatalf("%+v", got)
	}
	for begun := time.Now(); len(r.Arrived()) < len(b.Items); time.Sleep(time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("%d events arrived", len(r.Arrived()))
		}
	}
	for i, a := range r.Arrived() {
		if a.ID != b.Items[i].Event.ID {
			t.Fatalf("event %d is %s", i, a.ID)
		}
	}
}

// TestTerminal: nothing that is in an event reaches a terminal as a control character.
func TestTerminal(t *testing.T) {
	for _, name := range []string{"cloudevents", "vault", "raw", "flipt", Pretty} {
		for _, colours := range []bool{false, true} {
			var text bytes.Buffer
			out := NewOutput(&text)
			out.terminal, out.colours = true, colours
			s, err := New(Options{Output: out, Format: name})
			if err != nil {
				t.Fatal(err)
			}
			b := &deliver.Batch{Items: delivertest.Hostile()}
			for i, r := range b.Results(s.Send(t.Context(), b)) {
				if r.Outcome != deliver.Delivered && r.Outcome != deliver.Impossible {
					t.Errorf("event %d: %+v", i, r)
				}
			}
			got := text.String()
			if coloured := strings.Contains(got, "\x1b["); coloured != (colours && name == Pretty) {
				t.Errorf("%s: colours are %v", name, coloured)
			}
			got = strings.NewReplacer("\x1b[2m", "", "\x1b[1m", "", "\x1b[0m", "", "\n", "").Replace(got)
			if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%s: %q", name, got[i:min(i+20, len(got))])
			}
		}
	}
}

// TestPretty is what a person sees.
func TestPretty(t *testing.T) {
	var text bytes.Buffer
	s, err := New(Options{Output: NewOutput(&text), Format: Pretty})
	if err != nil {
		t.Fatal(err)
	}
	e := &event.Event{
		Type: "kv-v2/data-write", Path: "secret/data/a", Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local),
		Metadata: event.Fields{{Key: "current_version", Value: "3"}},
	}
	if got := s.Send(t.Context(), &deliver.Batch{Items: []deliver.Item{{Event: e}}}); got.Outcome != deliver.Delivered {
		t.Fatalf("%+v", got)
	}
	const want = "2026-03-04 05:06:07.000  kv-v2/data-write        secret/data/a  current_version=3\n"
	if text.String() != want {
		t.Errorf("got %q, want %q", text.String(), want)
	}
}

// TestBrokenPipe: the reason says that nobody reads, and nothing else happens.
func TestBrokenPipe(t *testing.T) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = from.Close()
	defer to.Close()
	for name, w := range map[string]io.Writer{"pipe": to, "memory": failing{io.ErrClosedPipe}, "short": failing{nil}} {
		s, err := New(Options{Output: NewOutput(w), Format: "vault"})
		if err != nil {
			t.Fatal(err)
		}
		got := s.Send(t.Context(), batch(0, 2))
		if got.Outcome != deliver.Retry || name != "short" && !strings.Contains(got.Reason, "nobody reads the output of the hub any more") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestImpossible: an event that has no form in a format is decided, the others are written.
func TestImpossible(t *testing.T) {
	var text bytes.Buffer
	s, err := New(Options{Output: NewOutput(&text), Format: "flipt"})
	if err != nil {
		t.Fatal(err)
	}
	b := batch(0, 3)
	b.Items[1].Event = &event.Event{Type: "flipt/flag/created", Data: []byte("{}")}
	results := b.Results(s.Send(t.Context(), b))
	if results[0].Outcome != deliver.Delivered || results[1].Outcome != deliver.Impossible || results[1].Reason == "" || results[2].Outcome != deliver.Delivered {
		t.Errorf("%+v", results)
	}
	if n := strings.Count(text.String(), "\n"); n != 2 {
		t.Errorf("%d lines", n)
	}
	only := &deliver.Batch{Items: b.Items[1:2]}
	if r := only.Results(s.Send(t.Context(), only)); r[0].Outcome != deliver.Impossible {
		t.Errorf("%+v", r)
	}
}

func TestNew(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := New(Options{Output: NewOutput(f), Format: "yaml"}); err == nil || !strings.Contains(err.Error(), "or pretty") {
		t.Errorf("%v", err)
	}
	if _, err := New(Options{Format: Pretty}); err == nil {
		t.Error("without an output")
	}
	if got := reason(errors.New("x")); got != "write to the output: x" {
		t.Errorf("%q", got)
	}
}
