package policy

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParameters(t *testing.T) {
	for _, tt := range []struct {
		name, rule string // the inside of a rule
		more       string // that of another one with the same path
		want       map[string]bool
	}{
		{"none", ``, ``, map[string]bool{`{}`: true, `{"a": 1}`: true}},
		{"required", `required_parameters = ["A", "b"]`, ``, map[string]bool{
			`{"a": 1, "b": null}`: true, `{"a": 1, "b": "", "c": 3}`: true, `{"A": 1, "b": 2}`: false, `{"a": 1}`: false, `{}`: false}},
		{"required are joined", `required_parameters = ["a"]`, `required_parameters = ["a", "b"]`, map[string]bool{
			`{"a": 1, "b": 1}`: true, `{"a": 1}`: false, `{"b": 1}`: false}},
		{"denied value", `denied_parameters = { "a" = ["x", "y*"] }`, ``, map[string]bool{
			`{}`: true, `{"a": "z"}`: true, `{"a": "x"}`: false, `{"A": "x"}`: false, `{"a": "yes"}`: false, `{"b": "x"}`: true, `{"a": ["z", "x"]}`: false,
			`{"a": "z, x"}`: false, `{"a": ["z"]}`: true, `{"a": null}`: true, `{"a": {"x": "x"}}`: true}},
		{"denied at all", `denied_parameters = { "a" = [] }`, ``, map[string]bool{`{"a": null}`: false, `{"A": 1}`: false, `{"b": 1}`: true, `{}`: true}},
		{"all denied", `denied_parameters = { "*" = [] }`, ``, map[string]bool{`{}`: true, `{"a": 1}`: false}},
		{"denied numbers and truth values", `denied_parameters = { "a" = [5, true, 1.5, ["p"], { q = 1 }] }`, ``, map[string]bool{
			`{"a": 5}`: false, `{"a": 5.0}`: false, `{"a": "5"}`: false, `{"a": true}`: false, `{"a": "true"}`: false, `{"a": 1.5}`: false, `{"a": "1.5"}`: false,
			`{"a": 6}`: true, `{"a": false}`: true, `{"a": [5]}`: false, `{"a": ["p"]}`: false, `{"a": [["p"]]}`: false, `{"a": ["p", "r"]}`: true, `{"a": {"q": 1}}`: false, `{"a": {"q": 2}}`: true}},
		{"denied is joined", `denied_parameters = { "a" = ["x"], "b" = ["x"] }`, `denied_parameters = { "A" = ["y"], "b" = [] }`, map[string]bool{
			`{"a": "x"}`: false, `{"a": "y"}`: false, `{"a": "z"}`: true, `{"b": "z"}`: false}},
		{"allowed names", `allowed_parameters = { "A" = [] }`, ``, map[string]bool{`{}`: true, `{"a": "x"}`: true, `{"A": 1}`: true, `{"b": 1}`: false, `{"a": 1, "b": 1}`: false}},
		{"allowed values", `allowed_parameters = { "a" = ["x", "y*", "*z", "*m*"] }`, ``, map[string]bool{
			`{"a": "x"}`: true, `{"a": "yes"}`: true, `{"a": "jazz"}`: true, `{"a": "ama"}`: true, `{"a": "xx"}`: false, `{"a": "X"}`: false, `{"a": 1}`: false, `{"a": null}`: false,
			`{"a": ["x", "yy"]}`: true, `{"a": ["x", "q"]}`: false, `{"a": []}`: true, `{"a": "x, yy"}`: true, `{"a": "x,q"}`: false, `{"a": ""}`: true, `{"a": ["x", 1]}`: false}},
		{"a star alone is literal", `allowed_parameters = { "a" = ["*"] }`, ``, map[string]bool{`{"a": "*"}`: true, `{"a": "x"}`: false}},
		{"two stars", `allowed_parameters = { "a" = ["**"] }`, ``, map[string]bool{`{"a": "x"}`: true}},
		{"allowed others", `allowed_parameters = { "a" = ["x"], "*" = [] }`, ``, map[string]bool{`{"a": "x", "b": 1}`: true, `{"a": "y"}`: false, `{"b": "y"}`: true}},
		{"all allowed", `allowed_parameters = { "*" = [] }`, ``, map[string]bool{`{"a": 1}`: true}},
		{"allowed numbers", `allowed_parameters = { "a" = [5, 1.5, true, ["p"]] }`, ``, map[string]bool{
			`{"a": 5}`: true, `{"a": "5"}`: false, `{"a": 1.5}`: true, `{"a": true}`: true, `{"a": "true"}`: false, `{"a": [5, true]}`: true, `{"a": ["p"]}`: true, `{"a": [["p"]]}`: true, `{"a": 50000000000000000000}`: false}},
		{"allowed is joined", `allowed_parameters = { "a" = ["x"], "b" = ["x"] }`, `allowed_parameters = { "a" = ["y"], "b" = [], "c" = [] }`, map[string]bool{
			`{"a": "x"}`: true, `{"a": "y"}`: true, `{"a": "z"}`: false, `{"b": "z"}`: true, `{"c": 1}`: true, `{"d": 1}`: false}},
		{"allowed by one only", `allowed_parameters = { "a" = [] }`, `capabilities = ["sudo"]`, map[string]bool{`{"b": 1}`: false}},
		{"none allowed in particular", `allowed_parameters = {}`, ``, map[string]bool{`{"b": 1}`: true}},
		{"denied beats allowed", `allowed_parameters = { "a" = [] }
denied_parameters = { "a" = ["x"] }`, ``, map[string]bool{`{"a": "x"}`: false, `{"a": "y"}`: true}},
		{"names of policies", `denied_parameters = { "policies" = ["admin"], "name" = ["admin"] }`, ``, map[string]bool{
			`{"policies": ["x", "Admin"]}`: false, `{"policies": "ADMIN"}`: false, `{"Policies": "a, Admin"}`: false, `{"name": "Admin"}`: true}},
		{"allowed names of policies", `allowed_parameters = { "policies" = ["app-*"] }`, ``, map[string]bool{`{"policies": ["APP-x"]}`: true, `{"policies": ["app-x", "root"]}`: false}},
		{"deny drops them", `allowed_parameters = { "a" = [] }`, `capabilities = ["deny"]`, map[string]bool{`{}`: false, `{"a": 1}`: false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := "path \"p\" {\n capabilities = [\"create\", \"read\", \"update\", \"patch\", \"recover\", \"delete\", \"list\"]\n" + tt.rule + "\n}\n"
			texts := []string{text}
			if tt.more != "" {
				texts = append(texts, "path \"p\" {\n"+tt.more+"\n}")
			}
			a := acl(t, texts...)
			for body, want := range tt.want {
				var numbers, floats map[string]any
				if err := json.Unmarshal([]byte(body), &floats); err != nil {
					t.Fatal(err)
				}
				d := json.NewDecoder(strings.NewReader(body))
				d.UseNumber()
				if err := d.Decode(&numbers); err != nil {
					t.Fatal(err)
				}
				for _, op := range []Capabilities{Create, Read, Update, Patch, Recover} {
					if got := a.Allows(op, "p", numbers); got != want {
						t.Errorf("%v %s: %v", op, body, got)
					}
					if got := a.Allows(op, "p", floats); got != want {
						t.Errorf("%v %s with floats: %v", op, body, got)
					}
				}
				// Other operations have no parameters of interest.
				denied := a.Capabilities("p").Has(Deny)
				if a.Allows(Delete, "p", numbers) == denied || a.Allows(List, "p", numbers) == denied {
					t.Errorf("%s matters for delete or list", body)
				}
			}
		})
	}
}

// Names of policies are trimmed and lower-cased before they take effect.
func TestPolicyParametersAreComparedAsStored(t *testing.T) {
	denied := acl(t, `path "p" {
  capabilities      = ["update"]
  denied_parameters = { "policies" = ["admin"] }
}`)
	allowed := acl(t, `path "p" {
  capabilities       = ["update"]
  allowed_parameters = { "policies" = ["dev"] }
}`)
	for _, spell := range []func(string) any{
		func(s string) any { return " " + s },
		func(s string) any { return s + "\u0085" },
		func(s string) any { return []any{" " + strings.ToUpper(s)} },
		func(s string) any { return []any{s + "\t"} },
		func(s string) any { return []string{"x", "\n" + s} },
	} {
		if v := spell("admin"); denied.Allows(Update, "p", map[string]any{"policies": v}) {
			t.Errorf("%q is allowed", v)
		}
		if v := spell("admin"); allowed.Allows(Update, "p", map[string]any{"policies": v}) {
			t.Errorf("%q is allowed", v)
		}
	}
	if !allowed.Allows(Update, "p", map[string]any{"policies": []any{" Dev "}}) {
		t.Error("what becomes an allowed name is refused")
	}
}

// Parameters of a query are lists of texts.
func TestQueryParameters(t *testing.T) {
	a := acl(t, `path "p" {
  capabilities = ["read"]
  allowed_parameters = { "v" = ["1", "2"], "policies" = ["x"] }
}`)
	for _, tt := range []struct {
		parameters map[string]any
		want       bool
	}{
		{map[string]any{"v": []string{"1"}}, true},
		{map[string]any{"v": []string{"1", "2"}}, true},
		{map[string]any{"v": []string{"1", "3"}}, false},
		{map[string]any{"policies": []string{"X"}}, true},
		{map[string]any{"v": "1", "policies": "X"}, true},
		{map[string]any{"v": 1}, false},
		{map[string]any{"v": struct{}{}}, false},
	} {
		if got := a.Allows(Read, "p", tt.parameters); got != tt.want {
			t.Errorf("%v: %v", tt.parameters, got)
		}
	}
}

// Merging rules for one subject leaves the rules as they are for others.
func TestMergingCopies(t *testing.T) {
	p := parse(t, "p", `path "a" { capabilities = ["read"] allowed_parameters = { "x" = ["1"] } required_parameters = ["x"] subscribe_event_types = ["k"] }`)
	q := parse(t, "q", `path "a" { capabilities = ["read"] allowed_parameters = { "x" = ["2"], "y" = [] } required_parameters = ["y"] subscribe_event_types = ["l"] }`)
	alone := Compile([]Bound{{p, ""}}, nil)
	for range 3 {
		both := Compile([]Bound{{p, ""}, {q, ""}}, nil)
		if both.Allows(Read, "a", map[string]any{"x": "2"}) || !both.Allows(Read, "a", map[string]any{"x": "2", "y": "2"}) {
			t.Fatal("merged wrongly")
		}
	}
	alone2 := Compile([]Bound{{p, ""}}, nil)
	for _, a := range []*ACL{alone, alone2} {
		if a.Allows(Read, "a", map[string]any{"x": "2"}) || !a.Allows(Read, "a", map[string]any{"x": "1"}) {
			t.Error("the rules of a policy were changed")
		}
	}
}
