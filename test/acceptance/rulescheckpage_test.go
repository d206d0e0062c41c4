package acceptance

import "testing"

// TestRulesCheckPage types what docs/rules-check.md shows.
func TestRulesCheckPage(t *testing.T) {
	t.Parallel()
	newPage(t).typed("../../docs/rules-check.md", 12)
}
