package format

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/position"
)

var update = flag.Bool("update", false, "write the golden files in testdata")

// sample is an event for each way of being written.
func samples() []deliver.Item {
	at := time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC)
	n := uint32(0)
	item := func(change func(*event.Event)) deliver.Item {
		e := &event.Event{ID: event.DeriveID("sample", fmt.Sprint(n)), Source: event.SourceVault("node-1"), Type: "kv-v2/data-write", Time: at}
		change(e)
		n++
		return deliver.Item{Event: e, At: position.Position{Seq: 7, Index: n - 1, Ordinal: uint64(n + 99)}}
	}
	metadata := event.Fields{{Key: "n", Value: "3", JSON: true}, {Key: "path", Value: "secret/data/a<b>\n"}}
	data := func(contentType, text string) deliver.Item {
		return item(func(e *event.Event) { e.Data, e.DataContentType = []byte(text), contentType })
	}
	list := []deliver.Item{
		item(func(e *event.Event) {}),
		item(func(e *event.Event) { e.Metadata, e.Path, e.Namespace = metadata, "secret/data/a<b>\n", "ns1/" }),
		item(func(e *event.Event) {
			e.Metadata, e.DataRef, e.DataContentType = metadata[:1], "/v1/audit/payload/1f", "application/json"
		}),
		data("application/json", `{"type":"request","b":"</script>"}`),
		data("", " {\"a\":\r\n [1, 2,\n\"x y\"]}\n"),
		data("application/json", `"text"`),
		data("application/json", "\n\"text\""),
		data("application/json", `{"broken":`),
		data("text/plain", "one line"),
		data("text/plain", "two\nlines"),
		data("text/plain", "\r"),
		data("text/plain", "base64:AAAA"),
		data("text/plain", `"quoted`),
		data("text/plain", "1\n"),
		data("application/octet-stream", "\x00\xff\xfe"),
		data("application/octet-stream", "\x00\xff\n\xfe"),
		data("text/plain", ""),
		data("text/plain", "\u2028 \u0085 \x1b[31m"),
		data("application/vnd.x+json; charset=utf-8", "{\n}"),
	}
	list[0].At = position.Position{}
	return list
}

func TestGolden(t *testing.T) {
	for _, f := range []Format{CloudEvents, Vault, Raw, Flipt} {
		t.Run(f.String(), func(t *testing.T) {
			var got bytes.Buffer
			for i, s := range samples() {
				one, err := f.Append([]byte("lead "), s)
				if err != nil {
					t.Fatal(err)
				}
				line, err := f.AppendLine([]byte("lead "), s)
				if err != nil {
					t.Fatal(err)
				}
				value, err := f.AppendValue([]byte("lead "), s)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&got, "%d %s\n  one   %q\n  line  %q\n", i, f.ContentType(s.Event), one, line)
				fmt.Fprintf(&got, "  value %q\n", value)
				if bytes.ContainsAny(line, "\r\n") {
					t.Errorf("%q is not a line", line)
				}
				if v := value[len("lead "):]; !json.Valid(v) || bytes.ContainsAny(v, "\r\n") {
					t.Errorf("%q is not a value on a line", v)
				}
				if f != Raw && f != Flipt && (!bytes.Equal(one, line) || !bytes.Equal(one, value)) {
					t.Errorf("%d: differs between one and a line", i)
				}
			}
			path := filepath.Join("testdata", f.String()+".golden")
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("differs from %s (run with -update if that is intended):\n%s", path, got.String())
			}
		})
	}
}

// TestRawLineLosesNothing reads the data back.
func TestRawLineLosesNothing(t *testing.T) {
	for i, s := range samples() {
		if s.Event.Data != nil {
			checkRawLine(t, i, s)
		}
	}
}

func checkRawLine(t *testing.T, i int, s deliver.Item) {
	t.Helper()
	line, err := Raw.AppendLine(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRawLine(line)
	if err != nil {
		t.Fatalf("%d: %q: %v", i, line, err)
	}
	want := s.Event.Data
	if bytes.Equal(got, want) {
		return
	}
	// Only white space of JSON on several lines may be gone.
	value, isJSON := s.Event.AppendJSONData(nil)
	if !isJSON || !bytes.ContainsAny(want, "\r\n") || !bytes.Equal(got, value) {
		t.Errorf("%d: %q became %q", i, want, got)
	}
}

// TestFlipt: events that came from Flipt leave as they came, in the order of members that
// the place has.
func TestFlipt(t *testing.T) {
	const webhook = `{"version":"0.2","type":"flag","action":"created","metadata":{"actor":{"authentication":"none","ip":"203.0.113.7"}},"payload":{"key":"a\u003cb"},"timestamp":"2026-11-21T01:38:10Z","status":"success"}`
	const line = `{"version":"0.2","type":"flag","action":"created","status":"success","metadata":{"actor":{"authentication":"none","ip":"203.0.113.7"}},"payload":{"key":"a<b"},"timestamp":"2026-11-21T01:38:10Z"}`
	f, err := fliptevent.Decode([]byte(webhook))
	if err != nil {
		t.Fatal(err)
	}
	item := deliver.Item{Event: &event.Event{Type: fliptevent.TypePrefix + "flag/created", Data: []byte(webhook), DataContentType: "application/json"}}
	if f.Type != "flag" {
		t.Fatalf("the type is %q", f.Type)
	}
	for _, tt := range []struct {
		name   string
		append func([]byte, deliver.Item) ([]byte, error)
		want   string
	}{{"one", Flipt.Append, webhook}, {"value", Flipt.AppendValue, webhook}, {"line", Flipt.AppendLine, line}} {
		if got, err := tt.append(nil, item); err != nil || string(got) != tt.want {
			t.Errorf("%s: %v\n%s\nwant\n%s", tt.name, err, got, tt.want)
		}
	}
	// Its payload is not what it should be: it cannot be made one of Flipt's.
	for _, e := range []*event.Event{
		{Type: fliptevent.TypePrefix + "flag/created", Data: []byte("{}")},
		{Type: fliptevent.TypePrefix + "flag/created", DataRef: "/v1/x"},
	} {
		if got, err := Flipt.AppendLine([]byte("x"), deliver.Item{Event: e}); err == nil || string(got) != "x" {
			t.Errorf("%+v: %s, %v", e, got, err)
		}
	}
}

func TestEmptyLinesDoNotOccur(t *testing.T) {
	for _, f := range []Format{CloudEvents, Vault, Raw} {
		for _, s := range samples() {
			if line, _ := f.AppendLine(nil, s); len(line) == 0 {
				t.Errorf("%s: %+v is an empty line", f, s.Event)
			}
		}
	}
}

func TestContentTypes(t *testing.T) {
	tests := []struct {
		f           Format
		e           event.Event
		want, array string
	}{
		{CloudEvents, event.Event{Data: []byte("1"), DataContentType: "text/plain"}, "application/cloudevents+json", "application/cloudevents-batch+json"},
		{Vault, event.Event{}, "application/json", "application/json"},
		{Raw, event.Event{}, "application/json", "application/json"},
		{Raw, event.Event{DataRef: "/x", DataContentType: "text/plain"}, "application/json", "application/json"},
		{Raw, event.Event{Data: []byte("1"), DataContentType: "text/plain"}, "text/plain", "application/json"},
		{Raw, event.Event{Data: []byte("1")}, "application/json", "application/json"},
		{Raw, event.Event{Data: []byte("<")}, "application/octet-stream", "application/json"},
	}
	for _, tt := range tests {
		if got := tt.f.ContentType(&tt.e); got != tt.want {
			t.Errorf("%s of %+v: %s, want %s", tt.f, tt.e, got, tt.want)
		}
		if got := tt.f.ArrayContentType(); got != tt.array {
			t.Errorf("array of %s: %s, want %s", tt.f, got, tt.array)
		}
	}
}

func TestNamed(t *testing.T) {
	for name := range strings.SplitSeq(Names(), ", ") {
		if f, err := Named(name); err != nil || f.String() != name {
			t.Errorf("%s: %s, %v", name, f, err)
		}
	}
	for _, name := range []string{"", "CloudEvents", "pretty", strings.Repeat("x", 1000)} {
		f, err := Named(name)
		if err == nil || len(err.Error()) > 200 {
			t.Errorf("%.20q: %s, %v", name, f, err)
		}
	}
	if dst, err := Format("").Append([]byte("x"), samples()[0]); err == nil || string(dst) != "x" {
		t.Errorf("the zero format appended %q, %v", dst, err)
	}
}

func TestAppendAllocates(t *testing.T) {
	s := samples()[3]
	buf := make([]byte, 0, 4096)
	for _, f := range []Format{CloudEvents, Vault, Raw} {
		if n := testing.AllocsPerRun(100, func() { buf, _ = f.AppendLine(buf[:0], s) }); n > 1 {
			t.Errorf("%s: %v allocations", f, n)
		}
	}
}

func FuzzRawLine(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.Event.DataContentType, s.Event.Data)
	}
	f.Fuzz(func(t *testing.T, contentType string, data []byte) {
		if data == nil {
			data = []byte{}
		}
		s := deliver.Item{Event: &event.Event{Data: data, DataContentType: contentType}}
		line, _ := Raw.AppendLine(nil, s)
		if bytes.ContainsAny(line, "\r\n") || len(line) == 0 {
			t.Fatalf("%q is not a line", line)
		}
		checkRawLine(t, 0, s)
		if value, _ := Raw.AppendValue(nil, s); !json.Valid(value) || bytes.ContainsAny(value, "\r\n") {
			t.Fatalf("%q is not a JSON value on a line", value)
		}
	})
}

func FuzzParseRawLine(f *testing.F) {
	for _, s := range []string{"", "x", `"x"`, `"\u00`, "base64:AAE=", "base64:AB", `"a" "b"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		data, err := ParseRawLine(line)
		if err != nil || len(data) == 0 || bytes.ContainsAny(line, "\r\n") {
			return
		}
		again, _ := Raw.AppendLine(nil, deliver.Item{Event: &event.Event{Data: data, DataContentType: "text/plain"}})
		back, err := ParseRawLine(again)
		if err != nil || !bytes.Equal(back, data) {
			t.Errorf("%q is %q, which is written %q", line, data, again)
		}
	})
}
