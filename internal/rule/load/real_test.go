package load_test

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// TestRecordedResultsWithFields is as the test of the recorded results, with the compiler that the
// program has.
func TestRecordedResultsWithFields(t *testing.T) {
	text := func(name string) sourceplugin.Field { return sourceplugin.Field{Name: name, Type: sourceplugin.String} }
	list := text("ka.req.pod.containers.image")
	list.List, list.Arg = true, sourceplugin.ArgRule{Index: true}
	key := text("jevt.value")
	key.Arg = sourceplugin.ArgRule{Key: true, Required: true}
	plugins := []*sourceplugin.Description{
		{
			Name: "k8saudit", Version: "0.16.1", ID: 1, EventSource: "k8s_audit", Capabilities: sourceplugin.Capabilities{Source: true, Extract: true},
			ExtractSources: []string{"k8s_audit"}, Fields: []sourceplugin.Field{text("ka.verb"), text("ka.user.name"), text("ka.uri"), text("ka.target.subresource"), list},
		},
		{Name: "json", Version: "0.7.0", Capabilities: sourceplugin.Capabilities{Extract: true}, Fields: []sourceplugin.Field{key}},
	}
	o := load.Options{Compiler: rule.NewCompiler(plugins, false), Plugins: plugins, Partial: rule.Partial}
	for _, name := range []string{"good", "bad"} {
		content := read(t, name+".rules.yaml")
		described, report := load.Describe([]load.File{{Name: name + ".yaml", Content: content}}, o)
		got, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, read(t, name+".validate.json"))
		if name == "good" {
			same(t, described, read(t, "good.describe.json"))
		}
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(t *testing.T, got, want []byte) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(want, &b); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
