package hub

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// A batch is the place in memory of what follows one position of the journal:
// first it is pending, while a reader waits for it; then it is ready and never
// changes, except that what groups choose of it is added. All subscriptions that
// stand at the same position share it.
type batch struct {
	after journal.Position // normalised

	mu      sync.Mutex
	ready   bool
	err     error            // why there are no events: a *journal.GapError, or the hub's end
	events  Batch            // nil if err is set
	end     journal.Position // normalised; of the last event
	waiting map[*group]*party
	choices map[*group]*choice
	sheets  map[encoding]*sheet

	// Guarded by store.mu.
	bytes  int64  // accounted for
	kept   bool   // still in the store
	reused bool   // somebody came for it since the eviction looked at it
	used   uint64 // tick of the last time
}

// A choice is what one group selects of one batch, by the answers that Allow gives
// in an epoch of the group. One of an earlier epoch is replaced when somebody asks
// for it.
type choice struct {
	epoch uint64
	once  sync.Once
	*chunk
}

// resolve makes a pending batch ready and returns who waited for it.
func (b *batch) resolve(events Batch, err error) map[*group]*party {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready, b.events, b.err = true, events, err
	if err == nil {
		b.end = recordEnd(events.Position(events.Len() - 1))
	}
	waiting := b.waiting
	b.waiting = nil
	return waiting
}

func (b *batch) isReady() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ready
}

// selected returns what g selects of the batch, which must be ready and without
// error, by answers that are at least as new as the call. Whoever comes first does
// the work.
func (b *batch) selected(g *group) *choice {
	epoch := g.epoch.Load()
	b.mu.Lock()
	c := b.choices[g]
	if c == nil || c.epoch < epoch {
		if b.choices == nil {
			b.choices = make(map[*group]*choice)
		}
		c = &choice{epoch: epoch}
		b.choices[g] = c
	}
	b.mu.Unlock()
	c.once.Do(func() { c.chunk = b.choose(g) })
	return c
}

// choose asks the matcher of a group for every event.
func (b *batch) choose(g *group) *chunk {
	p := allPicks.Get().(*picks)
	defer allPicks.Put(p)
	p.reset(b.events.Len())
	if g.fields != nil {
		b.pickByFields(g, p)
	} else {
		for i := b.events.Start(); i < b.events.Len(); i++ {
			if g.matcher.match(b.events.Event(i)) {
				p.add(i)
			}
		}
	}
	if len(p.list) == 0 {
		return nothing
	}
	c, bytes := b.sheet(g.encoding).chunk(p, b.events, g)
	if bytes > 0 {
		g.hub.store.grow(b, bytes)
	}
	return c
}

// Pauses between attempts to have fields extracted.
const (
	firstFieldPause = 50 * time.Millisecond
	mostFieldPause  = time.Second
)

// pickByFields picks for a group whose filter asks for fields of plugins. While some are missing
// it tries again, as long as the group waits for plugins.
func (b *batch) pickByFields(g *group, p *picks) {
	for pause := firstFieldPause; ; pause = min(2*pause, mostFieldPause) {
		missing, hope := b.pickOnce(g, p)
		if !hope {
			g.lacked.Store(0)
		}
		if !hope || !g.waits() || !g.wanted() || !sleep(g.hub.asking, pause) {
			g.hub.metrics.missingFields.Add(float64(missing))
			return
		}
		p.reset(b.events.Len())
	}
}

// pickOnce returns of how many events a field was missing, and whether some may be known later.
func (b *batch) pickOnce(g *group, p *picks) (missing int, hope bool) {
	view := g.fields.View(g.hub.asking, b.events)
	for i := b.events.Start(); i < b.events.Len(); i++ {
		if g.matcher.matchRow(b.events.Event(i), view.At(i)) {
			p.add(i)
		}
		if m := view.Missing(); m != nil {
			missing++
			hope = hope || !m.Final
		}
	}
	return missing, hope
}

// waits says whether the group still waits for fields that are missing.
func (g *group) waits() bool {
	now, most := time.Now().UnixNano(), int64(g.hub.fieldWait)
	if last := g.lacked.Swap(now); now-last > most+int64(time.Minute) {
		g.lacking.Store(now) // what was then has nothing to do with this
	}
	return now-g.lacking.Load() < most
}

// wanted says whether the group has a member that is not ending.
func (g *group) wanted() bool {
	g.hub.mu.Lock()
	defer g.hub.mu.Unlock()
	return slices.ContainsFunc(g.members, func(s *Subscription) bool { return !s.ending.Load() })
}

// sleep returns false if ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *batch) sheet(enc encoding) *sheet {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sheets[enc]
	if s == nil {
		if b.sheets == nil {
			b.sheets = make(map[encoding]*sheet)
		}
		s = new(sheet)
		b.sheets[enc] = s
	}
	return s
}

// positionBefore is the position after which the event number i of the batch is
// the first.
func (b *batch) positionBefore(i int) journal.Position {
	if i <= b.events.Start() {
		return b.after
	}
	p := b.events.Position(i - 1)
	if i == b.events.Len() {
		return recordEnd(p)
	}
	return p
}

// recordEnd is the position behind the record of p, whose last event p is. All
// who have read a record stand there, however they got to know it.
func recordEnd(p journal.Position) journal.Position {
	if !p.IsZero() {
		p.Index = journal.BetweenRecords
	}
	return p
}
