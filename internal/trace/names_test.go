package trace

import (
	"fmt"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	n, err := newNamer(nil, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mount, kind, class, path string
		unsure                   bool
		want                     string
	}{
		{"secret/", "kv", "secret", "secret/data/app/db", false, "secret/data/…"},
		{"secret/", "kv", "secret", "secret/data/data/metadata/x", false, "secret/data/…"},
		{"secret/", "kv", "secret", "secret/metadata/", false, "secret/metadata"},
		{"secret/", "kv", "secret", "secret/app/data", false, "secret/…"},
		{"data/metadata/", "kv", "secret", "data/metadata/data/x", false, "data/metadata/data/…"},
		{"cubbyhole/", "cubbyhole", "secret", "cubbyhole/data/x", false, "cubbyhole/…"},
		{"sys/", "system", "secret", "sys/policies/acl/team-a", false, "sys/policies/acl/…"},
		{"sys/", "ns_system", "secret", "sys/mounts/a/b/tune", false, "sys/mounts/…/tune"},
		{"sys/", "system", "secret", "sys/leases/lookup/database/creds/x/y", false, "sys/leases/lookup/…"},
		{"sys/", "", "", "sys/wrapping/unwrap", true, "sys/wrapping/unwrap"},
		{"auth/token/", "token", "auth", "auth/token/lookup-self", false, "auth/token/lookup-self"},
		{"auth/token/", "ns_token", "auth", "auth/token/create/my-role", false, "auth/token/create/…"},
		{"auth/people/", "userpass", "auth", "auth/people/login/bob", false, "auth/people/login/…"},
		{"auth/people/", "userpass", "auth", "auth/people/users/bob/password", false, "auth/people/users/…/password"},
		{"auth/new/", "something", "auth", "auth/new/login/bob", false, "auth/new/login/…"},
		{"auth/r/", "approle", "auth", "auth/r/role/web/secret-id", false, "auth/r/role/…/secret-id"},
		{"identity/", "identity", "secret", "identity/entity/id/6f1c", false, "identity/entity/id/…"},
		{"transit/", "transit", "secret", "transit/encrypt/orders", false, "transit/encrypt/…"},
		{"transit/", "transit", "secret", "transit/keys/orders/rotate", false, "transit/keys/…/rotate"},
		{"pki/", "pki", "secret", "pki/issuer/a/sign/web", false, "pki/issuer/…/sign/…"},
		{"db/", "database", "secret", "db/creds/readonly", false, "db/creds/…"},
		{"x/", "some-plugin", "secret", "x/a/b/c", false, "x/…"},
		{"x/", "some-plugin", "secret", "x/", false, "x/"},
		{"x/", "some-plugin", "secret", "y/a", false, "x/"},
		// No mount: old servers, and requests that were refused before it was looked for.
		{"", "", "", "sys/seal", false, "sys/seal"},
		{"", "", "", "auth/token/create", false, "auth/token/create"},
		{"", "", "", "auth/people/login/bob", false, "auth/people/login/…"},
		{"", "", "", "auth/any-text-of-anybody/login/bob", true, "auth/…"},
		{"", "kv", "", "secret/data/x", false, "secret/data/…"},
		{"", "", "", "any-text-of-anybody/x", true, "…"},
		{"", "", "", "", false, "…"},
		{"sys/", "system", "secret", "sys/a/mounts/b/auth/c/tune/d/audit", false, "sys/…/mounts/…/auth/…"},
		{"sys/", "system", "secret", "sys/" + strings.Repeat("mounts/", 20), false, "sys/" + strings.Repeat("mounts/", 8) + "…"},
	} {
		got := n.name(target{operation: "read", path: c.path, mount: c.mount, mountType: c.kind, mountClass: c.class, unsure: c.unsure})
		if got != "read "+c.want {
			t.Errorf("%s (%s): %q, want %q", c.path, c.kind, got, "read "+c.want)
		}
	}
	for _, operation := range []string{"", "read secret", strings.Repeat("x", 40), "\x00"} {
		if got := n.name(target{operation: operation, path: "sys/seal", mount: "sys/", mountType: "system"}); got != "unknown sys/seal" {
			t.Errorf("operation %q: %q", operation, got)
		}
	}
}

func TestNamesAreBounded(t *testing.T) {
	n, err := newNamer([]NameRule{{Path: "teams/{team}/{rest...}", Name: "{team}"}}, 10)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range 1000 {
		seen[n.name(target{operation: "read", path: fmt.Sprintf("teams/t%d/x", i), mount: "teams/", mountType: "kv"})] = true
		seen[n.name(target{operation: "read", path: fmt.Sprintf("m%d/x", i), mount: fmt.Sprintf("m%d/", i), mountType: fmt.Sprint("type", i)})] = true
	}
	if len(seen) != 12 || !seen["read kv/…"] || !seen["read …"] {
		t.Errorf("%d names: %v", len(seen), seen)
	}
	if got := n.name(target{operation: "read", path: "teams/" + strings.Repeat("é", 500) + "/x"}); len(got) > maxNameBytes+len(rest) {
		t.Errorf("a name of %d bytes", len(got))
	}
}

// Refused requests to made-up paths do not take the names of others.
func TestNamesOfRefusedRequests(t *testing.T) {
	n, err := newNamer(nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for w := range vocabularies["system"] {
		list = append(list, w)
	}
	seen := map[string]bool{}
	for _, a := range list {
		for _, b := range list {
			seen[n.name(target{operation: "read", path: "sys/" + a + "/" + b, mount: "sys/", mountType: "system", unsure: true})] = true
		}
	}
	if len(seen) != 51 || !seen["read system/…"] {
		t.Errorf("%d names", len(seen))
	}
	if got := n.name(target{operation: "update", path: "transit/encrypt/orders", mount: "transit/", mountType: "transit"}); got != "update transit/encrypt/…" {
		t.Errorf("a request that was answered is named %q", got)
	}
}

func TestNameRules(t *testing.T) {
	n, err := newNamer([]NameRule{
		{"secret/data/{team}/{rest...}", "{team}: secrets"},
		{"secret/*/shared", "shared"},
		{"kv/{key}", "kv {key}!"},
		{"all/{rest...}", "all"},
	}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"secret/data/a/b/c":       "a: secrets",
		"secret/data/a/":          "secret/data/…", // {rest...} is at least one element
		"secret/metadata/shared":  "shared",
		"secret/metadata/shared/": "shared",
		"secret/metadata/x":       "secret/metadata/…",
		"kv/a":                    "kv a!",
		"kv/a/b":                  "secret/",
		"all/a/b":                 "all",
		"all":                     "secret/",
	} {
		if got := n.name(target{operation: "read", path: path, mount: "secret/", mountType: "kv"}); got != "read "+want {
			t.Errorf("%s: %q, want %q", path, got, "read "+want)
		}
	}
	for _, wrong := range []NameRule{
		{"", "x"}, {"a", ""}, {"a/{b", "x"}, {"a/{}", "x"}, {"a/{...}", "x"}, {"a/{b...}/c", "x"}, {"{a}/{a}", "x"}, {"a/{b}", "{c}"}, {"a/{b}", "{b"}, {"a/{b}", "{}"},
		{strings.Repeat("a/", 40), "x"},
	} {
		if _, err := newNamer([]NameRule{wrong}, 10); err == nil {
			t.Errorf("%+v is accepted", wrong)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a*", "a", true}, {"*", "", true}, {"*", "abc", true}, {"a*c", "abbc", true}, {"a*c", "abcd", false},
		{"*.data.*", "request.data.x", true}, {"*.data.*", "request.data", false}, {"a*b*c", "aXbYbZc", true}, {"", "", true}, {"", "a", false}, {"**", "x", true},
	} {
		if got := globMatch(c.pattern, c.text); got != c.want {
			t.Errorf("%q %q: %t", c.pattern, c.text, got)
		}
	}
}
