package client

import (
	"errors"
	"slices"

	"github.com/tocsin-events/tocsin/event"
)

// batch is a JSON array of events, but that each has a comma behind it and the bracket at
// the end is missing.
type batch struct {
	text   []byte
	events int
}

// body makes the text a JSON array.
func (b *batch) body() []byte {
	b.text[len(b.text)-1] = ']'
	return b.text
}

// payload is the text without the bracket and the last comma.
func (b *batch) payload() []byte { return b.text[1 : len(b.text)-1] }

// flight is a run of events that is being sent.
type flight struct {
	first    uint64
	events   int
	settled  int
	inMemory bool // only there, not in the spool
	bytes    int  // of those in memory

	abandoned bool // because the publisher stops
}

// waiter is a Publish that waits for answers.
type waiter struct {
	events  int    // of the call
	begin   uint64 // number of the first
	spans   []span // what is queued and not settled, by number
	settled int
	refused []Refusal
	done    chan struct{} // closed when all are settled
}

// span is a run of events of one Publish.
type span struct {
	first   uint64
	events  int
	settled int
	index   int // of the first in the call
}

// barrier is a Flush or Sync that waits until reached is number.
type barrier struct {
	number  uint64
	reached func() uint64 // called under mu
	done    chan struct{}
	passed  bool
}

// add queues an event that is complete and checked.
func (p *Publisher) add(e *event.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.addLocked(e)
	if errors.Is(err, ErrQueueFull) {
		p.stats.Dropped++
	}
	return err
}

// addLocked encodes an event into the batch that is being filled.
func (p *Publisher) addLocked(e *event.Event) error {
	if p.closed {
		return ErrPublisherClosed
	}
	if p.memEvents > 0 && (p.memEvents >= p.options.MaxQueueEvents || p.memBytes >= p.options.MaxQueueBytes) {
		return p.full()
	}
	if p.fill.text == nil {
		p.fill.text = append(p.buffer(), '[')
	}
	before := len(p.fill.text)
	p.fill.text = append(event.AppendCloudEvent(p.fill.text, e, ""), ',')
	size := len(p.fill.text) - before
	switch {
	case p.memEvents > 0 && p.memBytes+size > p.options.MaxQueueBytes,
		p.spool != nil && p.spoolBytes+int64(p.memBytes+size) > p.options.Spool.MaxBytes && p.accepted > p.settledBefore():
		p.fill.text = p.fill.text[:before]
		return p.full()
	case p.fill.events > 0 && len(p.fill.text) > p.options.MaxBatchBytes:
		last := p.fill.text[before:]
		next := append(append(p.buffer(), '['), last...)
		p.fill.text = p.fill.text[:before]
		p.seal()
		p.fill.text = next
	}
	p.fill.events++
	p.memEvents++
	p.memBytes += size
	p.accepted++
	if p.fill.events >= p.options.MaxBatchEvents || len(p.fill.text) >= p.options.MaxBatchBytes {
		p.seal()
	}
	if p.spool == nil || p.spoolFailed {
		p.work.Signal()
	}
	if p.spool != nil {
		p.spoolWork.Signal()
	}
	return nil
}

func (p *Publisher) full() *QueueFullError {
	return &QueueFullError{Events: p.memEvents, Bytes: p.memBytes, SpoolBytes: p.spoolBytes}
}

// seal ends the batch that is being filled.
func (p *Publisher) seal() {
	if p.fill.events > 0 {
		p.ready = append(p.ready, p.fill)
		p.fill = batch{}
		p.busy = true
	}
}

// maxFree is how many buffers are kept to be used again, beside those of requests.
const maxFree = 8

// buffer returns memory for a batch.
func (p *Publisher) buffer() []byte {
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b[:0]
	}
	if p.busy {
		return make([]byte, 0, p.options.MaxBatchBytes+4<<10)
	}
	return make([]byte, 0, 4<<10)
}

// recycle keeps a buffer that nobody uses any more.
func (p *Publisher) recycle(b []byte) {
	if len(p.free) < maxFree && cap(b) <= 2*p.options.MaxBatchBytes {
		p.free = append(p.free, b)
	}
}

// oldest takes the oldest batch out of memory; it has no events if there is none.
func (p *Publisher) oldest() (b batch) {
	if len(p.ready) > 0 {
		b = p.ready[0]
		p.ready[0] = batch{}
		p.ready = p.ready[1:]
		return b
	}
	if p.fill.events > 0 {
		b, p.fill = p.fill, batch{}
		p.busy = false
	}
	return b
}

// await registers that w waits for the event that was added last, the index-th of its
// call.
func (p *Publisher) await(w *waiter, index int) {
	number := p.accepted - 1
	if index == 0 {
		w.begin = number
		p.waiters = append(p.waiters, w)
	}
	if n := len(w.spans); n > 0 && w.spans[n-1].first+uint64(w.spans[n-1].events) == number {
		w.spans[n-1].events++
		return
	}
	w.spans = append(w.spans, span{first: number, events: 1, index: index})
}

// forget ends the wait of w.
func (p *Publisher) forget(w *waiter) {
	p.waiters = slices.DeleteFunc(p.waiters, func(other *waiter) bool { return other == w })
}

// settle notes that the hub answered for events of a flight, counted from first, and
// which of them it refused. The indexes of the refusals are numbers of events.
func (p *Publisher) settle(f *flight, first uint64, events int, refused []Refusal) {
	f.settled += events
	if f.inMemory {
		p.memEvents -= events
	}
	end := first + uint64(events)
	for _, w := range p.waiters {
		if w.begin >= end {
			break // as do all that follow
		}
		w.settle(first, end, refused)
	}
	p.waiters = slices.DeleteFunc(p.waiters, func(w *waiter) bool { return w.settled == w.events })
}

// settle notes that the hub answered for the events between two numbers.
func (w *waiter) settle(from, to uint64, refused []Refusal) {
	if w.settled == w.events {
		return
	}
	for i := range w.spans {
		s := &w.spans[i]
		begin, end := max(s.first, from), min(s.first+uint64(s.events), to)
		if begin >= end {
			continue
		}
		s.settled += int(end - begin)
		w.settled += int(end - begin)
		for _, r := range refused {
			if n := uint64(r.Index); begin <= n && n < end {
				r.Index = s.index + int(n-s.first)
				w.refused = append(w.refused, r)
			}
		}
	}
	w.spans = slices.DeleteFunc(w.spans, func(s span) bool { return s.settled == s.events })
	if w.settled == w.events {
		close(w.done)
	}
}

// settledBefore is the number of the first event that the hub has not answered for.
func (p *Publisher) settledBefore() uint64 {
	n := p.taken
	for _, f := range p.flights {
		n = min(n, f.first)
	}
	return n
}

// safeBefore is the number of the first event that is only in memory.
func (p *Publisher) safeBefore() uint64 {
	first, waiting := p.accepted, p.memEvents
	for _, f := range p.flights {
		if f.inMemory {
			first = min(first, f.first)
			waiting -= f.events - f.settled
		}
	}
	return min(first, p.accepted-uint64(waiting))
}

// unsettled is for how many events the hub has not answered.
func (p *Publisher) unsettled() int {
	n := int(p.accepted - p.taken)
	for _, f := range p.flights {
		n += f.events - f.settled
	}
	return n
}

func (p *Publisher) passBarriers() {
	p.barriers = slices.DeleteFunc(p.barriers, func(b *barrier) bool {
		if b.reached() < b.number {
			return false
		}
		b.passed = true
		close(b.done)
		return true
	})
}

func (p *Publisher) dropBarrier(b *barrier) {
	p.barriers = slices.DeleteFunc(p.barriers, func(other *barrier) bool { return other == b })
}
