// Package filter says which events somebody wants: boolean expressions over events, as
// subscriptions have them, and the selections of sinks, which are made of globs, pairs of
// noun and verb, and such an expression.
package filter

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-bexpr/grammar"
	"github.com/tocsin-events/tocsin/event"
)

const (
	// MaxBytes bounds the text of a filter.
	MaxBytes = 4096
	// maxSteps bounds the work of the parser, which quadruples with each
	// level of parentheses: enough for six levels, and at most some 50 ms.
	maxSteps = 2_000_000
	// maxProgram bounds the instructions of all regular expressions of a
	// filter together: matching may take a step for each of them at each character.
	maxProgram = 1000
)

// Filter is a boolean expression over an event, in the language of
// github.com/hashicorp/go-bexpr with Vault's six selectors: event_type,
// operation, source_plugin_mount, data_path, namespace (both with a trailing
// slash) and source_plugin_is_local. Whether an expression fits the type of its
// selector is decided when it is compiled, so matching cannot fail. A Filter is
// immutable and safe for concurrent use.
type Filter struct {
	text  string
	match func(*event.Event) bool
}

// Error says why a filter is refused.
type Error struct{ Reason string }

func (e *Error) Error() string { return "filter: " + e.Reason }

// Compile returns the filter of an expression, nil for one of only white
// space, which selects everything. The error is a [*Error].
func Compile(text string) (*Filter, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return nil, nil
	case len(text) > MaxBytes:
		return nil, &Error{fmt.Sprintf("is %d bytes long, at most %d are allowed", len(text), MaxBytes)}
	}
	tree, err := grammar.Parse("", []byte(text), grammar.MaxExpressions(maxSteps))
	if err != nil {
		return nil, &Error{"cannot be parsed: " + firstLine(err.Error())}
	}
	expression, ok := tree.(grammar.Expression)
	if !ok {
		return nil, &Error{"cannot be parsed"}
	}
	match, err := new(compiler).compile(expression)
	if err != nil {
		return nil, err
	}
	return &Filter{text, match}, nil
}

// String returns the expression without white space around it; "" for nil.
func (f *Filter) String() string {
	if f == nil {
		return ""
	}
	return f.text
}

// Match says whether the filter selects e. A nil Filter selects everything.
func (f *Filter) Match(e *event.Event) bool { return f == nil || f.match(e) }

// textSelectors and localSelector are what an expression can ask for.
var textSelectors = map[string]func(*event.Event) string{
	"event_type": func(e *event.Event) string { return e.Type },
	"namespace":  func(e *event.Event) string { return e.Namespace },
	"operation":  func(e *event.Event) string { s, _ := e.Metadata.Text(event.MetadataOperation); return s },
	"data_path":  func(e *event.Event) string { s, _ := e.Metadata.Text(event.MetadataDataPath); return s },
	"source_plugin_mount": func(e *event.Event) string {
		if e.Plugin == nil {
			return ""
		}
		return e.Plugin.MountPath
	},
}

const localSelector = "source_plugin_is_local"

// compiler makes functions of expressions.
type compiler struct {
	program int // instructions of the regular expressions so far
}

func (c *compiler) compile(x grammar.Expression) (func(*event.Event) bool, error) {
	switch x := x.(type) {
	case *grammar.UnaryExpression:
		f, err := c.compile(x.Operand)
		if err != nil {
			return nil, err
		}
		return func(e *event.Event) bool { return !f(e) }, nil
	case *grammar.BinaryExpression:
		f, err := c.compile(x.Left)
		if err != nil {
			return nil, err
		}
		g, err := c.compile(x.Right)
		if err != nil {
			return nil, err
		}
		if x.Operator == grammar.BinaryOpAnd {
			return func(e *event.Event) bool { return f(e) && g(e) }, nil
		}
		return func(e *event.Event) bool { return f(e) || g(e) }, nil
	case *grammar.MatchExpression:
		return c.compileMatch(x)
	case *grammar.CollectionExpression:
		return nil, &Error{fmt.Sprintf("%s is not a collection, so any and all do not apply to it", x.Selector)}
	}
	return nil, &Error{fmt.Sprintf("has an unknown expression %T", x)}
}

func (c *compiler) compileMatch(x *grammar.MatchExpression) (func(*event.Event) bool, error) {
	if len(x.Selector.Path) == 1 {
		name := x.Selector.Path[0]
		if name == localSelector {
			return compileLocal(x)
		}
		if get, ok := textSelectors[name]; ok {
			return c.compileText(x, get)
		}
	}
	known := []string{localSelector}
	for name := range textSelectors {
		known = append(known, name)
	}
	slices.Sort(known)
	return nil, &Error{fmt.Sprintf("has an unknown selector %q; there are %s", strings.Join(x.Selector.Path, "."), strings.Join(known, ", "))}
}

func (c *compiler) compileText(x *grammar.MatchExpression, get func(*event.Event) string) (func(*event.Event) bool, error) {
	var value string
	if x.Value != nil {
		value = x.Value.Raw
	}
	switch x.Operator {
	case grammar.MatchEqual:
		return func(e *event.Event) bool { return get(e) == value }, nil
	case grammar.MatchNotEqual:
		return func(e *event.Event) bool { return get(e) != value }, nil
	case grammar.MatchIn, grammar.MatchContains:
		return func(e *event.Event) bool { return strings.Contains(get(e), value) }, nil
	case grammar.MatchNotIn, grammar.MatchNotContains:
		return func(e *event.Event) bool { return !strings.Contains(get(e), value) }, nil
	case grammar.MatchIsEmpty:
		return func(e *event.Event) bool { return get(e) == "" }, nil
	case grammar.MatchIsNotEmpty:
		return func(e *event.Event) bool { return get(e) != "" }, nil
	case grammar.MatchMatches, grammar.MatchNotMatches:
		re, err := c.compileRegexp(value)
		if err != nil {
			return nil, err
		}
		want := x.Operator == grammar.MatchMatches
		return func(e *event.Event) bool { return re.MatchString(get(e)) == want }, nil
	}
	return nil, notApplicable(x)
}

func (c *compiler) compileRegexp(text string) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, &Error{fmt.Sprintf("has an invalid regular expression: %v", err)}
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, &Error{fmt.Sprintf("has an invalid regular expression: %v", err)}
	}
	if c.program += len(program.Inst); c.program > maxProgram {
		return nil, &Error{fmt.Sprintf("has too large regular expressions: together they may have about %d characters, counting x{0,500} as 500", maxProgram)}
	}
	return regexp.Compile(text)
}

func compileLocal(x *grammar.MatchExpression) (func(*event.Event) bool, error) {
	if x.Operator != grammar.MatchEqual && x.Operator != grammar.MatchNotEqual {
		return nil, notApplicable(x)
	}
	value, err := strconv.ParseBool(x.Value.Raw)
	if err != nil {
		return nil, &Error{fmt.Sprintf("compares %s with %q, which is neither true nor false", localSelector, x.Value.Raw)}
	}
	want := value == (x.Operator == grammar.MatchEqual)
	return func(e *event.Event) bool { return (e.Plugin != nil && e.Plugin.IsLocal) == want }, nil
}

func notApplicable(x *grammar.MatchExpression) error {
	return &Error{fmt.Sprintf("the operator %q does not apply to %s", strings.ToLower(x.Operator.String()), x.Selector)}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
