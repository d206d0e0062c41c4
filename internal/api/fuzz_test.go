package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/token"
)

// FuzzRequests sends any path, method, body and headers with a token that may do
// something: there is always an answer, and what is not a redirect or text of the
// WebSocket handshake is JSON.
func FuzzRequests(f *testing.F) {
	n := startNode(f, func(o *Options) {
		o.Logins = logins(&issuer{})
		o.Failures.PerSecond = -1
	})
	n.putPolicy("", "fuzz", tokenManager+`
		path "sys/*" { capabilities = ["create", "read", "update", "delete", "list", "patch"] }
		path "ns1/*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }`)
	asRoot := httptest.NewRequest("GET", "/", nil)
	asRoot.Header.Set("X-Vault-Token", "root")
	root, err := n.authority.Authenticate(asRoot, "")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range []string{"sys/health?activecode=299", "sys/policies/acl/p?list=true", "ns1/sys/policy/p", "auth/token/lookup", "auth/token/create-orphan",
		"auth/token/renew-accessor", "auth/token/revoke", "auth/jwt/login", "sys/capabilities-self", "sys/internal/ui/mounts/a/b", "sys/events/subscribe/kv*?json=x", "x"} {
		for _, body := range []string{"", `{"policies":["default"],"ttl":"1h","meta":{"a":"b"},"num_uses":3}`, `{"policy":"path \"a\" { capabilities = [\"read\"] }"}`,
			`{"token":"t","increment":"1d"}`, `{"paths":["a","b,c"],"accessor":"x"}`, `{"jwt":"jwt.good","role":"r"}`, `[1`} {
			f.Add("POST", path, body, "ns1/ns2", "fuzz-token")
			f.Add("GET", path, body, "", "nope")
		}
	}
	f.Fuzz(func(t *testing.T, method, path, body, namespace, secret string) {
		path, query, _ := strings.Cut(path, "?")
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.URL = method, &url.URL{Path: "/v1/" + path, RawQuery: query}
		r.Header = http.Header{"X-Vault-Token": {secret}, "X-Vault-Namespace": {namespace}}
		if secret == "fuzz-token" {
			value, e, _, err := n.authority.CreateToken(t.Context(), root, access.CreateRequest{Request: token.Request{Policies: []string{"fuzz"}, Path: "auth/token/create"}})
			if err != nil {
				t.Fatal(err)
			}
			defer n.authority.Tokens().Revoke(t.Context(), e.ID)
			r.Header.Set("X-Vault-Token", value)
		}
		w := httptest.NewRecorder()
		n.api.ServeHTTP(w, r)
		res := w.Result()
		switch {
		case res.StatusCode == 204, res.StatusCode >= 300 && res.StatusCode < 400, method == "HEAD":
			return
		case strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain"):
			if !strings.Contains(path, subscribePath) {
				t.Errorf("%s %q: text %q", method, path, w.Body)
			}
			return
		}
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%s %q: %d %q: %v", method, path, res.StatusCode, w.Body, err)
		}
		if res.StatusCode >= 400 && !strings.HasSuffix(path, "sys/health") && answer["errors"] == nil {
			t.Errorf("%s %q: %d %q", method, path, res.StatusCode, w.Body)
		}
		if strings.Contains(w.Body.String(), "internal error") {
			t.Errorf("%s %q %q: %q", method, path, body, w.Body)
		}
	})
}
