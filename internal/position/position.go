// Package position names places in a journal of events, for those who keep one and those
// who read it.
package position

import (
	"cmp"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"math"
)

// Position is the place of one event in the journal, or, with Index
// [BetweenRecords], the end of a record. The zero Position is before the first
// event ever appended. Positions of one journal are ordered by [Position.Compare]
// and, in the same way, by their strings.
type Position struct {
	// Seq is the stream sequence of the record that holds the event, from 1.
	Seq uint64
	// Index is the event's place within its record, from 0.
	Index uint32
	// Ordinal is how many events were appended to the journal before this one.
	Ordinal uint64
}

// BetweenRecords as the Index of a Position means "after the last event of record
// Seq, however many it has"; Ordinal is then that of the last event.
const BetweenRecords = math.MaxUint32

// positionEncoding keeps the order of the bytes it encodes, and 20 bytes need no
// padding.
var positionEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

const (
	positionBytes = 8 + 4 + 8
	positionText  = positionBytes * 8 / 5
)

// String returns the opaque form that clients keep: 32 lower-case letters and
// digits whose lexicographic order is the order of the positions. The zero
// Position is "".
func (p Position) String() string {
	if p.IsZero() {
		return ""
	}
	var b [positionBytes]byte
	binary.BigEndian.PutUint64(b[0:], p.Seq)
	binary.BigEndian.PutUint32(b[8:], p.Index)
	binary.BigEndian.PutUint64(b[12:], p.Ordinal)
	return positionEncoding.EncodeToString(b[:])
}

// Parse is the inverse of [Position.String]. It does not know whether the
// journal has such a position.
func Parse(s string) (Position, error) {
	if s == "" {
		return Position{}, nil
	}
	var b [positionBytes]byte
	if len(s) != positionText {
		return Position{}, fmt.Errorf("parse position: %d characters, want %d", len(s), positionText)
	}
	// The decoder passes over line breaks, which are no part of a position.
	if n, err := positionEncoding.Decode(b[:], []byte(s)); err != nil {
		return Position{}, fmt.Errorf("parse position: %w", err)
	} else if n != positionBytes {
		return Position{}, fmt.Errorf("parse position: a line break in it")
	}
	p := Position{
		Seq:     binary.BigEndian.Uint64(b[0:]),
		Index:   binary.BigEndian.Uint32(b[8:]),
		Ordinal: binary.BigEndian.Uint64(b[12:]),
	}
	if p.Seq == 0 {
		return Position{}, fmt.Errorf("parse position: sequence 0 does not exist")
	}
	return p, nil
}

// Compare returns -1, 0 or 1 as p is before, at or after q.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Seq, q.Seq), cmp.Compare(p.Index, q.Index), cmp.Compare(p.Ordinal, q.Ordinal))
}

// IsZero reports whether p is before the first event.
func (p Position) IsZero() bool { return p == Position{} }

// NextOrdinal is the ordinal of the event that comes after p.
func (p Position) NextOrdinal() uint64 {
	if p.IsZero() {
		return 0
	}
	return p.Ordinal + 1
}
