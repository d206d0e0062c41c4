package catalog

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// write makes files in a directory and returns the path of the first.
func write(t testing.TB, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, files[0])
}

const orderSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "An order",
  "type": "object",
  "required": ["order", "items"],
  "additionalProperties": false,
  "properties": {
    "order": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
    "state": {"enum": ["open", "paid"]},
    "kind": {"const": "retail"},
    "items": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"$ref": "parts/item.json"}},
    "note": {"type": "string", "minLength": 2, "maxLength": 5},
    "choice": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "even": {"multipleOf": 2, "minimum": 2, "exclusiveMaximum": 100}
  },
  "dependentRequired": {"state": ["kind"]}
}`

const itemSchema = `{"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}`

func orders(t testing.TB, mode Mode) *Catalog {
	return bare(Declared{Type: "shop/*", SchemaFile: write(t, "order.json", orderSchema, "parts/item.json", itemSchema), Mode: mode})
}

func withData(text string) *event.Event {
	e := published("", "shop/order")
	e.Data, e.DataContentType = []byte(text), "application/json"
	return e
}

func TestCheckData(t *testing.T) {
	c := orders(t, RefuseEvents)
	const secret = "hunter2-hunter2"
	tests := map[string]string{ // data: problem
		`{"order":"AB-1","items":[{"id":1}]}`: "",
		`{"order":"AB-1","items":[{"id":1}],"state":"paid","kind":"retail","note":"abc","choice":null,"even":4}`: "",
		`{"order":"` + secret + `","items":[{"id":1}]}`:                                                          `/order must match the pattern ^[A-Z]{2}-[0-9]+$`,
		`{"order":17,"items":[{"id":1}]}`:                                                                        `/order must be string, is number`,
		`{"items":[{"id":1}]}`:                                                                                   `/ misses "order"`,
		`{"order":"AB-1","items":[]}`:                                                                            `/items must have at least 1 elements, has 0`,
		`{"order":"AB-1","items":[{"id":"` + secret + `"}]}`:                                                     `/items/0/id must be integer, is string`,
		`{"order":"AB-1","items":[{"id":1},{}]}`:                                                                 `/items/1 misses "id"`,
		`{"order":"AB-1","items":[{"id":1}],"state":"` + secret + `"}`:                                           `/ misses "kind"; /state must be one of "open", "paid"`,
		`{"order":"AB-1","items":[{"id":1}],"kind":"` + secret + `"}`:                                            `/kind must be "retail"`,
		`{"order":"AB-1","items":[{"id":1}],"x":1,"a/b":2}`:                                                      `/ must not have "a/b", "x"`,
		`{"order":"AB-1","items":[{"id":1}],"note":"` + secret + `"}`:                                            `/note must have at most 5 characters, has 15`,
		`{"order":"AB-1","items":[{"id":1}],"choice":"` + secret + `"}`:                                          `/choice fits none of the alternatives (anyOf)`,
		`{"order":"AB-1","items":[{"id":1}],"even":101}`:                                                         `/even must be a multiple of 2; /even must be less than 100`,
		`{"order":1,"items":[{"id":"a"},{"id":"b"},{"id":"c"}],"note":"a"}`:                                      `/items/0/id must be integer, is string; /items/1/id must be integer, is string; /items/2/id must be integer, is string (and 2 more)`,
		`[]`:                                    `/ must be object, is array`,
		`{"order":`:                             `is not JSON`,
		`{"order":"AB-1"} {}`:                   `is not JSON`,
		`{"x":1e1000000}`:                       `has a number that is too large or too long to be checked`,
		`{"x":1e-400}`:                          `has a number that is too large or too long to be checked`,
		`{"x":` + strings.Repeat("1", 65) + `}`: `has a number that is too large or too long to be checked`,
		strings.Repeat("[", 70) + strings.Repeat("]", 70):    `is nested more than 64 levels deep, too deep to be checked`,
		`[` + strings.Repeat("1,", 60_000) + `1]`:            `has more than 50000 values, too many to be checked`,
		`{"order":"AB-1","items":[{"id":1}],"even":1e308}`:   `/even must be less than 100`,
		`{"order":"AB-1","items":[{"id":1}],"even":1e+0002}`: `/even must be less than 100`,
	}
	for data, want := range tests {
		warning, err := c.Check(withData(data))
		if want != "" {
			want = `data: does not adhere to the schema for "shop/*": ` + want
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want || warning != "" {
			t.Errorf("%.100s:\n got %s\nwant %s", data, got, want)
		}
		if strings.Contains(got, "hunter2") {
			t.Errorf("the error has a value: %s", got)
		}
	}
	if s := c.Stats(); s.Refused != uint64(len(tests)-2) || s.Warned != 0 {
		t.Errorf("%+v", s)
	}
}

func TestCheckOther(t *testing.T) {
	c := orders(t, Warn)
	metadata := published("", "shop/order", "order", "AB-1")
	metadata.Metadata.SetJSON("items", `[{"id":1}]`)
	bad := published("", "shop/order", "order", "AB-1")
	textData := withData("x")
	textData.DataContentType = "text/plain"
	elsewhere := published("", "shop/order")
	elsewhere.DataRef = "payload:1"
	vendor := withData(`{"order":"AB-1","items":[{"id":1}]}`)
	vendor.DataContentType = "application/vnd.shop+json; charset=utf-8"
	for name, tt := range map[string]struct {
		e    *event.Event
		want string
	}{
		"metadata":       {metadata, ""},
		"bad metadata":   {bad, `metadata: does not adhere to the schema for "shop/*": / misses "items"`},
		"text":           {textData, `data: does not adhere to the schema for "shop/*": is not JSON, by its content type`},
		"data elsewhere": {elsewhere, `data: does not adhere to the schema for "shop/*": is kept elsewhere (dataref), where it is not checked`},
		"vendor's JSON":  {vendor, ""},
		"another type":   {published("", "other/x"), ""},
	} {
		if warning, err := c.Check(tt.e); warning != tt.want || err != nil {
			t.Errorf("%s: %q %v", name, warning, err)
		}
	}
	if s := c.Stats(); s.Warned != 3 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWhichSchemaCounts(t *testing.T) {
	file := func(want string) string { return write(t, "s.json", `{"required":["`+want+`"]}`) }
	c := bare(
		Declared{Type: "a/*", SchemaFile: file("glob1")}, Declared{Type: "a/x*", SchemaFile: file("glob2")},
		Declared{Type: "a/xyz", SchemaFile: file("exact")}, Declared{Type: "a/xyz", SchemaFile: file("exact2")},
		Declared{Type: "a/free"}, Declared{Type: "*", SchemaFile: file("all")},
	)
	for name, want := range map[string]string{"a/b": "glob1", "a/xy": "glob1", "a/xyz": "exact", "a/free": "", "b": "all"} {
		warning, _ := c.Check(published("", name))
		if want != "" && !strings.HasSuffix(warning, `misses "`+want+`"`) || want == "" && warning != "" {
			t.Errorf("%s: %s", name, warning)
		}
	}
	got, _ := c.Lookup("a/xyz", everywhere)
	if got.Schema == nil || got.Schema.For != "a/xyz" || got.Schema.Mode != Warn || string(got.Schema.Text) != `{"required":["exact"]}` {
		t.Errorf("%+v", got.Schema)
	}
	list, _ := c.List(Query{Sees: everywhere, Limit: 1, Origin: Configured})
	if list[0].Name != "*" || list[0].Schema == nil || list[0].Schema.Text != nil {
		t.Errorf("%+v", list[0])
	}
}

func TestSchemaErrors(t *testing.T) {
	outside := write(t, "outside.json", `{}`)
	link := filepath.Join(filepath.Dir(write(t, "s.json", "{}")), "link.json")
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	many := []string{"m0.json", `{"$ref":"m1.json"}`}
	for i := 1; i < 70; i++ {
		many = append(many, fmt.Sprintf("m%d.json", i), fmt.Sprintf(`{"$ref":"m%d.json"}`, (i+1)%70))
	}
	for name, tt := range map[string]struct{ file, want string }{
		"missing":         {filepath.Join(t.TempDir(), "none.json"), "no such file"},
		"missing dir":     {"/nowhere/none.json", "no such file"},
		"directory":       {t.TempDir(), "is not a file"},
		"syntax":          {write(t, "s.json", "{\n  \"type\": \"object\",\n}"), "s.json:3:1: not valid JSON"},
		"trailing":        {write(t, "s.json", "{} {}"), "not valid JSON"},
		"not a schema":    {write(t, "s.json", `{"properties":{"a":{"type":"strin"}}}`), "/properties/a/type"},
		"expression":      {write(t, "s.json", `{"properties":{"a":{"pattern":"(?=x)"}}}`), "(?=x)"},
		"over network":    {write(t, "s.json", `{"$ref":"https://example.com/x.json"}`), "not loaded over the network"},
		"id of elsewhere": {write(t, "s.json", `{"$id":"https://example.com/s.json","$ref":"x.json"}`), "not loaded over the network"},
		"meta elsewhere":  {write(t, "s.json", `{"$schema":"https://example.com/meta"}`), "not loaded over the network"},
		"outside":         {write(t, "s.json", `{"$ref":"`+outside+`"}`), "from which alone schemas are loaded"},
		"above":           {write(t, "s.json", `{"$ref":"../x.json"}`), "from which alone schemas are loaded"},
		"link":            {link, "escapes"},
		"no such ref":     {write(t, "s.json", `{"$ref":"#/$defs/none"}`), "$defs/none"},
		"large":           {write(t, "s.json", `{"title":"`+strings.Repeat("x", maxSchemaBytes)+`"}`), "larger than 256 KiB"},
		"deep":            {write(t, "s.json", strings.Repeat(`{"not":`, 120)+`{}`+strings.Repeat("}", 120)), "more than 100 levels"},
		"many":            {write(t, many...), "at most 64"},
		"dynamic":         {write(t, "s.json", `{"$defs":{"a":{"$dynamicRef":"#x"}}}`), "/$defs/a/$dynamicRef: is not supported"},
		"large number":    {write(t, "s.json", `{"minimum":1e999999}`), "number is too large"},
	} {
		_, err := compile(Declared{Type: "shop/x", SchemaFile: tt.file})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `"shop/x"`) ||
			!strings.HasPrefix(name, "missing") && name != "directory" && !strings.Contains(err.Error(), tt.file) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(t.Context(), Config{Declared: []Declared{{Type: "shop/x", SchemaFile: "none.json"}}}); err == nil {
		t.Error("it was opened with a schema that is not there")
	}
}

// TestRelativeFile: as with all files of the configuration, relative to where the program
// was started.
func TestRelativeFile(t *testing.T) {
	t.Chdir(filepath.Dir(write(t, "order.json", orderSchema, "parts/item.json", itemSchema)))
	if _, err := compile(Declared{Type: "x", SchemaFile: "order.json"}); err != nil {
		t.Error(err)
	}
}

// TestBoundedCost: schemas and values for which a validation would take for ever, or much
// too long, end in time.
func TestBoundedCost(t *testing.T) {
	deep := `1`
	for range 50 {
		deep = `{"a":` + deep + `}`
	}
	long := `"` + strings.Repeat("a", 100_000) + `"`
	patterns := strings.TrimSuffix(strings.Repeat(`{"pattern":"(a|b|ab)*c(a|b)*$"},`, 500), ",")
	properties := strings.TrimSuffix(strings.Repeat(`{"a":1},`, 20_000), ",")
	for name, tt := range map[string]struct{ schema, data string }{
		"twice each level":      {`{"$defs":{"n":{"anyOf":[{"properties":{"a":{"$ref":"#/$defs/n"}},"required":["b"]},{"properties":{"a":{"$ref":"#/$defs/n"}},"required":["c"]}]}},"$ref":"#/$defs/n"}`, deep},
		"also within not":       {`{"$defs":{"n":{"$ref":"#/$defs/m","properties":{"a":{"$ref":"#/$defs/n"}}},"m":{"properties":{"a":{"$ref":"#/$defs/n"}},"required":["b"]}},"not":{"$ref":"#/$defs/n"}}`, deep},
		"a chain of references": {`{"$defs":{` + doubling(40) + `},"$ref":"#/$defs/d0"}`, `{}`},
		"patterns":              {`{"anyOf":[` + patterns + `]}`, long},
		"many values":           {`{"items":{"allOf":[{"items":{}},{"properties":{"a":{"type":"integer"}}},{"properties":{"a":{"minimum":0}}}]}}`, `[` + properties + `]`},
		"names":                 {`{"patternProperties":{` + strings.TrimSuffix(strings.Repeat(`"(a|b)*c":{},`, 1), ",") + `}}`, `{` + members(20_000) + `}`},
		"equal elements":        {`{"uniqueItems":true}`, `[` + strings.TrimSuffix(strings.Repeat(`[1,[2,3]],`, 9_000), ",") + `]`},
		"formats":               {`{"$schema":"http://json-schema.org/draft-07/schema#","items":{"format":"regex"}}`, `[` + strings.TrimSuffix(strings.Repeat(`"(((a{100}){9}))",`, 2_000), ",") + `]`},
	} {
		c := bare(Declared{Type: "shop/order", SchemaFile: write(t, "s.json", tt.schema)})
		begin := time.Now()
		warning, _ := c.Check(withData(tt.data))
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%s takes %v: %s", name, took, warning)
		} else {
			t.Logf("%s takes %v: %.150s", name, took, warning)
		}
		if (name == "twice each level" || name == "a chain of references" || name == "patterns") && !strings.Contains(warning, "cannot be checked within") {
			t.Errorf("%s: %s", name, warning)
		}
		// The validator is as good as before.
		if warning, _ := c.Check(withData(`{"a":1}`)); strings.Contains(warning, "cannot be checked") && name != "a chain of references" {
			t.Errorf("%s, then: %s", name, warning)
		}
	}
}

// doubling are schemas of which each uses the next one twice.
func doubling(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"d%d":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`, i, i+1, i+1))
	}
	return strings.Join(append(all, fmt.Sprintf(`"d%d":{"type":"object"}`, n)), ",")
}

func members(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"ab%d":1`, i))
	}
	return strings.Join(all, ",")
}

func TestCheckAtOnce(t *testing.T) {
	c := orders(t, RefuseEvents)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 100 {
				data, bad := `{"order":"AB-1","items":[{"id":1}]}`, i%2 == 1
				if bad {
					data = `{}`
				}
				if _, err := c.Check(withData(data)); (err != nil) != bad {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func FuzzCheckData(f *testing.F) {
	c := orders(f, RefuseEvents)
	f.Add([]byte(`{"order":"AB-1","items":[{"id":1}]}`), "application/json", "")
	f.Add([]byte(`{"even":1e999999,"items":[{"id":1E-5}]}`), "application/json", "[1]")
	f.Add([]byte(nil), "", `{"a":[null,true,1.5]}`)
	f.Fuzz(func(t *testing.T, data []byte, contentType, value string) {
		e := withData(string(data))
		e.DataContentType = contentType
		if len(data) == 0 {
			e.Data = nil
		}
		if json.Valid([]byte(value)) {
			e.Metadata.SetJSON("order", value)
		}
		if _, err := c.Check(e); err != nil && len(err.Error()) > 4000 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
		c.Learn(e)
	})
}

func BenchmarkCheckData(b *testing.B) {
	c := orders(b, RefuseEvents)
	e := withData(`{"order":"AB-1","items":[{"id":1}],"state":"paid","kind":"retail"}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Check(e); err != nil {
			b.Fatal(err)
		}
	}
}
