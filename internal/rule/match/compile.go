package match

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// node is a part of a condition. Parts that are the same in several rules are one node.
type node struct {
	kind      nodeKind
	predicate int32   // of a leaf
	terms     []int32 // of the others: a negation has one
}

type nodeKind uint8

const (
	leaf nodeKind = iota
	negation
	conjunction
	disjunction
)

func (b *Builder) compile(e condition.Expr) (n int32, warnings []*condition.Error, err error) {
	c := compiler{Builder: b, warnings: unsafeComparisons(e)}
	n, err = c.expr(e, false)
	if err != nil {
		err = asError(err, e)
	}
	return n, c.warnings, err
}

// compiler compiles one condition.
type compiler struct {
	*Builder
	warnings []*condition.Error
}

func (c *compiler) node(key string, n node) int32 {
	if i, ok := c.byKey[key]; ok {
		return i
	}
	i := int32(len(c.nodes))
	c.nodes = append(c.nodes, n)
	c.byKey[key] = i
	return i
}

// expr compiles a condition or what it denies: negations are moved to the checks, so that only
// those are denied.
func (c *compiler) expr(e condition.Expr, denied bool) (int32, error) {
	switch e := e.(type) {
	case *condition.Not:
		return c.expr(e.Term, !denied)
	case *condition.And:
		return c.terms(e.Terms, conjunction, denied)
	case *condition.Or:
		return c.terms(e.Terms, disjunction, denied)
	case *condition.Check:
		n, err := c.known(e)
		if err == nil && denied {
			n = c.node("not "+strconv.Itoa(int(n)), node{kind: negation, terms: []int32{n}})
		}
		return n, err
	case *condition.Macro:
		return 0, mistake(e.At, "filter error: unexpected identifier '"+e.Name+"'")
	}
	return 0, fmt.Errorf("no condition: %T", e)
}

func (c *compiler) terms(es []condition.Expr, kind nodeKind, denied bool) (int32, error) {
	if denied {
		kind = conjunction + disjunction - kind
	}
	var terms []int32
	for _, e := range es {
		n, err := c.expr(e, denied)
		if err != nil {
			return 0, err
		}
		// A few conjuncts in a conjunction need no node of their own.
		if t := &c.nodes[n]; t.kind == kind && len(t.terms) <= maxFlattened {
			terms = append(terms, t.terms...)
		} else {
			terms = append(terms, n)
		}
	}
	terms = unique(terms)
	if len(terms) == 1 {
		return terms[0], nil
	}
	name := "and"
	if kind == disjunction {
		name = "or"
	}
	return c.node(key(name, terms, ""), node{kind: kind, terms: terms}), nil
}

// maxFlattened is how many terms become those of what is around them.
const maxFlattened = 32

// unique removes what was there before, and keeps the order.
func unique(terms []int32) []int32 {
	seen := make(map[int32]bool, len(terms))
	return slices.DeleteFunc(terms, func(t int32) bool {
		again := seen[t]
		seen[t] = true
		return again
	})
}

// longCheck is what became of a check with a long list: it may be in a macro that many rules have.
type longCheck struct {
	node     int32
	warnings []*condition.Error
}

// manyItems is from how many items on a list is long.
const manyItems = 16

// known compiles a check, a long one once.
func (c *compiler) known(x *condition.Check) (int32, error) {
	list, ok := x.Right.(*condition.List)
	if !ok || len(list.Items) < manyItems {
		return c.check(x)
	}
	if k, ok := c.long[x]; ok {
		c.warnings = append(c.warnings, k.warnings...)
		return k.node, nil
	}
	before := len(c.warnings)
	n, err := c.check(x)
	if err == nil {
		c.long[x] = longCheck{n, slices.Clip(c.warnings[before:])}
	}
	return n, err
}

func (c *compiler) check(x *condition.Check) (int32, error) {
	left, err := c.operands.compile(x.Left)
	if err != nil {
		return 0, err
	}
	p := predicate{op: x.Op, modifier: x.Modifier, left: left, right: -1}
	lhs := &c.operands.list[left]
	p.typ, p.list = lhs.typ, lhs.list
	if problem := comparable(x.Op, lhs.typ, lhs.list); problem != "" {
		return 0, mistake(x.Left.Position(), "filter error: "+problem)
	}
	if x.Op == condition.Exists {
		return c.predicate("exists "+strconv.Itoa(int(left)), p), nil
	}
	_, computed := x.Right.(*condition.Transformer)
	if f, ok := x.Right.(*condition.Field); ok && f.Val {
		computed = true
	}
	asC := endsAtNUL(x, computed)
	switch {
	case lhs.nul && asC:
		left = c.operands.cString(left)
	case lhs.nul && !lhs.list:
		left = c.operands.whole(left)
	}
	p.left, lhs = left, &c.operands.list[left]
	if f, ok := x.Right.(*condition.Field); ok && !f.Val {
		return 0, mistakeHint(f.At, "expected a string value", "a field on the right side is written as val("+f.Name+")")
	}
	switch right := x.Right.(type) {
	case *condition.Field, *condition.Transformer:
		if p.right, err = c.right(x, lhs, right); err != nil {
			return 0, err
		}
		if asC {
			p.right = c.operands.cString(p.right)
		}
		return c.predicate(strings.Join([]string{string(x.Op), string(x.Modifier), strconv.Itoa(int(left)), "val", strconv.Itoa(int(p.right))}, " "), p), nil
	case *condition.Literal:
		err = c.constants(x, &p, right.At, []condition.Operand{right})
	case *condition.List:
		err = c.constants(x, &p, right.At, right.Items)
	default:
		err = mistake(x.At, "expected a string value")
	}
	if err != nil {
		return 0, err
	}
	texts := p.finish(lhs)
	k := strings.Builder{}
	fmt.Fprintf(&k, "%s %s %d", x.Op, x.Modifier, left)
	for _, t := range texts {
		fmt.Fprintf(&k, " %d:%s", len(t), t)
	}
	return c.predicate(k.String(), p), nil
}

// predicate returns the node of a predicate.
func (c *compiler) predicate(key string, p predicate) int32 {
	if i, ok := c.byKey[key]; ok {
		return i
	}
	c.predicates = append(c.predicates, p)
	return c.node(key, node{kind: leaf, predicate: int32(len(c.predicates) - 1)})
}

// right compiles an operand on the right side.
func (c *compiler) right(x *condition.Check, lhs *operand, right condition.Operand) (int32, error) {
	left := *lhs // compile may move the operands
	n, err := c.operands.compile(right)
	if err != nil {
		return 0, err
	}
	rhs := &c.operands.list[n]
	switch {
	case x.Op == condition.Regex || x.Op == condition.PMatch:
		return 0, mistake(right.Position(), "operator '"+strings.ToUpper(string(x.Op))+"' doesn't support right-hand side fields")
	case left.typ == sourceplugin.IPNet:
		return 0, mistake(right.Position(), "field type 'IPNET' doesn't support right-hand side fields")
	case left.typ != rhs.typ || left.list != rhs.list:
		return 0, mistake(right.Position(), fmt.Sprintf("field '%s' has type '%s' while the right-hand side field '%s' has incompatible type '%s'",
			left.name, typeOf(&left), rhs.name, typeOf(rhs)))
	}
	return n, nil
}

// endsAtNUL says whether Falco compares texts up to the first NUL, as C does; else their lengths
// count. computed says that no constants are on the right side.
func endsAtNUL(x *condition.Check, computed bool) bool {
	switch x.Op {
	case condition.In, condition.Intersects, condition.PMatch, condition.Regex:
		return false
	}
	asSet := x.Op == condition.Equal && x.Modifier == condition.AnyOf || x.Op == condition.NotEqual && x.Modifier == condition.AllOf
	return !asSet || computed
}

func typeOf(o *operand) string {
	if o.list {
		return typeName(o.typ) + " (list)"
	}
	return typeName(o.typ)
}

// constants reads what is on the right side.
func (c *compiler) constants(x *condition.Check, p *predicate, at condition.Pos, items []condition.Operand) error {
	for _, item := range items {
		l, ok := item.(*condition.Literal)
		if !ok {
			return mistake(item.Position(), "expected a string value")
		}
		c.warn(x, l)
		v, err := parseConstant(l.Text, p.typ)
		if err == nil && x.Op == condition.Regex {
			v.regex, err = c.regex(l.Text)
		}
		if err != nil {
			hint := ""
			if x.Op == condition.Regex {
				hint = regexHint(l.Text)
			}
			return mistakeHint(l.At, err.Error(), hint)
		}
		p.constants = append(p.constants, v)
		p.texts = append(p.texts, l.Text)
	}
	if len(items) == 0 && p.modifier == condition.None && !isList(x.Op) {
		return mistake(at, "expected a string value")
	}
	return nil
}

func isList(op condition.Op) bool {
	return op == condition.In || op == condition.Intersects || op == condition.PMatch
}

// noValue is how the absence of a value is written in outputs.
const noValue = "<NA>"

// warn looks for what may be a mistake in a value.
func (c *compiler) warn(x *condition.Check, l *condition.Literal) {
	warning := func(message, hint string) {
		c.warnings = append(c.warnings, &condition.Error{At: l.At, Message: message, Hint: hint})
	}
	if x.Op == condition.Regex && simplerRegex(l.Text) {
		warning("regex check with '"+l.Text+"' may be optimized with simpler operators such as '=', 'contains', 'startswith', 'endswith'", "")
	}
	stripped := strings.Map(func(r rune) rune {
		if r < 0x80 && isSpace(byte(r)) {
			return -1
		}
		return r
	}, l.Text)
	if c.isField(stripped) {
		warning("'"+l.Text+"' may be a valid field misused as a const string value", "write val("+stripped+") to compare with the value of the field")
	}
	for _, t := range transformerNames {
		if strings.HasPrefix(stripped, t+"(") && strings.HasSuffix(stripped, ")") {
			warning("'"+l.Text+"' may be a valid field transformer misused as a const string value", "a transformer is written without quotes")
		}
	}
}

// unsafeComparisons warns of comparisons with what stands for no value. They are looked for before
// the condition is compiled, so they are told even if something else in it is wrong.
func unsafeComparisons(e condition.Expr) (warnings []*condition.Error) {
	var warn func(o condition.Operand)
	warn = func(o condition.Operand) {
		switch o := o.(type) {
		case *condition.Literal:
			if o.Text == noValue {
				warnings = append(warnings, &condition.Error{At: o.At, Code: "LOAD_UNSAFE_NA_CHECK",
					Hint: "a field without a value equals nothing, not even " + noValue + "; use exists"})
			}
		case *condition.List:
			for _, i := range o.Items {
				warn(i)
			}
		case *condition.Transformer:
			for _, a := range o.Args {
				warn(a)
			}
		}
	}
	condition.Walk(e, func(e condition.Expr) bool {
		x, ok := e.(*condition.Check)
		if !ok || !unsafeField(x.Left) || !equality(x.Op) {
			return true
		}
		warn(x.Right)
		return true
	})
	return warnings
}

// isField says whether a text is a field as it could be used.
func (c *compiler) isField(text string) bool {
	if !strings.Contains(text, ".") {
		return false
	}
	f := condition.Field{Name: text}
	if name, arg, ok := strings.Cut(text, "["); ok {
		if !strings.HasSuffix(arg, "]") {
			return false
		}
		f.Name, f.Arg, f.ArgPresent = name, strings.TrimSuffix(arg, "]"), true
	}
	// What is wrong with a name that there is not, which most texts are, takes long to find out.
	return c.operands.requests.Find(f.Name) != nil && checkField(&f, c.operands.requests) == nil
}

// unsafeField is true for fields that are warned about when they are compared with noValue: those
// that Falco warns about, and the hub's own. Of those in a transformer the last counts.
func unsafeField(x condition.Operand) bool {
	f := lastField(x)
	return f != nil && slices.ContainsFunc([]string{"ka.", "jevt.", "audit.", "event."}, func(p string) bool { return strings.HasPrefix(f.Name, p) })
}

// lastField returns the last field in an operand, nil if there is none.
func lastField(x condition.Operand) (last *condition.Field) {
	var parts []condition.Operand
	switch x := x.(type) {
	case *condition.Field:
		return x
	case *condition.Transformer:
		parts = x.Args
	case *condition.List:
		parts = x.Items
	}
	for _, p := range parts {
		if f := lastField(p); f != nil {
			last = f
		}
	}
	return last
}

func equality(op condition.Op) bool {
	switch op {
	case condition.Equal, condition.NotEqual, condition.In, condition.Intersects, condition.PMatch:
		return true
	}
	return false
}

// comparable says what is wrong with an operator for values of a type.
func comparable(op condition.Op, t sourceplugin.FieldType, list bool) string {
	if op == condition.Exists {
		return ""
	}
	what := ""
	ok := op == condition.In || op == condition.Intersects
	equal := op == condition.Equal || op == condition.NotEqual
	order := op == condition.Less || op == condition.LessEqual || op == condition.More || op == condition.MoreEqual
	switch {
	case list:
		what = "list"
	case t == sourceplugin.String:
		what = "for string"
		ok = op != condition.BContains && op != condition.BStartsWith
	case t == sourceplugin.Bool:
		what = "for numeric"
		ok = ok || equal
	case t == sourceplugin.IPAddr || t == sourceplugin.IPNet:
		what = "for ip address and network"
		ok = ok || equal
	default:
		what = "for numeric"
		ok = ok || equal || order
	}
	if ok {
		return ""
	}
	return "'" + string(op) + "' operator not supported " + what + " filters"
}
