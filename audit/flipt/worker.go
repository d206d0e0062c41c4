package flipt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// The pauses of a sink that fails temporarily.
const (
	firstPause = time.Second
	lastPause  = time.Minute
	// leaveAfter is how long a call may go on after its context has ended.
	leaveAfter = time.Second
)

// worker is one sink with its queue.
type worker struct {
	of   *Fanout
	sink Sink
	wake chan struct{} // something was added, or the end begins
	gone chan struct{} // the goroutine has ended

	mu      sync.Mutex
	queue   []queued
	sending int  // events that the sink has been given
	behind  bool // nobody waits for it
	closing bool
	idle    chan struct{} // closed when nothing is queued and nothing sent; nil: nobody waits
	left    int           // events that were given up at the end
	stats   Stats
}

// queued is an event in a queue.
type queued struct {
	event  Event
	since  time.Time
	ticket *ticket // nil: nobody waits
}

// ticket is for those who wait for events that they have added.
type ticket struct {
	worker *worker
	left   int
	errs   []error
	done   chan struct{}
}

func newWorker(f *Fanout, sink Sink) *worker {
	w := &worker{of: f, sink: sink, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	w.stats.Sink = sink.String()
	go w.run()
	return w
}

// add puts events into the queue. The ticket is nil when the sink is behind. What has no room is
// given up.
func (w *worker) add(events []Event) (t *ticket, err error) {
	w.mu.Lock()
	room := w.of.o.QueueEvents - len(w.queue)
	rest := events[min(max(room, 0), len(events)):]
	events = events[:len(events)-len(rest)]
	if !w.behind && len(events) > 0 {
		t = &ticket{worker: w, left: len(events), done: make(chan struct{})}
	}
	now := time.Now()
	for i := range events {
		w.queue = append(w.queue, queued{events[i], now, t})
	}
	w.mu.Unlock()
	w.signal()
	if len(rest) > 0 {
		err = ErrQueueFull
		w.giveUp(rest, err)
	}
	return t, err
}

func (w *worker) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// fallBehind says that nobody waits for the sink until it is through with its queue.
func (w *worker) fallBehind(t *ticket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.left > 0 {
		w.behind = true
	}
}

func (w *worker) run() {
	defer close(w.gone)
	defer w.abandon()
	pause := firstPause
	for {
		batch, ok := w.next()
		if !ok {
			return
		}
		err := w.send(batch)
		switch w.settle(batch, err) {
		case 0:
			pause = firstPause
		case len(batch):
			w.mu.Lock()
			w.behind = true
			w.mu.Unlock()
			if sleep(w.of.life, time.Duration(float64(pause)*(0.5+rand.Float64()/2))) != nil {
				return
			}
			pause = min(2*pause, lastPause)
		}
	}
}

// next returns the next events, and waits for some; false at the end.
func (w *worker) next() ([]queued, bool) {
	for {
		w.mu.Lock()
		if n := min(len(w.queue), w.of.o.BatchEvents); n > 0 && w.of.life.Err() == nil {
			batch := append([]queued(nil), w.queue[:n]...)
			clear(w.queue[:n])
			w.queue = w.queue[n:]
			w.sending = n
			w.mu.Unlock()
			return batch, true
		}
		end := w.closing || w.of.life.Err() != nil
		w.mu.Unlock()
		if end {
			return nil, false
		}
		<-w.wake
	}
}

// call calls the sink once.
func (w *worker) call(events []Event) (err error, timedOut bool) {
	ctx, cancel := context.WithTimeout(w.of.life, w.of.o.Timeout)
	defer cancel()
	defer recovered(&err)
	err = w.sink.SendAudits(ctx, events)
	return err, ctx.Err() != nil
}

// send gives the sink a batch, and returns which of it were not delivered, nil for none. An error
// that does not say which events it is about is about all: they are sent alone then, so that
// one that the sink cannot take keeps no other from it.
func (w *worker) send(batch []queued) *DeliveryError {
	events := make([]Event, len(batch))
	for i := range batch {
		events[i] = batch[i].event
	}
	err, timedOut := w.call(events)
	if err == nil {
		return nil
	}
	if partly := understood(err, len(events)); partly != nil {
		return partly
	}
	failed := &DeliveryError{Sink: w.stats.Sink}
	add := func(i int, err error) {
		_, panicked := errors.AsType[*panicError](err)
		failed.Failures = append(failed.Failures, Failure{i, err, !panicked})
	}
	if len(events) == 1 {
		add(0, err)
		return failed
	}
	for i := range events {
		if timedOut || i == 2 && len(failed.Failures) == 2 { // the sink is down
			for ; i < len(events); i++ {
				failed.Failures = append(failed.Failures, Failure{i, err, true})
			}
			return failed
		}
		var alone error
		alone, timedOut = w.call(events[i : i+1])
		if partly := understood(alone, 1); partly != nil {
			failed.Failures = append(failed.Failures, Failure{i, partly.Failures[0].Err, partly.Failures[0].Temporary})
		} else if alone != nil {
			add(i, alone)
		}
	}
	if len(failed.Failures) == 0 {
		return nil
	}
	return failed
}

// understood returns the failures of an error that says which of so many events it is about, or
// nil.
func understood(err error, events int) *DeliveryError {
	partly, ok := errors.AsType[*DeliveryError](err)
	if !ok {
		return nil
	}
	out := &DeliveryError{Sink: partly.Sink}
	for _, f := range partly.Failures {
		if f.Index >= 0 && f.Index < events && !slices.ContainsFunc(out.Failures, func(other Failure) bool { return other.Index == f.Index }) {
			out.Failures = append(out.Failures, f)
		}
	}
	if len(out.Failures) == 0 {
		return nil
	}
	return out
}

// settle puts what is to be tried again back into the queue, and returns how many these are.
func (w *worker) settle(batch []queued, partly *DeliveryError) (again int) {
	var failed []queued // to be tried again
	var lost []Event
	var why error
	errOf := make([]error, len(batch))
	if partly != nil {
		for _, f := range partly.Failures {
			errOf[f.Index] = fmt.Errorf("sink %s: %w", w.sink, f.Err)
			if f.Temporary && time.Since(batch[f.Index].since) < w.of.o.GiveUpAfter {
				failed = append(failed, batch[f.Index])
				continue
			}
			lost, why = append(lost, batch[f.Index].event), f.Err
		}
	}
	if len(lost) > 0 {
		w.giveUp(lost, why)
	}
	if len(failed) > 0 {
		w.report("events could not be delivered; they are tried again", len(failed), errOf)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Delivered += uint64(len(batch) - len(failed) - len(lost))
	w.stats.Retried += uint64(len(failed))
	for i := range batch {
		if t := batch[i].ticket; t != nil {
			if err := errOf[i]; err != nil {
				t.errs = append(t.errs, err)
			}
			if t.left--; t.left == 0 {
				close(t.done)
			}
		}
	}
	for i := range failed {
		failed[i].ticket = nil
	}
	if len(failed) == len(batch) { // the sink is down: the order stays
		w.queue = append(failed, w.queue...)
	} else { // it is about these events: others go first
		w.queue = append(w.queue, failed...)
	}
	w.sending = 0
	if len(w.queue) == 0 {
		w.behind = false
		if w.idle != nil {
			close(w.idle)
			w.idle = nil
		}
	}
	return len(failed)
}

// report tells the log of failures.
func (w *worker) report(what string, events int, errs []error) {
	for _, err := range errs {
		if err == nil {
			continue
		}
		attrs := []any{"sink", w.stats.Sink, "events", events, "error", err}
		if failed, ok := errors.AsType[*GiveUpError](err); ok {
			attrs = append(attrs, "attempts", failed.Attempts, "cause", failed.Cause)
		}
		w.of.o.Logger.Error(what, attrs...)
		return
	}
}

// giveUp says that the sink does not get events.
func (w *worker) giveUp(events []Event, err error) {
	w.mu.Lock()
	w.stats.GivenUp += uint64(len(events))
	w.mu.Unlock()
	w.report("events are not delivered to a sink", len(events), []error{err})
	if w.of.o.GiveUp != nil {
		w.of.o.GiveUp(w.stats.Sink, events, err)
	}
}

// flush waits until nothing is left.
func (w *worker) flush(ctx context.Context) error {
	w.mu.Lock()
	if len(w.queue) == 0 && w.sending == 0 {
		w.mu.Unlock()
		return nil
	}
	if w.idle == nil {
		w.idle = make(chan struct{})
	}
	idle := w.idle
	w.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-w.gone:
		return ErrShutdown
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close begins the end: what is queued is still sent.
func (w *worker) close() {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
	w.signal()
}

// join waits until everything is sent.
func (w *worker) join(ctx context.Context) {
	select {
	case <-w.gone:
	case <-ctx.Done():
	}
}

// leave waits for the goroutine, unless the sink does not come back, and says what is left.
func (w *worker) leave() error {
	t := time.NewTimer(leaveAfter)
	defer t.Stop()
	stuck := false
	select {
	case <-w.gone:
	case <-t.C:
		stuck = true
	}
	w.abandon()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case stuck:
		return fmt.Errorf("sink %s does not come back: %d events were not delivered, of %d more it is not known", w.stats.Sink, w.left, w.sending)
	case w.left > 0:
		return fmt.Errorf("sink %s: %d events were not delivered: %w", w.stats.Sink, w.left, ErrShutdown)
	}
	return nil
}

// abandon gives up what is left at the end.
func (w *worker) abandon() {
	w.mu.Lock()
	left := make([]Event, len(w.queue))
	for i := range w.queue {
		left[i] = w.queue[i].event
	}
	w.queue = nil
	w.left += len(left)
	w.mu.Unlock()
	if len(left) > 0 {
		w.giveUp(left, ErrShutdown)
	}
}

func (w *worker) statistics() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.Queued = len(w.queue) + w.sending
	return s
}
