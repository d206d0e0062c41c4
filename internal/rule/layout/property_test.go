package layout

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
)

// ruleFiles returns all files of rules of the repository, and those that its documentation shows.
func ruleFiles(t *testing.T) map[string][]byte {
	t.Helper()
	found := make(map[string][]byte)
	isRules := regexp.MustCompile(`(?m)^- +(rule|macro|list):`)
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
	err := filepath.WalkDir("../../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && d.Name() == ".git" {
				return fs.SkipDir
			}
			return err
		}
		ext := filepath.Ext(path)
		if ext != ".yaml" && ext != ".yml" && ext != ".md" {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if ext != ".md" {
			if isRules.Match(content) {
				found[path] = content
			}
			return nil
		}
		for _, block := range blocks.FindAllSubmatch(content, -1) {
			if isRules.Match(block[1]) {
				found[path+"#"+string(block[1][:min(40, len(block[1]))])] = block[1]
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 20 {
		t.Fatalf("%d files of rules", len(found))
	}
	return found
}

// meaning is what a file says, read by itself: its values, with conditions in one form.
func meaning(t *testing.T, content []byte) []any {
	t.Helper()
	var all []any
	d := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var items []map[string]any
		if err := d.Decode(&items); err != nil {
			return all
		}
		for _, item := range items {
			if item["rule"] != nil || item["macro"] != nil {
				item["condition"] = inOneForm(item["condition"])
			}
			if w, ok := item["window"].(map[string]any); ok && item["rule"] != nil {
				switch then := w["then"].(type) {
				case string:
					w["then"] = inOneForm(then)
				case []any:
					for i := range then {
						then[i] = inOneForm(then[i])
					}
				}
			}
			all = append(all, item)
		}
	}
}

// inOneForm writes a condition, or one that is appended, on one line.
func inOneForm(v any) any {
	text, ok := v.(string)
	if !ok {
		return v
	}
	text = strings.Trim(text, " \t\n")
	for _, before := range []string{"", "before_it "} {
		if e, err := condition.Parse(&condition.Text{Content: before + text}); err == nil {
			return before + condition.Format(e, 1<<30)
		}
	}
	return text
}

// notes returns what comments a file has: the texts behind # that the test has put there.
func notes(content []byte) []string {
	all := regexp.MustCompile(`# note [0-9]+`).FindAllString(string(content), -1)
	slices.Sort(all)
	return all
}

// checkFormat formats a file and checks that it means the same, has the same comments and does not
// change any more. It reports whether it could be formatted.
func checkFormat(t *testing.T, name string, content []byte) bool {
	t.Helper()
	formatted, err := Format(content)
	if errors.Is(err, ErrLeftAlone) {
		return false
	}
	if err != nil {
		t.Errorf("%s: %v\n%s", name, err, content)
		return false
	}
	before, _ := yaml.Marshal(meaning(t, content))
	after, _ := yaml.Marshal(meaning(t, formatted))
	if !bytes.Equal(before, after) {
		t.Errorf("%s means something else:\n%s\nbecame\n%s", name, content, formatted)
	}
	if a, b := notes(content), notes(formatted); !slices.Equal(a, b) {
		t.Errorf("%s had the comments %q and has %q:\n%s\nbecame\n%s", name, a, b, content, formatted)
	}
	if again, err := Format(formatted); err != nil || !bytes.Equal(again, formatted) {
		t.Errorf("%s formatted twice: %v\n%s\nbecame\n%s", name, err, formatted, again)
	}
	return true
}

// TestFormatKeepsFiles: every file of rules that there is can be formatted, and means the same then.
func TestFormatKeepsFiles(t *testing.T) {
	t.Parallel()
	for name, content := range ruleFiles(t) {
		if !checkFormat(t, name, content) {
			t.Errorf("%s cannot be formatted", name)
		}
	}
}

// TestFormatKeepsStyles: the same files, written in any way that YAML has for it and with comments
// anywhere.
func TestFormatKeepsStyles(t *testing.T) {
	t.Parallel()
	tried, alone := 0, 0
	for name, content := range ruleFiles(t) {
		var file yaml.Node
		if err := yaml.Unmarshal(content, &file); err != nil || len(file.Content) != 1 || file.Content[0].Kind != yaml.SequenceNode {
			continue
		}
		items := file.Content[0].Content
		for seed := range uint64(4) {
			r := rand.New(rand.NewPCG(seed, uint64(len(content))))
			// A few items at a time: a failure is shorter, and one that is left alone says less.
			for from := 0; from < len(items); from += 3 {
				some := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
				for _, item := range items[from:min(from+3, len(items))] {
					some.Content = append(some.Content, restyled(r, item, &tried))
				}
				var b bytes.Buffer
				e := yaml.NewEncoder(&b)
				e.SetIndent(2 + r.IntN(6))
				if err := e.Encode(some); err != nil {
					continue // no such style for this value
				}
				var back yaml.Node
				if yaml.Unmarshal(b.Bytes(), &back) != nil {
					continue // the encoder has written what it cannot read
				}
				tried++
				if !checkFormat(t, name, b.Bytes()) {
					alone++
					t.Logf("%s is left alone:\n%s", name, b.Bytes())
				}
			}
		}
	}
	t.Logf("%d tried, %d left alone", tried, alone)
	if tried < 100 || alone > tried/10 {
		t.Errorf("%d of %d were left alone", alone, tried)
	}
}

// restyled returns a copy of a value in other styles, with comments.
func restyled(r *rand.Rand, n *yaml.Node, number *int) *yaml.Node {
	c := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Alias: n.Alias, Anchor: n.Anchor}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str":
		c.Style = []yaml.Style{0, 0, yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle, yaml.FoldedStyle, yaml.LiteralStyle}[r.IntN(6)]
	case n.Kind != yaml.ScalarNode && r.IntN(8) == 0:
		c.Style = yaml.FlowStyle
	}
	for i, child := range n.Content {
		copied := restyled(r, child, number)
		if isKey := n.Kind == yaml.MappingNode && i%2 == 0; isKey {
			copied.Style = 0
			if r.IntN(6) == 0 {
				copied.HeadComment = note(number)
			}
		} else if n.Kind == yaml.MappingNode && child.Kind == yaml.ScalarNode && r.IntN(6) == 0 {
			copied.LineComment = note(number)
		} else if n.Kind == yaml.SequenceNode && r.IntN(6) == 0 {
			copied.HeadComment = note(number)
		}
		c.Content = append(c.Content, copied)
	}
	return c
}

func note(number *int) string {
	*number++
	return "# note " + string(rune('0'+*number%10)) + string(rune('0'+*number/10%10)) + string(rune('0'+*number/100%10))
}
