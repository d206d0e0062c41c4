package condition

import (
	"errors"
	"strings"
	"testing"
)

const (
	wantText   = "expected a string value or a field with a valid transformer: 'val', 'tolower', 'toupper', 'b64', 'basename', 'len', 'join', 'concat', 'getopt'"
	wantNumber = "expected a number value or a field with a valid transformer: 'val', 'tolower', 'toupper', 'b64', 'basename', 'len', 'join', 'concat', 'getopt'"
	wantList   = "expected a list, an identifier, or a field with a valid transformer: 'val', 'tolower', 'toupper', 'b64', 'basename', 'len', 'join', 'concat', 'getopt'"
	wantOp     = "expected a valid check operator: one of 'exists', '<=', '<', '>=', '>', '==', '=', '!=', 'glob', 'iglob', 'contains', 'icontains', 'bcontains', 'startswith', 'bstartswith', 'endswith', 'regex', 'intersects', 'in', 'pmatch'"
	wantTerm   = "expected a '(' token, a field check, or an identifier"
	wantArg    = "expected field transformer argument: field, transformer, quoted string, number, or transformer list"
)

func wantAfter(token string) string {
	return "unexpected token after '" + token + "', expecting 'or', 'and'"
}

// TestErrors: every mistake has its message, its place and, where there is one, its advice. The
// places are where ^ is, which is no part of the text.
func TestErrors(t *testing.T) {
	for _, tt := range []struct{ text, message, hint string }{
		{"^", "filter input string is empty", "write a condition"},
		{"  ^", wantTerm, "something must follow"},
		{"a.b = x and ^", wantTerm, "something must follow"},
		{"^!m", wantTerm, `did you mean "not"?`},
		{"^.a = x", wantTerm, ""},
		{`^"a.b" = x`, wantTerm, "a field is on the left side"},
		{"( ^)", wantTerm, ""},
		{"not ^", wantTerm, ""},
		{"not ^)", wantTerm, ""},
		{"a.b = x ^y", wantAfter("x"), "in quotes"},
		{"a.b = x ^AND m", wantAfter("x"), "keywords are in lower case: and"},
		{"a.b = x ^&& m", wantAfter("x"), `did you mean "and"?`},
		{"a.b = x ^|| m", wantAfter("x"), `did you mean "or"?`},
		{"a.b = x ^adn m", wantAfter("x"), `did you mean "and"?`},
		{"a.b = x^)", wantAfter("x"), "a parenthesis too much"},
		{"m or(a.b = x) ^and m", wantAfter(")"), "blank before the parenthesis"},
		{"a.b = x and^roid", "expected blank or '(' after 'and'", ""},
		{"a.b = x or^m", "expected blank or '(' after 'or'", ""},
		{"(a.b = x^", "expected a ')' token", "not closed"},
		{"(a.b = x ^y)", "expected a ')' token", "in quotes"},
		{"a.b ^is x", wantOp, `did you mean "="?`},
		{"a.b ^startwith x", wantOp, `did you mean "startswith"?`},
		{"a.b ^contans x", wantOp, `did you mean "contains"?`},
		{"a.b ^CONTAINS x", wantOp, `did you mean "contains"?`},
		{"a.b ^starts_with x", wantOp, `did you mean "startswith"?`},
		{"a.b =~ ^x", wantAfter("~"), `did you mean "regex"?`},
		{"length^(a.b) = 5", wantAfter("length"), `did you mean "len("?`},
		{"a.b ^~ x", wantOp, `did you mean "regex"?`},
		{"a.b ^not in (x)", wantOp, `"not" is written before the field`},
		{"a.b ^contains(x)", wantOp, "a blank must follow contains"},
		{"a.b ^anyof (x)", wantOp, "written behind an operator"},
		{"a.b^", wantOp, ""},
		{"a.b^.7 = x", wantOp, ""},
		{"a.b = ^", wantText, "a value must follow"},
		{"a.b = ^(x)", wantText, "in (...)"},
		{"a.b regex ^(x|y)", wantText, "written in quotes"},
		{"a.b = ^'x", wantText, "no end"},
		{`a.b = ^"x\\"`, wantText, `\x5c`},
		{"a.b = x\x00^'", wantAfter("x\x00"), ""},
		{"a.b = ^=x", wantText, ""},
		{"a.b < ^x", wantNumber, ""},
		{"a.b < ^'5'", wantNumber, "without quotes"},
		{"a.b <^> 5", wantNumber, `did you mean "!="?`},
		{"a.b < ^a.c", wantNumber, "val(FIELD)"},
		{"a.b < 5^x", wantAfter("5"), ""},
		{"a.b < 0^xg", wantAfter("0"), ""},
		{"a.b < 1^e5", wantAfter("1"), ""},
		{"a.b in ^", wantList, "in (...)"},
		{"a.b in ^'x'", wantList, ""},
		{"a.b in ^5", wantList, ""},
		{"a.b in x^.y", wantAfter("x"), ""},
		{"a.b in (x,^)", "expected a string value", "a comma too much"},
		{"a.b in (^,x)", "expected a ')' token", "a comma too much"},
		{"a.b in (x ^y)", "expected a ')' token", "commas between"},
		{"a.b in (x^", "expected a ')' token", "not closed"},
		{"a.b in (x, ^(y))", "expected a string value", "lists are not in lists"},
		{"a.b in (tolower^(a.c))", "expected a ')' token", "lists are not in lists"},
		{"a.b startswith anyof (x,^)", "expected a string value", ""},
		{`a.b = "a^\qb"`, `unsupported string escape sequence: \q`, `\\`},
		{`a.b in ("a^\d")`, `unsupported string escape sequence: \d`, `\\`},
		{`a.b = "a^\x4g"`, `unsupported string escape sequence: \x`, "two hexadecimal digits"},
		{`a.b = "a^\x4"`, `unsupported string escape sequence: \x`, "two hexadecimal digits"},
		{`a.b = "a^\é"`, `unsupported string escape sequence: \é`, `\\`},
		{`a.b = "a^\'b"`, `invalid \' escape in "-quoted string`, "without the backslash"},
		{`a.b = 'a^\"b'`, `invalid \" escape in '-quoted string`, "without the backslash"},
		{"a.b[^] exists", "expected a valid field argument: a quoted string or a bare string", "in quotes"},
		{"a.b[^ x] exists", "expected a valid field argument: a quoted string or a bare string", "in quotes"},
		{"a.b[x^ y] exists", "expected a ']' token", "in quotes"},
		{"a.b[x^", "expected a ']' token", ""},
		{"val^(a.b) = x", wantAfter("val"), "right side"},
		{"lower^(a.b) = x", wantAfter("lower"), `did you mean "tolower("?`},
		{"tolower ^(a.b) = x", wantAfter("tolower"), ""},
		{"tolower(^)", wantArg, ""},
		{"tolower(^m) = x", wantArg, ""},
		{"tolower(^val(a.b)) = x", wantArg, ""},
		{"concat(a.b,^)", wantArg, ""},
		{"tolower(a.b^", "expected a ')' token closing the transformer", ""},
		{"join(',', (a.b, ^m)) = x", "expected transformer list argument: field, transformer, quoted string, or number", ""},
		{"join(',', (a.b, ^(a.c))) = x", "expected transformer list argument: field, transformer, quoted string, or number", ""},
		{"join(',', (a.b ^a.c)) = x", "expected ')'", ""},
		{"tolower(a.b)[^] exists", "expected a valid field argument: a quoted string or a bare string", ""},
		{"a.b = val(^m)", "expected a field within 'val' transformer", "one field"},
		{"a.b = val(a.c^", "expected a ')' token closing the transformer", ""},
	} {
		offset := strings.Index(tt.text, "^")
		text := tt.text[:offset] + tt.text[offset+1:]
		_, err := parse(text)
		var got *Error
		if !errors.As(err, &got) {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got.Message != tt.message {
			t.Errorf("%s\ngot  %s\nwant %s", tt.text, got.Message, tt.message)
		}
		if got.At.Offset != offset {
			t.Errorf("%s: at %d (%s^%s)", tt.text, got.At.Offset, text[:got.At.Offset], text[got.At.Offset:])
		}
		if !strings.Contains(got.Hint, tt.hint) {
			t.Errorf("%s: hint %q", tt.text, got.Hint)
		}
	}
}

// TestTrees is about what is read other than one might think.
func TestTrees(t *testing.T) {
	for text, want := range map[string]string{
		"AND":                    "AND",
		"x and not":              "(x and (not))",
		"and":                    "and",
		"orange or android":      "(orange or android)",
		"notes":                  "notes",
		"a.b exists and exists":  "(a.b exists and exists)",
		"a.b = oneof":            "a.b = oneof",
		"a.b = oneof or m":       "(a.b = oneof or m)",
		"a.b = anyofthem":        "a.b = anyofthem",
		"a.b = anyof and(m)":     "(a.b = anyof and m)",
		"a.b increate":           "a.b in create",
		"a.b existsand m":        "(a.b exists and m)",
		"a.b=c\vand m":           "",
		"a.b = c\b and m":        "(a.b = \"c\\b\" and m)",
		"a.b\b\t=\r\n\bc":        "a.b = c",
		"a.b = length(":          "",
		"a.b = len":              "a.b = len",
		"a.b = a.c":              "a.b = a.c",
		"a.b <0x5":               "a.b < 0x5",
		"a.b >= +1.5e-3":         "a.b >= +1.5e-3",
		"a.b = 'cre\\'ate'":      "a.b = cre'ate",
		"a.b = \"a\\ b\"":        `a.b = "a\\b"`,
		"a.b contains x]":        "a.b contains x]",
		"a.b[/a~1b/0] = x":       "a.b[/a~1b/0] = x",
		"a.b = \"x\\\\\" and \"": `a.b = "x\\\" and "`,
		"m1 and m2 or m3 and m4": "((m1 and m2) or (m3 and m4))",
		"not m1 and not not m2":  "(not m1 and m2)",
	} {
		e, err := parse(text)
		if want == "" {
			if err == nil {
				t.Errorf("%q is %s", text, String(e))
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := String(e); got != strings.Replace(want, "cre'ate", `"cre'ate"`, 1) {
			t.Errorf("%q\ngot  %s\nwant %s", text, got, want)
		}
	}
}

func TestNesting(t *testing.T) {
	nest := func(open, inner, end string, n int) string {
		return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
	}
	for _, tt := range []struct{ open, inner, end string }{
		{"(", "m", ")"}, {"m or not(", "m", ")"}, {"m and(", "m", ")"}, {"not (m or ", "m", ")"},
	} {
		e, err := parse(nest(tt.open, tt.inner, tt.end, MaxNesting))
		if err != nil {
			t.Errorf("%s: %v", tt.open, err)
			continue
		}
		checkRoundTrip(t, e)
		for _, n := range []int{MaxNesting + 1, 200_000} {
			if _, err := parse(nest(tt.open, tt.inner, tt.end, n)); err == nil || err.Error() != "exceeded max depth limit of 1000" {
				t.Errorf("%s %d times: %v", tt.open, n, err)
			}
		}
	}
	if _, err := parse(nest("tolower(", "a.b", ")", MaxNesting) + " = x"); err != nil {
		t.Error(err)
	}
	if _, err := parse(nest("tolower(", "a.b", ")", MaxNesting+1) + " = x"); err == nil {
		t.Error("transformers without a bound")
	}
	if _, err := parse(strings.Repeat("not ", 100_000) + "m"); err != nil {
		t.Error(err)
	}
}

func TestPositions(t *testing.T) {
	const text = " not  a.b[x] = 'y' and\n( tolower(a.c) in (p, q) or m )"
	e, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	at := func(p Pos) string { return strings.TrimSpace(text[p.Offset:min(p.Offset+5, len(text))]) }
	Walk(e, func(e Expr) bool {
		got = append(got, at(e.Position()))
		if c, ok := e.(*Check); ok {
			got = append(got, at(c.Left.Position()), at(c.Right.Position()))
		}
		if l, ok := e.(*Check); ok && l.Op == In {
			got = append(got, at(l.Left.(*Transformer).Args[0].Position()), at(l.Right.(*List).Items[1].Position()))
		}
		return true
	})
	const want = "not|not|a.b[x|a.b[x|'y' a|tolow|tolow|tolow|(p, q|a.c)|q) or|m )"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
}

func TestParseOperand(t *testing.T) {
	for text, want := range map[string]string{
		"%ka.verb|":                          "ka.verb then |",
		"%ka.verb.extra x":                   "ka.verb.extra then x",
		"%a.b[x] and":                        "a.b[x] then and",
		"%a.b.":                              "a.b then .",
		"%tolower( a.b )]":                   "tolower(a.b) then ]",
		`%join(",", (a.b, concat(a.c, 1)))!`: `join(",", (a.b, concat(a.c, 1))) then !`,
		"%m":                                 "expected a field or a valid transformer: 'tolower', 'toupper', 'b64', 'basename', 'len', 'join', 'concat', 'getopt'",
		"%":                                  "expected a field or a valid transformer: 'tolower', 'toupper', 'b64', 'basename', 'len', 'join', 'concat', 'getopt'",
		"%a.b[x y]":                          "expected a ']' token",
		"%tolower(m)":                        wantArg,
	} {
		o, end, err := ParseOperand(&Text{Content: text}, 1)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = OperandString(o) + " then " + strings.TrimSpace(text[end:])
		}
		if got != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
}
