package websocket

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// frame is a client's frame: masked, unless mask is 0.
func frame(first byte, mask uint32, payload string) []byte {
	maskBitIf := byte(0)
	if mask != 0 {
		maskBitIf = maskBit
	}
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, maskBitIf|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, maskBitIf|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, maskBitIf|127), uint64(n))
	}
	if mask != 0 {
		b = binary.BigEndian.AppendUint32(b, mask)
	}
	start := len(b)
	b = append(b, payload...)
	if mask != 0 {
		var m [4]byte
		binary.BigEndian.PutUint32(m[:], mask)
		unmask(b[start:], m, 0)
	}
	return b
}

const mask = 0x01f2e3d4

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

func TestReader(t *testing.T) {
	long := strings.Repeat("abcdefg", 20_000) // 140,000 bytes
	type message struct {
		op      Opcode
		payload string
	}
	for _, tt := range []struct {
		name   string
		max    int
		stream []byte
		want   []message
		err    error // compared by its text
	}{
		{"nothing", 10, nil, nil, io.EOF},
		{"text and binary", 10, join(frame(0x81, mask, "hällo"), frame(0x82, mask, "\xff\x00")), []message{{Text, "hällo"}, {Binary, "\xff\x00"}}, io.EOF},
		{"empty message", 10, frame(0x81, mask, ""), []message{{Text, ""}}, io.EOF},
		{"long messages", 1 << 20, join(frame(0x82, mask, long), frame(0x82, mask, long[:300])), []message{{Binary, long}, {Binary, long[:300]}}, io.EOF},
		{"fragments with a ping between", 10, join(frame(0x01, mask, "a"), frame(0x89, mask, "p"), frame(0x00, mask, "b"), frame(0x80, mask, "c")),
			[]message{{Ping, "p"}, {Text, "abc"}}, io.EOF},
		{"character across fragments", 10, join(frame(0x01, mask, "\xc3"), frame(0x80, mask, "\xa4")), []message{{Text, "ä"}}, io.EOF},
		{"longest control frames", 10, join(frame(0x89, mask, long[:125]), frame(0x8a, mask, "")), []message{{Ping, long[:125]}, {Pong, ""}}, io.EOF},
		{"exactly the limit", 3, frame(0x81, mask, "abc"), []message{{Text, "abc"}}, io.EOF},

		{"close", 0, frame(0x88, mask, "\x03\xe8bye"), nil, &PeerClosedError{1000, "bye"}},
		{"close with private code", 0, frame(0x88, mask, "\x0f\xa0"), nil, &PeerClosedError{4000, ""}},
		{"empty close", 0, frame(0x88, mask, ""), nil, &PeerClosedError{StatusNoCode, ""}},
		{"close with one byte", 0, frame(0x88, mask, "\x03"), nil, violation("close frame with one byte")},
		{"close with 1005", 0, frame(0x88, mask, "\x03\xed"), nil, violation("invalid close code 1005")},
		{"close with 999", 0, frame(0x88, mask, "\x03\xe7"), nil, violation("invalid close code 999")},
		{"close with 1015", 0, frame(0x88, mask, "\x03\xf7"), nil, violation("invalid close code 1015")},
		{"close with 2999", 0, frame(0x88, mask, "\x0b\xb7"), nil, violation("invalid close code 2999")},
		{"close with bad reason", 0, frame(0x88, mask, "\x03\xe8\xff"), nil, &ViolationError{1007, "close reason is not UTF-8"}},

		{"data where none is expected", 0, frame(0x81, mask, "x"), nil, &ViolationError{1008, "unexpected data message"}},
		{"unmasked", 10, frame(0x81, 0, "x"), nil, violation("frame is not masked")},
		{"reserved bit", 10, frame(0xc1, mask, "x"), nil, violation("reserved bit set")},
		{"unknown data opcode", 10, frame(0x83, mask, "x"), nil, violation("unknown opcode 0x3")},
		{"unknown control opcode", 10, frame(0x8b, mask, "x"), nil, violation("unknown opcode 0xb")},
		{"fragmented ping", 10, frame(0x09, mask, "x"), nil, violation("fragmented control frame")},
		{"long ping", 10, frame(0x89, mask, long[:126]), nil, violation("control frame is too long")},
		{"continuation of nothing", 10, frame(0x80, mask, "x"), nil, violation("continuation without a beginning")},
		{"text within text", 10, join(frame(0x01, mask, "a"), frame(0x81, mask, "b")), nil, violation("new message before the end of the last")},
		{"16 bits for 125", 10, []byte{0x81, 0xfe, 0, 125, 1, 2, 3, 4}, nil, violation("length is not minimal")},
		{"64 bits for 65535", 10, []byte{0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4}, nil, violation("length is not minimal")},
		{"negative length", 10, []byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, nil, violation("length has its highest bit set")},
		{"huge length", 10, []byte{0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, nil, &ViolationError{1009, "message is longer than 10 bytes"}},
		{"too long together", 3, join(frame(0x01, mask, "ab"), frame(0x80, mask, "cd")), nil, &ViolationError{1009, "message is longer than 3 bytes"}},
		{"not UTF-8", 10, frame(0x81, mask, "\xff"), nil, &ViolationError{1007, "text message is not UTF-8"}},
		{"cut in the header", 10, frame(0x81, mask, "abc")[:1], nil, io.ErrUnexpectedEOF},
		{"cut before the mask", 10, frame(0x81, mask, "abc")[:2], nil, io.ErrUnexpectedEOF},
		{"cut in the payload", 10, frame(0x81, mask, "abc")[:7], nil, io.ErrUnexpectedEOF},
		{"cut in a ping", 10, frame(0x89, mask, "abc")[:7], nil, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for how, src := range map[string]io.Reader{"whole": bytes.NewReader(tt.stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(tt.stream))} {
				r := NewReader(src, tt.max)
				for i, want := range tt.want {
					op, payload, err := r.Next()
					if err != nil || op != want.op || string(payload) != want.payload {
						t.Fatalf("%s: message %d: %v %.20q %v, want %v %.20q", how, i, op, payload, err, want.op, want.payload)
					}
				}
				for range 2 { // errors stay
					if _, _, err := r.Next(); err == nil || err.Error() != tt.err.Error() {
						t.Fatalf("%s: got error %v, want %v", how, err, tt.err)
					}
				}
			}
		})
	}
}

func TestReaderNoProgress(t *testing.T) {
	if _, _, err := NewReader(silent{}, 0).Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

func TestFrames(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 700, 0xffff, 0x10000, 200_000} {
		payload := bytes.Repeat([]byte("x"), n)
		want := AppendFrame([]byte("before"), Text, payload)
		dst := BeginFrame([]byte("before"))
		got := EndFrame(append(dst, payload...), len("before"), Text)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: EndFrame and AppendFrame differ: %.30q and %.30q", n, got, want)
		}
		// The reader takes only what clients send, so the mask bit is set and a
		// mask of zeros put in.
		b := want[len("before"):]
		header := len(b) - n
		masked := append(bytes.Clone(b[:header]), 0, 0, 0, 0)
		masked[1] |= maskBit
		op, read, err := NewReader(bytes.NewReader(append(masked, payload...)), 1<<20).Next()
		if op != Text || err != nil || !bytes.Equal(read, payload) {
			t.Errorf("%d bytes: read back %v %d bytes %v", n, op, len(read), err)
		}
	}
}

func TestAppendClose(t *testing.T) {
	for _, tt := range []struct {
		code   int
		reason string
		want   string
	}{
		{1008, "unexpected data message", "\x88\x19\x03\xf0unexpected data message"},
		{StatusNoCode, "ignored", "\x88\x00"},
		{1000, "", "\x88\x02\x03\xe8"},
		{1000, strings.Repeat("a", 124), "\x88\x7d\x03\xe8" + strings.Repeat("a", 123)},
		{1000, strings.Repeat("a", 122) + "ä", "\x88\x7c\x03\xe8" + strings.Repeat("a", 122)},
		{1008, "policy \xff\xfe ended", "\x88\x12\x03\xf0policy \uFFFD ended"},
	} {
		if got := string(AppendClose(nil, tt.code, tt.reason)); got != tt.want {
			t.Errorf("%d %q: got %q, want %q", tt.code, tt.reason, got, tt.want)
		}
	}
}

// FuzzFrameReader checks that any bytes are read or refused with bounded memory,
// in the same way however they come, and that refusals can be sent as close
// frames.
func FuzzFrameReader(f *testing.F) {
	f.Add([]byte(nil), 0)
	f.Add(frame(0x81, mask, "hello"), 10)
	f.Add(join(frame(0x01, mask, "a"), frame(0x89, mask, "p"), frame(0x80, mask, "b"), frame(0x88, mask, "\x03\xe8bye")), 10)
	f.Add([]byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, 1<<20)
	f.Add(frame(0x82, mask, strings.Repeat("z", 70_000)), 1<<20)
	f.Fuzz(func(t *testing.T, stream []byte, limit int) {
		limit = min(max(limit, 0), 1<<20)
		whole := NewReader(bytes.NewReader(stream), limit)
		bytewise := NewReader(iotest.OneByteReader(bytes.NewReader(stream)), limit)
		total := 0
		for {
			op, payload, err := whole.Next()
			op2, payload2, err2 := bytewise.Next()
			if op != op2 || !bytes.Equal(payload, payload2) || (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
				t.Fatalf("%v %q %v at once, %v %q %v byte by byte", op, payload, err, op2, payload2, err2)
			}
			if err != nil {
				var v *ViolationError
				if errors.As(err, &v) && (!validCloseCode(v.Code) || len(v.Reason) > MaxCloseReason || !utf8.ValidString(v.Reason)) {
					t.Errorf("violation %d %q cannot be sent", v.Code, v.Reason)
				}
				return
			}
			total += len(payload) + 6
			switch {
			case op.control() && len(payload) > MaxControlPayload, !op.control() && (len(payload) > limit || limit == 0):
				t.Fatalf("%v of %d bytes with limit %d", op, len(payload), limit)
			case op == Text && !utf8.Valid(payload):
				t.Fatalf("text %q", payload)
			case total > len(stream):
				t.Fatal("read more than there is")
			case cap(whole.message) > 4*len(stream)+64:
				t.Fatalf("%d bytes of memory for %d bytes", cap(whole.message), len(stream))
			}
		}
	})
}
