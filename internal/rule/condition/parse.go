package condition

import (
	"fmt"
	"strings"
)

// MaxNesting bounds how deep parentheses and transformers may be nested.
const MaxNesting = 1000

// Parse reads a condition. The error is an [*Error]; its message is the one that Falco has for the
// same mistake.
func Parse(t *Text) (Expr, error) {
	p := &parser{text: t, src: t.Content}
	if p.src == "" {
		return nil, p.fail("filter input string is empty", "write a condition")
	}
	e, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.pos < len(p.src) {
		return nil, p.fail(fmt.Sprintf("unexpected token after '%s', expecting 'or', 'and'", p.last), p.hintAfter())
	}
	return e, nil
}

// ParseOperand reads a field or a transformer that begins at an offset of a text, and returns the
// offset behind it. What follows is not looked at. The error is an [*Error].
func ParseOperand(t *Text, offset int) (o Operand, end int, err error) {
	p := &parser{text: t, src: t.Content, pos: offset}
	at := p.at()
	switch {
	case p.fieldName():
		o, err = p.field(at)
	case p.transformerName():
		o, err = p.transformer(at)
	default:
		err = p.fail("expected a field or a valid transformer: "+quotedList(Transformers()), "")
	}
	if err != nil {
		return nil, p.pos, err
	}
	return o, p.pos, nil
}

// ParseCall is ParseOperand for a transformer without what may be in brackets behind it.
func ParseCall(t *Text, offset int) (o *Transformer, end int, err error) {
	p := &parser{text: t, src: t.Content, pos: offset}
	at := p.at()
	if !p.transformerName() {
		return nil, p.pos, p.fail("expected a valid transformer: "+quotedList(Transformers()), "")
	}
	if o, err = p.call(at); err != nil {
		return nil, p.pos, err
	}
	return o, p.pos, nil
}

// parser reads from src at pos. A method that reads a token returns whether there is one, and
// leaves it in last; the others return a part of the tree.
type parser struct {
	text *Text
	src  string
	pos  int

	last string // the last token; a string without its quotes
	// name is that of the last field or transformer.
	name  string
	depth int
}

func (p *parser) at() Pos { return Pos{Text: p.text, Offset: p.pos} }

func (p *parser) fail(message, hint string) *Error { return p.failAt(p.at(), message, hint) }

func (p *parser) failAt(at Pos, message, hint string) *Error {
	return &Error{At: at, Message: message, Hint: hint}
}

// enter is called for what may be in itself, leave when it ends.
func (p *parser) enter() error {
	if p.depth++; p.depth > MaxNesting {
		return p.fail(fmt.Sprintf("exceeded max depth limit of %d", MaxNesting), "give parts of the condition to macros")
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

func (p *parser) or() (Expr, error) {
	p.blanks()
	return p.joined("or", p.and, func(at Pos, terms []Expr) Expr { return &Or{At: at, Terms: terms} })
}

func (p *parser) and() (Expr, error) {
	p.blanks()
	return p.joined("and", p.not, func(at Pos, terms []Expr) Expr { return &And{At: at, Terms: terms} })
}

// joined reads terms with a word between them.
func (p *parser) joined(word string, term func() (Expr, error), join func(Pos, []Expr) Expr) (Expr, error) {
	at := p.at()
	e, err := term()
	if err != nil {
		return nil, err
	}
	terms := []Expr{e}
	for p.blanks(); p.word(word); p.blanks() {
		switch {
		case p.blanks():
			e, err = term()
		case p.word("("):
			// What is in the parentheses is all of the term: "or(a) and b" is a mistake.
			e, err = p.inParentheses()
		default:
			err = p.fail(fmt.Sprintf("expected blank or '(' after '%s'", word), "")
		}
		if err != nil {
			return nil, err
		}
		terms = append(terms, e)
	}
	if len(terms) == 1 {
		return e, nil
	}
	return join(at, terms), nil
}

func (p *parser) not() (Expr, error) {
	p.blanks()
	at := p.at()
	negated := false
	for p.notWord() {
		negated = !negated
	}
	var e Expr
	var err error
	if p.word("not(") {
		negated = !negated
		e, err = p.inParentheses()
	} else {
		e, err = p.check()
	}
	if err != nil || !negated {
		return e, err
	}
	return &Not{At: at, Term: e}, nil
}

// inParentheses reads a condition and the parenthesis behind it.
func (p *parser) inParentheses() (Expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	e, err := p.or()
	if err != nil {
		return nil, err
	}
	p.blanks()
	if !p.word(")") {
		return nil, p.fail("expected a ')' token", p.hintAfter())
	}
	return e, nil
}

func (p *parser) check() (Expr, error) {
	p.blanks()
	at := p.at()
	switch {
	case p.word("("):
		return p.inParentheses()
	case p.fieldName():
		left, err := p.field(at)
		if err != nil {
			return nil, err
		}
		return p.comparison(at, left)
	case p.transformerName():
		left, err := p.transformer(at)
		if err != nil {
			return nil, err
		}
		return p.comparison(at, left)
	case p.identifier():
		return &Macro{At: at, Name: p.last}, nil
	}
	return nil, p.fail("expected a '(' token, a field check, or an identifier", p.hintTerm())
}

// field reads the rest of a field, behind its name.
func (p *parser) field(at Pos) (*Field, error) {
	f := &Field{At: at, Name: p.name}
	var err error
	f.Arg, f.ArgPresent, f.ArgQuoted, err = p.argument()
	return f, err
}

// argument reads what is in brackets, if there are any.
func (p *parser) argument() (arg string, present, quoted bool, err error) {
	if !p.word("[") {
		return "", false, false, nil
	}
	if quoted, err = p.quoted(); err != nil {
		return "", false, false, err
	}
	if !quoted && !p.bareArgument() {
		return "", false, false, p.fail("expected a valid field argument: a quoted string or a bare string", "write it in quotes: [\"...\"]")
	}
	arg = p.last
	if !p.word("]") {
		return "", false, false, p.fail("expected a ']' token", "an argument with brackets or quotes in it is written in quotes")
	}
	return arg, true, quoted, nil
}

// transformer reads the rest of a transformer, behind its opening parenthesis.
func (p *parser) transformer(at Pos) (*Transformer, error) {
	t, err := p.call(at)
	if err != nil {
		return nil, err
	}
	// Only getopt has a use for an argument, which is for those who know what it does to say.
	t.Arg, t.ArgPresent, _, err = p.argument()
	return t, err
}

// call reads the rest of a transformer up to its closing parenthesis.
func (p *parser) call(at Pos) (*Transformer, error) {
	t := &Transformer{At: at, Name: p.name}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	for {
		p.blanks()
		arg, err := p.transformerArgument(true)
		if err != nil {
			return nil, err
		}
		t.Args = append(t.Args, arg)
		p.blanks()
		if !p.word(",") {
			break
		}
	}
	if !p.word(")") {
		return nil, p.fail("expected a ')' token closing the transformer", "")
	}
	return t, nil
}

// transformerArgument reads one argument; lists are not in lists.
func (p *parser) transformerArgument(lists bool) (Operand, error) {
	at := p.at()
	quoted, err := p.quoted()
	switch {
	case err != nil:
		return nil, err
	case quoted:
		return p.literalAt(at, true), nil
	case p.number():
		return p.literalAt(at, false), nil
	case p.fieldName():
		return p.field(at)
	case p.transformerName():
		return p.transformer(at)
	case lists && p.word("("):
		return p.transformerList(at)
	case lists:
		return nil, p.fail("expected field transformer argument: field, transformer, quoted string, number, or transformer list", "")
	}
	return nil, p.fail("expected transformer list argument: field, transformer, quoted string, or number", "")
}

// transformerList reads the rest of a list in a transformer, behind its opening parenthesis.
func (p *parser) transformerList(at Pos) (*List, error) {
	l := &List{At: at}
	p.blanks()
	if p.word(")") {
		return l, nil
	}
	for {
		p.blanks()
		item, err := p.transformerArgument(false)
		if err != nil {
			return nil, err
		}
		l.Items = append(l.Items, item)
		p.blanks()
		if !p.word(",") {
			break
		}
	}
	if !p.word(")") {
		return nil, p.fail("expected ')'", "")
	}
	return l, nil
}

// comparison reads the operator and what is behind it.
func (p *parser) comparison(at Pos, left Operand) (Expr, error) {
	c := &Check{At: at, Left: left}
	p.blanks()
	var err error
	switch {
	case p.word(string(Exists)):
		c.Op = Exists
	case p.oneOf(numericOps):
		c.Op = Op(p.last)
		c.Right, err = p.numericValue()
	case p.textOp():
		if c.Op = Op(p.last); c.Op == "==" {
			c.Op, c.Doubled = Equal, true
		}
		c.Modifier, c.Right, err = p.textValue(c.Op)
	case p.oneOf(listOps):
		c.Op = Op(p.last)
		c.Right, err = p.listValue(c.Op)
	default:
		err = p.fail("expected a valid check operator: one of "+quotedList(Operators()), p.hintOperator())
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (p *parser) numericValue() (Operand, error) {
	p.blanks()
	at := p.at()
	if o, err := p.computed(); o != nil || err != nil {
		return o, err
	}
	if p.number() {
		return p.literalAt(at, false), nil
	}
	return nil, p.fail("expected a number value or a field with a valid transformer: "+quotedList(valAndTransformers()), p.hintNumber())
}

func (p *parser) textValue(op Op) (Modifier, Operand, error) {
	p.blanks()
	if m := p.modifier(); m != None {
		l, err := p.listValue(op)
		return m, l, err
	}
	at := p.at()
	if o, err := p.computed(); o != nil || err != nil {
		return None, o, err
	}
	l, err := p.literal()
	if err != nil {
		return None, nil, err
	}
	if l == nil {
		return None, nil, p.failAt(at, "expected a string value or a field with a valid transformer: "+quotedList(valAndTransformers()), p.hintText(op))
	}
	return None, l, nil
}

// listValue reads a list, one word, or a transformer.
func (p *parser) listValue(op Op) (Operand, error) {
	p.blanks()
	at := p.at()
	if p.word("(") {
		return p.list(at)
	}
	if o, err := p.computed(); o != nil || err != nil {
		return o, err
	}
	if p.identifier() {
		return &List{At: at, Items: []Operand{p.literalAt(at, false)}, Bare: true}, nil
	}
	return nil, p.fail("expected a list, an identifier, or a field with a valid transformer: "+quotedList(valAndTransformers()), fmt.Sprintf("write %s (...)", op))
}

// list reads the rest of a list of strings, behind its opening parenthesis.
func (p *parser) list(at Pos) (Operand, error) {
	list := &List{At: at}
	p.blanks()
	l, err := p.literal()
	if err != nil {
		return nil, err
	}
	if l != nil {
		list.Items = append(list.Items, l)
		for p.blanks(); p.word(","); p.blanks() {
			p.blanks()
			if l, err = p.literal(); err != nil {
				return nil, err
			}
			if l == nil {
				return nil, p.fail("expected a string value", p.hintItem())
			}
			list.Items = append(list.Items, l)
		}
	}
	if !p.word(")") {
		return nil, p.fail("expected a ')' token", p.hintItem())
	}
	return list, nil
}

// literal reads a string, in quotes or not; nil if there is none.
func (p *parser) literal() (*Literal, error) {
	at := p.at()
	quoted, err := p.quoted()
	if err != nil {
		return nil, err
	}
	if quoted || p.bare() {
		return p.literalAt(at, quoted), nil
	}
	return nil, nil
}

// literalAt makes a literal of the last token.
func (p *parser) literalAt(at Pos, quoted bool) *Literal {
	return &Literal{At: at, Text: p.last, Quoted: quoted, Raw: p.src[at.Offset:p.pos]}
}

// computed reads a transformer or a field in val() as the right side; nil if there is none.
func (p *parser) computed() (Operand, error) {
	at := p.at()
	if p.transformerName() {
		return p.transformer(at)
	}
	if !p.word("val(") {
		return nil, nil
	}
	p.blanks()
	fieldAt := p.at()
	if !p.fieldName() {
		return nil, p.fail("expected a field within 'val' transformer", "val(...) stands for the value of one field")
	}
	f, err := p.field(fieldAt)
	if err != nil {
		return nil, err
	}
	f.Val, f.At = true, at
	p.blanks()
	if !p.word(")") {
		return nil, p.fail("expected a ')' token closing the transformer", "")
	}
	return f, nil
}

// quotedList writes words as errors list them.
func quotedList(words []string) string {
	return "'" + strings.Join(words, "', '") + "'"
}
