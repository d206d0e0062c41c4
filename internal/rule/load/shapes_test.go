package load_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// falcoOptions are those of a Falco with the plugins whose rules are seen most.
func falcoOptions() load.Options {
	text := func(name string) sourceplugin.Field { return sourceplugin.Field{Name: name, Type: sourceplugin.String} }
	number := func(name string) sourceplugin.Field { return sourceplugin.Field{Name: name, Type: sourceplugin.Uint64} }
	list := func(name string) sourceplugin.Field {
		f := text(name)
		f.List, f.Arg = true, sourceplugin.ArgRule{Index: true}
		return f
	}
	key := func(name string) sourceplugin.Field {
		f := text(name)
		f.Arg = sourceplugin.ArgRule{Key: true, Required: true}
		return f
	}
	plugin := func(name, version string, id uint32, source string, fields ...sourceplugin.Field) *sourceplugin.Description {
		return &sourceplugin.Description{
			Name: name, Version: version, ID: id, EventSource: source, Capabilities: sourceplugin.Capabilities{Source: true, Extract: true},
			ExtractSources: []string{source}, Fields: fields,
		}
	}
	plugins := []*sourceplugin.Description{
		plugin("k8saudit", "0.16.1", 1, "k8s_audit",
			text("ka.verb"), text("ka.user.name"), text("ka.uri"), key("ka.uri.param"), text("ka.target.resource"), text("ka.target.name"), text("ka.target.subresource"),
			text("ka.response.code"), list("ka.req.pod.containers.image"), list("ka.req.pod.containers.image.repository"), list("ka.req.pod.containers.privileged"),
			list("ka.req.pod.volumes.hostpath")),
		plugin("cloudtrail", "0.12.0", 2, "aws_cloudtrail", text("ct.name"), text("ct.error"), text("ct.user"), text("ct.user.arn"), text("ct.user.identitytype"), text("ct.srcip"), text("ct.region")),
		{Name: "json", Version: "0.7.0", Capabilities: sourceplugin.Capabilities{Extract: true}, Fields: []sourceplugin.Field{key("jevt.value"), key("json.value"), number("jevt.rawtime")}},
	}
	return load.Options{Compiler: rule.NewCompiler(plugins, false), Plugins: plugins, Partial: rule.Partial}
}

// oneRule is a rule with a condition and what is written behind it.
func oneRule(condition, rest string) string {
	return "- rule: one\n  desc: a rule\n  condition: " + condition + "\n  output: seen\n  priority: NOTICE\n  source: k8s_audit\n" + rest
}

// loaded returns what came of files: the codes of errors and warnings with their places, but for
// lists and macros that nothing uses, and the conditions of the rules.
func loaded(t *testing.T, contents ...string) string {
	t.Helper()
	var files []load.File
	for i, content := range contents {
		files = append(files, load.File{Name: fmt.Sprint(i + 1), Content: []byte(content)})
	}
	described, report := load.Describe(files, falcoOptions())
	var b strings.Builder
	for _, f := range report.Files {
		for _, d := range append(f.Errors, f.Warnings...) {
			if d.Code != load.WarnUnusedList && d.Code != load.WarnUnusedMacro {
				fmt.Fprintf(&b, "%s %s\n", d.Code, d.At)
			}
		}
	}
	if described == nil {
		return b.String()
	}
	var all struct {
		Rules []struct {
			Details struct {
				Condition string `json:"condition_compiled"`
				Output    string `json:"output_compiled"`
			}
		}
	}
	if err := json.Unmarshal(described, &all); err != nil {
		t.Fatal(err)
	}
	for _, r := range all.Rules {
		fmt.Fprintf(&b, "%s\n", r.Details.Condition)
		if r.Details.Output != "seen" {
			fmt.Fprintf(&b, "%q\n", r.Details.Output)
		}
	}
	return b.String()
}

// TestShapes loads what is written in files of rules of all kinds. What comes of it is what the
// real engine says.
func TestShapes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"transformer as a field of an exception": {
			oneRule("ka.verb = get", "  exceptions:\n  - {name: e, fields: ['tolower( ka.user.name)', ka.uri], comps: [=, startswith], values: [[root, /api]]}\n"),
			"(ka.verb = get and not (tolower(ka.user.name) = root and ka.uri startswith /api))\n",
		},
		"blanks around the operators of exceptions": {
			oneRule("ka.verb = get", "  exceptions:\n  - {name: a, fields: ka.uri, comps: '  startswith   oneof ', values: [/api, /x]}\n  - {name: b, fields: [ka.verb, ka.uri], comps: [' contains ', '  startswith anyof  '], values: [[get, [/a, /b]]]}\n"),
			"(ka.verb = get and not ka.uri startswith oneof (/api, /x) and not (ka.verb contains get and ka.uri startswith anyof (/a, /b)))\n",
		},
		"bytes in an exception": {
			oneRule("ka.verb = get", "  exceptions:\n  - {name: a, fields: ka.uri, comps: bcontains anyof, values: [\"6162\"]}\n"),
			"LOAD_ERR_COMPILE_CONDITION 1:8:23\n",
		},
		"transformer as the one field of an exception": {
			oneRule("ka.verb = get", "  exceptions:\n  - {name: e, fields: toupper(ka.user.name), values: [ROOT, THE ADMIN]}\n"),
			"(ka.verb = get and not toupper(ka.user.name) in (ROOT, \"THE ADMIN\"))\n",
		},
		"transformer as a value of an exception": {
			oneRule("ka.verb = get", "  exceptions:\n  - {name: e, fields: [ka.user.name], values: [[tolower(ka.verb)], ['tolower( ka.verb)']]}\n"),
			"LOAD_COMPILE_CONDITION 1:8:70\n(ka.verb = get and not (ka.user.name = tolower(ka.verb) or ka.user.name = \"tolower( ka.verb)\"))\n",
		},
		"list whose first items are empty": {
			"- list: l\n  items: ['', '', get, list all]\n" + oneRule("ka.verb in (l)", ""),
			"ka.verb in (get, \"list all\")\n",
		},
		"list whose last item is empty": {
			"- list: l\n  items: [get, '']\n" + oneRule("ka.verb in (l)", ""),
			"LOAD_ERR_COMPILE_CONDITION 1:5:27\n",
		},
		"bytes that are no UTF-8": {
			"# caf\xe9\n" + oneRule("ka.verb in (get) and ka.no = x", "  tags: [caf\xe9]\n"),
			"LOAD_ERR_COMPILE_CONDITION 1:4:35\n",
		},
		"a byte that is no UTF-8 in a value": {
			oneRule("ka.verb = caf\xe9", ""),
			"ka.verb = caf\uFFFD\n",
		},
		"controls": {
			"# \x0b\x1b[0m\u0090\n" + oneRule("ka.verb in (a\x01b, c\x1bd)", ""),
			"ka.verb in (a\x01b, c\x1bd)\n",
		},
		"ends of lines that are none": {
			"# a\u2028- b\n" + oneRule("ka.verb = a\u2029b and ka.uri = c\u0085d and ka.no = x", ""),
			"LOAD_ERR_COMPILE_CONDITION 1:4:49\n",
		},
		"byte order marks": {
			"\uFEFF" + oneRule("ka.verb = \uFEFFget", ""),
			"ka.verb = \uFEFFget\n",
		},
		"end of the text": {
			"# \x04\n" + oneRule("ka.verb = get", ""),
			"LOAD_ERR_YAML_PARSE 1\n",
		},
		"directive": {
			"%YAML 1.2\n---\n" + oneRule("ka.verb = get", ""),
			"ka.verb = get\n",
		},
		"directive of another version": {
			"%YAML 2.0\n---\n" + oneRule("ka.verb = get", ""),
			"LOAD_ERR_YAML_PARSE 1\n",
		},
		"tabs between items": {
			"\t\n- list: l\n  items: [get]\n\t\n \t# a comment\twith a tab\n" + oneRule("ka.verb in (l) and ka.no = x", ""),
			"LOAD_ERR_COMPILE_CONDITION 1:8:33\n",
		},
		"tab behind what may go on": {
			"- list: l\n  items:\n  - get\n\t\n" + oneRule("ka.verb in (l)", ""),
			"LOAD_ERR_YAML_PARSE 1:3:1\n",
		},
		"tab behind a dash": {
			"- list: l\n  items:\n  -\tget\n  - \tput\n" + oneRule("ka.verb in (l)", ""),
			"ka.verb in (get, put)\n",
		},
		"tab behind the dash of an item": {
			strings.Replace(oneRule("ka.verb = get", ""), "- rule", "-\trule", 1),
			"LOAD_ERR_YAML_PARSE 1\n",
		},
		"tabs between keys and values": {
			strings.NewReplacer(": ", ":\t", "\n", " \t\n").Replace(oneRule("ka.verb = get\tand ka.uri = x", "  tags: [a,\tb]\n")),
			"(ka.verb = get and ka.uri = x)\n",
		},
		"override is an empty list": {
			"- list: l\n  items: [get]\n  override: []\n" + oneRule("ka.verb in (l)", ""),
			"ka.verb in (get)\n",
		},
		"override is a list": {
			"- list: l\n  items: [get]\n  override: [items]\n",
			"LOAD_ERR_VALIDATE 1:1:3\n",
		},
		"fields of containers in an output": {
			strings.Replace(oneRule("ka.verb = get", ""), "output: seen", "output: seen %container.info in %ka.uri %container.info", 1),
			"LOAD_DEPRECATED_ITEM 1:4:16\nka.verb = get\n\"seen  in %ka.uri \"\n",
		},
		"nothing but fields of containers in an output": {
			strings.Replace(oneRule("ka.verb = get", ""), "output: seen", "output: '%container.info'", 1),
			"LOAD_ERR_COMPILE_OUTPUT 1:1:3\nLOAD_DEPRECATED_ITEM 1:4:12\n",
		},
		"comparison with nothing in front of an error": {
			oneRule(`ka.no exists or ka.verb in (get, "<NA>") or ka.uri = "<NA>"`, ""),
			"LOAD_ERR_COMPILE_CONDITION 1:3:14\nLOAD_UNSAFE_NA_CHECK 1:3:47\n",
		},
		"comparison with nothing in a rule that is skipped": {
			oneRule(`ka.no exists or ka.verb == "<NA>"`, "  skip-if-unknown-filter: true\n"),
			"LOAD_UNSAFE_NA_CHECK 1:3:41\nLOAD_UNKNOWN_FILTER 1:3:14\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := loaded(t, test.text); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestPlacesInParsedTexts looks at the place of an error as the real engine tells it: lines and
// columns are those of the text that was parsed, with the lists in it, or of the macro.
func TestPlacesInParsedTexts(t *testing.T) {
	t.Parallel()
	const list = "- list: l\n  items: [one, two, three]\n"
	for name, test := range map[string]struct {
		text string
		want load.Position
	}{
		"behind a list": {
			list + oneRule("|\n    ka.uri in (l) and ka.no = x\n    or ka.verb = y", ""),
			load.Position{Name: `"ka.uri in (l) and..."`, Line: 5, Column: 13 + 35, Offset: 77 + 34},
		},
		"in a line behind a list": {
			list + oneRule("|\n    ka.uri in (l)\n    and\n    ka.no = x", ""),
			load.Position{Name: `"ka.uri in (l) and..."`, Line: 7, Column: 13 + 1, Offset: 77 + 34},
		},
		"in a macro with lines": {
			"- macro: m\n  condition: |\n    ka.verb = x or\n    ka.no = y\n" + oneRule("ka.verb = z and m", ""),
			load.Position{Name: `"ka.verb = z and m"`, Line: 8, Column: 13 + 1, Offset: 99 + 15},
		},
		"a macro that there is not": {
			list + oneRule("|\n    ka.uri in (l)\n    and none", ""),
			load.Position{Name: `"ka.uri in (l) and..."`, Line: 4, Column: 2 + 5, Offset: 39 + 34},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, report := load.Load([]load.File{{Name: "f", Content: []byte(test.text)}}, falcoOptions())
			if report.OK() {
				t.Fatal("no error")
			}
			locations := report.Files[0].Errors[0].Locations
			got := locations[len(locations)-1].Position
			if got != test.want {
				t.Errorf("got %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// TestSchemaOfNothing: empty lists, maps and texts are each other for the schema.
func TestSchemaOfNothing(t *testing.T) {
	t.Parallel()
	const few = "failed for <root>[0][override]: Object should have no fewer than 1 properties.|failed for <root>[0]: Failed to validate against schema associated with property name 'override'.|failed for <root>: Failed to validate item #0 in array."
	for text, want := range map[string]string{
		"- {list: l, items: [], override: {items: replace}}": "",
		"- {list: l, items: [], override: []}":               few,
		"- {list: l, items: [], override: ''}":               few,
		"- {list: l, items: [], override: {}}":               few,
		"- {list: l, items: [], override: [items]}":          strings.Replace(few, "Object should have no fewer than 1 properties.", "Value type not permitted by 'type' constraint.", 1),
		"- {list: l, items: {}}":                             "",
		"- {list: l, items: {a: b}}":                         strings.ReplaceAll(strings.Replace(few, "Object should have no fewer than 1 properties.", "Value type not permitted by 'type' constraint.", 1), "override", "items"),
		"{}":                                                 "",
	} {
		_, report := load.Load([]load.File{{Name: "f", Content: []byte(text)}}, falcoOptions())
		if got := strings.Join(report.Files[0].SchemaWarnings, "|"); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
}
