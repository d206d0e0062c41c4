package hub

import (
	"sync"
	"sync/atomic"

	"github.com/tocsin-events/tocsin/internal/fields"
)

// A group is all subscriptions that are sent the same bytes: same selection, same
// encoding, same rights.
type group struct {
	hub        *Hub
	key        groupKey
	matcher    matcher
	encoding   encoding
	fields     *fields.Use  // that the filter asks for; nil: none
	frameBytes atomic.Int64 // of the average frame, lately

	// epoch counts how often the answers of the matcher have changed.
	epoch atomic.Uint64

	members []*Subscription // guarded by hub.mu

	// mu guards the parties and the fields of the members that say so. It may be
	// held when a batch's mu is taken, not the other way round.
	mu sync.Mutex
}

type groupKey struct {
	selection string
	encoding  encoding
	access    any
	noFollow  bool // the members end at a position, so each one has to come there
}

// remove forgets a member. hub.mu is held.
func (g *group) remove(s *Subscription) {
	last := len(g.members) - 1
	g.members[s.member] = g.members[last]
	g.members[s.member].member = s.member
	g.members[last] = nil
	g.members = g.members[:last]
}

// estimate is how many bytes n frames will probably take.
func (g *group) estimate(n int) int {
	if size := int(g.frameBytes.Load()); size > 0 {
		return n * (size + size/16)
	}
	return n * 640
}

// A party is the members of a group that sleep until one batch is ready. It moves
// on as a whole where a batch has nothing for the group, and ends when its last
// member leaves. It is the head of a ring of members, guarded by group.mu.
type party struct{ head link }

// link is one element of a doubly linked ring.
type link struct {
	prev, next *link
	member     *Subscription // nil in the head
	awaited    *batch        // in the head
}

func newParty(b *batch) *party {
	p := new(party)
	p.head.prev, p.head.next, p.head.awaited = &p.head, &p.head, b
	return p
}

func (p *party) empty() bool { return p.head.next == &p.head }

func (p *party) add(l *link) {
	last := p.head.prev
	l.prev, l.next = last, &p.head
	last.next, p.head.prev = l, l
}

func (l *link) remove() {
	l.prev.next, l.next.prev = l.next, l.prev
	l.prev, l.next = nil, nil
}

// take moves all members of q to p.
func (p *party) take(q *party) {
	first, last := q.head.next, q.head.prev
	end := p.head.prev
	end.next, first.prev = first, end
	last.next, p.head.prev = &p.head, last
	q.head.prev, q.head.next = &q.head, &q.head
}

// deliver hands a batch that became ready to a party of the group: it is woken if
// there is something for it, and otherwise waits for the next batch.
func (g *group) deliver(b *batch, p *party) {
	for b.err == nil {
		c := b.selected(g)
		if len(c.picks) > 0 || g.key.noFollow || c.undecided() {
			break
		}
		next := g.hub.store.after(b)
		switch g.join(next, p, c.epoch) {
		case joined:
			return
		case ready:
			b = next
		case outdated: // the same batch again
		}
	}
	g.mu.Lock()
	var woken []*Subscription
	for !p.empty() {
		s := p.head.next.member
		s.link.remove()
		s.at = place{batch: b}
		if !s.running {
			s.running = true
			woken = append(woken, s)
		}
	}
	g.hub.tasks.Add(len(woken))
	g.mu.Unlock()
	for _, s := range woken {
		go s.run()
	}
}

// What can become of a party that moves on.
const (
	joined   = iota // it waits, or all have left it
	ready           // the batch is not pending any more
	outdated        // what it was based on does not hold any more
)

// join lets a party wait for b, which it comes to because the one before has
// nothing for it by the answers of an epoch.
func (g *group) join(b *batch, p *party, epoch uint64) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.empty() {
		return joined
	}
	if g.epoch.Load() != epoch {
		return outdated
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ready {
		return ready
	}
	b.party(g).take(p)
	return joined
}

// leave takes a member, which is asleep, out of its party. mu is held.
func (g *group) leave(l *link) {
	rest := l.next
	l.remove()
	if rest.next != rest {
		return
	}
	b := rest.awaited // of the head, which is alone now
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, g)
}

// party returns the party of g that waits for b. Both mus are held.
func (b *batch) party(g *group) *party {
	p := b.waiting[g]
	if p == nil {
		if b.waiting == nil {
			b.waiting = make(map[*group]*party)
		}
		p = newParty(b)
		b.waiting[g] = p
	}
	return p
}
