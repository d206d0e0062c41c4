package tail

// Splitter cuts a stream that its caller reads into lines, as [ReadLines] does. Lines
// share the memory that is read into, which is never written to again:
//
//	n, err := r.Read(s.Space())
//	lines = s.Cut(lines[:0], n)
type Splitter struct{ s splitter }

// NewSplitter returns a splitter for lines of at most maxLine bytes; 0 means
// [DefaultMaxLine].
func NewSplitter(maxLine int) *Splitter {
	if maxLine <= 0 {
		maxLine = DefaultMaxLine
	}
	return &Splitter{newSplitter(0, maxLine)}
}

// Space returns memory to read into. It is never empty.
func (s *Splitter) Space() []byte { return s.s.space() }

// Cut takes over the n bytes that were read into Space and appends the lines that they
// complete.
func (s *Splitter) Cut(lines []Line, n int) []Line { return s.s.cut(lines, n) }

// Size is how much memory the splitter holds for the line that is not complete.
func (s *Splitter) Size() int { return cap(s.s.buf) }

// Rest is the beginning of a line that is not complete: what another splitter needs to
// go on with the stream.
type Rest struct {
	// Data are the bytes, or the first ones of a line that is too long already.
	Data []byte
	// Skipped is the number of all its bytes if it is too long, else 0.
	Skipped int64
}

// Empty says that the stream is between two lines.
func (r Rest) Empty() bool { return len(r.Data) == 0 && r.Skipped == 0 }

// Rest returns what is not complete. It shares the memory of the splitter.
func (s *Splitter) Rest() Rest {
	pending := s.s.buf[s.s.start:]
	if s.s.skipping {
		return Rest{Data: s.s.prefix, Skipped: s.s.skipped + int64(len(pending))}
	}
	return Rest{Data: pending}
}

// Resume makes a new splitter go on where another one has ended, and appends the lines
// that are complete in it.
func (s *Splitter) Resume(lines []Line, r Rest) []Line {
	if r.Skipped > 0 {
		s.s.skipping, s.s.skipped = true, r.Skipped
		s.s.prefix = append([]byte{}, r.Data[:min(len(r.Data), PrefixBytes)]...)
		s.s.end += r.Skipped
		return lines
	}
	for rest := r.Data; len(rest) > 0; {
		n := copy(s.s.space(), rest)
		lines, rest = s.s.cut(lines, n), rest[n:]
	}
	return lines
}
