package window

import (
	"strings"
	"time"
)

// Held is what a throttle held back since an alert.
type Held struct {
	Count       int
	First, Last time.Time // when the events of the first and the last happened; zero if there are none
	IDs         []string  // of the events, at most [MaxIDs]
}

// Summary tells what a throttle held back when no other alert came that could.
type Summary struct {
	Rule  int
	By    []string // the values of the throttle's fields, shortened
	After string   // the id of the event of the alert that came before
	// Namespace is the innermost one that has all events that were held back.
	Namespace string
	Held
}

// period begins with an alert.
type period struct {
	start       int64    // clock
	id          string   // of the event of the alert
	by          []string // for people
	count       int
	first, last int64
	firstIDs    []string
	lastIDs     []string // a ring
	next        int      // the oldest in it
	namespace   string   // of all that was held back
}

func (p *period) size() int {
	n := 200 + len(p.id) + len(p.namespace)
	for _, list := range [][]string{p.by, p.firstIDs, p.lastIDs} {
		for _, t := range list {
			n += 16 + len(t)
		}
	}
	return n
}

func (p *period) hold(id, namespace string, at int64) {
	switch {
	case len(namespace) > maxNamespace:
		p.namespace = ""
	case p.count == 0:
		p.namespace = strings.Clone(namespace)
	case namespace != p.namespace:
		p.namespace = common(p.namespace, namespace)
	}
	if p.count == 0 || at < p.first {
		p.first = at
	}
	if p.count == 0 || at > p.last {
		p.last = at
	}
	p.count++
	id = keep(id)
	switch {
	case len(p.firstIDs) < MaxIDs/2:
		p.firstIDs = append(p.firstIDs, id)
	case len(p.lastIDs) < MaxIDs/2:
		p.lastIDs = append(p.lastIDs, id)
	default:
		p.lastIDs[p.next] = id
		p.next = (p.next + 1) % len(p.lastIDs)
	}
}

// common returns the innermost namespace that has both.
func common(a, b string) string {
	n := 0
	for i := 0; i < len(a) && i < len(b) && a[i] == b[i]; i++ {
		if a[i] == '/' {
			n = i + 1
		}
	}
	return a[:n]
}

func (p *period) held() Held {
	if p.count == 0 {
		return Held{}
	}
	ids := append([]string(nil), p.firstIDs...)
	ids = append(append(ids, p.lastIDs[p.next:]...), p.lastIDs[:p.next]...)
	return Held{Count: p.count, First: timeOf(p.first), Last: timeOf(p.last), IDs: ids}
}

func (p *period) summary(rule int) Summary {
	return Summary{Rule: rule, By: p.by, After: p.id, Namespace: p.namespace, Held: p.held()}
}

// Throttle says whether an alert of a rule with a throttle may be raised, and if so, what was held
// back since the one before. by are the values of [load.Throttle].By; a missing one is some text
// that says so.
func (s *State) Throttle(i int, e Event, by []string) (Held, bool) {
	r := s.rules[i]
	at := s.happened(r, e)
	s.stored(e, at)
	d := digestOf(by)
	if k := r.throttles.byKey[d]; k != nil && s.clock-k.period.start < int64(r.spec.Throttle.Every) {
		before := k.period.size()
		k.period.hold(e.ID, e.Namespace, at)
		s.grown(&r.throttles, k, k.period.size()-before)
		r.stats.Held++
		s.bound(r, &r.throttles, k)
		return Held{}, false
	}
	k := s.touch(r, &r.throttles, d) // keys are in order of their periods
	var held Held
	if k.period != nil {
		held = k.period.held()
		s.grown(&r.throttles, k, -k.period.size())
	}
	k.period = &period{start: s.clock, id: keep(e.ID)}
	for _, v := range by {
		k.period.by = append(k.period.by, shorten(v))
	}
	s.grown(&r.throttles, k, k.period.size())
	s.bound(r, &r.throttles, k)
	return held, true
}

func shorten(v string) string {
	if len(v) > maxShown {
		v = strings.ToValidUTF8(v[:maxShown], "") + "..."
	}
	return strings.Clone(v)
}

// Advance tells what throttles held back, where the next alert did not: a summary is due when the
// time of the throttle is over and no alert came for a moment (the same time again, at most a
// minute). Callers do it before each event, with its time of storing (its own, if it was not
// stored), and when nothing comes with the time that it is. An error of emit ends it; what was not
// told is told next time.
func (s *State) Advance(to time.Time, emit func(Summary) error) error {
	now := max(s.clock, nanos(to)) // which is not remembered: events decide, so that a replay is alike
	for len(s.pending) > 0 {
		if err := emit(s.pending[0]); err != nil {
			return err
		}
		s.pending = s.pending[1:]
	}
	s.pending = nil
	for i, r := range s.rules {
		t := &r.throttles
		for k := t.order.First(); k != nil && now >= due(r, k); k = t.order.First() {
			if k.period.count > 0 {
				if err := emit(k.period.summary(i)); err != nil {
					return err
				}
			}
			s.remove(t, k)
		}
	}
	return nil
}

func due(r *rule, k *key) int64 {
	every := r.spec.Throttle.Every
	return k.period.start + int64(every+min(every, maxSummaryDelay))
}

// Due returns when [State.Advance] has something to do next; ok is false if there is nothing.
func (s *State) Due() (at time.Time, ok bool) {
	if len(s.pending) > 0 {
		return timeOf(s.clock), true
	}
	var first int64
	for _, r := range s.rules {
		if k := r.throttles.order.First(); k != nil {
			if d := due(r, k); !ok || d < first {
				first, ok = d, true
			}
		}
	}
	return timeOf(first), ok
}
