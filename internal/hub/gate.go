package hub

import (
	"context"
	"slices"
	"sync"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// A gate bounds how many batches are read at once from what the journal already
// has, and chooses who is next. Turns go alternately to the position that is
// furthest behind and to the one nearest to the end. The first keeps going forward
// and collects the others as it comes to where they stand, so a thousand
// subscriptions that replay from a thousand places become one; the second lets
// those that have missed little catch up without waiting for those that read
// everything. In between, everybody waits: the storage keeps some megabytes in
// memory for each place that was read from lately.
type gate struct {
	mu      sync.Mutex
	free    int
	waiting []*turn
	newest  bool // the next turn goes to the newest position
}

// turn is one who waits at the gate.
type turn struct {
	after journal.Position
	come  chan struct{} // closed when it is its turn
}

func newGate(places int) *gate { return &gate{free: places} }

// enter waits for a turn. Whoever gets one calls leave afterwards.
func (g *gate) enter(ctx context.Context, after journal.Position) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	t := &turn{after: after, come: make(chan struct{})}
	g.waiting = append(g.waiting, t)
	g.mu.Unlock()
	select {
	case <-t.come:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(g.waiting, t)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
	if i < 0 { // its turn came at the same moment
		g.leave()
	}
	return ctx.Err()
}

// leave gives the turn to the next.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.free++
		return
	}
	next := 0
	for i, t := range g.waiting {
		if c := t.after.Compare(g.waiting[next].after); g.newest && c > 0 || !g.newest && c < 0 {
			next = i
		}
	}
	g.newest = !g.newest
	close(g.waiting[next].come)
	g.waiting = slices.Delete(g.waiting, next, next+1)
}
