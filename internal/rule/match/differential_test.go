package match

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// The fields of random rules: of every type, as lists, with arguments.
var randomFields = []field.Field{
	testField("t.s1", sourceplugin.String, false), testField("t.s2", sourceplugin.String, false), testField("t.s3", sourceplugin.String, false),
	testField("t.n1", sourceplugin.Uint64, false), testField("t.n2", sourceplugin.Uint64, false),
	testField("t.r", sourceplugin.RelTime, false), testField("t.a", sourceplugin.AbsTime, false),
	testField("t.b", sourceplugin.Bool, false), testField("t.ip", sourceplugin.IPAddr, false), testField("t.net", sourceplugin.IPNet, false),
	testField("t.ls1", sourceplugin.String, true), testField("t.ls2", sourceplugin.String, true),
	testField("t.ln", sourceplugin.Uint64, true), testField("t.lip", sourceplugin.IPAddr, true), testField("t.lnet", sourceplugin.IPNet, true),
	testField("evt.num", sourceplugin.Uint64, false),
	{Field: sourceplugin.Field{Name: "t.index", Type: sourceplugin.String, List: true, Arg: sourceplugin.ArgRule{Index: true}}},
	{Field: sourceplugin.Field{Name: "t.key", Type: sourceplugin.String, Arg: sourceplugin.ArgRule{Key: true, Required: true}}},
}

func testField(name string, t sourceplugin.FieldType, list bool) field.Field {
	return field.Field{Field: sourceplugin.Field{Name: name, Type: t, List: list}}
}

// random makes conditions and rows.
type random struct{ *rand.Rand }

func (r random) of(all ...string) string { return all[r.IntN(len(all))] }

// text is a value of a field or a constant: often one begins or contains another.
func (r random) text() string {
	return r.of("", "a", "A", "ab", "aB", "abc", "b", "bc", "ba", "/", "/a", "/a/b", "a/b/c", "//b", "/x/y/", "aGk=", "aGk", "QUI=", "YQBiAA==", "YQA=", "a b", "é", "x\ny", "-a", "-bv", "-b", "--x", "201", "5",
		"AB", "\xff", "b\xff", "\uFFFD", "É")
}

// value is a value of a field: also what no constant may be, but for a NUL.
func (r random) value() string {
	switch r.IntN(10) {
	case 0:
		text := ""
		for range 2 + r.IntN(4) {
			text += r.text()
		}
		return text
	case 1:
		return r.of("a\xffb", "A\xc3", "\xe9\x80", strings.Repeat("ab", 300), strings.Repeat("/a", 200)+"/b", strings.Repeat("B", 700)+"abc")
	}
	return r.text()
}

func (r random) number() string { return r.of("0", "1", "2", "5", "10", "18446744073709551615") }

func (r random) ip() string { return r.of("10.0.0.1", "10.0.0.2", "192.168.1.7", "::1", "2001:db8::1") }

func (r random) net() string { return r.of("10.0.0.0/8", "10.0.0.2/32", "2001:db8::/32", "0.0.0.0/0") }

func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\x5c`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

func (r random) list(value func() string) string {
	var all []string
	for range r.IntN(4) {
		all = append(all, quoted(value()))
	}
	return "(" + strings.Join(all, ", ") + ")"
}

// scalarText is an operand that is one string.
func (r random) scalarText(depth int) string {
	if depth > 0 && r.IntN(3) == 0 {
		switch r.IntN(6) {
		case 0:
			return "concat(" + r.scalarText(depth-1) + ", " + quoted(r.text()) + ", " + r.scalarText(depth-1) + ")"
		case 1:
			return "join(" + r.separator(depth-1) + ", " + r.fieldList(depth-1) + ")"
		case 2:
			return "join(" + r.separator(depth-1) + ", (" + r.scalarText(depth-1) + ", " + quoted(r.text()) + "))"
		case 3:
			return "getopt(" + r.fieldList(depth-1) + ", " + quoted(r.of("ab:", "a", ":b:")) + ")[" + r.of("a", "b") + "]"
		default:
			return r.of("tolower", "toupper", "b64", "basename") + "(" + r.scalarText(depth-1) + ")"
		}
	}
	return r.of("t.s1", "t.s1", "t.s2", "t.s3", "t.key[x]", "t.key[/a]")
}

// separator is what join puts between texts.
func (r random) separator(depth int) string {
	if r.IntN(3) == 0 {
		return r.of(r.scalarText(depth), "t.n1", "len(t.s1)")
	}
	return quoted(r.of("", ",", "/"))
}

// fieldList is a list that join and getopt take: no other getopt, but in a list of ours.
func (r random) fieldList(depth int) string {
	if depth <= 0 || r.IntN(3) > 0 {
		return r.of("t.ls1", "t.ls2")
	}
	switch r.IntN(3) {
	case 0:
		return r.of("tolower", "toupper", "basename") + "(" + r.fieldList(depth-1) + ")"
	case 1:
		return "(" + r.of("t.n1", "t.a", "t.b", "t.ln", "len(t.ln)", "len(t.s1)") + ", " + r.scalarText(depth-1) + ", " + r.textList(depth-1) + ")"
	default:
		return "(" + r.of("", r.textList(depth-1)) + ")"
	}
}

func (r random) textList(depth int) string {
	if depth > 0 && r.IntN(3) == 0 {
		if r.IntN(3) == 0 {
			return "getopt(" + r.fieldList(depth-1) + ", \"ab:\")"
		}
		return r.of("tolower", "toupper", "basename", "b64") + "(" + r.of(r.textList(depth-1), r.literalList()) + ")"
	}
	return r.of("t.ls1", "t.ls2")
}

// literalList is a list as arguments of transformers may be.
func (r random) literalList() string {
	var all []string
	for range r.IntN(3) {
		all = append(all, r.of(quoted(r.text()), "t.s1", "tolower(t.s2)"))
	}
	return "(" + strings.Join(all, ", ") + ")"
}

func (r random) check() string {
	modifier := r.of("", "", "", " oneof", " anyof", " allof")
	value := func(text func() string) string {
		if modifier != "" {
			return modifier + " " + r.list(text)
		}
		return " " + quoted(text())
	}
	equal := r.of(" =", " !=")
	switch r.IntN(18) {
	case 0, 1, 2:
		return r.scalarText(2) + equal + value(r.text)
	case 3:
		return r.scalarText(1) + r.of(" contains", " icontains", " startswith", " endswith") + value(r.text)
	case 4:
		return r.scalarText(1) + r.of(" contains", " startswith") + value(r.text)
	case 5:
		return r.scalarText(1) + r.of(" glob", " iglob") + value(func() string {
			return r.of("*", "a*", "*b", "?", "a?", "/a/*", "[ab]*", "[!a]*", "a[b]c", `\a`, "*a*", "", "A*c", "[a", `a\`, "*ab*c", "?b*", "B*aBc", "*\xff", "é*")
		})
	case 6:
		return r.scalarText(1) + " regex" + value(func() string {
			return r.of("a", "a.*", ".*b", "(a|b)+", "[ab]+", "", "a|b|abc", "/a(/b)?", "[^a]+", "x.y", "(ab){1,2}", "[[:alpha:]]*", "^ab$", "é", ".*b.*",
				"(ab|b)c*", "a{2,}b?", "x*ab.*", "(/a|/b)+", ".", "a.b", "\uFFFD.*", "[[:upper:]]b", ".*(ab|b\uFFFD).*", "(a|)b")
		})
	case 7, 8:
		return r.scalarText(1) + r.of(" in ", " intersects ") + r.list(r.text)
	case 9:
		return r.scalarText(1) + " pmatch " + r.list(func() string { return r.of("/", "/a", "/a/b", "a/*", "*/b", "/?", "x", "/x/y", "") })
	case 10:
		return r.of("t.n1", "t.n2", "t.r", "t.a", "len(t.s1)", "len(t.ls1)", "len("+r.literalList()+")", "len(getopt(t.ls1, \"ab:\"))") + r.of(" =", " !=") + value(func() string { return r.of(r.number(), "-1") })
	case 11:
		return r.of("t.n1", "t.n2", "t.r", "t.a", "len(t.s1)") + r.of(" < ", " <= ", " > ", " >= ") + r.number()
	case 12:
		return r.of("t.n1", "t.ln", "t.a", "len(t.ls2)") + r.of(" in ", " intersects ") + r.list(r.number)
	case 13:
		return "t.b" + equal + " " + r.of("true", "false")
	case 14:
		if r.IntN(2) == 0 {
			return r.of("t.ip", "t.lip") + r.of(" in ", " intersects ") + r.list(r.ip)
		}
		return "t.ip" + equal + value(r.ip)
	case 15:
		if r.IntN(2) == 0 {
			return r.of("t.net", "t.lnet") + r.of(" in ", " intersects ") + r.list(r.net)
		}
		return "t.net" + equal + value(r.net)
	case 16:
		switch r.IntN(4) {
		case 0:
			return r.textList(2) + r.of(" in ", " intersects ") + r.list(r.text)
		case 1:
			return r.textList(2) + r.of(" in ", " intersects ") + r.of("val(t.ls2)", "tolower(t.ls1)")
		case 2:
			return "t.n1" + r.of(" = ", " < ", " in ") + r.of("val(t.n2)", "len(t.s1)")
		}
		return r.scalarText(1) + r.of(" = ", " != ", " contains ", " startswith ", " in ", " glob ") + r.of("val(t.s2)", "tolower(t.s2)", "val(t.key[x])")
	}
	return r.of(r.scalarText(1), r.textList(1), "t.n1", "t.ip", "t.b") + " exists"
}

func (r random) condition(depth int) string {
	if depth == 0 || r.IntN(4) == 0 {
		return r.check()
	}
	switch r.IntN(5) {
	case 0:
		return "not " + r.condition(0)
	case 1:
		return "not (" + r.condition(depth-1) + ")"
	}
	word := r.of(" and ", " or ")
	terms := []string{}
	for range 2 + r.IntN(2) {
		terms = append(terms, r.condition(depth-1))
	}
	return "(" + strings.Join(terms, word) + ")"
}

// row is an event that has most of the fields.
func (r random) row() map[string][]field.Element {
	row := make(map[string][]field.Element)
	for _, f := range randomFields {
		names := []string{f.Name}
		if f.Arg.Required {
			names = []string{f.Name + "[x]", f.Name + "[/a]"}
		}
		for _, name := range names {
			n := 1
			if f.List {
				n = r.IntN(4) * (1 + r.IntN(3))
			}
			if r.IntN(6) == 0 {
				n = 0
			}
			for range n {
				row[name] = append(row[name], r.element(f.Type))
			}
		}
	}
	return row
}

func (r random) element(t sourceplugin.FieldType) (e field.Element) {
	switch t {
	case sourceplugin.String:
		e.Text = r.value()
	case sourceplugin.IPAddr:
		e.Text, _ = parseAddress(r.ip())
	case sourceplugin.IPNet:
		e.Text = r.of("10.0.0.1/32", "10.1.2.0/24", "2001:db8::5/128", "192.168.0.0/16", "::1/128")
	case sourceplugin.Bool:
		e.Number = uint64(r.IntN(2))
	default:
		e.Number, _ = parseNumber(r.number())
	}
	return e
}

type mapRow struct {
	requests *field.Requests
	values   map[string][]field.Element
}

func (r *mapRow) Values(request int) []field.Element {
	return r.values[r.requests.List()[request].Text]
}

// checkDifference compares a set of random rules with the reference at random rows.
func checkDifference(t *testing.T, seed uint64, rules, rows int) {
	t.Helper()
	r := random{rand.New(rand.NewPCG(seed, 1))}
	requests := field.NewRequests(randomFields)
	indexed, plain := NewBuilder(requests), NewBuilder(requests)
	plain.plain = true
	ref := &reference{fields: make(map[string]field.Field)}
	for _, f := range randomFields {
		ref.fields[f.Name] = f
	}
	var texts []string
	var trees []condition.Expr
	var alone []Condition
	var common []string // what many rules ask
	for range 4 {
		common = append(common, r.condition(1))
	}
	for range rules {
		text := r.condition(r.IntN(4))
		for range r.IntN(3) {
			text = r.of(common...) + " and " + text
		}
		e, err := parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, b := range []*Builder{indexed, plain} {
			if _, err := b.Add(e); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
		}
		c, _, err := indexed.AddCondition(e)
		if err != nil {
			t.Fatal(err)
		}
		texts, trees, alone = append(texts, text), append(trees, e), append(alone, c)
	}
	with, without := indexed.Build().NewState(), plain.Build().NewState()
	for range rows {
		row := r.row()
		ref.values = row
		var want []int
		for i, e := range trees {
			if ref.holds(e) {
				want = append(want, i)
			}
		}
		for name, s := range map[string]*State{"with indexes": with, "without": without} {
			s.Start(&mapRow{requests, row})
			if got := all(s); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d, %s: %s\nrow %+v", seed, name, difference(got, want, texts), row)
			}
		}
		for i, c := range alone {
			if with.Holds(c) != contains(want, i) {
				t.Fatalf("seed %d: %s by itself: %v\nrow %+v", seed, texts[i], with.Holds(c), row)
			}
		}
	}
}

func all(s *State) (rules []int) {
	for n, ok := s.Next(); ok; n, ok = s.Next() {
		rules = append(rules, n)
	}
	return rules
}

func contains(all []int, n int) bool {
	for _, x := range all {
		if x == n {
			return true
		}
	}
	return false
}

func difference(got, want []int, texts []string) string {
	var b strings.Builder
	for i, text := range texts {
		if contains(got, i) != contains(want, i) {
			fmt.Fprintf(&b, "%s: %v\n", text, contains(got, i))
		}
	}
	return b.String()
}

func TestAgainstReference(t *testing.T) {
	t.Parallel()
	if m := gatedMatcher(t); len(m.gates) == 0 {
		t.Error("there are no gates: they are not tried")
	}
	for seed := range uint64(60) {
		checkDifference(t, seed, 1+int(2*seed), 20)
	}
}

func FuzzAgainstReference(f *testing.F) {
	f.Add(uint64(1), uint8(10))
	f.Fuzz(func(t *testing.T, seed uint64, rules uint8) { checkDifference(t, seed, int(rules), 20) })
}

// gatedMatcher has rules many of which ask the same.
func gatedMatcher(t *testing.T) *Matcher {
	r := random{rand.New(rand.NewPCG(1, 2))}
	b := NewBuilder(field.NewRequests(randomFields))
	for range 100 {
		e, err := parse("t.n1 > 5 and " + r.check())
		if err == nil {
			_, err = b.Add(e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}
