package filter

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
)

func whatever(string, *string) error { return nil }

// cells are a row: for each field its elements, with "list" before those of a list.
type cells struct {
	texts map[int][]string
	asked int
}

func (c *cells) Texts(field int) ([]string, bool) {
	c.asked++
	texts := c.texts[field]
	if len(texts) > 0 && texts[0] == "list" {
		return texts[1:], true
	}
	return texts, false
}

func TestFields(t *testing.T) {
	verb := func(texts ...string) map[int][]string { return map[int][]string{0: texts} }
	for _, tt := range []struct {
		text  string
		texts map[int][]string
		want  bool
	}{
		{`field["ka.verb"] == "create"`, verb("create"), true},
		{`field["ka.verb"] == create`, verb("create"), true},
		{`field["ka.verb"] == "create"`, verb("created"), false},
		{`field["ka.verb"] == "create"`, nil, false},
		{`field["ka.verb"] != "create"`, verb("create"), false},
		{`field["ka.verb"] != "create"`, nil, true},
		{`field["ka.port"] == 443`, verb("443"), true},
		{`field["json.value[/a/b]"] contains "x"`, verb("axb"), true},
		{`field["json.value[/a/b]"] contains "x"`, verb("ab"), false},
		{`"x" in field["json.value[/a/b]"]`, verb("axb"), true},
		{`"x" not in field["json.value[/a/b]"]`, verb("axb"), false},
		{`field["json.value[/a/b]"] not contains "x"`, nil, true},
		{`field["a.b"] matches "^a+$"`, verb("aaa"), true},
		{`field["a.b"] matches "^a+$"`, verb("b"), false},
		{`field["a.b"] not matches "^a+$"`, nil, true},
		{`field["a.b"] is empty`, nil, true},
		{`field["a.b"] is empty`, verb(""), true},
		{`field["a.b"] is empty`, verb("list"), true},
		{`field["a.b"] is empty`, verb("list", ""), false},
		{`field["a.b"] is not empty`, verb("x"), true},
		// Of a list one element must be it.
		{`"b" in field["a.b"]`, verb("list", "a", "b"), true},
		{`"b" in field["a.b"]`, verb("list", "a", "bb"), false},
		{`field["a.b"] contains "b"`, verb("list", "a", "b"), true},
		{`field["a.b"] == "b"`, verb("list", "a", "b"), true},
		{`field["a.b"] != "b"`, verb("list", "a", "b"), false},
		{`field["a.b"] matches "^b"`, verb("list", "a", "bb"), true},
		{`field["a.b"] contains "b"`, verb("list"), false},
		// Together with others, and with each other.
		{`event_type == "falco/x" and field["a.b"] == "b"`, verb("b"), true},
		{`field["a.b"] == "b" and event_type == "falco/y"`, verb("b"), false},
		{`field["a.b"] == "b" or event_type == "falco/x"`, nil, true},
		{`not (field["a.b"] == "b" or event_type == "falco/y")`, verb("c"), true},
		{`field["a.b"] == "1" and field["c.d"] == "2"`, map[int][]string{0: {"1"}, 1: {"2"}}, true},
		{`field["a.b"] == "1" or field["c.d"] == "2"`, map[int][]string{1: {"2"}}, true},
		{`field["a.b"] == "1" or field["a.b"] == "2"`, verb("2"), true},
		{"field[`json.value[\"a b\"]`] == \"1\"", verb("1"), true},
		{`"/field/a.b" == "1"`, verb("1"), true},
	} {
		f, err := CompileFields(tt.text, whatever)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		e := &event.Event{Type: "falco/x"}
		if got := f.MatchRow(e, &cells{texts: tt.texts}); got != tt.want {
			t.Errorf("%s with %v: %v", tt.text, tt.texts, got)
		}
		if f.Match(e) != f.MatchRow(e, &cells{}) {
			t.Errorf("%s: Match is not MatchRow without values", tt.text)
		}
	}
}

func TestFieldsAreListed(t *testing.T) {
	f, err := CompileFields(`field["b"] == 1 or not field["a[x]"] is empty or field["b"] == 2 and operation == a`, whatever)
	if err != nil || !reflect.DeepEqual(f.Fields(), []string{"b", "a[x]"}) {
		t.Errorf("%v %v", f.Fields(), err)
	}
	if f, err := CompileFields(`operation == "a"`, whatever); err != nil || len(f.Fields()) != 0 {
		t.Errorf("%v %v", f.Fields(), err)
	}
	if f, err := CompileFields("", whatever); f != nil || err != nil || !f.MatchRow(kvEvent(nil), nil) || f.Fields() != nil {
		t.Errorf("%v %v", f, err)
	}
}

// What needs no field is decided first, wherever it stands.
func TestFieldsAreAskedLast(t *testing.T) {
	for text, asked := range map[string]int{
		`field["a"] == "1" and event_type == "falco/y"`:                                    0,
		`event_type == "falco/y" and field["a"] == "1"`:                                    0,
		`field["a"] == "1" or event_type == "falco/x"`:                                     0,
		`(field["a"] == "1" or field["b"] == "2") and not event_type == "falco/x"`:         0,
		`field["a"] == "1" or field["b"] == "2"`:                                           2,
		`field["a"] == "1" and field["b"] == "2"`:                                          1,
		`field["a"] == "1" and event_type == "falco/x"`:                                    1,
		`(field["a"] == "1" and event_type == "falco/y") or (event_type == "falco/x")`:     0,
		`(field["a"] == "1" or event_type == "falco/y") and not (event_type == "falco/x")`: 0,
	} {
		f, err := CompileFields(text, whatever)
		if err != nil {
			t.Fatal(err)
		}
		c := &cells{}
		if f.MatchRow(&event.Event{Type: "falco/x"}, c); c.asked != asked {
			t.Errorf("%s asked %d times instead of %d", text, c.asked, asked)
		}
	}
}

func TestFieldsRefused(t *testing.T) {
	var many strings.Builder
	for i := range MaxFields + 1 {
		many.WriteString(` and field["f` + string(rune('a'+i)) + `"] == "1"`)
	}
	refuse := func(field string, _ *string) error {
		if strings.HasPrefix(field, "no") {
			return errors.New("unknown field " + field)
		}
		return nil
	}
	for text, reason := range map[string]string{
		`field == "x"`:                   `field["NAME"]`,
		`field.a.b == "x"`:               `field["NAME"]`,
		`field["a"]["b"] == "x"`:         `field["NAME"]`,
		`field[""] == "x"`:               "its name is missing",
		`field["a["] == "x"`:             "does not end with ]",
		`field["a[]"] == "x"`:            "nothing in the brackets",
		`field["no.such"] == "x"`:        "unknown field no.such",
		`field["a"] is nil`:              "does not apply",
		`field["a"] matches "("`:         "invalid regular expression",
		many.String()[len(" and "):]:     "more than 16",
		`any field["a"] as x { x == 1 }`: "not a collection",
		`feild["a"] == "x"`:              "unknown selector",
		`event_typ == "x"`:               `did you mean "event_type"?`,
	} {
		var refused *Error
		if _, err := CompileFields(text, refuse); !errors.As(err, &refused) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Compile(`field["a"] == "x"`); err == nil || !strings.Contains(err.Error(), "cannot be used here") {
		t.Error(err)
	}
	if _, err := (Selection{Filter: `field["a"] == "x"`}).Compile(); err == nil || !strings.Contains(err.Error(), "cannot be used here") {
		t.Error(err)
	}
}

func TestSelectionFields(t *testing.T) {
	c, err := Selection{Types: []string{"falco/*"}, Filter: `field["a"] == "1"`}.CompileFields(whatever)
	if err != nil || !reflect.DeepEqual(c.Fields(), []string{"a"}) {
		t.Fatalf("%v %v", c, err)
	}
	row := &cells{texts: map[int][]string{0: {"1"}}}
	if !c.MatchRow(&event.Event{Type: "falco/x"}, row) || row.asked != 1 || c.MatchRow(&event.Event{Type: "other"}, row) || row.asked != 1 {
		t.Errorf("asked %d times", row.asked)
	}
	if c.Match(&event.Event{Type: "falco/x"}) {
		t.Error("it matches without values")
	}
}

// FuzzFields: whatever is in the brackets is a field that can be written, or refused.
func FuzzFields(f *testing.F) {
	for _, text := range []string{"a.b", "json.value[/a/b]", "a[", `a["x]"]`, "a[0]", "", "]", "a[b]c", "a[\x00]", strings.Repeat("a", 5000)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "`\r") {
			return
		}
		x, err := CompileFields("field[`"+text+"`] == 1 or operation == a", whatever)
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatal(err)
			}
			return
		}
		if len(x.Fields()) != 1 || x.Fields()[0] != text {
			t.Fatalf("%q became %q", text, x.Fields())
		}
		x.MatchRow(&event.Event{}, &cells{})
	})
}
