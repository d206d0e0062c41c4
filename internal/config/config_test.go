package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// full is a file that sets every field to something else than its default.
const full = `
node: hub-1
listen:
  address: 0.0.0.0:9000
  tls: {cert_file: /etc/tocsin/cert.pem, key_file: /etc/tocsin/key.pem, client_auth: require, client_ca_file: /etc/tocsin/ca.pem}
  dangerously_send_tokens_unencrypted: true
  allowed_origins: ["*.example.com"]
  max_connections: 500
  max_connections_per_address: 0
  failed_logins: {max: 5, per: 1m}
data_dir: /srv/tocsin
journal:
  max_age: 1d12h
  max_bytes: 0
  pending_bytes: 32MiB
  cache_bytes: 1GB
limits:
  max_event: 2MiB
  max_type: 128
  max_metadata: 32 KiB
  max_metadata_keys: 64
subscriptions: {max: 5, memory_bytes: 8MiB}
auth:
  root_token: {file: /run/secrets/root}
  default_ttl: 1h
  max_ttl: 1d
  upstream:
    address: http://vault.internal:8200
    insecure_allow_http: true
    namespace: ns1
    ca_file: /etc/tocsin/vault-ca.pem
    server_name: vault
    cert_file: /etc/tocsin/client.pem
    key_file: /etc/tocsin/client-key.pem
    proxy_url: http://proxy:3128
    timeout: 2s
    recheck: 1m
    patience: 0
    allow_root: true
  jwt:
    - name: kubernetes
      issuer: https://kubernetes.default.svc.cluster.local
      discovery_url: http://api.internal:6443
      ca_file: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
      bearer_token_file: /var/run/secrets/kubernetes.io/serviceaccount/token
      insecure_allow_http: true
      proxy_url: http://proxy:3128
      timeout: 1s
      key_refresh: 1m
      patience: 2h
      audiences: [tocsin, other]
      algorithms: [ES256]
      leeway: 0
      max_lifetime: 0
      user_claim: /kubernetes.io/serviceaccount/name
      groups_claim: groups
      metadata: {/kubernetes.io/namespace: namespace, email: email}
      namespace: team1
      policies:
        - when: {/kubernetes.io/namespace: app-*, email_verified: true, level: 3}
          policies: [team-app, other]
        - {when: {sub: admin}, policies: [operator]}
      default_policies: [default]
    - {name: a, issuer: https://a.example, audiences: [tocsin], default_policies: [a]}
    - {name: b, issuer: b, audiences: [tocsin], default_policies: [b], jwks_url: "http://[::1]/keys"}
    - {name: c, issuer: c, audiences: [tocsin], default_policies: [c], jwks_file: keys.json}
    - {name: d, issuer: d, audiences: [tocsin], default_policies: [d], public_key_files: [d1.pem, d2.pem]}
sources:
  - name: vault
    path: /var/log/vault/audit.log
    from: end
    keep_raw: true
    hold_uncertain: true
    omit_caller: true
    max_line: 1MiB
    kv_versions: {secret/: 2, ns1/legacy: 1}
  - name: bao-2
    type: vault_audit_file
    path: "/var/log/bao.log"
publish:
  deduplicate: {window: 1h, max_ids: 5000}
  secrets:
    action: mask
    actions: {jwt: refuse, secret-name: allow}
    except_types: [legacy/*]
    detectors:
      - {name: acme, pattern: 'acme_[a-z0-9]{32}', action: refuse}
      - {name: staff, pattern: 'staff-\d{6}'}
  types:
    - type: shop/order
      description: An order was made or paid.
      metadata: {order: number of the order}
      schema_file: /etc/tocsin/order.json
      mode: refuse
    - {type: shop/*, description: Something of the shop.}
traces:
  window: 1m
  memory_bytes: 8MiB
  names: [{path: 'kv/data/{team}/{rest...}', name: 'kv/data/{team}/…'}]
  max_names: 50
  attributes: {allow: [request.*], deny: ['*token*'], max_text: 64, max_elements: 3, max_count: 20, omit_hashed: true}
  redact: [{attribute: error, pattern: 'hvs\.\w+', replace: '<token>'}]
  resource: {deployment.environment.name: production}
  exporters:
    - name: zipkin
      type: zipkin
      url: http://zipkin.internal:9411
      compression: none
      timeout: 5s
      sample: 12.5%
      keep_errors: false
      keep_slow: 200ms
      follow_caller: true
      from: start
      batch: {spans: 10, bytes: 64KiB, delay: 5s}
      in_flight: 2
    - name: tempo
      type: otlp_http
      url: https://tempo.example/otlp/v1/traces
      encoding: json
      headers: [{name: X-Scope-OrgID, value: team1}, {name: Authorization, secret: {file: /etc/tocsin/tempo}}]
      tls: {ca_file: ca.pem, server_name: tempo, cert_file: cert.pem, key_file: key.pem}
      proxy_url: http://proxy:3128
      sample: 0.001
    - {name: collector, type: otlp_grpc, url: "http://collector:4317", headers: [{name: key, secret: {env: KEY}}], insecure_allow_http: true}
    - {name: hc, type: honeycomb, api_key: {env: HONEYCOMB_API_KEY}, dataset: vault, region: eu}
    - {name: out, type: stdout, format: otlp}
delivery:
  allow: [10.1.2.0/24, alerts.internal, "::1"]
  proxy_url: http://proxy:3128
  files_below: /var/spool/tocsin
  secrets_key: {file: /etc/tocsin/sinks-key}
  attempts: 50
  dead_letter_bytes: 1GiB
  max_sinks: 20
  stop_timeout: 5s
sinks:
  - name: archive
    type: file
    disabled: true
    events: {types: [kv-v2/*], pairs: ['flag:*'], namespaces: [root, team-*], filter: 'operation == "write"'}
    from: start
    order: all
    concurrency: 1
    batch: {events: 1000, bytes: 4MiB, delay: 0}
    retry: {first: 2s, most: 1h, attempts: 10, give_up: 0, max_age: 7d}
    rate: {events: 100, per: 1m}
    timeout: 5s
    file: {path: /var/log/tocsin/events.jsonl, format: raw, mode: "0600", sync: always, rotate_bytes: 100MiB, rotate_age: 1d, keep: 7, keep_age: 30d, gzip: true}
  - {name: out, type: stdout, order: none, stdout: {format: pretty}}
  - {name: hook, type: webhook, webhook: {url: "https://hooks.example.com/tocsin", allow: [hooks.example.com], signing_keys: [{file: /etc/tocsin/hook-key}]}}
plugins:
  storage_key: {file: /etc/tocsin/plugin-key}
  directory: /usr/lib/tocsin/plugins
  start_timeout: 10s
  request_timeout: 30s
  sources:
    - {name: audit, library: /usr/lib/falco/libk8saudit.so, sha256: 0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b,
       config: {sslCertificate: "", limits: {max: 10, ratio: 0.5, big: 18446744073709551615}, hosts: [a, 1, true, null], when: 2026-01-02}, open: "http://:9765/k8s-audit",
       namespace: team-a, path: k8s/audit, restart: always, max_pause: 1h, max_event: 1MiB, max_memory: 1GiB, start_timeout: 5s, call_timeout: 7s}
    - {command: /opt/plugins/weather, args: [-v], env: {A: b}, pass_env: [TOKEN], config: verbose, open: {city: Bern}, restart: never}
    - {library: /usr/lib/falco/libjson.so, extract_only: true}
  mounts:
    - {path: secret, type: secret, namespace: ns1, name: kv, command: /usr/lib/tocsin/plugins/vault-plugin-secrets-kv, args: [-v], env: {A: b}, pass_env: [TOKEN],
       sha256: 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a, version: v0.25.0, description: for tests, options: {version: "2"},
       default_lease_ttl: 1h, max_lease_ttl: 24h}
    - {path: legacy, name: kv}
    - {path: users, type: auth, command: /x/vault-plugin-auth-users, reload_on_change: true, login_policies: ["team-*"]}
rules:
  builtin: [vault]
  files: [/etc/tocsin/rules.d, rules/own.yaml]
  priority: notice
  matching: all
  select: [{disable: {rule: "*"}}, {enable: {tag: vault}}]
  strict_lists: true
  time_zone: UTC
  from: start
  reload: 10s
  patience: 5m
audit_metrics: {enabled: false, max_series: 500, buckets: [1ms, 1s]}
log: {level: debug, format: json}
`

func fullConfig() Config {
	jwt := func(name string, change func(*JWT)) JWT {
		j := DefaultJWT()
		j.Name, j.Issuer, j.Audiences, j.DefaultPolicies = name, name, []string{"tocsin"}, []string{name}
		change(&j)
		return j
	}
	return Config{
		Node: "hub-1",
		Listen: Listen{
			Address:         "0.0.0.0:9000",
			TLS:             TLS{CertFile: "/etc/tocsin/cert.pem", KeyFile: "/etc/tocsin/key.pem", ClientAuth: ClientAuthRequire, ClientCAFile: "/etc/tocsin/ca.pem"},
			SendUnencrypted: true, AllowedOrigins: []string{"*.example.com"},
			MaxConnections: 500, FailedLogins: FailedLogins{Max: 5, Per: Duration(time.Minute)},
		},
		DataDir:       "/srv/tocsin",
		Journal:       Journal{MaxAge: Duration(36 * time.Hour), PendingBytes: 32 << 20, CacheBytes: 1e9},
		Limits:        EventLimits{MaxEvent: 2 << 20, MaxType: 128, MaxMetadata: 32 << 10, MaxMetadataKeys: 64},
		Subscriptions: Subscriptions{Max: 5, MemoryBytes: 8 << 20},
		Auth: Auth{
			RootToken: SecretFromFile("/run/secrets/root"), DefaultTTL: Duration(time.Hour), MaxTTL: Duration(24 * time.Hour),
			Upstream: Upstream{
				Address: "http://vault.internal:8200", InsecureAllowHTTP: true, Namespace: "ns1", CAFile: "/etc/tocsin/vault-ca.pem", ServerName: "vault",
				CertFile: "/etc/tocsin/client.pem", KeyFile: "/etc/tocsin/client-key.pem", ProxyURL: "http://proxy:3128",
				Timeout: Duration(2 * time.Second), Recheck: Duration(time.Minute), AllowRoot: true,
			},
			JWT: []JWT{
				{
					Name: "kubernetes", Issuer: "https://kubernetes.default.svc.cluster.local", DiscoveryURL: "http://api.internal:6443",
					CAFile: "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", BearerTokenFile: "/var/run/secrets/kubernetes.io/serviceaccount/token",
					InsecureAllowHTTP: true, ProxyURL: "http://proxy:3128", Timeout: Duration(time.Second), KeyRefresh: Duration(time.Minute), Patience: Duration(2 * time.Hour),
					Audiences: []string{"tocsin", "other"}, Algorithms: []string{"ES256"}, UserClaim: "/kubernetes.io/serviceaccount/name", GroupsClaim: "groups",
					Metadata: Texts{"/kubernetes.io/namespace": "namespace", "email": "email"}, Namespace: "team1",
					Policies: []Rule{
						{When: Texts{"/kubernetes.io/namespace": "app-*", "email_verified": "true", "level": "3"}, Policies: []string{"team-app", "other"}},
						{When: Texts{"sub": "admin"}, Policies: []string{"operator"}},
					},
					DefaultPolicies: []string{"default"},
				},
				jwt("a", func(j *JWT) { j.Issuer = "https://a.example" }),
				jwt("b", func(j *JWT) { j.JWKSURL = "http://[::1]/keys" }),
				jwt("c", func(j *JWT) { j.JWKSFile = "keys.json" }),
				jwt("d", func(j *JWT) { j.PublicKeyFiles = []string{"d1.pem", "d2.pem"} }),
			},
		},
		Sources: []Source{
			source("vault", func(s *Source) {
				s.Path, s.From, s.KeepRaw, s.HoldUncertain, s.OmitCaller = "/var/log/vault/audit.log", FromEnd, true, true, true
				s.MaxLine, s.KVVersions = 1<<20, Versions{"secret/": 2, "ns1/legacy/": 1}
			}),
			source("bao-2", func(s *Source) { s.Path = "/var/log/bao.log" }),
		},
		Publish: Publish{
			Deduplicate: Deduplicate{Duration(time.Hour), 5000},
			Secrets: Secrets{
				Action: "mask", Actions: Texts{"jwt": "refuse", "secret-name": "allow"}, ExceptTypes: []string{"legacy/*"},
				Detectors: []OwnSecret{{"acme", `acme_[a-z0-9]{32}`, "refuse"}, {"staff", `staff-\d{6}`, "default"}},
			},
			Types: []EventType{
				{"shop/order", "An order was made or paid.", Texts{"order": "number of the order"}, "/etc/tocsin/order.json", "refuse"},
				{Type: "shop/*", Description: "Something of the shop.", Mode: "warn"},
			},
		},
		Traces:   fullTraces(),
		Delivery: fullDelivery(),
		Sinks:    fullSinks(),
		Rules: Rules{
			Builtin: []RuleSet{RulesVault}, Files: []string{"/etc/tocsin/rules.d", "rules/own.yaml"}, Priority: "notice", Matching: RulesAll,
			Select:      []RuleSelection{{Disable: RulePattern{Rule: "*"}}, {Enable: RulePattern{Tag: "vault"}}},
			StrictLists: true, TimeZone: "UTC", From: FromStart, Reload: Duration(10 * time.Second), Patience: Duration(5 * time.Minute),
		},
		AuditMetrics: AuditMetrics{MaxSeries: 500, Buckets: []Duration{Duration(time.Millisecond), Duration(time.Second)}},
		Plugins:      fullPlugins(),
		Log:          Log{Level: "debug", Format: "json"},
	}
}

// source returns a source with other fields than the default.
func source(name string, set func(*Source)) Source {
	s := DefaultSource()
	s.Name = name
	set(&s)
	return s
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Config
	}{
		{"empty", "", Default()},
		{"comments only", "# nothing\n---\n", Default()},
		{"null sections", "journal:\nsources:\nlisten:\n  tls:\n", Default()},
		{"every field", full, fullConfig()},
		{"no root token", "auth: {root_token: {}}\n", func() Config { c := Default(); c.Auth.RootToken = Secret{}; return c }()},
		{"no texts", "auth: {jwt: [{name: a, issuer: 'https://a', audiences: [a], default_policies: [a], metadata: , policies: }]}\n", func() Config {
			c, j := Default(), DefaultJWT()
			j.Name, j.Issuer, j.Audiences, j.DefaultPolicies = "a", "https://a", []string{"a"}, []string{"a"}
			c.Auth.JWT = []JWT{j}
			return c
		}()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse("tocsin.yaml", []byte(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

// jwtLine is an element of auth.jwt that is complete but for a name.
func jwtLine(fields string) string {
	return "    - {" + fields + ", issuer: 'https://a', audiences: [a], default_policies: [a]}\n"
}

func TestProblems(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"near key", "jurnal:\n  max_age: 1d\n", `t.yaml:1:1: unknown key "jurnal" here; did you mean "journal"?`},
		{"near key inside", "journal:\n  maxage: 1d\n", `t.yaml:2:3: unknown key "maxage" in journal; did you mean "max_age"?`},
		{"key of another section", "max_age: 1d\n", `t.yaml:1:1: unknown key "max_age" here; did you mean journal.max_age or sinks[].retry.max_age?`},
		{"key of nothing", "log: {zzzzzz: 1}\n", `t.yaml:1:7: unknown key "zzzzzz" in log; known are level, format`},
		{"merge key", "log: {<<: {level: info}}\n", `t.yaml:1:7: unknown key "<<" in log; known are level, format`},
		{"key twice", "log:\n  level: info\n  level: warn\n", `t.yaml:3:3: log.level: is set a second time; the first is in line 2`},
		{"key not text", "? [a]\n: b\n", `t.yaml:1:3: a key must be text, but is a list`},
		{"root is a list", "- a\n", `t.yaml:1:1: must be a section with keys, but is a list`},
		{"root is text", "hello\n", `t.yaml:1:1: must be a section with keys, but is "hello"`},
		{"section is text", "journal: 5\n", `t.yaml:1:10: journal: must be a section with keys, but is "5"`},
		{"list of numbers", "listen: {allowed_origins: [a, 5]}\n", `t.yaml:1:31: listen.allowed_origins[1]: must be text, but is "5"; put it into quotes if it is meant`},
		{"pattern", "listen: {allowed_origins: ['[a']}\n", `t.yaml:1:28: listen.allowed_origins[0]: "[a" is not a pattern: syntax error in pattern`},
		{"list is text", "sources: x\n", `t.yaml:1:10: sources: must be a list (lines that begin with "- "), but is "x"`},
		{"text is number", "data_dir: 5\n", `t.yaml:1:11: data_dir: must be text, but is "5"; put it into quotes if it is meant`},
		{"text is list", "data_dir: [a]\n", `t.yaml:1:11: data_dir: must be text, but is a list`},
		{"no value", "data_dir:\n", `t.yaml:1:10: data_dir: has no value; give it one, or remove the key to use the default "/var/lib/tocsin"`},
		{"bool", "sources: [{name: a, path: p, keep_raw: yes please}]\n", `t.yaml:1:40: sources[0].keep_raw: must be true or false, but is "yes please"`},
		{"whole number", "limits:\n  max_metadata_keys: 1.5\n", `t.yaml:2:22: limits.max_metadata_keys: must be a whole number, but is "1.5"`},
		{"too small", "limits: {max_metadata_keys: 1}\n", `t.yaml:1:29: limits.max_metadata_keys: 1 is too small; the least is 8`},
		{"too large", "limits: {max_event: 1GiB}\n", "t.yaml:1:21: limits.max_event: 1GiB is too large; the most is 8MiB"},
		{"duration", "journal: {max_age: soon}\n", `t.yaml:1:20: journal.max_age: "soon" is not a duration; write for example 90s, 12h or 30d`},
		{"short duration", "journal: {max_age: 1s}\n", `t.yaml:1:20: journal.max_age: 1s is too small; the least is 1m, or 0 for no limit`},
		{"size", "journal: {max_bytes: 10 parsecs}\n", `t.yaml:1:22: journal.max_bytes: "10 parsecs" is not a size; write for example 512KiB, 64MiB or 10GB`},
		{"enumeration", "log: {level: warning}\n", `t.yaml:1:14: log.level: "warning" is not one of debug, info, warn, error`},
		{"near enumeration", "log: {level: wran}\n", `t.yaml:1:14: log.level: "wran" is not one of debug, info, warn, error; did you mean "warn"?`},
		{"alias", "log: &a {level: info}\nlisten: *a\n", `t.yaml:2:9: listen: anchors and aliases are not supported; write the value here`},
		{"alias cycle", "sources: &a [*a]\n", `t.yaml:1:14: sources[0]: anchors and aliases are not supported; write the value here`},
		{"secret in file", "auth: {root_token: hvs.verysecret}\n", `t.yaml:1:20: auth.root_token: secrets are not written into the configuration; write {env: NAME} or {file: PATH}`},
		{"secret null", "auth: {root_token: }\n", `t.yaml:1:20: auth.root_token: secrets are not written into the configuration; write {env: NAME} or {file: PATH}`},
		{"secret twice", "auth: {root_token: {env: A, file: b}}\n", `t.yaml:1:20: auth.root_token: env and file are both set; keep one`},
		{"secret key", "auth: {root_token: {evn: A}}\n", `t.yaml:1:21: auth.root_token: unknown key "evn"; secrets are not written into the configuration; write {env: NAME} or {file: PATH}`},
		{"secret number", "auth: {root_token: {env: 5}}\n", `t.yaml:1:26: auth.root_token.env: must be text, but is "5"`},
		{"address", "listen: {address: localhost}\n", `t.yaml:1:19: listen.address: "localhost" is not an address; write host:port, for example 127.0.0.1:8280`},
		{"port", "listen: {address: 'localhost:70000'}\n", `t.yaml:1:19: listen.address: "localhost:70000" has no valid port; ports are 0 to 65535`},
		{"half TLS", "listen:\n  tls:\n    cert_file: a\n", `t.yaml:3:5: listen.tls: cert_file is set but key_file is not; TLS needs both`},
		{"other half of TLS", "listen:\n  tls:\n    key_file: a\n", `t.yaml:3:5: listen.tls: key_file is set but cert_file is not; TLS needs both`},
		{"unencrypted", "listen: {address: '0.0.0.0:8280'}\n", `t.yaml:1:19: listen.address: "0.0.0.0:8280" can be reached from other machines, and without TLS everybody on the way can read the tokens; ` +
			`set listen.tls, or listen on 127.0.0.1 behind something that encrypts, or, if the network itself does, set listen.dangerously_send_tokens_unencrypted to true`},
		{"client certificates of whom", "listen:\n  tls: {cert_file: a, key_file: b, client_auth: require}\n", `t.yaml:2:8: listen.tls: client_auth is require but client_ca_file is not set; say who signs the certificates of clients`},
		{"client certificates not asked for", "listen:\n  tls: {cert_file: a, key_file: b, client_ca_file: c}\n", `t.yaml:2:8: listen.tls: client_ca_file has no effect while client_auth is none; set client_auth to optional or require`},
		{"client certificates without TLS", "listen:\n  tls: {client_auth: optional, client_ca_file: c}\n", `t.yaml:2:8: listen.tls: client_auth is optional but there is no TLS; set cert_file and key_file too`},
		{"client auth", "listen:\n  tls: {client_auth: required}\n", `t.yaml:2:22: listen.tls.client_auth: "required" is not one of none, optional, require; did you mean "require"?`},
		{"failed logins", "listen: {failed_logins: {max: 3, per: 10ms}}\n", `t.yaml:1:39: listen.failed_logins.per: 10ms is too small; the least is 1s`},
		{"node", "node: a b\n", `t.yaml:1:7: node: "a b" must be at most 64 printable ASCII characters without spaces`},
		{"data dir", "data_dir: ''\n", `t.yaml:1:11: data_dir: is empty; name a directory`},
		{"token times", "auth: {default_ttl: 2d, max_ttl: 1d}\n", `t.yaml:1:21: auth.default_ttl: 2d is more than auth.max_ttl, which is 1d`},
		{"upstream without address", "auth: {upstream: {ca_file: a}}\n", `t.yaml:1:18: auth.upstream: has no address, so the rest of it has no effect; add for example "address: https://vault.example.com:8200"`},
		{"proxy without upstream", "auth: {upstream: {proxy_url: \"http://proxy.example:3128\"}}\n", `t.yaml:1:18: auth.upstream: has no address, so the rest of it has no effect; add for example "address: https://vault.example.com:8200"`},
		{"upstream without scheme", "auth: {upstream: {address: 'vault:8200'}}\n", `t.yaml:1:28: auth.upstream.address: "vault:8200" has no https:// or no host; write it like https://vault.example.com:8200`},
		{"upstream unencrypted", "auth: {upstream: {address: 'http://vault:8200'}}\n", `t.yaml:1:28: auth.upstream.address: "http://vault:8200" is not encrypted; use https, or set insecure_allow_http if the network is yours alone`},
		{"upstream with a password", "auth: {upstream: {address: 'https://u:pw@vault'}}\n", `t.yaml:1:28: auth.upstream.address: has a user in it; leave that out`},
		{"upstream proxy with a password", "auth: {upstream: {address: 'https://vault', proxy_url: 'http://u:pw@p'}}\n", `t.yaml:1:56: auth.upstream.proxy_url: has a user in it; secrets are not written into the configuration`},
		{"upstream proxy", "auth: {upstream: {address: 'https://vault', proxy_url: 'p:1'}}\n", `t.yaml:1:56: auth.upstream.proxy_url: is not a URL; write one like http://proxy.example.com:3128`},
		{"half a client certificate", "auth: {upstream: {address: 'https://vault', cert_file: a}}\n", `t.yaml:1:18: auth.upstream: cert_file and key_file belong together; set both, or none`},
		{"upstream times", "auth: {upstream: {address: 'http://[::1]:8200', recheck: 0, patience: 500ms}}\n", "t.yaml:1:58: auth.upstream.recheck: 0 is too small; the least is 1s\nt.yaml:1:71: auth.upstream.patience: 500ms is too small; the least is 1s, or 0 for not at all"},
		{"jwt with nothing", "auth:\n  jwt:\n    - {}\n", strings.Join([]string{
			`t.yaml:3:7: auth.jwt[0]: has no name; add for example "name: kubernetes"`,
			`t.yaml:3:7: auth.jwt[0]: has no issuer; add "issuer:" with the claim iss of its tokens`,
			`t.yaml:3:7: auth.jwt[0]: has no audiences; add "audiences: [NAME]", so that tokens made for others are not accepted`,
			`t.yaml:3:7: auth.jwt[0]: has neither policies nor default_policies, so its tokens could do nothing; add "policies: [{when: {sub: NAME}, policies: [NAME]}]"`,
		}, "\n")},
		{"jwt names", "auth:\n  jwt:\n" + jwtLine("name: a") + jwtLine("name: a") + jwtLine("name: token") + jwtLine("name: A"), strings.Join([]string{
			`t.yaml:4:14: auth.jwt[1].name: "a" is already the name of auth.jwt[0]`,
			`t.yaml:5:14: auth.jwt[2].name: "token" is taken by the program; choose another one`,
			`t.yaml:6:14: auth.jwt[3].name: "A" must be 1 to 63 lower-case letters, digits, - and _, and begin with a letter or digit`,
		}, "\n")},
		{"jwt keys from everywhere", "auth:\n  jwt:\n" + jwtLine("name: a, jwks_file: a, discovery_url: 'https://a'"), `t.yaml:3:7: auth.jwt[0]: discovery_url and jwks_file are set; keep one`},
		{"jwt keys unencrypted", "auth:\n  jwt:\n" + jwtLine("name: a, jwks_url: 'http://a'"), `t.yaml:3:27: auth.jwt[0].jwks_url: "http://a" is not encrypted; use https, or set insecure_allow_http if the network is yours alone`},
		{"jwt algorithm", "auth:\n  jwt:\n" + jwtLine("name: a, algorithms: [RS256, none]"), `t.yaml:3:37: auth.jwt[0].algorithms[1]: "none" is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA`},
		{"jwt patience", "auth:\n  jwt:\n" + jwtLine("name: a, patience: 1m, user_claim: ''"), "t.yaml:3:27: auth.jwt[0].patience: 1m is less than key_refresh, which is 5m\nt.yaml:3:43: auth.jwt[0].user_claim: is empty; name a claim, usually sub"},
		{"jwt issuer is no URL", "auth: {jwt: [{name: a, issuer: mine, audiences: [a], default_policies: [a]}]}\n", `t.yaml:1:32: auth.jwt[0].issuer: "mine" has no https:// or no host; write it like https://vault.example.com:8200; its keys are looked for there, so set discovery_url, jwks_url, jwks_file or public_key_files if they are elsewhere`},
		{"jwt rules", "auth:\n  jwt:\n" + jwtLine("name: a, policies: [{policies: [a]}, {when: {a: b}}, {when: {a: [b], c: }, policies: [a]}, {when: sub, policies: [a]}]"), strings.Join([]string{
			`t.yaml:3:28: auth.jwt[0].policies[0]: has no when, so it would match every token; use default_policies for that`,
			`t.yaml:3:45: auth.jwt[0].policies[1]: has no policies; add "policies: [NAME]"`,
			`t.yaml:3:72: auth.jwt[0].policies[2].when: the value of "a" must be text, but is a list`,
			`t.yaml:3:80: auth.jwt[0].policies[2].when: the value of "c" must be text, but is empty`,
			`t.yaml:3:106: auth.jwt[0].policies[3].when: must map names to texts, for example {sub: app}, but is "sub"`,
		}, "\n")},
		{"metadata beyond event", "limits: {max_event: 16KiB}\n", `t.yaml:1:9: limits.max_metadata: 64KiB is more than the whole event may have (limits.max_event is 16KiB)`},
		{"pending beyond event", "limits: {max_event: 2MiB}\njournal: {pending_bytes: 1MiB}\n", `t.yaml:2:26: journal.pending_bytes: 1MiB is too small for limits.max_event of 2MiB, which needs at least 8MiB`},
		{"events beyond the default of pending", "limits: {max_event: 8MiB}\n", `t.yaml: journal.pending_bytes: 16MiB is too small for limits.max_event of 8MiB, which needs at least 24MiB`},
		{"journal beyond its events", "journal: {max_bytes: 16MiB}\n", `t.yaml:1:22: journal.max_bytes: 16MiB is too small for limits.max_event of 1MiB, which needs at least 16400KiB, or 0 for no limit`},
		{"nameless source", "sources:\n  - path: a\n", `t.yaml:2:5: sources[0]: has no name; add for example "name: vault"`},
		{"pathless source", "sources:\n  - name: a\n", `t.yaml:2:5: sources[0]: has no path; add "path:" with the audit file`},
		{"flipt without a secret", "sources: [{name: a, type: flipt}]\n", `t.yaml:1:11: sources[0]: has no signing_secrets, so nothing could be received; add the signing_secret of the Flipt server, or say with unsigned who may send without`},
		{"flipt with a path", "sources: [{name: a, type: flipt, unsigned: token, path: p}]\n", `t.yaml:1:57: sources[0].path: is not for sources of type flipt, which receive on listen.address; remove it`},
		{"flipt, who", "sources: [{name: a, type: flipt, unsigned: all}]\n", `t.yaml:1:44: sources[0].unsigned: "all" is not one of refuse, loopback, token`},
		{"signatures of a file", "sources: [{name: a, path: p, unsigned: token}]\n", `t.yaml:1:11: sources[0].signing_secrets: is for sources of type flipt, as is unsigned`},
		{"bad name", "sources: [{name: Böse, path: a}]\n", `t.yaml:1:18: sources[0].name: "Böse" must be 1 to 63 lower-case letters, digits, - and _, and begin with a letter or digit`},
		{"same name", "sources: [{name: a, path: a}, {name: a, path: b}]\n", `t.yaml:1:38: sources[1].name: "a" is already the name of sources[0]`},
		{"same path", "sources: [{name: a, path: a}, {name: b, path: a}]\n", `t.yaml:1:47: sources[1].path: "a" is already read by sources[0]`},
		{"relative socket", "sources: [{name: a, type: vault_audit_socket, address: unix:a}]\n", `t.yaml:1:56: sources[0].address: "a" is not an absolute path; write for example unix:/run/tocsin/audit.sock`},
		{"URL as address", "sources: [{name: a, type: vault_audit_http, address: 'http://127.0.0.1:90/'}]\n", `t.yaml:1:54: sources[0].address: "http" is no kind of address; write for example tcp:127.0.0.1:90`},
		{"the hub's own address", "sources: [{name: a, type: vault_audit_socket, address: tcp:127.0.0.1:8280}]\n", `t.yaml:1:56: sources[0].address: "127.0.0.1:8280" is where the hub itself listens (listen.address); take another port`},
		{"networks of a local socket", "sources: [{name: a, type: vault_audit_socket, address: unix:/a, allow: [10.0.0.1]}]\n", `t.yaml:1:72: sources[0].allow: is for tcp and udp; unix_socket says who may send to a socket of this machine`},
		{"secret in a strange header", "sources: [{name: a, type: vault_audit_http, address: tcp:127.0.0.1:90, secret: {file: a}, secret_header: X Y}]\n", `t.yaml:1:106: sources[0].secret_header: "X Y" is no name of a header`},
		{"same socket", "sources: [{name: a, type: vault_audit_socket, address: unix:/a}, {name: b, type: vault_audit_syslog, address: unix:/a}]\n", `t.yaml:1:111: sources[1].address: "unix:/a" is already read by sources[0]`},
		{"source type", "sources: [{name: a, path: a, type: vault-audit-file}]\n", `t.yaml:1:36: sources[0].type: "vault-audit-file" is not one of vault_audit_file, vault_audit_socket, vault_audit_syslog, vault_audit_http, flipt; did you mean "vault_audit_file"?`},
		{"kv version", "sources: [{name: a, path: a, kv_versions: {secret/: 3}}]\n", `t.yaml:1:53: sources[0].kv_versions.secret/: must be 1 or 2, but is "3"`},
		{"kv versions list", "sources: [{name: a, path: a, kv_versions: [1]}]\n", `t.yaml:1:43: sources[0].kv_versions: must map mount paths to versions, for example {secret/: 2}, but is a list`},
		{"secret action", "publish: {secrets: {action: mask it}}\n", `t.yaml:1:29: publish.secrets.action: "mask it" is not one of refuse, mask, allow`},
		{"secret actions", "publish: {secrets: {actions: {vault-tokens: mask, jwt: hide}}}\n", strings.Join([]string{
			`t.yaml:1:30: publish.secrets.actions: "hide" of "jwt" is not one of refuse, mask, allow`,
			`t.yaml:1:30: publish.secrets.actions: there is no detector "vault-tokens"; did you mean "vault-token"?`,
		}, "\n")},
		{"secret detectors", "publish: {secrets: {detectors: [{name: jwt, pattern: x}, {name: a, pattern: '(?=x)'}, {name: a, pattern: x}, {name: b, pattern: x, action: no}]}}\n", strings.Join([]string{
			`t.yaml:1:33: publish.secrets.detectors[0]: the name is taken by a built-in detector`,
			"t.yaml:1:58: publish.secrets.detectors[1]: the pattern is no regular expression of RE2: invalid or unsupported Perl syntax: \"(?=\"",
			`t.yaml:1:94: publish.secrets.detectors[2].name: "a" is already the name of publish.secrets.detectors[1]`,
			`t.yaml:1:140: publish.secrets.detectors[3].action: "no" is not one of default, refuse, mask, allow`,
		}, "\n")},
		{"detector that finds masks", "publish: {secrets: {detectors: [{name: a, pattern: '[a-z]+'}]}}\n",
			`t.yaml:1:32: publish.secrets.detectors: detector "a": its pattern fits "<masked:vault-token>", which stands where a secret was; make it narrower`},
		{"event types", "publish: {types: [{description: a}, {type: a b, description: x}, {type: a/b}, {type: a/b, schema_file: x}, {type: c, schema_file: x, mode: no}]}\n", strings.Join([]string{
			`t.yaml:1:19: publish.types[0]: has no type; add "type:" with an event type or a pattern of some`,
			`t.yaml:1:44: publish.types[1].type: "a b" is no event type: it has spaces or control characters`,
			`t.yaml:1:66: publish.types[2]: says nothing about "a/b"; add a description or a schema_file`,
			`t.yaml:1:86: publish.types[3].type: "a/b" is already described by publish.types[2]`,
			`t.yaml:1:140: publish.types[4].mode: "no" is not one of warn, refuse`,
		}, "\n")},
		{"key where none can be", "log:\n  level: info\n bad: 1\n", `t.yaml:3: not valid YAML: did not find expected key`},
		{"syntax", "log:\n  level: [info\nlisten: 5\n", "t.yaml:2: not valid YAML: did not find expected ',' or ']'"},
		{"tab", "log:\n\tlevel: info\n", `t.yaml:2: not valid YAML: found character that cannot start any token`},
		{"second document", "log: {level: info}\n---\nlog: {level: warn}\n", `t.yaml:2:1: a second document begins here; a configuration is one document`},
		{"several", "log: {level: loud}\njurnal: 1\nsources:\n  - nam: a\n    path: 7\n    from: 3\n  - name: b\n", strings.Join([]string{
			`t.yaml:1:14: log.level: "loud" is not one of debug, info, warn, error`,
			`t.yaml:2:1: unknown key "jurnal" here; did you mean "journal"?`,
			`t.yaml:4:5: unknown key "nam" in sources[0]; did you mean "name"?`,
			`t.yaml:5:11: sources[0].path: must be text, but is "7"; put it into quotes if it is meant`,
			`t.yaml:6:11: sources[0].from: must be text, but is "3"; put it into quotes if it is meant`,
			`t.yaml:7:5: sources[1]: has no path; add "path:" with the audit file`,
		}, "\n")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("t.yaml", []byte(tc.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if !IsProblem(err) {
				t.Errorf("error is a %T", err)
			}
			if err.Error() != tc.want {
				t.Errorf("got\n%s\nwant\n%s", err, tc.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if c, err := Load(write("good.yaml", []byte(full))); err != nil || !reflect.DeepEqual(c, fullConfig()) {
		t.Errorf("good file: %+v, %v", c, err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "missing.yaml"): "no such file",
		dir:                                "is a directory",
		write("large.yaml", bytes.Repeat([]byte("#"), 2<<20)):    "larger than the limit of 1MiB",
		write("deep.yaml", bytes.Repeat([]byte("["), 100_000)):   "not valid YAML",
		write("nul.yaml", []byte("log:\x00 {level: info}")):      "not valid YAML",
		write("latin1.yaml", []byte("data_dir: /srv/b\xf6se\n")): "not valid YAML",
		write("wrong.yaml", []byte("log: {level: loud}")):        "wrong.yaml:1:14: log.level",
	} {
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func TestManyProblemsStayReadable(t *testing.T) {
	_, err := Parse("t.yaml", bytes.Repeat([]byte("a: 1\n"), 1000))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 51 || lines[50] != "and 950 more problems" {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
}

func TestWriteGolden(t *testing.T) {
	for name, c := range map[string]Config{"default": Default(), "full": fullConfig()} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := c.Write(&got); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("differs from %s; run go test -update if that is right:\n%s", golden, got.Bytes())
			}
			again, err := Parse(name, got.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(again, c) {
				t.Errorf("read back: %+v\nwritten:   %+v", again, c)
			}
		})
	}
}

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:0": true, "127.8.0.1:80": true, "[::1]:8280": true, "localhost:8280": true, "[::ffff:127.0.0.1]:8280": true,
		":8280": false, "0.0.0.0:8280": false, "[::]:8280": false, "192.0.2.1:8280": false, "localhost.example.com:1": false, "127.0.0.1.example.com:1": false,
		"127.0.0.1": false, "127.1:80": false, "": false, "hub:8280": false,
	} {
		if got := IsLoopback(address); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

// Every field has a key and a documentation, and every bound can be parsed.
func TestSpecificationIsComplete(t *testing.T) {
	var walk func(t *testing.T, typ reflect.Type)
	walk = func(t *testing.T, typ reflect.Type) {
		if typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ == secretType {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Tag.Get("yaml") == "" || !strings.HasSuffix(f.Tag.Get("doc"), ".") && !strings.HasSuffix(f.Tag.Get("doc"), ":") {
				t.Errorf("%s.%s: no key or no documentation that ends in a period", typ.Name(), f.Name)
			}
			if f.Type.Kind() != reflect.Struct && f.Type.Kind() != reflect.Slice {
				bound(f.Type, f.Tag.Get("min"))
				bound(f.Type, f.Tag.Get("max"))
			}
			walk(t, f.Type)
		}
	}
	walk(t, reflect.TypeFor[Config]())
	c := Default()
	if err := c.Validate(); err != nil {
		t.Errorf("the defaults are not valid: %v", err)
	}
}

func TestValidateMadeConfiguration(t *testing.T) {
	c := Default()
	c.Sources = []Source{{Name: "a"}, {Name: "b", Type: VaultAuditFile}}
	c.Listen.TLS.ClientAuth = "sometimes"
	err := c.Validate()
	for _, want := range []string{"sources[1]: has no path", `sources[0].type: is missing; write one of`, "sources[0].max_line: 0 is too small", `listen.tls.client_auth: "sometimes" is not one of`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not mention %q", err, want)
		}
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	const value = "hvs.verysecret"
	c := Default()
	c.Auth.RootToken = SecretValue(value)
	hidden := struct{ s Secret }{SecretValue(value)}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", c.Auth.RootToken, "config", c)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", c.Auth.RootToken, "config", c)
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if err := c.Write(&shown); err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{
		fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%s %q %x", c.Auth.RootToken, c.Auth.RootToken, c.Auth.RootToken),
		fmt.Sprintf("%v %+v %#v", hidden, hidden, hidden), c.Auth.RootToken.Reference(),
		log.String(), string(asJSON), string(asYAML), shown.String(),
	} {
		if strings.Contains(text, value) || strings.Contains(text, "6876732e") { // also as hexadecimal
			t.Errorf("text %d shows the secret: %s", i, text)
		}
	}
	if got, err := c.Auth.RootToken.Reveal(); got != value || err != nil {
		t.Errorf("Reveal: %q, %v", got, err)
	}
}

func TestSecretReveal(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("TOCSIN_TEST_SECRET", "from-env")
	for _, tc := range []struct {
		name      string
		s         Secret
		want, err string
	}{
		{"environment", SecretFromEnv("TOCSIN_TEST_SECRET"), "from-env", ""},
		{"environment unset", SecretFromEnv("TOCSIN_TEST_UNSET"), "", "TOCSIN_TEST_UNSET is not set"},
		{"file", SecretFromFile(file("a", "from-file\r\n")), "from-file", ""},
		{"file missing", SecretFromFile(filepath.Join(dir, "none")), "", "no such file"},
		{"file empty", SecretFromFile(file("b", "\n")), "", "b is empty"},
		{"file huge", SecretFromFile(file("c", strings.Repeat("x", 70_000))), "", "c is larger than 64KiB"},
		{"nothing", Secret{}, "", "no secret"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.s.Reveal()
			if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "30d": 720 * time.Hour,
		"1d12h": 36 * time.Hour, "1.5h": 90 * time.Minute, "0d": 0, "106751d": 106751 * 24 * time.Hour,
	} {
		if got, err := ParseDuration(text); err != nil || time.Duration(got) != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "-1h", "1d-1h", "+1h", "1.5d", "1d1d", "5", "1h1d", "106752d", "106751d24h", "99999999999d", "x"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is accepted as %v", text, got)
		}
	}
	for _, d := range []time.Duration{0, 1, time.Second, time.Minute, time.Hour, 25 * time.Hour, 48 * time.Hour, 90*time.Minute + 5*time.Second, 1<<63 - 1} {
		if got, err := ParseDuration(Duration(d).String()); err != nil || time.Duration(got) != d {
			t.Errorf("%v is written as %q and read back as %v, %v", d, Duration(d), got, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "17": 17, "17B": 17, "4KiB": 4096, "4kib": 4096, "64 MiB": 64 << 20, "10GB": 10e9, "1TiB": 1 << 40, "3KB": 3000,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5GiB", "1  MiB", "99999999999999999999", "9223372036854775807KiB", "64m", "1 "} {
		if got, err := ParseSize(text); err == nil && text != "1 " {
			t.Errorf("%q is accepted as %v", text, got)
		}
	}
	for _, s := range []Size{0, 1, 1023, 1024, 1000, 1e6, 64 << 20, 1<<63 - 1} {
		if got, err := ParseSize(s.String()); err != nil || got != s {
			t.Errorf("%d is written as %q and read back as %d, %v", s, s, got, err)
		}
	}
}

// Whatever is in a file, Parse returns, its problems are in the file, and what
// it accepts is written and read back unchanged.
func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	for _, seed := range []string{
		"", "a: b", "- a", "log: &a {level: info}\nlisten: *a", "sources: &a [*a]", "? {a: b}\n: c", "!!binary aGk=: x", "--- a\n--- b",
		"journal: {max_age: 1d, max_bytes: 1GB}", "auth: {root_token: {env: A, env: B}}", "sources: [{kv_versions: {a: 1}}]", "\xff\xfe", "a: \"\\0\"", "log:\n\tlevel: x",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("f.yaml", text)
		if err != nil {
			lines := bytes.Count(text, []byte("\n")) + bytes.Count(text, []byte("\r")) + strings.Count(string(text), "\u0085") +
				strings.Count(string(text), "\u2028") + strings.Count(string(text), "\u2029") + 2
			for _, p := range err.(Error) {
				if p.Line > lines && len(text) > 0 && text[0] < 0xf0 || p.Message == "" {
					t.Errorf("problem %+v of a text with %d lines", p, lines)
				}
			}
			return
		}
		var written bytes.Buffer
		if err := c.Write(&written); err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again.yaml", written.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, written.Bytes())
		}
		if !reflect.DeepEqual(c, again) {
			t.Errorf("read back: %+v\nwritten:   %+v", again, c)
		}
	})
}
