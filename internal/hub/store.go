package hub

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
)

const (
	// fetchers bounds how many batches are read at once from what the journal
	// already has; waiting for new events is not counted.
	fetchers = 2
	// retryMin and retryMax bound the pause after the journal could not be read.
	retryMin = 50 * time.Millisecond
	retryMax = 2 * time.Second
)

// errStopped is the error of batches that nobody waits for any more.
var errStopped = errors.New("hub: no subscriptions")

// A store has the batches that subscriptions are working on, by the position that
// they follow. What is asked for and not there is read from the journal, once for
// all who ask. Nothing is read that nobody asked for, so the most advanced
// subscription sets the pace, and subscriptions far apart form cohorts that move
// through the journal independently.
//
// The store forgets batches that nobody has come for, first when its memory is
// exceeded and in any case after a while. Whoever comes later reads again.
type store struct {
	journal  Journal
	maxBytes int64
	log      *slog.Logger
	metrics  *hubMetrics
	tasks    *sync.WaitGroup
	gate     *gate

	mu      sync.Mutex
	ctx     context.Context // ends with the last subscription; nil before the first
	cancel  context.CancelFunc
	batches map[journal.Position]*batch
	order   []*batch // the ready ones, oldest first
	bytes   int64
	now     uint64 // tick
}

func newStore(j Journal, maxBytes int64, log *slog.Logger, m *hubMetrics, tasks *sync.WaitGroup) *store {
	return &store{journal: j, maxBytes: maxBytes, log: log, metrics: m, tasks: tasks, gate: newGate(fetchers)}
}

// start makes the store usable until stop; the context is that of all reading.
func (s *store) start() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.batches = make(map[journal.Position]*batch)
	return s.ctx
}

// stop forgets everything.
func (s *store) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel()
	s.ctx, s.batches, s.order, s.bytes = nil, nil, nil, 0
	s.metrics.memory.Set(0)
}

// at returns the batch that follows a normalised position, ready or pending.
func (s *store) at(after journal.Position) *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return &batch{after: after, ready: true, err: errStopped}
	}
	if b := s.batches[after]; b != nil {
		b.reused, b.used = true, s.now
		return b
	}
	b := &batch{after: after, kept: true, used: s.now}
	s.batches[after] = b
	ctx := s.ctx
	s.tasks.Go(func() { s.fetch(ctx, b) })
	return b
}

// after returns the batch that follows b, which must be ready and without error.
func (s *store) after(b *batch) *batch { return s.at(b.end) }

// fetch makes a batch ready.
func (s *store) fetch(ctx context.Context, b *batch) {
	if b.after.Compare(recordEnd(s.journal.End())) < 0 {
		if s.gate.enter(ctx, b.after) == nil {
			defer s.gate.leave()
		}
	}
	events, err := s.read(ctx, b.after)
	s.metrics.journalReads.Inc()
	s.mu.Lock()
	if s.ctx == ctx {
		if err != nil || b.after.IsZero() {
			// What is the oldest changes with retention.
			delete(s.batches, b.after)
			b.kept = false
		} else {
			s.order = append(s.order, b)
			s.add(b, int64(events.Size()))
		}
	}
	s.mu.Unlock()
	for g, p := range b.resolve(events, err) {
		s.tasks.Go(func() { g.deliver(b, p) })
	}
}

// read reads what follows a position, however long it takes until there is
// something or the context ends.
func (s *store) read(ctx context.Context, after journal.Position) (Batch, error) {
	pause := retryMin
	for {
		events, err := s.journal.Read(after).Next(ctx)
		var gap *journal.GapError
		switch {
		case err == nil:
			return events, nil
		case ctx.Err() != nil:
			return nil, errStopped
		case errors.As(err, &gap):
			return nil, gap
		case errors.Is(err, journal.ErrClosed):
			return nil, err
		}
		s.metrics.readErrors.Inc()
		s.log.Warn("cannot read the journal, subscriptions wait", "after", after.String(), "retry_in", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, errStopped
		}
		pause = min(2*pause, retryMax)
	}
}

// grow accounts for memory that a batch has taken.
func (s *store) grow(b *batch, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.kept && s.ctx != nil {
		s.add(b, n)
	}
}

func (s *store) add(b *batch, n int64) {
	b.bytes += n
	s.bytes += n
	// Batches that somebody came back for get a second chance: they are those of
	// cohorts, while a subscription alone leaves its batches behind for ever.
	for tries := 2 * len(s.order); s.bytes > s.maxBytes && len(s.order) > 1 && tries > 0; tries-- {
		oldest := s.order[0]
		s.order[0] = nil
		s.order = s.order[1:]
		if oldest.reused {
			oldest.reused = false
			s.order = append(s.order, oldest)
		} else {
			s.drop(oldest)
		}
	}
	s.metrics.memory.Set(float64(s.bytes))
}

func (s *store) drop(b *batch) {
	b.kept = false
	s.bytes -= b.bytes
	if s.batches[b.after] == b {
		delete(s.batches, b.after)
	}
}

// tick is called regularly. It forgets batches that were not used for idle ticks.
func (s *store) tick(idle uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now++
	if s.ctx == nil {
		return
	}
	var kept []*batch
	for _, b := range s.order {
		if b.used+idle < s.now {
			s.drop(b)
		} else {
			kept = append(kept, b)
		}
	}
	s.order = kept
	s.metrics.memory.Set(float64(s.bytes))
}
