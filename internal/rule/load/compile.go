package load

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/rule/condition"
)

// compiled is what became of everything that was collected.
type compiled struct {
	lists  []*compiledList
	macros []*compiledMacro
	rules  []*compiledRule
	byName map[string]*compiledMacro
	// listAt has the index of lists by name, but for the odd ones, which have delimiters in their
	// names.
	listAt map[string]int
	odd    []int
	// What was made of all texts: bytes with lists in them, nodes with macros in them.
	bytes, nodes int
}

type compiledList struct {
	item  *listItem
	items []string // with those of lists that it names
	used  bool
}

type compiledMacro struct {
	item      *macroItem
	condition condition.Expr
	size      int
	used      bool
	broken    bool // it has errors, or uses one that has
}

type compiledRule struct {
	item            *ruleItem
	output          *text // without what means nothing any more
	condition       condition.Expr
	exceptionFields []string
	outputFields    []string
	then            []condition.Expr
}

// compile compiles everything that was collected. It returns nil if there is an error.
func (l *loader) compile() *compiled {
	c := &compiled{byName: make(map[string]*compiledMacro), listAt: make(map[string]int)}
	errors := len(l.file.Errors)
	if f := l.compileLists(c); f != nil && !l.fail(f) {
		return nil
	}
	for _, m := range l.collector.macros.list {
		e, _, f := l.parse(c, m.condition, m.conditionContext)
		n := &compiledMacro{item: m, condition: e, broken: f != nil}
		if f != nil && !l.fail(f) {
			return nil
		}
		c.macros = append(c.macros, n)
		c.byName[m.name] = n
	}
	for _, m := range c.macros {
		if f := l.expandMacro(c, m); f != nil && !l.fail(f) {
			return nil
		}
	}
	for _, r := range l.collector.rules.list {
		if r.unknownSource {
			continue
		}
		n, f := l.compileRule(c, r)
		if f != nil && !l.fail(f) {
			return nil
		}
		if n != nil {
			c.rules = append(c.rules, n)
		}
	}
	if len(l.file.Errors) > errors || errors > 0 {
		return nil
	}
	for _, m := range c.macros {
		if !m.used {
			l.warn(WarnUnusedMacro, "Macro not referred to by any other rule/macro", "", m.item.context)
		}
	}
	for _, i := range c.lists {
		if !i.used {
			l.warn(WarnUnusedList, "List not referred to by any other rule/macro", "", i.item.context)
		}
	}
	return c
}

// expandMacro puts macros into a macro. One that uses a broken one is broken, which is no failure.
func (l *loader) expandMacro(c *compiled, m *compiledMacro) *failure {
	if m.broken {
		return nil
	}
	key := memoKey{parsed: m.condition, visibility: m.item.visibility}
	if before := l.macros[m.item.name]; before.same(key, c) {
		m.condition, m.size = before.condition, before.size
		return nil
	}
	x := expander{loader: l, compiled: c, visibility: m.item.visibility, limited: true}
	e := x.expand(m.condition, nil)
	f := x.failure(m.item.condition, m.item.context)
	if m.broken = f != nil || x.broken; m.broken {
		return f
	}
	m.condition, m.size = e, x.size
	l.macros[m.item.name] = &memo{key: key, used: x.used, condition: e, size: x.size}
	return nil
}

// compileLists puts the items of lists in the place of their names in later lists. That goes one
// step deep, as in the real engine: what is in a list there stays as it is written.
func (l *loader) compileLists(c *compiled) *failure {
	used := make(map[string]bool)
	total := 0
	for _, i := range l.collector.lists.list {
		n := &compiledList{item: i}
		for _, text := range i.items {
			other, ok := l.collector.lists.find(text)
			if !ok || other.index >= i.visibility {
				n.items = append(n.items, text)
				total++
				continue
			}
			used[text] = true
			for _, deeper := range other.items {
				if n, ok := l.collector.lists.find(deeper); ok && n.index < other.visibility {
					l.note("the list '"+deeper+"' in the list '"+text+"' is not replaced here, but stays as the text "+deeper, "lists are replaced one step deep; name "+deeper+" here, too", i.context)
					break
				}
			}
			n.items = append(n.items, other.items...)
			if total += len(other.items); total > maxNodes {
				return &failure{code: ErrValidate, message: "the lists have too many items", context: i.context}
			}
		}
		if strings.ContainsAny(i.name, delimiters) {
			c.odd = append(c.odd, len(c.lists))
		} else {
			c.listAt[i.name] = len(c.lists)
		}
		c.lists = append(c.lists, n)
	}
	for _, n := range c.lists {
		n.used = used[n.item.name]
	}
	return nil
}

// parse puts lists in the place of their names, and parses what results.
func (l *loader) parse(c *compiled, t *text, at *context) (condition.Expr, *text, *failure) {
	// Lists are put in in their order, so that the items of one may name those behind it.
	pending := c.named(slices.Clone(c.odd), t.s, -1)
	for len(pending) > 0 {
		at0 := pending[0]
		pending = pending[1:]
		i := c.lists[at0]
		s, inside := t.substitute(i.item.name, i.items, l.options.StrictLists)
		if s == t {
			continue
		}
		i.used = true
		if inside >= 0 {
			l.note("the list '"+i.item.name+"' is put into a quoted text", "that is how Falco does it; give the list another name", at.expression(t, inside))
		}
		t = s
		for _, item := range i.items {
			pending = c.named(pending, item, at0)
		}
		c.bytes += len(t.s)
		switch {
		case len(t.s) > maxConditionBytes:
			return nil, nil, &failure{code: ErrCompileCondition, message: "the condition has more than " + strconv.Itoa(maxConditionBytes) + " bytes, with the lists in it", context: at}
		case c.bytes > maxSubstituted:
			return nil, nil, &failure{code: ErrCompileCondition, message: "the conditions have more than " + strconv.Itoa(maxSubstituted) + " bytes, with the lists in them", context: at}
		}
	}
	key := parsedKey{text: t.s}
	if from := t.place(0).from; from != nil {
		key.node = from.node
	}
	p, ok := l.parsed[key]
	if !ok || !sameOrigin(p.text, t) {
		p.text, p.source = t, t.condition()
		p.expr, p.err = condition.Parse(p.source)
		l.parsed[key] = p
	}
	if p.err != nil {
		message, hint := errorText(p.err)
		return nil, nil, &failure{code: ErrCompileCondition, message: message, hint: hint, context: at.expression(t, errorOffset(p.err))}
	}
	return p.expr, t, nil
}

// named adds the lists behind a place whose names stand between delimiters in a text to a sorted
// list of lists.
func (c *compiled) named(pending []int, text string, behind int) []int {
	if len(c.listAt) == 0 {
		return pending
	}
	for len(text) > 0 {
		word := text
		if end := strings.IndexAny(text, delimiters); end >= 0 {
			word, text = text[:end], text[end+1:]
		} else {
			text = ""
		}
		if i, ok := c.listAt[word]; ok && i > behind {
			if at, there := slices.BinarySearch(pending, i); !there {
				pending = slices.Insert(pending, at, i)
			}
		}
	}
	return pending
}

// parsedKey is a text and the scalar that it begins with.
type parsedKey struct {
	text string
	node *yaml.Node
}

// parsedText is a condition that was parsed before.
type parsedText struct {
	text   *text
	source *condition.Text
	expr   condition.Expr
	err    error
}

// sameOrigin says whether two texts come from the same scalars.
func sameOrigin(a, b *text) bool {
	return slices.EqualFunc(a.parts, b.parts, func(x, y part) bool {
		if x.from == nil || y.from == nil {
			return x.from == y.from
		}
		return x.at == y.at && x.from.node == y.from.node && x.off == y.off
	})
}

// errorText returns the message and the hint of an error about a condition.
func errorText(err error) (message, hint string) {
	var e *condition.Error
	if errors.As(err, &e) {
		return e.Message, e.Hint
	}
	return err.Error(), ""
}

func errorOffset(err error) int {
	var e *condition.Error
	if errors.As(err, &e) {
		return e.At.Offset
	}
	return 0
}

// unknownField says that an error is about a field that there is not.
func unknownField(err error) bool {
	return errors.Is(err, fieldtext.ErrUnknownField) || strings.Contains(err.Error(), "nonexistent field") ||
		strings.Contains(err.Error(), "invalid formatting token")
}

// compileRule compiles a rule. It returns neither for one that is skipped.
func (l *loader) compileRule(c *compiled, r *ruleItem) (*compiledRule, *failure) {
	whole, fields, f := r.withExceptions()
	if f != nil {
		return nil, f
	}
	// The output is looked at first, so what is wrong with the condition is told later.
	key := memoKey{
		output: r.output, window: r.window, throttle: r.throttle, skipUnknown: r.skipUnknown, warnEventTypes: r.warnEventTypes,
	}
	before := l.ruleMemos[r.name]
	if r.window == nil { // whose conditions may have lists in them
		key.parsed, _, _ = l.parse(c, whole, r.conditionContext)
		if key.parsed != nil && before.same(key, c) {
			l.again(before.warnings)
			if before.rule == nil {
				return nil, nil
			}
			n := *before.rule
			n.item = r
			return &n, nil
		}
	}
	l.uses, l.noted, l.incomplete = nil, nil, false
	n, f := l.compileParts(c, r, whole)
	if f != nil || l.incomplete {
		return nil, f
	}
	if n != nil {
		n.exceptionFields = fields
	}
	l.ruleMemos[r.name] = &memo{key: key, used: l.uses, rule: n, warnings: l.noted}
	return n, nil
}

func (l *loader) compileParts(c *compiled, r *ruleItem, whole *text) (*compiledRule, *failure) {
	n := &compiledRule{item: r, output: l.withoutContainerInfo(r)}
	outputFields, err := l.compiler.Output(r.source, n.output.s)
	if err != nil {
		if l.skipPartial(r, err) {
			return nil, nil
		}
		message, hint := errorText(err)
		at := *r.outputContext
		at.exact, at.exactAt = n.output, errorOffset(err)
		if unknownField(err) && r.skipUnknown {
			l.warn(WarnUnknownFilter, message, hint, &at)
			return nil, nil
		}
		return nil, &failure{code: ErrCompileOutput, message: message, hint: hint, context: &at}
	}
	n.outputFields = outputFields
	e, f := l.compileCondition(c, r, whole, r.conditionContext)
	if e == nil {
		return nil, f
	}
	n.condition = e
	if r.source == defaultSource && r.warnEventTypes && !restrictsEventType(e) {
		hint := "add evt.type = or evt.type in"
		if slices.Contains(l.options.Partial, r.source) {
			hint = "the rule is about system calls, of which there are no events here: give it a source"
		}
		l.warn(WarnNoEventType, "Rule matches too many evt.type values. This has a significant performance penalty.", hint, r.context)
	}
	if r.window != nil {
		for i := range r.window.then {
			s := &r.window.then[i]
			e, f := l.compileCondition(c, r, s.text, s.context)
			if e == nil {
				return nil, f
			}
			n.then = append(n.then, e)
		}
		if f := l.checkFields(r, r.window.context, r.window.by, r.window.new, []string{r.window.distinct}); f != nil {
			return nil, f
		}
	}
	if r.throttle != nil {
		if f := l.checkFields(r, r.throttle.context, r.throttle.by); f != nil {
			return nil, f
		}
	}
	return n, nil
}

// containerInfo is no field, but stood for some in outputs of older rules.
const containerInfo = "%container.info"

// withoutContainerInfo returns the output of a rule without containerInfo, of which it warns.
func (l *loader) withoutContainerInfo(r *ruleItem) *text {
	at := strings.Index(r.output.s, containerInfo)
	if at < 0 {
		return r.output
	}
	if d := l.warn(WarnDeprecatedItem, containerInfo+" means nothing any more, and is left out of the output", "remove it", r.context); d != nil {
		exact := *r.outputContext
		exact.exact, exact.exactAt = r.output, at
		e := exact.diagnostic("", "", "")
		d.At, d.Line, d.Width = e.At, e.Line, e.Width
	}
	var b builder
	rest := 0
	for ; at >= 0; at = strings.Index(r.output.s[rest:], containerInfo) {
		b.slice(r.output, rest, rest+at)
		rest += at + len(containerInfo)
	}
	b.slice(r.output, rest, len(r.output.s))
	return b.text()
}

// compileCondition compiles a condition of a rule. It returns neither for a rule that is skipped.
func (l *loader) compileCondition(c *compiled, r *ruleItem, whole *text, at *context) (condition.Expr, *failure) {
	e, _, f := l.parse(c, whole, at)
	if f != nil {
		return nil, f
	}
	x := expander{loader: l, compiled: c}
	e = x.expand(e, nil)
	if c.nodes += x.size; c.nodes > maxTotalNodes {
		return nil, &failure{code: ErrValidate, message: "the rules are too large, with the macros in them", context: r.context}
	}
	l.uses = append(l.uses, x.used...)
	if f := x.failure(whole, r.context); f != nil || x.broken {
		l.incomplete = true
		return nil, f
	}
	inCondition := func(p condition.Pos) *context {
		here := at.expression(whole, p.Offset)
		here.exact, here.exactAt = position(p)
		return here
	}
	warnings, err := l.compiler.Condition(r.source, e)
	if err != nil {
		if l.skipPartial(r, err) {
			return nil, nil
		}
		l.unsafeWarning(warnings, at, inCondition)
		message, hint := errorText(err)
		here := at
		if p, ok := errors.AsType[*condition.Error](err); ok {
			here = inCondition(p.At)
		}
		if unknownField(err) && r.skipUnknown {
			l.warn(WarnUnknownFilter, message, hint, here)
			return nil, nil
		}
		return nil, &failure{code: ErrCompileCondition, message: message, hint: hint, context: here}
	}
	l.unsafeWarning(warnings, at, inCondition)
	for _, w := range warnings {
		if Code(w.Code) != WarnUnsafeNACheck {
			l.warn(WarnCompileCondition, w.Message, w.Hint, inCondition(w.At))
		}
	}
	return e, nil
}

// unsafeWarning tells the first comparison with <NA>, as the real engine does, which looks for them
// before it compiles.
func (l *loader) unsafeWarning(warnings []*condition.Error, at *context, in func(condition.Pos) *context) {
	for _, w := range warnings {
		if Code(w.Code) != WarnUnsafeNACheck {
			continue
		}
		if d := l.warn(WarnUnsafeNACheck, w.Message, w.Hint, at); d != nil {
			exact := in(w.At).diagnostic(WarnUnsafeNACheck, w.Message, w.Hint)
			d.At, d.Line, d.Width = exact.At, exact.Line, exact.Width
		}
		return
	}
}

// checkFields looks whether the fields that windows and throttles count by are there.
func (l *loader) checkFields(r *ruleItem, at *context, lists ...[]string) *failure {
	for _, list := range lists {
		for _, name := range list {
			if name == "" {
				continue
			}
			t := &condition.Text{Content: name}
			o, end, err := condition.ParseOperand(t, 0)
			_, isField := o.(*condition.Field)
			_, isTransformer := o.(*condition.Transformer)
			switch {
			case err == nil && end == len(name) && (isField || isTransformer):
				_, err = l.compiler.Condition(r.source, &condition.Check{At: o.Position(), Left: o, Op: condition.Exists})
				if err == nil {
					continue
				}
			case err == nil:
				err = errors.New("'" + name + "' is no field")
			}
			message, hint := errorText(err)
			return &failure{code: ErrYAMLValidate, message: message, hint: hint, context: at.field(name)}
		}
	}
	return nil
}

// restrictsEventType says whether a condition holds for few types of events of the kernel alone.
func restrictsEventType(e condition.Expr) bool {
	switch e := e.(type) {
	case *condition.And:
		return slices.ContainsFunc(e.Terms, restrictsEventType)
	case *condition.Or:
		return !slices.ContainsFunc(e.Terms, func(t condition.Expr) bool { return !restrictsEventType(t) })
	case *condition.Check:
		f, ok := e.Left.(*condition.Field)
		return ok && f.Name == "evt.type" && (e.Op == condition.Equal || e.Op == condition.In)
	}
	return false
}
