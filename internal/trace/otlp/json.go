package otlp

import (
	"math"
	"strconv"

	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// AppendJSON appends an ExportTraceServiceRequest with these spans in the JSON form of
// OTLP, on one line: identifiers in hexadecimal digits, names in lowerCamelCase, numbers of
// 64 bits as strings, enumerations as numbers.
func (e *Encoder) AppendJSON(dst []byte, spans []*trace.Span) []byte {
	e.arrange(spans)
	dst = append(dst, `{"resourceSpans":[`...)
	order := e.order
	for i, g := range e.groups {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"resource":{"attributes":[`...)
		if !e.replaced {
			name := text("service.name", telemetry.ServiceName(g.source))
			dst = appendJSONAttribute(dst, &name)
		}
		for j := range e.resource {
			if j > 0 || !e.replaced {
				dst = append(dst, ',')
			}
			dst = appendJSONAttribute(dst, &e.resource[j])
		}
		dst = append(dst, `]},"scopeSpans":[{"scope":{"name":`...)
		dst = jsontext.AppendString(dst, ScopeName)
		if e.version != "" {
			dst = append(dst, `,"version":`...)
			dst = jsontext.AppendString(dst, e.version)
		}
		dst = append(dst, `},"spans":[`...)
		for j, n := range order[:g.spans] {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONSpan(dst, spans[n])
		}
		dst = append(dst, `],"schemaUrl":"`+SemConv+`"}],"schemaUrl":"`+SemConv+`"}`...)
		order = order[g.spans:]
	}
	return append(dst, `]}`...)
}

func appendJSONSpan(dst []byte, s *trace.Span) []byte {
	dst = append(dst, `{"traceId":`...)
	dst = jsontext.AppendHex(dst, s.TraceID[:])
	dst = append(dst, `,"spanId":`...)
	dst = jsontext.AppendHex(dst, s.SpanID[:])
	if s.TraceState != "" {
		dst = append(dst, `,"traceState":`...)
		dst = jsontext.AppendString(dst, s.TraceState)
	}
	if s.Parent != (trace.SpanID{}) {
		dst = append(dst, `,"parentSpanId":`...)
		dst = jsontext.AppendHex(dst, s.Parent[:])
	}
	dst = append(dst, `,"flags":`...)
	dst = strconv.AppendUint(dst, uint64(spanFlags(s)), 10)
	dst = append(dst, `,"name":`...)
	dst = jsontext.AppendString(dst, s.Name)
	dst = append(dst, `,"kind":`...)
	dst = strconv.AppendInt(dst, kindServer, 10)
	dst = append(dst, `,"startTimeUnixNano":"`...)
	dst = strconv.AppendUint(dst, nanos(s.Start), 10)
	dst = append(dst, `","endTimeUnixNano":"`...)
	dst = strconv.AppendUint(dst, nanos(s.End), 10)
	dst = append(dst, `","attributes":[`...)
	for i := range s.Attributes {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONAttribute(dst, &s.Attributes[i])
	}
	dst = append(dst, ']')
	if s.Dropped > 0 {
		dst = append(dst, `,"droppedAttributesCount":`...)
		dst = strconv.AppendUint(dst, uint64(uint32(s.Dropped)), 10)
	}
	if s.Failed {
		dst = append(dst, `,"status":{`...)
		if s.Message != "" {
			dst = append(dst, `"message":`...)
			dst = jsontext.AppendString(dst, s.Message)
			dst = append(dst, ',')
		}
		dst = append(dst, `"code":`...)
		dst = strconv.AppendInt(dst, statusError, 10)
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

func appendJSONAttribute(dst []byte, a *trace.Attribute) []byte {
	dst = append(dst, `{"key":`...)
	dst = jsontext.AppendString(dst, a.Key)
	dst = append(dst, `,"value":{`...)
	switch v := &a.Value; v.Kind {
	case trace.Bool:
		dst = append(dst, `"boolValue":`...)
		dst = strconv.AppendBool(dst, v.Num != 0)
	case trace.Int:
		dst = append(dst, `"intValue":"`...)
		dst = strconv.AppendInt(dst, int64(v.Num), 10)
		dst = append(dst, '"')
	case trace.Float:
		dst = append(dst, `"doubleValue":`...)
		dst = jsontext.AppendFloat(dst, math.Float64frombits(v.Num))
	case trace.Texts:
		dst = append(dst, `"arrayValue":{"values":[`...)
		for i, s := range v.Texts {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, `{"stringValue":`...)
			dst = jsontext.AppendString(dst, s)
			dst = append(dst, '}')
		}
		dst = append(dst, `]}`...)
	default:
		dst = append(dst, `"stringValue":`...)
		dst = jsontext.AppendString(dst, v.Text)
	}
	return append(dst, `}}`...)
}
