package condition

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// trees makes random conditions of all that there is.
type trees struct{ *rand.Rand }

func (r trees) pick(words ...string) string { return words[r.IntN(len(words))] }

func (r trees) expr(depth int) Expr {
	n := r.IntN(10)
	if depth == 0 {
		n = 5 + r.IntN(5)
	}
	switch {
	case n < 2:
		return &And{Terms: r.terms(depth - 1)}
	case n < 4:
		return &Or{Terms: r.terms(depth - 1)}
	case n < 5:
		e := r.expr(depth - 1)
		if _, twice := e.(*Not); twice {
			return e // two of them are read as none
		}
		return &Not{Term: e}
	case n < 6:
		return &Macro{Name: r.pick("m", "AND", "notes", "order", "android", "in_list2", "not", "and", "or", "exists", "val")}
	}
	return r.check()
}

func (r trees) terms(depth int) []Expr {
	var terms []Expr
	for range 2 + r.IntN(3) {
		terms = append(terms, r.expr(depth))
	}
	return terms
}

func (r trees) check() *Check {
	c := &Check{Left: r.field(), Op: Exists}
	if r.IntN(3) == 0 {
		c.Left = r.transformer(2)
	}
	switch r.IntN(4) {
	case 0:
	case 1:
		c.Op = Op(r.pick(numericOps...))
		c.Right = &Literal{Text: r.pick("0", "-1", "+1.5", "1.", "1e-5", "0x1F", "007")}
	case 2:
		c.Op = Op(r.pick(listOps...))
		c.Right = r.listOrWord()
	default:
		if c.Op = Op(r.pick(append([]string{"=", "!="}, textWords...)...)); c.Op == Equal {
			c.Doubled = r.IntN(2) == 0
		}
		c.Right = &Literal{Text: r.text(), Quoted: r.IntN(2) == 0}
		if r.IntN(3) == 0 {
			c.Modifier = []Modifier{OneOf, AnyOf, AllOf}[r.IntN(3)]
			c.Right = r.listOrWord()
		}
	}
	if c.Op != Exists && c.Modifier == None {
		switch r.IntN(6) {
		case 0:
			c.Right = r.transformer(2)
		case 1:
			f := r.field()
			f.Val = true
			c.Right = f
		}
	}
	return c
}

func (r trees) field() *Field {
	f := &Field{Name: r.pick("a.b", "ka.req.pod.containers.image", "json.value", "a1_.b_2", "and.or", "not.not", "len.val")}
	if r.IntN(3) == 0 {
		if f.Arg = r.text(); f.Arg != "" {
			f.ArgPresent, f.ArgQuoted = true, r.IntN(2) == 0
		}
	}
	return f
}

func (r trees) transformer(depth int) *Transformer {
	t := &Transformer{Name: r.pick(transformers...)}
	for range 1 + r.IntN(3) {
		switch n := r.IntN(6); {
		case n == 0:
			t.Args = append(t.Args, &Literal{Text: r.text(), Quoted: true})
		case n == 1:
			t.Args = append(t.Args, &Literal{Text: r.pick("1", "0xff")})
		case n == 2 && depth > 0:
			t.Args = append(t.Args, r.transformer(depth-1))
		case n == 3:
			l := &List{}
			for range r.IntN(3) {
				l.Items = append(l.Items, r.field(), &Literal{Text: r.text(), Quoted: true})
			}
			t.Args = append(t.Args, l)
		default:
			t.Args = append(t.Args, r.field())
		}
	}
	if r.IntN(5) == 0 {
		t.Arg, t.ArgPresent = "x", true
	}
	return t
}

func (r trees) listOrWord() *List {
	if r.IntN(5) == 0 {
		return &List{Items: []Operand{&Literal{Text: r.pick("word", "a_list", "oneof", "not")}}, Bare: true}
	}
	l := &List{}
	for range r.IntN(9) {
		l.Items = append(l.Items, &Literal{Text: r.text(), Quoted: r.IntN(2) == 0})
	}
	return l
}

func (r trees) text() string {
	switch r.IntN(4) {
	case 0:
		return r.pick("", "create", "a b", "and", "anyof", "val(a.b)", `\`, `"`, "'", `C:\x`, "5", "é€😀", "repo/img1:1", "<NA>", "a=b", "(a|b)")
	case 1:
		b := make([]byte, r.IntN(6))
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		return string(b)
	}
	var b strings.Builder
	for range r.IntN(8) {
		b.WriteString(r.pick("a", "B", "7", " ", `\`, `"`, "'", "(", ")", "[", "]", ",", "=", "\t", "\n", "\b", "\v", "\f", "é", "\x00", "\xff", "/", "~", "%"))
	}
	return b.String()
}

// TestPrint: what is written is read as the same tree, whatever is in it.
func TestPrint(t *testing.T) {
	seed := rand.Uint64()
	r := trees{rand.New(rand.NewPCG(seed, 0))}
	for range 3000 {
		e := r.expr(4)
		checkRoundTrip(t, e)
		checkFormat(t, e, 20+r.IntN(100))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// checkFormat checks that a formatted tree is the same, and that it is formatted the same again.
func checkFormat(t *testing.T, e Expr, width int) {
	t.Helper()
	text := Format(e, width)
	again, err := parse(text)
	if err != nil {
		t.Errorf("%.2000s\nformatted: %v", text, err)
		return
	}
	if !Same(e, again) {
		t.Errorf("%s\nformatted became\n%s", String(e), text)
	}
	if twice := Format(again, width); twice != text {
		t.Errorf("%s\nformatted again:\n%s", text, twice)
	}
}

func TestString(t *testing.T) {
	for text, want := range map[string]string{
		"a.b=c":                          "a.b = c",
		"not not a.b == 'c'":             "a.b == c",
		"a.b = c or a.b = d and m":       "(a.b = c or (a.b = d and m))",
		"not(a.b=1 or m) and n":          "(not (a.b = 1 or m) and n)",
		`a.b in (x, "two words",'it')`:   `a.b in (x, "two words", it)`,
		"a.b in x":                       "a.b in x",
		"a.b in ( )":                     "a.b in ()",
		`a.b regex "(x|y)"`:              `a.b regex "(x|y)"`,
		`a.b contains ""`:                `a.b contains ""`,
		`a.b = C:\x`:                     `a.b = "C:\\x"`,
		`a.b = x\`:                       `a.b = "x\x5c"`,
		`a.b = "\x41\x00\xFF"`:           `a.b = "A\x00\xff"`,
		`a.b = '"'`:                      `a.b = "\""`,
		`a.b["x"] exists`:                "a.b[x] exists",
		`a.b['x y'] exists`:              `a.b["x y"] exists`,
		`a.b[""] exists`:                 `a.b[""] exists`,
		"a.b=val( a.c[x] )":              "a.b = val(a.c[x])",
		"tolower( a.b )>=len(a.c)":       "tolower(a.b) >= len(a.c)",
		`join(",",(a.b,"x",3))=y`:        `join(",", (a.b, "x", 3)) = y`,
		`concat(a.b, "-")=tolower(a.b)`:  `concat(a.b, "-") = tolower(a.b)`,
		`getopt(a.b,"ab:")[a] exists`:    `getopt(a.b, "ab:")[a] exists`,
		"a.b startswith anyof(x,y)":      "a.b startswith anyof (x, y)",
		"a.b != allof list_1":            "a.b != allof list_1",
		"a.b = anyof and m":              "(a.b = anyof and m)",
		"a.b intersects(x)and(m)":        "(a.b intersects (x) and m)",
		"((a.b exists))":                 "a.b exists",
		"(m1 and m2) and m3":             "((m1 and m2) and m3)",
		"m1 and(m2 or m3)and m4":         "(m1 and (m2 or m3) and m4)",
		"a.b pmatch (/x/*,\n\t\b/y)\r\n": "a.b pmatch (/x/*, /y)",
	} {
		e, err := parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := String(e); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
}

func TestCompiled(t *testing.T) {
	for text, want := range map[string]string{
		`a.b in (x, "two words", 'it') and not m`:  `(a.b in (x, "two words", it) and not m)`,
		`a.b regex "(x|y)" or a.b = "it's"`:        `(a.b regex (x|y) or a.b = "it's")`,
		`a.b = "" and a.b = "x\\y" and a.b = "\t"`: `(a.b =  and a.b = "x\\y" and a.b = "\t")`,
		`concat(a.b, "-", a.c["x"]) == "a=b"`:      `concat(a.b, -, a.c[x]) == a=b`,
		`a.b startswith anyof ("a", b)`:            `a.b startswith anyof (a, b)`,
		`m and not`:                                `(m and not)`,
	} {
		e, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := Compiled(e); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
	o, _, err := ParseOperand(&Text{Content: `join(", ", (a.b, "x"))`}, 0)
	if err != nil || CompiledOperand(o) != `join(", ", (a.b, x))` {
		t.Error(CompiledOperand(o), err)
	}
}

func TestFormat(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"a.b=c and( d.e = 'f' )", "a.b = c and d.e = 'f'"},
		{"a.b = aaaaaaaaaaaaaaaaaaaaaaaaa and (c.d = ccccccccccccc or not m1 and m2)", `
a.b = aaaaaaaaaaaaaaaaaaaaaaaaa
and (
  c.d = ccccccccccccc
  or (not m1 and m2)
)`},
		{"macro1 and not (macro2 or a.b in (a, 'b', \"c d\")) and m3 or long_macro_name", `
(
  macro1
  and not (
    macro2
    or a.b in (a, 'b', "c d")
  )
  and m3
)
or long_macro_name`},
		{"some.field in (a_list, item1, item2, item3, item4, 'x y', item5) and m", `
some.field in (
  a_list, item1, item2, item3,
  item4, 'x y', item5
)
and m`},
		{"some.field contains \"a string that is longer than the line\" or a.b[\"x\"] exists", `
some.field contains "a string that is longer than the line"
or a.b["x"] exists`},
	} {
		e, err := parse(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := Format(e, 32); got != strings.TrimPrefix(tt.want, "\n") {
			t.Errorf("%s\ngot\n%s", tt.text, got)
		}
		checkFormat(t, e, 32)
	}
}

// FuzzParse: nothing that can be read makes a panic, and what is read is written as the same.
func FuzzParse(f *testing.F) {
	for _, r := range readRecorded(f) {
		f.Add(r.condition)
	}
	for _, text := range []string{"a.b = 'x", `a.b = "\\" and a.c = "y"`, "a.b\b=\bx\v", "((((((a", "not(not(not(", "tolower(tolower(a.b", "a.b = anyof(", "a.b[", "a.b in (x,,)", "getopt(a.b)[x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parse(text)
		if _, end, err := ParseOperand(&Text{Content: text}, 0); end > len(text) || err == nil && end == 0 {
			t.Errorf("an operand of %q ends at %d", text, end)
		}
		if err != nil {
			where, ok := err.(*Error)
			if !ok || where.Message == "" || where.At.Offset < 0 || where.At.Offset > len(text) {
				t.Errorf("%#v", err)
			}
			return
		}
		if len(text) > 2000 {
			return
		}
		Walk(e, func(e Expr) bool {
			if at := e.Position(); at.Text == nil || at.Offset >= len(text) {
				t.Errorf("%T is nowhere", e)
			}
			return true
		})
		checkRoundTrip(t, e)
		checkFormat(t, e, 40)
	})
}

// TestFormatOfDeepTrees: the time is proportional to the text.
func TestFormatOfDeepTrees(t *testing.T) {
	e, err := parse(strings.Repeat("m and (n or ", MaxNesting/2) + "m" + strings.Repeat(")", MaxNesting/2))
	if err != nil {
		t.Fatal(err)
	}
	checkFormat(t, e, 80)
	if n := len(Format(e, 80)); n > 500_000 {
		t.Errorf("%d characters", n)
	}
}
