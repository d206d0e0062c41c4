package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/spelling"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	File         string // as given to Load or Parse
	Line, Column int    // from 1; Line 0: the whole file, Column 0: the whole line
	Key          string // dotted path such as "sources[1].path"; empty when it is about no key
	Message      string // what is wrong and what to write instead
}

// String returns the problem as "file:line:column: key: message", without the
// parts that are not known.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, ":%d", p.Column)
		}
	}
	for _, part := range []string{p.Key, p.Message} {
		if part != "" {
			if b.Len() > 0 {
				b.WriteString(": ")
			}
			b.WriteString(part)
		}
	}
	return b.String()
}

// Error is all problems of a configuration, in the order of the file.
type Error []Problem

// maxReported is how many problems an [Error] spells out; the text of a file
// that is no configuration at all stays readable.
const maxReported = 50

func (e Error) Error() string {
	lines := make([]string, 0, maxReported+1)
	for i, p := range e {
		if i == maxReported {
			lines = append(lines, fmt.Sprintf("and %d more problems", len(e)-i))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

func sorted(p []Problem) Error {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return p
}

// Nearest is [spelling.Nearest].
func Nearest(text string, candidates []string) string { return spelling.Nearest(text, candidates) }
