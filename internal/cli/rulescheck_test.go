package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tocsin-events/tocsin/internal/rule/load"
)

const (
	checkedMacro = "- macro: is_write\n  condition: audit.request.operation in (create, update)\n"
	checkedRule  = "- rule: Written\n  desc: d\n  condition: is_write and audit.error exists\n  output: \"%audit.request.path\"\n  priority: WARNING\n  source: tocsin\n"
	pluginRule   = "- rule: Of a plugin\n  desc: d\n  condition: ka.verb = create and ka.user.name exists\n  output: o\n  priority: NOTICE\n  source: k8s_audit\n"
	pluginFields = `[{"type":"string","name":"ka.verb","desc":"d"},{"type":"string","name":"ka.user.name","desc":"d"}]`
)

func TestRulesCheck(t *testing.T) {
	inspectedPlugin := `{"name":"k8saudit","version":"0.16.1","event_source":"k8s_audit","fields":[{"name":"ka.verb","type":"string","list":false,"usage":"ka.verb"},{"name":"ka.user.name","type":"string","list":false,"usage":"ka.user.name"}]}`
	for name, test := range map[string]struct {
		files          map[string]string
		args           string
		stdin          string
		code           int
		stdout, stderr []string
	}{
		"good":      {files: map[string]string{"a.yaml": checkedMacro + checkedRule}, args: "a.yaml", stdout: []string{"1 rule in 1 file: ok\n"}},
		"stdin":     {stdin: checkedMacro + checkedRule, args: "-", stdout: []string{"1 rule in 1 file: ok\n"}},
		"quiet":     {files: map[string]string{"a.yaml": checkedMacro}, args: "a.yaml -q"},
		"directory": {files: map[string]string{"a.yaml": checkedMacro, "b.yml": checkedRule, "b.test.yaml": "nonsense", "c.txt": "x"}, args: ".", stdout: []string{"1 rule in 2 files: ok\n"}},
		"in a wrong order": {
			files: map[string]string{"a.yaml": checkedRule, "b.yaml": checkedMacro}, args: ". --quiet", code: exitError,
			stdout: []string{"a.yaml:3:14: error: rule \"Written\": Undefined macro 'is_write' used in filter. (LOAD_ERR_VALIDATE)\n     3 |   condition: is_write and audit.error exists\n       |              ^^^^^^^^\n"},
			stderr: []string{"the rules are not valid: 1 error"},
		},
		"warning": {
			files: map[string]string{"a.yaml": checkedMacro}, args: "a.yaml",
			stdout: []string{"a.yaml:1:3: warning: macro \"is_write\": Macro not referred to by any other rule/macro (LOAD_UNUSED_MACRO)\n", "0 rules in 1 file: ok, with 1 warning\n"},
		},
		"strict": {files: map[string]string{"a.yaml": checkedMacro}, args: "a.yaml --strict", code: exitError, stdout: []string{"warning: "}, stderr: []string{"there are warnings, and --strict takes them for errors: 1 warning"}},
		"typo": {
			files: map[string]string{"a.yaml": checkedMacro + strings.Replace(checkedRule, "audit.error", "audit.eror", 1)}, args: "a.yaml", code: exitError,
			stdout: []string{"a.yaml:5:27: error: ", "^^^^^^^^^^ did you mean audit.error?\n"},
		},
		"no file":      {args: "nowhere.yaml", code: exitError, stderr: []string{"the file of rules nowhere.yaml does not exist"}},
		"no arguments": {code: exitUsage},
		"hostile": {
			stdin: "- rule: \"a\\e[31m\"\n  desc: d\n  condition: \"a\\e = b\"\n  output: o\n  priority: INFO\n  source: tocsin\n", args: "-", code: exitError,
			stdout: []string{"rule \"a\ufffd[31m\": "},
		},
		"without the plugin": {
			files: map[string]string{"a.yaml": pluginRule + strings.Replace(pluginRule, "Of", "Another of", 1)}, args: "a.yaml",
			stdout: []string{"a.yaml:1:3: warning: rule \"Of a plugin\": Unknown source k8s_audit, skipping; the same is true of 1 more rule (LOAD_UNKNOWN_SOURCE)\n", "0 rules in 1 file: ok, with 2 warnings\n"},
		},
		"fields of a list":       {files: map[string]string{"a.yaml": pluginRule, "f.json": pluginFields}, args: "a.yaml --fields k8s_audit=f.json", stdout: []string{"1 rule in 1 file: ok\n"}},
		"fields of no source":    {files: map[string]string{"a.yaml": pluginRule, "f.json": pluginFields}, args: "a.yaml --fields f.json", code: exitError, stderr: []string{"write SOURCE=f.json"}},
		"fields of nothing":      {files: map[string]string{"a.yaml": pluginRule, "f.json": "{}"}, args: "a.yaml --fields f.json", code: exitError, stderr: []string{"neither the JSON"}},
		"fields of no type":      {files: map[string]string{"a.yaml": pluginRule, "f.json": `[{"type":"int","name":"x"}]`}, args: "a.yaml --fields x=f.json", code: exitError, stderr: []string{`the field "x" has no known type: "int"`}},
		"fields as inspected":    {files: map[string]string{"a.yaml": "- required_plugin_versions: [{name: k8saudit, version: 0.10.0}]\n" + pluginRule, "f.json": inspectedPlugin}, args: "a.yaml --fields f.json", stdout: []string{"1 rule in 1 file: ok\n"}},
		"a plugin that is older": {files: map[string]string{"a.yaml": "- required_plugin_versions: [{name: k8saudit, version: 0.17.0}]\n" + pluginRule, "f.json": inspectedPlugin}, args: "a.yaml --fields f.json", code: exitError, stdout: []string{"k8saudit 0.17.0"}},
		"a plugin of a list":     {files: map[string]string{"a.yaml": "- required_plugin_versions: [{name: k8saudit, version: 0.17.0}]\n" + pluginRule, "f.json": pluginFields}, args: "a.yaml --fields k8s_audit=f.json", stdout: []string{"1 rule in 1 file: ok\n"}},
		"a hub without plugins":  {files: map[string]string{"a.yaml": checkedMacro + checkedRule, "tocsin.yaml": "log:\n  level: warn\n"}, args: "a.yaml --hub-config tocsin.yaml", stdout: []string{"1 rule in 1 file: ok\n"}},
		"no hub":                 {files: map[string]string{"a.yaml": checkedMacro + checkedRule}, args: "a.yaml --hub-config nowhere.yaml", code: exitError, stderr: []string{"nowhere.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			inDir(t, test.files)
			code, stdout, stderr := command(t, test.stdin, append([]string{"rules", "check"}, strings.Fields(test.args)...)...)
			if code != test.code || len(test.stdout) == 0 && stdout != "" {
				t.Errorf("exit %d\n%s%s", code, stdout, stderr)
			}
			for _, want := range test.stdout {
				if !strings.Contains(stdout, want) {
					t.Errorf("no %q in\n%s", want, stdout)
				}
			}
			for _, want := range test.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("no %q in\n%s", want, stderr)
				}
			}
		})
	}
}

func TestRulesCheckJSON(t *testing.T) {
	inDir(t, map[string]string{"a.yaml": checkedMacro + checkedRule + "- bogus: 1\n", "bad.yaml": "- rule: r\n"})
	code, stdout, stderr := run(t, "rules", "check", "a.yaml", "-o", "json", "--describe")
	if code != exitOK || stderr != "" {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	var result struct {
		Results []struct {
			Name       string
			Successful bool
			Warnings   []struct{ Code load.Code }
			Errors     []any
		} `json:"falco_load_results"`
		Described struct {
			Rules []struct {
				Details struct {
					Compiled string   `json:"condition_compiled"`
					Plugins  []string `json:"plugins"`
				}
			}
		} `json:"falco_describe_results"`
	}
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatal(err)
	}
	if r := result.Results; len(r) != 1 || !r[0].Successful || r[0].Name != "a.yaml" || len(r[0].Warnings) != 1 || r[0].Warnings[0].Code != load.WarnUnknownItem || r[0].Errors == nil {
		t.Errorf("%+v", r)
	}
	if r := result.Described.Rules; len(r) != 1 || r[0].Details.Compiled != "(audit.request.operation in (create, update) and audit.error exists)" || r[0].Details.Plugins == nil {
		t.Errorf("%+v", r)
	}
	// The description alone is a result, what is wrong is told beside it.
	code, stdout, stderr = run(t, "rules", "check", "a.yaml", "--describe")
	if code != exitOK || !json.Valid([]byte(stdout)) || !strings.Contains(stdout, `"required_engine_version": "0.0.0"`) || !strings.Contains(stderr, "LOAD_UNKNOWN_ITEM") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, _ = run(t, "rules", "check", "bad.yaml", "--describe", "-o", "json")
	if code != exitError || !strings.Contains(stdout, `"successful": false`) || strings.Contains(stdout, "falco_describe_results") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}

// The printer has colours for terminals only.
func TestDiagnosticColours(t *testing.T) {
	d := []*load.Diagnostic{{Code: load.ErrValidate, Message: "m", Hint: "h", At: load.Place{File: "f", Line: 3, Column: 4}, Line: "\tx: \x1by", Width: 2, Item: `rule "r"`}}
	var plain, coloured strings.Builder
	(&diagnosticPrinter{w: &plain}).print(d, nil)
	(&diagnosticPrinter{w: &coloured, colours: true}).print(d, nil)
	if want := "f:3:4: error: rule \"r\": m (LOAD_ERR_VALIDATE)\n     3 |  x: \ufffdy\n       |    ^^ h\n"; plain.String() != want {
		t.Errorf("%q\nwant %q", plain.String(), want)
	}
	stripped := coloured.String()
	for _, c := range []string{paintError, paintWarning, paintDim, paintBold, paintEnd} {
		stripped = strings.ReplaceAll(stripped, c, "")
	}
	if stripped != plain.String() || !strings.Contains(coloured.String(), paintError) {
		t.Errorf("%q", coloured.String())
	}
}

func TestRulesCheckHubConfig(t *testing.T) {
	inDir(t, map[string]string{"a.yaml": pluginRule, "tocsin.yaml": "plugins:\n  sources:\n  - library: /nowhere/libk8saudit.so\n    config: {a: 1}\n"})
	code, _, stderr := run(t, "rules", "check", "a.yaml", "--hub-config", "tocsin.yaml")
	if code != exitError || !strings.Contains(stderr, "/nowhere/libk8saudit.so") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// Each file of a directory is looked at, in order, whatever is wrong with those before it.
func TestRulesCheckManyFiles(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for _, name := range []string{"b.yaml", "a.yml", "c.yaml"} {
		names = append(names, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte("- rule: "+name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	code, stdout, _ := run(t, "rules", "check", dir)
	at := -1
	for _, name := range names {
		next := strings.Index(stdout, filepath.Join(dir, name)+":1:3: error: ")
		if code != exitError || next <= at {
			t.Errorf("exit %d, not in order:\n%s", code, stdout)
		}
		at = next
	}
}

// What is accepted here a hub accepts, so there are no more and no larger files than it takes. What
// is no file is left out, as a hub does.
func TestRulesCheckBounds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range load.MaxFiles {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d.yaml", i)), []byte("- list: l\n  items: []\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, "rules", "check", "-q", dir); code != 0 {
		t.Errorf("code %d: %s", code, stderr)
	}
	more := filepath.Join(dir, "more.yaml")
	if err := os.WriteFile(more, []byte("- list: l\n  items: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, "rules", "check", dir); code != 1 || !strings.Contains(stderr, "there are 1001 files of rules, more than the 1000 that a hub takes") {
		t.Errorf("code %d: %s", code, stderr)
	}
	if err := os.WriteFile(more, bytes.Repeat([]byte("#\n"), load.MaxFileBytes/2+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, "rules", "check", more); code != 1 || !strings.Contains(stderr, "has more than 8388608 bytes, which no file of rules may have") {
		t.Errorf("code %d: %s", code, stderr)
	}
}

// A field by which a window or throttle counts is found in the file.
func TestRulesCheckWindowFields(t *testing.T) {
	t.Parallel()
	const rule = "- rule: r\n  desc: d\n  condition: event.type = a\n  output: x\n  priority: INFO\n  source: tocsin\n"
	for window, at := range map[string]string{
		"  window: {count: 2, within: 1m, by: [event.path, event.nope]}\n":                                  ":7:51: ",
		"  window: {count: 2, within: 1m, by: event.nope}\n":                                                ":7:38: ",
		"  window:\n    count: 2\n    within: 1m\n    distinct: event.nope\n":                               ":10:15: ",
		"  window:\n    within: 1m\n    new:\n      - event.path\n      - event.nope\n    by: [event.id]\n": ":11:9: ",
		"  throttle: {every: 1m, by: [event.nope]}\n":                                                       ":7:30: ",
	} {
		file := save(t, "r.yaml", rule+window)
		code, stdout, stderr := run(t, "rules", "check", file)
		if code != 1 || !strings.HasPrefix(stdout, file+at) || !strings.Contains(stdout, "did you mean event.note?") {
			t.Errorf("%q: code %d: %s%s", window, code, stdout, stderr)
		}
	}
}
