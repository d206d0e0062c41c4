package flipt

import (
	"slices"
	"strings"
	"testing"
)

var (
	_ EventPairChecker = (*Checker)(nil)
	_ EventPairChecker = NoOpChecker{}
)

// Behaviours 15 and 16: the texts are those of real servers.
func TestNewChecker(t *testing.T) {
	for _, c := range []struct {
		pairs []string
		want  string // events, or the error
	}{
		{[]string{"flag:created"}, "flag:created"},
		{[]string{"flag:*"}, "flag:created flag:deleted flag:updated"},
		{[]string{"flag:created:extra"}, "flag:created"},
		{[]string{"token:deleted", "rule:updated"}, "rule:updated token:deleted"},
		{[]string{"flag"}, "invalid event pair: flag"},
		{[]string{"*"}, "invalid event pair: *"},
		{[]string{""}, "invalid event pair: "},
		{[]string{"foo:created"}, "invalid noun: foo"},
		{[]string{"Flag:created"}, "invalid noun: Flag"},
		{[]string{" flag:created"}, "invalid noun:  flag"},
		{[]string{":"}, "invalid noun: "},
		{[]string{"flag:read"}, "invalid verb: read"},
		{[]string{"flag:Created"}, "invalid verb: Created"},
		{[]string{"flag:created,flag:updated"}, "invalid verb: created,flag"},
		{[]string{"*:created", "flag:created"}, "repeated event pair: flag:created"},
		{[]string{"flag:*", "*:deleted"}, "repeated event pair: flag:deleted"},
		{[]string{"flag:created", "flag:created"}, "repeated event pair: flag:created"},
		{[]string{}, "no event pairs exist"},
		{nil, "no event pairs exist"},
	} {
		checker, err := NewChecker(c.pairs)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = strings.Join(checker.Events(), " ")
		}
		if got != c.want {
			t.Errorf("%q: %q, want %q", c.pairs, got, c.want)
		}
	}
}

// Behaviours 15, 17 and 18.
func TestCheck(t *testing.T) {
	all, err := NewChecker(DefaultEvents)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(all.Events()); n != 27 {
		t.Errorf("%d pairs", n)
	}
	for _, noun := range Flipt.Nouns {
		for _, verb := range Flipt.Verbs {
			pair := noun + ":" + verb
			one, err := NewChecker([]string{pair})
			if err != nil {
				t.Fatal(err)
			}
			if !all.Check(pair) || !one.Check(pair) || !slices.Equal(one.Events(), []string{pair}) {
				t.Error(pair)
			}
			if other := noun + ":x"; one.Check(other) {
				t.Error(other)
			}
		}
		verbs, _ := NewChecker([]string{noun + ":*"})
		if len(verbs.Events()) != 3 {
			t.Error(noun)
		}
	}
	for _, pair := range []string{"flag:read", "Flag:created", "flag:created ", "authentication:deleted", "*:*", ""} {
		if all.Check(pair) {
			t.Errorf("%q is wanted", pair)
		}
	}
	var none *Checker
	if none.Check("flag:created") || len(none.Events()) != 0 {
		t.Error("nil wants something")
	}
	if (NoOpChecker{}).Check("flag:created") || (NoOpChecker{}).Events() == nil || len((NoOpChecker{}).Events()) != 0 {
		t.Error("the checker of nothing wants something")
	}
	if got := ParseEvents(" flag:created  segment:* "); !slices.Equal(got, []string{"flag:created", "segment:*"}) {
		t.Error(got)
	}
}

func TestVocabulary(t *testing.T) {
	v := Vocabulary{Nouns: []string{"order", "invoice"}, Verbs: []string{"paid", "read"}}
	c, err := v.NewChecker([]string{"*:paid", "order:read"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Events(), " "); got != "invoice:paid order:paid order:read" {
		t.Error(got)
	}
	if _, err := v.NewChecker([]string{"flag:created"}); err == nil || err.Error() != "invalid noun: flag" {
		t.Error(err)
	}
}
