package match

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// builder returns a Builder with these rules.
func builder(t *testing.T, requests *field.Requests, conditions ...string) *Builder {
	t.Helper()
	b := NewBuilder(requests)
	for _, c := range conditions {
		e, err := parse(c)
		if err == nil {
			_, err = b.Add(e)
		}
		if err != nil {
			t.Fatalf("%.200s: %v", c, err)
		}
	}
	return b
}

// numbered returns a list of items.
func numbered(n int, format string) string {
	var items []string
	for i := range n {
		items = append(items, fmt.Sprintf(format, i))
	}
	return "(" + strings.Join(items, ", ") + ")"
}

// All of no values are in any set, and a list may be written without any.
func TestListsWithoutItems(t *testing.T) {
	t.Parallel()
	for _, c := range []string{`basename(()) in (a)`, `tolower(toupper(())) in ("", b)`, `getopt((), "a:") in (a)`, `not basename(()) intersects (a)`} {
		if !fits(t, c, nil) {
			t.Errorf("%s does not hold", c)
		}
	}
}

// A macro with a long list is compiled once, however many rules have it.
func TestLongListsAreCompiledOnce(t *testing.T) {
	macro, err := parse("t.s1 in " + numbered(5000, "x%d"))
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(field.NewRequests(randomFields))
	if _, err := b.Add(macro); err != nil {
		t.Fatal(err)
	}
	n := 0
	allocations := testing.AllocsPerRun(10, func() {
		n++
		other, err := parse(fmt.Sprintf("t.n1 = %d", n))
		if err == nil {
			_, err = b.Add(&condition.And{Terms: []condition.Expr{other, macro}})
		}
		if err != nil {
			t.Error(err)
		}
	})
	if allocations > 200 {
		t.Errorf("%.0f allocations for another rule", allocations)
	}
}

// The warnings about such a list are told for each rule.
func TestWarningsOfLongLists(t *testing.T) {
	t.Parallel()
	macro, err := parse("t.s1 in (t.s2, " + numbered(100, "x%d")[1:])
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(field.NewRequests(randomFields))
	for range 2 {
		if warnings, err := b.Add(macro); err != nil || len(warnings) != 1 {
			t.Errorf("%v, %v", warnings, err)
		}
	}
}

// Texts with dots may be fields; to find out that they are not is little work.
func TestDottedItems(t *testing.T) {
	allocations := func(items string) float64 {
		e, err := parse("t.s1 in " + items)
		if err != nil {
			t.Fatal(err)
		}
		return testing.AllocsPerRun(3, func() {
			if _, err := NewBuilder(field.NewRequests(randomFields)).Add(e); err != nil {
				t.Error(err)
			}
		})
	}
	plain, dotted := allocations(numbered(1000, "h%d-example-org")), allocations(numbered(1000, "h%d.example.org"))
	if dotted > plain+200 {
		t.Errorf("%.0f allocations for items with dots, %.0f for those without", dotted, plain)
	}
}

// Tables of all searches are bounded together, and no rule loses an event by that.
func TestTablesAreBounded(t *testing.T) {
	t.Parallel()
	requests := field.NewRequests(randomFields)
	var conditions []string
	for i := range 40 {
		var terms []string
		for j := range 80 {
			terms = append(terms, fmt.Sprintf(`t.key[k%d] contains "%s%c%c"`, i, strings.Repeat(string(rune('0'+j)), 200), rune('0'+j), rune(0x4e00+i*80+j)))
		}
		conditions = append(conditions, strings.ReplaceAll(strings.Join(terms, " or "), `\`, `\\`))
	}
	m := builder(t, requests, conditions...).Build()
	transitions := 0
	for i := range m.indexes {
		for _, s := range m.indexes[i].searches {
			transitions += len(s.automaton.next)
		}
	}
	if transitions > maxTables || transitions < maxTables/2 {
		t.Errorf("%d transitions", transitions)
	}
	row := make(map[string][]field.Element)
	for i := range 40 {
		row[fmt.Sprintf("t.key[k%d]", i)] = texts(strings.Repeat("3", 201) + string(rune(0x4e00+i*80+3)))
	}
	s := m.NewState()
	s.Start(&mapRow{requests, row})
	if got := all(s); len(got) != 40 {
		t.Errorf("%d rules fit", len(got))
	}
}

// The atoms of all rules are bounded together, and no rule loses an event by that.
func TestGuardsAreBounded(t *testing.T) {
	t.Parallel()
	requests := field.NewRequests(randomFields)
	e, err := parse("t.s1 in " + numbered(5000, "x%d"))
	if err != nil {
		t.Fatal(err)
	}
	b := builder(t, requests, "t.s1 in "+numbered(16000, "other%d"))
	for i := range 1000 {
		other, _ := parse(fmt.Sprintf("t.s2 != x%d", i))
		if _, err := b.Add(&condition.And{Terms: []condition.Expr{e, other}}); err != nil {
			t.Fatal(err)
		}
	}
	m := b.Build()
	placed := 0
	for i := range m.indexes {
		for _, h := range m.indexes[i].texts {
			placed += len(h.rules)
			for _, word := range h.set {
				placed += bits.OnesCount64(word)
			}
		}
	}
	if placed > maxPlaced {
		t.Errorf("%d places of rules in indexes", placed)
	}
	s := m.NewState()
	s.Start(&mapRow{requests, map[string][]field.Element{"t.s1": texts("x4999"), "t.s2": texts("x7")}})
	var want []int // all but the first rule and the one about x7
	for i := range 1000 {
		want = append(want, 1+i)
	}
	if got := all(s); !slices.Equal(got, slices.DeleteFunc(slices.Clone(want), func(n int) bool { return n == 8 })) {
		t.Errorf("%d rules fit", len(got))
	}
}

// A text in which others are found again and again is read once.
func TestFindingIsBounded(t *testing.T) {
	t.Parallel()
	var parts []string
	for n := range 200 {
		parts = append(parts, strings.Repeat("a", n+1))
	}
	const size = 10_000
	calls, got := 0, make(map[int32]bool)
	newAutomaton(parts, false, false, maxTable).find(strings.Repeat("a", size), func(n int32) bool {
		calls++
		isNew := !got[n]
		got[n] = true
		return isNew
	})
	if calls > 2*size || len(got) != len(parts) {
		t.Errorf("%d calls for %d texts", calls, len(got))
	}
}

func TestRegexesAreBounded(t *testing.T) {
	t.Parallel()
	if err := compileError(`t.s1 regex "` + strings.Repeat("[ab]{1000}", 25) + `"`); err == nil || !strings.Contains(err.Error(), "pattern too large") {
		t.Errorf("a large pattern: %v", err)
	}
	b := NewBuilder(field.NewRequests(randomFields))
	add := func(i int) error {
		e, err := parse(fmt.Sprintf(`t.s1 regex "%s%d"`, strings.Repeat("a{1000}", 15), i))
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Add(e)
		return err
	}
	n := 0
	for ; n < 1000; n++ {
		if err := add(n); err != nil {
			if !strings.Contains(err.Error(), "all patterns together") {
				t.Error(err)
			}
			break
		}
		if err := add(n); err != nil {
			t.Errorf("the same pattern again: %v", err)
		}
	}
	if n < maxRegexes/15_100 || n > maxRegexes/15_000 {
		t.Errorf("%d patterns", n)
	}
}

// What a State made of an event does not keep that in memory.
func TestStatesKeepNothingOfEvents(t *testing.T) {
	t.Parallel()
	requests := field.NewRequests(randomFields)
	m := builder(t, requests,
		"basename(t.s1) = x and t.s1 exists", `tolower(t.ls1) intersects (a)`, `getopt(t.ls1, "a:") in (b)`, `concat(t.s1, t.s1) = x`, `b64(t.ls1) exists`).Build()
	s := m.NewState()
	list := make([]field.Element, 5*maxOwn)
	for i := range list {
		list[i].Text = "abcd"
	}
	s.Start(&mapRow{requests, map[string][]field.Element{"t.s1": texts(strings.Repeat("A", maxArena)), "t.ls1": list}})
	all(s)
	s.Start(&mapRow{requests, nil})
	if len(s.values.made) > 0 || cap(s.values.arena) > maxArena {
		t.Error("something made is kept")
	}
	for i := range s.values.cache {
		v := &s.values.cache[i]
		if cap(v.own) > maxOwn {
			t.Errorf("operand %d keeps room for %d elements", i, cap(v.own))
		}
		for _, e := range v.own[:cap(v.own)] {
			if e.Text != "" {
				t.Errorf("operand %d keeps %.10q", i, e.Text)
			}
		}
	}
}

// Sets of networks and of paths are asked for all of their items at once.
func TestLargeSets(t *testing.T) {
	t.Parallel()
	networks := "(" + strings.Trim(numbered(200, "10.%d.0.0/16"), "()") + ", " + strings.Trim(numbered(200, "2001:db8:%d::/48"), "()") + ", 192.168.7.0/24)"
	paths := "(" + strings.Trim(numbered(2000, "/a/b%d"), "()") + `, "/x/*/z", "/x/y?", "/a/[c]")`
	for _, x := range []struct {
		name, condition string
		typ             sourceplugin.FieldType
		value           string
		want            bool
	}{
		{"t.net", "t.net in " + networks, sourceplugin.IPNet, "10.199.1.2/32", true},
		{"t.net", "t.net in " + networks, sourceplugin.IPNet, "10.200.1.2/32", false},
		{"t.net", "t.net in " + networks, sourceplugin.IPNet, "192.168.7.255/24", true},
		{"t.net", "t.net in " + networks, sourceplugin.IPNet, "2001:db8:199::1/128", true},
		{"t.net", "t.net in " + networks, sourceplugin.IPNet, "::ffff:10.0.0.1/128", false},
		{"t.net", "t.net in " + networks, sourceplugin.IPNet, "fe80::1%eth0/64", false},
		{"t.net", "t.net in " + networks, sourceplugin.IPNet, "none", false},
		{"t.s1", "t.s1 pmatch " + paths, sourceplugin.String, "/a/b1999/c", true},
		{"t.s1", "t.s1 pmatch " + paths, sourceplugin.String, "/a/b2000", false},
		{"t.s1", "t.s1 pmatch " + paths, sourceplugin.String, "/a", false},
		{"t.s1", "t.s1 pmatch " + paths, sourceplugin.String, "a//c/", true},
		{"t.s1", "t.s1 pmatch " + paths, sourceplugin.String, "/x/anything/z", true},
		{"t.s1", "t.s1 pmatch " + paths, sourceplugin.String, "/x/yy/w", true},
		{"t.s1", "t.s1 pmatch " + paths, sourceplugin.String, "/x/yyy/w", false},
	} {
		if got := fits(t, x.condition, map[string][]field.Element{x.name: texts(x.value)}); got != x.want {
			t.Errorf("%s: %v", x.value, got)
		}
	}
}
