package config

import (
	"strings"
	"testing"
)

func TestSinkWebhook(t *testing.T) {
	for name, test := range map[string]struct{ fields, want string }{
		"good":                {"url: 'https://h.example/x?y=z', signing_keys: [{env: A}], bearer_token: {env: B}, tls: {ca: {file: /c}}", ""},
		"no secrets":          {"url: 'http://h.example/'", ""},
		"signed without TLS":  {"url: 'http://h.example/', signing_keys: [{env: A}], flipt_secret: {env: B}", ""},
		"this machine":        {"url: 'http://127.0.0.1:80/', bearer_token: {env: B}", ""},
		"on purpose":          {"url: 'http://h.example/', bearer_token: {env: B}, insecure_allow_http: true", ""},
		"no url":              {"body: array", `has no url; add for example "url: https://hooks.example.com/tocsin"`},
		"scheme":              {"url: 'ftp://h.example/'", "webhook.url: begins neither with https:// nor with http://"},
		"user":                {"url: 'https://hunter2:hunter2@h.example/'", "has a user name or password in it"},
		"in clear":            {"url: 'http://h.example/', bearer_token: {env: B}", "would send the credentials of the sink in clear"},
		"password in clear":   {"url: 'http://h.example/', username: u, password: {env: B}", "would send the credentials of the sink in clear"},
		"header in clear":     {"url: 'http://h.example/', headers: [{name: X-Key, secret: {env: B}}]", "would send the credentials of the sink in clear"},
		"TLS of http":         {"url: 'http://h.example/', tls: {ca: {file: /c}}", "webhook.tls: has no effect on an http:// url"},
		"half a certificate":  {"url: 'https://h.example/', tls: {cert: {file: /c}}", "cert and key belong together"},
		"two credentials":     {"url: 'https://h.example/', bearer_token: {env: B}, username: u, password: {env: B}", "only one can be sent"},
		"no password":         {"url: 'https://h.example/', username: u", "username and password belong together"},
		"colon":               {"url: 'https://h.example/', username: 'u:v', password: {env: B}", "has a colon"},
		"header of the sink":  {"url: 'https://h.example/', headers: [{name: webhook-ID, value: x}]", `"webhook-ID" is set by the sink`},
		"ours":                {"url: 'https://h.example/', headers: [{name: Tocsin-Attempt, value: x}]", `is set by the sink`},
		"length":              {"url: 'https://h.example/', headers: [{name: Content-Length, value: '1'}]", `is set by the sink`},
		"type":                {"url: 'https://h.example/', headers: [{name: Content-Type, value: '1'}]", `is set by the sink`},
		"authorization twice": {"url: 'https://h.example/', bearer_token: {env: B}, headers: [{name: Authorization, secret: {env: C}}]", "is what bearer_token"},
		"header twice":        {"url: 'https://h.example/', headers: [{name: X, value: a}, {name: x, value: b}]", "is there twice"},
		"header injection":    {`url: 'https://h.example/', headers: [{name: X, value: "a\r\nb: c"}]`, "must be printable ASCII"},
		"header name":         {"url: 'https://h.example/', headers: [{name: 'a b', value: c}]", "is no name of a header"},
		"empty header":        {"url: 'https://h.example/', headers: [{name: X}]", "needs either value or secret"},
		"secret header":       {"url: 'https://h.example/', headers: [{name: X-Api-Key, value: hunter2}]", "secrets are not written into the configuration"},
		"batch":               {"url: 'https://h.example/', body: cloudevents_batch", "webhook.format: standard does not fit body: cloudevents_batch; write format: cloudevents"},
		"body":                {"url: 'https://h.example/', body: arry", `did you mean "array"?`},
		"large":               {"url: 'https://h.example/', max_body: 1GiB", "is too large"},
		"keys":                {"url: 'https://h.example/', signing_keys: [{env: A}, {env: A}, {env: A}, {env: A}, {env: A}]", "has 5 elements, at most 4"},
		"allow":               {"url: 'https://h.example/', allow: ['0.0.0.0/0']", `webhook.allow[0]: "0.0.0.0/0" is nearly everything`},
	} {
		_, err := Parse("t.yaml", []byte("sinks: [{name: a, type: webhook, webhook: {"+test.fields+"}}]\n"))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: got\n%v\nwant\n%s", name, err, test.want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: a secret is in the message: %v", name, err)
		}
	}
}
