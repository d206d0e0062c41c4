package journal

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// queue is where producers leave their events for the writer: the open block, to
// which each producer adds its events itself, and full blocks before it. The bytes
// that it and the records in flight hold are bounded.
type queue struct {
	maxPending int // bytes of all blocks that are not answered
	maxBlock   int // bytes of a block with more than one unit
	wake       chan struct{}

	mu      sync.Mutex
	full    []*block
	open    *block
	pending int
	waiters []*waiter
	spare   []*block
	// wakeAt is the size of the open block at which the writer wants to hear
	// about it; less than 0: not at all.
	wakeAt int
	err    error // why nothing is accepted; nil when it is
}

func newQueue(maxPending, maxBlock int) *queue {
	q := &queue{maxPending: maxPending, maxBlock: maxBlock, wake: make(chan struct{}, 1), wakeAt: -1}
	q.open = q.newBlockLocked()
	return q
}

// waiter is a producer that waits for space, first come first served.
type waiter struct {
	size  int
	ready chan error // buffered; nil: size bytes are reserved
}

// maxIdleBlocks is how many emptied blocks an idle queue keeps for reuse.
const maxIdleBlocks = 2

// result is what becomes of a block, shared by the receipts of all units in it.
// The other fields are valid once done is closed.
type result struct {
	done    chan struct{}
	seq     uint64
	ordinal uint64 // of the first event
	err     error
}

// Receipt is the promise of an answer for events given to [Journal.Submit]. It is
// safe for concurrent use, and costs nothing to forget.
type Receipt struct {
	result *result
	index  uint32
}

// Done is closed when the events are durable or have failed.
func (r *Receipt) Done() <-chan struct{} { return r.result.done }

// Wait returns the position of the first event of the unit, the others follow it,
// when all are durable. Its error is a [*PushbackError] when they could not be
// stored, ErrClosed when the journal was closed before they were, or that of ctx,
// which says nothing about the events: Wait may be called again.
func (r *Receipt) Wait(ctx context.Context) (Position, error) {
	select {
	case <-r.result.done:
	default:
		select {
		case <-r.result.done:
		case <-ctx.Done():
			return Position{}, ctx.Err()
		}
	}
	if r.result.err != nil {
		return Position{}, r.result.err
	}
	return Position{Seq: r.result.seq, Index: r.index, Ordinal: r.result.ordinal + uint64(r.index)}, nil
}

// put adds one unit of at most size bytes to the queue.
func (q *queue) put(ctx context.Context, size int, events []*event.Event) (Receipt, error) {
	q.mu.Lock()
	if q.err != nil {
		defer q.mu.Unlock()
		return Receipt{}, q.err
	}
	if len(q.waiters) > 0 || q.pending+size > q.maxPending {
		w := &waiter{size: size, ready: make(chan error, 1)}
		q.waiters = append(q.waiters, w)
		q.mu.Unlock()
		if err := q.await(ctx, w); err != nil {
			return Receipt{}, err
		}
		q.mu.Lock()
		// The space was reserved, but the journal may have failed since.
		if q.err != nil {
			defer q.mu.Unlock()
			q.releaseLocked(size)
			return Receipt{}, q.err
		}
	} else {
		q.pending += size
	}

	b := q.open
	if b.count > 0 && b.size+size > q.maxBlock {
		q.full = append(q.full, b)
		b = q.newBlockLocked()
		q.open = b
	}
	receipt := Receipt{result: b.result, index: uint32(b.count)}
	before := b.size
	for i, e := range events {
		if i > 0 && e.Alike(events[i-1]) {
			b.addLike(e)
		} else {
			b.add(e)
		}
	}
	// The estimate was an upper bound.
	if extra := size - (b.size - before); extra > 0 {
		q.releaseLocked(extra)
	}
	wake := q.wakeAt >= 0 && (b.size >= q.wakeAt || len(q.full) > 0)
	if wake {
		q.wakeAt = -1
	}
	q.mu.Unlock()
	if wake {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return receipt, nil
}

// await returns when w's bytes are reserved.
func (q *queue) await(ctx context.Context, w *waiter) error {
	select {
	case err := <-w.ready:
		return err
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.waiters {
		if q.waiters[i] == w {
			q.waiters = append(q.waiters[:i], q.waiters[i+1:]...)
			q.grantLocked() // a smaller one behind it may fit
			return &PushbackError{Reason: "waited for space until the caller gave up", RetryAfter: busyRetry, kind: ErrBusy, cause: ctx.Err()}
		}
	}
	// Granted or refused at the same moment.
	err := <-w.ready
	if err != nil {
		return err
	}
	q.releaseLocked(w.size)
	return &PushbackError{Reason: "waited for space until the caller gave up", RetryAfter: busyRetry, kind: ErrBusy, cause: ctx.Err()}
}

const busyRetry = time.Second

func (q *queue) releaseLocked(size int) {
	q.pending -= size
	q.grantLocked()
}

func (q *queue) grantLocked() {
	n := 0
	for n < len(q.waiters) && q.pending+q.waiters[n].size <= q.maxPending {
		q.pending += q.waiters[n].size
		q.waiters[n].ready <- nil
		n++
	}
	if n > 0 {
		q.waiters = append(q.waiters[:0], q.waiters[n:]...)
	}
}

// take returns the next block that is to become a record, or nil: a full one, or
// else the open one if it has min bytes. After nil, wake gets a message as soon as
// there is one.
func (q *queue) take(min int) *block {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wakeAt = -1
	if len(q.full) > 0 {
		b := q.full[0]
		q.full = append(q.full[:0], q.full[1:]...)
		return b
	}
	if b := q.open; b.count > 0 && b.size >= min {
		q.open = q.newBlockLocked()
		return b
	}
	q.wakeAt = min
	return nil
}

// finish answers everybody who waits for b and takes b back. size is what it had
// when it was taken.
func (q *queue) finish(b *block, seq, ordinal uint64, err error) {
	b.result.seq, b.result.ordinal, b.result.err = seq, ordinal, err
	close(b.result.done)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.releaseLocked(b.size)
	if b.size <= q.maxBlock {
		b.reset()
		q.spare = append(q.spare, b)
	}
}

// trim gives memory back that only a high load needed.
func (q *queue) trim() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending == 0 && len(q.spare) > maxIdleBlocks {
		clear(q.spare[maxIdleBlocks:])
		q.spare = q.spare[:maxIdleBlocks]
	}
}

// newBlockLocked returns an empty block with a result of its own.
func (q *queue) newBlockLocked() *block {
	var b *block
	if n := len(q.spare); n > 0 {
		b, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		b = &block{}
	}
	b.result = &result{done: make(chan struct{})}
	return b
}

// refuse fails with err what waits for space, and all that comes until accept. The
// blocks that were accepted before fail with waiting; nil keeps them. It returns
// how many events were in those that failed.
func (q *queue) refuse(err error, waiting error) (events int) {
	q.mu.Lock()
	if !errors.Is(q.err, ErrClosed) { // closed is for ever
		q.err = err
	}
	for _, w := range q.waiters {
		w.ready <- q.err
	}
	q.waiters = nil
	var failed []*block
	if waiting != nil {
		failed = q.full
		q.full = nil
		if q.open.count > 0 {
			failed = append(failed, q.open)
			q.open = q.newBlockLocked()
		}
	}
	q.mu.Unlock()
	for _, b := range failed {
		events += b.count
		q.finish(b, 0, 0, waiting)
	}
	return events
}

// accept ends refuse.
func (q *queue) accept() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !errors.Is(q.err, ErrClosed) {
		q.err = nil
	}
}

// idle reports whether nothing waits for the writer.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.full) == 0 && q.open.count == 0
}
