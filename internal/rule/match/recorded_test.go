package match

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// tableRow is a row whose values are in a table: the name of a field, then the argument.
type tableRow struct {
	requests *field.Requests
	values   map[string]map[string][]field.Element
}

func (r *tableRow) Values(request int) []field.Element {
	q := r.requests.List()[request]
	return r.values[q.Field.Name][q.Arg]
}

// recordedEvent returns the fields of the recorded event, and the event.
func recordedEvent(t testing.TB) (*field.Requests, *tableRow) {
	t.Helper()
	b, err := os.ReadFile("testdata/fields.json")
	if err != nil {
		t.Fatal(err)
	}
	var table []struct {
		Name, Type                 string
		List, Key, Index, Required bool
		Values                     map[string][]any
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	if err := d.Decode(&table); err != nil {
		t.Fatal(err)
	}
	types := map[string]sourceplugin.FieldType{
		"": sourceplugin.String, "uint64": sourceplugin.Uint64, "abstime": sourceplugin.AbsTime, "bool": sourceplugin.Bool,
	}
	var fields []field.Field
	values := make(map[string]map[string][]field.Element)
	for _, f := range table {
		fields = append(fields, field.Field{Of: "test", Field: sourceplugin.Field{
			Name: f.Name, Type: types[f.Type], List: f.List,
			Arg: sourceplugin.ArgRule{Required: f.Required, Index: f.Index, Key: f.Key},
		}})
		values[f.Name] = make(map[string][]field.Element)
		for arg, all := range f.Values {
			var elements []field.Element
			for _, v := range all {
				switch v := v.(type) {
				case string:
					elements = append(elements, field.Element{Text: v})
				case json.Number:
					n, _ := v.Int64()
					elements = append(elements, field.Element{Number: uint64(n)})
				}
			}
			values[f.Name][arg] = elements
		}
	}
	requests := field.NewRequests(fields)
	return requests, &tableRow{requests: requests, values: values}
}

// parse reads a condition.
func parse(text string) (condition.Expr, error) {
	return condition.Parse(&condition.Text{Content: text})
}

func TestRecordedConditions(t *testing.T) {
	b, err := os.ReadFile("testdata/conditions.txt")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^(.*?\S) {1,}(HIT|no ?|ERR (LOAD_\w+) (.*))$`)
	n := 0
	for text := range strings.Lines(string(b)) {
		m := line.FindStringSubmatch(strings.TrimSuffix(text, "\n"))
		if m == nil {
			t.Fatalf("what is %q?", text)
		}
		n++
		cond, verdict, code, message := m[1], strings.TrimSpace(m[2]), m[3], m[4]
		if code == "LOAD_ERR_VALIDATE" { // macros are for those who load files
			continue
		}
		requests, row := recordedEvent(t)
		e, err := parse(cond)
		var b *Builder
		if err == nil {
			b = NewBuilder(requests)
			_, err = b.Add(e)
		}
		var mistake *condition.Error
		switch {
		case code != "" && err == nil:
			t.Errorf("%s: compiled, want: %s", cond, message)
			continue
		case code != "":
			if !errors.As(err, &mistake) || mistake.Message != message {
				t.Errorf("%s:\n%v, want\n%s", cond, err, message)
			} else if mistake.At.Text == nil {
				t.Errorf("%s: the error has no position", cond)
			}
			continue
		case err != nil:
			t.Errorf("%s: %v", cond, err)
			continue
		}
		s := b.Build().NewState()
		s.Start(row)
		if _, ok := s.Next(); ok != (verdict == "HIT") {
			t.Errorf("%s: %v, want %s", cond, ok, verdict)
		}
	}
	if n != 121 {
		t.Errorf("%d conditions, want 121", n)
	}
}
