package load

import (
	"slices"

	"github.com/tocsin-events/tocsin/internal/severity"
)

// What was collected from the files. An item that is defined again keeps its position.

// item is what items have in common.
type item struct {
	name    string
	context *context
	// index is the position; a macro sees those macros whose index is less than its visibility,
	// which is the position of what was said last about it.
	index, visibility int
}

type listItem struct {
	item
	items []string
}

type macroItem struct {
	item
	condition        *text
	conditionContext *context
}

type ruleItem struct {
	item
	condition        *text
	conditionContext *context
	output           *text
	outputContext    *context
	description      string
	source           string
	sourceGiven      bool // it is not the default one
	unknownSource    bool
	priority         severity.Severity
	tags             []string // sorted
	enabled          bool
	warnEventTypes   bool
	skipUnknown      bool
	capture          bool
	captureDuration  uint32
	exceptions       []*exception
	window           *windowItem
	throttle         *throttleItem
}

// exception is one of a rule: what its condition leaves out.
type exception struct {
	name    string
	context *context
	fields  entry
	comps   entry
	values  []entry
}

// entry is a scalar or a list of entries.
type entry struct {
	list  bool
	text  *text // of a scalar
	items []entry
}

func (e *entry) valid() bool {
	if e.list {
		return len(e.items) > 0
	}
	return e.text != nil && e.text.s != ""
}

func (e *entry) string() string {
	if e.text == nil {
		return ""
	}
	return e.text.s
}

// named is an ordered collection of items.
type named[T any] struct {
	list   []T
	byName map[string]int
}

func (n *named[T]) find(name string) (T, bool) {
	i, ok := n.byName[name]
	if !ok {
		var none T
		return none, false
	}
	return n.list[i], true
}

func (n *named[T]) put(name string, v T) {
	if i, ok := n.byName[name]; ok {
		n.list[i] = v
		return
	}
	if n.byName == nil {
		n.byName = make(map[string]int)
	}
	n.byName[name] = len(n.list)
	n.list = append(n.list, v)
}

// pluginRequirement is one of required_plugin_versions: one of these must be there.
type pluginRequirement struct {
	context      *context
	alternatives []pluginVersion
}

type pluginVersion struct{ name, version string }

// collector has everything that the files said so far.
type collector struct {
	lists   named[*listItem]
	macros  named[*macroItem]
	rules   named[*ruleItem]
	next    int
	engine  version // the highest required
	plugins []pluginRequirement
}

func (c *collector) defineList(l *listItem) {
	l.index, l.visibility = c.next, c.next
	if before, ok := c.lists.find(l.name); ok {
		l.index = before.index
	}
	c.next++
	c.lists.put(l.name, l)
}

func (c *collector) appendList(l *listItem) *failure {
	before, ok := c.lists.find(l.name)
	if !ok {
		return (&failure{code: ErrValidate, message: "there is no list of this name before, to append to", context: l.context}).isMissing()
	}
	before.items = slices.Concat(before.items, l.items)
	before.visibility = c.next
	c.next++
	return nil
}

func (c *collector) defineMacro(m *macroItem) {
	m.index, m.visibility = c.next, c.next
	if before, ok := c.macros.find(m.name); ok {
		m.index = before.index
	}
	c.next++
	c.macros.put(m.name, m)
}

func (c *collector) appendMacro(m *macroItem) *failure {
	before, ok := c.macros.find(m.name)
	if !ok {
		return (&failure{code: ErrValidate, message: "there is no macro of this name before, to append to", context: m.context}).isMissing()
	}
	before.condition = join(before.condition, m.condition)
	before.visibility = c.next
	c.next++
	return nil
}

// ruleUpdate is what an item appends to a rule or replaces in it; nil where it says nothing.
type ruleUpdate struct {
	name            string
	context         *context
	condition       *text
	output          *text
	description     *string
	tags            *[]string
	exceptions      *[]*exception
	priority        *severity.Severity
	enabled         *bool
	warnEventTypes  *bool
	skipUnknown     *bool
	capture         *bool
	captureDuration *uint32
	window          **windowItem
	throttle        **throttleItem
}

func (u *ruleUpdate) empty() bool {
	return u.condition == nil && u.output == nil && u.description == nil && u.tags == nil && u.exceptions == nil &&
		u.priority == nil && u.enabled == nil && u.warnEventTypes == nil && u.skipUnknown == nil && u.capture == nil &&
		u.captureDuration == nil && u.window == nil && u.throttle == nil
}

func (l *loader) defineRule(r *ruleItem) *failure {
	c := &l.collector
	before, again := c.rules.find(r.name)
	if again && before.source != r.source {
		return &failure{code: ErrValidate, message: "the rule was defined before with another source: " + before.source, hint: "a rule keeps its source; use another name", context: r.context}
	}
	if !l.compiler.Source(r.source) {
		r.unknownSource = true
		l.warn(WarnUnknownSource, "Unknown source "+r.source+", skipping", l.sourceHint(r), r.context)
	}
	for _, e := range r.exceptions {
		if !e.fields.valid() {
			return &failure{code: ErrValidate, message: "an exception needs fields", context: e.context}
		}
		if f := l.checkException(r, e); f != nil {
			return f
		}
	}
	r.index, r.visibility = c.next, c.next
	if again {
		r.index = before.index
	}
	c.next++
	c.rules.put(r.name, r)
	return nil
}

func (l *loader) appendRule(u *ruleUpdate) *failure {
	c := &l.collector
	r, ok := c.rules.find(u.name)
	if !ok {
		return (&failure{code: ErrValidate, message: "there is no rule of this name before, to append to", hint: l.ruleHint(u.name), context: u.context}).isMissing()
	}
	if u.empty() {
		return &failure{code: ErrValidate, message: "there is nothing to append", hint: "give a condition or exceptions", context: u.context}
	}
	if u.condition != nil && u.condition.s != "" {
		r.condition = join(r.condition, u.condition)
	}
	if u.output != nil && u.output.s != "" {
		r.output = join(r.output, u.output)
	}
	if u.description != nil && *u.description != "" {
		r.description += " " + *u.description
	}
	if u.tags != nil {
		r.tags = union(r.tags, *u.tags)
	}
	if u.exceptions != nil {
		for _, e := range *u.exceptions {
			i := slices.IndexFunc(r.exceptions, func(o *exception) bool { return o.name == e.name })
			switch {
			case i < 0 && !e.fields.valid():
				return &failure{code: ErrValidate, message: "a new exception needs fields", context: e.context}
			case i < 0 && len(e.values) == 0:
				return &failure{code: ErrValidate, message: "an exception that is appended needs values", context: e.context}
			case i < 0:
				if f := l.checkException(r, e); f != nil {
					return f
				}
				r.exceptions = append(r.exceptions, e)
			case e.fields.valid():
				return &failure{code: ErrValidate, message: "the fields of an exception that there is cannot be changed, only values appended", context: e.context}
			case e.comps.valid():
				return &failure{code: ErrValidate, message: "the comps of an exception that there is cannot be changed, only values appended", context: e.context}
			default:
				o := *r.exceptions[i]
				o.values = slices.Concat(o.values, e.values)
				r.exceptions[i] = &o
			}
		}
	}
	r.visibility = c.next
	c.next++
	return nil
}

func (l *loader) replaceRule(u *ruleUpdate) *failure {
	c := &l.collector
	r, ok := c.rules.find(u.name)
	if !ok {
		return (&failure{code: ErrValidate, message: "there is no rule of this name before, to replace something in", hint: l.ruleHint(u.name), context: u.context}).isMissing()
	}
	if u.exceptions != nil {
		for _, e := range *u.exceptions {
			if !e.fields.valid() {
				return &failure{code: ErrValidate, message: "an exception needs fields", context: e.context}
			}
			if f := l.checkException(r, e); f != nil {
				return f
			}
		}
		r.exceptions = *u.exceptions
	}
	if u.condition != nil {
		r.condition = u.condition
	}
	if u.output != nil {
		r.output = u.output
	}
	if u.tags != nil {
		r.tags = *u.tags
	}
	set(&r.description, u.description)
	set(&r.priority, u.priority)
	set(&r.enabled, u.enabled)
	set(&r.warnEventTypes, u.warnEventTypes)
	set(&r.skipUnknown, u.skipUnknown)
	set(&r.capture, u.capture)
	set(&r.captureDuration, u.captureDuration)
	set(&r.window, u.window)
	set(&r.throttle, u.throttle)
	r.visibility = c.next
	c.next++
	return nil
}

func set[T any](to *T, value *T) {
	if value != nil {
		*to = *value
	}
}

// union returns two sorted sets as one.
func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}
