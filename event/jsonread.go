package event

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Values may be nested this deep. A typed metadata value sits two levels deep in
// the payload of a CloudEvent, hence the difference.
const (
	maxValueDepth = 100
	maxDataDepth  = maxValueDepth + 2
)

// jsonReader reads one JSON text (RFC 8259) from front to back. It is stricter
// than encoding/json, because what it reads comes from outside and is handed on
// verbatim: bytes that are not UTF-8, names that occur twice in an object, and
// values nested too deeply are errors.
type jsonReader struct {
	src []byte
	pos int
	// mem is where strings and fields are kept; nil for readers that only skip.
	mem *memory
}

func newJSONReader(src []byte) (*jsonReader, error) {
	if !utf8.Valid(src) {
		return nil, errors.New("is not UTF-8")
	}
	return &jsonReader{src: src}, nil
}

// asInvalid makes an error of reading an [*InvalidError] about attribute, unless
// it already is one.
func asInvalid(attribute string, err error) error {
	if err == nil {
		return nil
	}
	if _, already := errors.AsType[*InvalidError](err); already || errors.Is(err, ErrTooLarge) {
		return err
	}
	return invalid(attribute, err.Error())
}

// within puts attribute before the one that an [*InvalidError] names.
func within(attribute string, err error) error {
	if inner, ok := errors.AsType[*InvalidError](err); ok {
		return invalid(attribute+"."+inner.Attribute, inner.Reason)
	}
	return err
}

// peek skips white space and returns the byte that follows, 0 at the end.
func (r *jsonReader) peek() byte {
	for ; r.pos < len(r.src); r.pos++ {
		switch c := r.src[r.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// unexpected tells that the next byte begins nothing that may stand here.
func (r *jsonReader) unexpected(want string) error {
	if r.pos >= len(r.src) {
		return fmt.Errorf("is not JSON: ends at byte %d, where %s should be", r.pos, want)
	}
	return fmt.Errorf("is not JSON: %q at byte %d, where %s should be", r.src[r.pos], r.pos, want)
}

// expect consumes c after white space.
func (r *jsonReader) expect(c byte) error {
	if r.peek() != c || r.pos == len(r.src) {
		return r.unexpected(strconv.Quote(string(c)))
	}
	r.pos++
	return nil
}

// end returns nil when only white space is left.
func (r *jsonReader) end() error {
	if r.peek(); r.pos < len(r.src) {
		return r.unexpected("the end")
	}
	return nil
}

// value consumes a value in which at most depth arrays and objects are nested,
// and returns its text, which belongs to the reader.
func (r *jsonReader) value(depth int) ([]byte, error) {
	c := r.peek()
	start := r.pos
	var err error
	switch c {
	case '{', '[':
		err = r.container(c, depth)
	case '"':
		err = r.skipString()
	case 't':
		err = r.literal("true")
	case 'f':
		err = r.literal("false")
	case 'n':
		err = r.literal("null")
	default:
		err = r.number()
	}
	return r.src[start:r.pos], err
}

func (r *jsonReader) container(open byte, depth int) error {
	if depth == 0 {
		return fmt.Errorf("is nested too deeply at byte %d", r.pos)
	}
	r.pos++
	end := open + 2 // '{' to '}', '[' to ']'
	if r.peek() == end {
		r.pos++
		return nil
	}
	for {
		if open == '{' {
			if r.peek() != '"' {
				return r.unexpected("a member name")
			}
			if err := r.skipString(); err != nil {
				return err
			}
			if err := r.expect(':'); err != nil {
				return err
			}
		}
		if _, err := r.value(depth - 1); err != nil {
			return err
		}
		switch r.peek() {
		case ',':
			r.pos++
		case end:
			r.pos++
			return nil
		default:
			return r.unexpected(fmt.Sprintf(`"," or "%c"`, end))
		}
	}
}

func (r *jsonReader) literal(word string) error {
	if !bytes.HasPrefix(r.src[r.pos:], []byte(word)) {
		return r.unexpected("a value")
	}
	r.pos += len(word)
	return nil
}

func (r *jsonReader) number() error {
	if r.pos < len(r.src) && r.src[r.pos] == '-' {
		r.pos++
	}
	switch {
	case r.pos < len(r.src) && r.src[r.pos] == '0':
		r.pos++
	case r.digits() == 0:
		return r.unexpected("a value")
	}
	if r.pos < len(r.src) && r.src[r.pos] == '.' {
		r.pos++
		if r.digits() == 0 {
			return r.unexpected("a digit")
		}
	}
	if r.pos < len(r.src) && r.src[r.pos]|0x20 == 'e' {
		r.pos++
		if r.pos < len(r.src) && (r.src[r.pos] == '+' || r.src[r.pos] == '-') {
			r.pos++
		}
		if r.digits() == 0 {
			return r.unexpected("a digit")
		}
	}
	return nil
}

func (r *jsonReader) digits() (n int) {
	for ; r.pos < len(r.src) && r.src[r.pos]-'0' <= 9; r.pos++ {
		n++
	}
	return n
}

// skipString consumes a string, the opening quote of which is next.
func (r *jsonReader) skipString() error {
	r.pos++
	for {
		r.pos += plainPrefix(r.src[r.pos:])
		if r.pos >= len(r.src) {
			return r.unexpected("the end of a string")
		}
		switch c := r.src[r.pos]; {
		case c == '"':
			r.pos++
			return nil
		case c < ' ':
			return r.unexpected("a character of a string")
		case c == '\\':
			if err := r.skipEscape(); err != nil {
				return err
			}
		default:
			r.pos++
		}
	}
}

func (r *jsonReader) skipEscape() error {
	r.pos++
	if r.pos >= len(r.src) {
		return r.unexpected("an escape")
	}
	switch r.src[r.pos] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		r.pos++
		return nil
	case 'u':
		r.pos++
		for range 4 {
			if r.pos >= len(r.src) || hexValue(r.src[r.pos]) < 0 {
				return r.unexpected("a hexadecimal digit")
			}
			r.pos++
		}
		return nil
	}
	return r.unexpected("an escape")
}

func hexValue(c byte) rune {
	switch {
	case '0' <= c && c <= '9':
		return rune(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return rune(c|0x20-'a') + 10
	}
	return -1
}

// quoted consumes a string and returns its inside, which belongs to the reader.
func (r *jsonReader) quoted() ([]byte, error) {
	if r.peek() != '"' {
		return nil, r.unexpected("a string")
	}
	start := r.pos
	if err := r.skipString(); err != nil {
		return nil, err
	}
	return r.src[start+1 : r.pos-1], nil
}

// view consumes a string and returns what it denotes, valid until the next string is
// read. Half of a surrogate pair denotes nothing and is an error.
func (r *jsonReader) view() ([]byte, error) {
	quoted, err := r.quoted()
	if err != nil || bytes.IndexByte(quoted, '\\') < 0 {
		return quoted, err
	}
	var ok bool
	if r.mem.scratch, ok = unquote(r.mem.scratch[:0], quoted); !ok {
		return nil, fmt.Errorf("has half of a surrogate pair in the string before byte %d", r.pos)
	}
	return r.mem.scratch, nil
}

// string consumes a string and returns what it denotes, as view does.
func (r *jsonReader) string() (string, error) {
	b, err := r.view()
	if err != nil {
		return "", err
	}
	return r.mem.text(b), nil
}

// name consumes a member name, which is followed by a colon. What it returns stays
// valid.
func (r *jsonReader) name() ([]byte, error) {
	name, err := r.quoted()
	if err == nil && bytes.IndexByte(name, '\\') >= 0 {
		var ok bool
		if name, ok = unquote(nil, name); !ok {
			err = fmt.Errorf("has half of a surrogate pair in the name before byte %d", r.pos)
		}
	}
	if err == nil {
		err = r.expect(':')
	}
	return name, err
}

// unquote appends what the inside of a valid JSON string denotes. Half of a
// surrogate pair becomes U+FFFD and makes ok false.
func unquote(dst, quoted []byte) (_ []byte, ok bool) {
	ok = true
	for i := 0; i < len(quoted); {
		c := quoted[i]
		if c != '\\' {
			n := bytes.IndexByte(quoted[i:], '\\')
			if n < 0 {
				n = len(quoted) - i
			}
			dst = append(dst, quoted[i:i+n]...)
			i += n
			continue
		}
		c = quoted[i+1]
		i += 2
		switch c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			char := hex4(quoted[i:])
			i += 4
			if utf16.IsSurrogate(char) {
				low := rune(-1)
				if bytes.HasPrefix(quoted[i:], []byte(`\u`)) {
					low = hex4(quoted[i+2:])
				}
				if char = utf16.DecodeRune(char, low); char != utf8.RuneError {
					i += 6
				} else {
					ok = false
				}
			}
			dst = utf8.AppendRune(dst, char)
		default: // quote, backslash, slash
			dst = append(dst, c)
		}
	}
	return dst, ok
}

// hex4 returns the number that the first four bytes, hexadecimal digits, denote.
func hex4(b []byte) rune {
	return hexValue(b[0])<<12 | hexValue(b[1])<<8 | hexValue(b[2])<<4 | hexValue(b[3])
}

// object consumes an object. It calls member with each name; member must consume
// the value.
func (r *jsonReader) object(member func(name []byte) error) error {
	var seen nameSet
	return r.members(func(name []byte) error {
		if !seen.add(name) {
			return invalid(string(name), "occurs twice")
		}
		return member(name)
	})
}

// members is object for those who find names that occur twice themselves.
func (r *jsonReader) members(member func(name []byte) error) error {
	if err := r.expect('{'); err != nil {
		return err
	}
	if r.peek() == '}' {
		r.pos++
		return nil
	}
	for {
		name, err := r.name()
		if err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
		switch r.peek() {
		case ',':
			r.pos++
		case '}':
			r.pos++
			return nil
		default:
			return r.unexpected(`"," or "}"`)
		}
	}
}

// array consumes an array. It calls element before each element, which element
// must consume.
func (r *jsonReader) array(element func() error) error {
	if err := r.expect('['); err != nil {
		return err
	}
	if r.peek() == ']' {
		r.pos++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		switch r.peek() {
		case ',':
			r.pos++
		case ']':
			r.pos++
			return nil
		default:
			return r.unexpected(`"," or "]"`)
		}
	}
}

// null consumes a null, if that is next.
func (r *jsonReader) null() bool {
	if r.peek() != 'n' || r.literal("null") != nil {
		return false
	}
	return true
}

// text consumes the value of an attribute that must be a string; null is "".
func (r *jsonReader) text(attribute string) (string, error) {
	switch r.peek() {
	case '"':
		s, err := r.string()
		return s, asInvalid(attribute, err)
	case 'n':
		return "", r.literal("null")
	}
	if _, err := r.value(maxDataDepth); err != nil {
		return "", err
	}
	return "", invalid(attribute, "is not a string")
}

// time consumes the value of an attribute that must be a time in RFC 3339; null
// is the zero time.
func (r *jsonReader) time(attribute string) (t time.Time, err error) {
	if r.null() {
		return t, nil
	}
	if r.peek() != '"' {
		_, err := r.text(attribute)
		return t, err
	}
	s, err := r.view()
	if err != nil {
		return t, asInvalid(attribute, err)
	}
	return parseTime(attribute, s)
}

// parseTime returns the time that s says in RFC 3339.
func parseTime(attribute string, s []byte) (t time.Time, err error) {
	if err := t.UnmarshalText(s); err != nil || !strictRFC3339(s) {
		return time.Time{}, invalid(attribute, fmt.Sprintf("%q is not a time as RFC 3339 writes it", clip(string(s), 100)))
	}
	return t, nil
}

// strictRFC3339 refuses what package time accepts although RFC 3339 does not: hours
// of one digit, a comma before the fraction, and offsets of a day and more.
func strictRFC3339(s []byte) bool {
	const hour, fraction, offset = len("2006-01-02T"), len("2006-01-02T15:04:05"), len("+07:00")
	if s[hour+1] == ':' || s[fraction] == ',' {
		return false
	}
	zone := s[len(s)-offset:]
	return s[len(s)-1] == 'Z' || string(zone[1:3]) < "24" && string(zone[4:6]) < "60"
}

// nameSet finds names that occur twice. Nearly all objects have few members.
type nameSet struct {
	few   [12][]byte
	count int
	many  map[string]struct{}
}

// add returns false when name is in the set already. The set keeps name.
func (s *nameSet) add(name []byte) bool {
	if s.count < len(s.few) {
		for _, other := range s.few[:s.count] {
			if string(name) == string(other) {
				return false
			}
		}
		s.few[s.count] = name
		s.count++
		return true
	}
	if s.many == nil {
		s.many = make(map[string]struct{}, 4*len(s.few))
		for _, other := range s.few {
			s.many[string(other)] = struct{}{}
		}
	}
	if _, ok := s.many[string(name)]; ok {
		return false
	}
	s.many[string(name)] = struct{}{}
	return true
}

// appendCompact appends a valid JSON text without white space outside of strings.
func appendCompact(dst, json []byte) []byte {
	for i := 0; i < len(json); {
		switch c := json[i]; c {
		case ' ', '\t', '\n', '\r':
			i++
		case '"':
			end := i + 1
			for json[end] != '"' {
				if json[end] == '\\' {
					end++
				}
				end++
			}
			dst = append(dst, json[i:end+1]...)
			i = end + 1
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}
