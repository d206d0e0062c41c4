package match

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// compileError returns the error of a condition on the random fields, nil if it compiles.
func compileError(text string) error {
	e, err := parse(text)
	if err == nil {
		_, err = NewBuilder(field.NewRequests(randomFields)).Add(e)
	}
	return err
}

// fits evaluates a condition at a row of the random fields.
func fits(t *testing.T, text string, row map[string][]field.Element) bool {
	t.Helper()
	requests := field.NewRequests(randomFields)
	b := NewBuilder(requests)
	e, err := parse(text)
	if err == nil {
		_, err = b.Add(e)
	}
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	s := b.Build().NewState()
	s.Start(&mapRow{requests, row})
	_, ok := s.Next()
	return ok
}

func texts(all ...string) (elements []field.Element) {
	for _, t := range all {
		elements = append(elements, field.Element{Text: t})
	}
	return elements
}

// operators by the types whose values they compare.
func TestOperatorsFitTypes(t *testing.T) {
	t.Parallel()
	const (
		equal  = "= !="
		order  = "< <= > >="
		sets   = "in intersects"
		search = "contains icontains startswith endswith glob iglob regex pmatch"
	)
	constants := map[string]string{"t.b": "true", "t.ip": "10.0.0.1", "t.net": "10.0.0.0/8"}
	for fields, x := range map[string]struct{ operators, filters string }{
		"t.s1 tolower(t.s1)":      {equal + " " + order + " " + sets + " " + search, "for string"},
		"t.n1 t.r t.a len(t.s1)":  {equal + " " + order + " " + sets, "for numeric"},
		"t.b":                     {equal + " " + sets, "for numeric"},
		"t.ip t.net":              {equal + " " + sets, "for ip address and network"},
		"t.ls1 t.ln t.lip t.lnet": {sets, "list"},
	} {
		for name := range strings.FieldsSeq(fields) {
			for _, op := range condition.Operators() {
				value := constants[name]
				if value == "" {
					value = "5"
				}
				if strings.HasPrefix(name, "t.l") {
					value = map[string]string{"t.lip": "10.0.0.1", "t.lnet": "10.0.0.0/8"}[name]
				}
				text := name + " " + op + " "
				switch op {
				case "exists":
				case "in", "intersects", "pmatch":
					text += "(" + value + ")"
				default:
					if value == "" || strings.HasPrefix(op, "<") || strings.HasPrefix(op, ">") {
						value = "5"
					}
					text += value
				}
				shown := op
				if op == "==" {
					shown = "="
				}
				err := compileError(text)
				want := ""
				if op != "exists" && !slices.Contains(strings.Fields(x.operators), shown) {
					want = "filter error: '" + shown + "' operator not supported " + x.filters + " filters"
				}
				if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
					t.Errorf("%s: %v, want %q", text, err, want)
				}
			}
		}
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxConstant)
	for text, want := range map[string]string{
		"t.n1 = abc":                             "abc is not a valid number",
		"t.n1 = \"5 \"":                          "5  is not a valid number",
		"t.n1 = \"\"":                            " is not a valid number",
		"t.n1 = \"--5\"":                         "--5 is not a valid number",
		"t.n1 in (1, 0x10)":                      "0x10 is not a valid number",
		"t.r = 1.5":                              "1.5 is not a valid number",
		"t.b = True":                             "filter error: unrecognized boolean value True",
		"t.b in (true, 1)":                       "filter error: unrecognized boolean value 1",
		"t.ip = 10.0.0":                          "unrecognized IPv4 address 10.0.0",
		"t.ip = 10.0.0.01":                       "unrecognized IPv4 address 10.0.0.01",
		"t.ip = ::ffff:10.0.0.1":                 "unrecognized IPv4 address ::ffff:10.0.0.1",
		"t.ip = localhost":                       "unrecognized IPv6 address localhost",
		"t.ip = fe80::1%eth0":                    "unrecognized IPv6 address fe80::1%eth0",
		"t.net = 10.0.0.1":                       "unrecognized IP network 10.0.0.1",
		"t.net = 10.0.0/8":                       "unrecognized IP address 10.0.0/8",
		"t.net = 10.0.0.0/256":                   "invalid netmask 256",
		"t.net = 10.0.0.0/33":                    "invalid netmask 33",
		"t.net = 10.0.0.0/x":                     "x is not a valid number",
		"t.net = 2001:db8::":                     "invalid v6 netmask: 2001:db8::",
		"t.net = 2001:db8::/129":                 "invalid v6 netmask 129",
		"t.net in (::/0)":                        "invalid v6 netmask 0",
		"t.s1 = " + long + "y":                   "filter parameter too long:" + long + "y",
		"t.s1 in (a, " + long + "y)":             "filter parameter too long:" + long + "y",
		`t.s1 = "a\x00b"`:                        "filter error: unexpected NUL byte in a value",
		"t.s1 regex \"(a\"":                      "invalid regex pattern: missing ): (a",
		"t.s1 regex \"a)\"":                      "invalid regex pattern: unexpected ): a)",
		"t.s1 regex \"*a\"":                      "invalid regex pattern: no argument for repetition operator: *",
		"t.s1 regex \"[b-a]\"":                   "invalid regex pattern: invalid character class range: b-a",
		`t.s1 regex "\\d+"`:                      `invalid regex pattern: invalid escape sequence: \d`,
		`t.s1 regex "(?:a)"`:                     "invalid regex pattern: no argument for repetition operator: ?",
		`t.s1 regex "a{1001}"`:                   "invalid regex pattern: invalid repetition size: {1001}",
		"t.s1 regex anyof (a, \"[\")":            "invalid regex pattern: missing ]: [",
		"t.nope = a":                             "filter_check called with nonexistent field t.nope",
		"t.s1x = a":                              "filter_check called with nonexistent field t.s1x",
		"t.keys = a":                             "filter 't.keys': t.key requires an argument but none provided",
		"t.key = a":                              "filter 't.key': t.key requires an argument but none provided",
		"t.s1[0] = a":                            "filter 't.s1[0]': t.s1 does not allow nor require an argument but one is provided: 0",
		`t.key["a b"] = a`:                       "filter 't.key[a': t.key has unbalanced argument brackets",
		"t.s1 regex val(t.s2)":                   "operator 'REGEX' doesn't support right-hand side fields",
		"t.s1 pmatch val(t.s2)":                  "operator 'PMATCH' doesn't support right-hand side fields",
		"t.net = val(t.net)":                     "field type 'IPNET' doesn't support right-hand side fields",
		"t.s1 = val(t.n1)":                       "field 't.s1' has type 'CHARBUF' while the right-hand side field 't.n1' has incompatible type 'UINT64'",
		"t.ls1 in val(t.s1)":                     "field 't.ls1' has type 'CHARBUF (list)' while the right-hand side field 't.s1' has incompatible type 'CHARBUF'",
		"len(t.s1) = val(t.s2)":                  "field 't.s1' has type 'UINT64' while the right-hand side field 't.s2' has incompatible type 'CHARBUF'",
		"tolower(t.n1) = a":                      "can't add field transformer: type 'UINT64' is not supported by 'tolower' transformer applied on field 't.n1'",
		"tolower(t.ln) exists":                   "can't add field transformer: type 'UINT64' is not supported by 'tolower' transformer applied on list field 't.ln'",
		"len(t.n1) = 1":                          "can't add field transformer: type 'UINT64' is not supported by 'len' transformer applied on field 't.n1'",
		"concat(t.s1, t.n1) = a":                 "concat() arguments must be strings",
		"concat(t.s1, t.ls1) = a":                "concat() arguments must be strings",
		"join(t.s1, t.s2) = a":                   "join() second argument must be a list",
		"join(t.ls1, t.ls2) = a":                 "join() first argument (separator) must be a single value, not a list",
		"join(t.s1) = a":                         "unknown field transfomer 'join'",
		`getopt(t.s1, "a") exists`:               "getopt() first argument must be a list",
		`getopt(t.ls1, t.ls1) exists`:            "getopt() second argument (optstring) must be a single value",
		`getopt(t.ls1, "ab")[ab] = x`:            "getopt() field argument must be a single option character",
		`getopt(t.ls1, "ab")[""] = x`:            "getopt() field argument must be a single option character",
		`getopt(getopt(t.ls1, "a"), "a") exists`: "getopt() first argument must be a list",
		`join(",", getopt(t.ls1, "a")) = a`:      "join() second argument must be a list",
		"concat(t.s1, len(t.ls1)) = a":           "concat() arguments must be strings",
		`t.index[""] exists`:                     "filter 't.index[]': t.index has an invalid index argument starting with 0: ",
		`t.s1[""] exists`:                        "filter 't.s1[]': t.s1 does not allow nor require an argument but one is provided: ",
		"evt.num[0] = 1":                         "filter_check called with nonexistent field evt.num[0]",
	} {
		err := compileError(text)
		var mistake *condition.Error
		if !errors.As(err, &mistake) || mistake.Message != want || mistake.At.Text == nil {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	for _, text := range []string{
		"t.s1 = " + long, "t.n1 = +1", "t.n1 = 01", `t.n1 = " 5"`, "t.n1 = 99999999999999999999", "t.ip = ::1", "t.net = 0.0.0.0/0",
		`t.s1 = ""`, "t.s1 = anyof", "t.s1 in ()", `t.key[""] exists`, `t.key["a\tb"] exists`, `concat(getopt(t.ls1, "a"), "x") = a`,
	} {
		if err := compileError(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestHints(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"t.s1s = a":          "did you mean t.s1?",
		`t.s1 regex "(?i)a"`: "tolower()",
		`t.s1 regex "\\d"`:   "[[:digit:]]",
	} {
		var mistake *condition.Error
		if err := compileError(text); !errors.As(err, &mistake) || !strings.Contains(mistake.Hint, want) {
			t.Errorf("%s: %+v, want a hint with %q", text, mistake, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	simpler := func(pattern string) string {
		return "regex check with '" + pattern + "' may be optimized with simpler operators such as '=', 'contains', 'startswith', 'endswith'"
	}
	for text, want := range map[string][]string{
		"ka.verb = create":                     nil,
		"ka.verb regex create":                 {simpler("create")},
		`ka.verb regex "^create$"`:             {simpler("^create$")},
		`ka.verb regex ".*eat.*"`:              {simpler(".*eat.*")},
		`ka.verb regex "c.*e"`:                 nil,
		`ka.verb regex "(a|b)"`:                nil,
		"ka.verb = ka.user.name":               {"'ka.user.name' may be a valid field misused as a const string value"},
		`ka.verb = "ka.user.name "`:            {"'ka.user.name ' may be a valid field misused as a const string value"},
		"ka.verb = ka.nothing":                 nil,
		`ka.verb in (a, "ka.uri.param[x]")`:    {"'ka.uri.param[x]' may be a valid field misused as a const string value"},
		`ka.verb = "ka.uri.param"`:             nil,
		`ka.verb = "tolower(ka.verb)"`:         {"'tolower(ka.verb)' may be a valid field transformer misused as a const string value"},
		`ka.verb = "<NA>"`:                     {"LOAD_UNSAFE_NA_CHECK"},
		`not jevt.value[/x] in (a, "<NA>")`:    {"LOAD_UNSAFE_NA_CHECK"},
		`evt.source = "<NA>"`:                  nil,
		`tolower(ka.verb) = "<NA>"`:            {"LOAD_UNSAFE_NA_CHECK"},
		`concat(ka.verb, evt.source) = "<NA>"`: nil,
		`concat(evt.source, ka.verb) = "<NA>"`: {"LOAD_UNSAFE_NA_CHECK"},
		`ka.verb = concat("<NA>", ka.verb)`:    {"LOAD_UNSAFE_NA_CHECK"},
		`ka.verb contains "<NA>"`:              nil,
		`ka.verb = "<NA>" or ka.verb regex a`:  {"LOAD_UNSAFE_NA_CHECK", simpler("a")},
	} {
		requests, _ := recordedEvent(t)
		e, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		warnings, err := NewBuilder(requests).Add(e)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		var got []string
		for _, w := range warnings {
			if w.At.Text == nil {
				t.Errorf("%s: a warning without a place", text)
			}
			got = append(got, w.Message+w.Code)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestTransformers(t *testing.T) {
	t.Parallel()
	row := map[string][]field.Element{
		"t.s1": texts("/Some/Text"), "t.s2": texts("U29tZSBUZXh0"), "t.s3": texts("x=="), "t.ls1": texts("-a", "-bv", "-b", "w", "-c", "rest", "-a"),
		"t.ls2": texts("--long", "-ab"), "t.key[x]": texts("=="),
	}
	for text, want := range map[string]bool{
		`toupper(t.s1) = "/SOME/TEXT"`: true, `tolower(t.s1) = "/some/text"`: true, "basename(t.s1) = Text": true, "basename(tolower(t.s1)) = text": true,
		`b64(t.s2) = "Some Text"`: true, "b64(t.s3) exists": false, "not b64(t.s3) = x": true, "b64(t.key[x]) exists": false, "tolower(t.key[y]) exists": false,
		"len(t.s1) = 10": true, "len(t.ls1) = 7": true, "len(t.key[y]) exists": false, `concat(t.s1, "+", t.s2) startswith "/Some/Text+U29"`: true,
		`concat(t.s1, t.key[y]) exists`: false, `join(",", t.ls2) = "--long,-ab"`: true, `join("", (t.s2, "!")) = "U29tZSBUZXh0!"`: true, `join(",", (t.s1, t.key[y])) exists`: false,
		// An argument that is no option ends the options; a value that is missing is empty; -c is not known.
		`getopt(t.ls1, "ab:") in (a, b, v, w, "?")`: true, `getopt(t.ls1, "ab:") intersects (rest)`: false, `len(getopt(t.ls1, "ab:")) = 1`: true,
		`getopt(t.ls1, "ab:")[b] = w`: true, `getopt(t.ls1, "ab:")[a] = a`: true, `getopt(t.ls1, "ab:c")[c] exists`: true, `getopt(t.ls1, "ab:")[c] exists`: false,
		`getopt(t.ls2, "ab:")[b] = ""`: true, `getopt(t.ls2, ":ab:")[a] = a`: true, `getopt(t.ls2, "") in ("?")`: true,
	} {
		if got := fits(t, text, row); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// What is not a text among the arguments of transformers is what Falco makes of it.
func TestArgumentsOfTransformers(t *testing.T) {
	t.Parallel()
	row := map[string][]field.Element{
		"t.s1": texts("Text"), "t.s2": texts("/"), "t.ls1": texts("-A", "-bv"), "t.ls2": texts("X", "y"),
		"t.n1": {{Number: 7}}, "t.n2": {{Number: 1<<64 - 1}}, "t.a": {{Number: 1704164645123456000}}, "t.b": {{Number: 1}},
		"t.ln": {{Number: 3}, {Number: 4}}, "t.ip": texts("\x0a\x00\x00\x01"),
	}
	for text, want := range map[string]bool{
		// In a list numbers are texts, and of lists all values are in it; but of one of numbers the first.
		`join(",", (t.n1, t.n2, t.a)) = "7,18446744073709551615,1704164645123456000"`: true, `join(" ", (t.b, 5, 0x5)) = "true 5 0x5"`: true,
		`join(",", (t.ls2, "z", t.ls2)) = "X,y,z,X,y"`: true, `join(",", (t.ln)) = 3`: true, `join(",", (len(t.ln), t.ip)) = "2,10.0.0.1"`: true,
		`join(",", (toupper(t.ls2), getopt(t.ls1, "b:"))) = "X,Y,?,b,v"`: true, `join(",", (t.n1, t.key[x])) exists`: false,
		`join(",", ()) = ""`: true, `join(",", ()) exists`: true, `len(()) = 0`: true, `len((t.ls2, t.n1)) = 3`: true, `tolower(()) in (x)`: true,
		// Elsewhere they are the bytes that they are in memory, up to the first that is zero.
		`concat(len(t.s1), "x") = "\x04x"`: true, `concat(t.s1, len(t.s1)) = Text4`: false, `join(",", t.ln) = "\x03,\x04"`: true,
		`join(t.n1, t.ls2) = "X\x07"`: true, `join(t.n1, t.ls2) startswith "X\x07y"`: false, `len(join(t.n1, t.ls2)) = 2`: true,
		// A transformed text has a NUL at its end, which counts where it is put between texts or is an argument.
		`join(tolower(t.s2), t.ls2) = "X/"`: true, `join(t.s2, tolower(t.ls2)) = x/y`: true, `toupper(concat(tolower(t.s1), t.s2)) = TEXT/`: true,
		`getopt(tolower(t.ls1), "ab:")[b] = v`: true, `getopt(tolower(t.ls1), "ab:") intersects (v)`: false, `getopt(tolower(t.ls1), "ab:") intersects (a)`: true,
	} {
		if got := fits(t, text, row); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	row := map[string][]field.Element{"t.ls1": make([]field.Element, maxItems/2+1)}
	if !fits(t, "len((t.ls1)) exists", row) || fits(t, "len((t.ls1, t.ls1)) exists", row) {
		t.Error("there are too many elements, or too few")
	}
}

// What is decoded may have NULs in it.
func TestNULs(t *testing.T) {
	t.Parallel()
	row := map[string][]field.Element{"t.s1": texts("ZABpAHIA"), "t.s2": texts("YQA="), "t.s3": texts("d"), "t.ls1": texts("ZABpAHIA")} // d.i.r. and a.
	for text, want := range map[string]bool{
		"b64(t.s1) = d": true, "b64(t.s1) != d": false, "b64(t.s1) contains i": false, "b64(t.s1) startswith d": true, "b64(t.s1) endswith d": true,
		"b64(t.s1) glob d": true, "b64(t.s1) icontains D": true, "b64(t.s1) = val(t.s3)": true, "t.s3 = b64(t.s1)": true, "len(b64(t.s1)) = 1": true,
		"b64(t.s1) > 5": true, `toupper(b64(t.s1)) = D`: true, `concat(b64(t.s1), "x") = dx`: true, `join("-", (b64(t.s1), "x")) = d-x`: true,
		"b64(t.s1) = anyof (d, x)": false, "b64(t.s1) = oneof (d, x)": true, "b64(t.s1) != allof (d)": true, "b64(t.s1) != anyof (d)": false,
		"b64(t.s1) in (d)": false, "b64(t.s1) regex d": false, "b64(t.s1) regex d.*": true, "b64(t.s1) pmatch (d)": false,
		"b64(t.s2) = a": true, "b64(t.s2) in (a)": true, "b64(t.s2) regex a": true, "b64(t.s2) pmatch (a)": true, "b64(t.ls1) in (d)": false,
	} {
		if got := fits(t, text, row); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// What transformers make is valid until the next event, also when there is much of it.
func TestTransformersKeepApart(t *testing.T) {
	t.Parallel()
	requests := field.NewRequests(randomFields)
	b := NewBuilder(requests)
	const rules = 200
	for i := range rules {
		e, err := parse(fmt.Sprintf(`concat(toupper(t.s1), "-%d") = val(t.s2) or concat(toupper(t.s1), "-%d") in ("A-%d", "B-%d")`, i, i, i, i))
		if err == nil {
			_, err = b.Add(e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s := b.Build().NewState()
	for _, text := range []string{"a", "b", strings.Repeat("long", 1<<16), "a"} {
		s.Start(&mapRow{requests, map[string][]field.Element{"t.s1": texts(text), "t.s2": texts(strings.ToUpper(text) + "-7")}})
		want := rules
		if len(text) > 1 {
			want = 1
		}
		if got := all(s); len(got) != want {
			t.Errorf("%.10s: %d rules", text, len(got))
		}
	}
	// A value that is too long is none, and does not take the memory.
	s.Start(&mapRow{requests, map[string][]field.Element{"t.s1": texts(strings.Repeat("x", maxResult))}})
	if got := all(s); len(got) != 0 {
		t.Errorf("%d rules", len(got))
	}
}

func TestAnotherTurnOfTheEpoch(t *testing.T) {
	t.Parallel()
	requests := field.NewRequests(randomFields)
	b := NewBuilder(requests)
	e, err := parse("tolower(t.s1) = a and t.n1 exists")
	if err == nil {
		_, err = b.Add(e)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := b.Build().NewState()
	s.epoch, s.values.epoch = 1<<32-4, 1<<32-3
	for i := range 10 {
		row := map[string][]field.Element{"t.s1": texts("A"), "t.n1": {{Number: 1}}}
		if i%2 == 0 {
			delete(row, "t.n1")
		}
		s.Start(&mapRow{requests, row})
		if got := len(all(s)); got != i%2 {
			t.Errorf("event %d: %d rules", i, got)
		}
	}
}

// A Matcher is used by several goroutines, each with a State.
func TestManyStates(t *testing.T) {
	t.Parallel()
	r := random{rand.New(rand.NewPCG(7, 7))}
	requests := field.NewRequests(randomFields)
	b := NewBuilder(requests)
	for range 50 {
		e, err := parse(r.condition(3))
		if err == nil {
			_, err = b.Add(e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m := b.Build()
	var rows []map[string][]field.Element
	var want []string
	s := m.NewState()
	for range 100 {
		row := r.row()
		s.Start(&mapRow{requests, row})
		rows, want = append(rows, row), append(want, fmt.Sprint(all(s)))
	}
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			s := m.NewState()
			for i, row := range rows {
				s.Start(&mapRow{requests, row})
				if got := fmt.Sprint(all(s)); got != want[i] {
					t.Errorf("event %d: %s, want %s", i, got, want[i])
				}
			}
		})
	}
	running.Wait()
}

func TestAutomaton(t *testing.T) {
	t.Parallel()
	r := random{rand.New(rand.NewPCG(3, 3))}
	word := func(letters string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = letters[r.IntN(len(letters))]
		}
		return string(b)
	}
	for range 500 {
		var parts []string
		for range 1 + r.IntN(20) {
			if p := word("abc", 1+r.IntN(5)); !slices.Contains(parts, p) {
				parts = append(parts, p)
			}
		}
		text := word("abcABx", r.IntN(30))
		for _, kind := range []struct{ anchored, fold bool }{{false, false}, {true, false}, {false, true}} {
			got := make(map[int32]bool)
			newAutomaton(parts, kind.anchored, kind.fold, maxTable).find(text, func(n int32) bool {
				isNew := !got[n]
				got[n] = true
				return isNew
			})
			in := text
			if kind.fold {
				in = strings.ToLower(text)
			}
			for i, p := range parts {
				want := strings.Contains(in, p)
				if kind.anchored {
					want = strings.HasPrefix(in, p)
				}
				if got[int32(i)] != want {
					t.Fatalf("%+v: %q in %q: %v", kind, p, text, got[int32(i)])
				}
			}
		}
	}
}

// More texts than an automaton has room for do not make rules lose events.
func TestTooManyTexts(t *testing.T) {
	t.Parallel()
	requests := field.NewRequests(randomFields)
	b := NewBuilder(requests)
	const rules = 3000
	var letters strings.Builder
	for c := byte('!'); c < 0x7f; c++ {
		if c != '"' && c != '\\' {
			letters.WriteByte(c)
		}
	}
	for i := range rules {
		e, err := parse(fmt.Sprintf(`t.s1 contains "%s%d%s"`, letters.String()[:40], i, letters.String()))
		if err == nil {
			_, err = b.Add(e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s := b.Build().NewState()
	s.Start(&mapRow{requests, map[string][]field.Element{"t.s1": texts("..." + letters.String()[:40] + "2999" + letters.String())}})
	if got := all(s); !slices.Equal(got, []int{2999}) {
		t.Errorf("%v", got)
	}
}

// Conditions in each other take time and memory as their text does.
func TestDeepConditions(t *testing.T) {
	t.Parallel()
	const depth = 900
	inner := make([]string, 2000)
	for i := range inner {
		inner[i] = fmt.Sprintf("t.s1 = x%d", i)
	}
	for _, word := range []string{" and ", " or "} {
		text := strings.Join(inner, word)
		for i := range depth {
			text = fmt.Sprintf("(%s)%st.s2 = y%d", text, word, i)
		}
		e, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		b := NewBuilder(field.NewRequests(randomFields))
		if _, err := b.Add(e); err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, n := range b.nodes {
			size += len(n.terms)
		}
		if size > 10*(len(inner)+depth) {
			t.Errorf("%d terms of%sfor %d checks", size, word, len(inner)+depth)
		}
		requests := b.operands.requests
		s := b.Build().NewState()
		s.Start(&mapRow{requests, map[string][]field.Element{"t.s1": texts("x7"), "t.s2": texts("y5")}})
		if got := len(all(s)); got != strings.Count(word, "or") {
			t.Errorf("%d rules", got)
		}
	}
}

func TestOperand(t *testing.T) {
	t.Parallel()
	requests := field.NewRequests(randomFields)
	row := map[string][]field.Element{"t.s1": texts("Ab"), "t.ls1": texts("A", "B")}
	for text, want := range map[string]string{
		"t.s1": "9 false [Ab] true", "tolower(t.ls1)": "9 true [a b] true", "len(t.ls1)": "8 false [2] true", "t.s2": "9 false [] false", "tolower(t.s2)": "9 false [] false",
	} {
		x, _, err := condition.ParseOperand(&condition.Text{Content: text}, 0)
		if err != nil {
			t.Fatal(err)
		}
		o, err := CompileOperand(requests, x)
		if err != nil {
			t.Fatal(err)
		}
		elements, ok := o.Values(&mapRow{requests, row})
		shown := []string{}
		for _, e := range elements {
			if o.Type == sourceplugin.Uint64 {
				e.Text = fmt.Sprint(e.Number)
			}
			shown = append(shown, e.Text)
		}
		if got := fmt.Sprint(o.Type, " ", o.List, " ", shown, " ", ok); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// FuzzCompile checks that whatever compiles can be evaluated, and that indexes do not change what
// comes out.
func FuzzCompile(f *testing.F) {
	r := random{rand.New(rand.NewPCG(5, 5))}
	for range 30 {
		f.Add(r.condition(2), r.condition(1), uint64(1))
	}
	f.Fuzz(func(t *testing.T, one, two string, seed uint64) {
		if len(one)+len(two) > 1<<10 {
			return
		}
		requests := field.NewRequests(randomFields)
		indexed, plain := NewBuilder(requests), NewBuilder(requests)
		plain.plain = true
		for _, text := range []string{one, two} {
			e, err := parse(text)
			if err != nil {
				return
			}
			if _, err := indexed.Add(e); err != nil {
				var mistake *condition.Error
				if !errors.As(err, &mistake) {
					t.Fatalf("%T", err)
				}
				return
			}
			if _, err := plain.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		with, without := indexed.Build().NewState(), plain.Build().NewState()
		r := random{rand.New(rand.NewPCG(seed, 0))}
		for range 8 {
			row := &mapRow{requests, r.row()}
			with.Start(row)
			without.Start(row)
			if got, want := fmt.Sprint(all(with)), fmt.Sprint(all(without)); got != want {
				t.Fatalf("%s, without indexes %s\n%s\n%s\n%+v", got, want, one, two, row.values)
			}
		}
	})
}
