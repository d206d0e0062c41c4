package match

import (
	"errors"
	"regexp"
	"regexp/syntax"
	"strings"
)

// Bounds of a pattern and of all of a Builder, in instructions of the machine that looks for it:
// what is repeated counts as often. Each takes about 50 bytes, and may be run at each byte of a
// value.
const (
	maxRegex   = 20_000
	maxRegexes = 4 << 20
)

// regex compiles a pattern, once.
func (b *Builder) regex(pattern string) (*regexp.Regexp, error) {
	if re := b.regexes[pattern]; re != nil {
		return re, nil
	}
	re, size, err := compileRegex(pattern)
	if err != nil {
		return nil, err
	}
	if b.regexSize += size; b.regexSize > maxRegexes {
		return nil, errors.New("invalid regex pattern: all patterns together are too large")
	}
	b.regexes[pattern] = re
	return re, nil
}

// compileRegex compiles a pattern of the operator regex: RE2 with the syntax of POSIX, which must
// fit the whole text. There is no \d, \w, (?i) or (?:...); ^ and $ are the ends of lines, a dot
// is no line feed, and a negated class may be one. Bytes that are not UTF-8 count as U+FFFD. It also returns the size.
func compileRegex(pattern string) (re *regexp.Regexp, size int, err error) {
	tree, err := syntax.Parse(pattern, syntax.ClassNL)
	if err != nil {
		return nil, 0, regexError(err)
	}
	if size = regexSize(tree); size > maxRegex {
		return nil, 0, errors.New("invalid regex pattern: pattern too large - compile failed")
	}
	if re, err = regexp.Compile(`\A(?:` + tree.String() + `)\z`); err != nil {
		return nil, 0, regexError(err)
	}
	return re, size, nil
}

// regexSize is about how many instructions a pattern needs.
func regexSize(re *syntax.Regexp) int {
	n := 0
	for _, sub := range re.Sub {
		n += regexSize(sub)
	}
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpConcat:
		return n
	case syntax.OpRepeat:
		return n * max(1, re.Min, re.Max)
	}
	return n + 1
}

// regexErrors are RE2's words for what package syntax says.
var regexErrors = map[syntax.ErrorCode]string{
	syntax.ErrMissingBracket:        "missing ]",
	syntax.ErrMissingParen:          "missing )",
	syntax.ErrTrailingBackslash:     `trailing \`,
	syntax.ErrMissingRepeatArgument: "no argument for repetition operator",
	syntax.ErrInvalidRepeatSize:     "invalid repetition size",
	syntax.ErrInvalidRepeatOp:       "bad repetition operator",
	syntax.ErrInvalidPerlOp:         "invalid perl operator",
	syntax.ErrInvalidNamedCapture:   "invalid named capture group",
}

func regexError(err error) error {
	var e *syntax.Error
	if !errors.As(err, &e) {
		return errors.New("invalid regex pattern: " + err.Error())
	}
	text, ok := regexErrors[e.Code]
	if !ok {
		text = e.Code.String()
	}
	if e.Expr != "" {
		text += ": " + e.Expr
	}
	return errors.New("invalid regex pattern: " + text)
}

// regexHint tells what to write instead of what POSIX patterns have not.
func regexHint(pattern string) string {
	for _, h := range []struct{ has, hint string }{
		{"(?i)", "(?i) is not supported; use tolower() on the field, or iglob"},
		{"(?", "groups that begin with (? are not supported; write ( alone"},
		{`\d`, `\d is not supported; write [[:digit:]]`},
		{`\w`, `\w is not supported; write [[:alnum:]_]`},
		{`\s`, `\s is not supported; write [[:space:]]`},
		{`\b`, `\b is not supported`},
	} {
		if strings.Contains(pattern, h.has) {
			return h.hint
		}
	}
	return ""
}

// simplerRegex says whether a pattern has nothing special but anchors, and .* and the like at its
// ends, so that a simpler operator would do.
func simplerRegex(pattern string) bool {
	for i := 0; i < len(pattern); i++ {
		last := i == len(pattern)-1
		switch c := pattern[i]; {
		case i == 0 && c == '^', last && c == '$':
		case (i == 0 && !last || i == len(pattern)-2) && c == '.' && strings.IndexByte("+*?", pattern[i+1]) >= 0:
			i++
		case strings.IndexByte(`.+*?^$()[]{}|\`, c) >= 0:
			return false
		}
	}
	return true
}
