package deliver

import (
	"context"
	"math"
	"slices"
	"testing"
)

// ids are dead letters of which only the ids are asked for.
type ids struct {
	DeadLetters
	all   []uint64
	calls int
}

func (s *ids) List(_ context.Context, after uint64, limit int) (letters []DeadLetter, err error) {
	s.calls++
	i, _ := slices.BinarySearch(s.all, after+1)
	for ; i < len(s.all) && after < math.MaxUint64 && len(letters) < limit; i++ {
		letters = append(letters, DeadLetter{ID: s.all[i]})
	}
	return letters, nil
}

// TestNewest: the newest dead letter is found with few calls, however many there are, and
// whatever is missing between them.
func TestNewest(t *testing.T) {
	check := func(all ...uint64) {
		t.Helper()
		s := &ids{all: all}
		want := uint64(0)
		if len(all) > 0 {
			want = all[len(all)-1]
		}
		if got, err := newest(t.Context(), s); got != want || err != nil {
			t.Fatalf("%d, %v; want %d", got, err, want)
		}
		if s.calls > 130 {
			t.Errorf("%d calls for %d dead letters up to %d", s.calls, len(all), want)
		}
	}
	check()
	check(1)
	check(math.MaxUint64 - 1)
	check(1, 1<<40)
	check(1, 2, 3, 1<<62, math.MaxUint64)
	var dense, sparse []uint64
	for n := range uint64(3000) {
		dense, sparse = append(dense, n+1), append(sparse, n*n+17)
		check(dense...)
		check(sparse...)
		check(dense[n/2:]...) // the older ones were removed
	}
}
