package acceptance

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRulesTestPage types what docs/rules-test.md shows.
func TestRulesTestPage(t *testing.T) {
	t.Parallel()
	newPage(t).typed("../../docs/rules-test.md", 3)
}

// TestRulesVaultPage types what docs/rules-vault.md shows.
func TestRulesVaultPage(t *testing.T) {
	t.Parallel()
	p := newPage(t)
	content, err := os.ReadFile("testdata/audit.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "vault.log"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	p.typed("../../docs/rules-vault.md", 4)
}
