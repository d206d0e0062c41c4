package config

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// commentWidth is where comments are wrapped.
const commentWidth = 88

// Write prints the configuration as YAML with the documentation of every field
// as comments. [Parse] reads it back to an equal configuration, except that a
// secret held in memory is printed as [Redacted].
func (c Config) Write(w io.Writer) error {
	text := []byte(header)
	sections := mapping(reflect.ValueOf(c)).Content
	for i := 0; i < len(sections); i += 2 {
		text = append(text, '\n')
		var one bytes.Buffer
		enc := yaml.NewEncoder(&one)
		enc.SetIndent(2)
		if err := enc.Encode(&yaml.Node{Kind: yaml.MappingNode, Content: sections[i : i+2]}); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
		text = append(text, one.Bytes()...)
	}
	_, err := w.Write(text)
	return err
}

const header = `# Configuration of tocsin. What is left out has the default.
# Durations are written as 90s, 12h or 30d, sizes as 512KiB, 64MiB or 10GB.
`

func mapping(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i, key := range fieldKeys(v.Type()) {
		name := &yaml.Node{Kind: yaml.ScalarNode, Value: key, HeadComment: comment(v.Type().Field(i))}
		n.Content = append(n.Content, name, node(v.Field(i)))
	}
	return n
}

func node(v reflect.Value) *yaml.Node {
	switch {
	case v.Type() == secretType:
		return secretNode(v.Interface().(Secret))
	case v.Kind() == reflect.Struct:
		return mapping(v)
	case v.Kind() == reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v.Len() == 0 || v.Type().Elem() == durationType {
			n.Style = yaml.FlowStyle // [] rather than nothing, and short ones in one line
		}
		for i := range v.Len() {
			element := node(v.Index(i))
			omitUnrelated(element, v.Index(i))
			withoutComments(element) // said once, above the list
			n.Content = append(n.Content, element)
		}
		return n
	}
	n := &yaml.Node{}
	value := v.Interface()
	if value == nil { // no text, no map
		value = ""
	}
	if s, ok := value.(fmt.Stringer); ok { // Duration and Size
		value = s.String()
	}
	if err := n.Encode(value); err != nil {
		panic("config: " + err.Error()) // scalars and string maps always encode
	}
	if n.Value == "0" {
		n.Tag, n.Style = "!!int", 0 // "0" without the quotes that text would get
	}
	return n
}

// withoutComments removes the comments of a node and all within it.
func withoutComments(n *yaml.Node) {
	n.HeadComment = ""
	for _, inner := range n.Content {
		withoutComments(inner)
	}
}

// partial is an element of a list of which not every field concerns every kind.
type partial interface {
	// concerned says whether a field is of interest.
	concerned(key string) bool
}

// omitUnrelated takes out of the printed element v what does not concern it and has its
// default.
func omitUnrelated(n *yaml.Node, v reflect.Value) {
	p, ok := v.Interface().(partial)
	if !ok {
		return
	}
	defaults := elementDefault(v.Type())
	var kept []*yaml.Node
	for i, key := range fieldKeys(v.Type()) {
		if p.concerned(key) || !reflect.DeepEqual(v.Field(i).Interface(), defaults.Field(i).Interface()) {
			kept = append(kept, n.Content[2*i], n.Content[2*i+1])
		}
	}
	n.Content = kept
}

func secretNode(s Secret) *yaml.Node {
	scalar := func(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text} }
	reference := func(kind, text string) *yaml.Node {
		return &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle, Content: []*yaml.Node{scalar(kind), scalar(text)}}
	}
	switch {
	case s.env != "":
		return reference("env", s.env)
	case s.file != "":
		return reference("file", s.file)
	case !s.IsSet():
		return &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	}
	return scalar(Redacted)
}

// comment returns the documentation of a field with its bounds, wrapped. That of
// a list has the documentation of the fields of one element below it.
func comment(f reflect.StructField) string {
	text := f.Tag.Get("doc")
	least, most := f.Tag.Get("min"), f.Tag.Get("max")
	switch {
	case least != "" && most != "":
		text += fmt.Sprintf(" From %s to %s.", least, most)
	case least != "":
		text += fmt.Sprintf(" At least %s.", least)
	}
	if zero := f.Tag.Get("zero"); zero != "" {
		text += fmt.Sprintf(" 0: %s.", zero)
	}
	lines := wrap(text, "", commentWidth)
	if isList(f.Type) {
		lines = append(lines, table(elementDefault(f.Type.Elem()), commentWidth)...)
	}
	return strings.Join(lines, "\n")
}

// table documents the fields of a section or of the elements of a list, and of lists
// and sections in them, as a table of that width. It is given their defaults.
func table(defaults reflect.Value, width int) []string {
	t := defaults.Type()
	keyWidth := 0
	for _, key := range fieldKeys(t) {
		keyWidth = max(keyWidth, len(key))
	}
	var lines []string
	for i, key := range fieldKeys(t) {
		field := t.Field(i)
		section := field.Type.Kind() == reflect.Struct && field.Type != secretType
		text := field.Tag.Get("doc")
		if v := defaults.Field(i); !v.IsZero() && !section {
			text += fmt.Sprintf(" Default: %v.", v.Interface())
		}
		if zero := field.Tag.Get("zero"); zero != "" {
			text += fmt.Sprintf(" 0: %s.", zero)
		}
		indent := strings.Repeat(" ", keyWidth+2)
		lines = append(lines, wrap(fmt.Sprintf("%-*s  %s", keyWidth, key, text), indent, width)...)
		var inner []string
		switch {
		case section:
			inner = table(defaults.Field(i), width-4)
			indent = "    " // keys of a section are long enough as it is
		case isList(field.Type):
			inner = table(elementDefault(field.Type.Elem()), width-len(indent))
		}
		for _, line := range inner {
			lines = append(lines, indent+line)
		}
	}
	return lines
}

// isList says whether t is a list of sections.
func isList(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && t.Elem() != secretType
}

// wrap breaks text into lines of at most width bytes; lines after the first begin
// with indent.
func wrap(text, indent string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.SplitSeq(text, " ") {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, strings.TrimRight(line, " ")), indent+word
			continue
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
