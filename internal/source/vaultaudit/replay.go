package vaultaudit

import "github.com/google/uuid"

// durableIDs are the audit events of one input that were appended after the position
// stored with its marks, so that the lines that are read again are recognised. The
// same id counts as often as it was appended.
type durableIDs struct {
	left  map[uuid.UUID]int
	count int // how many were added
}

const (
	// maxDurableIDs bounds how many ids are remembered: several seconds of input at
	// full speed, while the position is stored every second.
	maxDurableIDs = 4 << 20
	// maxHole is how many lines in a row at most were read and not durable when a
	// process ended, although lines behind them were: those of all units in flight, of
	// which one may have failed.
	maxHole = maxInFlightBytes/eventOverhead + (maxUnits+2)*unitLines
)

func (d *durableIDs) add(id string) {
	if d.left == nil {
		d.left = map[uuid.UUID]int{}
	}
	if d.count < maxDurableIDs {
		d.count++
		d.left[idKey(id)]++
	}
}

// take reports whether id is among them, and takes it out once.
func (d *durableIDs) take(id string) bool {
	if len(d.left) == 0 {
		return false
	}
	key := idKey(id)
	n := d.left[key]
	if n == 0 {
		return false
	}
	if n == 1 {
		delete(d.left, key)
	} else {
		d.left[key] = n - 1
	}
	return true
}

// empty reports whether no line is looked for any more.
func (d *durableIDs) empty() bool { return len(d.left) == 0 }

// giveUp forgets the rest, whose lines are no longer there.
func (d *durableIDs) giveUp() (left int) {
	left = len(d.left)
	d.left = nil
	return left
}

// idKey is id in 16 bytes.
func idKey(id string) uuid.UUID {
	if u, err := uuid.Parse(id); err == nil {
		return u
	}
	return uuid.NewSHA1(uuid.Nil, []byte(id))
}
