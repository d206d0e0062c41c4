package deliver

import (
	"container/heap"
	"hash/maphash"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
)

// stream is events on their way, from where they are read until they are decided: those of
// the journal as it grows, or those of one replay or redrive. It is guarded by the lock of
// the delivery.
type stream struct {
	order Order
	// own says that what is on its way owns its keys: others may be sent meanwhile.
	own        bool
	background *background // nil: it is the live one

	segments  deque[*segment] // from the oldest with an undecided event on
	ahead     int             // events in segments, from the oldest undecided one on
	undecided int
	bytes     int  // of the memory that undecided events hold
	ended     bool // nothing comes any more
	dropped   bool // nobody wants to know any more

	// Everything up to through is decided. letter is the same for redrives.
	through  position.Position
	recorded time.Time // when that was
	letter   uint64

	ready      deque[*entry] // can be sent, in order
	readyBytes int
	doubted    deque[*entry] // can be sent, but have failed before; each alone
	held       heldEntries   // wait for their time
	owners     map[uint64]*owner
	spare      []*owner
	all        owner // of all events, for the order All
	sending    int   // batches
	inFlight   int   // events in them

	matched  int // events of the last record that were selected; of who reads
	choosing choosing

	asides   []*entry // become dead letters
	removals []*entry // are none any more
}

// segment is the events of one record that are selected.
type segment struct {
	entries   []entry
	next      int // before that all are decided
	undecided int
	size      int // of the memory that it holds
	end       position.Position
	letter    uint64
	recorded  time.Time
	arrived   time.Time
	compacted bool // its events do not share memory with a record
}

// entry is an event on its way.
type entry struct {
	event   *event.Event // nil: it is decided
	at      position.Position
	segment *segment
	owner   *owner   // nil: it owns no key
	trouble *trouble // nil: it was never sent, or not in vain
	key     uint64   // 0: not computed
	letter  uint64   // id of the dead letter that it is, of redrives
	bytes   int
}

// trouble is what is known of an event that was sent in vain.
type trouble struct {
	tries     int // how often it was sent
	doubts    int // of them alone, with a doubtful outcome
	postponed int // how often it was to be tried again while others were delivered
	most      int // how many may be sent with it; 0: any number
	first     time.Time
	last      time.Time
	since     time.Time // the first doubt
	// began is how often others had been delivered at the first doubt, latest at the last one.
	began, latest uint64
	// blamed says that others were delivered after a doubt. The doubts before that one, excused
	// many, were of an outage, as far as anybody knows.
	blamed  bool
	excused int
	due     time.Time
	result  Result
	expired bool
	// undecidable: nobody can tell whether it is for the sink.
	undecidable bool
}

// owner is a key that nobody else may send events of.
type owner struct {
	key     uint64
	refs    int           // entries that own it
	batch   *worker       // that has it, if several entries in one batch may have it
	waiting deque[*entry] // the next ones, in order
	// expiring says that batch has it of events that are too old.
	expiring bool
	led      uint64 // see finish
}

var seed = maphash.MakeSeed()

// keyOf tells events apart that need not be in order. Two that have the same by chance are
// in order, too.
func keyOf(e *event.Event) uint64 {
	a, b := maphash.String(seed, e.Path), uint64(0)
	if e.Namespace != "" {
		b = maphash.String(seed, e.Namespace)
	}
	return a ^ (b<<17 | b>>47) | 1
}

// add puts a segment behind all others.
func (s *stream) add(g *segment) {
	n := len(g.entries)
	if n == 0 {
		if k := s.segments.len(); k > 0 { // it is committed with the last one
			last := s.segments.at(k - 1)
			last.end, last.letter = g.end, g.letter
			return
		}
		s.through, s.recorded, s.letter = g.end, g.recorded, g.letter
		return
	}
	s.segments.push(g)
	s.ahead += n
	s.undecided += n
	s.bytes += g.size
	for i := range g.entries {
		e := &g.entries[i]
		s.ready.push(e)
		s.readyBytes += e.bytes
	}
}

// settle says that an event is decided. It returns whether through has moved.
func (s *stream) settle(e *entry) bool {
	g := e.segment
	e.event, e.trouble = nil, nil
	s.undecided--
	if g.undecided--; g.undecided == 0 {
		s.bytes -= g.size
	}
	if s.segments.len() == 0 || s.segments.at(0) != g || &g.entries[g.next] != e {
		return false
	}
	for s.segments.len() > 0 {
		g := s.segments.at(0)
		for ; g.next < len(g.entries); g.next++ {
			e := &g.entries[g.next]
			if e.event != nil {
				return true
			}
			s.through, s.letter = e.at, e.letter
			s.recorded = g.recorded
			s.ahead--
		}
		s.through, s.recorded, s.letter = g.end, g.recorded, g.letter
		s.segments.pop()
	}
	return true
}

// oldest returns when the oldest event was recorded that is not decided.
func (s *stream) oldest() (time.Time, bool) {
	if s.segments.len() == 0 {
		return time.Time{}, false
	}
	return s.segments.at(0).recorded, true
}

// heldEntries is a heap of events by when they are due.
type heldEntries []*entry

func (h heldEntries) Len() int           { return len(h) }
func (h heldEntries) Less(i, j int) bool { return h[i].trouble.due.Before(h[j].trouble.due) }
func (h heldEntries) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *heldEntries) Push(v any)        { *h = append(*h, v.(*entry)) }
func (h *heldEntries) Pop() any {
	n := len(*h) - 1
	v := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	return v
}

// hold keeps an event, which owns its key, until it is due.
func (s *stream) hold(e *entry) { heap.Push(&s.held, e) }

// due makes ready what has waited long enough, and says when the next is due.
func (s *stream) due(now time.Time) (next time.Time) {
	for len(s.held) > 0 {
		e := s.held[0]
		if now.Before(e.trouble.due) {
			return e.trouble.due
		}
		heap.Pop(&s.held)
		if e.trouble.doubts > 0 {
			s.doubted.push(e)
			continue
		}
		s.giveBack(e)
	}
	return time.Time{}
}
