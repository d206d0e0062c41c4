package tail

import (
	"errors"
	"io"
	"iter"
)

// ReadLines yields the lines of r in batches until r ends: of a file read as a
// whole, a pipe or standard input. A last line without a line feed comes as
// [Torn]. A read error other than [io.EOF] comes last, beside the lines read with
// it. Batches are valid until the next one, the Data of lines for ever. Lines
// above maxLine bytes (0 means [DefaultMaxLine]) come as [TooLong].
//
// A read that blocks is not interrupted; close r to end it.
func ReadLines(r io.Reader, maxLine int) iter.Seq2[[]Line, error] {
	if maxLine <= 0 {
		maxLine = DefaultMaxLine
	}
	return func(yield func([]Line, error) bool) {
		s := newSplitter(0, maxLine)
		var lines []Line
		for empty := 0; ; {
			n, err := r.Read(s.space())
			lines = s.cut(lines[:0], n)
			if n > 0 {
				empty = 0
			} else if empty++; err == nil && empty > 100 {
				err = io.ErrNoProgress
			}
			if err != nil {
				if l, ok := s.flush(); ok {
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
