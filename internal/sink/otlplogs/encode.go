package otlplogs

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/telemetry"
)

// scopeName is the name of the instrumentation scope of all records.
const scopeName = "github.com/tocsin-events/tocsin"

// schema is the version of the semantic conventions by which attributes are named.
const schema = "https://opentelemetry.io/schemas/1.37.0"

// encoder makes requests of events. It is safe for concurrent use.
type encoder struct {
	version  string
	resource []attribute // besides service.name, which has the name of the source
	service  bool        // service.name is among them
}

func newEncoder(version string, resource map[string]string) *encoder {
	e := &encoder{version: clean(version)}
	e.resource = []attribute{
		{"telemetry.sdk.name", "tocsin"}, {"telemetry.sdk.language", "go"}, {"telemetry.sdk.version", e.version},
	}
	for _, key := range sortedKeys(resource) {
		a := attribute{clean(key), clean(resource[key])}
		e.service = e.service || a.key == "service.name"
		e.resource = slices.DeleteFunc(e.resource, func(b attribute) bool { return a.key == b.key })
		e.resource = append(e.resource, a)
	}
	return e
}

// group is successive events of one source, which is a resource.
type group struct {
	service    string
	attributes []attribute
	items      []deliver.Item
}

// groups puts successive events of the same source together. The order stays: receivers keep
// that of a request.
func (e *encoder) groups(items []deliver.Item) []group {
	var list []group
	begin := 0
	for i := range items {
		name := ""
		if !e.service {
			name = telemetry.ServiceName(items[i].Event.Source)
		}
		if n := len(list); n > 0 && list[n-1].service == name {
			list[n-1].items = items[begin : i+1]
			continue
		}
		g := group{service: name, attributes: e.resource, items: items[i : i+1]}
		if !e.service {
			g.attributes = append([]attribute{{"service.name", clean(name)}}, e.resource...)
		}
		begin, list = i, append(list, g)
	}
	return list
}

// appendProtobuf appends an ExportLogsServiceRequest in the binary form of protobuf.
func (e *encoder) appendProtobuf(dst []byte, b *deliver.Batch, items []deliver.Item) []byte {
	for _, g := range e.groups(items) {
		dst = message(dst, 1, func(dst []byte) []byte { // ResourceLogs
			dst = message(dst, 1, func(dst []byte) []byte { return appendAttributes(dst, 1, g.attributes) })
			dst = message(dst, 2, func(dst []byte) []byte { // ScopeLogs
				dst = message(dst, 1, func(dst []byte) []byte { return text(text(dst, 1, scopeName), 2, e.version) })
				for _, item := range g.items {
					r := newRecord(item, b)
					dst = message(dst, 2, func(dst []byte) []byte { return appendRecord(dst, r) })
				}
				return text(dst, 3, schema)
			})
			return text(dst, 3, schema)
		})
	}
	return dst
}

// appendRecord appends the fields of a LogRecord, in the order of their numbers.
func appendRecord(dst []byte, r *record) []byte {
	if r.time != 0 {
		dst = fixed64(dst, 1, r.time)
	}
	dst = number64(dst, 2, uint64(r.severity))
	dst = text(dst, 3, r.severityText)
	if r.body != nil {
		dst = message(dst, 5, func(dst []byte) []byte { return appendValue(dst, r.body, 0) })
	}
	dst = appendAttributes(dst, 6, r.attributes)
	if !r.trace.TraceID.IsZero() {
		dst = protowire.AppendFixed32(protowire.AppendTag(dst, 8, protowire.Fixed32Type), uint32(r.trace.Flags))
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 9, protowire.BytesType), r.trace.TraceID[:])
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 10, protowire.BytesType), r.trace.Parent[:])
	}
	if r.observed != 0 {
		dst = fixed64(dst, 11, r.observed)
	}
	return text(dst, 12, r.eventName)
}

// appendAttributes appends KeyValues.
func appendAttributes(dst []byte, field protowire.Number, list []attribute) []byte {
	for i := range list {
		dst = keyValue(dst, field, list[i].key, list[i].value, 0)
	}
	return dst
}

func keyValue(dst []byte, field protowire.Number, key string, value any, depth int) []byte {
	return message(dst, field, func(dst []byte) []byte {
		dst = text(dst, 1, key)
		return message(dst, 2, func(dst []byte) []byte { return appendValue(dst, value, depth) })
	})
}

// appendValue appends the one field of an AnyValue that is set, or none for null.
func appendValue(dst []byte, v any, depth int) []byte {
	switch v := flat(v, depth).(type) {
	case string:
		return protowire.AppendString(protowire.AppendTag(dst, 1, protowire.BytesType), v)
	case bool:
		return number64(dst, 2, protowire.EncodeBool(v))
	case int64:
		return number64(dst, 3, uint64(v))
	case float64:
		return fixed64(dst, 4, math.Float64bits(v))
	case []any:
		return message(dst, 5, func(dst []byte) []byte { // ArrayValue
			for _, e := range v {
				dst = message(dst, 1, func(dst []byte) []byte { return appendValue(dst, e, depth+1) })
			}
			return dst
		})
	case map[string]any:
		return message(dst, 6, func(dst []byte) []byte { // KeyValueList
			for _, k := range keysOf(v) {
				dst = keyValue(dst, 1, k, v[k], depth+1)
			}
			return dst
		})
	case []byte:
		return protowire.AppendBytes(protowire.AppendTag(dst, 7, protowire.BytesType), v)
	}
	return dst
}

// message appends a field that is a message, whose length is known when it is there.
func message(dst []byte, field protowire.Number, fill func([]byte) []byte) []byte {
	dst = protowire.AppendTag(dst, field, protowire.BytesType)
	at := len(dst)
	dst = fill(append(dst, 0)) // a length takes one byte, often enough
	n := uint64(len(dst) - at - 1)
	if size := protowire.SizeVarint(n); size > 1 {
		var room [binary.MaxVarintLen64]byte
		dst = append(dst, room[:size-1]...)
		copy(dst[at+size:], dst[at+1:len(dst)-size+1])
	}
	binary.PutUvarint(dst[at:], n)
	return dst
}

func text(dst []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, field, protowire.BytesType), s)
}

func fixed64(dst []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(dst, field, protowire.Fixed64Type), v)
}

func number64(dst []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

// appendJSON appends an ExportLogsServiceRequest in the JSON form of OTLP: identifiers in
// hexadecimal digits, names in lowerCamelCase, numbers of 64 bits as strings, enumerations as
// numbers.
func (e *encoder) appendJSON(dst []byte, b *deliver.Batch, items []deliver.Item) []byte {
	dst = append(dst, `{"resourceLogs":[`...)
	for i, g := range e.groups(items) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"resource":{"attributes":[`...)
		dst = appendJSONAttributes(dst, g.attributes)
		dst = append(dst, `]},"scopeLogs":[{"scope":{"name":"`+scopeName+`"`...)
		if e.version != "" {
			dst = jsontext.AppendString(append(dst, `,"version":`...), e.version)
		}
		dst = append(dst, `},"logRecords":[`...)
		for j, item := range g.items {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONRecord(dst, newRecord(item, b))
		}
		dst = append(dst, `],"schemaUrl":"`+schema+`"}],"schemaUrl":"`+schema+`"}`...)
	}
	return append(dst, `]}`...)
}

func appendJSONRecord(dst []byte, r *record) []byte {
	dst = append(dst, '{')
	if r.time != 0 {
		dst = append(dst, `"timeUnixNano":"`...)
		dst = append(strconv.AppendUint(dst, r.time, 10), `",`...)
	}
	if r.observed != 0 {
		dst = append(dst, `"observedTimeUnixNano":"`...)
		dst = append(strconv.AppendUint(dst, r.observed, 10), `",`...)
	}
	dst = append(dst, `"severityNumber":`...)
	dst = strconv.AppendInt(dst, int64(r.severity), 10)
	dst = jsontext.AppendString(append(dst, `,"severityText":`...), r.severityText)
	if r.body != nil {
		dst = appendJSONValue(append(dst, `,"body":`...), r.body, 0)
	}
	dst = append(dst, `,"attributes":[`...)
	dst = append(appendJSONAttributes(dst, r.attributes), ']')
	if !r.trace.TraceID.IsZero() {
		dst = append(dst, `,"flags":`...)
		dst = strconv.AppendUint(dst, uint64(r.trace.Flags), 10)
		dst = jsontext.AppendHex(append(dst, `,"traceId":`...), r.trace.TraceID[:])
		dst = jsontext.AppendHex(append(dst, `,"spanId":`...), r.trace.Parent[:])
	}
	return append(jsontext.AppendString(append(dst, `,"eventName":`...), r.eventName), '}')
}

func appendJSONAttributes(dst []byte, list []attribute) []byte {
	for i := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONKeyValue(dst, list[i].key, list[i].value, 0)
	}
	return dst
}

func appendJSONKeyValue(dst []byte, key string, value any, depth int) []byte {
	dst = jsontext.AppendString(append(dst, `{"key":`...), key)
	return append(appendJSONValue(append(dst, `,"value":`...), value, depth), '}')
}

// appendJSONValue appends an AnyValue; null is one with nothing set.
func appendJSONValue(dst []byte, v any, depth int) []byte {
	dst = append(dst, '{')
	switch v := flat(v, depth).(type) {
	case string:
		dst = jsontext.AppendString(append(dst, `"stringValue":`...), v)
	case bool:
		dst = strconv.AppendBool(append(dst, `"boolValue":`...), v)
	case int64:
		dst = append(strconv.AppendInt(append(dst, `"intValue":"`...), v, 10), '"')
	case float64:
		dst = jsontext.AppendFloat(append(dst, `"doubleValue":`...), v)
	case []any:
		dst = append(dst, `"arrayValue":{"values":[`...)
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONValue(dst, e, depth+1)
		}
		dst = append(dst, `]}`...)
	case map[string]any:
		dst = append(dst, `"kvlistValue":{"values":[`...)
		for i, k := range keysOf(v) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONKeyValue(dst, k, v[k], depth+1)
		}
		dst = append(dst, `]}`...)
	case []byte:
		dst = base64.StdEncoding.AppendEncode(append(dst, `"bytesValue":"`...), v)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}
