package policy

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// parse parses a text that is right, without looking at warnings.
func parse(tb testing.TB, name, text string) *Policy {
	tb.Helper()
	p, _, err := Parse(name, text)
	if err != nil {
		tb.Fatalf("%s\n%v", text, err)
	}
	return p
}

func TestParse(t *testing.T) {
	all := Create | Read | Update | Delete | List | Sudo | Patch | Subscribe | Recover
	for _, tt := range []struct {
		name, text string
		want       []Rule
	}{
		{"nothing", "", nil},
		{"comments", "# a\n// b\n/* c */", nil},
		{"name", `name = "x"`, nil},
		{"one", `path "secret/*" { capabilities = ["read"] }`,
			[]Rule{{Pattern: "secret/*", Capabilities: Read, Position: Position{1, 6}}}},
		{"everything", `path "a" {
			comment = "why"
			capabilities = ["create", "read", "update", "delete", "list", "sudo", "patch", "subscribe", "recover"]
			subscribe_event_types = ["kv*", "database/rotate"]
			required_parameters = ["p", "q"]
			allowed_parameters = {
				"P" = ["x", 1, 1.5, true, ["y"]]
				q = []
			}
			denied_parameters = { "*" = [] }
		}`, []Rule{{Pattern: "a", Capabilities: all, Position: Position{1, 6}, Comment: "why",
			EventTypes: []string{"kv*", "database/rotate"},
			required:   []string{"p", "q"},
			allowed:    map[string][]any{"p": {"x", int64(1), 1.5, true, []any{"y"}}, "q": {}},
			denied:     map[string][]any{"*": {}},
		}}},
		{"blocks", "path \"a\" {\n  policy = \"read\"\n  allowed_parameters { a = [] }\n  allowed_parameters { b = [] }\n}",
			[]Rule{{Pattern: "a", Capabilities: Read | List, Position: Position{1, 6}, allowed: map[string][]any{"a": {}, "b": {}}}}},
		{"legacy deny", `path "a" { policy = "deny" }`, []Rule{{Pattern: "a", Capabilities: Deny, Position: Position{1, 6}}}},
		{"legacy read", `path "a" { policy = "read" }`, []Rule{{Pattern: "a", Capabilities: Read | List, Position: Position{1, 6}}}},
		{"legacy write", `path "a" { policy = "write" }`,
			[]Rule{{Pattern: "a", Capabilities: Create | Read | Update | Delete | List, Position: Position{1, 6}}}},
		{"legacy sudo", `path "a" { policy = "sudo" }`,
			[]Rule{{Pattern: "a", Capabilities: Create | Read | Update | Delete | List | Sudo, Position: Position{1, 6}}}},
		{"legacy and capabilities", "path \"a\" {\n policy = \"read\"\n capabilities = [\"patch\"]\n}",
			[]Rule{{Pattern: "a", Capabilities: Read | List | Patch, Position: Position{1, 6}}}},
		{"deny drops all others", `path "a" {
			capabilities = ["read", "deny", "subscribe"]
			subscribe_event_types = ["*"]
			allowed_parameters = { a = [] }
			min_wrapping_ttl = 5
			mfa_methods = ["x"]
			comment = "c"
		}`, []Rule{{Pattern: "a", Capabilities: Deny, Position: Position{1, 6}, Comment: "c"}}},
		{"legacy deny drops", "path \"a\" {\n policy = \"deny\"\n capabilities = [\"read\"]\n}",
			[]Rule{{Pattern: "a", Capabilities: Deny, Position: Position{1, 6}}}},
		{"no capabilities", `path "a" {}`, []Rule{{Pattern: "a", Position: Position{1, 6}}}},
		{"leading slash", "path \"/a/b\" {}\npath \"//c\" {}",
			[]Rule{{Pattern: "a/b", Position: Position{1, 6}}, {Pattern: "/c", Position: Position{2, 6}}}},
		{"same path twice", "path \"a\" { policy = \"read\" }\n  path \"a\" {}",
			[]Rule{{Pattern: "a", Capabilities: Read | List, Position: Position{1, 6}}, {Pattern: "a", Position: Position{2, 8}}}},
		{"stars and pluses", "path \"*\" {}\npath \"+\" {}\npath \"a/+/b*\" {}\npath \"a*b/c+d\" {}\npath \"+/*\" {}",
			[]Rule{{Pattern: "*", Position: Position{1, 6}}, {Pattern: "+", Position: Position{2, 6}}, {Pattern: "a/+/b*", Position: Position{3, 6}},
				{Pattern: "a*b/c+d", Position: Position{4, 6}}, {Pattern: "+/*", Position: Position{5, 6}}}},
		{"wrapping", "path \"a\" { min_wrapping_ttl = 5 }\npath \"b\" { max_wrapping_ttl = \"2d\" }\npath \"c\" { min_wrapping_ttl = \"0\" }\npath \"d\" { min_wrapping_ttl = \"\" }\npath \"e\" { min_wrapping_ttl = 0.5 }",
			[]Rule{{Pattern: "a", wrapped: true, Position: Position{1, 6}}, {Pattern: "b", wrapped: true, Position: Position{2, 6}},
				{Pattern: "c", Position: Position{3, 6}}, {Pattern: "d", Position: Position{4, 6}}, {Pattern: "e", wrapped: true, Position: Position{5, 6}}}},
		{"control group", `path "a" {
			policy = "read"
			control_group = {
				ttl = "1h"
				factor "f" { identity { group_names = ["g"] approvals = 1 } }
			}
		}`, []Rule{{Pattern: "a", Capabilities: Read | List, unsupported: "control_group", Position: Position{1, 6}}}},
		{"mfa", `path "a" { mfa_methods = ["x"] }`, []Rule{{Pattern: "a", unsupported: "mfa_methods", Position: Position{1, 6}}}},
		{"no mfa", `path "a" { mfa_methods = [] }`, []Rule{{Pattern: "a", Position: Position{1, 6}}}},
		{"heredoc", "path \"a\" {\n  comment = <<EOF\none\ntwo\nEOF\n}", []Rule{{Pattern: "a", Comment: "one\ntwo\n", Position: Position{1, 6}}}},
		{"escapes", `path "\u0061\"\\" { comment = "$${x} ${y "z"}" }`, []Rule{{Pattern: `a"\`, Comment: `$${x} ${y "z"}`, Position: Position{1, 6}}}},
		{"windows", "path \"a\" {\r\n  policy = \"read\"\r\n}\r\n", []Rule{{Pattern: "a", Capabilities: Read | List, Position: Position{1, 6}}}},
		{"column of characters", `/* äöü */ path "ä" {}`, []Rule{{Pattern: "ä", Position: Position{1, 16}}}},
		{"numbers as texts", `path "a" { required_parameters = [5] comment = 7 }`, []Rule{{Pattern: "a", required: []string{"5"}, Comment: "7", Position: Position{1, 6}}}},

		{"JSON nothing", `{}`, nil},
		{"JSON", "\n {\"name\": null, \"path\": {\n \"/a\": {\"capabilities\": [\"read\", \"\\u006cist\"], \"comment\": null,\n \"allowed_parameters\": {\"p\": [true, 1, 1.5e0, \"x\"]}}, \"b\": {\"policy\": \"write\"}}}\n",
			[]Rule{{Pattern: "a", Capabilities: Read | List, Position: Position{3, 2}, allowed: map[string][]any{"p": {true, int64(1), 1.5, "x"}}},
				{Pattern: "b", Capabilities: Create | Read | Update | Delete | List, Position: Position{4, 55}}}},
		{"JSON list of paths", `{"path": [{"a": {"policy": "read"}}, {"b": [{"policy": "deny"}, {"comment": "x"}]}]}`,
			[]Rule{{Pattern: "a", Capabilities: Read | List, Position: Position{1, 12}}, {Pattern: "b", Capabilities: Deny, Position: Position{1, 39}},
				{Pattern: "b", Comment: "x", Position: Position{1, 39}}}},
		{"JSON only objects", `{"path": {"a": {"allowed_parameters": {}}}}`, []Rule{{Pattern: "a", allowed: map[string][]any{}, Position: Position{1, 11}}}},
		{"JSON surrogates and interpolation", `{"path": {"\ud83d\ude00${": {"comment": "\/"}}}`, []Rule{{Pattern: "😀${", Comment: "/", Position: Position{1, 11}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := parse(t, "p", tt.text)
			if p.Name != "p" || p.Templated() {
				t.Errorf("name %q, templated %v", p.Name, p.Templated())
			}
			if !reflect.DeepEqual(p.Rules, tt.want) {
				t.Errorf("got  %+v\nwant %+v", p.Rules, tt.want)
			}
		})
	}
}

func TestParseProblems(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string // line:column, and a part of the message
	}{
		{"capability", `path "a" { capabilities = ["reed"] }`, []string{`1:28 unknown capability "reed"; did you mean "read"?`}},
		{"capital capability", `path "a" { capabilities = ["READ"] }`, []string{`1:28 did you mean "read"?`}},
		{"strange capability", `path "a" { capabilities = ["everything"] }`, []string{`1:28 possible are create, delete, deny, list, patch, read, recover, subscribe, sudo, update`}},
		{"root", `path "a" { capabilities = ["root"] }`, []string{`1:28 unknown capability "root"`}},
		{"unknown beside deny", `path "a" { capabilities = ["deny", "foo"] }`, []string{`1:36 unknown capability "foo"`}},
		{"capabilities is no list", `path "a" { capabilities = "read" }`, []string{`1:27 capabilities is a text, not a list: capabilities = ["read"]`}},
		{"list of others", `path "a" { capabilities = [true, ["x"], {}] }`, []string{`1:28 a truth value`, `1:34 a list`, `1:41 a block`}},
		{"top key", `pth "a" {}`, []string{`1:1 unknown key "pth"; did you mean "path"?`}},
		{"case of keys", `Path "a" {}`, []string{`1:1 unknown key "Path"; did you mean "path"?`}},
		{"stanza key", `path "a" { capabilites = ["read"] }`, []string{`1:12 unknown key "capabilites" in the rule for path "a"; did you mean "capabilities"?`}},
		{"name", `name = ["x"]`, []string{`1:8 name is a list, not a text`}},
		{"legacy", `path "a" { policy = "list" }`, []string{`1:21 unknown policy "list"; it is "deny", "read", "write" or "sudo"`}},
		{"several", "path \"a\" {\n  capabilities = [\"reed\", \"liszt\"]\n  foo = 1\n}\nbar = 2\npath \"+*\" {}", []string{
			`2:19 "reed"`, `2:27 did you mean "list"`, `3:3 "foo"`, `5:1 "bar"`, `6:6 "+*"`}},
		{"no pattern", "path {\n  capabilities = [\"read\"]\n}", []string{`1:6 "path" needs a pattern`}},
		{"two patterns", `path "a" "b" { policy = "read" }`, []string{`1:10 unknown key "b" in the rule for path "a"`}},
		{"path is a text", `path = "a"`, []string{`1:8 "path" is a text; it needs a pattern and a block`}},
		{"plus star", `path "a/+*" {}`, []string{`1:6 "+" stands for one whole segment`}},
		{"plus star within", `path "a+*b" {}`, []string{`1:6 "+*"`}},
		{"control character", `path "a\n" {}`, []string{`1:6 control character`}},
		{"twice", "path \"a\" {\n  policy = \"read\"\n  policy = \"deny\"\n}", []string{`3:3 "policy" is set twice`}},
		{"twice in quotes", "path \"a\" {\n  policy = \"read\"\n  \"policy\" = \"deny\"\n}", []string{`3:3 "policy" is set twice`}},
		{"name twice", "name = \"a\"\nname = \"b\"", []string{`2:1 "name" is set twice`}},
		{"parameters twice", "path \"a\" {\n  allowed_parameters = {}\n  allowed_parameters = {}\n}", []string{`3:3 "allowed_parameters" is set twice`}},
		{"parameter twice", "path \"a\" {\n  allowed_parameters = {\n    a = []\n    A = []\n  }\n}", []string{`4:5 the parameter "a" twice`}},
		{"parameter text", "path \"a\" {\n  denied_parameters = {\n    a = \"b\"\n  }\n}", []string{`3:9 the parameter "a" of denied_parameters has a text, not a list`}},
		{"parameters list", `path "a" { denied_parameters = ["a"] }`, []string{`1:32 denied_parameters is a list, not a block`}},
		{"required", `path "a" { required_parameters = "a" }`, []string{`1:34 required_parameters = ["a"]`}},
		{"duration", `path "a" { min_wrapping_ttl = "soon" }`, []string{`1:31 min_wrapping_ttl is "soon", not a duration such as`}},
		{"negative duration", `path "a" { min_wrapping_ttl = -5 }`, []string{`1:31 negative`}},
		{"long duration", `path "a" { max_wrapping_ttl = "9999999999999d" }`, []string{`1:31 too long`}},
		{"no duration", `path "a" { max_wrapping_ttl = true }`, []string{`1:31 a truth value, not a duration`}},
		{"durations", "path \"a\" {\n  min_wrapping_ttl = \"2h\"\n  max_wrapping_ttl = 60\n}", []string{`1:6 max_wrapping_ttl is less than min_wrapping_ttl`}},
		{"control group", "path \"a\" { control_group = 5 }\npath \"b\" { control_group = {} }", []string{`1:28 control_group is a number`, `2:12 no factor`}},
		{"huge number", `path "a" { min_wrapping_ttl = 99999999999999999999 }`, []string{`1:31 cannot be represented`}},
		{"huge float", `path "a" { min_wrapping_ttl = 1e999 }`, []string{`1:31 cannot be represented`}},
		{"half a number", `path "a" { min_wrapping_ttl = 1e }`, []string{`1:31 cannot be represented`}},
		{"octal escape", `path "a" { comment = "\777" }`, []string{`1:22 escape`}},
		{"escape of a key", `path "\U00110000" { }`, []string{`1:6 escape`}},
		{"interpolation", `path "a" { comment = "${x" }`, []string{`1:`}},
		{"template", "path \"{{a\" {}\npath \"a}}\" {}\npath \"{{ {{a}} }}\" {}\npath \"{{a}} }}\" {}", []string{
			`1:6 not balanced`, `2:6 not balanced`, `3:6 not balanced`, `4:6 not balanced`}},
		{"syntax", "path \"a\" {\n  policy = \n}", []string{`3:1 `}},
		{"unfinished", "path \"a\" {\n", []string{`2:2 expected closing "}" got: the end of the text`}},
		{"closed too often", "path \"a\" {}\n}", []string{`2:1 `}},
		{"unfinished text", "path \"a", []string{`1:`}},
		{"unfinished heredoc", "path \"a\" {\n  comment = <<EOF\nx", []string{`3:`}},
		{"unfinished comment", "/* x", []string{`1:`}},
		{"NUL", "path \"a\" {}\n\x00", []string{`2:1 null character`}},
		{"not UTF-8", "# ä\npath \"\xff\" {}", []string{`2:7 not valid UTF-8`}},
		{"list with a missing comma", `path "a" { capabilities = ["read" "list"] }`, []string{`1:35 `}},
		{"apostrophes", `path 'a' {}`, []string{`1:6 illegal`}},

		{"JSON capability", "{\"path\": {\n\"ä\": {\"capabilities\": [\"reed\"]}}}", []string{`2:24 unknown capability "reed"; did you mean "read"?`}},
		{"JSON several", "{\"pth\": 1, \"path\": {\"a\": {\"foo\": 1,\n \"policy\": [1]}, \"b\": 5, \"c\": [5, {}]}}", []string{
			`1:2 did you mean "path"`, `1:27 "foo"`, `2:12 policy is a list, not a text`, `2:18 the rule for path "b" is a number`, `2:32 the rule for path "c" is a number`}},
		{"JSON twice", `{"path": {"a": {"policy": "read", "policy": "deny"}}}`, []string{`1:35 "policy" is set twice`}},
		{"JSON parameter twice", `{"path": {"a": {"allowed_parameters": {"p": [], "p": ["x"]}}}}`, []string{`1:49 twice`}},
		{"JSON value twice", `{"path": {"a": {"allowed_parameters": {"p": [{"x": 1, "x": 2}]}}}}`, []string{`1:55 "x" is set twice`}},
		{"JSON comma", `{"path": {"a": {"capabilities": ["read",]}}}`, []string{`1:41 invalid character ']'`}},
		{"JSON end", "{\"path\": {\n", []string{`1:11 unexpected end`}},
		{"JSON trailing", "{}\n x", []string{`2:2 after top-level value`}},
		{"JSON null", `{"path": {"a": {"allowed_parameters": {"p": [null]}, "capabilities": null}}}`, []string{`1:46 null`, `1:70 capabilities is null, not a list`}},
		{"JSON number", `{"path": {"a": {"min_wrapping_ttl": 1e999}}}`, []string{`1:37 cannot be represented`}},
		{"JSON no pattern", `{"path": {"capabilities": ["read"]}}`, []string{`1:10 "path" needs a pattern`}},
		{"JSON paths", `{"path": ["a"]}`, []string{`1:11 a text where a block is needed`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, warnings, err := Parse("p", tt.text)
			problems, ok := errors.AsType[Error](err)
			if !ok || p != nil || warnings != nil {
				t.Fatalf("got %v, %v, %v", p, warnings, err)
			}
			if len(problems) != len(tt.want) {
				t.Fatalf("got %d problems, want %d:\n%v", len(problems), len(tt.want), err)
			}
			for i, p := range problems {
				at, message, _ := strings.Cut(tt.want[i], " ")
				if got := fmt.Sprintf("%d:%d", p.Line, p.Column); !strings.HasPrefix(got, at) || !strings.Contains(p.Message, message) {
					t.Errorf("got %s %s\nwant %s", got, p.Message, tt.want[i])
				}
			}
			if _, err := Format(tt.text); err == nil {
				t.Error("Format accepts it")
			}
		})
	}
}

func TestParseWarnings(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{`path "a" { capabilities = ["read"] }`, ""},
		{`name = " P" path "a" { capabilities = ["read"] }`, ""},
		{`path "a" { capabilities = ["subscribe"] subscribe_event_types = ["*"] }`, ""},
		{``, `1:1 the policy has no rules`},
		{`name = "other" path "a" { policy = "read" }`, `1:1 the policy is stored as "p"`},
		{`path "a" {}`, `1:6 the rule grants nothing`},
		{`path "a" { capabilities = ["deny", "read"] }`, `1:6 deny drops the other capabilities`},
		{`path "a" { capabilities = ["subscribe"] }`, `1:6 subscribe without subscribe_event_types shows no event`},
		{`path "a" { capabilities = ["read"] subscribe_event_types = ["*"] }`, `1:6 subscribe_event_types has no effect`},
		{`path "a" { capabilities = ["subscribe"] subscribe_event_types = ["", "*"] }`, `1:66 the event type "" is none`},
		{`path "a" { capabilities = ["subscribe"] subscribe_event_types = ["k v"] }`, `1:66 no event has the type "k v"`},
		{`path "a" { capabilities = ["read"] min_wrapping_ttl = 5 }`, `1:6 refuses every operation`},
		{`path "a" { capabilities = ["subscribe"] subscribe_event_types = ["*"] max_wrapping_ttl = 5 }`, ``},
		{`path "a" { policy = "read" mfa_methods = ["x"] }`, `1:6 mfa_methods is not possible here, so the rule denies everything`},
		{`path "a" { policy = "read" control_group = { factor "x" {} } }`, `1:6 control_group is not possible here`},
		{`path "a" { policy = "read" comment = ["x"] }`, `1:28 comment is a list`},
		{`path "" { policy = "read" }`, `1:6 the empty path`},
		{`path "//a" { policy = "read" }`, `1:6 the path "//a" never matches`},
		{`path "v1/a" { policy = "read" }`, `1:6 part of the URL`},
		{`path "a/*/b" { policy = "read" }`, `1:6 "*" means something only at the end`},
		{`path "a/+b" { policy = "read" }`, `1:6 "+" means something only as a whole segment`},
		{`path "a+/b" { policy = "read" }`, `1:6 "+" means something only as a whole segment`},
		{`path "a/{{identity.entity.id}}/*" { policy = "read" }`, ""},
		{`path "a/{{identity.entity.foo}}/*" { policy = "read" }`, `1:6 {{identity.entity.foo}} never has a value here`},
		{`path "a/{{token.display_name}}/*" { policy = "deny" }`, `1:6 takes something away, but not from those`},
		{`path "a/{{token.display_name}}/*" { }`, `1:6 the rule grants nothing|1:6 takes something away`},
	} {
		_, warnings, err := Parse("p", tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		want := strings.Split(tt.want, "|")
		if tt.want == "" {
			want = nil
		}
		if len(warnings) != len(want) {
			t.Errorf("%s:\n got %v\nwant %v", tt.text, warnings, want)
			continue
		}
		for i, w := range warnings {
			at, message, _ := strings.Cut(want[i], " ")
			if got := fmt.Sprintf("%d:%d", w.Line, w.Column); got != at || !strings.Contains(w.Message, message) {
				t.Errorf("%s:\n got %s %s\nwant %s", tt.text, got, w.Message, want[i])
			}
		}
	}
}

// Texts that are too large, too deep or broken are refused quickly, with a short
// message.
func TestHostileTexts(t *testing.T) {
	var rules, types strings.Builder
	for range MaxRules + 1 {
		rules.WriteString("path\"a\"{}\n")
	}
	for range MaxEventTypes + 1 {
		types.WriteString(`"a",`)
	}
	for name, text := range map[string]string{
		"10 MB":                strings.Repeat("path \"a\" {}\n", 10<<20/12),
		"10 MB JSON":           `{"name": "` + strings.Repeat("x", 10<<20) + `"}`,
		"rules":                rules.String(),
		"event types":          `path "a" { subscribe_event_types = [` + types.String() + `] }`,
		"pattern":              `path "` + strings.Repeat("a", MaxPatternBytes+1) + `" {}`,
		"braces":               strings.Repeat("a{", 100_000),
		"brackets":             "a=" + strings.Repeat("[", 100_000),
		"closed braces":        strings.Repeat("a{", 20_000) + strings.Repeat("}", 20_000),
		"braces in comments":   "#" + strings.Repeat("{", 100) + "\n" + strings.Repeat("a{", 100_000),
		"JSON braces":          strings.Repeat(`{"a":`, 50_000),
		"JSON brackets":        `{"a":` + strings.Repeat("[", 100_000),
		"closed JSON brackets": `{"a":` + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000) + "}",
		"keys":                 strings.Repeat("a ", 100_000),
		"text":                 `path "` + strings.Repeat("a", 200_000),
		"heredoc":              "a = <<" + strings.Repeat("A", 200_000),
		"heredoc text":         "a = <<A\n" + strings.Repeat("A ", 100_000),
		"one line":             `{"path":{` + strings.Repeat(`"a":1,`, 40_000) + `"a":1}}`,
		"problems":             "path \"a\" {\n" + strings.Repeat("a=1\n", 60_000) + "}",
		"NUL":                  strings.Repeat("\x00", 200_000),
		"bytes":                strings.Repeat("\xff", 200_000),
		"quotes":               strings.Repeat(`"`, 200_000),
		"number":               "name = " + strings.Repeat("9", 200_000),
		"stars":                `path "` + strings.Repeat("*", 200_000) + `" {}`,
		"interpolations":       `path "a" { comment = "` + strings.Repeat("${", 100_000) + `" }`,
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Parse("p", text)
			problems, ok := errors.AsType[Error](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if len(problems) > maxProblems || len(err.Error()) > 6000 {
				t.Errorf("%d problems, %d bytes", len(problems), len(err.Error()))
			}
			if _, err := Format(text); err == nil {
				t.Error("Format accepts it")
			}
		})
	}
}
