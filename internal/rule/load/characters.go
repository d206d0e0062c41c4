package load

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// The YAML parser here refuses characters that the real engine reads as any others: bytes that are
// no UTF-8, and controls. Others end a line for it and not for the real engine. They are hidden from
// it behind characters of their own, one each, so that columns stay what they are.

// firstHidden begins a block of characters for private use that stand for hidden ones: first
// controls and bytes, then those of hiddenOthers.
const (
	firstHidden  = 0x10F000
	hiddenBytes  = 0x100
	otherRunes   = firstHidden + hiddenBytes
	lastHidden   = firstHidden + 2*hiddenBytes - 1
	endOfText    = 0x04 // ends the file for the real engine, so it is refused
	firstControl = 0x80 // of those with two bytes
	lastControl  = 0x9F
)

// hiddenOthers are the hidden characters with more than two bytes.
var hiddenOthers = []rune{0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF}

// hide returns the text for the YAML parser, and whether something is hidden in it.
func hide(content string) (string, bool) {
	hidden := false
	for i, r := range content {
		if r >= firstHidden && r <= lastHidden {
			return content, false // which is not what stands for another
		}
		hidden = hidden || mustHide(content[i:], r) != 0
	}
	// An escape may stand for one of them, too.
	if !hidden || strings.Contains(content, `\U0010`) {
		return content, false
	}
	var b strings.Builder
	b.Grow(len(content) + len(content)/8)
	for i, r := range content {
		if h := mustHide(content[i:], r); h != 0 {
			b.WriteRune(h)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String(), true
}

// mustHide returns what stands for the character r at the beginning of a text, 0 if it is not
// hidden.
func mustHide(text string, r rune) rune {
	switch {
	case r == '\t', r == '\n', r == '\r', r == endOfText:
		return 0
	case r < ' ', r == 0x7F:
		return firstHidden + r
	case r < firstControl:
		return 0
	case r <= lastControl:
		return otherRunes + r
	case r == utf8.RuneError:
		if _, size := utf8.DecodeRuneInString(text); size == 1 {
			return firstHidden + rune(text[0])
		}
		return 0
	}
	for i, other := range hiddenOthers {
		if r == other {
			return otherRunes + rune(i)
		}
	}
	return 0
}

// show puts what was hidden back into the values of a document. What was no UTF-8 is shown as the
// character for that.
func show(n *yaml.Node) {
	n.Value = strings.Map(func(r rune) rune {
		switch h := r - firstHidden; {
		case h < 0 || r > lastHidden:
			return r
		case h >= hiddenBytes+firstControl:
			return h - hiddenBytes
		case h >= hiddenBytes:
			if i := int(h - hiddenBytes); i < len(hiddenOthers) {
				return hiddenOthers[i]
			}
			return r
		case h >= firstControl:
			return utf8.RuneError
		default:
			return h
		}
	}, n.Value)
	for _, c := range n.Content {
		show(c)
	}
}

var (
	versionDirective = regexp.MustCompile(`^%YAML[ \t]+1\.\d+`)
	listEntry        = regexp.MustCompile(`^ *-[ \t]*\t[ \t]*`)
)

// repair returns a text without what the YAML parser here refuses and the real engine does not: a
// directive for a later version 1, and tabs behind the dash of an entry that is a scalar, or in
// lines without anything else, unless they may go on with a scalar.
func repair(text string) string {
	var b strings.Builder
	b.Grow(len(text))
	open := false // the line before may end with a scalar that is not in quotes
	for line := range strings.Lines(text) {
		rest := strings.Trim(line, " \t\r\n")
		switch entry := listEntry.FindString(line); {
		case versionDirective.MatchString(line):
			line = versionDirective.ReplaceAllString(line, "%YAML 1.1")
		case rest == "" || rest[0] == '#':
			if !open {
				comment := len(line)
				if i := strings.IndexByte(line, '#'); i >= 0 {
					comment = i
				}
				line = strings.ReplaceAll(line[:comment], "\t", " ") + line[comment:]
			}
			b.WriteString(line)
			continue
		case entry != "" && !strings.Contains(rest, ": ") && !strings.HasSuffix(rest, ":"):
			line = strings.ReplaceAll(entry, "\t", " ") + line[len(entry):]
		}
		open = rest == "" || !strings.ContainsRune(`]}"':-`, rune(rest[len(rest)-1]))
		b.WriteString(line)
	}
	return b.String()
}
