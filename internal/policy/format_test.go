package policy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// The layouts of HCL are what "vault policy fmt" of Vault 1.21.4 prints.
func TestFormat(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "\n"},
		{"one line", `path "a" { capabilities = ["read"] }`, "path \"a\" {\n  capabilities = [\"read\"]\n}\n"},
		{"alignment", "path \"a\" {\npolicy=\"write\"\ncomment =  \"x\"\n}", "path \"a\" {\n  policy  = \"write\"\n  comment = \"x\"\n}\n"},
		{"blank lines", "path \"a\" {\n\n\n  policy = \"read\"\n\n\n  comment = \"x\"\n}\n\n\n\npath \"b\" {}", "path \"a\" {\n  policy = \"read\"\n\n  comment = \"x\"\n}\n\npath \"b\" {}\n"},
		{"comments", `# head
# more

// of a
path "a" { # first
  /* block */
  capabilities = ["read", # r
    "list"] # last
}
# end`, `# head
# more

// of a
path "a" {
  # first

  /* block */
  capabilities = [
    "read", # r
    "list",
  ] # last
}

# end

`},
		{"after a rule", "path \"a\" {\n  policy = \"read\"\n} # end of a\n\npath \"b\" {}\n", "path \"a\" {\n  policy = \"read\"\n} # end of a\n\npath \"b\" {}\n"},
		{"parameters", "path \"a\" {\n  allowed_parameters = {\n    # x\n    \"a\" = [] # y\n    \"bbb\" = [\"z\"] # zz\n  }\n}\n",
			"path \"a\" {\n  allowed_parameters = {\n    # x\n    \"a\"   = []    # y\n    \"bbb\" = [\"z\"] # zz\n  }\n}\n"},
		{"heredoc", "path \"a\" { comment = <<EOF\n hello\n  EOF\n}", "path \"a\" {\n  comment = <<EOF\n hello\n  EOF\n}\n"},
		{"windows", "path \"a\" {\r\npolicy = \"read\"\r\n}\r\n", "path \"a\" {\n  policy = \"read\"\n}\n"},

		{"JSON", `{"name": "x", "path": {"a/${b}\"": {"capabilities": ["read"], "min_wrapping_ttl": 1.5e2, "comment": null,
			"allowed_parameters": {"p": [1, -2.5, true, "a\nb", [], {"k": 1e20}], "q": []}}}}`,
			`name = "x"

path "a/\u0024{b}\"" {
  capabilities     = ["read"]
  min_wrapping_ttl = 150.0
  comment          = ""

  allowed_parameters = {
    "p" = [
      1,
      -2.5,
      true,
      "a\nb",
      [],
      {
        "k" = 100000000000000000000.0
      },
    ]

    "q" = []
  }
}
`},
		{"JSON lists", `{"path": [{"a": [{"policy": "read"}, {"policy": "deny"}]}, {"b": {}}]}`,
			"path \"a\" {\n  policy = \"read\"\n}\n\npath \"a\" {\n  policy = \"deny\"\n}\n\npath \"b\" {}\n"},
		{"JSON control group", `{"path": {"a": {"control_group": {"ttl": "1h", "factor": {"f": {"identity": {"approvals": 1}}}}}}}`,
			"path \"a\" {\n  control_group = {\n    \"ttl\" = \"1h\"\n\n    \"factor\" = {\n      \"f\" = {\n        \"identity\" = {\n          \"approvals\" = 1\n        }\n      }\n    }\n  }\n}\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Format(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if again, err := Format(got); again != got || err != nil {
				t.Errorf("again: %v\n%s", err, again)
			}
			if a, b := parse(t, "p", tt.text), parse(t, "p", got); !sameRules(a.Rules, b.Rules) {
				t.Errorf("got rules %+v\nwant %+v", b.Rules, a.Rules)
			}
		})
	}
}

// Random policies, in HCL and JSON, mean the same after formatting, which is stable.
func TestFormatKeepsTheMeaning(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	for range 200 {
		hcl := randomPolicy(r, 1+r.IntN(4))
		p := parse(t, "p", hcl)
		stanzas := []map[string]any{}
		for _, rule := range p.Rules {
			stanza := map[string]any{"subscribe_event_types": rule.EventTypes, "comment": `"${` + rule.Pattern}
			if rule.EventTypes == nil {
				delete(stanza, "subscribe_event_types")
			}
			if rule.Capabilities != 0 {
				stanza["capabilities"] = rule.Capabilities.Names()
			}
			stanzas = append(stanzas, map[string]any{"/" + rule.Pattern: stanza})
		}
		text, err := json.Marshal(map[string]any{"path": stanzas})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{hcl, string(text)} {
			once, err := Format(text)
			if err != nil {
				t.Fatalf("%s\n%v", text, err)
			}
			twice, err := Format(once)
			if err != nil || twice != once {
				t.Fatalf("%s\n%v\n%s", once, err, twice)
			}
			if a, b := parse(t, "p", text), parse(t, "p", once); !sameRules(a.Rules, b.Rules) {
				t.Fatalf("%s\n%s", text, once)
			}
		}
	}
}

// What the printer would lose or change is refused rather than lost.
func TestFormatRefuses(t *testing.T) {
	text := "path \"a\" {#000\n#000000\n} /* x */\npath \"b\" {},"
	got, err := Format(text)
	if err == nil || !strings.Contains(err.Error(), "lines of their own") {
		t.Errorf("got %q, %v", got, err)
	}
	if _, _, err := Parse("p", text); err != nil {
		t.Error(err)
	}
	var many strings.Builder
	for i := range 9000 {
		fmt.Fprintf(&many, "#\n\npath \"%d\" {}\n", i)
	}
	if _, err := Format(many.String()); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("got %v", err)
	}
}
