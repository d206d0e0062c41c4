package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

// Query is a question to [ACL.Explain].
type Query struct {
	// Namespace is canonical; Path is within it.
	Namespace, Path string
	// Operation is Subscribe, to ask whether an event of EventType may be seen whose
	// path this is, or what [ACL.Allows] takes.
	Operation  Capabilities
	EventType  string
	Parameters map[string]any
}

// Explanation is the answer, with its reasons.
type Explanation struct {
	Allowed bool
	// Reason is one sentence, without a full stop.
	Reason string
	// Path is what was looked up, with the namespace.
	Path string
	// Winner decides; nil if no rule matches, or none is asked because everything is
	// allowed or nothing can be.
	Winner *Match
	// Lost are the other rules that match, the best first; the Reason of each says
	// why it does not decide.
	Lost []Match
	// Skipped are the rules that were not considered for any path, because of their
	// templates.
	Skipped []Skipped
}

// Match is one pattern that matches, with all rules that have it.
type Match struct {
	// Pattern is with the namespace and the values of templates.
	Pattern string
	// Capabilities and EventTypes are those of all Sources together.
	Capabilities Capabilities
	EventTypes   []string
	Sources      []Source
	Reason       string
}

// Skipped is a rule that was skipped.
type Skipped struct {
	Source
	Reason string
}

// Explain answers as [ACL.Allows] or [ACL.MaySee] do and says why. It looks at every
// rule, so it takes longer.
func (a *ACL) Explain(q Query) Explanation {
	path := q.Path
	if q.Operation == Subscribe {
		path = strings.TrimLeft(path, "/")
	}
	x := Explanation{Path: strings.TrimLeft(q.Namespace+path, "/")}
	if a == nil {
		x.Reason = "there are no policies"
		return x
	}
	x.Skipped = slices.Clone(a.skipped)
	switch {
	case a.root:
		x.Allowed, x.Reason = true, "the policy root allows everything"
		return x
	case q.Operation == Subscribe && path == "":
		x.Reason = "an event without a path may be seen with the policy root only"
		return x
	}
	asList := q.Operation == Subscribe || q.Operation&^Sudo == List
	g := a.find(x.Path, asList)
	if g == nil {
		x.Reason = "no rule matches the path"
		return x
	}
	winner := g.match()
	x.Winner = &winner
	for _, h := range a.matching(x.Path, asList) {
		if h != g {
			m := h.match()
			m.Reason = whyLost(g, h, x.Path)
			x.Lost = append(x.Lost, m)
		}
	}
	if q.Operation == Subscribe {
		x.Allowed, x.Reason = g.shows(q.EventType), g.whyShown(q.EventType)
		return x
	}
	x.Reason = g.refuse(q.Operation, q.Parameters)
	if x.Reason == "" {
		x.Allowed, x.Reason = true, "the rule grants "+q.Operation.String()
	} else if g.capabilities.Has(Deny) {
		x.Reason = g.whyDenied()
	}
	return x
}

func (g *grant) match() Match {
	return Match{
		Pattern:      g.pattern.String(),
		Capabilities: g.capabilities,
		EventTypes:   slices.Clone(g.types),
		Sources:      slices.Clone(g.sources),
	}
}

func (g *grant) whyShown(eventType string) string {
	switch {
	case g.capabilities.Has(Deny):
		return g.whyDenied()
	case !g.capabilities.Has(Subscribe):
		return "the rule does not grant subscribe"
	case len(g.types) == 0:
		return "the rule grants subscribe but has no subscribe_event_types"
	}
	for _, t := range g.types {
		if event.CompileGlob(t).Match(eventType) {
			return fmt.Sprintf("the rule grants subscribe and its event type %q matches", t)
		}
	}
	return fmt.Sprintf("none of the event types of the rule matches %q", eventType)
}

func (g *grant) whyDenied() string {
	for _, s := range g.sources {
		if s.Rule.unsupported != "" {
			return "the rule denies, because it has " + s.Rule.unsupported + ", which is not possible here"
		}
	}
	return "the rule denies"
}

// matching returns all grants whose pattern matches, the best first.
func (a *ACL) matching(path string, list bool) []*grant {
	spellings := []string{path}
	if trimmed, ok := strings.CutSuffix(path, "/"); ok && list {
		spellings = append(spellings, trimmed)
	}
	var all []*grant
	for _, g := range a.exact {
		all = append(all, g)
	}
	all = append(append(all, a.prefixedGrants...), a.plus.rules...)
	all = slices.DeleteFunc(all, func(g *grant) bool {
		return !slices.ContainsFunc(spellings, g.pattern.matches)
	})
	slices.SortFunc(all, func(g, h *grant) int {
		p, q := &g.pattern, &h.pattern
		switch {
		case p.form == exact && q.form == exact:
			return cmp.Compare(len(q.text), len(p.text))
		case p.form == exact:
			return -1
		case q.form == exact:
			return 1
		}
		return q.compare(p)
	})
	return all
}

// whyLost says why g wins over h for a path.
func whyLost(g, h *grant, path string) string {
	p, q := &g.pattern, &h.pattern
	switch {
	case p.form == exact && p.text == path:
		return "the other is the path itself"
	case p.form == exact:
		return "the other is the path without its trailing slash"
	case p.compare(q) < 0 && g.capabilities.Has(List):
		return "for a path with a trailing slash the other counts, because it grants list"
	case p.compare(q) < 0:
		return "for a path with a trailing slash the other counts, because it denies"
	case p.first != q.first && p.form == prefix && q.form == prefix:
		return "the other is longer"
	case p.first != q.first:
		return `its first "+" or "*" comes earlier`
	case p.open != q.open:
		return `it ends with "*"`
	case p.pluses != q.pluses:
		return `it has more "+"`
	case len(p.text) != len(q.text):
		return "it is shorter"
	}
	return "it comes first in the alphabet"
}
