package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// One file that cannot be read keeps no other from being laid out.
func TestRulesFmt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const want = "- rule: r\n  window:\n    then:\n      - a.b = c\n"
	for name, content := range map[string]string{
		"a.yaml": "a: b\n",
		"b.yaml": "- rule:   r\n  window:\n    then:\n    - a.b=c\n",
		"c.yaml": "- list: l\n  items: [\n",
		"d.yaml": "- macro: m\n  condition: a.b=c\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := run(t, "rules", "fmt", "--check", dir)
	if code != 1 || stdout != filepath.Join(dir, "b.yaml")+"\n"+filepath.Join(dir, "d.yaml")+"\n" || !strings.Contains(stderr, "2 of 4 files of rules are not in the canonical layout") {
		t.Errorf("check: code %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run(t, "rules", "fmt", dir)
	if code != 1 || stdout != filepath.Join(dir, "b.yaml")+"\n"+filepath.Join(dir, "d.yaml")+"\n" || !strings.Contains(stderr, "a.yaml: line 1: ") || !strings.Contains(stderr, "c.yaml: line 2: ") {
		t.Errorf("code %d\n%s%s", code, stdout, stderr)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "b.yaml")); err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
	if code, _, stderr = run(t, "rules", "fmt", "builtin:vault"); code != 2 || !strings.Contains(stderr, "builtin:vault comes with the program and is no file") {
		t.Errorf("code %d\n%s", code, stderr)
	}
}
