// Package websocket is the server side of the WebSocket protocol (RFC 6455) as
// a fan-out server needs it: the opening handshake over net/http, frames that
// are built once and then written to many connections, and a frame reader that
// holds a peer to the protocol with bounded memory.
//
// It does not write frames by itself, except where it says so: who owns a
// connection decides when ping, pong and close frames go out between its data
// frames, because only the owner knows where a frame ends. It has no
// extensions (an offer of permessage-deflate is ignored, as section 9.1
// allows), no subprotocols and no client side.
package websocket

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Opcode says what a frame is (RFC 6455 section 5.2).
type Opcode byte

// The opcodes that exist. Continuation frames are put together by the reader
// and never seen outside.
const (
	continuation Opcode = 0x0
	Text         Opcode = 0x1
	Binary       Opcode = 0x2
	Close        Opcode = 0x8
	Ping         Opcode = 0x9
	Pong         Opcode = 0xa
)

func (o Opcode) control() bool { return o&0x8 != 0 }

func (o Opcode) String() string {
	switch o {
	case continuation:
		return "continuation"
	case Text:
		return "text"
	case Binary:
		return "binary"
	case Close:
		return "close"
	case Ping:
		return "ping"
	case Pong:
		return "pong"
	}
	return fmt.Sprintf("opcode %#x", byte(o))
}

// Status codes of close frames (RFC 6455 section 7.4.1 and the IANA registry).
const (
	StatusNormal          = 1000
	StatusGoingAway       = 1001
	StatusProtocolError   = 1002
	StatusNoCode          = 1005 // never on the wire: the peer's close frame was empty
	StatusInvalidPayload  = 1007
	StatusPolicyViolation = 1008
	StatusTooBig          = 1009
	StatusInternalError   = 1011
	StatusTryAgainLater   = 1013
)

const (
	// MaxControlPayload is the longest payload of a ping, pong or close frame.
	MaxControlPayload = 125
	// MaxCloseReason is the longest reason of a close frame.
	MaxCloseReason = MaxControlPayload - 2

	maxHeader = 14 // 2 + 8 bytes of length + 4 bytes of mask
)

const (
	finBit  = 0x80
	rsvBits = 0x70
	maskBit = 0x80
)

// headerRoom is what BeginFrame leaves for the header: that of payloads from 126
// to 65,535 bytes, which nearly all events have.
const headerRoom = 4

// BeginFrame appends room for the header of a frame to dst. The caller appends
// the payload to the result and calls [EndFrame]. So a payload whose length is
// not known beforehand is encoded in place.
func BeginFrame(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// EndFrame completes the frame of one whole message that [BeginFrame] began when
// dst had length start, and returns dst with the frame at its end. The frame is
// not masked, as a server's must be (section 5.1).
func EndFrame(dst []byte, start int, op Opcode) []byte {
	n := len(dst) - start - headerRoom
	var header [maxHeader]byte
	h := appendHeader(header[:0], op, n)
	if grow := len(h) - headerRoom; grow > 0 {
		dst = append(dst, header[:grow]...)
	}
	if len(h) != headerRoom {
		copy(dst[start+len(h):], dst[start+headerRoom:start+headerRoom+n])
		dst = dst[:start+len(h)+n]
	}
	copy(dst[start:], h)
	return dst
}

// AppendFrame appends a frame with the whole message payload to dst.
func AppendFrame(dst []byte, op Opcode, payload []byte) []byte {
	return append(appendHeader(dst, op, len(payload)), payload...)
}

func appendHeader(dst []byte, op Opcode, n int) []byte {
	dst = append(dst, finBit|byte(op))
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
}

// AppendClose appends a close frame. A reason of more than [MaxCloseReason] bytes
// is cut at a character boundary, and what is not UTF-8 in it is replaced, because
// a client would have to take offence (section 8.1); code [StatusNoCode] gives an
// empty frame.
func AppendClose(dst []byte, code int, reason string) []byte {
	if code == StatusNoCode {
		return AppendFrame(dst, Close, nil)
	}
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) > MaxCloseReason {
		cut := MaxCloseReason
		for cut > 0 && !utf8.RuneStart(reason[cut]) {
			cut--
		}
		reason = reason[:cut]
	}
	dst = appendHeader(dst, Close, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}
