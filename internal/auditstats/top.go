package auditstats

import (
	"cmp"
	"container/heap"
	"slices"
)

// top counts keys in bounded memory and finds the most frequent ones (the algorithm
// "Space-Saving" of Metwally, Agrawal and El Abbadi). As long as there are at most max
// different keys, everything is exact. From then on a new key takes the place of the
// rarest one and inherits its count: a count is too high by at most over, never too low,
// over is at most the number of all counted divided by max, and every key that occurs more
// often than that is there. What else is noted of a key, its value, begins anew when it
// takes a place, so it may be too low by as much.
type top[V any] struct {
	max   int
	total uint64
	items map[string]*item[V]
	order byCount[V] // empty until there are max
	lost  uint64     // keys that have lost their place
}

// item is a key that is counted.
type item[V any] struct {
	key         string
	count, over uint64
	value       V
	at          int // in order
}

func newTop[V any](max int) *top[V] {
	return &top[V]{max: max, items: make(map[string]*item[V])}
}

// add counts a key once and returns its item.
func (t *top[V]) add(key []byte) *item[V] {
	t.total++
	if it, ok := t.items[string(key)]; ok {
		it.count++
		if len(t.order) > 0 {
			heap.Fix(&t.order, it.at)
		}
		return it
	}
	if len(t.items) < t.max {
		it := &item[V]{key: string(key), count: 1}
		t.items[it.key] = it
		return it
	}
	if len(t.order) == 0 {
		for _, it := range t.items {
			it.at = len(t.order)
			t.order = append(t.order, it)
		}
		heap.Init(&t.order)
	}
	t.lost++
	rarest := t.order[0]
	delete(t.items, rarest.key)
	*rarest = item[V]{key: string(key), count: rarest.count + 1, over: rarest.count, at: rarest.at}
	t.items[rarest.key] = rarest
	heap.Fix(&t.order, rarest.at)
	return rarest
}

// exact says whether all counts are.
func (t *top[V]) exact() bool { return t.lost == 0 }

// most returns the n most frequent keys.
func (t *top[V]) most(n int) []*item[V] {
	list := make([]*item[V], 0, len(t.items))
	for _, it := range t.items {
		list = append(list, it)
	}
	slices.SortFunc(list, func(a, b *item[V]) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.over, b.over), cmp.Compare(a.key, b.key))
	})
	return list[:min(n, len(list))]
}

// byCount is a heap with the rarest key first.
type byCount[V any] []*item[V]

func (h byCount[V]) Len() int           { return len(h) }
func (h byCount[V]) Less(i, k int) bool { return h[i].count < h[k].count }
func (h byCount[V]) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].at, h[k].at = i, k
}
func (h *byCount[V]) Push(x any) { *h = append(*h, x.(*item[V])) }
func (h *byCount[V]) Pop() any   { panic("auditstats: nothing is taken out of the heap") }
