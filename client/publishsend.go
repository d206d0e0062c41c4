package client

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/internal/spool"
)

// cargo is what one request brings: a flight and its bytes.
type cargo struct {
	*flight
	*body
	spooled *spool.Batch // where it comes from; nil for what is in memory
}

// send is the goroutine of one connection.
func (p *Publisher) send() {
	failures := 0
	for {
		c := p.load()
		if c == nil {
			return
		}
		switch p.deliver(c, &failures) {
		case over:
			return // what was not delivered stays among the flights, and is counted
		case returned:
			continue
		}
		if c.spooled != nil {
			if err := p.spool.Done(c.spooled); err != nil {
				p.notifySpool(err)
			}
		}
		p.mu.Lock()
		p.flights = slices.DeleteFunc(p.flights, func(f *flight) bool { return f == c.flight })
		p.memBytes -= c.bytes
		if c.unused() {
			p.recycle(c.text)
		}
		if p.spool != nil {
			p.spoolBytes = p.spool.Bytes()
			p.spoolWork.Signal()
		}
		p.passBarriers()
		p.room.Broadcast()
		p.mu.Unlock()
	}
}

// load waits for something to send; nil means that it is over. Connections take turns,
// so that events are taken in order.
func (p *Publisher) load() *cargo {
	p.loading.Lock()
	defer p.loading.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.stopping {
		switch {
		case p.spool != nil && p.spool.Waiting() > 0:
			if c := p.loadSpooled(); c != nil {
				return c
			}
		case p.spool == nil || p.spoolFailed && !p.spooling:
			if b := p.oldest(); b.events > 0 {
				f := p.depart(b.events)
				f.inMemory, f.bytes = true, len(b.text)-1
				return &cargo{flight: f, body: &body{text: b.body()}}
			}
			p.work.Wait()
		default:
			p.work.Wait()
		}
	}
	return nil
}

// loadSpooled takes the next events from the disk, without holding mu meanwhile.
func (p *Publisher) loadSpooled() *cargo {
	text := append(p.buffer(), '[')
	p.mu.Unlock()
	b, damage := p.spool.Take(text, p.options.MaxBatchBytes, p.options.MaxBatchEvents)
	if damage != nil {
		p.lost(damage)
	}
	p.mu.Lock()
	if b == nil {
		return nil
	}
	return &cargo{flight: p.depart(b.Events), body: &body{text: append(b.Payload, ']')}, spooled: b}
}

// depart returns the flight of the next events.
func (p *Publisher) depart(events int) *flight {
	f := &flight{first: p.taken, events: events}
	p.taken += uint64(events)
	p.flights = append(p.flights, f)
	return f
}

// piece is a part of a cargo, usually all of it.
type piece struct {
	*body
	first  uint64
	events int
}

// outcome is how a delivery ended.
type outcome int

const (
	delivered outcome = iota // the hub has answered for every event
	returned                 // the cargo was put back
	over                     // the publisher stops
)

// deliver sends until the hub has answered for every event. A cargo that is only in
// memory although there is a spool is put back when the hub does not take it, because
// the disk may work again before the hub does.
func (p *Publisher) deliver(c *cargo, failures *int) outcome {
	todo := []piece{{c.body, c.first, c.events}}
	for len(todo) > 0 {
		if p.running.Err() != nil {
			p.abandon(c)
			return over
		}
		now := todo[0]
		a := p.attempt(now.body, now.events)
		if a.doubtful { // what is wrong with a request without events is not their fault
			if none := p.attempt(&body{text: []byte("[]")}, 0); none.err != nil {
				a = answer{err: none.err}
			}
		}
		if a.split {
			texts, err := elements(now.text)
			if err == nil && len(texts) == now.events {
				half := now.events / 2
				todo = slices.Replace(todo, 0, 1,
					piece{&body{text: arrayOf(texts[:half])}, now.first, half},
					piece{&body{text: arrayOf(texts[half:])}, now.first + uint64(half), now.events - half})
				continue
			}
			a = refusedAll(now.events, "invalid", a.err.Error())
		}
		if a.err == nil {
			*failures = 0
			p.answered(c.flight, now, a)
			todo = todo[1:]
			continue
		}
		delay := p.delay(a.err, *failures)
		*failures++
		p.failed(a.err, delay)
		back := p.spool != nil && p.putBack(c)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-p.running.Done():
			timer.Stop()
		}
		if back {
			return returned
		}
	}
	return delivered
}

// abandon gives a cargo up because the publisher stops. Back in memory, it gets into the
// spool.
func (p *Publisher) abandon(c *cargo) {
	if p.spool == nil || p.putBack(c) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.abandoned = true
	p.spoolWork.Signal()
}

// putBack undoes the loading of a cargo from memory, if it was the last to be loaded.
// Nothing behind it is in the spool, because fillSpool waits meanwhile.
func (p *Publisher) putBack(c *cargo) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.inMemory || c.settled > 0 || c.first+uint64(c.events) != p.taken {
		return false
	}
	p.flights = slices.DeleteFunc(p.flights, func(f *flight) bool { return f == c.flight })
	p.spoolWork.Signal()
	p.taken = c.first
	text := slices.Clone(c.text) // of which a request may still be reading
	p.ready = slices.Insert(p.ready, 0, batch{text: text, events: c.events})
	return true
}

// delay is how long to wait after an attempt that failed.
func (p *Publisher) delay(err error, failures int) time.Duration {
	most := min(p.timing.maxBackoff, p.timing.minBackoff<<min(failures, 10))
	if errors.Is(err, ErrPermission) { // which takes a person, and hubs count such attempts
		most = p.timing.maxBackoff
	}
	delay := rand.N(most)
	if status, ok := errors.AsType[*StatusError](err); ok {
		delay = max(delay, status.RetryAfter)
	}
	return delay
}

// failed tells about an attempt that failed.
func (p *Publisher) failed(err error, delay time.Duration) {
	p.mu.Lock()
	p.stats.Retries++
	p.stats.LastError = err
	p.mu.Unlock()
	p.notifying.Lock()
	defer p.notifying.Unlock()
	p.failing = true
	if p.running.Err() == nil {
		p.notify(Notice{Kind: Disconnected, Err: err, Retry: delay})
	}
}

// answered notes what the hub said about the events of a piece. Notify is called before
// those who wait go on, so that they find everything told.
func (p *Publisher) answered(f *flight, now piece, a answer) {
	var texts []json.RawMessage
	if len(a.refused) > 0 {
		texts, _ = elements(now.text) // without them the refusals are told all the same
	}
	refused := make([]Refusal, len(a.refused))
	for i, r := range a.refused {
		refused[i] = Refusal{Index: int(now.first) + r.Index, ID: printable(r.ID), Code: printable(r.Code), Message: printable(r.Message)}
		if r.Index < len(texts) {
			refused[i].Event = slices.Clone(texts[r.Index])
		}
	}
	p.notifying.Lock()
	if p.failing {
		p.failing = false
		p.notify(Notice{Kind: Reconnected})
	}
	for _, r := range refused {
		r.Index -= p.backlog
		p.notify(Notice{Kind: Refused, Err: &r, Refusal: &r})
	}
	for _, w := range a.warnings {
		p.notify(Notice{Kind: Warned, Err: errors.New(printable(w.Message))})
	}
	p.notifying.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Acknowledged += uint64(a.accepted + a.duplicates)
	p.stats.Duplicates += uint64(a.duplicates)
	p.stats.Refused += uint64(len(refused))
	p.settle(f, now.first, now.events, refused)
}

func (p *Publisher) notify(n Notice) {
	if p.options.Notify != nil {
		p.options.Notify(n)
	}
}
