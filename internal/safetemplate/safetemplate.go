// Package safetemplate is Go's text/template for places where what is written has a form
// that no value may break: JSON, a URL, the value of a header.
//
// In JSON, what an action prints is written as JSON in its place: outside of quotes as a
// value (or, where an object has its keys, as a key), inside of quotes as a part of the
// text, with what would end it escaped. So
//
//	{"text": {{.Type}}, "note": "{{.Path}} has changed"}
//
// is right as it stands, and no value can add a member, close an object or leave its
// quotes. Templates are rewritten for that when they are parsed: each action gets the
// function that fits to its place. Where the place depends on a branch, a template is
// refused. The function raw is the way out.
//
// In a URL, values are escaped for the path or the query, and nothing may be printed
// where the host is. In plain text they are written as they are.
//
// A value that is missing is an error when it is printed, never "<no value>"; the
// function default gives it another. Executing is bounded in time, steps, memory and
// output, whatever the template and the values are, and never panics.
package safetemplate

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"text/template"
	"text/template/parse"
	"time"
	"unicode/utf8"
)

// Form is the form of what a template makes.
type Form uint8

// The forms.
const (
	Text Form = iota
	JSON
	URL
)

// Bounds of templates and of executing one.
const (
	MaxTemplateBytes = 64 << 10
	MaxOutputBytes   = 4 << 20
	MaxSteps         = 100_000          // rounds of range, and templates that are called
	MaxTextBytes     = 32 << 20         // all texts that functions make
	MaxTime          = 10 * time.Second // of one execution
	maxTrees         = 500              // templates, one for each place where it is called
	maxWork          = 200_000          // nodes that are looked at
	maxSourceShown   = 60               // bytes of an action in a message
)

// Source is the text of a template. Name is how messages call it.
type Source struct{ Name, Text string }

// Template is a parsed and rewritten template. It is safe for concurrent use.
type Template struct {
	form  Form
	name  string
	sites []site
	texts map[string]string // of the sources, by name
	base  *template.Template
	runs  sync.Pool // of *run
	parts []string
}

// site is an action that prints.
type site struct {
	source string
	pos    parse.Pos
	text   string
}

// Problem is what is wrong with a template, or with what it was executed on, at a place.
type Problem struct {
	Source       string // name of the source
	Line, Column int    // from 1; 0: of the whole, and of the whole line
	Action       string // the action, empty if it is none
	Reason       string // and the remedy; without values
}

// Error describes the problem.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.Source)
	if p.Line > 0 {
		fmt.Fprintf(&b, ", line %d", p.Line)
	}
	if p.Column > 0 {
		fmt.Fprintf(&b, ", column %d", p.Column)
	}
	if p.Action != "" {
		b.WriteString(", at " + p.Action)
	}
	b.WriteString(": " + p.Reason)
	return b.String()
}

// Parse parses and rewrites a template. What a later source defines replaces what an
// earlier one did. A source that only defines parts leaves the main template to the one
// before it. A part that a source defines and nothing calls is an error, except in the
// first of several sources.
func Parse(form Form, sources ...Source) (*Template, error) {
	t := &Template{form: form, texts: make(map[string]string)}
	trees := make(map[string]*parse.Tree)
	var main *parse.Tree
	var defined []*parse.Tree // that must be used
	for i, s := range sources {
		if len(s.Text) > MaxTemplateBytes {
			return nil, &Problem{Source: s.Name, Reason: fmt.Sprintf("has more than %d KiB", MaxTemplateBytes>>10)}
		}
		if !utf8.ValidString(s.Text) {
			return nil, &Problem{Source: s.Name, Reason: "is not UTF-8"}
		}
		t.texts[s.Name] = s.Text
		set, err := parseSource(s)
		if err != nil {
			return nil, err
		}
		for name, tree := range set {
			if name == s.Name {
				if main == nil || !parse.IsEmptyTree(tree.Root) {
					main = tree
				}
				continue
			}
			trees[name] = tree
			if i > 0 || len(sources) == 1 {
				defined = append(defined, tree)
			}
		}
		if i == 0 {
			for name := range set {
				if name != s.Name {
					t.parts = append(t.parts, name)
				}
			}
		}
	}
	if main == nil {
		main = &parse.Tree{Name: sources[0].Name, ParseName: sources[0].Name, Root: &parse.ListNode{NodeType: parse.NodeList}}
	}
	t.name = main.ParseName
	a := &analysis{t: t, trees: trees, derived: make(map[derivation]*derived)}
	made, err := a.main(main)
	if err != nil {
		return nil, err
	}
	for _, tree := range defined {
		if trees[tree.Name] == tree && !a.used[tree.Name] {
			return nil, &Problem{Source: tree.ParseName, Reason: fmt.Sprintf("defines %q, which nothing calls%s", tree.Name, t.remedyForPart())}
		}
	}
	// The functions of this one are never called, each run has its own.
	t.base = template.New(t.name).Funcs(new(run).functions())
	for _, tree := range made {
		if _, err := t.base.AddParseTree(tree.Name, tree); err != nil {
			return nil, &Problem{Source: t.name, Reason: err.Error()}
		}
	}
	t.runs.New = func() any { return t.newRun() }
	return t, nil
}

func (t *Template) remedyForPart() string {
	if len(t.parts) == 0 {
		return ""
	}
	return "; the parts are " + strings.Join(sorted(t.parts), ", ")
}

// parseSource parses the text. Only the functions of this package are known.
func parseSource(s Source) (set map[string]*parse.Tree, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &Problem{Source: s.Name, Reason: "cannot be parsed"}
		}
	}()
	set, err = parse.Parse(s.Name, s.Text, "{{", "}}", names)
	if err == nil {
		return set, nil
	}
	// "template: NAME:LINE: text"
	p := &Problem{Source: s.Name, Reason: strings.TrimPrefix(err.Error(), "template: ")}
	if rest, ok := strings.CutPrefix(p.Reason, s.Name+":"); ok {
		if _, err := fmt.Sscanf(rest, "%d:", &p.Line); err == nil {
			_, p.Reason, _ = strings.Cut(rest, ": ")
		}
	}
	if name := unknownFunction.FindStringSubmatch(p.Reason); name != nil {
		p.Reason = fmt.Sprintf("there is no function %s; there are %s", name[1], strings.Join(Functions(), ", "))
	}
	return nil, p
}

var unknownFunction = regexp.MustCompile(`^function "([^"]*)" not defined$`)

// at returns a problem at a position of a source.
func (t *Template) at(source string, pos parse.Pos, action, format string, args ...any) *Problem {
	p := &Problem{Source: source, Action: action, Reason: fmt.Sprintf(format, args...)}
	text := t.texts[source]
	before := text[:min(max(int(pos), 0), len(text))]
	if action != "" { // whose position is behind its braces
		before = before[:max(strings.LastIndex(before, "{{"), 0)]
	}
	p.Line = 1 + strings.Count(before, "\n")
	p.Column = 1 + utf8.RuneCountInString(before[1+strings.LastIndexByte(before, '\n'):])
	return p
}

// Execute appends what the template makes of data; in the form JSON that is one valid value
// in which no object has a key twice. Errors are a [*Problem]; what was
// appended until then is cut off. It tells nothing of the values.
func (t *Template) Execute(dst []byte, data any) (out []byte, err error) {
	r := t.runs.Get().(*run)
	r.begin(dst)
	defer func() {
		if p := recover(); p != nil {
			// The run is left to the garbage: who knows what state it is in.
			out, err = dst, &Problem{Source: t.name, Reason: "executing it has failed inside"}
		}
	}()
	err = r.text.Execute(r, data)
	out = r.out
	if err == nil && t.form == JSON {
		if wrong := check(out[len(dst):], r.quoted); wrong != nil {
			err = &Problem{Source: t.name, Reason: "what it makes cannot be sent: " + wrong.Error()}
		}
	}
	r.out = nil
	t.runs.Put(r)
	if err != nil {
		return dst, t.explain(err)
	}
	return out, nil
}

// execError is what text/template makes of an error: place, what is executed, where, why.
var execError = regexp.MustCompile(`(?s)^template: (.*?):(\d+):(\d+): executing "(?:[^"\\]|\\.)*" at <(.*?)>: (.*)$`)

// explain makes a problem of an error of executing.
func (t *Template) explain(err error) error {
	if p := (*Problem)(nil); errors.As(err, &p) {
		return p
	}
	p := &Problem{Source: t.name, Reason: err.Error()}
	if m := execError.FindStringSubmatch(p.Reason); m != nil {
		p.Source, p.Action, p.Reason = m[1], shorten("{{"+m[4]+"}}"), m[5]
		fmt.Sscan(m[2], &p.Line)
		fmt.Sscan(m[3], &p.Column)
		p.Column++ // text/template counts from 0
	}
	if rest, ok := strings.CutPrefix(p.Reason, "error calling "); ok {
		if _, reason, found := strings.Cut(rest, ": "); found {
			p.Reason = reason
		}
	}
	p.Reason = typeNames.Replace(p.Reason)
	return p
}

var typeNames = strings.NewReplacer("jsonvalue.Null", "null", "map[string]interface {}", "an object", "[]interface {}", "a list", "interface {}", "any value")

func shorten(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxSourceShown {
		s = strings.ToValidUTF8(s[:maxSourceShown], "") + "..."
	}
	return s
}
