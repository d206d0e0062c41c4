package eventfields

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/rule-fields.md anew")

// TestDocs keeps the page for users and the program the same.
func TestDocs(t *testing.T) {
	const page = "../../docs/rule-fields.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	list, _ := List("")
	for _, family := range []string{"evt", "event", "json", "audit"} {
		begin, end := "<!-- begin "+family+" -->\n", "<!-- end "+family+" -->"
		before, rest, ok := strings.Cut(got, begin)
		_, after, also := strings.Cut(rest, end)
		if !ok || !also {
			t.Fatalf("%s has no place for the fields of %s", page, family)
		}
		var b strings.Builder
		b.WriteString("| field | type | what |\n|---|---|---|\n")
		for _, f := range list {
			name, _, _ := strings.Cut(f.Name, ".")
			if name == "jevt" {
				name = "json"
			}
			if name != family {
				continue
			}
			kind := f.Type
			if f.List {
				kind = "list of " + kind
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Usage, kind, strings.ReplaceAll(f.Description, "|", `\|`))
		}
		got = before + begin + b.String() + end + after
	}
	if got == string(text) {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the program says; run: go test ./internal/eventfields -run TestDocs -update", page)
	}
	if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Descriptions are sentences, and names are written as all others are.
func TestVocabulary(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, f := range Fields("tocsin") {
		if seen[f.Name] {
			t.Errorf("%s is there twice", f.Name)
		}
		seen[f.Name] = true
		if d := f.Description; d == "" || !strings.HasSuffix(d, ".") || strings.ToUpper(d[:1]) != d[:1] && !strings.HasPrefix(d, "evt") {
			t.Errorf("%s: %q is no sentence", f.Name, d)
		}
		if f.Name != strings.ToLower(f.Name) || strings.ContainsAny(f.Name, "- ") {
			t.Error(f.Name)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	find := func(list []Listed, name string) *Listed {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
		return nil
	}
	k8s := describe("k8saudit", nil, "ka.verb")
	k8s.EventSource = "k8s_audit"
	plugins := []*describedPlugin{k8s, describe("all", nil, "all.a", "json.value"), describe("some", []string{"k8s_audit", "x"}, "some.a")}
	list, problems := List("", plugins...)
	for name, want := range map[string]string{
		"evt.num": "", "audit.type": "tocsin", "ka.verb": "k8s_audit k8saudit", "all.a": " all", "some.a": "k8s_audit,x some",
	} {
		f := find(list, name)
		if f == nil || strings.TrimSpace(want) != strings.TrimSpace(strings.Join(f.Sources, ",")+" "+f.Plugin) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if len(problems) != 1 {
		t.Error(problems)
	}
	if f := find(list, "event.data"); f.Usage != "event.data[KEY]?" || f.Argument == nil || f.Argument.Required {
		t.Errorf("%+v", f)
	}
	list, _ = List("k8s_audit", plugins...)
	if find(list, "audit.type") != nil || find(list, "ka.verb") == nil || find(list, "some.a").Sources[0] != "k8s_audit" {
		t.Error("wrong fields of k8s_audit")
	}
}
