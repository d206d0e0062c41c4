package safetemplate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/jsonvalue"
)

// values returns data whose texts are all s.
func values(s string) map[string]any {
	return map[string]any{
		"A": s, "B": s, "N": int64(3), "F": 0.5, "Null": jsonvalue.Null(nil), "Yes": true, "Time": time.Unix(0, 0),
		"L": []any{s, int64(1), s}, "O": map[string]any{"k": s, "l": []any{s}}, "Fields": map[string]any{"x": s},
	}
}

// harmless and hostile are texts that must make no difference for the structure.
const harmless = "harmless"

var hostile = []string{
	`"`, `\`, `","admin":"`, `"},{"x":"`, `\"`, `\u0022`, "\n", "\x00\x1f\x7f", "\xff\xfe\xc0\x80", "\u2028\u2029",
	`}]`, `{{.A}}`, `</script>`, `1`, `true`, `null`, `[1]`, "a\\", strings.Repeat(`"`, 300),
}

// structure returns the paths of all values of JSON and their kinds; without names, the
// number of a member stands for its key.
func structure(t *testing.T, b []byte, names bool) []string {
	t.Helper()
	var list []string
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var walk func(path string)
	walk = func(path string) {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		switch token := token.(type) {
		case json.Delim:
			list = append(list, path+token.String())
			for n := 0; d.More(); n++ {
				if token == '{' {
					key, _ := d.Token()
					if !names {
						key = n
					}
					walk(fmt.Sprintf("%s.%v", path, key))
				} else {
					walk(fmt.Sprintf("%s.%d", path, n))
				}
			}
			d.Token()
		default:
			list = append(list, fmt.Sprintf("%s %T", path, token))
		}
	}
	walk("")
	if _, err := d.Token(); err != io.EOF {
		t.Fatalf("%s: more than one value", b)
	}
	return list
}

// seeds are templates of all kinds, as far as they have no raw, no key that is a value,
// and no condition on a text.
var seeds = []string{
	`{"text": {{.A}}}`, `{"text": "x {{.A}} y {{.B}}"}`, `[{{range $i, $e := .L}}{{if $i}},{{end}}{{$e}}{{end}}]`,
	`{"a": {{toJson .O}}, "b": "{{toJson .O}}", "c": {{toPrettyJson .L}}}`, `{"a": "{{.O}}{{.L}}{{.N}}{{.Null}}{{.Time}}"}`,
	`{"a": {{upper .A}}, "b": "{{truncate 5 .A}}", "c": {{print .A .B}}, "d": "{{printf "%q %s %x" .A .B .A}}"}`,
	`{{define "x"}}{{.}}{{end}}{"a": "{{template "x" .A}}", "b": {{template "x" .L}}}`,
	`{"a": {{.A | default "x"}}, "b": {{join "," .L}}, "c": {{split "," .A}}}`,
	`{"a": 1{{range $k, $v := .O}}, "{{$k}}": {{$v}}{{end}}}`, `{"a": {{with .O}}{{.k}}{{else}}0{{end}}}`,
	`[{{range .L}}{{.}},{{end}}0]`, `{{if .Yes}}{"a": {{.A}}}{{else}}[]{{end}}`, `{"\u0041": "{{.A}}\u0041\\"}`,
	`{"a": {{base64 .A}}, "b": "{{sha256 .A}}", "c": {{dict "x" .A}}, "d": {{list .A .B}}, "e": {{replace "a" .B .A}}}`,
	`[{{range .L}}{{break}}{{end}}]`, `{"a": {{slack .A}}, "b": "{{.A}}{{/* x */}}{{- .B -}}"}`,
	"{{range 100000}}{{range 100000}}{{end}}{{end}}1", `{{$x := .A}}{{range 60}}{{$x = print $x $x}}{{end}}{{$x}}`,
}

// depends says whether the structure may depend on texts: the template compares them, has
// keys of them, writes them raw, or makes other values of them.
func depends(template string) bool {
	for _, word := range []string{"raw", "if", "with", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "contains", "has", "ternary", "default", "coalesce", "len", "split", "fromJson", "index", "keys", "dict", "int", "date", "unix", "add", "sub", "slice", "range", "first", "last"} {
		if strings.Contains(template, word) {
			return true
		}
	}
	return false
}

// FuzzStructure: a template that is accepted makes valid JSON of hostile values or an
// error, always, and with the structure that harmless values have.
func FuzzStructure(f *testing.F) {
	for _, seed := range seeds {
		for _, text := range hostile[:4] {
			f.Add(seed, text)
		}
	}
	f.Fuzz(func(t *testing.T, template, text string) {
		tmpl, err := Parse(JSON, Source{"body", template})
		if err != nil {
			return
		}
		begin := time.Now()
		good, goodErr := tmpl.Execute(nil, values(harmless))
		if time.Since(begin) > 10*time.Millisecond {
			return // bounded, but not worth repeating
		}
		if goodErr != nil && !strings.Contains(template, "raw") && len(good) > 0 {
			t.Errorf("%q is left of a failure", good)
		}
		for _, text := range append(slices.Clone(hostile), text) {
			bad, err := tmpl.Execute(nil, values(text))
			if len(bad) > MaxOutputBytes {
				t.Fatalf("%d bytes", len(bad))
			}
			if err == nil && !json.Valid(bad) {
				t.Fatalf("%s with %q: %s", template, text, bad)
			}
			if strings.Contains(template, "raw") || err != nil || goodErr != nil || depends(template) {
				continue
			}
			want, got := structure(t, good, false), structure(t, bad, false)
			if !slices.Equal(want, got) {
				t.Fatalf("%s with %q:\n got %s\n     %q\nwant %q", template, text, bad, got, want)
			}
		}
	})
}

// TestSeeds runs what FuzzStructure begins with against all hostile texts, also where the
// values are in quotes.
func TestSeeds(t *testing.T) {
	for _, seed := range seeds {
		tmpl, err := Parse(JSON, Source{"body", seed})
		if err != nil {
			t.Fatalf("%s: %v", seed, err)
		}
		good, err := tmpl.Execute(nil, values(harmless))
		if err != nil {
			continue
		}
		want := structure(t, good, true)
		for _, text := range hostile {
			bad, err := tmpl.Execute(nil, values(text))
			if err != nil {
				t.Errorf("%s with %q: %v", seed, text, err)
				continue
			}
			if got := structure(t, bad, true); !slices.Equal(got, want) && !strings.Contains(seed, "default") {
				t.Errorf("%s with %q:\n got %s\n     %q\nwant %q", seed, text, bad, got, want)
			}
		}
	}
}

// FuzzURL: values neither leave their part of a URL nor its host.
func FuzzURL(f *testing.F) {
	f.Add("https://example.com/{{.A}}/x?y={{.B}}", "/../..?#@evil\r\n")
	f.Add("http://127.0.0.1:1?{{.A}}={{.L}}", "&x=%zz")
	f.Fuzz(func(t *testing.T, template, text string) {
		tmpl, err := Parse(URL, Source{"url", template})
		if err != nil || strings.Contains(template, "raw") {
			return
		}
		out, err := tmpl.Execute(nil, values(text))
		if err != nil {
			return
		}
		for _, b := range out {
			if b <= ' ' || b == '#' {
				t.Fatalf("%s with %q: %q", template, text, out)
			}
		}
		if !hostEnded(string(out)) {
			t.Fatalf("%s with %q: %q", template, text, out)
		}
	})
}
