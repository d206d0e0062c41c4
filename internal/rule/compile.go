package rule

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/eventfields"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/rule/match"
	"github.com/tocsin-events/tocsin/internal/rule/output"
	"github.com/tocsin-events/tocsin/internal/rule/window"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Compile reads files and compiles the rules in them. The report says what is wrong; if there are
// errors in it there is no Set.
func Compile(files []load.File, o Options) (*Set, *load.Report) {
	if o.Matching == "" {
		o.Matching = First
	}
	c := NewCompiler(o.Plugins, o.Incomplete)
	rules, report := load.Load(files, load.Options{
		Compiler: c, Plugins: o.Plugins, AnyPlugins: o.Incomplete, Minimum: o.Minimum, Selections: o.Selections, StrictLists: o.StrictLists, Sources: c.Sources(), Partial: Partial,
	})
	if !report.OK() {
		return nil, report
	}
	s := &Set{options: o, rules: rules, sources: make(map[string]*sourceSet)}
	builders := make(map[string]*match.Builder)
	requests := make(map[string]*field.Requests)
	for _, r := range rules {
		if !r.Enabled {
			continue
		}
		fields, known := c.fields[r.Source]
		if !known { // only if plugins are not known yet
			s.wait(r)
			continue
		}
		if builders[r.Source] == nil {
			requests[r.Source] = field.NewRequests(fields)
			builders[r.Source] = match.NewBuilder(requests[r.Source])
			s.sources[r.Source] = &sourceSet{name: r.Source}
		}
		compiled, err := s.add(r, builders[r.Source], requests[r.Source])
		switch {
		case err == nil:
			compiled.source = s.sources[r.Source]
		case c.mayCome(r.Source, err):
			s.wait(r)
		default:
			refuse(report, r, err)
		}
	}
	if !report.OK() {
		return nil, report
	}
	if _, err := window.New(s.specs, window.Limits{}); err != nil {
		refuse(report, rules[0], err)
		return nil, report
	}
	for name, source := range s.sources {
		source.matcher = builders[name].Build()
		source.requests = requests[name].List()
		source.plugins = slices.ContainsFunc(source.requests, func(q field.Request) bool { return q.Field.Of != "" })
	}
	return s, report
}

// wait notes that a rule judges nothing yet. What its window and its throttle remember is kept.
func (s *Set) wait(r *load.Rule) {
	s.waiting = append(s.waiting, r)
	if r.Window == nil && r.Throttle == nil {
		return
	}
	c := &compiledRule{rule: r, window: len(s.specs)}
	if r.Throttle != nil {
		for _, name := range r.Throttle.By {
			c.throttleBy = append(c.throttleBy, value{name: name})
		}
	}
	s.specs = append(s.specs, window.Spec{Name: r.Name, Window: r.Window, Throttle: r.Throttle})
	s.windowed = append(s.windowed, c)
}

// refuse puts an error into a report that load does not know of.
func refuse(report *load.Report, r *load.Rule, err error) {
	d := &load.Diagnostic{Code: load.ErrCompileCondition, Message: err.Error(), At: r.At, Item: fmt.Sprintf("rule %q", r.Name)}
	for _, f := range report.Files {
		if f.Name == r.At.File {
			f.Errors = append(f.Errors, d)
			return
		}
	}
	report.Files = append(report.Files, &load.FileReport{Name: r.At.File, SchemaValid: true, Errors: []*load.Diagnostic{d}})
}

// mayCome says whether an error may be none when other plugins are known. They add no fields to
// the events of the hub itself.
func (c *Compiler) mayCome(source string, err error) bool {
	return c.incomplete && source != falcoevent.EventSource && isUnknownField(err)
}

// isUnknownField says whether an error is about a field that there is not.
func isUnknownField(err error) bool {
	return errors.Is(err, fieldtext.ErrUnknownField) || strings.Contains(err.Error(), "nonexistent field")
}

// add compiles a rule. What it has asked for stays asked for if there is an error.
func (s *Set) add(r *load.Rule, b *match.Builder, requests *field.Requests) (*compiledRule, error) {
	c := &compiledRule{rule: r, window: -1}
	var err error
	if c.output, err = output.Compile(requests, r.Output); err != nil {
		return nil, err
	}
	if w := r.Window; w != nil {
		if c.by, err = compileValues(requests, w.By); err != nil {
			return nil, err
		}
		names := w.New
		if w.Distinct != "" {
			names = []string{w.Distinct}
		}
		if c.values, err = compileValues(requests, names); err != nil {
			return nil, err
		}
		for _, e := range w.Then {
			step, _, err := b.AddCondition(e)
			if err != nil {
				return nil, err
			}
			c.then = append(c.then, step)
		}
	}
	if t := r.Throttle; t != nil {
		if c.throttleBy, err = compileValues(requests, t.By); err != nil {
			return nil, err
		}
	}
	if _, err = b.Add(r.Condition); err != nil {
		return nil, err
	}
	if err = c.note(requests); err != nil {
		return nil, err
	}
	source := s.sources[r.Source]
	if r.Window != nil || r.Throttle != nil {
		c.window = len(s.specs)
		s.specs = append(s.specs, window.Spec{Name: r.Name, Window: r.Window, Throttle: r.Throttle})
		s.windowed = append(s.windowed, c)
	}
	source.windows = source.windows || r.Window != nil
	if len(c.then) > 0 {
		source.sequences = append(source.sequences, len(source.rules))
	}
	source.rules = append(source.rules, c)
	s.loaded = append(s.loaded, r)
	return c, nil
}

// note finds out what is asked for when the rule fits.
func (c *compiledRule) note(requests *field.Requests) error {
	own := field.NewRequests(requests.Fields())
	if _, err := output.Compile(own, c.rule.Output); err != nil {
		return err
	}
	for _, v := range slices.Concat(c.by, c.values, c.throttleBy) {
		if _, err := output.Compile(own, "%"+v.name); err != nil {
			return err
		}
	}
	for _, q := range own.List() {
		n, err := requests.Add(q.Field.Name, q.Arg, q.ArgPresent)
		if err != nil {
			return err
		}
		c.wants = append(c.wants, n)
		c.plugins = c.plugins || q.Field.Of != ""
	}
	return nil
}

// value is what a window or a throttle counts by: a field or a transformer, whose value is wanted
// as text.
type value struct {
	name    string
	operand *match.Operand
	text    *output.Template
}

func compileValues(requests *field.Requests, names []string) (values []value, err error) {
	for _, name := range names {
		v := value{name: name}
		x, end, err := condition.ParseOperand(&condition.Text{Content: name}, 0)
		if err != nil {
			return nil, err
		}
		if end != len(name) {
			return nil, fmt.Errorf("%q is no field", name)
		}
		if v.operand, err = match.CompileOperand(requests, x); err != nil {
			return nil, err
		}
		if v.text, err = output.Compile(requests, "%"+name); err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

// Compiler knows the event sources and the fields that plugins and the hub offer. It is a
// [load.Compiler] that only checks: for those who load files and judge nothing.
type Compiler struct {
	fields     map[string][]field.Field // of each event source
	builders   map[string]*match.Builder
	requests   map[string]*field.Requests
	incomplete bool
	problems   []error
}

// SystemCalls is the event source of rules that do not say theirs: system calls of Falco's kernel
// module. There are no such events here, and of their fields only those that all events have.
const SystemCalls = "syscall"

// Partial are the event sources of which not all fields are known.
var Partial = []string{SystemCalls}

// NewCompiler returns a Compiler. incomplete is [Options.Incomplete].
func NewCompiler(plugins []*sourceplugin.Description, incomplete bool) *Compiler {
	c := &Compiler{
		fields: make(map[string][]field.Field), builders: make(map[string]*match.Builder), requests: make(map[string]*field.Requests), incomplete: incomplete,
	}
	// The fields of plugins are those of events of plugins only.
	c.fields[falcoevent.EventSource] = eventfields.Fields(falcoevent.EventSource)
	for _, f := range eventfields.Fields(SystemCalls) {
		if strings.HasPrefix(f.Name, "evt.") {
			c.fields[SystemCalls] = append(c.fields[SystemCalls], f)
		}
	}
	for _, d := range plugins {
		for _, source := range append([]string{d.EventSource}, d.ExtractSources...) {
			if _, known := c.fields[source]; source == "" || known {
				continue
			}
			var problems []error
			c.fields[source], problems = eventfields.Combine(source, plugins...)
			c.problems = append(c.problems, problems...)
		}
	}
	return c
}

// Sources returns the event sources, sorted.
func (c *Compiler) Sources() []string {
	var list []string
	for source := range c.fields {
		list = append(list, source)
	}
	slices.Sort(list)
	return list
}

// Problems returns what is wrong with the fields of plugins: names that several have.
func (c *Compiler) Problems() []error { return c.problems }

// Source implements [load.Compiler].
func (c *Compiler) Source(name string) bool {
	_, known := c.fields[name]
	return known || c.incomplete
}

func (c *Compiler) of(source string) (*match.Builder, *field.Requests) {
	if c.builders[source] == nil {
		fields, known := c.fields[source]
		if !known {
			return nil, nil
		}
		c.requests[source] = field.NewRequests(fields)
		c.builders[source] = match.NewBuilder(c.requests[source])
	}
	return c.builders[source], c.requests[source]
}

// Condition implements [load.Compiler].
func (c *Compiler) Condition(source string, e condition.Expr) ([]*condition.Error, error) {
	b, _ := c.of(source)
	if b == nil {
		return nil, nil
	}
	_, warnings, err := b.AddCondition(e)
	if err != nil && c.mayCome(source, err) {
		err = nil
	}
	return warnings, err
}

// Output implements [load.Compiler].
func (c *Compiler) Output(source, text string) ([]string, error) {
	_, requests := c.of(source)
	if requests == nil {
		return nil, nil
	}
	t, err := output.Compile(requests, text)
	if err != nil {
		if c.mayCome(source, err) {
			err = nil
		}
		return nil, err
	}
	return t.Fields(), nil
}
