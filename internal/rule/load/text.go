package load

import (
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
)

// text is a text that is made of scalars of files, with what is known of where its parts come from.
type text struct {
	s     string
	parts []part // in order; the first begins at 0
}

// part is a piece of a text.
type part struct {
	at   int // where it begins in the text
	from *scalar
	off  int  // where it begins in the value of the scalar
	one  bool // all of it stands for the place off
}

// scalar is a scalar of a file.
type scalar struct {
	src     *source
	node    *yaml.Node
	read    bool
	offsets []int
}

func newText(src *source, n *yaml.Node) *text {
	return &text{s: n.Value, parts: []part{{from: &scalar{src: src, node: n}}}}
}

// offset returns where a byte of the value is in the file.
func (c *scalar) offset(at int) int {
	if !c.read {
		c.read, c.offsets = true, c.src.offsets(c.node)
	}
	if c.offsets == nil {
		return c.src.offset(c.node)
	}
	return c.offsets[min(max(at, 0), len(c.offsets)-1)]
}

// find returns the part that has an offset.
func (t *text) find(at int) part {
	i := sort.Search(len(t.parts), func(i int) bool { return t.parts[i].at > at })
	return t.parts[max(i-1, 0)]
}

// origin returns the file that an offset comes from, and where it is there; nil if it comes from
// none.
func (t *text) origin(at int) (*source, int) {
	if len(t.parts) == 0 {
		return nil, 0
	}
	p := t.find(at)
	if p.from == nil {
		return nil, 0
	}
	if p.one {
		return p.from.src, p.from.offset(p.off)
	}
	return p.from.src, p.from.offset(p.off + at - p.at)
}

// slice appends the bytes from start to end of t to b.
func (b *builder) slice(t *text, start, end int) {
	if start >= end {
		return
	}
	for i := max(sort.Search(len(t.parts), func(i int) bool { return t.parts[i].at > start })-1, 0); i < len(t.parts) && t.parts[i].at < end; i++ {
		p := t.parts[i]
		if shift := start - p.at; shift > 0 {
			p.at = start
			if !p.one {
				p.off += shift
			}
		}
		p.at += len(b.s) - start
		b.parts = append(b.parts, p)
	}
	b.s = append(b.s, t.s[start:end]...)
}

// builder makes a text.
type builder struct {
	s     []byte
	parts []part
}

// put appends what comes from no file itself; it counts as what is at a place of another text.
func (b *builder) put(s string, like part) {
	if s == "" {
		return
	}
	if n := len(b.parts); n == 0 || b.parts[n-1].from != like.from || b.parts[n-1].off != like.off || !b.parts[n-1].one {
		b.parts = append(b.parts, part{at: len(b.s), from: like.from, off: like.off, one: true})
	}
	b.s = append(b.s, s...)
}

func (b *builder) text() *text { return &text{s: string(b.s), parts: b.parts} }

// place returns a part that stands for one offset.
func (t *text) place(at int) part {
	if len(t.parts) == 0 {
		return part{one: true}
	}
	p := t.find(at)
	if !p.one {
		p.off += at - p.at
	}
	p.one = true
	return p
}

// join returns a, a blank and b.
func join(a, b *text) *text {
	var r builder
	r.slice(a, 0, len(a.s))
	r.put(" ", b.place(0))
	r.slice(b, 0, len(b.s))
	return r.text()
}

// condition returns the text for the parser.
func (t *text) condition() *condition.Text { return &condition.Text{Content: t.s, Origin: t} }

const (
	blanks     = " \t\n\r"
	delimiters = blanks + "(),="
)

// quote puts an item with blanks in quotes, if it has none.
func quote(item string) string {
	if strings.Contains(item, " ") && item[0] != '"' && item[0] != '\'' {
		return `"` + item + `"`
	}
	return item
}

// substitute puts the items of a list in the place of its name, wherever that stands between
// delimiters. If it stands nowhere, it returns t itself. inside is the first place in t where
// it stood in a quoted text, -1 if there is none.
func (t *text) substitute(name string, items []string, strict bool) (result *text, inside int) {
	inside = -1
	if !strings.Contains(t.s, name) {
		return t, inside
	}
	var (
		b      builder
		joined string
		done   int // what of t is in b or was left out
	)
	for from := 0; from <= len(t.s); {
		at := strings.Index(t.s[from:], name)
		if at < 0 {
			break
		}
		start := from + at
		end := start + len(name)
		from = start + 1
		// Behind what was put in comes the blank that belongs to it.
		if start > 0 && start > done && strings.IndexByte(delimiters, t.s[start-1]) < 0 || end < len(t.s) && strings.IndexByte(delimiters, t.s[end]) < 0 ||
			strict && quoted(t.s, start) {
			continue
		}
		if done == 0 {
			joined = joinItems(items)
			if quoted(t.s, start) {
				inside = start
			}
		}
		like := t.place(start)
		b.slice(t, done, start)
		b.trim(blanks)
		for end < len(t.s) && strings.IndexByte(blanks, t.s[end]) >= 0 {
			end++
		}
		if joined == "" {
			// Nothing comes in its place, so one comma is too many.
			if n := len(b.s); n > 0 && b.s[n-1] == ',' {
				b.cut(n - 1)
			} else if end < len(t.s) && t.s[end] == ',' {
				end++
			}
		}
		done, from = end, end
		if len(b.s) > 0 {
			b.put(" ", like)
		} else {
			from++ // as in the real engine, which looks one further behind the beginning
		}
		b.put(joined+" ", like)
		if len(b.s)+len(t.s)-done > maxConditionBytes {
			break
		}
	}
	if done == 0 {
		return t, inside
	}
	b.slice(t, done, len(t.s))
	return b.text(), inside
}

// joinItems writes the items of a list. As in the real engine, empty ones at the beginning leave
// no comma behind.
func joinItems(items []string) string {
	var b strings.Builder
	for _, item := range items {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(item))
	}
	return b.String()
}

// trim removes characters at the end.
func (b *builder) trim(characters string) {
	n := len(b.s)
	for n > 0 && strings.IndexByte(characters, b.s[n-1]) >= 0 {
		n--
	}
	b.cut(n)
}

// cut removes all from an offset on.
func (b *builder) cut(n int) {
	b.s = b.s[:n]
	for len(b.parts) > 0 && b.parts[len(b.parts)-1].at >= n {
		b.parts = b.parts[:len(b.parts)-1]
	}
}

// quoted says whether an offset of a condition is inside a quoted string.
func quoted(s string, at int) bool {
	var quote byte
	for i := 0; i < at; i++ {
		switch c := s[i]; {
		case quote == 0:
			if c == '"' || c == '\'' {
				quote = c
			}
		case c == '\\':
			i++
		case c == quote:
			quote = 0
		}
	}
	return quote != 0
}
