package cli

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A new plugin is a module that compiles, is formatted, passes go vet and its own test, and runs.
func TestPluginNewWorks(t *testing.T) {
	if os.Getenv("TOCSIN_TESTS") != "all" {
		t.Skip("skipped, because it builds programs and takes a minute: TOCSIN_TESTS=all runs it, and .ci/run does")
	}
	checkout, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "it's new")
	code, out, stderr := run(t, "plugin", "new", "rain-gauge", "--module", "example.org/me/rain", "--dir", dir, "--local", checkout)
	if code != 0 || !strings.Contains(out, "\n  go test ./...\n") || !strings.Contains(out, `it'\''s new'`) {
		t.Fatalf("%d %s %s", code, out, stderr)
	}
	command := func(name string, args ...string) string {
		t.Helper()
		c := exec.Command(name, args...)
		c.Dir = dir
		c.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	command("go", "mod", "tidy")
	if unformatted := command("gofmt", "-l", "."); unformatted != "" {
		t.Errorf("not formatted: %s", unformatted)
	}
	command("go", "vet", "./...")
	command("go", "build", "-o", "rain-gauge", ".")
	if out := command("go", "test", "-v", "./..."); strings.Count(out, "--- PASS: TestPlugin/as_a_process/") < 15 || strings.Count(out, "--- PASS: TestPlugin/in_this_process/") < 15 {
		t.Errorf("the test says\n%s", out)
	}
	code, out, stderr = run(t, "plugin", "run", filepath.Join(dir, "rain-gauge"), "--config", `{"interval_ms":1}`, "--open", `{"last":2}`, "--field", "rain_gauge.even", "-o", "json")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || len(lines) != 2 || !strings.Contains(lines[1], `"rain_gauge.even":true`) {
		t.Errorf("%d %s %s", code, out, stderr)
	}
	code, out, _ = run(t, "plugin", "run", filepath.Join(dir, "rain-gauge"), "--open", `{}`)
	if code != 1 || out != "" {
		t.Errorf("%d %s", code, out)
	}
}

// Nothing is overwritten, and nothing is left of what could not be written.
func TestPluginNewKeeps(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "plugin.go")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, "plugin", "new", "x", "--dir", dir); code != 1 || !strings.Contains(stderr, "is not empty, and nothing is overwritten") || !strings.Contains(stderr, "--dir") {
		t.Errorf("%d %s", code, stderr)
	}
	if code, _, stderr := run(t, "plugin", "new", "x", "--dir", file); code != 1 || !strings.Contains(stderr, "make the directory") {
		t.Errorf("%d %s", code, stderr)
	}
	p, err := newPluginOf("x", "", "v1.2.3", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeNew(file, nil); err == nil {
		t.Error("a file is overwritten")
	}
	if text, err := os.ReadFile(file); string(text) != "mine" {
		t.Errorf("%q %v", text, err)
	}
	there, _ := os.ReadDir(dir)
	if len(there) != 1 {
		t.Errorf("%v", there)
	}

	empty := t.TempDir()
	names, err := p.write(empty)
	if want := []string{".gitignore", "README.md", "go.mod", "main.go", "plugin.go", "plugin_test.go"}; err != nil || !slices.Equal(slices.Sorted(slices.Values(names)), want) {
		t.Errorf("%v %v", names, err)
	}
	module, _ := os.ReadFile(filepath.Join(empty, "go.mod"))
	if want := "module example.com/x\n\ngo 1.26.0\n\nrequire github.com/tocsin-events/tocsin v1.2.3\n"; string(module) != want {
		t.Errorf("%s", module)
	}
	ours, _ := os.ReadFile("../../go.mod")
	if !strings.Contains(string(ours), "\ngo 1.26.0\n") {
		t.Error("new plugins need another version of Go than Tocsin: change newplugin/go.mod.tmpl")
	}
}

func TestPluginNewJSON(t *testing.T) {
	t.Chdir(t.TempDir())
	code, out, stderr := run(t, "plugin", "new", "x", "-o", "json")
	var answer struct {
		Name, Dir, Module string
		ID                uint32
		Files, Next       []string
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || code != 0 {
		t.Fatalf("%d %v %s %s", code, err, out, stderr)
	}
	if answer.Name != "x" || answer.Dir != "x" || answer.Module != "example.com/x" || answer.ID < 1<<30 || answer.ID >= 1<<31 || len(answer.Files) != 6 || answer.Next[0] != "cd x" {
		t.Errorf("%+v", answer)
	}
	for _, name := range answer.Files {
		if _, err := os.Stat(filepath.Join("x", name)); err != nil {
			t.Error(err)
		}
	}
}

func TestNewPluginOf(t *testing.T) {
	checkout, _ := filepath.Abs("../..")
	for _, tt := range []struct{ name, module, version, local, want string }{
		{"a", "", "v1.0.0", "", ""},
		{"web-hooks_2", "github.com/me/web-hooks/v2", "v0.0.0-20261127120000-0123456789ab", checkout, ""},
		{"", "", "", "", "cannot be the NAME"},
		{"A", "", "", "", "cannot be the NAME"},
		{"1a", "", "", "", "cannot be the NAME"},
		{"a-", "", "", "", "cannot be the NAME"},
		{"a/b", "", "", "", "cannot be the NAME"},
		{"..", "", "", "", "cannot be the NAME"},
		{"a\n", "", "", "", "cannot be the NAME"},
		{strings.Repeat("a", 41), "", "", "", "at most 40"},
		{"a", "/a", "", "", "no path of a Go module"},
		{"a", "a//b", "", "", "no path of a Go module"},
		{"a", "a/../b", "", "", "no path of a Go module"},
		{"a", "a b", "", "", "no path of a Go module"},
		{"a", "a\nreplace x => y", "", "", "no path of a Go module"},
		{"a", "", "", t.TempDir(), "is not the directory of a checkout"},
	} {
		p, err := newPluginOf(tt.name, tt.module, tt.version, tt.local)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q %q: %v, want %q", tt.name, tt.module, err, tt.want)
		}
		if err == nil && (p.ID < 1<<30 || p.ID >= 1<<31 || p.Local != tt.local) {
			t.Errorf("%+v", p)
		}
	}
	// What was not released cannot be required.
	for version, want := range map[string]string{"v1.2.3": "v1.2.3", "v1.2.3-rc.1": "v1.2.3-rc.1", "v0.0.0-devel": "", "v0.0.0-devel+0123": "", "v1.2.3+dirty": "", "(devel)": ""} {
		p, err := newPluginOf("a", "", version, "")
		if err != nil || p.Version != want || (want == "") != slices.Contains(p.next("a"), "go get github.com/tocsin-events/tocsin@latest") {
			t.Errorf("%s: %+v %v", version, p, err)
		}
	}
}
