package inbox

import "cmp"

// Position is a place between two lines of an inbox. It is stored as JSON. Positions
// of one inbox are ordered; the zero Position is before all.
type Position struct {
	Segment uint64 `json:"segment"`
	Offset  int64  `json:"offset"`
}

// Compare is negative when p is before q, positive when it is behind, and 0 when they
// are the same.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Segment, q.Segment), cmp.Compare(p.Offset, q.Offset))
}
