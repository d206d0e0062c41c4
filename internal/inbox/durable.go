package inbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"

	"github.com/tocsin-events/tocsin/internal/throttle"
)

// waiter is somebody for whom a position must become durable.
type waiter struct {
	at   Position
	from time.Time // when a sync is due for it
	done chan struct{}
	ok   bool
}

// Durable returns when all lines before a position that Put returned survive a power cut:
// they are synced, or acknowledged by the reader. If that takes longer than a few
// milliseconds, it asks for a sync, which serves all who wait. If the disk does not
// work it waits until ctx ends.
func (x *Inbox) Durable(ctx context.Context, p Position) error {
	return x.durable(ctx, p, x.o.grace)
}

func (x *Inbox) durable(ctx context.Context, p Position, grace time.Duration) error {
	x.mu.Lock()
	x.advance()
	if p.Compare(later(x.acked, x.synced)) <= 0 {
		x.mu.Unlock()
		return nil
	}
	select {
	case <-x.stop:
		x.mu.Unlock()
		return ErrClosed
	default:
	}
	if end := x.end(); p.Compare(end) > 0 {
		x.mu.Unlock()
		return fmt.Errorf("nothing was put before position %v of the inbox, its end is %v", p, end)
	}
	w := &waiter{at: p, from: time.Now().Add(grace), done: make(chan struct{})}
	x.waiters = append(x.waiters, w)
	x.mu.Unlock()
	x.wakeSyncer()
	select {
	case <-w.done:
		if !w.ok {
			return ErrClosed
		}
		return nil
	case <-ctx.Done():
		x.mu.Lock()
		x.waiters = slices.DeleteFunc(x.waiters, func(other *waiter) bool { return other == w })
		x.mu.Unlock()
		return ctx.Err()
	}
}

// answer tells those who wait for what is durable now. x.mu is held.
func (x *Inbox) answer() {
	durable := later(x.acked, x.synced)
	x.waiters = slices.DeleteFunc(x.waiters, func(w *waiter) bool {
		if w.at.Compare(durable) > 0 {
			return false
		}
		w.ok = true
		close(w.done)
		return true
	})
}

// failWaiters tells those who still wait that the inbox is closed. x.mu is held.
func (x *Inbox) failWaiters() {
	for _, w := range x.waiters {
		close(w.done)
	}
	x.waiters = nil
}

// syncer syncs when it is time for it.
func (x *Inbox) syncer() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var drops throttle.Throttle
	for {
		x.logDrops(&drops)
		x.mu.Lock()
		due, ok := x.syncDue()
		x.syncIdle = !ok
		x.mu.Unlock()
		if ok {
			if wait := time.Until(due); wait > 0 {
				timer.Reset(wait)
			} else {
				x.sync()
				continue
			}
		} else {
			timer.Stop()
		}
		select {
		case <-x.syncs:
		case <-timer.C:
		case <-x.stop:
			return
		}
	}
}

// logDrops writes down how many lines were dropped, if there are new ones.
func (x *Inbox) logDrops(limit *throttle.Throttle) {
	x.mu.Lock()
	dropped, told, why := x.counts.DroppedLines, x.toldLost, x.trouble.text()
	x.mu.Unlock()
	if dropped == told {
		return
	}
	if _, ok := limit.Allow(); !ok {
		return
	}
	x.log.Error("lines are lost, there is no room for them in memory or on the disk", "lines", dropped-told, "since_start", dropped, "disk", why)
	x.mu.Lock()
	x.toldLost = dropped
	x.mu.Unlock()
}

// syncDue returns when the next sync should be, and false when there is nothing to sync.
// x.mu is held.
func (x *Inbox) syncDue() (due time.Time, ok bool) {
	durable := later(x.acked, x.synced)
	found := false
	var first Position // of what a sync makes durable
	for _, g := range x.segments {
		if g.dirty() && !g.suspect && g.neededTo().Compare(x.acked) > 0 {
			found, first = true, later(durable, Position{g.epoch, g.syncedNext})
			break
		}
	}
	if !found {
		return due, false
	}
	due = x.marks.at(first).Add(x.o.SyncInterval)
	for _, w := range x.waiters {
		if w.from.Before(due) {
			due = w.from
		}
	}
	if again := x.trouble.syncAgain; due.Before(again) {
		due = again
	}
	return due, true
}

// sync makes all that is written durable, but for what is elsewhere already.
func (x *Inbox) sync() {
	type target struct {
		g    *segment
		f    file
		end  int64
		next uint64
	}
	var targets []target
	x.mu.Lock()
	for _, g := range x.segments {
		if g.dirty() && !g.suspect && g.neededTo().Compare(x.acked) > 0 {
			targets = append(targets, target{g, g.f, g.end, g.next})
		}
	}
	unnamed := x.unnamed
	x.unnamed = false
	x.mu.Unlock()
	var failed error
	if unnamed {
		if failed = x.disk.sync(); failed != nil {
			x.mu.Lock()
			x.unnamed = true
			x.mu.Unlock()
		}
	}
	if failed == nil {
		for _, t := range targets {
			suspect, err := x.syncSegment(t.g, t.f)
			var idle file
			x.mu.Lock()
			switch {
			case t.g.released:
			case err == nil:
				t.g.syncedEnd, t.g.syncedNext = t.end, t.next
				if t.g.sealed && !t.g.dirty() {
					idle = t.g.take()
				}
			default:
				// The kernel may have dropped what it could not write, and another
				// sync would not say so.
				t.g.suspect = t.g.suspect || suspect
				failed = err
			}
			x.mu.Unlock()
			closeFile(idle)
		}
	}
	x.mu.Lock()
	x.counts.Syncs++
	known := x.trouble.sync != nil
	x.trouble.synced(failed, x.o.SyncInterval)
	x.advance()
	x.answer()
	x.mu.Unlock()
	if failed != nil {
		x.wakeWriter() // to write it again
		if skipped, ok := x.logErrors.Allow(); ok || !known {
			x.log.Error("the spool cannot be synced, its lines would not survive a power cut", "error", failed, "skipped_messages", skipped)
		}
	}
}

// syncSegment syncs one file. It says suspect when nobody knows what the disk has.
func (x *Inbox) syncSegment(g *segment, f file) (suspect bool, err error) {
	if f == nil { // it is of an earlier process
		if f, err = x.disk.open(g.name); err != nil {
			return false, err
		}
		defer f.Close()
	}
	if err = f.Sync(); err != nil {
		_, _ = f.WriteAt([]byte(suspectMark), 2*headerBlock)
		return true, err
	}
	return false, nil
}

// advance finds how far all is synced. x.mu is held.
func (x *Inbox) advance() {
	at := x.writtenTo
	for _, g := range x.segments {
		if g.dirty() && g.neededTo().Compare(x.acked) > 0 {
			at = Position{g.epoch, g.syncedNext}
			break
		}
	}
	x.synced = later(x.synced, at)
	if x.writtenTo.Compare(later(x.acked, x.synced)) <= 0 {
		x.trouble.sync = nil // nothing is at risk
	}
}

// Acknowledge tells that all lines before a position are durable elsewhere.
func (x *Inbox) Acknowledge(p Position) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p = x.known(p)
	if p.Compare(x.acked) <= 0 {
		return
	}
	x.acked = p
	x.marks.drop(p)
	x.advance()
	x.answer()
}

// known returns a position of the reader, and the zero position, which changes nothing, for
// one that it was not given: that is of another inbox. x.mu is held.
func (x *Inbox) known(p Position) Position {
	if p.Compare(x.readTo) > 0 {
		return Position{}
	}
	return p
}

// Release tells that lines before a position will never be asked for again, not after a
// restart either, and acknowledges them. Their files are used again or removed.
func (x *Inbox) Release(p Position) {
	x.Acknowledge(p)
	x.mu.Lock()
	x.released = later(x.released, x.known(p))
	x.mu.Unlock()
	x.tidy()
}

// forget takes a segment off the list. x.mu is held.
func (x *Inbox) forget(g *segment) {
	g.released = true
	x.segments = slices.DeleteFunc(x.segments, func(other *segment) bool { return other == g })
}

// keptFiles is how many damaged files are kept aside.
const keptFiles = 8

// disposable reports whether nobody will ask for a segment. x.mu is held.
func (x *Inbox) disposable(g *segment) bool {
	switch {
	case !g.sealed:
		return false
	case g.neededTo().Compare(x.released) <= 0:
		return true
	}
	// When its lines are elsewhere, too, it is needed for as long as it may be the only
	// place where they survive a power cut.
	return g.replaced && x.reader.g != g && (g.syncedEnd == segmentHeader && !g.inherited || g.neededTo().Compare(x.synced) <= 0)
}

// tidy frees what is not needed.
func (x *Inbox) tidy() {
	for {
		x.mu.Lock()
		i := slices.IndexFunc(x.segments, x.disposable)
		if i < 0 {
			x.mu.Unlock()
			return
		}
		g := x.segments[i]
		x.forget(g)
		f, removed := g.take(), ""
		reuse := !g.damaged && !g.suspect && g.size == x.o.SegmentBytes && x.total <= x.o.ReserveBytes
		keep := g.damaged && x.counts.KeptFiles < keptFiles
		if keep {
			x.counts.KeptFiles++
		} else if g.damaged {
			removed = g.name
		}
		x.mu.Unlock()

		var err error
		switch {
		case reuse:
			// So that it does not come back.
			if f == nil {
				f, err = x.disk.open(g.name)
			}
			if err == nil {
				_, err = f.WriteAt(make([]byte, segmentHeader), 0)
			}
			if err != nil {
				reuse, err = false, errors.Join(err, x.disk.remove(g.name))
			}
		case keep:
			err = x.disk.rename(g.name, g.name+damagedSuffix)
		default:
			err = x.disk.remove(g.name)
		}
		closeFile(f)
		x.mu.Lock()
		switch {
		case reuse:
			x.free = append(x.free, g.name)
		default:
			x.total -= g.size
		}
		x.trouble.freed = true
		x.mu.Unlock()
		if removed != "" {
			x.log.Warn("a damaged file of the spool is removed, because enough others are kept aside; look at them and remove them", "file", removed, "kept", keptFiles)
		}
		if err != nil {
			x.log.Warn("could not free a file of the spool", "file", g.name, "error", err)
		}
		x.wakeWriter()
	}
}

// rewrite puts the lines of segments that could not be synced into others, because what
// the page cache has of them is perhaps the only copy. It returns after which time there is
// more to do, and 0 when there is not.
func (w *writer) rewrite() time.Duration {
	x := w.x
	for {
		x.mu.Lock()
		i := slices.IndexFunc(x.segments, func(g *segment) bool {
			return g.suspect && !g.replaced && g.neededTo().Compare(x.acked) > 0
		})
		if i < 0 {
			x.mu.Unlock()
			return 0
		}
		g, acked := x.segments[i], x.acked
		wait := time.Until(x.trouble.syncAgain)
		x.mu.Unlock()
		if wait > 0 {
			return wait
		}
		if w.active == g {
			w.seal()
			continue
		}
		if err := w.copy(g, acked); err != nil {
			x.mu.Lock()
			x.trouble.synced(err, x.o.SyncInterval)
			x.mu.Unlock()
			continue
		}
		x.mu.Lock()
		g.replaced = true
		f := g.take()
		x.advance()
		x.answer()
		x.mu.Unlock()
		closeFile(f)
		x.wakeSyncer()
		x.tidy()
	}
}

// copy writes the lines of a segment behind a position to new segments.
func (w *writer) copy(g *segment, acked Position) (err error) {
	x := w.x
	f, err := x.disk.open(g.name)
	if err != nil {
		return err
	}
	defer f.Close()
	var to *segment
	defer func() {
		if to != nil {
			x.seal(to)
		}
	}()
	s := scanner{f: f, at: segmentHeader, end: g.end, nonce: g.nonce}
	for {
		r, payload, err := s.next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case (Position{g.epoch, max(r.next(), r.first+1)}).Compare(acked) <= 0:
			continue
		}
		if to != nil && to.end+r.size() > to.size {
			x.seal(to)
			to = nil
		}
		if to == nil {
			if to, err = x.create(header{epoch: g.epoch, first: r.first, time: r.time, place: g.place}); err != nil {
				return err
			}
		}
		b := append(make([]byte, recordHeader, recordHeader+len(payload)), payload...)
		r.put(b, to.nonce)
		if _, err := to.f.WriteAt(b, to.end); err != nil {
			return err
		}
		x.mu.Lock()
		to.add(&r, dataBytes(&r, payload))
		x.mu.Unlock()
	}
}

// marks tell when lines were received.
type marks []mark

type mark struct {
	from Position
	time int64
}

const (
	maxMarks  = 256
	markEvery = int64(20 * time.Millisecond)
)

// add notes when the line at a position was received.
func (m *marks) add(from Position, at int64) {
	if n := len(*m); n > 0 && at-(*m)[n-1].time < markEvery || n > 0 && from.Compare((*m)[n-1].from) <= 0 {
		return
	}
	if len(*m) == maxMarks {
		// The older half becomes coarser.
		kept := (*m)[:0]
		for i, mark := range *m {
			if i >= maxMarks/2 || i%2 == 0 {
				kept = append(kept, mark)
			}
		}
		*m = kept
	}
	*m = append(*m, mark{from, at})
}

// at returns when the line at a position was received, or an earlier time.
func (m *marks) at(p Position) time.Time {
	i := sort.Search(len(*m), func(i int) bool { return (*m)[i].from.Compare(p) > 0 })
	if i == 0 {
		if len(*m) == 0 {
			return time.Now()
		}
		i = 1
	}
	return time.Unix(0, (*m)[i-1].time)
}

// drop forgets what is before a position.
func (m *marks) drop(p Position) {
	i := sort.Search(len(*m), func(i int) bool { return (*m)[i].from.Compare(p) > 0 })
	if i > 1 {
		*m = append((*m)[:0], (*m)[i-1:]...)
	}
}
