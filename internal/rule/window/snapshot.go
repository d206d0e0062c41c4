package window

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

// ErrDamaged is wrapped by the errors of [State.Restore] for bytes that no [State.Snapshot] made.
var ErrDamaged = errors.New("the saved state of windows and throttles is damaged")

// snapshotVersion begins a snapshot. What a later version cannot read is a cold start.
const snapshotVersion = 2

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot returns all that is remembered. Stored together with the position up to which events
// were judged, it makes a State that goes on as this one does: no alert is lost, and none is made
// up. The counters of [Stats] are not in it.
func (s *State) Snapshot() []byte {
	w := writer{buf: make([]byte, 0, s.bytes/2+64)}
	w.byte(snapshotVersion)
	w.number(s.clock)
	w.length(len(s.rules))
	for _, r := range s.rules {
		w.text(r.spec.Name)
		w.buf = append(w.buf, r.shape[:]...)
		w.table(&r.windows)
		w.table(&r.throttles)
	}
	w.length(len(s.pending))
	for _, p := range s.pending {
		w.text(s.rules[p.Rule].spec.Name)
		w.texts(p.By)
		w.text(p.After)
		w.text(p.Namespace)
		w.length(p.Count)
		w.number(nanos(p.First))
		w.number(nanos(p.Last))
		w.texts(p.IDs)
	}
	return sealed(w.buf)
}

// Lost is a rule whose memory is of no use.
type Lost struct {
	Name string
	Held int // alerts that its throttle had held back, which are told by nobody
}

// Restore replaces what is remembered by a snapshot. It may be one of other rules: each rule finds
// its memory by its name, if its window and its throttle are what they were. lost are the rules in
// the snapshot that are not here any more, or have changed. With an error nothing is changed.
func (s *State) Restore(snapshot []byte) (lost []Lost, err error) {
	n := len(snapshot) - crc32.Size
	if n < 1 {
		return nil, fmt.Errorf("%w: it is too short", ErrDamaged)
	}
	if v := snapshot[0]; v != snapshotVersion {
		return nil, fmt.Errorf("the saved state of windows and throttles is of version %d, this program reads version %d", v, snapshotVersion)
	}
	if binary.LittleEndian.Uint32(snapshot[n:]) != crc32.Checksum(snapshot[:n], castagnoli) {
		return nil, fmt.Errorf("%w: the checksum is wrong", ErrDamaged)
	}
	fresh := &State{limits: s.limits}
	byName := make(map[string]int, len(s.rules))
	for i, r := range s.rules {
		fresh.rules = append(fresh.rules, &rule{spec: r.spec, shape: r.shape, stats: r.stats})
		byName[r.spec.Name] = i
	}
	r := reader{rest: snapshot[1:n]}
	clock := r.time()
	seen := map[string]bool{}
	for range r.length(1) {
		name := r.text(maxName)
		var d digest
		copy(d[:], r.bytes(len(d)))
		if r.failed || seen[name] {
			return nil, ErrDamaged
		}
		seen[name] = true
		i, here := byName[name]
		var of *rule
		if here && fresh.rules[i].shape == d {
			of = fresh.rules[i]
		} else {
			lost = append(lost, Lost{Name: name})
		}
		_, held := r.table(fresh, of, false), r.table(fresh, of, true)
		if r.failed {
			return nil, ErrDamaged
		}
		if of == nil {
			lost[len(lost)-1].Held = held
		}
	}
	for range r.length(1) {
		name := r.text(maxName)
		p := Summary{By: r.texts(maxShown + 3), After: r.text(MaxIDBytes), Namespace: r.text(maxNamespace)}
		p.Count = r.count()
		p.First, p.Last = timeOf(r.time()), timeOf(r.time())
		p.IDs = r.texts(MaxIDBytes)
		if r.failed || len(p.IDs) > MaxIDs || p.Count < 1 {
			return nil, ErrDamaged
		}
		if i, here := byName[name]; here {
			p.Rule = i
			fresh.pending = append(fresh.pending, p)
		} else if i := slices.IndexFunc(lost, func(l Lost) bool { return l.Name == name }); i >= 0 {
			lost[i].Held += p.Count
		}
	}
	if r.failed || len(r.rest) > 0 {
		return nil, ErrDamaged
	}
	s.rules, s.keys, s.bytes, s.clock, s.pending = fresh.rules, fresh.keys, fresh.bytes, clock, fresh.pending
	return lost, nil
}

type writer struct{ buf []byte }

func (w *writer) byte(b byte)    { w.buf = append(w.buf, b) }
func (w *writer) number(n int64) { w.buf = binary.AppendUvarint(w.buf, uint64(n)) }
func (w *writer) length(n int)   { w.buf = binary.AppendUvarint(w.buf, uint64(n)) }
func (w *writer) text(t string)  { w.length(len(t)); w.buf = append(w.buf, t...) }
func (w *writer) texts(ts []string) {
	w.length(len(ts))
	for _, t := range ts {
		w.text(t)
	}
}

// table writes the keys from the oldest to the newest.
func (w *writer) table(t *table) {
	w.length(len(t.byKey))
	for k := t.order.First(); k != nil; k = k.place.Next() {
		w.buf = append(w.buf, k.digest[:]...)
		w.number(k.touched)
		w.length(len(k.marks))
		for i := range k.marks {
			m := &k.marks[i]
			w.number(m.at)
			if m.value == (digest{}) {
				w.byte(0)
			} else {
				w.byte(1)
				w.buf = append(w.buf, m.value[:]...)
			}
			w.text(m.id)
		}
		w.length(len(k.chains))
		for _, cs := range k.chains {
			w.length(len(cs))
			for i := range cs {
				w.number(cs[i].first)
				w.number(cs[i].last)
				w.texts(cs[i].ids)
			}
		}
		if p := k.period; p == nil {
			w.byte(0)
		} else {
			w.byte(1)
			w.number(p.start)
			w.text(p.id)
			w.texts(p.by)
			w.text(p.namespace)
			w.length(p.count)
			w.number(p.first)
			w.number(p.last)
			w.texts(p.firstIDs)
			w.texts(append(append([]string(nil), p.lastIDs[p.next:]...), p.lastIDs[:p.next]...))
		}
	}
}

// reader reads what writer wrote. After a failure it returns zero values.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) fail() { r.failed, r.rest = true, nil }

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) time() int64 {
	v := r.number()
	if v > latest {
		r.fail()
		return 0
	}
	return int64(v)
}

func (r *reader) count() int {
	v := r.number()
	if v > math.MaxInt32 {
		r.fail()
		return 0
	}
	return int(v)
}

// length returns a number of things that have at least so many bytes each.
func (r *reader) length(least int) int {
	v := r.number()
	if v > uint64(len(r.rest)/least) {
		r.fail()
		return 0
	}
	return int(v)
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.fail()
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) text(most int) string {
	n := r.length(1)
	if n > most {
		r.fail()
		return ""
	}
	return string(r.bytes(n))
}

func (r *reader) texts(most int) []string {
	n := r.length(1)
	if n > 64 {
		r.fail()
	}
	var ts []string
	for i := 0; i < n && !r.failed; i++ {
		ts = append(ts, r.text(most))
	}
	return ts
}

// table reads the keys of a rule into s; of is nil for one that is not there any more. It returns
// how many alerts throttles had held back.
func (r *reader) table(s *State, of *rule, throttles bool) (held int) {
	var touched int64
	for range r.length(len(digest{}) + 4) {
		k := r.key()
		if r.failed || k.touched < touched {
			r.fail()
			return 0
		}
		touched = k.touched
		if k.period != nil {
			held = min(held+k.period.count, math.MaxInt32)
		}
		if of == nil {
			continue
		}
		t := &of.windows
		if throttles {
			t = &of.throttles
		}
		if !fits(of, k, throttles) || t.byKey[k.digest] != nil {
			r.fail()
			return 0
		}
		if t.byKey == nil {
			t.byKey = make(map[digest]*key)
		}
		t.byKey[k.digest] = k
		t.order.PushBack(k, &k.place)
		s.keys++
		k.size = 0
		s.grown(t, k, k.measure())
		s.bound(of, t, k)
	}
	return held
}

func (r *reader) key() *key {
	k := new(key)
	copy(k.digest[:], r.bytes(len(k.digest)))
	k.touched = r.time()
	for range r.length(3) {
		m := mark{at: r.time()}
		if r.byte() == 1 {
			copy(m.value[:], r.bytes(len(m.value)))
		}
		m.id = r.text(MaxIDBytes)
		if n := len(k.marks); r.failed || n > 0 && k.marks[n-1].at > m.at {
			r.fail()
			return k
		}
		k.marks = append(k.marks, m)
	}
	for range r.length(1) {
		var cs []chain
		for range r.length(3) {
			c := chain{first: r.time(), last: r.time(), ids: r.texts(MaxIDBytes)}
			if n := len(cs); r.failed || c.last < c.first || len(c.ids) != len(k.chains)+1 || n > 0 && cs[n-1].first > c.first {
				r.fail()
				return k
			}
			cs = append(cs, c)
		}
		k.chains = append(k.chains, cs)
	}
	if r.byte() == 0 {
		return k
	}
	p := &period{start: r.time(), id: r.text(MaxIDBytes), by: r.texts(maxShown + 3), namespace: r.text(maxNamespace), count: r.count()}
	p.first, p.last = r.time(), r.time()
	p.firstIDs, p.lastIDs = r.texts(MaxIDBytes), r.texts(MaxIDBytes)
	if len(p.firstIDs) > MaxIDs/2 || len(p.lastIDs) > MaxIDs/2 || len(p.firstIDs)+len(p.lastIDs) > p.count ||
		len(p.lastIDs) > 0 && len(p.firstIDs) < MaxIDs/2 {
		r.fail()
	}
	k.period = p
	return k
}

// fits says whether a key is one that its rule can have.
func fits(r *rule, k *key, throttles bool) bool {
	w := r.spec.Window
	if throttles {
		return r.spec.Throttle != nil && k.period != nil && k.marks == nil && k.chains == nil
	}
	if w == nil || k.period != nil {
		return false
	}
	switch {
	case len(w.Then) > 0:
		if len(k.chains) != len(w.Then) || k.marks != nil {
			return false
		}
		for _, cs := range k.chains {
			if len(cs) > maxChains {
				return false
			}
		}
		return true
	case len(w.New) > 0:
		return len(k.marks) <= maxValues && k.chains == nil
	}
	return len(k.marks) < w.Count && k.chains == nil
}

// sealed adds the checksum.
func sealed(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}
