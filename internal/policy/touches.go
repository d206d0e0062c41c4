package policy

import "strings"

// Touches says whether some rule grants something on a path that begins with prefix, which
// ends in "/" and begins with the namespace. It is for showing what somebody could use: it
// may be true where more specific rules deny everything that the rule grants.
func (a *ACL) Touches(prefix string) bool {
	if a == nil || a.root {
		return a.Root()
	}
	for _, g := range a.exact {
		if g.touches(prefix) {
			return true
		}
	}
	for _, g := range a.prefixedGrants {
		if g.touches(prefix) {
			return true
		}
	}
	for _, g := range a.plus.rules {
		if g.touches(prefix) {
			return true
		}
	}
	return false
}

func (g *grant) touches(prefix string) bool {
	return g.capabilities != 0 && !g.capabilities.Has(Deny) && g.pattern.reaches(prefix)
}

// reaches says whether the pattern matches some path that begins with prefix.
func (p *pattern) reaches(prefix string) bool {
	switch p.form {
	case exact:
		return strings.HasPrefix(p.text, prefix)
	case segments:
		i, last := 0, len(p.segments)-1
		for segment := range strings.SplitSeq(strings.TrimSuffix(prefix, "/"), "/") {
			switch {
			case i == last && p.open:
				return p.anyOf[i] || strings.HasPrefix(segment, p.segments[i])
			case i >= last, !p.anyOf[i] && segment != p.segments[i]:
				return false
			}
			i++
		}
		return true
	}
	return strings.HasPrefix(p.text, prefix) || strings.HasPrefix(prefix, p.text)
}
