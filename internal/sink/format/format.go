// Package format says what an event is in bytes when it leaves through a sink.
//
//   - cloudevents: a CloudEvent in JSON, with the place in the journal as sequence. Of data
//     that are elsewhere ([event.Event.DataRef]) it has the attribute dataref.
//   - vault: the message of Vault's subscribe endpoint. It has no data, here or elsewhere.
//   - raw: the data as they are, of an audit entry the line of the log. Of an event without
//     data it is the metadata, a JSON object, and of one whose data are elsewhere
//     {"dataref": ..., "metadata": {...}}.
//   - flipt: Flipt's audit event, see [fliptevent.FromEvent]. Where the data are elsewhere,
//     the payload is the metadata.
//
// It knows bytes, not where they go.
package format

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/jsontext"
)

// Format is what an event is in bytes. The zero value is none of them.
type Format string

// The formats.
const (
	CloudEvents Format = "cloudevents"
	Vault       Format = "vault"
	Raw         Format = "raw"
	Flipt       Format = "flipt"
)

// Media types of several events together.
const (
	LinesContentType = "application/x-ndjson"

	cloudEventsArray = "application/cloudevents-batch+json"
	jsonType         = "application/json"
)

// Named returns the format of a name.
func Named(name string) (Format, error) {
	switch f := Format(name); f {
	case CloudEvents, Vault, Raw, Flipt:
		return f, nil
	}
	return "", fmt.Errorf("unknown format %.40q; it is one of cloudevents, vault, raw, flipt", name)
}

// Append appends the event as a message of its own, without a newline at the end. Raw
// data are the bytes of the event and may have line breaks; the other formats have none.
// The order of members in the format flipt is that of its webhooks.
//
// An error means that the event cannot be made that, now or later
// ([deliver.Impossible]), and dst is returned as it was. It is safe for concurrent use,
// and allocates only to grow dst in the usual cases.
func (f Format) Append(dst []byte, item deliver.Item) ([]byte, error) {
	e := item.Event
	switch f {
	case CloudEvents:
		return event.AppendCloudEvent(dst, e, item.At.String()), nil
	case Vault:
		dst = event.AppendVaultJSON(dst, e, item.At.String())
		return dst[:len(dst)-1], nil // the newline
	case Raw:
		if e.Data == nil {
			return appendWithoutData(dst, e), nil
		}
		return append(dst, e.Data...), nil
	case Flipt:
		return appendFlipt(dst, e, fliptevent.AppendWebhook)
	}
	return dst, fmt.Errorf("unknown format %.40q", string(f))
}

func appendFlipt(dst []byte, e *event.Event, write func([]byte, *fliptevent.Event) []byte) ([]byte, error) {
	f, err := fliptevent.FromEvent(e)
	if err != nil {
		return dst, fmt.Errorf("make an audit event of Flipt: %w", err)
	}
	return write(dst, f), nil
}

// base64Lead begins a line of raw data that are in base64.
const base64Lead = "base64:"

// AppendLine appends the event as one line, without the newline at the end: what it
// appends has neither \n nor \r. It is [Format.Append] with these differences:
//
// Raw data that are JSON by their content type and take several lines lose their
// insignificant white space. Other raw data that have line breaks, or begin as one of
// the following does, or are empty, become a JSON string, or, if they are not UTF-8,
// "base64:" and the data in base64. So nothing is lost: a line that begins with a
// quotation mark is a JSON string of the data, one that begins with "base64:" has them
// in base64, and any other is the data.
//
// The order of members in the format flipt is that of its log files.
func (f Format) AppendLine(dst []byte, item deliver.Item) ([]byte, error) {
	e := item.Event
	switch {
	case f == Flipt:
		return appendFlipt(dst, e, fliptevent.AppendLogLine)
	case f != Raw || e.Data == nil:
		return f.Append(dst, item)
	}
	quote := len(e.Data) == 0 || e.Data[0] == '"' || bytes.HasPrefix(e.Data, []byte(base64Lead))
	if !quote && bytes.IndexByte(e.Data, '\n') < 0 && bytes.IndexByte(e.Data, '\r') < 0 {
		return append(dst, e.Data...), nil
	}
	if !quote {
		// JSON, which may be a string behind white space: that begins with a quotation mark,
		// and would be read as what it denotes.
		if d, ok := e.AppendJSONData(dst); ok && d[len(dst)] != '"' {
			return d, nil
		}
	}
	if !utf8.Valid(e.Data) {
		return base64.StdEncoding.AppendEncode(append(dst, base64Lead...), e.Data), nil
	}
	return appendQuoted(dst, string(e.Data)), nil
}

// ParseRawLine returns the data of a line of [Format.AppendLine] of the format raw, without the
// newline. They share memory with the line.
func ParseRawLine(line []byte) ([]byte, error) {
	if rest, ok := bytes.CutPrefix(line, []byte(base64Lead)); ok {
		data, err := base64.StdEncoding.Strict().AppendDecode([]byte{}, rest)
		if err != nil {
			return nil, fmt.Errorf("read a raw line: %w", err)
		}
		return data, nil
	}
	if len(line) == 0 || line[0] != '"' {
		return line, nil
	}
	var text string
	if err := json.Unmarshal(line, &text); err != nil {
		return nil, fmt.Errorf("read a raw line: %w", err)
	}
	return []byte(text), nil
}

// AppendValue appends the event as one JSON value on one line, such as an element of an
// array. It is [Format.Append], except that raw data that are not JSON by their content
// type become a string: the text, or "base64:" and the data in base64 where they are not
// UTF-8 or begin so.
func (f Format) AppendValue(dst []byte, item deliver.Item) ([]byte, error) {
	e := item.Event
	if f != Raw || e.Data == nil {
		return f.Append(dst, item)
	}
	if d, ok := e.AppendJSONData(dst); ok {
		return d, nil
	}
	if !utf8.Valid(e.Data) || bytes.HasPrefix(e.Data, []byte(base64Lead)) {
		dst = base64.StdEncoding.AppendEncode(append(dst, `"`+base64Lead...), e.Data)
		return append(dst, '"'), nil
	}
	return appendQuoted(dst, string(e.Data)), nil
}

// appendWithoutData appends what stands for the raw data of an event that has none here.
func appendWithoutData(dst []byte, e *event.Event) []byte {
	if e.DataRef == "" {
		return e.Metadata.AppendJSON(dst)
	}
	dst = appendQuoted(append(dst, `{"dataref":`...), e.DataRef)
	dst = e.Metadata.AppendJSON(append(dst, `,"metadata":`...))
	return append(dst, '}')
}

// appendQuoted appends a text as a JSON string, without escapes for HTML, but of what some
// readers take for the end of a line.
func appendQuoted(dst []byte, text string) []byte {
	if !strings.Contains(text, "\u2028") && !strings.Contains(text, "\u2029") {
		return jsontext.AppendString(dst, text)
	}
	w := bytes.NewBuffer(dst)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text) // of a string into memory: cannot fail
	return bytes.TrimSuffix(w.Bytes(), []byte("\n"))
}

// ContentType returns the media type of an event as [Format.Append] writes it; of raw
// data it is that of the event.
func (f Format) ContentType(e *event.Event) string {
	switch {
	case f == CloudEvents:
		return "application/cloudevents+json"
	case f == Raw && e.Data != nil && e.DataContentType != "":
		return e.DataContentType
	case f == Raw && e.Data != nil:
		return rawType(e)
	}
	return jsonType
}

// rawType is the media type of data whose producer did not say one.
func rawType(e *event.Event) string {
	if _, ok := e.AppendJSONData(nil); ok {
		return jsonType
	}
	return "application/octet-stream"
}

// ArrayContentType returns the media type of a JSON array of events as
// [Format.AppendValue] writes them.
func (f Format) ArrayContentType() string {
	if f == CloudEvents {
		return cloudEventsArray
	}
	return jsonType
}

// String returns the name.
func (f Format) String() string { return string(f) }

// Names returns the names of all formats, separated by commas.
func Names() string {
	return strings.Join([]string{string(CloudEvents), string(Vault), string(Raw), string(Flipt)}, ", ")
}
