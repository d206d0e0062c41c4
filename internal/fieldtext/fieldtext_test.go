package fieldtext

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

var testFields = []sourceplugin.Field{
	{Name: "a.plain", Type: sourceplugin.String},
	{Name: "a.key", Type: sourceplugin.String, Arg: sourceplugin.ArgRule{Key: true, Required: true}},
	{Name: "a.index", Type: sourceplugin.Uint64, List: true, Arg: sourceplugin.ArgRule{Index: true}},
	{Name: "a.both", Type: sourceplugin.String, Arg: sourceplugin.ArgRule{Index: true, Key: true}},
}

func TestParse(t *testing.T) {
	request := func(index int, arg string, n uint64) sourceplugin.FieldRequest {
		return sourceplugin.FieldRequest{Index: index, Arg: arg, ArgIndex: n, ArgPresent: true}
	}
	for text, want := range map[string]sourceplugin.FieldRequest{
		"a.plain":              {},
		"a.key[x]":             request(1, "x", 0),
		"a.key[/a/b]":          request(1, "/a/b", 0),
		"a.key[007]":           request(1, "007", 0),
		`a.key["x y"]`:         request(1, "x y", 0),
		`a.key['[x]"']`:        request(1, `[x]"`, 0),
		`a.key["\"\\n"]`:       request(1, `"\n`, 0),
		`a.key[""]`:            request(1, "", 0),
		"a.index":              {Index: 2},
		"a.index[0]":           request(2, "0", 0),
		"a.index[12]":          request(2, "12", 12),
		"a.both[3]":            request(3, "3", 3),
		"a.both[03]":           request(3, "03", 0),
		"a.both[x]":            request(3, "x", 0),
		"a.both":               {Index: 3},
		"a.index[4294967296]":  request(2, "4294967296", 1<<32),
		`a.key["18446744073"]`: request(1, "18446744073", 0),
	} {
		got, err := Parse(text, testFields)
		if err != nil || got != want {
			t.Errorf("%s: %+v %v", text, got, err)
			continue
		}
		if again, err := Parse(Format(got, testFields), testFields); err != nil || again != got {
			t.Errorf("%s became %s: %v", text, Format(got, testFields), err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "its name is missing",
		"[x]":                             "its name is missing",
		"a.plian":                         `unknown field "a.plian"; did you mean "a.plain"?`,
		"other.thing":                     "there are a.plain, a.key, a.index, a.both",
		"a.plain[x]":                      "takes no argument: write it without [x]",
		"a.key":                           "needs an argument in brackets: a.key[KEY]",
		"a.key[]":                         "nothing in the brackets",
		"a.key[x":                         "does not end with ]",
		"a.key[x]y":                       "does not end with ]",
		"a.key]":                          "in brackets: NAME[ARGUMENT]",
		"a.key[a b]":                      "must be in quotes",
		`a.key["a]`:                       "closing quote is missing",
		`a.key["a"b"]`:                    "behind the closing quote",
		"a.key[\x00]":                     "NUL",
		"a.index[x]":                      `takes a number as its argument, without leading zeros, not "x"`,
		"a.index[01]":                     "without leading zeros",
		"a.index[+1]":                     "takes a number",
		"a.index[-1]":                     "takes a number",
		"a.index[18446744073709551616]":   "takes a number",
		strings.Repeat("x", maxRequest+1): "more than 4096",
	} {
		if _, err := Parse(text, testFields); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", text, err)
		}
	}
	if _, err := Parse("x", nil); !errors.Is(err, ErrUnknownField) || !strings.Contains(err.Error(), "has none") {
		t.Error(err)
	}
}

func TestUsage(t *testing.T) {
	var got []string
	for i := range testFields {
		got = append(got, Usage(&testFields[i])+" "+TypeName(&testFields[i]))
	}
	const want = "a.plain string, a.key[KEY] string, a.index[INDEX]? list of uint64, a.both[KEY|INDEX]? string"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestValues(t *testing.T) {
	word := func(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
	for _, tc := range []struct {
		field      sourceplugin.Field
		elements   []string
		text, json string
	}{
		{sourceplugin.Field{Type: sourceplugin.String}, nil, "<NA>", "null"},
		{sourceplugin.Field{Type: sourceplugin.String}, []string{""}, "", `""`},
		{sourceplugin.Field{Type: sourceplugin.String}, []string{"a\"\n\xff"}, "a\"\n\xff", `"a\"\n` + "\uFFFD" + `"`},
		{sourceplugin.Field{Type: sourceplugin.String, List: true}, []string{"a", "b"}, "(a,b)", `["a","b"]`},
		{sourceplugin.Field{Type: sourceplugin.String, List: true}, nil, "<NA>", "null"},
		{sourceplugin.Field{Type: sourceplugin.Uint64}, []string{word(1<<64 - 1)}, "18446744073709551615", "18446744073709551615"},
		{sourceplugin.Field{Type: sourceplugin.Uint64, List: true}, []string{word(1)}, "(1)", "[1]"},
		{sourceplugin.Field{Type: sourceplugin.Bool}, []string{"\x01"}, "true", "true"},
		{sourceplugin.Field{Type: sourceplugin.Bool}, []string{"\x00"}, "false", "false"},
		{sourceplugin.Field{Type: sourceplugin.RelTime}, []string{word(1500000000)}, "1.5s", "1500000000"},
		{sourceplugin.Field{Type: sourceplugin.AbsTime}, []string{word(1700000000000000001)}, "2023-11-14T22:13:20.000000001Z", `"2023-11-14T22:13:20.000000001Z"`},
		{sourceplugin.Field{Type: sourceplugin.AbsTime}, []string{word(1<<64 - 1)}, "18446744073709551615", `"18446744073709551615"`},
		{sourceplugin.Field{Type: sourceplugin.IPAddr}, []string{"\x7f\x00\x00\x01"}, "127.0.0.1", `"127.0.0.1"`},
		{sourceplugin.Field{Type: sourceplugin.IPAddr}, []string{strings.Repeat("\x00", 15) + "\x01"}, "::1", `"::1"`},
		{sourceplugin.Field{Type: sourceplugin.IPNet}, []string{"10.0.0.0/8"}, "10.0.0.0/8", `"10.0.0.0/8"`},
		{sourceplugin.Field{Type: sourceplugin.Uint64}, []string{"abc"}, "616263", `"616263"`},
		{sourceplugin.Field{Type: sourceplugin.IPAddr}, []string{"abc"}, "616263", `"616263"`},
	} {
		var elements [][]byte
		for _, e := range tc.elements {
			elements = append(elements, []byte(e))
		}
		if got := string(AppendText(nil, &tc.field, elements)); got != tc.text {
			t.Errorf("%v %q: text %s", tc.field.Type, tc.elements, got)
		}
		if got := string(AppendJSON(nil, &tc.field, elements)); got != tc.json || !json.Valid([]byte(got)) {
			t.Errorf("%v %q: JSON %s", tc.field.Type, tc.elements, got)
		}
	}
}

func TestReader(t *testing.T) {
	r, err := NewReader(sourceplugin.Values{Counts: []uint32{1, 0, 2, 1}, Lengths: []uint32{1, 2, 0, 3}, Bytes: []byte("abcdef")}, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	f := sourceplugin.Field{Type: sourceplugin.String, List: true}
	var got []byte
	for range 4 {
		got = AppendText(got, &f, r.Next(nil))
	}
	if string(got) != "(a)<NA>(bc,)(def)" {
		t.Errorf("got %s", got)
	}
	if r, err := NewReader(sourceplugin.Values{}, 1, 2); err != nil || len(r.Next(nil))+len(r.Next(nil)) != 0 {
		t.Error(err)
	}
	for name, v := range map[string]sourceplugin.Values{
		"too few counts":   {Counts: []uint32{1}, Lengths: []uint32{1}, Bytes: []byte("a")},
		"too few lengths":  {Counts: []uint32{1, 1}, Lengths: []uint32{1}, Bytes: []byte("a")},
		"too many lengths": {Counts: []uint32{1, 0}, Lengths: []uint32{1, 0}, Bytes: []byte("a")},
		"too few bytes":    {Counts: []uint32{1, 0}, Lengths: []uint32{2}, Bytes: []byte("a")},
		"too many bytes":   {Counts: []uint32{1, 0}, Lengths: []uint32{1}, Bytes: []byte("ab")},
		"overflow":         {Counts: []uint32{1<<32 - 1, 1<<32 - 1}},
	} {
		if _, err := NewReader(v, 1, 2); !errors.Is(err, ErrValues) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParse: what is accepted is written again by Format as what means the same.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"a.plain", "a.key[x]", `a.key["\"\\[ "]`, "a.index[12]", "a.both[x", "a.key['"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text, testFields)
		if err != nil {
			return
		}
		again, err := Parse(Format(r, testFields), testFields)
		if err != nil && len(Format(r, testFields)) <= maxRequest || err == nil && again != r {
			t.Errorf("%q became %q: %+v, %+v, %v", text, Format(r, testFields), r, again, err)
		}
	})
}

func TestCheckText(t *testing.T) {
	for _, tt := range []struct {
		typ        sourceplugin.FieldType
		text, want string
	}{
		{sourceplugin.Uint64, "0", ""},
		{sourceplugin.Uint64, "18446744073709551615", ""},
		{sourceplugin.Uint64, "0x1f", `field f is never "0x1f"; write "31"`},
		{sourceplugin.Uint64, "-1", `field f is a number from 0 on, so it is never "-1"`},
		{sourceplugin.Uint64, "", `so it is never ""`},
		{sourceplugin.Bool, "true", ""},
		{sourceplugin.Bool, "1", `write "true"`},
		{sourceplugin.Bool, "yes", "true or false"},
		{sourceplugin.IPAddr, "10.0.0.1", ""},
		{sourceplugin.IPAddr, "::1", ""},
		{sourceplugin.IPAddr, "0:0::1", `write "::1"`},
		{sourceplugin.IPAddr, "localhost", "an IP address"},
		{sourceplugin.IPNet, "10.0.0.0/8", ""},
		{sourceplugin.String, "", ""},
		{sourceplugin.RelTime, "1.5s", ""},
		{sourceplugin.RelTime, "1500ms", `write "1.5s"`},
		{sourceplugin.RelTime, "-1s", "a length of time"},
		{sourceplugin.AbsTime, "2026-01-02T15:04:05Z", ""},
		{sourceplugin.AbsTime, "2026-01-02T15:04:05.500+01:00", `write "2026-01-02T14:04:05.5Z"`},
		{sourceplugin.AbsTime, "today", "a time such as"},
	} {
		err := CheckText(&sourceplugin.Field{Name: "f", Type: tt.typ}, tt.text)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%d %q: %v, want %s", tt.typ, tt.text, err, tt.want)
		}
	}
}
