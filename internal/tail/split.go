package tail

import "bytes"

// Kind says what a [Line] is.
type Kind uint8

const (
	// Whole is a line that ended with a line feed.
	Whole Kind = iota
	// Torn is what stood behind the last line feed of a stream that ended, of a
	// file that was rotated away, or of a file that was truncated.
	Torn
	// TooLong is a line above the limit. It was skipped; Data holds its first
	// [PrefixBytes] bytes.
	TooLong
)

// PrefixBytes is how much is kept of a line that is too long.
const PrefixBytes = 4 << 10

// DefaultMaxLine is the longest line that is taken unless told otherwise.
const DefaultMaxLine = 64 << 20

// Line is one line of a stream.
type Line struct {
	// Data is the line without its end ("\n" or "\r\n") and without NUL bytes at
	// its beginning. It is never written to again, so it may be kept; it pins
	// the chunk of up to 256 KiB that it was read with.
	Data []byte
	// End is the offset in the stream behind the line and its end.
	End int64
	// Size is the length of the line without its line feed. It differs from
	// len(Data) for lines that are too long and for lines that end in "\r\n".
	Size int64
	Kind Kind
}

// A chunk is a piece of memory into which a stream is read and which its lines
// share. Chunks start small and grow while the stream fills them, so that a busy
// file is read in few calls and an idle one costs little.
const (
	minChunk = 16 << 10
	maxChunk = 256 << 10
)

// splitter cuts a stream into lines. Memory that it has given out in a line is
// never written to again: it only ever appends to a chunk, and takes a new chunk
// when one is full.
type splitter struct {
	maxLine int

	buf   []byte // what was read into the current chunk; cap(buf) is its size
	start int    // index in buf of the first byte of the pending line
	scan  int    // index in buf of the first byte not yet searched for a line feed
	size  int    // size of the next chunk

	end  int64 // offset in the stream behind buf
	done int64 // offset in the stream behind the last line given out
	nuls int64 // NUL bytes removed so far

	skipping bool   // the pending line is too long
	skipped  int64  // its bytes so far, without those in buf[start:]
	prefix   []byte // its first bytes
}

// newSplitter returns a splitter for a stream that is read from offset on.
func newSplitter(offset int64, maxLine int) splitter {
	return splitter{maxLine: maxLine, size: minChunk, end: offset, done: offset}
}

// space returns memory to read into. What was read is handed over with [splitter.cut].
func (s *splitter) space() []byte {
	if free := cap(s.buf) - len(s.buf); free < s.size/4 || free == 0 {
		pending := s.buf[s.start:]
		size := s.size
		if len(pending) > size/2 {
			// A long line: double, but never far beyond the longest one allowed.
			size = min(2*len(pending)+minChunk, s.maxLine+maxChunk)
		}
		chunk := make([]byte, len(pending), size)
		copy(chunk, pending)
		s.buf, s.scan, s.start = chunk, s.scan-s.start, 0
	}
	return s.buf[len(s.buf):cap(s.buf)]
}

// cut takes over the n bytes that were read into space and appends the lines that
// they complete.
func (s *splitter) cut(lines []Line, n int) []Line {
	if n == cap(s.buf)-len(s.buf) {
		s.size = min(2*s.size, maxChunk)
	} else if n < s.size/8 {
		s.size = max(s.size/2, minChunk)
	}
	s.buf = s.buf[:len(s.buf)+n]
	s.end += int64(n)
	for {
		i := bytes.IndexByte(s.buf[s.scan:], '\n')
		if i < 0 {
			break
		}
		i += s.scan
		s.scan = i + 1
		s.done = s.end - int64(len(s.buf)-s.scan)
		lines = append(lines, s.line(s.buf[s.start:i:i], Whole))
		s.start = s.scan
	}
	s.scan = len(s.buf)
	s.hold()
	return lines
}

// hold keeps the pending line within its bounds. What it drops was never given
// out, so its memory is read into again.
func (s *splitter) hold() {
	kept := s.start // end of the memory that was given out
	if !s.skipping {
		// A hole in a sparse file may be gigabytes of zeros: none of it is kept.
		s.start += s.leadingNULs(s.buf[s.start:])
		switch n := len(s.buf) - s.start; {
		case n == 0:
			s.buf, s.start, s.scan = s.buf[:kept], kept, kept
			return
		case n <= s.maxLine:
			return
		}
		s.skipping = true
		s.prefix = bytes.Clone(s.buf[s.start : s.start+min(PrefixBytes, s.maxLine)])
	}
	s.skipped += int64(len(s.buf) - s.start)
	s.buf, s.start, s.scan = s.buf[:kept], kept, kept
	if cap(s.buf) > maxChunk {
		s.buf, s.start, s.scan = nil, 0, 0
	}
}

// flush returns what is pending as a torn line, and false when nothing is.
func (s *splitter) flush() (Line, bool) {
	pending := s.buf[s.start:]
	s.start, s.scan = len(s.buf), len(s.buf)
	s.done = s.end
	if len(pending) == 0 && !s.skipping {
		return Line{}, false
	}
	return s.line(pending, Torn), true
}

// line makes a line of the bytes in front of a line end.
func (s *splitter) line(b []byte, kind Kind) Line {
	if s.skipping {
		l := Line{Data: s.prefix, End: s.done, Size: s.skipped + int64(len(b)), Kind: TooLong}
		s.skipping, s.skipped, s.prefix = false, 0, nil
		return l
	}
	b = b[s.leadingNULs(b):]
	size := int64(len(b))
	if len(b) > s.maxLine {
		return Line{Data: bytes.Clone(b[:min(PrefixBytes, s.maxLine)]), End: s.done, Size: size, Kind: TooLong}
	}
	if n := len(b); kind == Whole && n > 0 && b[n-1] == '\r' {
		b = b[: n-1 : n-1]
	}
	return Line{Data: b, End: s.done, Size: size, Kind: kind}
}

// leadingNULs counts the NUL bytes that b begins with. A writer that does not
// append leaves such a run when its file is truncated under it.
func (s *splitter) leadingNULs(b []byte) int {
	n := 0
	for n < len(b) && b[n] == 0 {
		n++
	}
	s.nuls += int64(n)
	return n
}
