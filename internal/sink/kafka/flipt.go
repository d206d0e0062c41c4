package kafka

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tocsin-events/tocsin/internal/fliptevent"
)

// member is a member of a payload: JSON, in the order in which it is there.
type member struct {
	name  string
	value json.RawMessage
}

// nameless is where a payload is put that is no object: both encodings have objects only.
const nameless = "payload"

// payloadOf returns the members of a payload, none for null.
func payloadOf(e *fliptevent.Event) ([]member, error) {
	text := bytes.Trim(e.Payload, " \t\r\n")
	if len(text) == 0 || string(text) == "null" {
		return nil, nil
	}
	if !json.Valid(text) {
		return nil, errors.New("the payload is no JSON")
	}
	if text[0] != '{' {
		return []member{{nameless, text}}, nil
	}
	return membersOf(text)
}

// membersOf returns the members of an object, which is valid JSON.
func membersOf(text []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var list []member
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := member{name: name.(string)} // the decoder takes nothing else for a name
		if err := d.Decode(&m.value); err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// number returns a JSON number as a double, false when it is too large for one.
func number(text []byte) (float64, bool) {
	f, err := strconv.ParseFloat(string(text), 64)
	return f, err == nil && !math.IsInf(f, 0)
}

// Branches of the union of values in schema/flipt.avsc.
const (
	branchNull   = 0
	branchString = 1
	branchBool   = 3
	branchDouble = 5
)

// appendFliptAvro appends an audit event by schema/flipt.avsc, as Flipt does: numbers are
// doubles, and objects and lists in the payload are their JSON text.
func appendFliptAvro(dst []byte, e *fliptevent.Event) ([]byte, error) {
	payload, err := payloadOf(e)
	if err != nil {
		return dst, err
	}
	dst = avroString(dst, e.Version)
	dst = avroString(dst, e.Type)
	dst = avroString(dst, e.Action)
	if a := e.Actor; a == nil {
		dst = avroLong(dst, 0)
	} else {
		dst = avroLong(dst, 1)
		for _, s := range [...]string{a.Authentication, a.IP, a.Email, a.Name, a.Picture} {
			dst = avroString(dst, s)
		}
	}
	dst = avroString(dst, e.Timestamp)
	dst = avroString(dst, e.Status)
	return avroBlock(dst, len(payload), func(dst []byte) []byte {
		for _, m := range payload {
			dst = avroFliptValue(avroString(dst, m.name), m.value)
		}
		return dst
	}), nil
}

func avroFliptValue(dst []byte, value json.RawMessage) []byte {
	switch value[0] {
	case 'n':
		return avroLong(dst, branchNull)
	case 't', 'f':
		return avroBool(avroLong(dst, branchBool), value[0] == 't')
	case '"':
		var s string
		if err := json.Unmarshal(value, &s); err == nil {
			return avroString(avroLong(dst, branchString), s)
		}
	case '{', '[':
	default:
		if f, ok := number(value); ok {
			return avroDouble(avroLong(dst, branchDouble), f)
		}
	}
	return avroString(avroLong(dst, branchString), compact(value))
}

func compact(value json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Compact(&b, value); err != nil {
		return string(value)
	}
	return b.String()
}

// maxStructDepth is how deep objects and lists of a payload are nested in protobuf; what is
// below is JSON text. One level takes three messages, and readers in Java take a hundred.
const maxStructDepth = 30

// appendFliptProto appends an audit event as the message flipt.audit.Event. The time is that of
// the event if the audit event has none that can be read.
func appendFliptProto(dst []byte, e *fliptevent.Event, at time.Time) ([]byte, error) {
	payload, err := payloadOf(e)
	if err != nil {
		return dst, err
	}
	if t, ok := e.Time(); ok {
		at = t
	}
	dst = protoText(dst, 1, e.Version)
	dst = protoText(dst, 2, e.Type)
	dst = protoText(dst, 3, e.Action)
	dst = protoMessage(dst, 4, func(dst []byte) []byte {
		a := e.Actor
		if a == nil {
			return dst
		}
		return protoMessage(dst, 1, func(dst []byte) []byte {
			for i, s := range [...]string{a.Authentication, a.IP, a.Email, a.Name, a.Picture} {
				dst = protoText(dst, protowire.Number(i+1), s)
			}
			return dst
		})
	})
	dst = protoMessage(dst, 5, func(dst []byte) []byte { return protoStruct(dst, payload, 0) })
	dst = protoTime(dst, 6, at)
	return protoMust(dst, 7, e.Status), nil
}

// protoStruct appends the fields of a google.protobuf.Struct.
func protoStruct(dst []byte, members []member, depth int) []byte {
	for _, m := range members {
		dst = protoMessage(dst, 1, func(dst []byte) []byte {
			dst = protoMust(dst, 1, m.name)
			return protoMessage(dst, 2, func(dst []byte) []byte { return protoValue(dst, m.value, depth) })
		})
	}
	return dst
}

// protoValue appends the fields of a google.protobuf.Value.
func protoValue(dst []byte, value json.RawMessage, depth int) []byte {
	switch value[0] {
	case 'n':
		return protowire.AppendVarint(protowire.AppendTag(dst, 1, protowire.VarintType), 0)
	case 't', 'f':
		return protowire.AppendVarint(protowire.AppendTag(dst, 4, protowire.VarintType), protowire.EncodeBool(value[0] == 't'))
	case '"':
		var s string
		if err := json.Unmarshal(value, &s); err == nil {
			return protoMust(dst, 3, s)
		}
	case '{':
		if members, err := membersOf(value); err == nil && depth < maxStructDepth {
			return protoMessage(dst, 5, func(dst []byte) []byte { return protoStruct(dst, members, depth+1) })
		}
	case '[':
		var list []json.RawMessage
		if err := json.Unmarshal(value, &list); err == nil && depth < maxStructDepth {
			return protoMessage(dst, 6, func(dst []byte) []byte {
				for _, v := range list {
					dst = protoMessage(dst, 1, func(dst []byte) []byte { return protoValue(dst, v, depth+1) })
				}
				return dst
			})
		}
	default:
		if f, ok := number(value); ok {
			return protowire.AppendFixed64(protowire.AppendTag(dst, 2, protowire.Fixed64Type), math.Float64bits(f))
		}
	}
	return protoMust(dst, 3, compact(value))
}
