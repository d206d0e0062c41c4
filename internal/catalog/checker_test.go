package catalog

import (
	"strings"
	"testing"
)

func TestChecker(t *testing.T) {
	c, err := NewChecker("the schema", []byte(`{"type":"object","properties":{"count":{"type":"integer","minimum":1},"more":{"$ref":"#/$defs/x"}},"required":["count"],"additionalProperties":false,"$defs":{"x":{"type":"string","pattern":"^(a+)+$"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`{"count":1}`:                "",
		`{"count":1,"more":"aa"}`:    "",
		`{"count":"secret"}`:         "/count must be integer, is string",
		`{}`:                         "/ misses \"count\"",
		`{"count":1,"other":true}`:   "must not have",
		`{"count":1,"more":"b"}`:     "/more",
		`{"count":1e999999999}`:      "has a number",
		`{`:                          "is not JSON",
		strings.Repeat("[", 100_000): "is not JSON",
	} {
		got := c.Check([]byte(text))
		if want == "" && got != "" || !strings.Contains(got, want) || strings.Contains(got, "secret") {
			t.Errorf("%.40s: got %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{`{`, `5`, `{"type":5}`, `{"$ref":"file:///etc/passwd"}`, `{"$ref":"https://example.com/x"}`, `{"minimum":1e999999999}`, `{"$ref":"#/nowhere"}`, `{"pattern":"("}`} {
		if _, err := NewChecker("the schema", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), "the schema") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func FuzzChecker(f *testing.F) {
	f.Add([]byte(`{"type":"object","properties":{"a":{"type":"integer"}}}`), []byte(`{"a":1}`))
	f.Add([]byte(`{"$ref":"#"}`), []byte(`[]`))
	f.Add([]byte(`{"allOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"enum":[1,null]}}}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, schema, text []byte) {
		c, err := NewChecker("s", schema)
		if err == nil {
			c.Check(text)
		}
	})
}
