package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
)

// call makes a request of Vault's API and returns what is under "auth" or "data".
func call(t *testing.T, a *App, token, method, path string, body any) (status int, answer map[string]any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(method, a.URL()+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", token)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var all struct{ Auth, Data map[string]any }
	if err := json.NewDecoder(response.Body).Decode(&all); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if all.Auth != nil {
		return response.StatusCode, all.Auth
	}
	return response.StatusCode, all.Data
}

const teamPolicy = `
path "sys/events/subscribe/kv*" { capabilities = ["read"] }
path "secret/data/app/*" {
  capabilities = ["read", "subscribe"]
  subscribe_event_types = ["kv-v2/*"]
}`

// makeTeam writes the policy "team" and returns a token that has it.
func makeTeam(t *testing.T, a *App, ttl string) string {
	t.Helper()
	if status, answer := call(t, a, root, "POST", "sys/policies/acl/team", map[string]any{"policy": teamPolicy}); status/100 != 2 {
		t.Fatalf("write policy: %d %v", status, answer)
	}
	status, answer := call(t, a, root, "POST", "auth/token/create", map[string]any{"policies": []string{"team"}, "ttl": ttl, "display_name": "ci"})
	token, _ := answer["client_token"].(string)
	if status != 200 || token == "" {
		t.Fatalf("create token: %d %v", status, answer)
	}
	return token
}

// trailOf returns the events about the hub itself from the beginning on, until one is
// of the type last. Their own subscription is in it.
func trailOf(t *testing.T, a *App, last string) (events []*event.Event) {
	t.Helper()
	s := subscribe(t, a, client.Options{Since: "1h"}, "tocsin/*")
	defer s.Close()
	for {
		m, _ := next(t, s)
		if events = append(events, m.Event); m.Event.Type == last {
			return events
		}
	}
}

func find(events []*event.Event, eventType string) *event.Event {
	i := slices.IndexFunc(events, func(e *event.Event) bool { return e.Type == eventType })
	if i < 0 {
		return nil
	}
	return events[i]
}

// text returns a metadata field of an event, "" also for no event.
func text(e *event.Event, key string) string {
	if e == nil {
		return ""
	}
	s, _ := e.Metadata.Text(key)
	return s
}

// Tokens and policies outlast restarts, and what is revoked stays revoked.
func TestTokensSurvive(t *testing.T) {
	whole, file := auditLog(t)
	o := options(t, file)
	o.Config.Node = "hub-1"
	a, stop := start(t, o)
	team, other := makeTeam(t, a, "1h"), makeTeam(t, a, "1h")
	s := subscribe(t, a, client.Options{Token: team}, "kv*")
	appendTo(t, file, whole)
	if _, got := next(t, s); got != "kv-v2/data-write secret/data/app/db" {
		t.Errorf("event %q", got)
	}
	s.Close()
	stop()

	a, stop = start(t, o)
	if status, data := call(t, a, team, "GET", "auth/token/lookup-self", nil); status != 200 || data["display_name"] != "token-ci" {
		t.Errorf("after a restart: %d %v", status, data)
	}
	s = subscribe(t, a, client.Options{Token: team, Since: "87600h"}, "kv*")
	for range 2 {
		if _, got := next(t, s); !strings.HasSuffix(got, " secret/data/app/db") {
			t.Errorf("event %q after a restart", got)
		}
	}
	s.Close()
	if status, answer := call(t, a, root, "POST", "auth/token/revoke", map[string]any{"token": other}); status/100 != 2 {
		t.Errorf("revoke: %d %v", status, answer)
	}
	stop()

	// Once there are tokens the root token is not needed any more.
	o.Config.Auth.RootToken = config.Secret{}
	a, stop = start(t, o)
	for token, want := range map[string]int{team: 200, other: 403, root: 403, "": 403} {
		if status, _ := call(t, a, token, "GET", "auth/token/lookup-self", nil); status != want {
			t.Errorf("token %q after two restarts: %d", token, status)
		}
	}
	stop()

	// The trail has all of it, over all restarts.
	o.Config.Auth.RootToken = config.SecretValue(root)
	a, _ = start(t, o)
	events := trailOf(t, a, "tocsin/token-revoke")
	for eventType, path := range map[string]string{
		"tocsin/policy-write": "sys/policies/acl/team", "tocsin/token-create": "auth/token/create", "tocsin/token-revoke": "auth/token/revoke",
		"tocsin/subscription-start": "sys/events/subscribe/kv*", "tocsin/subscription-end": "sys/events/subscribe/kv*",
	} {
		e := find(events, eventType)
		if e == nil || e.Path != path || e.Source != "tocsin://hub-1" || text(e, "remote_address") != "127.0.0.1" {
			t.Errorf("%s: %+v", eventType, e)
		}
		for _, secret := range []string{root, team, other} {
			if e != nil && strings.Contains(string(event.AppendCloudEvent(nil, e, "")), secret) {
				t.Errorf("%s has a token in it", eventType)
			}
		}
	}
}

// What ends at the end of the hub is recorded before the journal closes.
func TestSubscriptionsOfTheLastMoment(t *testing.T) {
	o := options(t)
	const n = 50
	a, stop := start(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	for range n {
		s := subscribe(t, a, client.Options{}, "nothing")
		reading.Go(func() { s.Next(ctx) }) // answers the close frame, and tries to connect again
	}
	stop()
	cancel()
	reading.Wait()
	a, _ = start(t, o)
	s := subscribe(t, a, client.Options{Since: "1h"}, "tocsin/subscription-end")
	for i := range n {
		if _, got := next(t, s); got != "tocsin/subscription-end sys/events/subscribe/nothing" {
			t.Errorf("event %d: %q", i, got)
		}
	}
}

func TestExpiryIsRecorded(t *testing.T) {
	t.Parallel()
	a, _ := start(t, options(t))
	token := makeTeam(t, a, "1s")
	s := subscribe(t, a, client.Options{Token: token}, "kv*")
	events := trailOf(t, a, "tocsin/token-expire")
	e := events[len(events)-1]
	if e.Path != "auth/token/create" || text(e, "target_display_name") != "token-ci" || text(e, "target_accessor") == "" || !strings.Contains(text(e, "target_policies"), "team") {
		t.Errorf("event %+v", e)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.Next(ctx); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("the subscription: %v", err)
	}
}

// A change of a policy reaches those who are connected.
func TestPolicyChangeReachesTheHub(t *testing.T) {
	whole, file := auditLog(t)
	a, _ := start(t, options(t, file))
	s := subscribe(t, a, client.Options{Token: makeTeam(t, a, "1h")}, "kv*")
	allow := func(pattern string) {
		t.Helper()
		text := strings.ReplaceAll(teamPolicy, "secret/data/app/*", pattern)
		if status, answer := call(t, a, root, "POST", "sys/policies/acl/team", map[string]any{"policy": text}); status/100 != 2 {
			t.Fatalf("write policy: %d %v", status, answer)
		}
	}
	// Events of the log are about app/db, or something else instead.
	write := func(name string) {
		appendTo(t, file, bytes.ReplaceAll(whole, []byte("app/db"), []byte(name)))
	}
	until := func(name string) {
		t.Helper()
		for {
			_, got := next(t, s)
			if strings.HasSuffix(got, "/app/db") {
				t.Fatalf("event %q, which was not to be seen when it was written", got)
			}
			if strings.HasSuffix(got, name) {
				return
			}
		}
	}
	allow("secret/data/app/marker")
	write("app/db")
	write("app/marker")
	until("app/marker")
	allow("secret/data/app/*")
	write("app/new")
	until("app/new")
}

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestRevokedRootToken(t *testing.T) {
	o := options(t)
	a, stop := start(t, o)
	if status, answer := call(t, a, root, "POST", "auth/token/revoke-self", nil); status/100 != 2 {
		t.Fatalf("revoke: %d %v", status, answer)
	}
	stop()
	log := new(syncBuffer)
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	a, stop = start(t, o)
	if status, _ := call(t, a, root, "GET", "auth/token/lookup-self", nil); status != 403 {
		t.Errorf("the revoked token: %d", status)
	}
	if !strings.Contains(log.String(), "root token was revoked") || strings.Contains(log.String(), root) {
		t.Errorf("log %s", log)
	}
	stop()
	o.Config.Auth.RootToken = config.SecretValue("another")
	a, _ = start(t, o)
	if status, _ := call(t, a, "another", "GET", "auth/token/lookup-self", nil); status != 200 {
		t.Errorf("its successor: %d", status)
	}
}

func TestFailedLogins(t *testing.T) {
	o := options(t)
	o.Config.Listen.FailedLogins = config.FailedLogins{Max: 3, Per: config.Duration(time.Hour)}
	a, _ := start(t, o)
	if status, _ := call(t, a, root, "GET", "auth/token/lookup-self", nil); status != 200 {
		t.Fatalf("status %d", status)
	}
	for i, want := range []int{403, 403, 403, 429, 429} {
		if status, _ := call(t, a, "wrong", "GET", "auth/token/lookup-self", nil); status != want {
			t.Errorf("attempt %d: status %d, want %d", i, status, want)
		}
	}
	if status, _ := call(t, a, root, "GET", "auth/token/lookup-self", nil); status != 200 {
		t.Errorf("somebody else at the same address: status %d", status)
	}
	if f := failures(config.FailedLogins{Per: config.Duration(time.Second)}); f.PerSecond >= 0 {
		t.Errorf("no limit is %+v", f)
	}
}

// fakeVault knows one token, until it is told otherwise.
func fakeVault(t *testing.T, token string) (url string, revoke func()) {
	var revoked atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path != "/v1/auth/token/lookup-self" || r.Header.Get("X-Vault-Token") != token || revoked.Load() {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"errors":["permission denied"]}`)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{
			"id": token, "accessor": "their-accessor", "type": "service", "policies": []string{"default", "team"},
			"num_uses": 0, "ttl": 3600, "display_name": "token-theirs", "path": "auth/token/create", "orphan": true, "renewable": true,
			"creation_time": time.Now().Unix(), "expire_time": time.Now().Add(time.Hour).Format(time.RFC3339Nano),
		}})
	}))
	t.Cleanup(s.Close)
	return s.URL, func() { revoked.Store(true) }
}

// Tokens of another server are accepted, recorded, and end when they end there.
func TestUpstream(t *testing.T) {
	t.Parallel()
	whole, file := auditLog(t)
	url, revoke := fakeVault(t, "hvs.theirs")
	o := options(t, file)
	o.Config.Auth.Upstream.Address = url
	o.Config.Auth.Upstream.Recheck = config.Duration(time.Second)
	a, _ := start(t, o)
	makeTeam(t, a, "1h")
	s := subscribe(t, a, client.Options{Token: "hvs.theirs"}, "kv*")
	appendTo(t, file, whole)
	if _, got := next(t, s); got != "kv-v2/data-write secret/data/app/db" {
		t.Errorf("event %q", got)
	}
	events := trailOf(t, a, "tocsin/login")
	e := events[len(events)-1]
	if e.Path != "auth/upstream" || text(e, "provider") != "upstream" || text(e, "accessor") != "their-accessor" ||
		text(e, "display_name") != "token-theirs" || text(e, "remote_address") != "127.0.0.1" || text(e, "policies") != `["default","team"]` {
		t.Errorf("event %+v", e)
	}
	revoke()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := s.Next(ctx)
		cancel()
		if err != nil {
			if !strings.Contains(err.Error(), "revoked") {
				t.Errorf("the subscription: %v", err)
			}
			return
		}
	}
}

// Nothing of the configuration is forgotten on its way to the providers.
func TestProviderConfigs(t *testing.T) {
	fill := func(v any) {
		s := reflect.ValueOf(v).Elem()
		for i := range s.NumField() {
			switch f := s.Field(i); f.Interface().(type) {
			case string:
				f.SetString("x")
			case bool:
				f.SetBool(true)
			case config.Duration:
				f.SetInt(7)
			case []string:
				f.Set(reflect.ValueOf([]string{"x"}))
			case config.Texts:
				f.Set(reflect.ValueOf(config.Texts{"x": "y"}))
			case []config.Rule:
				f.Set(reflect.ValueOf([]config.Rule{{When: config.Texts{"x": "y"}, Policies: []string{"z"}}}))
			default:
				t.Fatalf("no value for %T", f.Interface())
			}
		}
	}
	complete := func(v any, except ...string) {
		s := reflect.ValueOf(v)
		for i := range s.NumField() {
			if name := s.Type().Field(i).Name; s.Field(i).IsZero() && !slices.Contains(except, name) {
				t.Errorf("%T: %s is not set", v, name)
			}
		}
	}
	var u config.Upstream
	fill(&u)
	complete(upstreamConfig(u), "Name", "Logger")
	var j config.JWT
	fill(&j)
	made := jwtConfig(j)
	complete(made, "Logger")
	complete(made.Rules[0])
	u.Patience, j.Leeway, j.MaxLifetime = 0, 0, 0
	if made = jwtConfig(j); upstreamConfig(u).Patience >= 0 || made.Leeway >= 0 || made.MaxLifetime >= 0 {
		t.Error("0 became the default")
	}
}

func TestNodeName(t *testing.T) {
	if got := nodeName("hub-1"); got != "hub-1" {
		t.Errorf("got %q", got)
	}
	if nodeName("") == "" {
		t.Error("no name")
	}
}
