package match

import (
	"cmp"
	"math"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// An atom is something that is quickly found out for many rules at once. Each rule is looked at
// only if one of a few atoms is true, its guard, without which its condition cannot be.
type atom struct {
	operand int32
	kind    atomKind
	text    string
	number  uint64
}

type atomKind uint8

const (
	present    atomKind = iota // there is a value
	isText                     // an element is the text
	isNumber                   // an element is the number
	isAbove                    // the first element is more than the number
	isBelow                    // it is less
	beginsWith                 // the first element begins with the text
	has                        // the text is in the first element
	hasFold                    // so, in either case; the text has none in upper case
)

// guard is a set of atoms: one of them is true whenever a condition is. A nil guard says that
// nothing is known.
type guard []atom

// Bounds of the atoms of a guard, of those of all that are made of others, and of those that the
// guards of all rules have. Rules beyond the last have no guard: they are looked at at each event.
const (
	maxGuard  = 1 << 14
	maxAtoms  = 1 << 20
	maxPlaced = 1 << 21
)

// indexer chooses guards.
type indexer struct {
	*Builder
	guards [][]guard // of each predicate, all that would do
	known  map[int32]guess
	united int // atoms in guards that are made of others
	// constants counts how many texts and numbers an operand is compared with: the more there are,
	// the less often each is what it is.
	constants map[int32]map[atom]struct{}
}

func (x *indexer) prepare() {
	x.guards = make([][]guard, len(x.predicates))
	x.known = make(map[int32]guess)
	x.constants = make(map[int32]map[atom]struct{})
	for i := range x.predicates {
		x.guards[i] = x.ofPredicate(&x.predicates[i])
		for _, g := range x.guards[i] {
			for _, a := range g {
				if a.kind == present || a.kind == isAbove || a.kind == isBelow {
					continue
				}
				if x.constants[a.operand] == nil {
					x.constants[a.operand] = make(map[atom]struct{})
				}
				x.constants[a.operand][a] = struct{}{}
			}
		}
	}
}

// guess is a guard, and how often one of its atoms may be true.
type guess struct {
	guard  guard
	chance float64
}

func (x *indexer) guess(g guard) guess {
	sum := 0.0
	for _, a := range g {
		each := 1 / (1 + float64(len(x.constants[a.operand])))
		switch a.kind {
		case present:
			each = 0.6
		case isAbove, isBelow:
			each = 0.3
		case beginsWith:
			each *= 1.5
		case has, hasFold:
			each *= 2 // and is more work
		}
		sum += each
	}
	return guess{g, sum}
}

// best returns the guard whose atoms are true least often.
func best(all []guess) guess {
	if len(all) == 0 {
		return guess{}
	}
	return slices.MinFunc(all, func(g, h guess) int { return cmp.Compare(g.chance, h.chance) })
}

// of returns the guard of a node.
func (x *indexer) of(n int32) guess {
	g, ok := x.known[n]
	if !ok {
		g = x.choose(n)
		x.known[n] = g
	}
	return g
}

func (x *indexer) choose(n int32) guess {
	nd := &x.nodes[n]
	var all []guess
	switch nd.kind {
	case leaf:
		for _, g := range x.guards[nd.predicate] {
			all = append(all, x.guess(g))
		}
	case conjunction:
		for _, t := range nd.terms {
			if g := x.of(t); g.guard != nil {
				all = append(all, g)
			}
		}
	case disjunction:
		union := guard{}
		for _, t := range nd.terms {
			g := x.of(t).guard
			if g == nil || len(union)+len(g) > maxGuard || x.united > maxAtoms {
				return guess{}
			}
			x.united += len(g)
			union = append(union, g...)
		}
		return x.guess(union)
	}
	return best(all)
}

// ofPredicate returns guards of a predicate.
func (x *indexer) ofPredicate(p *predicate) []guard {
	// All of none are in any set.
	vacuous := p.op == condition.In && p.list && x.mayBeEmpty(p.left)
	if p.never && !vacuous {
		return []guard{{}}
	}
	guards := []guard{{{operand: p.left, kind: present}}}
	if p.right >= 0 {
		return append(guards, guard{{operand: p.right, kind: present}})
	}
	add := func(g guard) {
		if g != nil && len(g) <= maxGuard {
			guards = append(guards, g)
		}
	}
	switch p.op {
	case condition.In, condition.Intersects:
		if p.typ != sourceplugin.IPNet && !vacuous {
			add(each(p, func(c *constant) guard { return guard{exactly(p, c)} }))
		}
	case condition.PMatch:
		add(ofPaths(p))
	case condition.Equal:
		if p.typ != sourceplugin.IPNet {
			add(modifiedGuard(p, func(c *constant) guard { return guard{exactly(p, c)} }))
		}
	case condition.Less, condition.LessEqual, condition.More, condition.MoreEqual:
		if p.typ != sourceplugin.String {
			add(modifiedGuard(p, func(c *constant) guard { return beyond(p, c.number) }))
		}
	case condition.StartsWith:
		add(modifiedGuard(p, func(c *constant) guard { return textual(p.left, beginsWith, c.text) }))
	case condition.Contains, condition.EndsWith:
		add(modifiedGuard(p, func(c *constant) guard { return textual(p.left, has, c.text) }))
	case condition.IContains:
		add(modifiedGuard(p, func(c *constant) guard { return textual(p.left, hasFold, lowerText(c.text)) }))
	case condition.Glob:
		add(modifiedGuard(p, func(c *constant) guard { return textual(p.left, beginsWith, literalBegin(c.text)) }))
		add(modifiedGuard(p, func(c *constant) guard { return textual(p.left, has, longestLiteral(c.text)) }))
	case condition.IGlob:
		add(modifiedGuard(p, func(c *constant) guard { return textual(p.left, hasFold, lowerText(longestLiteral(c.text))) }))
	case condition.Regex:
		add(modifiedGuard(p, func(c *constant) guard { return ofRegex(p.left, c.text) }))
	}
	return guards
}

// mayBeEmpty says whether the value of a list may be no elements: getopt makes such ones, and a
// list may be written without any.
func (x *indexer) mayBeEmpty(n int32) bool {
	switch o := &x.operands.list[n]; o.kind {
	case getopt:
		return true
	case toLower, toUpper, base64Decoded, baseName, untilNUL, withoutNULs:
		return x.mayBeEmpty(o.args[0])
	case listValue:
		return !slices.ContainsFunc(o.args, func(a int32) bool { return !x.mayBeEmpty(a) })
	}
	return false
}

func lowerText(text string) string {
	b := []byte(text)
	for i := range b {
		b[i] = lower(b[i])
	}
	return string(b)
}

// exactly is true if an element is a constant.
func exactly(p *predicate, c *constant) atom {
	if p.typ == sourceplugin.String || p.typ == sourceplugin.IPAddr {
		return atom{operand: p.left, kind: isText, text: c.text}
	}
	return atom{operand: p.left, kind: isNumber, number: c.number}
}

// beyond is true if the element is on the wanted side of a number.
func beyond(p *predicate, n uint64) guard {
	switch p.op {
	case condition.More:
		return guard{{operand: p.left, kind: isAbove, number: n}}
	case condition.Less:
		return guard{{operand: p.left, kind: isBelow, number: n}}
	case condition.MoreEqual:
		if n > 0 {
			return guard{{operand: p.left, kind: isAbove, number: n - 1}}
		}
	case condition.LessEqual:
		if n < math.MaxUint64 {
			return guard{{operand: p.left, kind: isBelow, number: n + 1}}
		}
	}
	return nil
}

func textual(operand int32, kind atomKind, text string) guard {
	if text == "" {
		return nil
	}
	return guard{{operand: operand, kind: kind, text: text}}
}

// each is the union of the guards of all constants.
func each(p *predicate, of func(*constant) guard) guard {
	union := guard{}
	for i := range p.constants {
		g := of(&p.constants[i])
		if g == nil {
			return nil
		}
		union = append(union, g...)
	}
	return union
}

// modifiedGuard is that of one constant, of any of several, or of the first if all must fit.
func modifiedGuard(p *predicate, of func(*constant) guard) guard {
	if p.modifier == condition.AllOf {
		if len(p.constants) == 0 {
			return guard{}
		}
		return of(&p.constants[0])
	}
	return each(p, of)
}

// literalBegin is what a pattern of glob begins with before anything special.
func literalBegin(pattern string) string {
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		return pattern[:i]
	}
	return pattern
}

// longestLiteral is the longest part of a pattern of glob without anything special. There is none
// in one with brackets, which may or may not be closed.
func longestLiteral(pattern string) string {
	longest := ""
	if strings.ContainsAny(pattern, `[\`) {
		return ""
	}
	for part := range strings.FieldsFuncSeq(pattern, func(r rune) bool { return r == '*' || r == '?' }) {
		if len(part) > len(longest) {
			longest = part
		}
	}
	return longest
}

// ofPaths is about the longest component without a pattern, of each path.
func ofPaths(p *predicate) guard {
	union := guard{}
	for _, path := range p.paths.list {
		longest := ""
		for _, c := range path {
			if len(c) > len(longest) && !isPattern(c) {
				longest = c
			}
		}
		if longest == "" {
			return nil
		}
		union = append(union, atom{operand: p.left, kind: has, text: longest})
	}
	return union
}

// ofRegex is about texts that are in whatever a pattern fits.
func ofRegex(operand int32, pattern string) guard {
	tree, err := syntax.Parse(pattern, syntax.ClassNL)
	if err != nil {
		return nil
	}
	literals, ok := required(tree)
	if !ok {
		return nil
	}
	union := guard{}
	for _, l := range literals {
		kind := has
		if l.first {
			kind = beginsWith
		}
		union = append(union, atom{operand: operand, kind: kind, text: l.text})
	}
	return union
}

// literal is a text in what a pattern fits; first says that it begins with it.
type literal struct {
	text  string
	first bool
}

// required returns texts, one of which is in whatever a pattern fits.
func required(re *syntax.Regexp) ([]literal, bool) {
	switch re.Op {
	case syntax.OpLiteral:
		text := string(re.Rune)
		// U+FFFD may stand for a byte that is not UTF-8.
		if re.Flags&syntax.FoldCase != 0 || strings.ContainsRune(text, 0xFFFD) {
			return nil, false
		}
		return []literal{{text, true}}, true
	case syntax.OpCapture, syntax.OpPlus:
		return required(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return required(re.Sub[0])
		}
	case syntax.OpConcat:
		var best []literal
		for i, sub := range re.Sub {
			all, ok := required(sub)
			if !ok || best != nil && shortest(all) <= shortest(best) {
				continue
			}
			if i > 0 {
				for j := range all {
					all[j].first = false
				}
			}
			best = all
		}
		return best, best != nil
	case syntax.OpAlternate:
		var union []literal
		for _, sub := range re.Sub {
			all, ok := required(sub)
			if !ok {
				return nil, false
			}
			union = append(union, all...)
		}
		return union, len(union) > 0
	}
	return nil, false
}

func shortest(all []literal) int {
	n := len(all[0].text)
	for _, l := range all {
		n = min(n, len(l.text))
	}
	return n
}
