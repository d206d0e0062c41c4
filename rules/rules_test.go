package rules_test

import (
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/rule/ruletest"
	"github.com/tocsin-events/tocsin/rules"
)

// The files of tests beside the rules pass, and expect an alert of every rule.
func TestRules(t *testing.T) {
	t.Parallel()
	files, err := ruletest.Find([]string{"."})
	if err != nil {
		t.Fatal(err)
	}
	res, err := ruletest.Run(t.Context(), files, ruletest.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range res.Files {
		if f.Error != "" {
			t.Error(f.Error)
		}
		for _, test := range f.Tests {
			for _, x := range test.Failures {
				t.Errorf("%s:%d: %s: %s\n%s", f.File, x.Line, test.Name, x.Message, strings.Join(x.Details, "\n"))
			}
		}
	}
	for _, c := range res.Coverage {
		if !c.Tested {
			t.Errorf("%s:%d: no test expects an alert of %q", c.File, c.Line, c.Rule)
		}
	}
	if res.Passed < 20 || len(res.Coverage) < 10 {
		t.Errorf("%d tests of %d rules", res.Passed, len(res.Coverage))
	}
}

// What is built in loads without a warning, and says of every rule what it is about.
func TestContent(t *testing.T) {
	t.Parallel()
	names := rules.Names()
	if !slices.Contains(names, "builtin:vault") {
		t.Fatalf("names %q", names)
	}
	for _, name := range names {
		content, ok := rules.Content(name)
		if !ok {
			t.Fatalf("%s has no content", name)
		}
		set, report := rule.Compile([]load.File{{Name: name, Content: content}}, rule.Options{})
		if err := report.Err(); err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Files {
			for _, w := range f.Warnings {
				t.Errorf("%s: %v", name, w)
			}
			if !f.SchemaValid && len(f.SchemaWarnings) > 0 {
				t.Errorf("%s: %v", name, f.SchemaWarnings)
			}
		}
		for _, r := range set.Rules() {
			if r.Source != "tocsin" || len(r.Description) < 100 || !strings.HasPrefix(r.Name, "Vault ") || !r.Enabled {
				t.Errorf("rule %q: source %q, description %q", r.Name, r.Source, r.Description)
			}
			if (r.Window != nil) != slices.Contains(r.Tags, "windowed") {
				t.Errorf("rule %q has a window or the tag windowed, and not both", r.Name)
			}
		}
	}
	for _, name := range []string{"vault", "builtin:", "builtin:nothing", "builtin:../rules", ""} {
		if _, ok := rules.Content(name); ok {
			t.Errorf("there is content of %q", name)
		}
	}
}

// Falco ignores the keys window and throttle. Without them nothing is left that it would warn of, such
// as a macro that nobody uses.
func TestWithoutExtensions(t *testing.T) {
	t.Parallel()
	for _, name := range rules.Names() {
		content, _ := rules.Content(name)
		var items []map[string]any
		if err := yaml.Unmarshal(content, &items); err != nil {
			t.Fatal(err)
		}
		taken := 0
		for _, item := range items {
			for _, key := range []string{"window", "throttle"} {
				if item[key] != nil {
					delete(item, key)
					taken++
				}
			}
		}
		if taken == 0 {
			t.Errorf("%s has no extensions: the test tests nothing", name)
		}
		plain, err := yaml.Marshal(items)
		if err != nil {
			t.Fatal(err)
		}
		_, report := rule.Compile([]load.File{{Name: name, Content: plain}}, rule.Options{})
		if err := report.Err(); err != nil {
			t.Fatal(err)
		}
		if n := report.Warnings(); n > 0 {
			t.Errorf("%s: %d warnings, the first: %v", name, n, report.Files[0].Warnings)
		}
	}
}
