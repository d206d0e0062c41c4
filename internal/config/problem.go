package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
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

// Nearest returns the candidate that a person who wrote text most likely meant,
// or "" when none is close.
func Nearest(text string, candidates []string) string {
	best, bestDistance := "", 1+max(1, len(text)/3)
	for _, c := range candidates {
		if d := distance(strings.ToLower(text), c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the optimal string alignment distance: insertions, deletions,
// replacements and swaps of neighbours that make a into b.
func distance(a, b string) int {
	const tooLong = 64 // keys are short; hostile ones must not cost quadratic time
	if len(a) > tooLong || len(b) > tooLong {
		return tooLong
	}
	var rows [3][tooLong + 1]int
	before, above, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := above[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
