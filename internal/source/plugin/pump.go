package plugin

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// What may be on its way into the journal at once: batches, bytes of events in the journal, and
// bytes of memory that holds what the plugin gave. Beyond that the plugin waits; one more batch
// may be read.
const (
	maxBatches      = 64
	maxFlightBytes  = 8 << 20
	maxFlightMemory = 32 << 20
)

// keptBytes is how much memory the batches of a run that are not in use may keep, together.
const keptBytes = 16 << 20

// firstPushback and mostPushback bound how long to wait when the journal does not accept events.
const (
	firstPushback = 100 * time.Millisecond
	mostPushback  = 5 * time.Second
)

// pump puts batches into the journal, in order. It runs in one goroutine.
type pump struct {
	r         *run
	slots     chan struct{} // has one for each batch that is in use
	filled    chan *batch
	abandoned chan struct{} // closed: nothing more is filled, or taken
	abandon   func()
	durable   func(position []byte, events uint64)

	flight        []*batch // submitted, in order
	bytes, memory int      // of the flight

	mu   sync.Mutex
	idle []*batch
	kept int // memory of the idle ones
}

func newPump(r *run) *pump {
	p := &pump{r: r, slots: make(chan struct{}, maxBatches), filled: make(chan *batch), abandoned: make(chan struct{})}
	p.abandon = sync.OnceFunc(func() { close(p.abandoned) })
	return p
}

// take returns a batch to fill, nil when ctx has ended or nobody will take it. It and give are
// called by one goroutine.
func (p *pump) take(ctx context.Context) *batch {
	if ctx.Err() != nil {
		return nil
	}
	select {
	case p.slots <- struct{}{}:
	case <-p.abandoned:
		return nil
	case <-ctx.Done():
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) - 1
	if n < 0 {
		return new(batch)
	}
	b := p.idle[n] // the one that was used last
	p.idle[n] = nil
	p.idle = p.idle[:n]
	p.kept -= b.memory()
	return b
}

// put takes a batch back that is not used any more.
func (p *pump) put(b *batch) {
	clear(b.events) // they refer to the bytes
	clear(b.pointers)
	p.mu.Lock()
	if memory := b.memory(); p.kept+memory <= keptBytes {
		p.idle = append(p.idle, b)
		p.kept += memory
	}
	p.mu.Unlock()
	<-p.slots
}

// give hands a filled batch over, unless the pump is over.
func (p *pump) give(b *batch) bool {
	select {
	case p.filled <- b:
		return true
	case <-p.abandoned:
		return false
	}
}

// run returns when nothing more is filled and all is durable, or with the error of the journal
// or of ctx.
func (p *pump) run(ctx context.Context) error {
	filled, abandoned := p.filled, p.abandoned
	for filled != nil || len(p.flight) > 0 {
		in := filled
		if p.bytes >= maxFlightBytes || p.memory >= maxFlightMemory {
			in = nil
		}
		var done <-chan struct{}
		if len(p.flight) > 0 {
			done = p.flight[0].done()
		}
		var err error
		select {
		case b, more := <-in:
			if !more {
				filled = nil
				continue
			}
			err = p.submit(ctx, b)
		case <-done:
			err = p.land(ctx)
		case <-abandoned:
			filled, abandoned = nil, nil
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			p.leave()
			return err
		}
	}
	return nil
}

// leave has nobody wait for the pump any more.
func (p *pump) leave() {
	p.abandon()
	n := 0
	for _, b := range p.flight {
		n += len(b.events)
	}
	if n > 0 {
		p.r.log.Warn("Stopped before all that a plugin had given was durable.", "events", n, "repeated", p.r.about.Capabilities.Resume)
	}
}

// done is closed when the fate of the batch is known, as far as one can tell.
func (b *batch) done() <-chan struct{} {
	if n := len(b.units); n > 0 && b.units[n-1].receipt != nil {
		return b.units[n-1].receipt.Done()
	}
	return closed
}

var closed = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// submit hands the events of b to the journal.
func (p *pump) submit(ctx context.Context, b *batch) error {
	p.flight = append(p.flight, b)
	p.bytes += b.bytes
	p.memory += cap(b.batch.Events)
	failed := false
	for i := range b.units {
		failed = p.send(ctx, b, &b.units[i]) != nil || failed
	}
	if failed {
		return p.repeat(ctx)
	}
	return nil
}

func (p *pump) send(ctx context.Context, b *batch, u *unit) error {
	u.receipt, u.err = p.r.deps.Journal.Submit(ctx, b.pointers[u.from:u.to]...)
	return u.err
}

// land takes the first batch out of the flight when it is durable.
func (p *pump) land(ctx context.Context) error {
	for {
		failed, err := p.settle(ctx, p.flight[0])
		if err != nil {
			return err
		}
		if !failed {
			break
		}
		if err := p.repeat(ctx); err != nil {
			return err
		}
	}
	b := p.flight[0]
	p.flight = append(p.flight[:0], p.flight[1:]...)
	p.bytes -= b.bytes
	p.memory -= cap(b.batch.Events)
	p.r.appended(len(b.events))
	if b.position != nil {
		p.durable(b.position, b.ordinal)
	}
	p.put(b)
	return nil
}

// settle waits for the receipts of b and says whether some units have failed. The error is one
// that trying again does not help against.
func (p *pump) settle(ctx context.Context, b *batch) (failed bool, err error) {
	for i := range b.units {
		u := &b.units[i]
		if u.err == nil {
			_, u.err = u.receipt.Wait(ctx)
		}
		switch {
		case u.err == nil:
		case ctx.Err() != nil:
			return false, ctx.Err()
		case errors.Is(u.err, journal.ErrClosed):
			return false, u.err
		default:
			failed = true
		}
	}
	return failed, nil
}

// repeat submits what has failed once more until all of it is accepted. Units behind it that are
// durable are not repeated, so that around a failure of the journal, and only there, the order
// of units may be another than that of the plugin.
func (p *pump) repeat(ctx context.Context) error {
	for pause := firstPushback; ; pause = min(2*pause, mostPushback) {
		wait := pause
		again := false
		for _, b := range p.flight {
			failed, err := p.settle(ctx, b)
			if err != nil {
				return err
			}
			again = again || failed
			for _, u := range b.units {
				if pushback, ok := errors.AsType[*journal.PushbackError](u.err); ok {
					wait = max(wait, min(pushback.RetryAfter, mostPushback))
				}
			}
		}
		if !again {
			return nil
		}
		if skipped, ok := p.r.pushed.Allow(); ok {
			p.r.log.Warn("The journal does not accept events; the plugin waits.", "error", p.firstError(), "skipped", skipped)
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	resend:
		for _, b := range p.flight {
			for i := range b.units {
				if u := &b.units[i]; u.err != nil {
					if p.send(ctx, b, u) != nil {
						break resend // as the rest would
					}
				}
			}
		}
	}
}

func (p *pump) firstError() error {
	for _, b := range p.flight {
		for _, u := range b.units {
			if u.err != nil {
				return u.err
			}
		}
	}
	return nil
}

// appended counts durable events.
func (s *Source) appended(n int) {
	if n == 0 {
		return
	}
	s.counts.Appended.Add(float64(n))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Events += uint64(n)
	s.status.LastEvent = time.Now()
}
