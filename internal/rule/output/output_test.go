package output

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// row has values by the text of a request.
type row struct {
	requests *field.Requests
	values   map[string][]field.Element
}

func (r *row) Values(request int) []field.Element {
	return r.values[r.requests.List()[request].Text]
}

func texts(all ...string) (elements []field.Element) {
	for _, t := range all {
		elements = append(elements, field.Element{Text: t})
	}
	return elements
}

func numbers(all ...uint64) (elements []field.Element) {
	for _, n := range all {
		elements = append(elements, field.Element{Number: n})
	}
	return elements
}

func fieldOf(name string, t sourceplugin.FieldType, list bool, arg sourceplugin.ArgRule) field.Field {
	return field.Field{Field: sourceplugin.Field{Name: name, Type: t, List: list, Arg: arg}}
}

var (
	noArg    = sourceplugin.ArgRule{}
	indexArg = sourceplugin.ArgRule{Index: true}
	keyArg   = sourceplugin.ArgRule{Key: true, Required: true}
)

func TestRecordedAlerts(t *testing.T) {
	t.Parallel()
	var rules []struct {
		Output string
		Tags   []string
	}
	b, err := os.ReadFile("testdata/rules.yaml")
	if err == nil {
		err = yaml.Unmarshal(b, &rules)
	}
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(rules[0].Tags)
	requests := field.NewRequests([]field.Field{
		fieldOf("evt.num", sourceplugin.Uint64, false, noArg),
		fieldOf("evt.time", sourceplugin.String, false, noArg),
		fieldOf("evt.time.iso8601", sourceplugin.String, false, noArg),
		fieldOf("evt.rawtime", sourceplugin.AbsTime, false, noArg),
		fieldOf("evt.source", sourceplugin.String, false, noArg),
		fieldOf("evt.pluginname", sourceplugin.String, false, noArg),
		fieldOf("evt.is_async", sourceplugin.Bool, false, noArg),
		fieldOf("ka.verb", sourceplugin.String, false, noArg),
		fieldOf("ka.user.name", sourceplugin.String, false, noArg),
		fieldOf("ka.uri", sourceplugin.String, false, noArg),
		fieldOf("ka.response.code", sourceplugin.String, false, noArg),
		fieldOf("ka.target.subresource", sourceplugin.String, false, noArg),
		fieldOf("ka.req.pod.containers.image", sourceplugin.String, true, indexArg),
		fieldOf("jevt.value", sourceplugin.String, false, keyArg),
	})
	template, err := Compile(requests, rules[0].Output)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := os.ReadFile("testdata/alerts.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	replayed, err := os.ReadFile("testdata/alerts.txt")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(lines)) {
		var recorded struct {
			Fields map[string]any `json:"output_fields"`
			Time   time.Time
		}
		d := json.NewDecoder(strings.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&recorded); err != nil {
			t.Fatal(err)
		}
		r := &row{requests: requests, values: make(map[string][]field.Element)}
		for name, v := range recorded.Fields {
			r.values[name] = elements(t, v)
		}
		// As texts these two are something else.
		r.values["evt.time"] = texts("unused")
		r.values["evt.time.iso8601"] = texts(recorded.Time.Format("2006-01-02T15:04:05.000000000+0000"))
		a := Alert{
			Hostname: "vm", Priority: severity.Informational, Rule: "Record everything", Source: "k8s_audit", Tags: rules[0].Tags,
			Time: recorded.Time, Message: string(template.Append(nil, r)), Fields: template.Values(r),
		}
		if got := string(a.AppendJSON(nil, time.UTC)); got != line {
			t.Errorf("got\n%swant\n%s", got, line)
		}
		text.Write(a.AppendText(nil, time.UTC))
	}
	if want := string(replayed[:strings.Index(string(replayed), "Events detected")]); text.String() != want {
		t.Errorf("got\n%swant\n%s", text.String(), want)
	}
}

// elements makes the elements of a value that was recorded as JSON.
func elements(t *testing.T, v any) []field.Element {
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		return texts(v)
	case bool:
		if v {
			return numbers(1)
		}
		return numbers(0)
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			t.Fatal(err)
		}
		return numbers(uint64(n))
	case []any:
		var all []field.Element
		for _, e := range v {
			all = append(all, elements(t, e)...)
		}
		return all
	}
	t.Fatalf("%T", v)
	return nil
}

func testRow() *row {
	long := slices.Repeat(texts("0123456789"), 200)
	r := &row{requests: field.NewRequests([]field.Field{
		fieldOf("a.text", sourceplugin.String, false, noArg),
		fieldOf("a.text.more", sourceplugin.String, false, noArg),
		fieldOf("a.none", sourceplugin.String, false, noArg),
		fieldOf("a.nul", sourceplugin.String, false, noArg),
		fieldOf("a.key", sourceplugin.String, false, keyArg),
		fieldOf("a.list", sourceplugin.String, true, indexArg),
		fieldOf("a.long", sourceplugin.String, true, noArg),
		fieldOf("a.empty", sourceplugin.String, true, noArg),
		fieldOf("a.number", sourceplugin.Uint64, false, noArg),
		fieldOf("a.numbers", sourceplugin.Uint64, true, noArg),
		fieldOf("a.yes", sourceplugin.Bool, false, noArg),
		fieldOf("a.ip", sourceplugin.IPAddr, false, noArg),
		fieldOf("a.ip6", sourceplugin.IPAddr, false, noArg),
		fieldOf("a.net", sourceplugin.IPNet, false, noArg),
		fieldOf("evt.rawtime", sourceplugin.AbsTime, false, noArg),
		fieldOf("evt.rawtime.ns", sourceplugin.AbsTime, false, noArg),
		fieldOf("evt.reltime", sourceplugin.RelTime, false, noArg),
		fieldOf("evt.reltime.s", sourceplugin.RelTime, false, noArg),
		fieldOf("evt.datetime", sourceplugin.String, false, noArg),
	})}
	r.values = map[string][]field.Element{
		"a.text": texts("Some Text"), "a.text.more": texts("more"), "a.nul": texts("ZABpAHIA"), "a.key[x]": texts("of x"),
		"a.list": texts("one", "two"), "a.list[1]": texts("two"), "a.long": long, "a.empty": texts("", "", "x", ""),
		"a.number": numbers(42), "a.numbers": numbers(1, 2), "a.yes": numbers(1),
		"a.ip": texts("\x0a\x00\x00\x01"), "a.ip6": texts("\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01"), "a.net": texts("10.0.0.0/8"),
		"evt.rawtime": numbers(1714557601001000000), "evt.rawtime.ns": numbers(1000), "evt.reltime": numbers(5), "evt.reltime.s": numbers(0), "evt.datetime": texts("2024-05-01 10:00:01.001000000"),
	}
	return r
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	cut := "(" + strings.Repeat("0123456789,", 200)
	for template, want := range map[string]string{
		"plain":                                 "plain",
		"*plain":                                "plain",
		"**plain":                               "*plain",
		"%a.text":                               "Some Text",
		"<%a.text>":                             "<Some Text>",
		"%a.text%a.number":                      "Some Text42",
		"%a.text.more":                          "more",
		"%a.text.mor":                           "Some Text.mor",
		"%a.text.":                              "Some Text.",
		"%a.textual":                            "Some Textual",
		"%a.text[0]":                            "Some Text[0]",
		"%a.none":                               "<NA>",
		"%a.key[x]":                             "of x",
		"%a.key[y]]":                            "<NA>]",
		`%a.key["x"]`:                           "of x",
		"%a.list":                               "(one,two)",
		"%a.list[1]":                            "(two)",
		"%a.list[9]":                            "<NA>",
		"%a.list[x]":                            "(one,two)[x]",
		"%a.long":                               cut[:1023],
		"%a.empty":                              "(x,)",
		"%a.number":                             "42",
		"%a.numbers":                            "(1,2)",
		"%a.yes":                                "true",
		"%a.ip %a.ip6 %a.net":                   "10.0.0.1 2001:db8::1 <IPNET>",
		"[%4a.text]":                            "[Some]",
		"[%12a.text]":                           "[Some Text   ]",
		"[%6a.none]":                            "[<NA>  ]",
		"[%0a.text]":                            "[Some Text]",
		"[%05a.number]":                         "[42   ]",
		"%tolower(a.text)":                      "some text",
		"%toupper(tolower(a.text))!":            "SOME TEXT!",
		"%10toupper(a.text)|":                   "SOME TEXT |",
		"%len(a.list)":                          "2",
		"%tolower(a.list)":                      "(one,two)",
		`%concat(a.text, "-", tolower(a.text))`: "Some Text-some text",
		`%join("+", a.list)`:                    "one+two",
		"%tolower(a.none)":                      "<NA>",
		"%evt.rawtime.ns":                       "000001000",
		"%toupper(a.text)[%a.number]":           "SOME TEXT[42]",
		"%toupper(a.text)[":                     "SOME TEXT[",
		"%toupper(a.text)[x y]":                 "SOME TEXT[x y]",
		`%getopt(("-ab", "c"), "ab:")[b]`:       "c",
		`%getopt(("-ab", "c"), "ab:")[b][c]`:    "c[c]",
		`%getopt(("-ab", "c"), "ab:")[bb]`:      "(a,b,c)[bb]",
		`%join("+", (a.number, a.list, a.yes))`: "42+one+two+true",
		"%b64(a.nul)":                           "d",
		"%b64(a.none)":                          "<NA>",
		"%5000a.number|":                        "42" + strings.Repeat(" ", 4998) + "|",
		"%evt.reltime %evt.reltime.s":           "000000005 0",
		`%join(",", (evt.rawtime.ns))`:          "000001000",
		"%evt.rawtimex":                         "1714557601001000000x",
	} {
		r := testRow()
		compiled, err := Compile(r.requests, template)
		if err != nil {
			t.Errorf("%s: %v", template, err)
			continue
		}
		if got := string(compiled.Append(nil, r)); got != want {
			t.Errorf("%s: %q, want %q", template, got, want)
		}
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	r := testRow()
	r.values["a.text"] = texts(strings.Repeat("x", 3*maxText/5))
	template, err := Compile(r.requests, strings.Repeat("%a.text", 1000))
	if err != nil {
		t.Fatal(err)
	}
	if got := template.Append([]byte("|"), r); len(got) != 1+maxText || cap(got) > 4*maxText {
		t.Errorf("%d bytes in room for %d", len(got), cap(got))
	}
}

func TestMistakesInTemplates(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]struct {
		message string
		offset  int
	}{
		"":                            {"empty formatting token", 0},
		"100%":                        {"invalid formatting syntax: formatting cannot end with a %", 3},
		"x %":                         {"invalid formatting syntax: formatting cannot end with a %", 2},
		"x %12":                       {"invalid formatting syntax: formatting cannot end with a number", 2},
		"%a.nope":                     {"unknown filter: filter_check called with nonexistent field a.nope", 1},
		"%a.key":                      {"unknown filter: filter 'a.key': a.key requires an argument but none provided", 1},
		"50% of all":                  {"unknown filter: ", 3},
		"%tolower(a.x":                {"unknown filter: ", 12},
		"%99999999999999999999a.text": {"invalid formatting syntax: the width 99999999999999999999 is more than 65536", 1},
		"%len(a.number)":              {"unknown filter: can't add field transformer: type 'UINT64' is not supported by 'len' transformer applied on field 'a.number'", 1},
	} {
		_, err := Compile(testRow().requests, template)
		var mistake *condition.Error
		if !errors.As(err, &mistake) || !strings.HasPrefix(mistake.Message, want.message) || mistake.At.Offset != want.offset {
			t.Errorf("%q: %v at %+v, want %s at %d", template, err, mistake, want.message, want.offset)
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	r := testRow()
	template, err := Compile(r.requests, `%a.text %a.text %a.none %a.list %a.numbers %a.yes %a.ip %a.net %a.key[x] %evt.datetime %toupper(tolower(a.text)) %concat(a.text, tolower(a.text.more))`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range template.Values(r) {
		got = append(got, fmt.Sprintf("%s=%s", f.Name, f.JSON))
	}
	want := []string{
		`a.text="Some Text"`, `a.none=null`, `a.list=["one","two"]`, `a.numbers=[1,2]`, `a.yes=true`, `a.ip="10.0.0.1"`, `a.net="<IPNET>"`,
		`a.key[x]="of x"`, `evt.datetime=1714557601001000000`, `a.text.more="more"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	names := []string{"a.text", "a.text", "a.none", "a.list", "a.numbers", "a.yes", "a.ip", "a.net", "a.key[x]", "evt.datetime",
		"a.text", "toupper(tolower(a.text))", "a.text", "a.text.more", "concat(a.text, tolower(a.text.more))"}
	if !slices.Equal(template.Fields(), names) {
		t.Errorf("got  %s\nwant %s", template.Fields(), names)
	}
}

func TestTextIsOneLine(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("", 2*60*60)
	a := Alert{Priority: severity.Critical, Time: time.Unix(0, 1714557601001000000), Message: "it's \"so\"\nand <so> \\ \x01é"}
	if got, want := string(a.AppendText([]byte("|"), zone)), `|12:00:01.001000000: Critical it's \"so\"\nand <so> \\ \u0001é`+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var decoded map[string]any
	if err := json.Unmarshal(a.AppendJSON(nil, zone), &decoded); err != nil || decoded["time"] != "2024-05-01T10:00:01.001000000Z" {
		t.Errorf("%v %v", decoded, err)
	}
}

// FuzzCompile checks that whatever is compiled can be written, as valid JSON, too.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{
		"u=%a.text %10a.number| %tolower(a.text)", "*%a.list[0] %a.key[x]", "%concat(a.text, '%', \"\\x41\")", "100%", "%12", "%a.key[", "%join(',', (a.text, a.none))[x]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, template string) {
		if len(template) > 1<<10 {
			return
		}
		r := testRow()
		compiled, err := Compile(r.requests, template)
		if err != nil {
			var mistake *condition.Error
			if !errors.As(err, &mistake) || mistake.At.Text == nil || mistake.At.Offset > len(template) {
				t.Fatalf("%#v", err)
			}
			return
		}
		a := Alert{Message: string(compiled.Append(nil, r)), Fields: compiled.Values(r)}
		if line := a.AppendJSON(nil, time.UTC); !json.Valid(line) {
			t.Fatalf("%q", line)
		}
		if line := string(a.AppendText(nil, time.UTC)); strings.Count(line, "\n") != 1 {
			t.Fatalf("%q", line)
		}
	})
}
