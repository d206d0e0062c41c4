package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func fullDelivery() Delivery {
	return Delivery{
		Allow: []string{"10.1.2.0/24", "alerts.internal", "::1"}, ProxyURL: "http://proxy:3128", FilesBelow: "/var/spool/tocsin",
		SecretsKey: SecretFromFile("/etc/tocsin/sinks-key"), Attempts: 50, DeadLetters: 1 << 30, MaxSinks: 20, StopTimeout: Duration(5 * time.Second),
	}
}

func sink(name string, t SinkType, set func(*Sink)) Sink {
	s := DefaultSink()
	s.Name, s.Type = name, t
	set(&s)
	return s
}

func fullSinks() []Sink {
	return []Sink{
		sink("archive", SinkTypeFile, func(s *Sink) {
			s.Disabled, s.From, s.Order, s.Concurrency, s.Timeout = true, FromStart, "all", 1, Duration(5*time.Second)
			s.Events = SinkEvents{[]string{"kv-v2/*"}, []string{"flag:*"}, []string{"root", "team-*"}, `operation == "write"`}
			s.Batch = SinkBatch{1000, 4 << 20, 0}
			s.Retry = SinkRetry{Duration(2 * time.Second), Duration(time.Hour), 10, 0, Duration(7 * 24 * time.Hour)}
			s.Rate = SinkRate{100, Duration(time.Minute)}
			s.File.Path, s.File.Format, s.File.Mode, s.File.Sync = "/var/log/tocsin/events.jsonl", "raw", "0600", "always"
			s.File.RotateBytes, s.File.RotateAge, s.File.Keep, s.File.KeepAge, s.File.Gzip = 100<<20, Duration(24*time.Hour), 7, Duration(30*24*time.Hour), true
		}),
		sink("out", SinkTypeStdout, func(s *Sink) { s.Order, s.Stdout.Format = "none", "pretty" }),
		sink("hook", SinkTypeWebhook, func(s *Sink) {
			s.Webhook.URL, s.Webhook.Allow = "https://hooks.example.com/tocsin", []string{"hooks.example.com"}
			s.Webhook.SigningKeys = []Secret{SecretFromFile("/etc/tocsin/hook-key")}
		}),
	}
}

func TestSinkProblems(t *testing.T) {
	one := func(fields string) string { return "sinks: [{" + fields + "}]\n" }
	file := func(fields string) string { return one("name: a, type: file, file: {path: /a}, " + fields) }
	const key = "sinks[0]"
	for name, test := range map[string]struct{ text, want string }{
		"nothing":                {one("type: stdout"), key + `: has no name; add for example "name: slack"`},
		"name":                   {one("name: Slack, type: stdout"), key + `.name: "Slack" must be 1 to 63 lower-case letters, digits, - and _`},
		"path as name":           {one("name: ../a, type: stdout"), key + `.name: "../a" must be`},
		"long name":              {one("name: " + strings.Repeat("a", 64) + ", type: stdout"), `must be 1 to 63`},
		"outside of its section": {one("name: a, type: webhook, url: 'https://a'"), key + `; did you mean webhook.url, in the section webhook?`},
		"misspelt outside":       {one("name: a, type: webhook, ulr: 'https://a'"), key + `; did you mean webhook.url, in the section webhook?`},
		"section of another":     {one("name: a, type: syslog, ulr: 'https://a'"), `unknown key "ulr" in ` + key + `; known are`},
		"no type":                {one("name: a"), key + `.type: is missing; write one of file, stdout`},
		"type":                   {one("name: a, type: webhok"), `did you mean "webhook"?`},
		"another's section":      {one("name: a, type: stdout, file: {path: /a}"), key + `.file: is not for sinks of type stdout`},
		"two of one name":        {"sinks: [{name: a, type: stdout}, {name: a, type: file, file: {path: /a}}]\n", `sinks[1].name: "a" is already the name of sinks[0]`},
		"two of one file":        {"sinks: [{name: a, type: file, file: {path: /x/a}}, {name: b, type: file, file: {path: /x/y/../a}}]\n", `sinks[1].file.path: "/x/a" is already written by sinks[0]`},
		"secret by value":        {one("name: a, type: webhook, webhook: {url: 'https://a', bearer_token: {value: hunter2}}"), `secrets are not written into the configuration`},
		"first above most":       {file("retry: {first: 1m, most: 1s}"), `1s is less than retry.first, which is 1m`},
		"order all":              {file("order: all, concurrency: 2"), key + `.concurrency: 2 is more than one`},
		"order":                  {file("order: paths"), `did you mean "path"?`},
		"empty type":             {file("events: {types: [a, '']}"), key + `.events.types[1]: is empty and selects nothing`},
		"empty namespace":        {file("events: {namespaces: ['']}"), key + `.events.namespaces[0]: is empty and selects nothing; the root namespace is "root"`},
		"no pair":                {file("events: {pairs: [flag]}"), key + `.events.pairs[0]: "flag" is not a pair noun:verb`},
		"half a pair":            {file("events: {pairs: ['flag:']}"), `is not a pair noun:verb`},
		"three":                  {file("events: {pairs: ['a:b:c']}"), `is not a pair noun:verb`},
		"long type":              {file("events: {types: [" + strings.Repeat("a", 513) + "]}"), `has 513 bytes, at most 512 are allowed`},
		"field without plugins":  {file(`events: {filter: 'field["ka.verb"] == "get"'}`), key + `.events.filter: asks for the field ka.verb of a plugin, but plugins.sources is empty`},
		"filter":                 {file("events: {filter: 'operation =='}"), key + `.events.filter: `},
		"many types":             {file("events: {types: [" + strings.Repeat("a,", 1001) + "]}"), `has 1001 elements`},
		"unknown key":            {file("evnts: {}"), `unknown key "evnts" in sinks[0]; did you mean "events"?`},
		"too many":               {"delivery: {max_sinks: 1}\nsinks: [{name: a, type: stdout}, {name: b, type: file, file: {path: /a}}]\n", `has 2 elements, delivery.max_sinks is 1`},
		"allow a URL":            {"delivery: {allow: ['http://a']}\n", `delivery.allow[0]: "http://a" is not a network`},
		"allow with port":        {"delivery: {allow: ['a:80']}\n", `"a:80" is no host, address or network`},
		"allow no network":       {"delivery: {allow: ['10.0.0.0/64']}\n", `"10.0.0.0/64" is not a network`},
		"allow nothing":          {"delivery: {allow: ['']}\n", `the host is empty`},
		"allow pattern":          {"delivery: {allow: ['a b']}\n", `"a b" is no host`},
		"proxy":                  {"delivery: {proxy_url: 'socks5://a:1'}\n", `delivery.proxy_url: must be http:// with a host`},
		"files below nothing":    {"delivery: {files_below: spool}\n", `delivery.files_below: "spool" must begin with /`},
		"key by value":           {"delivery: {secrets_key: hunter2}\n", `secrets are not written into the configuration`},
	} {
		_, err := Parse("t.yaml", []byte(test.text))
		switch {
		case err == nil:
			t.Errorf("%s: accepted", name)
		case !strings.Contains(err.Error(), test.want):
			t.Errorf("%s: got\n%s\nwant\n%s", name, err, test.want)
		case strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: a secret is in the message: %v", name, err)
		}
	}
}

// hook is the definition of a sink with secrets in all kinds of places.
const hook = `
type: webhook
events: {types: [kv-v2/*]}
webhook:
  url: https://hooks.example.com/tocsin
  headers: [{name: X-Team, value: ops}, {name: X-Key, secret: {value: key-secret}}]
  bearer_token: {value: bearer-secret}
  tls: {ca: {value: ca-pem}}
  signing_keys: [{value: whsec_b25lLXNlY3JldC1vbmUtc2VjcmV0LW9uZQ==}, {value: whsec_dHdvLXNlY3JldC10d28tc2VjcmV0LXR3bw==}]
`

func TestParseSink(t *testing.T) {
	s, err := ParseSink("hook", []byte(hook))
	if err != nil {
		t.Fatal(err)
	}
	want := sink("hook", SinkTypeWebhook, func(s *Sink) {
		s.Events.Types = []string{"kv-v2/*"}
		s.Webhook.URL = "https://hooks.example.com/tocsin"
		s.Webhook.Headers = []SinkHeader{{Name: "X-Team", Value: "ops"}, {Name: "X-Key", Secret: SecretValue("key-secret")}}
		s.Webhook.BearerToken, s.Webhook.TLS.CA = SecretValue("bearer-secret"), SecretValue("ca-pem")
		s.Webhook.SigningKeys = []Secret{SecretValue("whsec_b25lLXNlY3JldC1vbmUtc2VjcmV0LW9uZQ=="), SecretValue("whsec_dHdvLXNlY3JldC10d28tc2VjcmV0LXR3bw==")}
	})
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	secrets := s.Secrets()
	if len(secrets) != 5 || secrets["webhook.headers[1].secret"] != "key-secret" || secrets["webhook.tls.ca"] != "ca-pem" {
		t.Errorf("secrets: %q", secrets)
	}
	for what, text := range map[string][]byte{"YAML": s.YAML(), "JSON": s.JSON()} {
		for _, secret := range secrets {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s has a secret:\n%s", what, text)
			}
		}
		back, err := ParseSink("hook", text)
		if err != nil {
			t.Fatalf("%s is not read back: %v\n%s", what, err, text)
		}
		for how, put := range map[string]func(*Sink) error{
			"SetSecrets":  func(s *Sink) error { return s.SetSecrets(secrets) },
			"KeepSecrets": func(s *Sink) error { return s.KeepSecrets(&want) },
		} {
			got := back
			got.Webhook.Headers = append([]SinkHeader(nil), back.Webhook.Headers...)
			got.Webhook.SigningKeys = append([]Secret(nil), back.Webhook.SigningKeys...)
			if err := put(&got); err != nil || !reflect.DeepEqual(got.Secrets(), secrets) {
				t.Errorf("%s of %s: %q, %v", how, what, got.Secrets(), err)
			}
		}
		if err := back.SetSecrets(nil); err == nil || !strings.Contains(err.Error(), "webhook.") {
			t.Errorf("without secrets: %v", err)
		}
	}
	if !json.Valid(s.JSON()) {
		t.Errorf("no JSON: %s", s.JSON())
	}
}

// Everything that can be written down is read back the same, as YAML and as JSON.
func TestSinkRoundTrip(t *testing.T) {
	for _, s := range fullSinks() {
		if s.Type == SinkTypeStdout {
			continue
		}
		s.Webhook.Allow = nil
		s.Webhook.SigningKeys = nil
		for what, text := range map[string][]byte{"YAML": s.YAML(), "JSON": s.JSON()} {
			got, err := ParseSink(s.Name, text)
			if err != nil || !reflect.DeepEqual(got, s) {
				t.Errorf("%s of %s: %v\n%s\ngot  %+v\nwant %+v", what, s.Name, err, text, got, s)
			}
		}
	}
	// What the file refers to is not shown.
	s := fullSinks()[2]
	if text := string(s.YAML()) + string(s.JSON()); strings.Contains(text, "hook-key") || !strings.Contains(text, Redacted) {
		t.Errorf("the place of a secret is shown: %s", text)
	}
}

func TestParseSinkProblems(t *testing.T) {
	hook := func(fields string) string {
		return "type: webhook\nwebhook:\n  url: https://a.example\n  " + fields + "\n"
	}
	for name, test := range map[string]struct{ text, want string }{
		"nothing":          {"", `sink.type: is missing; write one of`},
		"a list":           {"[]", `definition:1:1: sink: must be a section with keys, but is a list`},
		"no YAML":          {"{", `definition:`},
		"list":             {"- a", `definition:1:1: sink: must be a section with keys, but is a list`},
		"unknown key":      {"type: webhook\nwebhok: {}\n", `definition:2:1: unknown key "webhok" in sink; did you mean "webhook"?`},
		"key inside":       {hook("url_: b"), `definition:4:3: unknown key "url_" in sink.webhook; did you mean "url"?`},
		"another name":     {"name: b\n" + hook("gzip: true"), `definition:1:7: sink.name: "b" is not the name "a" under which the sink is written; leave it out`},
		"stdout":           {"type: stdout", `definition:1:7: sink.type: only the configuration file of the hub can say that`},
		"allow":            {hook("allow: [10.0.0.1]"), `definition:4:10: sink.webhook.allow: only the configuration file of the hub can say that; have the address put into delivery.allow`},
		"secret env":       {hook("bearer_token: {env: HOME}"), `definition:4:18: sink.webhook.bearer_token: a secret is given by value here; write {value: SECRET}; env would be read on the machine of the hub`},
		"secret file":      {hook("bearer_token: {file: /etc/passwd}"), `file would be read on the machine of the hub`},
		"both":             {hook("bearer_token: {value: hunter2, file: /etc/passwd}"), `file would be read on the machine of the hub`},
		"CA file":          {hook("tls: {ca: {file: /etc/passwd}}"), `sink.webhook.tls.ca: a secret is given by value here`},
		"secret as text":   {hook("bearer_token: hunter2"), `write {value: SECRET}, or "<secret>" to keep`},
		"secret as list":   {hook("bearer_token: [hunter2]"), `write {value: SECRET}`},
		"secret key":       {hook("bearer_token: {valeu: hunter2}"), `unknown key "valeu"; a secret is given by value here`},
		"empty secret":     {hook("bearer_token: {value: ''}"), `the value is empty; write {} for no secret`},
		"null secret":      {hook("bearer_token: {value: }"), `the value must be text`},
		"large secret":     {hook("bearer_token: {value: " + strings.Repeat("a", 65<<10) + "}"), `the value is larger than 64KiB`},
		"large":            {strings.Repeat("#", 257<<10), `is larger than the limit of 256KiB`},
		"two documents":    {hook("gzip: true") + "---\ntype: file\n", `a second document begins here`},
		"alias":            {"type: &a webhook\nname: *a\n", `anchors and aliases are not supported`},
		"another section":  {hook("gzip: true") + "file: {path: /a}\n", `sink.file: is not for sinks of type webhook`},
		"secret in header": {hook("headers: [{name: X-Api-Key, value: hunter2}]"), `write secret: {value: SECRET}`},
		"range":            {hook("gzip: true") + "timeout: 1ms\n", `definition:5:10: sink.timeout: 1ms is too small`},
	} {
		_, err := ParseSink("a", []byte(test.text))
		switch {
		case err == nil:
			t.Errorf("%s: accepted", name)
		case !strings.Contains(err.Error(), test.want):
			t.Errorf("%s: got\n%s\nwant\n%s", name, err, test.want)
		case strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: a secret is in the message: %v", name, err)
		case !IsProblem(err):
			t.Errorf("%s: no problem of a configuration: %v", name, err)
		case (test.text == "{" || test.text == "[]") && strings.Contains(err.Error(), "\n"):
			t.Errorf("%s: what follows from it is told as well:\n%s", name, err)
		}
	}
	if _, err := ParseSink("", []byte("type: webhook\nwebhook: {url: 'https://a.example'}")); err == nil || !strings.Contains(err.Error(), "has no name") {
		t.Errorf("no name: %v", err)
	}
	if s, err := ParseSink("", []byte("name: b\ntype: webhook\nwebhook: {url: 'https://a.example'}")); err != nil || s.Name != "b" {
		t.Errorf("the name of the text: %q, %v", s.Name, err)
	}
}

// A secret is kept only where it is sure which one is meant, and where it goes.
// Whoever may change a sink must not learn its secrets by having them sent elsewhere, or by
// templates that tell them.
func TestKeepSecretsElsewhere(t *testing.T) {
	const template = `
type: template
template:
  secret_url: {value: "https://hooks.example.com/abc"}
  bearer_token: {value: bearer-secret}
  routing_key: {value: routing-secret}
  headers: [{name: X-Team, value: ops}, {name: X-Key, secret: {value: key-secret}}]
  body: '{"a": {{.Type}}}'
`
	const shared = `
type: webhook
webhook:
  url: https://shared.example.com/tocsin
  headers: [{name: Host, secret: {value: mine.example.com}}]
  bearer_token: {value: bearer-secret}
`
	for name, test := range map[string]struct{ text, from, to, want string }{
		"nothing":            {template, "", "", ""},
		"not the templates":  {template, "timeout: 20s", "timeout: 10s", ""},
		"another secret url": {template, "secret_url: <secret>", "secret_url: {value: 'https://evil.example.com/abc'}", "template.bearer_token: is <secret>, but sink.template.secret_url has changed"},
		"the same url again": {template, "secret_url: <secret>", "secret_url: {value: 'https://hooks.example.com/abc'}", ""},
		"no secret url":      {template, "secret_url: <secret>", "secret_url: {}", "has changed"},
		"another body":       {template, `{"a": {{.Type}}}`, `{{if hasPrefix "a" .RoutingKey}}{{index .EntityIDs 99}}{{end}}{}`, "template.routing_key: is <secret>, but the templates have changed"},
		"a header":           {template, "value: ops", "value: '{{.RoutingKey}}'", "template.routing_key: is <secret>"},
		"a method":           {template, "method: POST", "method: '{{.RoutingKey}}'", "template.routing_key: is <secret>"},
		"the host, kept":     {shared, "", "", ""},
		"another host":       {shared, "secret: <secret>", "secret: {value: evil.example.com}", "webhook.bearer_token: is <secret>, but sink.webhook.headers has changed"},
		"no host":            {shared, "name: Host", "name: X-Host", "webhook.bearer_token: is <secret>, but sink.webhook.headers has changed"},
	} {
		old, err := ParseSink("hook", []byte(test.text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.Contains(string(old.YAML()), test.from) {
			t.Fatalf("%s: %q is not in\n%s", name, test.from, old.YAML())
		}
		s, err := ParseSink("hook", []byte(strings.Replace(string(old.YAML()), test.from, test.to, 1)))
		if strings.HasPrefix(test.to, "secret_url: {}") {
			s, err = ParseSink("hook", []byte(strings.Replace(strings.Replace(string(old.YAML()), `url: ""`, "url: https://evil.example.com", 1), test.from, "secret_url: {}", 1)))
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		err = s.KeepSecrets(&old)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestKeepSecrets(t *testing.T) {
	old, err := ParseSink("hook", []byte(hook))
	if err != nil {
		t.Fatal(err)
	}
	const one, two = "whsec_b25lLXNlY3JldC1vbmUtc2VjcmV0LW9uZQ==", "whsec_dHdvLXNlY3JldC10d28tc2VjcmV0LXR3bw=="
	read := func(change ...string) string {
		text := string(old.YAML())
		for i := 0; i < len(change); i += 2 {
			if !strings.Contains(text, change[i]) {
				t.Fatalf("%q is not in\n%s", change[i], text)
			}
			text = strings.Replace(text, change[i], change[i+1], 1)
		}
		return text
	}
	for name, test := range map[string]struct {
		text string
		want string // problem, "" for none
		keys string // signing keys after it
	}{
		"nothing changed":   {read(), "", one + " " + two},
		"a filter":          {read("- kv-v2/*", "- pki/*"), "", one + " " + two},
		"one key replaced":  {read("signing_keys:\n    - <secret>", "signing_keys:\n    - {value: whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0LW5ldw==}"), "", "whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0LW5ldw== " + two},
		"one key less":      {read("signing_keys:\n    - <secret>", "signing_keys:"), "sink.webhook.signing_keys[0]: is <secret>, but the sink has none there, or not as many as now; give it as {value: SECRET}", ""},
		"one key more":      {read("signing_keys:", "signing_keys:\n    - {value: whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0LW5ldw==}"), "sink.webhook.signing_keys[1]: is <secret>", ""},
		"headers turned":    {read("    - name: X-Team", "    - name: X-New\n      value: a\n    - name: X-Team"), "", one + " " + two},
		"header renamed":    {read("name: X-Key", "name: X-Other"), "sink.webhook.headers[1].secret: is <secret>, but the sink has none there", ""},
		"another place":     {read("hooks.example.com", "evil.example.com"), "sink.webhook.bearer_token: is <secret>, but sink.webhook.url has changed", ""},
		"another authority": {read("ca: <secret>", "ca: {value: other}"), "but sink.webhook.tls has changed", ""},
		"authority removed": {read("ca: <secret>", "ca: {}"), "but sink.webhook.tls has changed", ""},
		"server name":       {read(`server_name: ""`, "server_name: evil"), "but sink.webhook.tls has changed", ""},
		"none there":        {read("password: {}", "password: <secret>", `username: ""`, "username: u", "bearer_token: <secret>", "bearer_token: {}"), "sink.webhook.password: is <secret>, but the sink has none there", ""},
	} {
		s, err := ParseSink("hook", []byte(test.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		err = s.KeepSecrets(&old)
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) || !IsProblem(err) {
				t.Errorf("%s: got %v\nwant %s", name, err, test.want)
			}
			continue
		}
		var keys []string
		for _, key := range s.Webhook.SigningKeys {
			value, _ := key.Reveal()
			keys = append(keys, value)
		}
		if err != nil || strings.Join(keys, " ") != test.keys {
			t.Errorf("%s: %v, %v", name, keys, err)
		}
		for key, value := range s.Secrets() {
			if value == Redacted {
				t.Errorf("%s: %s is not set", name, key)
			}
		}
	}
	s, err := ParseSink("hook", old.YAML())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.KeepSecrets(nil); err == nil || !strings.Contains(err.Error(), "there is no sink yet that has one") {
		t.Errorf("of no sink: %v", err)
	}
	other := old
	other.Type = SinkTypeTemplate
	if err := s.KeepSecrets(&other); err == nil {
		t.Error("of a sink of another type: kept")
	}
}

func TestSinkKinds(t *testing.T) {
	common, kinds := SinkKinds()
	if len(kinds) != len(sinkSections) {
		t.Errorf("%d kinds, want %d", len(kinds), len(sinkSections))
	}
	names := make(map[string]Field)
	var check func(where string, fields []Field)
	check = func(where string, fields []Field) {
		for _, f := range fields {
			key := where + "." + f.Key
			if f.Doc == "" || f.Type == "" || f.Key == "" {
				t.Errorf("%s is not documented: %+v", key, f)
			}
			names[key] = f
			check(key, f.Fields)
		}
	}
	check("", common)
	for _, k := range kinds {
		check("."+string(k.Type), k.Fields)
		if k.File != (k.Type == SinkTypeStdout) {
			t.Errorf("%s: only in the file: %v", k.Type, k.File)
		}
	}
	for key, want := range map[string]string{
		".type": "text", ".retry.most": "duration", ".webhook.signing_keys": "list", ".webhook.headers": "list",
		".webhook.headers.secret": "secret", ".kafka.tls.ca": "secret", ".batch.bytes": "size", ".batch.events": "number", ".disabled": "true or false",
	} {
		if names[key].Type != want {
			t.Errorf("%s is %q, want %q", key, names[key].Type, want)
		}
	}
	if f := names[".retry.most"]; f.Default != "5m" || f.Max != "24h" {
		t.Errorf("%+v", f)
	}
	if f := names[".webhook.signing_keys"]; f.Element != "secret" {
		t.Errorf("%+v", f)
	}
}

// FuzzParseSink checks that no text makes a definition that is not read back the same, and
// that none of its secrets is shown.
func FuzzParseSink(f *testing.F) {
	f.Add([]byte(hook))
	for _, s := range fullSinks() {
		f.Add(s.YAML())
		f.Add([]byte(s.JSON()))
	}
	f.Add([]byte("type: file\nfile: {path: /a}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseSink("a", text)
		if err != nil {
			if !IsProblem(err) {
				t.Errorf("no problem: %v", err)
			}
			return
		}
		if fmt.Sprintf("%+v", s) == "" {
			t.Error("nothing is printed")
		}
		if !json.Valid(s.JSON()) {
			t.Errorf("no JSON: %s", s.JSON())
		}
		for what, text := range map[string][]byte{"YAML": s.YAML(), "JSON": s.JSON()} {
			back, err := ParseSink("a", text)
			if err != nil {
				t.Fatalf("%s is not read back: %v\n%s", what, err, text)
			}
			if err := back.SetSecrets(s.Secrets()); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(normal(back), normal(s)) {
				t.Errorf("%s is read back as %+v, was %+v", what, back, s)
			}
		}
	})
}

// normal makes lists without elements the same.
func normal(s Sink) string {
	b, err := yaml.Marshal(s.document())
	return fmt.Sprint(string(b), s.Secrets(), err)
}
