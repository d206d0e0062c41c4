package policy

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

var parseSeeds = []string{
	"",
	"# only a comment",
	`path "secret/*" { capabilities = ["read", "list"] }`,
	"name = \"x\"\npath \"a/+/b*\" {\n  policy = \"write\" # why\n  /* and\n  more */\n  comment = \"c\"\n}\n",
	"path \"a\" {\n  allowed_parameters = {\n    \"p\" = [1, 2.5, true, \"x*\", [\"y\"]]\n    \"*\" = []\n  }\n  required_parameters = [\"p\"]\n}",
	`path "a" { min_wrapping_ttl = 5 max_wrapping_ttl = "1h" }`,
	`path "s/{{identity.entity.id}}/{{ token.metadata.x }}" { capabilities = ["subscribe"] subscribe_event_types = ["kv*"] }`,
	`path "a" { control_group = { ttl = "1h" factor "f" { identity { group_names = ["g"] approvals = 1 } } } }`,
	"path \"a\" { comment = <<EOF\nx\nEOF\n}",
	"path \"a\" { comment = <<-EOF\n  x\n  EOF\n}",
	`{"path": {"a/*": {"capabilities": ["read"], "comment": null}, "b": [{"policy": "deny"}, {}]}}`,
	`{"name": 1, "path": [{"a": {"allowed_parameters": {"p": [1e3, -0.5, false]}}}]}`,
	`{"path": {"${a": {"capabilities": ["\u0072ead", "\ud83d\ude00"]}}}`,
	"path \"a\" { comment = \"${x\" }",
	"path \"a\" { comment = \"${\"}\" }",
	"path \"a\" { comment = \"\\u00zz\" }",
	"path \"a\" { min_wrapping_ttl = 1e }",
	"path \"a\" { min_wrapping_ttl = 99999999999999999999999 }",
	"path \"a\" { comment = <<A\nA }",
	"path \"a\" {}\n// x",
	"path \"a\" { capabilities = [ // x\n\"read\", /* y */ \"list\" // z\n] }",
	strings.Repeat("a{", 40), strings.Repeat("[", 40), strings.Repeat(`{"a":`, 40),
	"\x00", "\xff", "path \"\x00\" {}", "\uE123", "\ufeffpath \"a\" {}", "path \"a\" {\r\n}\r\n",
}

// FuzzParse finds texts that panic, and those whose errors or layout are not as
// promised.
func FuzzParse(f *testing.F) {
	for _, s := range parseSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, warnings, err := Parse("p", text)
		lines := strings.Count(text, "\n") + 1
		checkProblems(t, warnings, lines)
		if err != nil {
			problems, ok := errors.AsType[Error](err)
			if !ok || len(problems) == 0 || p != nil || warnings != nil {
				t.Fatalf("Parse = %v, %v, %#v", p, warnings, err)
			}
			checkProblems(t, problems, lines)
			if _, err := Format(text); err == nil {
				t.Fatal("Format accepts what Parse refuses")
			}
			return
		}
		Compile([]Bound{{p, ""}, {p, "ns1/"}}, &Subject{EntityID: "e", TokenMetadata: map[string]string{"x": "y"}}).Capabilities("a/x/b")
		once, err := Format(text)
		if err != nil {
			return // comments where the printer cannot keep them
		}
		again, _, err := Parse("p", once)
		if err != nil || !sameRules(again.Rules, p.Rules) {
			t.Fatalf("formatting changes the policy: %v\n%q", err, once)
		}
		if twice, err := Format(once); err != nil || twice != once {
			t.Fatalf("formatting twice: %v\n%q\n%q", err, once, twice)
		}
	})
}

func checkProblems(t *testing.T, problems []Problem, lines int) {
	t.Helper()
	for i, p := range problems {
		if p.Line < 1 || p.Line > lines || p.Column < 1 || p.Message == "" || !utf8.ValidString(p.Message) {
			t.Fatalf("problem %+v of a text with %d lines", p, lines)
		}
		if i > 0 && (problems[i-1].Line > p.Line || problems[i-1].Line == p.Line && problems[i-1].Column > p.Column) {
			t.Fatalf("problems are not in order: %v", problems)
		}
	}
}

// FuzzMatch compares with the model.
func FuzzMatch(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09"))
	f.Add([]byte("path and policies of a few bytes, which are taken as choices"))
	f.Add([]byte(strings.Repeat("\x05\x01\x07\x03\x0b", 60)))
	f.Fuzz(func(t *testing.T, choices []byte) {
		c := byteChooser(choices)
		checkModel(t, &c, 1+c.IntN(3), 1+c.IntN(6), 6)
	})
}
