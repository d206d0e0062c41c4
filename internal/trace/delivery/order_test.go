package delivery

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
)

// TestOrder compares with the definition: committed is the last mark before the first
// batch that is not delivered.
func TestOrder(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		var o order
		type entry struct { // a mark, or a batch
			item *item
			mark mark
		}
		var all []entry
		var open []*item
		next := uint64(0)
		for range 200 {
			next++
			m := mark{through: journal.Position{Seq: next}}
			switch r.IntN(4) {
			case 0:
				i := &item{mark: m, marked: r.IntN(3) > 0, recorded: time.Unix(int64(next), 0)}
				o.add(i)
				all = append(all, entry{item: i, mark: m})
				if !i.marked {
					all[len(all)-1].mark = mark{}
				}
				open = append(open, i)
			case 1:
				o.reach(m, time.Now())
				all = append(all, entry{mark: m})
			default:
				if len(open) > 0 {
					n := r.IntN(len(open))
					o.finish(open[n])
					open = append(open[:n], open[n+1:]...)
				}
			}
			var want mark
			for _, e := range all {
				if e.item != nil && !e.item.done {
					break
				}
				if e.mark != (mark{}) {
					want = e.mark
				}
			}
			if got := o.committed(); got != want {
				t.Fatalf("seed %d, step %d: %v, want %v", seed, next, got.through.Seq, want.through.Seq)
			}
		}
	}
}
