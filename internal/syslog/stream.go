package syslog

import (
	"bytes"
	"errors"
	"io"
	"iter"

	"github.com/tocsin-events/tocsin/internal/tail"
)

// maxCount is the largest octet count that is believed. What begins with a larger
// one is taken for a line.
const maxCount = 1 << 30

// maxDigits is the number of digits of maxCount.
const maxDigits = 10

// ReadMessages yields the bodies (see [Parser.Body]) of the syslog messages of a
// stream, in batches, until r ends. Each message is framed by an octet count or ends
// with a line feed; a stream may have both. The End of a line is behind its framing, its
// Size is that of the body.
//
// Bodies above maxLine bytes (0 means [tail.DefaultMaxLine]) come as [tail.TooLong];
// the stream goes on behind them. What stands at the end of the stream without the
// octets that were announced, or without its line feed, comes as [tail.Torn]. A read
// error other than [io.EOF] comes last, beside the lines read with it. Batches are
// valid until the next one, the Data of lines for ever. Memory grows with what has
// been received, not with what was announced.
//
// A read that blocks is not interrupted; close r to end it.
func ReadMessages(r io.Reader, maxLine int) iter.Seq2[[]tail.Line, error] {
	if maxLine <= 0 {
		maxLine = tail.DefaultMaxLine
	}
	return func(yield func([]tail.Line, error) bool) {
		f := framer{maxLine: maxLine, size: minChunk}
		var lines []tail.Line
		for empty := 0; ; {
			if cap(lines) > maxKeptLines {
				lines = nil
			}
			n, err := r.Read(f.space())
			lines = f.cut(lines[:0], n)
			if n > 0 {
				empty = 0
			} else if empty++; err == nil && empty > 100 {
				err = io.ErrNoProgress
			}
			if err != nil {
				if l, ok := f.flush(); ok {
					lines = append(lines, l)
				}
				if errors.Is(err, io.EOF) {
					err = nil
				}
				if len(lines) > 0 || err != nil {
					yield(lines, err)
				}
				return
			}
			if len(lines) > 0 && !yield(lines, nil) {
				return
			}
		}
	}
}

// A chunk is a piece of memory that a stream is read into and that its lines share.
const (
	minChunk = 16 << 10
	maxChunk = 256 << 10
)

// maxKeptLines is how many lines the memory of a batch has room for that is used again.
const maxKeptLines = 512

// framing is how the pending message is framed.
type framing uint8

const (
	unknown framing = iota // too little of it is there to tell
	counted
	lined
)

// framer cuts a stream into messages. Memory that it has given out in a line is never
// written to again.
type framer struct {
	maxLine int
	parser  Parser

	buf   []byte // what was read into the current chunk; cap(buf) is its size
	start int    // index in buf of the first byte of the pending message
	scan  int    // lined: index in buf of the first byte not yet searched for a line feed
	size  int    // size of the next chunk
	end   int64  // offset in the stream behind buf

	framing  framing
	left     int64  // counted: bytes of the message from start on
	skipping bool   // the pending message is too long
	skipped  int64  // its bytes so far, without those in buf[start:]
	ends     int64  // of these, the last ones that may be its end, as trimEnd sees it
	prefix   []byte // its first bytes
}

// space returns memory to read into. What was read is handed over with [framer.cut].
func (f *framer) space() []byte {
	if free := cap(f.buf) - len(f.buf); free < f.size/4 || free == 0 {
		pending := f.buf[f.start:]
		size := f.size
		if len(pending) > size/2 {
			// A long message: double, but never far beyond the longest one allowed.
			size = min(2*len(pending)+minChunk, f.maxMessage()+maxChunk)
		}
		chunk := make([]byte, len(pending), size)
		copy(chunk, pending)
		f.buf, f.scan, f.start = chunk, max(f.scan-f.start, 0), 0
	}
	return f.buf[len(f.buf):cap(f.buf)]
}

// maxMessage is the longest message that may have a body of maxLine bytes.
func (f *framer) maxMessage() int { return f.maxLine + maxHeaderBytes }

// cut takes over the n bytes that were read into space and appends the lines that
// they complete.
func (f *framer) cut(lines []tail.Line, n int) []tail.Line {
	if n == cap(f.buf)-len(f.buf) {
		f.size = min(2*f.size, maxChunk)
	} else if n < f.size/8 {
		f.size = max(f.size/2, minChunk)
	}
	f.buf = f.buf[:len(f.buf)+n]
	f.end += int64(n)
	for {
		if f.framing == unknown && !f.begin() {
			return lines
		}
		var complete bool
		var message []byte
		switch pending := f.buf[f.start:]; f.framing {
		case counted:
			if complete = int64(len(pending)) >= f.left; complete {
				message = pending[:f.left:f.left]
				f.start += int(f.left)
			}
		case lined:
			if i := bytes.IndexByte(f.buf[f.scan:], '\n'); i >= 0 {
				complete = true
				message = f.buf[f.start : f.scan+i : f.scan+i]
				f.start = f.scan + i + 1
			}
			f.scan = len(f.buf)
		}
		if !complete {
			f.hold()
			return lines
		}
		if l := f.line(message, tail.Whole); l.Size > 0 {
			lines = append(lines, l)
		}
		f.framing, f.scan = unknown, f.start
	}
}

// begin finds out how the next message is framed and moves start to its first byte.
// It is false when that takes more bytes.
func (f *framer) begin() bool {
	for f.start < len(f.buf) && (f.buf[f.start] == '\n' || f.buf[f.start] == '\r' || f.buf[f.start] == 0) {
		f.start++ // between messages: what some senders put behind octet-counted ones
	}
	f.scan = f.start
	pending := f.buf[f.start:]
	var digits int
	f.left, digits, f.framing = octetCount(pending)
	if f.framing == counted {
		f.start += digits + 1
	}
	return f.framing != unknown
}

// octetCount tells how a message is framed that begins with b: "COUNT <PRI>..." or
// "COUNT {..." is octet-counted.
func octetCount(b []byte) (count int64, digits int, f framing) {
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9' && digits < maxDigits && (c != '0' || digits > 0):
			count = count*10 + int64(c-'0')
			digits++
			continue
		case c != ' ' || digits == 0 || count > maxCount:
			return 0, 0, lined
		case len(b) == digits+1:
			return 0, 0, unknown
		case b[digits+1] == '<' || b[digits+1] == '{':
			return count, digits, counted
		}
		return 0, 0, lined
	}
	return 0, 0, unknown
}

// hold keeps the pending message within its bounds. What it drops was never given
// out, so its memory is read into again.
func (f *framer) hold() {
	pending := f.buf[f.start:]
	if !f.skipping {
		if len(pending) <= f.maxMessage() && (f.framing != counted || f.left <= int64(f.maxMessage())) {
			return
		}
		if len(pending) < f.prefixBytes() && int64(len(pending)) < f.left {
			return // first what is kept of it
		}
		f.skipping = true
		f.prefix = bytes.Clone(pending[:min(len(pending), f.prefixBytes())])
	}
	f.skipped += int64(len(pending))
	if n := len(trimEnd(pending)); n > 0 {
		f.ends = int64(len(pending) - n)
	} else {
		f.ends += int64(len(pending))
	}
	if f.framing == counted {
		f.left -= int64(len(pending))
	}
	f.buf = f.buf[:f.start]
	f.scan = f.start
	if cap(f.buf) > maxChunk {
		f.buf, f.start, f.scan = nil, 0, 0
	}
}

// prefixBytes is how much is kept of a message that is too long.
func (f *framer) prefixBytes() int {
	return maxHeaderBytes + min(tail.PrefixBytes, f.maxLine)
}

// flush returns what is pending when the stream ends, and false when nothing is.
func (f *framer) flush() (tail.Line, bool) {
	pending := f.buf[f.start:]
	f.start, f.scan = len(f.buf), len(f.buf)
	if len(pending) == 0 && !f.skipping {
		return tail.Line{}, false
	}
	l := f.line(pending, tail.Torn)
	return l, l.Size > 0
}

// line makes a line of a message, or of what is behind its skipped part.
func (f *framer) line(message []byte, kind tail.Kind) tail.Line {
	end := f.end - int64(len(f.buf)-f.start)
	if f.skipping {
		rest := trimEnd(message)
		if len(rest) > 0 {
			f.ends = 0
		}
		body := f.parser.Body(f.prefix)
		size := f.skipped - f.ends + int64(len(rest)) - int64(len(f.prefix)-len(body))
		f.skipping, f.skipped, f.ends, f.prefix = false, 0, 0, nil
		return tail.Line{Data: first(body, f.maxLine), End: end, Size: size, Kind: tail.TooLong}
	}
	body := f.parser.Body(message)
	l := tail.Line{Data: body, End: end, Size: int64(len(body)), Kind: kind}
	if len(body) > f.maxLine {
		l.Data, l.Kind = bytes.Clone(first(body, f.maxLine)), tail.TooLong
	}
	return l
}

// first returns what is kept of a body that is too long.
func first(body []byte, maxLine int) []byte {
	n := min(len(body), tail.PrefixBytes, maxLine)
	return body[:n:n]
}
