package export

import (
	"context"

	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
)

// method is the one call of OTLP's trace service.
const method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// grpcExporter calls the trace service of OTLP.
type grpcExporter struct {
	grpc    *telemetry.GRPC
	encoder *otlp.Encoder
}

// NewOTLPGRPC returns an exporter to the host and port of a URL: http:// is a connection
// without TLS. A URL without a port gets the usual one, 4317. It does not connect yet.
func NewOTLPGRPC(c Connection, o otlp.Options) (Exporter, error) {
	client, err := telemetry.NewGRPC(c, method)
	if err != nil {
		return nil, err
	}
	return &grpcExporter{client, otlp.NewEncoder(o)}, nil
}

// Encode implements [Exporter].
func (e *grpcExporter) Encode(spans []*trace.Span) Payload {
	return Payload{Body: e.encoder.AppendProtobuf(nil, spans), Spans: len(spans)}
}

// Export implements [Exporter].
func (e *grpcExporter) Export(ctx context.Context, p Payload) Answer {
	return e.grpc.Send(ctx, p.Body, p.Spans)
}

// Close implements [Exporter].
func (e *grpcExporter) Close() { e.grpc.Close() }
