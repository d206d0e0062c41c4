// Package spelling guesses what people meant who have mistyped a name.
package spelling

import "strings"

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
