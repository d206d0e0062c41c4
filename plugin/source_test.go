package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/internal/pluginlocal"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// config, params and dice are the example of the package's documentation.
type config struct {
	Sides uint64 `json:"sides,omitempty" jsonschema:"minimum=2,description=Sides of the dice."`
}

func (c *config) SetDefaults() { c.Sides = 6 }

type params struct {
	Rolls int `json:"rolls"`
}

type dice struct{ config }

func (d *dice) Open(_ context.Context, p params, _ []byte) (plugin.Stream, error) {
	return plugin.Pull(func(context.Context) (plugin.Event, error) {
		if p.Rolls == 0 {
			return plugin.Event{}, io.EOF
		}
		p.Rolls--
		return plugin.Event{Data: strconv.AppendUint(nil, 1+rand.Uint64N(d.Sides), 10)}, nil
	}), nil
}

func (d *dice) Extract(_ context.Context, e *plugin.Event, fields []plugin.Request) error {
	for i := range fields { // there is one field, dice.value
		if value, err := strconv.ParseUint(string(e.Data), 10, 64); err == nil {
			fields[i].SetUint64(value)
		}
	}
	return nil
}

var diceInfo = plugin.Info{
	Name: "dice", Version: "0.1.0", ID: 999, EventSource: "dice",
	Fields: []plugin.Field{{Name: "dice.value", Type: plugin.Uint64, Description: "What was rolled"}},
}

func newDice(_ context.Context, c config) (*dice, error) { return &dice{c}, nil }

func launch(t *testing.T, p *plugin.Plugin, config string) sourceplugin.Plugin {
	t.Helper()
	running, err := pluginlocal.Launch(t.Context(), p, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return running
}

func open(t *testing.T, p sourceplugin.Plugin, o sourceplugin.Open) sourceplugin.Stream {
	t.Helper()
	s, err := p.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// next returns the payloads of a batch, and checks that it is well-formed.
func next(t *testing.T, s sourceplugin.Stream, b *sourceplugin.Batch) (events []scapevent.Event, err error) {
	t.Helper()
	err = s.Next(t.Context(), b)
	for rest := b.Events; len(rest) > 0; {
		var e scapevent.Event
		var malformed error
		if e, rest, malformed = scapevent.Next(rest); malformed != nil {
			t.Fatal(malformed)
		}
		events = append(events, e)
	}
	if len(events) != b.Count {
		t.Fatalf("%d events are counted as %d", len(events), b.Count)
	}
	return events, err
}

func TestDice(t *testing.T) {
	p := launch(t, plugin.New(diceInfo, newDice), `{"sides":20}`)
	var schema map[string]any
	if err := json.Unmarshal([]byte(p.Describe().ConfigSchema), &schema); err != nil || !strings.Contains(p.Describe().ConfigSchema, `"Sides of the dice."`) {
		t.Errorf("%v: %s", err, p.Describe().ConfigSchema)
	}
	if can := p.Describe().Capabilities; can != (sourceplugin.Capabilities{Source: true, Extract: true}) {
		t.Errorf("%+v", can)
	}
	s := open(t, p, sourceplugin.Open{Params: `{"rolls":10000}`})
	var b sourceplugin.Batch
	sum, n := uint64(0), 0
	start := time.Now()
	for {
		events, err := next(t, s, &b)
		asked := make([]sourceplugin.Event, len(events))
		for i, e := range events {
			asked[i].Event = e
			if age := e.Time().Sub(start); age < -time.Second || age > time.Minute || e.PluginID() != 999 || e.Type() != scapevent.Plugin {
				t.Fatalf("%v %v", e.Time(), e.PluginID())
			}
		}
		values, extractErr := p.Extract(t.Context(), asked, []sourceplugin.FieldRequest{{}})
		if extractErr != nil || len(values.Counts) != len(events) || len(values.Bytes) != 8*len(events) {
			t.Fatalf("%v %+v", extractErr, values)
		}
		for i := range events {
			if values.Counts[i] != 1 || values.Bytes[8*i] < 1 || values.Bytes[8*i] > 20 {
				t.Fatalf("%q is %d", events[i].Data(), values.Bytes[8*i])
			}
			sum += uint64(values.Bytes[8*i])
		}
		n += len(events)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n != 10000 || sum < 90_000 || sum > 120_000 {
		t.Errorf("%d rolls, %d together", n, sum)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestTexts: configs and params are decoded strictly, and errors name the key and not the value.
func TestTexts(t *testing.T) {
	for text, want := range map[string]string{
		``: "", `{}`: "", `{"sides":2}`: "",
		`{"sides":1}`:          "/sides",
		`{"sides":"s3cret"}`:   "/sides",
		`{"side":6}`:           "side",
		`{"sides":6} x`:        "not JSON",
		`[]`:                   "object",
		`{"sides":-1}`:         "/sides",
		`{"sides":1` + `e400}`: "too large",
	} {
		_, err := pluginlocal.Launch(t.Context(), plugin.New(diceInfo, newDice), text)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		// Without the schema, as a host may do that does not check.
		_, start, _ := plugin.New(diceInfo, newDice).Host()
		if _, err := start(t.Context(), text); err != nil && (want == "" || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: %v", text, err)
		}
	}
	p := launch(t, plugin.New(diceInfo, newDice), "")
	for text, want := range map[string]string{`{}`: "rolls", `{"rolls":"x"}`: "/rolls", `{"rolls":1,"x":2}`: "x"} {
		if _, err := p.Open(t.Context(), sourceplugin.Open{Params: text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

type plain struct {
	open func(params string, resume []byte) (plugin.Stream, error)
}

func (p *plain) Open(_ context.Context, params string, resume []byte) (plugin.Stream, error) {
	return p.open(params, resume)
}

var plainInfo = plugin.Info{Name: "plain", Version: "1.0.0", ID: 999, EventSource: "plain", Resumes: true, AsyncNames: []string{"note"}, BatchTime: time.Second}

// stream opens a stream of a plugin that has this one only.
func stream(t *testing.T, info plugin.Info, s plugin.Stream) sourceplugin.Stream {
	t.Helper()
	p := launch(t, plugin.New(info, func(context.Context, string) (*plain, error) {
		return &plain{func(string, []byte) (plugin.Stream, error) { return s, nil }}, nil
	}), "any text")
	return open(t, p, sourceplugin.Open{Params: "any text", MaxEventBytes: 1 << 20})
}

// scripted is a stream whose batches are functions.
type scripted struct {
	steps  []func(ctx context.Context, b *plugin.Batch) error
	closed func() error
}

func (s *scripted) NextBatch(ctx context.Context, b *plugin.Batch) error {
	if len(s.steps) == 0 {
		return io.EOF
	}
	step := s.steps[0]
	s.steps = s.steps[1:]
	return step(ctx, b)
}

func (s *scripted) Close() error {
	if s.closed == nil {
		return nil
	}
	return s.closed()
}

type step = func(ctx context.Context, b *plugin.Batch) error

func TestBatch(t *testing.T) {
	at := time.Date(2026, 11, 27, 12, 0, 0, 123456789, time.UTC)
	big := bytes.Repeat([]byte("x"), 1<<20)
	s := stream(t, plainInfo, &scripted{steps: []step{
		func(_ context.Context, b *plugin.Batch) error {
			b.Add(plugin.Event{Time: at, Data: []byte("one"), Position: []byte("p1")})
			b.Append(at, func(data []byte) []byte { return fmt.Appendf(data, "t%s", "wo") })
			b.Add(plugin.Event{Time: at.AddDate(-100, 0, 0), Name: "note", Data: []byte("three")})
			b.Add(plugin.Event{Time: at.AddDate(1000, 0, 0), Data: nil})
			b.Add(plugin.Event{Data: big})
			b.Append(at, func(data []byte) []byte { return append(data, big...) })
			b.Add(plugin.Event{Data: []byte("last"), Position: []byte("p2")})
			if b.Len() != 5 || b.Full() {
				t.Errorf("%d %v", b.Len(), b.Full())
			}
			return nil
		},
		func(_ context.Context, b *plugin.Batch) error {
			if b.Len() != 0 {
				t.Errorf("%d events at first", b.Len())
			}
			b.SetPosition(nil)
			return nil
		},
		func(_ context.Context, b *plugin.Batch) error {
			b.Add(plugin.Event{Data: []byte("with the end")})
			return io.EOF
		},
	}})
	var b sourceplugin.Batch
	events, err := next(t, s, &b)
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprintf("%s/%s/%d", e.Data(), e.Name(), e.Nanos()))
	}
	want := []string{"one//" + fmt.Sprint(at.UnixNano()), "two//" + fmt.Sprint(at.UnixNano()), "three/note/0", "//9223372036854775807"}
	if err != nil || len(got) != 5 || !slices.Equal(got[:4], want) || !strings.HasPrefix(got[4], "last//") || string(b.Position) != "p2" || b.Dropped != 2 || !strings.Contains(b.DroppedReason, "1048576") {
		t.Errorf("%v %q %q %d %q", err, got, b.Position, b.Dropped, b.DroppedReason)
	}
	if events, err := next(t, s, &b); err != nil || len(events) != 0 || b.Position == nil || len(b.Position) != 0 {
		t.Errorf("%v %v %v", events, err, b.Position)
	}
	if events, err := next(t, s, &b); err != io.EOF || len(events) != 1 || b.Position != nil {
		t.Errorf("%v %v %v", events, err, b.Position)
	}
	if _, err := next(t, s, &b); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// TestWrongStreams: what a stream gets wrong is an error that says what, behind the events that
// were good.
func TestWrongStreams(t *testing.T) {
	broken := errors.New("the connection is gone")
	noResume := plainInfo
	noResume.Resumes = false
	for name, tt := range map[string]struct {
		info plugin.Info
		step step
		want string
	}{
		"error": {plainInfo, func(context.Context, *plugin.Batch) error { return broken }, broken.Error()},
		"panic": {plainInfo, func(context.Context, *plugin.Batch) error { panic("oh no") }, "panic in NextBatch: oh no"},
		"panic in write": {plainInfo, func(_ context.Context, b *plugin.Batch) error {
			b.Append(time.Time{}, func([]byte) []byte { panic("x") })
			return nil
		}, "panic in NextBatch: x"},
		"unknown name":  {plainInfo, func(_ context.Context, b *plugin.Batch) error { b.Add(plugin.Event{Name: "x"}); return nil }, `"x" is not in Info.AsyncNames`},
		"position":      {noResume, func(_ context.Context, b *plugin.Batch) error { b.SetPosition([]byte("x")); return nil }, "Info.Resumes is false"},
		"long position": {plainInfo, func(_ context.Context, b *plugin.Batch) error { b.SetPosition(make([]byte, 1<<17)); return nil }, "131072 bytes"},
		"nested": {plainInfo, func(_ context.Context, b *plugin.Batch) error {
			b.Append(time.Time{}, func(d []byte) []byte { b.Add(plugin.Event{}); return d })
			return nil
		}, "by the function that writes"},
		"no end": {plainInfo, func(_ context.Context, b *plugin.Batch) error {
			for range 1000 {
				b.Add(plugin.Event{Data: make([]byte, 1<<19)})
			}
			return nil
		}, "more than 64 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			s := stream(t, tt.info, &scripted{steps: []step{func(ctx context.Context, b *plugin.Batch) error {
				b.Add(plugin.Event{Data: []byte("good")})
				return tt.step(ctx, b)
			}}})
			var b sourceplugin.Batch
			events, err := next(t, s, &b)
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(events) < 1 || string(events[0].Data()) != "good" {
				t.Errorf("%v, %d events, want %q", err, len(events), tt.want)
			}
			if _, again := next(t, s, &b); again == nil || again.Error() != err.Error() {
				t.Errorf("then %v", again)
			}
		})
	}
}

// TestWrongDeclarations: what is wrong is told with the name of what is wrong.
func TestWrongDeclarations(t *testing.T) {
	field := plugin.Field{Name: "dice.value", Type: plugin.Uint64, Description: "d"}
	with := func(change func(*plugin.Info)) plugin.Info {
		i := diceInfo
		i.Fields = slices.Clone(i.Fields)
		change(&i)
		return i
	}
	for want, info := range map[string]plugin.Info{
		"Info.Name":                 with(func(i *plugin.Info) { i.Name = "" }),
		"Info.Version":              with(func(i *plugin.Info) { i.Version = "1\n" }),
		"both are needed":           with(func(i *plugin.Info) { i.ID = 0 }),
		"are missing":               with(func(i *plugin.Info) { i.ID, i.EventSource = 0, "" }),
		"has 0 fields":              with(func(i *plugin.Info) { i.Fields = nil }),
		"twice":                     with(func(i *plugin.Info) { i.Fields = append(i.Fields, field) }),
		"letters, digits":           with(func(i *plugin.Info) { i.Fields[0].Name = "a b" }),
		"has no Description":        with(func(i *plugin.Info) { i.Fields[0].Description = "" }),
		"has the Type 7":            with(func(i *plugin.Info) { i.Fields[0].Type = 7 }),
		"neither an Index nor":      with(func(i *plugin.Info) { i.Fields[0].Arg.Required = true }),
		`AsyncNames has "a", which`: with(func(i *plugin.Info) { i.AsyncNames = []string{"a", "a"} }),
	} {
		if err := plugin.New(info, newDice).Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := pluginlocal.Launch(t.Context(), plugin.New(info, newDice), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("launched: %v, want %q", err, want)
		}
	}
	for want, p := range map[string]*plugin.Plugin{
		"is nil":                 plugin.New[config, params, *dice](diceInfo, nil),
		"returns an interface":   plugin.New(plainInfo, func(context.Context, string) (plugin.Opener[string], error) { return nil, nil }),
		"the type of the":        plugin.New(diceInfo, func(context.Context, chan int) (*dice, error) { return nil, nil }),
		"which it does not open": plugin.NewExtractor(plugin.Info{Name: "x", Version: "1.0.0", Resumes: true, Fields: diceInfo.Fields}, newDice),
	} {
		if err := p.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := plugin.New(diceInfo, newDice).Check(); err != nil {
		t.Error(err)
	}
}

// TestWrongStarts: code of the author that fails or panics before there is a stream.
func TestWrongStarts(t *testing.T) {
	if _, err := pluginlocal.Launch(t.Context(), plugin.New(diceInfo, func(context.Context, config) (*dice, error) { panic("oh no") }), ""); err == nil || !strings.Contains(err.Error(), "panic in New: oh no") {
		t.Error(err)
	}
	for want, open := range map[string]func(string, []byte) (plugin.Stream, error){
		"panic in Open: oh no":   func(string, []byte) (plugin.Stream, error) { panic("oh no") },
		"neither a stream nor":   func(string, []byte) (plugin.Stream, error) { return nil, nil },
		"nobody is there":        func(string, []byte) (plugin.Stream, error) { return nil, errors.New("nobody is there") },
		"has no Progress method": func(string, []byte) (plugin.Stream, error) { return &scripted{}, nil },
	} {
		info := plainInfo
		info.Progress = true
		p := launch(t, plugin.New(info, func(context.Context, string) (*plain, error) { return &plain{open}, nil }), "")
		if _, err := p.Open(t.Context(), sourceplugin.Open{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestWaiting: a stream without events is asked again when the time of a batch is over, one that
// does not wait itself does not keep a processor busy, and the end of the caller's context ends
// the call.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		waits := func(ctx context.Context, b *plugin.Batch) error { calls++; <-ctx.Done(); return ctx.Err() }
		hurries := func(context.Context, *plugin.Batch) error { calls++; return nil }
		partial := func(ctx context.Context, b *plugin.Batch) error {
			b.Add(plugin.Event{Data: []byte("x")})
			<-ctx.Done()
			return ctx.Err()
		}
		s := stream(t, plainInfo, &scripted{steps: []step{waits, hurries, partial, waits}})
		start := time.Now()
		var b sourceplugin.Batch
		for i, want := range []int{0, 0, 1} {
			if events, err := next(t, s, &b); err != nil || len(events) != want {
				t.Fatalf("call %d: %d events, %v", i, len(events), err)
			}
			if took := time.Since(start); took != time.Duration(i+1)*time.Second {
				t.Errorf("call %d ended after %v", i, took)
			}
		}
		if calls != 2 {
			t.Errorf("%d calls", calls)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := s.Next(ctx, &b); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestClose: it ends a call that waits; code that does not return is left behind after a while,
// with an error that says what to do.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := 0
		s := stream(t, plainInfo, &scripted{closed: func() error { closed++; return errors.New("late") }, steps: []step{
			func(ctx context.Context, b *plugin.Batch) error { <-ctx.Done(); return ctx.Err() },
		}})
		done := make(chan error)
		go func() { var b sourceplugin.Batch; done <- s.Next(context.Background(), &b) }()
		synctest.Wait()
		start := time.Now()
		if err := s.Close(t.Context()); err == nil || err.Error() != "late" {
			t.Error(err)
		}
		<-done
		if err := s.Close(t.Context()); err == nil || time.Since(start) != 0 || closed != 1 {
			t.Errorf("%v, closed %d times after %v", err, closed, time.Since(start))
		}
		var b sourceplugin.Batch
		if err := s.Next(t.Context(), &b); err == nil {
			t.Error("a closed stream goes on")
		}

		hang := make(chan struct{})
		s = stream(t, plainInfo, &scripted{steps: []step{func(_ context.Context, b *plugin.Batch) error { <-hang; b.Add(plugin.Event{}); return nil }}})
		b.Events = make([]byte, 0, 1<<10)
		if err := s.Next(t.Context(), &b); err == nil || !strings.Contains(err.Error(), "must wait for ctx.Done()") || b.Events != nil {
			t.Error(err)
		}
		if err := s.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "does not end") {
			t.Error(err)
		}
		close(hang)
		synctest.Wait()
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		info := plainInfo
		info.BatchEvents = 10
		emitted := 0
		var late error
		s := stream(t, info, plugin.Push(func(ctx context.Context, emit func(plugin.Event) error) error {
			data := []byte("0000")
			for i := range 1000 {
				copy(data, fmt.Sprintf("%04d", i)) // emit copies
				if err := emit(plugin.Event{Data: data, Position: data}); err != nil {
					return err
				}
				emitted++
				if i == 500 {
					time.Sleep(time.Hour)
				}
			}
			return nil
		}))
		start := time.Now()
		var b sourceplugin.Batch
		n, batches := 0, 0
		for {
			events, err := next(t, s, &b)
			for _, e := range events {
				if want := fmt.Sprintf("%04d", n); string(e.Data()) != want {
					t.Fatalf("%q, want %q", e.Data(), want)
				}
				n++
			}
			if len(events) > 10 || len(events) > 0 && string(b.Position) != fmt.Sprintf("%04d", n-1) {
				t.Fatalf("%d events, %q", len(events), b.Position)
			}
			if len(events) > 0 {
				batches++
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if n != 1000 || emitted != 1000 || batches > 900 || time.Since(start) != time.Hour {
			t.Errorf("%d of %d events in %d batches within %v", n, emitted, batches, time.Since(start))
		}

		// Close ends emit that waits; what fails, fails; what is wrong is told to who emits.
		s = stream(t, info, plugin.Push(func(ctx context.Context, emit func(plugin.Event) error) error {
			for late == nil {
				late = emit(plugin.Event{})
			}
			return late
		}))
		if _, err := next(t, s, &b); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if err := s.Close(t.Context()); err != nil || !errors.Is(late, context.Canceled) {
			t.Errorf("%v, %v", err, late)
		}
		for want, run := range map[string]func(context.Context, func(plugin.Event) error) error{
			"broken":                           func(context.Context, func(plugin.Event) error) error { return errors.New("broken") },
			"panic in the function of Push: x": func(context.Context, func(plugin.Event) error) error { panic("x") },
			`"bad" is not in`:                  func(_ context.Context, emit func(plugin.Event) error) error { return emit(plugin.Event{Name: "bad"}) },
		} {
			s := stream(t, info, plugin.Push(run))
			if _, err := next(t, s, &b); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			_ = s.Close(t.Context())
		}
	})
}

// all is a plugin that can do everything.
type all struct {
	dice
	extract func(e *plugin.Event, fields []plugin.Request) error
	acked   chan string
	closed  *bool
}

func (a *all) Open(context.Context, params, []byte) (plugin.Stream, error) {
	return &progressing{acked: a.acked}, nil
}
func (a *all) Extract(_ context.Context, e *plugin.Event, fields []plugin.Request) error {
	return a.extract(e, fields)
}
func (a *all) String(e *plugin.Event) (string, error) {
	if e.Number == 13 {
		return "", errors.New("unlucky")
	}
	return "roll " + string(e.Data), nil
}
func (a *all) OpenParams(context.Context) ([]plugin.OpenParam[params], error) {
	return []plugin.OpenParam[params]{{Params: params{Rolls: 7}, Description: "seven <rolls>"}}, nil
}
func (a *all) Metrics() []plugin.Metric {
	return []plugin.Metric{{Name: "rolls", Value: 2, Monotonic: true}}
}
func (a *all) SetConfig(_ context.Context, c config) error {
	if c.Sides == 13 {
		return errors.New("unlucky")
	}
	a.config = c
	return nil
}
func (a *all) Close() error { *a.closed = true; return nil }

type progressing struct {
	scripted
	acked chan string
}

func (p *progressing) Progress() (float64, string) { return 1.5, "nearly\xff" }
func (p *progressing) Acknowledge(_ context.Context, position []byte) error {
	p.acked <- string(position)
	return nil
}

var allInfo = plugin.Info{
	Name: "all", Version: "1.0.0", ID: 999, EventSource: "dice", Resumes: true, Progress: true,
	Fields: []plugin.Field{
		{Name: "f.number", Type: plugin.Uint64, Description: "d", List: true}, {Name: "f.text", Type: plugin.Text, Description: "d"},
		{Name: "f.time", Type: plugin.AbsTime, Description: "d"}, {Name: "f.duration", Type: plugin.RelTime, Description: "d"}, {Name: "f.bool", Type: plugin.Bool, Description: "d", List: true},
		{Name: "f.addr", Type: plugin.IPAddr, Description: "d", List: true}, {Name: "f.net", Type: plugin.IPNet, Description: "d"},
		{Name: "f.arg", Type: plugin.Text, Description: "d", Arg: plugin.Arg{Key: true, Index: true, Required: true}},
	},
}

func TestEverything(t *testing.T) {
	a := &all{acked: make(chan string, 1), closed: new(bool)}
	running, err := pluginlocal.Launch(t.Context(), plugin.New(allInfo, func(_ context.Context, c config) (*all, error) { a.config = c; return a, nil }), "")
	if err != nil {
		t.Fatal(err)
	}
	want := sourceplugin.Capabilities{Source: true, Extract: true, OpenParams: true, Strings: true, Progress: true, Metrics: true, SetConfig: true, Resume: true}
	if got := running.Describe().Capabilities; got != want {
		t.Errorf("%+v", got)
	}
	if list, err := running.OpenParams(t.Context()); err != nil || len(list) != 1 || list[0] != (sourceplugin.OpenParam{Value: `{"rolls":7}`, Description: "seven <rolls>"}) {
		t.Errorf("%v %v", list, err)
	}
	if m, err := running.Metrics(t.Context()); err != nil || len(m) != 1 || m[0] != (sourceplugin.Metric{Name: "rolls", Value: 2, Monotonic: true}) {
		t.Errorf("%v %v", m, err)
	}
	for text, want := range map[string]string{`{"sides":4}`: "", `{"sides":13}`: "unlucky", `{"sides":1}`: "/sides"} {
		if err := running.SetConfig(t.Context(), text); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if a.Sides != 4 {
		t.Errorf("%d sides", a.Sides)
	}
	events := []sourceplugin.Event{{Event: scapevent.Append(nil, 999, 5, []byte("4")), Number: 12}, {Event: scapevent.AppendAsync(nil, 999, 5, "n", []byte("x"))}}
	if s, err := running.Strings(t.Context(), events); err != nil || !slices.Equal(s, []string{"roll 4", "roll x"}) {
		t.Errorf("%q %v", s, err)
	}
	events[0].Number = 13
	if _, err := running.Strings(t.Context(), events); err == nil || !strings.Contains(err.Error(), "event 1: unlucky") {
		t.Error(err)
	}
	s := open(t, running, sourceplugin.Open{Params: `{"rolls":1}`})
	if p, err := s.Progress(t.Context()); err != nil || p != (sourceplugin.Progress{Fraction: 1, Text: "nearly\uFFFD"}) {
		t.Errorf("%+v %v", p, err)
	}
	if err := s.Acknowledge(t.Context(), []byte("p")); err != nil || <-a.acked != "p" {
		t.Error(err)
	}
	if err := running.Close(t.Context()); err != nil || !*a.closed {
		t.Errorf("%v %v", err, *a.closed)
	}
	if _, err := running.Open(t.Context(), sourceplugin.Open{Params: `{"rolls":1}`}); err == nil {
		t.Error("a closed plugin opens a stream")
	}
}

func TestExtract(t *testing.T) {
	a := &all{closed: new(bool)}
	running := launch(t, plugin.New(allInfo, func(context.Context, config) (*all, error) { return a, nil }), "")
	events := []sourceplugin.Event{
		{Event: scapevent.Append(nil, 999, 5, []byte("payload"))}, {Event: scapevent.AppendAsync(nil, 999, 5, "n", []byte("x")), Source: "dice"},
	}
	var requests []sourceplugin.FieldRequest
	for i := range allInfo.Fields[:7] {
		requests = append(requests, sourceplugin.FieldRequest{Index: i})
	}
	requests = append(requests, sourceplugin.FieldRequest{Index: 7, Arg: "3", ArgIndex: 3, ArgPresent: true})
	a.extract = func(e *plugin.Event, fields []plugin.Request) error {
		if e.Name == "n" {
			if e.Source != "dice" || string(e.Data) != "x" {
				t.Errorf("%+v", e)
			}
			fields[4].SetBool(false)
			return nil
		}
		// In another order than asked.
		fields[7].SetText(fields[7].Name + "\xff" + fields[7].Arg + fmt.Sprint(fields[7].Index, fields[7].HasArg))
		fields[0].SetUint64(1, 2)
		fields[0].SetUint64(3)
		fields[0].At(2, 5)
		fields[2].SetTime(time.Unix(0, 77))
		fields[3].SetDuration(-time.Second)
		fields[4].SetBool(true, false)
		fields[5].SetAddr(netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("2001:db8::1"))
		fields[6].SetPrefix(netip.MustParsePrefix("10.0.0.0/8"))
		return nil
	}
	v, err := running.Extract(t.Context(), events, requests)
	if err != nil {
		t.Fatal(err)
	}
	if want := []uint32{3, 0, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0}; !slices.Equal(v.Counts, want) {
		t.Errorf("counts %v", v.Counts)
	}
	text := "f.arg\uFFFD33 true"
	if want := []uint32{8, 8, 8, 8, 8, 1, 1, 4, 16, 10, uint32(len(text)), 1}; !slices.Equal(v.Lengths, want) {
		t.Errorf("lengths %v", v.Lengths)
	}
	offsets := make([]uint32, 2*len(v.Lengths))
	offsets[4], offsets[5] = scapevent.PayloadOffset+2, 5
	if !slices.Equal(v.Offsets, offsets) {
		t.Errorf("offsets %v", v.Offsets)
	}
	want := []byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 10, 0, 0, 1}
	want = append(append(append(want, netip.MustParseAddr("2001:db8::1").AsSlice()...), "10.0.0.0/8"+text...), 0)
	if !bytes.Equal(v.Bytes, want) {
		t.Errorf("%q\n%q", v.Bytes, want)
	}
	for want, extract := range map[string]func(e *plugin.Event, f []plugin.Request) error{
		"the field f.text has the type string, and was set to one of type uint64": func(_ *plugin.Event, f []plugin.Request) error { f[1].SetUint64(1); return nil },
		"the field f.text is no list, and was set to 2 values":                    func(_ *plugin.Event, f []plugin.Request) error { f[1].SetText("a"); f[1].SetText("b"); return nil },
		"the field f.text lies at 3 to 8 of a payload of 7 bytes":                 func(_ *plugin.Event, f []plugin.Request) error { f[1].SetText("a"); f[1].At(3, 5); return nil },
		"before it was set":                    func(_ *plugin.Event, f []plugin.Request) error { f[1].At(0, 0); return nil },
		"the field f.addr has an address that": func(_ *plugin.Event, f []plugin.Request) error { f[5].SetAddr(netip.Addr{}); return nil },
		"the field f.net has a network that":   func(_ *plugin.Event, f []plugin.Request) error { f[6].SetPrefix(netip.Prefix{}); return nil },
		"event 1: broken":                      func(*plugin.Event, []plugin.Request) error { return errors.New("broken") },
		"panic in Extract":                     func(_ *plugin.Event, f []plugin.Request) error { f[99].SetText("x"); return nil },
	} {
		a.extract = extract
		if _, err := running.Extract(t.Context(), events, requests); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	a.extract = func(*plugin.Event, []plugin.Request) error { return nil }
	for want, r := range map[string]sourceplugin.FieldRequest{
		"takes no argument": {Index: 1, ArgPresent: true}, "needs an argument": {Index: 7}, "no field number 8": {Index: 8}, "no field number -1": {Index: -1},
	} {
		if _, err := running.Extract(t.Context(), events, []sourceplugin.FieldRequest{r}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestExtractor(t *testing.T) {
	running := launch(t, plugin.NewExtractor(plugin.Info{Name: "x", Version: "1.0.0", ExtractSources: []string{"dice"}, Fields: diceInfo.Fields}, newDice), "")
	if d := running.Describe(); d.Capabilities != (sourceplugin.Capabilities{Extract: true}) || d.ID != 0 || !slices.Equal(d.ExtractSources, []string{"dice"}) {
		t.Errorf("%+v", d)
	}
	for name, err := range map[string]error{
		"Open":       func() error { _, err := running.Open(t.Context(), sourceplugin.Open{}); return err }(),
		"Strings":    func() error { _, err := running.Strings(t.Context(), nil); return err }(),
		"OpenParams": func() error { _, err := running.OpenParams(t.Context()); return err }(),
		"SetConfig":  running.SetConfig(t.Context(), ""),
	} {
		if !errors.Is(err, sourceplugin.ErrNotSupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// trivial is a stream of events of 16 bytes.
type trivial struct{ left int }

func (s *trivial) NextBatch(_ context.Context, b *plugin.Batch) error {
	for ; !b.Full(); s.left-- {
		if s.left == 0 {
			return io.EOF
		}
		b.Add(plugin.Event{Data: sixteen})
	}
	return nil
}

func (*trivial) Close() error { return nil }

var sixteen = []byte("0123456789abcdef")

func BenchmarkStream(b *testing.B) {
	p, err := pluginlocal.Launch(b.Context(), plugin.New(plainInfo, func(context.Context, string) (*plain, error) {
		return &plain{func(string, []byte) (plugin.Stream, error) { return &trivial{b.N}, nil }}, nil
	}), "")
	if err != nil {
		b.Fatal(err)
	}
	s, err := p.Open(b.Context(), sourceplugin.Open{})
	if err != nil {
		b.Fatal(err)
	}
	var batch sourceplugin.Batch
	n := 0
	b.ReportAllocs()
	for err == nil {
		err = s.Next(b.Context(), &batch)
		n += batch.Count
	}
	if n != b.N || err != io.EOF {
		b.Fatal(n, err)
	}
	_ = p.Close(b.Context())
}
