package api

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	deniedText = "1 error occurred:\n\t* permission denied\n\n"
	badText    = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"
)

// tokenManager may do everything with tokens but what needs sudo.
const tokenManager = `path "auth/token/*" { capabilities = ["create", "read", "update", "delete", "list"] }`

func TestLookups(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "manager", tokenManager)
	n.putPolicy("ns1/", "manager", tokenManager)
	child := n.newToken(`{"policies":["default"],"ttl":"1h","meta":{"team":"a"},"display_name":"a b","num_uses":9}`)
	manager := n.newToken(`{"policies":["manager"],"id":"manager","period":"24h"}`)
	inNS1 := n.must(ask{method: "POST", path: "/v1/ns1/auth/token/create", body: `{"policies":["manager"]}`}).auth()["client_token"].(string)

	root := n.must(ask{method: "GET", path: "/v1/auth/token/lookup-self"})
	for name, want := range map[string]any{"id": "root", "policies": []any{"root"}, "expire_time": nil, "ttl": 0.0, "orphan": true, "renewable": false, "type": "service", "num_uses": 0.0, "meta": nil} {
		if got := root.data()[name]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("root: %s is %v, want %v", name, got, want)
		}
	}
	if root["mount_type"] != "token" || len(root["request_id"].(string)) != 36 || root["lease_id"] != "" || root["wrap_info"] != nil || root["auth"] != nil || root["warnings"] != nil {
		t.Errorf("envelope %v", root)
	}

	got := n.must(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: child}).data()
	want := []string{"accessor", "creation_time", "creation_ttl", "display_name", "entity_id", "expire_time", "explicit_max_ttl", "id", "issue_time",
		"meta", "num_uses", "orphan", "path", "policies", "renewable", "ttl", "type"}
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, want) {
		t.Errorf("a lookup has %v, want %v", keys, want)
	}
	expires, err := time.Parse(time.RFC3339Nano, got["expire_time"].(string))
	if err != nil || time.Until(expires) > time.Hour || time.Until(expires) < time.Hour-time.Minute {
		t.Errorf("expire_time %v %v", got["expire_time"], err)
	}
	if _, err := time.Parse(time.RFC3339Nano, got["issue_time"].(string)); err != nil {
		t.Error(err)
	}
	if got["id"] != child || got["num_uses"] != 8.0 || got["creation_ttl"] != 3600.0 || got["ttl"].(float64) < 3590 || got["ttl"].(float64) > 3600 ||
		got["orphan"] != false || got["renewable"] != true || got["path"] != "auth/token/create" || got["display_name"] != "token-a-b" ||
		got["meta"].(map[string]any)["team"] != "a" {
		t.Errorf("child: %v", got)
	}
	accessor := got["accessor"].(string)

	other := n.must(ask{method: "POST", path: "/v1/auth/token/lookup", token: manager, body: fmt.Sprintf(`{"token":%q}`, child)}).data()
	if other["id"] != child || other["accessor"] != accessor || other["num_uses"] != 8.0 {
		t.Errorf("looked up: %v", other)
	}
	other = n.must(ask{method: "PUT", path: "/v1/auth/token/lookup-accessor", token: manager, body: fmt.Sprintf(`{"accessor":%q}`, accessor)}).data()
	if other["id"] != "" || other["accessor"] != accessor {
		t.Errorf("looked up by accessor, without the token: %v", other)
	}
	n.must(ask{method: "POST", path: "/v1/auth/token/renew-self", token: manager})
	periodic := n.must(ask{method: "GET", path: "/v1/auth/token/lookup", token: manager}).data()
	if periodic["id"] != manager || periodic["period"] != 86400.0 || periodic["last_renewal"] == nil || periodic["last_renewal_time"].(float64) < 1e9 {
		t.Errorf("periodic: %v", periodic)
	}
	below := n.must(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: inNS1, header: map[string]string{"X-Vault-Namespace": "ns1"}}).data()
	if below["namespace_path"] != "ns1/" {
		t.Errorf("in a namespace: %v", below)
	}

	for _, tt := range []struct {
		name   string
		q      ask
		status int
		text   string
	}{
		{"unknown", ask{method: "POST", path: "/v1/auth/token/lookup", body: `{"token":"nope"}`}, 403, "bad token"},
		{"not UTF-8", ask{method: "POST", path: "/v1/auth/token/lookup", body: "{\"token\":\"\xff\xfe\"}"}, 403, "bad token"},
		{"wrong type", ask{method: "POST", path: "/v1/auth/token/lookup", body: `{"token":{"a":1}}`}, 400, `field "token": is an object, it must be a text`},
		{"unknown accessor", ask{method: "POST", path: "/v1/auth/token/lookup-accessor", body: `{"accessor":"nope"}`}, 400, "1 error occurred:\n\t* invalid accessor\n\n"},
		{"no accessor", ask{method: "POST", path: "/v1/auth/token/lookup-accessor"}, 400, "1 error occurred:\n\t* missing accessor\n\n"},
		{"no right", ask{method: "POST", path: "/v1/auth/token/lookup", token: child, body: `{"token":"root"}`}, 403, deniedText},
		{"of the namespace above", ask{method: "POST", path: "/v1/ns1/auth/token/lookup", token: inNS1, body: `{"token":"root"}`}, 403, "bad token"},
		{"accessor of the namespace above", ask{method: "POST", path: "/v1/ns1/auth/token/lookup-accessor", token: inNS1, body: fmt.Sprintf(`{"accessor":%q}`, accessor)}, 400, "1 error occurred:\n\t* invalid accessor\n\n"},
		{"no token", ask{method: "GET", path: "/v1/auth/token/lookup-self", token: "-"}, 403, "permission denied"},
		{"bad token", ask{method: "GET", path: "/v1/auth/token/lookup-self", token: "nope"}, 403, badText},
		{"token not UTF-8", ask{method: "GET", path: "/v1/auth/token/lookup-self", token: "\xff\xfe"}, 403, badText},
		{"huge token", ask{method: "GET", path: "/v1/auth/token/lookup-self", token: strings.Repeat("x", 40_000)}, 403, badText},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, b := n.do(tt.q)
			if status != tt.status || !slices.Equal(b.errors(), []string{tt.text}) {
				t.Errorf("%d %q, want %d %q", status, b.errors(), tt.status, tt.text)
			}
		})
	}
}

func TestCreateToken(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "p1", `path "a" { capabilities = ["read"] }`)
	n.putPolicy("", "manager", tokenManager)
	manager := n.newToken(`{"policies":["manager","p1"]}`)
	const create = "/v1/auth/token/create"
	for _, tt := range []struct {
		name string
		q    ask
		want map[string]any // of auth
		warn string         // contained in a warning
	}{
		{"nothing wanted", ask{}, map[string]any{"policies": []any{"root"}, "lease_duration": 0.0, "renewable": false, "orphan": false, "token_type": "service",
			"num_uses": 0.0, "metadata": nil, "mfa_requirement": nil, "entity_id": "", "token_policies": []any{"root"}}, ""},
		{"null", ask{body: "null"}, map[string]any{"policies": []any{"root"}}, ""},
		{"of Vault's command", ask{body: `{"policies":["p1"],"ttl":"1h0m0s","explicit_max_ttl":"0s","period":"0s","display_name":"","num_uses":0,"renewable":true,"type":"service","no_parent":false,"no_default_policy":false,"entity_alias":"","meta":{}}`},
			map[string]any{"policies": []any{"default", "p1"}, "lease_duration": 3600.0, "renewable": true, "orphan": false}, ""},
		{"seconds as text", ask{body: `{"policies":["p1"],"ttl":"3600"}`}, map[string]any{"lease_duration": 3600.0}, ""},
		{"seconds as number", ask{body: `{"policies":["p1"],"ttl":120}`}, map[string]any{"lease_duration": 120.0}, ""},
		{"days", ask{body: `{"policies":["p1"],"ttl":"2d"}`}, map[string]any{"lease_duration": 172800.0}, ""},
		{"older spelling", ask{body: `{"policies":["p1"],"lease":"5m"}`}, map[string]any{"lease_duration": 300.0}, ""},
		{"default", ask{body: `{"policies":["p1"],"ttl":null}`}, map[string]any{"lease_duration": 2764800.0}, ""},
		{"capped", ask{body: `{"policies":["p1"],"ttl":"2h","explicit_max_ttl":"30m"}`}, map[string]any{"lease_duration": 1800.0}, "TTL of 2h"},
		{"periodic", ask{body: `{"policies":["p1"],"period":"30m"}`}, map[string]any{"lease_duration": 1800.0}, ""},
		{"orphan by its path", ask{path: create + "-orphan", body: `{"policies":["p1"]}`}, map[string]any{"orphan": true}, ""},
		{"orphan by its field", ask{body: `{"policies":["p1"],"no_parent":true}`}, map[string]any{"orphan": true}, ""},
		{"without default", ask{body: `{"policies":["p1"],"no_default_policy":"true"}`}, map[string]any{"policies": []any{"p1"}}, ""},
		{"one policy as text", ask{body: `{"policies":"p1"}`}, map[string]any{"policies": []any{"default", "p1"}}, ""},
		{"policies cleaned", ask{body: `{"policies":["P1 "," ","p1"]}`}, map[string]any{"policies": []any{"default", "p1"}}, ""},
		{"policy missing", ask{body: `{"policies":["nosuch"]}`}, map[string]any{"policies": []any{"default", "nosuch"}}, "nosuch"},
		{"uses", ask{body: `{"policies":["p1"],"num_uses":"3"}`}, map[string]any{"num_uses": 3.0}, ""},
		{"not renewable", ask{body: `{"policies":["p1"],"renewable":false}`}, map[string]any{"renewable": false}, ""},
		{"metadata", ask{body: `{"policies":["p1"],"meta":{"a":"b","n":5,"t":true}}`}, map[string]any{"metadata": map[string]any{"a": "b", "n": "5", "t": "true"}}, ""},
		{"chosen id", ask{body: `{"policies":["p1"],"id":"chosen-by-somebody-with-sudo"}`}, map[string]any{"client_token": "chosen-by-somebody-with-sudo"}, ""},
		{"short id", ask{body: `{"policies":["p1"],"id":"chosen"}`}, map[string]any{"client_token": "chosen"}, "whoever guesses it"},
		{"default type", ask{body: `{"policies":["p1"],"type":"default"}`}, map[string]any{"token_type": "service"}, ""},
		{"unknown members", ask{body: `{"polices":["p1"],"TTL":"1s"}`}, map[string]any{"policies": []any{"root"}}, `"TTL", "polices"`},
		{"by a manager", ask{token: manager, body: `{"policies":["p1"]}`}, map[string]any{"policies": []any{"default", "p1"}, "orphan": false}, ""},
		{"by a manager, nothing wanted", ask{token: manager}, map[string]any{"policies": []any{"default", "manager", "p1"}}, ""},
		{"with PUT", ask{method: "PUT", body: `{"policies":["p1"]}`}, map[string]any{"token_type": "service"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.q.method == "" {
				tt.q.method = "POST"
			}
			if tt.q.path == "" {
				tt.q.path = create
			}
			b := n.must(tt.q)
			if b["data"] != nil || b["mount_type"] != "token" {
				t.Errorf("envelope %v", b)
			}
			for name, want := range tt.want {
				if got := b.auth()[name]; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s is %v, want %v", name, got, want)
				}
			}
			if warnings := strings.Join(b.warnings(), "\n"); !strings.Contains(warnings, tt.warn) || tt.warn == "" && warnings != "" {
				t.Errorf("warnings %q, want %q", warnings, tt.warn)
			}
			value := b.auth()["client_token"].(string)
			if e, err := n.authority.Tokens().Lookup(value); err != nil || e.Accessor != b.auth()["accessor"] {
				t.Errorf("the token is %+v, %v", e, err)
			}
		})
	}

	n.newToken(`{"id":"once","policies":["p1"]}`)
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		text   string // contained
	}{
		{"batch", ask{body: `{"type":"batch"}`}, 400, "batch tokens are not supported"},
		{"unknown type", ask{body: `{"type":"foo"}`}, 400, `unknown token type "foo"`},
		{"entity alias", ask{body: `{"entity_alias":"x"}`}, 400, "entity_alias is not supported"},
		{"role", ask{path: create + "/role1"}, 400, "unknown role"},
		{"same id", ask{body: `{"id":"once"}`}, 400, "exists already"},
		{"no duration", ask{body: `{"ttl":"abc"}`}, 400, `field "ttl": "abc" is no duration`},
		{"fraction", ask{body: `{"ttl":1.5}`}, 400, `field "ttl": "1.5" is no duration`},
		{"negative", ask{body: `{"ttl":"-5s"}`}, 400, `field "ttl": "-5s" is negative`},
		{"negative number", ask{body: `{"period":-5}`}, 400, `field "period": "-5" is negative`},
		{"too long", ask{body: `{"ttl":9223372036854775807}`}, 400, `field "ttl":`},
		{"list as duration", ask{body: `{"ttl":[1]}`}, 400, `field "ttl": is a list`},
		{"uses no number", ask{body: `{"num_uses":"x"}`}, 400, `field "num_uses": "x" is not a whole number`},
		{"negative uses", ask{body: `{"num_uses":-1}`}, 400, `field "num_uses": "-1" is not a whole number`},
		{"fraction of a use", ask{body: `{"num_uses":1.5}`}, 400, `field "num_uses": "1.5"`},
		{"policies an object", ask{body: `{"policies":{"a":"b"}}`}, 400, `field "policies": element 1 is an object`},
		{"policies nested", ask{body: `{"policies":["a",["b"]]}`}, 400, `field "policies": element 2 is a list`},
		{"meta a text", ask{body: `{"meta":"x"}`}, 400, `field "meta": is a text, number or boolean, it must be an object`},
		{"meta nested", ask{body: `{"meta":{"a":{"b":1}}}`}, 400, `field "meta": member "a" is an object`},
		{"renewable neither", ask{body: `{"renewable":"yes"}`}, 400, `field "renewable": "yes" is neither true nor false`},
		{"root and others", ask{body: `{"policies":["root","p1"]}`}, 400, "root"},
		{"more than one has", ask{token: manager, body: `{"policies":["root"]}`}, 400, "root"},
		{"policies of others", ask{token: manager, body: `{"policies":["other"]}`}, 400, `"other"`},
		{"orphan without sudo", ask{token: manager, body: `{"policies":["p1"],"no_parent":true}`}, 400, "orphan"},
		{"period without sudo", ask{token: manager, body: `{"policies":["p1"],"period":"1h"}`}, 400, "periodic"},
		{"id without sudo", ask{token: manager, body: `{"policies":["p1"],"id":"x"}`}, 400, "id"},
		{"without right", ask{token: "once"}, 403, deniedText},
		{"GET", ask{method: "GET"}, 405, "unsupported operation"},
		{"DELETE", ask{method: "DELETE"}, 405, "unsupported operation"},
		{"LIST", ask{method: "LIST"}, 404, "unsupported path"},
		{"wrapped", ask{header: map[string]string{"X-Vault-Wrap-TTL": "60"}}, 400, "response wrapping is not supported"},
		{"wrapped for no time", ask{header: map[string]string{"X-Vault-Wrap-TTL": "x"}}, 400, "response wrapping is not supported"},
		{"no JSON", ask{body: `policies=p1`}, 400, "error parsing JSON"},
		{"cut", ask{body: `{"policies":["p1"`}, 400, "the body ends in the middle"},
		{"more behind", ask{body: `{} x`}, 400, "there is more behind"},
		{"list", ask{body: `[]`}, 400, "not an object"},
		{"text", ask{body: `"x"`}, 400, "not an object"},
		{"deep", ask{body: `{"a":` + strings.Repeat("[", 100_000)}, 400, "nested more than 32 levels"},
		{"many", ask{body: `{"a":[` + strings.Repeat("1,", 100_000) + `1]}`}, 400, "more than 20000 values"},
		{"large", ask{body: `{"a":"` + strings.Repeat("x", 1<<20) + `"}`}, 413, "more than 1048576 bytes"},
		{"10 MB", ask{body: strings.Repeat("x", 10<<20)}, 413, "more than 1048576 bytes"},
		{"100 KB without right", ask{token: "nope", body: strings.Repeat("x", 100<<10)}, 403, "invalid token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.q.method == "" {
				tt.q.method = "POST"
			}
			if tt.q.path == "" {
				tt.q.path = create
			}
			before := len(n.authority.Tokens().Accessors(""))
			status, b := n.do(tt.q)
			if status != tt.status || len(b.errors()) != 1 || !strings.Contains(b.errors()[0], tt.text) {
				t.Errorf("%d %q, want %d %q", status, b.errors(), tt.status, tt.text)
			}
			if after := len(n.authority.Tokens().Accessors("")); after != before {
				t.Errorf("there are %d tokens, %d before", after, before)
			}
		})
	}
}

func TestRenewAndRevoke(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "manager", tokenManager)
	n.putPolicy("ns1/", "manager", tokenManager)
	manager := n.newToken(`{"policies":["manager"],"id":"manager"}`)
	inNS1 := n.must(ask{method: "POST", path: "/v1/ns1/auth/token/create", body: `{"policies":["manager"]}`}).auth()["client_token"].(string)
	accessorOf := func(value string) string {
		return n.must(ask{method: "POST", path: "/v1/auth/token/lookup", body: fmt.Sprintf(`{"token":%q}`, value)}).data()["accessor"].(string)
	}
	fresh := 0
	newToken := func(rest string) string {
		fresh++
		return n.newToken(fmt.Sprintf(`{"policies":["default"],"id":"t%d",%s}`, fresh, rest))
	}
	lives := func(value string) bool {
		status, _ := n.do(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: value})
		return status == http.StatusOK
	}

	value := newToken(`"ttl":"1h"`)
	for _, tt := range []struct {
		name    string
		q       ask
		seconds float64
		value   string // in the answer
	}{
		{"self", ask{path: "renew-self", token: value, body: `{"increment":7200}`}, 7200, value},
		{"self without a body", ask{path: "renew-self", token: value}, 7200, value},
		{"other", ask{path: "renew", token: manager, body: fmt.Sprintf(`{"token":%q,"increment":"10m"}`, value)}, 600, value},
		{"by accessor", ask{path: "renew-accessor", token: manager, body: fmt.Sprintf(`{"accessor":%q,"increment":"300"}`, accessorOf(value))}, 300, ""},
	} {
		t.Run("renew "+tt.name, func(t *testing.T) {
			tt.q.method, tt.q.path = "PUT", "/v1/auth/token/"+tt.q.path
			b := n.must(tt.q)
			if b.auth()["lease_duration"] != tt.seconds || b.auth()["client_token"] != tt.value || b.auth()["renewable"] != true || b.auth()["accessor"] == "" {
				t.Errorf("auth %v", b.auth())
			}
		})
	}
	notRenewable := newToken(`"ttl":"1h","renewable":false`)
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		text   string
	}{
		{"root", ask{path: "renew-self"}, 400, "lease is not renewable"},
		{"not renewable", ask{path: "renew-self", token: notRenewable}, 400, "lease is not renewable"},
		{"unknown", ask{path: "renew", body: `{"token":"nope"}`}, 400, "token not found"},
		{"none", ask{path: "renew", body: `{}`}, 400, "missing token ID"},
		{"negative", ask{path: "renew-self", token: value, body: `{"increment":-1}`}, 400, "is negative"},
		{"no number", ask{path: "renew-self", token: value, body: `{"increment":"x"}`}, 400, "is no duration"},
		{"unknown accessor", ask{path: "renew-accessor", body: `{"accessor":"nope"}`}, 400, "invalid accessor"},
		{"without right", ask{path: "renew", token: value, body: `{"token":"manager"}`}, 403, "permission denied"},
		{"from the namespace below", ask{path: "renew", token: inNS1, body: `{"token":"manager"}`, header: map[string]string{"X-Vault-Namespace": "ns1/"}}, 400, "token not found"},
		{"revoke nothing", ask{path: "revoke", body: `{}`}, 400, "missing token ID"},
		{"revoke-accessor of nothing", ask{path: "revoke-accessor"}, 400, "missing accessor"},
		{"revoke-orphan of nothing", ask{path: "revoke-orphan"}, 400, "missing token ID"},
		{"revoke-orphan of an unknown one", ask{path: "revoke-orphan", body: `{"token":"nope"}`}, 400, "token to revoke not found"},
		{"revoke-orphan without sudo", ask{path: "revoke-orphan", token: manager, body: fmt.Sprintf(`{"token":%q}`, value)}, 403, "permission denied"},
		{"revoke without right", ask{path: "revoke", token: value, body: `{"token":"manager"}`}, 403, "permission denied"},
		{"list without sudo", ask{method: "LIST", path: "accessors", token: manager}, 403, "permission denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.q.method == "" {
				tt.q.method = "PUT"
			}
			tt.q.path = "/v1/auth/token/" + tt.q.path
			if status, b := n.do(tt.q); status != tt.status || len(b.errors()) != 1 || !strings.Contains(b.errors()[0], tt.text) {
				t.Errorf("%d %q, want %d %q", status, b.errors(), tt.status, tt.text)
			}
			if !lives(value) || !lives("manager") {
				t.Error("a token is gone")
			}
		})
	}

	t.Run("revoke", func(t *testing.T) {
		parent := n.newToken(`{"policies":["manager"],"id":"parent"}`)
		child := n.must(ask{method: "POST", path: "/v1/auth/token/create", token: parent}).auth()["client_token"].(string)
		for range 2 { // also when there is none any more
			if status, raw, _ := n.try(ask{method: "PUT", path: "/v1/auth/token/revoke", body: fmt.Sprintf(`{"token":%q}`, parent)}); status != 204 || len(raw) != 0 {
				t.Errorf("%d %s", status, raw)
			}
			if lives(parent) || lives(child) {
				t.Error("the token or its child lives")
			}
		}
	})
	t.Run("revoke-self", func(t *testing.T) {
		v := newToken(`"ttl":"1h"`)
		if status, _, _ := n.try(ask{method: "POST", path: "/v1/auth/token/revoke-self", token: v}); status != 204 || lives(v) {
			t.Errorf("%d, lives: %v", status, lives(v))
		}
	})
	t.Run("revoke-accessor", func(t *testing.T) {
		v := newToken(`"ttl":"1h"`)
		q := ask{method: "POST", path: "/v1/auth/token/revoke-accessor", body: fmt.Sprintf(`{"accessor":%q}`, accessorOf(v))}
		if status, _, _ := n.try(q); status != 204 || lives(v) {
			t.Errorf("%d, lives: %v", status, lives(v))
		}
		if b := n.must(q); len(b.warnings()) != 1 {
			t.Errorf("an accessor that there is not: %v", b)
		}
	})
	t.Run("revoke-orphan", func(t *testing.T) {
		parent := n.newToken(`{"policies":["manager"],"id":"parent2"}`)
		child := n.must(ask{method: "POST", path: "/v1/auth/token/create", token: parent}).auth()["client_token"].(string)
		n.must(ask{method: "PUT", path: "/v1/auth/token/revoke-orphan", body: `{"token":"parent2"}`})
		if lives(parent) || !lives(child) {
			t.Error("the token lives, or its child does not")
		}
	})
	t.Run("from the namespace below", func(t *testing.T) {
		q := ask{method: "PUT", path: "/v1/ns1/auth/token/revoke", token: inNS1, body: `{"token":"manager"}`}
		if status, _, _ := n.try(q); status != 204 || !lives("manager") { // as if there were none
			t.Errorf("%d, lives: %v", status, lives("manager"))
		}
		q = ask{method: "PUT", path: "/v1/ns1/auth/token/revoke-accessor", token: inNS1, body: fmt.Sprintf(`{"accessor":%q}`, accessorOf("manager"))}
		if status, _, _ := n.try(q); status != 200 || !lives("manager") {
			t.Errorf("%d, lives: %v", status, lives("manager"))
		}
	})
	t.Run("accessors", func(t *testing.T) {
		own := accessorOf("manager")
		for _, q := range []ask{{method: "LIST", path: "/v1/auth/token/accessors"}, {method: "LIST", path: "/v1/auth/token/accessors/"},
			{method: "GET", path: "/v1/auth/token/accessors?list=true"}, {method: "GET", path: "/v1/auth/token/accessors/?list=1"}} {
			keys := texts(n.must(q).data()["keys"])
			if !slices.Contains(keys, own) || len(keys) < 3 || !slices.IsSorted(keys) {
				t.Errorf("%v: %v", q, keys)
			}
		}
		if status, b := n.do(ask{method: "LIST", path: "/v1/none/auth/token/accessors"}); status != 404 || len(b.errors()) != 0 {
			t.Errorf("where there are none: %d %v", status, b)
		}
		if status, b := n.do(ask{method: "GET", path: "/v1/auth/token/accessors?list=maybe"}); status != 400 {
			t.Errorf("list=maybe: %d %v", status, b)
		}
		if status, _ := n.do(ask{method: "GET", path: "/v1/auth/token/accessors?list=false"}); status != 405 {
			t.Errorf("list=false: %d", status)
		}
	})
}

// TestUses: every request with a limited token is a use, whatever comes of it, and
// only of such.
func TestUses(t *testing.T) {
	n := startNode(t, nil)
	self := func(token string) (int, any) {
		status, b := n.do(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: token})
		return status, b.data()["num_uses"]
	}
	n.newToken(`{"id":"few","policies":["default"],"num_uses":4}`)
	if status, uses := self("few"); status != 200 || uses != 3.0 {
		t.Errorf("first: %d %v", status, uses)
	}
	if status, _ := n.do(ask{method: "GET", path: "/v1/sys/nosuch", token: "few"}); status != 403 {
		t.Errorf("denied: %d", status)
	}
	if status, _ := n.do(ask{method: "GET", path: "/v1/sys/health", token: "few"}); status != 200 {
		t.Errorf("without need of a token: %d", status)
	}
	if status, uses := self("few"); status != 200 || uses != 1.0 {
		t.Errorf("third: %d %v", status, uses)
	}
	if status, uses := self("few"); status != 200 || uses != -1.0 {
		t.Errorf("last: %d %v", status, uses)
	}
	if status, _ := self("few"); status != 403 {
		t.Errorf("one too many: %d", status)
	}
	n.newToken(`{"id":"parallel","policies":["default"],"num_uses":5}`)
	statuses := make(chan int)
	for range 20 {
		go func() {
			status, _ := self("parallel")
			statuses <- status
		}()
	}
	count := map[int]int{}
	for range 20 {
		count[<-statuses]++
	}
	if count[200] != 5 || count[403] != 15 {
		t.Errorf("of 20 requests at once with 5 uses: %v", count)
	}
}
