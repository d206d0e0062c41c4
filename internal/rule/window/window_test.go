package window

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/load"
)

var start = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

func newState(t testing.TB, l Limits, specs ...Spec) *State {
	t.Helper()
	s, err := New(specs, l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(n int, id string) Event {
	tm := start.Add(time.Duration(n) * time.Second)
	return Event{ID: id, Time: tm, Recorded: tm}
}

func TestCount(t *testing.T) {
	t.Parallel()
	s := newState(t, Limits{}, Spec{Name: "r", Window: &load.Window{Within: 10 * time.Second, Count: 3}})
	var fired []string
	for i, sec := range []int{0, 1, 20, 25, 30, 31, 32, 33, 34} {
		if g, ok := s.Window(0, at(sec, fmt.Sprint("e", i)), Input{By: []string{"a"}}); ok {
			fired = append(fired, fmt.Sprint(g.Count, g.IDs))
		}
	}
	if got, want := fmt.Sprint(fired), "[3 [e2 e3 e4] 3 [e5 e6 e7]]"; got != want {
		t.Fatalf("alerts %s, want %s", got, want)
	}
}

func TestManyIDs(t *testing.T) {
	t.Parallel()
	s := newState(t, Limits{}, Spec{Name: "r", Window: &load.Window{Within: time.Hour, Count: 100}})
	for i := range 100 {
		g, ok := s.Window(0, at(i, fmt.Sprint(i)), Input{})
		if ok != (i == 99) {
			t.Fatalf("event %d: alert %t", i, ok)
		}
		if ok && (g.Count != 100 || len(g.IDs) != MaxIDs || g.IDs[9] != "9" || g.IDs[10] != "90" || g.Last.Sub(g.First) != 99*time.Second) {
			t.Fatalf("%+v", g)
		}
	}
}

// A time that cannot be is not believed, and does not make what comes after it late.
func TestTimesFromTheFuture(t *testing.T) {
	t.Parallel()
	s := newState(t, Limits{}, Spec{Name: "r", Window: &load.Window{Within: 10 * time.Second, Count: 3}})
	e := at(1, "b")
	e.Time = e.Time.AddDate(100, 0, 0)
	fired := false
	for _, e := range []Event{at(0, "a"), e, at(2, "c")} {
		_, fired = s.Window(0, e, Input{})
	}
	if st := s.Stats(); !fired || st.Skewed != 1 || st.Late != 0 {
		t.Fatalf("alert %t, %+v", fired, st)
	}
	for _, tm := range []time.Time{{}, start.AddDate(5000, 0, 0), start.AddDate(-2026, 0, 0)} {
		s.Window(0, Event{ID: "x", Time: tm}, Input{By: []string{"odd"}}) // and no panic
	}
}

// What is stored late counts at its time; what is too old for its window is counted as late.
func TestLate(t *testing.T) {
	t.Parallel()
	s := newState(t, Limits{}, Spec{Name: "r", Window: &load.Window{Within: 10 * time.Second, Count: 3}})
	e := at(100, "late")
	e.Time = start
	for _, e := range []Event{at(98, "a"), e, at(99, "b")} {
		if _, ok := s.Window(0, e, Input{}); ok {
			t.Fatal("an alert with an event from outside of the window")
		}
	}
	if st := s.Stats(); st.Late != 1 {
		t.Fatalf("%+v", st)
	}
	// An old log that is imported beside: its own keys work.
	fired := false
	for i := range 3 {
		e := at(100+i, fmt.Sprint(i))
		e.Time = start.AddDate(0, -6, 0).Add(time.Duration(i) * time.Second)
		_, fired = s.Window(0, e, Input{By: []string{"other"}})
	}
	if !fired {
		t.Fatal("no alert about imported events")
	}
}

// Keys that nothing happens to go, without a flood.
func TestIdleKeysGo(t *testing.T) {
	t.Parallel()
	s := newState(t, Limits{}, Spec{Name: "r", Window: &load.Window{Within: time.Minute, Count: 3}})
	for i := range 1000 {
		s.Window(0, at(i, "x"), Input{By: []string{fmt.Sprint(i)}})
	}
	if n := s.Stats().Keys; n != 1000 {
		t.Fatalf("%d keys", n)
	}
	s.Window(0, at(1000+60+3600, "x"), Input{By: []string{"last"}})
	if st := s.Stats(); st.Keys != 1 || st.Evicted != 0 {
		t.Fatalf("%+v", st)
	}
}

// A clock that was ahead for a while, by years, does not keep throttles and windows from telling
// what happens after it was set back.
func TestClockIsSetBack(t *testing.T) {
	t.Parallel()
	step := &condition.Macro{}
	specs := []Spec{
		{Name: "throttle", Throttle: &load.Throttle{Every: time.Minute}},
		{Name: "count", Window: &load.Window{Within: 10 * time.Second, Count: 2}},
		{Name: "then", Window: &load.Window{Within: 10 * time.Second, Then: []condition.Expr{step}}},
		{Name: "new", Window: &load.Window{Within: time.Hour, New: []string{"a.c"}}},
		{Name: "idle", Window: &load.Window{Within: time.Second, Count: 2}},
	}
	s := newState(t, Limits{}, specs...)
	ahead := 10 * 365 * 24 * 3600
	restored := func() {
		data := s.Snapshot()
		s = newState(t, Limits{}, specs...)
		if lost, err := s.Restore(data); err != nil || lost != nil {
			t.Fatal(lost, err)
		}
		checkBytes(t, s)
	}
	s.Throttle(0, at(ahead, "a"), nil)
	s.Throttle(0, at(ahead+1, "held"), nil)
	s.Window(1, at(ahead, "a"), Input{})
	for i := range maxChains + 1 { // none is of use beside another
		s.Window(2, Event{ID: "a", Time: start.Add(time.Duration(ahead-i) * time.Second), Recorded: at(ahead, "").Recorded}, Input{Steps: 1})
	}
	s.Window(3, at(ahead, "a"), Input{Values: []string{"x"}})
	s.Window(4, at(ahead, "a"), Input{By: []string{"only once"}})
	restored()

	if h, ok := s.Throttle(0, at(0, "b"), nil); !ok || h.Count != 1 {
		t.Errorf("throttle: alert %t, %+v", ok, h)
	}
	if _, ok := s.Throttle(0, at(1, "c"), nil); ok {
		t.Error("the throttle holds nothing back any more")
	}
	restored()
	// An event that fits no rule is enough to know it.
	s.Throttle(0, at(ahead, "d"), nil)
	s.Throttle(0, at(ahead+1, "held"), nil)
	if s.Stored(start.Add(time.Duration(ahead-30)*time.Second)) || !s.Stored(start.Add(2*time.Second)) {
		t.Error("it is not noticed that the clock was set back, or too soon")
	}
	if due, ok := s.Due(); !ok || due.After(start.Add(3*time.Minute)) {
		t.Errorf("a summary is due at %v", due)
	}
	told := 0
	if err := s.Advance(start.Add(3*time.Minute), func(Summary) error { told++; return nil }); err != nil || told != 1 {
		t.Errorf("%d summaries, %v", told, err)
	}
	s.Window(1, at(2, "b"), Input{})
	if g, ok := s.Window(1, at(3, "c"), Input{}); !ok || fmt.Sprint(g.IDs) != "[b c]" {
		t.Errorf("count: alert %t, %v", ok, g.IDs)
	}
	s.Window(2, at(2, "b"), Input{Steps: 1})
	if g, ok := s.Window(2, at(3, "c"), Input{Steps: 2}); !ok || fmt.Sprint(g.IDs) != "[b c]" {
		t.Errorf("sequence: alert %t, %v", ok, g.IDs)
	}
	s.Window(3, at(2, "b"), Input{Values: []string{"x"}})
	if _, ok := s.Window(3, at(3, "c"), Input{Values: []string{"y"}}); !ok {
		t.Error("what is new is not told")
	}
	s.Window(4, at(4, "b"), Input{By: []string{"another"}})
	s.Window(4, at(4+2*3600, "c"), Input{By: []string{"a third"}})
	if n := s.RuleStats(4).Keys; n != 1 {
		t.Errorf("%d keys are kept, want the last one only", n)
	}
	restored()
}

// A flood of keys, with the largest ids and values, stays in its bounds, and does not push out the
// few keys of another rule.
func TestFlood(t *testing.T) {
	step := &condition.Macro{}
	limits := Limits{KeysPerRule: 3000, Keys: 5000, Bytes: 4 << 20}
	specs := []Spec{
		{Name: "quiet", Window: &load.Window{Within: time.Hour, Count: 3}},
		{Name: "count", Window: &load.Window{Within: time.Hour, Count: 10_000}, Throttle: &load.Throttle{Every: time.Hour, By: []string{"x.y"}}},
		{Name: "new", Window: &load.Window{Within: time.Hour, New: []string{"x.y"}}},
		{Name: "then", Window: &load.Window{Within: time.Hour, Then: []condition.Expr{step, step}}},
	}
	s := newState(t, limits, specs...)
	s.Window(0, at(0, "q1"), Input{By: []string{"q"}})
	s.Window(0, at(0, "q2"), Input{By: []string{"q"}})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	long := strings.Repeat("i", 3000)
	const events = 60_000
	summaries := 0
	for i := range events {
		e := at(i/100, fmt.Sprint(i, long))
		if err := s.Advance(e.Recorded, func(Summary) error { summaries++; return nil }); err != nil {
			t.Fatal(err)
		}
		in := Input{By: []string{fmt.Sprint(i % 20_000)}, Values: []string{fmt.Sprint(i)}, Steps: uint32(1 + i%7)}
		if i%3 == 0 {
			in.By[0] = "one" // a key with ever more in it
		}
		for rule := 1; rule < 4; rule++ {
			s.Window(rule, e, in)
		}
		s.Throttle(1, e, []string{fmt.Sprint(i%7000, long)})
		s.Throttle(1, e, []string{fmt.Sprint(i%7000, long)})
		st := s.Stats()
		if st.Keys > limits.Keys || st.Bytes > limits.Bytes {
			t.Fatalf("event %d: %+v", i, st)
		}
		for rule := range specs {
			r := s.rules[rule]
			if len(r.windows.byKey) > limits.KeysPerRule || len(r.throttles.byKey) > limits.KeysPerRule {
				t.Fatalf("event %d: rule %d has too many keys", i, rule)
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	st := s.Stats()
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2*int64(limits.Bytes) {
		t.Fatalf("%d bytes more on the heap, %d by the state's account", grown, st.Bytes)
	}
	if st.Evicted < 1000 || summaries == 0 {
		t.Fatalf("%+v, %d summaries", st, summaries)
	}
	checkBytes(t, s)
	if _, ok := s.Window(0, at(events/100, "q3"), Input{By: []string{"q"}}); !ok {
		t.Fatal("the flood of other rules pushed out a key of this one")
	}
	if n := len(s.Snapshot()); n > 2*limits.Bytes {
		t.Fatalf("a snapshot of %d bytes", n)
	}
}

// One key may be more than all that is allowed.
func TestOneKeyIsTooMuch(t *testing.T) {
	t.Parallel()
	s := newState(t, Limits{Bytes: 10_000}, Spec{Name: "r", Window: &load.Window{Within: time.Hour, Count: 1000}})
	fired := false
	for i := range 1000 {
		_, fired = s.Window(0, at(i, fmt.Sprint(i)), Input{})
	}
	if !fired {
		t.Fatal("the only key was forgotten")
	}
	checkBytes(t, s)
}

// Rules that change start anew, others go on.
func TestRestoreAfterAChange(t *testing.T) {
	t.Parallel()
	two := func() []Spec {
		return []Spec{
			{Name: "a", Window: &load.Window{Within: time.Hour, Count: 2}},
			{Name: "b", Window: &load.Window{Within: time.Hour, Count: 2}, Throttle: &load.Throttle{Every: time.Hour}},
		}
	}
	old := newState(t, Limits{}, two()...)
	for i := range 2 {
		old.Window(i, at(0, "x"), Input{})
	}
	old.Throttle(1, at(0, "y"), nil)
	specs := two()
	specs[0].Window.Count = 3
	slices.Reverse(specs)
	specs = append(specs, Spec{Name: "c", Window: &load.Window{Within: time.Hour, Count: 2}})
	s := newState(t, Limits{}, specs...)
	lost, err := s.Restore(old.Snapshot())
	if err != nil || !slices.Equal(lost, []Lost{{Name: "a"}}) {
		t.Fatal(lost, err)
	}
	if _, ok := s.Window(0, at(1, "y"), Input{}); !ok {
		t.Fatal("b has forgotten")
	}
	if _, ok := s.Throttle(0, at(1, "y"), nil); ok {
		t.Fatal("the throttle of b has forgotten")
	}
	if _, ok := s.Window(1, at(1, "y"), Input{}); ok {
		t.Fatal("a remembers what had another meaning")
	}
}

func TestRefusedSnapshots(t *testing.T) {
	t.Parallel()
	spec := Spec{Name: "a", Window: &load.Window{Within: time.Hour, Count: 3}}
	s := newState(t, Limits{}, spec)
	s.Window(0, at(0, "x"), Input{})
	good := s.Snapshot()
	for i := range good {
		if i > 0 {
			bad := slices.Clone(good)
			bad[i] ^= 1
			if _, err := s.Restore(bad); !errors.Is(err, ErrDamaged) {
				t.Fatalf("byte %d changed: %v", i, err)
			}
		}
		if _, err := s.Restore(good[:i]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	later := slices.Clone(good)
	later[0] = 9
	if _, err := s.Restore(later); err == nil || !strings.Contains(err.Error(), "version 9") {
		t.Fatal(err)
	}
	if string(s.Snapshot()) != string(good) {
		t.Fatal("a refused snapshot has changed something")
	}
}

func TestRefusedSpecs(t *testing.T) {
	t.Parallel()
	for want, spec := range map[string]Spec{
		"more than 0": {Window: &load.Window{Count: 3}},
		"counts, or":  {Window: &load.Window{Within: 1}},
		"what is new": {Window: &load.Window{Within: 1, Count: 1, New: []string{"a"}}},
		"a count of":  {Window: &load.Window{Within: 1, New: []string{"a"}, Distinct: "b"}},
		"to 10000":    {Window: &load.Window{Within: 1, Count: 1e6}},
		"at most 16":  {Window: &load.Window{Within: 1, Then: make([]condition.Expr, 17)}},
		"16 fields":   {Window: &load.Window{Within: 1, Count: 1, By: make([]string, 17)}},
		"a throttle":  {Throttle: &load.Throttle{}},
	} {
		if _, err := New([]Spec{spec}, Limits{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", spec, err, want)
		}
	}
}

// FuzzRestore: whatever is read, there is no panic, and what is accepted is a state that works and
// that can be saved and read again.
func FuzzRestore(f *testing.F) {
	var specs []Spec
	for name, w := range windows() {
		specs = append(specs, Spec{Name: name, Window: w, Throttle: &load.Throttle{Every: time.Minute, By: []string{"a.b"}}})
	}
	slices.SortFunc(specs, func(a, b Spec) int { return strings.Compare(a.Name, b.Name) })
	fill := func(s *State, n int) {
		for i := range n {
			for r := range specs {
				e := at(i, fmt.Sprint(i))
				s.Window(r, e, Input{By: []string{fmt.Sprint(i % 2)}, Values: []string{fmt.Sprint(i % 5)}, Steps: uint32(i % 8)})
				s.Throttle(r, e, []string{fmt.Sprint(i % 3)})
			}
		}
	}
	limits := Limits{KeysPerRule: 10, Keys: 50, Bytes: 100_000}
	for _, n := range []int{0, 1, 5, 50} {
		s := newState(f, limits, specs...)
		fill(s, n)
		data := s.Snapshot()
		f.Add(data[:len(data)-4])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newState(t, limits, specs...)
		if _, err := s.Restore(sealed(data)); err != nil {
			return
		}
		checkBytes(t, s)
		again := newState(t, limits, specs...)
		if _, err := again.Restore(s.Snapshot()); err != nil {
			t.Fatalf("what was accepted is refused when it is saved: %v", err)
		}
		fill(s, 20)
		if err := s.Advance(start.AddDate(1, 0, 0), func(Summary) error { return nil }); err != nil {
			t.Fatal(err)
		}
		checkBytes(t, s)
	})
}

func BenchmarkCount(b *testing.B) {
	s := newState(b, Limits{}, Spec{Name: "r", Window: &load.Window{Within: time.Minute, Count: 100}})
	keys := make([][]string, 50_000)
	for i := range keys {
		keys[i] = []string{fmt.Sprint("client-", i)}
	}
	e := at(0, "0195f3b0-0000-7000-8000-000000000000")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e.Time = e.Time.Add(time.Millisecond)
		e.Recorded = e.Time
		s.Window(0, e, Input{By: keys[i%len(keys)]})
	}
}
