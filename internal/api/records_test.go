package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// TestRecords: what is done to the hub is recorded with the path that was used, who did
// it and what it was about.
func TestRecords(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "p1", `path "sys/events/subscribe/*" { capabilities = ["read"] }`)
	n.must(ask{method: "PUT", path: "/v1/ns1/sys/policy/P2", body: `{"rules":"path \"a\" { capabilities = [\"read\"] }"}`})
	b := n.must(ask{method: "POST", path: "/v1/auth/token/create", body: `{"policies":["p1"],"ttl":"1h","display_name":"app","id":"very-secret-1"}`})
	accessor := b.auth()["accessor"].(string)
	second := n.must(ask{method: "POST", path: "/v1/ns1/auth/token/create-orphan", body: `{"policies":["p2"]}`}).auth()
	n.must(ask{method: "PUT", path: "/v1/auth/token/renew-self", token: "very-secret-1", body: `{"increment":60}`})
	n.must(ask{method: "DELETE", path: "/v1/ns1/sys/policies/acl/p2"})
	n.must(ask{method: "DELETE", path: "/v1/ns1/sys/policies/acl/p2"}) // nothing happens
	denials := []ask{
		{method: "GET", path: "/v1/sys/policies/acl/p1", token: "very-secret-1"},
		{method: "PUT", path: "/v1/ns1/auth/token/create", token: "very-secret-1"},
		{method: "GET", path: "/v1/secret/data/app", token: "very-secret-1"},
		{method: "LIST", path: "/v1/auth/token/accessors", token: "very-secret-2"},
		{method: "GET", path: "/api/v1/payloads/audit/1", token: "very-secret-1"},
	}
	for _, q := range append(denials, ask{method: "GET", path: "/v1/ns1/sys/events/subscribe/kv*", token: "very-secret-1"},
		ask{method: "GET", path: "/v1/sys/events/subscribe/kv*", token: "very-secret-2"}) {
		if status, _ := n.do(q); status != 403 {
			t.Fatalf("%v: %d", q, status)
		}
	}
	n.must(ask{method: "PUT", path: "/v1/auth/token/revoke", body: `{"token":"very-secret-1"}`})
	n.must(ask{method: "PUT", path: "/v1/auth/token/revoke", body: `{"token":"very-secret-1"}`}) // nothing happens

	// want has texts of the metadata; "-" is none.
	for _, tt := range []struct {
		what            string
		count           int
		namespace, path string
		want            map[string]string
	}{
		{"policy-write", 1, "", "sys/policies/acl/p1", map[string]string{"operation": "update", "modified": "true", "outcome": "done", "provider": "token",
			"policies": `["root"]`, "remote_address": "127.0.0.1", "policy": "p1", "path": "sys/policies/acl/p1", "error": "-"}},
		{"policy-write", 2, "ns1/", "sys/policy/P2", map[string]string{"policy": "p2"}},
		{"token-create", 1, "", "auth/token/create", map[string]string{"target_accessor": accessor, "target_policies": `["default","p1"]`, "target_display_name": "token-app", "modified": "true"}},
		{"token-create", 2, "ns1/", "auth/token/create-orphan", map[string]string{"target_accessor": second["accessor"].(string), "target_namespace": "ns1/"}},
		{"token-renew", 1, "", "auth/token/renew-self", map[string]string{"accessor": accessor, "target_accessor": accessor, "display_name": "token-app", "policies": `["default","p1"]`}},
		{"policy-delete", 1, "ns1/", "sys/policies/acl/p2", map[string]string{"operation": "delete", "policy": "p2"}},
		{"request-denied", 1, "", "sys/policies/acl/p1", map[string]string{"operation": "read", "modified": "false", "outcome": "refused", "accessor": accessor, "error": "permission denied"}},
		{"request-denied", 2, "ns1/", "auth/token/create", map[string]string{"operation": "update", "accessor": accessor}},
		{"request-denied", 3, "", "", map[string]string{"request_path": "secret/data/app", "accessor": accessor}},
		{"request-denied", 4, "", "auth/token/accessors", map[string]string{"operation": "list", "accessor": "-", "provider": "-", "error": "permission denied; invalid token"}},
		{"request-denied", 5, "", "", map[string]string{"request_path": "/api/v1/payloads/audit/1", "accessor": accessor}},
		{"subscribe-denied", 1, "ns1/", "sys/events/subscribe/kv*", map[string]string{"operation": "subscribe", "accessor": accessor, "error": "permission denied", "outcome": "refused"}},
		{"subscribe-denied", 2, "", "sys/events/subscribe/kv*", map[string]string{"accessor": "-", "error": "permission denied; invalid token"}},
		{"token-revoke", 1, "", "auth/token/revoke", map[string]string{"target_accessor": accessor, "policies": `["root"]`}},
	} {
		e := n.await(tt.what, tt.count)
		if e.Namespace != tt.namespace || e.Path != tt.path || e.Source != "tocsin://test" {
			t.Errorf("%s %d: namespace %q, path %q, source %q", tt.what, tt.count, e.Namespace, e.Path, e.Source)
		}
		for key, want := range tt.want {
			if got := field(e, key); got != strings.TrimPrefix(want, "-") {
				t.Errorf("%s %d: %s is %q, want %q", tt.what, tt.count, key, got, want)
			}
		}
	}
	for what, count := range map[string]int{"policy-write": 2, "policy-delete": 1, "token-create": 2, "token-renew": 1, "token-revoke": 1, "request-denied": 5, "subscribe-denied": 2, "login": 0} {
		all := n.trail(what)
		if len(all) != count {
			t.Errorf("%d records of %s, want %d", len(all), what, count)
		}
		for _, e := range all {
			for _, secret := range []string{"very-secret", second["client_token"].(string)} {
				if text := event.AppendVaultJSON(nil, e, ""); bytes.Contains(text, []byte(secret)) {
					t.Errorf("a record has a token: %s", text)
				}
			}
		}
	}
}

func TestSubscriptionRecords(t *testing.T) {
	n := startNode(t, nil)
	s := n.subscribe("root", "kv*", "filter=namespace+%3D%3D+%22%22&namespaces=ns1")
	for i := range 3 {
		n.append(kv(i))
	}
	for range 3 {
		s.next()
	}
	start := n.await("subscription-start", 1)
	s.conn.CloseNow()
	end := n.await("subscription-end", 1)
	for key, want := range map[string]string{"event_type": "kv*", "filter": `namespace == ""`, "namespaces": ",ns1", "format": "vault-json", "remote_address": "127.0.0.1",
		"operation": "subscribe", "display_name": "root", "policies": `["root"]`} {
		if got := field(start, key); got != want {
			t.Errorf("start: %s is %q, want %q", key, got, want)
		}
		if got := field(end, key); got != want {
			t.Errorf("end: %s is %q, want %q", key, got, want)
		}
	}
	if start.Path != "sys/events/subscribe/kv*" || end.Path != start.Path || field(start, "subscription_id") == "" || field(end, "subscription_id") != field(start, "subscription_id") {
		t.Errorf("start %+v, end %+v", start, end)
	}
	if field(start, "delivered") != "" || field(end, "delivered") != "3" || field(end, "reason") == "" || !strings.HasPrefix(field(end, "duration_seconds"), "0.") {
		t.Errorf("end %+v", end)
	}
	if a := n.raw(request("GET", "/v1/sys/events/subscribe/kv*")); a.StatusCode != 426 {
		t.Errorf("status %d", a.StatusCode)
	}
	if got := n.trail("subscription-start"); len(got) != 1 {
		t.Errorf("%d subscriptions began", len(got))
	}
}

// TestUnrecordedChanges: a change that cannot be recorded is not answered as done.
func TestUnrecordedChanges(t *testing.T) {
	n := startNode(t, func(o *Options) { o.Logins = logins(&issuer{}) })
	n.newToken(`{"id":"victim","policies":["default"]}`)
	n.newToken(`{"id":"renewed","policies":["default"],"ttl":"1h"}`)
	before := n.authority.Tokens().Accessors("")
	n.trailed.fail(fmt.Errorf("append: %w", journal.ErrUnavailable))
	for _, tt := range []struct {
		q    ask
		text string
	}{
		{ask{method: "POST", path: "/v1/auth/token/create"}, "no token was made, because it could not be recorded in the journal"},
		{ask{method: "POST", path: "/v1/auth/jwt/login", token: "-", body: `{"jwt":"jwt.good"}`}, "no token was made, because it could not be recorded in the journal"},
		{ask{method: "POST", path: "/v1/auth/token/renew", body: `{"token":"renewed"}`}, "the token was renewed, but this could not be recorded in the journal"},
		{ask{method: "POST", path: "/v1/auth/token/revoke", body: `{"token":"victim"}`}, "the token was revoked, but this could not be recorded in the journal"},
		{ask{method: "PUT", path: "/v1/sys/policies/acl/p1", body: `{"policy":"path \"a\" { capabilities = [\"read\"] }"}`}, "the policy was written, but this could not be recorded in the journal"},
		{ask{method: "DELETE", path: "/v1/sys/policies/acl/p1"}, "the policy was deleted, but this could not be recorded in the journal"},
	} {
		status, raw, header := n.try(tt.q)
		if status != 503 || string(raw) != fmt.Sprintf(`{"errors":[%q]}`, tt.text)+"\n" || header.Get("Retry-After") == "" {
			t.Errorf("%s %s: %d %s", tt.q.method, tt.q.path, status, raw)
		}
	}
	if after := n.authority.Tokens().Accessors(""); len(after) != len(before)-1 {
		t.Errorf("%d tokens, %d before: one was revoked, none made", len(after), len(before))
	}
	n.trailed.fail(nil)
	n.must(ask{method: "POST", path: "/v1/auth/token/create"})
}

// TestClientGone: a change is recorded although nobody waits for the answer.
func TestClientGone(t *testing.T) {
	n := startNode(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the client has gone"))
	r := httptest.NewRequestWithContext(ctx, "PUT", "/v1/sys/policies/acl/p1", strings.NewReader(`{"policy":"path \"a\" { capabilities = [\"read\"] }"}`))
	r.Header.Set("X-Vault-Token", "root")
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, r)
	if w.Code != 204 || len(n.trail("policy-write")) != 1 {
		t.Errorf("%d %s, %d records", w.Code, w.Body, len(n.trail("policy-write")))
	}
}

// TestOrder: records of one client are in the order of its requests.
func TestOrder(t *testing.T) {
	n := startNode(t, nil)
	for i := range 20 {
		n.putPolicy("", fmt.Sprintf("p%02d", i), `path "a" { capabilities = ["read"] }`)
	}
	for i, e := range n.trail("policy-write") {
		if got, want := field(e, "policy"), fmt.Sprintf("p%02d", i); got != want || time.Since(e.Time) > time.Minute {
			t.Errorf("record %d is about %s", i, got)
		}
	}
}

// Somebody with a token without rights cannot fill the journal.
func TestDenialsAreBounded(t *testing.T) {
	n := startNode(t, nil)
	token := n.newToken(`{"policies":["default"]}`)
	const all = 2 * DefaultFailuresBurst
	begin := time.Now()
	for range all {
		if status, _ := n.do(ask{method: "GET", path: "/v1/sys/mounts", token: token}); status != 403 {
			t.Fatal(status)
		}
	}
	most := DefaultFailuresBurst + int(time.Since(begin).Seconds()*DefaultFailuresPerSecond) + 1
	n.api.denials.flush()
	deadline := time.Now().Add(time.Minute)
	for {
		one, counted := 0, 0
		for _, e := range n.trail("request-denied") {
			if e.Path == denialPath {
				count, _ := strconv.Atoi(field(e, "count"))
				counted += count
				if field(e, "remote_address") != "127.0.0.1" || field(e, "outcome") != "refused" {
					t.Errorf("recorded as %+v", e)
				}
			} else {
				one++
			}
		}
		if one > most {
			t.Fatalf("%d records, more than %d", one, most)
		}
		if one+counted == all && counted > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d recorded and %d counted of %d", one, counted, all)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestBeyondOwnRights: who asks for a token with more rights than their own is refused
// with Vault's status, and that is recorded as a denial.
func TestBeyondOwnRights(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "maker", `path "auth/token/create" { capabilities = ["update"] }`)
	maker := n.must(ask{method: "POST", path: "/v1/auth/token/create", body: `{"policies":["maker"]}`}).auth()
	for i, body := range []string{`{"policies":["root"]}`, `{"policies":["admin"]}`, `{"id":"chosen"}`} {
		status, answer := n.do(ask{method: "POST", path: "/v1/auth/token/create", token: maker["client_token"].(string), body: body})
		if status != 400 {
			t.Errorf("%s: %d %v", body, status, answer)
		}
		e := n.await("request-denied", i+1)
		if field(e, "accessor") != maker["accessor"] || field(e, "outcome") != "refused" || field(e, "error") == "" || e.Path != "auth/token/create" {
			t.Errorf("%s: record %+v", body, e)
		}
	}
	if status, _ := n.do(ask{method: "POST", path: "/v1/auth/token/create", token: maker["client_token"].(string), body: `{"ttl":"x"}`}); status != 400 {
		t.Error(status)
	}
	if got := n.trail("request-denied"); len(got) != 3 {
		t.Errorf("%d denials, want 3: a mistake is none", len(got))
	}
}

// TestLookupsAreLogins: who looks the own token up, as clients do to log in, is recorded;
// from one address as often as a person may, and beyond that as a number.
func TestLookupsAreLogins(t *testing.T) {
	n := startNode(t, nil)
	for range 3 * DefaultFailuresBurst {
		n.must(ask{method: "GET", path: "/v1/auth/token/lookup-self"})
	}
	e := n.await("login", DefaultFailuresBurst)
	if e.Path != "auth/token/lookup-self" || field(e, "display_name") != "root" || field(e, "operation") != "read" || field(e, "outcome") != "done" {
		t.Errorf("record %+v", e)
	}
	single := len(n.trail("login"))
	n.api.lookups.flush()
	e = n.await("login", single+1)
	if want := strconv.Itoa(3*DefaultFailuresBurst - single); e.Path != loginsPath || field(e, "count") != want {
		t.Errorf("record %+v, want the other %s", e, want)
	}
}
