package client

import (
	"cmp"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/internal/spool"
)

// openSpool takes over what a former process left.
func (p *Publisher) openSpool() error {
	o := *p.options.Spool
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxSpoolBytes)
	p.options.Spool = &o
	s, damage, err := spool.Open(spool.Options{Dir: o.Dir, SegmentBytes: max(o.MaxBytes/16, 64<<10)})
	if err != nil {
		return err
	}
	p.spool = s
	p.backlog = s.Waiting()
	p.accepted = uint64(p.backlog)
	p.spoolBytes = s.Bytes()
	for _, d := range damage {
		p.notify(Notice{Kind: Lost, Err: d})
	}
	p.group.Go(p.fillSpool)
	return nil
}

// fillSpool is the goroutine that brings events from memory to the disk. While some are sent from
// memory, because the disk failed, it waits: they may come back, and are older.
func (p *Publisher) fillSpool() {
	for {
		p.mu.Lock()
		for p.sendsFromMemory() || !p.stopping && len(p.ready) == 0 && p.fill.events == 0 {
			p.spoolWork.Wait()
		}
		b := p.oldest()
		if b.events == 0 {
			p.mu.Unlock()
			return
		}
		p.spooling = true
		p.mu.Unlock()
		err := p.spool.Append(b.events, b.payload())
		if !p.filled(b, err) {
			return
		}
	}
}

func (p *Publisher) sendsFromMemory() bool {
	return slices.ContainsFunc(p.flights, func(f *flight) bool { return f.inMemory && !f.abandoned })
}

// filled notes what came of an attempt to write to the disk; false means that it is over.
func (p *Publisher) filled(b batch, err error) bool {
	p.mu.Lock()
	p.spooling = false
	failedBefore := p.spoolFailed
	p.spoolFailed = err != nil
	p.spoolBytes = p.spool.Bytes()
	if err != nil {
		p.ready = slices.Insert(p.ready, 0, b)
		p.stats.LastError = err
	} else {
		p.memEvents -= b.events
		p.memBytes -= len(b.text) - 1
		p.recycle(b.text)
		p.passBarriers()
		p.room.Broadcast()
	}
	p.work.Broadcast()
	stopping := p.stopping
	p.mu.Unlock()
	switch {
	case err != nil && stopping:
		return false
	case err != nil:
		if !failedBefore {
			p.notifySpool(err)
		}
		timer := time.NewTimer(p.timing.spoolRetry)
		select {
		case <-timer.C:
		case <-p.running.Done():
			timer.Stop()
		}
	case failedBefore:
		p.notifying.Lock()
		p.notify(Notice{Kind: SpoolWorks})
		p.notifying.Unlock()
	}
	return true
}

func (p *Publisher) notifySpool(err error) {
	p.notifying.Lock()
	defer p.notifying.Unlock()
	p.notify(Notice{Kind: SpoolFailed, Err: err})
}

// lost notes that events in the spool cannot be read. It is called while nobody else
// loads.
func (p *Publisher) lost(d *spool.Damage) {
	p.notifying.Lock()
	p.notify(Notice{Kind: Lost, Err: d})
	p.notifying.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.taken
	p.taken += uint64(d.Events)
	p.stats.Lost += uint64(d.Events)
	p.stats.LastError = d
	refused := make([]Refusal, d.Events)
	for i := range refused {
		refused[i] = Refusal{Index: int(first) + i, Code: "lost", Message: d.Error()}
	}
	p.settle(new(flight), first, d.Events, refused)
	p.passBarriers()
}
