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
	t.Parallel()
	plugin := kubernetesPlugin(t)
	const (
		rules   = "testdata/rules/falco-real.yaml"
		input   = "../capture/testdata/falco-real.input.jsonl"
		scap    = "../capture/testdata/falco-real.scap"
		replay  = "testdata/rules/falco-real.replay.txt"
		summary = "Events detected: "
	)
	code, stdout, stderr := run(t, "rules", "run", rules, "--plugin", plugin, "--open", input, "--hostname", "vm", "--time-zone", "UTC")
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

	code, stdout, stderr = run(t, "rules", "run", rules, "--capture", scap, "--plugin", plugin, "-o", "text", "--time-zone", "UTC")
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

// Several plugins: streams beside each other, one that only extracts, one whose stream fails.
func TestRulesRunPlugins(t *testing.T) {
	t.Parallel()
	kubernetes, other := kubernetesPlugin(t), nativePlugin(t)
	second := nativePlugin(t, `-DPLUGIN_NAME="second"`, "-DPLUGIN_ID=1073742002u", `-DPLUGIN_SOURCE="second_source"`, `-DSTATIC_FIELDS="[{\"type\":\"uint64\",\"name\":\"s.len\",\"desc\":\"x\"}]"`, `-DEXTRACT_SOURCES="[\"second_source\",\"k8s_audit\"]"`)
	const input = "../capture/testdata/falco-real.input.jsonl"
	rules := save(t, "rules.yaml", `
- rule: Kubernetes
  desc: mixes fields of two plugins
  condition: ka.verb = create and s.len > 0
  output: "%ka.user.name %s.len"
  priority: NOTICE
  source: k8s_audit
- rule: Testbed
  desc: x
  condition: t.str exists and evt.num <= 3
  output: "%evt.num %evt.plugininfo %evt.pluginname %t.str"
  priority: ERROR
  source: test_source
`)
	args := []string{"rules", "run", rules, "-o", "text", "--plugin", kubernetes, "--open", input, "--plugin", other, "--config", "x", "--open", "count;count=5"}
	code, stdout, stderr := run(t, append(args, "--plugin", second, "--disable-source", "second_source")...)
	if n, m := strings.Count(stdout, ": Notice "), strings.Count(stdout, ": Error "); code != exitOK || n != 6 || m != 3 || !strings.Contains(stderr, "Events read: 15\n") {
		t.Errorf("exit %d, %d, %d\n%s%s", code, n, m, stdout, stderr)
	}
	for _, want := range []string{": Notice alice 8", ": Error 1 test_source #0: aaaaaaaaaaaaaaaa testbed aaaaaaaaaaaaaaaa\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing:\n%s", want, stdout)
		}
	}
	// The failure of a stream is told, and the other one goes on to its end.
	code, stdout, stderr = run(t, append(args, "--plugin", second, "--open", "fail")...)
	if n, m := strings.Count(stdout, ": Notice "), strings.Count(stdout, ": Error "); code != exitError || n != 6 || m != 3 || !strings.Contains(stderr, "Error: plugin second: plugin_next_batch: the stream broke") || !strings.Contains(stderr, "Events read: 15\n") {
		t.Errorf("exit %d, %d, %d\n%s%s", code, n, m, stdout, stderr)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--plugin", other, "--enable-source", "tset_source"}, exitUsage, `no plugin has the event source "tset_source"; did you mean "test_source"?`},
		{[]string{"--plugin", other, "--disable-source", "test_source"}, exitUsage, "there is no stream of events to read"},
		{[]string{"--plugin", other, "--open", "open-fail"}, exitError, "no such stream"},
		{[]string{"--plugin", other, "--config", "init-fail"}, exitError, "told to fail"},
		{[]string{"--plugin", other, "--plugin", other}, exitError, "there are two plugins of the name testbed"},
		{[]string{"--plugin", "nowhere.so"}, exitError, "nowhere.so"},
		{[]string{"--plugin", other, "--open", "@-", "--plugin", second, "--open", "@-"}, exitUsage, "only one of --config and --open can be standard input"},
		{[]string{"--plugin", other, "--open", "crash"}, exitError, "the process of the plugin has ended"},
	} {
		plain := save(t, "plain.yaml", "- rule: X\n  desc: x\n  condition: evt.num > 0\n  output: x\n  priority: INFO\n  source: test_source\n")
		code, _, stderr := run(t, append([]string{"rules", "run", plain}, tc.args...)...)
		if code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("%v: exit %d: %s", tc.args, code, stderr)
		}
	}
}

// Tests of rules about events of a plugin, of a capture and inline.
func TestRulesTestPlugin(t *testing.T) {
	t.Parallel()
	plugin := kubernetesPlugin(t)
	rules, err := filepath.Abs("testdata/rules/falco-real.yaml")
	if err != nil {
		t.Fatal(err)
	}
	scap, err := filepath.Abs("../capture/testdata/falco-real.scap")
	if err != nil {
		t.Fatal(err)
	}
	tests := save(t, "k8s.test.yaml", `
rules: `+rules+`
tests:
  - name: the capture
    events: [{capture: `+scap+`}]
    expect: [{rule: Record everything, count: 10, fields: {evt.source: k8s_audit}}]
    others: allowed
  - name: one event
    events:
      - event: {type: falco/k8s_audit, data: {auditID: a, verb: create, user: {username: eve}}}
      - event: {type: shop/order}
    expect: [{rule: Record everything, contains: [verb=create, user=eve]}]
`)
	if code, stdout, stderr := run(t, "rules", "test", tests, "--plugin", plugin); code != exitOK {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	if code, stdout, _ := run(t, "rules", "test", tests); code != exitError || !strings.Contains(stdout, "FAIL") {
		t.Fatalf("exit %d without the plugin: %s", code, stdout)
	}
}
