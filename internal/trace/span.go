// Package trace turns the audit entries of Vault and OpenBao into spans: one span for
// each request, from its request entry to its response entry, with the true duration.
package trace

import (
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// TraceID and SpanID are the identifiers of W3C Trace Context level 1.
type (
	TraceID [16]byte
	SpanID  [8]byte
)

// Span is one request. A Span and all that it points to must not be changed: several
// exporters may have it.
type Span struct {
	TraceID    TraceID
	SpanID     SpanID
	Parent     SpanID // zero: it is the root of its trace
	TraceState string // of the caller, if Parent is
	Name       string
	Start, End time.Time // End is never before Start
	Kind       Completeness
	Failed     bool
	Message    string // why it failed; empty when the stream does not tell
	// Source is that of the audit events: "vault://NAME".
	Source string
	// Attributes in a fixed order, each key once.
	Attributes []Attribute
	// Closed is the position of the event that ended the span: the response, or, of a
	// span without one, the event up to which it was waited for. It is zero for
	// spans that do not come from a journal.
	Closed journal.Position
}

// Completeness says which entries of a request a span was made of.
type Completeness uint8

const (
	Complete     Completeness = iota // both
	RequestOnly                      // no response came within the window: "incomplete"
	ResponseOnly                     // no request was seen: the span has no length
)

// Attribute is one attribute of a span.
type Attribute struct {
	Key   string
	Value Value
}

// ValueKind is the type of a [Value].
type ValueKind uint8

// The types that OpenTelemetry attributes have here.
const (
	Text ValueKind = iota
	Int
	Float
	Bool
	Texts
)

// Value is the value of an attribute.
type Value struct {
	Kind  ValueKind
	Num   uint64   // Int: two's complement; Float: IEEE 754 bits; Bool: 0 or 1
	Text  string   // Text
	Texts []string // Texts
}
