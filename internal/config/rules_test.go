package config

import (
	"strings"
	"testing"
)

func TestRulesProblems(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"set":            {"{builtin: [volt]}", `rules.builtin[0]: "volt" is not one of vault`},
		"set twice":      {"{builtin: [vault, vault]}", `rules.builtin[1]: "vault" is there already`},
		"no file":        {`{files: [""]}`, "rules.files[0]: is empty; name a file or a directory"},
		"file twice":     {"{files: [a.yaml, ./a.yaml]}", `rules.files[1]: "./a.yaml" is rules.files[0] already`},
		"priority":       {"{priority: warn}", `rules.priority: "warn" is not one of emergency,`},
		"matching":       {"{matching: any}", `rules.matching: "any" is not one of first, all`},
		"selects no one": {"{select: [{}]}", "rules.select[0]: must have either enable or disable"},
		"selects both":   {"{select: [{enable: {tag: a}, disable: {rule: b}}]}", "rules.select[0]: must have either enable or disable"},
		"rule and tag":   {"{select: [{disable: {tag: a, rule: b}}]}", "rules.select[0].disable: must have either rule or tag, not both"},
		"unknown key":    {"{select: [{disable: {rules: b}}]}", "rules"},
		"zone":           {"{time_zone: Berlin}", `rules.time_zone: "Berlin" is no time zone that this machine knows`},
		"reload":         {"{reload: 1ms}", "rules.reload: 1ms is too small; the least is 500ms, or 0 for never"},
		"patience":       {"{patience: 0}", "rules.patience: 0 is too small"},
		"no list":        {"{files: /etc/rules}", "rules.files: must be a list"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("tocsin.yaml", []byte("rules: "+test.text+"\n"))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	c, err := Parse("tocsin.yaml", []byte("rules: {files: [/etc/tocsin/rules.d], time_zone: UTC}\n"))
	if err != nil || !c.Rules.Enabled() || c.Rules.Location().String() != "UTC" {
		t.Errorf("got %+v, %v", c.Rules, err)
	}
	if d := Default().Rules; d.Enabled() {
		t.Error("there are rules by default")
	}
}
