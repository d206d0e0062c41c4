package vaultaudit

import (
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
// recognised when they come over another one. An entry is the id of its event, which
// belongs to its kind and the id of the request. It belongs to the translation.
//
// What is remembered is in two halves, of which the earlier is forgotten when the later
// one is full or old: about 40 bytes an entry, and nothing when nothing comes.
type window struct {
	most           int
	age            time.Duration
	later, earlier map[uuid.UUID]uint32
	turned         time.Time // when later was begun
}

func newWindow(most int, age time.Duration) *window {
	return &window{most: most, age: age, later: make(map[uuid.UUID]uint32)}
}

// find returns the number of the reader over which an entry came.
func (w *window) find(id uuid.UUID) (number uint32, ok bool) {
	if number, ok = w.later[id]; ok {
		return number, true
	}
	number, ok = w.earlier[id]
	return number, ok
}

// add remembers an entry, at the current time.
func (w *window) add(id uuid.UUID, number uint32, now time.Time) {
	if len(w.later) == 0 {
		w.turned = now
	}
	if len(w.later) >= w.most {
		w.turn(now)
	}
	w.later[id] = number
}

// turn forgets the earlier half.
func (w *window) turn(now time.Time) {
	w.earlier, w.later, w.turned = w.later, make(map[uuid.UUID]uint32), now
}

// expire forgets what is old.
func (w *window) expire(now time.Time) {
	if len(w.later)+len(w.earlier) > 0 && now.Sub(w.turned) >= w.age {
		w.turn(now)
	}
}
