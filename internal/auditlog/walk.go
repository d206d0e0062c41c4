package auditlog

import "strings"

// Walker reads all of an entry once more, member by member, for those who need what
// [Entry] has no field for. It costs no memory, and makes no checks: the text of an entry
// was checked when it was parsed.
//
// The caller looks at [Walker.Kind] and then takes the value with exactly one of Text, Skip,
// and Open; behind Open come the members or elements, up to the one that is not there. The
// zero value is not usable; see [Walker.Reset].
type Walker struct {
	s     string
	i     int
	first bool // no member or element of the current object or array was read yet
}

// Reset puts the Walker before the object of an entry. It must not be used any more when
// the entry's line is written again.
func (w *Walker) Reset(e *Entry) { *w = Walker{s: e.text()} }

// ResetTo puts the Walker before a value of an entry.
func (w *Walker) ResetTo(v Value) { *w = Walker{s: v.raw} }

// peek passes white space and returns the next byte, 0 at the end.
func (w *Walker) peek() byte {
	for ; w.i < len(w.s); w.i++ {
		if b := w.s[w.i]; b > ' ' {
			return b
		}
	}
	return 0
}

// Kind returns the kind of the value that comes next.
func (w *Walker) Kind() Kind {
	switch w.peek() {
	case 0:
		return Absent
	case '{':
		return Object
	case '[':
		return Array
	case '"':
		return Text
	case 'n':
		return Null
	case 't', 'f':
		return Bool
	}
	return Number
}

// Open enters the object or array that comes next.
func (w *Walker) Open() {
	w.peek()
	w.i++
	w.first = true
}

// Member goes to the value of the next member of the object and returns its name; false
// when there is none, and then the object is left.
func (w *Walker) Member() (name string, ok bool) {
	if !w.Element() {
		return "", false
	}
	w.peek()
	name = w.Text()
	w.peek() // the colon
	w.i++
	return name, true
}

// Element goes to the next element of the array; false when there is none, and then the
// array is left.
func (w *Walker) Element() bool {
	switch b := w.peek(); {
	case b == ']' || b == '}':
		w.i++
		w.first = false
		return false
	case b == 0:
		return false
	case !w.first:
		w.i++ // the comma
	}
	w.first = false
	return true
}

// Text takes a text. Mostly it shares the memory of the line.
func (w *Walker) Text() string {
	w.peek()
	raw := w.s[w.i:]
	end := textEnd(raw)
	w.i += end
	inner := raw[1 : end-1]
	if strings.IndexByte(inner, '\\') >= 0 {
		return unescape(inner)
	}
	return inner
}

// textEnd returns the length of the string at the start of s.
func textEnd(s string) int {
	if end := strings.IndexByte(s[1:], '"') + 1; strings.IndexByte(s[1:end], '\\') < 0 {
		return end + 1
	}
	for i := 1; ; i++ {
		switch s[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
}

// Skip takes a value whatever it is.
func (w *Walker) Skip() Value {
	w.peek()
	start, depth := w.i, 0
	for {
		switch w.s[w.i] {
		case '"':
			w.i += textEnd(w.s[w.i:])
		case '{', '[':
			depth++
			w.i++
			continue
		case '}', ']':
			depth--
			w.i++
		default:
			w.i++
			if depth > 0 {
				continue
			}
			for w.i < len(w.s) && isScalar(w.s[w.i]) {
				w.i++
			}
		}
		if depth == 0 {
			break
		}
	}
	return Value{w.s[start:w.i]}
}

// isScalar is true for the bytes of numbers, true, false and null.
func isScalar(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '.' || b == '-' || b == '+' || b == 'E'
}
