package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
)

func TestWithoutMember(t *testing.T) {
	for object, want := range map[string]string{
		`{"sequence":"x"}`:                                    `{}`,
		`{"sequence":"x","a":1}`:                              `{"a":1}`,
		`{"a":1,"sequence":"x"}`:                              `{"a":1}`,
		`{"a":1,"sequence":"x","b":2}`:                        `{"a":1,"b":2}`,
		`{ "a" : 1 , "sequence" : {"b":[1,"]"]} , "c" : 2 }`:  `{ "a" : 1 , "c" : 2 }`,
		`{"data":{"sequence":"inner"},"sequence":"x"}` + "\n": `{"data":{"sequence":"inner"}}` + "\n",
		`{"a":"\",\"sequence\":\"no\"","sequence":"x"}`:       `{"a":"\",\"sequence\":\"no\""}`,
		`{"a":"sequence","sequence":"x"}`:                     `{"a":"sequence"}`,
		`{"a":["sequence"],"b":"sequence"}`:                   `{"a":["sequence"],"b":"sequence"}`,
		`{}`:                                                  `{}`,
		`["sequence"]`:                                        `["sequence"]`,
		`"`:                                                   `"`,
		`{"sequence":`:                                        `{"sequence":`,
	} {
		before := object
		if got := string(withoutMember([]byte(object), "sequence")); got != want {
			t.Errorf("%s: got %s, want %s", object, got, want)
		}
		if object != before {
			t.Errorf("%s was changed", before)
		}
	}
}

// On every JSON object, withoutMember does what decoding, deleting and encoding
// does.
func FuzzWithoutMember(f *testing.F) {
	for _, seed := range []string{`{"sequence":"x"}`, `{"a":{"sequence":1},"sequence":[],"b":"\\"}`, `{"":{}}`, `"`, `{"\`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		original := bytes.Clone(text)
		got := withoutMember(text, "sequence")
		if !bytes.Equal(text, original) {
			t.Fatal("the input was changed")
		}
		var want map[string]json.RawMessage
		if json.Unmarshal(text, &want) != nil || want == nil || strings.Count(string(text), "sequence") > 1 || bytes.Contains(text, []byte(`\u`)) {
			return // a repeated name is removed once
		}
		delete(want, "sequence")
		var left map[string]json.RawMessage
		if err := json.Unmarshal(got, &left); err != nil {
			t.Fatalf("%q became %q: %v", text, got, err)
		}
		a, _ := json.Marshal(want)
		b, _ := json.Marshal(left)
		if !bytes.Equal(a, b) {
			t.Fatalf("%q became %q", text, got)
		}
	})
}

func testEvent() *event.Event {
	e := &event.Event{
		ID: "1", Type: "kv-v2/data-write", Namespace: "ns1/", Source: "vault://a", Path: "secret/data/app",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.Local),
	}
	e.Metadata.Set("path", "secret/data/app")
	e.Metadata.Set("operation", "data-write")
	e.Metadata.Set("modified", "true")
	e.Metadata.Set("current_version", "3")
	return e
}

func TestPrinter(t *testing.T) {
	e := testEvent()
	plain, numbered := event.AppendVaultJSON(nil, e, ""), event.AppendVaultJSON(nil, e, "pos1")
	m := &client.Message{Event: e, Position: "pos1", Raw: numbered}
	for _, tc := range []struct {
		name     string
		output   outputFlag
		sequence bool
		want     string
	}{
		{"envelope", outputJSON, false, string(plain)},
		{"envelope with sequence", outputJSON, true, string(numbered)},
		{"pretty", outputPretty, false, "2026-01-02 03:04:05.006  kv-v2/data-write        ns1/secret/data/app  current_version=3\n"},
		{"pretty with sequence", outputPretty, true, "2026-01-02 03:04:05.006  kv-v2/data-write        ns1/secret/data/app  current_version=3  pos1\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := newPrinter(&out, tc.output).message(m, tc.sequence); err != nil {
				t.Fatal(err)
			}
			if out.String() != tc.want {
				t.Errorf("got  %q\nwant %q", out.String(), tc.want)
			}
		})
	}
}

func TestPrettyIsSafeForTerminals(t *testing.T) {
	e := testEvent()
	e.Path = "a\x1b[2J\nb\u202ec\u009b"
	e.Metadata.Delete("path")
	e.Metadata.Set("note", "\x07\r")
	var out bytes.Buffer
	if err := newPrinter(&out, outputPretty).pretty(e, "", false); err != nil {
		t.Fatal(err)
	}
	if s := strings.TrimSuffix(out.String(), "\n"); strings.ContainsAny(s, "\x1b\n\r\x07\u202e\u009b") {
		t.Errorf("printed %q", s)
	}
}

func TestPrettyInColour(t *testing.T) {
	var out bytes.Buffer
	p := &printer{w: &out, output: outputPretty, colours: true}
	if err := p.pretty(testEvent(), "", false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "\x1b[1mkv-v2/data-write") {
		t.Errorf("printed %q", out.String())
	}
}
