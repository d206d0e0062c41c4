package auditlog

import (
	"iter"
	"strconv"
)

// Kind is the type of a [Value].
type Kind uint8

// The kinds of a Value.
const (
	Absent Kind = iota
	Null
	Bool
	Number
	Text
	Array
	Object
)

// Value is one JSON value of an entry, as its text in the line. The zero Value
// is an absent member. A Value is safe to keep, but shares the memory of the line.
// Accessors of the wrong kind answer with their zero value and false.
type Value struct{ raw string }

// Raw returns the JSON text.
func (v Value) Raw() string { return v.raw }

// Kind returns what the value is.
func (v Value) Kind() Kind {
	if v.raw == "" {
		return Absent
	}
	switch v.raw[0] {
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

// Present is true when there is a value that is not null.
func (v Value) Present() bool { return v.raw != "" && v.raw[0] != 'n' }

// Text returns the text that a string stands for.
func (v Value) Text() (string, bool) {
	if v.Kind() != Text {
		return "", false
	}
	inner := v.raw[1 : len(v.raw)-1]
	for i := range len(inner) {
		if inner[i] == '\\' {
			return unescape(inner), true
		}
	}
	return inner, true
}

// Int returns a number that is written without fraction and exponent and fits.
func (v Value) Int() (int64, bool) {
	if v.Kind() != Number {
		return 0, false
	}
	n, err := strconv.ParseInt(v.raw, 10, 64)
	return n, err == nil
}

// Bool returns a truth value, and false when there is none.
func (v Value) Bool() (value, ok bool) {
	return v.raw == "true", v.Kind() == Bool
}

// Get returns the member of an object with this name. A name that occurs twice
// has no meaning and gives the zero Value.
func (v Value) Get(name string) Value {
	var found Value
	for k, m := range v.Members() {
		if k == name {
			if found.raw != "" {
				return Value{}
			}
			found = m
		}
	}
	return found
}

// Members yields the members of an object in the order of the line; nothing for
// other kinds.
func (v Value) Members() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if v.Kind() != Object {
			return
		}
		var c scanner
		c.reset(v.raw)
		for c.open(); ; {
			name, ok := c.member()
			if !ok {
				return
			}
			raw, ok := c.skip()
			if !ok || !yield(name, Value{raw}) {
				return
			}
		}
	}
}

// Elements yields the elements of an array; nothing for other kinds.
func (v Value) Elements() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		if v.Kind() != Array {
			return
		}
		var c scanner
		c.reset(v.raw)
		c.i++
		if c.peek() == ']' {
			return
		}
		for {
			raw, ok := c.skip()
			if !ok || !yield(Value{raw}) || c.peek() != ',' {
				return
			}
			c.i++
		}
	}
}
