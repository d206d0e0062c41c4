package journal

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxRuns is how many fetches may be under way. With fetchBytes it bounds what
	// the server queues for the readers' connection.
	maxRuns = 4
	// lookAhead is how many records before the end of what is cached the next
	// fetch begins.
	lookAhead = 6
	// tailDistance is how far behind the end a reader may be for fresh records to
	// go to the cache directly.
	tailDistance = 16
	// cacheIdle is how long a cached record that nobody reads is kept.
	cacheIdle = 30 * time.Second
)

// records gives readers the records of the journal. It keeps those recently read
// or written decoded in memory, bounded by bytes, and fetches each range that
// several readers want at once only once.
type records struct {
	journal *Journal
	ctx     context.Context // ends fetches
	max     int64

	waiting atomic.Int64 // readers that wait for the journal to grow

	mu    sync.Mutex
	bySeq map[uint64]*list.Element // of *cached
	order list.List                // most recently used first
	bytes int64
	runs  []*run
	tail  uint64 // highest sequence handed out
	over  bool   // no more fetches
}

type cached struct {
	record *record
	memory int64
	used   time.Time
}

// run is one fetch under way. Everything is guarded by records.mu.
type run struct {
	from, upTo uint64
	got        []*record
	done       bool
	err        error
	changed    chan struct{} // closed at every change
}

func newRecords(ctx context.Context, j *Journal, maxBytes int64) *records {
	return &records{journal: j, ctx: ctx, max: maxBytes, bySeq: make(map[uint64]*list.Element)}
}

// get returns the first record whose sequence is at least seq, which is seq itself
// unless retention removed it. Its error is errNoRecord when there is none.
func (c *records) get(ctx context.Context, seq uint64) (*record, error) {
	for {
		c.mu.Lock()
		if c.over {
			c.mu.Unlock()
			return nil, ErrClosed
		}
		if e, ok := c.bySeq[seq]; ok {
			rec := c.useLocked(e)
			c.fetchAheadLocked(seq + 1)
			c.mu.Unlock()
			return rec, nil
		}
		r := c.runningLocked(seq)
		if r == nil && len(c.runs) < maxRuns {
			r = c.startLocked(seq)
		}
		if r == nil {
			changed := c.runs[0].changed
			c.mu.Unlock()
			if err := c.wait(ctx, changed); err != nil {
				return nil, err
			}
			continue
		}
		c.mu.Unlock()
		rec, err := c.await(ctx, r, seq)
		if rec != nil || err != nil {
			return rec, err
		}
	}
}

// await returns the record that r brings for seq; nothing when r ends before it.
func (c *records) await(ctx context.Context, r *run, seq uint64) (*record, error) {
	for {
		c.mu.Lock()
		for _, rec := range r.got {
			if rec.seq >= seq {
				c.tail = max(c.tail, rec.seq)
				c.fetchAheadLocked(rec.seq + 1)
				c.mu.Unlock()
				return rec, nil
			}
		}
		done, err, changed := r.done, r.err, r.changed
		c.mu.Unlock()
		if done {
			if err == nil && r.from == seq {
				err = errNoRecord
			}
			if errors.Is(err, errNoRecord) && r.from != seq {
				err = nil // it was about an earlier record
			}
			return nil, err
		}
		if err := c.wait(ctx, changed); err != nil {
			return nil, err
		}
	}
}

func (c *records) wait(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return ErrClosed
	}
}

func (c *records) runningLocked(seq uint64) *run {
	for _, r := range c.runs {
		if r.from <= seq && seq <= r.upTo {
			return r
		}
	}
	return nil
}

// fetchAheadLocked begins to fetch what a reader that has come to seq will want
// soon.
func (c *records) fetchAheadLocked(seq uint64) {
	if c.over || len(c.runs) == maxRuns {
		return
	}
	end := c.journal.End().Seq
	for n := seq; n < seq+lookAhead && n <= end; n++ {
		if _, ok := c.bySeq[n]; ok {
			continue
		}
		if c.runningLocked(n) == nil {
			c.startLocked(n)
		}
		return
	}
}

func (c *records) startLocked(seq uint64) *run {
	r := &run{from: seq, upTo: seq + fetchRecords - 1, changed: make(chan struct{})}
	c.runs = append(c.runs, r)
	c.journal.tasks.Go(func() { c.fetch(r) })
	return r
}

// fetch works off one run.
func (c *records) fetch(r *run) {
	err := errDown
	if s := c.journal.session.Load(); s != nil {
		err = s.fetch(c.ctx, getRequest{Seq: r.from, Batch: fetchRecords, MaxBytes: fetchBytes}, func(seq uint64, stored []byte) error {
			rec, err := parseRecord(seq, stored)
			if err != nil {
				rec = &record{seq: seq, broken: err}
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			r.got = append(r.got, rec)
			c.addLocked(rec)
			close(r.changed)
			r.changed = make(chan struct{})
			return nil
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.done, r.err = true, err
	for i := range c.runs {
		if c.runs[i] == r {
			c.runs = append(c.runs[:i], c.runs[i+1:]...)
			break
		}
	}
	close(r.changed)
}

// wanted reports whether a fresh record should go to the cache, since readers will
// ask for it at once.
func (c *records) wanted(seq uint64) bool {
	if c.waiting.Load() > 0 {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tail > 0 && c.tail+tailDistance >= seq
}

// add puts a record into the cache.
func (c *records) add(rec *record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addLocked(rec)
}

func (c *records) addLocked(rec *record) {
	if _, ok := c.bySeq[rec.seq]; ok {
		return
	}
	entry := &cached{record: rec, memory: rec.memory(), used: time.Now()}
	c.bySeq[rec.seq] = c.order.PushFront(entry)
	c.bytes += entry.memory
	for c.bytes > c.max && c.order.Len() > 1 {
		c.removeLocked(c.order.Back())
	}
}

func (c *records) useLocked(e *list.Element) *record {
	entry := e.Value.(*cached)
	entry.used = time.Now()
	c.order.MoveToFront(e)
	c.tail = max(c.tail, entry.record.seq)
	return entry.record
}

func (c *records) removeLocked(e *list.Element) {
	entry := c.order.Remove(e).(*cached)
	delete(c.bySeq, entry.record.seq)
	c.bytes -= entry.memory
}

// truncate drops the records behind seq, which are not in the stream any more.
func (c *records) truncate(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, e := range c.bySeq {
		if n > seq {
			c.removeLocked(e)
		}
	}
	c.tail = min(c.tail, seq)
}

// close ends the handing out; the context given to newRecords ends the fetches.
func (c *records) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

// expire drops what nobody has read for a while.
func (c *records) expire(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.order.Back(); e != nil && now.Sub(e.Value.(*cached).used) > cacheIdle; e = c.order.Back() {
		c.removeLocked(e)
	}
}
