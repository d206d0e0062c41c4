package condition

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// String writes a condition on one line, in the form in which Falco shows conditions that are
// compiled: every [And] and [Or] has its parentheses. There are quotes where there must be, so that
// [Parse] makes the same tree of it, but it takes two "not" in a row for none.
func String(e Expr) string {
	var p printer
	p.expr(e)
	return p.String()
}

// OperandString writes an operand as it is on a side of a check.
func OperandString(o Operand) string {
	var p printer
	p.operand(o)
	return p.String()
}

// Compiled writes a condition as Falco shows it, to the letter: only texts with blanks, quotes or
// backslashes in them are in quotes, so that not all of it can be read again. [String] is for that.
func Compiled(e Expr) string {
	p := printer{asFalco: true}
	p.expr(e)
	return p.String()
}

// CompiledOperand writes an operand as Falco does, for example as a name in the JSON of alerts.
func CompiledOperand(o Operand) string {
	p := printer{asFalco: true}
	p.operand(o)
	return p.String()
}

// printer writes on one line.
type printer struct {
	strings.Builder
	// asFalco has no quotes but those that Falco has.
	asFalco bool
	// asWritten keeps quotes that need not be, and how a literal was written.
	asWritten bool
}

func (p *printer) expr(e Expr) {
	switch e := e.(type) {
	case *And:
		p.terms(" and ", e.Terms)
	case *Or:
		p.terms(" or ", e.Terms)
	case *Not:
		p.WriteString("not ")
		p.expr(e.Term)
	case *Macro:
		if e.Name == "not" && !p.asFalco {
			p.WriteString("(not)") // before a blank it would be something else
			return
		}
		p.WriteString(e.Name)
	case *Check:
		p.check(e)
	default:
		panic(fmt.Sprintf("no such expression: %T", e))
	}
}

func (p *printer) terms(between string, terms []Expr) {
	p.WriteByte('(')
	for i, t := range terms {
		if i > 0 {
			p.WriteString(between)
		}
		p.expr(t)
	}
	p.WriteByte(')')
}

func (p *printer) check(c *Check) {
	p.beforeRight(c)
	if c.Right != nil {
		p.WriteByte(' ')
		p.operand(c.Right)
	}
}

// beforeRight writes a check without its right side.
func (p *printer) beforeRight(c *Check) {
	p.operand(c.Left)
	p.WriteByte(' ')
	p.WriteString(string(c.Op))
	if c.Doubled {
		p.WriteByte('=')
	}
	if c.Modifier != None {
		p.WriteByte(' ')
		p.WriteString(string(c.Modifier))
	}
}

func (p *printer) operand(o Operand) {
	switch o := o.(type) {
	case *Field:
		if o.Val {
			p.WriteString("val(")
		}
		p.WriteString(o.Name)
		p.argument(o.Arg, o.ArgPresent, o.ArgQuoted)
		if o.Val {
			p.WriteByte(')')
		}
	case *Transformer:
		p.WriteString(o.Name)
		p.list(o.Args, p.inTransformer)
		p.argument(o.Arg, o.ArgPresent, false)
	case *Literal:
		p.literal(o, false)
	case *List:
		if o.Bare && len(o.Items) == 1 {
			p.operand(o.Items[0])
			return
		}
		p.list(o.Items, p.operand)
	default:
		panic(fmt.Sprintf("no such operand: %T", o))
	}
}

// inTransformer writes an argument of a transformer: there, a string is always in quotes.
func (p *printer) inTransformer(o Operand) {
	switch o := o.(type) {
	case *Literal:
		p.literal(o, true)
	case *List:
		p.list(o.Items, p.inTransformer)
	default:
		p.operand(o)
	}
}

func (p *printer) list(items []Operand, item func(Operand)) {
	p.WriteByte('(')
	for i, o := range items {
		if i > 0 {
			p.WriteString(", ")
		}
		item(o)
	}
	p.WriteByte(')')
}

func (p *printer) literal(l *Literal, inTransformer bool) {
	switch {
	case p.asFalco:
		p.WriteString(falcoQuote(l.Text))
	case p.asWritten && l.Raw != "" && strings.IndexFunc(l.Raw, isControl) < 0:
		p.WriteString(l.Raw)
	case l.Quoted && (inTransformer || p.asWritten):
		p.WriteString(inQuotes(l.Text))
	case inTransformer:
		p.WriteString(l.Text) // a number
	default:
		p.WriteString(quote(l.Text))
	}
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func (p *printer) argument(arg string, present, quoted bool) {
	if !present {
		return
	}
	p.WriteByte('[')
	switch {
	case p.asFalco:
		p.WriteString(falcoQuote(arg))
	case quoted && p.asWritten || needsQuotes(arg, "[]\"'\\\b"):
		p.WriteString(inQuotes(arg))
	default:
		p.WriteString(arg)
	}
	p.WriteByte(']')
}

// falcoQuote writes a text as Falco shows it.
func falcoQuote(text string) string {
	if !strings.ContainsAny(text, "\b\f\n\r\t \\\"'") {
		return text
	}
	return `"` + falcoEscapes.Replace(text) + `"`
}

var falcoEscapes = strings.NewReplacer("\b", `\b`, "\f", `\f`, "\n", `\n`, "\r", `\r`, "\t", `\t`, `\`, `\\`, `"`, `\"`)

// quote writes a text as the right side of a check: as it is, if it can be without quotes.
func quote(text string) string {
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
		case isControl(r) || r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		default:
			b.WriteString(text[i : i+size])
		}
		i += size
	}
	b.WriteByte('"')
	return b.String()
}
