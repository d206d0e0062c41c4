package condition

import (
	"strings"
	"unicode/utf8"
)

// Format writes a condition for people: on one line if it fits in width characters; else with
// every term of an [And] or [Or] on a line of its own, and what is in parentheses indented by two.
// Literals are written as they were. [Parse] makes the same tree of it, and Format the same text
// of that, unless the parentheses that it adds, around an [And] in an [Or], are beyond [MaxNesting].
func Format(e Expr, width int) string {
	f := formatter{printer: printer{asWritten: true}, width: width, sizes: make(map[Expr]int)}
	f.layout(e, 0, 0)
	return f.String()
}

type formatter struct {
	printer
	width int
	sizes map[Expr]int // of what was asked for
}

// size returns how many characters an expression has on one line.
func (f *formatter) size(e Expr) int {
	n, ok := f.sizes[e]
	if ok {
		return n
	}
	switch e := e.(type) {
	case *And:
		n = f.termSizes(len(" and "), e.Terms)
	case *Or:
		n = f.termSizes(len(" or "), e.Terms)
	case *Not:
		n = len("not ") + f.termSizes(0, []Expr{e.Term})
	default:
		p := printer{asWritten: true}
		p.expr(e)
		n = utf8.RuneCountInString(p.String())
	}
	f.sizes[e] = n
	return n
}

func (f *formatter) termSizes(between int, terms []Expr) int {
	n := between * (len(terms) - 1)
	for _, t := range terms {
		if n += f.size(t); grouped(t) {
			n += len("()")
		}
	}
	return n
}

// flat writes an expression on one line, with the parentheses that it needs or that help.
func (f *formatter) flat(e Expr) {
	switch e := e.(type) {
	case *And:
		f.flatTerms(" and ", e.Terms)
	case *Or:
		f.flatTerms(" or ", e.Terms)
	case *Not:
		f.WriteString("not ")
		f.flatTerms("", []Expr{e.Term})
	default:
		f.expr(e)
	}
}

func (f *formatter) flatTerms(between string, terms []Expr) {
	for i, t := range terms {
		if i > 0 {
			f.WriteString(between)
		}
		if grouped(t) {
			f.WriteByte('(')
			f.flat(t)
			f.WriteByte(')')
		} else {
			f.flat(t)
		}
	}
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

// layout writes an expression at a column, from a line that is indented by indent.
func (f *formatter) layout(e Expr, indent, column int) {
	if column+f.size(e) <= f.width {
		f.flat(e)
		return
	}
	switch e := e.(type) {
	case *And:
		f.lines("and ", e.Terms, indent, column)
	case *Or:
		f.lines("or ", e.Terms, indent, column)
	case *Not:
		f.WriteString("not ")
		f.term(e.Term, indent, column+len("not "))
	case *Check:
		f.longCheck(e, indent)
	default:
		f.flat(e)
	}
}

func (f *formatter) lines(word string, terms []Expr, indent, column int) {
	for i, t := range terms {
		if i > 0 {
			f.line(indent)
			f.WriteString(word)
			column = indent + len(word)
		}
		f.term(t, indent, column)
	}
}

func (f *formatter) term(e Expr, indent, column int) {
	if !grouped(e) {
		f.layout(e, indent, column)
		return
	}
	f.WriteByte('(')
	if column+f.size(e)+len("()") <= f.width {
		f.flat(e)
	} else {
		f.line(indent + 2)
		f.layout(e, indent+2, indent+2)
		f.line(indent)
	}
	f.WriteByte(')')
}

// longCheck writes a check that is too long for a line: a list is spread over several.
func (f *formatter) longCheck(c *Check, indent int) {
	list, ok := c.Right.(*List)
	if !ok || list.Bare || len(list.Items) < 2 {
		f.flat(c)
		return
	}
	f.beforeRight(c)
	f.WriteString(" (")
	column := f.width // what comes first begins a line
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
			f.WriteByte(' ')
			column++
		}
		f.WriteString(text)
		column += n
	}
	f.line(indent)
	f.WriteByte(')')
}

// deepest bounds how far lines are indented: beyond it, depth is no help.
const deepest = 60

func (f *formatter) line(indent int) {
	f.WriteByte('\n')
	f.WriteString(strings.Repeat(" ", min(indent, deepest)))
}
