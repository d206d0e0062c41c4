package otlp

import (
	"encoding/binary"
	"math"
	"math/bits"
	"time"

	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// AppendProtobuf appends an ExportTraceServiceRequest with these spans in the binary
// form of protobuf, fields in the order of their numbers.
func (e *Encoder) AppendProtobuf(dst []byte, spans []*trace.Span) []byte {
	e.arrange(spans)
	e.spans = e.spans[:0]
	for _, s := range spans {
		e.spans = append(e.spans, cleanSpan(s))
	}
	defer func() { clear(e.spans) }()
	spans = e.spans
	e.sizes = e.sizes[:0]
	for _, i := range e.order {
		e.sizes = append(e.sizes, spanSize(spans[i]))
	}
	order, sizes := e.order, e.sizes
	for _, g := range e.groups {
		scope := delimited(1, e.scopeSize()) + textSize(3, SemConv)
		for _, n := range sizes[:g.spans] {
			scope += delimited(2, n)
		}
		name := text("service.name", clean(telemetry.ServiceName(g.source)))
		resource := 0
		if !e.replaced {
			resource = delimited(1, attributeSize(&name))
		}
		for i := range e.resource {
			resource += delimited(1, attributeSize(&e.resource[i]))
		}
		dst = appendHead(dst, 1, delimited(1, resource)+delimited(2, scope)+textSize(3, SemConv))
		dst = appendHead(dst, 1, resource)
		if !e.replaced {
			dst = appendAttribute(dst, 1, &name)
		}
		for i := range e.resource {
			dst = appendAttribute(dst, 1, &e.resource[i])
		}
		dst = appendHead(dst, 2, scope)
		dst = appendHead(dst, 1, e.scopeSize())
		dst = appendText(dst, 1, ScopeName)
		dst = appendText(dst, 2, e.version)
		for i, n := range order[:g.spans] {
			dst = appendHead(dst, 2, sizes[i])
			dst = appendSpan(dst, spans[n])
		}
		dst = appendText(dst, 3, SemConv) // of the scope
		dst = appendText(dst, 3, SemConv) // of the resource
		order, sizes = order[g.spans:], sizes[g.spans:]
	}
	return dst
}

func (e *Encoder) scopeSize() int { return textSize(1, ScopeName) + textSize(2, e.version) }

// SpanBytes is how many bytes a span takes in a request, in its binary form.
func SpanBytes(s *trace.Span) int { return delimited(2, spanSize(cleanSpan(s))) }

func spanSize(s *trace.Span) int {
	n := delimited(1, len(s.TraceID)) + delimited(2, len(s.SpanID)) + textSize(3, s.TraceState)
	if s.Parent != (trace.SpanID{}) {
		n += delimited(4, len(s.Parent))
	}
	n += textSize(5, s.Name) + 2 // kind
	if t := nanos(s.Start); t != 0 {
		n += 9
	}
	if t := nanos(s.End); t != 0 {
		n += 9
	}
	for i := range s.Attributes {
		n += delimited(9, attributeSize(&s.Attributes[i]))
	}
	if s.Dropped > 0 {
		n += 1 + varintSize(uint64(uint32(s.Dropped)))
	}
	if s.Failed {
		n += delimited(15, statusSize(s))
	}
	return n + 2 + 4 // flags: a tag of two bytes
}

func appendSpan(dst []byte, s *trace.Span) []byte {
	dst = appendHead(dst, 1, len(s.TraceID))
	dst = append(dst, s.TraceID[:]...)
	dst = appendHead(dst, 2, len(s.SpanID))
	dst = append(dst, s.SpanID[:]...)
	dst = appendText(dst, 3, s.TraceState)
	if s.Parent != (trace.SpanID{}) {
		dst = appendHead(dst, 4, len(s.Parent))
		dst = append(dst, s.Parent[:]...)
	}
	dst = appendText(dst, 5, s.Name)
	dst = append(dst, 6<<3|varint, kindServer)
	dst = appendFixed64(dst, 7, nanos(s.Start))
	dst = appendFixed64(dst, 8, nanos(s.End))
	for i := range s.Attributes {
		dst = appendAttribute(dst, 9, &s.Attributes[i])
	}
	if s.Dropped > 0 {
		dst = binary.AppendUvarint(append(dst, 10<<3|varint), uint64(uint32(s.Dropped)))
	}
	if s.Failed {
		dst = appendHead(dst, 15, statusSize(s))
		dst = appendText(dst, 2, s.Message)
		dst = append(dst, 3<<3|varint, statusError)
	}
	dst = appendTag(dst, 16, fixed32)
	return binary.LittleEndian.AppendUint32(dst, spanFlags(s))
}

func statusSize(s *trace.Span) int { return textSize(2, s.Message) + 2 }

// attributeSize is the size of a KeyValue.
func attributeSize(a *trace.Attribute) int {
	return textSize(1, a.Key) + delimited(2, valueSize(&a.Value))
}

func appendAttribute(dst []byte, field int, a *trace.Attribute) []byte {
	dst = appendHead(dst, field, attributeSize(a))
	dst = appendText(dst, 1, a.Key)
	dst = appendHead(dst, 2, valueSize(&a.Value))
	return appendValue(dst, &a.Value)
}

// valueSize is the size of an AnyValue, of which exactly one field is set, also when it
// is empty, 0 or false.
func valueSize(v *trace.Value) int {
	switch v.Kind {
	case trace.Bool:
		return 2
	case trace.Int:
		return 1 + varintSize(v.Num)
	case trace.Float:
		return 1 + 8
	case trace.Texts:
		return delimited(5, textsSize(v.Texts))
	}
	return delimited(1, len(v.Text))
}

func textsSize(list []string) (n int) {
	for _, s := range list {
		n += delimited(1, delimited(1, len(s)))
	}
	return n
}

func appendValue(dst []byte, v *trace.Value) []byte {
	switch v.Kind {
	case trace.Bool:
		return append(dst, 2<<3|varint, byte(min(v.Num, 1)))
	case trace.Int:
		return binary.AppendUvarint(append(dst, 3<<3|varint), v.Num)
	case trace.Float:
		return binary.LittleEndian.AppendUint64(append(dst, 4<<3|fixed64), v.Num)
	case trace.Texts:
		dst = appendHead(dst, 5, textsSize(v.Texts))
		for _, s := range v.Texts {
			dst = appendHead(dst, 1, delimited(1, len(s)))
			dst = appendHead(dst, 1, len(s))
			dst = append(dst, s...)
		}
		return dst
	}
	return append(appendHead(dst, 1, len(v.Text)), v.Text...)
}

// nanos returns a time as OTLP has it; 0 is unknown.
func nanos(t time.Time) uint64 {
	switch {
	case t.Unix() < 0:
		return 0
	case t.Unix() >= math.MaxInt64/int64(time.Second): // the year 2262
		return math.MaxInt64
	}
	return uint64(t.UnixNano())
}

// Wire types of protobuf.
const (
	varint  = 0
	fixed64 = 1
	bytes   = 2
	fixed32 = 5
)

func appendTag(dst []byte, field, wire int) []byte {
	return binary.AppendUvarint(dst, uint64(field)<<3|uint64(wire))
}

// appendHead appends what is before a field of n bytes.
func appendHead(dst []byte, field, n int) []byte {
	return binary.AppendUvarint(appendTag(dst, field, bytes), uint64(n))
}

// appendText appends a field with text, or nothing for no text.
func appendText(dst []byte, field int, s string) []byte {
	if s == "" {
		return dst
	}
	return append(appendHead(dst, field, len(s)), s...)
}

func appendFixed64(dst []byte, field int, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return binary.LittleEndian.AppendUint64(appendTag(dst, field, fixed64), v)
}

// delimited is the size of a field that has n bytes.
func delimited(field, n int) int { return tagSize(field) + varintSize(uint64(n)) + n }

func textSize(field int, s string) int {
	if s == "" {
		return 0
	}
	return delimited(field, len(s))
}

func tagSize(field int) int {
	if field < 16 {
		return 1
	}
	return 2
}

func varintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
