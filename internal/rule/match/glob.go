package match

import "strings"

// glob says whether text fits a pattern of fnmatch(3) without flags: * and ? also stand for a
// slash and for a leading dot, [a-z] [!a-z] [[:alpha:]] for one of some bytes, and a backslash
// takes the meaning from what follows. A bracket that is not closed stands for itself. It counts
// bytes, as in the C locale. With fold the case of ASCII letters does not matter.
func glob(pattern, text string, fold bool) bool {
	// Where to go on when what follows the last * does not fit: there is no need to go back to
	// stars before it, so this takes at most len(pattern)*len(text) steps.
	star, resume := -1, 0
	p, t := 0, 0
	for {
		if p < len(pattern) && pattern[p] == '*' {
			star, resume = p, t
			p++
			continue
		}
		if p == len(pattern) && t == len(text) {
			return true
		}
		if p < len(pattern) && t < len(text) {
			if n := globStep(pattern[p:], text[t], fold); n > 0 {
				p += n
				t++
				continue
			}
		}
		if star < 0 || resume >= len(text) {
			return false
		}
		resume++
		p, t = star+1, resume
	}
}

// globStep returns the length of what stands for one byte at the beginning of a pattern, or 0 if
// that does not fit c.
func globStep(pattern string, c byte, fold bool) int {
	switch pattern[0] {
	case '?':
		return 1
	case '[':
		if n, fits := bracket(pattern, c, fold); n > 0 {
			if fits {
				return n
			}
			return 0
		}
	case '\\':
		if len(pattern) == 1 || !same(pattern[1], c, fold) {
			return 0
		}
		return 2
	}
	if same(pattern[0], c, fold) {
		return 1
	}
	return 0
}

func same(a, b byte, fold bool) bool {
	return a == b || fold && lower(a) == lower(b)
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - ('a' - 'A')
	}
	return c
}

// bracket reads a bracket expression at the beginning of a pattern and says whether c is in it.
// n is 0 if it is not closed. With fold, ranges are compared in lower case; classes are as they
// are. With a class that there is not nothing fits but what was found before it.
func bracket(pattern string, c byte, fold bool) (n int, fits bool) {
	i := 1
	negated := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negated {
		i++
	}
	found, refused := false, false
	for first := true; ; first = false {
		if i >= len(pattern) {
			return 0, false
		}
		if pattern[i] == ']' && !first {
			return i + 1, found != negated && !refused
		}
		if class, size := characterClass(pattern[i:]); size > 0 {
			i += size
			switch {
			case class != nil:
				found = found || class(c)
			case !found:
				refused = true
			}
			continue
		}
		from, size := bracketByte(pattern[i:])
		if size == 0 {
			return 0, false
		}
		i += size
		to := from
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			if to, size = bracketByte(pattern[i+1:]); size == 0 {
				return 0, false
			}
			i += 1 + size
		}
		found = found || from <= c && c <= to || fold && lower(from) <= lower(c) && lower(c) <= lower(to)
	}
}

// bracketByte reads a byte in brackets: as it is, behind a backslash, or as [.x.] or [=x=].
func bracketByte(pattern string) (c byte, size int) {
	switch {
	case pattern[0] == '\\':
		if len(pattern) == 1 {
			return 0, 0
		}
		return pattern[1], 2
	case len(pattern) >= 5 && pattern[0] == '[' && (pattern[1] == '.' || pattern[1] == '=') && pattern[3] == pattern[1] && pattern[4] == ']':
		return pattern[2], 5
	}
	return pattern[0], 1
}

// characterClass reads [:name:]. The size is 0 for what is none, and class nil for one that there
// is not.
func characterClass(pattern string) (class func(byte) bool, size int) {
	if !strings.HasPrefix(pattern, "[:") {
		return nil, 0
	}
	name, _, closed := strings.Cut(pattern[2:], ":]")
	if !closed || strings.Trim(name, "abcdefghijklmnopqrstuvwxy") != "" {
		return nil, 0
	}
	return classes[name], len("[:") + len(name) + len(":]")
}

var classes = map[string]func(byte) bool{
	"alnum":  func(c byte) bool { return isAlpha(c) || isDigit(c) },
	"alpha":  isAlpha,
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl":  func(c byte) bool { return c < ' ' || c == 0x7f },
	"digit":  isDigit,
	"graph":  func(c byte) bool { return ' ' < c && c < 0x7f },
	"lower":  func(c byte) bool { return 'a' <= c && c <= 'z' },
	"print":  func(c byte) bool { return ' ' <= c && c < 0x7f },
	"punct":  func(c byte) bool { return ' ' < c && c < 0x7f && !isAlpha(c) && !isDigit(c) },
	"space":  isSpace,
	"upper":  func(c byte) bool { return 'A' <= c && c <= 'Z' },
	"xdigit": func(c byte) bool { return isDigit(c) || 'a' <= lower(c) && lower(c) <= 'f' },
}

func isAlpha(c byte) bool { return 'a' <= lower(c) && lower(c) <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }
