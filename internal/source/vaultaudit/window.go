package vaultaudit

import (
	"hash/maphash"
	"time"

	"github.com/google/uuid"
)

// Of so many entries at least, and at most of twice as many, it is remembered for this
// time, up to twice, over which input they came.
const (
	windowIDs = 500_000
	windowAge = 5 * time.Minute
)

// unknownReader is the number of a reader that is not known any more.
const unknownReader = 0

// window knows which entries came lately, and over which reader, so that they are
// recognised when they come over another one, or again over the same one. An entry is the
// id of its event, which belongs to its kind and the id of the request. It belongs to the
// translation.
//
// What is remembered is in two halves, of which the earlier is forgotten when the later
// one is full or old: about 45 bytes an entry, and nothing when nothing comes.
type window struct {
	most           int
	age            time.Duration
	later, earlier map[uuid.UUID]seen
	turned         time.Time // when later was begun
}

// seen says how an entry came: the number of its reader, and a sum of its text. A sender
// that is not sure repeats the very bytes; what has the same id over the same reader and
// another text is another entry. Over another reader the text may be another, because each
// device hashes with a salt of its own.
type seen struct{ number, sum uint32 }

// sumSeed makes sums such that nobody can make a text that has the one of another.
var sumSeed = maphash.MakeSeed()

// textSum returns the sum of a text, which is not unknownSum.
func textSum(text []byte) uint32 { return uint32(maphash.Bytes(sumSeed, text)) | 1 }

// unknownSum is that of a text that is not known any more, and taken for any.
const unknownSum = 0

func newWindow(most int, age time.Duration) *window {
	return &window{most: most, age: age, later: make(map[uuid.UUID]seen)}
}

// find returns how an entry came.
func (w *window) find(id uuid.UUID) (how seen, ok bool) {
	if how, ok = w.later[id]; ok {
		return how, true
	}
	how, ok = w.earlier[id]
	return how, ok
}

// add remembers an entry, at the current time.
func (w *window) add(id uuid.UUID, how seen, now time.Time) {
	if len(w.later) == 0 {
		w.turned = now
	}
	if len(w.later) >= w.most {
		w.turn(now)
	}
	w.later[id] = how
}

// turn forgets the earlier half.
func (w *window) turn(now time.Time) {
	w.earlier, w.later, w.turned = w.later, make(map[uuid.UUID]seen), now
}

// expire forgets what is old.
func (w *window) expire(now time.Time) {
	if len(w.later)+len(w.earlier) > 0 && now.Sub(w.turned) >= w.age {
		w.turn(now)
	}
}
