package inbox

import (
	"errors"
	"fmt"
	"time"

	"github.com/tocsin-events/tocsin/internal/directory"
)

// State says where lines are put.
type State uint8

const (
	// Spooling: lines are in a file within a moment.
	Spooling State = iota
	// OnReserve: the disk is full or the spool has its size, lines go to the reserve.
	OnReserve
	// MemoryOnly: nothing can be written, lines wait in memory.
	MemoryOnly
	// Dropping: memory is full, too, and lines are dropped, or senders wait.
	Dropping
)

// String returns a word.
func (s State) String() string {
	return [...]string{"spooling", "on reserve", "memory only", "full"}[min(s, Dropping)]
}

// Counts only grow, from zero at Open but for KeptFiles.
type Counts struct {
	DroppedLines, DroppedBytes uint64
	Blocked                    uint64 // times that a Put waited
	Syncs                      uint64
	Damaged                    uint64 // places that could not be read
	KeptFiles                  int    // damaged files that were kept aside, by earlier processes, too
}

// Stats tell how an inbox is.
type Stats struct {
	Counts
	State State
	// Lines that are in memory only. MemoryUsed is what the buffers take.
	MemoryLines, MemoryBytes uint64
	MemoryUsed               int64
	// Lines that are in files and not acknowledged. The bytes of a file of which a part is
	// acknowledged are estimated.
	DiskLines, DiskBytes uint64
	// Oldest is how old the oldest line is that is not acknowledged, at most; 0 when there
	// is none.
	Oldest time.Duration
	// FileBytes is the size of all files, ReservedBytes that of those that hold nothing.
	FileBytes, ReservedBytes int64
	// UnsyncedBytes are in files, but neither synced nor acknowledged. They are estimated
	// likewise.
	UnsyncedBytes uint64
}

// behind returns how many lines and bytes are behind a position, the bytes roughly.
func (g *segment) behind(p Position) (lines, bytes uint64) {
	if g.epoch != p.Epoch || p.Line <= g.first {
		return g.lines, g.bytes
	}
	left := g.next - min(p.Line, g.next)
	return min(left, g.lines), uint64(float64(g.bytes) * float64(left) / float64(max(g.next-g.first, 1)))
}

// Stats returns how the inbox is.
func (x *Inbox) Stats() Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := Stats{Counts: x.counts, State: x.state(), MemoryUsed: x.queue.used, FileBytes: x.total}
	s.MemoryLines, s.MemoryBytes = x.queue.waiting()
	s.ReservedBytes = int64(len(x.free)) * x.o.SegmentBytes
	for _, g := range x.segments {
		if g.replaced || g.neededTo().Compare(x.acked) <= 0 {
			continue
		}
		lines, bytes := g.behind(x.acked)
		s.DiskLines += lines
		s.DiskBytes += bytes
		if g.dirty() {
			_, bytes := g.behind(later(x.acked, Position{g.epoch, g.syncedNext}))
			s.UnsyncedBytes += bytes
		}
	}
	if s.DiskLines+s.MemoryLines > 0 {
		oldest := time.Now()
		if s.DiskLines > 0 {
			oldest = x.marks.at(x.acked)
		} else if x.queue.since > 0 {
			oldest = time.Unix(0, x.queue.since)
		}
		s.Oldest = max(time.Since(oldest), 0)
	}
	return s
}

// state. x.mu is held.
func (x *Inbox) state() State {
	switch {
	case x.queue.dropping && x.queue.used > x.o.MemoryBytes/4*3:
		return Dropping
	case x.trouble.err != nil:
		return MemoryOnly
	case x.trouble.reserve != nil:
		return OnReserve
	}
	return Spooling
}

// Health returns nil when lines are kept as they should be, else what stands against it
// and what to do.
func (x *Inbox) Health() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := &x.trouble
	why := t.err
	if why == nil {
		why = t.reserve
	}
	advice := "free space on the disk"
	switch {
	case why == nil:
	case errors.Is(why, errQuota):
		advice = "see why the journal does not take the entries, or raise max_bytes of the spool"
	case !directory.IsFull(why):
		advice = "see to the disk"
	}
	switch x.state() {
	case Dropping:
		doing := fmt.Sprintf("lines are being lost, %d since the start", x.counts.DroppedLines)
		if x.o.WhenFull == Block {
			doing = "senders wait"
		}
		if why == nil {
			return fmt.Errorf("the memory of the spool %s is full and %s: the disk is too slow, or memory_bytes too small", x.o.Dir, doing)
		}
		return fmt.Errorf("the spool %s is full and %s: %w; %s", x.o.Dir, doing, why, advice)
	case MemoryOnly:
		return fmt.Errorf("the spool %s cannot be written, %d lines are in memory only: %w; %s", x.o.Dir, x.queue.lines, why, advice)
	case OnReserve:
		return fmt.Errorf("the spool %s uses its reserve, of which %d bytes are left: %w; %s", x.o.Dir, int64(len(x.free))*x.o.SegmentBytes, why, advice)
	}
	if t.short != nil {
		return fmt.Errorf("the reserve of the spool %s is not complete, lines would be lost if the disk became full: %w; free space on the disk", x.o.Dir, t.short)
	}
	if t.sync != nil {
		return fmt.Errorf("the spool %s cannot be synced, a power cut would lose lines: %w; see to the disk", x.o.Dir, t.sync)
	}
	return nil
}

// trouble is what the disk does not do.
type trouble struct {
	err       error     // of the last write; nil when it worked
	reserve   error     // why the reserve is used; nil when it is not
	short     error     // why the reserve is not complete; nil when it is
	freed     bool      // space was freed since the last failed write
	sync      error     // of the last sync; nil when it worked
	syncAgain time.Time // not before
	syncPause time.Duration
}

func (t *trouble) is(err error) bool { return t.err != nil && t.err.Error() == err.Error() }

func (t *trouble) failed(err error) { t.err, t.freed = err, false }

func (t *trouble) wrote() { t.err = nil }

func (t *trouble) text() string {
	if t.err == nil {
		return "too slow"
	}
	return t.err.Error()
}

// synced notes how a sync ended. After failures the pauses become longer.
func (t *trouble) synced(err error, pause time.Duration) {
	t.sync = err
	if err == nil {
		t.syncAgain, t.syncPause = time.Time{}, 0
		return
	}
	t.syncPause = min(max(2*t.syncPause, pause), max(5*time.Second, pause))
	t.syncAgain = time.Now().Add(t.syncPause)
}
