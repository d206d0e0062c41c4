package compat

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/vault/api"
)

// Policies of these tests.
const (
	teamA = `
path "sys/events/subscribe/*" {
  capabilities = ["read"]
}
path "secret/+/a/*" {
  capabilities          = ["list", "subscribe"]
  subscribe_event_types = ["kv-v2/*"]
}`
	teamAB = teamA + `
path "secret/+/b/*" {
  capabilities          = ["list", "subscribe"]
  subscribe_event_types = ["kv-v2/*"]
}`
	notConnect = `
path "secret/+/a/*" {
  capabilities          = ["list", "subscribe"]
  subscribe_event_types = ["kv-v2/*"]
}`
)

// team stores a policy and makes a token with it.
func (h *hub) team(policy, namespace string, r api.TokenCreateRequest) *api.SecretAuth {
	h.t.Helper()
	c := h.client(rootToken, namespace)
	if err := c.Sys().PutPolicy("team", policy); err != nil {
		h.t.Fatal(err)
	}
	r.Policies = []string{"team"}
	return create(h.t, c, &r)
}

// prompt is how soon the end of a right must be seen by a client. The hub promises
// 100 ms; machines that test are sometimes busy with other things.
const prompt = 2 * time.Second

// A subscriber gets what its policies allow, until its token is revoked: then no
// event more, and it is told why.
func TestRevokeWhileStreaming(t *testing.T) {
	h := startSecureHub(t)
	for name, revoke := range map[string]func(*api.SecretAuth) error{
		"by token":    func(a *api.SecretAuth) error { return h.root().Auth().Token().RevokeTree(a.ClientToken) },
		"by accessor": func(a *api.SecretAuth) error { return h.root().Auth().Token().RevokeAccessor(a.Accessor) },
		"by itself":   func(a *api.SecretAuth) error { return h.client(a.ClientToken, "").Auth().Token().RevokeSelf("") },
		"by its parent": func(a *api.SecretAuth) error { // which is the root token of the test, but for this one
			return h.root().Auth().Token().RevokeTree(a.Metadata["parent"])
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hub{t: t, address: h.address, ca: h.ca, log: h.log}
			creator := h.root()
			request := api.TokenCreateRequest{}
			if name == "by its parent" {
				parent := create(t, h.root(), &api.TokenCreateRequest{})
				if err := h.root().Sys().PutPolicy("default", `path "auth/token/create" { capabilities = ["update", "sudo"] }
path "auth/token/revoke-self" { capabilities = ["update"] }`); err != nil {
					t.Fatal(err)
				}
				creator = h.client(parent.ClientToken, "")
				request.Metadata = map[string]string{"parent": parent.ClientToken}
			}
			if err := h.root().Sys().PutPolicy("team", teamA); err != nil {
				t.Fatal(err)
			}
			request.Policies = []string{"team"}
			auth := create(t, creator, &request)
			s := h.subscribe(h.client(auth.ClientToken, ""), "kv-v2/*", nil)
			other := h.subscribe(h.root(), "kv-v2/*", nil)
			h.write("", "a/1")
			h.write("", "b/1")
			h.write("", "a/2")
			s.want("secret/data/a/1", "secret/data/a/2")
			other.want("secret/data/a/1", "secret/data/b/1", "secret/data/a/2")
			if err := revoke(auth); err != nil {
				t.Fatal(err)
			}
			done := time.Now()
			h.write("", "a/3")
			late := s.wantEnd(websocket.StatusPolicyViolation, "token revoked").Sub(done)
			t.Logf("the client saw the end %v after the answer to the revocation", late)
			if late > prompt {
				t.Error("that is too late")
			}
			other.want("secret/data/a/3") // and nobody else is disturbed
			_, response, err := dial(t.Context(), h.client(auth.ClientToken, ""), "kv-v2/*", url.Values{"json": {"true"}})
			if err == nil || response == nil || response.StatusCode != http.StatusForbidden {
				t.Errorf("connected again: %v, %v", response, err)
			}
		})
	}
}

func TestExpiryWhileStreaming(t *testing.T) {
	h := startSecureHub(t)
	start := time.Now()
	auth := h.team(teamA, "", api.TokenCreateRequest{TTL: "2s"})
	s := h.subscribe(h.client(auth.ClientToken, ""), "*", nil)
	h.write("", "a/1")
	s.want("secret/data/a/1")
	if at := s.wantEnd(websocket.StatusPolicyViolation, "token expired").Sub(start); at < 1900*time.Millisecond || at > 2*time.Second+prompt {
		t.Errorf("a token of 2 s ended after %v", at)
	}
}

// A token whose uses are used up by something else ends its subscription.
func TestUsesWhileStreaming(t *testing.T) {
	h := startSecureHub(t)
	auth := h.team(teamA, "", api.TokenCreateRequest{NumUses: 5})
	s := h.subscribe(h.client(auth.ClientToken, ""), "*", nil)
	h.write("", "a/1")
	s.want("secret/data/a/1")
	for range 6 {
		h.client(auth.ClientToken, "").Auth().Token().LookupSelf() // until it is refused
	}
	s.wantEnd(websocket.StatusPolicyViolation, "no uses left")
}

// Root tokens, too: the one that is configured.
func TestRevokeTheRootToken(t *testing.T) {
	h := startSecureHub(t)
	s := h.subscribe(h.root(), "kv-v2/*", nil)
	h.write("", "a/1")
	s.want("secret/data/a/1")
	if err := h.root().Auth().Token().RevokeSelf(""); err != nil {
		t.Fatal(err)
	}
	h.write("", "a/2")
	s.wantEnd(websocket.StatusPolicyViolation, "token revoked")
	_, err := h.root().Auth().Token().LookupSelf()
	wantStatus(t, err, http.StatusForbidden, "permission denied")
}

// A policy that changes is in force for a live subscription when the request that
// changed it has returned.
func TestPolicyChangesWhileStreaming(t *testing.T) {
	h := startSecureHub(t)
	auth := h.team(teamA, "", api.TokenCreateRequest{})
	s := h.subscribe(h.client(auth.ClientToken, ""), "kv-v2/*", nil)
	all := h.subscribe(h.root(), "kv-v2/*", nil)
	put := func(text string) {
		t.Helper()
		if err := h.root().Sys().PutPolicy("team", text); err != nil {
			t.Fatal(err)
		}
	}
	h.write("", "a/1")
	h.write("", "b/1")
	h.write("", "a/2")
	s.want("secret/data/a/1", "secret/data/a/2")
	put(teamAB)
	h.write("", "b/2")
	s.want("secret/data/b/2")
	put(teamA)
	h.write("", "b/3")
	h.write("", "a/3")
	s.want("secret/data/a/3")
	// Many times, with writes in between: never an event too many or too few.
	for i := range 20 {
		put(map[bool]string{true: teamAB, false: teamA}[i%2 == 0])
		h.write("", fmt.Sprintf("b/x%d", i))
		h.write("", fmt.Sprintf("a/x%d", i))
		if i%2 == 0 {
			s.want(fmt.Sprintf("secret/data/b/x%d", i))
		}
		s.want(fmt.Sprintf("secret/data/a/x%d", i))
	}
	put(notConnect)
	s.wantEnd(websocket.StatusPolicyViolation, "policies of the token have changed")
	_, response, err := dial(t.Context(), h.client(auth.ClientToken, ""), "kv-v2/*", url.Values{"json": {"true"}})
	if err == nil || response == nil || response.StatusCode != http.StatusForbidden {
		t.Errorf("connected again: %v, %v", response, err)
	}
	put(teamA)
	again := h.subscribe(h.client(auth.ClientToken, ""), "kv-v2/*", nil)
	if err := h.root().Sys().DeletePolicy("team"); err != nil {
		t.Fatal(err)
	}
	again.wantEnd(websocket.StatusPolicyViolation, "policies of the token have changed")
	h.write("", "a/last")
	for got := range all.paths { // it has seen everything all the time
		if got == "secret/data/a/last" {
			break
		}
	}
}

// What is asked for is taken literally.
func TestConnectRight(t *testing.T) {
	h := startSecureHub(t)
	auth := h.team(`path "sys/events/subscribe/kv-v2/*" { capabilities = ["read"] }
path "sys/events/subscribe/database/creds" { capabilities = ["subscribe", "update"] }`, "", api.TokenCreateRequest{})
	for eventType, want := range map[string]int{"kv-v2/*": 101, "kv-v2/data-write": 101, "kv*": 403, "*": 403, "database/creds": 403, "kv-v2": 403} {
		conn, response, err := dial(t.Context(), h.client(auth.ClientToken, ""), eventType, url.Values{"json": {"true"}})
		if err == nil {
			conn.CloseNow()
		}
		if response == nil || response.StatusCode != want {
			t.Errorf("%s: %v, %v", eventType, response, err)
		}
	}
}

// Policies count below the namespace in which they are, tokens as well.
func TestTwoNamespaces(t *testing.T) {
	h := startSecureHub(t)
	one, two := h.team(teamA, "ns1", api.TokenCreateRequest{}), h.team(teamA, "ns2", api.TokenCreateRequest{})
	inRoot := h.team(teamA, "", api.TokenCreateRequest{})
	if err := h.root().Sys().PutPolicy("both", `path "sys/events/subscribe/*" { capabilities = ["read"] }
path "ns1/secret/*" {
  capabilities = ["subscribe"]
  subscribe_event_types = ["*"]
}
path "ns2/secret/data/a/2" {
  capabilities = ["subscribe"]
  subscribe_event_types = ["*"]
}`); err != nil {
		t.Fatal(err)
	}
	both := create(t, h.root(), &api.TokenCreateRequest{Policies: []string{"both"}})

	s1 := h.subscribe(h.client(one.ClientToken, "ns1"), "kv-v2/*", nil)
	s2 := h.subscribe(h.client(two.ClientToken, "ns2"), "kv-v2/*", nil)
	sRoot := h.subscribe(h.client(inRoot.ClientToken, ""), "kv-v2/*", url.Values{"namespaces": {"*"}})
	sBoth := h.subscribe(h.client(both.ClientToken, ""), "kv-v2/*", url.Values{"namespaces": {"ns1", "ns2"}})
	for _, secret := range []string{"a/1", "b/1", "a/2"} {
		h.write("ns1/", secret)
		h.write("ns2/", secret)
		h.write("", secret)
		h.write("ns1/child/", secret)
	}
	s1.want("ns1/secret/data/a/1", "ns1/secret/data/a/2")
	s2.want("ns2/secret/data/a/1", "ns2/secret/data/a/2")
	sRoot.want("secret/data/a/1", "secret/data/a/2")
	sBoth.want("ns1/secret/data/a/1", "ns1/secret/data/b/1", "ns1/secret/data/a/2", "ns2/secret/data/a/2")

	// A token of one namespace is none in another.
	for _, c := range []*api.Client{h.client(one.ClientToken, "ns2"), h.client(one.ClientToken, "")} {
		conn, response, err := dial(t.Context(), c, "kv-v2/*", url.Values{"json": {"true"}, "namespaces": {"*"}})
		if err == nil {
			conn.CloseNow()
		}
		if response == nil || response.StatusCode != http.StatusForbidden {
			t.Errorf("in namespace %q: %v, %v", c.Namespace(), response, err)
		}
	}
	// A change in one namespace is none in the other.
	if err := h.client(rootToken, "ns1").Sys().DeletePolicy("team"); err != nil {
		t.Fatal(err)
	}
	s1.wantEnd(websocket.StatusPolicyViolation, "policies of the token have changed")
	h.write("ns2/", "a/3")
	s2.want("ns2/secret/data/a/3")
}
