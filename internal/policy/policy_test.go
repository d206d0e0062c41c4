package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestCapabilityNames(t *testing.T) {
	for _, tt := range []struct {
		c    Capabilities
		want string
	}{
		{0, "deny"},
		{Deny, "deny"},
		{Deny | Read, "deny"},
		{Root, "root"},
		{Update | Read | Create | Subscribe, "create read subscribe update"},
		{Create | Read | Update | Delete | List | Sudo | Patch | Subscribe | Recover, "create delete list patch read recover subscribe sudo update"},
	} {
		if got := strings.Join(tt.c.Names(), " "); got != tt.want {
			t.Errorf("%b: got %q, want %q", tt.c, got, tt.want)
		}
	}
	if !slices.IsSortedFunc(capabilityNames, func(a, b struct {
		name string
		bit  Capabilities
	}) int {
		return strings.Compare(a.name, b.name)
	}) {
		t.Error("names are not in alphabetical order")
	}
	if _, ok := CapabilityByName("root"); ok {
		t.Error("root can be written")
	}
	if c, ok := CapabilityByName("patch"); c != Patch || !ok {
		t.Error("patch is unknown")
	}
}

func TestCleanName(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{" Team-A\n", "team-a"},
		{"root", "root"},
		{"a.b_c:d@e/f", "a.b_c:d@e/f"},
		{"ÄÖ9", "äö9"},
		{strings.Repeat("x", 128), strings.Repeat("x", 128)},
		{"", ""},
		{" \t ", ""},
		{"a b", ""},
		{"a,b", ""},
		{"a*", ""},
		{"+", ""},
		{"a\x00b", ""},
		{"a\xff", ""},
		{"a%2fb", ""},
		{"a?b#c", ""},
		{"{{x}}", ""},
		{"../a", ""},
		{"a/./b", ""},
		{"a//b", ""},
		{"/a", ""},
		{"a/", ""},
		{"..", ""},
		{strings.Repeat("x", 129), ""},
	} {
		got, err := CleanName(tt.name)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q: got %q, %v; want %q", tt.name, got, err, tt.want)
		}
		if err == nil {
			if again, err := CleanName(got); again != got || err != nil {
				t.Errorf("%q again: %q, %v", got, again, err)
			}
		}
	}
}

func TestErrorText(t *testing.T) {
	var e Error
	for i := range 13 {
		e = append(e, Problem{Position{i + 1, 2}, fmt.Sprintf("p%d", i)})
	}
	got := strings.Split(e.Error(), "\n")
	if len(got) != 11 || got[0] != "line 1, column 2: p0" || got[9] != "line 10, column 2: p9" || got[10] != "and 3 more" {
		t.Errorf("got %q", got)
	}
}
