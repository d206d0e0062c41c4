package plugin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/internal/pluginlocal"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// TestRefusedPosition: a stream is not resumed behind an event that was refused, whatever its
// author does behind it.
func TestRefusedPosition(t *testing.T) {
	noName := func(b *plugin.Batch) { b.Add(plugin.Event{Name: "x", Position: []byte("p2")}) }
	for name, refused := range map[string]func(b *plugin.Batch){
		"unknown name":  noName,
		"long position": func(b *plugin.Batch) { b.Add(plugin.Event{Position: make([]byte, 1<<17)}) },
		"nested":        func(b *plugin.Batch) { b.Append(time.Time{}, func(d []byte) []byte { noName(b); return d }) },
		"no end": func(b *plugin.Batch) {
			for range 100 {
				b.Add(plugin.Event{Data: make([]byte, 1<<20-100)})
			}
		},
	} {
		s := stream(t, plainInfo, &scripted{steps: []step{func(_ context.Context, b *plugin.Batch) error {
			b.Add(plugin.Event{Data: []byte("1"), Position: []byte("p1")})
			refused(b)
			b.Add(plugin.Event{Data: []byte("3"), Position: []byte("p3")})
			b.SetPosition([]byte("p4"))
			return nil
		}}})
		var b sourceplugin.Batch
		if _, err := next(t, s, &b); err == nil || string(b.Position) != "p1" {
			t.Errorf("%s: position %q, %v", name, b.Position, err)
		}
	}
	// One that is too large is told of and left out for good.
	s := stream(t, plainInfo, &scripted{steps: []step{func(_ context.Context, b *plugin.Batch) error {
		b.Add(plugin.Event{Data: make([]byte, 2<<20), Position: []byte("p1")})
		return nil
	}}})
	var b sourceplugin.Batch
	if _, err := next(t, s, &b); err != nil || string(b.Position) != "p1" || b.Dropped != 1 {
		t.Errorf("position %q, %d dropped, %v", b.Position, b.Dropped, err)
	}
}

// TestEndlessMistakes: a stream that always has an event does not go round for ever when none of
// them gets into the batch.
func TestEndlessMistakes(t *testing.T) {
	info := plainInfo
	info.Resumes, info.BatchTime = false, 50*time.Millisecond
	for name, tt := range map[string]struct {
		event plugin.Event
		want  string
	}{
		"position": {plugin.Event{Data: []byte("x"), Position: []byte("p")}, "Info.Resumes is false"},
		"name":     {plugin.Event{Name: "x"}, "not in Info.AsyncNames"},
		"size":     {plugin.Event{Data: make([]byte, 2<<20)}, ""},
	} {
		s := stream(t, info, plugin.Pull(func(context.Context) (plugin.Event, error) { return tt.event, nil }))
		var b sourceplugin.Batch
		_, err := next(t, s, &b)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || (tt.want == "") != (b.Dropped > 0) {
			t.Errorf("%s: %v, %d dropped", name, err, b.Dropped)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
	// Who goes on to emit is told again, and does not wait.
	synctest.Test(t, func(t *testing.T) {
		var errs []error
		s := stream(t, info, plugin.Push(func(_ context.Context, emit func(plugin.Event) error) error {
			for range 3 {
				errs = append(errs, emit(plugin.Event{Name: "x"}))
			}
			return nil
		}))
		var b sourceplugin.Batch
		_, err := next(t, s, &b)
		synctest.Wait()
		if err == nil || len(errs) != 3 || slices.Contains(errs, nil) {
			t.Errorf("%v, %v", err, errs)
		}
	})
}

// TestNotTheEnd: an error that wraps io.EOF is a failure, such as a connection that broke.
func TestNotTheEnd(t *testing.T) {
	broken := func() error { return fmt.Errorf("the server is gone: %w", io.EOF) }
	for name, author := range map[string]plugin.Stream{
		"own":  &scripted{steps: []step{func(context.Context, *plugin.Batch) error { return broken() }}},
		"pull": plugin.Pull(func(context.Context) (plugin.Event, error) { return plugin.Event{}, broken() }),
		"push": plugin.Push(func(context.Context, func(plugin.Event) error) error { return broken() }),
	} {
		s := stream(t, plainInfo, author)
		var b sourceplugin.Batch
		if _, err := next(t, s, &b); err == nil || errors.Is(err, io.EOF) || err.Error() != "the server is gone: EOF" {
			t.Errorf("%s: %v", name, err)
		}
		_ = s.Close(t.Context())
	}
}

// TestAppend: whatever a function that writes a payload does with what it is given, the events
// before it are whole, and the payload is what it returned.
func TestAppend(t *testing.T) {
	at, long := time.Unix(1, 0), strings.Repeat("long ", 100)
	writes := []func([]byte) []byte{
		func(d []byte) []byte { return append(d, "in place"...) },
		func(d []byte) []byte { return append(d[:0], "from the start"...) },
		func([]byte) []byte { return []byte(long) },
		func([]byte) []byte { return nil },
		func(d []byte) []byte { return append(d, "xxx shifted"...)[4:] },
		func(d []byte) []byte { clear(d[:cap(d)]); return append(d, long...) },
	}
	want := []string{"in place", "from the start", long, "", "shifted", long}
	for _, room := range []int{0, 100, 1 << 16} {
		b := sourceplugin.Batch{Events: make([]byte, 0, room)}
		s := stream(t, plainInfo, &scripted{steps: []step{func(_ context.Context, b *plugin.Batch) error {
			for _, write := range writes {
				b.Append(at, write)
			}
			return nil
		}}})
		events, err := next(t, s, &b)
		var got []string
		for _, e := range events {
			got = append(got, string(e.Data()))
		}
		if err != nil || !slices.Equal(got, want) || b.Count != len(want) {
			t.Errorf("room %d: %v %q", room, err, got)
		}
	}
}

// TestEventsDoNotTouch: what an author appends to the payload that it is asked about is not
// written over the event behind it.
func TestEventsDoNotTouch(t *testing.T) {
	first, rest, err := scapevent.Next(scapevent.Append(scapevent.Append(nil, 999, 5, []byte("one")), 999, 6, []byte("two")))
	if err != nil {
		t.Fatal(err)
	}
	a := &all{closed: new(bool), extract: func(e *plugin.Event, _ []plugin.Request) error { _ = append(e.Data, "zzzzzzzz"...); return nil }}
	p := launch(t, plugin.New(allInfo, func(context.Context, config) (*all, error) { return a, nil }), "")
	_, err = p.Extract(t.Context(), []sourceplugin.Event{{Event: first}}, nil)
	if second, _, bad := scapevent.Next(rest); err != nil || bad != nil || string(second.Data()) != "two" {
		t.Errorf("%v %v", err, bad)
	}
}

type hanging struct {
	plain
	until chan struct{}
}

func (h *hanging) Close() error { <-h.until; return nil }

// TestCloseHangs: a plugin that does not close is left behind, also without a deadline.
func TestCloseHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{until: make(chan struct{})}
		p, err := pluginlocal.Launch(t.Context(), plugin.New(plainInfo, func(context.Context, string) (*hanging, error) { return h, nil }), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(context.Background()); err == nil || !strings.Contains(err.Error(), "does not close") {
			t.Error(err)
		}
		close(h.until)
	})
}

// around adds an event before those of another stream.
type around struct{ plugin.Stream }

func (s *around) NextBatch(ctx context.Context, b *plugin.Batch) error {
	b.Add(plugin.Event{Data: []byte("before"), Position: []byte("p")})
	return s.Stream.NextBatch(ctx, b)
}

// TestAroundPush: what is in a batch already stays when a stream of Push adds to it.
func TestAroundPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stream(t, plainInfo, &around{plugin.Push(func(ctx context.Context, emit func(plugin.Event) error) error {
			_ = emit(plugin.Event{Data: []byte("pushed")})
			<-ctx.Done()
			return nil
		})})
		var b sourceplugin.Batch
		events, err := next(t, s, &b)
		if err != nil || len(events) != 2 || string(events[0].Data()) != "before" || string(events[1].Data()) != "pushed" || string(b.Position) != "p" {
			t.Errorf("%d events, %q, %v", len(events), b.Position, err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestMoreWrongDeclarations: what a host would refuse, or could not work, is told at the start.
func TestMoreWrongDeclarations(t *testing.T) {
	for want, change := range map[string]func(*plugin.Info){
		"Info.BatchBytes":        func(i *plugin.Info) { i.BatchBytes = 1 << 30 },
		"BatchEvents -1":         func(i *plugin.Info) { i.BatchEvents = -1 },
		"BatchTime -1s":          func(i *plugin.Info) { i.BatchTime = -time.Second },
		"Info.Description":       func(i *plugin.Info) { i.Description = "\xff" },
		"Info.Contact":           func(i *plugin.Info) { i.Contact = "\xff" },
		"Info.ExtractSources[1]": func(i *plugin.Info) { i.ExtractSources = []string{"a", ""} },
		"is reserved":            func(i *plugin.Info) { i.EventSource = "syscall" },
		"dice.value has a":       func(i *plugin.Info) { i.Fields = slices.Clone(i.Fields); i.Fields[0].Display = "\xff" },
	} {
		info := diceInfo
		change(&info)
		if err := plugin.New(info, newDice).Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

type textual struct {
	Server netip.Addr     `json:"server"`
	Since  time.Time      `json:"since,omitzero"`
	Nets   []netip.Prefix `json:"nets,omitempty"`
}

// TestTextualTypes: types that are written as a text are texts in the schema, and what they refuse
// is told with the key and without the value.
func TestTextualTypes(t *testing.T) {
	var got textual
	p := plugin.New(plainInfo, func(_ context.Context, c textual) (*plain, error) { got = c; return &plain{}, nil })
	launch(t, p, `{"server":"10.0.0.1","since":"2026-11-27T12:00:00Z","nets":["10.0.0.0/8"]}`)
	if got.Server != netip.MustParseAddr("10.0.0.1") || got.Since.Year() != 2026 || len(got.Nets) != 1 {
		t.Errorf("%+v", got)
	}
	for text, want := range map[string]string{
		`{"server":"s3cret"}`:                     "server",
		`{"server":"10.0.0.1","nets":["s3cret"]}`: "nets",
		`{"server":"10.0.0.1","since":"s3cret"}`:  "since",
		`{"server":7}`:                            "/server",
	} {
		if _, err := pluginlocal.Launch(t.Context(), p, text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
