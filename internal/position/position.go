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
var positionEncoding = base32.NewEncoding(positionDigits).WithPadding(base32.NoPadding)

const positionDigits = "0123456789abcdefghijklmnopqrstuv"

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
	// By hand, because every event that leaves has one: four groups of 40 bits, of the 64, 32
	// and 64 bits of the numbers.
	groups := [positionText / 8]uint64{
		p.Seq >> 24,
		p.Seq<<16 | uint64(p.Index>>16),
		uint64(p.Index)<<24 | p.Ordinal>>40,
		p.Ordinal,
	}
	var text [positionText]byte
	for i, g := range groups {
		for k := range 8 {
			text[8*i+k] = positionDigits[g>>(35-5*k)&31]
		}
	}
	return string(text[:])
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
