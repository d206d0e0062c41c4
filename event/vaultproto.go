package event

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of Vault's package logical and of google.protobuf.Struct.
const (
	receivedEvent      = 1 // EventReceived
	receivedNamespace  = 2
	receivedType       = 3
	receivedPlugin     = 4
	dataID             = 1 // EventData
	dataMetadata       = 2
	dataEntityIDs      = 3
	dataNote           = 4
	pluginMountClass   = 1 // EventPluginInfo
	pluginAccessor     = 2
	pluginMountPath    = 3
	pluginPlugin       = 4
	pluginVersion      = 5
	pluginMountVersion = 6
	pluginIsLocal      = 7
	structFields       = 1 // Struct, and its map entries
	entryKey           = 1
	entryValue         = 2
	valueNull          = 1 // Value
	valueNumber        = 2
	valueString        = 3
	valueBool          = 4
	valueStruct        = 5
	valueList          = 6
	listValues         = 1 // ListValue
)

// AppendVaultProto appends e as the protobuf message logical.EventReceived, which
// Vault's subscribe endpoint sends unless asked for JSON, and returns the
// extended buffer. The same event always gives the same bytes: fields in order of
// their numbers, metadata in order of the keys.
//
// The message has no place for Source, Time, Recorded, Data and its attributes,
// DataRef and Extensions, nor for a Path that is not also in Metadata. Nil
// Metadata is left out. A number in typed metadata becomes a float64, as Struct
// has no other; one beyond its range becomes a text. Bytes that are not UTF-8
// become U+FFFD.
//
// For metadata of texts it does not allocate except to grow dst. It is safe for
// concurrent use. The event must have passed [Limits.Check].
func AppendVaultProto(dst []byte, e *Event) []byte {
	dst, data := beginMessage(dst, receivedEvent)
	dst = appendText(dst, dataID, e.ID)
	if e.Metadata != nil {
		var meta int
		dst, meta = beginMessage(dst, dataMetadata)
		for i := range e.Metadata {
			dst = appendEntry(dst, &e.Metadata[i])
		}
		dst = endMessage(dst, meta)
	}
	for _, id := range e.EntityIDs {
		dst = appendRequiredText(dst, dataEntityIDs, id)
	}
	dst = appendText(dst, dataNote, e.Note)
	dst = endMessage(dst, data)
	dst = appendText(dst, receivedNamespace, e.Namespace)
	dst = appendText(dst, receivedType, e.Type)
	if p := e.Plugin; p != nil {
		var info int
		dst, info = beginMessage(dst, receivedPlugin)
		dst = appendText(dst, pluginMountClass, p.MountClass)
		dst = appendText(dst, pluginAccessor, p.MountAccessor)
		dst = appendText(dst, pluginMountPath, p.MountPath)
		dst = appendText(dst, pluginPlugin, p.Plugin)
		dst = appendText(dst, pluginVersion, p.PluginVersion)
		dst = appendText(dst, pluginMountVersion, p.Version)
		if p.IsLocal {
			dst = protowire.AppendTag(dst, pluginIsLocal, protowire.VarintType)
			dst = append(dst, 1)
		}
		dst = endMessage(dst, info)
	}
	return dst
}

// beginMessage appends the head of a nested message with room for a length below
// 128, and returns the place that [endMessage] needs.
func beginMessage(dst []byte, num protowire.Number) ([]byte, int) {
	dst = append(protowire.AppendTag(dst, num, protowire.BytesType), 0)
	return dst, len(dst)
}

// endMessage fills in the length of the message that began at start, making room
// if it takes more than a byte.
func endMessage(dst []byte, start int) []byte {
	size := len(dst) - start
	more := protowire.SizeVarint(uint64(size)) - 1
	if more > 0 {
		var room [9]byte
		dst = append(dst, room[:more]...)
		copy(dst[start+more:], dst[start:start+size])
	}
	protowire.AppendVarint(dst[:start-1], uint64(size))
	return dst
}

// appendText appends a string field, unless it is empty as proto3 wants it.
func appendText(dst []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return appendRequiredText(dst, num, s)
}

func appendRequiredText(dst []byte, num protowire.Number, s string) []byte {
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	return protowire.AppendString(dst, validUTF8(s))
}

func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// appendEntry appends an entry of a Struct.
func appendEntry(dst []byte, f *Field) []byte {
	if f.JSON {
		dst, entry := beginMessage(dst, structFields)
		dst = appendRequiredText(dst, entryKey, f.Key)
		dst, value := beginMessage(dst, entryValue)
		dst = appendProtoValue(dst, &jsonReader{src: []byte(f.Value)})
		return endMessage(endMessage(dst, value), entry)
	}
	// Nearly all values are texts. Their size is known, so nothing has to move.
	const tag = 1 // bytes; all numbers are below 16
	key, text := validUTF8(f.Key), validUTF8(f.Value)
	valueSize := tag + protowire.SizeBytes(len(text))
	dst = protowire.AppendTag(dst, structFields, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(tag+protowire.SizeBytes(len(key))+tag+protowire.SizeBytes(valueSize)))
	dst = protowire.AppendTag(dst, entryKey, protowire.BytesType)
	dst = protowire.AppendString(dst, key)
	dst = protowire.AppendTag(dst, entryValue, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(valueSize))
	dst = protowire.AppendTag(dst, valueString, protowire.BytesType)
	return protowire.AppendString(dst, text)
}

// appendProtoValue appends the content of a Value message for the JSON value that
// is next. The events that arrive here have been checked; if one was not, what
// cannot be read is null, because half a message would be worse.
func appendProtoValue(dst []byte, r *jsonReader) []byte {
	switch c := r.peek(); c {
	case '"':
		quoted, err := r.quoted()
		if err != nil {
			break
		}
		if bytes.IndexByte(quoted, '\\') >= 0 {
			quoted, _ = unquote(nil, quoted)
		}
		return appendRequiredText(dst, valueString, string(quoted))
	case '{':
		dst, message := beginMessage(dst, valueStruct)
		r.object(func(name []byte) error {
			var entry, value int
			dst, entry = beginMessage(dst, structFields)
			dst = appendRequiredText(dst, entryKey, string(name))
			dst, value = beginMessage(dst, entryValue)
			dst = appendProtoValue(dst, r)
			dst = endMessage(endMessage(dst, value), entry)
			return nil
		})
		return endMessage(dst, message)
	case '[':
		dst, message := beginMessage(dst, valueList)
		r.array(func() error {
			var value int
			dst, value = beginMessage(dst, listValues)
			dst = endMessage(appendProtoValue(dst, r), value)
			return nil
		})
		return endMessage(dst, message)
	case 't', 'f':
		if raw, err := r.value(0); err == nil {
			dst = protowire.AppendTag(dst, valueBool, protowire.VarintType)
			return protowire.AppendVarint(dst, protowire.EncodeBool(len(raw) == len("true")))
		}
	case 'n':
		r.null()
	default:
		raw, err := r.value(0)
		if err != nil {
			break
		}
		number, err := strconv.ParseFloat(string(raw), 64)
		if err != nil { // out of range
			return appendRequiredText(dst, valueString, string(raw))
		}
		dst = protowire.AppendTag(dst, valueNumber, protowire.Fixed64Type)
		return protowire.AppendFixed64(dst, math.Float64bits(number))
	}
	dst = protowire.AppendTag(dst, valueNull, protowire.VarintType)
	return append(dst, 0)
}

// ParseVaultProto reads a protobuf message logical.EventReceived. Fields that it
// does not know are ignored. The message tells neither source nor time, so
// Source and Time of the event are empty; ID and Type are not. Path is the text
// under "path" in the metadata.
//
// The event shares no memory with b. Time and memory are of the order of
// len(b) log len(b); Struct values nested more than 100 levels deep, numbers that
// JSON does not have, and texts that are not UTF-8 are refused. Every error is an
// [*InvalidError].
func ParseVaultProto(b []byte) (*Event, error) {
	e := new(Event)
	err := protoFields(b, func(f protoField) (err error) {
		switch {
		case f.is(receivedEvent, protowire.BytesType):
			return e.parseProtoData(f.bytes)
		case f.is(receivedNamespace, protowire.BytesType):
			e.Namespace, err = f.text("namespace")
		case f.is(receivedType, protowire.BytesType):
			e.Type, err = f.text("event_type")
		case f.is(receivedPlugin, protowire.BytesType):
			if e.Plugin == nil {
				e.Plugin = new(PluginInfo)
			}
			return e.Plugin.parseProto(f.bytes)
		}
		return err
	})
	if err == nil {
		err = e.finishVault()
	}
	if err != nil {
		return nil, asInvalid("message", err)
	}
	return e, nil
}

func (e *Event) parseProtoData(b []byte) error {
	err := protoFields(b, func(f protoField) (err error) {
		switch {
		case f.is(dataID, protowire.BytesType):
			e.ID, err = f.text("event.id")
		case f.is(dataMetadata, protowire.BytesType):
			err = e.parseProtoMetadata(f.bytes)
		case f.is(dataEntityIDs, protowire.BytesType):
			var id string
			id, err = f.text("event.entity_ids")
			e.EntityIDs = append(e.EntityIDs, id)
		case f.is(dataNote, protowire.BytesType):
			e.Note, err = f.text("event.note")
		}
		return err
	})
	return asInvalid("event", err)
}

func (p *PluginInfo) parseProto(b []byte) error {
	texts := [...]*string{
		pluginMountClass:   &p.MountClass,
		pluginAccessor:     &p.MountAccessor,
		pluginMountPath:    &p.MountPath,
		pluginPlugin:       &p.Plugin,
		pluginVersion:      &p.PluginVersion,
		pluginMountVersion: &p.Version,
	}
	err := protoFields(b, func(f protoField) (err error) {
		switch {
		case f.is(pluginIsLocal, protowire.VarintType):
			p.IsLocal = protowire.DecodeBool(f.varint)
		case f.typ == protowire.BytesType && f.num < protowire.Number(len(texts)):
			*texts[f.num], err = f.text("plugin_info")
		}
		return err
	})
	return asInvalid("plugin_info", err)
}

func (e *Event) parseProtoMetadata(b []byte) error {
	entries, err := protoEntries(b)
	if err != nil {
		return asInvalid("event.metadata", err)
	}
	// A message that occurs twice is merged.
	merged := slices.Grow(append(Fields{}, e.Metadata...), len(entries))
	for _, entry := range entries {
		field := Field{Key: entry.key}
		switch kind, err := protoKind(entry.value); {
		case err != nil:
			return asInvalid("event.metadata", err)
		case kind.num == valueString:
			if field.Value, err = kind.text("event.metadata"); err != nil {
				return err
			}
		default:
			json, err := appendProtoJSON(nil, kind, maxValueDepth)
			if err != nil {
				return asInvalid("event.metadata", err)
			}
			field.Value, field.JSON = string(json), true
		}
		merged = append(merged, field)
	}
	merged.sort()
	e.Metadata = lastOfEqual(merged, func(a, b Field) bool { return a.Key == b.Key })
	return nil
}

// lastOfEqual keeps the last of each run of equal elements.
func lastOfEqual[S ~[]E, E any](list S, equal func(a, b E) bool) S {
	slices.Reverse(list)
	list = slices.CompactFunc(list, equal)
	slices.Reverse(list)
	return list
}

// protoField is one field of a message as it stands on the wire.
type protoField struct {
	num    protowire.Number
	typ    protowire.Type
	bytes  []byte // of BytesType
	varint uint64 // of VarintType and Fixed64Type
}

func (f protoField) is(num protowire.Number, typ protowire.Type) bool {
	return f.num == num && f.typ == typ
}

func (f protoField) text(attribute string) (string, error) {
	if !utf8.Valid(f.bytes) {
		return "", invalid(attribute, "is not UTF-8")
	}
	return string(f.bytes), nil
}

// protoFields calls field with each field of a message.
func protoFields(b []byte, field func(protoField) error) error {
	for len(b) > 0 {
		var f protoField
		var n int
		if f.num, f.typ, n = protowire.ConsumeTag(b); n < 0 {
			return protoError(n)
		}
		if f.num > protowire.MaxValidNumber { // ConsumeTag lets it pass
			return fmt.Errorf("is not protobuf: field number %d", f.num)
		}
		b = b[n:]
		switch f.typ {
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			f.varint, n = protowire.ConsumeFixed64(b)
		default:
			n = protowire.ConsumeFieldValue(f.num, f.typ, b)
		}
		if n < 0 {
			return protoError(n)
		}
		b = b[n:]
		if err := field(f); err != nil {
			return err
		}
	}
	return nil
}

func protoError(code int) error {
	return fmt.Errorf("is not protobuf: %w", protowire.ParseError(code))
}

type protoEntry struct {
	key   string
	value []byte
}

// protoEntries returns the entries of a Struct message as they stand there.
func protoEntries(b []byte) (entries []protoEntry, err error) {
	err = protoFields(b, func(f protoField) error {
		if !f.is(structFields, protowire.BytesType) {
			return nil
		}
		var entry protoEntry
		err := protoFields(f.bytes, func(f protoField) (err error) {
			switch {
			case f.is(entryKey, protowire.BytesType):
				entry.key, err = f.text("key")
			case f.is(entryValue, protowire.BytesType):
				// Two of them would be merged; nobody writes that.
				if entry.value != nil {
					return errors.New("has an entry with two values")
				}
				entry.value = f.bytes
			}
			return err
		})
		entries = append(entries, entry)
		return err
	})
	return entries, err
}

// protoKind returns the one field that a Value message consists of.
func protoKind(b []byte) (kind protoField, err error) {
	err = protoFields(b, func(f protoField) error {
		switch {
		case f.is(valueNull, protowire.VarintType), f.is(valueNumber, protowire.Fixed64Type),
			f.is(valueString, protowire.BytesType), f.is(valueBool, protowire.VarintType),
			f.is(valueStruct, protowire.BytesType), f.is(valueList, protowire.BytesType):
			if kind.num != 0 {
				return errors.New("has a value of two kinds")
			}
			kind = f
		}
		return nil
	})
	if err == nil && kind.num == 0 {
		err = errors.New("has a value of no kind")
	}
	return kind, err
}

// appendProtoJSON appends the JSON text of a Value in which at most depth structs
// and lists are nested. Names in an object are sorted.
func appendProtoJSON(dst []byte, kind protoField, depth int) ([]byte, error) {
	switch kind.num {
	case valueNull:
		return append(dst, "null"...), nil
	case valueBool:
		return strconv.AppendBool(dst, protowire.DecodeBool(kind.varint)), nil
	case valueNumber:
		return appendNumber(dst, math.Float64frombits(kind.varint))
	case valueString:
		if !utf8.Valid(kind.bytes) {
			return dst, errors.New("has a text that is not UTF-8")
		}
		return appendString(dst, kind.bytes), nil
	}
	if depth == 0 {
		return dst, errors.New("is nested too deeply")
	}
	if kind.num == valueList {
		return appendProtoList(dst, kind.bytes, depth)
	}
	entries, err := protoEntries(kind.bytes)
	if err != nil {
		return dst, err
	}
	slices.SortStableFunc(entries, func(a, b protoEntry) int { return cmp.Compare(a.key, b.key) })
	dst = append(dst, '{')
	first := len(dst)
	for i, entry := range entries {
		start := len(dst)
		if start > first {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, entry.key), ':')
		kind, err := protoKind(entry.value)
		if err != nil {
			return dst, err
		}
		if dst, err = appendProtoJSON(dst, kind, depth-1); err != nil {
			return dst, err
		}
		// Of equal keys the last counts, but all must be well-formed.
		if i+1 < len(entries) && entries[i+1].key == entry.key {
			dst = dst[:start]
		}
	}
	return append(dst, '}'), nil
}

func appendProtoList(dst, list []byte, depth int) ([]byte, error) {
	dst = append(dst, '[')
	first := true
	err := protoFields(list, func(f protoField) error {
		if !f.is(listValues, protowire.BytesType) {
			return nil
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		kind, err := protoKind(f.bytes)
		if err != nil {
			return err
		}
		dst, err = appendProtoJSON(dst, kind, depth-1)
		return err
	})
	return append(dst, ']'), err
}

// appendNumber appends a number as encoding/json does.
func appendNumber(dst []byte, number float64) ([]byte, error) {
	if math.IsNaN(number) || math.IsInf(number, 0) {
		return dst, errors.New("has a number that JSON does not have")
	}
	format := byte('f')
	if abs := math.Abs(number); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, number, format, -1, 64)
	if n := len(dst); format == 'e' && dst[n-4] == 'e' && dst[n-2] == '0' { // e-09 to e-9
		dst = append(dst[:n-2], dst[n-1])
	}
	return dst, nil
}
