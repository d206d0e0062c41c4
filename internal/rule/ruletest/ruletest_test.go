package ruletest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/scapevent"
)

var update = flag.Bool("update", false, "write testdata/failures.txt")

const someRules = `
- rule: Read
  desc: A secret is read
  condition: event.type = "audit/response" and audit.request.operation = read
  output: "%audit.auth.display_name reads %audit.request.path (n=%audit.auth.num_uses)"
  priority: NOTICE
  source: tocsin
  tags: [secret, T1555]
- rule: Written
  desc: A notification of a write
  condition: event.type = kv-v2/data-write
  output: "%event.path is written in %event.namespace"
  priority: WARNING
  source: tocsin
  throttle: {every: 10m, by: [event.path]}
- rule: Ordered
  desc: An order of an application
  condition: event.type = shop/order and event.data[/amount] = 3
  output: "%event.data[/amount] of %event.source on %event.time.date at %event.time.hour"
  priority: INFO
  source: tocsin
- rule: Many
  desc: Three events of one kind
  condition: event.type = shop/many
  window: {count: 3, within: 1m, by: [event.source]}
  output: "many, the last %event.id"
  priority: INFO
  source: tocsin
- rule: Off
  desc: Never
  enabled: false
  condition: event.type exists
  output: never
  priority: INFO
  source: tocsin
`

// folder returns a directory with files.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func runTests(t testing.TB, dir string, o Options) *Result {
	t.Helper()
	files, err := Find([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	res, err := Run(t.Context(), files, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// explain returns all that is wrong, without the name of the directory.
func explain(dir string, res *Result) string {
	var b strings.Builder
	for _, f := range res.Files {
		if f.Error != "" {
			b.WriteString(f.Error + "\n")
		}
		for _, t := range f.Tests {
			for _, x := range t.Failures {
				b.WriteString(t.Name + "\n  line ")
				line, _ := json.Marshal(x.Line)
				b.WriteString(string(line) + ": " + x.Message + "\n")
				for _, d := range x.Details {
					b.WriteString("    " + d + "\n")
				}
			}
		}
	}
	return strings.ReplaceAll(b.String(), dir+string(filepath.Separator), "")
}

// All forms of events, expectations and steps of time, in tests that pass.
func TestAllForms(t *testing.T) {
	t.Parallel()
	entry := `{"time":"2026-01-07T10:00:00Z","type":"response","auth":{"display_name":"bob"},"request":{"id":"0b4a8f5c-9a59-4f0e-bd4f-1f70a4a0a111","operation":"read","path":"secret/data/x"}}`
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write([]byte(entry + "\n\n" + strings.ReplaceAll(strings.ReplaceAll(entry, "bob", "eve"), "0a111", "0a222") + "\n"))
	z.Close()
	cloud := `{"specversion":"1.0","id":"1","source":"shop","type":"shop/order","data":{"amount":3}}`
	var scap bytes.Buffer
	w := capture.NewWriter(&scap, capture.WriterOptions{})
	for _, e := range []scapevent.Event{
		scapevent.Append(nil, falcoevent.PluginID, 1767780000000000000, []byte(cloud)),
		scapevent.Append(nil, 999, 1767780001000000000, []byte("of another")),
	} {
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := folder(t, map[string]string{
		"x.yaml": someRules, "audit.jsonl.gz": zipped.String(), "events.jsonl": cloud + "\n" + strings.ReplaceAll(cloud, "order", "other"), "x.scap": scap.String(),
		"x.test.yaml": `
start: 2026-01-07T10:00:00Z
timezone: America/New_York
with: |
  - rule: Read again
    desc: Shadowed
    condition: audit.request.operation = read and event.type = audit/response
    output: again
    priority: INFO
    source: tocsin
tests:
  - name: short audit entries
    events:
      - audit:
          auth: {display_name: alice, num_uses: 3}
          request: {operation: read, path: secret/data/app}
          response: {}
      - audit: '{"type":"response","time":"2026-01-07T10:00:00Z","request":{"id":"a","operation":"read","path":"p{n}"}}'
        times: 2
    expect:
      - rule: Read
        output: alice reads secret/data/app (n=3)
        fields: {audit.auth.num_uses: 3, audit.request.path: secret/data/app}
        tags: secret
        priority: notice
        events: 1
        held: 0
        summary: false
        time: 2026-01-07T10:00:00Z
      - {rule: Read, matches: '^<NA> reads p\d', fields: {audit.auth.num_uses: null}, count: 2}
  - name: files of audit entries
    events:
      - audit_file: audit.jsonl.gz
        source: prod
      - expect: [{rule: Read, contains: [bob, secret/data/x]}, Read]
      - audit_file: audit.jsonl.gz
        grep: '"eve"'
    expect: [{rule: Read, contains: eve}]
  - name: an audit entry and what is derived from it
    events:
      - audit:
          request: {operation: update, path: secret/data/app, mount_point: secret/, mount_type: kv, namespace: {id: abc, path: ns1/}}
          response: {mount_type: kv, data: {version: 7, created_time: '2026-01-07T10:00:00Z', deletion_time: '', destroyed: false}}
    expect: [{rule: Written, output: secret/data/app is written in ns1/}]
  - name: events, throttled
    events:
      - event: {type: kv-v2/data-write, path: 'secret/data/{n}', namespace: ns1, metadata: {a: b, n: 7}}
        times: 2
      - event: {type: kv-v2/data-write, path: secret/data/1, id: own, source: here, time: 2026-01-07T10:00:05Z, note: x, extensions: {certainty: assumed}}
      - expect: [{rule: Written, count: 2}]
      - event: {type: kv-v2/data-write, path: secret/data/2}
        after: 10m
      - expect: [Written]
      - at: 2026-01-07T12:00:00Z
        event: {type: shop/order, data: {amount: 4}}
    expect: [{rule: Written, held: 1, summary: true}]
  - name: CloudEvents
    events:
      - cloudevent: {type: shop/order, source: shop, data: {amount: 3}}
      - cloudevent: '{"specversion":"1.0","id":"{n}","source":"shop","type":"shop/order","data":{"amount":3}}'
        times: 2
        every: 14h
      - cloudevents_file: events.jsonl
        grep: shop
      - event: {type: shop/order, datacontenttype: text/plain, data: hello}
    expect:
      - {rule: Ordered, output: 3 of shop on 2026-01-07 at 5, count: 2, fields: {'event.data[/amount]': 3}}
      - {rule: Ordered, matches: at 19, count: 2}
  - name: a capture
    events:
      - capture: x.scap
    expect: [Ordered]
  - name: a window
    events:
      - event: {type: shop/many, id: 'e{n}'}
        times: 5
        every: 10s
      - wait: 1d
    expect: [{rule: Many, events: 3, output: 'many, the last e3', fields: {event.source: test}}]
  - name: others are allowed, and one that must not be
    events:
      - event: {type: shop/order, data: {amount: 3}}
      - cloudevent: {type: shop/order, data: {amount: 3}}
    expect: [{rule: Many, count: 0}]
    others: allowed
  - name: only one
    only: 'R* again'
    with: |
      - list: unused
        items: []
    events:
      - audit: {type: response, request: {operation: read, path: p}}
    expect: [Read again]
`})
	res := runTests(t, dir, Options{})
	if res.Failed > 0 || res.Passed != 9 {
		t.Fatalf("%d passed:\n%s", res.Passed, explain(dir, res))
	}
	for _, c := range res.Coverage {
		if !c.Tested || c.Rule == "Off" {
			t.Errorf("coverage: %+v", c)
		}
	}
	if len(res.Coverage) != 4 {
		t.Errorf("coverage of %d rules", len(res.Coverage))
	}
}

// What failures say. testdata/failures.txt is what people see.
func TestFailures(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"x.yaml": someRules, "x.test.yaml": `
tests:
  - name: another text
    events:
      - audit: {type: response, auth: {display_name: alice, num_uses: 3}, request: {operation: read, path: secret/data/app}}
    expect:
      - rule: Read
        output: alice reads secret/data/App (n=3)
        fields: {audit.auth.num_uses: 4, audit.error: x}
        priority: ERROR
        tags: [other]
        events: 2
        held: 1
        summary: true
        time: 2026-01-07T11:00:00Z
        contains: nothing
        matches: ^x
  - name: too many, too few, and others
    events:
      - audit: {type: response, auth: {display_name: 'u{n}'}, request: {operation: read, path: secret/data/app}}
        times: 13
      - event: {type: shop/order, data: {amount: 3}}
    expect:
      - {rule: Read, count: 2}
      - {rule: Ordered, count: 3}
      - {rule: Ordred}
  - name: none
    events:
      - event: {type: shop/order, data: {amount: 3}}
    expect: none
  - name: what is wrong with an event
    events:
      - audit: {type: response}
    expect: none
  - name: what is no audit entry
    events:
      - audit: '{"type":"response"'
    expect: none
  - name: no time goes back
    start: 2026-01-07T11:00:00Z
    events:
      - at: 2026-01-07T10:00:00Z
        event: {type: a/b}
    expect: none
  - name: a file that is not there
    events:
      - audit_file: nothing.jsonl
    expect: none
  - name: an event without a type
    events:
      - event: {path: x}
    expect: none
`})
	res := runTests(t, dir, Options{})
	got := explain(dir, res)
	const golden = "testdata/failures.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("failures:\n%s\nwant\n%s", got, want)
	}
	if res.Failed != 8 || res.Passed != 0 {
		t.Errorf("%d failed, %d passed", res.Failed, res.Passed)
	}
	for _, c := range res.Coverage {
		if c.Tested {
			t.Errorf("a test that failed counts as one of %s", c.Rule)
		}
	}
}

// Which alert belongs to which expectation does not depend on their order.
func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"x.yaml": someRules, "x.test.yaml": `
tests:
  - name: loose first
    events:
      - audit: {type: response, auth: {display_name: 'u{n}'}, request: {operation: read, path: p}}
        times: 4
    expect:
      - {rule: Read}
      - {rule: Read, count: 2, contains: reads}
      - {rule: Read, contains: u1}
`})
	if res := runTests(t, dir, Options{}); res.Failed > 0 {
		t.Fatal(explain(dir, res))
	}
}

func TestRunOnly(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"x.yaml": someRules, "x.test.yaml": `
tests:
  - {name: one, events: [], expect: none}
  - {name: two, events: [], expect: none}
`})
	res := runTests(t, dir, Options{Only: regexp.MustCompile("^tw")})
	if len(res.Files[0].Tests) != 1 || res.Files[0].Tests[0].Name != "two" {
		t.Fatalf("%+v", res.Files[0].Tests)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"b.test.yaml": "", "a_test.yml": "", "a.yaml": "", "test.yaml": ""})
	if err := os.MkdirAll(filepath.Join(dir, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".git", "c.test.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := Find([]string{dir})
	if err != nil || len(files) != 2 || filepath.Base(files[0]) != "a_test.yml" || filepath.Base(files[1]) != "b.test.yaml" {
		t.Fatal(files, err)
	}
	if _, err := Find([]string{t.TempDir()}); err == nil || !strings.Contains(err.Error(), ".test.yaml") {
		t.Fatal(err)
	}
	if _, err := Find([]string{filepath.Join(dir, "nothing")}); !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// What is wrong with a file is said with its line, and with what could be meant.
func TestRefused(t *testing.T) {
	t.Parallel()
	one := func(test string) string { return "tests:\n  - name: x\n" + test }
	for content, want := range map[string]string{
		"":                                      "it has no tests",
		"\ttests: 1":                            "it is not YAML",
		"tests: []":                             "tests must be a list of tests",
		"- a":                                   "a file of tests must be a map",
		"- list: l\n  items: []":                "these are rules, not tests; their tests stand in a file of their own, called x.test.test.yaml",
		"test: []":                              `x.test.yaml:1: a file of tests has no key "test" (did you mean "tests"?)`,
		"tests: []\n---\ntests: []":             "one YAML document",
		"tests: []\ntests: []":                  "tests",
		"matching: some\ntests: []":             "matching must be first or all",
		"timezone: Mars\ntests: []":             "timezone must be",
		"start: now\ntests: []":                 "start must be a time",
		"start: 0001-01-01T00:00:00Z":           "start must be a time",
		"tests: [{events: []}]":                 "a test must have a name",
		one("    expect: none"):                 "events must be a list",
		one("    events: []"):                   "expect is missing",
		one("    events: []\n    expect: some"): "expect must be a list",
		one("    events: []\n    expect: none\n    others: some"):                        "others must be",
		one("    events: [{}]\n    expect: none"):                                        "must have one of audit",
		one("    events: [{wait: 5}]\n    expect: none"):                                 "wait must be a time",
		one("    events: [{wait: 5s, after: 4s}]\n    expect: none"):                     "wait must be alone",
		one("    events: [{expect: none, after: 4s}]"):                                   "expect must be alone",
		one("    events: [{event: {type: a/b}, audit: {}}]\n    expect: none"):           "must be two items",
		one("    events: [{event: x}]\n    expect: none"):                                "event must be a map",
		one("    events: [{event: {typ: a/b}}]\n    expect: none"):                       `no key "typ" (did you mean "type"?)`,
		one("    events: [{event: {type: a/b}, times: 0}]\n    expect: none"):            "times must be a number from 1",
		one("    events: [{audit_file: x, times: 2}]\n    expect: none"):                 "are for single events",
		one("    events: [{audit_file: x, grep: '('}]\n    expect: none"):                "grep: error parsing regexp",
		one("    events: [{capture: x, grep: y}]\n    expect: none"):                     "grep is for files of lines",
		one("    events: [{cloudevents_file: x, source: y}]\n    expect: none"):          "source is for",
		one("    events: [{event: {type: a/b}, source: y}]\n    expect: none"):           "source is for",
		one("    events: [{event: {type: a/b}, grep: y}]\n    expect: none"):             "grep is for files",
		one("    events: [{audit: [1]}]\n    expect: none"):                              "audit must be a map",
		one("    events: [{audit: {a: .nan}}]\n    expect: none"):                        "it cannot be JSON",
		one("    events: []\n    expect: [{rul: x}]"):                                    `no key "rul" (did you mean "rule"?)`,
		one("    events: []\n    expect: [{count: 1}]"):                                  "must have a rule",
		one("    events: []\n    expect: [{rule: x, matches: '('}]"):                     "matches: error parsing",
		one("    events: []\n    expect: [{rule: x, fields: [1]}]"):                      "fields must be a map",
		one("    events: []\n    expect: [{rule: x, summary: maybe}]"):                   "summary must be true or false",
		one("    events: []\n    expect: none\n  - {name: x, events: [], expect: none}"): `"x" is there twice: see line 2`,
		"a: &a [*a]\ntests: *a": "too many aliases",
	} {
		_, err := parse("x.test.yaml", []byte(content))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	if _, err := parse("x.yaml", []byte(one("    events: []\n    expect: none"))); err == nil || !strings.Contains(err.Error(), "rules must say") {
		t.Error(err)
	}
	for name, files := range map[string]map[string]string{
		"no such file":          {"x.test.yaml": one("    events: []\n    expect: none")},
		"no rule \"R\"":         {"x.yaml": someRules, "x.test.yaml": one("    only: R\n    events: []\n    expect: none")},
		"x.yaml:2:":             {"x.yaml": "\n- rule: a\n", "x.test.yaml": one("    events: []\n    expect: none")},
		"the rules are not val": {"x.yaml": "\n- rule: a\n", "x.test.yaml": one("    events: []\n    expect: none")},
	} {
		dir := folder(t, files)
		if res := runTests(t, dir, Options{}); res.Failed != 1 || !strings.Contains(explain(dir, res), name) {
			t.Errorf("%q: %d failed: %s", name, res.Failed, explain(dir, res))
		}
	}
}

// FuzzParse: files of tests are written by anybody. There is no panic, and no file takes long.
func FuzzParse(f *testing.F) {
	vault, err := os.ReadFile("../../../rules/vault.test.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(vault[:4000])
	f.Add([]byte("tests:\n  - name: x\n    events:\n      - audit: {request: {path: p}}\n        times: 3\n    expect: [{rule: r}]\n"))
	f.Add([]byte("a: &a [1]\nb: &b [*a, *a]\ntests: [*b, *b]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if file, err := parse("x.test.yaml", content); err == nil && len(file.tests) == 0 {
			t.Fatal("a file without tests is accepted")
		}
	})
}
