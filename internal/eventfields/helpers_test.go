package eventfields

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// ask returns a Reader for the hub's own fields of an event source.
func ask(t testing.TB, source string, o Options, texts ...string) *Reader {
	t.Helper()
	q := field.NewRequests(Fields(source))
	for _, text := range texts {
		add(t, q, text)
	}
	r, err := NewReader(source, q.List(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// add asks for a field that is written as NAME or NAME[ARG].
func add(t testing.TB, q *field.Requests, text string) {
	t.Helper()
	name, arg, present, err := fieldtext.Split(text)
	if err == nil {
		_, err = q.Add(name, arg, present)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// everyField returns requests for all fields of the hub.
func everyField(t testing.TB, source string) (texts []string) {
	t.Helper()
	for _, f := range Fields(source) {
		text := f.Name
		if f.Arg.Key {
			text += "[a]"
		}
		texts = append(texts, text)
	}
	return texts
}

// record is events that a Reader looks at together.
type record struct {
	events []*event.Event
	seq    uint64
}

func recordOf(events ...*event.Event) *record { return &record{events: events} }

func (r *record) Len() int                 { return len(r.events) }
func (r *record) Event(i int) *event.Event { return r.events[i] }
func (r *record) Position(i int) position.Position {
	return position.Position{Seq: r.seq}
}

// recorded returns the lines of the audit logs that were recorded from real servers.
func recorded(t testing.TB) (lines [][]byte) {
	t.Helper()
	for _, name := range []string{"kv025-audit-small.jsonl", "openbao-audit-small.jsonl"} {
		b, err := os.ReadFile(filepath.Join("..", "auditlog", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))...)
	}
	return lines
}

// joined is the elements of a value in one text.
func joined(elements []string) string { return strings.Join(elements, "|") }

// describedPlugin is what a plugin says of itself.
type describedPlugin = sourceplugin.Description

// describe returns what a plugin says of itself that extracts texts from the events of sources.
func describe(name string, sources []string, fields ...string) *describedPlugin {
	d := &describedPlugin{Name: name, Capabilities: sourceplugin.Capabilities{Extract: true}, ExtractSources: sources}
	for _, f := range fields {
		d.Fields = append(d.Fields, sourceplugin.Field{Name: f, Type: sourceplugin.String})
	}
	return d
}
