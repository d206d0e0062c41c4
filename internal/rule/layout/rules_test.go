package layout

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/load"
)

// anything takes every condition and output for right.
type anything struct{}

func (anything) Source(string) bool { return true }
func (anything) Condition(string, condition.Expr) ([]*condition.Error, error) {
	return nil, nil
}
func (anything) Output(string, string) ([]string, error) { return nil, nil }

// describe returns what a file of rules comes to, with blanks in the texts of conditions as one.
func describe(t *testing.T, content []byte) (string, []*load.Rule) {
	t.Helper()
	files := []load.File{{Name: "rules.yaml", Content: content}}
	options := load.Options{Compiler: anything{}, AnyPlugins: true}
	text, report := load.Describe(files, options)
	if !report.OK() {
		j, _ := json.Marshal(report)
		t.Fatalf("%s", j)
	}
	rules, _ := load.Load(files, options)
	return regexp.MustCompile(`(?: |\\n)+`).ReplaceAllString(string(text), " "), rules
}

// TestSameRules: a file that was laid out has the same rules, lists and macros in it.
func TestSameRules(t *testing.T) {
	content, err := os.ReadFile("testdata/messy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// That macro cannot be read, which is what it is there for.
	content = []byte(strings.ReplaceAll(string(content), "ka.verb is   create", "ka.verb =   create"))
	formatted, err := Format(content)
	if err != nil || !Changed(content, formatted) {
		t.Fatal(err)
	}
	before, rulesBefore := describe(t, content)
	after, rulesAfter := describe(t, formatted)
	if normal(before) != normal(after) {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	same := func(a, b *load.Rule) bool {
		return a.Name == b.Name && a.Description == b.Description && a.Output == b.Output && a.Source == b.Source && a.Priority == b.Priority &&
			slices.Equal(a.Tags, b.Tags) && condition.Same(a.Condition, b.Condition)
	}
	if len(rulesBefore) < 2 || !slices.EqualFunc(rulesBefore, rulesAfter, same) {
		t.Errorf("%d rules, %d of them laid out", len(rulesBefore), len(rulesAfter))
	}
}

// normal drops the texts of conditions, which differ in their layout.
func normal(description string) string {
	return regexp.MustCompile(`"condition": ?"(?:[^"\\]|\\.)*"`).ReplaceAllString(description, "")
}
