package safetemplate

import "fmt"

// place is where in a text something stands.
type place uint8

const (
	// Of JSON.
	atValue         place = iota // a value comes next, or the end of a list
	atKey                        // a key comes next, or the end of an object
	atColon                      // behind a key
	atEnd                        // behind a value
	inString                     // in quotes
	behindBackslash              // in quotes, and an escape has begun
	inUnicode                    // in quotes, in the digits of an escape

	// Of the others.
	inText
	inHost // of a URL, with its scheme
	inPath
	inQuery
)

// context is what is known about a place.
type context struct {
	place place
	// ended: it may also be behind a value, as after a round of range that may not have
	// been. Of atValue and atKey.
	ended bool
	isKey bool // the quotes are those of a key
	left  uint8
	word  word
	dead  bool // nothing gets here: behind break or continue
	// open are the containers that are open, a { or [ for each. A called template begins with
	// the one that it is called in, which it cannot close: o for an object, l for a list, and
	// t for none.
	open string
	host string // of a URL: what there is of scheme and host
}

// word says whether the text ends with a number, true, false or null that could go on.
type word uint8

const (
	noWord word = iota
	inWord
	perhaps // in one of the branches
)

func (c context) inQuotes() bool {
	return c.place == inString || c.place == behindBackslash || c.place == inUnicode
}

// innermost is the last of the containers that are open, 0 if none is.
func (c context) innermost() byte {
	if c.open == "" {
		return 0
	}
	return c.open[len(c.open)-1]
}

func (c context) inObject() bool { return c.innermost() == '{' || c.innermost() == 'o' }

func (c context) inList() bool { return c.innermost() == '[' || c.innermost() == 'l' }

// behindValue is the context behind a value.
func (c context) behindValue() context {
	c.place, c.ended, c.isKey, c.word = atEnd, false, false, noWord
	return c
}

// String describes the place, for messages.
func (c context) String() string {
	var s string
	switch c.place {
	case atValue:
		s = "before a value"
	case atKey:
		s = "before a key"
	case atColon:
		s = "behind a key"
	case atEnd:
		s = "behind a value"
	case inString:
		s = "inside of quotes"
	case behindBackslash, inUnicode:
		return "inside of an escape"
	case inText:
		return "in the text"
	case inHost:
		return "in the host of the URL"
	case inPath:
		return "in the path of the URL"
	case inQuery:
		return "in the query of the URL"
	}
	switch {
	case c.inObject():
		s += " in an object"
	case c.inList():
		s += " in a list"
	}
	if n := len(c.open); n > 1 {
		s += fmt.Sprintf(" (%d deep)", n)
	}
	return s
}

// join returns the context behind branches that end in a and b; false: they do not fit
// together.
func join(a, b context) (context, bool) {
	switch {
	case a == b || b.dead:
		return a, true
	case a.dead:
		return b, true
	case a.open != b.open:
		return a, false
	case a.place >= inString || b.place >= inString:
		return a, false
	}
	c := a
	if a.word != b.word {
		c.word = perhaps
	}
	if c.place == atEnd && (b.place == atValue || b.place == atKey) {
		c.place, c.ended = b.place, true
	} else if b.place == atEnd && (a.place == atValue || a.place == atKey) {
		c.ended = true
	} else if a.place != b.place {
		return a, false
	} else {
		c.ended = a.ended || b.ended
	}
	return c, true
}

// advance returns the context behind a literal text. A reason comes with the offset of
// what it is about.
func (c context) advance(s string) (after context, offset int, reason string) {
	switch c.place {
	case inText:
		return c, 0, ""
	case inHost, inPath, inQuery:
		return c.advanceURL(s)
	}
	for i := 0; i < len(s); i++ {
		if c.inQuotes() {
			if c, reason = c.quoted(s[i]); reason != "" {
				return c, i, reason
			}
			continue
		}
		if c, reason = c.outside(s[i]); reason != "" {
			return c, i, reason
		}
	}
	return c, 0, ""
}

// quoted passes a byte inside of quotes.
func (c context) quoted(b byte) (context, string) {
	if b < ' ' {
		if b == '\n' {
			return c, `a line ends inside of quotes, which JSON does not allow; write \n, or close the quotes`
		}
		return c, fmt.Sprintf(`a control character inside of quotes, which JSON does not allow; write \u%04x`, b)
	}
	switch c.place {
	case behindBackslash:
		switch b {
		case 'u':
			c.place, c.left = inUnicode, 4
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			c.place = inString
		default:
			return c, `behind \ comes none of " \ / b f n r t u; write \\ for a backslash`
		}
	case inUnicode:
		if !isHex(b) {
			return c, `behind \u come four hexadecimal digits`
		}
		if c.left--; c.left == 0 {
			c.place = inString
		}
	default:
		switch b {
		case '\\':
			c.place = behindBackslash
		case '"':
			if !c.isKey {
				return c.behindValue(), ""
			}
			c.place, c.isKey = atColon, false
		}
	}
	return c, ""
}

func isHex(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'f' || 'A' <= b && b <= 'F'
}

const missingComma = "a value directly behind another; put a comma between them"

// outside passes a byte outside of quotes. Commas that are too many are left to the check
// of what comes out: a template may well have one in a branch.
func (c context) outside(b byte) (context, string) {
	switch {
	case b == ' ' || b == '\t' || b == '\n' || b == '\r':
		c.word = noWord
		return c, ""
	case '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || b == '-' || b == '+' || b == '.':
		switch {
		case c.place == atEnd && c.word == inWord:
			return c, ""
		case c.place == atEnd:
			return c, missingComma
		case c.place != atValue:
			return c, notHere(c)
		}
		c = c.behindValue()
		c.word = inWord
		return c, ""
	}
	c.word = noWord
	switch b {
	case '"':
		switch c.place {
		case atValue:
			c.place, c.ended = inString, false
		case atKey:
			c.place, c.ended, c.isKey = inString, false, true
		case atEnd:
			return c, missingComma
		default:
			return c, notHere(c)
		}
	case '{', '[':
		switch c.place {
		case atValue:
		case atEnd:
			return c, missingComma
		default:
			return c, notHere(c)
		}
		if len(c.open) >= maxDepth {
			return c, fmt.Sprintf("more than %d objects and lists in each other", maxDepth)
		}
		c.open, c.ended = c.open+string(b), false
		c.place = atValue
		if b == '{' {
			c.place = atKey
		}
	case '}', ']':
		want := byte('{')
		if b == ']' {
			want = '['
		}
		switch {
		case c.innermost() != want:
			return c, fmt.Sprintf("%c closes what was not opened before it", b)
		case c.place == atColon || b == '}' && c.place == atValue && !c.ended:
			return c, "the value of a key is missing"
		}
		c.open = c.open[:len(c.open)-1]
		c = c.behindValue()
	case ',':
		switch {
		case c.inObject():
			if c.place == atColon || c.place == atValue && !c.ended {
				return c, "the value of a key is missing"
			}
			c.place = atKey
		case c.inList():
			c.place = atValue
		default:
			return c, "a comma outside of objects and lists; a body is one JSON value"
		}
		c.ended = false
	case ':':
		if c.place != atColon {
			return c, "a colon that is not behind a key"
		}
		c.place = atValue
	default:
		return c, "is no JSON; texts stand in quotes"
	}
	return c, ""
}

// maxDepth bounds how deep a template nests.
const maxDepth = 200

func notHere(c context) string {
	switch c.place {
	case atColon:
		return "a colon is missing behind a key"
	case atKey:
		return "a key in quotes must come here"
	}
	return "is not expected here"
}

// print returns the context behind an action that prints, and the name of the function
// that writes its value. With raw the value is written as it is.
func (c context) print(raw bool) (after context, function, reason string) {
	switch c.place {
	case inText:
		return c, writeText, ""
	case inHost:
		return c, "", "the host of a URL must not depend on an event: it would decide where others' events go. Write it as it is"
	case inPath:
		return c, writePath, ""
	case inQuery:
		return c, writeQuery, ""
	case inString:
		return c, writeQuoted, ""
	case behindBackslash, inUnicode:
		return c, "", `a value directly behind a backslash; write \\ for a backslash`
	}
	if raw && !c.inQuotes() && c.place == atEnd {
		return c, writeValue, ""
	}
	switch {
	case c.word != noWord:
		return c, "", "a value directly behind a number or a word; put a comma between them, or write both in quotes"
	case c.place == atKey:
		c.place, c.ended = atColon, false
		return c, writeKey, ""
	case c.place == atValue:
		return c.behindValue(), writeValue, ""
	case c.place == atColon:
		return c, "", "a colon is missing between a key and its value"
	}
	return c, "", missingComma + `, or write both into one text: "{{.A}} {{.B}}"`
}
