// Package load reads files of rules: rules, macros, lists, exceptions, and what later files append
// to or override in earlier ones, with the order, the substitutions and the checks of Falco. What
// comes out is a list of rules whose conditions are complete: no macros and no names of lists are
// left in them.
package load

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/spelling"
)

// Bounds of what is loaded. What is beyond is an error.
const (
	// MaxFiles, MaxFileBytes and MaxBytes are how many files there may be, and how large one and
	// all of them; the number is for who reads them to check.
	MaxFiles     = 1000
	MaxFileBytes = 8 << 20
	MaxBytes     = 64 << 20
	// maxConditionBytes bounds a condition with all lists in it, and other texts.
	maxConditionBytes = 1 << 20
	// maxSubstituted bounds all conditions that have lists in them.
	maxSubstituted = 16 << 20
	// maxNodes bounds what is in a file, with what aliases stand for, and all items of lists.
	maxNodes = 2_000_000
	// maxWarnings bounds the warnings of a file.
	maxWarnings = 5_000
	// maxErrors bounds the errors of a file, with Options.AllErrors.
	maxErrors = 100
)

// Compiler knows the fields of events. It is asked by one goroutine.
type Compiler interface {
	// Source says whether there are events of an event source.
	Source(name string) bool
	// Condition compiles a condition without macros. Warnings have a Code, or are about what the
	// condition may not mean; those with a Code may come with an error. The error is, or wraps, a
	// [*condition.Error]. It wraps
	// fieldtext.ErrUnknownField, or says "nonexistent field", if there is no such field.
	Condition(source string, e condition.Expr) (warnings []*condition.Error, err error)
	// Output compiles an output. It returns the fields and transformers in it as they are written,
	// in order and as often as they are there, those in a transformer in front of it. The error is as that of Condition, with an offset in the text.
	Output(source, text string) (fields []string, err error)
}

// Options say how files are loaded.
type Options struct {
	Compiler Compiler
	// Plugins are those that there are: for required_plugin_versions, and for what Describe
	// says about the plugins that a rule uses.
	Plugins []*sourceplugin.Description
	// AnyPlugins does not ask for what required_plugin_versions says.
	AnyPlugins bool
	// Minimum is the least priority of rules that are loaded; nil: all are.
	Minimum *severity.Severity
	// Selections turn rules on and off, in this order.
	Selections []Selection
	// StrictLists leaves names of lists in quoted strings alone, where Falco replaces them.
	StrictLists bool
	// AllErrors goes on behind errors, for people who want to mend them all at once. Without it
	// the first one ends a file, as in Falco.
	AllErrors bool
	// Sources are the names of event sources, for hints.
	Sources []string
	// Partial are event sources of which not all fields are known. A rule that asks for another
	// one is skipped, as if there were no such source.
	Partial []string
}

// Load reads files in this order and returns the rules in definition order, and what was wrong. If
// there is an error there are no rules. It does not return those with an unknown source, those
// that are skipped, and those with a priority that is too low; those that are turned off it does.
func Load(files []File, o Options) ([]*Rule, *Report) {
	l := load(files, o)
	if !l.report.OK() || l.result == nil {
		return nil, l.report
	}
	// Whoever keeps the rules does not want to keep the files, too.
	for _, p := range l.parsed {
		p.source.Origin = nil
	}
	return l.rules(), l.report
}

// brokenItem is an item with errors.
type brokenItem struct{ kind, name string }

// loader has the state of loading.
type loader struct {
	options   Options
	compiler  Compiler
	collector collector
	parsed    map[parsedKey]parsedText
	report    *Report
	file      *FileReport // the one that is read
	result    *compiled   // of the last file
	compiling bool
	bytes     int // of all files

	// Items that could not be read, and those that could not be compiled, by kind and name: what
	// depends on them is not told as an error, too.
	broken map[brokenItem]bool

	// What became of macros and rules when the file before was compiled, by name.
	macros, ruleMemos map[string]*memo
	// The macros that the rule uses that is compiled, the warnings about it, and whether one of
	// the macros has errors.
	uses       []usedMacro
	noted      []*Diagnostic
	incomplete bool
}

func load(files []File, o Options) *loader {
	l := &loader{options: o, compiler: o.Compiler, report: &Report{}, broken: make(map[brokenItem]bool)}
	l.forget()
	for _, f := range files {
		l.load(f)
	}
	return l
}

// forget forgets what became of the files before.
func (l *loader) forget() {
	l.parsed = make(map[parsedKey]parsedText)
	l.macros, l.ruleMemos = make(map[string]*memo), make(map[string]*memo)
}

// load reads a file and compiles everything that was collected so far, as the real engine does: a
// rule may be wrong when it is read, whatever later files say.
func (l *loader) load(f File) {
	l.file = &FileReport{Name: f.Name}
	l.report.Files = append(l.report.Files, l.file)
	l.result = nil
	l.bytes += len(f.Content)
	if l.bytes > MaxBytes {
		f.Content, f.Err = nil, fmt.Errorf("the files have more than %d bytes", MaxBytes)
	}
	src := newSource(f)
	if f.Err != nil {
		l.fail(&failure{code: ErrFileRead, message: f.Err.Error(), context: newContext(src)})
		return
	}
	docs, err := src.parse()
	if err != nil {
		c := newContext(src)
		if at, ok := errors.AsType[*yamlError](err); ok {
			c = &context{src: src, up: c, kind: inValue, marked: true, mark: src.markAt(at.at)}
		}
		l.fail(&failure{code: ErrYAMLParse, message: err.Error(), context: c})
		return
	}
	l.file.SchemaValid, l.file.SchemaWarnings = checkSchema(src, docs)
	if !l.read(src, docs) {
		return
	}
	if f := l.checkPlugins(); f != nil {
		l.fail(f)
		return
	}
	l.compiling = true
	l.result = l.compile()
	l.compiling = false
}

// fail notes an error and says whether to go on.
func (l *loader) fail(f *failure) bool {
	if len(l.file.Errors) < maxErrors {
		l.file.Errors = append(l.file.Errors, f.diagnostic())
	}
	return l.options.AllErrors && len(l.file.Errors) < maxErrors
}

// warn notes a warning. It returns nil if there are too many.
func (l *loader) warn(code Code, message, hint string, at *context) *Diagnostic {
	if len(l.file.Warnings) >= maxWarnings {
		l.file.LeftOut++
		return nil
	}
	d := at.diagnostic(code, message, hint)
	d.Compiled = l.compiling
	l.file.Warnings = append(l.file.Warnings, d)
	l.noted = append(l.noted, d)
	return d
}

// note notes what may not be meant. It is told once for each place.
func (l *loader) note(message, hint string, at *context) {
	if len(l.file.Notes) >= maxErrors {
		return
	}
	d := at.diagnostic("", message, hint)
	for _, o := range l.file.Notes {
		if o.At == d.At && o.Message == d.Message {
			return
		}
	}
	l.file.Notes = append(l.file.Notes, d)
}

// again notes warnings of an earlier file again.
func (l *loader) again(warnings []*Diagnostic) {
	for _, d := range warnings {
		if len(l.file.Warnings) >= maxWarnings {
			l.file.LeftOut++
			continue
		}
		l.file.Warnings = append(l.file.Warnings, d)
	}
}

// ruleHint guesses which rule was meant.
func (l *loader) ruleHint(name string) string {
	names := make([]string, 0, len(l.collector.rules.list))
	for _, r := range l.collector.rules.list {
		names = append(names, r.name)
	}
	if near := spelling.Nearest(name, names); near != "" {
		return `did you mean "` + near + `"?`
	}
	return "files are read in their order"
}

// skipPartial says whether a rule is skipped because of an error, and warns of that.
func (l *loader) skipPartial(r *ruleItem, err error) bool {
	if !unknownField(err) || !slices.Contains(l.options.Partial, r.source) {
		return false
	}
	l.warn(WarnUnknownSource, "Unknown source "+r.source+", skipping", l.sourceHint(r), r.context)
	return true
}

func (l *loader) sourceHint(r *ruleItem) string {
	if !r.sourceGiven {
		return "a rule that does not say source is about system calls"
	}
	if near := spelling.Nearest(r.source, l.options.Sources); near != "" {
		return "did you mean " + near + "?"
	}
	return "a plugin that has this source must be there"
}

// rules returns what was compiled.
func (l *loader) rules() []*Rule {
	list := make([]*Rule, 0, len(l.result.rules))
	for _, c := range l.result.rules {
		r := c.item
		if l.options.Minimum != nil && r.priority > *l.options.Minimum {
			continue
		}
		n := &Rule{
			Name: r.name, Description: r.description, Source: r.source, Priority: r.priority,
			Tags: slices.Clone(r.tags), Enabled: r.enabled,
			ConditionText: r.condition.s, Condition: c.condition, Output: c.output.s,
			At: r.context.src.place(r.context.place().offset),
		}
		if w := r.window; w != nil {
			n.Window = &Window{Within: w.within, By: w.by, Count: w.count, Distinct: w.distinct, Then: c.then, New: w.new}
		}
		if t := r.throttle; t != nil {
			n.Throttle = &Throttle{Every: t.every, By: t.by}
		}
		list = append(list, n)
	}
	applySelections(list, l.options.Selections)
	return list
}

// File is a file of rules.
type File struct {
	Name    string // as people know it
	Content []byte
	// Err says that it could not be read.
	Err error
}

// Rule is a rule, in definition order.
type Rule struct {
	Name, Description string
	Source            string // event source; "syscall" if the file does not say
	Priority          severity.Severity
	Tags              []string // sorted
	Enabled           bool

	ConditionText string // as written, appended texts included
	Condition     condition.Expr
	Output        string // the template

	// Window and Throttle are extensions of this hub, in the keys "window" and "throttle".
	Window   *Window
	Throttle *Throttle

	// At is where the rule was defined.
	At Place
}

// Place is in a file. Lines and columns count from 1.
type Place struct {
	File         string
	Line, Column int
	Offset       int // in bytes, from 0
}

// String returns file:line:column, or the file alone if that is all that is known.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
}

// Window makes a rule one about several events: Count of them within a time, or some that follow
// each other, or something that was not there before, for each value of By.
type Window struct {
	Within time.Duration
	By     []string // fields; events that have not all of them do not count

	// Count and Distinct: so many events, or, with Distinct, events with so many different values
	// of that field.
	Count    int
	Distinct string
	// Then are the conditions of the events that must follow one that fits the rule's, in order.
	Then []condition.Expr
	// New: the values of these fields were not seen together with those of By, within the time.
	New []string
}

// Throttle bounds how often a rule raises an alert. What it holds back is counted, and the count
// is in the next alert or in one of its own.
type Throttle struct {
	Every time.Duration // at most one alert in this time
	By    []string      // for each value of these fields; empty: of the rule
}

// Selection enables or disables rules after all files are read, as "rules" of Falco's configuration
// does. They are applied in order.
type Selection struct {
	Enable bool
	// Rule is the name of a rule, in which * stands for any text; Tag is a tag. One of them is set.
	Rule, Tag string
}
