package inbox

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/tocsin-events/tocsin/internal/directory"
)

// batchLines is how many lines a batch has at most.
const batchLines = 512

// Batch is what a Read returns: lines that follow each other, or the news that lines
// are lost.
type Batch struct {
	// Lines may be kept for ever. They share memory of up to 256 KiB. Their End is 0.
	Lines []Line
	// Lost, when it is not nil, tells that lines are missing at this place. Then there
	// are no lines in the batch.
	Lost *Lost
	// Received is when the first of the lines came, or the loss was noticed.
	Received time.Time

	epoch, first, next uint64
}

// After returns the position behind the batch.
func (b *Batch) After() Position { return Position{b.epoch, b.next} }

// Through returns the position behind line i.
func (b *Batch) Through(i int) Position { return Position{b.epoch, b.first + uint64(i) + 1} }

// reader is what Read knows. The mutex is held when busy and g are changed.
type reader struct {
	x       *Inbox
	busy    bool // a Read is at work
	started bool
	loose   bool // it begins wherever the first line is
	at      Position

	g       *segment // nil before the first
	f       file     // of g
	scan    scanner
	failed  int    // how often it could not be read, one after the other
	have    bool   // there is a record that was not given out, or not all of it
	rec     record // it
	payload []byte // what is left of it
	line    uint64 // number of the first line in payload

	part     []byte // the beginning of a long line
	partLine uint64
	inPart   bool
}

// Seek makes a position the one that Read goes on from: one that After or Through returned,
// perhaps to an earlier process. What was before is taken to be acknowledged. The zero
// position means the first line that there is. Lines behind the position that are not there
// any more, because they were released or their files are gone, are reported as lost, and so
// is what may be missing when the position is one that the files never had, as after their
// directory was removed or an old one was brought back. It must be called before the first
// Read.
func (x *Inbox) Seek(p Position) error {
	r := &x.reader
	x.mu.Lock()
	defer x.mu.Unlock()
	if r.started {
		return fmt.Errorf("the inbox is being read, it cannot seek to %v", p)
	}
	if p.Epoch > x.before || p.Compare(x.end()) > 0 {
		x.log.Warn("the spool is not the one that was read before, it was removed or replaced; lines in that one which were not read are lost, and all that came since is read", "position", p, "end", x.end())
		now := time.Now()
		x.queue.lose(Lost{Reason: Damaged, First: now, Last: now})
		x.wakeWriter()
	}
	if p.Compare(x.end()) > 0 {
		p = Position{}
	}
	r.at, r.loose = p, p.IsZero()
	x.readTo = later(x.readTo, p)
	x.acked = later(x.acked, p)
	x.marks.drop(p)
	x.answer()
	return nil
}

// wakeReader tells the reader that there is something. x.mu is held.
func (x *Inbox) wakeReader() {
	if x.written != nil {
		close(x.written)
		x.written = nil
	}
}

// Read waits for lines and puts them into b, in the order in which they were put. After
// Close it returns ErrClosed. It is called by one goroutine at a time.
func (x *Inbox) Read(ctx context.Context, b *Batch) error {
	r := &x.reader
	r.started = true
	b.Lines, b.Lost = nil, nil
	x.mu.Lock()
	r.busy = true
	x.mu.Unlock()
	err := r.read(ctx, b)
	x.mu.Lock()
	defer x.mu.Unlock()
	r.busy = false
	if err != nil {
		if err == ErrClosed {
			r.close()
		}
		return err
	}
	r.at = b.After()
	x.readTo = r.at
	return nil
}

func (r *reader) read(ctx context.Context, b *Batch) error {
	x := r.x
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.have && r.give(b) {
			return nil
		}
		x.mu.Lock()
		select {
		case <-x.stop:
			x.mu.Unlock()
			return ErrClosed
		default:
		}
		if r.missing(b) {
			x.mu.Unlock()
			return nil
		}
		if !r.locate() {
			if x.written == nil {
				x.written = make(chan struct{})
			}
			written := x.written
			x.mu.Unlock()
			select {
			case <-written:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		x.mu.Unlock()
		if err := r.fill(b); err != nil && b.Lines == nil {
			if err := r.unreadable(ctx, err); err != nil {
				return err
			}
			continue
		}
		r.failed = 0
		if b.Lines != nil || b.Lost != nil {
			return nil
		}
	}
}

// missing reports lines that should be in the segment, which was read to its end, and are
// not there, unless they were written again. x.mu is held.
func (r *reader) missing(b *Batch) bool {
	g := r.g
	if g == nil || r.scan.at < g.end || r.at.Epoch != g.epoch || r.at.Line >= g.next {
		return false
	}
	if r.elsewhere() {
		return false
	}
	r.lost(b, g.next)
	return true
}

// elsewhere reports whether the next line is in the next segment, too. x.mu is held.
func (r *reader) elsewhere() bool {
	next := r.following()
	return next != nil && next.epoch == r.at.Epoch && next.first <= r.at.Line
}

// lost makes b the news that the lines before a number are not there.
func (r *reader) lost(b *Batch, next uint64) {
	now := time.Now()
	b.Lost = &Lost{Reason: Damaged, Lines: next - r.at.Line, First: now, Last: now}
	b.epoch, b.first, b.next, b.Received = r.at.Epoch, r.at.Line, next, now
	r.inPart = false
}

// locate finds what to read: the rest of the segment that it is in, or the next one. x.mu is
// held.
func (r *reader) locate() bool {
	if g := r.g; g != nil {
		r.scan.end = g.end
		if r.scan.at < g.end {
			return true
		}
	}
	next := r.following()
	if next == nil {
		return false
	}
	r.close()
	r.g, r.failed = next, 0
	r.scan = scanner{at: segmentHeader, end: next.end, nonce: next.nonce}
	if next.epoch != r.at.Epoch {
		r.at = Position{Epoch: next.epoch}
		r.inPart = false
	}
	if r.loose {
		r.at.Line = max(r.at.Line, next.first)
		r.loose = false
	}
	return r.scan.at < r.scan.end
}

// following returns the segment behind the one that it is in, which has lines that were
// not given out, so nobody frees it meanwhile. x.mu is held.
func (r *reader) following() *segment {
	for _, g := range r.x.segments {
		switch {
		case r.g != nil && !before(r.g, g):
		case g.neededTo().Compare(r.at) <= 0:
		default:
			return g
		}
	}
	return nil
}

// fill reads records, and puts into b what they have.
func (r *reader) fill(b *Batch) error {
	if r.f == nil {
		f, err := r.x.disk.open(r.g.name)
		if err != nil {
			return err
		}
		r.f, r.scan.f = f, f
	}
	for {
		rec, payload, err := r.scan.next()
		if r.scan.skipped {
			r.scan.skipped = false
			r.damaged(errNoRecord)
		}
		if err == io.EOF {
			r.scan.step(int64(len(r.scan.buf)))
			r.scan.at = max(r.scan.at, r.scan.end)
			return nil
		}
		if err != nil {
			return err
		}
		r.have, r.rec, r.payload, r.line = true, rec, payload, rec.first
		if r.give(b) {
			return nil
		}
	}
}

// give puts the lines of the record into b, and reports whether b is to be returned.
func (r *reader) give(b *Batch) bool {
	at := r.at.Line
	if b.Lines != nil {
		at = b.next
	}
	rec := &r.rec
	switch {
	case rec.first > at: // something is missing
		if b.Lines != nil {
			return true
		}
		r.x.mu.Lock()
		elsewhere := r.elsewhere()
		r.x.mu.Unlock()
		if elsewhere {
			r.have = false
			r.scan.buf, r.scan.at = nil, r.scan.end
			return false
		}
		r.lost(b, rec.first)
		return true
	case rec.next() <= at && (rec.lines > 0 || rec.first < at): // known already
		r.have = false
		return false
	case rec.kind == kindLost:
		if b.Lines != nil {
			return true
		}
		r.have = false
		lost, ok := parseLost(r.payload, rec.lines)
		if !ok {
			r.damaged(errNoRecord)
			return false
		}
		b.Lost = &lost
		b.epoch, b.first, b.next, b.Received = r.at.Epoch, at, rec.next(), lost.First
		return true
	case rec.kind == kindPart:
		if b.Lines != nil {
			return true // a long line begins a batch, so none has two
		}
		r.have = false
		l, ok := r.join()
		if !ok {
			return false
		}
		r.put(b, at, l)
		r.scan.lent = true // what was put before
	case rec.kind == kindLines:
		for len(r.payload) > 0 && r.line < rec.next() && len(b.Lines) < batchLines {
			l, rest, ok := cutLine(r.payload)
			if !ok {
				r.damaged(errNoRecord)
				break
			}
			r.payload = rest
			if r.line >= at {
				r.put(b, at, l)
			}
			r.line++
			if len(rest) > 0 && r.line < rec.next() && len(b.Lines) == batchLines {
				return true
			}
		}
		r.have = false
		r.scan.lent = true
	default:
		r.have = false
		r.damaged(errNoRecord)
		return false
	}
	return b.Lines != nil && (len(b.Lines) >= batchLines || !r.scan.buffered())
}

// put adds a line to b.
func (r *reader) put(b *Batch, at uint64, l Line) {
	if b.Lines == nil {
		b.Lines = make([]Line, 0, min(max(int(r.rec.lines), 16), batchLines))
		b.epoch, b.first, b.next, b.Received = r.at.Epoch, at, at, time.Unix(0, r.rec.time)
	}
	b.Lines = append(b.Lines, l)
	b.next++
}

// maxExact is how long a line may be for its memory to be taken at once.
const maxExact = 128 << 20

// join adds a piece to the long line that it belongs to, and returns the line when that is
// complete.
func (r *reader) join() (l Line, ok bool) {
	p, ok := parsePart(r.payload)
	if !ok {
		r.damaged(errNoRecord)
		return l, false
	}
	known := r.inPart && r.partLine == r.rec.first
	switch have := int64(len(r.part)); {
	case known && p.offset+int64(len(p.data)) <= have:
		return l, false // it was written again
	case !known && p.offset == 0:
		r.inPart, r.partLine = true, r.rec.first
		r.part = make([]byte, 0, min(p.length, maxExact))
	case !known || p.offset > have:
		// A piece is missing. It may be in the next segment, where this one comes again;
		// otherwise it shows with the next line.
		return l, false
	}
	r.part = append(r.part[:p.offset], p.data...)
	if int64(len(r.part)) < p.length || r.rec.lines == 0 {
		return l, false
	}
	l = Line{Data: r.part, Size: p.size, Kind: p.kind}
	r.part, r.inPart = nil, false
	return l, true
}

// damaged notes that the segment has something that cannot be read.
func (r *reader) damaged(why error) {
	x := r.x
	x.mu.Lock()
	known := r.g.damaged
	r.g.damaged = true
	x.counts.Damaged++
	x.mu.Unlock()
	if !known {
		x.log.Error("a file of the spool is damaged; it is kept aside when the rest of it was read", "file", r.g.name, "error", why)
	}
}

// maxFailures is how often a segment that cannot be read is tried again.
const maxFailures = 6

// unreadable waits before a segment that could not be read is tried again, and gives it up
// if that has not helped. It returns an error only when ctx ends.
func (r *reader) unreadable(ctx context.Context, why error) error {
	r.failed++
	r.scan.buf = nil
	if r.failed > maxFailures && !directory.TooManyFiles(why) {
		r.damaged(why)
		r.scan.at = r.scan.end
		r.failed = 0
		return nil
	}
	if r.failed == 1 {
		r.x.log.Warn("a file of the spool could not be read, trying again", "file", r.g.name, "error", why)
	}
	timer := time.NewTimer(min(10*time.Millisecond<<min(r.failed, 10), time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.x.stop:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
	}
	r.f = nil
}
