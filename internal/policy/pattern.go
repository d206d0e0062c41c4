package policy

import (
	"cmp"
	"strings"
)

// form is how a pattern is looked up.
type form uint8

const (
	exact    form = iota // matches the path that it is
	prefix               // matches all paths that begin with it
	segments             // is compared segment by segment, because "+" begins one
)

// pattern is a path of a rule with its namespace, ready to be matched.
type pattern struct {
	form form
	// text is without the final "*" of a pattern that is open.
	text string
	open bool // everything that begins like it matches
	// The segments of a pattern of that form; anyOf says for which of them "+" was
	// written.
	segments []string
	anyOf    []bool
	first    int // where the first "+" is, or else the "*"
	pluses   int
}

// compile analyses a pattern. Values of templates are literal.
func compile(p resolved) pattern {
	literal := func(i int) bool {
		for _, v := range p.values {
			if v.begin <= i && i < v.end {
				return true
			}
		}
		return false
	}
	c := pattern{text: p.text, first: -1}
	begins := false // a segment begins with "+"
	for i := 0; i < len(p.text); i++ {
		if p.text[i] != '+' || literal(i) {
			continue
		}
		if c.first < 0 {
			c.first = i
		}
		// Vault treats "a/+b" like patterns with a whole "+" when it comes to
		// priority, but not "+b".
		if i > 0 && p.text[i-1] == '/' || i == 0 && (len(p.text) == 1 || p.text[1] == '/') {
			begins = true
		}
	}
	if last := len(p.text) - 1; last >= 0 && p.text[last] == '*' && !literal(last) {
		c.text, c.open = p.text[:last], true
	}
	switch {
	case begins:
		c.form = segments
		at := 0
		for segment := range strings.SplitSeq(c.text, "/") {
			plus := segment == "+" && !literal(at)
			if plus {
				c.pluses++
			}
			c.segments = append(c.segments, segment)
			c.anyOf = append(c.anyOf, plus)
			at += len(segment) + 1
		}
	case c.open:
		c.form = prefix
		c.first = len(c.text)
	default:
		c.first = len(c.text)
	}
	return c
}

// String returns the pattern as it would be written.
func (p *pattern) String() string {
	if p.open {
		return p.text + "*"
	}
	return p.text
}

// key tells patterns apart that do not match the same paths with the same priority.
func (p *pattern) key() string {
	var b strings.Builder
	b.WriteByte('0' + byte(p.form))
	if p.open {
		b.WriteByte('*')
	} else {
		b.WriteByte('.')
	}
	b.WriteString(p.text)
	for i, plus := range p.anyOf {
		if p.segments[i] == "+" && !plus {
			// A "+" that came out of a template is no wildcard. No path has NUL.
			b.WriteByte(0)
			b.WriteString(strings.Repeat("-", i))
		}
	}
	return b.String()
}

// matches says whether a path, which has no leading slashes, matches. It is what the
// index must agree with.
func (p *pattern) matches(path string) bool {
	switch p.form {
	case exact:
		return path == p.text
	case prefix:
		return strings.HasPrefix(path, p.text)
	}
	last := len(p.segments) - 1
	for i, segment := range p.segments {
		rest := path
		head, tail, more := strings.Cut(path, "/")
		path = tail
		switch {
		case i == last && p.open:
			return p.anyOf[i] || strings.HasPrefix(rest, segment)
		case !p.anyOf[i] && head != segment:
			return false
		case i == last:
			return !more
		case !more:
			return false
		}
	}
	return false
}

// compare orders patterns that match the same path: positive if p wins over q.
// Exact patterns are not compared, they win anyway.
func (p *pattern) compare(q *pattern) int {
	return cmp.Or(
		cmp.Compare(p.first, q.first),
		compareBool(q.open, p.open),
		cmp.Compare(q.pluses, p.pluses),
		cmp.Compare(len(p.text), len(q.text)),
		strings.Compare(p.text, q.text),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
