// Package export sends spans to tracing systems: OTLP over gRPC and HTTP, Zipkin, and a
// stream of lines. An exporter sends one batch once and says what became of it; it never
// tries again by itself and keeps nothing. Package delivery does that.
package export

import (
	"context"

	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// Connections and answers are those of package telemetry.
type (
	Connection = telemetry.Connection
	Header     = telemetry.Header
	TLS        = telemetry.TLS
	Answer     = telemetry.Answer
	Outcome    = telemetry.Outcome
)

// The outcomes.
const (
	Delivered = telemetry.Delivered
	Retry     = telemetry.Retry
	Doubtful  = telemetry.Doubtful
	TooLarge  = telemetry.TooLarge
	Never     = telemetry.Never
)

// Fixed returns a header whose value never changes.
func Fixed(name, value string) Header { return telemetry.Fixed(name, value) }

// Exporter sends spans to one place.
type Exporter interface {
	// Encode returns the batch in the form in which it is sent, however often. It is
	// called by one goroutine at a time and keeps nothing of the spans.
	Encode(spans []*trace.Span) Payload
	// Export sends a payload once and says what became of it, within the timeout of the
	// exporter. It may be called concurrently. When ctx ends the answer is [Retry].
	Export(ctx context.Context, p Payload) Answer
	// Close releases connections. The exporter must not be used any more.
	Close()
}

// Payload is an encoded batch.
type Payload struct {
	Body  []byte
	Spans int
}
