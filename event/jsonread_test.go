package event

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// readJSON validates a whole text, as the parsers do with values that they keep.
func readJSON(text []byte, depth int) ([]byte, error) {
	r, err := newJSONReader(text)
	if err != nil {
		return nil, err
	}
	value, err := r.value(depth)
	if err == nil {
		err = r.end()
	}
	return value, err
}

var jsonSeeds = []string{
	``, ` `, `{}`, `[]`, `null`, `nul`, `true`, `false`, `0`, `-`, `-0`, `01`, `1.`, `.5`, `1e5`, `1E+5`, `1e`, `-1.5e-10`,
	`"a"`, `"`, `"\u00e9\ud83d\ude00"`, `"\ud800"`, `"\udc00\ud800"`, `"\ud800\u0041"`, `"\x"`, `"\u12g4"`, `"\u1"`, "\"\n\"", "\"\x00\"",
	`[1,]`, `[,1]`, `[1 2]`, `{"a":1,}`, `{"a"}`, `{a:1}`, `{"a":1 "b":2}`, ` { "a" : [ 1 , { } ] } `, `{}{}`, `[`, `{`, `{"a"`, `{"a":`,
	`"\"\\\/\b\f\n\r\t"`, "\"\xff\"", "\ufeff{}", `{"a":1,"a":2}`, "\v1", `"<>&"`,
}

func FuzzJSONReaderMatchesStdlib(f *testing.F) {
	for _, seed := range jsonSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(checkJSONReader)
}

func checkJSONReader(t *testing.T, text []byte) {
	value, err := readJSON(text, 10_000)
	want := json.Valid(text) && utf8.Valid(text)
	if (err == nil) != want {
		t.Fatalf("%q: valid is %v, but got %v", text, want, err)
	}
	if err != nil {
		return
	}
	if !bytes.Equal(value, bytes.Trim(text, " \t\r\n")) {
		t.Errorf("%q: value is %q", text, value)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		t.Fatal(err)
	}
	if got := appendCompact(nil, value); !bytes.Equal(got, compact.Bytes()) {
		t.Errorf("%q: compact is %q, want %q", text, got, compact.Bytes())
	}
	var s string
	if value[0] == '"' && json.Unmarshal(value, &s) == nil {
		if got, _ := unquote(nil, value[1:len(value)-1]); string(got) != s {
			t.Errorf("%s: denotes %q, want %q", value, got, s)
		}
	}
}

func TestJSONReaderMatchesStdlib(t *testing.T) {
	g := newGenerator(4)
	for range 20_000 {
		text := []byte(g.json(4))
		checkJSONReader(t, text)
		if len(text) > 0 { // and what one changed byte makes of it
			text[g.IntN(len(text))] = g.pick(`{}[],:"\u0 tfn1-.e`, "\x00", "\xff")[0]
			checkJSONReader(t, text)
		}
	}
}

func TestJSONReaderDepth(t *testing.T) {
	nest := func(n int) []byte { return []byte(strings.Repeat(`[`, n) + strings.Repeat(`]`, n)) }
	if _, err := readJSON(nest(10), 10); err != nil {
		t.Error(err)
	}
	if _, err := readJSON(nest(11), 10); err == nil || !strings.Contains(err.Error(), "nested") {
		t.Errorf("got %v", err)
	}
	if _, err := readJSON([]byte(strings.Repeat(`{"a":`, 1<<20)), maxDataDepth); err == nil {
		t.Error("a million levels are accepted")
	}
}

func TestUnquoteHalfSurrogates(t *testing.T) {
	for quoted, want := range map[string]bool{`\ud83d\ude00`: true, `\ud83d`: false, `\ude00\ud83d`: false, `\ud83dA`: false, `\ud83d\u0041`: false} {
		if _, ok := unquote(nil, []byte(quoted)); ok != want {
			t.Errorf("%s: ok is %v", quoted, ok)
		}
	}
}

func TestReadTime(t *testing.T) {
	for text, want := range map[string]bool{
		"2026-01-02T03:04:05Z":                true,
		"2026-01-02T03:04:05.123456789+23:59": true,
		"2026-01-02T03:04:05.1-00:00":         true,
		"0000-01-01T00:00:00Z":                true,
		"2024-02-29T00:00:00Z":                true,
		"":                                    false,
		"2026-01-02":                          false,
		"2026-01-02 03:04:05Z":                false,
		"2026-01-02T03:04:05":                 false,
		"2026-01-02T3:04:05Z":                 false,
		"2026-01-02T3:04:05+07:00":            false,
		"2026-01-02T03:04:05,5Z":              false,
		"2026-01-02T03:04:05.Z":               false,
		"2026-01-02T03:04:60Z":                false,
		"2026-01-02T24:00:00Z":                false,
		"2026-02-29T00:00:00Z":                false,
		"2026-01-02T03:04:05+24:00":           false,
		"2026-01-02T03:04:05+07:60":           false,
		"2026-01-02T03:04:05+0700":            false,
		"12026-01-02T03:04:05Z":               false,
		" 2026-01-02T03:04:05Z":               false,
	} {
		r := &jsonReader{src: []byte(`"` + text + `"`), mem: newMemory(100)}
		got, err := r.time("time")
		if (err == nil) != want {
			t.Errorf("%q: got %v, error %v", text, got, err)
		}
		if err == nil && !strings.HasPrefix(string(appendTime(nil, got)), text[:19]) {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

func TestNameSet(t *testing.T) {
	g := newGenerator(5)
	var set nameSet
	seen := map[string]bool{}
	for range 200 {
		name := string(rune('a' + g.IntN(100)))
		if set.add([]byte(name)) == seen[name] {
			t.Fatalf("add(%q) is %v", name, seen[name])
		}
		seen[name] = true
	}
}
