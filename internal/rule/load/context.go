package load

import (
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
)

// The kinds of things that a location can be in.
const (
	inValue              = "value for"
	inExceptions         = "exceptions"
	inException          = "exception"
	inExceptionValues    = "exception values"
	inExceptionValue     = "exception value"
	inContent            = "rules content"
	inItem               = "rules content item"
	inEngineVersion      = "required_engine_version"
	inPluginVersions     = "required plugin versions"
	inPluginVersion      = "required plugin versions entry"
	inPluginAlternative  = "required plugin versions alternative"
	inList               = "list"
	inListItem           = "list item"
	inMacro              = "macro"
	inMacroCondition     = "macro condition"
	inRule               = "rule"
	inRuleCondition      = "rule condition"
	inExpression         = "condition expression"
	inRuleOutput         = "rule output"
	inRulePriority       = "rule priority"
	inOverride           = "overrides"
	snippetWidth         = 160
	expressionNameLength = 20
)

// context is where something is: from the file down.
type context struct {
	src    *source
	up     *context
	kind   string
	name   string
	node   *yaml.Node // what it is about; nil for the file
	mark   mark
	marked bool

	// For places in conditions: the text and what is in it.
	in *text
	at int
	// exact is the place for people, if it is another one: in a macro, or in an output.
	exact   *text
	exactAt int
}

func newContext(src *source) *context {
	return &context{src: src, kind: inContent, marked: true}
}

// enter returns the context of a part.
func (c *context) enter(n *yaml.Node, kind, name string) *context {
	return &context{src: c.src, up: c, kind: kind, name: name, node: n}
}

// expression returns the context of a place in a condition.
func (c *context) expression(in *text, at int) *context {
	return &context{src: c.src, up: c, kind: inExpression, in: in, at: at}
}

func (c *context) place() mark {
	if c.marked {
		return c.mark
	}
	c.marked = true
	if c.in == nil {
		c.mark = c.src.mark(c.node)
		return c.mark
	}
	// The real engine adds the place of the condition and that in the text that was parsed: the
	// condition with its lists in it, or the macro that it uses.
	up := c.up.place()
	in, at := c.in, c.at
	if c.exact != nil {
		in, at = c.exact, c.exactAt
	}
	at = min(max(at, 0), len(in.s))
	line := strings.Count(in.s[:at], "\n")
	column := at - (strings.LastIndexByte(in.s[:at], '\n') + 1)
	c.mark = mark{line: up.line + line + 1, column: up.column + column + 1, offset: up.offset + at}
	return c.mark
}

// locations returns what the real engine prints.
func (c *context) locations() []Location {
	var list []Location
	if c.up != nil {
		list = c.up.locations()
	}
	at, name := c.place(), c.src.name
	if c.in != nil {
		name = c.in.s
		if len(name) > expressionNameLength {
			name = name[:expressionNameLength-3] + "..."
		}
		name = `"` + strings.NewReplacer("\n", " ", "\r", " ").Replace(name) + `"`
	}
	return append(list, Location{ItemType: c.kind, ItemName: c.name, Position: Position{Name: name, Line: at.line, Column: at.column, Offset: at.offset}})
}

// snippet returns what the real engine shows of the place.
func (c *context) snippet() string {
	content := c.src.content
	if c.in != nil && c.in.s != "" {
		content = c.in.s
	}
	const none = "<No context available>\n"
	if content == "" {
		return none
	}
	at := c.place().offset
	for at > 0 && (at >= len(content) || content[at] == '\n') {
		at--
	}
	from, to := at, at
	for from > 0 && content[from] != '\n' && at-from < snippetWidth/2 {
		from--
	}
	for to < len(content)-1 && content[to] != '\n' && to-at < snippetWidth/2 {
		to++
	}
	if content[from] == '\n' {
		from++
	}
	if content[to] == '\n' {
		to--
	}
	if from > to {
		return none
	}
	line := []byte(content[from : to+1])
	if at-from >= snippetWidth/2 {
		copy(line, "...")
	}
	if to-at >= snippetWidth/2 {
		copy(line[max(0, len(line)-3):], "...")
	}
	result := string(line) + "\n"
	if at >= from && at-from < len(line)+1 {
		result += strings.Repeat(" ", at-from) + "^\n"
	}
	return result
}

// diagnostic makes a diagnostic of the context.
func (c *context) diagnostic(code Code, message, hint string) *Diagnostic {
	d := &Diagnostic{Code: code, Message: message, Hint: hint, Locations: c.locations(), Snippet: c.snippet(), Item: c.item()}
	src, at := c.src, -1
	in, inAt := c.in, c.at
	if c.exact != nil {
		in, inAt = c.exact, c.exactAt
	}
	switch {
	case in != nil:
		if end := len(strings.TrimRight(in.s, blanks)); inAt > 0 && inAt >= end {
			// What is missing at the end is missed behind the last word.
			if src, at = in.origin(end - 1); src != nil {
				at++
			}
			break
		}
		src, at = in.origin(inAt)
	case c.node != nil, c.kind == inValue:
		at = c.place().offset
	}
	if src == nil {
		src, at = c.up.src, c.up.place().offset
	}
	if at < 0 {
		d.At = Place{File: src.name}
		return d
	}
	d.At = src.place(at)
	line, start := src.lineAt(at)
	d.Line = shorten(line, at-start)
	d.Width = 1
	if n := c.node; n != nil && in == nil && n.Kind == yaml.ScalarNode && n.Style == 0 {
		if text, _, _ := strings.Cut(n.Value, "\n"); strings.HasPrefix(src.content[at:], text) {
			d.Width = max(1, utf8.RuneCountInString(text))
		}
	}
	if in != nil && inAt < len(in.s) {
		d.Width = wordWidth(in.s[max(inAt, 0):])
	}
	return d
}

// maxLine is how much of a line is shown.
const maxLine = 512

// shorten cuts long lines. What is shown begins with the line, so that columns stay right.
func shorten(line string, at int) string {
	switch {
	case at > maxLine:
		return ""
	case len(line) <= maxLine:
		return line
	}
	end := maxLine
	for end > 0 && !utf8.RuneStart(line[end]) {
		end--
	}
	return line[:end]
}

// wordWidth returns how many characters the word at the beginning of a text has.
func wordWidth(s string) int {
	end := strings.IndexAny(s, " \t\r\n(),=\"'")
	if end < 0 {
		end = len(s)
	}
	return max(1, utf8.RuneCountInString(s[:end]))
}

// item returns which item the context is in, for people.
func (c *context) item() string {
	for ; c != nil; c = c.up {
		switch c.kind {
		case inRule, inMacro, inList:
			if c.name != "" {
				return c.kind + " " + quoteName(c.name)
			}
		}
	}
	return ""
}

func quoteName(name string) string { return `"` + name + `"` }

// failure ends the reading of a file.
type failure struct {
	code          Code
	message, hint string
	context       *context
	// missing says that an earlier item is not there.
	missing bool
}

// isMissing marks a failure.
func (f *failure) isMissing() *failure {
	f.missing = true
	return f
}

func (f *failure) diagnostic() *Diagnostic { return f.context.diagnostic(f.code, f.message, f.hint) }

// position returns the text and the offset of a place in a condition.
func position(p condition.Pos) (*text, int) {
	if p.Text == nil {
		return nil, 0
	}
	t, _ := p.Text.Origin.(*text)
	return t, p.Offset
}
