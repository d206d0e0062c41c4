package token

import (
	"container/heap"
	"slices"
	"time"
)

// record is one valid token in the table.
type record struct {
	id       ID
	entry    *Entry
	revision uint64
	by       string // the node that wrote the revision
	root     bool   // the configured one, which the bucket does not have
	lineage  lineage
	// stored is the parent that the bucket has for it. It differs from the entry's
	// after the parent was ended with RevokeOrphan, until the entry is written again.
	stored ID

	// The tree: children are a doubly linked list.
	parent, first, next, prev *record

	// In the heap of those that will expire.
	due   time.Time
	slot  int // -1: not in it
	claim claim
	// marked: the key was removed from the bucket while a claim was under way.
	marked bool
}

// claim is what is known about an attempt to be the one that ends an expired token.
type claim int

const (
	unclaimed claim = iota
	claiming        // this node asked the bucket to remove it
	outrun          // another node has changed it before; the watch will tell how
)

// ended is a token that has ended while the bucket still has something of it, or
// the end of that was not delivered yet.
type ended struct {
	revision uint64
	accessor string
	own      bool // this node is the first to remove it
	queued   bool // a remover has it, or will
	since    time.Time
	// orphans: the bucket has a tombstone by which entries with this parent have none
	// any more; those that are still to be written again are in adopt.
	orphans bool
	adopt   []ID
	root    bool // the tombstone is one of a root token and stays
	// lapsed: the clock of this node has ended it, and below with it, while the bucket
	// did not say whether it was renewed in time. Those below have it in lapse.
	lapsed bool
	below  []ID
	lapse  ID
	// removed: this node has removed the key, and gone: that, or the same by another
	// node, was delivered. Until then older states of the token may still come.
	removed, gone bool
}

// settled says that there is nothing to be done.
func (x *ended) settled() bool {
	return (x.root || x.removed || x.gone || x.lapse != ID{}) && len(x.adopt) == 0
}

// table is all that a store knows. It has no lock of its own.
type table struct {
	byID       map[ID]*record
	byAccessor map[string]*record
	due        dueHeap
	ended      map[ID]*ended
	unreadable map[string]struct{} // by key
}

func newTable() table {
	return table{
		byID: make(map[ID]*record), byAccessor: make(map[string]*record),
		ended: make(map[ID]*ended), unreadable: make(map[string]struct{}),
	}
}

// add puts a new record into the table.
func (t *table) add(r *record) {
	r.slot = -1
	t.byID[r.id] = r
	t.byAccessor[r.entry.Accessor] = r
	t.schedule(r, r.entry.Expires)
	t.link(r)
}

// link makes r a child of its entry's parent, if that is in the table.
func (t *table) link(r *record) {
	if r.entry.Orphan() {
		return
	}
	if p := t.byID[r.entry.Parent]; p != nil && p != r {
		r.parent, r.next = p, p.first
		if p.first != nil {
			p.first.prev = r
		}
		p.first = r
	}
}

func (t *table) unlink(r *record) {
	if r.parent == nil {
		return
	}
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		r.parent.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.parent, r.next, r.prev = nil, nil, nil
}

// replace gives r another entry, which is a token's next state.
func (t *table) replace(r *record, e *Entry) {
	old := r.entry
	r.entry = e
	if old.Accessor != e.Accessor {
		t.forgetAccessor(r, old.Accessor)
		t.byAccessor[e.Accessor] = r
	}
	if old.Parent != e.Parent {
		t.unlink(r)
		t.link(r)
	}
	r.claim, r.marked = unclaimed, false
	t.schedule(r, e.Expires)
}

func (t *table) forgetAccessor(r *record, accessor string) {
	if t.byAccessor[accessor] == r {
		delete(t.byAccessor, accessor)
	}
}

// cut removes r from the table, with all its descendants, and returns them, r
// first and parents before their children.
func (t *table) cut(r *record) []*record {
	t.unlink(r)
	all := []*record{r}
	for i := 0; i < len(all); i++ {
		r := all[i]
		for c := r.first; c != nil; c = c.next {
			all = append(all, c)
		}
	}
	for _, r := range all {
		delete(t.byID, r.id)
		t.forgetAccessor(r, r.entry.Accessor)
		t.schedule(r, time.Time{})
		r.parent, r.first, r.next, r.prev = nil, nil, nil, nil
	}
	return all
}

// schedule says when r has to be looked at because of its age; zero: never.
func (t *table) schedule(r *record, due time.Time) {
	r.due = due
	switch {
	case due.IsZero() && r.slot >= 0:
		heap.Remove(&t.due, r.slot)
	case due.IsZero():
	case r.slot >= 0:
		heap.Fix(&t.due, r.slot)
	default:
		heap.Push(&t.due, r)
	}
}

func (t *table) accessors(namespace string, now time.Time) []string {
	var all []string
	for _, r := range t.byID {
		if r.entry.Namespace == namespace && r.entry.live(now) {
			all = append(all, r.entry.Accessor)
		}
	}
	slices.Sort(all)
	return all
}

// dueHeap has the records that will expire, the first on top. It is for
// container/heap.
type dueHeap []*record

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].slot, h[j].slot = i, j
}

func (h *dueHeap) Push(x any) {
	r := x.(*record)
	r.slot = len(*h)
	*h = append(*h, r)
}

func (h *dueHeap) Pop() any {
	old := *h
	r := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	r.slot = -1
	return r
}
