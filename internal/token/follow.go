package token

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxBatch is how many changes of the bucket are applied at once.
	maxBatch = 256
	// maxUntold is how many changes may wait for Changed before the bucket is not
	// followed any further until it has returned.
	maxUntold = 1 << 20
	// loadStall is how long nothing may arrive while the bucket is loaded.
	loadStall = 10 * time.Second
	// reloadFirst and reloadMost bound the pauses between attempts to load.
	reloadFirst = 50 * time.Millisecond
	reloadMost  = 2 * time.Second
	// probeEvery is how often it is checked that all changes have arrived, and
	// probeGrace how long they may be under way. Each new watch because of that
	// doubles the grace, up to probePatience, until there was none for
	// probeCalm: on a machine that is only busy, reading everything anew makes it
	// worse.
	probeEvery    = 500 * time.Millisecond
	probeGrace    = 200 * time.Millisecond
	probePatience = time.Second
	probeCalm     = 10 * time.Second
	// tombstoneRest is how long a tombstone is kept at least, because the watch of a
	// node skips what was removed before it came to it.
	tombstoneRest = time.Second
	// abandonedAfter is when what a node has not removed is removed by others.
	abandonedAfter = 30 * time.Second
)

var errWatchEnded = errors.New("the watch has ended")

// condition is why the bucket cannot be followed.
type condition struct {
	err   error
	since time.Time
}

// Health says why changes cannot be followed at the moment; nil when they can.
func (s *Store) Health() error {
	if s.closed.Load() {
		return errors.New("tokens: closed")
	}
	if c := s.condition.Load(); c != nil {
		return fmt.Errorf("tokens: changes cannot be followed since %s: %w", c.since.UTC().Format(time.RFC3339), c.err)
	}
	return nil
}

func (s *Store) down(err error) {
	if s.condition.CompareAndSwap(nil, &condition{err: err, since: s.now()}) {
		s.log.Warn("tokens: changes cannot be followed", "error", err)
	}
}

// confirm notes that all that was written before a time is in the table.
func (s *Store) confirm(at time.Duration) {
	s.confirmed.Store(int64(at))
	if !s.following.Load() {
		return
	}
	if c := s.condition.Swap(nil); c != nil {
		s.log.Info("tokens: changes are followed again", "after", s.now().Sub(c.since).Round(time.Millisecond))
	}
}

func (s *Store) stale() bool {
	return time.Since(s.started)-time.Duration(s.confirmed.Load()) > s.config.MaxStale
}

// watching is a watch of the bucket.
type watching struct {
	jetstream.KeyWatcher
	cancel context.CancelFunc
}

// next returns what w delivers next; nil also when it ends or ctx does.
func (w *watching) next(ctx context.Context) (e jetstream.KeyValueEntry, ok bool) {
	select {
	case e, ok = <-w.Updates():
		return e, ok
	case <-ctx.Done():
		return nil, false
	}
}

// stop ends w. Its channel is closed by a goroutine that may be busy delivering.
func (s *Store) stop(w *watching) {
	w.cancel()
	_ = w.Stop() // it may have ended already
	s.tasks.Go(func() {
		for range w.Updates() {
		}
	})
}

// follow applies what w delivers, and makes a new watch when it fails.
func (s *Store) follow(ctx context.Context, w *watching) {
	for {
		err := s.read(ctx, w)
		s.stop(w)
		s.following.Store(false)
		for pause := reloadFirst; ; pause = min(2*pause, reloadMost) {
			if ctx.Err() != nil {
				return
			}
			s.down(err)
			if w, err = s.load(ctx, ctx); err == nil {
				break
			}
			sleep(ctx, pause)
		}
		select {
		case <-s.rewatch: // what it was for is done
		default:
		}
		s.following.Store(true)
		signal(s.probeNow)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// read applies what w delivers until it fails.
func (s *Store) read(ctx context.Context, w *watching) error {
	batch := make([]update, 0, maxBatch)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case reason := <-s.rewatch:
			return errors.New(reason)
		case e, ok := <-w.Updates():
			for batch = batch[:0]; ; e, ok = <-w.Updates() {
				if !ok {
					s.apply(batch)
					return errWatchEnded
				}
				if e != nil {
					batch = append(batch, read(e))
				}
				if len(batch) == maxBatch || len(w.Updates()) == 0 {
					break
				}
			}
			s.apply(batch)
			clear(batch)
		}
		if err := s.awaitTeller(ctx); err != nil {
			return err
		}
	}
}

func read(e jetstream.KeyValueEntry) update {
	u := update{key: e.Key(), revision: e.Revision(), at: e.Created()}
	if e.Operation() != jetstream.KeyValuePut {
		u.removed = true
		u.id, u.err = parseID(u.key)
		return u
	}
	u.id, u.value, u.err = decode(u.key, e.Value())
	return u
}

// awaitTeller waits while too many changes wait for Changed.
func (s *Store) awaitTeller(ctx context.Context) error {
	for {
		s.mu.RLock()
		n := len(s.changes)
		s.mu.RUnlock()
		if n < maxUntold {
			return nil
		}
		select {
		case <-s.caughtUp:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell calls Changed, and lets those go on who wait for it.
func (s *Store) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.untold:
		}
		s.mu.Lock()
		changes, upTo := s.changes, s.applied
		s.changes = nil
		s.mu.Unlock()
		signal(s.caughtUp)
		if len(changes) > 0 {
			s.config.Changed(changes)
		}
		s.mu.Lock()
		s.told = upTo
		waiting := s.waiters[:0]
		for _, w := range s.waiters {
			if w.revision <= upTo {
				close(w.done)
			} else {
				waiting = append(waiting, w)
			}
		}
		clear(s.waiters[len(waiting):])
		s.waiters = waiting
		s.mu.Unlock()
	}
}

// waiter is somebody who waits until all up to a revision was told.
type waiter struct {
	revision uint64
	done     chan struct{}
}

// confirmTimeout bounds how long a writing method waits for its own change.
const confirmTimeout = 10 * time.Second

// await returns when all up to a revision is in effect and told.
func (s *Store) await(ctx context.Context, revision uint64) error {
	s.mu.Lock()
	if s.told >= revision {
		s.mu.Unlock()
		return nil
	}
	w := waiter{revision: revision, done: make(chan struct{})}
	s.waiters = append(s.waiters, w)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	impatient := time.NewTicker(probeGrace)
	defer impatient.Stop()
	for {
		select {
		case <-w.done:
			return nil
		case <-impatient.C:
			signal(s.probeNow)
		case <-s.stopped:
			return fmt.Errorf("%w: closed while waiting for a change to take effect", ErrUnavailable)
		case <-ctx.Done():
			s.mu.Lock()
			for i := range s.waiters {
				if s.waiters[i].done == w.done {
					s.waiters[i] = s.waiters[len(s.waiters)-1]
					s.waiters[len(s.waiters)-1] = waiter{}
					s.waiters = s.waiters[:len(s.waiters)-1]
					break
				}
			}
			s.mu.Unlock()
			return fmt.Errorf("%w: the change was stored, but did not come back: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// probe checks that the watch delivers, and that other nodes do what they began.
func (s *Store) probe(ctx context.Context) {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	away := false // the bucket did not answer last time
	grace, renewed := probeGrace, time.Time{}
	swept := s.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.probeNow:
		}
		at := time.Since(s.started)
		before := s.position()
		last, err := s.bucket.last(ctx)
		switch after := s.position(); {
		case err != nil:
			if ctx.Err() == nil {
				s.down(fmt.Errorf("ask the bucket: %w", err))
				away = true
			}
		case away:
			away = false
			s.demandWatch("the bucket was away")
		case last < before:
			s.demandWatch("the bucket has lost changes")
		case last <= after:
			s.confirm(at)
		default:
			if time.Since(renewed) > probeCalm {
				grace = probeGrace
			}
			sleep(ctx, grace)
			switch now := s.position(); {
			case now >= last:
				s.confirm(at)
			case now == after:
				s.demandWatch("changes do not arrive")
				grace, renewed = min(2*grace, probePatience), time.Now()
			}
		}
		s.removeRested()
		if s.now().Sub(swept) > abandonedAfter/4 {
			swept = s.now()
			s.removeAbandoned()
		}
	}
}

func (s *Store) position() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied
}

func (s *Store) demandWatch(reason string) {
	select {
	case s.rewatch <- reason:
	default:
	}
}

// removeRested removes the tombstones of this node that all had the time to read.
func (s *Store) removeRested() {
	limit := s.now().Add(-tombstoneRest)
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.resting) > 0 {
		x := s.ended[s.resting[0]]
		if x != nil && x.since.After(limit) {
			break
		}
		if x != nil && !x.settled() {
			s.queue(s.resting[0], x)
		}
		s.resting = s.resting[1:]
	}
}

// removeAbandoned removes what other nodes should have removed.
func (s *Store) removeAbandoned() {
	limit := s.now().Add(-abandonedAfter)
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, x := range s.ended {
		if !x.queued && x.since.Before(limit) && !x.settled() {
			s.queue(id, x)
		}
	}
}
