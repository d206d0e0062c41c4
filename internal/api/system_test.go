package api

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/health"
)

func TestState(t *testing.T) {
	n := startNode(t, nil)
	var broken error
	n.health.Register("journal", health.Readiness, func() error { return broken })
	for _, tt := range []struct {
		name   string
		q      ask
		broken error
		status int
		want   map[string]any
	}{
		{"health", ask{method: "GET", path: "/v1/sys/health"}, nil, 200, map[string]any{"initialized": true, "sealed": false, "standby": false, "version": "1.2.3",
			"performance_standby": false, "replication_performance_mode": "disabled", "replication_dr_mode": "disabled", "enterprise": false}},
		{"health in a namespace", ask{method: "GET", path: "/v1/ns1/sys/health"}, nil, 200, map[string]any{"sealed": false}},
		{"health with a bad token", ask{method: "GET", path: "/v1/sys/health", token: "nope"}, nil, 200, map[string]any{"sealed": false}},
		{"health, status wanted", ask{method: "GET", path: "/v1/sys/health?activecode=299&sealedcode=298&uninitcode=1&standbycode=299"}, nil, 299, map[string]any{"sealed": false}},
		{"health, no status", ask{method: "GET", path: "/v1/sys/health?activecode=abc"}, nil, 400, nil},
		{"health, impossible status", ask{method: "GET", path: "/v1/sys/health?activecode=99"}, nil, 400, nil},
		{"health, status without a body", ask{method: "GET", path: "/v1/sys/health?activecode=204"}, nil, 204, nil},
		{"health broken", ask{method: "GET", path: "/v1/sys/health"}, errors.New("disk full"), 503, map[string]any{"sealed": true, "initialized": true}},
		{"health broken, status wanted", ask{method: "GET", path: "/v1/sys/health?sealedcode=298"}, errors.New("disk full"), 298, map[string]any{"sealed": true}},
		{"health with POST", ask{method: "POST", path: "/v1/sys/health"}, nil, 405, nil},
		{"seal-status", ask{method: "GET", path: "/v1/sys/seal-status"}, nil, 200, map[string]any{"type": "none", "initialized": true, "sealed": false, "t": 1.0, "n": 1.0,
			"progress": 0.0, "nonce": "", "version": "1.2.3", "build_date": "", "migration": false, "recovery_seal": false, "storage_type": "jetstream"}},
		{"seal-status broken", ask{method: "GET", path: "/v1/sys/seal-status"}, errors.New("disk full"), 200, map[string]any{"sealed": true}},
		{"leader", ask{method: "GET", path: "/v1/sys/leader"}, nil, 200, map[string]any{"ha_enabled": false, "is_self": false, "active_time": "0001-01-01T00:00:00Z",
			"leader_address": "", "leader_cluster_address": "", "performance_standby": false, "performance_standby_last_remote_wal": 0.0}},
		{"init", ask{method: "GET", path: "/v1/sys/init"}, nil, 200, map[string]any{"initialized": true}},
		{"init again", ask{method: "PUT", path: "/v1/sys/init", body: `{"secret_shares":1,"secret_threshold":1}`}, nil, 400, nil},
	} {
		for _, token := range []string{"-", tt.q.token} {
			t.Run(tt.name, func(t *testing.T) {
				broken = tt.broken
				tt.q.token = token
				status, b := n.do(tt.q)
				if status != tt.status {
					t.Fatalf("%d %v, want %d", status, b, tt.status)
				}
				if status >= 400 && status < 500 && len(b.errors()) != 1 {
					t.Errorf("got %v", b)
				}
				for name, want := range tt.want {
					if b[name] != want {
						t.Errorf("%s is %v, want %v", name, b[name], want)
					}
				}
			})
		}
	}
	broken = nil
	if got := n.must(ask{method: "GET", path: "/v1/sys/health"})["server_time_utc"].(float64); time.Since(time.Unix(int64(got), 0)).Abs() > time.Minute {
		t.Errorf("server_time_utc is %v", got)
	}
	if status, raw, _ := n.try(ask{method: "HEAD", path: "/v1/sys/health?activecode=299", token: "-"}); status != 299 || len(raw) != 0 {
		t.Errorf("HEAD: %d %q", status, raw)
	}
}

func TestMounts(t *testing.T) {
	n := startNode(t, func(o *Options) { o.Logins = logins(&issuer{}) })
	n.newToken(`{"id":"limited","policies":["default"]}`)
	n.putPolicy("", "reader", `path "sys/mounts" { capabilities = ["read"] }`)
	n.newToken(`{"id":"reader","policies":["reader"]}`)
	describes := []string{"accessor", "config", "description", "external_entropy_access", "local", "options", "plugin_version",
		"running_plugin_version", "running_sha256", "seal_wrap", "type", "uuid"}
	preflight := func(path string) string {
		return fmt.Sprintf("preflight capability check returned 403, please ensure client's policies grant access to path %q", path)
	}
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		want   any // error text, keys of data as "a b", or data
	}{
		{"secrets", ask{path: "sys/mounts"}, 200, "sys/"},
		{"secrets of a reader", ask{path: "sys/mounts", token: "reader"}, 200, "sys/"},
		{"auths", ask{path: "sys/auth"}, 200, "jwt/ kubernetes/ token/"},
		{"no right", ask{path: "sys/auth", token: "reader"}, 403, deniedText},
		{"all", ask{path: "sys/internal/ui/mounts"}, 200, "auth secret"},
		{"all, limited", ask{path: "sys/internal/ui/mounts", token: "limited"}, 200, "auth secret"},
		{"all, without token", ask{path: "sys/internal/ui/mounts", token: "-"}, 200, map[string]any{"auth": map[string]any{}, "secret": map[string]any{}}},
		{"all, bad token", ask{path: "sys/internal/ui/mounts", token: "nope"}, 403, badText},
		{"sys", ask{path: "sys/internal/ui/mounts/sys", token: "limited"}, 200, strings.Join(describes, " ") + " path"},
		{"below sys", ask{path: "sys/internal/ui/mounts/sys/policies/acl"}, 200, strings.Join(describes, " ") + " path"},
		{"tokens", ask{path: "sys/internal/ui/mounts/auth/token/create"}, 200, strings.Join(describes, " ") + " path"},
		{"of kv", ask{path: "sys/internal/ui/mounts/secret/data/app"}, 403, preflight("secret/data/app/")},
		{"of kv, limited", ask{path: "sys/internal/ui/mounts/secret", token: "limited"}, 403, preflight("secret/")},
		{"of kv, without token", ask{path: "sys/internal/ui/mounts/secret", token: "-"}, 403, "permission denied"},
		{"of kv, bad token", ask{path: "sys/internal/ui/mounts/secret", token: "nope"}, 403, badText},
		{"looks like sys", ask{path: "sys/internal/ui/mounts/system"}, 403, preflight("system/")},
		{"experiments", ask{path: "sys/experiments"}, 200, map[string]any{"available": []any{"events.alpha1"}, "enabled": []any{"events.alpha1"}}},
		{"experiments, limited", ask{path: "sys/experiments", token: "limited"}, 403, deniedText},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.q.method, tt.q.path = "GET", "/v1/"+tt.q.path
			status, b := n.do(tt.q)
			if status != tt.status {
				t.Fatalf("%d %v, want %d", status, b, tt.status)
			}
			switch want := tt.want.(type) {
			case map[string]any:
				if !reflect.DeepEqual(b.data(), want) {
					t.Errorf("data %v, want %v", b.data(), want)
				}
			case string:
				if status != 200 {
					if !slices.Equal(b.errors(), []string{want}) {
						t.Errorf("errors %q, want %q", b.errors(), want)
					}
					return
				}
				wanted := strings.Fields(want)
				slices.Sort(wanted)
				if got := slices.Sorted(maps.Keys(b.data())); !slices.Equal(got, wanted) {
					t.Errorf("data has %q, want %q", got, wanted)
				}
			}
		})
	}
	if b := n.must(ask{method: "GET", path: "/v1/sys/internal/ui/mounts/auth/kubernetes/login"}); b.data()["path"] != "kubernetes/" || b.data()["type"] != "jwt" {
		t.Errorf("got %v", b)
	}
}

func TestUnknownPaths(t *testing.T) {
	n := startNode(t, func(o *Options) { o.Logins = logins(&issuer{}) })
	n.newToken(`{"id":"limited","policies":["default"]}`)
	const unsupported, operation = "1 error occurred:\n\t* unsupported path\n\n", "1 error occurred:\n\t* unsupported operation\n\n"
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		text   string
	}{
		{"below sys", ask{path: "/v1/sys/nosuch"}, 404, unsupported},
		{"below sys, limited", ask{path: "/v1/sys/nosuch", token: "limited"}, 403, deniedText},
		{"below sys, bad token", ask{path: "/v1/sys/nosuch", token: "nope"}, 403, badText},
		{"below sys, no token", ask{path: "/v1/sys/nosuch", token: "-"}, 403, "permission denied"},
		{"of tokens", ask{path: "/v1/auth/token/nosuch"}, 404, unsupported},
		{"tokens", ask{path: "/v1/auth/token"}, 404, unsupported},
		{"slash behind", ask{path: "/v1/auth/token/lookup-self/"}, 404, unsupported},
		{"other login", ask{method: "POST", path: "/v1/auth/userpass/login/x"}, 404, `no handler for route "auth/userpass/login/x". route entry not found.`},
		{"other login, no token", ask{method: "POST", path: "/v1/auth/userpass/login", token: "-"}, 403, "permission denied"},
		{"secrets", ask{path: "/v1/secret/data/app"}, 404, `no handler for route "secret/data/app". route entry not found.`},
		{"secrets in a namespace", ask{path: "/v1/ns1/secret/data/app", header: map[string]string{"X-Vault-Namespace": "ns0"}}, 404, `no handler for route "ns0/ns1/secret/data/app". route entry not found.`},
		{"nothing", ask{path: "/v1/"}, 404, `no handler for route "". route entry not found.`},
		{"resultant ACL", ask{path: "/v1/sys/internal/ui/resultant-acl"}, 404, unsupported},
		{"DELETE", ask{method: "DELETE", path: "/v1/auth/token/lookup-self"}, 405, operation},
		{"OPTIONS", ask{method: "OPTIONS", path: "/v1/auth/token/lookup-self"}, 405, operation},
		{"GET of a login", ask{path: "/v1/auth/jwt/login"}, 405, operation},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.q.method == "" {
				tt.q.method = "GET"
			}
			if status, b := n.do(tt.q); status != tt.status || !slices.Equal(b.errors(), []string{tt.text}) {
				t.Errorf("%d %q, want %d %q", status, b.errors(), tt.status, tt.text)
			}
		})
	}
	if status, b := n.do(ask{method: "FOO", path: "/v1/auth/token/lookup-self"}); status != 405 || len(b.errors()) != 0 || b["errors"] == nil {
		t.Errorf("unknown method: %d %v", status, b)
	}
	if status, raw, _ := n.try(ask{method: "HEAD", path: "/v1/auth/token/lookup-self"}); status != 405 || len(raw) != 0 {
		t.Errorf("HEAD: %d %q", status, raw)
	}
	for path, location := range map[string]string{"/v1//auth/token/lookup-self": "/v1/auth/token/lookup-self", "/v1/a/../sys/mounts": "/v1/sys/mounts", "/v1": "/v1/"} {
		if status, _, header := n.try(ask{method: "GET", path: path}); status != 307 || header.Get("Location") != location {
			t.Errorf("%s: %d to %q", path, status, header.Get("Location"))
		}
	}
}
