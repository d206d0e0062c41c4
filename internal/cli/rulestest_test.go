package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rulesFolder returns a directory with a file of rules and one of tests, of which the second fails.
func rulesFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"x.yaml": `
- rule: Order
  desc: An order
  condition: event.type = shop/order
  output: "order %event.path"
  priority: INFO
  source: tocsin
- rule: Return
  desc: Something comes back
  condition: event.type = shop/return
  output: "return %event.path"
  priority: INFO
  source: tocsin
`,
		"x.test.yaml": `
tests:
  - name: an order
    events: [{event: {type: shop/order, path: a}}]
    expect: [Order]
  - name: another
    events: [{event: {type: shop/order, path: b}}]
    expect: [{rule: Order, output: order c}]
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRulesTest(t *testing.T) {
	t.Parallel()
	dir := rulesFolder(t)
	code, stdout, stderr := run(t, "rules", "test", dir, "--coverage")
	if code != 1 || !strings.Contains(stderr, "1 of 2 tests failed") {
		t.Fatalf("code %d: %s", code, stderr)
	}
	for _, want := range []string{"x.test.yaml  1 of 2 tests failed", "FAIL  another (", `got  "order b"`, `want "order c"`, "1 test passed, 1 failed.", "1 of 2 rules are tested", "Return ("} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in\n%s", want, stdout)
		}
	}

	code, stdout, stderr = run(t, "rules", "test", filepath.Join(dir, "x.test.yaml"), "--run", "^an ", "-v")
	if code != 0 || !strings.Contains(stdout, "ok    an order\n") || !strings.Contains(stdout, "1 test passed, 0 failed.\n") || strings.Contains(stdout, "another") {
		t.Fatalf("code %d: %s%s", code, stdout, stderr)
	}

	code, stdout, _ = run(t, "rules", "test", dir, "-o", "json", "--coverage")
	var res struct {
		Files []struct {
			Tests []struct {
				Name     string
				Passed   bool
				Failures []struct{ Message string }
			}
		}
		Passed, Failed int
		Coverage       []struct {
			Rule   string
			Tested bool
		}
	}
	if err := json.Unmarshal([]byte(stdout), &res); err != nil {
		t.Fatal(err)
	}
	if code != 1 || res.Passed != 1 || res.Failed != 1 || len(res.Files[0].Tests[1].Failures) != 1 || len(res.Coverage) != 2 || !res.Coverage[0].Tested || res.Coverage[1].Tested {
		t.Fatalf("code %d: %+v", code, res)
	}

	for args, want := range map[string]string{
		"--run nothing":  "there is no test whose name matches",
		"--run (":        "--run: error parsing regexp",
		"-o xml":         "must be text or json",
		"--config {}":    "must be behind the --plugin",
		"/nonexistent/x": "FILES are files of tests",
	} {
		code, _, stderr := run(t, append([]string{"rules", "test", dir}, strings.Fields(args)...)...)
		if code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%s: code %d, %q, want %q", args, code, stderr, want)
		}
	}
}

// Who names what is no file of tests is told which is.
func TestRulesTestOfOthers(t *testing.T) {
	t.Parallel()
	dir := rulesFolder(t)
	if code, stdout, _ := run(t, "rules", "test", filepath.Join(dir, "x.yaml")); code != 1 || !strings.Contains(stdout, "these are rules, not tests; their tests stand in a file of their own, called x.test.yaml") {
		t.Errorf("code %d: %s", code, stdout)
	}
	missing := filepath.Join(dir, "y.test.yaml")
	if code, _, stderr := run(t, "rules", "test", missing); code != 1 || !strings.Contains(stderr, "the file of tests "+missing+" does not exist\n") {
		t.Errorf("code %d: %s", code, stderr)
	}
}
