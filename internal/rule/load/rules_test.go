package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/severity"
)

func file(name, content string) File { return File{Name: name, Content: []byte(content)} }

func mustLoad(t *testing.T, o Options, files ...File) []*Rule {
	t.Helper()
	rules, r := Load(files, o)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return rules
}

func TestRules(t *testing.T) {
	rules := mustLoad(t, options(), file("a.yaml", `
- macro: m
  condition: ka.verb = get
- rule: one
  desc: the first
  condition: m and ka.uri exists
  output: " %ka.verb "
  priority: error
  source: k8s_audit
  tags: [z, a, z]
  window: {count: 3, distinct: ka.uri, within: 1m, by: [ka.user.name]}
  throttle: {every: 1h, by: ka.verb}
- rule: two
  desc: d
  condition: evt.type = x
  output: o
  priority: debug
  enabled: false
- rule: three
  desc: d
  condition: x.y = x
  output: o
  priority: debug
  source: nobody
`), file("b.yaml", `
- rule: one
  override: {condition: append}
  condition: or m
- rule: four
  desc: d
  condition: m
  output: o
  priority: emergency
  source: k8s_audit
  window: {then: [m and ka.uri exists, ka.verb = x], within: 2d}
`))
	if len(rules) != 3 {
		t.Fatalf("%d rules", len(rules))
	}
	for _, r := range rules {
		condition.Walk(r.Condition, func(e condition.Expr) bool {
			if e.Position().Text.Origin != nil {
				t.Errorf("%s keeps its file", r.Name)
			}
			return true
		})
	}
	one := rules[0]
	text := condition.String(one.Condition)
	one.Condition = nil
	if want := "((ka.verb = get and ka.uri exists) or ka.verb = get)"; text != want {
		t.Errorf("%s, want %s", text, want)
	}
	want := &Rule{
		Name: "one", Description: "the first", Source: "k8s_audit", Priority: severity.Error, Tags: []string{"a", "z"}, Enabled: true,
		ConditionText: "m and ka.uri exists or m", Output: "%ka.verb",
		Window:   &Window{Within: time.Minute, By: []string{"ka.user.name"}, Count: 3, Distinct: "ka.uri"},
		Throttle: &Throttle{Every: time.Hour, By: []string{"ka.verb"}},
		At:       Place{File: "a.yaml", Line: 4, Column: 3, Offset: 41},
	}
	if !reflect.DeepEqual(one, want) {
		t.Errorf("%+v\nwant %+v", one, want)
	}
	if rules[1].Name != "two" || rules[1].Enabled || rules[1].Source != "syscall" || rules[1].Priority != severity.Debug {
		t.Errorf("%+v", rules[1])
	}
	if w := rules[2].Window; w.Within != 48*time.Hour || len(w.Then) != 2 || condition.String(w.Then[0]) != "(ka.verb = get and ka.uri exists)" {
		t.Errorf("%+v", w)
	}
}

func TestMinimum(t *testing.T) {
	var b strings.Builder
	for s := severity.Emergency; s <= severity.Debug; s++ {
		b.WriteString(strings.NewReplacer("rule: r", "rule: "+s.String(), "INFO", s.String()).Replace(good))
	}
	for s := severity.Emergency; s <= severity.Debug; s++ {
		o := options()
		o.Minimum = &s
		if rules := mustLoad(t, o, file("f", b.String())); len(rules) != int(s)+1 || rules[s].Priority != s {
			t.Errorf("%s: %d rules", s, len(rules))
		}
	}
}

func TestSelections(t *testing.T) {
	text := ""
	for _, r := range [][2]string{{"alpha", "x"}, {"beta", "y"}, {"alphabet", "x, z"}, {"off", "z"}} {
		text += strings.Replace(strings.Replace(good, "rule: r", "rule: "+r[0], 1), "  output", "  tags: ["+r[1]+"]\n  output", 1)
	}
	text += "- rule: off\n  enabled: false\n"
	for _, test := range []struct {
		selections []Selection
		want       string
	}{
		{nil, "alpha beta alphabet"},
		{[]Selection{{Enable: false, Rule: "*"}}, ""},
		{[]Selection{{Enable: false, Rule: "*"}, {Enable: true, Tag: "z"}}, "alphabet off"},
		{[]Selection{{Enable: true, Tag: "z"}, {Enable: false, Rule: "*"}}, ""},
		{[]Selection{{Enable: false, Rule: "alpha"}}, "beta alphabet"},
		{[]Selection{{Enable: false, Rule: "alpha*"}}, "beta"},
		{[]Selection{{Enable: false, Rule: "*bet"}}, "alpha beta"},
		{[]Selection{{Enable: false, Rule: "*a*a*"}}, "beta"},
		{[]Selection{{Enable: false, Rule: "alph"}}, "alpha beta alphabet"},
		{[]Selection{{Enable: false, Rule: "*", Tag: "x"}}, "beta"},
		{[]Selection{{Enable: true, Rule: "*"}}, "alpha beta alphabet off"},
		{[]Selection{{}}, "alpha beta alphabet"},
	} {
		o := options()
		o.Selections = test.selections
		var names []string
		for _, r := range mustLoad(t, o, file("f", text)) {
			if r.Enabled {
				names = append(names, r.Name)
			}
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%+v: %q, want %q", test.selections, got, test.want)
		}
	}
}

// As in Falco everything that was read is compiled after each file, and one that is wrong does not
// keep the next from being read.
func TestSeveralFiles(t *testing.T) {
	first := file("first.yaml", "- macro: m\n  condition: ka.verb = x\n- list: l\n  items: [a]\n")
	second := file("second.yaml", strings.Replace(good, "ka.verb = get", "m or ka.verb in (l)", 1))
	_, r := Load([]File{first, second}, options())
	if !r.OK() || len(r.Files) != 2 || len(r.Files[0].Warnings) != 2 || len(r.Files[1].Warnings) != 0 {
		t.Errorf("%v %+v", r.Err(), r.Files)
	}
	if errs, warnings := r.Final(); len(errs) != 0 || len(warnings) != 0 {
		t.Errorf("what is used later is reported as unused: %v", warnings)
	}
	// The other way round the rule is wrong when it is read.
	rules, r := Load([]File{second, first}, options())
	if rules != nil || r.OK() || r.Files[0].Successful() || !r.Files[1].Successful() {
		t.Errorf("%+v", r.Files)
	}
	// What cannot be read.
	_, r = Load([]File{{Name: "gone.yaml", Err: errors.New("not there")}, first}, options())
	if r.OK() || r.Files[0].Errors[0].Code != ErrFileRead || !r.Files[1].Successful() {
		t.Errorf("%v", r.Err())
	}
	// A wrong item stays wrong for the files behind it, and is told once.
	wrong := file("wrong.yaml", strings.Replace(good, "ka.verb = get", "nothing", 1))
	_, r = Load([]File{wrong, first}, options())
	if errs, _ := r.Final(); len(errs) != 1 || r.Files[1].Successful() {
		t.Errorf("%v", errs)
	}
	b, err := json.Marshal(r)
	if err != nil || strings.Count(string(b), "Undefined macro") != 2 {
		t.Errorf("%s %v", b, err)
	}
}

// What is remembered from one file to the next changes nothing.
func TestRemembered(t *testing.T) {
	names, err := filepath.Glob("testdata/cases/*.yaml")
	if err != nil || len(names) < 5 {
		t.Fatal(names, err)
	}
	var files []File
	for _, name := range append(names, "testdata/good.rules.yaml") {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, File{Name: filepath.Base(name), Content: b})
	}
	files = append(files,
		file("list.yaml", "- list: readers\n  items: [other]\n"), file("macro.yaml", "- macro: first\n  condition: ka.uri exists\n"),
		file("rule.yaml", "- rule: two levels\n  override: {output: replace, condition: append}\n  output: other\n  condition: and third\n"),
		file("again.yaml", "- macro: first\n  append: true\n  condition: and ka.verb = x\n- rule: two levels\n  enabled: false\n"),
	)
	one := loader{options: options(), compiler: audit, report: &Report{}}
	one.forget()
	two := one
	two.report = &Report{}
	two.forget()
	for _, f := range files {
		one.load(f)
		two.forget()
		two.load(f)
		a, b := describer{loader: &one}, describer{loader: &two}
		if one.result == nil || two.result == nil {
			t.Fatal(one.report.Err())
		}
		if !reflect.DeepEqual(a.all(), b.all()) {
			t.Fatalf("%s: other rules", f.Name)
		}
	}
	a, err := one.report.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	b, err := two.report.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Error("other reports")
	}
}

// With AllErrors each mistake is told, and nothing that only follows from one.
func TestAllErrors(t *testing.T) {
	rule := func(name, condition string) string {
		return strings.NewReplacer("rule: r", "rule: "+name, "ka.verb = get", condition).Replace(good)
	}
	text := "- macro: bad\n  condition: ka.verb =\n" + // 1: error
		"- macro: user\n  condition: bad or ka.verb = x\n" +
		"- macro: lost\n  append: maybe\n  condition: ka.verb = x\n" + // 5: error
		rule("a", "user and ka.verb = y") +
		rule("b", "nothing") + // 14: error
		strings.Replace(rule("c", "ka.verb = z"), "INFO", "INFOO", 1) + // 20: error
		"- rule: c\n  override: {condition: append}\n  condition: and ka.uri exists\n" +
		rule("d", "lost or ka.verb = wrong") +
		rule("e", "ka.verb = wrong") + // 35: error
		"- rule: nobody\n  enabled: false\n" + // 41: error
		"- 5\n" // 43: error
	o := options()
	o.AllErrors = true
	rules, r := Load([]File{file("f", text), file("g", good+"- macro: bad\n  condition: ka.verb = wrong\n")}, o)
	if rules != nil {
		t.Error("rules")
	}
	errs, _ := r.Final()
	var got []string
	for _, d := range errs {
		got = append(got, d.At.String())
	}
	// The macro that the second file mends makes the rule a wrong, which could not be seen before.
	if want := "f:2:23 f:6:11 f:16:14 f:24:13 f:37:24 f:41:3 f:43:3 g:8:24"; strings.Join(got, " ") != want {
		t.Errorf("got  %v\nwant %s\n%v", got, want, errs)
	}
	// The first is the same as without.
	_, one := Load([]File{file("f", text)}, options())
	if len(one.Files[0].Errors) != 1 || one.Err().Error() != r.Err().Error() {
		t.Errorf("%v, not %v", r.Err(), one.Err())
	}
	var wrong strings.Builder
	for i := range 1000 {
		wrong.WriteString(rule(fmt.Sprint("r", i), "nothing"))
	}
	if _, r := Load([]File{file("f", wrong.String())}, o); len(r.Files[0].Errors) != maxErrors {
		t.Errorf("%d errors", len(r.Files[0].Errors))
	}
}

// replaced replaces a list, one name after the other, in the text that has come out so far.
func replaced(s, name string, items []string) string {
	sub := ""
	for _, i := range items {
		if sub != "" {
			sub += ", "
		}
		sub += quote(i)
	}
	find := func(from int) int {
		if from > len(s) {
			return -1
		}
		if i := strings.Index(s[from:], name); i >= 0 {
			return from + i
		}
		return -1
	}
	for start := find(0); start >= 0; start = find(start + 1) {
		end := start + len(name)
		if start > 0 && !strings.ContainsAny(s[start-1:start], delimiters) || end < len(s) && !strings.ContainsAny(s[end:end+1], delimiters) {
			continue
		}
		for start > 0 && strings.ContainsAny(s[start-1:start], blanks) {
			start--
		}
		for end < len(s) && strings.ContainsAny(s[end:end+1], blanks) {
			end++
		}
		if sub == "" && start > 0 && s[start-1] == ',' {
			start--
		} else if sub == "" && end < len(s) && s[end] == ',' {
			end++
		}
		before := s[:start]
		if start > 0 {
			before += " "
		}
		s = before + sub + " " + s[end:]
		start += len(sub) + 1
	}
	return s
}

func TestSubstitute(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		var b strings.Builder
		for range random.IntN(12) {
			b.WriteString([]string{"l", "l", " ", " ", ",", "(", ")", "=", "x", "\"", "ll", "l,l", "\n"}[random.IntN(13)])
		}
		items := [][]string{{}, {"a"}, {"l"}, {"a b", "l", "c"}, {"", ""}, {"l l"}, {"(l)"}, {"", "l"}, {"a", "", "b"}}[random.IntN(9)]
		whole := &text{s: b.String(), parts: []part{{}}}
		got, _ := whole.substitute("l", items, false)
		if want := replaced(b.String(), "l", items); got.s != want {
			t.Fatalf("%q with %q: %q, want %q", b.String(), items, got.s, want)
		}
		for i, p := range got.parts {
			if p.at > len(got.s) || i == 0 && p.at != 0 && got.s != "" || i > 0 && p.at <= got.parts[i-1].at {
				t.Fatalf("%q: parts %+v", got.s, got.parts)
			}
		}
	}
}

func TestStrictLists(t *testing.T) {
	text := "- list: l\n  items: [a, b]\n" + strings.Replace(good, "ka.verb = get", `ka.verb in (l) and ka.uri = "x l y" and ka.uri = 'l' and ka.uri = "a\" l" and ka.verb in (l)`, 1)
	for strict, want := range map[bool]string{
		false: `(ka.verb in (a, b) and ka.uri = "x a, b y" and ka.uri = " a, b " and`,
		true:  `(ka.verb in (a, b) and ka.uri = "x l y" and ka.uri = l and ka.uri = "a\" l" and ka.verb in (a, b))`,
	} {
		o := options()
		o.StrictLists = strict
		_, r := Load([]File{file("f", text)}, o)
		if !strict {
			// The quote of ' l' is no delimiter, so that one stays.
			want = `(ka.verb in (a, b) and ka.uri = "x a, b y" and ka.uri = l and`
		}
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		if got := condition.String(mustLoad(t, o, file("f", text))[0].Condition); !strings.HasPrefix(got, want) {
			t.Errorf("strict %v: %s, want %s", strict, got, want)
		}
	}
}

// TestPlaces finds a mistake in every way of writing a condition.
func TestPlaces(t *testing.T) {
	const wrong = "wrong" // where the fake compiler finds it
	for name, yaml := range map[string]string{
		"plain":             "condition: ka.verb = wrong",
		"plain, two lines":  "condition: ka.verb = x\n    and ka.verb = wrong",
		"plain, many":       "condition:\n      ka.verb = x\n\n      and\n        ka.verb = wrong\n      and ka.verb = y",
		"unicode":           "condition: ka.verb = ä€😀 and ka.verb = wrong",
		"comment before":    "condition: # what it is\n      ka.verb = wrong",
		"single":            "condition: 'ka.verb = ''x'' and ka.verb = wrong'",
		"single, lines":     "condition: 'ka.verb = ''x''\n\n      and\n       ka.verb = wrong'",
		"double":            `condition: "ka.verb = \"x\" and ka.uri = 'a\\tb' and ka.verb = wrong"`,
		"double, lines":     "condition: \"ka.verb = x\\\n     \\ and\n     ka.verb \\x3d wrong\"",
		"double, newline":   `condition: "ka.verb = x\n  and \t ka.verb = wrong"`,
		"literal":           "condition: |\n    ka.verb = x\n      and ka.uri exists\n\n    and ka.verb = wrong",
		"literal, strip":    "condition: |-\n      ka.verb = x and\n      ka.verb = wrong\n",
		"literal, indented": "condition: |2\n     ka.verb = x and\n      ka.verb = wrong\n",
		"folded":            "condition: >\n    ka.verb = x\n    and ka.uri exists\n\n    and ka.verb = wrong\n    and ka.verb = y",
		"folded, more":      "condition: >-\n    ka.verb = x\n      and ka.uri exists\n    and (ka.verb = y\n         or ka.verb = wrong)",
		"carriage returns":  "condition: |\r\n    ka.verb = x\r\n    and ka.verb = wrong\r",
		"anchor":            "condition: &a ka.verb = wrong",
		"tag":               "condition: !!str ka.verb = wrong",
		"list around":       "condition: ka.uri in (before, l, l) and ka.verb = wrong and ka.verb in (l)",
		"lists and folds":   "condition: >\n    ka.uri in (l,\n      l\n      ,l)\n    and ka.verb = wrong",
		"in a macro":        "condition: m\n- macro: m\n  condition: ka.uri in (l) and ka.verb = wrong",
		"in two macros":     "condition: m\n- macro: n\n  condition: >\n    ka.uri in (l)\n    and ka.verb = wrong\n- macro: m\n  condition: ka.uri exists and n",
		"appended":          "condition: ka.verb = x\n- rule: r\n  override: {condition: append}\n  condition: and ka.verb = wrong",
		"in an exception":   "exceptions:\n  - {name: e, fields: ka.verb, values: [x, wrong]}\n  condition: ka.uri in (l)",
		"in a row":          "exceptions:\n  - name: e\n    fields: [ka.verb, ka.uri]\n    comps: [=, in]\n    values:\n    - [x, [y]]\n    - [y, [z, wrong]]\n  condition: ka.uri in (l)",
		"as a list":         "exceptions:\n  - name: e\n    fields: [ka.verb, ka.uri]\n    comps: [=, in]\n    values:\n    - [x, wrong]\n  condition: ka.uri in (l)",
		"then":              "window: {within: 1m, then: [ka.verb = x, ka.uri in (l) and ka.verb = wrong]}\n  condition: ka.uri in (l)",
	} {
		t.Run(name, func(t *testing.T) {
			text := "- rule: r\n  desc: d\n  output: o\n  priority: INFO\n  source: k8s_audit\n  " + yaml + "\n- list: l\n  items: [\"one item\", another]\n"
			_, r := Load([]File{file("f", text)}, options())
			errs, _ := r.Final()
			if len(errs) != 1 || errs[0].Message != "this is wrong" {
				t.Fatalf("%v in\n%s", errs, text)
			}
			d := errs[0]
			at := strings.Index(text, wrong)
			if d.At.Offset != at {
				t.Errorf("offset %d, want %d (%q)", d.At.Offset, at, text[d.At.Offset:min(d.At.Offset+10, len(text))])
			}
			lines := strings.Split(text[:at], "\n")
			if d.At.Line != len(lines) || d.At.Column != len([]rune(lines[len(lines)-1]))+1 || d.Width != len(wrong) || !strings.Contains(d.Line, wrong) {
				t.Errorf("%+v, want line %d", d, len(lines))
			}
		})
	}
	// What is in a list is shown where the list is named.
	text := strings.Replace(good, "ka.verb = get", "ka.verb in (x, l)", 1) + "- list: l\n  items: [wrong]\n"
	_, r := Load([]File{file("f", text)}, options())
	if err := r.Err(); err == nil || !strings.HasPrefix(err.Error(), "f:3:29: ") {
		t.Errorf("%v", err)
	}
}

// What a person without good intentions could write must end soon, with an error.
func TestBombs(t *testing.T) {
	var aliases, macros, lists strings.Builder
	aliases.WriteString("- x: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n")
	for i := range 30 {
		fmt.Fprintf(&aliases, "- x: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d]\n", i+1, i, i, i, i, i)
	}
	macros.WriteString("- macro: m0\n  condition: ka.verb = x\n")
	for i := range 60 {
		fmt.Fprintf(&macros, "- macro: m%d\n  condition: m%d or m%d\n", i+1, i, i)
	}
	for i := range 20 {
		fmt.Fprintf(&lists, "- list: l%d\n  items: [%s]\n", i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("l%d, ", i+1), 50), ", "))
	}
	rule := func(keys string) string { return strings.Replace(good, "  desc", "  "+keys+"\n  desc", 1) }
	for name, text := range map[string]string{
		"aliases":     aliases.String() + rule("exceptions: [{name: e, fields: [ka.verb], values: [*a30]}]"),
		"self":        "- x: &a [*a]\n" + rule("exceptions: [{name: e, fields: [ka.verb], values: *a}]"),
		"macros":      macros.String() + good,
		"lists":       lists.String() + strings.Replace(good, "ka.verb = get", "ka.verb in (l0)", 1),
		"nested":      strings.Replace(good, "ka.verb = get", strings.Repeat("(", 100_000), 1),
		"nots":        strings.Replace(good, "ka.verb = get", strings.Repeat("not ", 100_000)+"x", 1),
		"long":        strings.Replace(good, "ka.verb = get", "ka.verb = "+strings.Repeat("x", 2<<20), 1),
		"flow":        "- rule: " + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "\n",
		"huge":        "- rule: r\n" + strings.Repeat("#", MaxFileBytes),
		"nested rows": rule("exceptions: [{name: e, fields: [ka.verb], values: " + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}]"),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, r := Load([]File{file("f", text)}, options())
			if r.OK() {
				t.Error("loaded")
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("took %v", took)
			}
		})
	}
	for name, text := range map[string]string{
		"lists and rules": strings.Repeat(good, 100) + strings.Repeat("- list: l\n  items: [x]\n", 20_000),
		"many lists":      many("- list: list%d\n  items: [x]\n", 20_000) + many(strings.Replace(good, "rule: r", "rule: r%d", 1), 10_000),
	} {
		start := time.Now()
		if _, r := Load([]File{file("f", text)}, options()); !r.OK() {
			t.Error(r.Err())
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("%s: took %v", name, took)
		}
	}
	huge := File{Name: "huge", Content: bytes.Repeat([]byte(strings.Repeat("#", 1023)+"\n"), MaxFileBytes/1024)}
	if _, r := Load(slices.Repeat([]File{huge}, 9), options()); r.OK() || !r.Files[7].Successful() || r.Files[8].Successful() {
		t.Error("72 MiB are loaded")
	}
	for name, text := range map[string]string{
		"nodes": "- macro: big\n  condition: " + strings.Repeat("ka.verb = x or ", 50_000) + "ka.verb = y\n" + many(strings.NewReplacer("rule: r", "rule: r%d", "ka.verb = get", "big").Replace(good), 200),
		"bytes": "- list: big\n  items: [" + strings.Repeat("some item, ", 50_000) + "x]\n" + many(strings.NewReplacer("rule: r", "rule: r%d", "ka.verb = get", "ka.verb in (big)").Replace(good), 200),
	} {
		start := time.Now()
		if _, r := Load([]File{file("f", text)}, options()); r.OK() {
			t.Errorf("%s: loaded", name)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("%s: took %v", name, took)
		}
	}
	// Too many warnings are counted.
	_, r := Load([]File{file("f", strings.Repeat("- x: y\n", 20_000))}, options())
	if f := r.Files[0]; len(f.Warnings) != maxWarnings || f.LeftOut != 15_000 || r.Warnings() != 20_000 || len(f.SchemaWarnings) > maxWarnings {
		t.Errorf("%d warnings, %d left out", len(f.Warnings), f.LeftOut)
	}
}

// many repeats a text with numbers in it.
func many(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func TestNameSet(t *testing.T) {
	// The order was printed by a program in C++.
	const in = "in = startswith glob alpha beta gamma delta eps zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi psi omega longer.names.too and.yet.longer.ones a b c d"
	const want = "d c b a and.yet.longer.ones eps longer.names.too iota chi gamma zeta beta theta tau delta omega glob startswith alpha eta in kappa rho mu = xi nu psi omicron pi sigma lambda upsilon phi"
	var s nameSet
	for _, n := range strings.Fields(in + " in = a d") {
		s.add(n)
	}
	if got := strings.Join(s.list(), " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzLoad(f *testing.F) {
	for _, dir := range []string{"testdata", "testdata/cases"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".yaml") {
				b, err := os.ReadFile(dir + "/" + e.Name())
				if err != nil {
					f.Fatal(err)
				}
				f.Add(b, true)
			}
		}
	}
	f.Add([]byte(good+"- rule: r\n  append: true\n  condition: ' \n\n and \"\n'\n"), false)
	f.Add([]byte("- list: é\n  items: [é, 'é é']\n- macro: m\n  condition: \"\\xe9 \\u00e9\\\n   in (é)\"\n"), false)
	f.Add([]byte("%YAML 1.2\n---\n\t\n- list: l\xe9\u0085\u2028\uFEFF\n  items:\n  -\tx\x0b\n  - \"\U0010F00B\"\n"), false)
	f.Fuzz(func(t *testing.T, content []byte, strict bool) {
		if len(content) > 1<<16 {
			return
		}
		o := options()
		o.StrictLists = strict
		files := []File{{Name: "f", Content: content}, {Name: "g", Content: []byte(good)}}
		rules, r := Load(files, o)
		for _, f := range r.Files {
			for _, d := range append(f.Errors, f.Warnings...) {
				if d.Text() == "" || d.At.File == "" || d.At.Line > strings.Count(string(content), "\n")+10 || d.At.Offset > len(content)+len(good) {
					t.Errorf("%+v", d)
				}
			}
		}
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
		if (rules == nil) == r.OK() {
			t.Error("rules in spite of errors, or neither")
		}
		if described, again := Describe(files, o); (described == nil) == r.OK() || again.OK() != r.OK() {
			t.Error("the second time is another")
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	var text strings.Builder
	for i := range 50 {
		fmt.Fprintf(&text, "- list: list_%d\n  items: [one, two, \"three four\", five_%d]\n- macro: macro_%d\n  condition: ka.verb in (list_%d) or ka.user.name startswith sys\n", i, i, i, i)
	}
	for i := range 1000 {
		fmt.Fprintf(&text, "- rule: rule %d\n  desc: a rule\n  condition: >\n    macro_%d and not ka.user.name in (list_%d, root)\n    and (ka.uri startswith /api/v%d or ka.uri endswith log)\n  output: \"%%ka.user.name did %%ka.verb\"\n  priority: WARNING\n  source: k8s_audit\n  tags: [a, b]\n  exceptions:\n  - {name: e, fields: [ka.user.name, ka.verb], values: [[a, b], [c, d]]}\n", i, i%50, (i*7)%50, i)
	}
	files := []File{file("f", text.String())}
	for b.Loop() {
		if rules, r := Load(files, options()); len(rules) != 1000 {
			b.Fatal(r.Err())
		}
	}
}

func BenchmarkLoadManyFiles(b *testing.B) {
	var files []File
	for f := range 50 {
		var text strings.Builder
		fmt.Fprintf(&text, "- list: list_%d\n  items: [one, two, \"three four\", five]\n- macro: macro_%d\n  condition: ka.verb in (list_%d) or ka.user.name startswith sys\n", f, f, f)
		for i := range 20 {
			fmt.Fprintf(&text, "- rule: rule %d %d\n  desc: a rule\n  condition: macro_%d and not ka.user.name in (list_%d, root) and ka.uri startswith /api/v%d\n  output: \"%%ka.user.name did %%ka.verb\"\n  priority: WARNING\n  source: k8s_audit\n", f, i, f, f, i)
		}
		files = append(files, file(fmt.Sprintf("f%d", f), text.String()))
	}
	for b.Loop() {
		if rules, r := Load(files, options()); len(rules) != 1000 {
			b.Fatal(r.Err())
		}
	}
}
