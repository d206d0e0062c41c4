package condition

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

var (
	numericOps = []string{"<=", "<", ">=", ">"}
	textSigns  = []string{"==", "=", "!="}
	// textWords need a blank behind them.
	textWords = []string{"glob", "iglob", "contains", "icontains", "bcontains", "startswith", "bstartswith", "endswith", "regex"}
	// listOps are looked for in this order, and need no blank: "increate" is "in create".
	listOps = []string{"intersects", "in", "pmatch"}

	transformers = []string{"tolower", "toupper", "b64", "basename", "len", "join", "concat", "getopt"}
)

// Operators returns how the operators are written, in the order in which errors name them.
func Operators() []string {
	all := []string{string(Exists)}
	for _, ops := range [][]string{numericOps, textSigns, textWords, listOps} {
		all = append(all, ops...)
	}
	return all
}

// Transformers returns the names of the transformers.
func Transformers() []string { return append([]string(nil), transformers...) }

// valAndTransformers is what may stand before a parenthesis on the right side.
func valAndTransformers() []string { return append([]string{"val"}, transformers...) }

// blanks skips blanks, a backspace among them, and returns whether there were any.
func (p *parser) blanks() bool {
	start := p.pos
	for p.pos < len(p.src) && strings.IndexByte(" \t\b\r\n", p.src[p.pos]) >= 0 {
		p.pos++
	}
	return p.pos > start
}

// isSpace is true for what ends a string without quotes. It is not the same as what blanks skips.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

// take makes the text up to end the last token.
func (p *parser) take(end int) bool {
	if end == p.pos {
		return false
	}
	p.last, p.pos = p.src[p.pos:end], end
	return true
}

// word reads a given text, whatever follows it.
func (p *parser) word(w string) bool {
	return strings.HasPrefix(p.src[p.pos:], w) && p.take(p.pos+len(w))
}

// oneOf reads the first of some texts that is there.
func (p *parser) oneOf(words []string) bool {
	for _, w := range words {
		if p.word(w) {
			return true
		}
	}
	return false
}

// notWord reads "not" and the blanks behind it.
func (p *parser) notWord() bool {
	if !strings.HasPrefix(p.src[p.pos:], "not") {
		return false
	}
	end := p.pos + len("not")
	for end < len(p.src) && isSpace(p.src[end]) {
		end++
	}
	return end > p.pos+len("not") && p.take(end)
}

// textOp reads an operator that compares with a text.
func (p *parser) textOp() bool {
	if p.oneOf(textSigns) {
		return true
	}
	start := p.pos
	if !p.oneOf(textWords) {
		return false
	}
	if !p.blanks() {
		p.pos = start
		return false
	}
	return true
}

// modifier reads a modifier. It is one only if a list or a word follows: else it is a value.
func (p *parser) modifier() Modifier {
	start := p.pos
	for _, m := range []Modifier{OneOf, AnyOf, AllOf} {
		if !strings.HasPrefix(p.src[start:], string(m)) {
			continue
		}
		p.pos = start + len(m)
		blanks := p.blanks()
		if p.pos < len(p.src) && p.src[p.pos] == '(' {
			p.last = string(m)
			return m
		}
		if end := p.identifierEnd(); blanks && end > p.pos {
			if next := p.src[p.pos:end]; next != "and" && next != "or" {
				p.last = string(m)
				return m
			}
		}
	}
	p.pos = start
	return None
}

// identifierEnd returns where an identifier ends that begins here; here if there is none.
func (p *parser) identifierEnd() int {
	return identifierEnd(p.src, p.pos)
}

func identifierEnd(s string, i int) int {
	if i >= len(s) || !isLetter(s[i]) {
		return i
	}
	for i < len(s) && (isLetter(s[i]) || isDigit(s[i]) || s[i] == '_') {
		i++
	}
	return i
}

func (p *parser) identifier() bool { return p.take(p.identifierEnd()) }

// fieldName reads identifiers with dots between them, two at least.
func (p *parser) fieldName() bool {
	end := p.identifierEnd()
	first := end
	for end > p.pos && end < len(p.src) && p.src[end] == '.' {
		next := identifierEnd(p.src, end+1)
		if next == end+1 {
			break
		}
		end = next
	}
	if end == first || !p.take(end) {
		return false
	}
	p.name = p.last
	return true
}

// transformerName reads the name of a transformer, the parenthesis, which must follow at once,
// and the blanks behind it.
func (p *parser) transformerName() bool {
	for _, name := range transformers {
		if strings.HasPrefix(p.src[p.pos:], name) && strings.HasPrefix(p.src[p.pos+len(name):], "(") {
			p.take(p.pos + len(name) + 1)
			p.name = name
			p.blanks()
			return true
		}
	}
	return false
}

// bareArgument reads the argument of a field without quotes.
func (p *parser) bareArgument() bool { return p.run("[]\"'") }

// bare reads a string without quotes.
func (p *parser) bare() bool { return p.run(bareStops) }

// bareStops are, beside spaces, not in strings without quotes.
const bareStops = "()\"'=,"

// run reads up to a space or one of some characters, or what is no text.
func (p *parser) run(stops string) bool {
	end := p.pos
	for end < len(p.src) {
		c := p.src[end]
		if isSpace(c) || strings.IndexByte(stops, c) >= 0 {
			break
		}
		if c < utf8.RuneSelf {
			end++
			continue
		}
		r, size := utf8.DecodeRuneInString(p.src[end:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		end += size
	}
	return p.take(end)
}

// number reads a hexadecimal or decimal number.
func (p *parser) number() bool {
	s := p.src
	digits := func(i int) int {
		for i < len(s) && isDigit(s[i]) {
			i++
		}
		return i
	}
	i := p.pos
	if i+2 < len(s) && s[i] == '0' && (s[i+1] == 'x' || s[i+1] == 'X') {
		end := i + 2
		for end < len(s) && isHex(s[end]) {
			end++
		}
		if end > i+2 {
			return p.take(end)
		}
	}
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		i++
	}
	end := digits(i)
	if end == i {
		return false
	}
	if end < len(s) && s[end] == '.' {
		end = digits(end + 1)
	}
	if end+1 < len(s) && (s[end] == 'e' || s[end] == 'E') && (s[end+1] == '+' || s[end+1] == '-') {
		if exponent := digits(end + 2); exponent > end+2 {
			end = exponent
		}
	}
	return p.take(end)
}

func isHex(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

// quoted reads a string in quotes. It ends at the first quote that has no backslash before it, even
// where that backslash is itself escaped; a string without an end is none.
func (p *parser) quoted() (bool, error) {
	start := p.pos
	if start >= len(p.src) || p.src[start] != '"' && p.src[start] != '\'' {
		return false, nil
	}
	for i := start + 1; i < len(p.src) && p.src[i] != 0; i++ {
		if p.src[i] != p.src[start] || p.src[i-1] == '\\' {
			continue
		}
		text, err := p.unescape(start+1, i)
		if err != nil {
			return false, err
		}
		p.last, p.pos = text, i+1
		return true, nil
	}
	return false, nil
}

// unescape returns what the text between two quotes stands for.
func (p *parser) unescape(start, end int) (string, error) {
	inner, quote := p.src[start:end], p.src[start-1]
	if strings.IndexByte(inner, '\\') < 0 {
		return inner, nil
	}
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		if inner[i] != '\\' {
			b.WriteByte(inner[i])
			continue
		}
		at := Pos{Text: p.text, Offset: start + i}
		i++ // the text does not end with a backslash: a quote behind one is part of it
		switch c := inner[i]; c {
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case ' ', '\\':
			b.WriteByte('\\')
		case '/':
			b.WriteByte('/')
		case '"', '\'':
			if c != quote {
				return "", p.failAt(at, fmt.Sprintf(`invalid \%c escape in %c-quoted string`, c, quote), fmt.Sprintf("write %c without the backslash", c))
			}
			b.WriteByte(c)
		case 'x':
			if i+2 >= len(inner) || !isHex(inner[i+1]) || !isHex(inner[i+2]) {
				return "", p.failAt(at, `unsupported string escape sequence: \x`, `two hexadecimal digits follow \x`)
			}
			n, _ := strconv.ParseUint(inner[i+1:i+3], 16, 8)
			b.WriteByte(byte(n))
			i += 2
		default:
			r, _ := utf8.DecodeRuneInString(inner[i:])
			return "", p.failAt(at, fmt.Sprintf(`unsupported string escape sequence: \%c`, r), `a backslash is written as \\`)
		}
	}
	return b.String(), nil
}
