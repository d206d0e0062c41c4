package api

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "0s": 0, "3600": time.Hour, "1h": time.Hour, "1h0m0s": time.Hour, "1d": 24 * time.Hour, "90d": 90 * 24 * time.Hour,
		" 5m ": 5 * time.Minute, "1.5h": 90 * time.Minute, "250ms": 250 * time.Millisecond, "9223372036": 9223372036 * time.Second,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("%q: %v %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"x", "1x", "1.5", "1e3", "-1", "-1s", "-1d", "1.5d", "d", "1h d", "9223372037", "106752d", "99999999999999999999", "99999999999999999999d", strings.Repeat("9", 1000), "\xff"} {
		if got, err := parseDuration(s); err == nil || got != 0 {
			t.Errorf("%q: %v", s, got)
		} else if len(err.Error()) > 200 {
			t.Errorf("%q: the error has %d bytes", s[:10], len(err.Error()))
		}
	}
}

// TestBounds compares the scanner of bounds with the parser on what both accept.
func TestBounds(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		ok         bool
	}{
		{"deepest", strings.Repeat(`{"a":`, maxJSONDepth) + "1" + strings.Repeat("}", maxJSONDepth), true},
		{"too deep", strings.Repeat(`{"a":`, maxJSONDepth+1) + "1" + strings.Repeat("}", maxJSONDepth+1), false},
		{"in a text", `{"a":"` + strings.Repeat("[", 1000) + `"}`, true},
		{"behind an escape", `{"a":"\"` + strings.Repeat("[", 1000) + `"}`, true},
		{"behind an escaped escape", `{"a":"\\","b":` + strings.Repeat("[", 1000), false},
		{"most values", `{"a":[` + strings.Repeat("1,", maxJSONValues-3) + `1]}`, true},
		{"too many values", `{"a":[` + strings.Repeat("1,", maxJSONValues) + `1]}`, false},
		{"commas in a text", `{"a":"` + strings.Repeat(",", 2*maxJSONValues) + `"}`, true},
		{"commas in a name", `{"` + strings.Repeat(",", 2*maxJSONValues) + `":1}`, true},
	} {
		_, err := parseArguments([]byte(tt.body))
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.ok && !json.Valid([]byte(tt.body)) {
			t.Errorf("%s: the test is wrong", tt.name)
		}
	}
}

func TestReader(t *testing.T) {
	a, err := parseArguments([]byte(`{"text":"x","number":12345678901234567890,"true":true,"null":null,"list":["a",1,false],"object":{"a":"b"},"big":2147483648}`))
	if err != nil {
		t.Fatal(err)
	}
	r := reader{arguments: a}
	got := []any{r.text("text"), r.text("number"), r.text("true"), r.text("null"), r.text("missing"), r.texts("list"), r.texts("text"), r.texts("null"),
		r.table("object"), r.table("missing"), r.boolean("true", false), r.boolean("null", true), r.whole("missing"), r.duration("null")}
	want := []any{"x", "12345678901234567890", "true", "", "", []string{"a", "1", "false"}, []string{"x"}, []string(nil),
		map[string]string{"a": "b"}, map[string]string(nil), true, true, 0, time.Duration(0)}
	if !reflect.DeepEqual(got, want) || r.failed() != nil {
		t.Errorf("got %#v, %v", got, r.failed())
	}
	for name, read := range map[string]func(r *reader){
		"text":     func(r *reader) { r.text("list") },
		"texts":    func(r *reader) { r.texts("object") },
		"table":    func(r *reader) { r.table("list") },
		"boolean":  func(r *reader) { r.boolean("text", false) },
		"whole":    func(r *reader) { r.whole("big") },
		"duration": func(r *reader) { r.duration("object") },
	} {
		r := reader{arguments: a}
		read(&r)
		first := r.failed()
		r.text("object")
		if first == nil || r.failed() != first {
			t.Errorf("%s: %v, then %v", name, first, r.failed())
		}
	}
	if n := (&reader{arguments: arguments{"n": json.Number("2147483647")}}).whole("n"); n != math.MaxInt32 {
		t.Errorf("got %d", n)
	}
}

func TestUnknownArguments(t *testing.T) {
	a := arguments{"known": 1, "b": 1, "a": 1}
	if got := a.unknown([]string{"known"}); len(got) != 1 || got[0] != `ignored, because they are not known here: "a", "b"` {
		t.Errorf("got %q", got)
	}
	if got := (arguments{"known": 1}).unknown([]string{"known"}); got != nil {
		t.Errorf("got %q", got)
	}
	hostile := arguments{}
	for i := range 1000 {
		hostile[strings.Repeat("\xff", 1000+i)] = 1
	}
	if got := hostile.unknown(nil); len(got) != 1 || len(got[0]) > 4000 || !strings.HasSuffix(got[0], "and 990 more") {
		t.Errorf("%d bytes", len(got[0]))
	}
}
