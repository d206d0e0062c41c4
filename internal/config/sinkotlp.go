package config

import (
	"net/url"
	"strings"
)

// SinkOTLPLogs is the section "sinks[].otlp_logs".
type SinkOTLPLogs struct {
	URL               string           `yaml:"url" doc:"Where it listens: http://127.0.0.1:4318, or for gRPC http://127.0.0.1:4317. https:// is TLS. Of HTTP, the path is /v1/logs if there is none."`
	Protocol          OTLPProtocol     `yaml:"protocol" oneof:"http,grpc" doc:"OTLP over HTTP or over gRPC."`
	Encoding          TraceEncoding    `yaml:"encoding" oneof:"protobuf,json" doc:"Over HTTP: protobuf or json."`
	Compression       TraceCompression `yaml:"compression" oneof:"gzip,none" doc:"gzip or none."`
	Headers           []SinkHeader     `yaml:"headers" doc:"Sent with every request, over gRPC as metadata. Each has:"`
	TLS               SinkTLS          `yaml:"tls" doc:"How an https connection is checked."`
	InsecureAllowHTTP bool             `yaml:"insecure_allow_http" doc:"true sends secret headers also over http to other machines: whoever is on the way can read them."`
	Resource          Texts            `yaml:"resource" doc:"Attributes of the resource. One that is called service.name replaces the name of the source. Example: {deployment.environment.name: production}."`
}

// Settings of it.
type (
	OTLPProtocol string
)

// The protocols.
const (
	OTLPOverHTTP OTLPProtocol = "http"
	OTLPOverGRPC OTLPProtocol = "grpc"
)

func defaultSinkOTLPLogs() SinkOTLPLogs {
	return SinkOTLPLogs{Protocol: OTLPOverHTTP, Encoding: "protobuf", Compression: "gzip"}
}

// sinkOTLPLogs checks what holds between the fields of the section at key.
func (v *validator) sinkOTLPLogs(key string, c *SinkOTLPLogs) {
	// The url is checked as those of exporters are: a collector mostly is inside.
	h := sinkHTTP{headers: c.Headers, tls: c.TLS, allowHTTP: c.InsecureAllowHTTP}
	v.sinkHTTP(key, h, "content-type")
	if c.URL == "" {
		v.report(key, "has no url; add for example \"url: http://127.0.0.1:4318\"")
		return
	}
	example := "http://127.0.0.1:4318"
	if c.Protocol == OTLPOverGRPC {
		example = "http://127.0.0.1:4317"
	}
	u, err := checkTraceURL(c.URL, example)
	if err != nil {
		v.report(key+".url", "%v", err)
		return
	}
	if c.Protocol == OTLPOverGRPC {
		if strings.Trim(u.Path, "/") != "" {
			v.report(key+".url", "has a path, which gRPC does not have; leave it out, or write protocol: http")
		}
		if c.Encoding != "protobuf" {
			v.report(key+".encoding", "is for protocol: http; leave it out")
		}
	}
	plain := u.Scheme == "http"
	if plain && c.TLS != (SinkTLS{}) {
		v.report(key+".tls", "has no effect on an http:// url; write https://")
	}
	if plain && h.secret() && !c.InsecureAllowHTTP && !loopbackURL((&url.URL{Scheme: "http", Host: u.Host}).String()) {
		v.report(key+".url", "http:// would send the secret headers of the sink in clear to another machine; use https://, or set insecure_allow_http if the network is yours alone")
	}
	for name := range c.Resource {
		if name == "" || len(name) > 256 {
			v.report(key+".resource", "has a name that is empty or longer than 256 bytes")
		}
	}
}
