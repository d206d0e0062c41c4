package delivery

import (
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// mark is a place in the journal: all spans up to it are in batches before it.
type mark struct {
	progress trace.Progress
	through  journal.Position // last event read
}

// item is a batch on its way.
type item struct {
	mark     mark
	marked   bool      // mark is set
	recorded time.Time // when the first event of the batch was
	done     bool
}

// order commits places in the journal in their order, whatever the order in which
// batches are delivered. It is safe for concurrent use.
type order struct {
	mu       sync.Mutex
	items    []*item // not committed yet
	mark     mark    // committed
	recorded time.Time
}

// add puts a batch behind all others.
func (o *order) add(i *item) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.items = append(o.items, i)
}

// reach says that there are no spans between the last batch and m, which is committed with
// that batch, or at once.
func (o *order) reach(m mark, recorded time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.items); n > 0 {
		o.items[n-1].mark, o.items[n-1].marked = m, true
		return
	}
	o.mark, o.recorded = m, recorded
}

// finish says that a batch needs nothing more.
func (o *order) finish(i *item) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i.done = true
	n := 0
	for ; n < len(o.items) && o.items[n].done; n++ {
		if o.items[n].marked {
			o.mark, o.recorded = o.items[n].mark, o.items[n].recorded
		}
	}
	clear(o.items[:n])
	o.items = o.items[n:]
}

// committed returns the place up to which everything is delivered.
func (o *order) committed() mark {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mark
}

// waiting returns how many batches are on their way, and when the oldest event was recorded
// that may not be delivered; without batches that of the place committed.
func (o *order) waiting() (batches int, oldest time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.items) > 0 {
		return len(o.items), o.items[0].recorded
	}
	return 0, o.recorded
}
