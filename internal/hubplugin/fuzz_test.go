package hubplugin

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// FuzzParams: whatever a stream is opened with is understood or refused, and no error has what may be
// a token; it may have an address, and names of keys.
func FuzzParams(f *testing.F) {
	for _, text := range []string{
		"", `{"types":["a*","b"],"filter":"x == 1","follow":false}`, `{"token":"s3cret","since":1}`, `{"token":"s3cret"} {}`,
		"https://hub:8280/prefix?types=a,b&since=1h&follow=0", "http://127.0.0.1:8280?token=s3cret", "http://127.0.0.1:82800token=s3cret", "http://s3cret@hub", "kv-v2/*",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, _, err := parseParams(text, Config{Address: "http://127.0.0.1:8280"})
		if err == nil {
			err = c.check()
		}
		if err != nil {
			token := "token=s3cret"
			if strings.HasPrefix(strings.TrimSpace(text), "{") {
				token = `"token":"s3cret`
			}
			if strings.Contains(text, token) && strings.Contains(err.Error(), "s3cret") && strings.Count(text, "s3cret") == 1 {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		eventType, filter, err := selection(c.Types, c.Filter)
		if err != nil || eventType == "" || len(c.Types) < 2 && filter != c.Filter {
			t.Errorf("%q: %q %q %v", text, eventType, filter, err)
		}
	})
}

// FuzzExtract: whatever the bytes are, each field has values of its type or none, twice the same, and
// the line about the event is one.
func FuzzExtract(f *testing.F) {
	log, err := os.ReadFile("testdata/audit.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	for i, entry := range bytes.SplitN(log, []byte("\n"), 5)[:4] {
		e := numbered(i)
		e.Type, e.Data = []string{"audit/request", "audit/response"}[i%2], entry
		f.Add(event.AppendCloudEvent(nil, e, "00000000000000000001"))
	}
	f.Add([]byte(`{"specversion":"1.0","id":"x","source":"s","type":"audit/response","data":{"request":{"path":"\u0000\ud800"}}}`))
	f.Add([]byte("{}"))
	p := launch(f, Config{})
	var list []sourceplugin.FieldRequest
	for i, field := range p.Describe().Fields {
		r := sourceplugin.FieldRequest{Index: i, ArgPresent: field.Arg.Required}
		if r.ArgPresent {
			r.Arg = "operation"
		}
		list = append(list, r)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		asked := eventsOf(payload, []byte("something else"), payload)
		v, err := p.Extract(t.Context(), asked, list)
		if err != nil {
			t.Fatal(err)
		}
		n := len(list)
		for i := range n {
			if v.Counts[n+i] != 0 || v.Counts[i] != v.Counts[2*n+i] {
				t.Errorf("%s: %d, %d and %d values", p.Describe().Fields[i].Name, v.Counts[i], v.Counts[n+i], v.Counts[2*n+i])
			}
		}
		half := len(v.Bytes) / 2
		if !bytes.Equal(v.Bytes[:half], v.Bytes[half:]) {
			t.Error("other values for the same event")
		}
		texts, err := p.Strings(t.Context(), asked[:1])
		if err != nil || len(texts) != 1 || len(texts[0]) > maxSummary || !utf8.ValidString(texts[0]) || strings.ContainsAny(texts[0], "\n\r\x00\x1b") || texts[0] == "" {
			t.Errorf("%q %v", texts, err)
		}
	})
}
