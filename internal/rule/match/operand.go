package match

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/spelling"
)

// operand is a side of a comparison that depends on the event, or an argument of a transformer.
type operand struct {
	kind operandKind
	typ  sourceplugin.FieldType
	list bool
	// terminated says that Falco's values have a NUL at the end that is counted where whole lists
	// are compared, and on the right side of in and intersects: those values fit only others like
	// that.
	terminated bool
	// nul says that there may be NULs in the texts. For Falco, most of what it does with a text
	// ends at the first: see cString and whole.
	nul  bool
	name string // of the field, in errors
	// base is what join, concat and getopt take it for, as in Falco: what it is before tolower,
	// len and the like are applied, and a single text for what they make themselves.
	base valueType
	// digits is how many digits a number has at least, as text.
	digits int

	request int     // of a field
	text    string  // of a literal
	args    []int32 // of a transformer, or the items of a list
	option  byte    // of getopt with an argument
}

// valueType is what values an operand has.
type valueType struct {
	typ  sourceplugin.FieldType
	list bool
}

// numeric is true for what is written as a number.
func (t valueType) numeric() bool {
	return t.typ == sourceplugin.Uint64 || t.typ == sourceplugin.RelTime || t.typ == sourceplugin.AbsTime || t.typ == sourceplugin.Bool
}

var (
	aText  = valueType{typ: sourceplugin.String}
	aTexts = valueType{typ: sourceplugin.String, list: true}
)

type operandKind uint8

const (
	fieldValue operandKind = iota
	literalValue
	listValue
	toLower
	toUpper
	base64Decoded
	baseName
	length
	join
	concat
	getopt
	getoptValue
	untilNUL    // of cString
	withoutNULs // of whole
)

// transformers that have one argument.
var unary = map[string]operandKind{
	"tolower":  toLower,
	"toupper":  toUpper,
	"b64":      base64Decoded,
	"basename": baseName,
	"len":      length,
}

// transformerNames are those that Falco knows, as they are written.
var transformerNames = []string{"val", "tolower", "toupper", "b64", "basename", "len", "join", "concat", "getopt"}

// operands are the operands of conditions, each once.
type operands struct {
	requests *field.Requests
	list     []operand
	byKey    map[string]int32
}

func newOperands(requests *field.Requests) *operands {
	return &operands{requests: requests, byKey: make(map[string]int32)}
}

func (o *operands) intern(key string, v operand) int32 {
	if i, ok := o.byKey[key]; ok {
		return i
	}
	i := int32(len(o.list))
	o.list = append(o.list, v)
	o.byKey[key] = i
	return i
}

// compile returns the number of an operand.
func (o *operands) compile(x condition.Operand) (int32, error) {
	switch x := x.(type) {
	case *condition.Field:
		return o.field(x)
	case *condition.Literal:
		if strings.IndexByte(x.Text, 0) >= 0 {
			return 0, mistake(x.At, "filter error: unexpected NUL byte in a value")
		}
		return o.intern("l"+x.Text, operand{kind: literalValue, typ: sourceplugin.String, base: aText, name: "NA", text: x.Text}), nil
	case *condition.List:
		return o.items(x)
	case *condition.Transformer:
		return o.transformer(x)
	}
	return 0, fmt.Errorf("no operand: %T", x)
}

func (o *operands) items(x *condition.List) (int32, error) {
	args, err := o.all(x.Items)
	if err != nil {
		return 0, err
	}
	v := operand{kind: listValue, typ: sourceplugin.String, list: true, base: aTexts, name: "NA", args: args}
	for _, a := range args {
		v.nul = v.nul || o.list[a].odd()
	}
	return o.intern(key("i", args, ""), v), nil
}

func (o *operands) all(xs []condition.Operand) ([]int32, error) {
	var args []int32
	for _, x := range xs {
		a, err := o.compile(x)
		if err != nil {
			return nil, err
		}
		args = append(args, a)
	}
	return args, nil
}

// key makes a text of a kind of operand, its arguments, and what is in brackets.
func key(kind string, args []int32, arg string) string {
	b := []byte(kind)
	for _, a := range args {
		b = strconv.AppendInt(append(b, ' '), int64(a), 10)
	}
	return string(append(append(b, '['), arg...))
}

func (o *operands) field(x *condition.Field) (int32, error) {
	if err := checkField(x, o.requests); err != nil {
		return 0, err
	}
	request, err := o.requests.Add(x.Name, x.Arg, x.ArgPresent)
	if err != nil {
		return 0, &condition.Error{At: x.At, Message: err.Error()}
	}
	f := o.requests.List()[request].Field
	return o.intern("f"+strconv.Itoa(request), operand{kind: fieldValue, typ: f.Type, list: f.List, base: valueType{f.Type, f.List}, digits: minDigits(f), name: f.Name, request: request}), nil
}

// checkField finds mistakes in the use of a field, in Falco's words. Falco looks for the longest
// known name that the text begins with, so some mistakes in names become ones in arguments.
func checkField(x *condition.Field, requests *field.Requests) error {
	text := x.Name
	if x.ArgPresent {
		text += "[" + x.Arg + "]"
	}
	f := requests.Find(x.Name)
	if f == nil {
		longest := longestPrefix(x.Name, requests)
		if longest != nil && longest.Arg.Required && !x.ArgPresent {
			return mistakeHint(x.At, fmt.Sprintf("filter '%s': %s requires an argument but none provided", text, longest.Name), unknownHint(x.Name, requests))
		}
		return mistakeHint(x.At, "filter_check called with nonexistent field "+text, unknownHint(x.Name, requests))
	}
	switch {
	case !x.ArgPresent && f.Arg.Required:
		return mistake(x.At, fmt.Sprintf("filter '%s': %s requires an argument but none provided", text, f.Name))
	case !x.ArgPresent:
		return nil
	case !f.Arg.Index && !f.Arg.Key && isBuiltin(f):
		// Falco's own fields know nothing of arguments.
		return mistakeHint(x.At, "filter_check called with nonexistent field "+text, f.Name+" takes no argument")
	case strings.Contains(x.Arg, " "):
		cut := x.Name + "[" + x.Arg[:strings.IndexByte(x.Arg, ' ')]
		return mistakeHint(x.At, fmt.Sprintf("filter '%s': %s has unbalanced argument brackets", cut, f.Name), "an argument with blanks cannot be written, not even in quotes")
	case !f.Arg.Index && !f.Arg.Key:
		return mistake(x.At, fmt.Sprintf("filter '%s': %s does not allow nor require an argument but one is provided: %s", text, f.Name, x.Arg))
	case strings.Contains(x.Arg, "]"):
		return mistakeHint(x.At, "filter_check called with nonexistent field "+text, "an argument with ] in it cannot be written")
	case f.Arg.Index && !f.Arg.Key:
		if problem := indexProblem(x.Arg); problem != "" {
			return mistake(x.At, fmt.Sprintf("filter '%s': %s has an invalid index argument %s: %s", text, f.Name, problem, x.Arg))
		}
	}
	return nil
}

// isBuiltin is true for fields that Falco has without any plugin.
func isBuiltin(f *field.Field) bool { return f.Of == "" && strings.HasPrefix(f.Name, "evt.") }

// minDigits is how many digits the value of a field has at least, as text.
func minDigits(f *field.Field) int {
	if isBuiltin(f) && slices.Contains([]string{"evt.rawtime.ns", "evt.reltime", "evt.reltime.ns"}, f.Name) {
		return 9
	}
	return 0
}

// AppendNumber appends a number that has so many digits at least.
func AppendNumber(dst []byte, n uint64, digits int) []byte {
	from := len(dst)
	dst = strconv.AppendUint(dst, n, 10)
	for n := len(dst) - from; n < digits; n++ {
		dst = slices.Insert(dst, from, '0')
	}
	return dst
}

func indexProblem(arg string) string {
	switch {
	case strings.Trim(arg, "0123456789") != "":
		return "not composed only by digits"
	case arg == "" || len(arg) > 1 && arg[0] == '0':
		return "starting with 0"
	}
	if _, err := strconv.ParseUint(arg, 10, 64); err != nil {
		return "not representable on 64 bit"
	}
	return ""
}

func longestPrefix(name string, requests *field.Requests) *field.Field {
	var longest *field.Field
	fields := requests.Fields()
	for i := range fields {
		if f := &fields[i]; strings.HasPrefix(name, f.Name) && (longest == nil || len(f.Name) > len(longest.Name)) {
			longest = f
		}
	}
	return longest
}

func unknownHint(name string, requests *field.Requests) string {
	var names []string
	for _, f := range requests.Fields() {
		names = append(names, f.Name)
	}
	if near := spelling.Nearest(name, names); near != "" {
		return "did you mean " + near + "?"
	}
	return ""
}

func (o *operands) transformer(x *condition.Transformer) (int32, error) {
	if x.Name == "val" {
		if len(x.Args) != 1 {
			return 0, mistake(x.At, "val() takes one field")
		}
		return o.compile(x.Args[0])
	}
	args, err := o.all(x.Args)
	if err != nil {
		return 0, err
	}
	kind, isUnary := unary[x.Name]
	switch {
	case isUnary && len(args) == 1 && !x.ArgPresent:
		return o.unary(x, kind, args)
	case isUnary && x.ArgPresent:
		return 0, mistake(x.At, "transformer '"+x.Name+"' does not support field arguments")
	case isUnary:
		return 0, mistake(x.At, "unknown multivalue transformer")
	case len(args) == 1 || !slices.Contains(transformerNames, x.Name):
		return 0, mistake(x.At, "unknown field transfomer '"+x.Name+"'")
	}
	v := operand{typ: sourceplugin.String, base: aText, name: "NA", args: args}
	base := func(i int) valueType { return o.list[args[i]].base }
	problem := ""
	switch x.Name {
	case "join":
		v.kind = join
		switch {
		case len(args) != 2:
			problem = "join() requires exactly 2 arguments: separator and list"
		case base(0).list:
			problem = "join() first argument (separator) must be a single value, not a list"
		case !base(1).list:
			problem = "join() second argument must be a list"
		}
		v.nul = o.list[args[0]].odd()
	case "concat":
		v.kind = concat
		switch {
		case len(args) < 2:
			problem = "concat() requires at least 2 arguments"
		case slices.ContainsFunc(args, func(a int32) bool { return o.list[a].base != aText }):
			problem = "concat() arguments must be strings"
		}
	case "getopt":
		v.kind, v.list, v.name = getopt, true, "INTERNAL"
		switch {
		case len(args) != 2:
			problem = "getopt() requires exactly 2 arguments: args list and optstring"
		case !base(0).list:
			problem = "getopt() first argument must be a list"
		case base(1).list:
			problem = "getopt() second argument (optstring) must be a single value"
		case base(0).typ != sourceplugin.String || base(1).typ != sourceplugin.String:
			problem = "getopt() arguments must be strings"
		case x.ArgPresent && len(x.Arg) != 1:
			problem = "getopt() field argument must be a single option character"
		case x.ArgPresent:
			v.kind, v.list, v.name, v.option = getoptValue, false, "NA", x.Arg[0]
		}
		v.nul = o.list[args[0]].odd()
	}
	if problem == "" && x.ArgPresent && x.Name != "getopt" {
		problem = "transformer '" + x.Name + "' does not support field arguments"
	}
	if problem != "" {
		return 0, mistake(x.At, problem)
	}
	return o.intern(key(x.Name, args, x.Arg), v), nil
}

func (o *operands) unary(x *condition.Transformer, kind operandKind, args []int32) (int32, error) {
	of := o.list[args[0]]
	v := operand{kind: kind, typ: of.typ, list: of.list, base: of.base, digits: of.digits, name: of.name, terminated: true, nul: of.nul || kind == base64Decoded, args: args}
	fits := of.typ == sourceplugin.String
	if kind == length {
		fits = fits || of.list
		v.typ, v.list, v.terminated, v.nul = sourceplugin.Uint64, false, false, false
	}
	if !fits {
		list := ""
		if of.list {
			list = "list "
		}
		return 0, mistake(x.At, fmt.Sprintf("can't add field transformer: type '%s' is not supported by '%s' transformer applied on %sfield '%s'", typeName(of.typ), x.Name, list, of.name))
	}
	return o.intern(key(x.Name, args, ""), v), nil
}

// odd is true for values that are not the same text, byte by byte, in Falco.
func (v *operand) odd() bool { return v.terminated || v.nul || v.typ != sourceplugin.String }

// cString returns an operand with the same texts, each up to its first NUL, as C has them.
func (o *operands) cString(n int32) int32 { return o.derived(n, untilNUL, "until NUL") }

// whole returns an operand with the same texts without the NULs at their ends.
func (o *operands) whole(n int32) int32 { return o.derived(n, withoutNULs, "without NULs") }

func (o *operands) derived(n int32, kind operandKind, name string) int32 {
	v := o.list[n]
	if !v.nul {
		return n
	}
	v.kind, v.args, v.nul = kind, []int32{n}, false
	return o.intern(key(name, v.args, ""), v)
}

// typeName is the name of a type in Falco's errors.
func typeName(t sourceplugin.FieldType) string {
	switch t {
	case sourceplugin.Uint64:
		return "UINT64"
	case sourceplugin.String:
		return "CHARBUF"
	case sourceplugin.RelTime:
		return "RELTIME"
	case sourceplugin.AbsTime:
		return "ABSTIME"
	case sourceplugin.Bool:
		return "BOOL"
	case sourceplugin.IPAddr:
		return "IPADDR"
	case sourceplugin.IPNet:
		return "IPNET"
	}
	return "NONE"
}

func mistake(at condition.Pos, message string) error {
	return &condition.Error{At: at, Message: message}
}

func mistakeHint(at condition.Pos, message, hint string) error {
	return &condition.Error{At: at, Message: message, Hint: hint}
}

// Operand is an operand that is compiled alone: for outputs.
type Operand struct {
	Type sourceplugin.FieldType
	List bool
	// Digits is how many digits a number has at least, as text.
	Digits int
	all    *operands
	root   int32
}

// CompileOperand compiles an operand and asks for the fields that are in it. The error is a
// [*condition.Error].
func CompileOperand(requests *field.Requests, x condition.Operand) (*Operand, error) {
	all := newOperands(requests)
	root, err := all.compile(x)
	if err != nil {
		return nil, asError(err, x)
	}
	root = all.cString(root)
	return &Operand{Type: all.list[root].typ, List: all.list[root].list, Digits: all.list[root].digits, all: all, root: root}, nil
}

func asError(err error, x interface{ Position() condition.Pos }) error {
	var e *condition.Error
	if errors.As(err, &e) {
		return e
	}
	return &condition.Error{At: x.Position(), Message: err.Error()}
}

// Values returns the elements of an operand; ok is false if the event does not have it. They are
// valid as long as those of the row. It may be called by several goroutines.
func (o *Operand) Values(row field.Row) (elements []field.Element, ok bool) {
	if v := &o.all.list[o.root]; v.kind == fieldValue {
		elements = row.Values(v.request)
		return elements, len(elements) > 0
	}
	s := newValues(o.all.list)
	s.start(row)
	return s.get(o.root)
}
