package delivertest

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// failing returns a check with a receiver that fails in a way that passes: nothing is held
// against the events for good, and when the receiver works again, the same sink delivers
// them.
func failing(mode Mode) func(x *trial) {
	return func(x *trial) {
		sink := x.open()
		before := Events(0, 3)
		x.sendUntil(sink, before)

		x.receiver.Set(mode)
		events := Events(100, 4)
		for range 3 {
			for _, part := range x.parts(events) {
				x.wantLater(x.send(sink, x.h.attempt, part...), part, deliver.Doubtful)
			}
		}
		x.receiver.Set(Works)
		x.sendUntil(sink, events)
		// One that closes connections may have taken them before.
		x.wantEach(slices.Concat(before, events), mode != Closes)

		// A sink that is made while the receiver does not work is as good as any.
		x.close(sink)
		x.receiver.Set(mode)
		other, later := x.open(), Events(200, 2)
		for _, part := range x.parts(later) {
			x.wantLater(x.send(other, x.h.attempt, part...), part, deliver.Doubtful)
		}
		x.receiver.Set(Works)
		x.sendUntil(other, later)
		x.wantEach(slices.Concat(before, events, later), mode != Closes)
	}
}

// wantLater fails unless all events are to be sent again: Retry, or the other outcome.
func (x *trial) wantLater(results []deliver.Result, events []deliver.Item, or deliver.Outcome) {
	x.Helper()
	for i, r := range results {
		if r.Outcome != deliver.Retry && r.Outcome != or {
			x.Errorf("event %s is %s (%s), want retry or %s", events[i].Event.ID, r.Outcome, r.Reason, or)
		}
	}
}

// hanging sends to a receiver that does not answer: the context bounds it, and nothing is
// held against the events.
func hanging(x *trial) {
	const timeout = 300 * time.Millisecond
	sink, before, events := x.open(), Events(0, 3), Events(100, 4)
	x.sendUntil(sink, before)
	x.receiver.Set(Hangs)
	for range 2 {
		for _, part := range x.parts(events)[:1] {
			x.wantLater(x.send(sink, timeout, part...), part, deliver.Retry)
		}
	}
	x.receiver.Set(Works)
	x.sendUntil(sink, events)
	x.close(sink)

	// Also one that has no connection yet.
	x.receiver.Set(Hangs)
	other, later := x.open(), Events(200, 4)
	for _, part := range x.parts(later)[:1] {
		x.wantLater(x.send(other, timeout, part...), part, deliver.Retry)
	}
	x.receiver.Set(Works)
	x.sendUntil(other, later)
	x.wantEach(slices.Concat(before, events, later), false)
}

// hangingLarge sends more than the buffers of a connection take to a receiver that does not
// read.
func hangingLarge(x *trial) {
	sink, before := x.open(), Events(0, 1)
	x.sendUntil(sink, before)
	x.receiver.Set(Hangs)
	events := []deliver.Item{largeEvent(0, x.h.LargestData, false)}
	x.wantLater(x.send(sink, 300*time.Millisecond, events...), events, deliver.Retry)
	x.receiver.Set(Works)
	x.sendUntil(sink, events)
	x.wantEach(slices.Concat(before, events), false)
}

// cancel ends the context while Send waits.
func cancel(x *trial) {
	sink := x.open()
	x.receiver.Set(Hangs)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var sending sync.WaitGroup
	for sender := range x.h.Parallel {
		part := x.parts(Events(sender*10, 5))[0]
		sending.Go(func() { x.wantLater(x.sendIn(ctx, 2*x.h.soon, sink, part...), part, deliver.Retry) })
	}
	time.Sleep(10 * pause) // it waits for something that does not happen
	cancel()
	x.within(x.h.soon, "Send, whose context has ended,", sending.Wait)
	x.receiver.Set(Works)
	x.sendUntil(sink, Events(1000, 2))
}

// closeWhileHanging closes a sink that waits for a receiver.
func closeWhileHanging(x *trial) {
	sink := x.open()
	x.receiver.Set(Hangs)
	var sending sync.WaitGroup
	returned := make(chan struct{}, x.h.Parallel)
	for sender := range x.h.Parallel {
		part := x.parts(Events(sender*10, 5))[0]
		sending.Go(func() {
			x.wantLater(x.send(sink, x.h.patient, part...), part, deliver.Retry)
			returned <- struct{}{}
		})
	}
	time.Sleep(10 * pause)
	if n := len(returned); n > 0 {
		x.Errorf("%d of %d calls of Send returned although nobody answers", n, x.h.Parallel)
	}
	x.close(sink)
	x.within(x.h.soon, "Send, whose sink is closed,", sending.Wait)
}

// slow sends to a receiver that takes its time.
func slow(x *trial) {
	sink := x.open()
	x.receiver.Set(Slow)
	var all []deliver.Item
	for i := range 3 {
		events := Events(i*10, 10)
		x.sendAll(sink, events)
		all = append(all, events...)
	}
	x.wantExactly(all)
}

// outages goes through all that a receiver can do wrong, often: nothing piles up.
func outages(x *trial) {
	sink := x.open()
	x.sendUntil(sink, Events(0, 3))
	time.Sleep(10 * pause) // those that end do
	const rounds = 20
	most := runtime.NumGoroutine() + rounds
	for round := range rounds {
		for _, mode := range x.h.Modes {
			if mode == RefusesOne || mode == Slow {
				continue
			}
			x.receiver.Set(mode)
			for _, part := range x.parts(Events(1000+round*10, 2))[:1] {
				x.wantLater(x.send(sink, 2*pause, part...), part, deliver.Doubtful)
			}
		}
		x.receiver.Set(Works)
		if round%10 == 9 {
			x.sendUntil(sink, Events(10_000+round*10, 2))
		}
	}
	for begun := time.Now(); runtime.NumGoroutine() > most; time.Sleep(pause) {
		if time.Since(begun) > x.h.soon {
			x.Errorf("%d goroutines after %d outages, %d before", runtime.NumGoroutine(), rounds*len(x.h.Modes), most-rounds)
			break
		}
	}
}
