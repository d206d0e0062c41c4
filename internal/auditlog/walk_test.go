package auditlog

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"testing"
)

// walked makes of a value what encoding/json makes of it.
func walked(w *Walker) any {
	switch w.Kind() {
	case Object:
		m := map[string]any{}
		for w.Open(); ; {
			name, ok := w.Member()
			if !ok {
				return m
			}
			m[name] = walked(w)
		}
	case Array:
		list := []any{}
		for w.Open(); w.Element(); {
			list = append(list, walked(w))
		}
		return list
	case Text:
		return w.Text()
	}
	var v any
	if err := json.Unmarshal([]byte(w.Skip().Raw()), &v); err != nil {
		panic(err)
	}
	return v
}

// checkWalk compares walking and skipping with encoding/json.
func checkWalk(t *testing.T, e *Entry) {
	t.Helper()
	var want map[string]any
	if err := json.Unmarshal(e.Line(), &want); err != nil {
		return // a number out of range, for example
	}
	var w Walker
	w.Reset(e)
	if got := walked(&w); !reflect.DeepEqual(got, any(want)) {
		t.Errorf("walked %v\nwant   %v\nof %s", got, want, e.Line())
	}
	if w.Kind() != Absent {
		t.Errorf("something is left of %s", e.Line())
	}
	w.Reset(e)
	if got := w.Skip().Raw(); got != string(e.Line()) {
		t.Errorf("skipped %s\nof %s", got, e.Line())
	}
	w.Reset(e)
	for w.Open(); ; {
		name, ok := w.Member()
		if !ok {
			break
		}
		var v any
		if err := json.Unmarshal([]byte(w.Skip().Raw()), &v); err != nil || !reflect.DeepEqual(v, want[name]) {
			t.Errorf("member %q: %v, want %v (%v)", name, v, want[name], err)
		}
	}
}

var walkSeeds = []string{
	`{"type":"request","request":{}}`,
	` { "type" : "request" , "request" : { "id" : "a\"b\\" , "data" : [ ] , "x" : [ 1 , -2.5e+7 , true , null , {} , [ [ "]" ] , "}" ] ] } } `,
	`{"request":{"data":{"a\u0062":"\\","\"":"\ud83d\ude00","e":1E5,"z":[{"a":[]},{}]}},"type":"request"}`,
	`{"type":"response","response":{"data":null,"auth":{"policies":["a","b\\\\"]}},"error":"1 error\n\t* x"}`,
}

func TestWalk(t *testing.T) {
	lines := [][]byte{}
	for _, s := range walkSeeds {
		lines = append(lines, []byte(s))
	}
	for _, name := range []string{"openbao-audit-small.jsonl", "kv025-audit-small.jsonl"} {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, bytes.Split(bytes.TrimSpace(b), []byte("\n"))...)
	}
	var p Parser
	for _, line := range lines {
		e, err := p.Parse(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		checkWalk(t, e)
	}
}

// FuzzWalk walks whatever the parser takes: the walker makes no checks of its own.
func FuzzWalk(f *testing.F) {
	for _, s := range walkSeeds {
		f.Add([]byte(s))
	}
	var p Parser
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := p.Parse(line)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for name := range (Value{e.text()}).Members() {
			if seen[name] {
				return // encoding/json takes the last one
			}
			seen[name] = true
		}
		checkWalk(t, e)
	})
}
