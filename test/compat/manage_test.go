package compat

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// status returns the status of a refusal, 0 for none.
func status(err error) int {
	var refused *api.ResponseError
	if errors.As(err, &refused) {
		return refused.StatusCode
	}
	if err != nil {
		return -1
	}
	return 0
}

// wantStatus checks that a request was refused in this way.
func wantStatus(t *testing.T, err error, want int, text string) {
	t.Helper()
	if status(err) != want || want != 0 && !strings.Contains(err.Error(), text) {
		t.Errorf("answered %v, want status %d with %q", err, want, text)
	}
}

// create makes a token.
func create(t *testing.T, c *api.Client, r *api.TokenCreateRequest) *api.SecretAuth {
	t.Helper()
	secret, err := c.Auth().Token().Create(r)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Auth
}

func TestOfficialClientManagesTokens(t *testing.T) {
	h := startSecureHub(t)
	root := h.root()
	tokens := root.Auth().Token()
	renewable := true

	made, err := tokens.Create(&api.TokenCreateRequest{
		Policies: []string{"team", "Other"}, Metadata: map[string]string{"team": "a"}, TTL: "1h", ExplicitMaxTTL: "3h",
		DisplayName: "for the team", NumUses: 10, Renewable: &renewable,
	})
	if err != nil {
		t.Fatal(err)
	}
	auth := made.Auth
	if auth.ClientToken == "" || auth.Accessor == "" || auth.LeaseDuration != 3600 || !auth.Renewable || auth.Orphan ||
		auth.Metadata["team"] != "a" ||
		!slices.Equal(auth.Policies, []string{"default", "other", "team"}) || !slices.Equal(auth.TokenPolicies, auth.Policies) {
		t.Errorf("created %+v", auth)
	}
	if id, err := made.TokenID(); err != nil || id != auth.ClientToken {
		t.Errorf("token %q, %v", id, err)
	}

	// All ways to look it up say the same, in the form that the client's accessors
	// understand.
	child := h.client(auth.ClientToken, "")
	for name, lookup := range map[string]func() (*api.Secret, error){
		"self":     child.Auth().Token().LookupSelf,
		"token":    func() (*api.Secret, error) { return tokens.Lookup(auth.ClientToken) },
		"accessor": func() (*api.Secret, error) { return tokens.LookupAccessor(auth.Accessor) },
	} {
		secret, err := lookup()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		accessor, _ := secret.TokenAccessor()
		policies, err := secret.TokenPolicies()
		if err != nil || accessor != auth.Accessor || !slices.Equal(policies, auth.Policies) {
			t.Errorf("%s: accessor %s, policies %q, %v", name, accessor, policies, err)
		}
		ttl, err := secret.TokenTTL()
		if err != nil || ttl > time.Hour || ttl < 50*time.Minute {
			t.Errorf("%s: ttl %v, %v", name, ttl, err)
		}
		if ok, err := secret.TokenIsRenewable(); err != nil || !ok {
			t.Errorf("%s: renewable %v, %v", name, ok, err)
		}
		if meta, err := secret.TokenMetadata(); err != nil || meta["team"] != "a" {
			t.Errorf("%s: metadata %v, %v", name, meta, err)
		}
		for _, key := range []string{
			"accessor", "creation_time", "creation_ttl", "display_name", "entity_id", "expire_time", "explicit_max_ttl", "id", "issue_time", "meta",
			"num_uses", "orphan", "path", "policies", "renewable", "ttl", "type",
		} {
			if _, ok := secret.Data[key]; !ok {
				t.Errorf("%s: no %s in %v", name, key, secret.Data)
			}
		}
		if secret.Data["display_name"] != "token-for-the-team" || secret.Data["path"] != "auth/token/create" || secret.Data["type"] != "service" {
			t.Errorf("%s: %v", name, secret.Data)
		}
		if id := secret.Data["id"]; name == "accessor" && id != "" || name != "accessor" && id != auth.ClientToken {
			t.Errorf("%s: id %v", name, id)
		}
	}

	// Renewal, in all ways.
	for name, renew := range map[string]func() (*api.Secret, error){
		"self":     func() (*api.Secret, error) { return child.Auth().Token().RenewSelf(7200) },
		"token":    func() (*api.Secret, error) { return tokens.Renew(auth.ClientToken, 7200) },
		"as self":  func() (*api.Secret, error) { return tokens.RenewTokenAsSelf(auth.ClientToken, 7200) },
		"accessor": func() (*api.Secret, error) { return tokens.RenewAccessor(auth.Accessor, 7200) },
	} {
		secret, err := renew()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if ttl, err := secret.TokenTTL(); err != nil || ttl != 2*time.Hour || !secret.Auth.Renewable {
			t.Errorf("%s: %+v, %v", name, secret.Auth, err)
		}
	}
	// Never beyond the explicit maximum, and it is said.
	secret, err := tokens.Renew(auth.ClientToken, 36000)
	if err != nil || secret.Auth.LeaseDuration > 3*3600 || len(secret.Warnings) == 0 {
		t.Errorf("renewed beyond its limit: %+v, %v", secret, err)
	}

	// Capabilities.
	if err := root.Sys().PutPolicy("team", `path "secret/data/a" { capabilities = ["read", "subscribe"] subscribe_event_types = ["*"] }`); err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func() ([]string, error){
		"self":     func() ([]string, error) { return child.Sys().CapabilitiesSelf("secret/data/a") },
		"token":    func() ([]string, error) { return root.Sys().Capabilities(auth.ClientToken, "secret/data/a") },
		"accessor": func() ([]string, error) { return root.Sys().CapabilitiesAccessor(auth.Accessor, "secret/data/a") },
	} {
		if got, err := ask(); err != nil || !slices.Equal(got, []string{"read", "subscribe"}) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := root.Sys().CapabilitiesSelf("any/thing"); err != nil || !slices.Equal(got, []string{"root"}) {
		t.Errorf("of root: %q, %v", got, err)
	}
	if got, err := child.Sys().CapabilitiesSelf("any/thing"); err != nil || !slices.Equal(got, []string{"deny"}) {
		t.Errorf("of nothing: %q, %v", got, err)
	}

	// It may only give away what it has, and only if it may create tokens.
	_, err = child.Auth().Token().Create(&api.TokenCreateRequest{})
	wantStatus(t, err, http.StatusForbidden, "permission denied")

	// Revocation, in all ways. Children end with their parents, orphans do not.
	creator := create(t, root, &api.TokenCreateRequest{Policies: []string{"creator"}})
	if err := root.Sys().PutPolicy("creator", `path "auth/token/create*" { capabilities = ["create", "update", "sudo"] }`); err != nil {
		t.Fatal(err)
	}
	parent := h.client(creator.ClientToken, "")
	daughter := create(t, parent, &api.TokenCreateRequest{})
	granddaughter := create(t, h.client(daughter.ClientToken, ""), &api.TokenCreateRequest{})
	orphan, err := parent.Auth().Token().CreateOrphan(&api.TokenCreateRequest{})
	if err != nil || !orphan.Auth.Orphan {
		t.Fatalf("orphan %+v, %v", orphan, err)
	}
	if err := tokens.RevokeTree(creator.ClientToken); err != nil {
		t.Fatal(err)
	}
	for name, dead := range map[string]string{"token": creator.ClientToken, "child": daughter.ClientToken, "grandchild": granddaughter.ClientToken} {
		_, err := h.client(dead, "").Auth().Token().LookupSelf()
		wantStatus(t, err, http.StatusForbidden, "permission denied")
		_, err = tokens.Lookup(dead)
		if wantStatus(t, err, http.StatusForbidden, "bad token"); t.Failed() {
			t.Log(name)
		}
	}
	if _, err := h.client(orphan.Auth.ClientToken, "").Auth().Token().LookupSelf(); err != nil {
		t.Errorf("the orphan ended, too: %v", err)
	}
	if err := h.client(orphan.Auth.ClientToken, "").Auth().Token().RevokeSelf(""); err != nil {
		t.Error(err)
	}
	_, err = tokens.LookupAccessor(orphan.Auth.Accessor)
	if s := status(err); s != http.StatusForbidden && s != http.StatusBadRequest {
		t.Errorf("its accessor: %v", err)
	}
	if err := tokens.RevokeAccessor(auth.Accessor); err != nil {
		t.Error(err)
	}
	_, err = child.Auth().Token().LookupSelf()
	wantStatus(t, err, http.StatusForbidden, "permission denied")

	creator = create(t, root, &api.TokenCreateRequest{Policies: []string{"creator"}})
	daughter = create(t, h.client(creator.ClientToken, ""), &api.TokenCreateRequest{})
	if err := tokens.RevokeOrphan(creator.ClientToken); err != nil {
		t.Fatal(err)
	}
	secret, err = h.client(daughter.ClientToken, "").Auth().Token().LookupSelf()
	if err != nil || secret.Data["orphan"] != true {
		t.Errorf("the child of a token that was revoked alone: %+v, %v", secret, err)
	}

	// Limited uses.
	twice := h.client(create(t, root, &api.TokenCreateRequest{NumUses: 2}).ClientToken, "")
	for range 2 {
		if _, err := twice.Auth().Token().LookupSelf(); err != nil {
			t.Error(err)
		}
	}
	_, err = twice.Auth().Token().LookupSelf()
	wantStatus(t, err, http.StatusForbidden, "permission denied")

	// What there is not.
	_, err = tokens.CreateWithRole(&api.TokenCreateRequest{}, "role")
	if s := status(err); s < 400 || s >= 500 {
		t.Errorf("a role: %v", err)
	}
	_, err = tokens.Lookup("nonsense")
	wantStatus(t, err, http.StatusForbidden, "bad token")
	_, err = tokens.Create(&api.TokenCreateRequest{TTL: "soon"})
	wantStatus(t, err, http.StatusBadRequest, "")
	_, err = h.client("nonsense", "").Auth().Token().LookupSelf()
	wantStatus(t, err, http.StatusForbidden, "permission denied")
}

// The client's own renewer keeps a token alive.
func TestLifetimeWatcher(t *testing.T) {
	h := startSecureHub(t)
	made, err := h.root().Auth().Token().Create(&api.TokenCreateRequest{TTL: "3s"})
	if err != nil {
		t.Fatal(err)
	}
	c := h.client(made.Auth.ClientToken, "")
	watcher, err := c.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: made})
	if err != nil {
		t.Fatal(err)
	}
	go watcher.Start()
	defer watcher.Stop()
	renewals := 0
	for deadline := time.Now().Add(6 * time.Second); time.Now().Before(deadline); {
		select {
		case err := <-watcher.DoneCh():
			t.Fatalf("gave up after %d renewals: %v", renewals, err)
		case <-watcher.RenewCh():
			renewals++
		case <-time.After(time.Until(deadline)):
		}
	}
	if _, err := c.Auth().Token().LookupSelf(); err != nil || renewals < 2 {
		t.Errorf("after 6 s and %d renewals: %v", renewals, err)
	}
}

func TestOfficialClientManagesPolicies(t *testing.T) {
	h := startSecureHub(t)
	sys := h.root().Sys()
	if names, err := sys.ListPolicies(); err != nil || !slices.Equal(names, []string{"default", "root"}) {
		t.Errorf("at first: %q, %v", names, err)
	}
	const text = `path "secret/*" { capabilities = ["subscribe"] subscribe_event_types = ["kv-v2/*"] }`
	if err := sys.PutPolicy("Team-A", text); err != nil {
		t.Fatal(err)
	}
	if got, err := sys.GetPolicy("team-a"); err != nil || got != text {
		t.Errorf("read %q, %v", got, err)
	}
	if names, err := sys.ListPolicies(); err != nil || !slices.Equal(names, []string{"default", "root", "team-a"}) {
		t.Errorf("with one: %q, %v", names, err)
	}
	if got, err := sys.GetPolicy("none"); err != nil || got != "" {
		t.Errorf("one that is not there: %q, %v", got, err)
	}
	for name, c := range map[string]struct{ policy, text, want string }{
		"nothing":      {"x", "", "policy"},
		"syntax":       {"x", "path \"a\" {\n  capabilities = [\n", "line "},
		"unknown key":  {"x", "path \"a\" {\n  capabilites = [\"read\"]\n}", "line 2, column 3"},
		"capability":   {"x", "path \"a\" {\n  capabilities = [\"fly\"]\n}", "line 2"},
		"pattern":      {"x", "path \"a/+*\" {\n  capabilities = [\"read\"]\n}", "line 1"},
		"root":         {"root", text, "root"},
		"control name": {"a\x01b", text, ""},
	} {
		err := sys.PutPolicy(c.policy, c.text)
		if wantStatus(t, err, http.StatusBadRequest, c.want); t.Failed() {
			t.Log(name)
		}
	}
	for _, name := range []string{"root", "default"} {
		wantStatus(t, sys.DeletePolicy(name), http.StatusBadRequest, "")
	}
	for range 2 { // the second time there is none, which is no error
		if err := sys.DeletePolicy("team-a"); err != nil {
			t.Error(err)
		}
	}
	if got, err := sys.GetPolicy("team-a"); err != nil || got != "" {
		t.Errorf("after its end: %q, %v", got, err)
	}
	// Base64, as some clients send it, and JSON.
	if _, err := h.root().Logical().Write("sys/policies/acl/encoded", map[string]any{"policy": "cGF0aCAiYSIge30K"}); err != nil {
		t.Error(err)
	}
	if got, err := sys.GetPolicy("encoded"); err != nil || strings.TrimSpace(got) != `path "a" {}` {
		t.Errorf("encoded: %q, %v", got, err)
	}
	if err := sys.PutPolicy("json", `{"path":{"a":{"capabilities":["read"]}}}`); err != nil {
		t.Error(err)
	}
	// Nobody else may.
	nobody := h.client(create(t, h.root(), &api.TokenCreateRequest{Policies: []string{"default"}}).ClientToken, "").Sys()
	wantStatus(t, nobody.PutPolicy("x", text), http.StatusForbidden, "permission denied")
	wantStatus(t, nobody.DeletePolicy("json"), http.StatusForbidden, "permission denied")
	_, err := nobody.ListPolicies()
	wantStatus(t, err, http.StatusForbidden, "permission denied")
	_, err = nobody.GetPolicy("json")
	wantStatus(t, err, http.StatusForbidden, "permission denied")
}

func TestOfficialClientAsksForState(t *testing.T) {
	h := startSecureHub(t)
	sys := h.client("", "").Sys()
	seal, err := sys.SealStatus()
	if err != nil || !seal.Initialized || seal.Sealed || seal.Version == "" {
		t.Errorf("seal status %+v, %v", seal, err)
	}
	leader, err := sys.Leader()
	if err != nil || leader.HAEnabled && !leader.IsSelf {
		t.Errorf("leader %+v, %v", leader, err)
	}
	health, err := sys.Health()
	if err != nil || !health.Initialized || health.Sealed || health.Standby || health.Version != seal.Version || health.ServerTimeUTC == 0 {
		t.Errorf("health %+v, %v", health, err)
	}
	if ok, err := sys.InitStatus(); err != nil || !ok {
		t.Errorf("initialised: %v, %v", ok, err)
	}
}

// A hub has no secrets. Clients that want some are told so in the way that they
// understand.
func TestNoSecretsHere(t *testing.T) {
	h := startSecureHub(t)
	for name, c := range map[string]*api.Client{"root": h.root(), "somebody": h.client(create(t, h.root(), &api.TokenCreateRequest{Policies: []string{"default"}}).ClientToken, "")} {
		// What "vault kv get secret/app" asks first.
		secret, err := c.Logical().Read("sys/internal/ui/mounts/secret/app")
		if s := status(err); err == nil && secret != nil || err != nil && s != http.StatusForbidden && s != http.StatusNotFound && s != http.StatusBadRequest {
			t.Errorf("%s: preflight of kv: %+v, %v", name, secret, err)
		}
		if _, err := c.KVv2("secret").Get(t.Context(), "app"); err == nil {
			t.Errorf("%s: there is a secret", name)
		}
		if _, err := c.KVv2("secret").Put(t.Context(), "app", map[string]any{"a": "b"}); err == nil {
			t.Errorf("%s: a secret was written", name)
		}
	}
	mounts, err := h.root().Sys().ListMounts()
	if err != nil || mounts["sys/"] == nil {
		t.Errorf("mounts %v, %v", mounts, err)
	}
	auths, err := h.root().Sys().ListAuth()
	if err != nil || auths["token/"] == nil {
		t.Errorf("auth methods %v, %v", auths, err)
	}
}
