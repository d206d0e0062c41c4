package config

import (
	"strings"
	"testing"
	"time"
)

func fullTraces() Traces {
	exporter := func(name string, t TraceExporterType, url string, change func(*TraceExporter)) TraceExporter {
		e := DefaultTraceExporter()
		e.Name, e.Type, e.URL = name, t, url
		change(&e)
		return e
	}
	return Traces{
		Window: Duration(time.Minute), MemoryBytes: 8 << 20,
		Names:    []TraceName{{"kv/data/{team}/{rest...}", "kv/data/{team}/…"}},
		MaxNames: 50,
		Attributes: TraceAttributes{
			Allow: []string{"request.*"}, Deny: []string{"*token*"}, MaxText: 64, MaxElements: 3, MaxCount: 20, OmitHashed: true,
		},
		Redact:   []TraceRedaction{{"error", `hvs\.\w+`, "<token>"}},
		Resource: Texts{"deployment.environment.name": "production"},
		Exporters: []TraceExporter{
			exporter("zipkin", TraceZipkin, "http://zipkin.internal:9411", func(e *TraceExporter) {
				e.Compression, e.Timeout, e.Sample, e.KeepErrors, e.KeepSlow = "none", Duration(5*time.Second), 0.125, false, Duration(200*time.Millisecond)
				e.FollowCaller, e.From, e.Batch, e.InFlight = true, FromStart, TraceBatch{10, 64 << 10, Duration(5 * time.Second)}, 2
			}),
			exporter("tempo", TraceOTLPHTTP, "https://tempo.example/otlp/v1/traces", func(e *TraceExporter) {
				e.Encoding, e.ProxyURL, e.Sample = "json", "http://proxy:3128", 0.001
				e.Headers = []TraceHeader{{Name: "X-Scope-OrgID", Value: "team1"}, {Name: "Authorization", Secret: SecretFromFile("/etc/tocsin/tempo")}}
				e.TLS = TraceTLS{"ca.pem", "tempo", "cert.pem", "key.pem"}
			}),
			exporter("collector", TraceOTLPGRPC, "http://collector:4317", func(e *TraceExporter) {
				e.Headers, e.InsecureAllowHTTP = []TraceHeader{{Name: "key", Secret: SecretFromEnv("KEY")}}, true
			}),
			exporter("hc", TraceHoneycomb, "", func(e *TraceExporter) {
				e.APIKey, e.Dataset, e.Region = SecretFromEnv("HONEYCOMB_API_KEY"), "vault", "eu"
			}),
			exporter("out", TraceStdout, "", func(e *TraceExporter) { e.Format = "otlp" }),
		},
	}
}

func TestTraceProblems(t *testing.T) {
	one := func(fields string) string { return "traces: {exporters: [{" + fields + "}]}\n" }
	const key = "traces.exporters[0]"
	for name, test := range map[string]struct{ text, want string }{
		"nothing":             {one("compression: gzip"), `has no name; add for example "name: zipkin"`},
		"no type":             {one("name: a"), `type: is missing; write one of otlp_grpc, otlp_http, zipkin, honeycomb, stdout`},
		"type":                {one("name: a, type: otlp-grpc"), `did you mean "otlp_grpc"?`},
		"no url":              {one("name: a, type: zipkin"), `has no url; add for example "url: http://127.0.0.1:9411"`},
		"no scheme":           {one("name: a, type: otlp_grpc, url: 'localhost:4317'"), `has no http:// or https://, or no host; write it like http://127.0.0.1:4317`},
		"password":            {one("name: a, type: zipkin, url: 'http://u:hunter2@z:9411'"), key + `.url: has a user or password in it; leave that out, and send it as a header`},
		"broken password":     {one("name: a, type: zipkin, url: 'http://u:hunter2%@z:9411'"), key + `.url: is not a URL; write one like http://127.0.0.1:9411`},
		"query":               {one("name: a, type: zipkin, url: 'http://z:9411?key=hunter2'"), key + `.url: has a query or fragment; leave it out, and send keys as headers`},
		"gRPC path":           {one("name: a, type: otlp_grpc, url: 'http://z:4317/v1/traces'"), `choose the type otlp_http`},
		"TLS without":         {one("name: a, type: zipkin, url: 'http://z', tls: {ca_file: a}"), key + `.tls: has no effect on an http:// url; write https://`},
		"half a certificate":  {one("name: a, type: zipkin, url: 'https://z', tls: {cert_file: a}"), `cert_file and key_file belong together`},
		"key in clear":        {one("name: a, type: otlp_http, url: 'http://z', headers: [{name: k, secret: {env: K}}]"), `would send the keys of the exporter in clear to another machine`},
		"proxy password":      {one("name: a, type: otlp_http, url: 'https://z', proxy_url: 'http://u:hunter2@p'"), key + `.proxy_url: has a user or password in it`},
		"gRPC proxy":          {one("name: a, type: otlp_grpc, url: 'https://z', proxy_url: 'http://p'"), key + `.proxy_url: is not for exporters of type otlp_grpc`},
		"no key":              {one("name: a, type: honeycomb"), `has no api_key; add "api_key: {env: HONEYCOMB_API_KEY}"`},
		"key of nobody":       {one("name: a, type: zipkin, url: 'http://z', api_key: {env: K}"), key + `.api_key: is not for exporters of type zipkin`},
		"stdout with url":     {one("name: a, type: stdout, url: 'http://z'"), key + `.url: is not for exporters of type stdout`},
		"secret in file":      {one("name: a, type: zipkin, url: 'http://z', headers: [{name: Authorization, value: Basic hunter2}]"), `secrets are not written into the configuration`},
		"secret in another":   {one("name: a, type: otlp_grpc, url: 'https://z', headers: [{name: lightstep-access-token, value: hunter2}]"), `secrets are not written into the configuration`},
		"no value":            {one("name: a, type: zipkin, url: 'http://z', headers: [{name: x}]"), key + `.headers[0]: needs either value or secret`},
		"both values":         {one("name: a, type: zipkin, url: 'http://z', headers: [{name: x, value: y, secret: {env: z}}]"), key + `.headers[0]: needs either value or secret`},
		"header twice":        {one("name: a, type: zipkin, url: 'http://z', headers: [{name: x, value: y}, {name: X, value: y}]"), key + `.headers[1].name: "X" is there twice`},
		"header of its own":   {one("name: a, type: zipkin, url: 'http://z', headers: [{name: Content-Type, value: y}]"), `"Content-Type" is set by the exporter`},
		"header name":         {one("name: a, type: zipkin, url: 'http://z', headers: [{name: 'a b', value: y}]"), `"a b" is no name of a header that can be set here`},
		"gRPC header":         {one("name: a, type: otlp_grpc, url: 'http://z', headers: [{name: a-bin, value: y}]"), `"a-bin" is no name of a header that can be set here`},
		"header with newline": {one(`name: a, type: zipkin, url: 'http://z', headers: [{name: a, value: "x\ny"}]`), `must be printable ASCII characters`},
		"ratio":               {one("name: a, type: stdout, sample: 200%"), `"200%" is not a ratio; write for example 10% or 0.1, at most 100%`},
		"no ratio":            {one("name: a, type: stdout, sample: often"), `"often" is not a ratio`},
		"two of one name":     {"traces: {exporters: [{name: a, type: stdout}, {name: a, type: zipkin, url: 'http://z'}]}\n", `"a" is already the name of traces.exporters[0]`},
		"two stdouts":         {"traces: {exporters: [{name: a, type: stdout}, {name: b, type: stdout}]}\n", `traces.exporters[0] writes to standard output already`},
		"names":               {"traces: {names: [{path: a}]}\n", `traces.names[0]: needs both path and name`},
		"redact":              {"traces: {redact: [{attribute: a, pattern: '('}]}\n", `traces.redact[0].pattern: is no regular expression of RE2`},
		"too many":            {"traces: {exporters: [" + strings.Repeat("{name: a, type: stdout}, ", 17) + "]}\n", `has 17 elements, at most 16 are possible`},
		"one in flight":       {one("name: a, type: stdout, in_flight: 1"), key + `.in_flight: 1 is too small; the least is 2`},
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

func TestParseRatio(t *testing.T) {
	for text, want := range map[string]Ratio{"0": 0, "1": 1, "0.5": 0.5, "10%": 0.1, "12.5 %": 0.125, "100%": 1, "0.001%": 0.00001, "1e-3": 0.001} {
		got, err := ParseRatio(text)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if back, err := ParseRatio(got.String()); err != nil || back != got {
			t.Errorf("%q is printed as %q", text, got)
		}
	}
	for _, text := range []string{"", "%", "-1", "101%", "NaN", "Inf", "1.0001", "a"} {
		if r, err := ParseRatio(text); err == nil {
			t.Errorf("%q is %v", text, r)
		}
	}
}
