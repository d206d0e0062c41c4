package token

import (
	"reflect"
	"slices"
	"time"
)

// expirySkew is by how much the clocks of nodes may differ: a key that disappears
// so long before its token expires at the earliest, did so because it expired.
const expirySkew = time.Minute

// update is one change of the bucket.
type update struct {
	key      string
	revision uint64
	removed  bool
	at       time.Time // when the server stored it
	id       ID
	value    content
	err      error // why it is no value
}

// apply takes changes of the bucket over into the table, in their order.
func (s *Store) apply(updates []update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	for i := range updates {
		u := &updates[i]
		if u.revision <= s.applied {
			continue // delivered again
		}
		s.applied = u.revision
		switch {
		case u.removed:
			s.applyRemoval(u)
		case u.err != nil:
			s.applyUnreadable(u)
		case u.value.entry != nil:
			s.applyEntry(u)
		default:
			s.applyTombstone(u)
		}
	}
}

// wake tells the goroutines that wait for the table to change. The caller has the
// lock.
func (s *Store) wake() {
	if len(s.changes) > 0 || s.told != s.applied {
		signal(s.untold)
	}
	if len(s.due) > 0 && s.due[0].due.Before(s.armed) {
		signal(s.rearm)
	}
}

// standing is what the parent of a token makes of it.
type standing int

const (
	dead    standing = iota // it has ended with its parent
	alive                   //
	orphan                  // alive, but its parent was ended without it
	unclear                 // the parent cannot be read
)

func (s *Store) standing(v *content) standing {
	p := v.entry.Parent
	x := s.ended[p]
	switch {
	case v.entry.Orphan():
		return alive
	case x != nil && x.orphans && !x.gone && x.accessor == v.lineage.accessor:
		return orphan
	case s.byID[p] != nil && s.byID[p].entry.Accessor == v.lineage.accessor:
		return alive
	case x == nil && v.lineage.root:
		return alive // nobody has revoked it, wherever it is known
	case s.isUnreadable(p):
		return unclear
	default:
		return dead
	}
}

func (s *Store) isUnreadable(id ID) bool {
	if len(s.unreadable) == 0 {
		return false
	}
	_, is := s.unreadable[id.String()]
	return is
}

func (s *Store) applyEntry(u *update) {
	v := &u.value
	delete(s.unreadable, u.key)
	r := s.byID[u.id]
	if r != nil && r.root {
		s.log.Warn("tokens: the root token is also one of the bucket, which is ignored", "accessor", v.entry.Accessor)
		return
	}
	if x := s.ended[u.id]; x != nil && !x.gone {
		switch {
		case x.accessor != v.entry.Accessor:
			delete(s.ended, u.id) // another token of the same value
		case x.lapsed:
			s.revive(u.id, x)
		default:
			// Written by a node that did not know yet.
			if x.revision = u.revision; !x.settled() {
				s.queue(u.id, x)
			}
			return
		}
	}
	local := v.by == s.node
	e := v.entry
	switch s.standing(v) {
	case dead:
		if r != nil {
			r.revision = u.revision
			s.bury(r, local)
			s.finish(r, Revoked, local)
			return
		}
		x := &ended{revision: u.revision, accessor: e.Accessor, since: s.now(), own: local}
		s.ended[u.id] = x
		s.queue(u.id, x)
		return
	case unclear:
		if r != nil {
			s.hide(r)
		}
		s.unreadable[u.key] = struct{}{}
		return
	case orphan:
		x := s.ended[e.Parent]
		if r == nil || r.stored != e.Parent {
			x.adopt = append(x.adopt, u.id)
		}
		if x.own {
			s.queue(e.Parent, x)
		}
		e = withoutParent(e)
	}
	if r == nil {
		r = &record{id: u.id, entry: e}
		r.describe(u)
		s.add(r)
		s.changes = append(s.changes, Change{ID: u.id, Entry: e, Local: local})
		return
	}
	s.become(r, u, e, local)
}

// become makes e the entry of r, as the bucket has it in u.
func (s *Store) become(r *record, u *update, e *Entry, local bool) {
	old := r.entry
	r.describe(u)
	s.replace(r, e)
	if !reflect.DeepEqual(old, e) {
		s.changes = append(s.changes, Change{ID: u.id, Entry: e, Local: local})
	}
}

// describe notes what the bucket has of r beside the entry.
func (r *record) describe(u *update) {
	r.revision, r.by = u.revision, u.value.by
	r.stored, r.lineage = u.value.entry.Parent, u.value.lineage
}

func withoutParent(e *Entry) *Entry {
	o := *e
	o.Parent = ID{}
	return &o
}

func (s *Store) applyTombstone(u *update) {
	v := &u.value
	delete(s.unreadable, u.key)
	local := v.by == s.node
	r := s.byID[u.id]
	x := &ended{revision: u.revision, accessor: v.accessor, since: s.now(), own: local, orphans: v.orphans, root: v.root}
	switch old := s.ended[u.id]; {
	case old == nil:
	case v.orphans:
		s.revive(u.id, old)
	default:
		s.release(old, local)
	}
	s.ended[u.id] = x
	if r != nil && r.root && !v.root {
		return // another token of the same value, which this one hid
	}
	children := s.children(u.id, r)
	switch {
	case v.orphans:
		for _, c := range children {
			e := withoutParent(c.entry)
			s.replace(c, e)
			x.adopt = append(x.adopt, c.id)
			s.changes = append(s.changes, Change{ID: c.id, Entry: e, Local: local})
		}
	case r == nil:
		for _, c := range children {
			s.bury(c, local)
			s.finish(c, Revoked, local)
		}
	}
	if r != nil {
		s.finish(r, v.end, local)
	}
	if local && !x.settled() {
		s.resting = append(s.resting, u.id)
	}
}

// children returns the children of a token that r is the record of. Without one it
// may be a root token of another node.
func (s *Store) children(id ID, r *record) []*record {
	var all []*record
	if r != nil {
		for c := r.first; c != nil; c = c.next {
			all = append(all, c)
		}
		return all
	}
	for _, c := range s.byID {
		if c.entry.Parent == id {
			all = append(all, c)
		}
	}
	return all
}

func (s *Store) applyRemoval(u *update) {
	delete(s.unreadable, u.key)
	if u.err != nil {
		return // a key that is none of ours
	}
	if x := s.ended[u.id]; x != nil {
		if !x.queued { // another node has written them
			x.adopt = slices.DeleteFunc(x.adopt, func(c ID) bool { return s.byID[c] == nil || s.byID[c].stored != u.id })
		}
		s.release(x, x.removed)
		if x.gone = true; len(x.adopt) == 0 {
			delete(s.ended, u.id)
		} else if x.own {
			s.queue(u.id, x)
		}
	}
	r := s.byID[u.id]
	switch {
	case r == nil || r.root:
	case r.claim == claiming:
		r.marked = true // whether by this node is known at once
	default:
		s.finish(r, r.vanished(u.at), false)
	}
}

// vanished says why a token ended whose key was gone at a time, without a tombstone.
func (r *record) vanished(at time.Time) End {
	if e := r.entry.Expires; !e.IsZero() && !at.Before(e.Add(-expirySkew)) {
		return Expired
	}
	return Forgotten
}

// applyUnreadable refuses the token and its descendants, and leaves in the bucket
// what it has: a later version of the program may know better.
func (s *Store) applyUnreadable(u *update) {
	s.log.Error("tokens: a value of the bucket cannot be read; the token is refused", "key", clip(u.key), "revision", u.revision, "error", u.err)
	if r := s.byID[u.id]; r != nil && !r.root {
		s.hide(r)
	}
	s.unreadable[u.key] = struct{}{}
}

// hide ends r with all its descendants on this node only.
func (s *Store) hide(r *record) {
	for _, d := range s.cut(r) {
		s.unreadable[d.id.String()] = struct{}{}
		s.changes = append(s.changes, Change{ID: d.id, Last: d.entry, End: Forgotten})
	}
}

// finish ends r, and with it all its descendants, for whose removal it sees.
func (s *Store) finish(r *record, how End, local bool) {
	lapsed := s.ended[r.id]
	if lapsed != nil && !lapsed.lapsed {
		lapsed = nil
	}
	for i, d := range s.cut(r) {
		switch {
		case i == 0:
		case lapsed != nil:
			s.ended[d.id] = &ended{revision: d.revision, accessor: d.entry.Accessor, since: s.now(), lapse: r.id}
			lapsed.below = append(lapsed.below, d.id)
			how = Revoked
		default:
			s.bury(d, local)
			how = Revoked
		}
		s.changes = append(s.changes, Change{ID: d.id, Last: d.entry, End: how, Local: local})
	}
}

// release has those removed that ended with x, now that x is known to have ended.
func (s *Store) release(x *ended, local bool) {
	for _, id := range x.below {
		d := s.ended[id]
		if d == nil || d.lapse == (ID{}) {
			continue
		}
		d.lapse, d.own, d.since = ID{}, local, s.now()
		if local {
			s.queue(id, d)
		}
	}
	x.below = nil
}

// revive forgets that a token has ended of which a renewal is heard of too late, and
// has those read again that had ended with it.
func (s *Store) revive(id ID, x *ended) {
	delete(s.ended, id)
	for _, below := range x.below {
		if d := s.ended[below]; d != nil && d.lapse == id {
			delete(s.ended, below)
		}
	}
	if len(x.below) > 0 {
		s.demandWatch("tokens had ended whose renewal came late")
	}
}

// bury notes that the bucket still has r, which ends. The node that ended it
// removes it at once, others only if that node does not.
func (s *Store) bury(r *record, local bool) {
	x := s.ended[r.id]
	if x == nil || x.revision < r.revision { // else the bucket was just read anew
		x = &ended{revision: r.revision, accessor: r.entry.Accessor, since: s.now(), own: local}
		s.ended[r.id] = x
	}
	if local {
		s.queue(r.id, x)
	}
}

// clip shortens a text from outside for the log.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
