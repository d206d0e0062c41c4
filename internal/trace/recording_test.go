package trace

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

var update = flag.Bool("update", false, "write the golden files anew")

const recordings = "../auditlog/testdata/"

// recorded returns the lines of a recording.
func recorded(t testing.TB, name string) [][]byte {
	t.Helper()
	b, err := os.ReadFile(recordings + name)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(b), []byte("\n"))
}

// placed is an event and where it stands.
type placed struct {
	*event.Event
	at position.Position
}

// translated returns the events of lines as they stand in a journal: the units of n lines
// are records, one every second.
func translated(lines [][]byte, n int) []placed {
	tr := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "vault"})
	var out []placed
	start := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	at := position.Position{Seq: 1}
	for i, line := range lines {
		if i > 0 && i%n == 0 {
			at.Seq++
			at.Index = 0
		}
		for _, e := range tr.Translate(nil, line) {
			e.Recorded = start.Add(time.Duration(at.Seq) * time.Second)
			out = append(out, placed{e, at})
			at.Index++
			at.Ordinal++
		}
	}
	return out
}

func newTracer(t testing.TB, o Options) *Tracer {
	t.Helper()
	tr, err := NewTracer(o)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// run feeds events to a tracer and returns all spans, those still open included.
func run(tr *Tracer, events []placed) []*Span {
	var spans []*Span
	for i, e := range events {
		spans = tr.Add(spans, e.Event, e.at)
		if i+1 == len(events) || events[i+1].at.Seq != e.at.Seq {
			spans = tr.Flush(spans)
		}
	}
	return tr.Close(spans)
}

// describe writes a span as a few lines of text.
func describe(s *Span) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", s.Name, s.Duration())
	if s.Kind != Complete {
		fmt.Fprintf(&b, " %s expected=%t", s.Kind, s.Expected)
	}
	if s.Failed {
		fmt.Fprintf(&b, " failed=%q", s.Message)
	}
	fmt.Fprintf(&b, "\n  %s %s parent=%s flags=%d state=%q dropped=%d\n  %s .. %s\n", s.TraceID, s.SpanID, s.Parent, s.Flags, s.TraceState, s.Dropped,
		s.Start.Format(time.RFC3339Nano), s.End.Format(time.RFC3339Nano))
	for _, a := range s.Attributes {
		v, _ := json.Marshal(string(a.Value.AppendText(nil)))
		fmt.Fprintf(&b, "  %s (%d) %s\n", a.Key, a.Value.Kind, v)
	}
	return b.String()
}

func TestRecordingsGolden(t *testing.T) {
	for _, name := range []string{"openbao-audit-small", "kv025-audit-small"} {
		t.Run(name, func(t *testing.T) {
			spans := run(newTracer(t, Options{}), translated(recorded(t, name+".jsonl"), 7))
			var names, golden bytes.Buffer
			count := map[string]int{}
			var order []string
			for i, s := range spans {
				if count[s.Name]++; count[s.Name] == 1 {
					order = append(order, s.Name)
				}
				if i%23 == 0 || s.Kind != Complete || s.Parent != (SpanID{}) {
					golden.WriteString(describe(s))
				}
			}
			for _, n := range order {
				fmt.Fprintf(&names, "%4d %s\n", count[n], n)
			}
			golden.WriteString("\nnames\n")
			golden.Write(names.Bytes())
			compareGolden(t, "testdata/"+name+".golden", golden.Bytes())
		})
	}
}

func compareGolden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll("testdata", 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		g, w := bufio.NewScanner(bytes.NewReader(got)), bufio.NewScanner(bytes.NewReader(want))
		for n := 1; ; n++ {
			more := g.Scan()
			if !w.Scan() || !more || g.Text() != w.Text() {
				t.Fatalf("%s, line %d:\n got %s\nwant %s\n(go test -update writes it anew)", file, n, g.Text(), w.Text())
			}
		}
	}
}

// TestRecordingsEveryRequestOnce compares the spans with the entries, read in the simplest
// way there is.
func TestRecordingsEveryRequestOnce(t *testing.T) {
	for _, name := range []string{"openbao-audit-small.jsonl", "kv025-audit-small.jsonl"} {
		t.Run(name, func(t *testing.T) {
			type pair struct{ start, end time.Time }
			want := map[string]pair{}
			without := 0
			for _, line := range recorded(t, name) {
				var e struct {
					Time    time.Time
					Type    string
					Request struct{ ID string }
				}
				if err := json.Unmarshal(line, &e); err != nil {
					t.Fatal(err)
				}
				if e.Request.ID == "" {
					without++
					continue
				}
				p := want[e.Request.ID]
				if e.Type == "request" {
					p.start = e.Time
				} else {
					p.end = e.Time
				}
				want[e.Request.ID] = p
			}
			got := run(newTracer(t, Options{}), translated(recorded(t, name), 11))
			for _, s := range got {
				id, ok := s.Get("request.id")
				if !ok {
					without--
					continue
				}
				p, ok := want[id.Text]
				if !ok {
					t.Errorf("%s has no entries, or two spans", id.Text)
				}
				delete(want, id.Text)
				switch {
				case p.end.IsZero() != (s.Kind == RequestOnly) || p.start.IsZero() != (s.Kind == ResponseOnly):
					t.Errorf("%s is %s", id.Text, s.Kind)
				case s.Kind == Complete && s.Duration() != p.end.Sub(p.start):
					t.Errorf("%s took %s, want %s", id.Text, s.Duration(), p.end.Sub(p.start))
				case s.Duration() < 0 || s.Kind != Complete && s.Duration() != 0:
					t.Errorf("%s took %s", id.Text, s.Duration())
				}
			}
			if len(want) > 0 || without != 0 {
				t.Errorf("%d requests have no span, %d entries without an id have none", len(want), without)
			}
		})
	}
}
