// Package otlp speaks the trace signal of the OpenTelemetry protocol, OTLP 1.x: it
// encodes spans as ExportTraceServiceRequest, in protobuf and in JSON, and understands
// what receivers answer. It sends nothing.
//
// Source: the OpenTelemetry specification, "OTLP Specification 1.x" (encoding, JSON
// mapping, partial success, failures and throttling) and the messages of
// opentelemetry.proto.trace.v1, of which the field numbers are used here.
package otlp

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/trace"
)

// ScopeName is the name of the instrumentation scope of all spans.
const ScopeName = "github.com/tocsin-events/tocsin/internal/trace"

// SemConv is the version of the semantic conventions by which attributes are named.
const SemConv = "https://opentelemetry.io/schemas/1.37.0"

// Options are what an Encoder says about all spans.
type Options struct {
	// Version of the program, in the scope and in the resource.
	Version string
	// Resource are further attributes of every resource, for example
	// deployment.environment.name. They replace those of the same name.
	Resource []trace.Attribute
}

// Encoder encodes spans. It is for one goroutine at a time.
type Encoder struct {
	version  string
	resource []trace.Attribute // after service.name
	replaced bool              // service.name is in Options.Resource

	groups []group
	spans  []*trace.Span // clean
	sizes  []int
	order  []int32 // of spans, those of one resource together
}

// group is the spans of one resource, which is the server that the requests went to.
type group struct {
	source string
	spans  int // how many
}

// NewEncoder returns an encoder.
func NewEncoder(o Options) *Encoder {
	e := &Encoder{version: clean(o.Version)}
	fixed := []trace.Attribute{
		text("telemetry.sdk.name", "tocsin"),
		text("telemetry.sdk.language", "go"),
		text("telemetry.sdk.version", e.version),
	}
	for _, a := range o.Resource {
		a.Value.Text = clean(a.Value.Text)
		a.Key = clean(a.Key)
		if a.Key == "service.name" {
			e.replaced = true
		}
		fixed = slices.DeleteFunc(fixed, func(b trace.Attribute) bool { return a.Key == b.Key })
		fixed = append(fixed, a)
	}
	e.resource = fixed
	return e
}

func text(key, value string) trace.Attribute {
	return trace.Attribute{Key: key, Value: trace.Value{Kind: trace.Text, Text: value}}
}

// arrange finds the resources of spans, in the order in which they appear, and puts the
// spans of one together.
func (e *Encoder) arrange(spans []*trace.Span) {
	e.groups, e.order = e.groups[:0], e.order[:0]
	find := func(source string) int {
		// A batch has one or a few sources.
		return slices.IndexFunc(e.groups, func(g group) bool { return g.source == source })
	}
	for _, s := range spans {
		i := find(s.Source)
		if i < 0 {
			i = len(e.groups)
			e.groups = append(e.groups, group{source: s.Source})
		}
		e.groups[i].spans++
	}
	for _, g := range e.groups {
		for i, s := range spans {
			if s.Source == g.source {
				e.order = append(e.order, int32(i))
			}
		}
	}
}

// clean returns s as valid UTF-8: receivers refuse a whole request for one bad byte.
func clean(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// cleanSpan returns a span whose texts are all valid UTF-8, which is s, nearly always.
func cleanSpan(s *trace.Span) *trace.Span {
	if s.IsUTF8() {
		return s
	}
	ok := utf8.ValidString(s.Name) && utf8.ValidString(s.Message) && utf8.ValidString(s.TraceState)
	for i := range s.Attributes {
		a := &s.Attributes[i]
		ok = ok && utf8.ValidString(a.Key) && utf8.ValidString(a.Value.Text)
		for _, text := range a.Value.Texts {
			ok = ok && utf8.ValidString(text)
		}
	}
	if ok {
		return s
	}
	c := *s
	c.Name, c.Message, c.TraceState = clean(c.Name), clean(c.Message), clean(c.TraceState)
	c.Attributes = slices.Clone(c.Attributes)
	for i := range c.Attributes {
		a := &c.Attributes[i]
		a.Key, a.Value.Text, a.Value.Texts = clean(a.Key), clean(a.Value.Text), slices.Clone(a.Value.Texts)
		for k := range a.Value.Texts {
			a.Value.Texts[k] = clean(a.Value.Texts[k])
		}
	}
	return &c
}

// Flags of a span: the sampled flag of W3C Trace Context, and whether it is known that
// the parent is in another process.
const (
	flagSampled     = 0x001
	flagHasIsRemote = 0x100
	flagIsRemote    = 0x200
)

// spanFlags returns the field flags: the trace flags in the low byte, of which sampled is true
// of what is exported. A parent is always the caller's.
func spanFlags(s *trace.Span) uint32 {
	flags := uint32(s.Flags) | flagSampled | flagHasIsRemote
	if s.Parent != (trace.SpanID{}) {
		flags |= flagIsRemote
	}
	return flags
}

// Numbers of the enumerations SpanKind and StatusCode.
const (
	kindServer  = 2
	statusError = 2
)
