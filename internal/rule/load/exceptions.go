package load

import (
	"errors"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/spelling"
)

// maxExceptionDepth bounds lists in lists. Two levels mean something.
const maxExceptionDepth = 8

// readExceptions reads the exceptions of an item. If they are appended, they need no fields.
func (l *loader) readExceptions(n *yaml.Node, parent *context, appends bool) ([]*exception, *failure) {
	v := value(n, "exceptions")
	if v == nil || isNull(v) {
		return nil, nil
	}
	all := parent.enter(v, inExceptions, "")
	if !isSequence(v) {
		return nil, &failure{code: ErrYAMLValidate, message: "exceptions must be a list", context: all}
	}
	var list []*exception
	for _, x := range v.Content {
		if x = resolve(x); x == nil {
			continue
		}
		if !isMapping(x) {
			return nil, &failure{code: ErrYAMLValidate, message: "an exception must be a map with name, fields, comps and values", context: all.enter(x, inException, "")}
		}
		name, f := scalarOf(x, "name", false, all.enter(x, inException, ""))
		if f != nil {
			return nil, f
		}
		e := &exception{name: name.Value, context: parent.enter(x, inException, name.Value)}
		if slices.ContainsFunc(list, func(o *exception) bool { return o.name == e.name }) {
			l.warn(WarnExceptionNameTwice, "the exception '"+e.name+"' is there several times", "", e.context)
		}
		fields := value(x, "fields")
		if fields == nil && !appends {
			return nil, &failure{code: ErrYAMLValidate, message: "there is no fields", hint: missingKeyHint(x, "fields"), context: e.context}
		}
		if e.fields, f = readEntry(fields, "fields", e.context, 0); f != nil {
			return nil, f
		}
		if e.comps, f = readEntry(value(x, "comps"), "comps", e.context, 0); f != nil {
			return nil, f
		}
		switch values := value(x, "values"); {
		case values == nil && appends:
			l.warn(WarnAppendNoValues, "the exception has no values", "", e.context)
		case values == nil:
		case !isSequence(values):
			return nil, &failure{code: ErrYAMLValidate, message: "the values of an exception must be a list", context: e.context.enter(values, inExceptionValues, "")}
		default:
			at := e.context.enter(values, inExceptionValues, "")
			for _, row := range values.Content {
				if row = resolve(row); row == nil {
					continue
				}
				v, f := readEntry(row, "", at.enter(row, inExceptionValue, ""), 0)
				if f != nil {
					return nil, f
				}
				e.values = append(e.values, v)
			}
		}
		list = append(list, e)
	}
	return list, nil
}

// missingKeyHint looks for a key that may have been meant.
func missingKeyHint(n *yaml.Node, key string) string {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := n.Content[i].Value; !slices.Contains(exceptionKeys, k) && spelling.Nearest(k, []string{key}) != "" {
			return "is it the " + k + "?"
		}
	}
	return ""
}

func readEntry(n *yaml.Node, key string, c *context, depth int) (entry, *failure) {
	var e entry
	if n == nil {
		return e, nil
	}
	at := c.enter(n, inValue, key)
	if c.src.budget -= 1 + len(n.Content); c.src.budget < 0 || depth > maxExceptionDepth {
		return e, &failure{code: ErrYAMLValidate, message: "the exception has too much in it", context: at}
	}
	switch {
	case isScalar(n):
		if n.Value == "" {
			return e, &failure{code: ErrYAMLValidate, message: "a value of an exception must not be empty", context: at}
		}
		e.text = newText(c.src, n)
	case isSequence(n):
		e.list = true
		for _, i := range n.Content {
			if i = resolve(i); i == nil {
				continue
			}
			v, f := readEntry(i, "", at.enter(i, inException, ""), depth+1)
			if f != nil {
				return e, f
			}
			e.items = append(e.items, v)
		}
	}
	return e, nil
}

var (
	// listOperators take a list on the right side.
	listOperators = []condition.Op{condition.In, condition.Intersects, condition.PMatch}
	// stringOperators take one of the modifiers.
	stringOperators = []condition.Op{
		condition.Equal, "==", condition.NotEqual, condition.Contains, condition.IContains, condition.BContains, condition.StartsWith,
		condition.BStartsWith, condition.EndsWith, condition.Glob, condition.IGlob, condition.Regex,
	}
	operators = slices.Concat([]condition.Op{
		condition.Less, condition.LessEqual, condition.More, condition.MoreEqual, condition.Exists,
	}, listOperators, stringOperators)
)

// splitOperator returns the operator of a comp and its modifier. Blanks around them do not matter.
func splitOperator(comp string) (condition.Op, condition.Modifier) {
	words := strings.Fields(comp)
	if len(words) == 2 {
		switch m := condition.Modifier(words[1]); m {
		case condition.OneOf, condition.AnyOf, condition.AllOf:
			return condition.Op(words[0]), m
		}
	}
	return condition.Op(strings.TrimSpace(comp)), condition.None
}

// compText returns a comp as it is written with single blanks.
func compText(comp string) string {
	op, modifier := splitOperator(comp)
	return strings.TrimSpace(string(op) + " " + string(modifier))
}

// takesList says whether a comp has a list on the right side.
func takesList(comp string) bool {
	op, modifier := splitOperator(comp)
	return modifier != condition.None || slices.Contains(listOperators, op)
}

func knownComp(comp string) bool {
	op, modifier := splitOperator(comp)
	if modifier != condition.None {
		return slices.Contains(stringOperators, op)
	}
	return slices.Contains(operators, op)
}

// checkException looks at the fields and comps of an exception of a rule, and puts in the comps
// that it does not say.
func (l *loader) checkException(r *ruleItem, e *exception) *failure {
	fail := func(message, hint string, at *context) *failure {
		return &failure{code: ErrValidate, message: message, hint: hint, context: at}
	}
	word := func(s string) entry { return entry{text: &text{s: s}} }
	if !e.fields.list {
		switch {
		case !e.comps.valid():
			e.comps = word(string(condition.In))
		case e.comps.list:
			return fail("comps must be one operator if fields is one field", "write both as lists, or neither", e.context)
		case !takesList(e.comps.string()) || !knownComp(e.comps.string()):
			return fail("with one field, comps must be in, pmatch or intersects, or have oneof, anyof or allof behind another operator", "write fields and comps as lists for other operators", e.context)
		}
		return l.checkExceptionField(r, e, &e.fields)
	}
	if !e.comps.valid() {
		e.comps = entry{list: true}
		for range e.fields.items {
			e.comps.items = append(e.comps.items, word(string(condition.Equal)))
		}
	}
	if len(e.comps.items) != len(e.fields.items) {
		return fail("fields and comps must have as many elements", "", e.context)
	}
	for i := range e.comps.items {
		if comp := e.comps.items[i].string(); !knownComp(comp) {
			hint := ""
			names := make([]string, len(operators))
			for i, op := range operators {
				names[i] = string(op)
			}
			if near := spelling.Nearest(comp, names); near != "" {
				hint = "did you mean " + near + "?"
			}
			return fail("there is no operator '"+comp+"'", hint, e.context)
		}
	}
	for i := range e.fields.items {
		if f := l.checkExceptionField(r, e, &e.fields.items[i]); f != nil {
			return f
		}
	}
	return nil
}

func (l *loader) checkExceptionField(r *ruleItem, x *exception, field *entry) *failure {
	if r.unknownSource || !l.compiler.Source(r.source) {
		return nil
	}
	name := field.string()
	err := errors.New("it is no field")
	// What it is, is seen when it is compared: a field, or transformers with fields in them.
	e, parsed := condition.Parse(&condition.Text{Content: name + " " + string(condition.Exists)})
	if check, ok := e.(*condition.Check); parsed == nil && ok && check.Op == condition.Exists {
		if _, err = l.compiler.Condition(r.source, check); err == nil {
			return nil
		}
		if unknownField(err) && slices.Contains(l.options.Partial, r.source) {
			return nil // the whole rule is skipped
		}
	}
	_, hint := errorText(err)
	return &failure{code: ErrValidate, message: "there is no field '" + name + "' in the events of " + r.source, hint: hint, context: x.context}
}

// withExceptions returns the condition of a rule without what its exceptions leave out, and the
// fields that they use.
func (r *ruleItem) withExceptions() (*text, []string, *failure) {
	if len(r.exceptions) == 0 {
		return r.condition, nil, nil
	}
	var b builder
	var fields []string
	here := r.condition.place(0)
	b.put("(", here)
	b.slice(r.condition, 0, len(r.condition.s))
	b.put(")", here)
	for _, e := range r.exceptions {
		if len(e.values) == 0 {
			continue
		}
		if !e.fields.list {
			b.put(" and not (", here)
			b.add(e.fields.text)
			b.put(" "+e.comps.string()+" (", here)
			for i, v := range e.values {
				if v.list {
					return nil, nil, &failure{code: ErrValidate, message: "the values of an exception with one field must be texts, not lists", context: e.context}
				}
				if i > 0 {
					b.put(", ", here)
				}
				b.value(&v, quote)
			}
			b.put("))", here)
			fields = append(fields, e.fields.string())
			continue
		}
		b.put(" and not (", here)
		for i, row := range e.values {
			if len(row.items) != len(e.fields.items) {
				return nil, nil, &failure{code: ErrValidate, message: "each row of values must have as many elements as fields", context: e.context}
			}
			if i > 0 {
				b.put(" or ", here)
			}
			b.put("(", here)
			for k := range e.fields.items {
				if k > 0 {
					b.put(" and ", here)
				}
				comp := e.comps.items[k].string()
				b.put(" ", here)
				b.add(e.fields.items[k].text)
				b.put(" "+comp+" ", here)
				b.entry(&row.items[k], comp)
				fields = append(fields, e.fields.items[k].string())
			}
			b.put(")", here)
		}
		b.put(")", here)
	}
	return b.text(), union(fields, nil), nil
}

// add appends a whole text.
func (b *builder) add(t *text) {
	if t != nil {
		b.slice(t, 0, len(t.s))
	}
}

// entry writes the value of one field of a row.
func (b *builder) entry(e *entry, comp string) {
	switch {
	case e.list:
		like := part{one: true}
		if len(e.items) > 0 && e.items[0].text != nil {
			like = e.items[0].text.place(0)
		}
		b.put("(", like)
		for i := range e.items {
			if i > 0 {
				b.put(", ", like)
			}
			b.value(&e.items[i], quote)
		}
		b.put(")", like)
	case takesList(comp):
		b.value(e, func(s string) string {
			if strings.HasPrefix(s, "(") {
				return s
			}
			return "(" + s + ")"
		})
	default:
		b.value(e, quote)
	}
}

// value writes a scalar, as wrap changes it.
func (b *builder) value(e *entry, wrap func(string) string) {
	if e.text == nil {
		return
	}
	s := e.text.s
	w := wrap(s)
	if w == s {
		b.add(e.text)
		return
	}
	b.put(w[:1], e.text.place(0))
	b.add(e.text)
	b.put(w[len(w)-1:], e.text.place(len(s)))
}
