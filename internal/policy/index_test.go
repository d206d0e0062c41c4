package policy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// The index finds what comparing every pattern finds, for many patterns of all kinds.
func TestIndex(t *testing.T) {
	for _, d := range distributions {
		t.Run(d.name, func(t *testing.T) {
			a, paths := d.acl(t, 1500)
			rules := slices.Concat(a.plus.rules, a.prefixedGrants)
			found := 0
			for _, path := range paths[:200] {
				for _, path := range []string{path, path + "/", path + "x", strings.TrimSuffix(path, "z") + "q"} {
					var want *grant
					for _, g := range rules {
						if g.pattern.matches(path) && (want == nil || g.pattern.compare(&want.pattern) > 0) {
							want = g
						}
					}
					if want != nil {
						found++
					}
					if got := better(a.plus.best(path, nil), a.longestPrefix(path)); got != want {
						t.Fatalf("%q: got %v, want %v", path, got, want)
					}
				}
			}
			if found == 0 {
				t.Error("no path matches")
			}
		})
	}
}

// A path of very many segments costs no more than looking at it.
func TestLongPaths(t *testing.T) {
	for _, d := range distributions {
		a, _ := d.acl(t, 1000)
		for _, path := range []string{strings.Repeat("/", 1<<20), strings.Repeat("a/", 1<<19), strings.Repeat("a", 1<<20), "+/" + strings.Repeat("x", 1<<20)} {
			for range 20 {
				a.MaySee("", path, "kv")
			}
		}
	}
}

func TestPrefixes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	word := func() string {
		b := make([]byte, r.IntN(7))
		for i := range b {
			b[i] = "ab/\xff"[r.IntN(4)]
		}
		return string(b)
	}
	for round := range 300 {
		keys := make(map[string]int)
		for i := range r.IntN(12) {
			keys[word()] = i
		}
		p := newPrefixes(keys)
		for range 50 {
			s := word()
			want, has := "", false
			for key := range keys {
				if strings.HasPrefix(s, key) && (!has || len(key) > len(want)) {
					want, has = key, true
				}
			}
			i := p.longest(s)
			if (i >= 0) != has || has && p.keys[i] != want {
				t.Fatalf("round %d: longest of %q for %q is %d", round, p.keys, s, i)
			}
		}
	}
}
