package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// item is what the bucket has at one key while it is loaded.
type item struct {
	update
	state itemState
}

type itemState int

const (
	unknown   itemState = iota
	visiting            // its ancestors are being looked at
	isDead              // it has ended
	isAlive             //
	isOrphan            // alive, without the parent that it has in the bucket
	isUnclear           // it, or one of its ancestors, cannot be read
)

// load reads all of the bucket, takes the differences over into the table, and
// returns the watch that goes on from there, until running ends. ctx bounds the
// loading.
func (s *Store) load(ctx, running context.Context) (*watching, error) {
	last, err := s.bucket.last(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the bucket: %w", err)
	}
	lifetime, cancel := context.WithCancel(running)
	stalled := time.AfterFunc(loadStall, cancel)
	given := context.AfterFunc(ctx, cancel)
	kw, err := s.bucket.watch(lifetime)
	if err != nil {
		stalled.Stop()
		given()
		cancel()
		return nil, fmt.Errorf("watch the bucket: %w", err)
	}
	w := &watching{kw, cancel}
	items := make(map[ID]*item)
	var foreign []update
	for {
		e, ok := w.next(lifetime)
		if !ok {
			err = cmp.Or(ctx.Err(), errors.New("the watch ended or stalled while the bucket was read"))
		}
		if e == nil {
			break
		}
		stalled.Reset(loadStall)
		u := read(e)
		last = max(last, u.revision)
		switch {
		case u.removed:
		case u.id == ID{}:
			foreign = append(foreign, u)
		default:
			items[u.id] = &item{update: u}
		}
	}
	if !stalled.Stop() && err == nil {
		err = errors.New("the bucket stalled while it was read")
	}
	if !given() && err == nil {
		err = cmp.Or(ctx.Err(), errors.New("given up"))
	}
	if err != nil {
		s.stop(w)
		return nil, err
	}
	s.reconcile(items, foreign, last)
	return w, nil
}

// reconcile makes the table what the bucket is, and the differences changes.
func (s *Store) reconcile(items map[ID]*item, foreign []update, last uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	first := !s.loaded // nobody knows any of them
	s.loaded = true
	s.applied = last
	s.unreadable = make(map[string]struct{})
	for _, u := range foreign {
		s.applyUnreadable(&u)
	}
	s.judge(items)

	was := s.ended
	s.ended = make(map[ID]*ended)
	order := make([]*item, 0, len(items))
	for _, x := range items {
		order = append(order, x)
	}
	slices.SortFunc(order, func(a, b *item) int { return cmp.Compare(a.revision, b.revision) })

	// The ended first, so that others find them.
	for _, x := range order {
		switch {
		case x.err != nil:
			s.applyUnreadable(&x.update)
		case x.state == isUnclear:
			s.unreadable[x.key] = struct{}{}
		case x.state == isDead:
			s.ended[x.id] = x.grave(was[x.id], s.now())
		}
	}
	// Then what is still there, as it is now.
	var fresh []*record
	for _, x := range order {
		if x.state != isAlive && x.state != isOrphan {
			continue
		}
		e, by := x.value.entry, x.value.by
		if x.state == isOrphan {
			by = items[e.Parent].value.by
			s.ended[e.Parent].adopt = append(s.ended[e.Parent].adopt, x.id)
			e = withoutParent(e)
		}
		switch r := s.byID[x.id]; {
		case r == nil:
			r = &record{id: x.id, entry: e}
			r.describe(&x.update)
			fresh = append(fresh, r)
		case r.root:
			s.log.Warn("tokens: the root token is also one of the bucket, which is ignored", "accessor", e.Accessor)
		case r.revision != x.revision || r.entry.Parent != e.Parent:
			s.become(r, &x.update, e, by == s.node)
		}
	}
	// Then what is not there any more.
	s.endVanished(items)
	if first {
		s.changes = nil
	}
	// Then what is new.
	for _, r := range parentsFirst(fresh) {
		s.add(r)
		if !first {
			s.changes = append(s.changes, Change{ID: r.id, Entry: r.entry, Local: r.by == s.node})
		}
	}
	for id, x := range s.ended {
		switch {
		case items[id] == nil:
			delete(s.ended, id) // ended with its parent, and is not in the bucket
		case x.lapse != ID{} && (items[x.lapse] == nil || s.ended[x.lapse] == nil):
			x.lapse = ID{} // that one has ended for certain
			s.queue(id, x)
		case !x.settled():
			s.queue(id, x)
		}
	}
}

// parentsFirst orders records such that none comes before its parent, but otherwise
// as they are.
func parentsFirst(records []*record) []*record {
	waiting := make(map[ID]*record, len(records))
	for _, r := range records {
		waiting[r.id] = r
	}
	ordered := make([]*record, 0, len(records))
	var line []*record
	for _, r := range records {
		for ; r != nil && waiting[r.id] != nil; r = waiting[r.entry.Parent] {
			line = append(line, r)
			delete(waiting, r.id)
		}
		for i := len(line) - 1; i >= 0; i-- {
			ordered = append(ordered, line[i])
		}
		line = line[:0]
	}
	return ordered
}

// grave is what is known of an item that has ended.
func (x *item) grave(was *ended, now time.Time) *ended {
	g := &ended{revision: x.revision, accessor: x.accessor(), since: now, orphans: x.value.orphans, root: x.value.root}
	if was != nil {
		g.own, g.queued, g.removed = was.own, was.queued, was.removed && was.revision == x.revision
		g.lapsed, g.below, g.lapse = was.lapsed, was.below, was.lapse
	}
	return g
}

// accessor returns that of the token, which may have ended.
func (x *item) accessor() string {
	if e := x.value.entry; e != nil {
		return e.Accessor
	}
	return x.value.accessor
}

// judge finds out which items are alive: those all of whose ancestors are.
func (s *Store) judge(items map[ID]*item) {
	for id, x := range items {
		switch e := x.value.entry; {
		case x.err != nil:
			x.state = isUnclear
		case e == nil:
			x.state = isDead
		case s.ended[id] != nil && s.ended[id].accessor == e.Accessor && s.ended[id].certain(x.revision):
			x.state = isDead
		}
	}
	var path []*item
	for _, x := range items {
		path = path[:0]
		state := unknown
		for state == unknown {
			if x.state != unknown {
				switch state = x.state; state {
				case visiting:
					state = isDead // ancestors in a ring, which nobody made
				case isOrphan:
					state = isAlive
				}
				break
			}
			x.state = visiting
			path = append(path, x)
			x, state = s.parentOf(x, items)
		}
		// What is above decides for all below.
		for i := len(path) - 1; i >= 0; i-- {
			path[i].state = state
			if state == isOrphan {
				state = isAlive // its children have a parent
			}
		}
	}
}

// certain says that a token has not come back as another revision.
func (x *ended) certain(revision uint64) bool {
	return (!x.lapsed || x.revision == revision) && x.lapse == ID{}
}

// parentOf returns the item that decides about x, or else what x is.
func (s *Store) parentOf(x *item, items map[ID]*item) (*item, itemState) {
	e := x.value.entry
	if e.Orphan() {
		return nil, isAlive
	}
	p := items[e.Parent]
	switch {
	case p != nil && p.err != nil:
		return nil, isUnclear
	case p != nil && p.accessor() != x.value.lineage.accessor:
		return nil, isDead // with an earlier token of the same value
	case p != nil && p.value.entry == nil && p.value.orphans:
		return nil, isOrphan
	case p == nil && x.value.lineage.root:
		return nil, isAlive
	case p == nil:
		return nil, isDead
	default:
		return p, unknown
	}
}

// endVanished ends the records that the bucket does not have any more.
func (s *Store) endVanished(items map[ID]*item) {
	now := s.now()
	gone := func(r *record) bool {
		if r.root {
			x := items[r.id]
			return x != nil && x.state == isDead && x.value.root
		}
		x := items[r.id]
		return x == nil || x.state != isAlive && x.state != isOrphan
	}
	var heads []*record
	for _, r := range s.byID {
		if gone(r) && (r.parent == nil || !gone(r.parent)) {
			heads = append(heads, r)
		}
	}
	for _, r := range heads {
		x := items[r.id]
		switch {
		case x == nil:
			s.finish(r, r.vanished(now), false)
		case x.state == isUnclear:
			s.hide(r)
		case x.value.entry == nil:
			s.finish(r, x.value.end, x.value.by == s.node)
		default:
			s.finish(r, Revoked, false)
		}
	}
}
