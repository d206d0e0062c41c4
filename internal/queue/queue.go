// Package queue keeps entries for several readers that go at their own pace, in memory or
// in the files of a directory. An entry goes when all readers have passed it, and not
// before: a reader that stands still fills the queue, but delays no other.
//
// With a directory, [Queue.Append] returns when the entry is synced. Those that are appended
// at the same time share one sync. Entries are there after the process was killed, or
// the machine lost its power, in their order; and the numbers go on.
//
// A queue is the journal of deliveries: it makes events of its entries with the function that
// its owner gave it.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/directory"
	"github.com/tocsin-events/tocsin/internal/position"
)

var (
	// ErrLocked means that another process uses the directory.
	ErrLocked = directory.ErrLocked
	// ErrClosed means that the queue was closed.
	ErrClosed = errors.New("the queue is closed")
	// ErrFull is wrapped by the error about an entry for which there was no room, or which
	// the disk did not take.
	ErrFull = errors.New("the queue is full")
)

// WhenFull is what happens to an entry for which there is no room.
type WhenFull uint8

// The choices.
const (
	// Block waits until there is room, or the context ends.
	Block WhenFull = iota
	// Reject returns an error.
	Reject
	// Drop takes no more until there is some room. An entry that tells how many are missing
	// then stands in their place.
	Drop
)

// Bounds of [Options].
const (
	MaxEntryBytes  = 4 << 20
	MinDiskBytes   = 16 << 20
	MinMemoryBytes = 1 << 20
)

// Options say what a queue is. Decode is required.
type Options struct {
	// Dir is a directory that belongs to the queue alone, readable by this user only. It is
	// made if it does not exist. Files with other names than those of the queue may be in it.
	// Empty keeps entries in memory.
	Dir string
	// MaxBytes bounds the files, or the memory that entries take.
	MaxBytes int64
	// WhenFull is what happens when there is no room.
	WhenFull WhenFull
	// Readers are the names of those that have to pass an entry before it goes.
	Readers []string
	// After is asked, when the directory is locked, for the last position that a reader knows.
	// Entries get later ones, whatever is in the directory. Nil: none is known.
	After func() (position.Position, error)
	// Progress is asked, by a queue in memory that has no room, to call Passed with what is
	// known. It may be nil.
	Progress func()
	// Decode makes the event of an entry. It may be called more than once for an entry, and
	// concurrently; it must not change the bytes, nor keep them. An error makes the entry be reported
	// and left out.
	Decode func(number uint64, entry []byte) (*event.Event, error)
	// Dropped makes the entry that stands for others. It is required with Drop.
	Dropped func(entries uint64, first, last time.Time) []byte
	// Logger is told about damage and about a disk that does not work. Nil: nobody is.
	Logger *slog.Logger
}

// Queue is a queue of entries, numbered from 0. Its methods are safe for concurrent use.
type Queue struct {
	o    Options
	log  *slog.Logger
	lock *os.File // of the directory

	mu      sync.Mutex
	next    uint64            // number of the next entry
	passed  map[string]uint64 // by reader: entries before this one
	sealed  bool              // takes no more entries
	closed  bool
	room    chan struct{} // closed when there may be room; nil: nobody waits
	news    chan struct{} // closed when there is something to read; nil: nobody waits
	drops   drops
	dropped time.Time // when, last
	refused time.Time // when an entry was rejected, last
	stats   Stats
	chunks  []*chunk // memory: all entries; disk: those that were synced last
	bytes   int64    // of chunks
	decoded [decodedChunks]*decodedChunk
	turn    int       // in decoded
	asked   time.Time // when Progress was called last

	disk *disk // nil: in memory
}

// drops are entries that were not taken since the last that was.
type drops struct {
	count       uint64
	first, last time.Time
}

// add adds others, which came earlier or later.
func (d *drops) add(other drops) {
	if other.count == 0 {
		return
	}
	if d.count == 0 || other.first.Before(d.first) {
		d.first = other.first
	}
	if d.count == 0 || other.last.After(d.last) {
		d.last = other.last
	}
	d.count += other.count
}

// Stats is what became of entries since the queue was opened, and what is in it.
type Stats struct {
	Appended uint64
	Dropped  uint64 // by Drop
	Rejected uint64 // by Reject, or because a context ended
	// Waiting is how many entries not all readers have passed, Oldest when the oldest of
	// them was recorded. It is zero when there are none.
	Waiting uint64
	Oldest  time.Time
	// Bytes is how much memory, or of the disk, is used, of MaxBytes.
	Bytes, MaxBytes int64
	// Syncs is how often a group of entries was made durable.
	Syncs uint64
	// Torn is how many files ended in a group of entries that was cut off, as a crash leaves it: those
	// had not been acknowledged. Damaged is how many places of files could not be read, and
	// Missing how many entries were there.
	Torn, Damaged, Missing uint64
	// Trouble is why the disk does not take entries; nil when it does.
	Trouble error
}

// Open returns a queue with what a former process left in it.
func Open(o Options) (*Queue, error) {
	q := &Queue{o: o, log: o.Logger, passed: make(map[string]uint64)}
	if q.log == nil {
		q.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range o.Readers {
		q.passed[name] = 0
	}
	if o.Dir == "" {
		q.o.MaxBytes = max(o.MaxBytes, MinMemoryBytes)
		after, err := q.after()
		q.next = after.NextOrdinal()
		return q, err
	}
	q.o.MaxBytes = max(o.MaxBytes, MinDiskBytes)
	if err := q.openDisk(); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *Queue) after() (position.Position, error) {
	if q.o.After == nil {
		return position.Position{}, nil
	}
	return q.o.After()
}

// Append adds an entry. In memory it returns at once unless the queue is full. On disk it
// returns when the entry is synced. The context bounds how long it waits for room and for a
// disk that does not work; what a working disk takes is waited for in any case. After an error the
// entry is not in the queue, or, if the error wraps that of the context, perhaps all the
// same.
func (q *Queue) Append(ctx context.Context, entry []byte) error {
	if len(entry) == 0 || len(entry) > MaxEntryBytes {
		return fmt.Errorf("an entry of %d bytes cannot be queued, at most %d are possible", len(entry), MaxEntryBytes)
	}
	q.mu.Lock()
	for asked := false; ; asked = false {
		if !q.sealed && q.disk == nil && q.o.Progress != nil && !q.hasRoom(len(entry)) {
			q.progress()
			asked = true
		}
		switch {
		case q.sealed:
			q.mu.Unlock()
			return ErrClosed
		case q.hasRoom(len(entry)):
			if q.drops.count > 0 {
				q.noteDrops()
			}
			if q.disk == nil {
				q.addToMemory(entry)
				q.mu.Unlock()
				return nil
			}
			g := q.disk.add(q, entry)
			q.mu.Unlock()
			return q.wait(ctx, g)
		case q.o.WhenFull == Drop:
			q.drop(1)
			q.mu.Unlock()
			return nil
		case q.o.WhenFull == Reject:
			q.reject(1)
			err := q.fullError()
			q.mu.Unlock()
			return err
		}
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		var again <-chan time.Time
		if asked {
			again = time.After(progressEvery)
		}
		select {
		case <-room:
			q.mu.Lock()
		case <-again:
			q.mu.Lock()
		case <-ctx.Done():
			q.mu.Lock()
			q.reject(1)
			err := fmt.Errorf("%w: %w", q.fullError(), context.Cause(ctx))
			q.mu.Unlock()
			return err
		}
	}
}

// progressEvery is how often Progress is asked while there is no room.
const progressEvery = 2 * time.Millisecond

// progress asks for what is passed, not too often. q.mu is held, and released meanwhile.
func (q *Queue) progress() {
	now := time.Now()
	if now.Sub(q.asked) < progressEvery {
		return
	}
	q.asked = now
	q.mu.Unlock()
	q.o.Progress()
	q.mu.Lock()
}

// hasRoom reports whether an entry is taken. q.mu is held.
func (q *Queue) hasRoom(size int) bool {
	if q.disk != nil {
		return q.disk.hasRoom(size) && (q.drops.count == 0 || q.disk.bytes <= maxPendingBytes/2)
	}
	n := len(q.chunks)
	switch {
	case n == 0:
		return true
	case q.drops.count > 0: // so that what is dropped is dropped in one piece
		return q.bytes <= q.o.MaxBytes/4*3
	case q.chunks[n-1].fits(size):
		return true
	}
	return q.bytes+chunkMemory(size) <= q.o.MaxBytes
}

func (q *Queue) fullError() error {
	if q.disk != nil && q.disk.trouble != nil && !errors.Is(q.disk.trouble, ErrFull) {
		return fmt.Errorf("%w: %w", ErrFull, q.disk.trouble)
	}
	return fmt.Errorf("%w: %d bytes wait for %s", ErrFull, q.used(), q.slowest())
}

func (q *Queue) used() int64 {
	if q.disk != nil {
		return q.disk.total
	}
	return q.bytes
}

// slowest names the reader that is behind all others.
func (q *Queue) slowest() string {
	name, least := "a reader", uint64(1<<63)
	for n, at := range q.passed {
		if at < least || at == least && n < name {
			name, least = n, at
		}
	}
	return name
}

// drop notes entries that are not taken. q.mu is held.
func (q *Queue) drop(n uint64) {
	now := time.Now()
	if q.drops.count == 0 {
		q.drops.first = now
		q.log.Error("the queue is full: what comes is dropped until there is room", "waits_for", q.slowest())
	}
	q.drops.count += n
	q.drops.last, q.dropped = now, now
	q.stats.Dropped += n
}

// noteDrops adds the entry that stands for those that were dropped, and returns its group on
// disk. q.mu is held.
func (q *Queue) noteDrops() *group {
	d := q.drops
	q.drops = drops{}
	entry := q.o.Dropped(d.count, d.first, d.last)
	q.log.Error("events were dropped because the queue was full", "events", d.count, "since", d.first)
	if q.disk == nil {
		q.addToMemory(entry)
		return nil
	}
	g := q.disk.add(q, entry)
	g.drops.add(d)
	g.markers++
	return g
}

// Passed tells that a reader will not ask again for what is up to a position.
func (q *Queue) Passed(reader string, p position.Position) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at, ok := q.passed[reader]
	if !ok || p.NextOrdinal() <= at {
		return
	}
	q.passed[reader] = min(p.NextOrdinal(), q.next)
	q.free()
}

// needed returns the number of the oldest entry that a reader still needs. q.mu is held.
func (q *Queue) needed() uint64 {
	needed := q.next
	for _, at := range q.passed {
		needed = min(needed, at)
	}
	return needed
}

// free frees what nobody needs. q.mu is held.
func (q *Queue) free() {
	needed := q.needed()
	if q.disk != nil {
		q.disk.free(q, needed)
		return
	}
	n := 0
	for n < len(q.chunks) && q.chunks[n].next() <= needed {
		if n == len(q.chunks)-1 && q.chunks[n].fits(chunkBytes/2) {
			break // the next entries go there
		}
		q.bytes -= q.chunks[n].memory()
		n++
	}
	if n > 0 {
		q.chunks = dropFirst(q.chunks, n)
		q.madeRoom()
	}
}

// madeRoom wakes those who wait for room. q.mu is held.
func (q *Queue) madeRoom() {
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}

// published wakes readers. q.mu is held.
func (q *Queue) published() {
	if q.news != nil {
		close(q.news)
		q.news = nil
	}
}

// Stats returns the counters.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	s.Bytes, s.MaxBytes = q.used(), q.o.MaxBytes
	end, needed := q.readable(), q.needed()
	if needed < end {
		s.Waiting = end - needed
		s.Oldest = q.recordedAt(needed)
	}
	if q.disk != nil {
		s.Waiting += q.next - end
		s.Trouble = q.disk.trouble
	}
	return s
}

// recordedAt is about when an entry was recorded. q.mu is held.
func (q *Queue) recordedAt(number uint64) time.Time {
	if q.disk != nil {
		if at, ok := q.disk.recordedAt(number); ok {
			return at
		}
	}
	for _, c := range q.chunks {
		if number < c.next() {
			return c.recorded
		}
	}
	return time.Time{}
}

// End returns the position of the newest entry that can be read.
func (q *Queue) End() position.Position {
	q.mu.Lock()
	defer q.mu.Unlock()
	return positionBefore(q.readable())
}

// readable is the number of the first entry that cannot be read yet. q.mu is held.
func (q *Queue) readable() uint64 {
	if q.disk != nil {
		return q.disk.synced
	}
	return q.next
}

// Begin returns the position before the oldest entry that there is.
func (q *Queue) Begin() position.Position {
	q.mu.Lock()
	defer q.mu.Unlock()
	begin := q.readable()
	if q.disk != nil && len(q.disk.segments) > 0 {
		begin = min(begin, q.disk.segments[0].first)
	} else if q.disk == nil && len(q.chunks) > 0 {
		begin = q.chunks[0].first
	}
	return positionBefore(begin)
}

// reject counts entries that are not taken, of which their owners are told. q.mu is held.
func (q *Queue) reject(n uint64) {
	q.stats.Rejected += n
	q.refused = time.Now()
}

// LastRejection returns when an entry was rejected last, zero when none was.
func (q *Queue) LastRejection() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refused
}

// LastDrop returns when an entry was dropped last, zero when none was.
func (q *Queue) LastDrop() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// Seal makes that no more entries are taken, adds the one that tells what was dropped, if
// something was, and leaves what is there to the readers. It returns when they can have it, or
// the context has ended.
func (q *Queue) Seal(ctx context.Context) {
	q.mu.Lock()
	if q.sealed {
		q.mu.Unlock()
		return
	}
	q.sealed = true
	var g *group
	if q.drops.count > 0 && (q.disk == nil || q.disk.trouble == nil || errors.Is(q.disk.trouble, ErrFull)) {
		g = q.noteDrops() // may exceed the bounds a little; files have a reserve for it
	}
	q.madeRoom()
	q.mu.Unlock()
	if g == nil {
		return
	}
	select {
	case <-g.done:
	case <-ctx.Done():
	}
}

// Close ends the queue when what was appended is synced. Readers return [ErrClosed].
func (q *Queue) Close() error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		if q.disk != nil {
			<-q.disk.ended
		}
		return nil
	}
	q.sealed, q.closed = true, true
	if q.drops.count > 0 {
		q.noteDrops()
	}
	q.madeRoom()
	q.published()
	q.mu.Unlock()
	if q.disk == nil {
		return nil
	}
	return q.disk.close(q)
}

// positionOf is the position of an entry.
func positionOf(number uint64) position.Position {
	return position.Position{Seq: number + 1, Ordinal: number}
}

// positionBefore is the position of the entry before one.
func positionBefore(number uint64) position.Position {
	if number == 0 {
		return position.Position{}
	}
	return positionOf(number - 1)
}

// dropFirst removes the first n elements and lets go of them.
func dropFirst[T any](s []T, n int) []T {
	clear(s[:n])
	if s = s[n:]; len(s) == 0 {
		return nil
	}
	return s
}
