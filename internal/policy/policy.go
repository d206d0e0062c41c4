// Package policy is the language in which operators say who may do what: Vault's
// policies, in HCL or JSON. It parses and prints texts, combines the policies of
// somebody into an [ACL], and answers from it whether an operation is allowed or an
// event may be seen, and by which rule.
//
// It stores nothing, knows no tokens and has no clock; package access does.
//
// # How rules are combined
//
// Rules with equal patterns, of whichever policies, are merged: capabilities and
// event types are united, and if one of them says deny, only deny remains. Different
// patterns are never merged: for a path exactly one wins. That is the exact one (for
// lists also that of the path without its trailing slash), or else the best of the
// longest prefix and all that match by "+", by, in turn: the later first "+" or "*";
// no "*" at the end; fewer "+"; the longer pattern; the lexicographically larger. A
// list with a trailing slash considers the path with and without it, and there a deny
// beats every less specific rule that grants list. Where no rule matches, nothing is
// allowed.
//
// # What differs from Vault
//
// Everything here is on the safe side: it refuses or denies what Vault accepts.
//
//   - Rules with control_group or mfa_methods deny: neither can be satisfied here.
//   - Values of templates are literals that cannot widen a pattern: a rule is skipped
//     if a value is not one plain path segment; see [Compile].
//   - Texts and patterns are bounded, keys of JSON objects must not repeat, JSON must
//     be JSON, and patterns have no control characters.
//   - Unknown capabilities are errors also beside deny.
//
// And in these Vault depends on chance or types where this package does not: event
// types of merged rules are united whichever comes first, and numbers in
// allowed_parameters and denied_parameters match equal numbers.
package policy

import (
	"fmt"
	"strings"
)

// The bounds of a text.
const (
	// MaxBytes bounds the text of one policy.
	MaxBytes = 256 << 10
	// MaxRules bounds its path stanzas.
	MaxRules = 10_000
	// MaxPatternBytes bounds one pattern.
	MaxPatternBytes = 1024
	// MaxEventTypes bounds subscribe_event_types of one stanza.
	MaxEventTypes = 256
	// MaxNesting bounds how deep objects and lists may be in each other. A rule with
	// everything has five.
	MaxNesting = 8
	// maxProblems bounds how many problems of a text are collected.
	maxProblems = 100
)

// Capabilities is a set of what a rule grants.
type Capabilities uint16

// The capabilities, with the names that Vault gives them in lower case. Root is
// never written in a policy: it is the answer for those who may do everything.
const (
	Create Capabilities = 1 << iota
	Read
	Update
	Delete
	List
	Sudo
	Deny
	Patch
	Subscribe
	Recover
	Root
)

// capabilityNames is in alphabetical order.
var capabilityNames = []struct {
	name string
	bit  Capabilities
}{
	{"create", Create},
	{"delete", Delete},
	{"deny", Deny},
	{"list", List},
	{"patch", Patch},
	{"read", Read},
	{"recover", Recover},
	{"root", Root},
	{"subscribe", Subscribe},
	{"sudo", Sudo},
	{"update", Update},
}

// Has says whether c has all of other.
func (c Capabilities) Has(other Capabilities) bool { return c&other == other }

// Names returns the names in alphabetical order; ["deny"] for none or when Deny is
// one of them, as Vault answers.
func (c Capabilities) Names() []string {
	if c == 0 || c.Has(Deny) {
		return []string{"deny"}
	}
	var names []string
	for _, n := range capabilityNames {
		if c.Has(n.bit) {
			names = append(names, n.name)
		}
	}
	return names
}

// String returns the names separated by ", ".
func (c Capabilities) String() string { return strings.Join(c.Names(), ", ") }

// CapabilityByName returns the capability that can be written in a policy by this
// name; false for other names.
func CapabilityByName(name string) (Capabilities, bool) {
	for _, n := range capabilityNames {
		if n.name == name && n.bit != Root {
			return n.bit, true
		}
	}
	return 0, false
}

// Position is a place in the text of a policy; both begin with 1. Columns count
// characters.
type Position struct{ Line, Column int }

func (p Position) String() string { return fmt.Sprintf("line %d, column %d", p.Line, p.Column) }

// Problem is something wrong in the text of a policy.
type Problem struct {
	Position
	Message string
}

func (p Problem) String() string { return p.Position.String() + ": " + p.Message }

// Error is all problems of a text, in its order; never empty.
type Error []Problem

// Error lists the first ten problems, one per line.
func (e Error) Error() string {
	const shown = 10
	var b strings.Builder
	for i, p := range e {
		if i == shown {
			fmt.Fprintf(&b, "\nand %d more", len(e)-shown)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// Rule is one path stanza.
type Rule struct {
	// Pattern is the path as written, without a leading slash. It may have
	// templates.
	Pattern string
	// Capabilities is [Deny] alone if the stanza has deny.
	Capabilities Capabilities
	// EventTypes are the globs of subscribe_event_types, in their order.
	EventTypes []string
	Comment    string
	// Position is that of the pattern.
	Position Position

	parts []part // of Pattern, nil if it has no templates

	allowed, denied map[string][]any // parameters by lower case name; an empty list means all values
	required        []string
	wrapped         bool   // has a wrapping TTL: refuses all that is not wrapped
	unsupported     string // the key that makes the rule deny, if any
}

// closes says whether the rule can only take away.
func (r *Rule) closes() bool {
	return r.Capabilities == 0 || r.Capabilities.Has(Deny) || r.unsupported != ""
}

// Policy is a parsed text. It is immutable and safe for concurrent use.
type Policy struct {
	Name  string
	Rules []Rule
}

// RootPolicy is the policy that allows everything. It has no text, and nothing that
// [Parse] returns is it, whatever its name.
var RootPolicy = &Policy{Name: "root"}

// Templated says whether what the policy allows depends on the subject.
func (p *Policy) Templated() bool {
	for i := range p.Rules {
		if p.Rules[i].parts != nil {
			return true
		}
	}
	return false
}
