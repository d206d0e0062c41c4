package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/directory"
)

// Bounds of what is in memory of a queue on disk.
const (
	maxPendingBytes = 4 << 20 // not yet written
	recentBytes     = 2 << 20 // synced last
	recentChunks    = 256

	// closingReserve is the part of a segment that only the last entry may take that tells
	// what was dropped.
	closingReserve = 4 << 10

	// keptFiles is how many damaged files are kept aside.
	keptFiles = 8

	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second

	// commitGrace is how long a commit is waited for when the context has ended.
	commitGrace = time.Second
)

// disk is what a queue has beside what is in memory. Its fields are guarded by the mutex of
// the queue.
type disk struct {
	dir          string
	segmentBytes int64
	segments     []*segment // oldest first
	active       *segment   // the last of them, if it may grow
	nextFile     uint64     // number of the next segment
	total        int64      // bytes of segments
	synced       uint64     // number behind the last entry that is durable
	kept         int        // damaged files

	pending []*group // to be written, oldest first; the last may grow
	bytes   int      // of pending, and of what is being written
	spare   []byte   // for the next group
	trouble error    // why the last write failed
	wake    chan struct{}
	retry   chan struct{} // space was freed
	stopped chan struct{} // Close was called
	ended   chan struct{} // the writer has returned
	err     error         // of closing
}

// group are entries that are written and synced together.
type group struct {
	first    uint64
	entries  int
	buf      []byte // room for a header, and the payload
	drops    drops  // what its markers tell of
	markers  int    // entries that stand for others
	done     chan struct{}
	err      error // after done
	attempts int
}

// hasRoom reports whether an entry is taken.
func (d *disk) hasRoom(size int) bool {
	return d.trouble == nil && (d.bytes == 0 || d.bytes+size <= maxPendingBytes)
}

// add puts an entry into the group that is written next. q.mu is held.
func (d *disk) add(q *Queue, entry []byte) *group {
	need := len(entry) + binary.MaxVarintLen32
	var g *group
	if n := len(d.pending); n > 0 && len(d.pending[n-1].buf)+need <= groupHeader+maxGroupBytes {
		g = d.pending[n-1]
	} else {
		g = &group{first: q.next, done: make(chan struct{})}
		if cap(d.spare) >= groupHeader+need {
			g.buf, d.spare = d.spare[:groupHeader], nil
		} else {
			g.buf = make([]byte, groupHeader, groupHeader+max(need, 4<<10))
		}
		d.pending = append(d.pending, g)
	}
	before := len(g.buf)
	g.buf = append(binary.AppendUvarint(g.buf, uint64(len(entry))), entry...)
	g.entries++
	d.bytes += len(g.buf) - before
	q.next++
	select {
	case d.wake <- struct{}{}:
	default:
	}
	return g
}

// wait waits until a group is durable.
func (q *Queue) wait(ctx context.Context, g *group) error {
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
	}
	timer := time.NewTimer(commitGrace)
	defer timer.Stop()
	select {
	case <-g.done:
		return g.err
	case <-timer.C:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reject(1)
	why := context.Cause(ctx)
	if q.disk.trouble != nil {
		return &notDurable{q.disk.trouble, why}
	}
	return &notDurable{why}
}

// notDurable is the error about an entry that was not synced in time. It is [ErrFull]: the disk did
// not take the entry.
type notDurable []error

func (e *notDurable) Error() string {
	text := "the entry is not durable yet"
	for _, err := range *e {
		text += ": " + err.Error()
	}
	return text
}

func (e *notDurable) Unwrap() []error { return append([]error{ErrFull}, *e...) }

// write is the goroutine that writes and syncs groups, until the queue is closed.
func (q *Queue) write() {
	d := q.disk
	defer close(d.ended)
	for {
		g := q.nextGroup()
		if g == nil {
			select {
			case <-d.wake:
				continue
			case <-d.stopped:
			}
			if g = q.nextGroup(); g == nil {
				return
			}
		}
		if err := q.commit(g); err != nil && !q.failed(g, err) {
			q.giveUp(err)
			return
		}
	}
}

// nextGroup returns the oldest group, which grows no more.
func (q *Queue) nextGroup() *group {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.disk
	if len(d.pending) == 0 {
		return nil
	}
	g := d.pending[0]
	d.pending = dropFirst(d.pending, 1)
	return g
}

// commit makes a group durable, and lets readers have it.
func (q *Queue) commit(g *group) error {
	g.attempts++
	now := time.Now()
	q.mu.Lock()
	s, err := q.target(g)
	q.mu.Unlock()
	if err != nil {
		return err
	}
	h := groupHead{length: len(g.buf) - groupHeader, entries: g.entries, first: g.first, recorded: now.UnixNano()}
	h.put(g.buf)
	if err = s.prepare(len(g.buf)); err == nil {
		_, err = s.file.WriteAt(g.buf, s.end)
	}
	if err == nil {
		err = directory.SyncData(s.file)
	}
	c := &chunk{first: g.first, recorded: now.UTC()}
	if err == nil {
		c.data, c.ends = make([]byte, 0, h.length), make([]int32, 0, h.entries)
		h.sum = binary.LittleEndian.Uint32(g.buf[28:])
		h.appendEntries(c, g.buf[groupHeader:])
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.disk
	if err != nil {
		q.abandon(s)
		return fmt.Errorf("write to the queue: %w", err)
	}
	s.mark(&h, s.end)
	s.end += int64(len(g.buf))
	s.next = h.next()
	d.synced = s.next
	d.bytes -= h.length
	q.stats.Syncs++
	q.stats.Appended += uint64(g.entries)
	q.remember(c)
	if d.trouble != nil {
		q.log.Warn("the disk takes events again")
		d.trouble = nil
	}
	close(g.done)
	if cap(g.buf) <= 2*maxGroupBytes {
		d.spare = g.buf
	}
	q.madeRoom()
	q.published()
	return nil
}

// remember keeps what was synced last in memory. q.mu is held.
func (q *Queue) remember(c *chunk) {
	q.chunks = append(q.chunks, c)
	q.bytes += c.memory()
	n := 0
	for n < len(q.chunks)-1 && (q.bytes > recentBytes || len(q.chunks)-n > recentChunks) {
		q.bytes -= q.chunks[n].memory()
		n++
	}
	q.chunks = dropFirst(q.chunks, n)
}

// target returns the segment that has room for a group. q.mu is held, and released meanwhile
// to make a new one.
func (q *Queue) target(g *group) (*segment, error) {
	d := q.disk
	reserve := int64(closingReserve)
	if q.sealed {
		reserve = 0
	}
	if s := d.active; s != nil && s.end+int64(len(g.buf))+reserve <= s.size {
		return s, nil
	}
	size := max(d.segmentBytes, segmentHeader+int64(len(g.buf))+closingReserve)
	if d.total+size > q.o.MaxBytes {
		return nil, q.noSpace()
	}
	dir, number := d.dir, d.nextFile
	d.nextFile++
	q.mu.Unlock()
	s, err := createSegment(dir, number, g.first, size)
	q.mu.Lock()
	if err != nil {
		return nil, fmt.Errorf("begin a file of the queue: %w", err)
	}
	d.segments = append(d.segments, s)
	d.active = s
	d.total += s.size
	q.free() // the one before it may be free to go
	return s, nil
}

// noSpace says why there is no room for another segment. q.mu is held.
func (q *Queue) noSpace() error {
	return fmt.Errorf("%w: the %d bytes that it may take are in use, and wait for %s", ErrFull, q.o.MaxBytes, q.slowest())
}

// abandon ends a segment that could not be written. What is behind its end is nothing that
// anybody was told of. q.mu is held.
func (q *Queue) abandon(s *segment) {
	d := q.disk
	if d.active == s {
		d.active = nil
	}
	_ = s.file.Truncate(s.end)
	d.total -= s.size - s.end
	s.size = s.end
	if s.next == s.first {
		d.segments = slices.DeleteFunc(d.segments, func(other *segment) bool { return other == s })
		d.total -= s.size
		s.file.Close()
		_ = os.Remove(s.path)
	}
}

// failed does about a group that could not be written what the owner chose, and reports
// whether the writer goes on.
func (q *Queue) failed(g *group, err error) bool {
	d := q.disk
	q.mu.Lock()
	known := d.trouble != nil
	d.trouble = err
	if !known {
		q.log.Error("the disk does not take events", "error", err, "then", [...]string{"block", "reject", "drop"}[q.o.WhenFull])
	}
	closed, full := q.closed, errors.Is(err, ErrFull)
	if q.o.WhenFull != Block {
		// The numbers of entries that are not taken are used again, which readers do not
		// notice: nobody has seen these.
		q.refuse(append([]*group{g}, d.pending...), err)
		d.pending = nil
		q.next = d.synced
		g = nil
	}
	q.mu.Unlock()
	switch {
	case closed:
		if g != nil {
			q.mu.Lock()
			d.pending = append([]*group{g}, d.pending...)
			q.mu.Unlock()
		}
		return false
	case g == nil && full: // when space is freed, entries are taken again
		select {
		case <-d.retry: // which may have happened before anybody knew of the trouble
			q.mu.Lock()
			defer q.mu.Unlock()
			d.trouble = nil
			q.madeRoom()
		default:
		}
		return true
	}
	attempts := 1
	if g != nil {
		attempts = g.attempts
	}
	timer := time.NewTimer(min(lastRetry, firstRetry<<min(attempts-1, 8)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.retry:
	case <-d.stopped:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if g == nil {
		d.trouble = nil // the next entry finds out
		q.madeRoom()
		return true
	}
	d.pending = append([]*group{g}, d.pending...)
	return true
}

// refuse tells those who wait for groups that they are not taken. q.mu is held.
func (q *Queue) refuse(groups []*group, err error) {
	for _, g := range groups {
		n := uint64(g.entries)
		switch q.o.WhenFull {
		case Drop:
			q.drops.add(g.drops) // these have to be told of again
			if n -= uint64(g.markers); n > 0 {
				q.drop(n)
			}
		default:
			q.reject(n)
			g.err = err
			if !errors.Is(err, ErrFull) {
				g.err = fmt.Errorf("%w: %w", ErrFull, err)
			}
		}
		q.disk.bytes -= len(g.buf) - groupHeader
		close(g.done)
	}
}

// giveUp ends what could not be written when the queue was closed.
func (q *Queue) giveUp(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.disk
	entries := 0
	for _, g := range d.pending {
		g.err = fmt.Errorf("%w, and the entry was not written: %w", ErrClosed, err)
		entries += g.entries
		close(g.done)
	}
	if entries > 0 {
		d.err = fmt.Errorf("%d entries were not written: %w", entries, err)
	}
	if q.o.WhenFull == Drop && q.drops.count > 0 {
		d.err = fmt.Errorf("%d entries were dropped, and that could not be written: %w", q.drops.count, err)
	}
	d.pending = nil
}

// free removes the files that nobody needs, but for the last: it says what the next number
// is. q.mu is held.
func (d *disk) free(q *Queue, needed uint64) {
	freed := false
	for len(d.segments) > 1 && d.segments[0] != d.active && d.segments[0].next <= needed && needed >= d.segments[1].first {
		s := d.segments[0]
		d.segments = dropFirst(d.segments, 1)
		d.total -= s.size
		s.file.Close()
		if s.bad && d.kept < keptFiles {
			d.kept++
			if err := os.Rename(s.path, s.path+damagedSuffix); err != nil {
				q.log.Warn("a damaged file of the queue could not be kept aside", "error", err)
			}
		} else if err := os.Remove(s.path); err != nil {
			q.log.Warn("a file of the queue could not be removed", "error", err)
		}
		freed = true
	}
	if freed {
		select {
		case d.retry <- struct{}{}:
		default:
		}
		if q.o.WhenFull != Block && errors.Is(d.trouble, ErrFull) {
			d.trouble = nil
		}
		q.madeRoom()
	}
}

// find returns the segment that has an entry, or the first behind it. q.mu is held.
func (d *disk) find(number uint64) *segment {
	i := sort.Search(len(d.segments), func(i int) bool { return d.segments[i].next > number })
	if i == len(d.segments) {
		return nil
	}
	return d.segments[i]
}

func (d *disk) recordedAt(number uint64) (time.Time, bool) {
	s := d.find(number)
	if s == nil {
		return time.Time{}, false
	}
	m, ok := s.before(number)
	if !ok {
		return time.Time{}, false
	}
	return nanos(m.recorded), true
}

// openDisk finds what is in the directory, and begins to write.
func (q *Queue) openDisk() (err error) {
	if err := directory.Make(q.o.Dir); err != nil {
		return fmt.Errorf("create the directory of the queue: %w", err)
	}
	if q.lock, err = directory.Lock(filepath.Join(q.o.Dir, lockFile)); err != nil {
		return err
	}
	q.disk = &disk{
		dir:          q.o.Dir,
		segmentBytes: min(max(q.o.MaxBytes/16, 1<<20), 64<<20),
		nextFile:     1,
		wake:         make(chan struct{}, 1), retry: make(chan struct{}, 1),
		stopped: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := q.load(); err != nil {
		q.closeFiles()
		return err
	}
	go q.write()
	return nil
}

// load scans the files of former processes.
func (q *Queue) load() error {
	d := q.disk
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return fmt.Errorf("read the directory of the queue: %w", err)
	}
	for _, entry := range entries { // in the order of their numbers
		if strings.HasSuffix(entry.Name(), segmentSuffix+damagedSuffix) {
			d.kept++
		}
		number, ok := segmentNumber(entry.Name())
		if !ok || !entry.Type().IsRegular() {
			continue
		}
		d.nextFile = max(d.nextFile, number+1)
		if err := q.loadSegment(filepath.Join(d.dir, entry.Name()), number); err != nil {
			return err
		}
	}
	for i, s := range d.segments {
		if i+1 < len(d.segments) {
			following := d.segments[i+1].first
			if s.next > following { // the end could not be synced, and was written anew
				s.next = max(following, s.first)
			}
			if s.next < following {
				s.holes = append(s.holes, hole{from: s.next, to: following, begin: s.end, end: s.end, why: "its end is damaged"})
				s.next, s.bad = following, true
			}
		}
		q.next = max(q.next, s.next)
		for _, h := range s.holes {
			q.stats.Damaged++
			q.stats.Missing += h.to - h.from
			q.log.Error("a part of a file of the queue cannot be read; the file is kept aside", "file", s.path, "events", h.to-h.from, "error", h.why)
		}
	}
	known, err := q.after()
	if err != nil {
		return err
	}
	if after := known.NextOrdinal(); after > q.next {
		q.log.Error("the queue has lost events that were delivered already, or its files were removed", "events", after-q.next)
		if n := len(d.segments); n > 0 {
			s := d.segments[n-1]
			s.holes = append(s.holes, hole{from: s.next, to: after, begin: s.end, end: s.end, why: "files are gone"})
			s.next = after
		}
		q.next = after
	}
	d.synced = q.next
	for name := range q.passed {
		q.passed[name] = 0
	}
	return nil
}

func (q *Queue) loadSegment(path string, number uint64) error {
	d := q.disk
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open a file of the queue: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("look at a file of the queue: %w", err)
	}
	s, err := scan(f, info.Size())
	switch {
	case errors.Is(err, errNoSegment):
		f.Close()
		q.stats.Damaged++
		q.log.Error("a file of the queue is damaged at its beginning; it is kept aside", "file", path)
		if err := os.Rename(path, path+damagedSuffix); err != nil {
			return fmt.Errorf("keep a damaged file of the queue aside: %w", err)
		}
		d.kept++
		return nil
	case err != nil:
		f.Close()
		return fmt.Errorf("read a file of the queue: %w", err)
	case !s.begun:
		f.Close()
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove an empty file of the queue: %w", err)
		}
		return nil
	}
	if s.torn {
		q.stats.Torn++
		q.log.Warn("the process ended while it wrote to the queue; the events of that moment had not been acknowledged", "file", path, "at", s.end)
	}
	if info.Size() > s.end && !s.torn { // give back what was taken in advance
		if err := f.Truncate(s.end); err == nil {
			info, err = f.Stat()
			if err != nil {
				f.Close()
				return fmt.Errorf("look at a file of the queue: %w", err)
			}
		}
	}
	g := &segment{
		path: path, number: number, file: f, first: s.first, next: s.next, end: s.end, size: info.Size(),
		marks: s.marks, holes: s.holes, bad: len(s.holes) > 0,
	}
	d.segments = append(d.segments, g)
	d.total += g.size
	return nil
}

// close ends the writer and closes the files.
func (d *disk) close(q *Queue) error {
	close(d.stopped)
	<-d.ended
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := d.active; s != nil { // give back what was taken in advance
		if err := s.file.Truncate(s.end); err == nil {
			s.size = s.end
		}
	}
	q.closeFiles()
	return d.err
}

func (q *Queue) closeFiles() {
	for _, s := range q.disk.segments {
		s.file.Close()
	}
	q.lock.Close()
}
