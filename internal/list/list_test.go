package list_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tocsin-events/tocsin/internal/list"
)

type entry struct {
	name  string
	place list.Links[entry]
	other list.Links[entry]
}

// names reads a list in both directions.
func names(t *testing.T, l *list.List[entry]) (all []string) {
	t.Helper()
	for e := l.First(); e != nil; e = e.place.Next() {
		all = append(all, e.name)
	}
	var back []string
	for e := l.Last(); e != nil; e = e.place.Prev() {
		back = append(back, e.name)
	}
	if slices.Reverse(back); !slices.Equal(all, back) {
		t.Fatalf("forwards %q, backwards %q", all, back)
	}
	return all
}

// A list is a slice from which one removes what is at hand.
func TestAgainstSlice(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var l list.List[entry]
	var model, free []*entry
	for i := range 30 {
		free = append(free, &entry{name: fmt.Sprint(i)})
	}
	for range 5000 {
		if len(free) > 0 && (len(model) == 0 || r.IntN(2) == 0) {
			e := free[len(free)-1]
			free = free[:len(free)-1]
			if r.IntN(2) == 0 {
				l.PushFront(e, &e.place)
				model = slices.Insert(model, 0, e)
			} else {
				l.PushBack(e, &e.place)
				model = append(model, e)
			}
		} else {
			i := r.IntN(len(model))
			e := model[i]
			l.Remove(&e.place)
			if e.place.Next() != nil || e.place.Prev() != nil {
				t.Fatal("an element that was removed leads to others")
			}
			model = slices.Delete(model, i, i+1)
			free = append(free, e)
		}
		var want []string
		for _, e := range model {
			want = append(want, e.name)
		}
		if got := names(t, &l); !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	}
}

// An element may be in two lists, and its other parts may be written anew.
func TestTwoLists(t *testing.T) {
	t.Parallel()
	var one, two list.List[entry]
	a, b := &entry{name: "a"}, &entry{name: "b"}
	one.PushBack(a, &a.place)
	one.PushBack(b, &b.place)
	two.PushBack(b, &b.other)
	two.PushBack(a, &a.other)
	*a = entry{name: "c", place: a.place, other: a.other}
	one.Remove(&b.place)
	if got := names(t, &one); !slices.Equal(got, []string{"c"}) || two.First() != b || two.Last() != a || b.other.Next() != a {
		t.Errorf("%q, %v, %v", got, two.First(), two.Last())
	}
}

// Nothing is allocated, whatever an element is.
func TestNoAllocation(t *testing.T) {
	var l list.List[entry]
	a, b := new(entry), new(entry)
	l.PushBack(a, &a.place)
	l.PushBack(b, &b.place)
	if n := testing.AllocsPerRun(100, func() {
		e := l.First()
		l.Remove(&e.place)
		l.PushBack(e, &e.place)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func Example() {
	type session struct {
		user string
		used list.Links[session] // in the order of use
	}
	var byUse list.List[session]
	for _, user := range []string{"alice", "bob", "carol"} {
		s := &session{user: user}
		byUse.PushBack(s, &s.used)
	}
	alice := byUse.First()
	byUse.Remove(&alice.used) // she was here again
	byUse.PushBack(alice, &alice.used)
	for s := byUse.First(); s != nil; s = s.used.Next() {
		fmt.Println(s.user)
	}
	// Output:
	// bob
	// carol
	// alice
}
