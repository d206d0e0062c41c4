// Package filter says which events somebody wants: boolean expressions over events, as
// subscriptions have them, and the selections of sinks, which are made of globs, pairs of
// noun and verb, and such an expression.
package filter

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-bexpr/grammar"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/spelling"
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
//
// Beside them stands priority, of alerts as their rules say it ("Critical"), "" of other events, and
// field["NAME"], or field["NAME[ARGUMENT]"], for what a plugin extracts of
// an event; see [CompileFields].
type Filter struct {
	text   string
	fields []string
	test   test
}

// Error says why a filter is refused.
type Error struct{ Reason string }

func (e *Error) Error() string { return "filter: " + e.Reason }

// Compile returns the filter of an expression, nil for one of only white
// space, which selects everything. Fields of plugins are refused. The error is a [*Error].
func Compile(text string) (*Filter, error) {
	return CompileFields(text, func(string, *string) error { return errors.New("fields of plugins cannot be used here") })
}

// CompileFields is Compile for who can extract fields of plugins. It refuses those, as they
// are written in the brackets, that allowed has an error for. That gets the text with which the
// whole field, or an element of a list, is compared; nil, if it is compared in another way.
func CompileFields(text string, allowed func(field string, equals *string) error) (*Filter, error) {
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
	c := compiler{allowed: allowed}
	test, err := c.compile(expression)
	if err != nil {
		return nil, err
	}
	return &Filter{text, c.fields, test}, nil
}

// String returns the expression without white space around it; "" for nil.
func (f *Filter) String() string {
	if f == nil {
		return ""
	}
	return f.text
}

// Match says whether the filter selects e, whose fields of plugins have no values. A nil Filter
// selects everything.
func (f *Filter) Match(e *event.Event) bool {
	if f == nil {
		return true
	}
	if f.test.plain != nil {
		return f.test.plain(e)
	}
	return f.test.full(e, noFields{})
}

// textSelectors and localSelector are what an expression can ask for.
var textSelectors = map[string]func(*event.Event) string{
	"event_type": func(e *event.Event) string { return e.Type },
	"namespace":  func(e *event.Event) string { return e.Namespace },
	"operation":  func(e *event.Event) string { s, _ := e.Metadata.Text(event.MetadataOperation); return s },
	"data_path":  func(e *event.Event) string { s, _ := e.Metadata.Text(event.MetadataDataPath); return s },
	"priority":   priority,
	"source_plugin_mount": func(e *event.Event) string {
		if e.Plugin == nil {
			return ""
		}
		return e.Plugin.MountPath
	},
}

// priority returns that of an alert.
func priority(e *event.Event) string {
	if !strings.HasPrefix(e.Type, severity.AlertTypes) {
		return ""
	}
	s, _ := e.Metadata.Text(severity.MetadataPriority)
	return s
}

const localSelector = "source_plugin_is_local"

// compiler makes functions of expressions.
type compiler struct {
	program int // instructions of the regular expressions so far
	fields  []string
	allowed func(field string, equals *string) error
}

func (c *compiler) compile(x grammar.Expression) (test, error) {
	switch x := x.(type) {
	case *grammar.UnaryExpression:
		t, err := c.compile(x.Operand)
		if err != nil {
			return test{}, err
		}
		return t.not(), nil
	case *grammar.BinaryExpression:
		t, err := c.compile(x.Left)
		if err != nil {
			return test{}, err
		}
		u, err := c.compile(x.Right)
		if err != nil {
			return test{}, err
		}
		if x.Operator == grammar.BinaryOpAnd {
			return t.and(u), nil
		}
		return t.or(u), nil
	case *grammar.MatchExpression:
		return c.compileMatch(x)
	case *grammar.CollectionExpression:
		return test{}, &Error{fmt.Sprintf("%s is not a collection, so any and all do not apply to it", x.Selector)}
	}
	return test{}, &Error{fmt.Sprintf("has an unknown expression %T", x)}
}

func (c *compiler) compileMatch(x *grammar.MatchExpression) (test, error) {
	switch path := x.Selector.Path; {
	case len(path) == 1 && path[0] == localSelector:
		match, err := compileLocal(x)
		return test{plain: match}, err
	case len(path) == 1 && textSelectors[path[0]] != nil:
		match, err := c.compileText(x, textSelectors[path[0]])
		return test{plain: match}, err
	case path[0] == fieldSelector:
		match, err := c.compileField(x)
		return test{full: match}, err
	}
	known := []string{localSelector, fieldSelector + `["..."]`}
	names := []string{localSelector}
	for name := range textSelectors {
		known, names = append(known, name), append(names, name)
	}
	slices.Sort(known)
	name, hint := strings.Join(x.Selector.Path, "."), ""
	if near := spelling.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return test{}, &Error{fmt.Sprintf("has an unknown selector %q; there are %s%s", name, strings.Join(known, ", "), hint)}
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
