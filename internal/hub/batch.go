package hub

import (
	"sync"
	"sync/atomic"
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
// for it, and so is one that has become stale.
type choice struct {
	epoch uint64
	once  sync.Once
	*chunk
	// stop is the first event of which it could not be told whether it is selected. again is when
	// that is worth another try, in nanoseconds since 1970; 0: it could be told of all.
	stop  int
	again atomic.Int64
}

// undecided says that there are events of which it could not be told.
func (c *choice) undecided() bool { return c.again.Load() != 0 }

func (c *choice) stale() bool {
	again := c.again.Load()
	return again != 0 && time.Now().UnixNano() >= again
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
	if c == nil || c.epoch < epoch || c.stale() {
		if b.choices == nil {
			b.choices = make(map[*group]*choice)
		}
		c = &choice{epoch: epoch}
		b.choices[g] = c
	}
	b.mu.Unlock()
	c.once.Do(func() { b.choose(g, c) })
	return c
}

// choose asks the matcher of a group for every event.
func (b *batch) choose(g *group, c *choice) {
	p := allPicks.Get().(*picks)
	defer allPicks.Put(p)
	p.reset(b.events.Len())
	if g.fields != nil {
		stop, refused, why := b.pickByFields(g, p)
		g.hub.metrics.missingFields.Add(float64(refused))
		if c.stop = stop; why != nil {
			c.again.Store(time.Now().Add(g.hub.fieldsPause).UnixNano())
		}
	} else {
		for i := b.events.Start(); i < b.events.Len(); i++ {
			if g.matcher.match(b.events.Event(i)) {
				p.add(i)
			}
		}
	}
	if c.chunk = nothing; len(p.list) == 0 {
		return
	}
	var bytes int64
	if c.chunk, bytes = b.sheet(g.encoding).chunk(p, b.events, g); bytes > 0 {
		g.hub.store.grow(b, bytes)
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
