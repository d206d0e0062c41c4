package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	team := parse(t, "team", `# of the team
path "secret/*" {
  capabilities = ["read", "list"]
}
path "secret/+/app" {
  capabilities = ["subscribe"]
  subscribe_event_types = ["kv*"]
}
path "secret/data/app" { capabilities = ["read", "list"] }
path "secret/{{token.metadata.x}}/+" { capabilities = ["read"] }
path "secret/+/{{token.display_name}}" { capabilities = ["deny"] }
path "sec*" { capabilities = ["update"] }
`)
	ops := parse(t, "ops", `
path "secret/+/app" {
  capabilities = ["sudo", "update", "subscribe"]
  subscribe_event_types = ["database/*"]
  required_parameters = ["why"]
}
path "closed/*" {
  policy = "write"
  mfa_methods = ["x"]
}
path "wrapped" {
  policy = "write"
  min_wrapping_ttl = 1
}
path "silent" { capabilities = ["subscribe"] }
`)
	a := Compile([]Bound{{team, ""}, {ops, ""}, {ops, "ns1/"}}, &Subject{DisplayName: "a+b"})
	for _, tt := range []struct {
		name    string
		query   Query
		allowed bool
		path    string
		reason  string
		winner  string
		sources string
		lost    []string // "PATTERN: REASON"
	}{
		{"prefix", Query{Path: "secret/data/x", Operation: Read}, true, "secret/data/x", "the rule grants read",
			"secret/*", "team@2:6", []string{"sec*: the other is longer"}},
		{"exact", Query{Path: "secret/data/app", Operation: Delete}, false, "secret/data/app", "the rule does not grant delete",
			"secret/data/app", "team@9:6", []string{`secret/+/app: the other is the path itself`, `secret/*: the other is the path itself`, `sec*: the other is the path itself`}},
		{"plus", Query{Path: "secret/x/app", Operation: Update, Parameters: map[string]any{"why": 1}}, true, "secret/x/app", "the rule grants update",
			"secret/+/app", "team@5:6 ops@2:6", []string{`secret/*: it ends with "*"`, `sec*: its first "+" or "*" comes earlier`}},
		{"sudo", Query{Path: "secret/x/app", Operation: Update | Sudo, Parameters: map[string]any{"why": 1}}, true, "secret/x/app", "the rule grants sudo, update",
			"secret/+/app", "team@5:6 ops@2:6", []string{`secret/*: it ends with "*"`, `sec*: its first "+" or "*" comes earlier`}},
		{"no sudo", Query{Path: "secret/x", Operation: Read | Sudo}, false, "secret/x", "the rule does not grant sudo",
			"secret/*", "team@2:6", []string{"sec*: the other is longer"}},
		{"parameters", Query{Path: "secret/x/app", Operation: Update}, false, "secret/x/app", `the required parameter "why" is missing`,
			"secret/+/app", "team@5:6 ops@2:6", []string{`secret/*: it ends with "*"`, `sec*: its first "+" or "*" comes earlier`}},
		{"event", Query{Path: "/secret/x/app", Operation: Subscribe, EventType: "database/rotate"}, true, "secret/x/app", `the rule grants subscribe and its event type "database/*" matches`,
			"secret/+/app", "team@5:6 ops@2:6", []string{`secret/*: it ends with "*"`, `sec*: its first "+" or "*" comes earlier`}},
		{"event of another type", Query{Path: "secret/x/app", Operation: Subscribe, EventType: "pki/x"}, false, "secret/x/app", `none of the event types of the rule matches "pki/x"`,
			"secret/+/app", "team@5:6 ops@2:6", []string{`secret/*: it ends with "*"`, `sec*: its first "+" or "*" comes earlier`}},
		{"event without subscribe", Query{Path: "secret/x", Operation: Subscribe, EventType: "kv"}, false, "secret/x", "the rule does not grant subscribe",
			"secret/*", "team@2:6", []string{"sec*: the other is longer"}},
		{"event without types", Query{Path: "silent", Operation: Subscribe, EventType: "kv"}, false, "silent", "has no subscribe_event_types", "silent", "ops@15:6", nil},
		{"event without a path", Query{Namespace: "ns1/", Path: "/", Operation: Subscribe, EventType: "kv"}, false, "ns1/", "without a path", "", "", nil},
		{"namespace", Query{Namespace: "ns1/", Path: "secret/x/app", Operation: Subscribe, EventType: "database/x"}, true, "ns1/secret/x/app", "matches",
			"ns1/secret/+/app", "ops(ns1/)@2:6", nil},
		{"no rule", Query{Namespace: "ns2/", Path: "secret/x/app", Operation: Read}, false, "ns2/secret/x/app", "no rule matches", "", "", nil},
		{"unsupported", Query{Path: "closed/x", Operation: Read}, false, "closed/x", "the rule denies, because it has mfa_methods", "closed/*", "ops@7:6", nil},
		{"unsupported event", Query{Path: "closed/x", Operation: Subscribe}, false, "closed/x", "mfa_methods", "closed/*", "ops@7:6", nil},
		{"wrapped", Query{Path: "wrapped", Operation: Read}, false, "wrapped", "wrapped response", "wrapped", "ops@11:6", nil},
		{"no operation", Query{Path: "wrapped", Operation: Root}, false, "wrapped", "no operation", "wrapped", "ops@11:6", nil},
		{"value of a template", Query{Path: "secret/x/a+b", Operation: Read}, false, "secret/x/a+b", "the rule denies", "secret/+/a+b", "team@11:6",
			[]string{`secret/*: it ends with "*"`, `sec*: its first "+" or "*" comes earlier`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := a.Explain(tt.query)
			if x.Allowed != tt.allowed || x.Path != tt.path || !strings.Contains(x.Reason, tt.reason) {
				t.Errorf("got %v of %q: %s", x.Allowed, x.Path, x.Reason)
			}
			winner, sources := "", ""
			if x.Winner != nil {
				winner = x.Winner.Pattern
				for i, s := range x.Winner.Sources {
					if i > 0 {
						sources += " "
					}
					sources += s.Policy
					if s.Namespace != "" {
						sources += "(" + s.Namespace + ")"
					}
					sources += fmt.Sprintf("@%d:%d", s.Rule.Position.Line, s.Rule.Position.Column)
				}
			}
			if winner != tt.winner || sources != tt.sources {
				t.Errorf("winner %q of %q", winner, sources)
			}
			var lost []string
			for _, m := range x.Lost {
				lost = append(lost, m.Pattern+": "+m.Reason)
			}
			if strings.Join(lost, "\n") != strings.Join(tt.lost, "\n") {
				t.Errorf("lost:\n%s", strings.Join(lost, "\n"))
			}
			if len(x.Skipped) != 1 || x.Skipped[0].Rule.Pattern != "secret/{{token.metadata.x}}/+" || x.Skipped[0].Policy != "team" ||
				!strings.Contains(x.Skipped[0].Reason, "{{token.metadata.x}} has no value") {
				t.Errorf("skipped %+v", x.Skipped)
			}
		})
	}
	x := a.Explain(Query{Path: "secret/x/app", Operation: Update})
	if got := x.Winner.Capabilities; got != Subscribe|Sudo|Update || strings.Join(x.Winner.EventTypes, " ") != "kv* database/*" {
		t.Errorf("winner %+v", x.Winner)
	}
}

// Why one rule wins over another, in every way there is.
func TestExplainLost(t *testing.T) {
	for _, tt := range []struct{ policy, path, lost string }{
		{"a/b: list; a/b/: list", "a/b/", "a/b: the other is the path itself"},
		{"a/b: list; a/b/*: list", "a/b/", "a/b/*: the other is the path without its trailing slash"},
		{"a/+/b: list; a/x/*: list", "a/x/b", `a/+/b: its first "+" or "*" comes earlier`},
		{"a/+: list; a/*: list", "a/b", `a/*: it ends with "*"`},
		{"a/+/+: list; a/+/c: list", "a/b/c", `a/+/+: it has more "+"`},
		{"a/+/c*: list; a/+/cd*: list", "a/b/cd", `a/+/c*: it is shorter`},
		{"a/+/b/+: list; a/+/+/b: list", "a/x/b/b", "a/+/+/b: it comes first in the alphabet"},
		{"a/+: list; a/b/*: read", "a/b/", "a/b/*: for a path with a trailing slash the other counts, because it grants list"},
		{"a/+: deny; a/b/*: read", "a/b/", "a/b/*: for a path with a trailing slash the other counts, because it denies"},
	} {
		x := acl(t, rules(tt.policy)).Explain(Query{Path: tt.path, Operation: List})
		if len(x.Lost) != 1 || x.Lost[0].Pattern+": "+x.Lost[0].Reason != tt.lost {
			t.Errorf("%s: lost %+v\nwant %s", tt.policy, x.Lost, tt.lost)
		}
	}
}
