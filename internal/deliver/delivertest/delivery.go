package delivertest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
)

// delivery is a real [deliver.Delivery] with a sink, a journal and a store in memory.
type delivery struct {
	*trial
	journal delivermem.Journal
	store   delivermem.Store
	running *deliver.Delivery
	stop    func()
}

// start begins to deliver in order, from where the store says.
func (d *delivery) start(sink deliver.Sink) {
	batch := d.h.MaxBatch
	if batch == 0 {
		batch = 50
	}
	d.running = deliver.New(deliver.Options{
		Name: "conformance", Sink: sink, From: deliver.FromStart, Journal: &d.journal, Store: &d.store,
		Policy: deliver.Policy{
			Order: deliver.All, MaxEvents: batch, Timeout: d.h.attempt, StopTimeout: 300 * time.Millisecond,
			Backoff: deliver.Backoff{First: pause / 2, Most: 2 * pause},
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.running.Run(ctx); err != nil {
			d.Errorf("Run: %v", err)
		}
	})
	d.stop = sync.OnceFunc(func() {
		cancel()
		d.within(d.h.patient, "Run, whose context has ended,", running.Wait)
	})
	d.Cleanup(d.stop)
}

// append puts ordinary events into the journal.
func (d *delivery) append(first, n int) []deliver.Item {
	items := Events(first, n)
	events := make([]*event.Event, n)
	for i := range items {
		events[i] = items[i].Event
	}
	end := d.journal.Append(events...)
	// The journal says where they are.
	for i := range items {
		items[i].At = end
		items[i].At.Index -= uint32(n - 1 - i)
		items[i].At.Ordinal -= uint64(n - 1 - i)
	}
	return items
}

// flushed waits until everything is delivered.
func (d *delivery) flushed() {
	d.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*d.h.patient)
	defer cancel()
	if err := d.running.Flush(ctx); err != nil && !errors.Is(err, deliver.ErrEnded) {
		d.Fatalf("not everything is delivered: %v; %+v", err, d.running.Status())
	}
}

// recovers is all of it together: a delivery whose receiver goes through every outage, and
// that is stopped and begun again in the middle of them, brings every event, in order.
func recovers(x *trial) {
	d := &delivery{trial: x}
	d.start(x.open())
	var all []deliver.Item
	more := func(n int) { all = append(all, d.append(len(all), n)...) }
	more(30)
	d.flushed()
	exact := true
	for i, mode := range x.h.Modes {
		if mode == RefusesOne {
			continue
		}
		// What a receiver took that did not answer comes again.
		exact = exact && mode != Closes && mode != Hangs
		x.receiver.Set(mode)
		more(20)
		time.Sleep(3 * pause) // long enough for attempts, which may fail
		if i%2 == 1 {         // stopped in an outage, and begun in it
			d.stop()
			more(5)
			d.start(x.open())
		}
		more(20)
		time.Sleep(3 * pause)
		x.receiver.Set(Works)
		d.flushed()
	}
	d.stop()
	letters, _, err := d.store.Count(context.Background())
	if err != nil || letters > 0 {
		x.Errorf("%d events became dead letters, %v", letters, err)
	}
	// After a restart, what was delivered since the progress was stored may come again; it was
	// stored when the delivery was stopped in order.
	if exact {
		x.wantExactly(all)
	}
	x.wantInOrder(all)
}

// wantInOrder fails unless all these events, and no others, have arrived in this order, not
// counting repeats.
func (x *trial) wantInOrder(events []deliver.Item) {
	x.Helper()
	x.wantEach(events, false)
	at := make(map[string]int, len(events))
	for i, e := range events {
		at[e.Event.ID] = i
	}
	next := 0
	for _, a := range x.receiver.Arrived() {
		switch i := at[a.ID]; {
		case i == next:
			next++
		case i > next:
			x.Errorf("event %d arrived before event %d", i, next)
			return
		}
	}
}
