package jsontext

// maxNesting is how deep arrays and objects may be nested, as in encoding/json.
const maxNesting = 10_000

// Valid says what [encoding/json.Valid] says, several times as fast where texts are long.
func Valid(b []byte) bool {
	v := validator{b: b}
	v.space()
	if !v.value(0) {
		return false
	}
	v.space()
	return v.i == len(b)
}

// validator reads JSON. Its methods return false for what is none; i is then anywhere.
type validator struct {
	b []byte
	i int
}

// peek returns the next byte, 0 at the end.
func (v *validator) peek() byte {
	if v.i < len(v.b) {
		return v.b[v.i]
	}
	return 0
}

func (v *validator) space() {
	for v.i < len(v.b) {
		switch v.b[v.i] {
		case ' ', '\t', '\n', '\r':
			v.i++
		default:
			return
		}
	}
}

func (v *validator) value(depth int) bool {
	switch c := v.peek(); {
	case c == '"':
		return v.text()
	case c == '{' && depth < maxNesting:
		return v.object(depth + 1)
	case c == '[' && depth < maxNesting:
		return v.array(depth + 1)
	case c == '-', '0' <= c && c <= '9':
		return v.number()
	case c == 't':
		return v.word("true")
	case c == 'f':
		return v.word("false")
	case c == 'n':
		return v.word("null")
	}
	return false
}

func (v *validator) word(w string) bool {
	if len(v.b)-v.i < len(w) || string(v.b[v.i:v.i+len(w)]) != w {
		return false
	}
	v.i += len(w)
	return true
}

func (v *validator) object(depth int) bool {
	v.i++
	v.space()
	if v.peek() == '}' {
		v.i++
		return true
	}
	for {
		if v.peek() != '"' || !v.text() {
			return false
		}
		v.space()
		if v.peek() != ':' {
			return false
		}
		v.i++
		v.space()
		if !v.value(depth) {
			return false
		}
		v.space()
		switch v.peek() {
		case ',':
			v.i++
			v.space()
		case '}':
			v.i++
			return true
		default:
			return false
		}
	}
}

func (v *validator) array(depth int) bool {
	v.i++
	v.space()
	if v.peek() == ']' {
		v.i++
		return true
	}
	for {
		if !v.value(depth) {
			return false
		}
		v.space()
		switch v.peek() {
		case ',':
			v.i++
			v.space()
		case ']':
			v.i++
			return true
		default:
			return false
		}
	}
}

func (v *validator) text() bool {
	v.i++
	for {
		v.i += plain(v.b[v.i:])
		if v.i == len(v.b) {
			return false
		}
		switch c := v.b[v.i]; {
		case c == '"':
			v.i++
			return true
		case c == '\\':
			v.i++
			if !v.escape() {
				return false
			}
		case c < ' ':
			return false
		default:
			v.i++
		}
	}
}

// escape reads what is behind a backslash.
func (v *validator) escape() bool {
	switch v.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		v.i++
		return true
	case 'u':
		v.i++
		for range 4 {
			c := v.peek()
			if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
				return false
			}
			v.i++
		}
		return true
	}
	return false
}

func (v *validator) number() bool {
	if v.peek() == '-' {
		v.i++
	}
	if v.peek() == '0' {
		v.i++
	} else if !v.digits() {
		return false
	}
	if v.peek() == '.' {
		v.i++
		if !v.digits() {
			return false
		}
	}
	if c := v.peek(); c == 'e' || c == 'E' {
		v.i++
		if c := v.peek(); c == '+' || c == '-' {
			v.i++
		}
		return v.digits()
	}
	return true
}

// digits reads at least one.
func (v *validator) digits() bool {
	from := v.i
	for c := v.peek(); '0' <= c && c <= '9'; c = v.peek() {
		v.i++
	}
	return v.i > from
}
