package event

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestGlob(t *testing.T) {
	tests := []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"*", "kv-v2/data-write", true},
		{"**", "a/b", true},
		{"kv-v2/data-*", "kv-v2/data-write", true},
		{"kv-v2/data-*", "kv-v2/metadata-write", false},
		{"kv*", "kv", true},
		{"kv*", "kv-v1/a/b", true},
		{"*write", "kv-v2/data-write", true},
		{"*write", "kv-v2/data-writes", false},
		{"a*b*c", "abc", true},
		{"a*b*c", "a/b/c/b/c", true},
		{"a*b*c", "acb", false},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"ab*ba", "aba", false},
		{"*a*a*", "a", false},
		{"?v", "kv", false},
		{"[k]v", "kv", false},
		{`\*`, "*", false},
		{"KV*", "kv", false},
		{"ns1/*", "ns1", false},
		{"*ü*", "für", true},
	}
	for _, tt := range tests {
		if got := CompileGlob(tt.pattern).Match(tt.s); got != tt.want {
			t.Errorf("glob %q, %q: got %v, want %v", tt.pattern, tt.s, got, tt.want)
		}
	}
	var zero Glob
	if !zero.Match("") || zero.Match("a") || zero.String() != "" {
		t.Error("the zero Glob is not the empty pattern")
	}
	if got := CompileGlob("a**b").String(); got != "a**b" {
		t.Errorf("String() = %q", got)
	}
}

// slowMatch is the definition of a glob, spelt out.
func slowMatch(pattern, s string) bool {
	if pattern == "" {
		return s == ""
	}
	if pattern[0] != '*' {
		return s != "" && s[0] == pattern[0] && slowMatch(pattern[1:], s[1:])
	}
	for i := range len(s) + 1 {
		if slowMatch(pattern[1:], s[i:]) {
			return true
		}
	}
	return false
}

func TestGlobMatchesDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	text := func(alphabet string, n int) string {
		b := make([]byte, r.IntN(n))
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(b)
	}
	for range 200_000 {
		pattern, s := text("a*b*", 8), text("ab", 9)
		if got, want := CompileGlob(pattern).Match(s), slowMatch(pattern, s); got != want {
			t.Fatalf("glob %q, %q: got %v, want %v", pattern, s, got, want)
		}
	}
}

func TestGlobTakesLinearTime(t *testing.T) {
	glob := CompileGlob(strings.Repeat("a*", 1000) + "b")
	s := strings.Repeat("a", 1<<20)
	done := make(chan bool)
	go func() { done <- glob.Match(s) || glob.Match(s+"c") || !glob.Match(s+"b") }()
	select {
	case wrong := <-done:
		if wrong {
			t.Error("wrong match")
		}
	case <-time.After(time.Minute):
		t.Fatal("a match of 1 MiB takes more than a minute")
	}
}

func TestGlobDoesNotAllocate(t *testing.T) {
	glob := CompileGlob("a*b*c*")
	if n := testing.AllocsPerRun(100, func() { glob.Match("a/b/c/d") }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("kv-v2/*", "kv-v2/data-write")
	f.Add("*write", "kv-v1/write")
	f.Add("a*b*c", "a/b/c")
	f.Add("**a**", "bab")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		glob := CompileGlob(pattern)
		got := glob.Match(s)
		if strings.Count(pattern, "*") <= 4 && len(s) <= 64 {
			if want := slowMatch(pattern, s); got != want {
				t.Errorf("glob %q, %q: got %v, want %v", pattern, s, got, want)
			}
		}
		if glob.String() != pattern {
			t.Errorf("String() = %q, want %q", glob, pattern)
		}
	})
}

func BenchmarkGlob(b *testing.B) {
	for _, bb := range []struct{ name, pattern, s string }{
		{"prefix", "kv-v2/*", "kv-v2/data-write"},
		{"middle", "kv*data*", "kv-v2/data-write"},
		{"hostile", strings.Repeat("a*", 20) + "b", strings.Repeat("a", 200)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			glob := CompileGlob(bb.pattern)
			b.ReportAllocs()
			for b.Loop() {
				glob.Match(bb.s)
			}
		})
	}
}
