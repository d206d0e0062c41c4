package layout

import (
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
)

// stand is a macro that stands before a text that is appended to a condition.
const stand = "m"

// parsed is the text of a condition that was read.
type parsed struct {
	condition.Expr
	// appended says that it begins with "and" or "or", because it is appended to another.
	appended bool
	// enclosed says that there are parentheses around all of it. They matter to what is appended.
	enclosed bool
}

// read parses a condition, or one that is appended to another; nil if that is not possible.
func read(text string) *parsed {
	trimmed := strings.TrimLeft(text, " \t\b\r\n")
	e, err := condition.Parse(&condition.Text{Content: trimmed})
	if err == nil {
		return &parsed{Expr: e, enclosed: strings.HasPrefix(trimmed, "(") && e.Position().Offset > 0}
	}
	if !strings.HasPrefix(trimmed, "and") && !strings.HasPrefix(trimmed, "or") {
		return nil
	}
	e, err = condition.Parse(&condition.Text{Content: stand + " " + trimmed})
	if err != nil {
		return nil
	}
	return &parsed{Expr: e, appended: true}
}

// same tells whether two texts mean the same, alone and where something is appended to them.
func (p *parsed) same(o *parsed) bool {
	return p.appended == o.appended && p.enclosed == o.enclosed && condition.Same(p.Expr, o.Expr)
}

// write lays out a condition; false if that is not possible.
func (p *parsed) write(width int) (string, bool) {
	text := condition.Format(p.Expr, width)
	switch {
	case p.appended:
		rest, ok := strings.CutPrefix(text, stand)
		if !ok {
			return "", false // it changes what is before it
		}
		text = strings.TrimLeft(rest, " \n")
	case p.enclosed && (strings.Contains(text, "\n") || utf8.RuneCountInString(text)+len("()") > width):
		inner := strings.ReplaceAll(condition.Format(p.Expr, width-2), "\n", "\n  ")
		text = "(\n  " + inner + "\n)"
	case p.enclosed:
		text = "(" + text + ")"
	}
	again := read(text)
	return text, again != nil && p.same(again)
}

// value says where a condition is.
type value struct {
	row    int // of its key or of the dash before it
	cut    int // the offset behind the colon or the dash
	keyAt  int // the offset of the key or the dash
	indent int // by how much that is to be indented
	before int // how many characters there are from there to the condition
}

// condition lays out a condition: false if it is left as it is.
func (f *file) condition(n *yaml.Node, v value) bool {
	valueRow, at := f.place(n)
	if n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 || valueRow != v.row && !f.blankUpTo(v.row, v.cut, valueRow, at) {
		return false
	}
	p := read(n.Value)
	if p == nil {
		return false
	}
	end := f.scalarEnd(n, valueRow, at, v.keyAt)
	comment := ""
	last := f.lines[end.row].old
	if end.content >= 0 || n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		last = f.lines[valueRow].old // behind the > or |
	}
	if rest := strings.TrimSpace(last[min(end.offset, len(last)):]); rest != "" {
		if rest[0] != '#' {
			return false
		}
		comment = " " + rest
	}
	replacement, ok := p.lines(v, comment)
	if !ok {
		return false
	}
	l := &f.lines[v.row]
	l.cut, l.replacement, l.last = v.cut, replacement, end.row
	for i := v.row + 1; i <= end.row; i++ {
		f.lines[i].inside = true
	}
	return true
}

// blankUpTo tells whether there is nothing between an offset of a row and one of a later row.
func (f *file) blankUpTo(row, offset, end, endOffset int) bool {
	if !blank(f.lines[row].old[offset:]) {
		return false
	}
	for i := row + 1; i < end; i++ {
		if !blank(f.lines[i].old) {
			return false
		}
	}
	return blank(f.lines[end].old[:endOffset])
}

// lines returns what is behind the colon or the dash, and the lines below.
func (p *parsed) lines(v value, comment string) ([]string, bool) {
	if text, ok := p.write(1 << 30); ok && v.indent+v.before+utf8.RuneCountInString(text+comment) <= Width && isPlain(text) {
		return []string{" " + text + comment}, true
	}
	text, ok := p.write(Width - v.indent - 2)
	if !ok || strings.ContainsAny(text, "\u0085\u2028\u2029\uFEFF") {
		return nil, false
	}
	all := []string{" >" + comment}
	for l := range strings.SplitSeq(text, "\n") {
		all = append(all, strings.Repeat(" ", v.indent+2)+l)
	}
	return all, true
}

// isPlain tells whether a text means itself as a value without quotes.
func isPlain(text string) bool {
	var n yaml.Node
	err := yaml.Unmarshal([]byte("k: "+text+"\n"), &n)
	if err != nil || len(n.Content) != 1 || n.Content[0].Kind != yaml.MappingNode || len(n.Content[0].Content) != 2 {
		return false
	}
	v := n.Content[0].Content[1]
	return v.Kind == yaml.ScalarNode && v.Tag == "!!str" && v.Style == 0 && v.Value == text && v.LineComment == ""
}

// sameDocuments tells whether two files mean the same.
func sameDocuments(a, b []*yaml.Node) bool {
	if !slices.EqualFunc(a, b, func(a, b *yaml.Node) bool { return sameNode(a.Content[0], b.Content[0], root) }) {
		return false
	}
	return slices.Equal(comments(a), comments(b))
}

// sameNode compares two values, which are the same part of their files.
func sameNode(a, b *yaml.Node, p part) bool {
	if a.Kind != b.Kind || a.Tag != b.Tag || a.Anchor != b.Anchor || len(a.Content) != len(b.Content) {
		return false
	}
	if a.Value != b.Value {
		if !p.isCondition(a) {
			return false
		}
		x, y := read(a.Value), read(b.Value)
		return x != nil && y != nil && x.same(y)
	}
	for i := range a.Content {
		c := other
		switch {
		case a.Kind == yaml.SequenceNode:
			c = p.element()
		case a.Kind == yaml.MappingNode && i%2 == 1:
			c = p.member(a, a.Content[i-1].Value)
		}
		if !sameNode(a.Content[i], b.Content[i], c) {
			return false
		}
	}
	return true
}

// comments returns the comments of a file, in no order that counts.
func comments(nodes []*yaml.Node) (all []string) {
	for _, n := range nodes {
		for _, c := range []string{n.HeadComment, n.LineComment, n.FootComment} {
			for l := range strings.Lines(c) {
				if l = strings.TrimSpace(l); l != "" {
					all = append(all, l)
				}
			}
		}
		all = append(all, comments(n.Content)...)
	}
	slices.Sort(all)
	return all
}
