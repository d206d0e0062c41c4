package grpcapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/publish"
)

// codec leaves requests to publish to [Server.decode], and decodes everything else as
// usual. They are decoded in one pass into events. Beside the speed of that, a request that
// cannot be decoded is answered where it stands among the others, and a field that is not
// known refuses its event only.
type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*request)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	m.raw = data.Materialize()
	return nil
}

// decode decodes a request when there is memory for its events. release gives that back,
// when they are not kept any more. The error is that of ctx.
func (s *Server) decode(ctx context.Context, m *request) (release func(), err error) {
	cost := min(m.cost(), decodedBytes)
	if err := s.decoded.Acquire(ctx, cost); err != nil {
		return nil, err
	}
	m.decode(m.raw)
	m.raw = nil
	return func() {
		m.events = nil
		s.decoded.Release(cost)
	}, nil
}

// decodedBytes are shared by the decoded events of all calls, beside the messages that they
// are decoded from.
const decodedBytes = 64 << 20

// cost is about how many bytes of memory the events of a request take beside their texts, at
// most. However few bytes an event has in a message, it takes some hundred when decoded.
func (m *request) cost() int64 {
	const perEvent, perField, leastField = 424, 40, 6 // the last in a message
	cost := perField * min(maxFields, len(m.raw)/leastField)
	_ = eachField(m.raw, func(f field) bool {
		if f.kind == protowire.BytesType {
			cost += perEvent
		}
		return cost < decodedBytes
	})
	return int64(cost)
}

// Bounds of metadata and extensions, because each takes many times its bytes in memory: of
// one event, which is more than the limits for events can be, and of one message.
const (
	maxEventFields = 16_000
	maxFields      = 200_000
)

// tooManyFields is what is wrong with an event that has more.
var tooManyFields = fmt.Sprintf("event: has more than %d metadata and extensions", maxEventFields)

// request is a PublishRequest, or a PublishStreamRequest.
type request struct {
	stream bool

	raw []byte // the message, until it is decoded

	sequence uint64
	partial  bool
	events   []*event.Event // that can be looked at
	unconverted
	err error // why there is nothing else in it
}

// unconverted are the messages of a request that are no events.
type unconverted struct {
	refused []*publish.Refusal // by ascending index
	index   []int              // of the others in the request; nil if these are all
}

// decode sets everything from the bytes of a message, which the events share.
func (m *request) decode(b []byte) {
	events, other := protowire.Number(1), protowire.Number(2)
	if m.stream {
		events, other = other, events
	}
	var all [][]byte
	err := eachField(b, func(f field) bool {
		switch {
		case f.number == events && f.kind == protowire.BytesType:
			if all = append(all, f.bytes); len(all) > maxEvents {
				m.err = status.Error(codes.InvalidArgument, fmt.Sprintf("the request has more than %d events", maxEvents))
			}
		case f.number == other && f.kind == protowire.VarintType:
			m.sequence, m.partial = f.value, f.value != 0
		default:
			m.err = status.Error(codes.InvalidArgument, fmt.Sprintf("the request has the field %d, which this version does not know", f.number))
		}
		return m.err == nil
	})
	if err != nil {
		m.err = status.Error(codes.InvalidArgument, "the message cannot be decoded: "+err.Error())
	}
	if m.err != nil {
		return
	}
	m.events = make([]*event.Event, 0, len(all))
	storage := make([]event.Event, len(all))
	fields := 0
	for i, b := range all {
		e := &storage[i]
		problem := decodeEvent(b, e)
		if fields += len(e.Metadata) + len(e.Extensions); fields > maxFields {
			m.events, m.err = nil, status.Error(codes.ResourceExhausted, fmt.Sprintf("the request has more than %d metadata and extensions; send fewer events at once", maxFields))
			return
		}
		if problem == "" {
			if m.index != nil {
				m.index = append(m.index, i)
			}
			m.events = append(m.events, e)
			continue
		}
		if m.index == nil {
			m.index = make([]int, i, len(all))
			for j := range m.index {
				m.index[j] = j
			}
		}
		code := publish.Invalid
		if problem == tooManyFields {
			code = publish.TooLarge
		}
		m.refused = append(m.refused, &publish.Refusal{Index: i, ID: clip(e.ID, maxID), Code: code, Text: problem})
	}
}

// complete makes the result for the events that of the request.
func (u *unconverted) complete(r *publish.Result) {
	if u.index == nil {
		return
	}
	refused := slices.Clone(u.refused)
	for _, one := range r.Refused {
		moved := *one
		moved.Index = u.index[moved.Index]
		refused = append(refused, &moved)
	}
	slices.SortFunc(refused, func(a, b *publish.Refusal) int { return a.Index - b.Index })
	r.Refused = refused
	r.Warnings = slices.Clone(r.Warnings)
	for i := range r.Warnings {
		r.Warnings[i].Index = u.index[r.Warnings[i].Index]
	}
}

// field is one of a message.
type field struct {
	number protowire.Number
	kind   protowire.Type
	bytes  []byte // of BytesType
	value  uint64 // of VarintType
}

// eachField yields the fields of a message until it gets false.
func eachField(b []byte, yield func(field) bool) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		f := field{number: number, kind: kind}
		switch kind {
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			f.value, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if !yield(f) {
			return nil
		}
	}
	return nil
}

// Numbers of the fields of an Event.
const (
	fieldID = 1 + iota
	fieldSource
	fieldType
	fieldSubject
	fieldTime
	fieldNamespace
	fieldMetadata
	fieldMetadataJSON
	fieldExtensions
	fieldExtensionsJSON
	fieldData
	fieldDataContentType
	fieldDataSchema
	fieldDataRef
	fieldEnd
)

var fieldNames = [fieldEnd]string{fieldID: "id", fieldSource: "source", fieldType: "type", fieldSubject: "subject", fieldTime: "time",
	fieldNamespace: "namespace", fieldMetadata: "metadata", fieldMetadataJSON: "metadata_json", fieldExtensions: "extensions",
	fieldExtensionsJSON: "extensions_json", fieldData: "data", fieldDataContentType: "data_content_type", fieldDataSchema: "data_schema",
	fieldDataRef: "data_ref"}

// pair is an entry of a map.
type pair struct {
	key, value []byte
	json       bool
}

// decodeEvent sets an event from the bytes of its message, or says why it cannot be;
// the id is set as far as it is known. What depends on the attributes together is checked by
// the intake. The event shares its Data with the message; its texts are next to each
// other in memory of their own.
func decodeEvent(b []byte, e *event.Event) (problem string) {
	var texts [fieldEnd][]byte
	var data, moment []byte
	var hasTime bool
	var room [2][8]pair
	metadata, extensions := room[0][:0], room[1][:0]
	err := eachField(b, func(f field) bool {
		if f.number < 1 || f.number >= fieldEnd || f.kind != protowire.BytesType {
			problem = fmt.Sprintf("event: has the field %d, which this version does not know", f.number)
			return false
		}
		switch f.number {
		case fieldTime:
			// Parts of a message that is there several times are joined, as if they
			// were one after the other.
			if moment == nil {
				moment = f.bytes
			} else {
				moment = slices.Concat(moment, f.bytes)
			}
			hasTime = true
		case fieldMetadata, fieldMetadataJSON, fieldExtensions, fieldExtensionsJSON:
			if len(metadata)+len(extensions) == maxEventFields {
				problem = tooManyFields
				return false
			}
			var p pair
			if p, problem = decodePair(f.bytes); problem != "" {
				break
			}
			p.json = f.number == fieldMetadataJSON || f.number == fieldExtensionsJSON
			if f.number == fieldMetadata || f.number == fieldMetadataJSON {
				metadata = append(metadata, p)
			} else {
				extensions = append(extensions, p)
			}
		case fieldData:
			data = f.bytes
		default:
			if !utf8.Valid(f.bytes) {
				problem = "is not UTF-8"
			}
			texts[f.number] = f.bytes
		}
		if problem != "" {
			problem = fieldNames[f.number] + ": " + problem
		}
		return problem == ""
	})
	if problem == "" && err != nil {
		problem = "event: cannot be decoded"
	}
	if problem == "" && hasTime {
		e.Time, problem = decodeTime(moment)
	}
	if problem != "" {
		e.ID = string(texts[fieldID])
		return problem
	}

	size := 0
	for _, t := range texts {
		size += len(t)
	}
	for _, p := range metadata {
		size += len(p.key) + len(p.value)
	}
	for _, p := range extensions {
		size += len(p.key) + len(p.value)
	}
	var own strings.Builder
	own.Grow(size)
	text := func(b []byte) string {
		start := own.Len()
		own.Write(b)
		return own.String()[start:]
	}
	e.ID, e.Source, e.Type, e.Path = text(texts[fieldID]), text(texts[fieldSource]), text(texts[fieldType]), text(texts[fieldSubject])
	e.Namespace, e.DataContentType = text(texts[fieldNamespace]), text(texts[fieldDataContentType])
	e.DataSchema, e.DataRef = text(texts[fieldDataSchema]), text(texts[fieldDataRef])
	if len(data) > 0 {
		e.Data = data[:len(data):len(data)]
	}
	if e.Metadata, problem = join(metadata, text); problem != "" {
		return "metadata " + problem
	}
	if e.Extensions, problem = join(extensions, text); problem != "" {
		return "extension " + problem
	}
	if e.Path == "" {
		e.Path, _ = e.Metadata.Text(event.MetadataPath)
	}
	return ""
}

func decodePair(b []byte) (p pair, problem string) {
	err := eachField(b, func(f field) bool {
		switch {
		case f.number > 2 || f.kind != protowire.BytesType:
			problem = "has a field that this version does not know"
		case !utf8.Valid(f.bytes):
			problem = "is not UTF-8"
		case f.number == 1:
			p.key = f.bytes
		default:
			p.value = f.bytes
		}
		return problem == ""
	})
	if problem == "" && err != nil {
		problem = "cannot be decoded"
	}
	return p, problem
}

// Bounds of a Timestamp, in seconds: the years 1 to 9999.
const minSeconds, maxSeconds = -62135596800, 253402300799

func decodeTime(b []byte) (t time.Time, problem string) {
	var seconds, nanos int64
	err := eachField(b, func(f field) bool {
		switch {
		case f.number > 2 || f.kind != protowire.VarintType:
			problem = "time: has a field that this version does not know"
		case f.number == 1:
			seconds = int64(f.value)
		default:
			nanos = int64(int32(f.value))
		}
		return problem == ""
	})
	switch {
	case problem != "":
	case err != nil:
		problem = "time: cannot be decoded"
	case seconds < minSeconds || seconds > maxSeconds:
		problem = "time: is not in the years 1 to 9999"
	case nanos < 0 || nanos >= int64(time.Second):
		problem = "time: nanos are not between 0 and 999,999,999"
	}
	if problem != "" {
		return time.Time{}, problem
	}
	return time.Unix(seconds, nanos).UTC(), ""
}

// join makes fields of the entries of two maps, or says which of them cannot be. text
// copies.
func join(pairs []pair, text func([]byte) string) (f event.Fields, problem string) {
	if len(pairs) == 0 {
		return nil, ""
	}
	// Of equal keys in one map the last counts, so it is put in front of the others.
	slices.Reverse(pairs)
	slices.SortStableFunc(pairs, func(a, b pair) int { return bytes.Compare(a.key, b.key) })
	f = make(event.Fields, 0, len(pairs))
	for start := 0; start < len(pairs); {
		p := pairs[start]
		end := start + 1
		for ; end < len(pairs) && bytes.Equal(pairs[end].key, p.key); end++ {
			if pairs[end].json != p.json {
				return nil, clip(string(p.key), 100) + ": is there as text and as JSON"
			}
		}
		start = end
		field := event.Field{Key: text(p.key), JSON: p.json}
		if !p.json {
			field.Value = text(p.value)
		} else if field.Value, field.JSON, problem = compact(p.value); problem != "" {
			return nil, clip(field.Key, 100) + ": " + problem
		}
		f = append(f, field)
	}
	return f, ""
}

// compact returns a value as fields have it: a text, or else compact JSON.
func compact(b []byte) (value string, isJSON bool, problem string) {
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		return "", false, "is not JSON"
	}
	if out.Bytes()[0] != '"' {
		return out.String(), true, ""
	}
	var text string
	if err := json.Unmarshal(out.Bytes(), &text); err != nil {
		return "", false, "is not JSON"
	}
	if halfPair(out.Bytes()) {
		return "", false, "has half of a surrogate pair"
	}
	return text, false, ""
}

// halfPair says whether an escape in a JSON string denotes nothing, for which package json
// puts something else.
func halfPair(quoted []byte) bool {
	unit := func(at int) rune { // that an escape at a place denotes; 0: there is none
		if at+6 > len(quoted) || quoted[at] != '\\' || quoted[at+1] != 'u' {
			return 0
		}
		n, _ := strconv.ParseUint(string(quoted[at+2:at+6]), 16, 16)
		return rune(n)
	}
	for i := 0; i < len(quoted); i++ {
		if quoted[i] != '\\' {
			continue
		}
		if r := unit(i); utf16.IsSurrogate(r) {
			if utf16.DecodeRune(r, unit(i+6)) == utf8.RuneError {
				return true
			}
			i += 6
		}
		i++ // what is escaped
	}
	return false
}
