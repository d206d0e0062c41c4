package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

var (
	yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	// ours are the blocks that begin with a section of the configuration; others are for
	// Prometheus and Grafana, or parts of a section.
	ours = regexp.MustCompile(`(?m)\A(#.*\n)*(` + strings.Join(fieldKeys(reflect.TypeFor[Config]()), "|") + `):`)
)

// others are the configuration of Falco, and files of tests of rules.
var others = regexp.MustCompile(`(?m)\A# falco\.yaml$|^tests:$`)

// TestRecipes: every configuration that the documentation shows is a valid one.
func TestRecipes(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]int)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			if !ours.MatchString(b[1]) || others.MatchString(b[1]) {
				continue
			}
			found[filepath.Base(page)]++
			if _, err := Parse(page, []byte(b[1])); err != nil {
				t.Errorf("%v in\n%s", err, b[1])
			}
		}
	}
	for page, want := range map[string]int{"traces.md": 5, "sources.md": 2, "source-file.md": 1, "source-socket.md": 2, "source-syslog.md": 2, "source-http.md": 1, "enrichment.md": 1, "rules.md": 2} {
		if found[page] < want {
			t.Errorf("%s has %d configurations, not %d", page, found[page], want)
		}
	}
}
