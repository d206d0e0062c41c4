package condition

import (
	"strings"
	"unicode/utf8"
)

// Format writes a condition for people: on one line if it fits in width characters; else with
// every term of an [And] or [Or] on a line of its own, and what is in parentheses indented by two.
// Literals are written as they were. [Parse] makes the same tree of it, and Format the same text
// of that.
func Format(e Expr, width int) string {
	f := formatter{width: width}
	f.expr(e, 0, 0)
	return f.out.String()
}

type formatter struct {
	out   strings.Builder
	width int
}

// flat writes an expression on one line, with the parentheses that it needs or that help.
func flat(e Expr) string {
	switch e := e.(type) {
	case *And:
		return flatTerms(" and ", e.Terms)
	case *Or:
		return flatTerms(" or ", e.Terms)
	case *Not:
		return "not " + flatTerm(e.Term)
	}
	p := printer{asWritten: true}
	p.expr(e)
	return p.String()
}

func flatTerms(between string, terms []Expr) string {
	texts := make([]string, len(terms))
	for i, t := range terms {
		texts[i] = flatTerm(t)
	}
	return strings.Join(texts, between)
}

func flatTerm(e Expr) string {
	if grouped(e) {
		return "(" + flat(e) + ")"
	}
	return flat(e)
}

// grouped tells whether a term is in parentheses. An "and" in an "or" need not be, but people
// should not have to know that.
func grouped(e Expr) bool {
	switch e := e.(type) {
	case *And, *Or:
		return true
	case *Not:
		_, twice := e.Term.(*Not)
		return twice
	}
	return false
}

// expr writes an expression at a column, from a line that is indented by indent.
func (f *formatter) expr(e Expr, indent, column int) {
	if text := flat(e); column+utf8.RuneCountInString(text) <= f.width {
		f.out.WriteString(text)
		return
	}
	switch e := e.(type) {
	case *And:
		f.terms("and ", e.Terms, indent, column)
	case *Or:
		f.terms("or ", e.Terms, indent, column)
	case *Not:
		f.out.WriteString("not ")
		f.term(e.Term, indent, column+len("not "))
	case *Check:
		f.check(e, indent, column)
	default:
		f.out.WriteString(flat(e))
	}
}

func (f *formatter) terms(word string, terms []Expr, indent, column int) {
	for i, t := range terms {
		if i > 0 {
			f.line(indent)
			f.out.WriteString(word)
			column = indent + len(word)
		}
		f.term(t, indent, column)
	}
}

func (f *formatter) term(e Expr, indent, column int) {
	if !grouped(e) {
		f.expr(e, indent, column)
		return
	}
	f.out.WriteByte('(')
	if text := flat(e); column+utf8.RuneCountInString(text)+len("()") <= f.width {
		f.out.WriteString(text)
	} else {
		f.line(indent + 2)
		f.expr(e, indent+2, indent+2)
		f.line(indent)
	}
	f.out.WriteByte(')')
}

// check writes one that is too long for a line: a list is spread over several.
func (f *formatter) check(c *Check, indent, column int) {
	list, ok := c.Right.(*List)
	if !ok || list.Bare || len(list.Items) < 2 {
		f.out.WriteString(flat(c))
		return
	}
	p := printer{asWritten: true}
	p.beforeRight(c)
	f.out.WriteString(p.String())
	f.out.WriteString(" (")
	column = f.width + 1 // what comes first begins a line
	for i, item := range list.Items {
		p := printer{asWritten: true}
		p.operand(item)
		if i < len(list.Items)-1 {
			p.WriteByte(',')
		}
		text := p.String()
		n := utf8.RuneCountInString(text)
		if column+1+n > f.width {
			f.line(indent + 2)
			column = indent + 2
		} else {
			f.out.WriteByte(' ')
			column++
		}
		f.out.WriteString(text)
		column += n
	}
	f.line(indent)
	f.out.WriteByte(')')
}

func (f *formatter) line(indent int) {
	f.out.WriteByte('\n')
	f.out.WriteString(strings.Repeat(" ", indent))
}
