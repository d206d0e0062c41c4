package window

import (
	"slices"
)

// count is about events, or different values, within a time.
func (s *State) count(r *rule, id string, at int64, in Input) (Group, bool) {
	w := r.spec.Window
	k := s.touch(r, &r.windows, digestOf(in.By))
	newest := at
	if n := len(k.marks); n > 0 {
		newest = max(at, k.marks[n-1].at)
	}
	if newest-at > int64(w.Within) {
		r.stats.Late++
		return Group{}, false
	}
	m := mark{at: at, id: keep(id)}
	if w.Distinct != "" {
		m.value = digestOf(in.Values)
	}
	s.note(r, k, m)
	s.expire(r, k, newest-int64(w.Within))
	if len(k.marks) < w.Count {
		s.bound(r, &r.windows, k)
		return Group{}, false
	}
	g := Group{
		Count: len(k.marks),
		First: timeOf(k.marks[0].at),
		Last:  timeOf(k.marks[len(k.marks)-1].at),
		IDs:   firstAndLast(len(k.marks), func(i int) string { return k.marks[i].id }),
	}
	s.remove(&r.windows, k)
	return g, true
}

// novelty is about values that were not there before. The first value of a key is learnt.
func (s *State) novelty(r *rule, id string, at int64, in Input) (Group, bool) {
	w := r.spec.Window
	k := s.touch(r, &r.windows, digestOf(in.By))
	newest := at
	if n := len(k.marks); n > 0 {
		newest = max(at, k.marks[n-1].at)
	}
	if newest-at > int64(w.Within) {
		r.stats.Late++
		return Group{}, false
	}
	s.expire(r, k, newest-int64(w.Within))
	m := mark{at: at, value: digestOf(in.Values)}
	isNew := len(k.marks) > 0 && k.find(m.value) < 0
	s.note(r, k, m)
	if len(k.marks) > maxValues {
		s.drop(r, k, 0, 1)
		r.stats.Evicted++
	}
	s.bound(r, &r.windows, k)
	if !isNew {
		return Group{}, false
	}
	return Group{Count: 1, First: timeOf(at), Last: timeOf(at), IDs: []string{keep(id)}}, true
}

func (k *key) find(value digest) int {
	for i := len(k.marks) - 1; i >= 0; i-- {
		if k.marks[i].value == value {
			return i
		}
	}
	return -1
}

// note puts a mark behind those that are not newer, in the place of one with the same value.
func (s *State) note(r *rule, k *key, m mark) {
	if m.value != (digest{}) {
		if i := k.find(m.value); i >= 0 {
			if k.marks[i].at > m.at {
				return
			}
			s.drop(r, k, i, i+1)
		}
	}
	i := len(k.marks)
	for i > 0 && k.marks[i-1].at > m.at {
		i--
	}
	k.marks = slices.Insert(k.marks, i, m)
	s.grown(&r.windows, k, markSize+len(m.id))
}

// drop forgets the marks from i to j.
func (s *State) drop(r *rule, k *key, i, j int) {
	freed := 0
	for _, m := range k.marks[i:j] {
		freed += markSize + len(m.id)
	}
	if i == 0 {
		clear(k.marks[:j])
		k.marks = k.marks[j:] // a copy is made when there is no room behind it
	} else {
		k.marks = slices.Delete(k.marks, i, j)
	}
	s.grown(&r.windows, k, -freed)
}

// expire forgets what is older than a time.
func (s *State) expire(r *rule, k *key, since int64) {
	n := 0
	for n < len(k.marks) && k.marks[n].at < since {
		n++
	}
	if n > 0 {
		s.drop(r, k, 0, n)
	}
}
