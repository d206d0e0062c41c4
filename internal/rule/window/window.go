// Package window is the memory of rules about several events: how many of them there were within
// a time, how many different values, what followed what, what was not there before; and of the
// throttles that keep alerts from becoming a flood.
//
// It is pure: what time it is comes with the events, so the same events in the same order give the
// same answers, live, on a replay of the journal, and again after a crash. It knows no fields and
// no conditions: callers say that an event fits, and give the values of fields as texts.
//
// # Times
//
// Windows go by when an event happened ([Event].Time), so it does not matter how late it was
// stored. A time that is later than the one of storing by more than [MaxSkew] is not believed;
// then the time of storing counts. The window of a key ends at the newest of its events: what comes
// out of order counts if it is not older than that by more than the window, else it is late, which
// is counted.
//
// Throttles go by when events were stored ([Event].Recorded), because they are for those who are
// told: a hub that catches up on a night of events tells them once. Events that were never stored
// (of a file, say) have only the one time.
//
// A time of storing that is earlier than the latest by more than [MaxSkew] means that the clock was
// wrong and has been set back. What is known of times that are still to come is forgotten then, and
// periods of throttles that began there are over.
//
// # Bounds
//
// Keys are kept as hashes. What is too much for [Limits] is forgotten, the key first that was
// looked at the longest ago, of the rule that has the most, and counted ([Stats].Evicted).
package window

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/list"
	"github.com/tocsin-events/tocsin/internal/rule/load"
)

const (
	// MaxSkew is by how much an event may be from the future, compared with when it was stored.
	MaxSkew = time.Minute
	// MaxWithin bounds the time of a window and of a throttle.
	MaxWithin = 366 * 24 * time.Hour
	// MaxCount bounds how many events or values a window may ask for.
	MaxCount = 10_000
	// MaxSteps bounds how many conditions may follow the first.
	MaxSteps = 16
	// MaxFields bounds the fields of a key, and those whose values are new.
	MaxFields = 16
	// maxNamespace bounds the bytes of a namespace. A longer one counts as the root.
	maxNamespace = 4 << 10
	// MaxIDBytes bounds the ids that are kept. A longer one is cut and has a hash at its end.
	MaxIDBytes = 1024
	// MaxIDs is how many ids of events an alert has: half of them are those of the first events,
	// half those of the last.
	MaxIDs = 20
	// IdleGrace is how much longer than its window a key is kept that nothing happens to. Two
	// events of a key count together only if they were stored within the window and this time.
	IdleGrace = time.Hour
	// maxValues bounds the values that are remembered for each key of a window for new ones.
	maxValues = 1000
	// maxChains bounds how many beginnings of a sequence are kept for each step and key. In
	// order one is enough.
	maxChains = 8
	// maxSummaryDelay bounds how long after its period a throttle waits for the next alert to tell
	// what was held back, before it does so in a summary.
	maxSummaryDelay = time.Minute
	// maxShown bounds the bytes of a value of a throttle's key that a summary shows.
	maxShown = 256
	// maxName bounds the bytes of the name of a rule.
	maxName = 64 << 10
)

// Limits bound the memory of a [State]. Zero values stand for the defaults.
type Limits struct {
	KeysPerRule int // default 20,000
	Keys        int // of all rules; default 200,000
	Bytes       int // of all rules, about; default 64 MiB
}

func (l Limits) withDefaults() Limits {
	if l.KeysPerRule <= 0 {
		l.KeysPerRule = 20_000
	}
	if l.Keys <= 0 {
		l.Keys = 200_000
	}
	if l.Bytes <= 0 {
		l.Bytes = 64 << 20
	}
	return l
}

// Spec is what a rule has that needs memory. Name leads from a snapshot back to it.
type Spec struct {
	Name     string
	Window   *load.Window   // nil: each event counts for itself
	Throttle *load.Throttle // nil: each alert is raised
}

// Event is one that fits the condition of a rule, or of a step.
type Event struct {
	// ID leads back to the event. What it looks like is for callers.
	ID       string
	Time     time.Time // when it happened
	Recorded time.Time // when it was stored; zero if it was not
	// Namespace is where it belongs, as "a/b/"; empty is the root of all.
	Namespace string
}

// Input is what a window wants to know of an event.
type Input struct {
	// By are the values of [load.Window].By. An event that does not have all of them must not get
	// here.
	By []string
	// Values are that of [load.Window].Distinct, or those of New.
	Values []string
	// Steps says what the event fits, for windows with Then: bit 0 the condition of the rule, bit
	// n the nth of Then. It is not looked at for others.
	Steps uint32
}

// Group is why a window raises an alert.
type Group struct {
	Count       int       // of the events or the different values; of a sequence its steps; 1 for what is new
	First, Last time.Time // when the first and the last of them happened
	IDs         []string  // of the events in order of time, at most [MaxIDs]
}

// Stats count, for a rule or for all of them. All but Keys and Bytes only grow.
type Stats struct {
	Keys, Bytes int    // that are in memory now
	Evicted     uint64 // keys and values that were forgotten before their time, because of [Limits]
	Late        uint64 // events that were too old for their window
	Skewed      uint64 // events whose time was not believed
	Held        uint64 // alerts that throttles held back
}

// State is the memory of a set of rules. It belongs to one goroutine.
type State struct {
	limits  Limits
	rules   []*rule
	keys    int
	bytes   int
	clock   int64     // the latest time of storing since the clock was set back, in nanoseconds
	pending []Summary // of throttles that were evicted
}

type rule struct {
	spec      Spec
	shape     digest // of what the memory means
	windows   table
	throttles table
	stats     Stats
}

// New returns an empty State. The numbers of rules are those of specs.
func New(specs []Spec, limits Limits) (*State, error) {
	s := &State{limits: limits.withDefaults()}
	for _, spec := range specs {
		if err := check(spec); err != nil {
			return nil, fmt.Errorf("rule %q: %w", spec.Name, err)
		}
		s.rules = append(s.rules, &rule{spec: spec, shape: shape(spec)})
	}
	return s, nil
}

func check(spec Spec) error {
	if len(spec.Name) > maxName {
		return fmt.Errorf("its name has more than %d bytes", maxName)
	}
	if t := spec.Throttle; t != nil {
		switch {
		case t.Every <= 0 || t.Every > MaxWithin:
			return fmt.Errorf("a throttle is for more than 0 and at most %v", MaxWithin)
		case len(t.By) > MaxFields:
			return fmt.Errorf("a throttle has at most %d fields", MaxFields)
		}
	}
	w := spec.Window
	if w == nil {
		return nil
	}
	kinds := 0
	for _, is := range []bool{w.Count > 0, len(w.Then) > 0, len(w.New) > 0} {
		if is {
			kinds++
		}
	}
	switch {
	case w.Within <= 0 || w.Within > MaxWithin:
		return fmt.Errorf("a window is for more than 0 and at most %v", MaxWithin)
	case kinds != 1:
		return errors.New("a window counts, or is about what follows, or about what is new")
	case w.Distinct != "" && w.Count == 0:
		return errors.New("a window for different values needs a count of them")
	case w.Count > MaxCount:
		return fmt.Errorf("a window counts to %d at most", MaxCount)
	case len(w.By) > MaxFields || len(w.New) > MaxFields:
		return fmt.Errorf("a window has at most %d fields", MaxFields)
	case len(w.Then) > MaxSteps:
		return fmt.Errorf("a window has at most %d conditions that follow", MaxSteps)
	}
	return nil
}

// Stats returns the sums over all rules.
func (s *State) Stats() Stats {
	var sum Stats
	for i := range s.rules {
		r := s.RuleStats(i)
		sum.Evicted += r.Evicted
		sum.Late += r.Late
		sum.Skewed += r.Skewed
		sum.Held += r.Held
	}
	sum.Keys, sum.Bytes = s.keys, s.bytes
	return sum
}

// RuleStats returns those of one rule.
func (s *State) RuleStats(i int) Stats {
	r := s.rules[i]
	st := r.stats
	st.Keys = len(r.windows.byKey) + len(r.throttles.byKey)
	st.Bytes = r.windows.bytes + r.throttles.bytes
	return st
}

// Window has an event counted for a rule with a window, and says whether that makes an alert. The
// events of a count or a sequence that made one are forgotten, so that each is in one alert.
func (s *State) Window(i int, e Event, in Input) (Group, bool) {
	r := s.rules[i]
	w := r.spec.Window
	at := s.happened(r, e)
	s.stored(e, at)
	s.sweep(r)
	switch {
	case len(w.Then) > 0:
		return s.sequence(r, e.ID, at, in)
	case len(w.New) > 0:
		return s.novelty(r, e.ID, at, in)
	}
	return s.count(r, e.ID, at, in)
}

// happened returns when an event happened, as far as that is believed.
func (s *State) happened(r *rule, e Event) int64 {
	t := e.Time
	if !e.Recorded.IsZero() {
		if t.IsZero() {
			t = e.Recorded
		} else if t.After(e.Recorded.Add(MaxSkew)) {
			t = e.Recorded
			r.stats.Skewed++
		}
	}
	return nanos(t)
}

// stored moves the clock.
func (s *State) stored(e Event, at int64) {
	if !e.Recorded.IsZero() {
		at = nanos(e.Recorded)
		if s.clock-at > int64(MaxSkew) {
			s.setBack(at)
		}
	}
	s.clock = max(s.clock, at)
}

// Stored tells when an event was stored that may fit no rule at all, so that a clock that was set
// back is noticed. It says whether it was.
func (s *State) Stored(at time.Time) bool {
	now := nanos(at)
	if s.clock-now <= int64(MaxSkew) {
		return false
	}
	s.setBack(now)
	return true
}

// setBack sets the clock back, without what would come from the future then. That would keep
// windows and throttles quiet until it is there.
func (s *State) setBack(now int64) {
	s.clock = now
	future := now + int64(MaxSkew)
	for _, r := range s.rules {
		for _, t := range []*table{&r.windows, &r.throttles} {
			for k := t.order.First(); k != nil; k = k.place.Next() {
				k.touched = min(k.touched, now)
				k.marks = slices.DeleteFunc(k.marks, func(m mark) bool { return m.at > future })
				for step := range k.chains {
					k.chains[step] = slices.DeleteFunc(k.chains[step], func(c chain) bool { return c.last > future })
				}
				if p := k.period; p != nil && p.start > now {
					p.start = max(0, now-int64(r.spec.Throttle.Every))
				}
				s.grown(t, k, k.measure()-k.size)
			}
		}
	}
}

// sweep forgets keys that nothing happened to for long.
func (s *State) sweep(r *rule) {
	idle := int64(r.spec.Window.Within + IdleGrace)
	for k := r.windows.order.First(); k != nil && s.clock-k.touched > idle; k = r.windows.order.First() {
		s.remove(&r.windows, k)
	}
}

// latest is the last time that is told from later ones, in the year 2116. Together with MaxWithin
// it keeps sums from overflowing.
const latest = 1 << 62

// nanos returns a time as nanoseconds since 1970, which is the earliest.
func nanos(t time.Time) int64 {
	switch sec := t.Unix(); {
	case sec < 0:
		return 0
	case sec >= latest/int64(time.Second):
		return latest
	}
	return t.UnixNano()
}

func timeOf(nanos int64) time.Time { return time.Unix(0, nanos).UTC() }

// digest stands for values. Nobody finds two lists of texts with the same one.
type digest [16]byte

func digestOf(values []string) digest {
	var mem [512]byte
	buf := mem[:0]
	for _, v := range values {
		buf = binary.AppendUvarint(buf, uint64(len(v)))
		buf = append(buf, v...)
	}
	sum := sha256.Sum256(buf)
	return digest(sum[:16])
}

// shape returns what must be equal for the memory of one rule to be of use to another.
func shape(spec Spec) digest {
	var parts []string
	if w := spec.Window; w != nil {
		parts = append(parts, "window", w.Within.String(), fmt.Sprint(w.Count), w.Distinct, fmt.Sprint(len(w.Then)), fmt.Sprint(len(w.By)))
		parts = append(append(parts, w.By...), w.New...)
	}
	if t := spec.Throttle; t != nil {
		parts = append(append(parts, "throttle", t.Every.String()), t.By...)
	}
	return digestOf(parts)
}

// table has the keys of a rule, in the order in which they are forgotten.
type table struct {
	byKey map[digest]*key
	order list.List[key] // the one that is forgotten next first
	bytes int
}

// key is what is known about one combination of values.
type key struct {
	place   list.Links[key]
	digest  digest
	touched int64 // clock
	size    int   // in bytes, about

	marks  []mark    // counts, distinct and new values: in order of time
	chains [][]chain // sequences: those that have come as far as step n
	period *period   // throttles
}

// mark is an event, or the last one with a value.
type mark struct {
	at    int64
	value digest
	id    string
}

const (
	keySize  = 256 // with its place in the map
	markSize = 48
)

func (k *key) measure() int {
	n := keySize
	for i := range k.marks {
		n += markSize + len(k.marks[i].id)
	}
	for _, cs := range k.chains {
		n += 24
		for i := range cs {
			n += cs[i].size()
		}
	}
	if k.period != nil {
		n += k.period.size()
	}
	return n
}

// touch returns the key of a digest, a new one if there is none, and makes it the last to be
// forgotten.
func (s *State) touch(r *rule, t *table, d digest) *key {
	k := t.byKey[d]
	if k == nil {
		if t.byKey == nil {
			t.byKey = make(map[digest]*key)
		}
		k = &key{digest: d, size: keySize}
		t.byKey[d] = k
		t.bytes += keySize
		s.keys++
		s.bytes += keySize
	} else {
		t.order.Remove(&k.place)
	}
	k.touched = s.clock
	t.order.PushBack(k, &k.place)
	return k
}

func (s *State) remove(t *table, k *key) {
	t.order.Remove(&k.place)
	delete(t.byKey, k.digest)
	t.bytes -= k.size
	s.keys--
	s.bytes -= k.size
}

// grown notes that the size of a key has changed by some bytes.
func (s *State) grown(t *table, k *key, by int) {
	k.size += by
	t.bytes += by
	s.bytes += by
}

// bound forgets until the limits are kept. k was touched last and goes last.
func (s *State) bound(r *rule, t *table, k *key) {
	for len(t.byKey) > s.limits.KeysPerRule {
		s.evict(r, t)
	}
	for s.keys > 1 && (s.keys > s.limits.Keys || s.bytes > s.limits.Bytes) {
		of, most := s.largest(nil)
		if most.order.First() == k && most.order.Last() == k { // it has most of the memory; its window bounds that
			of, most = s.largest(most)
		}
		s.evict(of, most)
	}
}

// largest returns the table that takes the most memory, beside one.
func (s *State) largest(beside *table) (of *rule, most *table) {
	for _, r := range s.rules {
		for _, t := range []*table{&r.windows, &r.throttles} {
			if t != beside && t.order.First() != nil && (most == nil || t.bytes > most.bytes) {
				of, most = r, t
			}
		}
	}
	return of, most
}

func (s *State) evict(r *rule, t *table) {
	k := t.order.First()
	if p := k.period; p != nil && p.count > 0 {
		s.pending = append(s.pending, p.summary(s.number(r)))
	}
	s.remove(t, k)
	r.stats.Evicted++
}

func (s *State) number(r *rule) int { return slices.Index(s.rules, r) }

// keep returns a copy of an id that may be kept.
func keep(id string) string {
	if len(id) <= MaxIDBytes {
		return strings.Clone(id)
	}
	sum := digestOf([]string{id})
	return strings.ToValidUTF8(id[:MaxIDBytes-40], "") + "..." + hex.EncodeToString(sum[:])
}

// firstAndLast returns ids, without those in the middle if there are too many.
func firstAndLast(n int, id func(i int) string) []string {
	ids := make([]string, 0, min(n, MaxIDs))
	for i := range n {
		if n <= MaxIDs || i < MaxIDs/2 || i >= n-MaxIDs/2 {
			ids = append(ids, id(i))
		}
	}
	return ids
}
