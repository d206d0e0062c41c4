package load

import "slices"

// applySelections turns rules on and off, in the order of the selections.
func applySelections(rules []*Rule, selections []Selection) {
	for _, s := range selections {
		for _, r := range rules {
			if s.matches(r) {
				r.Enabled = s.Enable
			}
		}
	}
}

func (s *Selection) matches(r *Rule) bool {
	if s.Rule == "" && s.Tag == "" {
		return false
	}
	return (s.Rule == "" || wildcard(s.Rule, r.Name)) && (s.Tag == "" || slices.Contains(r.Tags, s.Tag))
}

// wildcard says whether a pattern with * fits a text. It takes no more than the product of both
// lengths.
func wildcard(pattern, text string) bool {
	star, back := -1, 0
	p := 0
	for t := 0; t < len(text); {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, back = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			back++
			p, t = star+1, back
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
