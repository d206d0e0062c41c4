package config

import (
	"strings"
	"testing"
)

func TestSinkOTLPLogsProblems(t *testing.T) {
	const key = "sinks[0].otlp_logs"
	for name, test := range map[string]struct{ section, want string }{
		"http":     {`url: 'http://127.0.0.1:4318'`, ""},
		"grpc":     {`url: 'https://otlp.example.com', protocol: grpc, headers: [{name: api-key, secret: {env: KEY}}], resource: {a: b}, compression: none`, ""},
		"inside":   {`url: 'http://10.1.2.3:4318/v1/logs', encoding: json`, ""},
		"loopback": {`url: 'http://127.0.0.1:4318', headers: [{name: api-key, secret: {env: KEY}}]`, ""},

		"no url":      {`protocol: grpc`, key + `: has no url; add for example`},
		"url":         {`url: 'localhost:4318'`, key + `.url: `},
		"user":        {`url: 'http://user:hunter2@a'`, key + `.url: `},
		"query":       {`url: 'http://a?key=hunter2'`, key + `.url: `},
		"grpc path":   {`url: 'http://a/v1/logs', protocol: grpc`, key + `.url: has a path, which gRPC does not have`},
		"grpc json":   {`url: 'http://a', protocol: grpc, encoding: json`, key + `.encoding: is for protocol: http`},
		"protocol":    {`url: 'http://a', protocol: htp`, `did you mean "http"?`},
		"tls":         {`url: 'http://a', tls: {ca: {file: /a}}`, key + `.tls: has no effect on an http:// url`},
		"half a pair": {`url: 'https://a', tls: {cert: {file: /a}}`, key + `.tls: cert and key belong together`},
		"clear":       {`url: 'http://a', headers: [{name: api-key, secret: {env: KEY}}]`, key + `.url: http:// would send the secret headers`},
		"own header":  {`url: 'http://a', headers: [{name: content-type, value: x}]`, key + `.headers[0].name: "content-type" is set by the sink`},
		"resource":    {`url: 'http://a', resource: {'': x}`, key + `.resource: has a name`},
	} {
		_, err := Parse("t.yaml", []byte("sinks: [{name: a, type: otlp_logs, otlp_logs: {"+test.section+"}}]\n"))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s\n got %v\nwant %s", name, err, test.want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: %v", name, err)
		}
	}
}
