package deliver

import (
	"context"
	"errors"
	"time"

	"github.com/tocsin-events/tocsin/internal/position"
)

// readLive reads the journal until ctx ends.
func (d *Delivery) readLive(ctx context.Context) error {
	for {
		streamCtx, cancel := context.WithCancel(ctx)
		d.mu.Lock()
		s := d.live
		d.unread = cancel
		d.mu.Unlock()
		err := d.fill(streamCtx, s, d.options.Journal.Read(s.through), position.Position{})
		restarted := streamCtx.Err() != nil && ctx.Err() == nil
		cancel()
		if !restarted {
			return err
		}
	}
}

// fill reads events into a stream until ctx ends, or up to a position, if that is not zero.
func (d *Delivery) fill(ctx context.Context, s *stream, r Reader, until position.Position) error {
	wakeUp := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.room.Broadcast()
	})
	defer wakeUp()
	for {
		if err := d.awaitRoom(ctx, s); err != nil {
			return err
		}
		rec, err := r.Next(ctx)
		var gap *Gap
		switch {
		case err == nil:
			choices, err := d.sift(ctx, s, rec)
			if err != nil {
				return err
			}
			if d.take(s, rec, choices, until) {
				return nil
			}
		case errors.As(err, &gap):
			if d.gap(s, gap, until) {
				return nil
			}
		default:
			return err
		}
	}
}

// awaitRoom waits until a stream has room for more, and is to be sent.
func (d *Delivery) awaitRoom(ctx context.Context, s *stream) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.roomIn(s, 1) {
		return ctx.Err()
	}
	for ctx.Err() == nil && !d.roomIn(s, 0.75) {
		if float64(s.bytes) > 0.75*float64(d.windowOf(s).Bytes) && s.compact() {
			continue
		}
		d.waiting++
		d.room.Wait()
		d.waiting--
	}
	return ctx.Err()
}

// roomIn says whether so much of the window of a stream is free that it can read on.
func (d *Delivery) roomIn(s *stream, share float64) bool {
	if d.held.By != "" {
		return false
	}
	w := d.windowOf(s)
	return s.undecided == 0 || float64(s.ahead) < share*float64(w.Events) && float64(s.bytes) < share*float64(w.Bytes)
}

// windowOf is the window of a stream, which is smaller for those in the background.
func (d *Delivery) windowOf(s *stream) Window {
	w := d.policy.Window
	if s.background != nil {
		w.Events, w.Bytes = max(w.Events/4, 1), max(w.Bytes/4, 1)
	}
	return w
}

// Records of which little is needed are not kept in memory: when they are at least so
// large, and the events that are needed are less than one part in so many.
const (
	sparseBytes = 64 << 10
	sparseParts = 4
)

// take puts a record into a stream. It returns true when it has reached until.
func (d *Delivery) take(s *stream, rec Record, choices []Choice, until position.Position) (reached bool) {
	begin, end := rec.Start(), rec.Len()
	g := segment{end: rec.End(), recorded: rec.Recorded(), arrived: time.Now()}
	if !until.IsZero() && reaches(g.end, until) {
		for reached = true; end > begin && rec.Position(end-1).Compare(until) > 0; end-- {
		}
		g.end = until
	}
	if begin < end {
		g.entries = make([]entry, 0, d.expect(s, end-begin))
	}
	bytes := 0
	for i := begin; i < end; i++ {
		e := rec.Event(i)
		var t *trouble
		if choices != nil {
			if c := &choices[i]; c.Problem != "" {
				t = &trouble{undecidable: true, result: Result{Outcome: Impossible, Reason: tidy(c.Problem)}}
			} else if !c.Take {
				continue
			}
		} else if d.options.Match != nil && !d.options.Match(e) {
			continue
		}
		n := eventBytes(e)
		g.entries = append(g.entries, entry{event: e, at: rec.Position(i), bytes: n, trouble: t})
		if s.own {
			g.entries[len(g.entries)-1].key = keyOf(e)
		}
		bytes += n + eventMemory
	}
	g.size = max(rec.Size(), 1)
	if sparse := g.size > sparseBytes && bytes < g.size/sparseParts; sparse {
		g.size = bytes
		for i := range g.entries {
			g.entries[i].event = detached(g.entries[i].event)
		}
	}
	s.matched = len(g.entries)
	caughtUp := s.background == nil && rec.End().Compare(d.options.Journal.End()) >= 0

	d.mu.Lock()
	defer d.mu.Unlock()
	if s.dropped {
		return true
	}
	d.counts.Filtered += uint64(end - begin - len(g.entries))
	d.enter(s, &g)
	if s.background == nil {
		d.caughtUp = caughtUp
	}
	return reached
}

// expect guesses how many events of n are selected.
func (d *Delivery) expect(s *stream, n int) int {
	if d.options.Match == nil && d.options.Choose == nil {
		return n
	}
	return min(n, s.matched+s.matched/4)
}

// reaches says whether nothing up to until comes after the end of a record.
func reaches(end, until position.Position) bool {
	return end.Compare(until) >= 0 || end.Seq == until.Seq && until.Index == position.BetweenRecords
}

// enter puts a segment into a stream.
func (d *Delivery) enter(s *stream, g *segment) {
	g.undecided = len(g.entries)
	for i := range g.entries {
		g.entries[i].segment = g
	}
	s.add(g)
	if len(g.entries) > 0 {
		d.wake()
		return
	}
	if s.segments.len() == 0 {
		d.changed(false)
		d.flushed(s)
	}
}

// gap passes over what the journal does not have any more. It returns true when that leads
// behind until.
func (d *Delivery) gap(s *stream, gap *Gap, until position.Position) (reached bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := s.background; b != nil {
		b.missed += gap.Events
		return !until.IsZero() && gap.Next.Compare(until) > 0
	}
	d.counts.Gaps++
	d.counts.Missed += gap.Events
	d.lastGap = gapNote{time.Now(), gap.Events, tidy(gap.Error())}
	d.note(Change{Kind: ChangeGap, Missed: gap.Events, Reason: d.lastGap.reason}, func() {
		d.log.Error("Events were removed from the journal before they were delivered: the sink was behind for longer than the journal keeps them.", "events", gap.Events, "error", gap)
	})
	d.tellLocked()
	return false
}

// gapNote is a gap that Health tells of.
type gapNote struct {
	at     time.Time
	events uint64
	reason string
}

// compact makes events independent of their records where most of these are not needed any
// more. It returns whether it could do something.
func (s *stream) compact() (done bool) {
	for i := range s.segments.len() {
		g := s.segments.at(i)
		if g.undecided == 0 || g.compacted || sparseParts*g.undecided > len(g.entries) {
			continue
		}
		size := 0
		for i := g.next; i < len(g.entries); i++ {
			if e := &g.entries[i]; e.event != nil {
				e.event = detached(e.event)
				size += e.bytes + eventMemory
			}
		}
		g.compacted = true
		if size < g.size {
			s.bytes -= g.size - size
			g.size, done = size, true
		}
	}
	return done
}
