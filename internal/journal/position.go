package journal

import "github.com/tocsin-events/tocsin/internal/position"

// Position is the place of an event in the journal.
type Position = position.Position

// BetweenRecords as the Index of a Position means "after the last event of record
// Seq, however many it has"; Ordinal is then that of the last event.
const BetweenRecords = position.BetweenRecords

// ParsePosition is [position.Parse].
func ParsePosition(s string) (Position, error) { return position.Parse(s) }
