package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/pluginhost"
	"github.com/tocsin-events/tocsin/internal/strongbox"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// hosting is a node that hosts fake plugins.
type hosting struct {
	*node
	host *pluginhost.Host
	dir  string
	mu   sync.Mutex
	seen []*vaultplugin.Request
}

// startHosting starts a node with the mounts "secret/", "ns1/kv/", "auth/users/" (whose
// logins give policies) and "auth/closed/" (whose logins give none).
func startHosting(t *testing.T) *hosting {
	t.Helper()
	h := &hosting{dir: t.TempDir()}
	executable := filepath.Join(h.dir, "fake")
	if err := os.WriteFile(executable, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.node = startNode(t, func(o *Options) {
		j := o.Positions.(*journal.Journal)
		box, err := strongbox.Open(t.Context(), strongbox.Config{State: j.State, Remove: j.RemoveState, Keys: []strongbox.Key{strongbox.NewKey()}})
		if err != nil {
			t.Fatal(err)
		}
		users := pluginhost.MountConfig{Class: pluginhost.Auth, Path: "users", Plugin: "users", LoginPolicies: []string{"team-*"}}
		closed := pluginhost.MountConfig{Class: pluginhost.Auth, Path: "closed", Plugin: "users"}
		h.host, err = pluginhost.Open(t.Context(), pluginhost.Config{
			Box: box, Intake: o.Intake, Node: "node-1", Directory: h.dir, Logger: slog.New(slog.DiscardHandler),
			Plugins: []pluginhost.Plugin{{Class: pluginhost.Secret, Name: "kv", Command: executable}, {Class: pluginhost.Auth, Name: "users", Command: executable}},
			Mounts: []pluginhost.MountConfig{
				{Class: pluginhost.Secret, Path: "secret", Plugin: "kv", Options: map[string]string{"version": "2"}, Description: "d"},
				{Class: pluginhost.Secret, Namespace: "ns1", Path: "kv", Plugin: "kv"}, users, closed,
			},
			Launch: func(context.Context, vaultplugin.Options) (pluginhost.Process, error) {
				return &fakePlugin{h: h, exited: make(chan struct{})}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		h.host.Start()
		o.Plugins = h.host
	})
	t.Cleanup(func() { h.host.Close(context.Background()) })
	return h
}

type fakePlugin struct {
	h      *hosting
	once   sync.Once
	exited chan struct{}
}

func (p *fakePlugin) Multiplexed() bool       { return true }
func (p *fakePlugin) Exited() <-chan struct{} { return p.exited }
func (p *fakePlugin) ExitError() error        { return nil }
func (p *fakePlugin) PID() int                { return 1 }
func (p *fakePlugin) Stop(context.Context)    { p.Kill() }
func (p *fakePlugin) Kill()                   { p.once.Do(func() { close(p.exited) }) }
func (p *fakePlugin) Open(_ context.Context, s vaultplugin.Setup) (pluginhost.Backend, error) {
	return &fakeMount{p, s}, nil
}

type fakeMount struct {
	*fakePlugin
	setup vaultplugin.Setup
}

func (m *fakeMount) Type() vaultplugin.Type {
	if m.setup.Config["plugin_type"] == "auth" {
		return vaultplugin.TypeAuth
	}
	return vaultplugin.TypeSecret
}
func (m *fakeMount) Version() string { return "v0.1.0" }
func (m *fakeMount) SpecialPaths() vaultplugin.Paths {
	return vaultplugin.Paths{Root: []string{"admin/*", "only"}, Unauthenticated: []string{"login/*"}}
}
func (m *fakeMount) Initialize(context.Context) error            { return nil }
func (m *fakeMount) InvalidateKey(context.Context, string) error { return nil }
func (m *fakeMount) Close(context.Context)                       {}

func (m *fakeMount) HandleExistenceCheck(ctx context.Context, r *vaultplugin.Request) (found, exists bool, err error) {
	e, err := m.setup.Storage.Get(ctx, r.Path)
	return true, e != nil, err
}

func (m *fakeMount) HandleRequest(ctx context.Context, r *vaultplugin.Request) (*vaultplugin.Response, error) {
	m.h.mu.Lock()
	m.h.seen = append(m.h.seen, r)
	m.h.mu.Unlock()
	remote := func(kind vaultplugin.Kind, text string) error {
		return &vaultplugin.RemoteError{Kind: kind, Message: text}
	}
	raw := func(status, typ, body string) *vaultplugin.Response {
		return &vaultplugin.Response{Data: map[string]any{vaultplugin.RawStatusCode: json.Number(status), vaultplugin.RawContentType: typ, vaultplugin.RawBody: base64.StdEncoding.EncodeToString([]byte(body))}}
	}
	data := map[string]any{"error": "no good"}
	switch r.Path {
	case "raw404":
		return raw("404", "application/json", `{"data":{"deleted":true}}`), nil
	case "rawtext":
		r := raw("404", "application/json", "")
		r.Data[vaultplugin.RawBody] = `{"as":"text"}`
		return r, nil
	case "raw204":
		return raw("204", "", ""), nil
	case "raw999":
		return raw("999", "", ""), nil
	case "refused":
		return &vaultplugin.Response{Data: data}, remote(vaultplugin.KindInvalidRequest, "invalid request")
	case "refused-softly":
		return &vaultplugin.Response{Data: data}, nil
	case "denied":
		return nil, remote(vaultplugin.KindPermissionDenied, "permission denied")
	case "unsupported":
		return nil, remote(vaultplugin.KindUnsupportedPath, "unsupported path")
	case "failed":
		return nil, remote(vaultplugin.KindInternal, "kaputt")
	case "slow":
		return nil, vaultplugin.ErrTimeout
	case "broken":
		return nil, vaultplugin.ErrProtocol
	case "wrapped":
		return &vaultplugin.Response{Wrap: &vaultplugin.WrapInfo{TTL: time.Minute}}, nil
	case "redirect":
		return &vaultplugin.Response{Redirect: "https://elsewhere"}, nil
	case "leased":
		return &vaultplugin.Response{Data: map[string]any{"a": json.Number("1")}, Secret: &vaultplugin.Secret{Lease: vaultplugin.Lease{TTL: time.Hour}}, Warnings: []string{"w"}}, nil
	case "empty":
		return &vaultplugin.Response{}, nil
	case "login/good":
		return &vaultplugin.Response{Auth: &vaultplugin.Auth{DisplayName: "u-x", Policies: []string{"team-a", "admin", "root"}, Metadata: map[string]string{"user": "x"}, Lease: vaultplugin.Lease{TTL: time.Minute}}}, nil
	case "login/once":
		return &vaultplugin.Response{Auth: &vaultplugin.Auth{Policies: []string{"team-a"}, NumUses: 1}}, nil
	case "login/bad":
		return &vaultplugin.Response{Data: map[string]any{"error": "invalid password"}}, nil
	}
	switch r.Operation {
	case vaultplugin.HelpOperation:
		return &vaultplugin.Response{Data: map[string]any{"help": "about " + r.Path}}, nil
	case vaultplugin.ReadOperation:
		e, err := m.setup.Storage.Get(ctx, r.Path)
		if e == nil || err != nil {
			return nil, err
		}
		return &vaultplugin.Response{Data: map[string]any{"value": string(e.Value)}}, nil
	case vaultplugin.ListOperation:
		names, err := m.setup.Storage.List(ctx, r.Path)
		keys := make([]any, len(names))
		for i, name := range names {
			keys[i] = name
		}
		return &vaultplugin.Response{Data: map[string]any{"keys": keys}}, err
	case vaultplugin.DeleteOperation:
		return nil, m.setup.Storage.Delete(ctx, r.Path)
	case vaultplugin.CreateOperation, vaultplugin.UpdateOperation, vaultplugin.PatchOperation:
		value, _ := scalar(r.Data["value"])
		if err := m.setup.Storage.Put(ctx, &vaultplugin.StorageEntry{Key: r.Path, Value: []byte(value)}); err != nil {
			return nil, err
		}
		d := &vaultplugin.EventData{ID: event.NewID()}
		d.Metadata.Set("path", r.Path)
		d.Metadata.Set("operation", string(r.Operation))
		return nil, m.setup.SendEvent(ctx, "fake/write", d)
	}
	return nil, remote(vaultplugin.KindUnsupportedOperation, "unsupported operation")
}

// last returns what the plugin was asked last.
func (h *hosting) last() *vaultplugin.Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[len(h.seen)-1]
}

func (h *hosting) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.seen)
}

func TestHostedRequests(t *testing.T) {
	h := startHosting(t)
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string // in the body
		operation, within  string // as the plugin sees them
	}{
		{"POST", "secret/a/b", `{"value":"1"}`, 204, "", "create", "a/b"},
		{"PUT", "secret/a/b", `{"value":2}`, 204, "", "update", "a/b"},
		{"GET", "secret/a/b?version=3&x=1&x=2", "", 200, `"data":{"value":"2"},"wrap_info":null,"warnings":null,"auth":null,"mount_type":"kv"}`, "read", "a/b"},
		{"GET", "secret/none", "", 404, `{"errors":[]}`, "read", "none"},
		{"LIST", "secret/a", "", 200, `{"keys":["b"]}`, "list", "a/"},
		{"GET", "secret/a/?list=true", "", 200, `{"keys":["b"]}`, "list", "a/"},
		{"LIST", "secret", "", 200, `{"keys":["a/"]}`, "list", ""},
		{"LIST", "secret/none", "", 404, `{"errors":[]}`, "list", "none/"},
		{"PATCH", "secret/a/b", `{"value":"3"}`, 204, "", "patch", "a/b"},
		{"DELETE", "secret/a/b", "", 204, "", "delete", "a/b"},
		{"GET", "secret/x?help=1", "", 200, `{"help":"about x"}`, "help", "x"},
		{"GET", "secret?help=1", "", 200, `{"help":"about "}`, "help", ""},
		{"POST", "ns1/kv/sys/auth/x", `{"value":"1"}`, 204, "", "create", "sys/auth/x"},
		{"GET", "ns1/kv/sys/auth/x", "", 200, `"value":"1"`, "read", "sys/auth/x"},
		{"POST", "ns1/kv/x", `{"value":"1"}`, 204, "", "create", "x"},
		{"POST", "auth/users/config", `{"value":"1"}`, 204, "", "create", "config"},
		{"GET", "secret/raw404", "", 404, `{"data":{"deleted":true}}`, "read", "raw404"},
		{"GET", "secret/rawtext", "", 404, `{"as":"text"}`, "read", "rawtext"},
		{"GET", "secret/raw204", "", 204, "", "read", "raw204"},
		{"GET", "secret/raw999", "", 502, "status", "read", "raw999"},
		{"GET", "secret/refused", "", 400, `{"errors":["no good"]}`, "read", "refused"},
		{"GET", "secret/refused-softly", "", 400, `{"errors":["no good"]}`, "read", "refused-softly"},
		{"GET", "secret/denied", "", 403, `permission denied`, "read", "denied"},
		{"GET", "secret/unsupported", "", 404, `1 error occurred:\n\t* unsupported path\n\n`, "read", "unsupported"},
		{"GET", "secret/failed", "", 500, `kaputt`, "read", "failed"},
		{"GET", "secret/slow", "", 504, `did not answer in time`, "read", "slow"},
		{"GET", "secret/broken", "", 502, ``, "read", "broken"},
		{"GET", "secret/wrapped", "", 502, `wrapped`, "read", "wrapped"},
		{"GET", "secret/redirect", "", 502, `redirect`, "read", "redirect"},
		{"GET", "secret/leased", "", 200, `"lease_id":"","renewable":false,"lease_duration":3600,"data":{"a":1},"wrap_info":null,"warnings":["w"]`, "read", "leased"},
		{"GET", "auth/users/leased", "", 200, `nothing is revoked when the lease ends`, "read", "leased"},
		{"GET", "secret/empty", "", 200, `"data":{}`, "read", "empty"},
		// Not handed to the plugin.
		{"POST", "secret/a/", `{}`, 400, `ends in`, "", ""},
		{"HEAD", "secret/a", "", 405, ``, "", ""},
		{"POST", "secret/a", `[`, 400, `error parsing JSON`, "", ""},
		{"POST", "secret/a", `{"value":"` + strings.Repeat("x", maxHostedBody) + `"}`, 413, ``, "", ""},
		{"GET", "secrets/a", "", 404, `no handler for route`, "", ""},
		{"GET", "secret/a%00b", "", 400, `control characters`, "", ""},
		{"GET", "secret/%FF", "", 400, `UTF-8`, "", ""},
		{"GET", "sys/mounts/none", "", 400, `No secret engine mount`, "", ""},
	} {
		before := h.asked()
		q := ask{method: tt.method, path: "/v1/" + tt.path, body: tt.body}
		if tt.method == "PATCH" {
			q.header = map[string]string{"Content-Type": "application/merge-patch+json"}
		}
		status, raw, _ := h.try(q)
		if status != tt.status || !strings.Contains(string(raw), tt.want) {
			t.Errorf("%s %s: %d %.300s; want %d %s", tt.method, tt.path, status, raw, tt.status, tt.want)
		}
		if tt.operation == "" {
			if h.asked() != before {
				t.Errorf("%s %s: the plugin was asked", tt.method, tt.path)
			}
			continue
		}
		if h.asked() == before {
			t.Errorf("%s %s: the plugin was not asked", tt.method, tt.path)
			continue
		}
		if r := h.last(); string(r.Operation) != tt.operation || r.Path != tt.within {
			t.Errorf("%s %s: the plugin saw %s %q", tt.method, tt.path, r.Operation, r.Path)
		}
	}
	h.do(ask{method: "GET", path: "/v1/secret/q?version=3&x=1&x=2"})
	if r := h.last(); fmt.Sprint(r.Data) != "map[version:3 x:[1 2]]" {
		t.Errorf("parameters of a read: %v", r.Data)
	}
	if r := h.last(); r.ClientToken == "root" || !strings.HasPrefix(r.ClientToken, "hmac-sha256:") || r.ID == "" || r.MountPoint != "secret/" || r.MountType != "kv" || r.Connection != nil || r.Unauthenticated {
		t.Errorf("what the plugin is told: %+v", r)
	}
	h.do(ask{method: "GET", path: "/v1/auth/users/q"})
	if r := h.last(); r.Connection == nil || r.Connection.RemoteAddr != "127.0.0.1" || r.Connection.RemotePort == 0 {
		t.Errorf("what an auth plugin is told: %+v", r)
	}
	// The namespace may be in the header, and a mount of another namespace is none there.
	for header, want := range map[string]int{"ns1": 200, "ns1/": 200, "ns2": 404} {
		status, _ := h.do(ask{method: "GET", path: "/v1/kv/x", header: map[string]string{"X-Vault-Namespace": header}})
		if status != want {
			t.Errorf("namespace %s in the header: %d", header, status)
		}
	}
	if status, _ := h.do(ask{method: "GET", path: "/v1/secret/a", header: map[string]string{"X-Vault-Namespace": "ns1"}}); status != 404 {
		t.Errorf("a mount of the root namespace in ns1: %d", status)
	}
}

func TestHostedRights(t *testing.T) {
	h := startHosting(t)
	h.putPolicy("", "p", `
path "secret/create/*" { capabilities = ["create"] }
path "secret/update/*" { capabilities = ["update"] }
path "secret/read/*"   { capabilities = ["read"] }
path "secret/list/*"   { capabilities = ["list"] }
path "secret/patch/*"  { capabilities = ["patch"] }
path "secret/admin/a"  { capabilities = ["read"] }
path "secret/admin/b"  { capabilities = ["read", "sudo"] }
path "secret/param"    { capabilities = ["create", "update"]
  allowed_parameters = { "value" = ["1"] } }
path "ns1/kv/*"        { capabilities = ["read"] }
`)
	token := h.newToken(`{"policies":["p"]}`)
	for _, path := range []string{"create/old", "update/old", "read/x", "admin/a", "admin/b"} {
		h.must(ask{method: "POST", path: "/v1/secret/" + path, body: `{"value":"1"}`})
	}
	h.must(ask{method: "POST", path: "/v1/ns1/kv/x", body: `{"value":"1"}`})
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "secret/create/new", `{}`, 204},
		{"POST", "secret/create/old", `{}`, 403},
		{"POST", "secret/update/old", `{}`, 204},
		{"POST", "secret/update/new", `{}`, 403},
		{"GET", "secret/read/x", ``, 200},
		{"POST", "secret/read/x", `{}`, 403},
		{"DELETE", "secret/read/x", ``, 403},
		{"LIST", "secret/read/x", ``, 403},
		{"LIST", "secret/list/x", ``, 404},
		{"PATCH", "secret/patch/x", `{}`, 204},
		{"PATCH", "secret/update/old", `{}`, 403},
		{"GET", "secret/admin/a", ``, 403},
		{"GET", "secret/admin/b", ``, 200},
		{"POST", "secret/param", `{"value":"1"}`, 204},
		{"POST", "secret/param", `{"value":"2"}`, 403},
		{"GET", "ns1/kv/x", ``, 200},
		{"GET", "secret/x?help=1", ``, 200},
		{"GET", "secret/other", ``, 403},
	} {
		q := ask{method: tt.method, path: "/v1/" + tt.path, body: tt.body, token: token}
		if tt.method == "PATCH" {
			q.header = map[string]string{"Content-Type": "application/merge-patch+json"}
		}
		if status, b := h.do(q); status != tt.status {
			t.Errorf("%s %s: %d %v, want %d", tt.method, tt.path, status, b, tt.status)
		}
		q.token = "-"
		before := h.asked()
		if status, b := h.do(q); status != 403 || h.asked() != before {
			t.Errorf("%s %s without a token: %d %v", tt.method, tt.path, status, b)
		}
	}
	// Who has neither create nor update does not learn whether something is there.
	before := h.asked()
	for _, path := range []string{"secret/read/x", "secret/read/none"} {
		if status, _ := h.do(ask{method: "POST", path: "/v1/" + path, body: `{}`, token: token}); status != 403 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if h.asked() != before {
		t.Error("the plugin was asked")
	}
}

func TestHostedLogin(t *testing.T) {
	h := startHosting(t)
	status, b := h.do(ask{method: "POST", path: "/v1/auth/users/login/good", token: "-", body: `{"password":"p"}`})
	auth := b.auth()
	if status != 200 || fmt.Sprint(auth["policies"]) != "[default team-a]" || auth["orphan"] != true || auth["lease_duration"] != float64(60) {
		t.Fatalf("login: %d %v", status, b)
	}
	token := auth["client_token"].(string)
	if status, b := h.do(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: token}); status != 200 || fmt.Sprint(b.data()["meta"]) != "map[user:x]" {
		t.Errorf("its token: %d %v", status, b)
	}
	if e := h.await("login", 1); e.Path != "auth/users/login/good" || field(e, "provider") != "users" || field(e, "display_name") == "" {
		t.Errorf("record %+v", e)
	}
	if r := h.last(); !r.Unauthenticated || r.ClientToken != "" || r.Connection == nil {
		t.Errorf("what the plugin is told: %+v", r)
	}
	for path, want := range map[string]int{"users/login/bad": 400, "users/login/once": 403, "closed/login/good": 403, "users/other": 403} {
		status, b := h.do(ask{method: "POST", path: "/v1/auth/" + path, token: "-", body: `{}`})
		if status != want || b["auth"] != nil {
			t.Errorf("%s: %d %v", path, status, b)
		}
	}
}

// A login that the plugin refuses is recorded, without what it was given.
func TestHostedLoginDenied(t *testing.T) {
	h := startHosting(t)
	h.do(ask{method: "POST", path: "/v1/auth/users/login/bad", token: "-", body: `{"password":"s3cret"}`})
	e := h.await("login-denied", 1)
	if e.Path != "auth/users/login/bad" || field(e, "outcome") != "refused" || field(e, "remote_address") != "127.0.0.1" || strings.Contains(string(event.AppendCloudEvent(nil, e, "")), "s3cret") {
		t.Errorf("record %+v", e)
	}
}

// With an auth mount its tokens end, and no others.
func TestRevokeLogins(t *testing.T) {
	h := startHosting(t)
	_, b := h.do(ask{method: "POST", path: "/v1/auth/users/login/good", token: "-", body: `{}`})
	of, _ := b.auth()["client_token"].(string)
	other := h.newToken(`{"policies":["p"]}`)
	r, err := http.NewRequestWithContext(t.Context(), "DELETE", "/v1/sys/auth/users", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.api.revokeLogins(&call{r: r, ctx: t.Context(), path: "sys/auth/users", operation: opDelete}, "auth/users/"); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]int{of: 403, other: 200} {
		if status, _ := h.do(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: token}); status != want {
			t.Errorf("token %s: %d, want %d", token[:8], status, want)
		}
	}
	if e := h.await("token-revoke", 1); field(e, "reason") != "auth mount disabled" || field(e, "target_display_name") == "" {
		t.Errorf("record %+v", e)
	}
}

// Attempts to log in at a plugin are limited as others are.
func TestHostedLoginLimit(t *testing.T) {
	h := startHosting(t)
	for range DefaultFailuresBurst + 5 {
		if status, _ := h.do(ask{method: "POST", path: "/v1/auth/users/login/bad", token: "-", body: `{}`}); status == 429 {
			return
		}
	}
	t.Error("there is no limit")
}

func TestMountsAndCatalog(t *testing.T) {
	h := startHosting(t)
	sum := sha256.Sum256([]byte("x"))
	register := fmt.Sprintf(`{"command":"fake --flag","sha256":"%s","type":"secret"}`, hex.EncodeToString(sum[:]))
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "sys/mounts", "", 200, `"secret/":{"accessor":"kv_`},
		{"GET", "sys/auth", "", 200, `"users/":{"accessor":"auth_users_`},
		{"GET", "ns1/sys/mounts", "", 200, `"kv/":{`},
		{"GET", "sys/mounts/secret", "", 200, `"description":"d"`},
		{"GET", "sys/mounts/secret/tune", "", 200, `"options":{"version":"2"}`},
		{"GET", "sys/internal/ui/mounts/secret/foo/bar", "", 200, `"path":"secret/"`},
		{"GET", "sys/internal/ui/mounts/secret/foo/bar", "", 200, `"options":{"version":"2"}`},
		{"GET", "sys/internal/ui/mounts/auth/users/x", "", 200, `"type":"users"`},
		{"GET", "sys/internal/ui/mounts/none", "", 403, `preflight capability check`},
		{"GET", "sys/plugins/catalog", "", 200, `"secret":["kv"]`},
		{"LIST", "sys/plugins/catalog/auth", "", 200, `{"keys":["users"]}`},
		{"LIST", "sys/plugins/catalog/database", "", 404, ``},
		{"GET", "sys/plugins/catalog/secret/none", "", 404, `{"errors":[]}`},
		{"PUT", "sys/plugins/catalog/secret/mine", register, 204, ``},
		{"GET", "sys/plugins/catalog/secret/mine", "", 200, `"args":["--flag"]`},
		{"PUT", "sys/plugins/catalog/secret/kv", register, 400, `in the configuration`},
		{"PUT", "sys/plugins/catalog/other/mine", register, 400, `unknown plugin type`},
		{"PUT", "sys/plugins/catalog/secret/mine", `{"command":"../x","sha256":"` + strings.Repeat("0", 64) + `"}`, 400, `plugin directory`},
		{"PUT", "sys/plugins/catalog/secret/mine", `{"oci_image":"x"}`, 400, `not supported`},
		{"POST", "sys/mounts/dyn", `{"type":"mine","description":"x","options":{"version":"1"},"config":{"max_lease_ttl":"1h"},"seal_wrap":false}`, 204, ``},
		{"POST", "sys/mounts/dyn", `{"type":"mine"}`, 400, `path is already in use at dyn/`},
		{"POST", "sys/mounts/v2", `{"type":"kv-v2"}`, 204, ``},
		{"GET", "sys/mounts/v2/tune", "", 200, `"options":{"version":"2"}`},
		{"POST", "sys/mounts/x", `{"type":"none"}`, 400, `plugin \"none\": not found in the catalog`},
		{"POST", "sys/mounts/sys/x", `{"type":"kv"}`, 400, ``},
		{"GET", "sys/mounts/dyn", "", 200, `"max_lease_ttl":3600`},
		{"POST", "dyn/a", `{"value":"1"}`, 204, ``},
		{"POST", "sys/mounts/dyn/tune", `{"description":"new","default_lease_ttl":"60"}`, 204, ``},
		{"GET", "sys/mounts/dyn", "", 200, `"description":"new"`},
		{"POST", "sys/mounts/secret/tune", `{"description":"new"}`, 400, `in the configuration`},
		{"PUT", "sys/plugins/reload/backend", `{"plugin":"mine"}`, 200, `"mounts":["dyn/"]`},
		{"PUT", "sys/plugins/reload/backend", `{"mounts":["dyn","secret/"]}`, 200, `"mounts":["dyn/","secret/"]`},
		{"PUT", "sys/plugins/reload/secret/mine", `{}`, 200, `dyn/`},
		{"PUT", "sys/plugins/reload/backend", `{}`, 400, `give a plugin or mounts`},
		{"PUT", "sys/plugins/reload/backend", `{"plugin":"none"}`, 400, `not mounted`},
		{"GET", "dyn/a", "", 200, `"value":"1"`},
		{"DELETE", "sys/plugins/catalog/secret/mine", "", 400, `in use at dyn/`},
		{"DELETE", "sys/mounts/secret", "", 400, `in the configuration`},
		{"DELETE", "sys/mounts/dyn", "", 204, ``},
		{"DELETE", "sys/mounts/dyn", "", 204, ``},
		{"GET", "dyn/a", "", 404, `no handler for route`},
		{"DELETE", "sys/plugins/catalog/secret/mine", "", 204, ``},
		{"POST", "sys/auth/more", `{"type":"users"}`, 204, ``},
		{"GET", "sys/auth/more", "", 200, `"type":"users"`},
		{"POST", "sys/auth/token", `{"type":"users"}`, 400, `taken`},
		{"DELETE", "sys/auth/more", "", 204, ``},
	} {
		status, raw, _ := h.try(ask{method: tt.method, path: "/v1/" + tt.path, body: tt.body})
		if status != tt.status || !strings.Contains(string(raw), tt.want) {
			t.Errorf("%s %s %s: %d %.300s; want %d %s", tt.method, tt.path, tt.body, status, raw, tt.status, tt.want)
		}
	}
	for what, path := range map[string]string{
		"mount": "sys/mounts/dyn", "mount-tune": "sys/mounts/dyn/tune", "unmount": "sys/mounts/dyn", "plugin-register": "sys/plugins/catalog/secret/mine",
		"plugin-reload": "sys/plugins/reload/backend", "plugin-deregister": "sys/plugins/catalog/secret/mine",
	} {
		if e := h.await(what, 1); e.Path != path || field(e, "outcome") != "done" || field(e, "display_name") == "" {
			t.Errorf("record of %s: %+v", what, e)
		}
	}
}

func TestMountRights(t *testing.T) {
	h := startHosting(t)
	h.putPolicy("", "p", `
path "secret/data/x"          { capabilities = ["read"] }
path "sys/mounts/*"           { capabilities = ["create", "update", "delete"] }
path "sys/auth/*"             { capabilities = ["create", "update", "delete"] }
path "sys/plugins/*"          { capabilities = ["create", "read", "update", "delete", "list"] }
`)
	token := h.newToken(`{"policies":["p"]}`)
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "sys/internal/ui/mounts/secret/x", "", 200},
		{"GET", "sys/internal/ui/mounts/auth/users", "", 403},
		{"POST", "sys/mounts/mine", `{"type":"kv"}`, 204},
		{"DELETE", "sys/mounts/mine", ``, 204},
		{"POST", "sys/auth/mine", `{"type":"users"}`, 403},
		{"GET", "sys/plugins/catalog", ``, 403},
		{"PUT", "sys/plugins/catalog/secret/x", `{}`, 403},
		{"PUT", "sys/plugins/reload/backend", `{"plugin":"kv"}`, 403},
	} {
		if status, b := h.do(ask{method: tt.method, path: "/v1/" + tt.path, body: tt.body, token: token}); status != tt.status {
			t.Errorf("%s %s: %d %v, want %d", tt.method, tt.path, status, b, tt.status)
		}
	}
	_, b := h.do(ask{method: "GET", path: "/v1/sys/internal/ui/mounts", token: token})
	secrets, auths := b.data()["secret"].(map[string]any), b.data()["auth"].(map[string]any)
	if secrets["secret/"] == nil || auths["users/"] != nil || auths["token/"] == nil {
		t.Errorf("visible mounts %v", b.data())
	}
}

// A hub that hosts nothing says how to change that.
func TestNoHosting(t *testing.T) {
	n := startNode(t, nil)
	for path, method := range map[string]string{"sys/mounts/x": "POST", "sys/plugins/catalog/secret/x": "PUT", "sys/plugins/reload/backend": "PUT"} {
		status, b := n.do(ask{method: method, path: "/v1/" + path, body: `{"type":"kv"}`})
		if status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(b), "plugins.storage_key") {
			t.Errorf("%s: %d %v", path, status, b)
		}
	}
	if status, b := n.do(ask{method: "GET", path: "/v1/sys/plugins/catalog"}); status != 200 || len(texts(b.data()["secret"])) != 0 {
		t.Errorf("catalog: %d %v", status, b)
	}
}
