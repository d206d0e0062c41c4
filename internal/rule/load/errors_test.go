package load

import (
	"fmt"
	"strings"
	"testing"
)

const good = "- rule: r\n  desc: d\n  condition: ka.verb = get\n  output: o\n  priority: INFO\n  source: k8s_audit\n"

func TestErrors(t *testing.T) {
	rule := func(keys string) string { return strings.Replace(good, "  condition", "  "+keys+"\n  condition", 1) }
	with := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, test := range map[string]struct{ text, want string }{
		"no YAML":               {"- rule: [\n", "LOAD_ERR_YAML_PARSE f.yaml:1:1"},
		"a tab":                 {"- rule: r\n\tdesc: d\n", "LOAD_ERR_YAML_PARSE f.yaml:2:1"},
		"unknown alias":         {"- rule: *x\n", "LOAD_ERR_YAML_PARSE f.yaml:1:9"},
		"a map":                 {"rule: r\n", "LOAD_ERR_YAML_VALIDATE f.yaml: a file of rules must be a list"},
		"a text":                {"rule\n", "LOAD_ERR_YAML_VALIDATE f.yaml: a file of rules must be a list"},
		"second document":       {good + "---\nx: y\n", "LOAD_ERR_YAML_VALIDATE f.yaml: a file of rules must be a list"},
		"item is a text":        {"- rule\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:3"},
		"item is a list":        {"- - rule\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:3"},
		"no name":               {"- rule:\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:3: the value of rule is empty"},
		"empty name":            {"- rule: ''\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:9: rule must not be empty"},
		"name is a list":        {"- rule: [a]\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:9: rule must be a text"},
		"nothing but a name":    {"- rule: r\n", `LOAD_ERR_YAML_VALIDATE f.yaml:1:3: rule "r": there is no enabled`},
		"no condition":          {with("  condition: ka.verb = get\n", ""), `LOAD_ERR_YAML_VALIDATE f.yaml:1:3: rule "r": there is no condition`},
		"no output":             {with("  output: o\n", ""), `LOAD_ERR_YAML_VALIDATE f.yaml:1:3: rule "r": there is no output`},
		"no desc":               {with("  desc: d\n", ""), `LOAD_ERR_YAML_VALIDATE f.yaml:1:3: rule "r": there is no desc`},
		"no priority":           {with("  priority: INFO\n", ""), `LOAD_ERR_YAML_VALIDATE f.yaml:1:3: rule "r": there is no priority`},
		"wrong priority":        {with("INFO", "Inform"), `LOAD_ERR_YAML_VALIDATE f.yaml:5:13: rule "r": Invalid priority`},
		"priority of others":    {with("INFO", "crit"), `Invalid priority; did you mean CRITICAL?`},
		"no bool":               {rule("enabled: maybe"), `LOAD_ERR_YAML_VALIDATE f.yaml:3:12: rule "r": enabled must be true or false`},
		"no number":             {rule("capture_duration: long"), `LOAD_ERR_YAML_VALIDATE f.yaml:3:21: rule "r": capture_duration must be a number`},
		"tags are a text":       {rule("tags: x"), `LOAD_ERR_YAML_VALIDATE f.yaml:3:9: rule "r": tags must be a list`},
		"tag is a list":         {rule("tags: [[x]]"), `LOAD_ERR_YAML_VALIDATE f.yaml:3:10: rule "r": an element of tags must be a text`},
		"tag is nothing":        {rule("tags: [~]"), `LOAD_ERR_YAML_VALIDATE f.yaml:3:10`},
		"empty source":          {with("k8s_audit", `""`), `LOAD_ERR_YAML_VALIDATE f.yaml:6:11`},
		"append to nothing":     {"- rule: r\n  append: true\n  condition: and x\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"append nothing":        {good + "- rule: r\n  append: true\n  output: x\n", "LOAD_ERR_VALIDATE f.yaml:7:3"},
		"enable nothing":        {"- rule: r\n  enabled: true\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"replace in nothing":    {"- rule: r\n  override: {desc: replace}\n  desc: x\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"override to nothing":   {"- rule: r\n  override: {desc: append}\n  desc: x\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"append and override":   {good + "- rule: r\n  append: true\n  override: {condition: append}\n  condition: and x\n", "LOAD_ERR_YAML_VALIDATE f.yaml:7:3"},
		"nothing is overridden": {good + "- rule: r\n  override: {condition: append}\n", "LOAD_ERR_YAML_VALIDATE f.yaml:7:3"},
		"key without override":  {good + "- rule: r\n  override: {condition: append}\n  condition: and ka.uri exists\n  output: x\n  desc: y\n", `LOAD_ERR_YAML_VALIDATE f.yaml:11:9: rule "r": nothing under override says what to do with 'desc'`},
		"append to priority":    {good + "- rule: r\n  override: {priority: append}\n  priority: INFO\n", "LOAD_ERR_YAML_VALIDATE f.yaml:8:14"},
		"append to enabled":     {good + "- rule: r\n  override: {enabled: append}\n  enabled: true\n", "LOAD_ERR_YAML_VALIDATE f.yaml:8:14"},
		"replace the source":    {good + "- rule: r\n  override: {source: replace}\n  source: x\n", "LOAD_ERR_YAML_VALIDATE f.yaml:8:14"},
		"unknown operation":     {good + "- rule: r\n  override: {desc: remove}\n  desc: x\n", "LOAD_ERR_YAML_VALIDATE f.yaml:8:20"},
		"override is a list":    {good + "- rule: r\n  override: [desc]\n  desc: x\n", "LOAD_ERR_VALIDATE f.yaml:7:3"},
		"operation is a list":   {good + "- rule: r\n  override: {desc: [append]}\n  desc: x\n", "LOAD_ERR_VALIDATE f.yaml:7:3"},
		"another source":        {good + strings.Replace(good, "k8s_audit", "syscall", 1), `LOAD_ERR_VALIDATE f.yaml:7:3: rule "r": the rule was defined before with another source`},
		"engine too old":        {"- required_engine_version: 0.64.0\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"engine of number":      {"- required_engine_version: 64\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"engine of another":     {"- required_engine_version: 1.0.0\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"no version":            {"- required_engine_version: new\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:3"},
		"short version":         {"- required_engine_version: 0.1\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:3"},
		"plugin not there":      {"- required_plugin_versions: [{name: x, version: 1.0.0}]\n", "LOAD_ERR_VALIDATE f.yaml:1:30"},
		"plugin too old":        {"- required_plugin_versions: [{name: json, version: 0.8.0}]\n", "LOAD_ERR_VALIDATE f.yaml:1:30"},
		"plugin too new":        {"- required_plugin_versions: [{name: json, version: 1.0.0}]\n", "LOAD_ERR_VALIDATE f.yaml:1:30"},
		"no plugin version":     {"- required_plugin_versions: [{name: json, version: new}]\n", "LOAD_ERR_VALIDATE f.yaml:1:30"},
		"plugin without one":    {"- required_plugin_versions: [{name: json}]\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:30"},
		"plugin twice":          {"- required_plugin_versions: [{name: json, version: 0.1.0, alternatives: [{name: json, version: 0.2.0}]}]\n", "LOAD_ERR_VALIDATE f.yaml:1:30"},
		"plugins are a text":    {"- required_plugin_versions: json\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:29"},
		"plugin is a text":      {"- required_plugin_versions: [json]\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:30"},
		"alternatives a text":   {"- required_plugin_versions: [{name: json, version: 0.1.0, alternatives: x}]\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:30"},
		"alternative a text":    {"- required_plugin_versions: [{name: json, version: 0.1.0, alternatives: [x]}]\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:74"},
		"list without items":    {"- list: l\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:3"},
		"items are a text":      {"- list: l\n  items: x\n", "LOAD_ERR_YAML_VALIDATE f.yaml:2:10"},
		"items are nothing":     {"- list: l\n  items:\n- list: m\n  items: []\n", "LOAD_ERR_YAML_VALIDATE f.yaml:3:1"},
		"item of a list a map":  {"- list: l\n  items: [{a: b}]\n", "LOAD_ERR_YAML_VALIDATE f.yaml:2:11"},
		"append to no list":     {"- list: l\n  append: true\n  items: [x]\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"override no list":      {"- list: l\n  override: {items: append}\n  items: [x]\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"both for a list":       {"- list: l\n  items: [x]\n- list: l\n  append: true\n  override: {items: append}\n  items: [x]\n", "LOAD_ERR_YAML_VALIDATE f.yaml:3:3"},
		"override of no item":   {"- list: l\n  items: [x]\n  override: {condition: append}\n", "LOAD_ERR_YAML_VALIDATE f.yaml:3:14"},
		"macro without":         {"- macro: m\n", "LOAD_ERR_YAML_VALIDATE f.yaml:1:3"},
		"append to no macro":    {"- macro: m\n  append: true\n  condition: x\n", "LOAD_ERR_VALIDATE f.yaml:1:3"},
		"macro of nothing":      {"- macro: m\n  condition: other\n", `LOAD_ERR_VALIDATE f.yaml:2:14: macro "m": Undefined macro 'other' used in filter.`},
		"macro of itself":       {"- macro: m\n  condition: m or ka.verb = x\n", `LOAD_ERR_VALIDATE f.yaml:2:14: macro "m": Undefined macro 'm' used in filter.`},
		"later macro":           {"- macro: m\n  condition: later\n- macro: later\n  condition: ka.verb = x\n", `Undefined macro 'later' used in filter.; it is defined later`},
		"loop":                  {"- macro: a\n  condition: ka.verb = x\n- macro: b\n  condition: a\n- macro: a\n  condition: b\n", "LOAD_ERR_VALIDATE f.yaml:6:14: macro \"a\": reference loop in macro 'b'"},
		"loop of one":           {"- macro: a\n  condition: ka.verb = x\n- macro: a\n  condition: a or a\n", "LOAD_ERR_VALIDATE f.yaml:4:14: macro \"a\": reference loop in macro 'a'"},
		"rule of no macro":      {with("ka.verb = get", "ka.verb = get and othr") + "- macro: other\n  condition: ka.verb = x\n", `LOAD_ERR_VALIDATE f.yaml:3:32: rule "r": Undefined macro 'othr' used in filter.; did you mean other?`},
		"list for a macro":      {with("ka.verb = get", "l") + "- list: l\n  items: [x]\n", "LOAD_ERR_VALIDATE"},
		"wrong condition":       {with("ka.verb = get", "ka.verb = wrong"), `LOAD_ERR_COMPILE_CONDITION f.yaml:3:24: rule "r": this is wrong`},
		"unknown field":         {with("ka.verb = get", "not ka.nothing = get"), `LOAD_ERR_COMPILE_CONDITION f.yaml:3:18: rule "r": there is no field ka.nothing`},
		"no condition at all":   {with("ka.verb = get", "ka.verb ="), `LOAD_ERR_COMPILE_CONDITION f.yaml:3`},
		"in a macro":            {with("ka.verb = get", "m") + "- macro: m\n  condition: not ka.nothing = x\n", `LOAD_ERR_COMPILE_CONDITION f.yaml:8:18: rule "r": there is no field ka.nothing`},
		"parse of a macro":      {"- macro: m\n  condition: >\n    ka.verb = x and\n    (ka.verb = y\n", `LOAD_ERR_COMPILE_CONDITION f.yaml:4`},
		"item with a quote":     {with("ka.verb = get", "ka.verb in (l)") + "- list: l\n  items: ['a\"b c']\n", `LOAD_ERR_COMPILE_CONDITION f.yaml:3`},
		"output":                {with("output: o", "output: x %ka.nothing"), `LOAD_ERR_COMPILE_OUTPUT f.yaml:4:14: rule "r": there is no field ka.nothing`},
		"output before":         {strings.Replace(with("output: o", "output: x %ka.nothing"), "ka.verb = get", "wrong", 1), `LOAD_ERR_COMPILE_OUTPUT`},
		"exceptions are a map":  {rule("exceptions: {name: x}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:15"},
		"exception is a text":   {rule("exceptions: [x]"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:16"},
		"exception, no name":    {rule("exceptions: [{fields: ka.verb}]"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:16"},
		"exception, no fields":  {rule("exceptions: [{name: x, values: [a]}]"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:16"},
		"empty fields":          {rule("exceptions: [{name: x, fields: []}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"values are a text":     {rule("exceptions: [{name: x, fields: ka.verb, values: a}]"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:51"},
		"value is empty":        {rule("exceptions: [{name: x, fields: ka.verb, values: ['']}]"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:52"},
		"row for one field":     {rule("exceptions: [{name: x, fields: ka.verb, values: [[a]]}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"short row":             {rule("exceptions: [{name: x, fields: [ka.verb, ka.uri], values: [[a]]}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"text for a row":        {rule("exceptions: [{name: x, fields: [ka.verb, ka.uri], values: [a]}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"more comps":            {rule("exceptions: [{name: x, fields: [ka.verb], comps: [=, =]}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"one comp for a list":   {rule("exceptions: [{name: x, fields: [ka.verb], comps: in}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"comps for one field":   {rule("exceptions: [{name: x, fields: ka.verb, comps: [in]}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"comp for one field":    {rule("exceptions: [{name: x, fields: ka.verb, comps: startswith}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"unknown comp":          {rule("exceptions: [{name: x, fields: [ka.verb], comps: [startwith]}]"), "there is no operator 'startwith'; did you mean startswith?"},
		"unknown field in one":  {rule("exceptions: [{name: x, fields: [ka.verb, ka.no], values: []}]"), `LOAD_ERR_VALIDATE f.yaml:3:16: rule "r": there is no field 'ka.no'`},
		"transformer in one":    {rule("exceptions: [{name: x, fields: tolower(ka.no), values: []}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"condition in one":      {rule("exceptions: [{name: x, fields: ka.verb = x or ka.uri, values: []}]"), "LOAD_ERR_VALIDATE f.yaml:3:16"},
		"append new, no values": {good + "- rule: r\n  append: true\n  exceptions: [{name: x, fields: ka.verb}]\n", "LOAD_ERR_VALIDATE f.yaml:9:16"},
		"append new, no fields": {good + "- rule: r\n  append: true\n  exceptions: [{name: x, values: [y]}]\n", "LOAD_ERR_VALIDATE f.yaml:9:16"},
		"append fields":         {rule("exceptions: [{name: x, fields: ka.verb}]") + "- rule: r\n  append: true\n  exceptions: [{name: x, fields: ka.verb, values: [y]}]\n", "LOAD_ERR_VALIDATE f.yaml:10:16"},
		"append comps":          {rule("exceptions: [{name: x, fields: ka.verb}]") + "- rule: r\n  append: true\n  exceptions: [{name: x, comps: in, values: [y]}]\n", "LOAD_ERR_VALIDATE f.yaml:10:16"},
		"window is a text":      {rule("window: 5"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:11"},
		"window of nothing":     {rule("window: {within: 5m}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:11"},
		"window without time":   {rule("window: {count: 5}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:11"},
		"window of both":        {rule("window: {count: 5, new: ka.uri, within: 5m}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:11"},
		"count of one":          {rule("window: {count: 1, within: 5m}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:19"},
		"time without unit":     {rule("window: {count: 5, within: 5}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:30"},
		"time of years":         {rule("window: {count: 5, within: 400d}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:30"},
		"distinct without":      {rule("window: {then: ka.uri exists, distinct: ka.uri, within: 5m}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:11"},
		"then is wrong":         {rule("window: {then: [ka.uri exists, ka.no exists], within: 5m}"), "LOAD_ERR_COMPILE_CONDITION f.yaml:3:34"},
		"then is nothing":       {rule("window: {then: [], within: 5m}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:18"},
		"by is wrong":           {rule("window: {count: 5, within: 5m, by: [ka.no]}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:39"},
		"by is no field":        {rule("window: {count: 5, within: 5m, by: ['ka.verb = x']}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:39"},
		"throttle without time": {rule("throttle: {by: ka.verb}"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:13"},
		"throttle is a time":    {rule("throttle: 10m"), "LOAD_ERR_YAML_VALIDATE f.yaml:3:13"},
	} {
		t.Run(name, func(t *testing.T) {
			rules, r := Load([]File{{Name: "f.yaml", Content: []byte(test.text)}}, options())
			if rules != nil || r.OK() || len(r.Files[0].Errors) != 1 {
				t.Fatalf("no error, but %v", r.Files[0].Warnings)
			}
			d := r.Files[0].Errors[0]
			if got := fmt.Sprintf("%s %s", d.Code, d.Error()); !strings.Contains(got, test.want) {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if len(d.Locations) == 0 || d.Snippet == "" || d.Code.Describe() == "" {
				t.Errorf("incomplete: %+v", d)
			}
		})
	}
}
