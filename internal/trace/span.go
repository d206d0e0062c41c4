// Package trace turns the audit entries of Vault and OpenBao into spans: one span for
// each request, from its request entry to its response entry, with the true duration.
//
// A [Tracer] reads the events of the journal in order and pairs the entries. What it knows
// can be had again from the journal: a [Progress] of three positions is all that a restart
// needs. The package sends nothing anywhere; exporters do.
package trace

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// TraceID and SpanID are the identifiers of W3C Trace Context.
type (
	TraceID = tracecontext.TraceID
	SpanID  = tracecontext.SpanID
)

// Span is one request. A Span and all that it points to must not be changed: several
// exporters may have it. Its texts share the memory of the journal's records, so whoever
// keeps many spans for long keeps those too, or their [Span.Detached].
type Span struct {
	TraceID    TraceID
	SpanID     SpanID
	Parent     SpanID // zero: it is the root of its trace
	Flags      tracecontext.Flags
	TraceState string // of the caller, if Parent is
	Name       string
	Start, End time.Time // End is never before Start
	Kind       Completeness
	// Expected is true for a span with one entry of a kind that has no other, such as
	// sys/seal: nothing is missing although Kind is not Complete.
	Expected bool
	// Imported is true for a request of an old log that was imported: it may have been long ago.
	Imported bool
	Failed   bool
	Message  string // why it failed; empty when the stream does not tell
	// Status is the HTTP status of the answer, 0 where it cannot be known.
	Status int
	// ErrorType is what kind of failure it was, as the attribute error.type has it; empty
	// if it was none.
	ErrorType string
	// Request is what was asked, and by whom.
	Request Request
	// Source is that of the audit events: "vault://NAME".
	Source string
	// Attributes in the order in which they stand in the entry, each key once.
	Attributes []Attribute
	// Dropped is how many attributes there would be beyond the limit.
	Dropped int
	// Opened is the position of the first entry of the request.
	Opened position.Position
	// Closed is the position of the event that ended the span: its last entry, or, of a
	// span for which was waited in vain, the event up to which it was. A span that was
	// closed without an event, because time passed, has position.BetweenRecords as the
	// index. Both are zero for spans that do not come from a journal.
	Closed position.Position

	large bool // it was made of a large entry
	valid bool // all texts are UTF-8
}

// Request is what the entries of a request say about it, as it stands in them: whoever shows
// it has to bear in mind that most of it was chosen by callers of the server.
type Request struct {
	ID            string // mostly a UUID
	Operation     string
	Path          string // without namespace
	Namespace     string // with trailing slash; empty for the root namespace
	MountPoint    string // without namespace, with trailing slash; empty: not known
	MountType     string
	DisplayName   string // of the caller; of a login that succeeded, of who logged in
	EntityID      string // likewise
	RemoteAddress string
	Root          bool // the caller's token has the policy "root"
}

// IsLogin reports whether it is a login: an attempt to get a token from an auth method.
func (r *Request) IsLogin() bool {
	below, ok := "", false
	if r.MountPoint != "" {
		below, ok = strings.CutPrefix(r.Path, r.MountPoint)
		ok = ok && strings.HasPrefix(r.MountPoint, "auth/")
	} else if below, ok = strings.CutPrefix(r.Path, "auth/"); ok {
		_, below, ok = strings.Cut(below, "/")
	}
	return ok && (below == "login" || strings.HasPrefix(below, "login/") || below == "oidc/callback")
}

// Duration is how long the request took, never negative.
func (s *Span) Duration() time.Duration { return s.End.Sub(s.Start) }

// IsUTF8 is true when all texts of the span are known to be UTF-8, because the entry that they
// are from is.
func (s *Span) IsUTF8() bool { return s.valid }

// Incomplete is true when an entry of the request is missing.
func (s *Span) Incomplete() bool { return s.Kind != Complete && !s.Expected }

// Completeness says which entries of a request a span was made of.
type Completeness uint8

// What a span was made of.
const (
	Complete     Completeness = iota // both
	RequestOnly                      // no response came within the window, or none ever does
	ResponseOnly                     // no request was seen: the span has no length
)

// String returns "complete", "request_only" or "response_only".
func (c Completeness) String() string {
	switch c {
	case Complete:
		return "complete"
	case RequestOnly:
		return "request_only"
	}
	return "response_only"
}

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

// TextValue makes a value of kind Text.
func TextValue(s string) Value { return Value{Kind: Text, Text: s} }

// IntValue makes a value of kind Int.
func IntValue(n int64) Value { return Value{Kind: Int, Num: uint64(n)} }

// BoolValue makes a value of kind Bool.
func BoolValue(b bool) Value {
	v := Value{Kind: Bool}
	if b {
		v.Num = 1
	}
	return v
}

// Int returns the number of a value of kind Int.
func (v *Value) Int() int64 { return int64(v.Num) }

// Float returns the number of a value of kind Float.
func (v *Value) Float() float64 { return math.Float64frombits(v.Num) }

// Bool returns the truth of a value of kind Bool.
func (v *Value) Bool() bool { return v.Num != 0 }

// AppendText appends the value as people read it; the elements of Texts are separated by
// commas.
func (v *Value) AppendText(dst []byte) []byte {
	switch v.Kind {
	case Int:
		return strconv.AppendInt(dst, v.Int(), 10)
	case Float:
		return strconv.AppendFloat(dst, v.Float(), 'g', -1, 64)
	case Bool:
		return strconv.AppendBool(dst, v.Bool())
	case Texts:
		for i, text := range v.Texts {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, text...)
		}
		return dst
	}
	return append(dst, v.Text...)
}

// Get returns the value of an attribute.
func (s *Span) Get(key string) (Value, bool) {
	for i := range s.Attributes {
		if s.Attributes[i].Key == key {
			return s.Attributes[i].Value, true
		}
	}
	return Value{}, false
}
