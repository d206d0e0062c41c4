package inbox

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"
)

// writer takes what waits in memory and puts it into segments. What is not said to be
// otherwise belongs to its goroutine.
type writer struct {
	x      *Inbox
	active *segment // the one that is written to, if any
	spare  []*item
	retry  time.Duration // the pause before the next try
}

const (
	minRetry = 20 * time.Millisecond
	maxRetry = time.Second
	// probeEvery is how often a disk that was full is tried, and a reserve that is not
	// complete.
	probeEvery = 10 * time.Second
)

var errQuota = errors.New("the spool has reached the size that it may have (max_bytes)")

func (w *writer) run() {
	x := w.x
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	again := time.NewTimer(0) // for rewriting
	defer again.Stop()
	for {
		if wait := w.rewrite(); wait > 0 {
			again.Reset(wait)
		}
		x.mu.Lock()
		items := x.queue.take(w.spare)
		x.mu.Unlock()
		for i, item := range items {
			if !w.write(item) {
				x.mu.Lock()
				x.queue.items = append(items[i:], x.queue.items...) // for Close to count
				x.mu.Unlock()
				return
			}
			items[i] = nil
			item.recycle()
		}
		w.spare = items
		if cap(w.spare) > 1024 {
			w.spare = nil
		}
		if len(items) > 0 {
			continue
		}
		select {
		case <-x.work:
		case <-again.C:
		case <-tick.C:
			x.probe()
		case <-x.abort:
			w.seal()
			return
		}
	}
}

// write puts an item into files, however long that takes. It returns false when the inbox
// is closed before.
func (w *writer) write(i *item) bool {
	if i.buf == nil {
		i.buf = newBuffer(w.x.maxPayload)
	}
	for {
		r, b := i.encode(w.x.maxPayload)
		n := r.length
		switch i.kind {
		case kindPart:
			n -= partHeader
		case kindLines:
			n = i.data
		case kindLost:
			n = 0
		}
		if !w.append(r, b, n, func() {
			if i.kind != kindPart || r.lines > 0 {
				w.x.queue.done(i)
			}
		}) {
			return false
		}
		if i.kind != kindPart || r.lines > 0 {
			return true
		}
		i.sent += n
	}
}

// append adds a record, with so many bytes of lines, to the active segment, or to the next
// one. written is called with the mutex held.
func (w *writer) append(r record, b []byte, bytes int, written func()) bool {
	x := w.x
	for {
		g, err := w.segment(r)
		if err == nil {
			r.put(b, g.nonce)
			if _, err = g.f.WriteAt(b, g.end); err == nil {
				w.retry = 0
				x.mu.Lock()
				idle := x.syncIdle
				g.add(&r, bytes)
				x.writtenTo = Position{g.epoch, r.next()}
				x.trouble.wrote()
				x.marks.add(Position{g.epoch, r.first}, r.time)
				written()
				x.wakeReader()
				x.mu.Unlock()
				if idle {
					x.wakeSyncer()
				}
				return true
			}
			// What the failed write left is behind the end, and no other record will
			// follow there.
			err = fmt.Errorf("write to the spool: %w", err)
			w.abandon(g)
		}
		if !w.pause(err) {
			return false
		}
	}
}

// pause waits until it makes sense to try again. It returns false when the inbox is
// closed before. After a failed write it is tried once at once, with another segment.
func (w *writer) pause(err error) bool {
	x := w.x
	x.mu.Lock()
	known := x.trouble.is(err)
	x.trouble.failed(err)
	again := w.retry == 0 && !errors.Is(err, errQuota) && len(x.free) > 0
	x.mu.Unlock()
	if skipped, ok := x.logErrors.Allow(); ok || !known {
		x.log.Error("lines cannot be written to the spool, they wait in memory", "error", err, "skipped_messages", skipped)
	}
	if again {
		w.retry = minRetry
		return true
	}
	w.retry = min(max(2*w.retry, minRetry), maxRetry)
	timer := time.NewTimer(w.retry)
	defer timer.Stop()
	for {
		select {
		case <-x.work: // lines came, or space is free
			x.mu.Lock()
			free := x.trouble.freed
			x.trouble.freed = false
			x.mu.Unlock()
			if !free {
				continue
			}
		case <-timer.C:
		case <-x.abort:
			return false
		}
		return true
	}
}

// segment returns the active one if a record fits, else another.
func (w *writer) segment(r record) (*segment, error) {
	if g := w.active; g != nil && g.end+r.size() <= g.size {
		return g, nil
	}
	w.seal()
	g, err := w.x.create(header{epoch: w.x.epoch, first: r.first, time: r.time})
	if err != nil {
		return nil, err
	}
	w.active = g
	return g, nil
}

// seal ends the active segment. What is written down about it only saves time later.
func (w *writer) seal() {
	g := w.active
	if g == nil {
		return
	}
	w.active = nil
	w.x.seal(g)
}

func (x *Inbox) seal(g *segment) {
	_, _ = g.f.WriteAt(g.content.encode(g.nonce), headerBlock)
	x.mu.Lock()
	g.sealed = true
	var idle file
	if !g.dirty() {
		idle = g.take()
	}
	x.mu.Unlock()
	closeFile(idle)
	x.wakeSyncer()
	x.tidy() // all of it may have been released
}

// abandon leaves a segment after a failed write. If it holds nothing, other files are tried
// before it is again.
func (w *writer) abandon(g *segment) {
	if w.active == g {
		w.active = nil
	}
	x := w.x
	if g.end > segmentHeader {
		x.seal(g)
		return
	}
	x.mu.Lock()
	x.forget(g)
	f := g.take()
	x.free = append([]string{g.name}, x.free...)
	x.mu.Unlock()
	closeFile(f)
}

// create begins a segment. As long as little is waiting, the files of the reserve are used in
// turn, which costs no space and few writes to the disk. Otherwise the reserve is left
// for a time when the disk is full.
func (x *Inbox) create(h header) (*segment, error) {
	var failed error
	size := x.o.SegmentBytes
	x.mu.Lock()
	inUse, free := int64(len(x.segments))*size, int64(len(x.free))*size
	fromReserve := free > 0 && (inUse < x.o.ReserveBytes/4 || free > x.o.ReserveBytes)
	x.mu.Unlock()
	if !fromReserve {
		name, f, err := x.allocate()
		if err == nil {
			var g *segment
			if g, err = x.begin(name, f, h); err == nil {
				x.mu.Lock()
				x.trouble.reserve = nil
				x.mu.Unlock()
				return g, nil
			}
			x.discard(name, size)
		}
		failed = err
	}
	x.mu.Lock()
	x.trouble.reserve = failed
	if len(x.free) == 0 {
		x.mu.Unlock()
		return nil, failed
	}
	name := x.free[len(x.free)-1]
	x.free = x.free[:len(x.free)-1]
	x.mu.Unlock()
	f, err := x.disk.open(name)
	if err == nil {
		var g *segment
		if g, err = x.begin(name, f, h); err == nil {
			return g, nil
		}
		x.discard(name, size) // half a header would look like damage
	} else {
		x.mu.Lock()
		x.free = append([]string{name}, x.free...)
		x.mu.Unlock()
	}
	return nil, fmt.Errorf("begin a file of the spool: %w", err)
}

// discard removes a file.
func (x *Inbox) discard(name string, size int64) {
	if err := x.disk.remove(name); err != nil {
		x.log.Warn("could not remove a file of the spool", "file", name, "error", err)
	}
	x.mu.Lock()
	x.total -= size
	x.mu.Unlock()
}

// begin writes the header of a segment.
func (x *Inbox) begin(name string, f file, h header) (*segment, error) {
	x.mu.Lock()
	x.generation++
	h.generation = x.generation
	x.mu.Unlock()
	h.nonce = newNonce()
	h.place = cmp.Or(h.place, h.generation)
	g := &segment{
		name: name, size: x.o.SegmentBytes, f: f,
		header:    h,
		content:   content{end: segmentHeader, next: h.first, needed: h.first},
		syncedEnd: segmentHeader, syncedNext: h.first,
	}
	if _, err := f.WriteAt(g.header.encode(), 0); err != nil {
		f.Close()
		return nil, err
	}
	x.mu.Lock()
	i := sort.Search(len(x.segments), func(i int) bool { return before(g, x.segments[i]) })
	x.segments = slices.Insert(x.segments, i, g)
	x.mu.Unlock()
	return g, nil
}

// allocate makes a file, if there may be another.
func (x *Inbox) allocate() (name string, f file, err error) {
	x.mu.Lock()
	if x.total+x.o.SegmentBytes > x.o.MaxBytes {
		x.mu.Unlock()
		return "", nil, errQuota
	}
	x.total += x.o.SegmentBytes
	x.number++
	name = segmentName(x.number)
	x.unnamed = true
	x.mu.Unlock()
	if f, err = x.disk.create(name, x.o.SegmentBytes); err != nil {
		x.mu.Lock()
		x.total -= x.o.SegmentBytes
		x.mu.Unlock()
		return "", nil, fmt.Errorf("make a file of the spool: %w", err)
	}
	return name, f, nil
}

// fillReserve makes the files of the reserve that are missing.
func (x *Inbox) fillReserve() {
	for {
		x.mu.Lock()
		missing := x.total+x.o.SegmentBytes <= x.o.ReserveBytes
		if !missing {
			x.trouble.short = nil
		}
		x.mu.Unlock()
		if !missing {
			return
		}
		err := x.addFree()
		if err != nil {
			x.mu.Lock()
			x.trouble.short = err
			x.mu.Unlock()
			if skipped, ok := x.logErrors.Allow(); ok {
				x.log.Warn("the reserve of the spool is not complete", "error", err, "skipped_messages", skipped)
			}
			return
		}
	}
}

// addFree makes a file that holds nothing.
func (x *Inbox) addFree() error {
	name, f, err := x.allocate()
	if err != nil {
		return err
	}
	f.Close()
	x.mu.Lock()
	x.free = append(x.free, name)
	x.mu.Unlock()
	return nil
}

// probe looks whether there is room again where there was none.
func (x *Inbox) probe() {
	x.fillReserve()
	x.mu.Lock()
	full := x.trouble.reserve != nil
	x.mu.Unlock()
	if full && x.addFree() == nil {
		x.mu.Lock()
		x.trouble.reserve = nil
		x.mu.Unlock()
	}
}
