package config

// SinkOTLPLogs is the section "sinks[].otlp_logs".
type SinkOTLPLogs struct {
	URL         string           `yaml:"url" doc:"Where it listens: http://127.0.0.1:4318, or for gRPC http://127.0.0.1:4317. https:// is TLS. Of HTTP, the path is /v1/logs if there is none."`
	Protocol    OTLPProtocol     `yaml:"protocol" oneof:"http,grpc" doc:"OTLP over HTTP or over gRPC."`
	Encoding    TraceEncoding    `yaml:"encoding" oneof:"protobuf,json" doc:"Over HTTP: protobuf or json."`
	Compression TraceCompression `yaml:"compression" oneof:"gzip,none" doc:"gzip or none."`
	Headers     []SinkHeader     `yaml:"headers" doc:"Sent with every request, over gRPC as metadata. Each has:"`
	TLS         SinkTLS          `yaml:"tls" doc:"How an https connection is checked."`
	Resource    Texts            `yaml:"resource" doc:"Attributes of the resource. Example: {deployment.environment.name: production}."`
}

// Settings of it.
type (
	OTLPProtocol string
)

func defaultSinkOTLPLogs() SinkOTLPLogs {
	return SinkOTLPLogs{Protocol: "http", Encoding: "protobuf", Compression: "gzip"}
}

// sinkOTLPLogs checks what holds between the fields of the section at key.
func (v *validator) sinkOTLPLogs(key string, c *SinkOTLPLogs) {}
