package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/coder/websocket"
)

// frames reads the messages of a server (RFC 6455) with few calls of the system: a server that has
// much to say sends many messages at once. It answers pings and the close frame.
type frames struct {
	stream io.ReadWriteCloser
	pinged func()
	most   int64 // bytes of a message

	buf        []byte
	begin, end int    // what of buf was read and not used yet
	message    []byte // of frames that came before the last
	parted     bool   // a message has begun, and not all of its frames have come
}

const (
	frameBuffer    = 128 << 10
	maxFrameHeader = 10 // servers do not mask
	maxControl     = 125
)

const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

func newFrames(stream io.ReadWriteCloser, most int64, pinged func()) *frames {
	return &frames{stream: stream, most: most, pinged: pinged, buf: make([]byte, frameBuffer)}
}

// errNotThere is returned by take when more must be read first.
var errNotThere = errors.New("no whole message is there")

// next returns the next message, which is valid until the next call. A close frame is a
// [websocket.CloseError], a message that is too large [websocket.ErrMessageTooBig]. Nothing can
// be read after an error.
func (f *frames) next() ([]byte, error) {
	for {
		message, err := f.take()
		if err != errNotThere {
			return message, err
		}
		if err := f.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads what there is, at least a byte.
func (f *frames) fill() error {
	if f.begin == f.end {
		f.begin, f.end = 0, 0
	}
	if f.end == len(f.buf) {
		if f.begin > 0 {
			f.end = copy(f.buf, f.buf[f.begin:f.end])
			f.begin = 0
		} else {
			// Only when all of it is full: not for a length that a server only claims.
			f.buf = append(f.buf, make([]byte, len(f.buf))...)
		}
	}
	for range 100 {
		n, err := f.stream.Read(f.buf[f.end:])
		f.end += n
		if n > 0 {
			return nil // an error comes again
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// take returns the next message if all of it was read, errNotThere if not.
func (f *frames) take() ([]byte, error) {
	for {
		op, final, payload, err := f.frame()
		if err != nil {
			return nil, err
		}
		switch op {
		case opPing:
			f.pinged()
			if err := f.control(opPong, payload); err != nil {
				return nil, fmt.Errorf("answer a ping: %w", err)
			}
		case opPong:
		case opClose:
			return nil, f.closed(payload)
		case opText, opBinary, opContinuation:
			if (op == opContinuation) != f.parted {
				return nil, errors.New("the server broke the protocol: a frame is not the next of its message")
			}
			if final && !f.parted {
				f.shrink(len(payload))
				return payload, nil
			}
			if !f.parted {
				f.message = f.message[:0]
			}
			if f.message = append(f.message, payload...); int64(len(f.message)) > f.most {
				return nil, websocket.ErrMessageTooBig
			}
			if f.parted = !final; final {
				message := f.message
				f.message = nil
				return message, nil
			}
		default:
			return nil, fmt.Errorf("the server broke the protocol: frame of kind %d", op)
		}
	}
}

// shrink gives a buffer back that was for larger messages.
func (f *frames) shrink(size int) {
	if len(f.buf) > 64*frameBuffer && size < frameBuffer && f.end-f.begin < frameBuffer {
		// The message that is about to be returned is in the old one.
		rest := f.buf[f.begin:f.end]
		f.buf = make([]byte, frameBuffer)
		f.begin, f.end = 0, copy(f.buf, rest)
	}
}

// frame takes the next frame out of what was read.
func (f *frames) frame() (op byte, final bool, payload []byte, err error) {
	b := f.buf[f.begin:f.end]
	if len(b) < 2 {
		return 0, false, nil, errNotThere
	}
	op, final = b[0]&0xf, b[0]&0x80 != 0
	size, header := int64(b[1]&0x7f), 2
	switch {
	case b[0]&0x70 != 0:
		return 0, false, nil, errors.New("the server broke the protocol: reserved bits are set")
	case b[1]&0x80 != 0:
		return 0, false, nil, errors.New("the server broke the protocol: a frame is masked")
	case op >= opClose && (size > maxControl || !final):
		return 0, false, nil, errors.New("the server broke the protocol: a control frame is too long or in parts")
	case size == 126:
		if header = 4; len(b) < header {
			return 0, false, nil, errNotThere
		}
		size = int64(binary.BigEndian.Uint16(b[2:]))
	case size == 127:
		if header = maxFrameHeader; len(b) < header {
			return 0, false, nil, errNotThere
		}
		if size = int64(binary.BigEndian.Uint64(b[2:])); size < 0 {
			return 0, false, nil, websocket.ErrMessageTooBig
		}
	}
	if size > f.most {
		return 0, false, nil, websocket.ErrMessageTooBig
	}
	end := int64(header) + size
	if int64(len(b)) < end {
		return 0, false, nil, errNotThere
	}
	f.begin += int(end)
	return op, final, b[header:end:end], nil
}

// closed answers a close frame and returns what it says.
func (f *frames) closed(payload []byte) error {
	_ = f.control(opClose, payload) // the server may be gone
	if len(payload) < 2 {
		return websocket.CloseError{Code: websocket.StatusNoStatusRcvd}
	}
	return websocket.CloseError{Code: websocket.StatusCode(binary.BigEndian.Uint16(payload)), Reason: string(payload[2:])}
}

// control sends a control frame. Clients mask; a mask of zeros hides nothing, and there is nothing
// to hide from proxies in what the server said itself.
func (f *frames) control(op byte, payload []byte) error {
	b := append([]byte{0x80 | op, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	_, err := f.stream.Write(b)
	return err
}

// capturing is a transport that keeps the stream of a connection that was upgraded.
type capturing struct {
	http.RoundTripper
	stream io.ReadWriteCloser
}

// RoundTrip implements [http.RoundTripper].
func (c *capturing) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.RoundTripper.RoundTrip(r)
	if err == nil && response.StatusCode == http.StatusSwitchingProtocols {
		c.stream, _ = response.Body.(io.ReadWriteCloser)
	}
	return response, err
}

// rawHead returns the values of two attributes of a CloudEvent in JSON, as they are written there
// between the quotes: its position and its time, nil without. It reads no further than it must, and
// checks nothing that it does not need.
func rawHead(b []byte) (position, time []byte) {
	i := bytes.IndexByte(b, '{') + 1
	for i > 0 && i < len(b) && (position == nil || time == nil) {
		name, next := rawString(b, i)
		if name == nil {
			return position, time
		}
		for i = next; i < len(b) && (b[i] == ':' || isSpace(b[i])); i++ {
		}
		if i == len(b) {
			return position, time
		}
		if b[i] != '"' {
			if i = rawEnd(b, i); i < 0 {
				return position, time
			}
			continue
		}
		value, next := rawString(b, i)
		if value == nil {
			return position, time
		}
		i = next
		switch string(name) {
		case "sequence":
			position = value
		case "time":
			time = value
		}
	}
	return position, time
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// rawString returns what is in the string that begins at i or behind it, and where it ends: nil if
// there is none.
func rawString(b []byte, i int) (text []byte, end int) {
	for i < len(b) && (b[i] == ',' || isSpace(b[i])) {
		i++
	}
	if i >= len(b) || b[i] != '"' {
		return nil, 0
	}
	i++
	for j := i; j < len(b); j++ {
		switch b[j] {
		case '"':
			return b[i:j:j], j + 1
		case '\\':
			j++
		}
	}
	return nil, 0
}

// rawEnd returns where the value that begins at i ends, which is no string; -1 if it does not.
func rawEnd(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			text, end := rawString(b, i)
			if text == nil {
				return -1
			}
			i = end
			continue
		case '{', '[':
			depth++
		case '}', ']':
			switch depth--; {
			case depth < 0: // of the event itself
				return i
			case depth == 0:
				return i + 1
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return -1
}
