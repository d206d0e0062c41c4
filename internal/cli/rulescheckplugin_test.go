//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package cli

import (
	"strings"
	"testing"
)

// A plugin is started for its fields, and is gone when the rules are checked.
func TestRulesCheckPlugin(t *testing.T) {
	plugin := kubernetesPlugin(t)
	inDir(t, map[string]string{
		"a.yaml":      pluginRule,
		"b.yaml":      strings.Replace(pluginRule, "ka.user.name", "ka.user.nam", 1),
		"tocsin.yaml": "plugins:\n  sources:\n  - library: " + plugin + "\n",
	})
	code, stdout, stderr := run(t, "rules", "check", "a.yaml", "--plugin", plugin)
	if code != exitOK || stdout != "1 rule in 1 file: ok\n" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run(t, "rules", "check", "b.yaml", "--hub-config", "tocsin.yaml")
	if code != exitError || !strings.Contains(stdout, "b.yaml:3:35: error: ") || !strings.Contains(stdout, "did you mean ka.user.name?") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = run(t, "rules", "check", "a.yaml", "--plugin", plugin, "--describe")
	if code != exitOK || !strings.Contains(stdout, `"k8saudit"`) || !strings.Contains(stdout, `"(ka.verb = create and ka.user.name exists)"`) {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
}
