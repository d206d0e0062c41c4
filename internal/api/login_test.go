package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
)

// issuer knows the JWTs "jwt.good", which lasts an hour, "jwt.down", which it cannot find
// out, and "jwt.broken", for which it fails in a way that it should not.
type issuer struct{ patience time.Duration }

func (*issuer) Recognises(value, _ string) bool { return strings.HasPrefix(value, "jwt.") }

func (*issuer) Authenticate(_ context.Context, value, namespace string) (*access.External, error) {
	switch value {
	case "jwt.good":
		return &access.External{Provider: "cluster", DisplayName: "app@cluster", Policies: []string{"team"}, Created: time.Now(),
			Expires: time.Now().Add(time.Hour), Subject: policy.Subject{EntityID: "e-1"}, Meta: map[string]string{"ns": namespace}}, nil
	case "jwt.down":
		return nil, fmt.Errorf("%w: no route to host", access.ErrUnavailable)
	case "jwt.broken":
		return nil, errors.New("nil map")
	}
	return nil, fmt.Errorf("%w: signature", access.ErrDenied)
}

func (i *issuer) Recheck() time.Duration  { return 0 }
func (i *issuer) Patience() time.Duration { return i.patience }

func logins(p access.Provider) map[string]access.Provider {
	return map[string]access.Provider{"jwt": p, "kubernetes": p}
}

func TestLogin(t *testing.T) {
	n := startNode(t, func(o *Options) { o.Logins = logins(&issuer{}) })
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		text   string
	}{
		{"bad", ask{path: "jwt", body: `{"jwt":"jwt.bad"}`}, 403, deniedText},
		{"none of its", ask{path: "jwt", body: `{"jwt":"root"}`}, 403, deniedText},
		{"none", ask{path: "jwt", body: `{"role":"x"}`}, 400, "missing jwt"},
		{"wrong type", ask{path: "jwt", body: `{"jwt":["x"]}`}, 400, `field "jwt": is a list, it must be a text`},
		{"wrong type of role", ask{path: "jwt", body: `{"jwt":"jwt.good","role":{}}`}, 400, `field "role": is an object, it must be a text`},
		{"no JSON", ask{path: "jwt", body: `jwt=x`}, 400, "error parsing JSON: invalid character 'j' looking for beginning of value"},
		{"large", ask{path: "jwt", body: `{"jwt":"` + strings.Repeat("x", 64<<10) + `"}`}, 413, "the body has more than 65536 bytes"},
		{"not found out", ask{path: "jwt", body: `{"jwt":"jwt.down"}`}, 503, "temporarily unavailable; try again"},
		{"failed", ask{path: "jwt", body: `{"jwt":"jwt.broken"}`}, 500, "internal error; the log of the server has more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.q.method, tt.q.token, tt.q.path = "POST", "-", "/v1/auth/"+tt.q.path+"/login"
			if status, b := n.do(tt.q); status != tt.status || !slices.Equal(b.errors(), []string{tt.text}) {
				t.Errorf("%d %q, want %d %q", status, b.errors(), tt.status, tt.text)
			}
		})
	}
	for i, path := range []string{"/v1/auth/jwt/login", "/v1/auth/kubernetes/login", "/v1/ns1/auth/jwt/login"} {
		b := n.must(ask{method: "PUT", path: path, token: "-", body: `{"jwt":"jwt.good","role":"app"}`})
		a := b.auth()
		if !slices.Equal(texts(a["policies"]), []string{"default", "team"}) || a["entity_id"] != "e-1" || a["orphan"] != true || a["lease_duration"].(float64) > 3600 || a["lease_duration"].(float64) < 3590 {
			t.Errorf("%s: %v", path, b)
		}
		self := n.must(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: a["client_token"].(string)}).data()
		if self["display_name"] != "app@cluster" || self["path"] != strings.TrimPrefix(strings.TrimPrefix(path, "/v1/"), "ns1/") {
			t.Errorf("%s: %v", path, self)
		}
		e := n.await("login", 2*i+1) // and one for the lookup
		if e.Path != self["path"] || field(e, "accessor") != a["accessor"] || field(e, "provider") != "cluster" || field(e, "remote_address") != "127.0.0.1" || field(e, "outcome") != "done" {
			t.Errorf("%s: recorded as %+v", path, e)
		}
	}
	if e := n.await("login-denied", 2); e.Path != "auth/jwt/login" || field(e, "error") != "permission denied" || field(e, "outcome") != "refused" {
		t.Errorf("refused: recorded as %+v", e)
	}
}

// TestForeignTokens: a token of elsewhere may do what its policies allow, and is not
// taken for one that was issued here.
func TestForeignTokens(t *testing.T) {
	n := startNode(t, nil, &issuer{})
	n.putPolicy("", "team", tokenManager+` path "sys/events/subscribe/*" { capabilities = ["read"] }`)
	const token = "jwt.good"
	self := n.must(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: token}).data()
	if self["id"] != token || self["display_name"] != "app@cluster" || !slices.Equal(texts(self["policies"]), []string{"team"}) || self["entity_id"] != "e-1" {
		t.Errorf("lookup: %v", self)
	}
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		text   string
	}{
		{"renew", ask{path: "/v1/auth/token/renew-self", token: token}, 400, "not issued here"},
		{"revoke", ask{path: "/v1/auth/token/revoke-self", token: token}, 400, "not issued here"},
		{"a child", ask{path: "/v1/auth/token/create", token: token}, 403, "permission denied"},
		{"not valid", ask{path: "/v1/auth/token/lookup-self", token: "jwt.bad"}, 403, "invalid token"},
		{"not found out", ask{path: "/v1/auth/token/lookup-self", token: "jwt.down"}, 503, "cannot be validated at the moment"},
		{"subscription, not found out", ask{method: "GET", path: "/v1/sys/events/subscribe/*", token: "jwt.down"}, 503, "cannot be validated at the moment"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.q.method == "" {
				tt.q.method = "POST"
			}
			status, b := n.do(tt.q)
			if status != tt.status || len(b.errors()) != 1 || !strings.Contains(b.errors()[0], tt.text) {
				t.Errorf("%d %q, want %d %q", status, b.errors(), tt.status, tt.text)
			}
			if status == 503 {
				if _, _, header := n.try(tt.q); header.Get("Retry-After") != "1" {
					t.Errorf("Retry-After is %q", header.Get("Retry-After"))
				}
			}
		})
	}
	if _, err := n.authority.Tokens().Lookup("root"); err != nil {
		t.Errorf("the root token: %v", err)
	}
}
