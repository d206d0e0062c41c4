package safetemplate

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/jsonvalue"
)

// sample is what the templates of tests are executed on.
func sample() map[string]any {
	data, err := jsonvalue.Decode([]byte(`{"n":1,"f":0.25,"big":123456789012345678901234567890,"exact":1.10,"null":null,"yes":true,"list":[1,"two",{"three":3}],"empty":[],"object":{"a":"b"},"text":"say \"hi\"\n\\ </script>\u2028"}`))
	if err != nil {
		panic(err)
	}
	return map[string]any{
		"Type": "kv-v2/data-write", "Path": "secret/data/app", "Quote": `a"b\c`, "Empty": "", "Twice": Literal(`{"x":1,"x":2}`), "Map": map[string]any(nil),
		"Time":     time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		"Metadata": map[string]any{"operation": "data-write", "current_version": "2", "a-b": "c"},
		"Data":     data,
	}
}

func TestJSON(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{`{"text": {{.Type}}}`, `{"text": "kv-v2/data-write"}`},
		{`{"text": "Secret {{.Path}} changed"}`, `{"text": "Secret secret/data/app changed"}`},
		{`{"a": {{.Quote}}, "b": "x{{.Quote}}y"}`, `{"a": "a\"b\\c", "b": "xa\"b\\cy"}`},
		{`{{.Data}}`, `{"big":123456789012345678901234567890,"empty":[],"exact":1.1,"f":0.25,"list":[1,"two",{"three":3}],"n":1,"null":null,"object":{"a":"b"},"text":"say \"hi\"\n\\ </script>\u2028","yes":true}`},
		{`{"a": "{{.Data.object}}"}`, `{"a": "{\"a\":\"b\"}"}`},
		{`{"a": {{toJson .Data.object}}, "b": "{{toJson .Data.object}}"}`, `{"a": {"a":"b"}, "b": "{\"a\":\"b\"}"}`},
		{`{"a": {{.Time}}, "b": "at {{.Time}}"}`, `{"a": "2026-01-02T03:04:05.000006Z", "b": "at 2026-01-02T03:04:05.000006Z"}`},
		{`{ {{.Type}}: 1, "{{.Path}}": 2 }`, `{ "kv-v2/data-write": 1, "secret/data/app": 2 }`},
		{`{ {{.Data.n}}: 1 }`, `{ "1": 1 }`},
		{`[{{range $i, $e := .Data.list}}{{if $i}}, {{end}}{{$e}}{{end}}]`, `[1, "two", {"three":3}]`},
		{`[{{range $i, $e := .Data.list}}{{if $i}},{{end}}{"v": {{$e}}}{{else}}"none"{{end}}]`, `[{"v": 1},{"v": "two"},{"v": {"three":3}}]`},
		{`[{{range .Data.empty}}{{.}}{{else}}"none"{{end}}]`, `["none"]`},
		{`[{{range .Data.null}}{{.}}{{end}}]`, `[]`},
		{`[{{range .Nothing}}{{.}}{{end}}]`, `[]`},
		{`{ {{range $i, $k := keys .Data.object}}{{if $i}},{{end}}{{$k}}: {{index $.Data.object $k}}{{end}} }`, `{ "a": "b" }`},
		{`{"a": 1{{range $k, $v := .Metadata}}, {{$k}}: {{$v}}{{end}}}`, `{"a": 1, "a-b": "c", "current_version": "2", "operation": "data-write"}`},
		{`{"a": 1{{if .Nothing}}, "b": {{.Nothing}}{{end}}}`, `{"a": 1}`},
		{`{ {{if .Type}}"b": {{.Type}},{{end}} "c": 3}`, `{ "b": "kv-v2/data-write", "c": 3}`},
		{`{"a": {{if .Data.yes}}1{{else}}null{{end}}}`, `{"a": 1}`},
		{`{"a": "{{if .Data.yes}}yes{{else}}no{{end}}"}`, `{"a": "yes"}`},
		{`{"a": {{if .Data.null}}1{{else}}{{.Data.null}}{{end}}, "b": "{{.Data.null}}"}`, `{"a": null, "b": "null"}`},
		{`{"a": {{.Nothing | default "x"}}, "b": {{default 1 .Metadata.nothing}}, "c": {{.Data.n | default 7}}, "d": "{{.Empty | default "e"}}"}`, `{"a": "x", "b": 1, "c": 1, "d": "e"}`},
		{`{"a": {{.A.b.c | default "deep"}}}`, `{"a": "deep"}`},
		{`{"a": {{or .Nothing .Type}}, "b": {{coalesce .Nothing .Empty .Data.null 5}}}`, `{"a": "kv-v2/data-write", "b": 5}`},
		{`{"a": {{eq .Nothing "x"}}, "b": {{eq .Data.n 1}}, "c": {{eq .Data.f 0.25}}, "d": {{lt .Data.f 1}}, "e": {{gt .Data.big 5}}}`, `{"a": false, "b": true, "c": true, "d": true, "e": true}`},
		{`{"a": {{eq .Type "x" "kv-v2/data-write"}}, "b": {{ne .Data.null 1}}}`, `{"a": true, "b": true}`},
		{`{"a": {{index .Metadata "a-b"}}}`, `{"a": "c"}`},
		{`{{$x := .Type}}{{$x = upper $x}}{"a": {{$x}}}`, `{"a": "KV-V2/DATA-WRITE"}`},
		{`{{with .Data.object}}{"a": {{.a}}}{{else}}null{{end}}`, `{"a": "b"}`},
		{`{{define "x"}}{{.Type}}{{end}}{"a": {{template "x" .}}, "b": "<{{template "x" .}}>", {{template "x" .}}: [{{template "x" .}}]}`,
			`{"a": "kv-v2/data-write", "b": "<kv-v2/data-write>", "kv-v2/data-write": ["kv-v2/data-write"]}`},
		{`{{define "member"}}, "m": {{.}}{{end}}{"a": 1{{template "member" .Type}}}`, `{"a": 1, "m": "kv-v2/data-write"}`},
		{`[{{range $i, $e := .Data.list}}{{if eq $i 2}}{{break}}{{end}}{{if $i}},{{end}}{{$e}}{{end}}]`, `[1,"two"]`},
		{`[0{{range $i, $e := .Data.list}}{{if eq $i 1}}{{continue}}{{end}},{{$e}}{{end}}]`, `[0,1,{"three":3}]`},
		{`{"a": {{raw "[1,2]"}}, "b": "{{raw "\\u0041"}}"}`, `{"a": [1,2], "b": "\u0041"}`},
		{`{"a": 1 {{if .Type}}{{raw ", \"b\": 2"}}{{end}} }`, `{"a": 1 , "b": 2 }`},
		{`{"a": {{printf "%s has %d, %05.1f, %q" .Type .Data.n .Data.f .Path}}}`, `{"a": "kv-v2/data-write has 1, 000.2, \"secret/data/app\""}`},
		{`{"a": {{print .Data.object " " .Data.n}}, "b": {{len .Data.list}}, "c": {{join "-" .Data.list}}}`, `{"a": "{\"a\":\"b\"} 1", "b": 3, "c": "1-two-{\"three\":3}"}`},
		{`{"a": {{truncate 8 .Path}}, "b": {{trunc 6 .Path}}, "c": {{truncate 100 .Path}}, "d": {{"äöü" | trunc 2}}}`, `{"a": "secre...", "b": "secret", "c": "secret/data/app", "d": "äö"}`},
		{`{"a": {{date "02 Jan 2006 15:04" .Time}}, "b": {{unix .Time}}}`, `{"a": "02 Jan 2026 03:04", "b": 1767323045}`},
		{`{"a": {{last (split "/" .Path)}}, "b": {{int .Metadata.current_version | add 1}}, "c": {{.Path | trimPrefix "secret/" | replace "/" "."}}}`, `{"a": "app", "b": 3, "c": "data.app"}`},
		{`{"a": {{dict "x" .Type "y" (list 1 .Data.f)}}}`, `{"a": {"x":"kv-v2/data-write","y":[1,0.25]}}`},
		{`{"a": {{slack "<a&b>"}}, "b": "{{sha256 .Type | trunc 8}}"}`, `{"a": "&lt;a&amp;b&gt;", "b": "9e1c051a"}`},
		{`{"a": {{.Twice}}, "b": 1}`, `{"a": {"x":1,"x":2}, "b": 1}`},
		{"{{/* a comment */ -}}\n {\"a\": {{.Data.text}}}", `{"a": "say \"hi\"\n\\ </script>\u2028"}`},
		{`{"a": "\u00e4{{.Type}}\n"}`, `{"a": "\u00e4kv-v2/data-write\n"}`},
		{`{"a": {{with $x := .Type}}{{$x}}{{end}}}`, `{"a": "kv-v2/data-write"}`},
	} {
		tmpl, err := Parse(JSON, Source{"body", c.template})
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		for range 2 {
			got, err := tmpl.Execute([]byte("before"), sample())
			if err != nil {
				t.Errorf("%s: %v", c.template, err)
				break
			}
			out, _ := strings.CutPrefix(string(got), "before")
			if strings.TrimSpace(out) != c.want {
				t.Errorf("%s\n got %s\nwant %s", c.template, out, c.want)
			}
			if !json.Valid([]byte(out)) {
				t.Errorf("%s: %s is not valid", c.template, out)
			}
		}
	}
}

func TestRefusedTemplates(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{`{"a": {{.A}}{{.B}}}`, `body, line 1, column 13, at {{.B}}: a value directly behind another; put a comma between them, or write both`},
		{`{"a" {{.A}}}`, `a colon is missing between a key and its value`},
		{`{"a": 1{{.A}}}`, `a value directly behind a number or a word`},
		{`{"a": {{.A}}1}`, `"1}": a value directly behind another`},
		{`{"a": "x` + "\n" + `{{.A}}"}`, `body, line 1, column 9: "\n": a line ends inside of quotes`},
		{`{"a": "\{{.A}}"}`, `a value directly behind a backslash`},
		{`{"a": "\u00{{.A}}"}`, `a value directly behind a backslash`},
		{`{"a": "\x"}`, `behind \ comes none of`},
		{`{"a": {{if .A}}"{{else}}1{{end}}}`, `at {{if .A}}: its branches end in different places, one inside of quotes in an object, the other behind a value in an object`},
		{`{{if .A}}{{"{"}}{{else}}[{{end}}]`, `its branches end in different places`},
		{`{{if .A}}[{{end}}]`, `its branches end in different places`},
		{`[{{range .A}}"{{end}}"]`, `a round begins before a value in a list, but ends inside of quotes`},
		{`{{range .A}}[{{end}}`, `a round begins`},
		{`{"a": "{{.A}}`, `body: ends inside of quotes`},
		{`{"a": {"b": [1`, `body: ends before a ]`},
		{`{"a": 1]`, `] closes what was not opened before it`},
		{`{"a"}`, `the value of a key is missing`},
		{`{"a":}`, `the value of a key is missing`},
		{`{a: 1}`, `a key in quotes must come here`},
		{`{'a': 1}`, `is no JSON`},
		{`1, 2`, `a comma outside of objects and lists`},
		{``, `body: makes nothing`},
		{`{{$x := 1}}`, `body: makes nothing`},
		{`{{template "x" .}}`, `there is no template "x"`},
		{`{{define "x"}}{{template "y" .}}{{end}}{{define "y"}}{{template "x" .}}{{end}}{{template "x" .}}`, `calls itself`},
		{`{{define "x"}}1{{end}}2`, `body: defines "x", which nothing calls`},
		{`{{define "x"}}]{{end}}[{{template "x" .}}`, `] closes what was not opened`},
		{`{{define "x"}}[{{end}}{{template "x" .}}]`, `does not close what it opens`},
		{`{{call .A}}`, `there is no function call; there are add, and, base64`},
		{`{{html .A}}`, `there is no function html`},
		{`{{_value 1 .A}}`, `there is no function _value`},
		{"{\n  \"a\": {{.A}\n}", `body, line 2: bad character U+007D`},
		{"\xff", `is not UTF-8`},
		{strings.Repeat(" ", MaxTemplateBytes+1), `more than 64 KiB`},
		{strings.Repeat("[", 300), `more than 200 objects and lists in each other`},
		{`{{if .A}}1{{else}}{{.B}}{{end}}2`, `a value directly behind another`},
		{`tru{{.A}}`, `a value directly behind a number or a word`},
	} {
		_, err := Parse(JSON, Source{"body", c.template})
		if err == nil {
			t.Errorf("%.80s: accepted", c.template)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s\n got %v\nwant %s", c.template, err, c.want)
		}
		if p := (*Problem)(nil); !errors.As(err, &p) {
			t.Errorf("%.80s: %T", c.template, err)
		}
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{"{\n \"a\": {{.Metadata.nothing}}}", `body, line 2, column 7, at {{.Metadata.nothing}}: the value is missing; write {{default "" ...}} to have something else then`},
		{`{"a": "{{.Nothing}}"}`, `at {{.Nothing}}: the value is missing`},
		{`{"a": {{upper .Nothing}}}`, `the value is missing`},
		{`{"a": {{toJson .Nothing}}}`, `the value is missing`},
		{`{"a": {{printf "%s" .Nothing}}}`, `the value is missing`},
		{`{"a": {{print .Nothing}}}`, `the value is missing`},
		{`{"a": {{eq .Type 1}}}`, `cannot be compared`},
		{`{"a": {{lt .Nothing 1}}}`, `the value is missing`},
		{`{ {{.Data.null}}: 1}`, `cannot be null`},
		{`[{{range .Type}}{{.}}{{end}}]`, `range needs a list`},
		{`[{{range .Data.list}}{{.}}{{end}}]`, `a value directly behind another`},
		{`[{{range .Data.list}}{{.}}{{end}}5]`, `a value directly behind another`},
		{`[{{range .Data.list}}{{.}},{{end}}{{if .Data.yes}},{{end}}5]`, `what it makes cannot be sent: it is not valid JSON from line 1, column 22`},
		{`{"a": 1, {{.Path}}: 2, {{.Path}}: 3}`, `an object has two members with the same key`},
		{`{"a": 1, "b": {{raw "2, \"a\": 3"}}}`, `an object has two members with the same key`},
		{`{"a": {{range 1000000000}}{{end}}1}`, `more than 100000 times around`},
		{`{"a": "{{range 99999}}` + strings.Repeat("a", 50) + `{{end}}"}`, `makes more than 4096 KiB`},
		{`{{$x := .Path}}{{range 100}}{{$x = print $x $x}}{{end}}{"a": {{$x}}}`, `MiB of texts`},
		{`{{$x := "\\"}}{{range 100}}{{$x = toJson (print $x)}}{{end}}{"a": {{$x}}}`, `MiB of texts`},
		{`{{$x := .Path}}{{range 100}}{{$x = replace "s" $x $x}}{{end}}{"a": {{$x}}}`, `MiB of texts`},
		{`{{$x := list 1}}{{range 40}}{{$x = list $x $x}}{{end}}{"a": {{$x}}}`, `MiB of texts`},
		{`{"a": {{printf "%999999999d" 1}}}`, `printf`},
		{`{"a": {{printf "%1001d" 1}}}`, `a width of more than 1000`},
		{`{"a": {{printf "%*d" 1 1}}}`, `printf: behind %`},
		{`{"a": {{printf "%d" .Type}}}`, `printf: %d does not fit`},
		{`{"a": {{printf "%s"}}}`, `more verbs than values`},
		{`{"a": {{printf "" 1}}}`, `more values than verbs`},
		{`{"a": {{index .Data.list 10}}}`, `out of range`},
		{`{"a": {{.Type.Nothing}}}`, `can't evaluate field Nothing`},
		{`{"a": {{.Data.null.x}}}`, `the value is missing`},
		{`{"a": {{.Map}}}`, `the value is missing`},
		{`{"a": {{.Map.x.y}}}`, `the value is missing`},
		{`{"a": {{.Data.text.x}}}`, `can't evaluate field x in type any value`},
		{`{"a": {{date "2006" .Type}}}`, `is not a time like`},
		{`{"a": {{int .Type}}}`, `is not a whole number`},
		{`{"a": {{truncate -1 .Type}}}`, `less than 0`},
		{`{"a": {{dict "x"}}}`, `a value for each key`},
		{`{"a": {{fromJson .Type}}}`, `not a single JSON value`},
	} {
		tmpl, err := Parse(JSON, Source{"body", c.template})
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		out, err := tmpl.Execute([]byte("before"), sample())
		switch {
		case c.want == "" && err == nil:
		case err == nil:
			t.Errorf("%s: %.100s", c.template, out)
		case !strings.Contains(err.Error(), c.want):
			t.Errorf("%s\n got %v\nwant %s", c.template, err, c.want)
		case string(out) != "before":
			t.Errorf("%s: %q is left", c.template, out)
		}
	}
}

func TestURL(t *testing.T) {
	for _, c := range []struct{ template, want, err string }{
		{"https://example.com/hooks/{{.Type}}/{{.Quote}}?q={{.Path}}&x={{.Quote}}", `https://example.com/hooks/kv-v2%2Fdata-write/a%22b%5Cc?q=secret%2Fdata%2Fapp&x=a%22b%5Cc`, ""},
		{"http://[::1]:80?a={{.Data.n}}", "http://[::1]:80?a=1", ""},
		{"https://example.com", "https://example.com", ""},
		{`https://example.com/{{if .Type}}a{{else}}b{{end}}`, "https://example.com/a", ""},
		{`https://example.com/{{raw .Path}}`, "https://example.com/secret/data/app", ""},
		{"https://{{.Type}}.example.com/", "", "the host of a URL must not depend on an event"},
		{"https://example.com{{.Type}}", "", "the host of a URL"},
		{"{{.Type}}", "", "the host of a URL"},
		{"https:///{{.Type}}", "", "the host of a URL"},
		{"ftp://example.com/{{.Type}}", "", "the host of a URL"},
		{"example.com/x", "", "does not begin with https://"},
		{"https://example.com/#{{.Type}}", "", "fragment"},
		{"https://example.com/a b", "", "is no character of a URL"},
		{`https://example.com/{{if .Type}}?a=1{{end}}`, "", "its branches end in different places, one in the query of the URL, the other in the path of the URL"},
	} {
		tmpl, err := Parse(URL, Source{"url", c.template})
		var out []byte
		if err == nil {
			out, err = tmpl.Execute(nil, sample())
		}
		if c.err == "" && (err != nil || string(out) != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %s, %v", c.template, out, err)
		}
	}
}

func TestText(t *testing.T) {
	tmpl, err := Parse(Text, Source{"text", "{{.Quote}} {{.Data.list}}\n\"{{range .Data.list}}{{.}};{{end}}"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := tmpl.Execute(nil, sample())
	if want := "a\"b\\c [1,\"two\",{\"three\":3}]\n\"1;two;{\"three\":3};"; err != nil || string(out) != want {
		t.Errorf("%q, %v", out, err)
	}
}

// TestParts replaces parts of a template.
func TestParts(t *testing.T) {
	base := Source{"preset", `{{define "title"}}Event {{.Type}}{{end}}{{define "other"}}x{{end}}{"t": "{{template "title" .}}"}`}
	for text, want := range map[string]string{
		"":                                       `{"t": "Event kv-v2/data-write"}`,
		"\n{{define \"title\"}}{{.Path}}{{end}}": `{"t": "secret/data/app"}`,
		`{"mine": "{{template "title" .}}"}`:     `{"mine": "Event kv-v2/data-write"}`,
		`{{define "titel"}}{{end}}`:              `body: defines "titel", which nothing calls; the parts are other, title`,
		`{{define "title"}}"{{end}}`:             `body: the part "title" begins inside of quotes, but ends behind a value in an object`,
	} {
		tmpl, err := Parse(JSON, base, Source{"body", text})
		var out []byte
		if err == nil {
			out, err = tmpl.Execute(nil, sample())
		}
		if got := fmt.Sprint(string(out), err); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestConcurrent executes one template from many goroutines.
func TestConcurrent(t *testing.T) {
	tmpl, err := Parse(JSON, Source{"body", `{"a": [{{range $i, $e := .Data.list}}{{if $i}},{{end}}{{upper (toJson $e)}}{{end}}]}`})
	if err != nil {
		t.Fatal(err)
	}
	data := sample()
	want, err := tmpl.Execute(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("parallel", func(t *testing.T) {
		for range 8 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for range 200 {
					if got, err := tmpl.Execute(nil, data); err != nil || string(got) != string(want) {
						t.Fatalf("%s, %v", got, err)
					}
				}
			})
		}
	})
}

func BenchmarkExecute(b *testing.B) {
	tmpl, err := Parse(JSON, Source{"body", `{"text": "{{.Type}} on {{.Path}}", "version": {{.Metadata.current_version | default ""}}, "data": {{.Data.object}}}`})
	if err != nil {
		b.Fatal(err)
	}
	data := sample()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tmpl.Execute(nil, data); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCheck(t *testing.T) {
	many := `{"x":0`
	for i := range 40 {
		many += fmt.Sprintf(`,"k%d":1`, i)
	}
	for text, want := range map[string]string{
		`{"a":1,"b":[{"a":1},{"a":2}],"c":{"a":"a"}}`: "", `1`: "", ` "x" `: "", many + "}": "",
		``: "it is empty", " \n": "it is empty", "{\"a\":\n  x}": "not valid JSON from line 2, column 3 of it on", `{} {}`: "line 1, column 4", `{"a":`: "not valid JSON",
		`{"a":1,"a":2}`: "same key, from byte 7 on", `{"a":1,"\u0061":2}`: "same key", `[{"b":{"a\"":1,"a\"":2}}]`: "same key", many + `,"k7":1}`: "same key",
	} {
		err := check([]byte(text), nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":"\"\\"}],"c":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if check(b, nil) == nil && !json.Valid(b) {
			t.Errorf("%q", b)
		}
	})
}

// A template without any range is bounded as well: asking about a large value costs.
func TestManyQuestions(t *testing.T) {
	large := make([]any, 400_000)
	object := make(map[string]any, 100_000)
	for i := range large {
		large[i] = int64(i)
		if i < 100_000 {
			object[strconv.Itoa(i)] = int64(i)
		}
	}
	for _, question := range []string{`{{if contains "x" .L}}{{end}}`, `{{if hasPrefix "x" .L}}{{end}}`, `{{if keys .O}}{{end}}`, `{{if raw .L}}{{end}}`} {
		tmpl, err := Parse(JSON, Source{"body", strings.Repeat(question, 60_000/len(question)) + "{}"})
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if _, err := tmpl.Execute(nil, map[string]any{"L": large, "O": object}); err == nil {
			t.Errorf("%s: no error", question)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%s: took %v", question, took)
		}
	}
}
