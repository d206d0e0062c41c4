package jwt

import (
	"fmt"
	"strings"
	"testing"
)

// decoded returns claims as they are after decoding.
func decoded(t testing.TB, text string) map[string]any {
	t.Helper()
	var claims map[string]any
	if err := decodePart(b64([]byte(text)), &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestClaimRef(t *testing.T) {
	claims := decoded(t, `{
		"a": "plain", "a/b": "slash", "/c": "leading", "~": "tilde", "": "empty", "https://x.example/groups": "url",
		"o": {"a": {"b": "deep"}, "": "empty inside", "m/n": 1, "k~l": 2}, "l": ["zero", {"x": "one"}, ["two"]], "n": null
	}`)
	for ref, want := range map[string]string{
		"a": "plain", "a/b": "slash", "~": "tilde", "https://x.example/groups": "url",
		"/a": "plain", "/a~1b": "slash", "/~1c": "leading", "/~0": "tilde", "/": "empty",
		"/o/a/b": "deep", "/o/": "empty inside", "/o/m~1n": "1", "/o/k~0l": "2",
		"/l/0": "zero", "/l/1/x": "one", "/l/2/0": "two", "/n": "<nil>", "n": "<nil>",
		"b": "absent", "o/a": "absent", "/o/a/b/c": "absent", "/l/3": "absent", "/l/-": "absent", "/l/-1": "absent",
		"/l/00": "absent", "/l/+0": "absent", "/l/0x0": "absent", "/l/99999999999999999999": "absent", "/a/0": "absent", "/n/a": "absent",
	} {
		r, err := parseClaimRef(ref)
		if err != nil {
			t.Errorf("%q: %v", ref, err)
			continue
		}
		value, ok := r.find(claims)
		got := fmt.Sprint(value)
		if !ok {
			got = "absent"
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", ref, got, want)
		}
	}
	for _, bad := range []string{"", "/~", "/a~", "/~2", "/a/~~"} {
		if r, err := parseClaimRef(bad); err == nil {
			t.Errorf("%q is accepted as %v", bad, r)
		}
	}
}

func TestRules(t *testing.T) {
	claims := decoded(t, `{
		"text": "team/a", "empty": "", "number": 42, "big": 12345678901234567890123, "float": 1.50, "yes": true, "no": false, "null": null,
		"list": ["dev", 7, true, null, {"a": "b"}, ["nested"]], "none": [], "object": {"name": "x"}
	}`)
	for _, test := range []struct {
		when map[string]string
		want bool
	}{
		{map[string]string{"text": "team/a"}, true},
		{map[string]string{"text": "team/*"}, true},
		{map[string]string{"text": "*"}, true},
		{map[string]string{"text": "*a*"}, true},
		{map[string]string{"text": "team"}, false},
		{map[string]string{"text": "Team/a"}, false},
		{map[string]string{"text": ""}, false},
		{map[string]string{"text": "team/?"}, false},
		{map[string]string{"empty": ""}, true},
		{map[string]string{"empty": "*"}, true},
		{map[string]string{"number": "42"}, true},
		{map[string]string{"number": "4*"}, true},
		{map[string]string{"number": "42.0"}, false},
		{map[string]string{"big": "12345678901234567890123"}, true},
		{map[string]string{"float": "1.50"}, true}, // as it was written
		{map[string]string{"float": "1.5"}, false},
		{map[string]string{"yes": "true", "no": "false"}, true},
		{map[string]string{"yes": "1"}, false},
		{map[string]string{"null": "*"}, false},
		{map[string]string{"null": ""}, false},
		{map[string]string{"missing": "*"}, false},
		{map[string]string{"missing": ""}, false},
		{map[string]string{"list": "dev"}, true},
		{map[string]string{"list": "7"}, true},
		{map[string]string{"list": "true"}, true},
		{map[string]string{"list": "b"}, false},
		{map[string]string{"list": "nested"}, false},
		{map[string]string{"list": "ops"}, false},
		{map[string]string{"none": "*"}, false},
		{map[string]string{"object": "*"}, false},
		{map[string]string{"/object/name": "x"}, true},
		{map[string]string{"/list/5": "nested"}, true},
		{map[string]string{"text": "team/*", "number": "42", "list": "dev"}, true},
		{map[string]string{"text": "team/*", "number": "43"}, false},
	} {
		r, err := compileRule(Rule{When: test.when, Policies: []string{"p"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.applies(claims); got != test.want {
			t.Errorf("%v: %v, want %v", test.when, got, test.want)
		}
	}
}

func TestTooDeep(t *testing.T) {
	for text, want := range map[string]bool{
		strings.Repeat("[", 16):                           false,
		strings.Repeat("[", 17):                           true,
		strings.Repeat(`{"a":`, 17):                       true,
		strings.Repeat("[]", 100):                         false,
		`"` + strings.Repeat("[", 100) + `"`:              false,
		`"\"` + strings.Repeat("[", 100) + `"`:            false,
		`"\\"` + strings.Repeat("[", 100):                 true,
		`{"a":"` + strings.Repeat(`\\`, 9) + `"}`:         false,
		`"` + strings.Repeat("[", 100) + `\`:              false,
		strings.Repeat("]", 50) + strings.Repeat("[", 60): false, // not JSON anyway
	} {
		if got := tooDeep([]byte(text)); got != want {
			t.Errorf("%.40s: %v", text, got)
		}
	}
}
