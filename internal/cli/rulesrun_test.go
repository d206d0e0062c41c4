//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package cli

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// kubernetesPlugin compiles the plugin that is like Falco's for Kubernetes.
func kubernetesPlugin(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no C compiler")
	}
	path := filepath.Join(t.TempDir(), "libk8saudit.so")
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", path, "testdata/rules/k8saudit.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

func linesOf(t testing.TB, path string) (lines []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	return lines
}

// What Falco has printed about a stream and about a capture, we print.
func TestRulesRunLikeFalco(t *testing.T) {
	plugin := kubernetesPlugin(t)
	const (
		rules   = "testdata/rules/falco-real.yaml"
		input   = "../capture/testdata/falco-real.input.jsonl"
		scap    = "../capture/testdata/falco-real.scap"
		replay  = "testdata/rules/falco-real.replay.txt"
		summary = "Events detected: "
	)
	code, stdout, stderr := run(t, "rules", "run", rules, "--plugin", plugin, "--open", input, "--hostname", "vm", "--utc")
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	live := linesOf(t, "testdata/rules/falco-real.live.jsonl")
	got := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(got) != len(live) {
		t.Fatalf("%d lines, Falco has %d:\n%s%s", len(got), len(live), stdout, stderr)
	}
	for i := range live {
		var ours, falcos map[string]any
		if err := json.Unmarshal([]byte(got[i]), &ours); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(live[i]), &falcos); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(ours, falcos) || got[i] != live[i] {
			t.Errorf("line %d:\n%s\nFalco:\n%s", i+1, got[i], live[i])
		}
	}

	code, stdout, stderr = run(t, "rules", "run", rules, "--capture", scap, "--plugin", plugin, "-o", "text", "--utc")
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	content, err := os.ReadFile(replay)
	if err != nil {
		t.Fatal(err)
	}
	lines, counts, _ := strings.Cut(string(content), summary)
	if stdout != lines {
		t.Errorf("the capture:\n%s\nFalco:\n%s", stdout, lines)
	}
	if _, ours, _ := strings.Cut(stderr, summary); ours != counts {
		t.Errorf("the summary:\n%s\nFalco:\n%s", stderr, counts)
	}
}
