package api

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestPolicies(t *testing.T) {
	n := startNode(t, nil)
	const acl, old = "/v1/sys/policies/acl", "/v1/sys/policy"
	const text = `path "a" { capabilities = ["read"] }`
	n.newToken(`{"id":"limited","policies":["default"]}`)
	n.putPolicy("", "writer", `path "sys/policies/acl/team-*" { capabilities = ["update", "read"] }`)
	n.newToken(`{"id":"writer","policies":["writer"]}`)
	n.putPolicy("", "most", `path "sys/policies/acl/*" { capabilities = ["update", "read"] }  path "sys/policies/acl/most" { capabilities = ["deny"] }`)
	n.newToken(`{"id":"most","policies":["most"]}`)
	put := func(text string) string { return fmt.Sprintf(`{"policy":%q}`, text) }
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		want   any    // errors if a text (contained), else data; nil: not looked at
		warn   string // contained
	}{
		{"write", ask{method: "PUT", path: acl + "/p1", body: put(text)}, 204, nil, ""},
		{"read", ask{method: "GET", path: acl + "/p1"}, 200, map[string]any{"name": "p1", "policy": text}, ""},
		{"read in upper case", ask{method: "GET", path: acl + "/P1"}, 200, map[string]any{"name": "p1", "policy": text}, ""},
		{"read as old", ask{method: "GET", path: old + "/p1"}, 200, map[string]any{"name": "p1", "rules": text}, ""},
		{"overwrite with POST", ask{method: "POST", path: acl + "/p1", body: put(text + "\n")}, 204, nil, ""},
		{"read what was overwritten", ask{method: "GET", path: acl + "/p1"}, 200, map[string]any{"name": "p1", "policy": text + "\n"}, ""},
		{"name converted", ask{method: "PUT", path: acl + "/P2", body: put(text)}, 200, nil, `"p2"`},
		{"old spelling", ask{method: "PUT", path: old + "/p3", body: fmt.Sprintf(`{"rules":%q}`, text)}, 200, nil, "older name"},
		{"old path, new spelling", ask{method: "PUT", path: old + "/p4", body: put(text)}, 204, nil, ""},
		{"new path, old spelling", ask{method: "PUT", path: acl + "/p5", body: fmt.Sprintf(`{"rules":%q}`, text)}, 400, "missing or empty", ""},
		{"base64", ask{method: "PUT", path: acl + "/p6", body: put(base64.StdEncoding.EncodeToString([]byte(text)))}, 204, nil, ""},
		{"read base64", ask{method: "GET", path: acl + "/p6"}, 200, map[string]any{"name": "p6", "policy": text}, ""},
		{"JSON", ask{method: "PUT", path: acl + "/p7", body: put(`{"path":{"a":{"capabilities":["read"]}}}`)}, 204, nil, ""},
		{"unknown member", ask{method: "PUT", path: acl + "/p7", body: `{"polic":"x","policy":"path \"a\" { capabilities = [\"read\"] }"}`}, 200, nil, `"polic"`},
		{"list", ask{method: "LIST", path: acl}, 200, map[string]any{"keys": []any{"default", "most", "p1", "p2", "p3", "p4", "p6", "p7", "root", "writer"}}, ""},
		{"list with GET", ask{method: "GET", path: acl + "?list=true"}, 200, map[string]any{"keys": []any{"default", "most", "p1", "p2", "p3", "p4", "p6", "p7", "root", "writer"}}, ""},
		{"delete", ask{method: "DELETE", path: acl + "/p7"}, 204, nil, ""},
		{"delete what there is not", ask{method: "DELETE", path: acl + "/p7"}, 204, nil, ""},
		{"delete as old", ask{method: "DELETE", path: old + "/p6"}, 204, nil, ""},
		{"read what there is not", ask{method: "GET", path: acl + "/p7"}, 404, "", ""},
		{"read as old what there is not", ask{method: "GET", path: old + "/p7"}, 404, "", ""},
		{"root", ask{method: "GET", path: acl + "/root"}, 200, map[string]any{"name": "root", "policy": ""}, ""},

		{"empty", ask{method: "PUT", path: acl + "/p1", body: put("")}, 400, "missing or empty", ""},
		{"missing", ask{method: "PUT", path: acl + "/p1"}, 400, "missing or empty", ""},
		{"wrong type", ask{method: "PUT", path: acl + "/p1", body: `{"policy":["x"]}`}, 400, `field "policy": is a list`, ""},
		{"unknown capability", ask{method: "PUT", path: acl + "/p1", body: put(`path "a" { capabilities = ["foo"] }`)}, 400, `foo`, ""},
		{"unknown key", ask{method: "PUT", path: acl + "/p1", body: put(`foo = 1`)}, 400, `foo`, ""},
		{"not closed", ask{method: "PUT", path: acl + "/p1", body: put(`path "a" {`)}, 400, "line 1, column", ""},
		{"write root", ask{method: "PUT", path: acl + "/root", body: put(text)}, 400, `"root" cannot be changed`, ""},
		{"delete root", ask{method: "DELETE", path: acl + "/root"}, 400, `"root" cannot`, ""},
		{"delete default", ask{method: "DELETE", path: acl + "/default"}, 400, `"default" cannot`, ""},
		{"read the list", ask{method: "GET", path: acl}, 405, "unsupported operation", ""},
		{"write the list", ask{method: "PUT", path: acl, body: put(text)}, 405, "unsupported operation", ""},
		{"delete the list", ask{method: "DELETE", path: acl}, 405, "unsupported operation", ""},
		{"list one", ask{method: "LIST", path: acl + "/p1"}, 404, "unsupported path", ""},
		{"patch", ask{method: "PATCH", path: acl + "/p1", body: put(text), header: map[string]string{"Content-Type": "application/merge-patch+json"}}, 405, "unsupported operation", ""},
		{"patch without type", ask{method: "PATCH", path: acl + "/p1", body: put(text)}, 415, "application/merge-patch+json", ""},
		{"no name", ask{method: "PUT", path: acl + "/", body: put(text)}, 404, "unsupported path", ""},
		{"name ends in a slash", ask{method: "PUT", path: acl + "/x/", body: put(text)}, 400, `ends in "/"`, ""},
		{"10 MB", ask{method: "PUT", path: acl + "/p1", body: put(strings.Repeat("#", 10<<20))}, 413, "more than 1048576 bytes", ""},
		{"half a MB", ask{method: "PUT", path: acl + "/p1", body: put(strings.Repeat("#", 500<<10))}, 400, "256 KiB", ""},

		{"without right: write", ask{method: "PUT", path: acl + "/p1", token: "limited", body: put(text)}, 403, "permission denied", ""},
		{"without right: read", ask{method: "GET", path: acl + "/default", token: "limited"}, 403, "permission denied", ""},
		{"without right: list", ask{method: "LIST", path: acl, token: "limited"}, 403, "permission denied", ""},
		{"without right: delete", ask{method: "DELETE", path: acl + "/p1", token: "writer"}, 403, "permission denied", ""},
		{"right on some: write", ask{method: "PUT", path: acl + "/team-a", token: "writer", body: put(text)}, 204, nil, ""},
		{"right on some: other", ask{method: "PUT", path: acl + "/p1", token: "writer", body: put(text)}, 403, "permission denied", ""},
		{"right on some: other spelling", ask{method: "PUT", path: old + "/team-a", token: "writer", body: put(text)}, 403, "permission denied", ""},
		{"right on some: other namespace", ask{method: "PUT", path: "/v1/ns1/sys/policies/acl/team-a", token: "writer", body: put(text)}, 403, "permission denied", ""},
		{"denied: itself", ask{method: "PUT", path: acl + "/most", token: "most", body: put(text)}, 403, "permission denied", ""},
		{"denied: other spelling", ask{method: "PUT", path: acl + "/Most", token: "most", body: put(text)}, 403, "permission denied", ""},
		{"denied: space", ask{method: "GET", path: acl + "/most%20", token: "most"}, 403, "permission denied", ""},
		{"not denied", ask{method: "PUT", path: acl + "/Other", token: "most", body: put(text)}, 200, nil, `"other"`},
		{"no token", ask{method: "PUT", path: acl + "/p1", token: "-", body: put(text)}, 403, "permission denied", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, b := n.do(tt.q)
			if status != tt.status {
				t.Fatalf("%d %v, want %d", status, b, tt.status)
			}
			switch want := tt.want.(type) {
			case string:
				if got := strings.Join(b.errors(), "\n"); !strings.Contains(got, want) || want == "" && got != "" {
					t.Errorf("errors %q, want %q", got, want)
				}
			case map[string]any:
				if !reflect.DeepEqual(b.data(), want) || b["mount_type"] != "system" {
					t.Errorf("got %v, want data %v", b, want)
				}
			}
			if got := strings.Join(b.warnings(), "\n"); !strings.Contains(got, tt.warn) || tt.warn == "" && got != "" {
				t.Errorf("warnings %q, want %q", got, tt.warn)
			}
		})
	}

	t.Run("old clients look beside data", func(t *testing.T) {
		b := n.must(ask{method: "GET", path: old + "/p1"})
		if b["rules"] != text+"\n" || b["name"] != "p1" {
			t.Errorf("got %v", b)
		}
		for _, q := range []ask{{method: "GET", path: old}, {method: "LIST", path: old}} {
			b := n.must(q)
			if keys := texts(b["policies"]); !slices.Contains(keys, "p1") || !slices.Equal(keys, texts(b["keys"])) || !slices.Equal(keys, texts(b.data()["policies"])) {
				t.Errorf("got %v", b)
			}
		}
	})
	t.Run("namespaces are apart", func(t *testing.T) {
		n.putPolicy("ns1/", "p1", `path "b" { capabilities = ["list"] }`)
		if b := n.must(ask{method: "GET", path: acl + "/p1", header: map[string]string{"X-Vault-Namespace": "ns1"}}); b.data()["policy"] != `path "b" { capabilities = ["list"] }` {
			t.Errorf("got %v", b)
		}
		if b := n.must(ask{method: "LIST", path: "/v1/ns1/sys/policies/acl"}); !slices.Equal(texts(b.data()["keys"]), []string{"default", "p1"}) {
			t.Errorf("got %v", b)
		}
		if b := n.must(ask{method: "GET", path: acl + "/p1"}); b.data()["policy"] != text+"\n" {
			t.Errorf("got %v", b)
		}
	})
}

// What is denied by one spelling of the path is not possible by the other.
func TestSpellingsOfPolicyPaths(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "admin", `path "a" { capabilities = ["read"] }`)
	const all = `{ capabilities = ["create", "read", "update", "delete", "list"] }`
	for _, tt := range []struct {
		name, policy, path string
		denied             []string // methods
	}{
		{"new denied", `path "sys/*" ` + all + ` path "sys/policies/acl/admin" { capabilities = ["deny"] }`, "/v1/sys/policy/admin", []string{"GET", "POST", "DELETE"}},
		{"new denied, another name", `path "sys/*" ` + all + ` path "sys/policies/acl/admin" { capabilities = ["deny"] }`, "/v1/sys/policy/other", nil},
		{"new denied, other case", `path "sys/*" ` + all + ` path "sys/policies/acl/admin" { capabilities = ["deny"] }`, "/v1/sys/policy/%20ADMIN", []string{"GET", "POST", "DELETE"}},
		{"old denied", `path "sys/*" ` + all + ` path "sys/policy/a*" { capabilities = ["deny"] }`, "/v1/sys/policies/acl/admin", []string{"GET", "POST", "DELETE"}},
		{"new list denied", `path "sys/*" ` + all + ` path "sys/policies/acl/*" { capabilities = ["deny"] }`, "/v1/sys/policy", []string{"GET", "LIST"}},
		{"old list denied", `path "sys/*" ` + all + ` path "sys/policy" { capabilities = ["deny"] }`, "/v1/sys/policies/acl", []string{"LIST"}},
		{"only old granted", `path "sys/policy/admin" ` + all, "/v1/sys/policy/admin", nil},
		{"only new granted", `path "sys/policies/acl/*" ` + all, "/v1/sys/policies/acl/admin", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.putPolicy("", "tested", tt.policy)
			token := n.newToken(`{"policies":["tested"]}`)
			methods := tt.denied
			if methods == nil {
				methods = []string{"POST"}
			}
			for _, method := range methods {
				status, b := n.do(ask{method: method, path: tt.path, token: token, body: `{"policy":"path \"b\" {}"}`})
				if (status == 403) != (tt.denied != nil) {
					t.Errorf("%s: %d %v", method, status, b)
				}
			}
		})
	}
}

func TestCapabilities(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "p1", `
		path "a"   { capabilities = ["update", "read"] }
		path "b/*" { capabilities = ["list", "subscribe"]  subscribe_event_types = ["*"] }
		path "ns1/a" { capabilities = ["delete"] }
		path "auth"  { capabilities = ["list"] }`)
	n.putPolicy("ns1/", "p1", `path "c" { capabilities = ["sudo", "read"] }
		path "sys/capabilities" { capabilities = ["update"] }
		path "sys/capabilities-accessor" { capabilities = ["update"] }`)
	n.newToken(`{"id":"t1","policies":["p1"]}`)
	accessor := n.must(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: "t1"}).data()["accessor"].(string)
	inNS1 := n.must(ask{method: "POST", path: "/v1/ns1/auth/token/create", body: `{"policies":["p1"]}`}).auth()["client_token"].(string)
	const of = "/v1/sys/capabilities"
	list := func(names ...any) []any { return names }
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		want   any // as above
	}{
		{"self", ask{path: of + "-self", token: "t1", body: `{"path":"a"}`}, 200, map[string]any{"a": list("read", "update"), "capabilities": list("read", "update")}},
		{"self, leading slash", ask{path: of + "-self", token: "t1", body: `{"path":"/a"}`}, 200, map[string]any{"/a": list("read", "update"), "capabilities": list("read", "update")}},
		{"self, several", ask{path: of + "-self", token: "t1", body: `{"paths":["a","b/x","c"]}`}, 200, map[string]any{"a": list("read", "update"), "b/x": list("list", "subscribe"), "c": list("deny")}},
		{"self, list of one", ask{path: of + "-self", token: "t1", body: `{"path":["c"]}`}, 200, map[string]any{"c": list("deny"), "capabilities": list("deny")}},
		{"self, commas", ask{path: of + "-self", token: "t1", body: `{"path":"a, c"}`}, 200, map[string]any{"a": list("read", "update"), "c": list("deny")}},
		{"self, paths before path", ask{path: of + "-self", token: "t1", body: `{"path":"b/x","paths":["a"]}`}, 200, map[string]any{"a": list("read", "update"), "capabilities": list("read", "update")}},
		{"self, root", ask{path: of + "-self", body: `{"path":"anything"}`}, 200, map[string]any{"anything": list("root"), "capabilities": list("root")}},
		{"self, named like the answer", ask{path: of + "-self", token: "t1", body: `{"paths":["auth","capabilities"]}`}, 200, map[string]any{"auth": list("list"), "capabilities": list("deny")}},
		{"self, in a namespace", ask{path: "/v1/ns1/sys/capabilities-self", token: inNS1, body: `{"paths":["a","c"]}`}, 200, map[string]any{"a": list("deny"), "c": list("read", "sudo")}},
		{"of a token", ask{path: of, body: `{"path":"a","token":"t1"}`}, 200, map[string]any{"a": list("read", "update"), "capabilities": list("read", "update")}},
		{"of an accessor", ask{path: of + "-accessor", body: fmt.Sprintf(`{"path":"a","accessor":%q}`, accessor)}, 200, map[string]any{"a": list("read", "update"), "capabilities": list("read", "update")}},
		{"of a token of above, in a namespace", ask{path: "/v1/ns1/sys/capabilities", body: `{"path":"a","token":"t1"}`}, 400, "invalid token"},
		{"of a token of above, from below", ask{path: "/v1/ns1/sys/capabilities", token: inNS1, body: `{"path":"a","token":"root"}`}, 400, "invalid token"},
		{"of an accessor of above, from below", ask{path: "/v1/ns1/sys/capabilities-accessor", token: inNS1, body: fmt.Sprintf(`{"path":"a","accessor":%q}`, accessor)}, 400, "invalid accessor"},

		{"unknown token", ask{path: of, body: `{"path":"a","token":"nope"}`}, 400, "invalid token"},
		{"no other token", ask{path: of, body: `{"path":"a"}`}, 400, "missing token"},
		{"unknown accessor", ask{path: of + "-accessor", body: `{"path":"a","accessor":"nope"}`}, 400, "invalid accessor"},
		{"no accessor", ask{path: of + "-accessor", body: `{"path":"a"}`}, 400, "missing accessor"},
		{"no path", ask{path: of + "-self", body: `{}`}, 400, "no path is given"},
		{"empty path", ask{path: of + "-self", body: `{"path":""}`}, 400, "no path is given"},
		{"too many paths", ask{path: of + "-self", token: "t1", body: `{"path":"` + strings.Repeat("a,", maxCapabilityPaths) + `a"}`}, 400, "more than 1000 paths"},
		{"one empty path", ask{path: of + "-self", body: `{"path":["a",""]}`}, 400, "one of the paths is empty"},
		{"wrong type", ask{path: of + "-self", body: `{"path":{"a":1}}`}, 400, `field "path"`},
		{"no right", ask{path: of, token: "t1", body: `{"path":"a","token":"root"}`}, 403, "permission denied"},
		{"bad token", ask{path: of + "-self", token: "nope", body: `{"path":"a"}`}, 403, "invalid token"},
		{"GET", ask{method: "GET", path: of + "-self"}, 405, "unsupported operation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.q.method == "" {
				tt.q.method = "POST"
			}
			status, b := n.do(tt.q)
			if status != tt.status {
				t.Fatalf("%d %v, want %d", status, b, tt.status)
			}
			if want, ok := tt.want.(string); ok {
				if len(b.errors()) != 1 || !strings.Contains(b.errors()[0], want) {
					t.Errorf("errors %q, want %q", b.errors(), want)
				}
				return
			}
			if !reflect.DeepEqual(b.data(), tt.want) {
				t.Errorf("data %v, want %v", b.data(), tt.want)
			}
			for name, value := range b.data() {
				if name != "auth" && !reflect.DeepEqual(b[name], value) {
					t.Errorf("beside data, %s is %v", name, b[name])
				}
			}
			if b["auth"] != nil || b["mount_type"] != "system" {
				t.Errorf("envelope %v", b)
			}
		})
	}
}
