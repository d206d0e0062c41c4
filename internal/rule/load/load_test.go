package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/rule/condition"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

var update = flag.Bool("update", false, "write golden files")

// known is a compiler that knows names of fields, and nothing else.
type known map[string][]string // event source to fields

func (k known) Source(name string) bool { return k[name] != nil }

func (k known) Condition(source string, e condition.Expr) (warnings []*condition.Error, err error) {
	condition.WalkOperands(e, func(c *condition.Check, o condition.Operand) {
		switch o := o.(type) {
		case *condition.Field:
			if err == nil && !slices.Contains(k[source], o.Name) {
				err = &unknown{&condition.Error{At: o.At, Message: "there is no field " + o.Name}}
			}
		case *condition.Literal:
			if o.Text == "<NA>" {
				warnings = append(warnings, &condition.Error{At: o.At, Code: string(WarnUnsafeNACheck)})
			}
			if o.Text == "suspicious" {
				warnings = append(warnings, &condition.Error{At: o.At, Message: "this is suspicious"})
			}
			if o.Text == "wrong" {
				err = &condition.Error{At: o.At, Message: "this is wrong"}
			}
		}
	})
	return warnings, err
}

// unknown is the error about a field that there is not.
type unknown struct{ condition *condition.Error }

func (u *unknown) Error() string     { return u.condition.Message }
func (u *unknown) Is(err error) bool { return err == fieldtext.ErrUnknownField }
func (u *unknown) As(to any) bool {
	e, ok := to.(**condition.Error)
	if ok {
		*e = u.condition
	}
	return ok
}

func (k known) Output(source, text string) (fields []string, err error) {
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			continue
		}
		i++
		for i < len(text) && (text[i] == '*' || text[i] >= '0' && text[i] <= '9') {
			i++
		}
		o, end, err := condition.ParseOperand(&condition.Text{Content: text}, i)
		if err != nil {
			return nil, err
		}
		if f, ok := o.(*condition.Field); ok && !slices.Contains(k[source], f.Name) {
			return nil, &unknown{&condition.Error{At: f.At, Message: "there is no field " + f.Name}}
		}
		if tr, ok := o.(*condition.Transformer); ok {
			for _, a := range tr.Args {
				fields = append(fields, condition.OperandString(a))
			}
		}
		fields = append(fields, text[i:end])
		i = end - 1
	}
	return fields, nil
}

var audit = known{
	"k8s_audit": {
		"ka.verb", "ka.user.name", "ka.uri", "ka.target.subresource", "ka.req.pod.containers.image", "jevt.value", "evt.num", "ka.sourceips",
	},
	"syscall": {"evt.num", "evt.type", "proc.name"},
}

var auditPlugins = []*sourceplugin.Description{
	{
		Name: "k8saudit", Version: "0.16.1", EventSource: "k8s_audit", Capabilities: sourceplugin.Capabilities{Source: true, Extract: true},
		ExtractSources: []string{"k8s_audit"}, Fields: []sourceplugin.Field{{Name: "ka.verb"}, {Name: "ka.user.name"}},
	},
	{Name: "json", Version: "0.7.0", Capabilities: sourceplugin.Capabilities{Extract: true}, Fields: []sourceplugin.Field{{Name: "jevt.value"}}},
}

func options() Options { return Options{Compiler: audit, Plugins: auditPlugins} }

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sameJSON compares JSON values, arrays in their order.
func sameJSON(t *testing.T, got, want []byte) {
	t.Helper()
	var buffers [2]bytes.Buffer
	for i, b := range [][]byte{got, want} {
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		e := json.NewEncoder(&buffers[i])
		e.SetIndent("", " ")
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	a, b := strings.Split(buffers[0].String(), "\n"), strings.Split(buffers[1].String(), "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Fatalf("line %d\ngot:\n%s\nwant:\n%s", i, strings.Join(a[max(0, i-5):min(len(a), i+5)], "\n"), strings.Join(b[max(0, min(len(b), i-5)):min(len(b), i+5)], "\n"))
		}
	}
}

func TestRecordedResults(t *testing.T) {
	for _, name := range []string{"good", "bad"} {
		_, r := Load([]File{{Name: name + ".yaml", Content: readTestdata(t, name+".rules.yaml")}}, options())
		b, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		want := readTestdata(t, name+".validate.json")
		sameJSON(t, b, want)
		if !bytes.Equal(b, bytes.TrimSpace(want)) {
			t.Errorf("%s is equal, but its bytes are not:\n%s", name, b)
		}
	}
	b, _ := Describe([]File{{Name: "good.yaml", Content: readTestdata(t, "good.rules.yaml")}}, options())
	sameJSON(t, b, readTestdata(t, "good.describe.json"))
	if !errors.Is(&unknown{}, fieldtext.ErrUnknownField) {
		t.Error("the compiler of this test tells nothing")
	}
}
