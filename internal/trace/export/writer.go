package export

import (
	"context"
	"io"
	"sync"

	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/lines"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
)

// Form is what a stream of spans looks like.
type Form string

// The forms of a stream of spans.
const (
	TextLines Form = "text" // a line for people for each span
	JSONLines Form = "json" // a JSON object for each span
	OTLPLines Form = "otlp" // an ExportTraceServiceRequest in JSON for each batch
)

// writer writes spans to a stream.
type writer struct {
	encode func([]byte, []*trace.Span) []byte

	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns an exporter that writes lines.
func NewWriter(w io.Writer, form Form, o otlp.Options) Exporter {
	each := func(appendLine func([]byte, *trace.Span) []byte) func([]byte, []*trace.Span) []byte {
		return func(dst []byte, spans []*trace.Span) []byte {
			for _, s := range spans {
				dst = appendLine(dst, s)
			}
			return dst
		}
	}
	switch form {
	case JSONLines:
		return &writer{w: w, encode: each(lines.AppendJSON)}
	case OTLPLines:
		encoder := otlp.NewEncoder(o)
		return &writer{w: w, encode: func(dst []byte, spans []*trace.Span) []byte { return append(encoder.AppendJSON(dst, spans), '\n') }}
	}
	return &writer{w: w, encode: each(lines.AppendText)}
}

// Encode implements [Exporter].
func (e *writer) Encode(spans []*trace.Span) Payload {
	return Payload{Body: e.encode(nil, spans), Spans: len(spans)}
}

// Export implements [Exporter].
func (e *writer) Export(_ context.Context, p Payload) Answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, err := e.w.Write(p.Body); err != nil {
		return Answer{Outcome: Retry, Reason: telemetry.Printable(err.Error())}
	}
	return Answer{}
}

// Close implements [Exporter].
func (e *writer) Close() {}
