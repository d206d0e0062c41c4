package window

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/load"
)

// seen is an event as the model keeps it.
type seen struct {
	Event
	in Input
}

// model keeps all events of a key since its last alert, and looks at all of them each time.
type model struct {
	w    *load.Window
	keys map[string][]seen
}

func (m *model) window(e Event, in Input) (count int, ids []string, ok bool) {
	key := strings.Join(in.By, "|")
	newest := e.Time
	for _, s := range m.keys[key] {
		if s.Time.After(newest) {
			newest = s.Time
		}
	}
	within := func(t time.Time) bool { return newest.Sub(t) <= m.w.Within }
	if len(m.w.Then) > 0 {
		m.keys[key] = append(m.keys[key], seen{e, in})
		if ids := m.chain(m.keys[key], len(m.w.Then), len(m.keys[key])-1); ids != nil {
			m.keys[key] = nil
			return len(ids), ids, true
		}
		return 0, nil, false
	}
	if !within(e.Time) {
		return 0, nil, false
	}
	var inside []seen
	for _, s := range m.keys[key] {
		if within(s.Time) {
			inside = append(inside, s)
		}
	}
	if len(m.w.New) > 0 {
		is := len(inside) > 0
		for _, s := range inside {
			if slices.Equal(s.in.Values, in.Values) {
				is = false
			}
		}
		m.keys[key] = append(m.keys[key], seen{e, in})
		return 1, []string{e.ID}, is
	}
	m.keys[key] = append(m.keys[key], seen{e, in})
	inside = append(inside, seen{e, in})
	if m.w.Distinct != "" { // the last with each value
		last := map[string]seen{}
		for _, s := range inside {
			if o, ok := last[s.in.Values[0]]; !ok || !s.Time.Before(o.Time) {
				last[s.in.Values[0]] = s
			}
		}
		inside = inside[:0]
		for _, s := range m.keys[key] {
			if o, ok := last[s.in.Values[0]]; ok && o.ID == s.ID {
				inside = append(inside, s)
			}
		}
	}
	if len(inside) < m.w.Count {
		return 0, nil, false
	}
	slices.SortStableFunc(inside, func(a, b seen) int { return a.Time.Compare(b.Time) })
	for _, s := range inside {
		ids = append(ids, s.ID)
	}
	m.keys[key] = nil
	return len(ids), ids, true
}

// chain returns the ids of a sequence whose step is the event with the index last, the one that
// began last of all that there are.
func (m *model) chain(events []seen, step, last int) []string {
	best := m.search(events, step, last, events[last].Time)
	if best == nil {
		return nil
	}
	var ids []string
	for _, i := range best {
		ids = append(ids, events[i].ID)
	}
	return ids
}

func (m *model) search(events []seen, step, last int, end time.Time) (best []int) {
	e := events[last]
	if e.in.Steps&(1<<step) == 0 || end.Sub(e.Time) > m.w.Within {
		return nil
	}
	if step == 0 {
		return []int{last}
	}
	for i := range last {
		if events[i].Time.After(e.Time) {
			continue
		}
		if c := m.search(events, step-1, i, end); c != nil {
			if best == nil || !events[c[0]].Time.Before(events[best[0]].Time) {
				best = append(slices.Clone(c), last)
			}
		}
	}
	return best
}

func windows() map[string]*load.Window {
	step := &condition.Macro{}
	return map[string]*load.Window{
		"count":    {Within: 20 * time.Second, By: []string{"a.b"}, Count: 5},
		"one":      {Within: time.Second, Count: 1},
		"distinct": {Within: 20 * time.Second, Count: 3, Distinct: "a.c"},
		"then":     {Within: 20 * time.Second, Then: []condition.Expr{step}},
		"then two": {Within: 30 * time.Second, Then: []condition.Expr{step, step}},
		"new":      {Within: 30 * time.Second, New: []string{"a.c"}},
	}
}

// Random events, some out of order, in front of the model and of a State that is saved and read
// again every now and then.
func TestWindowsAreTheModel(t *testing.T) {
	t.Parallel()
	for name, w := range windows() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alerts := 0
			for seed := range uint64(80) {
				rng := rand.New(rand.NewPCG(seed, 1))
				spec := Spec{Name: name, Window: w, Throttle: &load.Throttle{Every: time.Minute}}
				s := newState(t, Limits{}, spec)
				m := model{w: w, keys: map[string][]seen{}}
				now, disorder := 0, rng.IntN(12)
				steps := 1 + rng.IntN(15)
				if len(w.Then) > 0 {
					disorder = rng.IntN(3) // chains that are kept are bounded
				}
				for n := range 150 {
					now += rng.IntN(steps)
					sec := now
					if disorder > 0 && rng.IntN(3) == 0 {
						sec = max(0, now-rng.IntN(disorder*3))
					}
					e := Event{ID: fmt.Sprint("e", n), Time: start.Add(time.Duration(sec) * time.Second), Recorded: start.Add(time.Duration(now) * time.Second)}
					in := Input{By: []string{fmt.Sprint(rng.IntN(3))}, Values: []string{fmt.Sprint(rng.IntN(4))}, Steps: uint32(rng.IntN(8))}
					if n%7 == int(seed%7) {
						data := s.Snapshot()
						s = newState(t, Limits{}, spec)
						if lost, err := s.Restore(data); err != nil || lost != nil {
							t.Fatal(lost, err)
						}
						if string(s.Snapshot()) != string(data) {
							t.Fatal("a snapshot of what was restored is another")
						}
					}
					count, ids, want := m.window(e, in)
					g, got := s.Window(0, e, in)
					if got != want {
						t.Fatalf("seed %d, event %d: alert %t, the model says %t", seed, n, got, want)
					}
					if got {
						alerts++
						if g.Count != count || !slices.Equal(g.IDs, ids) && !(len(w.Then) > 1 && g.IDs[len(g.IDs)-1] == ids[len(ids)-1]) {
							t.Fatalf("seed %d, event %d: alert of %d %v, the model says %d %v", seed, n, g.Count, g.IDs, count, ids)
						}
					}
					checkBytes(t, s)
				}
			}
			if alerts < 80 {
				t.Fatalf("only %d alerts: the test tests little", alerts)
			}
		})
	}
}

// checkBytes fails if the sums are not those of the parts.
func checkBytes(t *testing.T, s *State) {
	t.Helper()
	keys, bytes := 0, 0
	for _, r := range s.rules {
		for _, tb := range []*table{&r.windows, &r.throttles} {
			in := 0
			for k := tb.order.First(); k != nil; k = k.place.Next() {
				keys++
				if k.size != k.measure() {
					t.Fatalf("a key has %d bytes, says %d", k.measure(), k.size)
				}
				in += k.size
			}
			if in != tb.bytes {
				t.Fatalf("a table has %d bytes, says %d", in, tb.bytes)
			}
			bytes += in
		}
	}
	if keys != s.keys || bytes != s.bytes {
		t.Fatalf("there are %d keys of %d bytes, the sums say %d and %d", keys, bytes, s.keys, s.bytes)
	}
}

// Whatever is held back is told, once: by the next alert, by a summary, or it is still to come.
func TestThrottlesTellAll(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		every := time.Duration(1+rng.IntN(300)) * time.Second
		spec := Spec{Name: "r", Throttle: &load.Throttle{Every: every, By: []string{"a.b"}}}
		limits := Limits{KeysPerRule: 1 + rng.IntN(4)}
		s := newState(t, limits, spec)
		candidates, raised, held, summaries := 0, 0, 0, 0
		last := map[string]time.Time{}
		now := start
		advance := func(to time.Time) {
			fails := rng.IntN(3) == 0
			broken := errors.New("broken")
			for again := true; again; {
				again = false
				err := s.Advance(to, func(sum Summary) error {
					if fails {
						fails, again = false, true
						return broken
					}
					if sum.Count < 1 || sum.After == "" || len(sum.By) != 1 || len(sum.IDs) != min(sum.Count, MaxIDs) {
						t.Fatalf("summary %+v", sum)
					}
					summaries++
					held += sum.Count
					return nil
				})
				if (err != nil) != again {
					t.Fatal(err)
				}
			}
		}
		for n := range 300 {
			now = now.Add(time.Duration(rng.IntN(40)) * time.Second)
			advance(now)
			key := fmt.Sprint(rng.IntN(5))
			candidates++
			h, ok := s.Throttle(0, Event{ID: fmt.Sprint(n), Time: now, Recorded: now}, []string{key})
			if n%11 == 0 {
				data := s.Snapshot()
				s = newState(t, limits, spec)
				if _, err := s.Restore(data); err != nil {
					t.Fatal(err)
				}
			}
			checkBytes(t, s)
			if !ok {
				continue
			}
			raised++
			held += h.Count
			if before, ok := last[key]; ok && now.Sub(before) < every && limits.KeysPerRule == 5 {
				t.Fatalf("two alerts within %v", now.Sub(before))
			}
			last[key] = now
		}
		advance(now.Add(3 * every))
		if raised+held != candidates {
			t.Fatalf("seed %d: %d raised and %d told as held back, of %d", seed, raised, held, candidates)
		}
		if _, ok := s.Due(); ok || s.Stats().Keys != 0 {
			t.Fatalf("keys are left: %+v", s.Stats())
		}
		if every > 60*time.Second && summaries == 0 {
			t.Fatalf("seed %d: no summary", seed)
		}
	}
}
