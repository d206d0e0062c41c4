package layout

import (
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// file is a file while it is laid out.
type file struct {
	lines []line
}

// line is a line of a file, and what becomes of it.
type line struct {
	old string
	// start says that an item or a key begins here; indent is where it should.
	start  bool
	indent int
	// item says that an item of the file itself begins here.
	item bool
	// gaps are stretches of blanks that become one.
	gaps []gap
	// inside says that the line goes on with a scalar or a collection; it is moved by as much as
	// the line that this began on, or, if moved is set, by shift.
	inside, moved bool
	shift         int
	// exact says that blanks at the end count.
	exact bool
	// replacement is what is written instead of what is behind cut, for a condition; the lines up
	// to last go.
	cut         int
	replacement []string
	last        int
	// before and next are the lines around it on which something begins, -1 if there is none.
	before, next int
}

type gap struct{ start, end int }

// spaces returns by how many blanks a line is indented.
func spaces(s string) int { return len(s) - len(strings.TrimLeft(s, " ")) }

func blank(s string) bool { return strings.Trim(s, " \t") == "" }

// column returns the offset in a line of a column that counts characters from 1.
func (f *file) column(row, column int) int {
	s := f.lines[row].old
	offset := 0
	for range column - 1 {
		if offset >= len(s) {
			break
		}
		_, size := utf8.DecodeRuneInString(s[offset:])
		offset += size
	}
	return offset
}

func (f *file) document(d *yaml.Node) {
	list := d.Content[0]
	if list.Kind != yaml.SequenceNode {
		return
	}
	if list.Style&yaml.FlowStyle != 0 {
		f.flow(list)
		return
	}
	f.sequence(list, 0, root)
}

// sequence lays out a list in block style.
func (f *file) sequence(n *yaml.Node, indent int, p part) {
	for _, c := range n.Content {
		row, at := f.place(c)
		if row < 0 {
			continue
		}
		before := strings.TrimRight(f.lines[row].old[:at], " ")
		dash := len(before) - 1
		if dash < 0 || before[dash] != '-' {
			continue // something is between them: what that is stays as it is
		}
		f.begin(row, dash, indent, p == root)
		f.gap(row, dash+1, at)
		if p.element().isCondition(c) && f.condition(c, value{row: row, cut: dash + 1, keyAt: dash, indent: indent, before: len("- ")}) {
			continue
		}
		f.node(c, indent+2, indent, p.element())
	}
}

// place returns where a node begins: row -1 if that is nowhere.
func (f *file) place(n *yaml.Node) (row, offset int) {
	if n.Line < 1 || n.Line > len(f.lines) || n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Value == "" {
		return -1, 0
	}
	return n.Line - 1, f.column(n.Line-1, n.Column)
}

// begin notes that something begins at an offset of a line, if nothing is before it.
func (f *file) begin(row, at, indent int, item bool) {
	if l := &f.lines[row]; blank(l.old[:at]) {
		l.start, l.indent, l.item = true, indent, item
	}
}

func (f *file) gap(row, start, end int) {
	if l := &f.lines[row]; start < end && blank(l.old[start:end]) {
		l.gaps = append(l.gaps, gap{start, end})
	}
}

// node lays out a value whose parts are indented by indent; the line that it belongs to is
// indented by parent, and was by so much in the old file as the place of it says.
func (f *file) node(n *yaml.Node, indent, parent int, p part) {
	switch {
	case n.Style&yaml.FlowStyle != 0:
		f.flow(n)
	case n.Kind == yaml.MappingNode:
		f.mapping(n, indent, p)
	case n.Kind == yaml.SequenceNode:
		f.sequence(n, indent, p)
	case n.Kind == yaml.ScalarNode:
		f.scalar(n, parent, -1)
	}
}

// mapping lays out a map in block style.
func (f *file) mapping(n *yaml.Node, indent int, p part) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, c := n.Content[i], n.Content[i+1]
		row, at := f.place(key)
		if row < 0 || key.Kind != yaml.ScalarNode || !f.plainKey(key, row, at) {
			f.node(c, indent+2, indent, other)
			continue
		}
		f.begin(row, at, indent, false)
		colon := at + len(key.Value)
		valueRow, valueAt := f.place(c)
		if valueRow == row {
			f.gap(row, colon+1, valueAt)
		}
		switch {
		case valueRow >= 0 && p.member(n, key.Value).isCondition(c):
			if !f.condition(c, value{row: row, cut: colon + 1, keyAt: at, indent: indent, before: len(key.Value) + len(": ")}) {
				f.scalar(c, indent, at)
			}
		case c.Kind == yaml.ScalarNode:
			f.scalar(c, indent, at)
		default:
			f.node(c, indent+2, indent, p.member(n, key.Value))
		}
	}
}

// plainKey tells whether a key is what it looks like.
func (f *file) plainKey(key *yaml.Node, row, at int) bool {
	rest, ok := strings.CutPrefix(f.lines[row].old[at:], key.Value)
	return ok && key.Value != "" && strings.HasPrefix(rest, ":") && key.Style&^yaml.TaggedStyle == 0
}

// flow marks the lines of a collection in flow style.
func (f *file) flow(n *yaml.Node) {
	row, _ := f.place(n)
	if row < 0 {
		return
	}
	last := f.flowEnd(n, row)
	for i := row + 1; i <= last; i++ {
		f.lines[i].inside = true
	}
}

// flowEnd returns the last line of a collection in flow style, and marks what is in it.
func (f *file) flowEnd(n *yaml.Node, row int) int {
	last := row
	for _, c := range n.Content {
		at, offset := f.place(c)
		if at < 0 {
			continue
		}
		switch {
		case c.Kind == yaml.ScalarNode && c.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
			end, _ := f.quotedEnd(at, offset)
			for i := at; i < end; i++ {
				f.lines[i].exact = true
			}
			at = end
		case len(c.Content) > 0:
			at = f.flowEnd(c, at)
		}
		last = max(last, at)
	}
	// The closing bracket may be on lines of its own, and so may commas.
	for last+1 < len(f.lines) {
		next := strings.TrimLeft(f.lines[last+1].old, " \t")
		if next == "" || !strings.ContainsAny(next[:1], "]},") {
			break
		}
		last++
	}
	return last
}

// scalar marks the lines of a scalar behind the first. keyAt is where its key begins in the old
// file, -1 if it has none.
func (f *file) scalar(n *yaml.Node, indent, keyAt int) {
	row, at := f.place(n)
	if row < 0 {
		return
	}
	e := f.scalarEnd(n, row, at, keyAt)
	for i := row + 1; i <= e.row; i++ {
		f.lines[i].inside = true
	}
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		for i := row; i < e.row; i++ {
			f.lines[i].exact = true
		}
	}
	if e.content < 0 {
		return
	}
	for i := row + 1; i <= e.row; i++ {
		l := &f.lines[i]
		l.exact = true
		if !e.explicit {
			l.moved, l.shift = true, indent+2-e.content
		}
	}
}

// extent is where a scalar ends.
type extent struct {
	row, offset int // offset is behind it
	// content is the indentation of a block scalar, -1 for others; explicit that it says so itself.
	content  int
	explicit bool
}

func (f *file) scalarEnd(n *yaml.Node, row, at, keyAt int) extent {
	switch {
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return f.blockEnd(row, at, keyAt)
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		end, offset := f.quotedEnd(row, at)
		return extent{row: end, offset: offset, content: -1}
	}
	return f.plainEnd(row, at, keyAt)
}

// blockEnd finds the end of a scalar that begins with | or >.
func (f *file) blockEnd(row, at, keyAt int) extent {
	header, _, _ := strings.Cut(f.lines[row].old[at:], " ")
	e := extent{row: row, offset: at + len(header), content: -1}
	for i := row + 1; i < len(f.lines); i++ {
		s := f.lines[i].old
		if strings.Trim(s, " ") == "" {
			continue
		}
		n := spaces(s)
		if e.content < 0 {
			if n <= max(keyAt, 0) && keyAt >= 0 || n == 0 {
				break
			}
			e.content = n
			if digit := strings.IndexAny(header, "123456789"); digit >= 0 {
				e.explicit = true
				e.content = max(keyAt, 0) + int(header[digit]-'0')
			}
		}
		if n < e.content {
			break
		}
		e.row = i
	}
	if strings.Contains(header, "+") {
		for e.row+1 < len(f.lines) && blank(f.lines[e.row+1].old) && e.row+2 < len(f.lines) {
			e.row++
		}
	}
	return e
}

// quotedEnd finds the end of a scalar in quotes.
func (f *file) quotedEnd(row, at int) (end, offset int) {
	if at >= len(f.lines[row].old) {
		return row, at
	}
	quote := f.lines[row].old[at]
	if quote != '"' && quote != '\'' {
		return row, at // a tag or an anchor is before it
	}
	for i := at + 1; ; i++ {
		s := f.lines[row].old
		switch {
		case i >= len(s):
			if row++; row == len(f.lines) {
				return row - 1, len(s)
			}
			i = -1
		case s[i] == '\\' && quote == '"':
			i++
		case s[i] == quote && quote == '\'' && i+1 < len(s) && s[i+1] == '\'':
			i++
		case s[i] == quote:
			return row, i + 1
		}
	}
}

// plainEnd finds the end of a scalar without quotes.
func (f *file) plainEnd(row, at, keyAt int) extent {
	e := extent{row: row, content: -1}
	comment := func(row, from int) bool {
		s := f.lines[row].old
		end := strings.Index(s[from:], " #")
		if end < 0 {
			end = len(s) - from
		}
		e.row, e.offset = row, len(strings.TrimRight(s[:from+end], " \t"))
		return from+end < len(s)
	}
	if comment(row, at) {
		return e
	}
	for i := row + 1; i < len(f.lines); i++ {
		s := f.lines[i].old
		if blank(s) {
			continue
		}
		if text := strings.TrimLeft(s, " \t"); keyAt < 0 || spaces(s) <= keyAt || text[0] == '#' {
			break
		}
		if comment(i, spaces(s)) {
			break
		}
	}
	return e
}

// write returns the file with all that was found.
func (f *file) write() string {
	f.link()
	var out []string
	shift := 0
	for i := 0; i < len(f.lines); i++ {
		l := &f.lines[i]
		var s string
		switch {
		case l.inside && l.exact && strings.Trim(l.old, " ") == "":
			s = "" // blanks alone do not count, where they are in scalars
			out = append(out, s)
			continue
		case l.inside:
			s = f.moved(l, shift)
		case blank(l.old):
			if len(out) > 0 && out[len(out)-1] != "" {
				out = append(out, "")
			}
			continue
		case l.start:
			shift = l.indent - spaces(l.old)
			s = strings.Repeat(" ", l.indent) + f.withoutGaps(l)
		case strings.TrimLeft(l.old, " \t")[0] == '#':
			s = strings.Repeat(" ", f.commentIndent(i)) + strings.TrimLeft(l.old, " \t")
		default:
			s = l.old
		}
		if !l.exact {
			s = strings.TrimRight(s, " \t")
		}
		if l.item {
			out = separate(out)
		}
		out = append(out, s)
		if l.replacement != nil {
			out[len(out)-1] += l.replacement[0]
			out = append(out, l.replacement[1:]...)
			i = l.last
		}
	}
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	if len(out) == 0 {
		return ""
	}
	return strings.Join(out, "\n") + "\n"
}

// moved returns a line inside of something, moved with what it is in.
func (f *file) moved(l *line, shift int) string {
	if l.moved {
		shift = l.shift
	}
	n := spaces(l.old)
	return strings.Repeat(" ", max(n+shift, 0)) + l.old[n:]
}

// withoutGaps returns a line without its indentation, up to the place where it is cut.
func (f *file) withoutGaps(l *line) string {
	end := len(l.old)
	if l.replacement != nil {
		end = l.cut
	}
	var b strings.Builder
	at := spaces(l.old)
	slices.SortFunc(l.gaps, func(a, b gap) int { return a.start - b.start })
	for _, g := range l.gaps {
		if g.start < at || g.end > end {
			continue
		}
		b.WriteString(l.old[at:g.start])
		b.WriteByte(' ')
		at = g.end
	}
	b.WriteString(l.old[at:end])
	return b.String()
}

// commentIndent returns the indentation of a comment: that of what it stands before, or else of what
// it stands behind.
func (f *file) commentIndent(row int) int {
	old := spaces(f.lines[row].old)
	next := f.lines[row].next
	if next >= 0 && spaces(f.lines[next].old) == old {
		return f.lines[next].indent
	}
	const far = 1000
	at := f.lines[row].before
	for steps := 0; at >= 0 && steps < far; steps++ {
		l := &f.lines[at]
		switch n := spaces(l.old); {
		case n == old:
			return l.indent
		case n < old:
			return l.indent + 2
		}
		at = l.before
	}
	if next < 0 {
		return 0
	}
	return f.lines[next].indent
}

// link notes for each line where the next one is, and the one before, on which something begins.
func (f *file) link() {
	last := -1
	for i := range f.lines {
		f.lines[i].before = last
		if f.lines[i].start {
			last = i
		}
	}
	last = -1
	for i := len(f.lines) - 1; i >= 0; i-- {
		f.lines[i].next = last
		if f.lines[i].start {
			last = i
		}
	}
}

// separate puts a blank line before an item and the comments on it.
func separate(out []string) []string {
	at := len(out)
	for at > 0 && strings.HasPrefix(out[at-1], "#") {
		at--
	}
	if at == 0 || out[at-1] == "" || strings.HasPrefix(out[at-1], "---") || strings.HasPrefix(out[at-1], "%") {
		return out
	}
	return slices.Insert(out, at, "")
}
