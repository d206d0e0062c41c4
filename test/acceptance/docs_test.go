package acceptance

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
)

var update = flag.Bool("update", false, "rewrite the copies of policies in the documentation")

// TestAuditorSeesTheWholeTrail: what was done to the hub is seen on whatever path it was
// done, also by a token that has the policy "default" as usual, whose rules are more
// specific.
func TestAuditorSeesTheWholeTrail(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/policies/auditor.hcl")
	if err != nil {
		t.Fatal(err)
	}
	auditor, _, err := policy.Parse("auditor", string(text))
	if err != nil {
		t.Fatal(err)
	}
	usual, _, err := policy.Parse("default", access.DefaultPolicy)
	if err != nil {
		t.Fatal(err)
	}
	acl := policy.Compile([]policy.Bound{{Policy: auditor}, {Policy: usual}}, nil)
	paths := []string{
		"auth/token/create", "auth/token/revoke-accessor", "auth/kubernetes/login", "auth/upstream",
		"sys/policies/acl/team", "sys/events/subscribe/kv*", "sys/failed-authentications", "sys/trail", "sys/audit/vault",
		"sys/mounts/secret", "sys/auth/users", "sys/plugins/catalog/secret/kv", "sys/plugins/reload/backend",
	}
	for _, rule := range usual.Rules {
		paths = append(paths, strings.TrimSuffix(rule.Pattern, "*"))
	}
	for _, path := range paths {
		for _, namespace := range []string{"", "team1/"} {
			if !acl.MaySee(namespace, path, "tocsin/request-denied") {
				t.Errorf("events of %s%s are hidden", namespace, path)
			}
		}
	}
	if acl.MaySee("", "secret/data/app", "kv-v2/data-write") || acl.MaySee("", "auth/token/lookup-self", "kv-v2/data-write") {
		t.Error("it sees more than the trail")
	}
}

// included is a block of a page that is a copy of a file in docs.
var included = regexp.MustCompile("(?s)(<!-- (policies/[a-z-]+\\.hcl) -->\n```hcl\n)(.*?)(```\n)")

// TestDocumentedPolicies: the policies that the documentation shows are those of
// docs/policies, laid out as `tocsin policy fmt` does, and mean something.
func TestDocumentedPolicies(t *testing.T) {
	t.Parallel()
	const page = "../../docs/teams.md"
	old, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]bool)
	text := included.ReplaceAllStringFunc(string(old), func(block string) string {
		m := included.FindStringSubmatch(block)
		shown[m[2]] = true
		content, err := os.ReadFile(filepath.Join("../../docs", m[2]))
		if err != nil {
			t.Error(err)
		}
		return m[1] + string(content) + m[4]
	})
	if text != string(old) {
		if !*update {
			t.Errorf("%s does not show the files in docs/policies as they are; run go test ./test/acceptance -update", page)
		} else if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	files, err := filepath.Glob("../../docs/policies/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatal("no policies", err)
	}
	for _, file := range files {
		name := "policies/" + filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			if !shown[name] {
				t.Errorf("is not shown on %s", page)
			}
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, warnings, err := policy.Parse(strings.TrimSuffix(filepath.Base(file), ".hcl"), string(content))
			if err != nil || len(warnings) > 0 {
				t.Errorf("%v %v", warnings, err)
			}
			if formatted, err := policy.Format(string(content)); err != nil || formatted != string(content) {
				t.Errorf("is not laid out as policy fmt does: %v\n%s", err, formatted)
			}
		})
	}
}

var (
	codeBlock = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan  = regexp.MustCompile("`[^`\n]*`")
	pageLink  = regexp.MustCompile(`\[[^\]\n]*\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	noAnchor  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the anchors that the headings of a page have where it is shown.
func anchors(page string) map[string]bool {
	all := make(map[string]bool)
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		name := strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")
		unique := name
		for n := 1; all[unique]; n++ {
			unique = fmt.Sprintf("%s-%d", name, n)
		}
		all[unique] = true
	}
	return all
}

// TestLinks: every relative link of the documentation leads to a file, and to a heading in
// it if it names one; every page can be reached from README.
func TestLinks(t *testing.T) {
	t.Parallel()
	var pages []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	texts := make(map[string]string)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		texts[page] = codeBlock.ReplaceAllString(string(text), "")
	}
	linked := map[string][]string{}
	links := 0
	for page, text := range texts {
		for _, m := range pageLink.FindAllStringSubmatch(codeSpan.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s leads nowhere", page, m[1])
				continue
			}
			linked[page] = append(linked[page], target)
			if anchor != "" && !anchors(texts[target])[anchor] {
				t.Errorf("%s: %s has no heading for the link %s", page, target, m[1])
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links were found", links)
	}
	reached := make(map[string]bool)
	var follow func(string)
	follow = func(page string) {
		if !reached[page] {
			reached[page] = true
			for _, next := range linked[page] {
				follow(next)
			}
		}
	}
	follow("../../README.md")
	for _, page := range pages {
		if strings.HasPrefix(page, "../../docs/") && !reached[page] && !reached[filepath.Dir(page)] {
			t.Errorf("%s cannot be reached from README.md", page)
		}
	}
}

// TestNamedTests: what the page with the guarantees names as evidence is there.
func TestNamedTests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || strings.Trim(cells[1], " -") == "" {
			continue
		}
		for _, m := range codeSpan.FindAllString(cells[len(cells)-2], -1) {
			name := strings.Trim(m, "`")
			if strings.ContainsAny(name, " =") || strings.HasPrefix(name, "kill") {
				continue // a command
			}
			if found, err := filepath.Glob(filepath.Join("../..", name, "*_test.go")); err != nil || len(found) == 0 {
				t.Errorf("%s: there are no tests in %s", strings.TrimSpace(cells[1]), name)
			}
			rows++
		}
	}
	if rows < 20 {
		t.Errorf("only %d names were found", rows)
	}
}
