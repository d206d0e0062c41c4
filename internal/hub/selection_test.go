package hub

import (
	"slices"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/filter"
)

func TestNamespaces(t *testing.T) {
	for _, tt := range []struct {
		request  string
		relative []string
		want     []string
	}{
		{"", nil, []string{""}},
		{"", []string{"ns*"}, []string{"", "ns*"}},
		{"ns1", []string{"ns1/*"}, []string{"ns1", "ns1/ns1/*"}},
		{"ns1", []string{"", ""}, []string{"ns1"}},
		{"", []string{"*"}, []string{"", "*"}},
		{"/ns1/", []string{"/a/", "a", "b//c/"}, []string{"ns1", "ns1/a", "ns1/b/c"}},
		{"ns1", []string{"*"}, []string{"ns1", "ns1/*"}},
		{"ns1", []string{"../ns2", "a/../../../ns3", "."}, []string{"ns1", "ns1/ns2", "ns1/ns3"}},
	} {
		if got := Namespaces(tt.request, tt.relative); !slices.Equal(got, tt.want) {
			t.Errorf("%q %q: got %q, want %q", tt.request, tt.relative, got, tt.want)
		}
	}
}

func TestMatchNamespaces(t *testing.T) {
	for _, tt := range []struct {
		globs []string
		ns    string
		want  bool
	}{
		{[]string{""}, "", true},
		{[]string{""}, "ns1/", false},
		{[]string{"ns1"}, "ns1/", true},
		{[]string{"ns1"}, "ns1/sub/", false},
		{[]string{"ns1/*"}, "ns1/", false},
		{[]string{"ns1/*"}, "ns1/sub/deep/", true},
		{[]string{"ns1*"}, "ns12/", true},
		{[]string{"", "*"}, "any/thing/", true},
		{[]string{"a", "b"}, "b/", true},
		{nil, "", false},
	} {
		m := newMatcher(Selection{Type: "*", Namespaces: tt.globs}, nil)
		if got := m.match(&event.Event{Type: "t", Namespace: tt.ns}); got != tt.want {
			t.Errorf("%q and %q: got %v", tt.globs, tt.ns, got)
		}
	}
}

func TestSelectionKey(t *testing.T) {
	f, err := filter.Compile(`event_type == "x"`)
	if err != nil {
		t.Fatal(err)
	}
	selections := []Selection{
		{Type: "a"}, {Type: "a", Namespaces: []string{""}}, {Type: "a", Namespaces: []string{"x", "y"}}, {Type: "a", Namespaces: []string{"x y"}},
		{Type: `a" ["x"]`}, {Type: "a", Filter: f}, {Type: "a\x00", Namespaces: []string{""}},
	}
	seen := map[string]int{}
	for i, s := range selections {
		if k, ok := seen[s.key()]; ok {
			t.Errorf("selections %d and %d have the same key %q", k, i, s.key())
		}
		seen[s.key()] = i
	}
}
