package plugin

import (
	"math"
	"testing"

	"github.com/google/uuid"
)

func TestIdentity(t *testing.T) {
	seen := make(map[string]bool)
	for _, stream := range [][2]string{{"plugin://a", "1"}, {"plugin://a", "2"}, {"plugin://b", "1"}} {
		n := newIdentity(stream[0], stream[1])
		again := newIdentity(stream[0], stream[1])
		numbers := []uint64{math.MaxUint64}
		for i := range 64 {
			numbers = append(numbers, 1<<i)
		}
		for i := range uint64(3 * idChunk) {
			numbers = append(numbers, 3+5*i)
		}
		distinct := make(map[uint64]bool)
		for _, number := range numbers {
			if distinct[number] {
				continue
			}
			distinct[number] = true
			for _, sum := range []uint32{0, 1, 1 << 31, math.MaxUint32} {
				id := n.id(number, sum)
				u, err := uuid.Parse(id)
				if err != nil || u.String() != id || u.Version() != 8 || u.Variant() != uuid.RFC4122 {
					t.Fatalf("%q: %v, version %d, variant %v", id, err, u.Version(), u.Variant())
				}
				if seen[id] {
					t.Fatalf("%d, %d: %s once more", number, sum, id)
				}
				seen[id] = true
				if other := again.id(number, sum); other != id {
					t.Fatalf("%d, %d: %s and %s", number, sum, id, other)
				}
			}
		}
	}
}

// Ids are for ever: what a plugin repeats after an update of the hub is recognised.
func TestIdentityStays(t *testing.T) {
	if id := newIdentity("plugin://audit", "0198c0de-0000-7000-8000-000000000000").id(123_456_789, 0xdeadbeef); id != "5f1e9bb4-ed0b-846c-850c-0a4df20bb58e" {
		t.Error(id)
	}
}
