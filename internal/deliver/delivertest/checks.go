package delivertest

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

// inOrder sends batches one after another: each event arrives once, in the order of the
// batches and of each of them.
func inOrder(x *trial) {
	sink := x.open()
	var all []deliver.Item
	for _, n := range []int{1, 2, 17, 100, 3} {
		events := Events(len(all), n)
		x.sendAll(sink, events)
		all = append(all, events...)
	}
	x.wantExactly(all)
}

// exactlyOnce sends many batches at the same time.
func exactlyOnce(x *trial) {
	const each, batches = 12, 6
	sink := x.open()
	var all []deliver.Item
	var sending sync.WaitGroup
	for sender := range x.h.Parallel {
		events := Events(sender*each*batches, each*batches)
		all = append(all, events...)
		sending.Go(func() {
			for part := range slices.Chunk(events, each) {
				x.sendAll(sink, part)
			}
		})
	}
	sending.Wait()
	x.wantEach(all, true)
	// What one sender sent keeps its order.
	at := make(map[string]int)
	for i, a := range x.receiver.Arrived() {
		at[a.ID] = i
	}
	for sender := range x.h.Parallel {
		for i := range each*batches - 1 {
			first, second := all[sender*each*batches+i].Event.ID, all[sender*each*batches+i+1].Event.ID
			if at[first] > at[second] {
				x.Errorf("event %s arrived before %s, which the same sender sent earlier", second, first)
				return
			}
		}
	}
}

// sentAgain sends the same events twice, as after a crash: the receiver gets the same ids.
func sentAgain(x *trial) {
	sink, events := x.open(), Events(0, 5)
	x.sendAll(sink, events)
	x.sendAll(sink, events)
	want := slices.Concat(events, events)
	if x.h.Deduplicates {
		want = events
	}
	x.wantExactly(want)
}

// hostile sends events that hold anything, together and one by one.
func hostile(x *trial) {
	sink, events := x.open(), Hostile()
	var arrive []deliver.Item
	deliverable := func(results []deliver.Result, part []deliver.Item) {
		for i, r := range results {
			impossible := x.h.Impossible != nil && x.h.Impossible(part[i].Event)
			switch {
			case impossible && r.Outcome != deliver.Impossible:
				x.Errorf("event %q, which cannot be sent, is %s: %s", part[i].Event.ID, r.Outcome, r.Reason)
			case !impossible && r.Outcome != deliver.Delivered:
				x.Errorf("event %.100q (type %.50q, path %.50q) is %s: %s", part[i].Event.ID, part[i].Event.Type, part[i].Event.Path, r.Outcome, r.Reason)
			case !impossible:
				arrive = append(arrive, part[i])
			}
		}
	}
	for _, part := range x.parts(events) {
		deliverable(x.send(sink, x.h.patient, part...), part)
	}
	x.wantExactly(arrive)
}

// large sends events as large as they may be, between small ones.
func large(x *trial) {
	sink := x.open()
	events := []deliver.Item{largeEvent(0, x.h.LargestData, false)}
	events = append(events, Events(0, 3)...)
	events = append(events, largeEvent(1, x.h.LargestData, false))
	events = append(events, Events(3, 3)...)
	// Quotes take up to six times as many bytes in some formats.
	events = append(events, largeEvent(2, x.h.LargestData/8, true))
	x.sendAll(sink, events)
	x.wantExactly(events)
}

// tooLarge sends an event that is more than the receiver takes between others: it alone
// cannot be delivered.
func tooLarge(x *trial) {
	if x.h.TooLargeData == 0 {
		x.Skip("nothing is too large")
	}
	sink := x.open()
	events := append(Events(0, 2), largeEvent(0, x.h.TooLargeData, false))
	events = append(events, Events(2, 2)...)
	x.oneNotDelivered(sink, events, 2)
}

// refusesOne sends an event that the receiver refuses between others.
func refusesOne(x *trial) {
	sink := x.open()
	events := Events(0, 5)
	bad := *events[2].Event
	bad.Type = RefusedType
	events[2].Event = &bad
	x.receiver.Set(RefusesOne)
	x.oneNotDelivered(sink, events, 2)
}

// oneNotDelivered sends events of which one cannot be delivered. The others may have to be
// sent again, and apart: as a delivery does, when a whole batch was refused or failed.
func (x *trial) oneNotDelivered(sink deliver.Sink, events []deliver.Item, bad int) {
	x.Helper()
	badID := events[bad].Event.ID
	left, size := events, len(events)
	var refused bool
	for begun := time.Now(); len(left) > 0; {
		if time.Since(begun) > x.h.patient {
			x.Fatalf("events beside one that cannot be delivered are not: %q", ids(left))
		}
		var again []deliver.Item
		for part := range slices.Chunk(left, min(size, len(x.parts(left)[0]))) {
			results, rest := x.sendApart(sink, part)
			whole := rest == len(part) && rest > 1
			for i, r := range results {
				isBad := part[i].Event.ID == badID
				switch {
				case whole && r.Outcome == deliver.Refused, isBad && r.Outcome == deliver.Doubtful && len(part) > 1,
					!isBad && (r.Outcome == deliver.Retry || r.Outcome == deliver.Doubtful):
					again = append(again, part[i])
				case isBad && (r.Outcome == deliver.Refused || r.Outcome == deliver.Impossible):
					refused = true
				case isBad || r.Outcome != deliver.Delivered:
					x.Errorf("event %s (the bad one: %v) is %s: %s", part[i].Event.ID, isBad, r.Outcome, r.Reason)
				}
			}
		}
		if len(again) == len(left) {
			if size == 1 {
				x.Fatalf("one event that cannot be delivered keeps others from being so: %q", ids(left))
			}
			size = (size + 1) / 2
		}
		left = again
	}
	if !refused {
		x.Error("the event that cannot be delivered was")
	}
	x.wantEach(slices.Delete(slices.Clone(events), bad, bad+1), true)
}

// sendApart sends a batch, and returns how many events have the result of all of it.
func (x *trial) sendApart(sink deliver.Sink, part []deliver.Item) (results []deliver.Result, rest int) {
	x.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), x.h.patient)
	defer cancel()
	return x.sendCounting(ctx, x.h.patient+x.h.soon, sink, part...)
}

// unchanged sends the same events from many goroutines: nobody changes them.
func unchanged(x *trial) {
	sink, events := x.open(), Events(0, 20)
	var before [][]byte
	for _, e := range events {
		before = append(before, event.AppendCloudEvent(nil, e.Event, ""))
	}
	var sending sync.WaitGroup
	for range x.h.Parallel {
		sending.Go(func() { x.sendAll(sink, events) })
	}
	sending.Wait()
	for i, e := range events {
		if after := event.AppendCloudEvent(nil, e.Event, ""); !bytes.Equal(after, before[i]) {
			x.Errorf("event %s was changed from\n%s\nto\n%s", e.Event.ID, before[i], after)
		}
	}
	x.wantEach(events, x.h.Deduplicates)
}

// endedContext sends with a context that has ended: what is said to be delivered was.
func endedContext(x *trial) {
	sink, events := x.open(), Events(0, 3)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, part := range x.parts(events) {
		for i, r := range x.sendIn(ctx, x.h.soon, sink, part...) {
			if r.Outcome != deliver.Retry && r.Outcome != deliver.Delivered {
				x.Errorf("with a context that has ended, event %s is %s: %s", part[i].Event.ID, r.Outcome, r.Reason)
			}
			if r.Outcome == deliver.Delivered {
				x.wantArrived(part[i])
			}
		}
	}
	x.sendUntil(sink, events)
	x.wantEach(events, false)
}

func (x *trial) wantArrived(e deliver.Item) {
	x.Helper()
	for begun := time.Now(); time.Since(begun) < x.h.soon; time.Sleep(pause) {
		if slices.ContainsFunc(x.receiver.Arrived(), func(a Arrival) bool { return a.ID == e.Event.ID }) {
			return
		}
	}
	x.Errorf("event %s is said to be delivered, but has not arrived", e.Event.ID)
}

// closing closes a sink that was never used, and one that was, often.
func closing(x *trial) {
	x.close(x.open())
	sink, events := x.open(), Events(0, 4)
	x.sendAll(sink, events)
	var closers sync.WaitGroup
	for range 4 {
		closers.Go(func() { x.close(sink) })
	}
	closers.Wait()
	x.close(sink)
	late := Events(4, 2)
	for _, part := range x.parts(late) {
		for i, r := range x.send(sink, x.h.soon, part...) {
			if r.Outcome != deliver.Retry {
				x.Errorf("after Close, event %s is %s: %s", part[i].Event.ID, r.Outcome, r.Reason)
			}
		}
	}
	x.wantExactly(events)
}

// closeWhileSending closes a sink that many are sending with.
func closeWhileSending(x *trial) {
	sink := x.open()
	var mu sync.Mutex
	var delivered []deliver.Item
	var sending sync.WaitGroup
	begun := make(chan struct{}, x.h.Parallel)
	for sender := range x.h.Parallel {
		sending.Go(func() {
			signal := sync.OnceFunc(func() { begun <- struct{}{} })
			defer signal()
			for k := 0; k < 2000; k += 10 {
				for _, part := range x.parts(Events(1000*1000*(sender+1)+k, 10)) {
					results := x.send(sink, x.h.patient, part...)
					signal()
					mu.Lock()
					for i, r := range results {
						if r.Outcome == deliver.Delivered {
							delivered = append(delivered, part[i])
						} else if r.Outcome != deliver.Retry {
							x.Errorf("while the sink is closed, event %s is %s: %s", part[i].Event.ID, r.Outcome, r.Reason)
						}
					}
					mu.Unlock()
					if slices.ContainsFunc(results, func(r deliver.Result) bool { return r.Outcome != deliver.Delivered }) {
						return
					}
				}
			}
		})
	}
	for range x.h.Parallel {
		<-begun
	}
	x.close(sink)
	x.within(x.h.soon, "Send after Close", sending.Wait)
	mu.Lock()
	defer mu.Unlock()
	got := make(map[string]bool)
	for _, a := range x.arrived(len(delivered)) {
		got[a.ID] = true
	}
	for _, e := range delivered {
		if !got[e.Event.ID] {
			x.Errorf("event %s was delivered, but has not arrived", e.Event.ID)
		}
	}
}

// syncAndReopen calls what a sink may have besides Send, at any time.
func syncAndReopen(x *trial) {
	sink := x.open()
	syncer, _ := sink.(deliver.Syncer)
	reopener, _ := sink.(deliver.Reopener)
	if syncer == nil && reopener == nil {
		x.Skip("the sink has neither Sync nor Reopen")
	}
	var all []deliver.Item
	both := func(mustWork bool) {
		x.Helper()
		x.within(x.h.soon, "Sync and Reopen", func() {
			if syncer != nil {
				if err := syncer.Sync(x.Context()); err != nil && mustWork {
					x.Errorf("Sync: %v", err)
				}
			}
			if reopener != nil {
				if err := reopener.Reopen(); err != nil && mustWork {
					x.Errorf("Reopen: %v", err)
				}
			}
		})
	}
	both(true)
	for i := range 5 {
		events := Events(i*7, 7)
		x.sendAll(sink, events)
		all = append(all, events...)
		both(true)
	}
	x.wantExactly(all)

	// And by others, while it sends.
	stop := make(chan struct{})
	var calling sync.WaitGroup
	for range 2 {
		calling.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					both(true)
					runtime.Gosched()
				}
			}
		})
	}
	for i := range 20 {
		events := Events(1000+i*7, 7)
		x.sendAll(sink, events)
		all = append(all, events...)
	}
	close(stop)
	calling.Wait()
	x.wantExactly(all)
	x.close(sink)
	both(false)
}

// secrets prints the sink and its options in every way, and makes sinks that cannot be made.
func secrets(x *trial) {
	sink := x.open()
	x.sendAll(sink, Events(0, 3))
	x.checkSecrets("the printed sink", printed(sink)...)
	for _, o := range x.h.Options {
		x.checkSecrets(fmt.Sprintf("a printed %T", o), printed(o)...)
	}
	if x.h.Errors == nil {
		return
	}
	for _, err := range x.h.Errors(x) {
		if err == nil {
			x.Error("a sink with wrong options was made")
			continue
		}
		x.checkSecrets("an error of New", fmt.Sprintf("%v %+v %#v %q", err, err, err, err))
		for e := err; e != nil; { // those inside
			x.checkSecrets("an error of New", fmt.Sprintf("%v %+v", e, e))
			u, ok := e.(interface{ Unwrap() error })
			if !ok {
				break
			}
			e = u.Unwrap()
		}
	}
}
