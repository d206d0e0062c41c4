package event

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
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

// attribute is one that stands for a part of an [Event], or none of these.
type attribute uint

const (
	isExtension attribute = iota
	isSpecVersion
	isID
	isSource
	isType
	isSubject
	isTime
	isDataContentType
	isDataSchema
	isDataRef
	isRecordedTime
	isNamespace
	isDetails
	isData
	isDataBase64
)

func attributeOf[T string | []byte](name T) attribute {
	switch string(name) {
	case attrSpecVersion:
		return isSpecVersion
	case attrID:
		return isID
	case attrSource:
		return isSource
	case attrType:
		return isType
	case attrSubject:
		return isSubject
	case attrTime:
		return isTime
	case attrDataContentType:
		return isDataContentType
	case attrDataSchema:
		return isDataSchema
	case attrDataRef:
		return isDataRef
	case attrRecordedTime:
		return isRecordedTime
	case attrNamespace:
		return isNamespace
	case attrDetails:
		return isDetails
	case memberData:
		return isData
	case memberDataBase64:
		return isDataBase64
	}
	return isExtension
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
		if d, ok := e.AppendJSONData(append(dst, `,"data":`...)); ok {
			return d
		}
	case payloadText:
		if utf8.Valid(e.Data) {
			return appendString(append(dst, `,"data":`...), e.Data)
		}
	}
	dst = append(dst, `,"data_base64":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, e.Data)
	return append(dst, '"')
}

// AppendJSONData appends the payload as one JSON value on one line and returns true, if
// it is one: the content type is JSON or empty, and Data is JSON nested at most 102
// levels deep. White space around it is left out, and all insignificant white space of
// a value on several lines. Otherwise dst is returned as it was.
func (e *Event) AppendJSONData(dst []byte) ([]byte, bool) {
	if payloadKind(e.DataContentType) != payloadJSON {
		return dst, false
	}
	r, err := newJSONReader(e.Data)
	if err != nil {
		return dst, false
	}
	value, err := r.value(maxDataDepth)
	if err != nil || r.end() != nil {
		return dst, false
	}
	if bytes.IndexByte(value, '\n') < 0 && bytes.IndexByte(value, '\r') < 0 {
		return append(dst, value...), true
	}
	return appendCompact(dst, value), true
}

const (
	payloadBinary = iota
	payloadText   // may be written as a string
	payloadJSON   // is written as a JSON value
)

// payloadKind tells how the JSON event format (section 3.1.1) writes data of a
// media type. No type at all is JSON.
func payloadKind(contentType string) int {
	switch contentType { // as nearly all events have it
	case "", "application/json":
		return payloadJSON
	case "text/plain":
		return payloadText
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
// linear in len(b). Every error is an [*InvalidError] that names the attribute, or a
// [*LimitError] for one with more than half a million extensions, metadata and
// entity ids.
func ParseCloudEvent(b []byte) (*Event, error) {
	r, err := newJSONReader(b)
	if err != nil {
		return nil, asInvalid("event", err)
	}
	r.mem = newMemory(len(b))
	e, err := r.cloudEvent()
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return nil, asInvalid("event", err)
	}
	return e, nil
}

// rawCloudEvent holds what can be understood only once all members are known.
type rawCloudEvent struct {
	specVersion, subject, details string
	data, base64                  []byte // the JSON text of the value, nil when absent
}

// cloudEvent consumes one event.
func (r *jsonReader) cloudEvent() (*Event, error) {
	if r.peek() != '{' {
		return nil, r.unexpected("an object")
	}
	e := r.mem.event()
	var raw rawCloudEvent
	var seen uint // a bit for each attribute
	extensions := r.mem.extensions[:0]
	err := r.members(func(name []byte) (err error) {
		a := attributeOf(name)
		if a == isExtension {
			x, err := r.extension(name)
			extensions = append(extensions, x)
			return err
		}
		if seen&(1<<a) != 0 {
			return invalid(string(name), "occurs twice")
		}
		seen |= 1 << a
		return r.attribute(a, e, &raw)
	})
	r.mem.extensions = extensions
	if err != nil {
		return nil, err
	}
	if twice := extensions.sort(); twice != "" {
		return nil, invalid(twice, "occurs twice")
	}
	extensions = slices.DeleteFunc(extensions, func(x Field) bool { return x == Field{Key: x.Key, JSON: true} })
	if len(extensions) > 0 {
		e.Extensions = r.mem.keep(extensions)
	}
	if err := raw.takeData(e, r.mem); err != nil {
		return nil, err
	}
	return e, raw.complete(e, r.mem)
}

// attribute consumes the value of an attribute that is not an extension.
func (r *jsonReader) attribute(a attribute, e *Event, raw *rawCloudEvent) (err error) {
	switch a {
	case isData:
		raw.data, err = r.value(maxDataDepth)
		return asInvalid(memberData, err)
	case isDataBase64:
		raw.base64, err = r.value(0)
		return asInvalid(memberDataBase64, err)
	}
	if r.null() {
		return nil
	}
	switch a {
	case isTime:
		e.Time, err = r.time(attrTime)
		return err
	case isRecordedTime:
		e.Recorded, err = r.time(attrRecordedTime)
		return err
	}
	name, text := raw.place(a, e)
	if *text, err = r.text(name); err == nil && *text == "" {
		err = invalid(name, "is empty")
	}
	return err
}

// place returns the name of an attribute that is a text, and where it belongs.
func (raw *rawCloudEvent) place(a attribute, e *Event) (name string, text *string) {
	switch a {
	case isSpecVersion:
		return attrSpecVersion, &raw.specVersion
	case isID:
		return attrID, &e.ID
	case isSource:
		return attrSource, &e.Source
	case isType:
		return attrType, &e.Type
	case isSubject:
		return attrSubject, &raw.subject
	case isDataContentType:
		return attrDataContentType, &e.DataContentType
	case isDataSchema:
		return attrDataSchema, &e.DataSchema
	case isDataRef:
		return attrDataRef, &e.DataRef
	case isNamespace:
		return attrNamespace, &e.Namespace
	case isDetails:
		return attrDetails, &raw.details
	}
	return "", nil // no other is a text
}

// extension consumes the value of an extension. One that is null has JSON without a
// value, and is left out later.
func (r *jsonReader) extension(name []byte) (x Field, err error) {
	if !validAttributeName(name) {
		return x, invalid(strconv.Quote(clip(string(name), 100)), attributeNameRule)
	}
	x.Key = r.mem.text(name)
	switch {
	case r.peek() == '"':
		if x.Value, err = r.string(); err != nil {
			return x, asInvalid(x.Key, err)
		}
	case r.null():
		x.JSON = true
	default:
		value, err := r.value(maxDataDepth)
		if err != nil {
			return x, asInvalid(x.Key, err)
		}
		x.Value, x.JSON = r.mem.text(value), true
	}
	return x, r.mem.counted()
}

// complete makes e of what was read and checks it. Its Data is set.
func (raw *rawCloudEvent) complete(e *Event, mem *memory) error {
	for _, required := range [...]struct{ name, value string }{
		{attrSpecVersion, raw.specVersion}, {attrID, e.ID}, {attrSource, e.Source}, {attrType, e.Type},
	} {
		if required.value == "" {
			return invalid(required.name, "is missing")
		}
	}
	if raw.specVersion != "1.0" {
		return invalid(attrSpecVersion, fmt.Sprintf(`is %q; only "1.0" is supported`, clip(raw.specVersion, 100)))
	}
	e.Namespace = CanonicalNamespace(e.Namespace)
	if err := raw.takeDetails(e, mem); err != nil {
		return err
	}
	e.Path = raw.subject
	if path, ok := e.Metadata.Text(MetadataPath); ok && e.Path == "" {
		e.Path = path
	}
	return e.check()
}

// takeData sets Data from the member of the JSON format.
func (raw *rawCloudEvent) takeData(e *Event, mem *memory) error {
	switch {
	case raw.base64 == nil || string(raw.base64) == "null":
	case raw.data != nil:
		return invalid(memberDataBase64, "must not be there together with data")
	default:
		return raw.takeBase64(e, mem)
	}
	switch {
	case raw.data == nil:
		return nil
	case e.DataSchema == NotificationSchema:
		e.Data = raw.data // read on at once, and not kept
		return nil
	case payloadKind(e.DataContentType) == payloadJSON:
		if e.DataContentType == "" {
			e.DataContentType = "application/json"
		}
		e.Data = mem.data(raw.data)
		return nil
	}
	r := &jsonReader{src: raw.data, mem: mem}
	if r.peek() != '"' {
		return invalid(memberData, fmt.Sprintf("is not a string, as the content type %q requires", clip(e.DataContentType, 100)))
	}
	s, err := r.view()
	if err != nil {
		return asInvalid(memberData, err)
	}
	e.Data = mem.data(s)
	return nil
}

func (raw *rawCloudEvent) takeBase64(e *Event, mem *memory) error {
	r := &jsonReader{src: raw.base64, mem: mem}
	if r.peek() != '"' {
		return invalid(memberDataBase64, "is not a string")
	}
	s, err := r.view()
	if err != nil {
		return asInvalid(memberDataBase64, err)
	}
	e.Data = make([]byte, base64.StdEncoding.DecodedLen(len(s)))
	n, err := base64.StdEncoding.Strict().Decode(e.Data, s)
	// Newlines, which Go's decoder skips, are not in RFC 4648.
	if err != nil || bytes.ContainsAny(s, "\r\n") {
		return invalid(memberDataBase64, "is not base64 of RFC 4648 section 4, with padding")
	}
	e.Data = e.Data[:n]
	return nil
}

// takeDetails sets what the data of a notification, or tocsindetails, tell of e.
func (raw *rawCloudEvent) takeDetails(e *Event, mem *memory) error {
	if e.DataSchema != NotificationSchema {
		if raw.details == "" {
			return nil
		}
		return parseDetails(attrDetails, []byte(raw.details), e, mem)
	}
	switch {
	case payloadKind(e.DataContentType) != payloadJSON:
		return invalid(attrDataContentType, "is not JSON, as "+attrDataSchema+" requires")
	case raw.details != "":
		return invalid(attrDetails, "must not be there in a notification")
	}
	value := e.Data
	e.Data, e.DataContentType, e.DataSchema = nil, "", ""
	if value == nil {
		return nil
	}
	return parseDetails(memberData, value, e, mem)
}
