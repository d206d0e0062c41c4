package window

import (
	"slices"
)

// chain is the beginning of a sequence: events that followed each other.
type chain struct {
	first, last int64
	ids         []string
}

func (c *chain) size() int {
	n := 64
	for _, id := range c.ids {
		n += 16 + len(id)
	}
	return n
}

// sequence is about events that follow each other: each was stored after the one before it, and
// did not happen before it. What comes before the first step is not kept.
func (s *State) sequence(r *rule, id string, at int64, in Input) (Group, bool) {
	w := r.spec.Window
	d := digestOf(in.By)
	k := r.windows.byKey[d]
	if k == nil && in.Steps&1 == 0 {
		return Group{}, false
	}
	k = s.touch(r, &r.windows, d)
	if k.chains == nil {
		k.chains = make([][]chain, len(w.Then))
		s.grown(&r.windows, k, 24*len(w.Then))
	}
	// From the last step to the first, so that no event is two steps of a sequence.
	for step := len(w.Then); step > 0; step-- {
		if in.Steps&(1<<step) == 0 {
			continue
		}
		before := k.extensible(step-1, at, int64(w.Within))
		if before == nil {
			continue
		}
		c := chain{first: before.first, last: at, ids: append(slices.Clone(before.ids), keep(id))}
		if step == len(w.Then) {
			s.remove(&r.windows, k)
			return Group{Count: len(c.ids), First: timeOf(c.first), Last: timeOf(c.last), IDs: c.ids}, true
		}
		s.reach(r, k, step, c)
	}
	if in.Steps&1 != 0 {
		s.reach(r, k, 0, chain{first: at, last: at, ids: []string{keep(id)}})
	}
	s.bound(r, &r.windows, k)
	return Group{}, false
}

// extensible returns the chain that an event may follow, the one that began last; nil if there is
// none.
func (k *key) extensible(step int, at, within int64) *chain {
	for i := len(k.chains[step]) - 1; i >= 0; i-- {
		if c := &k.chains[step][i]; c.last <= at && at-c.first <= within {
			return c
		}
	}
	return nil
}

// reach adds a chain, in order of their beginnings, and forgets those that are of no use beside it:
// what can follow them can follow it.
func (s *State) reach(r *rule, k *key, step int, c chain) {
	cs := k.chains[step]
	before := 0
	for i := range cs {
		if cs[i].first > c.first && cs[i].last <= c.last {
			return
		}
		before += cs[i].size()
	}
	cs = slices.DeleteFunc(cs, func(o chain) bool { return o.first <= c.first && o.last >= c.last })
	i := len(cs)
	for i > 0 && cs[i-1].first > c.first {
		i--
	}
	cs = slices.Insert(cs, i, c)
	if len(cs) > maxChains {
		cs = slices.Delete(cs, 0, 1)
	}
	after := 0
	for i := range cs {
		after += cs[i].size()
	}
	k.chains[step] = cs
	s.grown(&r.windows, k, after-before)
}
