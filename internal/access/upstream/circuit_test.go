package upstream

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c circuit
		enter := func(want bool) (leave func(outcome) transition) {
			t.Helper()
			leave, ok := c.enter()
			if ok != want {
				t.Fatalf("may ask: %v, want %v", ok, want)
			}
			return leave
		}
		first, second, third := enter(true), enter(true), enter(true)
		if got := first(silent); !got.failed {
			t.Fatalf("got %+v, want failed", got)
		}
		if got := second(silent); got != (transition{}) {
			t.Fatalf("got %+v, want nothing new", got)
		}
		enter(false)
		time.Sleep(pause - time.Nanosecond)
		enter(false)
		time.Sleep(time.Nanosecond)

		probe := enter(true) // one,
		enter(false)         // and no other
		time.Sleep(10 * pause)
		enter(false)
		if got := probe(silent); got != (transition{}) {
			t.Fatalf("got %+v, want nothing new", got)
		}
		enter(false)
		time.Sleep(pause)

		probe = enter(true)
		probe(unknown) // went away without an answer: the next one tries
		probe = enter(true)
		want := transition{recovered: true, after: 12 * pause, refused: 5}
		if got := probe(answered); got != want {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		enter(true)(answered)
		if got := third(answered); got != (transition{}) {
			t.Fatalf("got %+v, want nothing new", got)
		}

		// An answer to somebody who asked before closes the circuit as well.
		late := enter(true)
		enter(true)(silent)
		enter(false)
		if got := late(answered); !got.recovered || got.refused != 1 {
			t.Fatalf("got %+v, want recovered", got)
		}
		enter(true)(answered)
	})
}
