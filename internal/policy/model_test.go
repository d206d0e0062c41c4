package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
)

// The model is a second implementation of how rules combine, as near to its
// description in the package documentation as possible and without any care for
// speed. It knows no templates and no parameters.
type model []modelRule

type modelRule struct {
	pattern string // with the namespace
	caps    Capabilities
	types   []string
}

func newModel(policies []Bound) model {
	var m model
	for _, b := range policies {
		for _, r := range b.Policy.Rules {
			m = append(m, modelRule{b.Namespace + r.Pattern, r.Capabilities, r.EventTypes})
		}
	}
	return m
}

// merged returns the rule that those with a pattern are together.
func (m model) merged(pattern string) modelRule {
	sum := modelRule{pattern: pattern}
	for _, r := range m {
		if r.pattern == pattern {
			sum.caps |= r.caps
			sum.types = append(sum.types, r.types...)
		}
	}
	if sum.caps.Has(Deny) {
		sum.caps = Deny
	}
	return sum
}

// withPlus says whether a pattern takes part in the comparison because of a "+".
func withPlus(pattern string) bool {
	return pattern == "+" || strings.HasPrefix(pattern, "+/") || strings.Contains(pattern, "/+")
}

func modelMatches(pattern, path string) bool {
	open := strings.HasSuffix(pattern, "*")
	if !withPlus(pattern) {
		if open {
			return strings.HasPrefix(path, strings.TrimSuffix(pattern, "*"))
		}
		return pattern == path
	}
	p, s := strings.Split(strings.TrimSuffix(pattern, "*"), "/"), strings.Split(path, "/")
	if len(s) < len(p) || len(s) > len(p) && !open {
		return false
	}
	for i := range p {
		switch {
		case p[i] == "+" || p[i] == s[i]:
		case open && i == len(p)-1 && strings.HasPrefix(s[i], p[i]):
		default:
			return false
		}
	}
	return true
}

// candidates are the rules that compete for a path that no exact rule has: the
// longest prefix, and all with "+".
func (m model) candidates(path string) []modelRule {
	longest := ""
	patterns := make(map[string]bool)
	for _, r := range m {
		switch {
		case !modelMatches(r.pattern, path):
		case withPlus(r.pattern):
			patterns[r.pattern] = true
		case strings.HasSuffix(r.pattern, "*") && len(r.pattern) > len(longest):
			longest = r.pattern
		}
	}
	if longest != "" {
		patterns[longest] = true
	}
	var c []modelRule
	for p := range patterns {
		c = append(c, m.merged(p))
	}
	sort.Slice(c, func(i, j int) bool { return modelBetter(c[i].pattern, c[j].pattern) })
	return c
}

func modelBetter(p, q string) bool {
	first := func(s string) int {
		if withPlus(s) {
			return strings.Index(s, "+")
		}
		return len(s) - 1
	}
	pluses := func(s string) int {
		n := 0
		for _, segment := range strings.Split(s, "/") {
			if withPlus(s) && segment == "+" {
				n++
			}
		}
		return n
	}
	if a, b := first(p), first(q); a != b {
		return a > b
	}
	if a, b := strings.HasSuffix(p, "*"), strings.HasSuffix(q, "*"); a != b {
		return b
	}
	if a, b := pluses(p), pluses(q); a != b {
		return a < b
	}
	p, q = strings.TrimSuffix(p, "*"), strings.TrimSuffix(q, "*")
	if len(p) != len(q) {
		return len(p) > len(q)
	}
	return p > q
}

func (m model) exact(path string) (modelRule, bool) {
	for _, r := range m {
		if !withPlus(r.pattern) && !strings.HasSuffix(r.pattern, "*") && r.pattern == path {
			return m.merged(path), true
		}
	}
	return modelRule{}, false
}

func (m model) find(path string, list bool) modelRule {
	path = strings.TrimLeft(path, "/")
	if r, ok := m.exact(path); ok {
		return r
	}
	if r, ok := m.exact(strings.TrimSuffix(path, "/")); ok && list {
		return r
	}
	c := m.candidates(path)
	if list && strings.HasSuffix(path, "/") {
		c = append(c, m.candidates(strings.TrimSuffix(path, "/"))...)
		sort.SliceStable(c, func(i, j int) bool { return modelBetter(c[i].pattern, c[j].pattern) })
		for _, r := range c {
			// The best that denies or grants list decides, if there is one.
			if r.caps.Has(Deny) || r.caps.Has(List) {
				return r
			}
		}
	}
	if len(c) == 0 {
		return modelRule{}
	}
	return c[0]
}

func (m model) maySee(namespace, path, eventType string) bool {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		return false
	}
	r := m.find(namespace+path, true)
	return r.caps.Has(Subscribe) && slices.ContainsFunc(r.types, func(t string) bool { return event.CompileGlob(t).Match(eventType) })
}

// chooser makes decisions for random policies, from a random source or from the
// bytes of a fuzzer.
type chooser interface{ IntN(n int) int }

type byteChooser []byte

func (b *byteChooser) IntN(n int) int {
	if len(*b) == 0 {
		return 0
	}
	c := int((*b)[0])
	*b = (*b)[1:]
	return c % n
}

// The alphabets are small so that patterns often compete and paths often match.
var (
	modelSegments = []string{"a", "a", "b", "aa", "ab", "+", "+", "", "+a", "a+", "*", "a*"}
	pathSegments  = []string{"a", "a", "b", "aa", "ab", "aab", "", "+", "+a", "a+", "*"}
	modelTypes    = []string{"*", "k*", "kv", "kv/a", "x*y", ""}
	eventTypes    = []string{"kv", "kv/a", "kv/b", "xy", "q"}
	namespaces    = []string{"", "", "a/", "b/a/"}
)

func randomPattern(c chooser) string {
	for {
		var b strings.Builder
		if c.IntN(8) == 0 {
			b.WriteByte('/')
		}
		for i := range 1 + c.IntN(4) {
			if i > 0 {
				b.WriteByte('/')
			}
			b.WriteString(modelSegments[c.IntN(len(modelSegments))])
		}
		if c.IntN(3) == 0 {
			b.WriteByte('*')
		}
		if p := b.String(); !strings.Contains(p, "+*") {
			return p
		}
		if b, ok := c.(*byteChooser); ok && len(*b) == 0 {
			return "a"
		}
	}
}

func randomPath(c chooser) string {
	var b strings.Builder
	for i := range 1 + c.IntN(5) {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(pathSegments[c.IntN(len(pathSegments))])
	}
	return b.String()
}

func randomPolicy(c chooser, rules int) string {
	var b strings.Builder
	for range rules {
		fmt.Fprintf(&b, "path %q {\n capabilities = [", randomPattern(c))
		for _, n := range capabilityNames {
			chance := 3
			if n.bit == Deny {
				chance = 7
			}
			if n.bit&(Deny|List|Read|Subscribe|Create) != 0 && c.IntN(chance) == 0 {
				fmt.Fprintf(&b, "%q, ", n.name)
			}
		}
		b.WriteString("]\n subscribe_event_types = [")
		for range c.IntN(3) {
			fmt.Fprintf(&b, "%q, ", modelTypes[c.IntN(len(modelTypes))])
		}
		b.WriteString("]\n}\n")
	}
	return b.String()
}

// checkModel compares an ACL of random policies with the model.
func checkModel(t *testing.T, c chooser, policies, rules, paths int) {
	t.Helper()
	var bound []Bound
	var texts []string
	for i := range policies {
		text := randomPolicy(c, rules)
		p, _, err := Parse(fmt.Sprint("p", i), text)
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		ns := namespaces[c.IntN(len(namespaces))]
		bound = append(bound, Bound{p, ns})
		texts = append(texts, "# in namespace "+ns+"\n"+text)
	}
	a, m := Compile(bound, nil), newModel(bound)
	for range paths {
		ns, path, typ := namespaces[c.IntN(len(namespaces))], randomPath(c), eventTypes[c.IntN(len(eventTypes))]
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("namespace %q, path %q: %s\n%s", ns, path, fmt.Sprintf(format, args...), strings.Join(texts, "\n"))
		}
		for _, list := range []bool{false, true} {
			want, got := m.find(ns+path, list), Capabilities(0)
			if g := a.find(ns+path, list); g != nil {
				got = g.capabilities
				if g.pattern.String() != want.pattern {
					fail("list %v: got rule %q, want %q", list, g.pattern.String(), want.pattern)
				}
			}
			if got != want.caps {
				fail("list %v: got %v, want %v of %q", list, got, want.caps, want.pattern)
			}
		}
		if got, want := a.Capabilities(ns+path), m.find(ns+path, true).caps; got != want {
			fail("capabilities %v, want %v", got, want)
		}
		for _, op := range []Capabilities{Read, Create, List} {
			want := m.find(ns+path, op == List).caps.Has(op)
			if got := a.Allows(op, ns+path, nil); got != want {
				fail("%v: got %v", op, got)
			}
			x := a.Explain(Query{Namespace: ns, Path: path, Operation: op})
			if x.Allowed != want || x.Reason == "" {
				fail("%v is explained wrongly: %+v", op, x)
			}
		}
		want := m.maySee(ns, path, typ)
		for range 2 {
			if got := a.MaySee(ns, path, typ); got != want {
				fail("type %q: seen %v", typ, got)
			}
		}
		x := a.Explain(Query{Namespace: ns, Path: path, Operation: Subscribe, EventType: typ})
		if x.Allowed != want || x.Reason == "" || slices.ContainsFunc(x.Lost, func(m Match) bool { return m.Reason == "" }) {
			fail("type %q is explained wrongly: %+v", typ, x)
		}
	}
}

func TestModel(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 300
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range rounds {
		checkModel(t, r, 1+r.IntN(3), 1+r.IntN(8), 20)
	}
	// More than 64 patterns with "+", so that sets have more than one word.
	for range rounds / 60 {
		checkModel(t, r, 2, 200, 200)
	}
}
