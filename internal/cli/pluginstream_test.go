package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// scriptedPlugin is a plugin whose stream returns what a test says.
type scriptedPlugin struct {
	description sourceplugin.Description
	next        func(ctx context.Context, call int, b *sourceplugin.Batch) error
	strings     func(events []sourceplugin.Event) ([]string, error)
	extract     func(events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (sourceplugin.Values, error)
	progress    func() (sourceplugin.Progress, error)

	calls        int
	opened       sourceplugin.Open
	acknowledged [][]byte
	closed       bool
}

func (p *scriptedPlugin) Describe() *sourceplugin.Description { return &p.description }
func (p *scriptedPlugin) OpenParams(context.Context) ([]sourceplugin.OpenParam, error) {
	return nil, sourceplugin.ErrNotSupported
}
func (p *scriptedPlugin) Open(_ context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	if o.Params == "refused" {
		return nil, errors.New("plugin t: no such thing")
	}
	p.opened = o
	return scriptedStream{p}, nil
}
func (p *scriptedPlugin) Strings(_ context.Context, events []sourceplugin.Event) ([]string, error) {
	if p.strings == nil {
		return nil, sourceplugin.ErrNotSupported
	}
	return p.strings(events)
}
func (p *scriptedPlugin) Extract(_ context.Context, events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
	return p.extract(events, fields)
}
func (p *scriptedPlugin) Metrics(context.Context) ([]sourceplugin.Metric, error) {
	return nil, sourceplugin.ErrNotSupported
}
func (p *scriptedPlugin) SetConfig(context.Context, string) error {
	return sourceplugin.ErrNotSupported
}
func (p *scriptedPlugin) Close(context.Context) error { return nil }

type scriptedStream struct{ p *scriptedPlugin }

func (s scriptedStream) Next(ctx context.Context, b *sourceplugin.Batch) error {
	s.p.calls++
	return s.p.next(ctx, s.p.calls, b)
}
func (s scriptedStream) Acknowledge(_ context.Context, position []byte) error {
	s.p.acknowledged = append(s.p.acknowledged, bytes.Clone(position))
	return nil
}
func (s scriptedStream) Progress(context.Context) (sourceplugin.Progress, error) {
	return s.p.progress()
}
func (s scriptedStream) Close(context.Context) error { s.p.closed = true; return nil }

// scripted returns a plugin with a stream of batches and what ends it.
func scripted(end error, batches ...sourceplugin.Batch) *scriptedPlugin {
	return &scriptedPlugin{
		description: sourceplugin.Description{Name: "t", EventSource: "src", ID: 5, Fields: []sourceplugin.Field{
			{Name: "t.len", Type: sourceplugin.Uint64},
			{Name: "t.key", Type: sourceplugin.String, Arg: sourceplugin.ArgRule{Key: true}},
		}, Capabilities: sourceplugin.Capabilities{Source: true, Extract: true}},
		next: func(_ context.Context, call int, b *sourceplugin.Batch) error {
			if call <= len(batches) {
				*b = batches[call-1]
			}
			if call >= len(batches) {
				return end
			}
			return nil
		},
		// The length, and the key for events that are not empty.
		extract: func(events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (v sourceplugin.Values, _ error) {
			for _, e := range events {
				for _, f := range fields {
					switch {
					case f.Index == 0:
						v.Bytes = binary.LittleEndian.AppendUint64(v.Bytes, uint64(len(e.Data())))
						v.Lengths, v.Counts = append(v.Lengths, 8), append(v.Counts, 1)
					case len(e.Data()) > 0:
						v.Bytes = append(v.Bytes, f.Arg...)
						v.Lengths, v.Counts = append(v.Lengths, uint32(len(f.Arg))), append(v.Counts, 1)
					default:
						v.Counts = append(v.Counts, 0)
					}
				}
			}
			return v, nil
		},
	}
}

// batchOf makes a batch of payloads, whose times are their numbers.
func batchOf(first int, payloads ...string) (b sourceplugin.Batch) {
	for i, p := range payloads {
		b.Events = scapevent.Append(b.Events, 5, uint64(first+i), []byte(p))
	}
	b.Count = len(payloads)
	return b
}

func (p *scriptedPlugin) run(t testing.TB, ctx context.Context, change func(*streamRun)) (string, *streamRun, error) {
	t.Helper()
	var out strings.Builder
	r := &streamRun{plugin: p, description: &p.description, name: "t", out: &out, progress: io.Discard}
	if change != nil {
		change(r)
	}
	err := r.run(ctx, "params")
	return out.String(), r, err
}

func fieldsOf(r *streamRun) {
	r.requests = []sourceplugin.FieldRequest{{Index: 0}, {Index: 1, Arg: "k v", ArgPresent: true}}
}

func TestStreamText(t *testing.T) {
	batch := batchOf(1, "one", "", "\xff\x00")
	batch.Events = scapevent.AppendAsync(batch.Events, 5, 4, "alarm", []byte("now\n"))
	batch.Count++
	p := scripted(io.EOF, batch)
	got, _, err := p.run(t, t.Context(), fieldsOf)
	want := `1 1970-01-01T00:00:00.000000001Z src one  t.len=3  t.key["k v"]=k v
2 1970-01-01T00:00:00.000000002Z src   t.len=0  t.key["k v"]=<NA>
3 1970-01-01T00:00:00.000000003Z src ff00  t.len=2  t.key["k v"]=k v
4 1970-01-01T00:00:00.000000004Z src/alarm now` + visible("\n") + `  t.len=4  t.key["k v"]=k v
`
	if err != nil || got != want || p.opened.Params != "params" || p.opened.Resume != nil || !p.closed {
		t.Errorf("%v\n%s\n%s", err, got, want)
	}
}

func TestStreamStrings(t *testing.T) {
	p := scripted(io.EOF, batchOf(1, "a", "b"))
	p.strings = func(events []sourceplugin.Event) (texts []string, _ error) {
		for _, e := range events {
			texts = append(texts, fmt.Sprintf("#%d of %s: %s\x1b[31m", e.Number, e.Source, e.Data()))
		}
		return texts, nil
	}
	got, _, err := p.run(t, t.Context(), nil)
	if err != nil || !strings.Contains(got, "src #2 of src: b") || strings.Contains(got, "\x1b") {
		t.Errorf("%v\n%s", err, got)
	}
	p = scripted(io.EOF, batchOf(1, "a", "b"))
	p.strings = func([]sourceplugin.Event) ([]string, error) { return []string{"a"}, nil }
	if _, _, err := p.run(t, t.Context(), nil); err == nil || !strings.Contains(err.Error(), "1 texts for 2 events") {
		t.Error(err)
	}
}

func TestStreamJSON(t *testing.T) {
	batch := batchOf(1, `{"a":1}`, "\xff")
	batch.Events = scapevent.AppendAsync(batch.Events, 5, 4, "alarm", nil)
	batch.Count++
	got, _, err := scripted(io.EOF, batch).run(t, t.Context(), func(r *streamRun) { r.json = true; fieldsOf(r) })
	want := `{"number":1,"time":"1970-01-01T00:00:00.000000001Z","plugin":"t","plugin_id":5,"event_source":"src","data":"{\"a\":1}","fields":{"t.len":7,"t.key[\"k v\"]":"k v"}}
{"number":2,"time":"1970-01-01T00:00:00.000000002Z","plugin":"t","plugin_id":5,"event_source":"src","data_base64":"/w==","fields":{"t.len":1,"t.key[\"k v\"]":"k v"}}
{"number":3,"time":"1970-01-01T00:00:00.000000004Z","plugin":"t","plugin_id":5,"event_source":"src","async":"alarm","data":"","fields":{"t.len":0,"t.key[\"k v\"]":null}}
`
	if err != nil || got != want {
		t.Errorf("%v\n%s\n%s", err, got, want)
	}
}

// The events of a batch come before the error that it ends with.
func TestStreamEnds(t *testing.T) {
	broken := errors.New("plugin t: the disk is gone")
	for name, tc := range map[string]struct {
		p      *scriptedPlugin
		change func(*streamRun)
		events int
		want   string // "" for success
		code   bool   // incomplete
	}{
		"end":           {p: scripted(io.EOF, batchOf(1, "a"), batchOf(2, "b")), events: 2},
		"nothing":       {p: scripted(io.EOF)},
		"failure":       {p: scripted(broken, batchOf(1, "a"), batchOf(2, "b")), events: 2, want: "the disk is gone"},
		"count":         {p: scripted(io.EOF, batchOf(1, "a", "b", "c"), batchOf(4, "d")), change: func(r *streamRun) { r.count = 2 }, events: 2},
		"count, failed": {p: scripted(broken, batchOf(1, "a", "b")), change: func(r *streamRun) { r.count = 2 }, events: 2},
		"dropped":       {p: scripted(io.EOF, sourceplugin.Batch{Dropped: 2, DroppedReason: "too large"}), want: "2 events were left out: too large.", code: true},
		"lies":          {p: scripted(io.EOF, sourceplugin.Batch{Events: []byte("no event"), Count: 1}), want: "malformed event"},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := tc.p.run(t, t.Context(), tc.change)
			if n := strings.Count(got, "\n"); n != tc.events || (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) || !tc.p.closed {
				t.Errorf("%v\n%s", err, got)
			}
			if _, incomplete := errors.AsType[*incompleteError](err); incomplete != tc.code {
				t.Errorf("%T", err)
			}
		})
	}
	p := scripted(io.EOF, batchOf(1, "a"))
	p.extract = func([]sourceplugin.Event, []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
		return sourceplugin.Values{Counts: []uint32{9, 9}}, nil
	}
	if _, _, err := p.run(t, t.Context(), fieldsOf); err == nil || !strings.Contains(err.Error(), "make no sense") {
		t.Error(err)
	}
	r := &streamRun{plugin: p, description: &p.description, out: io.Discard, progress: io.Discard}
	if err := r.run(t.Context(), "refused"); err == nil || !strings.Contains(err.Error(), "open the stream: plugin t: no such thing") {
		t.Error(err)
	}
}

// Many events are asked about in several calls.
func TestStreamChunks(t *testing.T) {
	payloads := make([]string, 3*chunkEvents+1)
	p := scripted(io.EOF, batchOf(1, payloads...))
	var sizes []int
	extract := p.extract
	p.extract = func(events []sourceplugin.Event, fields []sourceplugin.FieldRequest) (sourceplugin.Values, error) {
		sizes = append(sizes, len(events))
		return extract(events, fields)
	}
	got, r, err := p.run(t, t.Context(), fieldsOf)
	if err != nil || fmt.Sprint(sizes) != fmt.Sprint([]int{chunkEvents, chunkEvents, chunkEvents, 1}) || strings.Count(got, "\n") != len(payloads) || r.number != uint64(len(payloads)) {
		t.Error(sizes, r.number, err)
	}
}

// Ctrl-C ends a stream that waits, and what was captured is there.
func TestStreamStopped(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	p := scripted(nil, batchOf(1, "a"))
	first := p.next
	p.next = func(ctx context.Context, call int, b *sourceplugin.Batch) error {
		if call == 1 {
			return first(ctx, call, b)
		}
		stop()
		<-ctx.Done()
		return errors.New("rpc error: code = Canceled")
	}
	name := filepath.Join(t.TempDir(), "a.scap")
	file, err := capture.Create(name, false, capture.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := p.run(t, ctx, func(r *streamRun) { r.file = file })
	if !errors.Is(err, errStopped) || !strings.HasSuffix(got, " src a\n") || !p.closed {
		t.Errorf("%v %s", err, got)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(name); err != nil || !bytes.Contains(data, scapevent.Append(nil, 5, 1, []byte("a"))) {
		t.Errorf("%x %v", data, err)
	}
}

// A batch with a position is acknowledged when it is printed.
func TestStreamAcknowledges(t *testing.T) {
	first, second := batchOf(1, "a"), batchOf(2, "b")
	first.Position, second.Position = []byte("one"), []byte("two")
	p := scripted(io.EOF, first, second, sourceplugin.Batch{})
	if _, _, err := p.run(t, t.Context(), nil); err != nil || fmt.Sprintf("%s", p.acknowledged) != "[one two]" {
		t.Errorf("%s %v", p.acknowledged, err)
	}
}

// An output that nobody reads any more ends it.
func TestStreamClosedOutput(t *testing.T) {
	p := scripted(nil, batchOf(1, "a"), batchOf(2, "b"))
	_, _, err := p.run(t, t.Context(), func(r *streamRun) {
		reader, writer := io.Pipe()
		reader.Close()
		r.out = writer
	})
	if !isClosedOutput(err) || p.calls != 1 {
		t.Errorf("%v after %d", err, p.calls)
	}
}

func TestStreamProgress(t *testing.T) {
	for want, p := range map[string]sourceplugin.Progress{
		"0.0 %":                              {},
		"12.3 % · 123/1000":                  {Fraction: 0.123, Text: "123/1000"},
		"100.0 %":                            {Fraction: 7, Text: "100.0 %"},
		"50.0 % · a" + visible("\x1b") + "b": {Fraction: 0.5, Text: "a\x1bb"},
	} {
		if got := streamProgress(p); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestParamText(t *testing.T) {
	file := filepath.Join(t.TempDir(), "params")
	if err := os.WriteFile(file, []byte("{\"a\": 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{"": "", "x": "x", "@" + file: `{"a": 1}`, "@-": "in"} {
		if got, err := paramText("open", value, strings.NewReader("in\n")); err != nil || got != want {
			t.Errorf("%s: %q %v", value, got, err)
		}
	}
	if _, err := paramText("open", "@"+file+"x", nil); err == nil || !strings.Contains(err.Error(), "--open: ") {
		t.Error(err)
	}
	if _, err := paramText("open", "@-", strings.NewReader(strings.Repeat("x", maxParamBytes+1))); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}
