package hub

import (
	"errors"
	"sync"
	"weak"

	"github.com/tocsin-events/tocsin/internal/journal"
)

const (
	// writeBytes is how much is written at once, more or less: large enough that
	// the system call does not count, small enough that a connection has its turn
	// often.
	writeBytes = 256 << 10
	// writePieces bounds the pieces of memory of one write.
	writePieces = 64
	// copyBytes is how much is written at once, as a copy, where a write cannot be
	// interrupted. It is the size of a TLS record.
	copyBytes = 16 << 10
	// scanBatches bounds the batches looked through between two looks at what
	// else a subscription has to do.
	scanBatches = 64
)

// A place is where a subscription stands: what is due are the events of the batch
// from number due on, and what follows. So it does not depend on what of the batch
// the subscription may see.
type place struct {
	batch *batch
	due   int
}

// A mark is a place that does not keep anything in memory.
type mark struct {
	batch  weak.Pointer[batch]
	due    int
	before journal.Position
}

func (p place) mark() mark {
	return mark{weak.Make(p.batch), p.due, p.batch.positionBefore(p.due)}
}

// A span is the frames of a chunk that are being written: the bytes from begin to
// end.
type span struct {
	batch      *batch
	chunk      *chunk
	begin, end int
}

func (p *span) size() int { return p.end - p.begin }

// frames are the first frame of the span and the one behind it.
func (p *span) frames() (first, end int) {
	return p.chunk.frameAt(p.begin), p.chunk.frameAt(p.end)
}

// after is the place behind frame k of the chunk.
func (p *span) after(k int) place { return place{p.batch, int(p.chunk.picks[k]) + 1} }

// room is what a subscription needs to write events.
type room struct {
	spans []span
	bufs  [][]byte
	copy  []byte
}

var rooms = sync.Pool{New: func() any { return &room{bufs: make([][]byte, 0, writePieces)} }}

// clear lets go of everything that is collected.
func (r *room) clear() {
	clear(r.spans)
	clear(r.bufs)
	r.spans, r.bufs = r.spans[:0], r.bufs[:0]
}

// release clears the room and gives it back.
func (r *room) release() {
	r.clear()
	if cap(r.copy) > 4*copyBytes {
		r.copy = nil
	}
	rooms.Put(r)
}

// add adds the frames of a chunk from byte begin on, as far as they fit, and says
// where it ended.
func (r *room) add(b *batch, c *chunk, begin int) (end int) {
	end = begin
	for i := c.pieceAt(begin); i < len(c.pieces) && len(r.bufs) < writePieces; i++ {
		p := c.pieces[i]
		r.bufs = append(r.bufs, p.data[end-p.begin:])
		end = p.begin + len(p.data)
	}
	r.spans = append(r.spans, span{b, c, begin, end})
	return end
}

// frames is how many frames are collected.
func (r *room) frames() (n int) {
	for i := range r.spans {
		first, end := r.spans[i].frames()
		n += end - first
	}
	return n
}

// collect gathers what can be written at once, from a place on, and returns the
// place that comes after, and whether it cannot be told what follows there. Asking
// for the next batch has it read while this is written.
func (s *Subscription) collect(at place, r *room) (next place, starving bool) {
	size := 0
	for range scanBatches {
		c := at.batch.selected(s.group)
		if first := c.from(at.due); first < len(c.picks) {
			begin := c.begin(first)
			end := r.add(at.batch, c.chunk, begin)
			size += end - begin
			if end < c.size() {
				return place{at.batch, int(c.picks[c.frameAt(end)])}, false
			}
		}
		if c.undecided() {
			return place{at.batch, max(at.due, c.stop)}, true
		}
		at = place{batch: s.hub.store.after(at.batch)}
		if size >= writeBytes || len(r.bufs) == writePieces || !at.batch.isReady() || at.batch.err != nil {
			break
		}
	}
	return at, false
}

// writeEvents writes what is due at a place, as much as goes at once.
func (s *Subscription) writeEvents(at place) bool {
	epoch := s.group.epoch.Load()
	r := rooms.Get().(*room)
	next, starving := s.collect(at, r)
	switch {
	case len(r.spans) == 0:
		r.release()
		if s.pass(next, epoch) && starving {
			return s.starve(next)
		}
		s.fed()
		return true
	case !s.beginWrite(epoch, 0):
		r.release()
		return true
	case !s.conn.Interruptible():
		return s.writeCopy(r)
	}
	n, err := s.writeAttempts(r.bufs)
	switch err {
	case nil:
		s.wroteAll(r, next)
		return true
	case errInterrupted:
		return s.writeRest(at, r, n)
	}
	r.release()
	return s.fail()
}

// wroteAll goes on after all of a room was written.
func (s *Subscription) wroteAll(r *room, next place) {
	s.fed()
	s.count(r.frames())
	last := &r.spans[len(r.spans)-1]
	written := last.after(last.chunk.frameAt(last.end) - 1)
	r.release()
	if !s.pass(next, s.epoch) {
		s.moveTo(written)
	}
}

// errInterrupted means that a write was ended by interrupt, or because what it
// wrote must not be sent any more.
var errInterrupted = errors.New("hub: write interrupted")

// pass moves on over events that have nothing for the subscription by the answers
// of an epoch. It does not if they do not hold any more.
func (s *Subscription) pass(next place, epoch uint64) bool {
	if s.group.epoch.Load() != epoch {
		return false
	}
	s.moveTo(next)
	return true
}

// moveTo sets what is due next.
func (s *Subscription) moveTo(p place) {
	s.ordinal.Store(nextOrdinal(p.batch.after))
	s.group.mu.Lock()
	s.at = p
	s.group.mu.Unlock()
}

// letGo forgets where the subscription stands until returnTo or moveTo.
func (s *Subscription) letGo() {
	s.group.mu.Lock()
	s.at = place{}
	s.group.mu.Unlock()
}

// returnTo goes on at a mark: from memory if it is still there, else from the
// journal.
func (s *Subscription) returnTo(m mark) {
	if b := m.batch.Value(); b != nil {
		s.moveTo(place{b, m.due})
	} else {
		s.moveTo(place{batch: s.hub.store.at(m.before)})
	}
}

// writeRest goes on after a write of a room, from a place on, that was interrupted
// after n bytes. The rest of a frame that was cut is written in any case. If the
// client does not read, that takes as long as it takes, and meanwhile nothing else
// is kept.
func (s *Subscription) writeRest(at place, r *room, n int) bool {
	written, i := 0, 0
	for ; n >= r.spans[i].size(); i++ { // never all: something was left
		first, end := r.spans[i].frames()
		written += end - first
		at = r.spans[i].after(end - 1)
		n -= r.spans[i].size()
	}
	p := &r.spans[i]
	first, _ := p.frames()
	k := p.chunk.frameAt(p.begin + n)
	if k > first {
		written += k - first
		at = p.after(k - 1)
	}
	s.count(written)
	cut := p.begin+n > p.chunk.begin(k)
	rest := p.chunk.bytes(nil, p.begin+n, int(p.chunk.ends[k]))
	before, after := at.mark(), p.after(k).mark()
	r.release()
	s.letGo()
	err := s.writePatiently(rest, cut)
	switch {
	case err == errInterrupted:
		s.returnTo(before)
	case err != nil:
		return s.fail()
	default:
		s.count(1)
		s.returnTo(after)
	}
	return true
}

// writePatiently writes a frame or, if it is cut, its rest, for as long as it
// takes: it has no time limit of its own, only that of finish. A frame of which
// nothing is written yet is given up with errInterrupted as soon as it must not be
// sent any more.
func (s *Subscription) writePatiently(frame []byte, cut bool) error {
	s.hub.metrics.stalled.Inc()
	defer s.hub.metrics.stalled.Dec()
	for !cut {
		if !s.beginWrite(s.epoch, patient) {
			return errInterrupted
		}
		n, err := s.writeAttempts([][]byte{frame})
		if err != errInterrupted {
			return err
		}
		frame, cut = frame[n:], n > 0
	}
	_, err := s.conn.Write(frame)
	return err
}

// writeCopy writes some whole frames of a room as a copy, so that a write that
// takes long holds nothing else, and ends the write that was begun.
func (s *Subscription) writeCopy(r *room) bool {
	defer r.release()
	p := r.spans[0]
	first, end := p.frames()
	end = min(end, max(first+1, p.chunk.frameAt(p.begin+copyBytes)))
	r.copy = p.chunk.bytes(r.copy[:0], p.begin, int(p.chunk.ends[end-1]))
	after := p.after(end - 1).mark()
	r.clear()
	s.letGo()
	_, err := s.conn.Write(r.copy)
	if err = s.endWrite(err); err != nil {
		return s.fail()
	}
	s.count(end - first)
	s.returnTo(after)
	return true
}

// writeControl writes control frames.
func (s *Subscription) writeControl(frames []byte) bool {
	s.writing.Store(s.hub.now.Load() << tickShift)
	n, err := s.conn.Write(frames)
	if err = s.endWrite(err); err == errInterrupted {
		err = s.writePatiently(frames[n:], true)
	}
	if err != nil {
		return s.fail()
	}
	return true
}

func (s *Subscription) count(frames int) {
	s.delivered.Add(uint64(frames))
	s.hub.metrics.Delivered.Add(float64(frames))
}
