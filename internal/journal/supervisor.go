package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// downRetry is what producers are told while the journal recovers.
	downRetry = 2 * time.Second
	// recoverFirst and recoverMost bound the pauses between attempts to recover.
	recoverFirst = 50 * time.Millisecond
	recoverMost  = 5 * time.Second
	// reconnectTimeout is how long a recovery waits for the connection of the
	// states, which may lag behind.
	reconnectTimeout = 5 * time.Second
)

// condition is why the journal is not healthy.
type condition struct {
	err   error
	since time.Time
}

// Health returns nil while the journal accepts events. Otherwise the error says
// since when and why not; it wraps ErrFull, ErrUnavailable, ErrClosed or, for
// ever, ErrLost.
func (j *Journal) Health() error {
	if lost := j.lost.Load(); lost != nil {
		return fmt.Errorf("since %s: %w", lost.since.UTC().Format(time.RFC3339), lost.err)
	}
	if c := j.health.Load(); c != nil {
		return fmt.Errorf("since %s: %w", c.since.UTC().Format(time.RFC3339), c.err)
	}
	return nil
}

// Accepts reports whether events are taken. When they were not, and an append failed with
// an unknown outcome, then from the moment that it is true again its events are before
// [Journal.End] or nowhere.
func (j *Journal) Accepts() bool { return j.health.Load() == nil }

func (j *Journal) down(f fault) {
	err := fmt.Errorf("%w: %w", f.kind, f.cause)
	if j.health.CompareAndSwap(nil, &condition{err: err, since: time.Now()}) {
		j.log.Error("journal stopped accepting events", "error", err)
	}
}

func (j *Journal) up() {
	if c := j.health.Swap(nil); c != nil {
		j.log.Info("journal accepts events again", "after", time.Since(c.since).Round(time.Millisecond))
	}
}

// alarm makes the supervisor look at the embedded server. It never blocks.
func (j *Journal) alarm() {
	select {
	case j.alarms <- struct{}{}:
	default:
	}
}

// supervise brings the journal back after a fault, until ctx ends.
func (j *Journal) supervise(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.alarms:
			j.inspect(ctx)
		case f := <-j.broken:
			j.recover(ctx, f)
		}
	}
}

// inspect asks the server for write errors, which it neither answers to a
// publisher nor ever forgets.
func (j *Journal) inspect(ctx context.Context) {
	s := j.session.Load()
	if s == nil || j.health.Load() != nil {
		return
	}
	err := serverHealth(s.server)
	if err == nil {
		return
	}
	f := fault{kind: ErrUnavailable, cause: err, restart: true}
	if isFull(err) {
		f.kind = ErrFull
	}
	select {
	case j.faults <- f:
	case <-ctx.Done():
	}
}

// recover tries until the journal can go on or ctx ends.
func (j *Journal) recover(ctx context.Context, f fault) {
	acknowledged, _ := j.endState()
	pause := recoverFirst
	for attempt := 1; ; attempt++ {
		r, err := j.tryRecover(ctx, &f, acknowledged)
		if err == nil {
			select {
			case j.restored <- r:
			case <-ctx.Done():
			}
			return
		}
		if ctx.Err() == nil && (attempt == 1 || pause == recoverMost) {
			j.log.Warn("journal is still down", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, recoverMost)
	}
}

// tryRecover leaves the old server running, for readers, until a new one has a
// chance.
func (j *Journal) tryRecover(ctx context.Context, f *fault, acknowledged Position) (restored, error) {
	free, err := j.dir.free()
	if err != nil {
		return restored{}, err
	}
	// Twice the largest unit, so as not to come back for a single record.
	need := 2 * int64(j.limits.unit)
	if free < j.config.reserve()+need {
		return restored{}, fmt.Errorf("%d MiB free, %d MiB needed", free>>20, (j.config.reserve()+need)>>20)
	}
	if err := j.dir.probe(j.limits.unit); err != nil {
		return restored{}, err
	}
	s := j.session.Load()
	if s != nil && serverHealth(s.server) != nil {
		f.restart = true // a state has failed meanwhile
	}
	if f.restart || s == nil {
		if s != nil {
			j.session.Store(nil)
			s.close()
		}
		if s, err = j.openSession(ctx); err != nil {
			return restored{}, err
		}
		j.session.Store(s)
		j.awaitState(ctx)
		f.restart = false
	}
	end, err := j.readEnd(ctx, s)
	if err != nil {
		f.restart = true
		return restored{}, err
	}
	if end.Compare(acknowledged) < 0 {
		err := fmt.Errorf("%w: the journal ended at %v before a failure of the storage (%v) and ends at %v after it",
			ErrLost, acknowledged, f.cause, end)
		j.lost.CompareAndSwap(nil, &condition{err: err, since: time.Now()})
		j.metrics.Refused("lost").Add(float64(acknowledged.NextOrdinal() - end.NextOrdinal()))
		j.log.Error("journal lost events", "error", err)
		j.records.truncate(end.Seq)
	}
	return restored{session: s, end: end}, nil
}

// awaitState waits for the connection that states and cursors use, so that they
// work when the journal is healthy.
func (j *Journal) awaitState(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reconnectTimeout)
	defer cancel()
	for !j.state.IsConnected() && ctx.Err() == nil {
		changed := j.state.StatusChanged(nats.CONNECTED)
		if !j.state.IsConnected() {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
		j.state.RemoveStatusListener(changed)
	}
}

// readEnd returns the position of the last event on disk.
func (j *Journal) readEnd(ctx context.Context, s *session) (Position, error) {
	last, err := s.lastSequence(ctx)
	if err != nil {
		return Position{}, fmt.Errorf("read end of journal: %w", err)
	}
	if last == 0 {
		return Position{}, nil
	}
	rec, err := s.fetchOne(ctx, getRequest{Seq: last})
	switch {
	case errors.Is(err, errNoRecord):
		// Somebody else removed records: retention keeps the last one. Ordinals
		// must not repeat, and no record has fewer than one event.
		j.log.Error("the newest records of the journal are missing; counts of events start again", "sequence", last)
		return Position{Seq: last, Index: BetweenRecords, Ordinal: max(j.End().Ordinal, last)}, nil
	case err != nil:
		return Position{}, fmt.Errorf("read last record: %w", err)
	case rec.broken != nil:
		return Position{}, fmt.Errorf("read last record: %w", rec.broken)
	}
	return rec.lastPosition(), nil
}
