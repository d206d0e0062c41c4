package eventinput

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ fields.Record = (*Record)(nil)

// kept collects records.
type kept struct{ records []*Record }

func (k *kept) emit(r *Record) error {
	k.records = append(k.records, r)
	return nil
}

func (k *kept) ids() (ids []string) {
	for _, r := range k.records {
		for i := range r.Len() {
			ids = append(ids, r.Event(i).ID)
		}
	}
	return ids
}

func TestCollector(t *testing.T) {
	var k kept
	c := NewCollector(k.emit)
	if err := c.Flush(); err != nil || len(k.records) != 0 {
		t.Fatal("a record without events")
	}
	for i := range maxEvents + 3 {
		if err := c.Add(&event.Event{ID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.records) != 1 || k.records[0].Len() != maxEvents {
		t.Fatalf("%d records", len(k.records))
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, maxBytes)
	for range 2 {
		if err := c.Add(&event.Event{Data: big}); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.records) != 4 || k.records[3].Len() != 1 {
		t.Errorf("%d records", len(k.records))
	}
	if a, b := k.records[0].Position(5), k.records[1].Position(0); a.Compare(b) >= 0 || a == k.records[1].Position(5) {
		t.Errorf("positions %v, %v", a, b)
	}
	var few kept
	c = NewCollector(few.emit)
	c.Limit(2)
	one, two := c.Add(&event.Event{ID: "1"}), c.Add(&event.Event{ID: "2"})
	if one != nil || !errors.Is(two, ErrEnough) || fmt.Sprint(few.ids()) != "[1 2]" {
		t.Error(one, two, few.ids())
	}
	failed := errors.New("no")
	c = NewCollector(func(*Record) error { return failed })
	if err := c.Add(&event.Event{}); err != nil {
		t.Error(err)
	}
	if err := c.Flush(); !errors.Is(err, failed) {
		t.Error(err)
	}
}

func TestCloudEvents(t *testing.T) {
	one := `{"specversion":"1.0","id":"1","source":"s","type":"a/b"}`
	input := one + "\n\n  \n{}\nnonsense\r\n" + strings.Replace(one, `"1",`, `"2",`, 1)
	var k kept
	var bad []int
	err := CloudEvents(t.Context(), strings.NewReader(input), NewCollector(k.emit), func(line int, err error) error {
		bad = append(bad, line)
		return nil
	})
	if fmt.Sprint(k.ids(), bad, err) != "[1 2] [4 5] <nil>" {
		t.Error(k.ids(), bad, err)
	}
	enough := errors.New("enough")
	if err := CloudEvents(t.Context(), strings.NewReader(input), NewCollector(k.emit), func(int, error) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
	if err := CloudEvents(t.Context(), io.MultiReader(strings.NewReader(one), failing{enough}), NewCollector(k.emit), nil); !errors.Is(err, enough) {
		t.Error(err)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if err := CloudEvents(ended, strings.NewReader(input), NewCollector(k.emit), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A line without an end is not kept.
func TestLongLine(t *testing.T) {
	one := `{"specversion":"1.0","id":"1","source":"s","type":"a/b"}` + "\n"
	long := io.MultiReader(strings.NewReader(one), io.LimitReader(endless{}, maxLineBytes+1<<20), strings.NewReader("\n"+one))
	var k kept
	var told []error
	err := CloudEvents(t.Context(), long, NewCollector(k.emit), func(line int, err error) error {
		if line != 2 {
			t.Errorf("line %d", line)
		}
		told = append(told, err)
		return nil
	})
	if err != nil || len(k.ids()) != 2 || len(told) != 1 || !errors.Is(told[0], ErrLineTooLong) {
		t.Error(err, k.ids(), told)
	}
}

type endless struct{}

var xs = bytes.Repeat([]byte("x"), 1<<20)

func (endless) Read(p []byte) (int, error) {
	n := copy(p, xs)
	return n, nil
}

func FuzzCloudEvents(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"a/b"}` + "\n{}\n"))
	f.Add([]byte("\n\n\r\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		var k kept
		lines := bytes.Count(input, []byte("\n")) + 1
		bad := 0
		err := CloudEvents(t.Context(), bytes.NewReader(input), NewCollector(k.emit), func(line int, err error) error {
			if line < 1 || line > lines || err == nil {
				t.Errorf("line %d of %d: %v", line, lines, err)
			}
			bad++
			return nil
		})
		if err != nil || bad+len(k.ids()) > lines {
			t.Errorf("%v, %d lines, %d bad, %d events", err, lines, bad, len(k.ids()))
		}
	})
}

func TestAuditLog(t *testing.T) {
	file, err := os.Open("../../test/acceptance/testdata/audit.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var k kept
	stats, err := AuditLog(t.Context(), io.MultiReader(strings.NewReader("nonsense\n"), file), vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "v"}), NewCollector(k.emit))
	kinds := make(map[string]int)
	for _, r := range k.records {
		for i := range r.Len() {
			kinds[r.Event(i).Type]++
		}
	}
	if err != nil || stats.Quarantined != 1 || kinds["audit/response"] == 0 || kinds["kv-v2/data-write"] == 0 || kinds["audit/quarantined"] != 1 {
		t.Errorf("%v %+v %v", err, stats, kinds)
	}
}

// The events of a capture are those of the plugins that are said, with their names.
func TestCapture(t *testing.T) {
	open := func() *capture.Reader {
		content, err := os.ReadFile("../capture/testdata/falco-real.scap")
		if err != nil {
			t.Fatal(err)
		}
		r, err := capture.NewReader(bytes.NewReader(content), capture.ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	replay := falcoevent.NewReplay("x", "", "", nil)
	replay.Plugins(&sourceplugin.Description{Name: "mine", Version: "1.0.0", ID: 1, EventSource: "mine_source"})
	var k kept
	seen := 0
	err := Capture(t.Context(), open(), replay, NewCollector(k.emit), func(*capture.Record) { seen++ }, func(_ *capture.Record, err error) { t.Error(err) })
	if err != nil || seen != 10 || len(k.ids()) != 10 {
		t.Fatal(err, seen, len(k.ids()))
	}
	e := k.records[0].Event(9)
	if name, _ := e.Metadata.Text(falcoevent.MetadataPlugin); e.Type != "falco/mine_source" || name != "mine" {
		t.Errorf("%s of %s", e.Type, name)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	err = Capture(ended, open(), replay, NewCollector(k.emit), func(*capture.Record) {}, func(*capture.Record, error) {})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// plugin is a source plugin in memory. Its streams give batches until the script is over.
type plugin struct {
	sourceplugin.Plugin
	about  sourceplugin.Description
	script func(*stream) (batches [][]int, end error)
	last   *stream
	refuse error
}

func (p *plugin) Describe() *sourceplugin.Description { return &p.about }

func (p *plugin) Open(_ context.Context, o sourceplugin.Open) (sourceplugin.Stream, error) {
	if p.refuse != nil {
		return nil, p.refuse
	}
	p.last = &stream{plugin: p, params: o.Params}
	p.last.batches, p.last.end = p.script(p.last)
	return p.last, nil
}

type stream struct {
	plugin       *plugin
	params       string
	batches      [][]int
	end          error // nil: it waits
	acknowledged atomic.Value
	closed       atomic.Bool
}

func (s *stream) Next(ctx context.Context, b *sourceplugin.Batch) error {
	if len(s.batches) == 0 {
		if s.end != nil {
			return s.end
		}
		<-ctx.Done()
		return ctx.Err()
	}
	for _, n := range s.batches[0] {
		b.Events = scapevent.Append(b.Events, s.plugin.about.ID, uint64(n+1), fmt.Appendf(nil, "%s %d", s.plugin.about.Name, n))
		b.Count++
	}
	b.Position = fmt.Appendf(nil, "%d", s.batches[0][len(s.batches[0])-1])
	s.batches = s.batches[1:]
	return nil
}

func (s *stream) Acknowledge(_ context.Context, position []byte) error {
	s.acknowledged.Store(string(position))
	return nil
}

func (s *stream) Progress(context.Context) (sourceplugin.Progress, error) {
	return sourceplugin.Progress{}, sourceplugin.ErrNotSupported
}

func (s *stream) Close(context.Context) error {
	s.closed.Store(true)
	return nil
}

func fake(name string, id uint32, script func(*stream) ([][]int, error)) *plugin {
	return &plugin{about: sourceplugin.Description{Name: name, ID: id, EventSource: name + "_source"}, script: script}
}

// Streams are read beside each other, each in its order; the failure of one is told and ends no
// other, and all are closed.
func TestStreams(t *testing.T) {
	failure := errors.New("it broke")
	good := fake("good", 7, func(*stream) ([][]int, error) { return [][]int{{0, 1}, {2}, {3, 4, 5}}, io.EOF })
	bad := fake("bad", 8, func(*stream) ([][]int, error) { return [][]int{{0}}, failure })
	none := fake("none", 9, nil)
	none.refuse = errors.New("no such params")
	var k kept
	ended := make(map[string]error)
	err := Streams(t.Context(), []Stream{{Plugin: good, Params: "x"}, {Plugin: bad}, {Plugin: none}}, NewCollector(k.emit), func(s Stream, err error) {
		ended[s.Plugin.Describe().Name] = err
	}, func(Stream, int, string) { t.Error("nothing is left out") })
	if err != nil || len(ended) != 3 || ended["good"] != nil || !errors.Is(ended["bad"], failure) || !errors.Is(ended["none"], none.refuse) {
		t.Errorf("%v, %v", err, ended)
	}
	texts := make(map[string]string)
	for _, r := range k.records {
		for i := range r.Len() {
			name, number, _ := strings.Cut(string(r.Event(i).Data), " ")
			texts[name] += number
			if r.Event(i).Type != "falco/"+name+"_source" {
				t.Error(r.Event(i).Type)
			}
		}
	}
	if texts["good"] != "012345" || texts["bad"] != "0" || !good.last.closed.Load() || !bad.last.closed.Load() || good.last.params != "x" {
		t.Errorf("%v", texts)
	}
	ids := make(map[string]bool)
	for _, id := range k.ids() {
		ids[id] = true
	}
	if len(ids) != 7 {
		t.Errorf("%d ids", len(ids))
	}
}

// What is there is handed on while a stream waits, and told to it; the end of ctx, and a failure
// of who judges, end all.
func TestWaitingStreams(t *testing.T) {
	waiting := fake("w", 7, func(*stream) ([][]int, error) { return [][]int{{0}, {1}}, nil })
	ctx, stop := context.WithCancel(t.Context())
	n := 0
	c := NewCollector(func(r *Record) error {
		if n += r.Len(); n == 2 {
			go func() {
				for deadline := time.Now().Add(time.Minute); waiting.last.acknowledged.Load() != "1" && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond)
				}
				stop()
			}()
		}
		return nil
	})
	err := Streams(ctx, []Stream{{Plugin: waiting}}, c, func(_ Stream, err error) { t.Errorf("ended: %v", err) }, nil)
	if !errors.Is(err, context.Canceled) || n != 2 || !waiting.last.closed.Load() || waiting.last.acknowledged.Load() != "1" {
		t.Error(err, n, waiting.last.acknowledged.Load())
	}

	failed := errors.New("no more")
	again := fake("w", 7, func(*stream) ([][]int, error) { return [][]int{{0}, {1}}, nil })
	err = Streams(t.Context(), []Stream{{Plugin: again}}, NewCollector(func(*Record) error { return failed }), func(Stream, error) {}, nil)
	if !errors.Is(err, failed) || !again.last.closed.Load() {
		t.Error(err)
	}
}

// A plugin that gives events of another is not believed.
func TestForeignEvents(t *testing.T) {
	p := fake("p", 7, func(s *stream) ([][]int, error) {
		s.plugin = &plugin{about: sourceplugin.Description{Name: "other", ID: 99}}
		return [][]int{{0}}, io.EOF
	})
	var told error
	var k kept
	err := Streams(t.Context(), []Stream{{Plugin: p}}, NewCollector(k.emit), func(_ Stream, err error) { told = err }, nil)
	if err != nil || told == nil || !strings.Contains(told.Error(), "an event of the plugin 99") || len(k.ids()) != 0 {
		t.Error(err, told)
	}
}
