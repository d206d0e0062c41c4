package config

import (
	"strings"
	"testing"
)

func TestSinkTemplateProblems(t *testing.T) {
	const key = "sinks[0].template"
	for name, test := range map[string]struct{ section, want string }{
		"good":         {`url: 'https://example.com/{{.Type}}', body: '{"text": {{.Type}}}', headers: [{name: X-Type, value: '{{.Type}}'}]`, ""},
		"slack":        {`preset: slack, secret_url: {file: /etc/slack}`, ""},
		"pagerduty":    {`preset: pagerduty, routing_key: {file: /etc/pagerduty}`, ""},
		"alertmanager": {`preset: alertmanager, url: 'http://alertmanager:9093', body: '{{define "severity"}}page{{end}}'`, ""},
		"text":         {`url: 'https://example.com', text: true, body: '{{.Type}} {{.Path}}'`, ""},

		"no url":       {`body: '1'`, key + `: has no url; add for example`},
		"both urls":    {`body: '1', url: 'https://a', secret_url: {file: /a}`, key + `: has both url and secret_url`},
		"no body":      {`url: 'https://a'`, key + `: has no body; add for example`},
		"no key":       {`preset: pagerduty`, key + `: has no routing_key, which pagerduty needs`},
		"text preset":  {`preset: slack, secret_url: {file: /a}, text: true`, key + `.text: does not go with a preset`},
		"preset":       {`preset: teams, url: 'https://a'`, key + `.preset: "teams" is not one of`},
		"url":          {`url: 'example.com', body: '1'`, key + `.url: begins neither with https://`},
		"host":         {`url: 'https://{{.Type}}.example.com/', body: '1'`, key + `.url: line 1, column 9, at {{.Type}}: the host of a URL must not depend on an event`},
		"body":         {`url: 'https://a', body: '{"a": {{.Type}'`, key + `.body: line 1: bad character`},
		"quotes":       {`url: 'https://a', body: '{"a": "{{.Type}}}'`, key + `.body: ends inside of quotes; close them`},
		"header":       {`url: 'https://a', body: '1', headers: [{name: X, value: '{{.Type'}]`, key + `.headers[0].value: line 1`},
		"header name":  {`url: 'https://a', body: '1', headers: [{name: webhook-id, value: x}]`, key + `.headers[0].name: "webhook-id" is set by the sink`},
		"clear":        {`url: 'http://a/{{.Type}}', body: '1', bearer_token: {file: /a}`, key + `.url: http:// would send the credentials of the sink in clear`},
		"clear key":    {`url: 'http://a', body: '1', routing_key: {file: /a}`, key + `.url: http:// would send the credentials of the sink in clear`},
		"method":       {`url: 'https://a', body: '1', method: '{{'`, key + `.method: line 1`},
		"many keys":    {`url: 'https://a', body: '1', signing_keys: [{file: /a}, {file: /a}, {file: /a}, {file: /a}, {file: /a}]`, key + `.signing_keys: has 5 elements`},
		"allow":        {`url: 'https://a', body: '1', allow: ['http://b']`, key + `.allow[0]: "http://b" is`},
		"unknown":      {`url: 'https://a', body: '1', bodi: x`, `did you mean "body"?`},
		"secret value": {`preset: slack, secret_url: 'https://hooks.slack.com/services/T0/B0/x'`, `secret_url: secrets are not written into the configuration`},
	} {
		_, err := Parse("t.yaml", []byte("sinks: [{name: a, type: template, template: {"+test.section+"}}]\n"))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s\n got %v\nwant %s", name, err, test.want)
		}
	}
}
