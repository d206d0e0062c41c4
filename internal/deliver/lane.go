package deliver

import (
	"fmt"
	"time"
)

// What is in order has a key: a path, or everything. Events that were read are ready, in
// the order of the journal, whatever their keys are. Whoever cuts a batch takes them from
// the front. Those whose key is owned by others, because an earlier event of it is on its way
// or has to wait, are put aside in the queue of its owner. When the key is free again, they
// are put in front of all that is ready: they are older than every ready event of the key.

// ownerOf returns who owns the key of an event, nil if nobody does.
func (s *stream) ownerOf(e *entry) *owner {
	switch s.order {
	case ByPath:
		if e.key == 0 {
			e.key = keyOf(e.event)
		}
		return s.owners[e.key]
	case All:
		if s.all.refs > 0 {
			return &s.all
		}
	}
	return nil
}

// takeKey makes an event one of the owners of its key, if there is an order.
func (s *stream) takeKey(e *entry) {
	if e.owner != nil || s.order == None {
		return
	}
	o := s.ownerOf(e)
	if o == nil {
		if s.order == All {
			o = &s.all
		} else {
			o = s.newOwner(e.key)
			if s.owners == nil {
				s.owners = make(map[uint64]*owner)
			}
			s.owners[e.key] = o
		}
	}
	o.refs++
	e.owner = o
}

// freeKey ends that an event owns its key. When it was the last one, others of the key are
// ready.
func (s *stream) freeKey(e *entry) {
	o := e.owner
	if o == nil {
		return
	}
	e.owner = nil
	if o.refs--; o.refs > 0 {
		return
	}
	o.batch, o.expiring = nil, false
	if o.waiting.len() > 0 {
		for i := o.waiting.len() - 1; i >= 0; i-- {
			s.putFront(o.waiting.at(i))
		}
		o.waiting = deque[*entry]{}
	}
	if o != &s.all {
		delete(s.owners, o.key)
		if len(s.spare) < spareOwners {
			s.spare = append(s.spare, o)
		}
	}
}

// spareOwners bounds how many owners are kept to be used again.
const spareOwners = 256

func (s *stream) newOwner(key uint64) (o *owner) {
	if n := len(s.spare); n > 0 {
		o, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		o = new(owner)
	}
	o.key = key
	return o
}

// giveBack puts an event in front of all others of its key, which it does not own any more.
func (s *stream) giveBack(e *entry) {
	o := e.owner
	s.freeKey(e)
	if o != nil && o.refs > 0 {
		o.waiting.pushFront(e)
		return
	}
	s.putFront(e)
}

func (s *stream) putFront(e *entry) {
	s.ready.pushFront(e)
	s.readyBytes += e.bytes
}

// exclusive says that nothing may be sent now because something is on its way or waits.
func (s *stream) exclusive() bool { return s.order == All && s.all.refs > 0 }

// ripe says whether a batch of what is ready may be cut now, and if not, when.
func (s *stream) ripe(p *Policy, hurry bool, now time.Time) (ok bool, at time.Time) {
	if s.ready.len() == 0 || s.exclusive() {
		return false, time.Time{}
	}
	first := s.ready.at(0)
	if hurry || s.ended || p.MaxDelay <= 0 || s.ready.len() >= p.MaxEvents || s.readyBytes >= p.MaxBytes || first.trouble != nil {
		return true, time.Time{}
	}
	at = first.segment.arrived.Add(p.MaxDelay)
	return !now.Before(at), at
}

// more says whether something may be sent now or later.
func (s *stream) more() bool { return s.ready.len() > 0 || s.doubted.len() > 0 || len(s.held) > 0 }

// cut puts into the batch of w what is ready and may be sent, at most limit events.
func (s *stream) cut(w *worker, p *Policy, limit int, now time.Time) bool {
	limit = min(limit, p.MaxEvents)
	bytes := 0
	for s.ready.len() > 0 && len(w.entries) < limit {
		e := s.ready.at(0)
		if n := len(w.entries); n > 0 && (bytes+e.bytes > p.MaxBytes || e.alike() != w.entries[0].alike()) {
			break
		}
		s.ready.pop()
		s.readyBytes -= e.bytes
		if s.own || len(s.owners) > 0 || s.all.refs > 0 {
			if o := s.ownerOf(e); o != nil && (o.batch != w || o.expiring) {
				if o.batch != w || !s.hopeless(w, e, p, now) {
					o.waiting.push(e)
				}
				continue
			}
		}
		if s.hopeless(w, e, p, now) {
			continue
		}
		if s.own {
			s.takeKey(e)
			if e.owner != nil {
				e.owner.batch = w
			}
		}
		w.entries = append(w.entries, e)
		bytes += e.bytes
		if most := e.alike(); most > 0 {
			limit = min(limit, most)
		}
	}
	return len(w.entries) > 0
}

// alike is equal for events that may be in a batch together: what was in one that failed is
// not mixed with others.
func (e *entry) alike() int {
	if e.trouble == nil {
		return 0
	}
	return e.trouble.most
}

// cutDoubted puts one event into the batch of w that has failed before.
func (s *stream) cutDoubted(w *worker) bool {
	if s.doubted.len() == 0 {
		return false
	}
	w.entries = append(w.entries, s.doubted.pop())
	return true
}

// hopeless sets an event aside that is not to be sent: because it is older than the policy
// allows, or because nobody can tell whether it is for the sink.
func (s *stream) hopeless(w *worker, e *entry, p *Policy, now time.Time) bool {
	if !(e.trouble != nil && e.trouble.undecidable) && !s.expire(e, p, now) {
		return false
	}
	s.setAside(e)
	if e.owner != nil {
		e.owner.batch, e.owner.expiring = w, true
	}
	return true
}

// expire says whether an event is older than the policy allows, and notes that.
func (s *stream) expire(e *entry, p *Policy, now time.Time) bool {
	if p.MaxAge <= 0 || s.background != nil {
		return false
	}
	since := e.event.Recorded
	if since.IsZero() {
		since = e.event.Time
	}
	age := now.Sub(since)
	if age <= p.MaxAge {
		return false
	}
	t := e.troubled()
	t.expired = true
	reason := fmt.Sprintf("expired: it is %s old, and %s are allowed", age.Round(time.Second), p.MaxAge)
	if t.result.Reason != "" {
		reason += "; the last attempt: " + t.result.Reason
	}
	t.result = Result{Outcome: Retry, Status: t.result.Status, Reason: tidy(reason)}
	return true
}

// setAside lets an event become a dead letter. It owns its key until that is durable.
func (s *stream) setAside(e *entry) {
	s.takeKey(e)
	s.asides = append(s.asides, e)
}

// troubled returns what is known of an event that was sent in vain.
func (e *entry) troubled() *trouble {
	if e.trouble == nil {
		e.trouble = new(trouble)
	}
	return e.trouble
}
