package layout

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

func TestFormat(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Format(content)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		golden := strings.TrimSuffix(file, ".yaml") + ".golden"
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s became\n%s", file, got)
		}
		if again, err := Format(got); err != nil || string(again) != string(got) {
			t.Errorf("%s formatted twice: %v\n%s", file, err, again)
		}
	}
}

// TestFormatSmall is about one thing each.
func TestFormatSmall(t *testing.T) {
	long := strings.Repeat("ka.verb = create and ", 5) + "m"
	broken := strings.Repeat("      and ka.verb = create\n", 4)
	for name, tt := range map[string]struct{ text, want string }{
		"empty":            {"", ""},
		"blanks":           {"\n \n", ""},
		"comment":          {"\n# only this", "# only this\n"},
		"line ends":        {"- macro: m\r\n  condition: a.b=c\r\n", "- macro: m\n  condition: a.b = c\n"},
		"byte order mark":  {"\uFEFF- macro: m\n  condition: a.b=c\n", "- macro: m\n  condition: a.b = c\n"},
		"documents":        {"---\n- macro: m\n  condition: a.b=c\n---\n- macro: n\n  condition: m\n", "---\n- macro: m\n  condition: a.b = c\n---\n- macro: n\n  condition: m\n"},
		"one line":         {"- macro: m\n  condition: >\n    a.b=c\n", "- macro: m\n  condition: a.b = c\n"},
		"must be quoted":   {"- macro: m\n  condition: \"a.b='x: y'\"\n", "- macro: m\n  condition: >\n    a.b = 'x: y'\n"},
		"a bool elsewhere": {"- macro: m\n  condition: 'yes'\n", "- macro: m\n  condition: yes\n"},
		"a real bool":      {"- macro: m\n  condition: 'true'\n", "- macro: m\n  condition: >\n    true\n"},
		"long":             {"- macro: m\n  condition: " + long + "\n", "- macro: m\n  condition: >\n    ka.verb = create\n" + strings.ReplaceAll(broken, "      and", "    and") + "    and m\n"},
		"comment kept":     {"- macro: m\n  condition: > # why\n    a.b=c\n    and m\n", "- macro: m\n  condition: a.b = c and m # why\n"},
		"appended":         {"- rule: r\n  condition:   or(a.b=c)\n  append: true\n", "- rule: r\n  condition: or a.b = c\n  append: true\n"},
		"parentheses":      {"- macro: m\n  condition: ((( a.b=c or m )))\n", "- macro: m\n  condition: (a.b = c or m)\n"},
		"no parentheses":   {"- macro: m\n  condition: (a.b=c) or (m)\n", "- macro: m\n  condition: a.b = c or m\n"},
		"appended group":   {"- rule: r\n  condition: and( a.b=c or m )\n  append: true\n", "- rule: r\n  condition: and (a.b = c or m)\n  append: true\n"},
		"appended to some": {"- rule: r\n  condition: and  a.b=c or m\n  append: true\n", "- rule: r\n  condition: and  a.b=c or m\n  append: true\n"},
		"list names":       {"- macro: m\n  condition: a.b in (l1,\"l1\",'it l1')\n", "- macro: m\n  condition: a.b in (l1, \"l1\", 'it l1')\n"},
		"not a rule":       {"- other: m\n  condition: a.b=c\n", "- other: m\n  condition: a.b=c\n"},
		"anchor":           {"- macro: m\n  condition: &c a.b=c\n- macro: n\n  condition: *c\n", "- macro: m\n  condition: &c a.b=c\n\n- macro: n\n  condition: *c\n"},
		"flow item":        {"- {macro: m,   condition: a.b=c}\n", "- {macro: m,   condition: a.b=c}\n"},
		"indented":         {"    - macro: m\n      condition: a.b=c\n", "- macro: m\n  condition: a.b = c\n"},
		"no value":         {"- macro: m\n  condition:\n- list: l\n  items:\n", "- macro: m\n  condition:\n\n- list: l\n  items:\n"},
		"value below":      {"- macro: m\n  condition:\n\n     a.b=c\n     and m # why\n", "- macro: m\n  condition: a.b = c and m # why\n"},
		"text between":     {"- macro: m\n  condition: # why\n     a.b=c\n", "- macro: m\n  condition: # why\n     a.b=c\n"},
		"comment below":    {"- list: l\n  items: [a]\n  # of l\n\n# of m\n- macro: m\n  condition: a.b=c\n", "- list: l\n  items: [a]\n  # of l\n\n# of m\n- macro: m\n  condition: a.b = c\n"},
		"kept line ends":   {"- rule: r\n  desc: |+\n    text\n\n\n- macro: m\n  condition: n\n", "- rule: r\n  desc: |+\n    text\n\n\n- macro: m\n  condition: n\n"},
		"lists below":      {"- list: l\n  items:\n  - a\n  - b\n", "- list: l\n  items:\n    - a\n    - b\n"},
		"then":             {"- rule: r\n  window:\n    within:   2m\n    then:   a.b=c and(m)\n", "- rule: r\n  window:\n    within: 2m\n    then: a.b = c and m\n"},
		"thens":            {"- rule: r\n  window:\n    then:\n    - a.b=c # why\n    # or\n    -   (m)and n\n    - 'a.b=\"x: y\"'\n    by: [a.b]\n", "- rule: r\n  window:\n    then:\n      - a.b = c # why\n      # or\n      - m and n\n      - >\n        a.b = \"x: y\"\n    by: [a.b]\n"},
		"then, folded":     {"- rule: r\n  window:\n      then:\n      - >\n        a.b=c\n        and m\n      - |\n         n\n  tags: [t]\n", "- rule: r\n  window:\n    then:\n      - a.b = c and m\n      - n\n  tags: [t]\n"},
		"then, two lines":  {"- rule: r\n  window:\n    then:\n      - a.b=c\n        and m\n      - n\n", "- rule: r\n  window:\n    then:\n      - a.b = c and m\n      - n\n"},
		"long then":        {"- rule: r\n  window:\n    then:\n    - " + long + "\n    - m\n", "- rule: r\n  window:\n    then:\n      - >\n        ka.verb = create\n" + strings.ReplaceAll(broken, "      and", "        and") + "        and m\n      - m\n"},
		"then of no rule":  {"- list: l\n  window:\n    then: a.b=c\n- rule: r\n  other:\n    then: a.b=c\n", "- list: l\n  window:\n    then: a.b=c\n\n- rule: r\n  other:\n    then: a.b=c\n"},
		"broken then":      {"- rule: r\n  window:\n    then:\n    - a.b=c and\n    - a.b=d\n", "- rule: r\n  window:\n    then:\n      - a.b=c and\n      - a.b = d\n"},
		"flow window":      {"- rule: r\n  window: {within: 2m,  then: [a.b=c]}\n", "- rule: r\n  window: {within: 2m,  then: [a.b=c]}\n"},
		"explicit indent":  {"-   rule: r\n    desc: |2\n        text\n", "- rule: r\n  desc: |2\n      text\n"},
	} {
		got, err := Format([]byte(tt.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if string(got) != tt.want {
			t.Errorf("%s: got\n%s", name, got)
		}
		if again, err := Format(got); err != nil || string(again) != string(got) {
			t.Errorf("%s: formatted twice: %v\n%s", name, err, again)
		}
	}
}

func TestFormatErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a: b":                       `line 1: a file of rules is a list of items, which begin with "- "`,
		"- a: [":                     "line 1: did not find",
		"\xff":                       "not UTF-8",
		"- macro: m\n- list: \u2028": `line 2: the file is written in a way that cannot be laid out anew: it has a character U+2028, which is written as "\u2028" in double quotes`,
		"- x: " + strings.Repeat("[", 200) + strings.Repeat("]", 200): "nested deeper than 100",
	} {
		if _, err := Format([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: %v", text, err)
		}
	}
}

// FuzzFormat: what can be formatted is formatted to the same again. That it means the same is
// checked by Format itself.
func FuzzFormat(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(content))
		for item := range strings.SplitSeq(string(content), "\n-") {
			f.Add("-" + item)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4000 {
			return
		}
		got, err := Format([]byte(text))
		if err != nil {
			return
		}
		again, err := Format(got)
		if errors.Is(err, ErrLeftAlone) {
			return
		}
		if err != nil || string(again) != string(got) {
			t.Errorf("%q\nbecame %q\nand then %q %v", text, got, again, err)
		}
	})
}

// TestFormatIsFast: the time is about proportional to the size.
func TestFormatIsFast(t *testing.T) {
	for name, text := range map[string]string{
		"comments":   "- macro: m\n" + strings.Repeat("  # c\n", 50_000),
		"items":      strings.Repeat("# c\n- macro: m\n  condition: a.b=c\n", 8_000),
		"blanks":     "- macro: m\n  condition: >\n    a.b = c" + strings.Repeat("\n", 125_000),
		"conditions": "- macro: m\n  condition: a.b = c" + strings.Repeat(" and a.b = c", 12_000) + "\n",
	} {
		began := time.Now()
		if _, err := Format([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(began); d > 30*time.Second {
			t.Errorf("%s: %v", name, d)
		} else {
			t.Logf("%s: %v", name, d)
		}
	}
}
