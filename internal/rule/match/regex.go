package match

import (
	"errors"
	"regexp"
	"regexp/syntax"
	"strings"
)

// compileRegex compiles a pattern of the operator regex: RE2 with the syntax of POSIX, which must
// fit the whole text. There is no \d, \w, (?i) or (?:...); ^ and $ are the ends of lines, a dot
// is no line feed, and a negated class may be one. Bytes that are not UTF-8 count as U+FFFD.
func compileRegex(pattern string) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(pattern, syntax.ClassNL)
	if err != nil {
		return nil, regexError(err)
	}
	re, err := regexp.Compile(`\A(?:` + tree.String() + `)\z`)
	if err != nil {
		return nil, regexError(err)
	}
	return re, nil
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
