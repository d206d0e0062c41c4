package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// kubernetesPlugin compiles the plugin that has the name and some fields of Falco's k8saudit.
func kubernetesPlugin(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("SKIPPED: there is no C compiler for the plugin")
	}
	path := filepath.Join(t.TempDir(), "libk8saudit.so")
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-o", path, "../../internal/cli/testdata/rules/k8saudit.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// tocsin runs the program in a directory.
func tocsin(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), filepath.Join(programDir, "tocsin"), args...)
	var out, errs bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = dir, &out, &errs
	c.Env = append(os.Environ(), "TZ=UTC")
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}

// loadResult is what Falco's option -V prints about files.
type loadResult struct {
	Files []struct {
		Name       string
		Successful bool
		Errors     []any
		Warnings   []any
	} `json:"falco_load_results"`
}

// The files whose load results were recorded with Falco, each in a directory, have these results.
func TestFalcoLoadResults(t *testing.T) {
	t.Parallel()
	plugin := kubernetesPlugin(t)
	const recorded = "../../internal/rule/load/testdata/"
	for _, name := range []string{"good", "bad"} {
		dir := t.TempDir()
		content, err := os.ReadFile(recorded + name + ".rules.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, stdout, stderr := tocsin(t, dir, "rules", "check", ".", "-o", "json", "--plugin", plugin)
		var ours, falcos loadResult
		falco, err := os.ReadFile(recorded + name + ".validate.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(stdout), &ours); err != nil {
			t.Fatalf("%v: %s%s", err, stdout, stderr)
		}
		if err := json.Unmarshal(falco, &falcos); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(ours, falcos) {
			t.Errorf("%s:\n%+v\nFalco:\n%+v", name, ours, falcos)
		}
	}
}

// A directory of rules for Falco loads as it is, what is in its later files changes the earlier
// ones, and the rules raise their alerts.
func TestFalcoRulesDirectory(t *testing.T) {
	t.Parallel()
	plugin := kubernetesPlugin(t)
	input, err := filepath.Abs("../../internal/capture/testdata/falco-real.input.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	const dir = "testdata/falco-rules"
	code, stdout, stderr := tocsin(t, dir, "rules", "check", ".", "-o", "json", "--plugin", plugin)
	var result loadResult
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	var names, codes []string
	for _, f := range result.Files {
		names = append(names, f.Name)
		if !f.Successful || len(f.Errors) > 0 {
			t.Errorf("%s: %v", f.Name, f.Errors)
		}
		for _, w := range f.Warnings {
			codes = append(codes, fmt.Sprint(w.(map[string]any)["code"]))
		}
	}
	slices.Sort(codes)
	codes = slices.Compact(codes)
	if code != 0 || fmt.Sprint(names) != "[10_vendor.yaml 20_site.yaml 30_old-style.yml]" || fmt.Sprint(codes) != "[LOAD_DEPRECATED_ITEM LOAD_UNUSED_LIST LOAD_UNUSED_MACRO]" {
		t.Errorf("exit %d, files %v, warnings %v", code, names, codes)
	}

	// What the rules are in the end.
	_, stdout, stderr = tocsin(t, dir, "rules", "check", ".", "--describe", "--plugin", plugin)
	var described struct {
		Rules []struct {
			Info    struct{ Name, Condition string }
			Details struct {
				Compiled string `json:"condition_compiled"`
			}
		}
	}
	if err := json.Unmarshal([]byte(stdout), &described); err != nil {
		t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	compiled := make(map[string]string)
	for _, r := range described.Rules {
		compiled[r.Info.Name] = r.Details.Compiled
	}
	const write = "((ka.verb in (get, list, watch, create, update, patch, delete) and ka.verb in (create, update, patch))"
	for name, want := range map[string]string{
		"Anonymous request": `(ka.user.name = system:anonymous and ka.response.code = 403)`,
		"Exec into a pod":   write + ` and ka.target.subresource = exec)`,
		"Write of somebody": "(" + write + ` and not ka.user.name in (system:apiserver, carol, mallory))` +
			` and not ka.user.name in (dave, "nobody else")` +
			` and not (ka.user.name = frank and ka.uri startswith /api/v1/namespaces/default/)` +
			` and not ka.req.pod.containers.image intersects (reg.example/b:2)` +
			` and not (ka.verb in (create, patch) and ka.uri glob */exec?*))`,
	} {
		if got := compiled[name]; got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}

	// The alerts.
	want := []string{
		`10:00:01.001000000: Notice Write (user=alice verb=create uri=/api/v1/namespaces/default/pods images=(reg.example/a:1))`,
		`10:00:04.004000000: Error Anonymous request (verb=get uri=/api/v1/secrets code=403) (site: ours)`,
		`10:00:06.006000000: Notice Exec (user=alice uri=/api/v1/namespaces/default/pods/p/exec?command=sh&container=a&stdin=true)`,
		`10:00:08.008000000: Debug List (user=eve)`,
	}
	code, stdout, stderr = tocsin(t, dir, "rules", "run", ".", "-o", "text", "--plugin", plugin, "--open", input)
	if got := strings.Split(strings.TrimSpace(stdout), "\n"); code != 0 || !slices.Equal(got, want) {
		t.Errorf("exit %d:\n%s\nwant\n%s\n%s", code, stdout, strings.Join(want, "\n"), stderr)
	}
	// And with what the configuration of Falco can say of rules.
	code, stdout, stderr = tocsin(t, dir, "rules", "run", ".", "-o", "text", "--plugin", plugin, "--open", input, "--priority", "notice", "--disable", "*", "--enable-tag", "k8s", "--enable", "Deletion", "--disable", "Exec*")
	if got := strings.Split(strings.TrimSpace(stdout), "\n"); code != 0 || !slices.Equal(got, want[:2]) {
		t.Errorf("exit %d:\n%s%s", code, stdout, stderr)
	}
}
