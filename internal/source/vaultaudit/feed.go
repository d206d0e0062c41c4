package vaultaudit

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/inbox"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// batch is what a reader read at once.
type batch struct {
	from  *reader
	lines []tail.Line
	lost  *inbox.Lost // what is missing before the lines
	lossy bool        // lines behind these may be missing
	gone  bool        // the file of the reader is gone; it ends
	time  time.Time   // of the first entry; zero when it does not tell

	file  tail.Batch
	inbox inbox.Batch
}

// mark is where an input is to be read on.
type mark struct {
	file  tail.Checkpoint
	inbox inbox.Position
	gone  bool // nowhere
}

// after returns the mark behind the batch.
func (b *batch) after() mark {
	if b.from.Inbox != nil {
		return mark{inbox: b.inbox.After()}
	}
	return mark{file: b.file.After(), gone: b.gone}
}

// through returns the mark behind line i.
func (b *batch) through(i int) mark {
	if b.from.Inbox != nil {
		return mark{inbox: b.inbox.Through(i)}
	}
	return mark{file: b.file.Through(i)}
}

// feed is where readers leave batches for the translation. When several have some, the
// one with the oldest entries has its turn, so that devices that have much to catch up
// stay together: an entry that came over one of them is remembered until it comes over
// another one, and what is derived sees requests before their responses. Every 16th
// turn is that of the reader which waits longest, whatever times its entries have.
type feed struct {
	room chan struct{} // a token for each batch of all readers
	wake chan struct{}

	mu     sync.Mutex
	ready  []*reader // that have batches
	turns  uint64
	closed bool
}

const fairTurn = 16

func newFeed() *feed {
	return &feed{room: make(chan struct{}, maxBatches), wake: make(chan struct{}, 1)}
}

// put waits for room and leaves b. It returns false when ctx ended first.
func (f *feed) put(ctx context.Context, b *batch) bool {
	for _, room := range [...]chan struct{}{b.from.room, f.room} {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return false // not translated, so read again the next time
		}
	}
	b.time = entryTime(b.lines)
	f.mu.Lock()
	r := b.from
	if len(r.queue) == 0 {
		f.ready = append(f.ready, r)
	}
	r.queue = append(r.queue, b)
	f.mu.Unlock()
	f.poke()
	return true
}

func (f *feed) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// close tells that no more batches come.
func (f *feed) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.poke()
}

// take returns the next batch, nil when there is none now. more is false when there
// never will be.
func (f *feed) take() (b *batch, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ready) == 0 {
		return nil, !f.closed
	}
	f.turns++
	at := 0
	for i, r := range f.ready[1:] {
		best := f.ready[at]
		if f.turns%fairTurn == 0 {
			if r.turn < best.turn {
				at = i + 1
			}
		} else if x, y := r.queue[0].time, best.queue[0].time; x.Before(y) || x.Equal(y) && r.turn < best.turn {
			at = i + 1
		}
	}
	r := f.ready[at]
	r.turn = f.turns
	b = r.queue[0]
	r.queue[0] = nil
	if r.queue = r.queue[1:]; len(r.queue) == 0 {
		r.queue = nil
		f.ready = append(f.ready[:at], f.ready[at+1:]...)
	}
	return b, true
}

// done gives back a batch that was taken.
func (f *feed) done(b *batch) {
	r := b.from
	select {
	case r.spare <- b:
	default:
	}
	<-f.room
	<-r.room
}

// drain takes what is left, so that no reader waits for room.
func (f *feed) drain() {
	for {
		b, more := f.take()
		if !more {
			return
		}
		if b != nil {
			f.done(b)
			continue
		}
		<-f.wake
	}
}

// entryTime is the time that stands in the first of the lines.
func entryTime(lines []tail.Line) (t time.Time) {
	if len(lines) == 0 {
		return t
	}
	const key = `"time":"`
	head := lines[0].Data[:min(len(lines[0].Data), 4<<10)]
	i := bytes.Index(head, []byte(key))
	if i < 0 {
		return t
	}
	text := head[i+len(key):]
	end := bytes.IndexByte(text[:min(len(text), len(time.RFC3339Nano)+8)], '"')
	if end < 0 {
		return t
	}
	if t.UnmarshalText(text[:end]) != nil {
		return time.Time{}
	}
	return t
}
