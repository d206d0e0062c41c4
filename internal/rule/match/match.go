// Package match decides which rules fit an event. It compiles the conditions of rules against the
// fields that there are, with Falco's table of operators and types and its errors, and evaluates
// them without allocation: what several rules ask is asked once.
//
// A [Builder] collects the conditions of the rules of one event source. The [Matcher] that it
// builds does not change and may be shared; each goroutine has a [State] of it.
//
// What surprises is as in Falco: a field that an event does not have makes every comparison false,
// also !=. Of a list, in wants all values and intersects one. A regex must fit the whole value.
package match

import (
	"regexp"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
)

// Builder compiles conditions. Those of one Builder share their work at an event.
type Builder struct {
	operands   *operands
	predicates []predicate
	nodes      []node
	byKey      map[string]int32 // nodes
	rules      []int32          // the nodes of the rules
	long       map[*condition.Check]longCheck
	regexes    map[string]*regexp.Regexp
	regexSize  int  // of all of them
	plain      bool // without indexes
}

// NewBuilder returns a Builder of conditions on these fields. The fields that conditions ask for
// are added to the requests, so rows may be made when all conditions have been added.
func NewBuilder(requests *field.Requests) *Builder {
	return &Builder{
		operands: newOperands(requests), byKey: make(map[string]int32),
		long: make(map[*condition.Check]longCheck), regexes: make(map[string]*regexp.Regexp),
	}
}

// Add compiles the condition of a rule. Rules have numbers from 0 in the order in which they were
// added; one that is refused has none. There must be no macros in the condition. The error, and
// the warnings that come with or without one, say where in the condition.
func (b *Builder) Add(e condition.Expr) (warnings []*condition.Error, err error) {
	n, warnings, err := b.compile(e)
	if err == nil {
		b.rules = append(b.rules, n)
	}
	return warnings, err
}

// Condition is a condition that is no rule's: see [State.Holds].
type Condition int32

// AddCondition compiles a condition that is asked for by itself.
func (b *Builder) AddCondition(e condition.Expr) (c Condition, warnings []*condition.Error, err error) {
	n, warnings, err := b.compile(e)
	return Condition(n), warnings, err
}

// Build returns a Matcher of all that was added. The Builder must not be used any more.
func (b *Builder) Build() *Matcher {
	m := &Matcher{operands: b.operands.list, predicates: b.predicates, nodes: b.nodes, rules: b.rules}
	m.indexes, m.texts, m.unguarded = b.indexRules()
	m.gates = b.gates()
	return m
}

// Matcher knows the conditions of the rules of an event source. It may be used by several
// goroutines.
type Matcher struct {
	operands   []operand
	predicates []predicate
	nodes      []node
	rules      []int32
	indexes    []index
	texts      int    // that indexes search for
	unguarded  bitset // the rules that no index tells about
	gates      []gate
}

// Rules returns how many rules there are.
func (m *Matcher) Rules() int { return len(m.rules) }

// State evaluates the conditions of a Matcher at one event after the other. It belongs to one
// goroutine.
type State struct {
	*Matcher
	values values
	epoch  uint32
	// results has for each node the epoch in which it was evaluated, and the result in the lowest
	// bit.
	results    []uint32
	found      []uint32 // for each text that indexes search for, the last epoch in which it was there
	candidates bitset
	next       int // the first rule that was not looked at; -1: candidates are of another event
}

// NewState returns a State that is at no event: Start comes first.
func (m *Matcher) NewState() *State {
	return &State{
		Matcher: m, values: *newValues(m.operands),
		results: make([]uint32, len(m.nodes)), found: make([]uint32, m.texts), candidates: make(bitset, len(m.unguarded)),
	}
}

// Start begins with an event.
func (s *State) Start(row field.Row) {
	s.values.start(row)
	s.epoch += 2
	if s.epoch == 0 {
		clear(s.results)
		clear(s.found)
		s.epoch = 2
	}
	s.next = -1
}

// Next returns the next rule that fits the event, in the order in which they were added. It
// evaluates little more than it must to know.
func (s *State) Next() (rule int, ok bool) {
	if s.next < 0 {
		s.choose()
	}
	for {
		n := s.candidates.from(s.next)
		if n < 0 {
			s.next = len(s.candidates) * 64
			return 0, false
		}
		s.next = n + 1
		if s.holds(s.rules[n]) {
			return n, true
		}
	}
}

// choose finds the rules that must be looked at.
func (s *State) choose() {
	s.next = 0
	copy(s.candidates, s.unguarded)
	for i := range s.indexes {
		ix := &s.indexes[i]
		if elements, ok := s.values.get(ix.operand); ok {
			ix.candidates(elements, s.candidates, s.found, s.epoch)
		}
	}
	for i := range s.gates {
		if g := &s.gates[i]; s.candidates.intersects(g.rules) && !s.holds(g.node) {
			s.candidates.remove(g.rules)
		}
	}
}

// Holds says whether a condition that was compiled for itself fits the event.
func (s *State) Holds(c Condition) bool { return s.holds(int32(c)) }

func (s *State) holds(n int32) bool {
	if r := s.results[n]; r&^1 == s.epoch {
		return r&1 != 0
	}
	nd := &s.nodes[n]
	var result bool
	switch nd.kind {
	case leaf:
		result = s.predicates[nd.predicate].eval(&s.values)
	case negation:
		result = !s.holds(nd.terms[0])
	case conjunction:
		result = true
		for _, t := range nd.terms {
			if !s.holds(t) {
				result = false
				break
			}
		}
	case disjunction:
		for _, t := range nd.terms {
			if s.holds(t) {
				result = true
				break
			}
		}
	}
	s.results[n] = s.epoch
	if result {
		s.results[n]++
	}
	return result
}
