package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Traces is the section "traces".
type Traces struct {
	Window      Duration         `yaml:"window" min:"1s" max:"1h" doc:"How long the response to a request is waited for. Then the request becomes a span without one."`
	MemoryBytes Size             `yaml:"memory_bytes" min:"1MiB" max:"16GiB" doc:"Memory for requests that wait for their response, for each exporter; when there are more, the oldest become spans without one."`
	Names       []TraceName      `yaml:"names" doc:"Names of spans for some paths, before the rules of docs/traces.md. Each has:"`
	MaxNames    int              `yaml:"max_names" min:"10" max:"1000000" doc:"How many different names there may be. What would be one more is named by operation and type of the mount only."`
	Attributes  TraceAttributes  `yaml:"attributes" doc:"Which attributes spans have."`
	Redact      []TraceRedaction `yaml:"redact" doc:"What is replaced in attributes and error messages. Each has:"`
	Resource    Texts            `yaml:"resource" doc:"Further attributes of the resource, for OTLP. Example: {deployment.environment.name: production}. service.name is the server of the source."`
	Exporters   []TraceExporter  `yaml:"exporters" doc:"Where spans go. Each exporter reads the journal on its own and remembers how far it is, so one that is down for hours loses nothing that the journal keeps, and delays no other. Each has:"`
}

// TraceName is one element of "traces.names".
type TraceName struct {
	Path string `yaml:"path" doc:"Path of a request, without its namespace. {name} stands for one element, {name...} at the end for all that follow, * for any text in an element."`
	Name string `yaml:"name" doc:"What follows the operation in the name of the span; {name} is replaced by what stood there. How many different names that makes is up to you."`
}

// TraceAttributes is the section "traces.attributes".
type TraceAttributes struct {
	Allow       []string `yaml:"allow" doc:"Names, * stands for any text, example: request.headers.*. Empty: all, except what is below request.data and response.data, which must be named here. Attributes of OpenTelemetry's conventions need not be named."`
	Deny        []string `yaml:"deny" doc:"Names that are left out, even if they are allowed."`
	MaxText     Size     `yaml:"max_text" min:"16B" max:"1MiB" doc:"Longer texts are cut."`
	MaxElements int      `yaml:"max_elements" min:"1" max:"100000" doc:"Longer lists are cut."`
	MaxCount    int      `yaml:"max_count" min:"8" max:"10000" doc:"Attributes beyond this number are left out, and counted on the span."`
	OmitHashed  bool     `yaml:"omit_hashed" doc:"true leaves out values that the audit device has hashed."`
}

// TraceRedaction is one element of "traces.redact".
type TraceRedaction struct {
	Attribute string `yaml:"attribute" doc:"Name of the attribute, * stands for any text. error is the error message."`
	Pattern   string `yaml:"pattern" doc:"Regular expression (RE2) of what is replaced."`
	Replace   string `yaml:"replace" doc:"By what; $1 is what the first group matched. Empty: by nothing."`
}

// TraceExporter is one element of "traces.exporters".
type TraceExporter struct {
	Name              string            `yaml:"name" doc:"Names the exporter in metrics, logs and health. Lower-case letters, digits, - and _. Changing it makes the exporter start again."`
	Type              TraceExporterType `yaml:"type" oneof:"otlp_grpc,otlp_http,zipkin,honeycomb,stdout" doc:"otlp_grpc and otlp_http send to everything that speaks OTLP: OpenTelemetry Collector, Jaeger, Tempo. zipkin sends to the API of Zipkin, version 2. honeycomb is otlp_http with what Honeycomb needs. stdout writes to standard output."`
	URL               string            `yaml:"url" doc:"Where it listens: http://127.0.0.1:4317 for otlp_grpc, http://127.0.0.1:4318 for otlp_http, http://127.0.0.1:9411 for zipkin. https:// is TLS. Of HTTP, the path is the usual one if there is none. honeycomb: empty, or a proxy such as Refinery."`
	Headers           []TraceHeader     `yaml:"headers" doc:"Sent with every request, over gRPC as metadata. Each has:"`
	APIKey            Secret            `yaml:"api_key" doc:"honeycomb: the key, as {env: NAME} or {file: PATH}."`
	Dataset           string            `yaml:"dataset" doc:"honeycomb: the dataset, for classic keys only."`
	Region            TraceRegion       `yaml:"region" oneof:"us,eu" doc:"honeycomb: us or eu."`
	Encoding          TraceEncoding     `yaml:"encoding" oneof:"protobuf,json" doc:"otlp_http: protobuf or json."`
	Format            TraceFormat       `yaml:"format" oneof:"text,json,otlp" doc:"stdout: text is a line for people for each span, json an object for each span, otlp a request of OTLP for each batch."`
	Compression       TraceCompression  `yaml:"compression" oneof:"gzip,none" doc:"gzip or none."`
	TLS               TraceTLS          `yaml:"tls" doc:"How an https connection is checked."`
	ProxyURL          string            `yaml:"proxy_url" doc:"HTTP proxy, except for otlp_grpc. Empty: none, whatever the environment says."`
	InsecureAllowHTTP bool              `yaml:"insecure_allow_http" doc:"true sends headers also over http to other machines: whoever is on the way can read the keys in them."`
	Timeout           Duration          `yaml:"timeout" min:"100ms" max:"5m" doc:"How long one request may take."`
	Sample            Ratio             `yaml:"sample" doc:"Part of the traces that is exported, such as 10% or 0.1, decided by the trace id: the same traces for all exporters, and for everybody who samples as OpenTelemetry does."`
	KeepErrors        bool              `yaml:"keep_errors" doc:"true exports failed and incomplete requests, whatever the sample."`
	KeepSlow          Duration          `yaml:"keep_slow" min:"1ms" max:"1h" zero:"no such rule" doc:"Requests that took so long are exported, whatever the sample."`
	FollowCaller      bool              `yaml:"follow_caller" doc:"true exports a request that is part of a trace of its caller exactly if the caller records that trace."`
	From              From              `yaml:"from" oneof:"start,end" doc:"Where to begin the first time: with the oldest event in the journal, or with what comes from then on."`
	Batch             TraceBatch        `yaml:"batch" doc:"When spans are sent."`
	InFlight          int               `yaml:"in_flight" min:"2" max:"64" doc:"How many batches are on their way at the same time."`
}

// TraceHeader is one element of "traces.exporters[].headers".
type TraceHeader struct {
	Name   string `yaml:"name" doc:"Name of the header."`
	Value  string `yaml:"value" doc:"Its value, if that is no secret."`
	Secret Secret `yaml:"secret" doc:"Its value, as {env: NAME} or {file: PATH}; a file is read again for every request."`
}

// TraceTLS is the section "traces.exporters[].tls".
type TraceTLS struct {
	CAFile     string `yaml:"ca_file" doc:"PEM file with the authorities of the certificate. Empty: those of the system."`
	ServerName string `yaml:"server_name" doc:"Name in the certificate. Empty: the host of the url."`
	CertFile   string `yaml:"cert_file" doc:"PEM file with a client certificate."`
	KeyFile    string `yaml:"key_file" doc:"PEM file with its private key."`
}

// TraceBatch is the section "traces.exporters[].batch".
type TraceBatch struct {
	Spans int      `yaml:"spans" min:"1" max:"10000" doc:"A batch has at most so many spans."`
	Bytes Size     `yaml:"bytes" min:"4KiB" max:"16MiB" doc:"And is not much larger than this, before compression."`
	Delay Duration `yaml:"delay" min:"1ms" max:"1m" doc:"A span waits at most so long for others."`
}

// Kinds of exporters and their settings.
type (
	TraceExporterType string
	TraceRegion       string
	TraceEncoding     string
	TraceFormat       string
	TraceCompression  string
)

// The kinds of exporters.
const (
	TraceOTLPGRPC  TraceExporterType = "otlp_grpc"
	TraceOTLPHTTP  TraceExporterType = "otlp_http"
	TraceZipkin    TraceExporterType = "zipkin"
	TraceHoneycomb TraceExporterType = "honeycomb"
	TraceStdout    TraceExporterType = "stdout"
)

func defaultTraces() Traces {
	return Traces{
		Window:      Duration(3 * time.Minute),
		MemoryBytes: 64 << 20,
		MaxNames:    2_000,
		Attributes:  TraceAttributes{MaxText: 1 << 10, MaxElements: 64, MaxCount: 128},
	}
}

// DefaultTraceExporter returns what the fields of an exporter are when its element does not
// mention them.
func DefaultTraceExporter() TraceExporter {
	return TraceExporter{
		Region: "us", Encoding: "protobuf", Format: "text", Compression: "gzip",
		Timeout: Duration(10 * time.Second), Sample: 1, KeepErrors: true, From: FromEnd,
		Batch: TraceBatch{Spans: 512, Bytes: 1 << 20, Delay: Duration(time.Second)}, InFlight: 4,
	}
}

// Ratio is a part of a whole, from 0 to 1, written as a number or in percent.
type Ratio float64

// ParseRatio reads the text form.
func ParseRatio(s string) (Ratio, error) {
	number, percent := strings.CutSuffix(s, "%")
	r, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if percent {
		r /= 100
	}
	if err != nil || !(r >= 0 && r <= 1) {
		return 0, fmt.Errorf("%q is not a ratio; write for example 10%% or 0.1, at most 100%%", shorten(s))
	}
	return Ratio(r), nil
}

// String returns the ratio in percent, in a form that [ParseRatio] reads back.
func (r Ratio) String() string {
	text := strconv.FormatFloat(float64(r)*100, 'f', -1, 64)
	if back, err := ParseRatio(text + "%"); err != nil || back != r {
		return strconv.FormatFloat(float64(r), 'f', -1, 64)
	}
	return text + "%"
}

// headerName is what names of HTTP headers and of gRPC metadata have in common.
var headerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// reservedHeaders are set by the exporters themselves.
var reservedHeaders = []string{"content-type", "content-encoding", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "user-agent"}

// secretHeaderParts are in the names of headers whose values are secrets. Other values are
// printed, and sent without TLS.
var secretHeaderParts = []string{
	"authorization", "cookie", "x-honeycomb-team", "api-key", "api_key", "apikey", "access-key", "token", "secret", "password",
}

// maxExporters bounds how often the journal is read.
const maxExporters = 16

func (v *validator) traces(t Traces) {
	for i, n := range t.Names {
		key := fmt.Sprintf("traces.names[%d]", i)
		if n.Path == "" || n.Name == "" {
			v.report(key, "needs both path and name")
		}
	}
	for i, r := range t.Redact {
		key := fmt.Sprintf("traces.redact[%d]", i)
		if r.Attribute == "" || r.Pattern == "" {
			v.report(key, "needs both attribute and pattern")
		}
		if _, err := regexp.Compile(r.Pattern); err != nil {
			v.report(key+".pattern", "is no regular expression of RE2: %v", shorten(err.Error()))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Resource)) {
		if name == "" || len(name) > 256 {
			v.report("traces.resource", "%q is no name of an attribute", shorten(name))
		}
	}
	if len(t.Exporters) > maxExporters {
		v.report("traces.exporters", "has %d elements, at most %d are possible", len(t.Exporters), maxExporters)
	}
	names := make(map[string]int)
	stdout := -1
	for i := range t.Exporters {
		e, key := &t.Exporters[i], fmt.Sprintf("traces.exporters[%d]", i)
		switch first, seen := names[e.Name]; {
		case e.Name == "":
			v.report(key, "has no name; add for example \"name: zipkin\"")
		case !sourceName.MatchString(e.Name):
			v.report(key+".name", "%q must be 1 to 63 lower-case letters, digits, - and _, and begin with a letter or digit", shorten(e.Name))
		case seen:
			v.report(key+".name", "%q is already the name of traces.exporters[%d]", e.Name, first)
		default:
			names[e.Name] = i
		}
		if e.Type == TraceStdout {
			if stdout >= 0 {
				v.report(key+".type", "traces.exporters[%d] writes to standard output already", stdout)
			}
			stdout = i
		}
		v.traceExporter(key, e)
	}
}

func (v *validator) traceExporter(key string, e *TraceExporter) {
	if r := e.Sample; !(r >= 0 && r <= 1) {
		v.report(key+".sample", "%v must be from 0%% to 100%%", float64(r))
	}
	only := func(field string, set bool, types ...TraceExporterType) {
		if set && !slices.Contains(types, e.Type) && !v.reported(key+".type") {
			v.report(key+"."+field, "is not for exporters of type %s", e.Type)
		}
	}
	only("api_key", e.APIKey.IsSet(), TraceHoneycomb)
	only("dataset", e.Dataset != "", TraceHoneycomb)
	network := []TraceExporterType{TraceOTLPGRPC, TraceOTLPHTTP, TraceZipkin, TraceHoneycomb}
	only("url", e.URL != "", network...)
	only("headers", len(e.Headers) > 0, network...)
	only("proxy_url", e.ProxyURL != "", TraceOTLPHTTP, TraceZipkin, TraceHoneycomb)
	if e.Type == TraceStdout {
		return
	}
	v.traceHeaders(key, e)
	if (e.TLS.CertFile == "") != (e.TLS.KeyFile == "") {
		v.report(key+".tls", "cert_file and key_file belong together; set both, or none")
	}
	if e.Type == TraceHoneycomb && !e.APIKey.IsSet() {
		v.report(key, "has no api_key; add \"api_key: {env: HONEYCOMB_API_KEY}\"")
	}
	if e.ProxyURL != "" {
		if _, err := checkTraceURL(e.ProxyURL, "http://proxy.example.com:3128"); err != nil {
			v.report(key+".proxy_url", "%v", err)
		}
	}
	switch {
	case e.URL == "" && e.Type == TraceHoneycomb:
		return
	case e.URL == "":
		v.report(key, "has no url; add for example \"url: %s\"", exampleURL(e.Type))
		return
	}
	u, err := checkTraceURL(e.URL, exampleURL(e.Type))
	switch {
	case err != nil:
		v.report(key+".url", "%v", err)
	case e.Type == TraceOTLPGRPC && strings.Trim(u.Path, "/") != "":
		v.report(key+".url", "%q has a path, which gRPC does not have; leave it out, or choose the type otlp_http", shorten(e.URL))
	case u.Scheme == "http" && (e.TLS != TraceTLS{}):
		v.report(key+".tls", "has no effect on an http:// url; write https://")
	case u.Scheme == "http" && !e.InsecureAllowHTTP && e.secrets() && !loopbackURL("http://"+u.Host):
		v.report(key+".url", "%q would send the keys of the exporter in clear to another machine; use https, or set insecure_allow_http if the network is yours alone", shorten(e.URL))
	}
}

// secrets says whether requests have values that nobody may see.
func (e *TraceExporter) secrets() bool {
	return e.APIKey.IsSet() || slices.ContainsFunc(e.Headers, func(h TraceHeader) bool { return h.Secret.IsSet() })
}

func (v *validator) traceHeaders(key string, e *TraceExporter) {
	seen := make(map[string]bool)
	for i, h := range e.Headers {
		key := fmt.Sprintf("%s.headers[%d]", key, i)
		name := strings.ToLower(h.Name)
		switch {
		case h.Name == "":
			v.report(key, "has no name")
		case !headerName.MatchString(h.Name) || e.Type == TraceOTLPGRPC && (strings.HasSuffix(name, "-bin") || strings.HasPrefix(name, "grpc-")):
			v.report(key+".name", "%q is no name of a header that can be set here", shorten(h.Name))
		case slices.Contains(reservedHeaders, name):
			v.report(key+".name", "%q is set by the exporter", h.Name)
		case seen[name]:
			v.report(key+".name", "%q is there twice", h.Name)
		}
		seen[name] = true
		if (h.Value != "") == h.Secret.IsSet() {
			v.report(key, "needs either value or secret")
		}
		if strings.ContainsFunc(h.Value, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
			v.report(key+".value", "must be printable ASCII characters")
		}
		if h.Value != "" && slices.ContainsFunc(secretHeaderParts, func(part string) bool { return strings.Contains(name, part) }) {
			v.report(key+".value", "secrets are not written into the configuration; write secret: {env: NAME} or {file: PATH}")
		}
	}
}

func exampleURL(t TraceExporterType) string {
	switch t {
	case TraceZipkin:
		return "http://127.0.0.1:9411"
	case TraceOTLPGRPC:
		return "http://127.0.0.1:4317"
	}
	return "http://127.0.0.1:4318"
}

// checkTraceURL parses a URL. What may be a secret in it is not repeated.
func checkTraceURL(text, example string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("is not a URL; write one like %s", example)
	case u.User != nil:
		return nil, errors.New("has a user or password in it; leave that out, and send it as a header: {name: Authorization, secret: {file: PATH}}, with \"Basic \" and its base64 form in the file")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Hostname() == "":
		return nil, fmt.Errorf("%q has no http:// or https://, or no host; write it like %s", shorten(cmp.Or(u.Redacted(), text)), example)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("has a query or fragment; leave it out, and send keys as headers")
	}
	return u, nil
}
