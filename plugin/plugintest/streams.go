package plugintest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// events: a stream has the events that it should have, ends when it should, and stays ended.
func events(x *trial) {
	r := x.open(sourceplugin.Open{}).all()
	if n := len(r.read) + r.drops; x.o.Events > 0 && n != x.o.Events {
		x.Errorf("the stream has %d events, and Options.Events is %d", n, x.o.Events)
	}
	if x.o.Events > 0 {
		x.within(x.o.Patience, "Next after the end of the stream", func(ctx context.Context) {
			if err := r.stream.Next(ctx, &r.batch); !errors.Is(err, io.EOF) || r.batch.Count != 0 {
				x.Errorf("after its end the stream goes on with %d events, and the error %v", r.batch.Count, err)
			}
		})
	}
	if x.o.Check == nil {
		return
	}
	list := make([]plugin.Event, len(r.read))
	for i := range r.read {
		list[i] = view(r.read[i])
	}
	x.o.Check(x, list)
}

// again: a second stream gives what the first gave.
func again(x *trial) {
	first := x.open(sourceplugin.Open{}).all()
	first.close()
	x.same("a second stream with the same params", x.open(sourceplugin.Open{}).all().read, first.read)
}

// sizes: events that are too large are left out and counted, and the others are not.
func sizes(x *trial) {
	first := x.open(sourceplugin.Open{}).all()
	first.close()
	sizes := make([]int, len(first.read))
	for i, e := range first.read {
		sizes[i] = len(e.Event)
	}
	slices.Sort(sizes)
	if len(sizes) == 0 {
		return
	}
	limit := sizes[len(sizes)/2]
	r := x.open(sourceplugin.Open{MaxEventBytes: limit})
	if x.o.Endless > 0 {
		r.upTo(x.o.Endless / 4)
	} else {
		r.all()
	}
	for _, e := range r.read {
		if len(e.Event) > limit {
			x.Errorf("an event has %d bytes, and at most %d were asked for", len(e.Event), limit)
		}
	}
	if n := len(r.read) + r.drops; x.o.Events > 0 && n != len(first.read) {
		x.Errorf("with at most %d bytes there are %d events, and %d that are too large, instead of %d", limit, len(r.read), r.drops, len(first.read))
	}
}

// interrupted: who reads may give up at any time, and go on later, and nothing is lost by that.
func interrupted(x *trial) {
	first := x.open(sourceplugin.Open{}).all()
	first.close()
	r := x.open(sourceplugin.Open{})
	begun, n := time.Now(), 0
	for !r.ended && len(r.read) < x.o.wanted()+min(x.o.Events, 1) && time.Since(begun) < x.o.Patience {
		// The first is over before it begins, the others sooner or later.
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n%8)*500*time.Microsecond)
		start := time.Now()
		x.within(x.o.Patience, "Next, with a context that ends soon", func(context.Context) { r.next(ctx) })
		if took := time.Since(start); took > x.o.Prompt {
			x.Errorf("Next has returned %v after it was called, although its context ended at once", took)
		}
		cancel()
		if n++; n%8 == 0 { // and one that waits for something
			x.within(x.o.Patience, "Next", func(ctx context.Context) {
				waiting, cancel := context.WithTimeout(ctx, x.o.Patience/10)
				defer cancel()
				r.next(waiting)
			})
		}
	}
	if x.o.Endless == 0 && !r.ended {
		x.Fatalf("a stream whose reader gives up and comes back has not ended within %v; %d events were read", x.o.Patience, len(r.read))
	}
	x.same("a stream whose reader gives up and comes back", r.read, first.read)
}

// twoStreams: two streams at the same time do not disturb each other.
func twoStreams(x *trial) {
	first := x.open(sourceplugin.Open{}).all()
	if x.o.Exclusive {
		r, err := x.tryOpen(sourceplugin.Open{Params: x.o.Params})
		if r != nil {
			x.Errorf("a second stream can be opened, although Options.Exclusive says that it cannot")
		} else {
			x.refused("a second stream", err)
		}
		first.close()
		x.open(sourceplugin.Open{}).all()
		return
	}
	first.close()
	both := [2]*reader{x.open(sourceplugin.Open{}), x.open(sourceplugin.Open{})}
	for i := range 2 { // in turns, from one batch to the next
		both[i].upTo(1)
	}
	var reading sync.WaitGroup
	for _, r := range both {
		reading.Go(func() { r.all() })
	}
	reading.Wait()
	for _, r := range both {
		x.same("one of two streams that are open at the same time", r.read, first.read)
	}
}

// closing: a stream, and a plugin, can be closed twice, and are closed then.
func closing(x *trial) {
	r := x.open(sourceplugin.Open{})
	r.upTo(1)
	r.close()
	r.close()
	x.over(r, "closed")
	x.closePlugin(x.plugin)
	x.closePlugin(x.plugin)
	if late, err := x.tryOpen(sourceplugin.Open{Params: x.o.Params}); late != nil || err == nil {
		x.Errorf("a closed plugin opens a stream")
	}
}

// over fails unless a stream is over, which was closed: what was on its way may still come.
func (x *trial) over(r *reader, what string) {
	x.Helper()
	x.within(x.o.Prompt, "Next of a stream that is "+what, func(ctx context.Context) {
		for range 100 {
			if err := r.stream.Next(ctx, &r.batch); err != nil {
				if ctx.Err() != nil {
					x.Errorf("a stream that is %s waits for events", what)
				}
				return
			}
		}
		x.Errorf("a stream that is %s goes on", what)
	})
}

// closeWhileReading: Close ends Next.
func closeWhileReading(x *trial) { x.endWhileReading(func(r *reader) { r.close() }) }

// closePlugin: closing the plugin ends its streams.
func closePlugin(x *trial) { x.endWhileReading(func(*reader) { x.closePlugin(x.plugin) }) }

func (x *trial) endWhileReading(end func(*reader)) {
	x.Helper()
	r := x.open(sourceplugin.Open{})
	r.upTo(1)
	reading, over := make(chan struct{}), make(chan any, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer func() { over <- recover() }()
		close(reading)
		for ctx.Err() == nil && r.stream.Next(ctx, &r.batch) == nil {
		}
	}()
	<-reading
	end(r)
	timer := time.NewTimer(x.o.Prompt)
	defer timer.Stop()
	select {
	case panicked := <-over:
		if panicked != nil {
			x.Errorf("Next panicked: %v", panicked)
		}
	case <-timer.C:
		x.Errorf("Next goes on %v after the end", x.o.Prompt)
		cancel()
		select {
		case <-over:
		case <-time.After(x.o.Prompt):
		}
	}
}

// closeUnread: a stream of which nothing is read can be closed.
func closeUnread(x *trial) {
	x.open(sourceplugin.Open{}).close()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	x.within(x.o.Prompt, "Open, with a context that has ended", func(ctx context.Context) {
		if s, err := x.plugin.Open(ended, sourceplugin.Open{Params: x.o.Params}); err == nil {
			_ = s.Close(ctx)
		}
	})
	x.open(sourceplugin.Open{}).all()
}

// progress: how far a stream is can be asked for at any time, and makes sense.
func progress(x *trial) {
	r := x.open(sourceplugin.Open{})
	look := func() {
		x.Helper()
		x.within(x.o.Patience, "Progress", func(ctx context.Context) {
			p, err := r.stream.Progress(ctx)
			switch {
			case errors.Is(err, sourceplugin.ErrNotSupported) && x.o.Events > 0: // the plugin has forgotten a stream that has ended
			case err != nil:
				x.Errorf("Progress: %v", err)
			case math.IsNaN(p.Fraction) || p.Fraction < 0 || p.Fraction > 1:
				x.Errorf("the progress is %v, and must be from 0 to 1", p.Fraction)
			case p.Text != "":
				x.checkText("the text of the progress", p.Text)
			}
		})
	}
	look()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.all()
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			x.ask("Progress while the stream is read", func(ctx context.Context) error {
				_, err := r.stream.Progress(ctx)
				if errors.Is(err, sourceplugin.ErrNotSupported) {
					return nil
				}
				return err
			})
		}
	}
	look()
}

// resume: a stream that is opened with a position goes on behind it.
func resume(x *trial) {
	whole := x.open(sourceplugin.Open{}).all()
	whole.close()
	if len(whole.marks) == 0 {
		x.Fatalf("the plugin declares that it resumes, and a stream with %d events has no resume position", len(whole.read))
	}
	ids := x.ids(whole.read)
	for _, i := range picked(len(whole.marks)) {
		m := whole.marks[i]
		for range 2 { // the hub may do so, too
			r := x.open(sourceplugin.Open{Resume: m.position})
			if x.o.Events > 0 {
				r.toEnd()
			} else {
				r.upTo(len(whole.read) - m.to)
			}
			r.close()
			got := x.ids(r.read)
			if begin := place(ids, got, max(m.from, min(1, m.to)), m.to); begin < 0 || x.o.Events > 0 && begin+len(got) != len(ids) {
				x.Errorf("a stream that was resumed behind event %d has %d events, which do not go on where the one before was stopped, and end as it does (there are %d): it begins with %.200q instead of %.200q (Options.Identity says what must be equal)", m.to, len(got), len(ids), first(got), first(ids[m.to:]))
			}
		}
	}
	x.resumeOften(ids, 0, func(*reader, mark) {})
}

// place returns behind which event of ids, between from and to, the others are; of several places
// the last; -1 if there is none. As far as both are known, if the stream has no end.
func place(ids, others []string, from, to int) int {
	for begin := to; begin >= from; begin-- {
		if n := min(len(others), len(ids)-begin); slices.Equal(ids[begin:begin+n], others[:n]) {
			return begin
		}
	}
	return -1
}

func first(ids []string) string {
	if len(ids) == 0 {
		return "the end"
	}
	return ids[0]
}

// acknowledge: positions that are durable can be acknowledged while the stream is read, and are
// resumed from.
func acknowledge(x *trial) {
	whole := x.open(sourceplugin.Open{}).all()
	whole.close()
	x.resumeOften(x.ids(whole.read), 1, func(r *reader, m mark) {
		x.ask("Acknowledge", func(ctx context.Context) error { return r.stream.Acknowledge(ctx, m.position) })
	})
	r := x.open(sourceplugin.Open{})
	var reading sync.WaitGroup
	reading.Go(func() { r.all() })
	for range 10 { // also when there is nothing new
		for _, i := range picked(len(whole.marks))[:1] {
			x.ask("Acknowledge while the stream is read", func(ctx context.Context) error {
				return r.stream.Acknowledge(ctx, whole.marks[i].position)
			})
		}
	}
	reading.Wait()
}

// resumeOften reads streams, each until it has given a few positions and resumed from the last one
// of the one before, until the whole is read. durable is called with each position.
func (x *trial) resumeOften(ids []string, stops int, durable func(*reader, mark)) {
	x.Helper()
	var position []byte
	from, to := 0, 0 // where the next one may begin
	begun := time.Now()
	for stop := 1 + stops; ; stop++ {
		r := x.open(sourceplugin.Open{Resume: position})
		// The longer it lasts, the more is read between two stops.
		for seen := 0; seen < stop*stop && !r.ended && (x.o.Events > 0 || to+len(r.read) < len(ids)); {
			before := len(r.marks)
			x.within(x.o.Patience, "reading", func(ctx context.Context) { r.next(ctx) })
			if len(r.marks) > before {
				seen++
				durable(r, r.marks[before])
			}
			if time.Since(begun) > x.o.Patience || len(r.read) > len(ids) && x.o.Events > 0 {
				x.Fatalf("a stream that is stopped and resumed again and again has not ended after %d events", to+len(r.read))
			}
		}
		r.close()
		got := x.ids(r.read)
		begin := place(ids, got, from, to)
		switch whole := begin+len(got) >= len(ids); {
		case begin < 0, r.ended && !whole, begin+len(got) > len(ids) && x.o.Events > 0:
			x.Errorf("a stream that is stopped and resumed again and again, and was resumed behind event %d of %d, goes on with %d others: %.200q instead of %.200q (Options.Identity says what must be equal)", to, len(ids), len(got), first(got), first(ids[to:]))
			return
		case whole || len(r.marks) == 0:
			return
		}
		last := r.marks[len(r.marks)-1]
		from, to, position = begin+last.from, begin+last.to, last.position
	}
}

// picked returns some of n places: the first, the last, and some between.
func picked(n int) []int {
	places := []int{0, n / 3, n / 2, n - 1}
	places = slices.DeleteFunc(places, func(i int) bool { return i < 0 || i >= n })
	return slices.Compact(places)
}

// foreignPositions: a position that the plugin has not given is refused, or a stream begins
// somewhere, but nothing breaks.
func foreignPositions(x *trial) {
	for _, position := range [][]byte{{}, {0}, []byte("18446744073709551616"), []byte("../../etc/passwd\x00"), []byte(`{"n":-1}`), slices.Repeat([]byte{0xff}, maxPositionBytes)} {
		r, err := x.tryOpen(sourceplugin.Open{Params: x.o.Params, Resume: position})
		if r == nil {
			x.refused(fmt.Sprintf("the position %.40q", position), err)
			continue
		}
		r.close()
	}
	x.open(sourceplugin.Open{}).all()
}
