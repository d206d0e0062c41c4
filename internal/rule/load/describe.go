package load

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Describe loads files and returns the JSON of Falco's option -L: every rule, macro and list in its
// compiled form. It is nil if there is an error.
func Describe(files []File, o Options) (json.RawMessage, *Report) {
	l := load(files, o)
	if !l.report.OK() || l.result == nil {
		return nil, l.report
	}
	d := describer{loader: l, lists: make(map[string]bool), macros: make(map[string]bool)}
	for _, i := range l.result.lists {
		d.lists[i.item.name] = true
	}
	for _, m := range l.result.macros {
		d.macros[m.item.name] = true
	}
	b, err := marshal(d.all())
	if err != nil {
		return nil, l.report
	}
	return b, l.report
}

type describer struct {
	*loader
	lists, macros map[string]bool
}

type document = map[string]any

func (d *describer) all() document {
	requirements := []any{}
	for _, r := range d.collector.plugins {
		alternatives := []any{}
		for _, a := range r.alternatives[1:] {
			alternatives = append(alternatives, document{"name": a.name, "version": a.version})
		}
		requirements = append(requirements, document{"name": r.alternatives[0].name, "version": r.alternatives[0].version, "alternatives": alternatives})
	}
	rules, macros, lists := []any{}, []any{}, []any{}
	for _, r := range d.result.rules {
		rules = append(rules, d.rule(r))
	}
	for _, m := range d.result.macros {
		macros = append(macros, d.macro(m))
	}
	for _, i := range d.result.lists {
		lists = append(lists, d.list(i))
	}
	return document{
		"required_engine_version": d.collector.engine.String(), "required_plugin_versions": requirements,
		"rules": rules, "macros": macros, "lists": lists,
	}
}

func (d *describer) rule(c *compiledRule) document {
	r := c.item
	written := d.written(r.condition)
	fields, operators, events := d.compiledDetails(c.condition)
	var names, comps nameSet
	for _, e := range r.exceptions {
		names.add(e.name)
		if !e.comps.list {
			comps.add(compText(e.comps.string()))
		}
		for _, i := range e.comps.items {
			comps.add(compText(i.string()))
		}
	}
	details := document{
		"macros": written.macros.list(), "lists": written.lists.list(),
		"condition_operators": operators.list(), "condition_fields": fields.list(),
		"output_fields": orEmpty(c.outputFields), "exception_fields": orEmpty(c.exceptionFields),
		"exception_names": names.list(), "exception_operators": comps.list(),
		"condition_compiled": condition.Compiled(c.condition), "output_compiled": c.output.s,
		"plugins": d.plugins(r.source, fields, c.outputFields, events),
	}
	if r.source != defaultSource {
		details["events"] = []string{"asyncevent", "pluginevent"}
	}
	info := document{
		"name": r.name, "condition": r.condition.s, "priority": r.priority.String(), "output": c.output.s,
		"description": r.description, "enabled": r.enabled, "source": r.source, "tags": orEmpty(r.tags),
		"capture": r.capture, "capture_duration": r.captureDuration,
	}
	if w := r.window; w != nil {
		info["window"] = d.window(w, c.then)
	}
	if t := r.throttle; t != nil {
		info["throttle"] = document{"every": t.every.String(), "by": orEmpty(t.by)}
	}
	return document{"info": info, "details": details}
}

// window describes what Falco has not.
func (d *describer) window(w *windowItem, then []condition.Expr) document {
	o := document{"within": w.within.String(), "by": orEmpty(w.by)}
	switch {
	case w.count > 0:
		o["count"] = w.count
		if w.distinct != "" {
			o["distinct"] = w.distinct
		}
	case len(w.new) > 0:
		o["new"] = w.new
	default:
		list := []string{}
		for _, e := range then {
			list = append(list, condition.String(e))
		}
		o["then"] = list
	}
	return o
}

func (d *describer) macro(m *compiledMacro) document {
	written := d.written(m.item.condition)
	fields, operators, _ := d.compiledDetails(m.condition)
	return document{
		"info": document{"name": m.item.name, "condition": m.item.condition.s},
		"details": document{
			"used": m.used, "macros": written.macros.list(), "lists": written.lists.list(),
			"condition_operators": operators.list(), "condition_fields": fields.list(),
			"condition_compiled": condition.Compiled(m.condition), "plugins": []string{},
		},
	}
}

func (d *describer) list(c *compiledList) document {
	var lists nameSet
	items := []string{}
	there := make(map[string]bool, len(c.items))
	for _, i := range c.items {
		there[i] = true
	}
	for _, i := range c.item.items {
		// What is not among the compiled items was the name of a list.
		if there[i] {
			items = append(items, i)
		} else {
			lists.add(i)
		}
	}
	return document{
		"info":    document{"name": c.item.name, "items": items},
		"details": document{"used": c.used, "lists": lists.list(), "items_compiled": orEmpty(c.items), "plugins": []string{}},
	}
}

// writtenDetails are the macros and lists that a condition names.
type writtenDetails struct{ macros, lists nameSet }

func (d *describer) written(t *text) (w writtenDetails) {
	e, err := condition.Parse(&condition.Text{Content: t.s})
	if err != nil {
		return w // it parses only with its lists replaced
	}
	condition.Walk(e, func(e condition.Expr) bool {
		switch e := e.(type) {
		case *condition.Macro:
			if d.macros[e.Name] {
				w.macros.add(e.Name)
			}
		case *condition.Check:
			if l, ok := e.Right.(*condition.List); ok {
				for _, i := range l.Items {
					if v, ok := i.(*condition.Literal); ok && d.lists[v.Text] {
						w.lists.add(v.Text)
					}
				}
			}
		}
		return true
	})
	return w
}

// compiledDetails returns the fields and operators of a condition, and the types of events that
// it names.
func (d *describer) compiledDetails(e condition.Expr) (fields, operators nameSet, events []string) {
	condition.Walk(e, func(e condition.Expr) bool {
		c, ok := e.(*condition.Check)
		if !ok {
			return true
		}
		eventType := false
		var visit func(o condition.Operand, right bool)
		visit = func(o condition.Operand, right bool) {
			switch o := o.(type) {
			case *condition.Field:
				name := o.Name
				if o.ArgPresent {
					name += "[" + o.Arg + "]"
				}
				fields.add(name)
				eventType = eventType || !right && (name == "evt.type" || name == "evt.asynctype")
			case *condition.Transformer:
				for _, a := range o.Args {
					visit(a, right)
				}
			case *condition.List:
				for _, i := range o.Items {
					visit(i, right)
				}
			case *condition.Literal:
				if right && eventType {
					events = append(events, o.Text)
				}
			}
		}
		visit(c.Left, false)
		op := string(c.Op)
		if c.Modifier != condition.None {
			op += " " + string(c.Modifier)
		}
		operators.add(op)
		if c.Right != nil {
			visit(c.Right, true)
		}
		return true
	})
	return fields, operators, events
}

// plugins returns the plugins that a rule uses: those of its source, and those whose fields or
// asynchronous events it asks for.
func (d *describer) plugins(source string, fields nameSet, output, events []string) []string {
	used := make(map[string]bool)
	for _, f := range slices.Concat(fields.list(), output) {
		name, _, _ := strings.Cut(f, "[")
		used[name] = true
	}
	var names nameSet
	for _, p := range d.options.Plugins {
		compatible := len(p.ExtractSources) == 0 || slices.Contains(p.ExtractSources, source)
		switch {
		case p.Capabilities.Source && p.EventSource == source,
			p.Capabilities.Extract && compatible && slices.ContainsFunc(p.Fields, func(f sourceplugin.Field) bool { return used[f.Name] }),
			p.Capabilities.Async && slices.ContainsFunc(p.AsyncNames, func(n string) bool { return slices.Contains(events, n) }):
			names.add(p.Name)
		}
	}
	return names.list()
}
