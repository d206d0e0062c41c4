// Package output writes what a rule says about an event: the text of its output template, the
// fields in it as JSON, and the alert as a line of text or of JSON in Falco's form.
//
// # Templates
//
// A template is text with fields in it: %NAME, %NAME[ARG], or a transformer as %tolower(NAME). The
// longest name of a field that is there is taken, so %a.b.c is the field a.b and ".c" if there is
// no field a.b.c; brackets behind what takes no argument are text. With a number, as %10NAME, the value is cut or filled with blanks to so many
// bytes. What an event does not have is written as <NA>; a list as (a,b), of which only so much
// is written as Falco does. There is no way to write a percent sign.
package output

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/rule/match"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

const (
	maxWidth    = 64 << 10 // of a padded field
	maxListText = 1023     // bytes of a list as text
	maxText     = 1 << 20  // bytes of what a template says
	noValue     = "<NA>"
)

// Template is a compiled template. It may be used by several goroutines.
type Template struct {
	parts  []part
	names  []string
	fields []namedOperand
}

// part is text, or a field.
type part struct {
	text    string
	operand *match.Operand
	width   int // 0: as long as it is
}

type namedOperand struct {
	name    string
	operand *match.Operand // whose value is shown: not always that of the name
}

// Compile reads a template and asks for the fields that are in it. The error is a
// [*condition.Error] whose position is in a text that is the template.
func Compile(requests *field.Requests, text string) (*Template, error) {
	c := compiler{requests: requests, text: &condition.Text{Content: text}, template: &Template{}}
	if err := c.compile(); err != nil {
		return nil, err
	}
	return c.template, nil
}

type compiler struct {
	requests *field.Requests
	text     *condition.Text
	template *Template
}

func (c *compiler) fail(offset int, message, hint string) error {
	return &condition.Error{At: condition.Pos{Text: c.text, Offset: offset}, Message: message, Hint: hint}
}

func (c *compiler) compile() error {
	text := c.text.Content
	if text == "" {
		return c.fail(0, "empty formatting token", "write what the rule has to say")
	}
	// A star says that the output is written even if values are missing, which it always is.
	at := 0
	if text[0] == '*' {
		at = 1
	}
	for at < len(text) {
		n := strings.IndexByte(text[at:], '%')
		if n < 0 {
			n = len(text) - at
		}
		if n > 0 {
			c.template.parts = append(c.template.parts, part{text: text[at : at+n]})
			at += n
			continue
		}
		end, err := c.field(at)
		if err != nil {
			return err
		}
		at = end
	}
	return nil
}

// field reads the field behind a percent sign at an offset and returns where it ends.
func (c *compiler) field(percent int) (end int, err error) {
	text := c.text.Content
	at := percent + 1
	if at == len(text) {
		return 0, c.fail(percent, "invalid formatting syntax: formatting cannot end with a %", "a percent sign begins a field, and cannot be written by itself")
	}
	digits := at
	for digits < len(text) && '0' <= text[digits] && text[digits] <= '9' {
		digits++
	}
	width := 0
	if digits > at {
		if digits == len(text) {
			return 0, c.fail(percent, "invalid formatting syntax: formatting cannot end with a number", "")
		}
		if width, err = strconv.Atoi(text[at:digits]); err != nil || width > maxWidth {
			return 0, c.fail(at, "invalid formatting syntax: the width "+text[at:digits]+" is more than "+strconv.Itoa(maxWidth), "")
		}
		at = digits
	}
	operand, end, err := c.operand(at)
	if err != nil {
		return 0, err
	}
	compiled, err := match.CompileOperand(c.requests, operand)
	if err != nil {
		return 0, unknown(err)
	}
	c.template.parts = append(c.template.parts, part{operand: compiled, width: width})
	return end, c.register(operand)
}

// unknown is the error for what is no field.
func unknown(err error) error {
	var e *condition.Error
	if errors.As(err, &e) {
		changed := *e
		changed.Message = "unknown filter: " + e.Message
		return &changed
	}
	return err
}

// operand reads a transformer, or the longest field that the text at an offset begins with.
func (c *compiler) operand(at int) (operand condition.Operand, end int, err error) {
	text := c.text.Content
	pos := condition.Pos{Text: c.text, Offset: at}
	full, fullEnd, fullErr := condition.ParseOperand(c.text, at)
	if fullErr == nil {
		// Most are what they seem.
		if _, fullErr = match.CompileOperand(c.requests, full); fullErr == nil {
			return full, fullEnd, nil
		}
	}
	// Brackets behind a transformer that has no use for them are text.
	if call, end, err := condition.ParseCall(c.text, at); err == nil {
		if _, err := match.CompileOperand(c.requests, call); err == nil {
			return call, end, nil
		}
	}
	rest := text[at:]
	var names []string
	for _, f := range c.requests.Fields() {
		if strings.HasPrefix(rest, f.Name) {
			names = append(names, f.Name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	for _, name := range names {
		f := &condition.Field{At: pos, Name: name}
		if _, err := match.CompileOperand(c.requests, f); err == nil {
			return f, at + len(name), nil
		}
	}
	return nil, 0, unknown(fullErr)
}

// register notes the field, or for a transformer the fields in it and itself, as Falco does: of
// transformers in each other only the outer one.
func (c *compiler) register(operand condition.Operand) error {
	last := false
	var visit func(condition.Operand) error
	visit = func(o condition.Operand) error {
		var items []condition.Operand
		transformer := false
		switch o := o.(type) {
		case *condition.Transformer:
			items, transformer = o.Args, true
		case *condition.List:
			items = o.Items
		case *condition.Field:
			compiled, err := match.CompileOperand(c.requests, o)
			if err != nil {
				return err
			}
			f := namedOperand{name: condition.CompiledOperand(o), operand: compiled}
			if slices.Contains(clockTimes, o.Name) {
				rawtime, err := match.CompileOperand(c.requests, &condition.Field{At: o.At, Name: "evt.rawtime"})
				if err == nil {
					f.operand = rawtime
				}
			}
			c.template.names = append(c.template.names, f.name)
			c.template.fields = append(c.template.fields, f)
			last = false
			return nil
		}
		for _, i := range items {
			if err := visit(i); err != nil {
				return err
			}
		}
		if transformer {
			if last {
				c.template.names = c.template.names[:len(c.template.names)-1]
			}
			c.template.names = append(c.template.names, condition.CompiledOperand(o))
			last = true
		}
		return nil
	}
	return visit(operand)
}

// clockTimes are the fields that are texts of the event's time. In JSON they are numbers.
var clockTimes = []string{"evt.time", "evt.time.s", "evt.time.iso8601", "evt.datetime", "evt.datetime.s"}

// Fields returns the fields and transformers of the template in order, as they are written.
func (t *Template) Fields() []string { return t.names }

// Append appends what the template says about an event: 1 MiB of it at most.
func (t *Template) Append(dst []byte, row field.Row) []byte {
	begin := len(dst)
	for i := range t.parts {
		if len(dst) > begin+maxText {
			return dst[:begin+maxText]
		}
		p := &t.parts[i]
		if p.operand == nil {
			dst = append(dst, p.text...)
			continue
		}
		from := len(dst)
		dst = appendText(dst, p.operand, row)
		if p.width > 0 {
			if len(dst) > from+p.width {
				dst = dst[:from+p.width]
			}
			for len(dst) < from+p.width {
				dst = append(dst, ' ')
			}
		}
	}
	return dst[:min(len(dst), begin+maxText)]
}

func appendText(dst []byte, o *match.Operand, row field.Row) []byte {
	elements, ok := o.Values(row)
	switch {
	case !ok:
		return append(dst, noValue...)
	case !o.List:
		return appendElement(dst, o.Type, &elements[0], o.Digits)
	}
	from := len(dst)
	dst = append(dst, '(')
	for i := range elements {
		if len(dst) > from+1 { // as Falco: there is no comma behind empty ones at the beginning
			dst = append(dst, ',')
		}
		dst = appendElement(dst, o.Type, &elements[i], o.Digits)
	}
	dst = append(dst, ')')
	return dst[:min(len(dst), from+maxListText)]
}

func appendElement(dst []byte, t sourceplugin.FieldType, e *field.Element, digits int) []byte {
	switch t {
	case sourceplugin.String:
		return append(dst, e.Text...)
	case sourceplugin.Bool:
		return strconv.AppendBool(dst, e.Number != 0)
	case sourceplugin.IPAddr:
		if a, ok := netip.AddrFromSlice([]byte(e.Text)); ok {
			return a.AppendTo(dst)
		}
		return append(dst, noValue...)
	case sourceplugin.IPNet:
		return append(dst, "<IPNET>"...)
	}
	return match.AppendNumber(dst, e.Number, digits)
}

// Field is a field of an output with its value as JSON.
type Field struct {
	Name string
	JSON []byte
}

// Values returns the fields of the template, each once, in order, with their values at an event:
// numbers, booleans, texts, lists of these, or null if the event does not have it. Addresses are
// texts. The clock time of an event is its nanoseconds since 1970, for which it must have the
// field evt.rawtime. Transformers are not among them, but the fields in them are.
func (t *Template) Values(row field.Row) []Field {
	fields := make([]Field, 0, len(t.fields))
	for i := range t.fields {
		f := &t.fields[i]
		if slices.ContainsFunc(fields, func(g Field) bool { return g.Name == f.name }) {
			continue
		}
		fields = append(fields, Field{Name: f.name, JSON: f.json(row)})
	}
	return fields
}

func (f *namedOperand) json(row field.Row) []byte {
	elements, ok := f.operand.Values(row)
	switch {
	case !ok:
		return []byte("null")
	case !f.operand.List:
		return appendJSON(nil, f.operand.Type, &elements[0])
	}
	b := []byte{'['}
	for i := range elements {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendJSON(b, f.operand.Type, &elements[i])
	}
	return append(b, ']')
}

func appendJSON(dst []byte, t sourceplugin.FieldType, e *field.Element) []byte {
	switch t {
	case sourceplugin.String:
		return jsontext.AppendString(dst, e.Text)
	case sourceplugin.IPAddr, sourceplugin.IPNet:
		return jsontext.AppendString(dst, string(appendElement(nil, t, e, 0)))
	}
	return appendElement(dst, t, e, 0)
}
