package policy

import (
	"strings"
	"testing"
)

var testSubject = &Subject{
	EntityID:       "e-1",
	EntityName:     "ann",
	EntityMetadata: map[string]string{"team": "red", "a.b": "dotted", "none": ""},
	Aliases: map[string]Alias{
		"auth_ldap_1": {ID: "al-1", Name: "ann@corp", Metadata: map[string]string{"dn": "x"}},
		"auth_jwt_2":  {ID: "al-2"},
	},
	Groups:        []Group{{ID: "g-1", Name: "dev"}, {ID: "g-2", Name: "ops"}, {ID: "g-3"}},
	TokenMetadata: map[string]string{"region": "eu"},
	DisplayName:   "ldap-ann",
	Claims:        map[string]string{"sub": "s-1", "n": "5"},
}

func TestTemplates(t *testing.T) {
	for _, tt := range []struct{ template, want string }{ // want "": the rule is skipped
		{"identity.entity.id", "e-1"},
		{" identity.entity.id\t", "e-1"},
		{"identity.entity.name", "ann"},
		{"identity.entity.metadata.team", "red"},
		{"identity.entity.metadata.a.b", "dotted"},
		{"identity.entity.metadata.none", ""},
		{"identity.entity.metadata.other", ""},
		{"identity.entity.metadata", ""},
		{"identity.entity.aliases.auth_ldap_1.id", "al-1"},
		{"identity.entity.aliases.auth_ldap_1.name", "ann@corp"},
		{"identity.entity.aliases.auth_ldap_1.metadata.dn", "x"},
		{"identity.entity.aliases.auth_jwt_2.name", ""},
		{"identity.entity.aliases.other.id", ""},
		{"identity.entity.aliases.auth_ldap_1", ""},
		{"identity.groups.names.dev.id", "g-1"},
		{"identity.groups.names.ops.name", "ops"},
		{"identity.groups.ids.g-2.name", "ops"},
		{"identity.groups.ids.g-3.name", ""},
		{"identity.groups.ids.g-2.id", "g-2"},
		{"identity.groups.ids.dev.id", ""},
		{"identity.groups.names..id", ""},
		{"identity.groups.names", ""},
		{"token.display_name", "ldap-ann"},
		{"token.metadata.region", "eu"},
		{"token.metadata.x", ""},
		{"token.id", ""},
		{"jwt.claims.sub", "s-1"},
		{"jwt.claims.n", "5"},
		{"jwt.claims.x", ""},
		{"jwt.claims.", ""},
		{"time.now", ""},
		{"", ""},
		{"Identity.Entity.ID", ""},
	} {
		t.Run(tt.template, func(t *testing.T) {
			p := parse(t, "p", `path "a/{{`+tt.template+`}}/*" { capabilities = ["read"] }`)
			if !p.Templated() {
				t.Error("not templated")
			}
			a := Compile([]Bound{{p, "ns1/"}}, testSubject)
			x := a.Explain(Query{Namespace: "ns1/", Path: "a/" + tt.want + "/x", Operation: Read})
			if tt.want == "" {
				if len(x.Skipped) != 1 || !strings.Contains(x.Skipped[0].Reason, "has no value") || x.Allowed {
					t.Errorf("got %+v", x)
				}
				return
			}
			if !x.Allowed || len(x.Skipped) != 0 || x.Winner.Pattern != "ns1/a/"+tt.want+"/*" || a.Allows(Read, "ns1/a/other/x", nil) {
				t.Errorf("got %+v", x)
			}
			// Nobody in particular has no value for anything.
			for _, s := range []*Subject{nil, {}} {
				if x := Compile([]Bound{{p, ""}}, s).Explain(Query{Path: "a//x", Operation: Read}); x.Allowed || len(x.Skipped) != 1 {
					t.Errorf("for nobody: %+v", x)
				}
			}
		})
	}
}

func TestTemplatePlaces(t *testing.T) {
	for pattern, want := range map[string]string{
		"{{token.display_name}}":                           "ldap-ann",
		"{{token.display_name}}*":                          "ldap-annx/y",
		"x-{{token.display_name}}-y":                       "x-ldap-ann-y",
		"{{token.display_name}}{{identity.entity.name}}":   "ldap-annann",
		"+/{{token.display_name}}/+":                       "q/ldap-ann/r",
		"/{{token.metadata.region}}/{{ jwt.claims.sub }}/": "eu/s-1/",
		"a}b{c/{{jwt.claims.sub}}":                         "a}b{c/s-1",
	} {
		a := Compile([]Bound{{parse(t, "p", `path "`+pattern+`" { capabilities = ["read"] }`), ""}}, testSubject)
		if !a.Allows(Read, want, nil) || a.Allows(Read, want+"!", nil) != strings.ContainsAny(pattern[len(pattern)-1:], "*+") {
			t.Errorf("%s: decided wrongly", pattern)
		}
	}
}

// Values cannot widen a rule that grants something.
func TestInjection(t *testing.T) {
	for _, value := range []string{
		"", "*", "a*", "+", "a+", "a/b", "/", "../x", ".", "..", "{{identity.entity.id}}", "}}", "a\x00", "a\nb", "\x7f", "\u0085", "a\xff", "x/*", "secret/+/",
	} {
		p := parse(t, "p", `
path "secret/{{token.metadata.v}}" { capabilities = ["read"] }
path "secret/x{{token.metadata.v}}" { capabilities = ["read"] }
path "secret/{{token.metadata.v}}/*" { capabilities = ["read", "subscribe"] subscribe_event_types = ["*"] }
`)
		a := Compile([]Bound{{p, ""}}, &Subject{TokenMetadata: map[string]string{"v": value}})
		for _, path := range []string{"secret/b", "secret/b/c", "secret/xy", "secret/a/b", "secret/a/b/c", "secret/" + value, "secret/" + value + "/x", "secret/x" + value} {
			if a.Allows(Read, path, nil) || a.MaySee("", path, "kv") {
				t.Errorf("value %q allows %q", value, path)
			}
		}
		if x := a.Explain(Query{Path: "a", Operation: Read}); len(x.Skipped) != 3 {
			t.Errorf("value %q: skipped %v", value, x.Skipped)
		}
	}
	for _, value := range []string{"a", "...", ".a", "a.b", "a b", "a@b:c", "ä", "{a}", "-", "%2f", "\\"} {
		p := parse(t, "p", `path "secret/{{token.metadata.v}}" { capabilities = ["read"] }`)
		a := Compile([]Bound{{p, ""}}, &Subject{TokenMetadata: map[string]string{"v": value}})
		if !a.Allows(Read, "secret/"+value, nil) || a.Allows(Read, "secret/other", nil) {
			t.Errorf("value %q is decided wrongly", value)
		}
	}
}

// A rule that takes something away is not opened by a strange value: the value is
// literal, also where it looks like a wildcard.
func TestClosingTemplates(t *testing.T) {
	for _, rule := range []string{`capabilities = ["deny"]`, ``, `capabilities = ["read"] mfa_methods = ["x"]`} {
		p := parse(t, "p", `
path "secret/*" { capabilities = ["read", "list"] }
path "secret/{{token.metadata.v}}" { `+rule+` }
path "secret/{{token.metadata.v}}/*" { `+rule+` }
path "secret/+/{{token.metadata.v}}" { `+rule+` }
`)
		for _, value := range []string{"a", "*", "a*", "+", "a+b", "a/b", "..", "{{x}}", "x/*"} {
			a := Compile([]Bound{{p, ""}}, &Subject{TokenMetadata: map[string]string{"v": value}})
			for _, path := range []string{"secret/" + value, "secret/" + value + "/", "secret/" + value + "/x/y", "secret/q/" + value} {
				if a.Allows(Read, path, nil) {
					t.Errorf("%s: value %q does not close %q", rule, value, path)
				}
			}
			for _, path := range []string{"secret/other", "secret/other/x", "secret/aa/x"} {
				if !a.Allows(Read, path, nil) {
					t.Errorf("%s: value %q closes %q", rule, value, path)
				}
			}
		}
		// Without a value there is no such rule, as in Vault; Parse warns of it.
		a := Compile([]Bound{{p, ""}}, nil)
		if !a.Allows(Read, "secret/a", nil) || len(a.Explain(Query{Path: "x", Operation: Read}).Skipped) != 3 {
			t.Errorf("%s: decided wrongly without a value", rule)
		}
	}
	// A "+" of a value and one of the author are different patterns.
	p := parse(t, "p", `path "a/+/{{token.metadata.v}}" { capabilities = ["deny"] }
path "a/+/+" { capabilities = ["read"] }`)
	a := Compile([]Bound{{p, ""}}, &Subject{TokenMetadata: map[string]string{"v": "+"}})
	if a.Allows(Read, "a/b/+", nil) || !a.Allows(Read, "a/b/c", nil) {
		t.Error("the rules were merged")
	}
	p = parse(t, "p", `path "a/*" { capabilities = ["read"] }
path "a/{{token.metadata.v}}/+" { capabilities = ["deny"] }
path "a/+/{{token.metadata.v}}" { capabilities = ["deny"] }`)
	a = Compile([]Bound{{p, ""}}, &Subject{TokenMetadata: map[string]string{"v": "+"}})
	if a.Allows(Read, "a/+/b", nil) || a.Allows(Read, "a/b/+", nil) || !a.Allows(Read, "a/b/c", nil) {
		t.Error("two rules were merged")
	}
}
