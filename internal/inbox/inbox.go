// Package inbox takes lines from senders that must never wait, such as audit devices,
// and keeps them until whoever reads them has made them durable: in a bounded memory
// buffer first, then in a spool of files, from which they are read in order.
//
// [Inbox.Put] costs a sender no disk access and no lock that the disk holds. What it
// took is in a file, and so survives the end of the process, within a moment; it
// survives the machine once it is synced or durable elsewhere, which [Inbox.Durable]
// waits for. A part of the space is taken from the disk beforehand, so that lines
// are still kept when the disk is full. What does not fit is counted and told to the
// reader in its place.
//
// It knows lines, not what they say. They are in the files as they came, readable by
// this user only: where a server logs secrets without hashing them (log_raw), they are
// in the spool, too, until the space is used again.
package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/directory"
	"github.com/tocsin-events/tocsin/internal/tail"
	"github.com/tocsin-events/tocsin/internal/throttle"
)

// Line is one line, without its end.
type Line = tail.Line

var (
	// ErrFull means that lines were dropped because neither memory nor disk has room.
	// They are counted and told to the reader.
	ErrFull = errors.New("the inbox is full")
	// ErrClosed means that the inbox was closed.
	ErrClosed = errors.New("the inbox is closed")
	// ErrLocked means that another process uses the directory.
	ErrLocked = directory.ErrLocked
)

// WhenFull says what Put does when there is no room.
type WhenFull uint8

const (
	Drop  WhenFull = iota // does not keep the lines, and counts them
	Block                 // waits
)

// Options say where an inbox is and how large it may become. Dir is required.
type Options struct {
	// Dir belongs to the inbox alone. It is made if it does not exist, readable by
	// this user only.
	Dir string
	// MemoryBytes is how much may wait in memory for the disk; default 16 MiB. A
	// single line that is longer is taken when nothing waits.
	MemoryBytes int64
	// MaxBytes is the most that the files take; default 1 GiB.
	MaxBytes int64
	// ReserveBytes of that are taken from the disk at once and kept; default none.
	ReserveBytes int64
	// SegmentBytes is the size of a file. Space is freed a file at a time. The
	// default is 8 MiB with the default of MaxBytes.
	SegmentBytes int64
	// SyncInterval is how long a line may be in the page cache only, if it is not
	// acknowledged before; default 1 s.
	SyncInterval time.Duration
	WhenFull     WhenFull
	Logger       *slog.Logger // default: none

	grace time.Duration // how long Durable hopes for the journal; default 3 ms
	disk  disk          // in tests
}

const (
	minSegment = 256 << 10
	maxSegment = 64 << 20
)

func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("the inbox has no directory")
	}
	defaultTo(&o.MemoryBytes, 16<<20)
	defaultTo(&o.MaxBytes, 1<<30)
	defaultTo(&o.SyncInterval, time.Second)
	defaultTo(&o.grace, 3*time.Millisecond)
	if o.SegmentBytes <= 0 {
		size := o.MaxBytes / 128
		if o.ReserveBytes > 0 {
			size = min(size, o.ReserveBytes/8)
		}
		o.SegmentBytes = min(max(size, minSegment), maxSegment)
	}
	o.SegmentBytes = max(o.SegmentBytes, 4<<10)
	if o.MaxBytes < 2*o.SegmentBytes {
		return fmt.Errorf("the inbox may have %d bytes, which is less than two files of %d", o.MaxBytes, o.SegmentBytes)
	}
	o.ReserveBytes = min(o.ReserveBytes, o.MaxBytes)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.disk == nil {
		o.disk = directoryDisk(o.Dir)
	}
	return nil
}

func defaultTo[T int64 | time.Duration](value *T, otherwise T) {
	if *value <= 0 {
		*value = otherwise
	}
}

// Inbox is a queue of lines. Put and Durable are safe for any number of goroutines. Read
// is for one goroutine; the other methods may be called at any time.
type Inbox struct {
	o          Options
	lock       *os.File
	log        *slog.Logger
	disk       disk
	maxPayload int // of the records that are written
	epoch      uint64
	before     uint64 // the last epoch that there was at Open; 0: none
	epochFile  *epochFile

	work     chan struct{} // the writer has something to do; one is enough
	syncs    chan struct{} // the same for the syncer
	abort    chan struct{} // Close waits no longer
	stop     chan struct{} // the syncer ends
	finished sync.WaitGroup
	closing  chan struct{} // closed at the beginning of Close

	writer writer // belongs to the writer's goroutine
	reader reader // belongs to Read

	mu sync.Mutex // never held while the disk is used

	queue  queue
	closed bool

	segments   []*segment // that hold lines, in order; the last may be written to
	free       []string   // files that are allocated and hold nothing, the last one used before others
	total      int64      // bytes of all files
	number     uint64     // of the last file
	generation uint64     // of the last segment
	unnamed    bool       // there are files whose names are not durable

	written   chan struct{} // closed when something was written, made by who waits
	readTo    Position      // behind the last line given out
	acked     Position      // before this all lines are durable elsewhere
	released  Position
	writtenTo Position // behind the last line in a file
	synced    Position // before this all are durable here or there
	syncIdle  bool     // the syncer has nothing to wait for but news
	waiters   []*waiter
	marks     marks
	trouble   trouble
	counts    Counts
	toldLost  uint64 // dropped lines that the log knows of
	logErrors throttle.Throttle
}

// Open locks the directory and finds what is left in it.
func Open(o Options) (*Inbox, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	if err := directory.Make(o.Dir); err != nil {
		return nil, fmt.Errorf("create the directory of the inbox: %w", err)
	}
	lock, err := directory.Lock(filepath.Join(o.Dir, lockFile))
	if err != nil {
		if errors.Is(err, ErrLocked) {
			err = fmt.Errorf("%w (the spool of a source belongs to one process)", err)
		}
		return nil, err
	}
	x := &Inbox{
		o: o, lock: lock, disk: o.disk,
		log:        o.Logger.With("spool", o.Dir),
		maxPayload: int(min(maxPayload, max((o.SegmentBytes-segmentHeader)/8, 512))),
		work:       make(chan struct{}, 1),
		syncs:      make(chan struct{}, 1),
		abort:      make(chan struct{}),
		stop:       make(chan struct{}),
		closing:    make(chan struct{}),
	}
	x.writer.x, x.reader.x = x, x
	x.reader.loose = true
	if err := x.load(); err != nil {
		lock.Close()
		return nil, err
	}
	x.finished.Go(x.writer.run)
	x.finished.Go(x.syncer)
	return x, nil
}

const (
	lockFile      = "LOCK"
	epochName     = "EPOCH"
	segmentSuffix = ".inbox"
	damagedSuffix = ".damaged"
)

// Put takes lines, all or none, in order and together. It returns the position behind
// them, which Durable and the reader know. The data must not be changed any more.
//
// When there is no room it returns ErrFull at once, and the lines are counted and told to
// the reader in their place; with Block, it waits until there is room, and returns the
// error of ctx, without any trace, when that ends before. A line that is longer than about
// three quarters of MaxBytes never has room.
func (x *Inbox) Put(ctx context.Context, lines []Line) (Position, error) {
	at := time.Now().UnixNano()
	cost := costOf(lines)
	x.mu.Lock()
	for {
		if x.closed {
			x.mu.Unlock()
			return Position{}, ErrClosed
		}
		now, ever := x.fits(lines)
		if now && x.queue.room(cost, x.o.MemoryBytes) {
			break
		}
		if x.o.WhenFull == Drop || !ever {
			x.drop(lines, at)
			end := x.end()
			x.mu.Unlock()
			x.wakeWriter()
			return end, fmt.Errorf("%w: %d lines were dropped", ErrFull, len(lines))
		}
		if x.queue.freed == nil {
			x.queue.freed = make(chan struct{})
		}
		freed := x.queue.freed
		x.counts.Blocked++
		x.mu.Unlock()
		select {
		case <-freed:
		case <-x.closing:
		case <-ctx.Done():
			return Position{}, ctx.Err()
		}
		x.mu.Lock()
	}
	for i := range lines {
		x.queue.add(&lines[i], at, x.maxPayload)
	}
	end := x.end()
	x.mu.Unlock()
	if len(lines) > 0 {
		x.wakeWriter()
	}
	return end, nil
}

// fits reports whether there may be room in the files for each of the lines. One that had to
// wait in the middle for room that nobody makes would stop everything. x.mu is held.
func (x *Inbox) fits(lines []Line) (now, ever bool) {
	now, ever = true, true
	for i := range lines {
		if lineBytes(&lines[i]) <= x.maxPayload {
			continue
		}
		size := int64(len(lines[i].Data)) / 3 * 4 // with headers and what is left of each file
		if size > x.o.MaxBytes-2*x.o.SegmentBytes {
			return false, false
		}
		if why := x.trouble.reserve; why != nil && why != errQuota && size > int64(len(x.free))*x.o.SegmentBytes {
			now = false
		}
	}
	return now, ever
}

// end is the position behind all that was put. x.mu is held.
func (x *Inbox) end() Position { return Position{x.epoch, x.queue.next} }

// drop counts lines that have no room. x.mu is held.
func (x *Inbox) drop(lines []Line, now int64) {
	var bytes uint64
	for i := range lines {
		bytes += uint64(max(lines[i].Size, int64(len(lines[i].Data))))
	}
	at := time.Unix(0, now)
	x.queue.lose(Lost{Reason: Full, Lines: uint64(len(lines)), Bytes: bytes, First: at, Last: at})
	x.counts.DroppedLines += uint64(len(lines))
	x.counts.DroppedBytes += bytes
	x.wakeSyncer() // to log it: a log may be on a disk that is slow
}

func (x *Inbox) wakeWriter() { wake(x.work) }
func (x *Inbox) wakeSyncer() { wake(x.syncs) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Flush returns when all that was put before is in files and synced, or durable
// elsewhere.
func (x *Inbox) Flush(ctx context.Context) error {
	x.mu.Lock()
	at := x.end()
	x.mu.Unlock()
	return x.durable(ctx, at, 0)
}

// Close takes no more lines, writes and syncs what it has, as long as ctx allows, and
// gives the directory free. What is not released is there for the next Open. An error
// tells what was lost. A second Close does nothing.
func (x *Inbox) Close(ctx context.Context) error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	x.closed = true
	at := x.end()
	close(x.closing)
	x.mu.Unlock()
	failed := x.durable(ctx, at, 0)
	close(x.abort)
	close(x.stop)
	x.wakeWriter()
	x.finished.Wait()

	x.mu.Lock()
	defer x.mu.Unlock()
	lines, bytes := x.queue.waiting()
	clean := lines == 0 && !x.queue.losing()
	for _, g := range x.segments {
		closeFile(g.take())
	}
	x.wakeReader()
	x.failWaiters()
	if !x.reader.busy {
		x.reader.close()
	}
	if clean {
		x.epochFile.write(x.epoch, true)
	}
	x.epochFile.close()
	x.lock.Close()
	switch {
	case lines > 0:
		return fmt.Errorf("close the inbox: %d lines (%d bytes) were in memory only and are lost: %w", lines, bytes, errors.Join(failed, x.trouble.err))
	case x.queue.losing():
		return fmt.Errorf("close the inbox: that %d lines were dropped could not be written: %w", x.counts.DroppedLines, errors.Join(failed, x.trouble.err))
	case failed != nil:
		return fmt.Errorf("close the inbox: all lines are in its files, but they are not synced: %w", failed)
	}
	return nil
}
