// Package condition has the conditions of rules as a tree: it reads them, with the grammar of
// Falco's rules, and writes them again. It knows no fields and no types: whether a field exists,
// and whether an operator fits it, is for those who compile the tree.
//
// # Grammar
//
//	condition  = conjunct { "or" conjunct }
//	conjunct   = term { "and" term }
//	term       = [ "not" ] ... term | "(" condition ")" | check | macro
//	check      = operand ( unary | comparison operand | operator [ modifier ] list )
//
// The precedence is, from high to low, a comparison, "not", "and", "or".
package condition

// Text is a text with conditions in it. Those who make one know where it comes from.
type Text struct {
	// Content is what is parsed.
	Content string
	// Origin is for who made the text: it leads from an offset back to a file.
	Origin any
}

// Pos is a place in a text. The zero Pos is nowhere.
type Pos struct {
	Text   *Text
	Offset int // in bytes
}

// Expr is a part of a condition that is true or false: an [*And], [*Or], [*Not], [*Macro] or
// [*Check].
type Expr interface {
	Position() Pos
	expr()
}

// And is true if all terms are. There are at least two.
type And struct {
	At    Pos
	Terms []Expr
}

// Or is true if any term is. There are at least two.
type Or struct {
	At    Pos
	Terms []Expr
}

// Not is true if its term is not.
type Not struct {
	At   Pos
	Term Expr
}

// Macro stands for the condition of a macro. There are none in a condition that is compiled.
type Macro struct {
	At   Pos
	Name string
}

// Check asks about the value of a field.
type Check struct {
	At   Pos
	Left Operand // a *Field or a *Transformer
	Op   Op
	// Doubled says that Equal is written as ==, which means the same.
	Doubled bool
	// Modifier says how many of the values on the right side must fit; [None] for the operators
	// that have no such choice.
	Modifier Modifier
	// Right is what is on the other side: nil for exists; a *List for in, intersects and pmatch
	// and behind a modifier, unless it is a *Transformer; else a *Literal, *Field (of val) or
	// *Transformer.
	Right Operand
}

// Operand is a side of a check, or an argument of a transformer: a [*Field], [*Transformer],
// [*Literal] or [*List].
type Operand interface {
	Position() Pos
	operand()
}

// Field is a field of the event.
type Field struct {
	At   Pos
	Name string
	// Arg is what is in the brackets, without quotes; ArgPresent that there are brackets, and
	// ArgQuoted that there are quotes in them.
	Arg                   string
	ArgPresent, ArgQuoted bool
	// Val says that it is written as val(NAME), which a field on the right side must be.
	Val bool
}

// Transformer makes a value of others.
type Transformer struct {
	At   Pos
	Name string // "tolower", "len", ...
	Args []Operand
	// Arg is what is in brackets behind it, for getopt.
	Arg        string
	ArgPresent bool
}

// Literal is a value as text. Whether it is a number is for who compares it.
type Literal struct {
	At     Pos
	Text   string // without quotes and escapes
	Quoted bool
	Raw    string // as it is written, quotes and escapes included; empty if it was not read
}

// List is a list of values.
type List struct {
	At    Pos
	Items []Operand // *Literal on the right side; also *Field in transformers
	// Bare says that it is one value without parentheses.
	Bare bool
}

func (e *And) Position() Pos   { return e.At }
func (e *Or) Position() Pos    { return e.At }
func (e *Not) Position() Pos   { return e.At }
func (e *Macro) Position() Pos { return e.At }
func (e *Check) Position() Pos { return e.At }

func (*And) expr()   {}
func (*Or) expr()    {}
func (*Not) expr()   {}
func (*Macro) expr() {}
func (*Check) expr() {}

func (o *Field) Position() Pos       { return o.At }
func (o *Transformer) Position() Pos { return o.At }
func (o *Literal) Position() Pos     { return o.At }
func (o *List) Position() Pos        { return o.At }

func (*Field) operand()       {}
func (*Transformer) operand() {}
func (*Literal) operand()     {}
func (*List) operand()        {}

// Op is an operator.
type Op string

// The operators. == is read as =.
const (
	Equal       Op = "="
	NotEqual    Op = "!="
	Less        Op = "<"
	LessEqual   Op = "<="
	More        Op = ">"
	MoreEqual   Op = ">="
	Contains    Op = "contains"
	IContains   Op = "icontains"
	BContains   Op = "bcontains"
	StartsWith  Op = "startswith"
	BStartsWith Op = "bstartswith"
	EndsWith    Op = "endswith"
	Glob        Op = "glob"
	IGlob       Op = "iglob"
	Regex       Op = "regex"
	In          Op = "in"
	Intersects  Op = "intersects"
	PMatch      Op = "pmatch"
	Exists      Op = "exists"
)

// Modifier says how many of several values must fit.
type Modifier string

// The modifiers.
const (
	None  Modifier = ""
	OneOf Modifier = "oneof" // exactly one
	AnyOf Modifier = "anyof" // at least one
	AllOf Modifier = "allof" // every one
)

// Error tells what is wrong with a condition, and where.
type Error struct {
	At      Pos
	Message string
	Hint    string // what to do, for people; may be empty
	// Code is that of Falco for a warning, if it is not the usual one: LOAD_UNSAFE_NA_CHECK.
	Code string
}

func (e *Error) Error() string { return e.Message }
