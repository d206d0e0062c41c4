package eventfields

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/jsontext"
)

// slow finds a value by reading the text token by token: the first one, and how often it is there.
func slow(text string, names []string) (raw string, times int) {
	var walk func(raw string, names []string)
	walk = func(text string, names []string) {
		if len(names) == 0 {
			if times++; times == 1 {
				raw = text
			}
			return
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		open, err := d.Token()
		if err != nil || open != json.Delim('{') && open != json.Delim('[') {
			return
		}
		for i := 0; d.More(); i++ {
			var is bool
			if open == json.Delim('{') {
				t, _ := d.Token()
				is = t == names[0]
			} else {
				n, err := strconv.ParseUint(names[0], 10, 31)
				is = err == nil && int(n) == i
			}
			var v json.RawMessage
			if d.Decode(&v) != nil {
				return
			}
			if is {
				walk(string(v), names[1:])
			}
		}
	}
	walk(text, names)
	return raw, times
}

// FuzzPick: what is found in a text is what a slow reader finds, and what is no JSON does no harm.
func FuzzPick(f *testing.F) {
	for _, text := range []string{
		`{"a":{"b":[1,"x",{"c":null}]},"abcdefgh":1,"abcdefghi":2,"":3,"1":4}`, `[[0,{"a":1}],2]`, `{"a":1,"a":{"b":2}}`, `{"\u0061":"\ud83d\ude00\ud800"}`,
		` { "a" : [ ] , "b" : { } } `, `"a"`, `{"a":"\\\"}"}`, `{"a":1e5,"b":-0.5,"c":tru}`, `{"abcdefgh":{"abcdefgh":"abcdefgh"}}`,
	} {
		f.Add(text)
	}
	places := [][]string{
		{"a"}, {"a", "b"}, {"a", "b", "1"}, {"a", "b", "2", "c"}, {"b"}, {"abcdefgh"}, {"abcdefghi"}, {"abcdefgh", "abcdefgh"}, {""}, {"1"}, {"1", "1"}, {"0", "1", "a"}, {"c"}, {"a\\\"}"},
	}
	p := newPicker()
	var nodes []int
	for _, place := range places {
		nodes = append(nodes, p.want(0, place...))
	}
	f.Fuzz(func(t *testing.T, text string) {
		ok := p.read(text)
		if !json.Valid([]byte(text)) || !strings.ContainsAny(strings.TrimLeft(text, " \t\r\n")[:1], "{[") {
			for _, n := range nodes {
				p.raw(n)
				p.only(n)
			}
			return
		}
		if !ok {
			t.Fatalf("%s was not read", text)
		}
		for i, n := range nodes {
			want, times := slow(text, places[i])
			if got := p.raw(n); got != want && times < 2 && !repeats(text) {
				t.Fatalf("%q of %s is %q instead of %q", places[i], text, got, want)
			}
			if times > 1 || want == "null" || repeats(text) {
				if times > 1 && p.only(n) != "" {
					t.Fatalf("%q is %d times in %s", places[i], times, text)
				}
			} else if got := p.only(n); got != want {
				t.Fatalf("%q of %s is %q instead of %q", places[i], text, got, want)
			}
			if want != "" && want[0] == '"' {
				var s string
				if json.Unmarshal([]byte(want), &s) != nil {
					t.Fatal(want)
				}
				if got := string(jsontext.AppendUnescaped(nil, want[1:len(want)-1])); got != s && strings.ToValidUTF8(got, "\ufffd") != s && !strings.Contains(s, "\ufffd") {
					t.Fatalf("%s is %q instead of %q", want, got, s)
				}
			}
			var dense bytes.Buffer
			if want != "" && json.Compact(&dense, []byte(want)) == nil {
				if got := string(appendCompact(nil, want)); got != dense.String() || isCompact(want) != (want == got) {
					t.Fatalf("%s is %s instead of %s", want, got, dense.String())
				}
			}
		}
	})
}

// repeats says whether an object of a text has two members of the same name.
func repeats(text string) bool {
	d := json.NewDecoder(strings.NewReader(text))
	type level struct {
		names map[string]bool
		key   bool
	}
	var stack []level
	for {
		t, err := d.Token()
		if err != nil {
			return false
		}
		if delim, ok := t.(json.Delim); ok {
			switch delim {
			case '{':
				stack = append(stack, level{names: map[string]bool{}, key: true})
			case '[':
				stack = append(stack, level{})
			default:
				stack = stack[:len(stack)-1]
				if n := len(stack); n > 0 && stack[n-1].names != nil {
					stack[n-1].key = true
				}
			}
			continue
		}
		n := len(stack)
		if n == 0 || stack[n-1].names == nil {
			continue
		}
		top := &stack[n-1]
		if !top.key {
			top.key = true
			continue
		}
		name := t.(string)
		if top.names[name] {
			return true
		}
		top.names[name] = true
		top.key = false
	}
}

// Many places cost no more than few.
func TestPickMany(t *testing.T) {
	t.Parallel()
	const count = 40_000
	p := newPicker()
	var text strings.Builder
	var nodes []int
	for i := range count {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		fmt.Fprintf(&text, `%s"member-%d":%d`, sep, i, i)
		if i%100 == 0 || i > count-1000 {
			nodes = append(nodes, p.want(0, fmt.Sprintf("member-%d", i)))
		}
	}
	text.WriteString("}")
	if !p.read(text.String()) {
		t.Fatal("it was not read")
	}
	for _, n := range nodes {
		if p.only(n) == "" {
			t.Fatalf("node %d has no value", n)
		}
	}
	if p.only(nodes[1]) != "100" || p.only(nodes[len(nodes)-1]) != "39999" {
		t.Error(p.only(nodes[1]), p.only(nodes[len(nodes)-1]))
	}
}

func TestPickDeep(t *testing.T) {
	t.Parallel()
	const depth = 9_000
	text := strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth)
	if !jsontext.Valid([]byte(text)) {
		t.Fatal("it is no JSON")
	}
	p := newPicker()
	n := p.want(0, "a", "a")
	other := p.want(0, strings.Split(strings.Repeat("a ", depth-1)+"a", " ")...)
	if !p.read(text) || p.raw(other) != "1" {
		t.Error("it was not read")
	}
	if p.read(strings.Repeat("[", 1<<20)) || p.raw(n) != "" {
		t.Error("brackets that do not end")
	}
}
