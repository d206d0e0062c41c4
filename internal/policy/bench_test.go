package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// A distribution of rules, and paths that are hard for it.
type distribution struct {
	name string
	rule func(r *rand.Rand, i int) string
	path func(r *rand.Rand, i int) string
}

var distributions = []distribution{
	{"teams", // exact, prefix and "+" rules as people write them
		func(r *rand.Rand, i int) string {
			switch i % 3 {
			case 0:
				return fmt.Sprintf("secret/data/team%d/app/config", i)
			case 1:
				return fmt.Sprintf("secret/data/team%d/*", i)
			}
			return fmt.Sprintf("secret/+/team%d/+/db", i)
		},
		func(r *rand.Rand, i int) string {
			return fmt.Sprintf("secret/data/team%d/%s/db", r.IntN(i), []string{"app", "web", "x"}[r.IntN(3)])
		}},
	{"plus", // all with "+", told apart by their last segment
		func(r *rand.Rand, i int) string { return fmt.Sprintf("secret/+/+/app%d", i) },
		func(r *rand.Rand, i int) string { return fmt.Sprintf("secret/data/x/app%d", r.IntN(2*i)) }},
	{"begins", // all with "+" and "*", told apart by the beginning of a segment
		func(r *rand.Rand, i int) string { return fmt.Sprintf("secret/+/app%d*", i) },
		func(r *rand.Rand, i int) string { return fmt.Sprintf("secret/data/app%dx/y", r.IntN(2*i)) }},
	{"prefix", // each the beginning of the next
		func(r *rand.Rand, i int) string {
			return strings.Repeat("ab", i%480+1) + strings.Repeat("c", i/480) + "*"
		},
		func(r *rand.Rand, i int) string { return strings.Repeat("ab", r.IntN(min(i, 480))+1) + "/x" }},
	{"binary", // literals and "+" in all combinations: a tree of them is searched everywhere
		func(r *rand.Rand, i int) string {
			var b strings.Builder
			for bit := range 13 {
				b.WriteString([]string{"a/", "+/"}[i>>bit&1])
			}
			return b.String() + "+/z"
		},
		func(r *rand.Rand, i int) string { return strings.Repeat("a/", 14) + []string{"y", "z"}[r.IntN(2)] }},
	{"alternating", // the set of every segment has half of the patterns
		func(r *rand.Rand, i int) string {
			var b strings.Builder
			for range 12 {
				b.WriteString([]string{"+/", "a/", "b/"}[r.IntN(3)])
			}
			return b.String() + "z"
		},
		func(r *rand.Rand, i int) string {
			var b strings.Builder
			for range 12 {
				b.WriteString([]string{"a/", "b/"}[r.IntN(2)])
			}
			return b.String() + "z"
		}},
	{"deep", // nested beginnings of a segment
		func(r *rand.Rand, i int) string {
			return fmt.Sprintf("+/%s%s*", strings.Repeat("x", i%100), strings.Repeat("y", i/100))
		},
		func(r *rand.Rand, i int) string { return "a/" + strings.Repeat("x", 120) }},
}

func (d distribution) acl(tb testing.TB, n int) (*ACL, []string) {
	r := rand.New(rand.NewPCG(1, 2))
	var bound []Bound
	for at := 0; at < n; {
		var b strings.Builder
		for ; at < n && b.Len() < MaxBytes-2000; at++ {
			fmt.Fprintf(&b, "path %q {\n capabilities = [\"subscribe\"]\n subscribe_event_types = [\"kv*\"]\n}\n", d.rule(r, at))
		}
		p, _, err := Parse(fmt.Sprint("p", at), b.String())
		if err != nil {
			tb.Fatal(err)
		}
		bound = append(bound, Bound{p, ""})
	}
	paths := make([]string, 512)
	for i := range paths {
		paths[i] = d.path(r, n)
	}
	return Compile(bound, nil), paths
}

// BenchmarkDecide measures decisions that are not remembered.
func BenchmarkDecide(b *testing.B) {
	for _, d := range distributions {
		for _, n := range []int{1000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", d.name, n), func(b *testing.B) {
				a, paths := d.acl(b, n)
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					a.Decide("", paths[i&511], "kv-v2/data-write")
					i++
				}
			})
		}
	}
	b.Run("namespace/1000", func(b *testing.B) {
		a, paths := distributions[0].acl(b, 1000)
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			a.Decide("ns1/", paths[i&511], "kv-v2/data-write")
			i++
		}
	})
}

// BenchmarkMaySee measures remembered decisions.
func BenchmarkMaySee(b *testing.B) {
	a, paths := distributions[0].acl(b, 1000)
	paths = paths[:32]
	b.Run("one", func(b *testing.B) {
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			a.MaySee("ns1/", paths[i&31], "kv-v2/data-write")
			i++
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				a.MaySee("ns1/", paths[i&31], "kv-v2/data-write")
			}
		})
	})
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var text strings.Builder
			for i := range n {
				fmt.Fprintf(&text, "path %q {\n capabilities = [\"read\"]\n}\n", distributions[0].rule(nil, i))
			}
			p, _, err := Parse("p", text.String())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				Compile([]Bound{{p, ""}}, nil)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "path %q {\n capabilities = [\"read\"]\n}\n", distributions[0].rule(nil, i))
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		if _, _, err := Parse("p", text.String()); err != nil {
			b.Fatal(err)
		}
	}
}
