// Package load reads files of rules: rules, macros, lists, exceptions, and what later files append
// to or override in earlier ones, with the order, the substitutions and the checks of Falco. What
// comes out is a list of rules whose conditions are complete: no macros and no names of lists are
// left in them.
package load

import (
	"strconv"
	"time"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/severity"
)

// File is a file of rules.
type File struct {
	Name    string // as people know it
	Content []byte
}

// Rule is a rule, in definition order.
type Rule struct {
	Name, Description string
	Source            string // event source; "syscall" if the file does not say
	Priority          severity.Severity
	Tags              []string // sorted
	Enabled           bool

	ConditionText string // as written, appended texts included
	Condition     condition.Expr
	Output        string // the template

	// Window and Throttle are extensions of this hub, in the keys "window" and "throttle".
	Window   *Window
	Throttle *Throttle

	// At is where the rule was defined.
	At Place
}

// Place is in a file. Lines and columns count from 1.
type Place struct {
	File         string
	Line, Column int
	Offset       int // in bytes, from 0
}

// String returns file:line:column, or the file alone if that is all that is known.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
}

// Window makes a rule one about several events: Count of them within a time, or some that follow
// each other, or something that was not there before, for each value of By.
type Window struct {
	Within time.Duration
	By     []string // fields; events that have not all of them do not count

	// Count and Distinct: so many events, or, with Distinct, events with so many different values
	// of that field.
	Count    int
	Distinct string
	// Then are the conditions of the events that must follow one that fits the rule's, in order.
	Then []condition.Expr
	// New: the values of these fields were not seen together with those of By, within the time.
	New []string
}

// Throttle bounds how often a rule raises an alert. What it holds back is counted, and the count
// is in the next alert or in one of its own.
type Throttle struct {
	Every time.Duration // at most one alert in this time
	By    []string      // for each value of these fields; empty: of the rule
}

// Selection enables or disables rules after all files are read, as "rules" of Falco's configuration
// does. They are applied in order.
type Selection struct {
	Enable bool
	// Rule is the name of a rule, in which * stands for any text; Tag is a tag. One of them is set.
	Rule, Tag string
}
