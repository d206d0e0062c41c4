package api

import (
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/pluginhost"
)

// A mount that stays does not lose its logins.
func TestDisableThatIsRefused(t *testing.T) {
	h := startHosting(t)
	_, b := h.do(ask{method: "POST", path: "/v1/auth/users/login/good", token: "-", body: `{}`})
	token, _ := b.auth()["client_token"].(string)
	if status, b := h.do(ask{method: "DELETE", path: "/v1/sys/auth/users"}); status != 400 {
		t.Fatalf("disable a mount of the configuration: %d %v", status, b)
	}
	if status, _ := h.do(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: token}); status != 200 {
		t.Errorf("the token of a login: %d", status)
	}
}

// The catalog belongs to all namespaces, so that none but root's may change it, and nobody
// starts plugins of another namespace anew.
func TestCatalogOfNamespaces(t *testing.T) {
	h := startHosting(t)
	h.putPolicy("ns1/", "admin", `path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }`)
	token := h.must(ask{method: "POST", path: "/v1/ns1/auth/token/create", body: `{"policies":["admin"]}`}).auth()["client_token"].(string)
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "sys/plugins/catalog/secret/x", `{"command":"fake","sha256":"` + strings.Repeat("0", 64) + `"}`, 400},
		{"DELETE", "sys/plugins/catalog/secret/kv", "", 400},
		{"GET", "sys/plugins/catalog", "", 200},
		{"GET", "sys/plugins/catalog/secret/kv", "", 400},
		{"GET", "sys/plugins/catalog/secret?list=true", "", 200},
		{"PUT", "sys/plugins/reload/backend", `{"plugin":"kv"}`, 400},
		{"PUT", "sys/plugins/reload/secret/kv", `{}`, 400},
		{"PUT", "sys/plugins/reload/backend", `{"mounts":["kv"]}`, 200},
		{"POST", "sys/mounts/mine", `{"type":"kv"}`, 204},
	} {
		if status, b := h.do(ask{method: tt.method, path: "/v1/ns1/" + tt.path, body: tt.body, token: token}); status != tt.status ||
			status == 400 && !strings.Contains(strings.Join(b.errors(), ""), "root namespace") {
			t.Errorf("%s %s: %d %v, want %d", tt.method, tt.path, status, b, tt.status)
		}
	}
}

// Logins that a plugin refuses are in the trail.
func TestHostedLoginIsRecorded(t *testing.T) {
	h := startHosting(t)
	h.do(ask{method: "POST", path: "/v1/auth/users/login/bad", token: "-", body: `{"password":"s3cret"}`})
	e := h.await("login-denied", 1)
	if e.Path != "auth/users/login/bad" || field(e, "remote_address") == "" && field(e, "remote") == "" {
		t.Errorf("record %+v", e)
	}
}

// As for writes, so for patches: a path that ends in a slash is no object.
func TestPatchOfAFolder(t *testing.T) {
	h := startHosting(t)
	asked := h.asked()
	patch := ask{method: "PATCH", path: "/v1/secret/x/", body: `{"value":"1"}`, header: map[string]string{"Content-Type": "application/merge-patch+json"}}
	if status, b := h.do(patch); status != 400 || h.asked() != asked {
		t.Errorf("%d %v", status, b)
	}
}

func TestKVAliasKeepsOptions(t *testing.T) {
	h := startHosting(t)
	h.must(ask{method: "POST", path: "/v1/sys/mounts/mine", body: `{"type":"kv-v2","options":{"a":"b"}}`})
	for _, m := range h.host.Mounts(pluginhost.Secret, "") {
		if r := m.Record(); r.Path == "mine/" && (r.Options["a"] != "b" || r.Options["version"] != "2") {
			t.Errorf("options %v", r.Options)
		}
	}
}

// Some plugins take "x/" for "x", as the hub itself does with names of mounts, so that who
// may not use the one may not use the other. Paths that need sudo are no other with it.
func TestTrailingSlash(t *testing.T) {
	h := startHosting(t)
	h.putPolicy("", "p", `
path "secret/*"             { capabilities = ["read", "update", "delete", "list"] }
path "secret/metadata/x"    { capabilities = ["deny"] }
path "sys/mounts/*"         { capabilities = ["create", "read", "update", "delete"] }
path "sys/mounts/mine"      { capabilities = ["deny"] }
path "sys/mounts/mine/tune" { capabilities = ["deny"] }
`)
	token := h.newToken(`{"policies":["p"]}`)
	h.must(ask{method: "POST", path: "/v1/sys/mounts/mine", body: `{"type":"kv"}`})
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"GET", "secret/metadata/x", 403},
		{"GET", "secret/metadata/x/", 403},
		{"GET", "secret/metadata/x%2F", 403},
		{"DELETE", "secret/metadata/x/", 403},
		{"GET", "secret/metadata/x/?list=true", 403},
		{"GET", "secret/metadata/y/?list=true", 404},
		{"GET", "secret/metadata/y/", 404},
		{"GET", "secret/", 404},
		{"GET", "secret/only/", 403},
		{"DELETE", "sys/mounts/mine", 403},
		{"DELETE", "sys/mounts/mine/", 403},
		{"GET", "sys/mounts/mine/tune/", 403},
		{"DELETE", "sys/mounts/%2Fmine", 400},
		{"POST", "sys/mounts/mine%2F%2Ftune", 400},
		{"GET", "sys/mounts/secret/", 200},
	} {
		if status, b := h.do(ask{method: tt.method, path: "/v1/" + tt.path, token: token, body: `{}`}); status != tt.status {
			t.Errorf("%s %s: %d %v, want %d", tt.method, tt.path, status, b, tt.status)
		}
	}
}
