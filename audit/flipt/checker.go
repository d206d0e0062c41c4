package flipt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// EventPairChecker says which events are wanted.
type EventPairChecker interface {
	// Check reports whether events of a pair, "noun:verb", are wanted.
	Check(eventPair string) bool
	// Events returns all pairs that are wanted.
	Events() []string
}

// Vocabulary are the nouns and verbs of a program.
type Vocabulary struct{ Nouns, Verbs []string }

// Flipt is the vocabulary of Flipt.
var Flipt = Vocabulary{
	Nouns: []string{"constraint", "distribution", "flag", "namespace", "rollout", "rule", "segment", "token", "variant"},
	Verbs: []string{"created", "deleted", "updated"},
}

// DefaultEvents is the list of pairs of those who configure none.
var DefaultEvents = []string{"*:*"}

// Checker is an [EventPairChecker] for a list of pairs. A nil Checker wants nothing. It does not
// change, so it is safe for concurrent use.
type Checker struct{ pairs map[string]bool }

// NewChecker returns a checker of Flipt's [Vocabulary]. In each pair "*" stands for every noun
// or every verb. The errors are
//
//	invalid event pair: X      there is no colon
//	invalid noun: X            none of the vocabulary, which is case-sensitive
//	invalid verb: X
//	repeated event pair: X     two of the list mean the same
//	no event pairs exist       the list is empty
//
// What stands behind a second colon does not count.
func NewChecker(eventPairs []string) (*Checker, error) { return Flipt.NewChecker(eventPairs) }

// NewChecker returns a checker for pairs of v; see the function of the same name.
func (v Vocabulary) NewChecker(eventPairs []string) (*Checker, error) {
	c := &Checker{make(map[string]bool)}
	for _, pair := range eventPairs {
		parts := strings.Split(pair, ":")
		if len(parts) < 2 {
			return nil, fmt.Errorf("invalid event pair: %s", pair)
		}
		nouns, ok := expand(parts[0], v.Nouns)
		if !ok {
			return nil, fmt.Errorf("invalid noun: %s", parts[0])
		}
		verbs, ok := expand(parts[1], v.Verbs)
		if !ok {
			return nil, fmt.Errorf("invalid verb: %s", parts[1])
		}
		for _, noun := range nouns {
			for _, verb := range verbs {
				if p := noun + ":" + verb; !c.pairs[p] {
					c.pairs[p] = true
				} else {
					return nil, fmt.Errorf("repeated event pair: %s", p)
				}
			}
		}
	}
	if len(c.pairs) == 0 {
		return nil, errors.New("no event pairs exist")
	}
	return c, nil
}

// expand returns the words that are meant.
func expand(word string, all []string) ([]string, bool) {
	if word == "*" {
		return all, true
	}
	return []string{word}, slices.Contains(all, word)
}

// Check reports whether a pair is in the list, exactly as it is written.
func (c *Checker) Check(eventPair string) bool { return c != nil && c.pairs[eventPair] }

// Events returns the pairs, sorted.
func (c *Checker) Events() []string {
	if c == nil {
		return []string{}
	}
	all := make([]string, 0, len(c.pairs))
	for pair := range c.pairs {
		all = append(all, pair)
	}
	slices.Sort(all)
	return all
}

// ParseEvents splits the list of pairs as it is in Flipt's environment variable
// FLIPT_AUDIT_EVENTS: by spaces.
func ParseEvents(text string) []string { return strings.Fields(text) }

// NoOpChecker is an [EventPairChecker] that wants nothing.
type NoOpChecker struct{}

// Check returns false.
func (NoOpChecker) Check(string) bool { return false }

// Events returns an empty list.
func (NoOpChecker) Events() []string { return []string{} }
