package subject

import (
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
)

func TestAppend(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, tt := range []struct {
		template string
		e        event.Event
		want     string
	}{
		{"events", event.Event{}, "events"},
		{"tocsin.{type}", event.Event{Type: "kv-v2/data-write"}, "tocsin.kv-v2.data-write"},
		{"{source}.{namespace}.{path}", event.Event{Source: "vault://node-1", Namespace: "a/b/", Path: "secret/data/app"}, "vault.node-1.a.b.secret.data.app"},
		{"a.{namespace}.{path}.{source}.{type}", event.Event{}, "a.root._._._"},
		{"x-{type}_y", event.Event{Type: "a/b"}, "x-a.b_y"},
		{"{path}", event.Event{Path: "/a//b/"}, "a.b"},
		{"{path}", event.Event{Path: "a.b/*/>/ \t\n/é\u4e16"}, "a_b._._.___.__"},
		{"{path}", event.Event{Path: "\xff\x80/\x80"}, "__._"},
		{"{path}", event.Event{Path: "///"}, "_"},
		{"{path}", event.Event{Path: "$SYS/_INBOX"}, "_SYS._INBOX"},
		{"{source}", event.Event{Source: "https://user@h:80/a?b"}, "https.user_h_80.a_b"},
		{"{source}", event.Event{Source: "://x"}, "x"},
		{"{source}", event.Event{Source: "a/b://x"}, "a.b_.x"},
		{"{path}", event.Event{Path: "1/2/3/4/5/6/7/8/9/10/11/12"}, "1.2.3.4.5.6.7.8.9.10.HASH"},
		{"p.{path}", event.Event{Path: "a/" + long}, "p.a." + long[:109] + ".HASH"},
		{"{path}", event.Event{Path: long}, long[:110] + ".HASH"},
		{"{source}", event.Event{Source: long + "://a"}, long[:111] + ".HASH"},
	} {
		p, err := Parse(tt.template)
		if err != nil {
			t.Errorf("%s: %v", tt.template, err)
			continue
		}
		got := string(p.Append(nil, &tt.e))
		want := tt.want
		if lead, ok := strings.CutSuffix(want, ".HASH"); ok && len(got) > 17 {
			want = lead + got[len(got)-17:]
		}
		if got != want {
			t.Errorf("%s of %.100q: got %s, want %s", tt.template, tt.e.Path+tt.e.Source+tt.e.Type, got, want)
		}
	}
}

// TestLongValuesDiffer: what is cut is still told apart.
func TestLongValuesDiffer(t *testing.T) {
	p, err := Parse("{path}")
	if err != nil {
		t.Fatal(err)
	}
	lead := strings.Repeat("x", 200)
	a, b := p.Append(nil, &event.Event{Path: lead + "a"}), p.Append(nil, &event.Event{Path: lead + "b"})
	if string(a) == string(b) {
		t.Errorf("both are %s", a)
	}
}

func TestParseRefuses(t *testing.T) {
	for template, want := range map[string]string{
		"":                              "is empty",
		"a..b":                          "empty token",
		".a":                            "empty token",
		"a.":                            "empty token",
		"a.*":                           "'*'",
		"a.>":                           "'>'",
		"a b":                           "' '",
		"a.{typ}":                       "none of {type}",
		"a.{type":                       "none of {type}",
		"a.type}":                       "'}'",
		"{}":                            "none of",
		"a.\u00e9":                      "character",
		"a.\n":                          "character",
		"$JS.x":                         "belong to the server",
		"$SYS.{type}":                   "belong to the server",
		"_INBOX.a":                      "belong to the server",
		strings.Repeat("a", 151):        "151 bytes",
		"{" + strings.Repeat("é", 1000): "2001 bytes",
	} {
		if _, err := Parse(template); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 200 {
			t.Errorf("%.50q: %v, want %q", template, err, want)
		}
	}
}

func FuzzAppend(f *testing.F) {
	for _, s := range []string{"kv-v2/data-write", "vault://a/b", "a..b/*/>", strings.Repeat("/x", 100), "\x00é", "://", strings.Repeat("y", 400)} {
		f.Add("a.{type}.{namespace}x{path}.{source}", s, s)
	}
	f.Fuzz(func(t *testing.T, template, a, b string) {
		p, err := Parse(template)
		if err != nil {
			return
		}
		e := &event.Event{Type: a, Namespace: b, Path: a + b, Source: b + a}
		s := string(p.Append(nil, e))
		if len(s) > 30*maxBytes || s == "" || s[0] == '$' {
			t.Fatalf("%q of %q", s, template)
		}
		for token := range strings.SplitSeq(s, ".") {
			if token == "" || strings.ContainsAny(token, "*> \t\r\n\x00") {
				t.Fatalf("%q has the token %q", s, token)
			}
		}
	})
}
