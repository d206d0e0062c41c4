package event

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// NotificationSchema is the dataschema of a CloudEvent whose data are the
// metadata, entity_ids, note and plugin_info of an event without a payload of its
// own. It is reserved for that: no event may have it as its DataSchema.
const NotificationSchema = "https://github.com/tocsin-events/tocsin/schemas/notification/v1"

// Names of CloudEvents attributes. The last four are extensions; recordedtime
// and dataref are documented by CloudEvents, namespace and tocsindetails are
// ours.
const (
	attrSpecVersion     = "specversion"
	attrID              = "id"
	attrSource          = "source"
	attrType            = "type"
	attrSubject         = "subject"
	attrTime            = "time"
	attrDataContentType = "datacontenttype"
	attrDataSchema      = "dataschema"
	attrDataRef         = "dataref"
	attrRecordedTime    = "recordedtime"
	attrNamespace       = "namespace"
	attrDetails         = "tocsindetails"

	memberData       = "data"
	memberDataBase64 = "data_base64"

	attrSequenceType = "sequencetype"
)

// reservedAttribute tells the names that cannot be extensions because they stand
// for other parts of an [Event].
func reservedAttribute(name string) bool {
	switch name {
	case attrSpecVersion, attrID, attrSource, attrType, attrSubject, attrTime, attrDataContentType,
		attrDataSchema, attrDataRef, attrRecordedTime, attrNamespace, attrDetails, memberData:
		return true
	}
	return false
}

// AppendCloudEvent appends e as a CloudEvent in the JSON event format 1.0.2, on
// one line without a newline, and returns the extended buffer.
//
//	Event                     CloudEvents
//	ID, Source, Type, Time    id, source, type, time
//	Path                      subject
//	Namespace                 namespace (absent for root)
//	Recorded                  recordedtime
//	DataRef                   dataref
//	Extensions                attributes of their names
//	Data, DataContentType     data or data_base64, datacontenttype
//	DataSchema                dataschema
//	sequence, unless ""       sequence; replaces such an extension of the event
//
// An event that Metadata tells completely, one without Data, DataContentType,
// DataSchema and DataRef, has the data {"metadata", "entity_ids", "note",
// "plugin_info"} with the members that Vault has, datacontenttype
// application/json and dataschema [NotificationSchema]. Any other event has that
// object as JSON text in the attribute tocsindetails, and its own payload as data:
// as a JSON value if the content type is JSON or empty and Data is JSON nested at
// most 102 levels deep, as a string if the content type is text/* and Data is
// UTF-8, else as data_base64.
//
// [ParseCloudEvent] returns an equal event, except that
//   - JSON data lose the white space around them, and all insignificant white
//     space if they take several lines,
//   - JSON data without a DataContentType get application/json,
//   - empty EntityIDs and Extensions become nil, times are the same instant in
//     the same offset (see [AppendVaultJSON] for those that RFC 3339 lacks),
//   - a sequence is found in Extensions.
//
// It allocates only to grow dst, except for data with JSON on several lines. It is
// safe for concurrent use. The event must have passed [Limits.Check].
func AppendCloudEvent(dst []byte, e *Event, sequence string) []byte {
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = appendString(dst, e.ID)
	dst = append(dst, `,"source":`...)
	dst = appendString(dst, e.Source)
	dst = append(dst, `,"type":`...)
	dst = appendString(dst, e.Type)
	dst = appendMember(dst, `,"subject":`, e.Path)
	if !e.Time.IsZero() {
		dst = append(appendTime(append(dst, `,"time":"`...), e.Time), '"')
	}
	dst = appendMember(dst, `,"namespace":`, e.Namespace)
	if !e.Recorded.IsZero() {
		dst = append(appendTime(append(dst, `,"recordedtime":"`...), e.Recorded), '"')
	}
	dst = appendMember(dst, `,"sequence":`, sequence)
	dst = appendMember(dst, `,"dataref":`, e.DataRef)
	for i := range e.Extensions {
		x := &e.Extensions[i]
		if sequence != "" && (x.Key == ExtensionSequence || x.Key == attrSequenceType) {
			continue
		}
		dst = append(append(append(dst, `,"`...), x.Key...), `":`...)
		if x.JSON {
			dst = append(dst, x.Value...)
		} else {
			dst = appendString(dst, x.Value)
		}
	}
	if e.Data == nil && e.DataContentType == "" && e.DataSchema == "" && e.DataRef == "" {
		if e.hasDetails() {
			dst = append(dst, `,"datacontenttype":"application/json","dataschema":"`+NotificationSchema+`","data":`...)
			dst = appendDetails(dst, e)
		}
		return append(dst, '}')
	}
	if e.hasDetails() {
		dst = append(dst, `,"tocsindetails":`...)
		dst = appendQuotedDetails(dst, e)
	}
	dst = appendMember(dst, `,"datacontenttype":`, e.DataContentType)
	dst = appendMember(dst, `,"dataschema":`, e.DataSchema)
	if e.Data != nil {
		dst = appendData(dst, e)
	}
	return append(dst, '}')
}

// appendQuotedDetails appends the text of the details as a JSON string. It writes
// the text, the string behind it, and moves the string into place.
func appendQuotedDetails(dst []byte, e *Event) []byte {
	start := len(dst)
	dst = appendDetails(dst, e)
	end := len(dst)
	dst = appendString(dst, dst[start:end])
	return append(dst[:start], dst[end:]...)
}

// appendData appends the payload as the member that suits it.
func appendData(dst []byte, e *Event) []byte {
	switch payloadKind(e.DataContentType) {
	case payloadJSON:
		r, err := newJSONReader(e.Data)
		if err != nil {
			break
		}
		value, err := r.value(maxDataDepth)
		if err != nil || r.end() != nil {
			break
		}
		dst = append(dst, `,"data":`...)
		if bytes.IndexByte(value, '\n') < 0 && bytes.IndexByte(value, '\r') < 0 {
			return append(dst, value...)
		}
		return appendCompact(dst, value)
	case payloadText:
		if utf8.Valid(e.Data) {
			return appendString(append(dst, `,"data":`...), e.Data)
		}
	}
	dst = append(dst, `,"data_base64":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, e.Data)
	return append(dst, '"')
}

const (
	payloadBinary = iota
	payloadText   // may be written as a string
	payloadJSON   // is written as a JSON value
)

// payloadKind tells how the JSON event format (section 3.1.1) writes data of a
// media type. No type at all is JSON.
func payloadKind(contentType string) int {
	if contentType == "" {
		return payloadJSON
	}
	mediaType, params, _ := strings.Cut(contentType, ";")
	major, minor, _ := strings.Cut(strings.TrimSpace(mediaType), "/")
	const suffix = "+json"
	switch {
	case strings.EqualFold(minor, "json"),
		len(minor) > len(suffix) && strings.EqualFold(minor[len(minor)-len(suffix):], suffix):
		return payloadJSON
	case strings.EqualFold(major, "text") && utf8Charset(params):
		return payloadText
	}
	return payloadBinary
}

// utf8Charset reports whether the parameters of a media type leave no doubt that
// a text is UTF-8.
func utf8Charset(params string) bool {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		value = strings.Trim(value, `"`)
		if strings.EqualFold(name, "charset") && !strings.EqualFold(value, "utf-8") && !strings.EqualFold(value, "us-ascii") {
			return false
		}
	}
	return true
}

// ParseCloudEvent reads a CloudEvent in the JSON event format 1.0.2, one object
// and not a batch, and is the inverse of [AppendCloudEvent], which has the table
// of attributes. It is meant for what comes from outside, and so is strict:
//   - id, source, type and specversion "1.0" must be there,
//   - attribute names are 1 to 64 lower-case letters and digits, and no member
//     occurs twice,
//   - attributes are of their types: extensions are strings, booleans or integers
//     of 32 bits, times are RFC 3339, no string that is defined here is empty,
//     and strings have no control characters (but for subject),
//   - data and data_base64 exclude each other, values are nested at most 102
//     levels deep, and everything is UTF-8.
//
// An attribute that is null is absent. Path is the subject, or without a subject
// the text under "path" in the metadata of a notification; both together must be
// the same. Namespace gets its canonical form.
//
// The event passes [Limits.Check] if it is not too large and has a Time (which
// [Event.Complete] gives it). It shares no memory with b. Time and memory are
// linear in len(b). Every error is an [*InvalidError] that names the attribute.
func ParseCloudEvent(b []byte) (*Event, error) {
	e := new(Event)
	if err := parseCloudEvent(b, e); err != nil {
		return nil, asInvalid("event", err)
	}
	return e, nil
}

// rawCloudEvent holds what can be understood only once all members are known.
type rawCloudEvent struct {
	specVersion, subject, details string
	data, base64                  []byte // the JSON text of the value, nil when absent
}

func parseCloudEvent(b []byte, e *Event) error {
	r, err := newJSONReader(b)
	if err != nil {
		return err
	}
	if r.peek() != '{' {
		return r.unexpected("an object")
	}
	var raw rawCloudEvent
	err = r.object(func(name string) (err error) {
		switch name {
		case memberData:
			raw.data, err = r.value(maxDataDepth)
			return asInvalid(memberData, err)
		case memberDataBase64:
			raw.base64, err = r.value(0)
			return asInvalid(memberDataBase64, err)
		}
		if !validAttributeName(name) {
			return invalid(strconv.Quote(name), attributeNameRule)
		}
		if r.null() {
			return nil
		}
		return r.attribute(name, e, &raw)
	})
	if err != nil {
		return err
	}
	if err := r.end(); err != nil {
		return err
	}
	e.Extensions.sort()
	for _, required := range []struct{ name, value string }{
		{attrSpecVersion, raw.specVersion}, {attrID, e.ID}, {attrSource, e.Source}, {attrType, e.Type},
	} {
		if required.value == "" {
			return invalid(required.name, "is missing")
		}
	}
	if raw.specVersion != "1.0" {
		return invalid(attrSpecVersion, fmt.Sprintf(`is %q; only "1.0" is supported`, raw.specVersion))
	}
	e.Namespace = CanonicalNamespace(e.Namespace)
	if err := raw.payload(e); err != nil {
		return err
	}
	e.Path = raw.subject
	if path, ok := e.Metadata.Text(MetadataPath); ok && e.Path == "" {
		e.Path = path
	}
	return e.check()
}

// attribute consumes the value of an attribute, which is not null.
func (r *jsonReader) attribute(name string, e *Event, raw *rawCloudEvent) (err error) {
	var text *string
	switch name {
	case attrSpecVersion:
		text = &raw.specVersion
	case attrID:
		text = &e.ID
	case attrSource:
		text = &e.Source
	case attrType:
		text = &e.Type
	case attrSubject:
		text = &raw.subject
	case attrDataContentType:
		text = &e.DataContentType
	case attrDataSchema:
		text = &e.DataSchema
	case attrDataRef:
		text = &e.DataRef
	case attrNamespace:
		text = &e.Namespace
	case attrDetails:
		text = &raw.details
	case attrTime:
		e.Time, err = r.time(name)
		return err
	case attrRecordedTime:
		e.Recorded, err = r.time(name)
		return err
	default:
		return r.extension(name, e)
	}
	if *text, err = r.text(name); err == nil && *text == "" {
		err = invalid(name, "is empty")
	}
	return err
}

func (r *jsonReader) extension(name string, e *Event) error {
	x := Field{Key: name}
	if r.peek() == '"' {
		s, err := r.string()
		if err != nil {
			return asInvalid(name, err)
		}
		x.Value = s
	} else {
		value, err := r.value(maxDataDepth)
		if err != nil {
			return asInvalid(name, err)
		}
		x.Value, x.JSON = string(value), true
	}
	e.Extensions = append(e.Extensions, x)
	return nil
}

// payload fills in the data of e, and what data or tocsindetails tell of it.
func (raw *rawCloudEvent) payload(e *Event) error {
	var value []byte
	switch {
	case raw.data != nil && raw.base64 != nil && string(raw.base64) != "null":
		return invalid(memberDataBase64, "must not be there together with data")
	case raw.base64 != nil && string(raw.base64) != "null":
		bin, err := decodeBase64(raw.base64)
		if err != nil {
			return err
		}
		e.Data, value = bin, bin
	case raw.data != nil:
		value = raw.data
		if e.DataSchema != NotificationSchema {
			if err := raw.takeData(e); err != nil {
				return err
			}
		}
	}
	if e.DataSchema == NotificationSchema {
		switch {
		case payloadKind(e.DataContentType) != payloadJSON:
			return invalid(attrDataContentType, "is not JSON, as "+attrDataSchema+" requires")
		case raw.details != "":
			return invalid(attrDetails, "must not be there in a notification")
		}
		e.Data, e.DataContentType, e.DataSchema = nil, "", ""
		if value == nil {
			return nil
		}
		return parseDetails(memberData, value, e)
	}
	if raw.details != "" {
		return parseDetails(attrDetails, []byte(raw.details), e)
	}
	return nil
}

// takeData makes the data member the payload.
func (raw *rawCloudEvent) takeData(e *Event) error {
	if payloadKind(e.DataContentType) == payloadJSON {
		if e.DataContentType == "" {
			e.DataContentType = "application/json"
		}
		e.Data = bytes.Clone(raw.data)
		return nil
	}
	r := &jsonReader{src: raw.data}
	if r.peek() != '"' {
		return invalid(memberData, fmt.Sprintf("is not a string, as the content type %q requires", e.DataContentType))
	}
	s, err := r.string()
	if err != nil {
		return asInvalid(memberData, err)
	}
	e.Data = []byte(s)
	return nil
}

func decodeBase64(value []byte) ([]byte, error) {
	r := &jsonReader{src: value}
	s, err := r.text(memberDataBase64)
	if err != nil {
		return nil, err
	}
	// Newlines, which Go's decoder skips, are not in RFC 4648.
	bin, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, invalid(memberDataBase64, "is not base64 of RFC 4648 section 4, with padding")
	}
	return bin, nil
}
