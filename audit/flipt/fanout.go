package flipt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// FanoutOptions configure a [Fanout]. The zero value is useful.
type FanoutOptions struct {
	// QueueEvents is how many events wait for one sink, besides those that it has been given; 0:
	// 16,384.
	QueueEvents int
	// BatchEvents is how many events a sink is given at once; 0: 100.
	BatchEvents int
	// Timeout bounds one call of a sink; 0: 2 minutes.
	Timeout time.Duration
	// Wait is how long SendAudits waits for sinks that keep up, so that it can return their
	// errors; 0: 1 second. Negative: it does not wait.
	Wait time.Duration
	// GiveUpAfter is how long an event is tried with a sink that fails temporarily; 0: 24 hours.
	GiveUpAfter time.Duration
	// GiveUp is told which events a sink did not get, and why, once for each: the sink refused
	// them (a [DeliveryError] that is not Temporary), it panicked with them, its queue was full ([ErrQueueFull]), or the fan-out was shut down ([ErrShutdown]). It is
	// the place for a dead-letter file. It is called by several goroutines.
	GiveUp func(sink string, events []Event, err error)
	// Logger is told the same without the events; nil: slog.Default.
	Logger *slog.Logger
}

// Errors of a [Fanout].
var (
	ErrQueueFull = errors.New("the queue of the sink is full")
	ErrShutdown  = errors.New("auditing was shut down")
)

// Fanout brings events to sinks, each with a queue and a goroutine of its own: a sink that
// is down, slow or hangs holds up no other, and every sink gets every event. It is safe for
// concurrent use.
type Fanout struct {
	o       FanoutOptions
	sinks   []Sink // as given, for Close
	workers []*worker

	life context.Context // of calls of sinks
	end  context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	done   chan struct{} // the first Shutdown is through
	result error
}

// NewFanout returns a fan-out, to be ended by [Fanout.Shutdown]. Sinks that are nil are left out.
func NewFanout(sinks []Sink, o FanoutOptions) *Fanout {
	if o.QueueEvents <= 0 {
		o.QueueEvents = 16_384
	}
	if o.BatchEvents <= 0 {
		o.BatchEvents = 100
	}
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Minute
	}
	if o.Wait == 0 {
		o.Wait = time.Second
	}
	if o.GiveUpAfter <= 0 {
		o.GiveUpAfter = 24 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	f := &Fanout{o: o}
	f.life, f.end = context.WithCancelCause(context.Background())
	f.sinks = slices.DeleteFunc(slices.Clone(sinks), func(s Sink) bool { return s == nil })
	for _, sink := range f.sinks {
		parts := []Sink{sink}
		if several, ok := sink.(interface{ Split() []Sink }); ok {
			parts = several.Split()
		}
		for _, part := range parts {
			f.workers = append(f.workers, newWorker(f, part))
		}
	}
	return f
}

// SendAudits gives events to every sink. It returns when the sinks that keep up are through
// with them, or [FanoutOptions.Wait] is over, with all errors until then: those of the sinks,
// [ErrQueueFull] for a sink that did not get them, [ErrNotValid] for events that are given to none.
// The events are copied; what their payloads point to is encoded before it returns.
//
// Nothing is done, and no sink called, for no events. After Shutdown it returns [ErrShutdown].
func (f *Fanout) SendAudits(ctx context.Context, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	var errs []error
	good := make([]Event, 0, len(events))
	for i := range events {
		e := &events[i]
		if !e.Valid() {
			errs = append(errs, fmt.Errorf("event %d: %w", i, ErrNotValid))
			continue
		}
		made, err := e.Generic()
		if err != nil { // the event counts more than what was done to it
			errs = append(errs, fmt.Errorf("event %d: %w", i, err))
			made.Payload = map[string]any{"error": err.Error()}
		}
		if a := made.Metadata.Actor; a != nil {
			actor := *a
			made.Metadata.Actor = &actor
		}
		good = append(good, made)
	}
	if len(good) == 0 {
		return errors.Join(errs...)
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return errors.Join(append(errs, ErrShutdown)...)
	}
	var waits []*ticket
	for _, w := range f.workers {
		t, err := w.add(good)
		if err != nil {
			errs = append(errs, fmt.Errorf("sink %s: %w", w.sink, err))
		}
		if t != nil {
			waits = append(waits, t)
		}
	}
	f.mu.Unlock()
	if f.o.Wait > 0 {
		errs = append(errs, f.wait(ctx, waits)...)
	}
	return errors.Join(errs...)
}

// wait waits for tickets and returns their errors.
func (f *Fanout) wait(ctx context.Context, tickets []*ticket) (errs []error) {
	patience := time.NewTimer(f.o.Wait)
	defer patience.Stop()
	over := patience.C
	for i, t := range tickets {
		select {
		case <-t.done:
			errs = append(errs, t.errs...)
			continue
		default:
		}
		select {
		case <-t.done:
			errs = append(errs, t.errs...)
		case <-over:
			for _, t := range tickets[i:] {
				t.worker.fallBehind(t)
			}
			return errs
		case <-ctx.Done():
			return errs
		}
	}
	return errs
}

// ForceFlush returns when every sink is through with what it was given before, or ctx has
// ended.
func (f *Fanout) ForceFlush(ctx context.Context) error {
	for _, w := range f.workers {
		if err := w.flush(ctx); err != nil {
			return fmt.Errorf("sink %s has not delivered everything yet: %w", w.sink, err)
		}
	}
	return nil
}

// Shutdown takes no more events, waits until the sinks are through with what there is or
// ctx has ended (30 seconds, when it has no end), and closes the sinks, all of them. It returns all errors
// together: those of Close, and how many events a sink did not get. These are handed to
// GiveUp. A second call waits for the first and returns the same.
func (f *Fanout) Shutdown(ctx context.Context) error {
	f.mu.Lock()
	first := !f.closed
	if first {
		f.closed = true
		f.done = make(chan struct{})
	}
	f.mu.Unlock()
	if !first {
		select {
		case <-f.done:
			return f.result
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if _, ends := ctx.Deadline(); !ends {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
	}
	defer close(f.done)
	for _, w := range f.workers {
		w.close()
	}
	var errs []error
	for _, w := range f.workers {
		w.join(ctx)
	}
	f.end(ErrShutdown)
	for _, w := range f.workers {
		if err := w.leave(); err != nil {
			errs = append(errs, err)
		}
	}
	for _, sink := range f.sinks {
		if err := closeSink(sink); err != nil {
			errs = append(errs, fmt.Errorf("close sink %s: %w", sink, err))
		}
	}
	f.result = errors.Join(errs...)
	return f.result
}

func closeSink(s Sink) (err error) {
	defer recovered(&err)
	return s.Close()
}

// recovered makes an error of a panic in a sink.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = &panicError{p}
	}
}

type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("the sink panicked: %v", e.value) }

// Stats are the numbers of one sink.
type Stats struct {
	Sink      string
	Queued    int    // wait, or are being sent
	Delivered uint64 // events
	Retried   uint64 // were tried again
	GivenUp   uint64 // were handed to GiveUp, for whatever reason
}

// Stats returns the numbers of all sinks, in their order.
func (f *Fanout) Stats() []Stats {
	all := make([]Stats, len(f.workers))
	for i, w := range f.workers {
		all[i] = w.statistics()
	}
	return all
}

// String names the sinks.
func (f *Fanout) String() string { return fmt.Sprint(f.sinks) }
