// Package scapevent knows one event of a plugin as bytes: the layout that Falco's plugins hand
// over, that capture files hold, and that the plugin protocol carries, so that an event is
// written once and copied from then on.
//
// An event is a packed header of 26 bytes, the length of each parameter as 32 bits, and the
// parameters, all little endian. An event of a plugin has two, the id of the plugin and the
// payload; an asynchronous one has its name between them, with a NUL behind it.
package scapevent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Types of events. Others exist in captures of system calls.
const (
	Plugin uint16 = 322
	Async  uint16 = 402
)

// Sizes of the layout, in bytes.
const (
	HeaderSize    = 26
	PayloadOffset = HeaderSize + 2*4 + 4 // of an event of a plugin
)

// NoTime, as the time of an event, asks the host for the time of arrival. NoThread is the
// thread of every event of a plugin.
const (
	NoTime   uint64 = math.MaxUint64
	NoThread uint64 = math.MaxUint64
)

// MaxDataBytes is the most that the lengths of an event can say.
const MaxDataBytes = math.MaxUint32 - 1<<10

// ErrMalformed is wrapped by every error about bytes that are no event.
var ErrMalformed = errors.New("malformed event")

// Event is the bytes of one event, header included. Only [Next] and the Append functions make
// one whose methods can be called. It is a view: what it is cut from must not change.
type Event []byte

// Append appends an event of a plugin. The time is in nanoseconds since 1970. The payload has
// at most MaxDataBytes.
func Append(dst []byte, plugin uint32, nanos uint64, data []byte) []byte {
	dst = appendHeader(dst, nanos, PayloadOffset+len(data), Plugin, 2)
	dst = binary.LittleEndian.AppendUint32(dst, 4)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
	dst = binary.LittleEndian.AppendUint32(dst, plugin)
	return append(dst, data...)
}

// AppendFunc is Append for a payload that data appends to what it is given, which it must
// leave as it is.
func AppendFunc(dst []byte, plugin uint32, nanos uint64, data func([]byte) []byte) []byte {
	start := len(dst)
	dst = data(Append(dst, plugin, nanos, nil))
	length := len(dst) - start
	binary.LittleEndian.PutUint32(dst[start+16:], uint32(length))
	binary.LittleEndian.PutUint32(dst[start+HeaderSize+4:], uint32(length-PayloadOffset))
	return dst
}

// AppendAsync appends an asynchronous event. The name has no NUL.
func AppendAsync(dst []byte, plugin uint32, nanos uint64, name string, data []byte) []byte {
	dst = appendHeader(dst, nanos, HeaderSize+3*4+4+len(name)+1+len(data), Async, 3)
	dst = binary.LittleEndian.AppendUint32(dst, 4)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(name)+1))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
	dst = binary.LittleEndian.AppendUint32(dst, plugin)
	dst = append(dst, name...)
	dst = append(dst, 0)
	return append(dst, data...)
}

func appendHeader(dst []byte, nanos uint64, length int, eventType uint16, params uint32) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, nanos)
	dst = binary.LittleEndian.AppendUint64(dst, NoThread)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(length))
	dst = binary.LittleEndian.AppendUint16(dst, eventType)
	return binary.LittleEndian.AppendUint32(dst, params)
}

// Next cuts the first event off b, which must be an event of a plugin or an asynchronous one,
// whole and well-formed. It copies nothing. The error wraps ErrMalformed.
func Next(b []byte) (e Event, rest []byte, err error) {
	if len(b) < HeaderSize {
		return nil, nil, fmt.Errorf("%w: %d bytes are less than a header", ErrMalformed, len(b))
	}
	length := uint64(binary.LittleEndian.Uint32(b[16:]))
	if length < HeaderSize || length > uint64(len(b)) {
		return nil, nil, fmt.Errorf("%w: its length is %d, but there are %d bytes", ErrMalformed, length, len(b))
	}
	e = Event(b[:length:length])
	if err := e.check(); err != nil {
		return nil, nil, err
	}
	return e, b[length:], nil
}

// check returns nil if every method can be called.
func (e Event) check() error {
	params := binary.LittleEndian.Uint32(e[22:])
	var want uint32
	switch e.Type() {
	case Plugin:
		want = 2
	case Async:
		want = 3
	default:
		return fmt.Errorf("%w: type %d is not that of a plugin's event (%d, or %d for an asynchronous one)", ErrMalformed, e.Type(), Plugin, Async)
	}
	if params != want {
		return fmt.Errorf("%w: %d parameters instead of %d", ErrMalformed, params, want)
	}
	at := uint64(HeaderSize) + 4*uint64(params)
	if at > uint64(len(e)) {
		return fmt.Errorf("%w: its %d bytes end within the lengths of the parameters", ErrMalformed, len(e))
	}
	for i := range int(params) {
		at += uint64(e.paramLen(i))
	}
	switch {
	case at != uint64(len(e)):
		return fmt.Errorf("%w: the parameters end at byte %d of %d", ErrMalformed, at, len(e))
	case e.paramLen(0) != 4:
		return fmt.Errorf("%w: the id of the plugin has %d bytes", ErrMalformed, e.paramLen(0))
	case params == 3 && !endsName(e.param(1)):
		return fmt.Errorf("%w: its name does not end with a NUL", ErrMalformed)
	}
	return nil
}

func endsName(b []byte) bool { return len(b) > 0 && bytes.IndexByte(b, 0) == len(b)-1 }

func (e Event) paramLen(i int) uint32 { return binary.LittleEndian.Uint32(e[HeaderSize+4*i:]) }

// param returns a parameter of an event whose lengths are good.
func (e Event) param(i int) []byte {
	at := HeaderSize + 4*int(binary.LittleEndian.Uint32(e[22:]))
	for j := range i {
		at += int(e.paramLen(j))
	}
	return e[at : at+int(e.paramLen(i))]
}

// Type returns Plugin or Async.
func (e Event) Type() uint16 { return binary.LittleEndian.Uint16(e[20:]) }

// Nanos returns the time in nanoseconds since 1970, which may be NoTime.
func (e Event) Nanos() uint64 { return binary.LittleEndian.Uint64(e) }

// Time returns the time; for NoTime and what is beyond the range of int64 it is the latest
// there is, in the year 2262.
func (e Event) Time() time.Time {
	return time.Unix(0, int64(min(e.Nanos(), math.MaxInt64))).UTC()
}

// Thread returns the id of the thread.
func (e Event) Thread() uint64 { return binary.LittleEndian.Uint64(e[8:]) }

// PluginID returns the id of the plugin whose event it is; 0 is none.
func (e Event) PluginID() uint32 { return binary.LittleEndian.Uint32(e.param(0)) }

// Name returns the name of an asynchronous event; "" for others.
func (e Event) Name() string {
	if e.Type() != Async {
		return ""
	}
	name := e.param(1)
	return string(name[:len(name)-1])
}

// Data returns the payload, a part of e.
func (e Event) Data() []byte {
	if e.Type() == Async {
		return e.param(2)
	}
	return e[PayloadOffset:]
}

// SetNanos writes the time.
func (e Event) SetNanos(nanos uint64) { binary.LittleEndian.PutUint64(e, nanos) }

// SetThread writes the id of the thread.
func (e Event) SetThread(thread uint64) { binary.LittleEndian.PutUint64(e[8:], thread) }

// SetPluginID writes the id of the plugin.
func (e Event) SetPluginID(id uint32) { binary.LittleEndian.PutUint32(e.param(0), id) }
