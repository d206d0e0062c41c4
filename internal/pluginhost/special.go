package pluginhost

import (
	"strings"

	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// special are the paths of a plugin that need another right than others.
type special struct{ root, open patterns }

func newSpecial(p vaultplugin.Paths) *special {
	return &special{root: p.Root, open: p.Unauthenticated}
}

// patterns are paths within a mount. One that ends in "*" is a prefix, "+" as an element
// stands for one element that is not empty.
type patterns []string

func (p patterns) match(path string) bool {
	for _, pattern := range p {
		if matchPattern(pattern, path) {
			return true
		}
	}
	return false
}

func matchPattern(pattern, path string) bool {
	pattern, prefix := strings.CutSuffix(pattern, "*")
	for {
		want, moreWant, more := strings.Cut(pattern, "/")
		got, rest, moreGot := strings.Cut(path, "/")
		switch {
		case !more && prefix && want == "+":
			return got != "" // "a/+*" is no pattern that Vault knows
		case !more && prefix:
			return strings.HasPrefix(path, want)
		case want == "+" && got == "", want != "+" && want != got, more != moreGot:
			return false
		case !more:
			return true
		}
		pattern, path = moreWant, rest
	}
}
