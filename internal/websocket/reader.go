package websocket

import (
	"encoding/binary"
	"fmt"
	"io"
	"unicode/utf8"
)

// ViolationError says that the peer broke the protocol, or sent what this end
// does not accept. The connection is to be closed with Code and Reason; nothing
// can be read any more.
type ViolationError struct {
	Code   int
	Reason string
}

func (e *ViolationError) Error() string {
	return fmt.Sprintf("websocket: peer violated the protocol: %s (close code %d)", e.Reason, e.Code)
}

// PeerClosedError says that the peer sent a close frame; the same code is to be
// sent back (RFC 6455 section 5.5.1). Code is [StatusNoCode] when the frame was
// empty.
type PeerClosedError struct {
	Code   int
	Reason string
}

func (e *PeerClosedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("websocket: closed by peer with code %d", e.Code)
	}
	return fmt.Sprintf("websocket: closed by peer with code %d: %q", e.Code, e.Reason)
}

// Reader reads the frames of a client and puts messages together. Its memory is
// bounded by the longest message allowed plus a few hundred bytes, whatever
// lengths the client claims. It is for one goroutine.
type Reader struct {
	src        io.Reader
	maxMessage int

	buf        [maxHeader + MaxControlPayload]byte
	begin, end int // what of buf is read and not used yet

	message []byte // data message under construction
	opcode  Opcode // of that message; continuation: none
	err     error  // sticky
}

// NewReader returns a Reader of src. Data messages of more than maxMessage bytes
// are answered with a [ViolationError] of code [StatusTooBig]; with maxMessage 0
// every data message is, with code [StatusPolicyViolation].
func NewReader(src io.Reader, maxMessage int) *Reader {
	r := new(Reader)
	r.reset(src, nil, maxMessage)
	return r
}

// reset starts on src, whose first bytes, at most len(r.buf), were read before.
func (r *Reader) reset(src io.Reader, early []byte, maxMessage int) {
	r.src, r.maxMessage = src, maxMessage
	r.begin, r.end = 0, copy(r.buf[:], early)
}

// Next returns the next message or control frame. The payload is valid until the
// next call. A close frame is returned as a [*PeerClosedError], a broken protocol
// as a [*ViolationError], the end of the connection as io.EOF; other errors are
// those of the connection. After an error every call returns the same one.
func (r *Reader) Next() (Opcode, []byte, error) {
	if r.err != nil {
		return 0, nil, r.err
	}
	op, payload, err := r.next()
	r.err = err
	return op, payload, err
}

func (r *Reader) next() (Opcode, []byte, error) {
	for {
		h, err := r.header()
		if err != nil {
			return 0, nil, err
		}
		if h.opcode.control() {
			payload, err := r.control(h)
			if err != nil {
				return 0, nil, err
			}
			if h.opcode == Close {
				return 0, nil, closeError(payload)
			}
			return h.opcode, payload, nil
		}
		if err := r.data(h); err != nil {
			return 0, nil, err
		}
		if h.fin {
			op := r.opcode
			r.opcode = continuation
			if op == Text && !utf8.Valid(r.message) {
				return 0, nil, &ViolationError{StatusInvalidPayload, "text message is not UTF-8"}
			}
			return op, r.message, nil
		}
	}
}

type header struct {
	fin    bool
	opcode Opcode
	length uint64
	mask   [4]byte
}

// header reads the next frame header and checks what can be seen from it alone.
func (r *Reader) header() (h header, err error) {
	b, err := r.take(2)
	if err != nil {
		return h, err
	}
	h.fin, h.opcode = b[0]&finBit != 0, Opcode(b[0]&0x0f)
	first, second := b[0], b[1]
	switch {
	case first&rsvBits != 0:
		return h, violation("reserved bit set")
	case second&maskBit == 0:
		return h, violation("frame is not masked")
	}
	switch h.opcode {
	case continuation, Text, Binary, Close, Ping, Pong:
	default:
		return h, violation("unknown " + h.opcode.String())
	}
	h.length = uint64(second &^ maskBit)
	if h.opcode.control() {
		switch {
		case !h.fin:
			return h, violation("fragmented control frame")
		case h.length > MaxControlPayload:
			return h, violation("control frame is too long")
		}
	}
	switch h.length {
	case 126:
		if b, err = r.takeRest(2); err != nil {
			return h, err
		}
		if h.length = uint64(binary.BigEndian.Uint16(b)); h.length < 126 {
			return h, violation("length is not minimal")
		}
	case 127:
		if b, err = r.takeRest(8); err != nil {
			return h, err
		}
		h.length = binary.BigEndian.Uint64(b)
		switch {
		case h.length>>63 != 0:
			return h, violation("length has its highest bit set")
		case h.length <= 0xffff:
			return h, violation("length is not minimal")
		}
	}
	if b, err = r.takeRest(4); err != nil {
		return h, err
	}
	copy(h.mask[:], b)
	return h, nil
}

// control returns the payload of a control frame.
func (r *Reader) control(h header) ([]byte, error) {
	payload, err := r.takeRest(int(h.length))
	if err != nil {
		return nil, err
	}
	unmask(payload, h.mask, 0)
	return payload, nil
}

// data adds the payload of a data frame to the message.
func (r *Reader) data(h header) error {
	switch {
	case h.opcode == continuation && r.opcode == continuation:
		return violation("continuation without a beginning")
	case h.opcode != continuation && r.opcode != continuation:
		return violation("new message before the end of the last")
	case r.maxMessage == 0:
		return &ViolationError{StatusPolicyViolation, "unexpected data message"}
	}
	if h.opcode != continuation {
		r.opcode, r.message = h.opcode, r.message[:0]
	}
	if h.length > uint64(r.maxMessage-len(r.message)) {
		return &ViolationError{StatusTooBig, fmt.Sprintf("message is longer than %d bytes", r.maxMessage)}
	}
	// The message grows with the bytes that come, not with the claimed length.
	for done := 0; done < int(h.length); {
		if r.begin == r.end {
			if err := r.fill(); err != nil {
				return unexpected(err)
			}
		}
		part := r.buf[r.begin:min(r.end, r.begin+int(h.length)-done)]
		unmask(part, h.mask, done)
		r.message = append(r.message, part...)
		r.begin += len(part)
		done += len(part)
	}
	return nil
}

// take returns the next n bytes, at most len(r.buf), valid until the next call.
func (r *Reader) take(n int) ([]byte, error) {
	for r.end-r.begin < n {
		if err := r.fill(); err != nil {
			if r.end > r.begin {
				err = unexpected(err)
			}
			return nil, err
		}
	}
	b := r.buf[r.begin : r.begin+n]
	r.begin += n
	return b, nil
}

// takeRest is take within a frame, where the end of the stream comes too early.
func (r *Reader) takeRest(n int) ([]byte, error) {
	b, err := r.take(n)
	return b, unexpected(err)
}

func (r *Reader) fill() error {
	if r.begin > 0 {
		r.end = copy(r.buf[:], r.buf[r.begin:r.end])
		r.begin = 0
	}
	for range 100 {
		n, err := r.src.Read(r.buf[r.end:])
		r.end += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func violation(reason string) error { return &ViolationError{StatusProtocolError, reason} }

// closeError checks the payload of the peer's close frame.
func closeError(payload []byte) error {
	switch {
	case len(payload) == 0:
		return &PeerClosedError{Code: StatusNoCode}
	case len(payload) == 1:
		return violation("close frame with one byte")
	}
	code, reason := int(binary.BigEndian.Uint16(payload)), payload[2:]
	switch {
	case !validCloseCode(code):
		return violation(fmt.Sprintf("invalid close code %d", code))
	case !utf8.Valid(reason):
		return &ViolationError{StatusInvalidPayload, "close reason is not UTF-8"}
	}
	return &PeerClosedError{code, string(reason)}
}

// validCloseCode says whether code may be on the wire: section 7.4, and the codes
// that the IANA registry has since then.
func validCloseCode(code int) bool {
	switch {
	case code >= 3000 && code <= 4999:
		return true
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	}
	return false
}

// unmask removes the mask from b, whose first byte is byte number offset of its
// frame.
func unmask(b []byte, mask [4]byte, offset int) {
	for i := range b {
		b[i] ^= mask[(offset+i)&3]
	}
}
