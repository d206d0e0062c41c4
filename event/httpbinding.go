package event

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// This file reads what the HTTP protocol binding for CloudEvents 1.0.2 has beside one
// event in the JSON format: the three content modes, batches, and attributes in headers.

// ContentMode is how an HTTP message carries CloudEvents.
type ContentMode int

// The content modes of section 1.3.
const (
	BinaryMode     ContentMode = iota // attributes in headers, data as the body
	StructuredMode                    // one event in an event format as the body
	BatchMode                         // several of them
)

// ErrEventFormat means that a message is in an event format other than JSON.
var ErrEventFormat = errors.New("unknown event format")

const (
	mediaTypePrefix  = "application/cloudevents"
	mediaTypeBatches = "application/cloudevents-batch"
	suffixJSON       = "+json"
)

// ContentModeOf returns the content mode of a message by the value of its header
// Content-Type, which counts by its beginning and in any case (section 3). The error wraps
// [ErrEventFormat] when the format of a structured message or batch is not JSON in UTF-8.
func ContentModeOf(contentType string) (ContentMode, error) {
	mediaType, params, _ := strings.Cut(contentType, ";")
	mediaType = strings.TrimSpace(mediaType)
	mode, prefix := BatchMode, mediaTypeBatches
	if !hasPrefixFold(mediaType, prefix) {
		mode, prefix = StructuredMode, mediaTypePrefix
	}
	switch {
	case !hasPrefixFold(mediaType, prefix):
		return BinaryMode, nil
	case !strings.EqualFold(mediaType[len(prefix):], suffixJSON):
		return mode, fmt.Errorf("%w %q; only %s is read", ErrEventFormat, clip(mediaType, 100), prefix+suffixJSON)
	case !utf8Charset(params):
		return mode, fmt.Errorf("%w %q; JSON is always UTF-8", ErrEventFormat, clip(contentType, 100))
	}
	return mode, nil
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// BrokenEvent is an event of a batch that is not well-formed.
type BrokenEvent struct {
	Index int    // in the batch
	ID    string // as far as it can be read; at most about 256 bytes
	Err   error  // an [*InvalidError]
}

// maxBatchDepth bounds how deep an event of a batch may be nested for it to be skipped
// as broken. What is nested deeper breaks the batch.
const maxBatchDepth = 1000

// ParseCloudEventBatch reads a batch in the JSON batch format 1.0.2, an array of the
// objects that [ParseCloudEvent] reads, and returns its events in their order. An event
// that is broken inside is nil there, and is among broken: it does not hide what is wrong
// with others. An array that is not well-formed JSON is one error, an [*InvalidError];
// one with more than maxEvents events, or than half a million extensions, metadata and
// entity ids, is a [*LimitError].
//
// The events share no memory with b. They share some with each other: one that is kept
// keeps up to 64 KiB of the others.
func ParseCloudEventBatch(b []byte, maxEvents int) (events []*Event, broken []BrokenEvent, err error) {
	r, err := newJSONReader(b)
	if err != nil {
		return nil, nil, asInvalid("batch", err)
	}
	r.mem = newBatchMemory(len(b))
	if r.peek() != '[' {
		return nil, nil, invalid("batch", "is not an array")
	}
	events = make([]*Event, 0, min(maxEvents, len(b)/256+1))
	err = r.array(func() error {
		if len(events) == maxEvents {
			return &LimitError{"events of a batch", maxEvents + 1, maxEvents}
		}
		r.peek()
		start := r.pos
		e, err := r.cloudEvent()
		if err != nil {
			if errors.Is(err, ErrTooLarge) {
				return err
			}
			// The array is well-formed, and goes on, if this element is.
			r.pos = start
			element, syntax := r.value(maxBatchDepth)
			if syntax != nil {
				return syntax
			}
			if element[0] != '{' {
				err = errors.New("is not an object")
			}
			broken = append(broken, BrokenEvent{len(events), idOf(element, r.mem), asInvalid("event", err)})
			e = nil
		}
		events = append(events, e)
		return nil
	})
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return nil, nil, asInvalid("batch", err)
	}
	return events, broken, nil
}

// idOf returns the id of an event that is well-formed JSON but no CloudEvent.
func idOf(element []byte, mem *memory) (id string) {
	r := &jsonReader{src: element, mem: mem}
	if r.peek() != '{' {
		return ""
	}
	_ = r.members(func(name []byte) error {
		if string(name) == attrID && r.peek() == '"' && id == "" {
			text, err := r.view()
			id = strings.Clone(clip(string(text), 256))
			return err
		}
		_, err := r.value(maxBatchDepth)
		return err
	})
	return id
}

const (
	headerPrefix      = "ce-"
	headerContentType = "Content-Type"
)

// ParseBinaryCloudEvent reads an event in the binary content mode: attributes from the
// headers that begin with ce-, datacontenttype from Content-Type, and the body, which is
// taken as it is, as Data. Names of headers count in any case, so an http.Header will do.
// The rules are those of [ParseCloudEvent], and
//   - values are unquoted first (RFC 7230 section 3.2.6), then percent-decoded once; what
//     then is not UTF-8, and a % without two hexadecimal digits, is refused,
//   - bytes outside ASCII are taken as they are if they are UTF-8, because clients send
//     such,
//   - extensions are strings,
//   - a header that is there twice, and ce-datacontenttype, are refused,
//   - an empty body is no data.
//
// Data need not be of the type that it says it is. What says to be JSON and is not is
// written as data_base64 by [AppendCloudEvent].
//
// The event shares no memory with body. Every error is an [*InvalidError].
func ParseBinaryCloudEvent(header map[string][]string, body []byte) (*Event, error) {
	mem := newMemory(soloTextChunk)
	e := mem.event()
	var raw rawCloudEvent
	names := make([]string, 0, 16)
	for name := range header {
		if hasPrefixFold(name, headerPrefix) || strings.EqualFold(name, headerContentType) {
			names = append(names, name)
		}
	}
	slices.Sort(names) // so that the same error comes every time
	var seen uint      // a bit for each attribute
	for _, name := range names {
		attribute, err := attrDataContentType, error(nil)
		if strings.EqualFold(name, headerContentType) {
			e.DataContentType, err = contentType(header[name])
		} else {
			attribute = strings.ToLower(name[len(headerPrefix):])
			err = takeHeader(e, &raw, mem, attribute, header[name])
		}
		if err != nil {
			return nil, err
		}
		if a := attributeOf(attribute); a != isExtension {
			if seen&(1<<a) != 0 {
				return nil, invalid(attribute, "occurs twice")
			}
			seen |= 1 << a
		}
	}
	if twice := e.Extensions.sort(); twice != "" {
		return nil, invalid(twice, "occurs twice")
	}
	switch {
	case len(body) == 0:
	case e.DataSchema == NotificationSchema:
		e.Data = body // read on at once, and not kept
	default:
		e.Data = mem.data(body)
	}
	if err := raw.complete(e, mem); err != nil {
		return nil, asInvalid("event", err)
	}
	return e, nil
}

// contentType returns the datacontenttype of a message, which is the value of a header
// as it is.
func contentType(values []string) (string, error) {
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", invalid(attrDataContentType, "occurs twice: there are several headers "+headerContentType)
	}
	value := strings.TrimSpace(values[0])
	if value == "" {
		return "", invalid(attrDataContentType, "is empty; leave the header "+headerContentType+" out")
	}
	return value, nil
}

// takeHeader takes the attribute of a header.
func takeHeader(e *Event, raw *rawCloudEvent, mem *memory, name string, values []string) error {
	switch {
	case !validAttributeName(name):
		return invalid(fmt.Sprintf("header ce-%s", clip(name, 80)), attributeNameRule)
	case len(values) != 1:
		return invalid(name, "occurs twice: there are several headers ce-"+name)
	}
	text, err := decodeHeader(mem.scratch[:0], values[0])
	mem.scratch = text
	switch {
	case err != nil:
		return asInvalid(name, err)
	case len(text) == 0:
		return invalid(name, "is empty")
	}
	switch a := attributeOf(name); a {
	case isExtension:
		e.Extensions = append(e.Extensions, Field{Key: name, Value: mem.text(text)})
	case isTime:
		e.Time, err = parseTime(name, text)
	case isRecordedTime:
		e.Recorded, err = parseTime(name, text)
	case isDataContentType:
		err = invalid(name, "must be given by the header Content-Type, and there must be no ce-"+name)
	case isData, isDataBase64:
		err = invalid(name, "is no attribute; data are the body of the request")
	default:
		_, place := raw.place(a, e)
		*place = mem.text(text)
	}
	return err
}

// decodeHeader appends what the value of a header denotes (section 3.1.3.2).
func decodeHeader(dst []byte, value string) ([]byte, error) {
	quoted := false
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '"':
			quoted = !quoted
			continue
		case c == '\\' && quoted:
			if i++; i == len(value) {
				return dst, errors.New("ends within a quoted string")
			}
			c = value[i]
		}
		dst = append(dst, c)
	}
	if quoted {
		return dst, errors.New("ends within a quoted string")
	}
	out := dst[:0]
	for i := 0; i < len(dst); i++ {
		c := dst[i]
		if c == '%' {
			if i+2 >= len(dst) || hexValue(dst[i+1]) < 0 || hexValue(dst[i+2]) < 0 {
				return dst, errors.New("has a % that is not followed by two hexadecimal digits; % itself is written as %25")
			}
			c = byte(hexValue(dst[i+1])<<4 | hexValue(dst[i+2]))
			i += 2
		}
		out = append(out, c)
	}
	if !utf8.Valid(out) {
		return out, errors.New("is not UTF-8 after percent-decoding")
	}
	return out, nil
}
