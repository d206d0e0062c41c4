package export

import (
	"bytes"
	"context"

	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
	"github.com/tocsin-events/tocsin/internal/trace/zipkin"
)

// Encoding is the form of OTLP over HTTP.
type Encoding string

// The forms of OTLP over HTTP.
const (
	Protobuf Encoding = "protobuf"
	JSON     Encoding = "json"
)

// NewOTLPHTTP returns an exporter to the URL of OTLP over HTTP. A URL without a path gets
// the usual one, /v1/traces.
func NewOTLPHTTP(c Connection, encoding Encoding, o otlp.Options) (Exporter, error) {
	encoder := otlp.NewEncoder(o)
	if encoding == JSON {
		return newHTTP(c, "/v1/traces", "application/json", encoder.AppendJSON, telemetry.ReadOTLPJSON)
	}
	return newHTTP(c, "/v1/traces", "application/x-protobuf", encoder.AppendProtobuf, telemetry.ReadOTLP)
}

// NewZipkin returns an exporter to the API of Zipkin, version 2. A URL without a path gets
// the usual one, /api/v2/spans.
func NewZipkin(c Connection) (Exporter, error) {
	return newHTTP(c, "/api/v2/spans", "application/json", zipkin.AppendJSON, telemetry.ReadText)
}

// httpExporter posts bodies.
type httpExporter struct {
	http   *telemetry.HTTP
	encode func([]byte, []*trace.Span) []byte
	gzip   bool

	plain    []byte // of the last batch, used again
	compress telemetry.Compressor
}

func newHTTP(c Connection, path, contentType string, encode func([]byte, []*trace.Span) []byte, read telemetry.Read) (Exporter, error) {
	client, err := telemetry.NewHTTP(c, path, contentType, read)
	if err != nil {
		return nil, err
	}
	return &httpExporter{http: client, encode: encode, gzip: c.Gzip}, nil
}

// Encode implements [Exporter].
func (e *httpExporter) Encode(spans []*trace.Span) Payload {
	e.plain = e.encode(e.plain[:0], spans)
	if !e.gzip {
		return Payload{Body: bytes.Clone(e.plain), Spans: len(spans)}
	}
	return Payload{Body: e.compress.Compress(e.plain), Spans: len(spans)}
}

// Export implements [Exporter].
func (e *httpExporter) Export(ctx context.Context, p Payload) Answer {
	return e.http.Send(ctx, p.Body, p.Spans)
}

// Close implements [Exporter].
func (e *httpExporter) Close() { e.http.Close() }
