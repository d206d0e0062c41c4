package hub

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/tocsin-events/tocsin/internal/journal"
)

func TestGateServesBothEndsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		if err := g.enter(t.Context(), journal.Position{Seq: 99}); err != nil {
			t.Fatal(err)
		}
		var served []uint64
		for _, seq := range []uint64{5, 2, 9, 7, 4} {
			go func() {
				if err := g.enter(t.Context(), journal.Position{Seq: seq}); err != nil {
					t.Error(err)
				}
				served = append(served, seq)
				g.leave()
			}()
		}
		canceled, cancel := context.WithCancel(t.Context())
		go func() {
			if err := g.enter(canceled, journal.Position{Seq: 1}); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}()
		synctest.Wait()
		cancel()
		synctest.Wait()
		if len(served) != 0 {
			t.Fatalf("served %v beside the one inside", served)
		}
		g.leave()
		synctest.Wait()
		if want := []uint64{2, 9, 4, 7, 5}; !slices.Equal(served, want) {
			t.Errorf("served %v, want %v", served, want)
		}
		if g.free != 1 || len(g.waiting) != 0 {
			t.Errorf("free %d, waiting %d", g.free, len(g.waiting))
		}
	})
}
