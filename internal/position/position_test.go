package position

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

func TestOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	small := func() uint64 { return 1 + r.Uint64N(3)<<r.IntN(60) }
	positions := []Position{{}, {1, 0, 0}, {1, BetweenRecords, 5}, {math.MaxUint64, math.MaxUint32, math.MaxUint64}}
	for range 200 {
		positions = append(positions, Position{small(), uint32(small()), small()})
	}
	for _, p := range positions {
		var b [positionBytes]byte
		binary.BigEndian.PutUint64(b[0:], p.Seq)
		binary.BigEndian.PutUint32(b[8:], p.Index)
		binary.BigEndian.PutUint64(b[12:], p.Ordinal)
		if want := positionEncoding.EncodeToString(b[:]); !p.IsZero() && p.String() != want {
			t.Fatalf("%v is %q, want %q", p, p, want)
		}
		back, err := Parse(p.String())
		if err != nil || back != p {
			t.Fatalf("%v: parsed %v, %v", p, back, err)
		}
		for _, q := range positions {
			if got, want := cmp.Compare(p.String(), q.String()), p.Compare(q); got != want {
				t.Fatalf("strings of %v and %v compare as %d, positions as %d", p, q, got, want)
			}
		}
	}
}

func TestParseBad(t *testing.T) {
	good := Position{1, 2, 3}.String()
	for _, s := range []string{"x", good[1:], good + "0", "Z" + good[1:], "00000000000000000000000000000000", " " + good[1:], good[:31] + "w"} {
		if p, err := Parse(s); err == nil {
			t.Errorf("%q: parsed as %v", s, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("")
	f.Add(Position{1, 2, 3}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := Parse(s); err == nil && p.String() != s {
			t.Errorf("%q parsed as %v, whose text is %q", s, p, p)
		}
	})
}
