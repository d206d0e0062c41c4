package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// RemainingError is what [Logger.Close] returns when not everything was delivered.
type RemainingError struct {
	// Events is how many events at least one sink lacks.
	Events uint64
	// Kept means that they are in the queue on disk, and are delivered by the next logger with
	// the same Dir. Otherwise they are lost.
	Kept bool
	// Err is why there was no time for them.
	Err error
}

func (e *RemainingError) Error() string {
	text := fmt.Sprintf("audit: %d events were not delivered everywhere and are lost", e.Events)
	if e.Kept {
		text = fmt.Sprintf("audit: %d events are not delivered everywhere yet; they are kept for the next start", e.Events)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns Err.
func (e *RemainingError) Unwrap() error { return e.Err }

// Flush returns when every sink has what was logged before, or has refused it. Sinks that
// are paused or disabled are not waited for. The error is that of ctx, or [ErrClosed].
func (l *Logger) Flush(ctx context.Context) error {
	if l.closed.Load() {
		return ErrClosed
	}
	return l.flush(ctx)
}

func (l *Logger) flush(ctx context.Context) error {
	errs := make([]error, len(l.outputs))
	var group sync.WaitGroup
	for i, o := range l.outputs {
		if o.delivery.Status().Held.By != "" {
			continue
		}
		group.Go(func() { errs[i] = o.delivery.Flush(ctx) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// Close ends the logger: it takes no more events, waits until the sinks have those that there
// are or ctx ends (without a deadline, at most [DefaultCloseTimeout]), and closes the sinks and the
// queue, which takes a moment more when a sink is busy. Events that are not delivered are told by a [*RemainingError].
func (l *Logger) Close(ctx context.Context) error {
	l.closed.Store(true)
	l.closing.Lock()
	defer l.closing.Unlock()
	if l.ended {
		return l.endErr
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, DefaultCloseTimeout, fmt.Errorf("there was no more than %v", DefaultCloseTimeout))
		defer cancel()
	}
	l.queue.Seal(ctx)
	flushErr := l.flush(ctx)
	if flushErr != nil && ctx.Err() != nil {
		flushErr = context.Cause(ctx)
	}
	l.stop()
	l.running.Wait()
	if l.options.Dir == "" {
		l.progress()
	}
	left := l.queue.Stats().Waiting
	errs := []error{l.queue.Close()}
	for _, o := range l.outputs {
		errs = append(errs, o.store.Close())
	}
	if left > 0 {
		errs = append(errs, &RemainingError{Events: left, Kept: l.options.Dir != "", Err: flushErr})
	}
	l.ended, l.endErr = true, errors.Join(errs...)
	return l.endErr
}

// Stats are the counters of a logger since [New], and what is waiting.
type Stats struct {
	Logged    uint64 // events that are in the trail
	Invalid   uint64 // refused by Log for what they are
	Truncated uint64 // of Logged, without some of their parts
	Rejected  uint64 // for which there was no room, so that Log returned an error
	Dropped   uint64 // for which there was no room, with [Drop]
	Queue     QueueStats
	Sinks     []SinkStats // in the order of Options.Outputs
}

// QueueStats is how the queue is.
type QueueStats struct {
	// Waiting is how many events are kept because at least one sink lacks them, or may have to get
	// them again after a crash; Oldest is when the oldest of them was queued.
	Waiting         uint64
	Oldest          time.Time
	Bytes, MaxBytes int64
	Syncs           uint64
	// Torn files ended in events that had not been acknowledged, as a crash leaves them.
	// Damaged is how many places could not be read, and Missing how many events were there.
	Torn, Damaged, Missing uint64
	// Trouble is why the disk does not take events; nil when it does.
	Trouble error
}

// SinkStats is how a sink is.
type SinkStats struct {
	Name string
	// Condition is "starting", "running", "failing" (it is tried again), "paused", "disabled" or
	// "ended"; Reason says more.
	Condition, Reason string
	Delivered         uint64 // events
	Retried           uint64 // times that an event was sent once more
	DeadLetters       uint64 // that there are
	Waiting           uint64 // events that it lacks
	Lag               time.Duration
}

// Stats returns how the logger is now.
func (l *Logger) Stats() Stats {
	if l.options.Dir == "" {
		l.progress()
	}
	q := l.queue.Stats()
	s := Stats{
		Logged: q.Appended, Invalid: l.invalid.Load(), Truncated: l.truncated.Load(), Rejected: q.Rejected, Dropped: q.Dropped,
		Queue: QueueStats{
			Waiting: q.Waiting, Oldest: q.Oldest, Bytes: q.Bytes, MaxBytes: q.MaxBytes, Syncs: q.Syncs,
			Torn: q.Torn, Damaged: q.Damaged, Missing: q.Missing, Trouble: q.Trouble,
		},
	}
	for _, o := range l.outputs {
		d := o.delivery.Status()
		out := SinkStats{
			Name: o.name, Condition: string(d.Condition), Reason: d.Held.Reason, Delivered: d.Delivered, Retried: d.Retried,
			Waiting: d.LagEvents, Lag: d.Lag,
		}
		out.DeadLetters, _, _ = o.store.Count(context.Background())
		if d.Outage != nil && out.Reason == "" {
			out.Reason = d.Outage.Reason
		}
		s.Sinks = append(s.Sinks, out)
	}
	return s
}

// lossIsNews is how long events that were dropped or rejected make a logger unhealthy.
const lossIsNews = 5 * time.Minute

// Health returns what is wrong, for people, and nil when nothing is: the disk takes no
// events, events were dropped or rejected in the last five minutes or cannot be read any more,
// a sink does not get what it should.
func (l *Logger) Health() error {
	if l.closed.Load() {
		return ErrClosed
	}
	q := l.queue.Stats()
	var errs []error
	if q.Trouble != nil {
		errs = append(errs, fmt.Errorf("the queue: %w", q.Trouble))
	}
	if last := l.queue.LastDrop(); !last.IsZero() && time.Since(last) < lossIsNews {
		errs = append(errs, fmt.Errorf("%d events were dropped, the last one at %s", q.Dropped, last.UTC().Format(time.RFC3339)))
	}
	if last := l.queue.LastRejection(); !last.IsZero() && time.Since(last) < lossIsNews {
		errs = append(errs, fmt.Errorf("%d events were rejected, because there was no room for them in time, the last one at %s", q.Rejected, last.UTC().Format(time.RFC3339)))
	}
	if q.Missing > 0 {
		errs = append(errs, fmt.Errorf("%d events in the queue cannot be read; files with .damaged in their names have what is left of them", q.Missing))
	}
	for _, o := range l.outputs {
		if err := o.delivery.Health(); err != nil {
			errs = append(errs, fmt.Errorf("sink %s: %w", o.name, err))
		} else if failed := o.failed.Load(); failed != nil {
			errs = append(errs, fmt.Errorf("sink %s: %w", o.name, *failed))
		}
	}
	return errors.Join(errs...)
}

// Test sends an event of type "SERVICE/audit-trail/test" to each sink, once, past the queue and
// the filter: after a start it says whether sinks are set up as they should be. The error has
// one for each sink that did not take it.
func (l *Logger) Test(ctx context.Context) error {
	w := writers.Get().(*writer)
	defer w.release()
	w.source = Event{Action: actionTest, Target: Target{Type: typeTrail}, Reason: "a test of the sinks"}
	l.complete(ctx, &w.source)
	if err := l.encoder.write(w, &w.source); err != nil {
		return err
	}
	data := append([]byte(`{"version":"`+SchemaVersion+`",`), w.buf...)
	var e Event
	if err := e.UnmarshalJSON(data); err != nil {
		return err
	}
	m := message(l.source, &e, data)
	errs := make([]error, len(l.outputs))
	var group sync.WaitGroup
	for i, o := range l.outputs {
		group.Go(func() {
			if r := o.delivery.Test(ctx, m); r.Outcome != deliver.Delivered {
				errs[i] = fmt.Errorf("sink %s: %s: %s", o.name, r.Outcome, cmp.Or(r.Reason, "it does not say why"))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// DeadLetter is an event that a sink was not given, or did not take.
type DeadLetter struct {
	ID    uint64 // of this sink
	Event Event
	// Cause is "refused" (the sink said no) or "failed" (it could not be sent).
	Cause    string
	Attempts int
	First    time.Time // attempt
	Last     time.Time
	Status   int // of HTTP, 0 for none
	Reason   string
}

func (l *Logger) output(name string) (*output, error) {
	i := slices.IndexFunc(l.outputs, func(o *output) bool { return o.name == name })
	if i < 0 {
		return nil, fmt.Errorf("%w: %q", ErrNoSink, cut(name, 80))
	}
	return l.outputs[i], nil
}

// DeadLetters returns up to limit dead letters of a sink with ids after after, oldest first.
// The error wraps [ErrNoSink] when there is no such sink.
func (l *Logger) DeadLetters(ctx context.Context, sink string, after uint64, limit int) ([]DeadLetter, error) {
	o, err := l.output(sink)
	if err != nil {
		return nil, err
	}
	stored, err := o.store.List(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	list := make([]DeadLetter, len(stored))
	for i, s := range stored {
		list[i] = DeadLetter{ID: s.ID, Cause: s.Cause, Attempts: s.Attempts, First: s.First, Last: s.Last, Status: s.Status, Reason: s.Reason}
		if err := list[i].Event.UnmarshalJSON(s.Event.Data); err != nil {
			return nil, fmt.Errorf("dead letter %d of sink %s: %w", s.ID, sink, err)
		}
	}
	return list, nil
}

// Redrive sends dead letters of a sink again: those with these ids, or all. It returns how
// many, and does not wait. Those that are delivered are dead letters no more.
func (l *Logger) Redrive(ctx context.Context, sink string, ids ...uint64) (uint64, error) {
	o, err := l.output(sink)
	if err != nil {
		return 0, err
	}
	_, n, err := o.delivery.Redrive(ctx, deliver.Letters{IDs: ids})
	return n, err
}

// Purge removes the dead letters of a sink with ids up to through, for good: all of them with
// [math.MaxUint64]. It returns how many.
func (l *Logger) Purge(ctx context.Context, sink string, through uint64) (uint64, error) {
	o, err := l.output(sink)
	if err != nil {
		return 0, err
	}
	return o.store.Purge(ctx, through)
}

// Pause makes that a sink gets nothing until Resume, also after a restart with the same Dir. Its
// events are kept, and take room in the queue.
func (l *Logger) Pause(ctx context.Context, sink, reason string) error {
	o, err := l.output(sink)
	if err != nil {
		return err
	}
	return o.delivery.Pause(ctx, reason)
}

// Resume ends what Pause began. It also enables a sink that was disabled because its
// receiver said that it wants nothing any more, as a webhook does with the status 410.
func (l *Logger) Resume(ctx context.Context, sink string) error {
	o, err := l.output(sink)
	if err != nil {
		return err
	}
	return o.delivery.Resume(ctx)
}

// Reopen makes sinks that write to a file begin it anew, when it was moved away.
func (l *Logger) Reopen() error {
	if l.closed.Load() {
		return ErrClosed
	}
	var errs []error
	for _, o := range l.outputs {
		if err := o.delivery.Reopen(); err != nil {
			errs = append(errs, fmt.Errorf("sink %s: %w", o.name, err))
		}
	}
	return errors.Join(errs...)
}
