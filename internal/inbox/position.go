package inbox

import "cmp"

// Position is a place between two lines of an inbox. It is stored as JSON. Positions
// of one inbox are ordered, also across restarts; the zero Position is before all.
//
// It says nothing about files, so a line keeps its position when it is written anew.
type Position struct {
	// Epoch grows each time that an inbox is opened, so that no position is used twice
	// whatever a power cut took. It is the time in milliseconds, unless the clock went
	// back, so that positions in a directory that was removed, or replaced by an old copy,
	// are before all that comes into the next one.
	Epoch uint64 `json:"epoch"`
	// Line is how many lines of the epoch are before it, those that were dropped
	// included.
	Line uint64 `json:"line"`
}

// Compare is negative when p is before q, positive when it is behind, and 0 when they
// are the same.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Epoch, q.Epoch), cmp.Compare(p.Line, q.Line))
}

// IsZero reports whether p is before all lines.
func (p Position) IsZero() bool { return p == Position{} }

func later(p, q Position) Position {
	if p.Compare(q) < 0 {
		return q
	}
	return p
}
