package app

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
)

// issuer configures the issuer "ci" of JWTs, which have the policy "team", and returns
// one of them.
func issuer(t *testing.T, o *Options) (token string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "issuer.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	j := config.DefaultJWT()
	j.Name, j.Issuer, j.Audiences, j.PublicKeyFiles = "ci", "https://ci.example", []string{"tocsin"}, []string{file}
	j.Policies = []config.Rule{{When: config.Texts{"sub": "job-*"}, Policies: []string{"team"}}}
	o.Config.Auth.JWT = append(o.Config.Auth.JWT, j)

	claims, err := json.Marshal(map[string]any{
		"iss": j.Issuer, "aud": "tocsin", "sub": "job-1", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"EdDSA"}`)) + "." + encode(claims)
	return signed + "." + encode(ed25519.Sign(private, []byte(signed)))
}

// documentedKinds are the types of the table in docs/event-types.md.
func documentedKinds(t *testing.T) map[string]bool {
	t.Helper()
	page, err := os.ReadFile("../../docs/event-types.md")
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `tocsin/.*$").FindAllString(string(page), -1) {
		cell, _, _ := strings.Cut(row[1:], "|")
		for _, m := range regexp.MustCompile("`(tocsin/[a-z-]+)`").FindAllStringSubmatch(cell, -1) {
			kinds[m[1]] = true
		}
	}
	if len(kinds) == 0 {
		t.Fatal("the documentation has no types")
	}
	return kinds
}

// publishEvent publishes an event with a token and returns the status of the answer.
func publishEvent(t *testing.T, a *App, token string) int {
	t.Helper()
	r, err := http.NewRequest("POST", a.URL()+"/api/v1/events", strings.NewReader(`{"specversion":"1.0","id":"1","source":"/shop","type":"shop/order-made"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", token)
	r.Header.Set("Content-Type", "application/cloudevents+json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// Each kind of record that the documentation has is made, no other, and there is a
// token in none.
func TestEveryKindIsRecorded(t *testing.T) {
	t.Parallel()
	o := options(t)
	jwt := issuer(t, &o)
	plugins := hostFakes(t, &o)
	o.Config.Delivery.Allow = []string{"127.0.0.1"}
	source := sourceWithAllIncidents(&o)
	rules := withRules(t, &o, orderRule)
	a, _ := start(t, o)
	must := func(status int, answer map[string]any) map[string]any {
		t.Helper()
		if status/100 != 2 {
			t.Fatalf("%d %v", status, answer)
		}
		return answer
	}
	refused := func(status int, answer map[string]any) {
		t.Helper()
		if status != 403 {
			t.Errorf("%d %v", status, answer)
		}
	}
	denied := func(token, eventType string) {
		t.Helper()
		_, err := client.Subscribe(t.Context(), eventType, client.Options{Address: a.URL(), Token: token})
		if !errors.Is(err, client.ErrPermission) {
			t.Errorf("subscribe: %v", err)
		}
	}
	const wrong = "this-is-no-token"
	team, brief := makeTeam(t, a, "1h"), makeTeam(t, a, "1s")
	must(call(t, a, team, "POST", "auth/token/renew-self", nil))
	subscribe(t, a, client.Options{Token: team}, "kv*").Close()
	denied(team, "*")
	denied(wrong, "kv*")
	refused(call(t, a, team, "GET", "auth/token/accessors?list=true", nil))
	refused(call(t, a, wrong, "GET", "auth/token/lookup-self", nil))
	refused(publishEvent(t, a, team), nil)
	must(call(t, a, jwt, "GET", "auth/token/lookup-self", nil))                                                           // as it is, with the policy "default"
	login, _ := must(call(t, a, "", "POST", "auth/ci/login", map[string]any{"jwt": jwt + "\n"}))["client_token"].(string) // as read from a file
	refused(call(t, a, "", "POST", "auth/ci/login", map[string]any{"jwt": jwt + "x"}))
	must(call(t, a, root, "POST", "auth/token/revoke", map[string]any{"token": team}))
	must(call(t, a, login, "POST", "auth/token/revoke-self", nil))
	must(call(t, a, root, "DELETE", "sys/policies/acl/team", nil))
	must(publishEvent(t, a, root), nil)

	must(call(t, a, root, "PUT", "sys/plugins/catalog/secret/fake", map[string]any{"command": "fake", "sha256": plugins.sum, "env": "PASSWORD=" + login}))
	must(call(t, a, root, "POST", "sys/mounts/f", map[string]any{"type": "fake", "options": map[string]string{"password": login}}))
	must(call(t, a, root, "POST", "sys/mounts/f/tune", map[string]any{"description": "x"}))
	must(call(t, a, root, "PUT", "sys/plugins/reload/backend", map[string]any{"plugin": "fake"}))
	plugins.crash()
	for running := false; !running || plugins.count() < 3; running, _ = a.Plugins() { // mounted, reloaded, restarted
		time.Sleep(time.Millisecond)
	}
	must(call(t, a, root, "DELETE", "sys/mounts/f", nil))
	must(call(t, a, root, "DELETE", "sys/plugins/catalog/secret/fake", nil))

	useSink(t, a, login)
	source(t, a)
	reloadRulesOf(t, a, rules)

	want := documentedKinds(t)
	// What needs a journal that is full, or shorter than a delivery lags, or plugins that do not
	// run: see internal/trail, internal/deliver/manager and internal/alerting.
	for _, kind := range []string{
		"tocsin/trail-lost", "tocsin/sink-gap", "tocsin/sink-full",
		"tocsin/rules-earlier", "tocsin/rules-waiting", "tocsin/rules-blind", "tocsin/rules-sighted", "tocsin/rules-gap", "tocsin/rules-memory-lost",
	} {
		delete(want, kind)
	}
	seen := make(map[string]bool)
	s := subscribe(t, a, client.Options{Since: "1h"}, "tocsin/*")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(seen) < len(want) {
		m, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("recorded are %v, documented %v: %v", slices.Sorted(maps.Keys(seen)), slices.Sorted(maps.Keys(want)), err)
		}
		if !want[m.Event.Type] {
			t.Errorf("%s is not documented", m.Event.Type)
		}
		seen[m.Event.Type] = true
		whole := string(event.AppendCloudEvent(nil, m.Event, ""))
		for _, secret := range []string{root, team, brief, jwt, login, wrong} {
			if secret == "" || strings.Contains(whole, secret) {
				t.Errorf("%s has a token in it", m.Event.Type)
			}
		}
	}
}
