package window

import (
	"fmt"
	"testing"
	"time"

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
