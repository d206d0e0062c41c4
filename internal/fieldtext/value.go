package fieldtext

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"time"

	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// NoValue is the text of a field that an event does not have.
const NoValue = "<NA>"

// ErrValues is wrapped by errors about values that cannot be what was asked for.
var ErrValues = errors.New("the plugin answered with values that make no sense")

// Reader goes through the values of an answer, request by request and event by event.
type Reader struct {
	values sourceplugin.Values
	counts []uint32
}

// NewReader returns a reader of what Extract answered for so many events and requests. The
// zero value of Values has no value for any of them.
func NewReader(v sourceplugin.Values, events, requests int) (*Reader, error) {
	if len(v.Counts) == 0 && len(v.Lengths) == 0 && len(v.Bytes) == 0 {
		v.Counts = make([]uint32, events*requests)
	}
	if len(v.Counts) != events*requests {
		return nil, fmt.Errorf("%w: %d of them for %d fields of %d events", ErrValues, len(v.Counts), requests, events)
	}
	var elements, bytes uint64
	for _, n := range v.Counts {
		elements += uint64(n)
	}
	for _, n := range v.Lengths {
		bytes += uint64(n)
	}
	if elements != uint64(len(v.Lengths)) || bytes != uint64(len(v.Bytes)) {
		return nil, fmt.Errorf("%w: %d lengths for %d elements, and %d bytes for %d", ErrValues, len(v.Lengths), elements, len(v.Bytes), bytes)
	}
	return &Reader{values: v, counts: v.Counts}, nil
}

// Next returns the elements of the next value; none if the event does not have the field. It
// is called once for each request of each event. The elements are parts of the answer.
func (r *Reader) Next(elements [][]byte) [][]byte {
	elements = elements[:0]
	n := r.counts[0]
	r.counts = r.counts[1:]
	for range n {
		length := r.values.Lengths[0]
		r.values.Lengths = r.values.Lengths[1:]
		elements = append(elements, r.values.Bytes[:length:length])
		r.values.Bytes = r.values.Bytes[length:]
	}
	return elements
}

// AppendText appends a value for people: [NoValue] if there are no elements, a list as (a,b),
// times by RFC 3339, durations as 1.5s.
func AppendText(dst []byte, f *sourceplugin.Field, elements [][]byte) []byte {
	switch {
	case len(elements) == 0:
		return append(dst, NoValue...)
	case !f.List:
		return AppendElement(dst, f.Type, elements[0])
	}
	dst = append(dst, '(')
	for i, e := range elements {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendElement(dst, f.Type, e)
	}
	return append(dst, ')')
}

// AppendElement appends one element for people, as [AppendText] does; bytes that are none of the
// type as hexadecimal digits.
func AppendElement(dst []byte, t sourceplugin.FieldType, e []byte) []byte {
	switch {
	case t == sourceplugin.String || t == sourceplugin.IPNet:
		return append(dst, e...)
	case t == sourceplugin.Bool && len(e) == 1:
		return strconv.AppendBool(dst, e[0] != 0)
	case t == sourceplugin.IPAddr:
		if a, ok := netip.AddrFromSlice(e); ok {
			return a.AppendTo(dst)
		}
	case len(e) == 8:
		n := binary.LittleEndian.Uint64(e)
		switch {
		case t == sourceplugin.AbsTime && n <= math.MaxInt64:
			return time.Unix(0, int64(n)).UTC().AppendFormat(dst, time.RFC3339Nano)
		case t == sourceplugin.RelTime && n <= math.MaxInt64:
			return append(dst, time.Duration(n).String()...)
		}
		return strconv.AppendUint(dst, n, 10)
	}
	return fmt.Appendf(dst, "%x", e)
}

// CheckText returns nil if an element of a field can have a text, as [AppendElement] writes it. The
// error says how it is written.
func CheckText(f *sourceplugin.Field, text string) error {
	var what, right string // right stands for the same, if there is such
	switch f.Type {
	case sourceplugin.Uint64:
		what = "a number from 0 on"
		if n, err := strconv.ParseUint(text, 0, 64); err == nil {
			right = strconv.FormatUint(n, 10)
		}
	case sourceplugin.Bool:
		what = "true or false"
		if b, err := strconv.ParseBool(text); err == nil {
			right = strconv.FormatBool(b)
		}
	case sourceplugin.IPAddr:
		what = "an IP address"
		if a, err := netip.ParseAddr(text); err == nil {
			right = a.WithZone("").String()
		}
	case sourceplugin.RelTime:
		what = "a length of time such as 1.5s"
		if d, err := time.ParseDuration(text); err == nil && d >= 0 {
			right = d.String()
		}
	case sourceplugin.AbsTime:
		what = "a time such as 2026-01-02T15:04:05Z"
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
			right = t.UTC().Format(time.RFC3339Nano)
		}
	default:
		return nil
	}
	switch right {
	case "":
		return fmt.Errorf("field %s is %s, so it is never %.80q", f.Name, what, text)
	case text:
		return nil
	}
	return fmt.Errorf("field %s is never %.80q; write %q", f.Name, text, right)
}

// AppendJSON appends a value as JSON: null if there are no elements, an array for a list,
// numbers (also nanoseconds of a duration) and bools as such, times by RFC 3339, the rest as
// strings.
func AppendJSON(dst []byte, f *sourceplugin.Field, elements [][]byte) []byte {
	switch {
	case len(elements) == 0:
		return append(dst, "null"...)
	case !f.List:
		return appendJSONElement(dst, f.Type, elements[0])
	}
	dst = append(dst, '[')
	for i, e := range elements {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONElement(dst, f.Type, e)
	}
	return append(dst, ']')
}

func appendJSONElement(dst []byte, t sourceplugin.FieldType, e []byte) []byte {
	switch {
	case t == sourceplugin.String || t == sourceplugin.IPNet:
		return jsontext.AppendString(dst, string(e))
	case t == sourceplugin.Bool && len(e) == 1:
		return strconv.AppendBool(dst, e[0] != 0)
	case (t == sourceplugin.Uint64 || t == sourceplugin.RelTime) && len(e) == 8:
		return strconv.AppendUint(dst, binary.LittleEndian.Uint64(e), 10)
	}
	dst = append(dst, '"')
	dst = AppendElement(dst, t, e) // digits, and marks that JSON has no other form of
	return append(dst, '"')
}
