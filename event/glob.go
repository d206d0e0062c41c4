package event

import "strings"

// Glob selects event types or namespaces. "*" stands for any run of characters,
// also the empty one and also across "/"; every other character stands for
// itself, case matters, and there is no escape. These are the rules of Vault's
// subscribe endpoint, where "kv-v2/*", "*write" and "a*b*c" are usual.
//
// The zero value is the glob of the empty pattern: it matches only "". A Glob is
// immutable and safe for concurrent use.
type Glob struct {
	pattern  string
	wild     bool     // there is at least one "*"
	prefix   string   // before the first "*"; the whole pattern when not wild
	middle   []string // between "*"s, without empty parts
	suffix   string   // after the last "*"
	minBytes int      // length of all literal parts together
}

// CompileGlob returns the glob of pattern. Every string is a pattern.
func CompileGlob(pattern string) Glob {
	parts := strings.Split(pattern, "*")
	last := len(parts) - 1
	g := Glob{pattern: pattern, wild: last > 0, prefix: parts[0], minBytes: len(pattern) - last}
	if !g.wild {
		return g
	}
	g.suffix = parts[last]
	for _, part := range parts[1:last] {
		if part != "" {
			g.middle = append(g.middle, part)
		}
	}
	return g
}

// Match reports whether the glob matches the whole of s. It does not allocate,
// and it reads s at most once per literal character run: taking the leftmost
// place for each middle part leaves the most room for the next, so nothing is
// ever tried twice.
func (g Glob) Match(s string) bool {
	if !g.wild {
		return s == g.prefix
	}
	if len(s) < g.minBytes || !strings.HasPrefix(s, g.prefix) || !strings.HasSuffix(s, g.suffix) {
		return false
	}
	s = s[len(g.prefix) : len(s)-len(g.suffix)]
	for _, part := range g.middle {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}

// String returns the pattern as it was given to [CompileGlob].
func (g Glob) String() string { return g.pattern }
