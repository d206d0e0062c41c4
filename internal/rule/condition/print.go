package condition

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// String writes a condition on one line, in the form in which Falco shows conditions that are
// compiled: every [And] and [Or] has its parentheses. [Parse] makes the same tree of it.
func String(e Expr) string {
	var b strings.Builder
	writeExpr(&b, e)
	return b.String()
}

// OperandString writes an operand as it is on the left side of a check, or on the right.
func OperandString(o Operand) string {
	var b strings.Builder
	writeOperand(&b, o)
	return b.String()
}

func writeExpr(b *strings.Builder, e Expr) {
	switch e := e.(type) {
	case *And:
		writeTerms(b, " and ", e.Terms)
	case *Or:
		writeTerms(b, " or ", e.Terms)
	case *Not:
		b.WriteString("not ")
		writeExpr(b, e.Term)
	case *Macro:
		b.WriteString(e.Name)
	case *Check:
		writeCheck(b, e)
	default:
		panic(fmt.Sprintf("no such expression: %T", e))
	}
}

func writeTerms(b *strings.Builder, between string, terms []Expr) {
	b.WriteByte('(')
	for i, t := range terms {
		if i > 0 {
			b.WriteString(between)
		}
		writeExpr(b, t)
	}
	b.WriteByte(')')
}

func writeCheck(b *strings.Builder, c *Check) {
	writeOperand(b, c.Left)
	b.WriteByte(' ')
	b.WriteString(string(c.Op))
	if c.Doubled {
		b.WriteByte('=')
	}
	if c.Modifier != None {
		b.WriteByte(' ')
		b.WriteString(string(c.Modifier))
	}
	if c.Right != nil {
		b.WriteByte(' ')
		writeOperand(b, c.Right)
	}
}

func writeOperand(b *strings.Builder, o Operand) {
	switch o := o.(type) {
	case *Field:
		if o.Val {
			b.WriteString("val(")
		}
		b.WriteString(o.Name)
		writeArgument(b, o.Arg, o.ArgPresent)
		if o.Val {
			b.WriteByte(')')
		}
	case *Transformer:
		b.WriteString(o.Name)
		b.WriteByte('(')
		for i, a := range o.Args {
			if i > 0 {
				b.WriteString(", ")
			}
			writeInTransformer(b, a)
		}
		b.WriteByte(')')
		writeArgument(b, o.Arg, o.ArgPresent)
	case *Literal:
		b.WriteString(Quote(o.Text))
	case *List:
		writeList(b, o)
	default:
		panic(fmt.Sprintf("no such operand: %T", o))
	}
}

func writeList(b *strings.Builder, l *List) {
	if l.Bare && len(l.Items) == 1 {
		writeOperand(b, l.Items[0])
		return
	}
	b.WriteByte('(')
	for i, item := range l.Items {
		if i > 0 {
			b.WriteString(", ")
		}
		writeOperand(b, item)
	}
	b.WriteByte(')')
}

// writeInTransformer writes an argument of a transformer: there, a string is always in quotes.
func writeInTransformer(b *strings.Builder, o Operand) {
	switch o := o.(type) {
	case *Literal:
		if o.Quoted {
			b.WriteString(inQuotes(o.Text))
		} else {
			b.WriteString(o.Text)
		}
	case *List:
		b.WriteByte('(')
		for i, item := range o.Items {
			if i > 0 {
				b.WriteString(", ")
			}
			writeInTransformer(b, item)
		}
		b.WriteByte(')')
	default:
		writeOperand(b, o)
	}
}

func writeArgument(b *strings.Builder, arg string, present bool) {
	if !present {
		return
	}
	b.WriteByte('[')
	if needsQuotes(arg, "[]\"'\\\b") {
		b.WriteString(inQuotes(arg))
	} else {
		b.WriteString(arg)
	}
	b.WriteByte(']')
}

// Quote writes a text as the right side of a check: as it is, if it can be without quotes.
func Quote(text string) string {
	if needsQuotes(text, bareStops+"\\\b") {
		return inQuotes(text)
	}
	return text
}

func needsQuotes(text, special string) bool {
	if text == "" || !utf8.ValidString(text) {
		return true
	}
	for i := range len(text) {
		if c := text[i]; isSpace(c) || c == 0 || strings.IndexByte(special, c) >= 0 {
			return true
		}
	}
	return false
}

// inQuotes writes a text in quotes.
func inQuotes(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == '\\' && i == len(text)-1:
			b.WriteString(`\x5c`) // \\ before the last quote would hide it
		case r == '\\' || r == '"':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f || r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		default:
			b.WriteString(text[i : i+size])
		}
		i += size
	}
	b.WriteByte('"')
	return b.String()
}
