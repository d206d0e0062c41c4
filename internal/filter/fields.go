package filter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-bexpr/grammar"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
)

// MaxFields bounds the different fields of plugins in one filter.
const MaxFields = 16

// fieldSelector is the first part of the selector of a field; the name of the field, with
// its argument, is the second and last.
const fieldSelector = "field"

// Row has the fields of plugins of one event.
type Row interface {
	// Texts returns the elements of a field, which is numbered as in [Filter.Fields], as people
	// write them, and whether it is a list. There are none if the event does not have it.
	Texts(field int) (texts []string, list bool)
}

// noFields is a Row without values.
type noFields struct{}

func (noFields) Texts(int) ([]string, bool) { return nil, false }

// Fields returns the fields of plugins that the filter asks for, as they are written; none for
// nil. They must not be changed.
func (f *Filter) Fields() []string {
	if f == nil {
		return nil
	}
	return f.fields
}

// MatchRow says whether the filter selects e, whose fields are in row. The row is asked only if
// and when a field decides: parts of the expression that need none come first.
//
// Of a list an operator must hold for one element; in and contains mean there that the text is
// an element, of others that it is a part. Without a value only the negations hold.
func (f *Filter) MatchRow(e *event.Event, row Row) bool {
	switch {
	case f == nil:
		return true
	case f.test.plain != nil:
		return f.test.plain(e)
	}
	return f.test.full(e, row)
}

// test is a part of an expression: plain is set if it needs no fields, otherwise full.
type test struct {
	plain func(*event.Event) bool
	full  func(*event.Event, Row) bool
}

func (t test) not() test {
	if f := t.plain; f != nil {
		return test{plain: func(e *event.Event) bool { return !f(e) }}
	}
	f := t.full
	return test{full: func(e *event.Event, r Row) bool { return !f(e, r) }}
}

func (t test) and(u test) test {
	switch {
	case t.plain != nil && u.plain != nil:
		f, g := t.plain, u.plain
		return test{plain: func(e *event.Event) bool { return f(e) && g(e) }}
	case t.plain == nil && u.plain == nil:
		f, g := t.full, u.full
		return test{full: func(e *event.Event, r Row) bool { return f(e, r) && g(e, r) }}
	case t.plain == nil:
		t, u = u, t
	}
	f, g := t.plain, u.full
	return test{full: func(e *event.Event, r Row) bool { return f(e) && g(e, r) }}
}

func (t test) or(u test) test {
	switch {
	case t.plain != nil && u.plain != nil:
		f, g := t.plain, u.plain
		return test{plain: func(e *event.Event) bool { return f(e) || g(e) }}
	case t.plain == nil && u.plain == nil:
		f, g := t.full, u.full
		return test{full: func(e *event.Event, r Row) bool { return f(e, r) || g(e, r) }}
	case t.plain == nil:
		t, u = u, t
	}
	f, g := t.plain, u.full
	return test{full: func(e *event.Event, r Row) bool { return f(e) || g(e, r) }}
}

// compileField compiles a comparison with a field of plugins.
func (c *compiler) compileField(x *grammar.MatchExpression) (func(*event.Event, Row) bool, error) {
	if len(x.Selector.Path) != 2 {
		return nil, &Error{`has a field that is not written as field["NAME"] or field["NAME[ARGUMENT]"]`}
	}
	var value string
	if x.Value != nil {
		value = x.Value.Raw
	}
	var equals *string
	if x.Operator == grammar.MatchEqual || x.Operator == grammar.MatchNotEqual {
		equals = &value
	}
	number, err := c.field(x.Selector.Path[1], equals)
	if err != nil {
		return nil, err
	}
	equal := func(text string) bool { return text == value }
	part := func(text string) bool { return strings.Contains(text, value) }
	some := func(r Row, single, element func(string) bool) bool {
		texts, list := r.Texts(number)
		if list {
			return slices.ContainsFunc(texts, element)
		}
		return len(texts) > 0 && single(texts[0])
	}
	negate := func(f func(*event.Event, Row) bool) func(*event.Event, Row) bool {
		return func(e *event.Event, r Row) bool { return !f(e, r) }
	}
	is := func(_ *event.Event, r Row) bool { return some(r, equal, equal) }
	has := func(_ *event.Event, r Row) bool { return some(r, part, equal) }
	empty := func(_ *event.Event, r Row) bool {
		texts, list := r.Texts(number)
		return len(texts) == 0 || !list && texts[0] == ""
	}
	switch x.Operator {
	case grammar.MatchEqual:
		return is, nil
	case grammar.MatchNotEqual:
		return negate(is), nil
	case grammar.MatchIn, grammar.MatchContains:
		return has, nil
	case grammar.MatchNotIn, grammar.MatchNotContains:
		return negate(has), nil
	case grammar.MatchIsEmpty:
		return empty, nil
	case grammar.MatchIsNotEmpty:
		return negate(empty), nil
	case grammar.MatchMatches, grammar.MatchNotMatches:
		re, err := c.compileRegexp(value)
		if err != nil {
			return nil, err
		}
		matches := func(_ *event.Event, r Row) bool { return some(r, re.MatchString, re.MatchString) }
		if x.Operator == grammar.MatchMatches {
			return matches, nil
		}
		return negate(matches), nil
	}
	return nil, notApplicable(x)
}

// field returns the number of a field that the expression asks for.
func (c *compiler) field(text string, equals *string) (int, error) {
	i := slices.Index(c.fields, text)
	if i < 0 && len(c.fields) == MaxFields {
		return 0, &Error{fmt.Sprintf("asks for more than %d different fields", MaxFields)}
	}
	if _, _, _, err := fieldtext.Split(text); err != nil {
		return 0, &Error{err.Error()}
	}
	if err := c.allowed(text, equals); err != nil {
		return 0, &Error{err.Error()}
	}
	if i >= 0 {
		return i, nil
	}
	c.fields = append(c.fields, text)
	return len(c.fields) - 1, nil
}
