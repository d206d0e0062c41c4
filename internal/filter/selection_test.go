package filter

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
)

func TestSelection(t *testing.T) {
	for _, tt := range []struct {
		name      string
		selection Selection
		takes     []string // TYPE or TYPE@NAMESPACE
		leaves    []string
	}{
		{"everything", Selection{}, []string{"a", "kv-v2/data-write", "x/y@ns/", "tocsin/sinks", "tocsin/started"}, []string{"tocsin/sink-failing", "tocsin/sink-"}},
		{"types", Selection{Types: []string{"kv-v2/*", "a/b"}}, []string{"kv-v2/", "kv-v2/x/y", "a/b"}, []string{"kv-v1/x", "a/b/c", "A/b", "tocsin/sink-failing"}},
		{"own types", Selection{Types: []string{"tocsin/sink-*"}}, []string{"tocsin/sink-failing"}, []string{"kv"}},
		{"really everything", Selection{Types: []string{"x", "*"}}, []string{"tocsin/sink-failing", "kv"}, nil},
		{"pairs", Selection{Pairs: []string{"flag:created", "segment:*", "*:deleted"}},
			[]string{"flipt/flag/created", "flag/created", "x/y/flag/created", "flipt/segment/updated", "flipt/x/deleted", "x/deleted", "deleted"},
			[]string{"flipt/flag/updated", "flipt/Flag/created", "flag", "segment", "flipt/segment/x/y", "flags/created", "flipt/xflag/created", "created", "", "/", "flag/"}},
		{"all pairs", Selection{Pairs: []string{"*:*"}}, []string{"a/b", "a"}, []string{"tocsin/sink-failing"}},
		{"namespaces", Selection{Namespaces: []string{"root", "team-*", "/a/b/"}}, []string{"x", "x@team-a/", "x@team-a/sub/", "x@a/b/"}, []string{"x@a/", "x@a/b/c/", "x@root2/"}},
		{"all namespaces", Selection{Namespaces: []string{"*"}}, []string{"x", "x@a/"}, nil},
		{"filter", Selection{Filter: `event_type contains "b"`}, []string{"abc"}, []string{"a", "tocsin/sink-b"}},
		{"all of it", Selection{Types: []string{"a/*"}, Pairs: []string{"x:y"}, Namespaces: []string{"n"}, Filter: `event_type is not empty`}, []string{"a/x/y@n/"}, []string{"a/x/y", "a/x/z@n/", "b/x/y@n/"}},
	} {
		match, err := tt.selection.Compile()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for want, list := range map[bool][]string{true: tt.takes, false: tt.leaves} {
			for _, text := range list {
				typ, ns, _ := strings.Cut(text, "@")
				e := &event.Event{Type: typ, Namespace: ns}
				if got := match(e); got != want {
					t.Errorf("%s: %s: %v", tt.name, text, got)
				}
				if n := testing.AllocsPerRun(10, func() { match(e) }); n > 0 {
					t.Errorf("%s: %v allocations", tt.name, n)
				}
			}
		}
	}
}

func TestSelectionRefused(t *testing.T) {
	for _, tt := range []struct {
		selection Selection
		want      string
	}{
		{Selection{Types: []string{"a", ""}}, "types[1] is empty"},
		{Selection{Namespaces: []string{" "}}, `namespaces[0] is empty and selects nothing; the root namespace is "root"`},
		{Selection{Types: []string{strings.Repeat("x", 1000)}}, "types[0] has 1000 bytes"},
		{Selection{Types: make([]string, 1000)}, "types has 1000 elements"},
		{Selection{Pairs: make([]string, 2000)}, "pairs has 2000 elements"},
		{Selection{Pairs: []string{"a:b", "flag"}}, `pairs[1] "flag" is not a pair`},
		{Selection{Pairs: []string{":b"}}, `pairs[0] ":b" is not a pair`},
		{Selection{Pairs: []string{"a:"}}, `"a:" is not a pair`},
		{Selection{Pairs: []string{"a:b:c"}}, `"a:b:c" is not a pair`},
		{Selection{Pairs: []string{"a/b:c"}}, `"a/b:c" is not a pair`},
		{Selection{Pairs: []string{"a b:c"}}, `"a b:c" is not a pair`},
		{Selection{Pairs: []string{"fl*:created"}}, `"fl*:created" has a * that is only a part`},
		{Selection{Filter: "nosuch == 1"}, `unknown selector "nosuch"`},
	} {
		_, err := tt.selection.Compile()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want %q", tt.selection, err, tt.want)
		}
		var selection *SelectionError
		var expression *Error
		if !errors.As(err, &selection) && !errors.As(err, &expression) {
			t.Errorf("%T", err)
		}
	}
}

// FuzzSelection: whatever is compiled decides as a slow version does.
func FuzzSelection(f *testing.F) {
	f.Add("kv-v2/*", "flag:created", "root", "kv-v2/flag/created", "")
	f.Add("*", "*:deleted", "team-*", "deleted", "team-a/")
	f.Add("a", "segment:*", "/a/", "segment", "a/")
	f.Fuzz(func(t *testing.T, glob, pair, ns, typ, in string) {
		match, err := Selection{Types: []string{glob}, Pairs: []string{pair}, Namespaces: []string{ns}}.Compile()
		if err != nil {
			return
		}
		noun, verb, _ := strings.Cut(pair, ":")
		parts := strings.Split(typ, "/")
		n := len(parts)
		paired := verb == "*" || parts[n-1] == verb
		if noun != "*" || verb == "*" && noun != "*" {
			paired = paired && n > 1 && parts[n-2] == noun
		}
		if noun == "*" && verb == "*" {
			paired = true
		}
		name := strings.Trim(ns, "/")
		if name == "root" {
			name = ""
		}
		want := event.CompileGlob(glob).Match(typ) && paired && event.CompileGlob(name).Match(strings.TrimSuffix(in, "/"))
		if got := match(&event.Event{Type: typ, Namespace: in}); got != want {
			t.Errorf("%q %q %q of %q in %q: %v", glob, pair, ns, typ, in, got)
		}
	})
}

func ExampleSelection() {
	match, err := Selection{Pairs: []string{"flag:created", "*:deleted"}, Namespaces: []string{"root"}}.Compile()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, typ := range []string{"flipt/flag/created", "flipt/flag/updated", "flipt/segment/deleted"} {
		fmt.Println(typ, match(&event.Event{Type: typ}))
	}
	// Output:
	// flipt/flag/created true
	// flipt/flag/updated false
	// flipt/segment/deleted true
}
