package load

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// mark is a place as the real engine counts it: from 0, columns in bytes.
type mark struct{ line, column, offset int }

// source is a file that is being read.
type source struct {
	name    string
	content string
	// text is the content as the YAML parser reads it; hidden says that it is not the content.
	text   string
	hidden bool
	// breaks has where the lines begin as YAML counts them, newlines as everybody else does.
	breaks, newlines []int
	budget           int // how many nodes may still be looked at; aliases count each time
}

func newSource(f File) *source {
	s := &source{name: f.Name, content: strings.TrimPrefix(string(f.Content), "\uFEFF"), budget: maxNodes}
	s.text, s.hidden = hide(s.content)
	s.breaks, s.newlines = []int{0}, []int{0}
	for i := 0; i < len(s.content); i++ {
		switch c := s.content[i]; {
		case c == '\n':
			s.breaks = append(s.breaks, i+1)
			s.newlines = append(s.newlines, i+1)
		case c == '\r' && !strings.HasPrefix(s.content[i+1:], "\n"):
			s.breaks = append(s.breaks, i+1)
		case s.hidden:
		case c == 0xC2 && strings.HasPrefix(s.content[i:], "\u0085"):
			s.breaks = append(s.breaks, i+2)
		case c == 0xE2 && (strings.HasPrefix(s.content[i:], "\u2028") || strings.HasPrefix(s.content[i:], "\u2029")):
			s.breaks = append(s.breaks, i+3)
		}
	}
	return s
}

// markAt returns the mark of an offset.
func (s *source) markAt(offset int) mark {
	line := sort.SearchInts(s.newlines, offset+1) - 1
	return mark{line: line, column: offset - s.newlines[line], offset: offset}
}

// place returns an offset as people count.
func (s *source) place(offset int) Place {
	offset = min(max(offset, 0), len(s.content))
	line := sort.SearchInts(s.newlines, offset+1) - 1
	return Place{
		File: s.name, Line: line + 1, Offset: offset,
		Column: utf8.RuneCountInString(s.content[s.newlines[line]:offset]) + 1,
	}
}

// offset returns where a node begins.
func (s *source) offset(n *yaml.Node) int {
	if n.Line < 1 || n.Line > len(s.breaks) {
		return len(s.content)
	}
	at := s.breaks[n.Line-1]
	for c := 1; c < n.Column && at < len(s.content); c++ {
		_, size := utf8.DecodeRuneInString(s.content[at:])
		at += size
	}
	return at
}

// mark returns where the real engine says that a node is. One without a value is where the next
// thing begins.
func (s *source) mark(n *yaml.Node) mark {
	at := s.offset(n)
	if isNull(n) && n.Value == "" {
		for at < len(s.content) {
			switch c := s.content[at]; {
			case c == '#':
				if end := strings.IndexByte(s.content[at:], '\n'); end >= 0 {
					at += end
					continue
				}
				at = len(s.content)
			case c == ' ', c == '\t', c == '\n', c == '\r', c == ':':
				at++
				continue
			}
			break
		}
	}
	return s.markAt(at)
}

var lineOfError = regexp.MustCompile(`^line (\d+): `)

var anchorOfError = regexp.MustCompile(`^unknown anchor '(.*)' referenced`)

// yamlError says where a file is not YAML.
type yamlError struct {
	at   int
	text string
}

func (e *yamlError) Error() string { return e.text }

// parse returns the documents of the file. The error is a yamlError if it has a place.
func (s *source) parse() (docs []*yaml.Node, err error) {
	if len(s.content) > MaxFileBytes {
		return nil, fmt.Errorf("the file has more than %d bytes", MaxFileBytes)
	}
	if docs, err = s.decode(s.text); err != nil {
		if text := repair(s.text); text != s.text {
			if again, err := s.decode(text); err == nil {
				return again, nil
			}
		}
	}
	return docs, err
}

func (s *source) decode(text string) (docs []*yaml.Node, err error) {
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var n yaml.Node
		switch err := d.Decode(&n); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return nil, s.yamlError(err)
		}
		if s.hidden {
			show(&n)
		}
		if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
			docs = append(docs, n.Content[0])
		}
	}
}

// yamlError finds the place of an error of the YAML parser.
func (s *source) yamlError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at := -1
	if m := lineOfError.FindStringSubmatch(text); m != nil {
		text = text[len(m[0]):]
		if line, err := strconv.Atoi(m[1]); err == nil && line >= 1 && line <= len(s.breaks) {
			at = s.breaks[line-1]
		}
	}
	if m := anchorOfError.FindStringSubmatch(text); m != nil {
		at = strings.Index(s.content, "*"+m[1])
	}
	if at < 0 {
		return errors.New(text)
	}
	return &yamlError{at: at, text: text}
}

// resolve returns what an alias stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < 16; i++ {
		n = n.Alias
	}
	return n
}

// value returns the value of a key, nil if there is none. The first of equal keys counts, as in the
// real engine.
func value(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := resolve(n.Content[i]); k != nil && k.Kind == yaml.ScalarNode && k.Value == key {
			return resolve(n.Content[i+1])
		}
	}
	return nil
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 && n.ShortTag() == "!!null"
}

func isScalar(n *yaml.Node) bool   { return n.Kind == yaml.ScalarNode && !isNull(n) }
func isSequence(n *yaml.Node) bool { return n.Kind == yaml.SequenceNode }
func isMapping(n *yaml.Node) bool  { return n.Kind == yaml.MappingNode }

// parseBool reads a bool with all spellings of YAML 1.1, as the real engine does.
func parseBool(text string) (value, ok bool) {
	lower := strings.ToLower(text)
	if text != lower && text != strings.ToUpper(text) && text != strings.ToUpper(text[:1])+lower[1:] {
		return false, false
	}
	switch lower {
	case "y", "yes", "true", "on":
		return true, true
	case "n", "no", "false", "off":
		return false, true
	}
	return false, false
}

// parseUint reads a number with the prefixes 0x and 0.
func parseUint(text string) (uint32, bool) {
	text = strings.TrimSpace(text)
	if strings.ContainsAny(text, "_-oObB") {
		return 0, false
	}
	v, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 0, 32)
	return uint32(v), err == nil
}

// units are the parts of the text of a scalar in the file, in order.
type unit struct {
	text  string // what it stands for
	at    int
	blank bool // white space that may be folded
}

// offsets returns, for each byte of the value of a scalar, where it is in the file; nil if that
// is not known. It is as exact as can be: folded white space is where it begins.
func (s *source) offsets(n *yaml.Node) []int {
	units := s.units(n)
	if units == nil {
		return nil
	}
	v := n.Value
	result := make([]int, 0, len(v)+1)
	i := 0
	for i < len(v) {
		if len(units) == 0 {
			return nil
		}
		if u := units[0]; !u.blank {
			if !strings.HasPrefix(v[i:], u.text) {
				return nil
			}
			for range len(u.text) {
				result = append(result, u.at)
			}
			i += len(u.text)
			units = units[1:]
			continue
		}
		raw := 0
		for raw < len(units) && units[raw].blank {
			raw++
		}
		escaped := 0
		for j := raw; j < len(units) && isBlank(units[j].text); j++ {
			escaped += len(units[j].text)
		}
		blanks := 0
		for i+blanks < len(v) && isBlank(v[i+blanks:i+blanks+1]) {
			blanks++
		}
		blanks = max(0, blanks-escaped)
		for j := range blanks {
			// Aligned at the end where a line has kept its indentation, else at the start.
			result = append(result, units[min(j, raw-1)].at)
		}
		i += blanks
		units = units[raw:]
	}
	end := len(s.content)
	if len(units) > 0 {
		end = units[0].at
	} else if len(result) > 0 {
		end = result[len(result)-1] + 1
	}
	return append(result, end)
}

func isBlank(text string) bool { return text == " " || text == "\t" || text == "\n" || text == "\r" }

// units reads the scalar of a node again, up to its end in the file.
func (s *source) units(n *yaml.Node) []unit {
	at := s.offset(n)
	// Properties stand in front of the value.
	for at < len(s.content) && (s.content[at] == '&' || s.content[at] == '!') && n.Style&yaml.FlowStyle == 0 {
		end := strings.IndexAny(s.content[at:], " \t\r\n")
		if end < 0 {
			return nil
		}
		at += end
		at += len(s.content[at:]) - len(strings.TrimLeft(s.content[at:], " \t\r\n"))
	}
	var result []unit
	add := func(text string, size int, blank bool) {
		result = append(result, unit{text, at, blank})
		at += size
	}
	style := n.Style &^ yaml.TaggedStyle
	switch style {
	case yaml.DoubleQuotedStyle:
		at++
		for at < len(s.content) && s.content[at] != '"' {
			switch c := s.content[at]; {
			case c == '\\' && at+1 < len(s.content):
				text, size := unescape(s.content[at:])
				if size == 0 {
					return nil
				}
				if text == "" { // an escaped end of a line, with the indentation of the next
					at += size
					at += len(s.content[at:]) - len(strings.TrimLeft(s.content[at:], " \t"))
					continue
				}
				add(text, size, false)
			default:
				add(s.content[at:at+1], 1, isBlank(s.content[at:at+1]))
			}
		}
		return result
	case yaml.SingleQuotedStyle:
		at++
		for at < len(s.content) {
			switch {
			case strings.HasPrefix(s.content[at:], "''"):
				add("'", 2, false)
			case s.content[at] == '\'':
				return result
			default:
				add(s.content[at:at+1], 1, isBlank(s.content[at:at+1]))
			}
		}
		return result
	case yaml.LiteralStyle, yaml.FoldedStyle:
		return s.block(n, at)
	}
	// A plain one goes on as long as there are characters that the value needs.
	needed := len(n.Value) - strings.Count(n.Value, " ") - strings.Count(n.Value, "\n") - strings.Count(n.Value, "\t")
	for at < len(s.content) && needed > 0 {
		blank := isBlank(s.content[at : at+1])
		if !blank {
			needed--
		}
		add(s.content[at:at+1], 1, blank)
	}
	return result
}

// block reads a literal or folded scalar, whose lines keep what is behind their indentation.
func (s *source) block(n *yaml.Node, at int) []unit {
	end := strings.IndexByte(s.content[at:], '\n')
	if end < 0 {
		return nil
	}
	at += end + 1
	// The indentation is that of the first line that is not empty.
	indent := -1
	for rest := s.content[at:]; indent < 0; {
		line, after, more := strings.Cut(rest, "\n")
		if trimmed := strings.TrimLeft(line, " "); strings.TrimRight(trimmed, "\r") != "" {
			indent = len(line) - len(trimmed)
		} else if !more {
			return nil
		}
		rest = after
	}
	if kept := len(n.Value) - len(strings.TrimLeft(n.Value, " \n")); kept > 0 {
		first := strings.TrimLeft(n.Value, "\n")
		indent = max(0, indent-(len(first)-len(strings.TrimLeft(first, " "))))
	}
	needed := len(n.Value) - strings.Count(n.Value, " ") - strings.Count(n.Value, "\n") - strings.Count(n.Value, "\t")
	var result []unit
	for at < len(s.content) && needed > 0 {
		for i := 0; i < indent && at < len(s.content) && s.content[at] == ' '; i++ {
			at++
		}
		for at < len(s.content) {
			c := s.content[at : at+1]
			if c != "\r" {
				result = append(result, unit{c, at, isBlank(c)})
			}
			at++
			if !isBlank(c) {
				needed--
			}
			if c == "\n" {
				break
			}
		}
	}
	return result
}

// unescape reads an escape of a double-quoted scalar: what it stands for, and its length.
func unescape(text string) (string, int) {
	digits := 0
	switch text[1] {
	case '\n':
		return "", 2
	case '\r':
		if strings.HasPrefix(text, "\\\r\n") {
			return "", 3
		}
		return "", 2
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		i := strings.IndexByte("0abtnvfre \"/\\N_LP\t'", text[1])
		if i < 0 {
			return "", 0
		}
		return [...]string{"\x00", "\a", "\b", "\t", "\n", "\v", "\f", "\r", "\x1b", " ", "\"", "/", "\\", "\u0085", "\u00a0", "\u2028", "\u2029", "\t", "'"}[i], 2
	}
	if len(text) < 2+digits {
		return "", 0
	}
	code, err := strconv.ParseUint(text[2:2+digits], 16, 32)
	if err != nil {
		return "", 0
	}
	return string(rune(code)), 2 + digits
}

// lineAt returns the line that has an offset, and where it begins.
func (s *source) lineAt(offset int) (string, int) {
	offset = min(max(offset, 0), len(s.content))
	start := s.newlines[sort.SearchInts(s.newlines, offset+1)-1]
	line, _, _ := strings.Cut(s.content[start:], "\n")
	return strings.TrimRight(line, "\r"), start
}
