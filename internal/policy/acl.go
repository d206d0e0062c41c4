package policy

import (
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

// Bound is a policy together with the namespace in which it is stored, in the
// canonical form of event.CanonicalNamespace.
type Bound struct {
	Policy    *Policy
	Namespace string
}

// ACL is the policies of somebody, combined. It is immutable (but for a cache of
// decisions) and safe for concurrent use. The zero ACL, and nil, allow nothing.
type ACL struct {
	root  bool
	exact map[string]*grant
	// prefixed are the patterns that end with "*" and have no "+", by prefix.
	prefixed       prefixes
	prefixedGrants []*grant // by key of prefixed
	plus           index    // the patterns with "+"

	skipped []Skipped
	cache   *cache
}

// grant is what rules with equal patterns grant together.
type grant struct {
	pattern      pattern
	capabilities Capabilities // Deny alone if it is one of them
	types        []string     // subscribe_event_types
	globs        []event.Glob // the same, compiled; those that match most come first
	limits       limits
	wrapped      bool
	sources      []Source
}

// Source is a rule of a policy.
type Source struct {
	Policy    string // its name
	Namespace string // where the policy is stored
	Rule      *Rule  // never nil, and not to be changed
}

// Compile combines policies for a subject (nil: the zero Subject).
//
// Everything is allowed if [RootPolicy] is the only policy and its namespace is the
// root namespace; otherwise RootPolicy counts for nothing.
//
// A rule whose template has no value is skipped, as in Vault. Values are literal, and
// a rule that grants something is skipped, too, if a value is not one plain path
// segment: if it contains "/", "*", "+", "{{", "}}" or a control character, or is "."
// or "..". In a rule that only takes away every value is used, literally, since
// skipping it would open what it is to close. See [ACL.Explain] for what was skipped.
func Compile(policies []Bound, subject *Subject) *ACL {
	a := &ACL{cache: newCache()}
	grants := make(map[string]*grant)
	for _, bound := range policies {
		if bound.Policy == nil {
			continue
		}
		if bound.Policy == RootPolicy {
			a.root = len(policies) == 1 && bound.Namespace == ""
			continue
		}
		for i := range bound.Policy.Rules {
			rule := &bound.Policy.Rules[i]
			source := Source{bound.Policy.Name, bound.Namespace, rule}
			text, reason := rule.resolve(bound.Namespace, subject)
			if reason != "" {
				a.skipped = append(a.skipped, Skipped{source, reason})
				continue
			}
			p := compile(text)
			key := p.key()
			g := grants[key]
			if g == nil {
				g = &grant{pattern: p}
				grants[key] = g
			}
			g.add(source)
		}
	}
	a.exact = make(map[string]*grant)
	byPrefix := make(map[string]*grant)
	var plus []*grant
	for _, g := range grants {
		g.close()
		switch g.pattern.form {
		case exact:
			a.exact[g.pattern.text] = g
		case prefix:
			byPrefix[g.pattern.text] = g
		case segments:
			plus = append(plus, g)
		}
	}
	a.prefixed = newPrefixes(byPrefix)
	for _, key := range a.prefixed.keys {
		a.prefixedGrants = append(a.prefixedGrants, byPrefix[key])
	}
	a.plus = newIndex(plus)
	return a
}

// add merges a rule.
func (g *grant) add(s Source) {
	g.sources = append(g.sources, s)
	if g.capabilities.Has(Deny) {
		return
	}
	r := s.Rule
	if r.Capabilities.Has(Deny) || r.unsupported != "" {
		g.capabilities, g.types, g.limits, g.wrapped = Deny, nil, limits{}, false
		return
	}
	g.capabilities |= r.Capabilities
	g.wrapped = g.wrapped || r.wrapped
	g.limits.add(r)
	for _, t := range r.EventTypes {
		if !slices.Contains(g.types, t) {
			g.types = append(g.types, t)
		}
	}
}

// close is called after all rules were added.
func (g *grant) close() {
	if slices.Contains(g.types, "*") {
		g.globs = []event.Glob{event.CompileGlob("*")}
		return
	}
	for _, t := range g.types {
		g.globs = append(g.globs, event.CompileGlob(t))
	}
}

// shows says whether events of a type may be seen.
func (g *grant) shows(eventType string) bool {
	if !g.capabilities.Has(Subscribe) {
		return false
	}
	for i := range g.globs {
		if g.globs[i].Match(eventType) {
			return true
		}
	}
	return false
}

// Root says whether everything is allowed.
func (a *ACL) Root() bool { return a != nil && a.root }

// operations are those that [ACL.Allows] can be asked about, but for Sudo; those in
// withParameters are subject to the parameters of a rule.
const (
	operations     = Create | Read | Update | Delete | List | Patch | Recover
	withParameters = Create | Read | Update | Patch | Recover
)

// Capabilities returns what is allowed on a path, which begins with the namespace:
// "ns1/secret/data/x". As in Vault the path is looked up as for a list, and a rule
// counts with what it grants, whatever it says about parameters and wrapping. For
// nothing the answer is 0 or Deny, for those who may do everything it is Root.
func (a *ACL) Capabilities(path string) Capabilities {
	if a.Root() {
		return Root
	}
	if g := a.find(path, true); g != nil {
		return g.capabilities
	}
	return 0
}

// Allows says whether one of Create, Read, Update, Delete, List, Patch or Recover,
// with these parameters (of the body or query), is allowed on a path, which begins
// with the namespace. With Sudo added to op, sudo is needed as well.
//
// Values of parameters are what encoding/json makes of them, with or without
// UseNumber, or []string.
func (a *ACL) Allows(op Capabilities, path string, parameters map[string]any) bool {
	if a.Root() {
		return true
	}
	g := a.find(path, op&^Sudo == List)
	return g != nil && g.refuse(op, parameters) == ""
}

// refuse says why an operation is not allowed; "" if it is.
func (g *grant) refuse(op Capabilities, parameters map[string]any) string {
	switch {
	case op&operations == 0 || op&^(operations|Sudo) != 0:
		return "this is no operation that a policy can allow"
	case g.capabilities.Has(Deny):
		return "the rule denies"
	case !g.capabilities.Has(op &^ Sudo):
		return "the rule does not grant " + (op &^ Sudo &^ g.capabilities).String()
	case !g.capabilities.Has(op):
		return "the rule does not grant sudo, which is needed as well"
	case g.wrapped:
		return "the rule asks for a wrapped response, which is not possible here"
	case op&withParameters != 0:
		return g.limits.refuse(parameters)
	}
	return ""
}

// MaySee says whether an event of a type may be seen whose path is this, within
// the namespace: whether the rule for the path, with the namespace before it, has the
// capability subscribe and one of its event types matches. The rule is the one that
// [ACL.Capabilities] looks at. Events without a path may be seen only by those who
// may do everything. Decisions are remembered.
func (a *ACL) MaySee(namespace, path, eventType string) bool {
	if a == nil || a.root {
		return a.Root()
	}
	if a.cache == nil {
		return false
	}
	hash, ok := a.cache.hash(namespace, path, eventType)
	if !ok {
		return a.Decide(namespace, path, eventType)
	}
	if may, known := a.cache.get(hash, namespace, path, eventType); known {
		return may
	}
	may := a.Decide(namespace, path, eventType)
	a.cache.put(hash, namespace, path, eventType, may)
	return may
}

// Decide is MaySee without memory.
func (a *ACL) Decide(namespace, path, eventType string) bool {
	if a == nil || a.root {
		return a.Root()
	}
	path = strings.TrimLeft(path, "/")
	if path == "" {
		return false
	}
	if namespace != "" {
		path = namespace + path
	}
	g := a.find(path, true)
	return g != nil && g.shows(eventType)
}

// find returns the grant that wins for a path, or nil. Leading slashes are ignored.
func (a *ACL) find(path string, list bool) *grant {
	if a == nil {
		return nil
	}
	path = strings.TrimLeft(path, "/")
	if g := a.exact[path]; g != nil {
		return g
	}
	if list {
		if trimmed, ok := strings.CutSuffix(path, "/"); ok {
			if g := a.exact[trimmed]; g != nil {
				return g
			}
			return a.findList(trimmed, path)
		}
	}
	return better(a.longestPrefix(path), a.plus.best(path, nil))
}

// findList returns the grant that wins for a list with a trailing slash, among the
// patterns that are not exact and match the path with or without it.
func (a *ACL) findList(trimmed, path string) *grant {
	byPrefix := [2]*grant{a.longestPrefix(trimmed), a.longestPrefix(path)}
	best := func(among bitset, capability Capabilities) *grant {
		g := better(a.plus.best(trimmed, among), a.plus.best(path, among))
		for _, p := range byPrefix {
			if p != nil && p.capabilities.Has(capability) {
				g = better(g, p)
			}
		}
		return g
	}
	denies, lists := best(a.plus.denies, Deny), best(a.plus.lists, List)
	if g := better(denies, lists); g != nil {
		return g
	}
	return best(nil, 0)
}

func (a *ACL) longestPrefix(path string) *grant {
	if i := a.prefixed.longest(path); i >= 0 {
		return a.prefixedGrants[i]
	}
	return nil
}

// better returns the grant that wins of two, of which neither is exact and each may
// be nil.
func better(g, h *grant) *grant {
	if g == nil || h != nil && h.pattern.compare(&g.pattern) > 0 {
		return h
	}
	return g
}
