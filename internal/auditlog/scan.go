package auditlog

import (
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/jsontext"
)

// scanner walks one JSON text once, checks every byte of it (RFC 8259, UTF-8,
// depth), and builds nothing: callers take the members that they know and skip
// the rest. It is strict where the usual fast parsers are not, needs no memory
// besides a stack of one byte per open bracket, and never recurses into data.
type scanner struct {
	s     string
	i     int
	err   *SyntaxError
	stack []byte // open brackets below skip
	first bool   // no member of the current object was read yet
}

func (c *scanner) reset(s string) { c.s, c.i, c.err, c.first = s, 0, nil, false }

// fail notes the first error; it returns false so that callers can return it.
func (c *scanner) fail(reason, detail string) bool {
	if c.err == nil {
		c.err = &SyntaxError{Reason: reason, Detail: detail, Offset: c.i}
	}
	return false
}

// unexpected is the error for a byte that cannot stand here, or for the end.
func (c *scanner) unexpected(want string) bool {
	if c.i >= len(c.s) {
		return c.fail(ReasonTruncated, "the line ends where there should be "+want)
	}
	return c.fail(ReasonNotJSON, "expected "+want)
}

func (c *scanner) space() {
	for c.i < len(c.s) {
		switch c.s[c.i] {
		case ' ', '\t', '\n', '\r':
			c.i++
		default:
			return
		}
	}
}

// peek returns the next byte that is not white space, 0 at the end.
func (c *scanner) peek() byte {
	if c.i < len(c.s) && c.s[c.i] > ' ' {
		return c.s[c.i]
	}
	c.space()
	if c.i < len(c.s) {
		return c.s[c.i]
	}
	return 0
}

// open enters the object at the cursor.
func (c *scanner) open() bool {
	if c.peek() != '{' {
		return c.unexpected("an object")
	}
	c.i++
	c.first = true
	return true
}

// member advances to the value of the next member and returns its name; false at
// the end of the object and on error.
func (c *scanner) member() (string, bool) {
	b := c.peek()
	if b == '}' {
		c.i++
		c.first = false
		return "", false
	}
	if !c.first {
		if b != ',' {
			return "", c.unexpected("',' or '}'")
		}
		c.i++
		b = c.peek()
	}
	c.first = false
	if b != '"' {
		return "", c.unexpected("the name of a member")
	}
	name, escaped, ok := c.text()
	if !ok {
		return "", false
	}
	if c.peek() != ':' {
		return "", c.unexpected("':'")
	}
	c.i++
	if escaped {
		name = unescape(name)
	}
	return name, true
}

const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special marks, in the top bit of its byte, the first byte of x that ends a
// plain run of a string: a quote, a backslash, a control character or the start
// of a multi-byte character. Bytes after the first may be marked wrongly.
func special(x uint64) uint64 {
	quote := x ^ lows*'"'
	slash := x ^ lows*'\\'
	return highs & (x | (x-lows*' ')&^x | (quote-lows)&^quote | (slash-lows)&^slash)
}

// text reads the string at the cursor and returns what stands between its quotes,
// and whether that has escapes.
func (c *scanner) text() (raw string, escaped, ok bool) {
	s := c.s
	start := c.i + 1
	i := start
	multibyte := false
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for {
		for i+8 <= len(b) {
			x := binary.LittleEndian.Uint64(b[i:])
			m := special(x)
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
			break
		}
		if i >= len(b) {
			c.i = i
			return "", false, c.fail(ReasonTruncated, "the line ends inside a string")
		}
		switch ch := b[i]; {
		case ch == '"':
			c.i = i + 1
			raw = s[start:i]
			if multibyte && !utf8.ValidString(raw) {
				c.i = start
				return "", false, c.fail(ReasonUTF8, "a string is not UTF-8")
			}
			return raw, escaped, true
		case ch == '\\':
			escaped = true
			n := escapeLen(s[i:])
			if n <= 0 {
				c.i = i
				if n < 0 {
					return "", false, c.fail(ReasonTruncated, "the line ends inside an escape")
				}
				return "", false, c.fail(ReasonNotJSON, "an escape that JSON does not have")
			}
			i += n
		case ch < ' ':
			c.i = i
			return "", false, c.fail(ReasonControl, "a control character inside a string")
		case ch >= utf8.RuneSelf:
			multibyte = true
			for i++; i < len(b) && b[i] >= utf8.RuneSelf; i++ {
			}
		default:
			i++
		}
	}
}

// escapeLen returns the length of the escape at the start of s, 0 when it is none,
// and -1 when s ends inside it.
func escapeLen(s string) int {
	if len(s) < 2 {
		return -1
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		for i := 2; i < 6; i++ {
			if i >= len(s) {
				return -1
			}
			if !isHex(s[i]) {
				return 0
			}
		}
		return 6
	}
	return 0
}

func isHex(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// number reads the number at the cursor.
func (c *scanner) number() bool {
	s, i := c.s, c.i
	digits := func() bool {
		from := i
		for i < len(s) && isDigit(s[i]) {
			i++
		}
		return i > from
	}
	if i < len(s) && s[i] == '-' {
		i++
	}
	ok := true
	if i < len(s) && s[i] == '0' {
		i++
	} else {
		ok = digits()
	}
	if ok && i < len(s) && s[i] == '.' {
		i++
		ok = digits()
	}
	if ok && i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		ok = digits()
	}
	c.i = i
	if !ok {
		return c.unexpected("a digit")
	}
	return true
}

func (c *scanner) literal(word string) bool {
	rest := c.s[c.i:]
	if strings.HasPrefix(rest, word) {
		c.i += len(word)
		return true
	}
	if strings.HasPrefix(word, rest) {
		c.i = len(c.s)
	}
	return c.unexpected("a value")
}

// skip checks and passes the value at the cursor, whatever it is, and returns its
// text.
func (c *scanner) skip() (string, bool) {
	c.peek()
	start := c.i
	stack := c.stack[:0]
	for {
		// A value is due.
		switch b := c.peek(); b {
		case '"':
			if _, _, ok := c.text(); !ok {
				return "", false
			}
		case '{', '[':
			if len(stack) >= MaxDepth {
				return "", c.fail(ReasonDepth, "objects and arrays are nested too deep")
			}
			c.i++
			if end := c.peek(); end == b+2 { // '}' and ']' are two above their openers
				c.i++
				break
			}
			stack = append(stack, b)
			if b == '{' && !c.name() {
				c.stack = stack
				return "", false
			}
			continue
		case 't':
			if !c.literal("true") {
				return "", false
			}
		case 'f':
			if !c.literal("false") {
				return "", false
			}
		case 'n':
			if !c.literal("null") {
				return "", false
			}
		default:
			if b != '-' && !isDigit(b) {
				return "", c.unexpected("a value")
			}
			if !c.number() {
				return "", false
			}
		}
		// A value is complete: close what ends here, or go on behind a comma.
		for {
			if len(stack) == 0 {
				c.stack = stack
				return c.s[start:c.i], true
			}
			opener := stack[len(stack)-1]
			switch b := c.peek(); b {
			case opener + 2:
				c.i++
				stack = stack[:len(stack)-1]
				continue
			case ',':
				c.i++
				if opener == '{' && !c.name() {
					return "", false
				}
			default:
				return "", c.unexpected("',' or a closing bracket")
			}
			break
		}
	}
}

// name reads the name of a member and its colon.
func (c *scanner) name() bool {
	if c.peek() != '"' {
		return c.unexpected("the name of a member")
	}
	if _, _, ok := c.text(); !ok {
		return false
	}
	if c.peek() != ':' {
		return c.unexpected("':'")
	}
	c.i++
	return true
}

// unescape returns the text that the checked inside of a JSON string stands for.
// A lone surrogate becomes U+FFFD, as in encoding/json.
func unescape(s string) string { return string(jsontext.AppendUnescaped(make([]byte, 0, len(s)), s)) }
