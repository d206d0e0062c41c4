package plugin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Field is something that can be extracted from an event, for filters, rules and people.
type Field struct {
	// Name is in lower case and usually begins with the event source: "dice.value".
	Name string
	// Description is required. Display is a short title; empty: the name.
	Description, Display string
	Type                 FieldType
	// List: an event can have several values.
	List bool
	// Arg says what may be in brackets behind the name.
	Arg Arg
	// Output: it belongs into the output of rules for events of this source.
	Output bool
}

// Arg is what may be in brackets behind the name of a field: "http.header[accept]", "json.item[3]".
type Arg struct {
	Index    bool // a number
	Key      bool // a text
	Required bool // and not only allowed
}

// FieldType is the type of the values of a field.
type FieldType uint8

// The types of fields, and what sets them.
const (
	Uint64  = FieldType(sourceplugin.Uint64)  // [Request.SetUint64]
	Text    = FieldType(sourceplugin.String)  // [Request.SetText]
	RelTime = FieldType(sourceplugin.RelTime) // [Request.SetDuration]
	AbsTime = FieldType(sourceplugin.AbsTime) // [Request.SetTime]
	Bool    = FieldType(sourceplugin.Bool)    // [Request.SetBool]
	IPAddr  = FieldType(sourceplugin.IPAddr)  // [Request.SetAddr]
	IPNet   = FieldType(sourceplugin.IPNet)   // [Request.SetPrefix]
)

var typeNames = map[FieldType]string{
	Uint64: "uint64", Text: "string", RelTime: "reltime", AbsTime: "abstime", Bool: "bool", IPAddr: "ipaddr", IPNet: "ipnet",
}

// String returns the name of the type, as Falco has it.
func (t FieldType) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("FieldType(%d)", uint8(t))
}

func (f Field) host() sourceplugin.Field {
	return sourceplugin.Field{
		Name: f.Name, Display: f.Display, Description: f.Description, Type: sourceplugin.FieldType(f.Type), List: f.List,
		Arg: sourceplugin.ArgRule{Required: f.Arg.Required, Index: f.Arg.Index, Key: f.Arg.Key}, AddOutput: f.Output,
	}
}

// Request asks for a field of an event. Its Set methods set its value, and may be called with
// several values for a list. What does not fit the declaration of the field is an error of the
// extraction, with the name of the field.
type Request struct {
	// Name is the field's.
	Name string
	// Arg is what is in the brackets. HasArg tells an empty one from none, and Index is the number if
	// the field takes one.
	Arg    string
	Index  uint64
	HasArg bool

	field *sourceplugin.Field
	base  int // where the payload is in the event
	size  int // of the payload
	// Values of the event, one behind the other.
	bytes   []byte
	lengths []uint32
	offsets []uint32 // nil or two for each
	err     error
}

// SetUint64 sets a value of type Uint64.
func (r *Request) SetUint64(v ...uint64) {
	if r.is(sourceplugin.Uint64, len(v)) {
		for _, v := range v {
			r.number(v)
		}
	}
}

// SetText sets a value of type Text. It is UTF-8; bytes that are not are replaced.
func (r *Request) SetText(v ...string) {
	if r.is(sourceplugin.String, len(v)) {
		for _, v := range v {
			r.text(strings.ToValidUTF8(v, string(unicode.ReplacementChar)))
		}
	}
}

// SetDuration sets a value of type RelTime. A negative one is 0.
func (r *Request) SetDuration(v ...time.Duration) {
	if r.is(sourceplugin.RelTime, len(v)) {
		for _, v := range v {
			r.number(uint64(max(v, 0)))
		}
	}
}

// SetTime sets a value of type AbsTime: see [Event] about its range.
func (r *Request) SetTime(v ...time.Time) {
	if r.is(sourceplugin.AbsTime, len(v)) {
		for _, v := range v {
			r.number(nanos(v))
		}
	}
}

// SetBool sets a value of type Bool.
func (r *Request) SetBool(v ...bool) {
	if !r.is(sourceplugin.Bool, len(v)) {
		return
	}
	for _, v := range v {
		b := byte(0)
		if v {
			b = 1
		}
		r.bytes = append(r.bytes, b)
		r.element(1)
	}
}

// SetAddr sets a value of type IPAddr. An address of IPv4 within IPv6 becomes one of IPv4.
func (r *Request) SetAddr(v ...netip.Addr) {
	if !r.is(sourceplugin.IPAddr, len(v)) {
		return
	}
	for _, v := range v {
		if !v.IsValid() {
			r.fault("has an address that is the zero value")
			return
		}
		b := v.Unmap().AsSlice()
		r.bytes = append(r.bytes, b...)
		r.element(len(b))
	}
}

// SetPrefix sets a value of type IPNet.
func (r *Request) SetPrefix(v ...netip.Prefix) {
	if !r.is(sourceplugin.IPNet, len(v)) {
		return
	}
	for _, v := range v {
		if !v.IsValid() {
			r.fault("has a network that is the zero value")
			return
		}
		r.text(v.String())
	}
}

// At tells where the value that was set last is in Event.Data: its first byte, and how many. It
// is a help for people who look for it.
func (r *Request) At(start, length int) {
	switch {
	case len(r.lengths) == 0:
		r.fault("was told where its value is before it was set")
	case start < 0 || length < 0 || start > r.size || length > r.size-start:
		r.fault(fmt.Sprintf("lies at %d to %d of a payload of %d bytes", start, start+length, r.size))
	default:
		for len(r.offsets) < 2*len(r.lengths) {
			r.offsets = append(r.offsets, 0)
		}
		copy(r.offsets[2*len(r.lengths)-2:], []uint32{uint32(r.base + start), uint32(length)})
	}
}

// is says whether n values of a type may be set.
func (r *Request) is(t sourceplugin.FieldType, n int) bool {
	switch {
	case r.err != nil:
		return false
	case r.field.Type != t:
		r.fault(fmt.Sprintf("has the type %s, and was set to one of type %s", FieldType(r.field.Type), FieldType(t)))
		return false
	case !r.field.List && len(r.lengths)+n > 1:
		r.fault(fmt.Sprintf("is no list, and was set to %d values", len(r.lengths)+n))
		return false
	}
	return true
}

func (r *Request) fault(text string) {
	if r.err == nil {
		r.err = fmt.Errorf("the field %s %s", r.field.Name, text)
	}
}

func (r *Request) number(v uint64) {
	r.bytes = binary.LittleEndian.AppendUint64(r.bytes, v)
	r.element(8)
}

func (r *Request) text(v string) {
	r.bytes = append(r.bytes, v...)
	r.element(len(v))
}

func (r *Request) element(size int) {
	r.lengths = append(r.lengths, uint32(size))
}

// begin empties it for another event.
func (r *Request) begin(e *sourceplugin.Event, size int) {
	r.base, r.size = len(e.Event)-size, size
	r.bytes, r.lengths, r.offsets, r.err = r.bytes[:0], r.lengths[:0], r.offsets[:0], nil
}

// take appends its values to those of the others.
func (r *Request) take(v *sourceplugin.Values) {
	v.Counts = append(v.Counts, uint32(len(r.lengths)))
	before := len(v.Lengths)
	v.Lengths = append(v.Lengths, r.lengths...)
	v.Bytes = append(v.Bytes, r.bytes...)
	if len(r.offsets) == 0 && len(v.Offsets) == 0 {
		return
	}
	for len(v.Offsets) < 2*before {
		v.Offsets = append(v.Offsets, 0)
	}
	v.Offsets = append(v.Offsets, r.offsets...)
	for len(v.Offsets) < 2*len(v.Lengths) {
		v.Offsets = append(v.Offsets, 0)
	}
}

// checkInfo returns what is wrong with what a plugin says of itself.
func checkInfo(d *sourceplugin.Description) error {
	var errs []error
	report := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, t := range []struct{ what, text string }{{"Name", d.Name}, {"Version", d.Version}} {
		if t.text == "" || len(t.text) > 128 || hasControl(t.text) {
			report("Info.%s must have 1 to 128 bytes without control characters", t.what)
		}
	}
	for _, t := range []struct{ what, text string }{{"Description", d.Description}, {"Contact", d.Contact}} {
		if !utf8.ValidString(t.text) {
			report("Info.%s is not UTF-8", t.what)
		}
	}
	for i, name := range d.ExtractSources {
		if name == "" || len(name) > 128 || hasControl(name) {
			report("Info.ExtractSources[%d] must have 1 to 128 bytes without control characters", i)
		}
	}
	can := d.Capabilities
	switch {
	case d.EventSource == "syscall":
		report("Info.EventSource is \"syscall\", which is reserved for events of system calls")
	case (d.ID == 0) != (d.EventSource == ""):
		report("Info.ID is %d and Info.EventSource %q: both are needed, or neither", d.ID, d.EventSource)
	case can.Source && d.ID == 0:
		report("Info.ID and Info.EventSource are missing, which events need")
	case hasControl(d.EventSource) || len(d.EventSource) > 128:
		report("Info.EventSource must have at most 128 bytes without control characters")
	}
	if can.Extract != (len(d.Fields) > 0) {
		report("Info.Fields has %d fields, and the plugin extracts fields (Extract): %v", len(d.Fields), can.Extract)
	}
	seen := make(map[string]bool)
	for i, f := range d.Fields {
		switch {
		case !isFieldName(f.Name):
			report("Info.Fields[%d].Name is %q: letters, digits, _ . and - are allowed, and a letter comes first", i, f.Name)
		case seen[f.Name]:
			report("Info.Fields has %q twice", f.Name)
		case f.Description == "":
			report("the field %s has no Description", f.Name)
		case !utf8.ValidString(f.Description) || !utf8.ValidString(f.Display):
			report("the field %s has a Description or Display that is not UTF-8", f.Name)
		case typeNames[FieldType(f.Type)] == "":
			report("the field %s has the Type %d, which is none", f.Name, f.Type)
		case f.Arg.Required && !f.Arg.Index && !f.Arg.Key:
			report("the field %s requires an argument, but takes neither an Index nor a Key", f.Name)
		}
		seen[f.Name] = true
	}
	names := make(map[string]bool)
	for _, name := range d.AsyncNames {
		if name == "" || len(name) > 128 || hasControl(name) || names[name] {
			report("Info.AsyncNames has %q, which is empty, too long, there twice, or has control characters", name)
		}
		names[name] = true
	}
	return errors.Join(errs...)
}

func isFieldName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789_.-", r)) {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == unicode.ReplacementChar })
}
