package condition

import (
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/internal/spelling"
)

// signsOfOthers are what people write who know another language, and what it is here.
var signsOfOthers = map[string]string{
	"&&": "and", "||": "or", "!": "not",
	"is": "=", "eq": "=", "equals": "=", "ne": "!=", "<>": "!=", "lt": "<", "gt": ">", "ge": ">=", "le": "<=",
	"matches": "regex", "match": "regex", "like": "glob", "=~": "regex", "~=": "regex", "~": "regex", "has": "contains",
	"starts": "startswith", "ends": "endswith", "exist": "exists", "prefix": "startswith", "suffix": "endswith",
	"starts_with": "startswith", "ends_with": "endswith", "not": "!=",
}

var transformersOfOthers = map[string]string{
	"lower": "tolower", "lowercase": "tolower", "upper": "toupper", "uppercase": "toupper", "base64": "b64", "base": "basename",
	"length": "len", "size": "len", "count": "len",
}

// next returns the word or sign that follows.
func (p *parser) next() string {
	rest := strings.TrimLeft(p.src[p.pos:], " \t\b\r\n")
	if end := identifierEnd(rest, 0); end > 0 {
		return rest[:end]
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("&|!=<>~", r) })
	if end < 0 {
		return rest
	}
	return rest[:end]
}

func didYouMean(word string) string { return fmt.Sprintf("did you mean %q?", word) }

// hintOperator is for a place where an operator must be.
func (p *parser) hintOperator() string {
	word := p.next()
	if word == "" {
		return ""
	}
	if word == "not" {
		return `"not" is written before the field: not FIELD in (...)`
	}
	for _, m := range []Modifier{OneOf, AnyOf, AllOf} {
		if word == string(m) {
			return fmt.Sprintf("%s is written behind an operator: = %s (...), startswith %s (...)", m, m, m)
		}
	}
	for _, op := range textWords {
		if word == op {
			return fmt.Sprintf("a blank must follow %s", op)
		}
	}
	if right, ok := signsOfOthers[strings.ToLower(word)]; ok {
		return didYouMean(right)
	}
	if near := spelling.Nearest(word, Operators()); near != "" {
		return didYouMean(near)
	}
	return ""
}

// hintAfter is for a place where "and" or "or" must be, or the end.
func (p *parser) hintAfter() string {
	word := p.next()
	switch low := strings.ToLower(word); {
	case word != low && (low == "and" || low == "or" || low == "not"):
		return fmt.Sprintf("keywords are in lower case: %s", low)
	case word == "&&" || word == "||":
		return didYouMean(signsOfOthers[word])
	case word == "and" || word == "or":
		return "put a blank before the parenthesis: or (...), and (...)"
	case strings.HasPrefix(strings.TrimLeft(p.src[p.pos:], " \t\b\r\n"), ")"):
		return "there is a parenthesis too much"
	case p.pos >= len(p.src):
		return "a parenthesis is not closed"
	case strings.HasPrefix(p.src[p.pos:], "("):
		return p.hintParenthesis()
	case strings.HasPrefix(p.last, "~"):
		return didYouMean(string(Regex))
	case word != "" && spelling.Nearest(word, []string{"and", "or"}) != "":
		return didYouMean(spelling.Nearest(word, []string{"and", "or"}))
	}
	return "a string with blanks, quotes, parentheses, commas or = in it is written in quotes"
}

// hintParenthesis is for a parenthesis behind what is no operator and no transformer.
func (p *parser) hintParenthesis() string {
	if p.last == "val" {
		return "val(...) is for the right side of an operator only"
	}
	right, ok := transformersOfOthers[strings.ToLower(p.last)]
	if !ok {
		right = spelling.Nearest(p.last, transformers)
	}
	if right != "" && right != p.last {
		return didYouMean(right + "(")
	}
	if right != "" {
		return fmt.Sprintf("the parenthesis follows %s without a blank", right)
	}
	return "a string with parentheses in it is written in quotes"
}

// hintTerm is for a place where a check must begin.
func (p *parser) hintTerm() string {
	switch word := p.next(); {
	case p.pos >= len(p.src):
		return "something must follow"
	case strings.HasPrefix(word, "!"):
		return didYouMean("not")
	case strings.HasPrefix(p.src[p.pos:], `"`) || strings.HasPrefix(p.src[p.pos:], "'"):
		return "a field is on the left side: FIELD = \"...\""
	}
	return ""
}

// hintNumber is for a place where a number must be.
func (p *parser) hintNumber() string {
	switch {
	case strings.HasPrefix(p.src[p.pos:], `"`) || strings.HasPrefix(p.src[p.pos:], "'"):
		return "a number is written without quotes"
	case strings.HasPrefix(p.src[p.pos:], ">"):
		return didYouMean("!=")
	}
	if end := p.identifierEnd(); end > p.pos && strings.HasPrefix(p.src[end:], ".") {
		return "a field on the right side is written as val(FIELD)"
	}
	return ""
}

// hintText is for a place where a string must be, behind an operator.
func (p *parser) hintText(op Op) string {
	switch {
	case p.pos >= len(p.src):
		return "a value must follow"
	case strings.HasPrefix(p.src[p.pos:], "(") && (op == Equal || op == NotEqual):
		return "for a list of values write in (...), or not FIELD in (...)"
	case strings.HasPrefix(p.src[p.pos:], "("):
		return fmt.Sprintf("a string with parentheses in it is written in quotes; for a list of values write %s anyof (...)", op)
	case strings.HasPrefix(p.src[p.pos:], `"`) || strings.HasPrefix(p.src[p.pos:], "'"):
		return `the string has no end; a backslash before its last quote is written as \x5c`
	}
	return ""
}

// hintItem is for a place in a list.
func (p *parser) hintItem() string {
	switch {
	case p.pos >= len(p.src):
		return "the list is not closed"
	case strings.HasPrefix(p.src[p.pos:], ","), strings.HasPrefix(p.src[p.pos:], ")"):
		return "there is a comma too much"
	case strings.HasPrefix(p.src[p.pos:], "("):
		return "lists are not in lists; a string with parentheses in it is written in quotes"
	case strings.HasPrefix(p.src[p.pos:], `"`) || strings.HasPrefix(p.src[p.pos:], "'"):
		return `the string has no end; a backslash before its last quote is written as \x5c`
	}
	return "there must be commas between the values"
}
