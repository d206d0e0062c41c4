package cli

import (
	"strings"
	"testing"
)

// What "rules check" says of a file of rules the check of a configuration with it says, too.
func TestConfigCheckRules(t *testing.T) {
	typo := strings.Replace(checkedRule, "audit.error", "audit.eror", 1)
	const plugins = "plugins:\n  sources:\n    - {name: k8s, library: /nowhere.so}\n"
	for name, test := range map[string]struct {
		files  map[string]string
		config string
		code   int
		stderr []string
	}{
		"good":       {files: map[string]string{"a.yaml": checkedMacro + checkedRule}, config: "rules: {builtin: [vault], files: [a.yaml]}\n"},
		"typo":       {files: map[string]string{"a.yaml": checkedMacro + typo}, config: "rules: {files: [a.yaml]}\n", code: exitError, stderr: []string{"a.yaml:5:27: error: ", "did you mean audit.error?", "(LOAD_ERR_COMPILE_CONDITION)", "the rules are not valid: 1 error"}},
		"two errors": {files: map[string]string{"a.yaml": checkedMacro + typo + strings.Replace(typo, "Written", "Other", 1)}, config: "rules: {files: [a.yaml]}\n", code: exitError, stderr: []string{"a.yaml:5:27: ", "a.yaml:11:27: ", ": 2 errors"}},
		"no YAML":    {files: map[string]string{"a.yaml": "- rule: ["}, config: "rules: {files: [a.yaml]}\n", code: exitError, stderr: []string{"a.yaml:1:", "(LOAD_ERR_YAML_PARSE)"}},
		"warning":    {files: map[string]string{"a.yaml": checkedMacro + checkedRule + "  tag: [x]\n"}, config: "rules: {files: [a.yaml]}\n", stderr: []string{"(LOAD_UNKNOWN_KEY)"}},
		"elsewhere":  {files: map[string]string{"a.yaml": typo}, config: "rules: {files: [nowhere.yaml, a.yaml]}\n", stderr: []string{"Note: rules.files[0]: there is no file or directory nowhere.yaml here", "are not checked"}},
		"plugin": {
			files: map[string]string{"a.yaml": checkedMacro + checkedRule + pluginRule}, config: "rules: {files: [a.yaml]}\n" + plugins,
			stderr: []string{"Note: not all is checked of 1 rule about events of plugins, which are not started for it: Of a plugin.", "tocsin rules check --hub-config tocsin.yaml FILES"},
		},
		"typo beside a plugin": {files: map[string]string{"a.yaml": checkedMacro + typo + pluginRule}, config: "rules: {files: [a.yaml]}\n" + plugins, code: exitError, stderr: []string{"a.yaml:5:27: error: "}},
		"no plugin":            {files: map[string]string{"a.yaml": pluginRule}, config: "rules: {files: [a.yaml]}\n", stderr: []string{"Unknown source k8s_audit, skipping"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.files["tocsin.yaml"] = test.config
			inDir(t, test.files)
			t.Setenv("TOCSIN_ROOT_TOKEN", "x")
			code, stdout, stderr := run(t, "config", "check", "tocsin.yaml")
			if code != test.code || (stdout == "tocsin.yaml is valid\n") != (code == exitOK) {
				t.Errorf("exit %d\n%s%s", code, stdout, stderr)
			}
			if len(test.stderr) == 0 && stderr != "" {
				t.Errorf("got %s", stderr)
			}
			for _, want := range test.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("%q is not in\n%s", want, stderr)
				}
			}
			if name == "typo" { // the other command, in the same words
				_, checked, _ := run(t, "rules", "check", "a.yaml")
				if !strings.HasPrefix(stderr, checked) {
					t.Errorf("got\n%s\nnot as\n%s", stderr, checked)
				}
			}
		})
	}
}
