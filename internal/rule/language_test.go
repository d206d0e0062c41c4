package rule

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// block is a piece of code in a page, and what the comment in front of it says that it is.
type block struct {
	kind, language, text string
	line                 int
}

var fence = regexp.MustCompile("(?ms)(?:^<!-- (\\w+) -->\n)?^```(\\w*)\n(.*?)^```$")

func blocks(t *testing.T, page string) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range fence.FindAllStringSubmatchIndex(string(text), -1) {
		part := func(n int) string {
			if m[2*n] < 0 {
				return ""
			}
			return string(text[m[2*n]:m[2*n+1]])
		}
		all = append(all, block{part(1), part(2), part(3), 1 + strings.Count(string(text[:m[6]]), "\n")})
	}
	return all
}

// TestLanguagePage tries everything that docs/rules-language.md shows: its conditions and outputs
// over the event in it, and its rules.
func TestLanguagePage(t *testing.T) {
	const page = "../../docs/rules-language.md"
	var ev *event.Event
	var compiled []string // conditions of the last rules
	counts := make(map[string]int)
	for _, b := range blocks(t, page) {
		lines := strings.Split(strings.TrimSuffix(b.text, "\n"), "\n")
		switch {
		case b.kind == "event":
			entry := strings.ReplaceAll(b.text, "\n", "")
			ev = vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{}).Translate(nil, []byte(entry))[0]
			if ev.Type != "audit/response" {
				t.Fatal(ev.Type)
			}
		case b.kind == "conditions":
			for i, line := range lines {
				text, want, ok := cutLast(line, " # ")
				if !ok {
					t.Errorf("%s:%d: no result", page, b.line+i)
					continue
				}
				if got := try(t, ev, strings.TrimSpace(text)); got != want {
					t.Errorf("%s:%d: %s: %s", page, b.line+i, text, got)
				}
				counts[strings.Fields(want)[0]]++
			}
		case b.kind == "outputs":
			for i, line := range lines {
				text, want, _ := strings.Cut(line, "→")
				s := mustCompile(t, "- {rule: r, desc: d, condition: event.type exists, priority: INFO, source: tocsin, output: '"+strings.TrimSpace(text)+"'}")
				if got := outputs(judge(t, newRun(t, s, RunOptions{}), ev)); got != strings.TrimSpace(want) {
					t.Errorf("%s:%d: %s", page, b.line+i, got)
				}
				counts["output"]++
			}
		case b.kind == "compiled":
			if strings.Join(compiled, "\n") != strings.Join(lines, "\n") {
				t.Errorf("%s:%d: compiled is\n%s", page, b.line, strings.Join(compiled, "\n"))
			}
			counts["compiled"]++
		case b.language == "yaml":
			compiled = nil
			rules, report := load.Load([]load.File{{Name: "rules.yaml", Content: []byte(b.text)}}, load.Options{Compiler: NewCompiler(nil, false)})
			if err := report.Err(); err != nil {
				t.Errorf("%s:%d: %v", page, b.line, err)
			}
			if n := report.Warnings(); n > 0 {
				_, warnings := report.Final()
				t.Errorf("%s:%d: %s", page, b.line, warnings[0].Message)
			}
			for _, r := range rules {
				compiled = append(compiled, condition.String(r.Condition))
			}
			mustCompile(t, b.text)
			counts["yaml"]++
		default:
			t.Errorf("%s:%d: what is this?", page, b.line)
		}
	}
	for what, least := range map[string]int{"fits": 40, "no": 12, "error:": 15, "output": 4, "compiled": 2, "yaml": 4} {
		if counts[what] < least {
			t.Errorf("%d of %s", counts[what], what)
		}
	}
}

// try tells what becomes of a condition over an event, in the words of the page.
func try(t *testing.T, ev *event.Event, text string) string {
	t.Helper()
	rule := "- rule: r\n  desc: d\n  condition: >\n    " + text + "\n  output: o\n  priority: INFO\n  source: tocsin\n"
	s, report := Compile([]load.File{{Name: "rules.yaml", Content: []byte(rule)}}, Options{Location: time.UTC})
	if errors, _ := report.Final(); len(errors) > 0 {
		return "error: " + errors[0].Message
	}
	if len(judge(t, newRun(t, s, RunOptions{}), ev)) == 0 {
		return "no"
	}
	return "fits"
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
