package auditlog

// Walker reads all of an entry once more, member by member, for those who need what
// [Entry] has no field for. It costs no memory, and no check: the text of an entry was
// checked when it was parsed.
//
// The caller looks at [Walker.Kind] and then takes the value with exactly one of Text, Skip,
// and Open; behind Open come the members or elements, up to the one that is not there. The
// zero value is not usable; see [Walker.Reset].
type Walker struct{ c scanner }

// Reset puts the Walker before the object of an entry. It must not be used any more when
// the entry's line is written again.
func (w *Walker) Reset(e *Entry) { w.c.reset(e.text()) }

// Kind returns the kind of the value that comes next.
func (w *Walker) Kind() Kind {
	switch w.c.peek() {
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
	w.c.peek()
	w.c.i++
	w.c.first = true
}

// Member goes to the value of the next member of the object and returns its name; false
// when there is none, and then the object is left.
func (w *Walker) Member() (name string, ok bool) { return w.c.member() }

// Element goes to the next element of the array; false when there is none, and then the
// array is left.
func (w *Walker) Element() bool {
	switch b := w.c.peek(); {
	case b == ']':
		w.c.i++
		w.c.first = false
		return false
	case b == 0:
		return false
	case b == ',' && !w.c.first:
		w.c.i++
	}
	w.c.first = false
	return true
}

// Text takes a text. Mostly it shares the memory of the line.
func (w *Walker) Text() string {
	raw, escaped, _ := w.c.text()
	if escaped {
		return unescape(raw)
	}
	return raw
}

// Skip takes a value whatever it is.
func (w *Walker) Skip() Value {
	raw, _ := w.c.skip()
	return Value{raw}
}
