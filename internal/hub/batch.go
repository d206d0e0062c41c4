package hub

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// A batch is the place in memory of what follows one position of the journal:
// first it is pending, while a reader waits for it; then it is ready and never
// changes, except that what groups select of it is added. All subscriptions that
// stand at the same position share it.
type batch struct {
	after journal.Position // normalised

	mu      sync.Mutex
	ready   bool
	err     error            // why there are no events: a *journal.GapError, or the hub's end
	events  Batch            // nil if err is set
	end     journal.Position // normalised; of the last event
	waiting map[*group]*party
	chunks  map[*group]*chunk
	sheets  map[encoding]*sheet

	// Guarded by store.mu.
	bytes  int64  // accounted for
	kept   bool   // still in the store
	reused bool   // somebody came for it since the eviction looked at it
	used   uint64 // tick of the last time
}

// A chunk is what one group selects of one batch: the frames of all selected
// events, one after the other, ready to be written.
type chunk struct {
	once  sync.Once
	data  []byte
	ends  []int   // where each frame ends in data
	picks []int32 // which event each frame is of
}

// A sheet remembers for one encoding which events of a batch are encoded already,
// and by which group, so that no event is encoded twice for groups that differ
// only in what they select.
type sheet struct {
	mu     sync.Mutex
	frames [][]byte // by event; nil: not yet
	chunks []*chunk
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
// error. Whoever comes first does the work.
func (b *batch) selected(g *group) *chunk {
	b.mu.Lock()
	c := b.chunks[g]
	if c == nil {
		if b.chunks == nil {
			b.chunks = make(map[*group]*chunk)
		}
		c = new(chunk)
		b.chunks[g] = c
	}
	b.mu.Unlock()
	c.once.Do(func() { b.fill(c, g) })
	return c
}

func (b *batch) fill(c *chunk, g *group) {
	for i := b.events.Start(); i < b.events.Len(); i++ {
		if g.matcher.match(b.events.Event(i)) {
			c.picks = append(c.picks, int32(i))
		}
	}
	if len(c.picks) == 0 {
		return
	}
	if b.sheet(g.encoding).fill(c, b.events, g) {
		g.hub.store.grow(b, int64(cap(c.data)+8*cap(c.ends)+4*cap(c.picks)))
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

// fill encodes what c has picked, or shares what other groups have encoded. It
// reports whether that took memory of its own.
func (s *sheet) fill(c *chunk, events Batch, g *group) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.chunks {
		if slices.Equal(other.picks, c.picks) {
			c.data, c.ends = other.data, other.ends
			return false
		}
	}
	if s.frames == nil {
		s.frames = make([][]byte, events.Len())
	}
	c.ends = make([]int, len(c.picks))
	c.data = make([]byte, 0, g.estimate(len(c.picks)))
	for k, i := range c.picks {
		if frame := s.frames[i]; frame != nil {
			c.data = append(c.data, frame...)
		} else {
			sequence := ""
			if g.encoding.sequence {
				sequence = events.Position(int(i)).String()
			}
			c.data = g.encoding.appendFrame(c.data, events.Event(int(i)), sequence)
		}
		c.ends[k] = len(c.data)
	}
	begin := 0
	for k, i := range c.picks {
		s.frames[i] = c.data[begin:c.ends[k]:c.ends[k]]
		begin = c.ends[k]
	}
	s.chunks = append(s.chunks, c)
	g.frameBytes.Store(int64(len(c.data)/len(c.picks)) + 1)
	return true
}

// estimate is how many bytes n frames will probably take.
func (g *group) estimate(n int) int {
	if size := int(g.frameBytes.Load()); size > 0 {
		return n * (size + size/16)
	}
	return n * 640
}

// recordEnd is the position behind the record of p, whose last event p is. All
// who have read a record stand there, however they got to know it.
func recordEnd(p journal.Position) journal.Position {
	if !p.IsZero() {
		p.Index = journal.BetweenRecords
	}
	return p
}

// A group is all subscriptions that are sent the same bytes.
type group struct {
	hub        *Hub
	key        groupKey
	matcher    matcher
	encoding   encoding
	frameBytes atomic.Int64 // of the average frame, lately

	members int // guarded by hub.mu

	// mu guards the parties and the fields of the members that say so. It may be
	// held when a batch's mu is taken, not the other way round.
	mu sync.Mutex
}

type groupKey struct {
	selection string
	encoding  encoding
	access    any
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
	for b.err == nil && len(b.selected(g).picks) == 0 {
		next := g.hub.store.after(b)
		if g.join(next, p) {
			return
		}
		b = next
	}
	g.mu.Lock()
	var woken []*Subscription
	for !p.empty() {
		s := p.head.next.member
		s.link.remove()
		s.at = b
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

// join lets a party wait for b. It returns false when b is not pending any more,
// and has nothing to do for a party that all have left.
func (g *group) join(b *batch, p *party) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.empty() {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ready {
		return false
	}
	b.party(g).take(p)
	return true
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
