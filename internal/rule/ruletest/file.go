package ruletest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/rules"
)

// file is a file of tests.
type file struct {
	name     string
	rules    []string
	rulesAt  int
	with     string
	matching rule.Matching
	location *time.Location
	start    time.Time
	tests    []*test
}

type test struct {
	at    int
	name  string
	start time.Time
	only  []string
	with  string
	steps []step
}

// step is something that happens, or a look at the alerts so far.
type step struct {
	at     int
	after  time.Duration // time that passes before
	time   time.Time     // when it happens, if that is said
	input  input         // events; nil: none
	times  int
	every  time.Duration
	expect *expectation
}

// expectation are all alerts since the one before it.
type expectation struct {
	at     int
	alerts []expected
	others bool // may there be others?
}

func readAll(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(content)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return content, err
}

// readFile reads a file of tests.
func readFile(name string) (*file, error) {
	content, err := readAll(name, maxFileBytes)
	if err != nil {
		return nil, err
	}
	return parse(name, content)
}

// parse reads what is in a file of tests.
func parse(name string, content []byte) (*file, error) {
	f := &file{name: name, location: time.UTC}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, f.errorf(0, "it has no tests")
	case err != nil:
		return nil, f.errorf(0, "it is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, f.errorf(more.Line, "a file of tests is one YAML document")
	}
	budget := 1 << 20
	if err := check(&doc, 0, &budget); err != nil {
		return nil, f.errorf(0, "%w", err)
	}
	if err := f.document(doc.Content[0]); err != nil {
		return nil, err
	}
	return f, nil
}

// isRule says whether something is an item of a file of rules.
func isRule(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && len(n.Content) > 0 && slices.Contains([]string{"rule", "macro", "list"}, n.Content[0].Value)
}

func (f *file) document(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode && slices.ContainsFunc(n.Content, isRule) {
		beside := strings.TrimSuffix(filepath.Base(f.name), filepath.Ext(f.name)) + Suffixes[0]
		return f.errorf(n.Line, "these are rules, not tests; their tests stand in a file of their own, called %s", beside)
	}
	es, err := f.entries(n, "a file of tests", "rules", "with", "matching", "timezone", "start", "tests")
	if err != nil {
		return err
	}
	var tests *yaml.Node
	f.rulesAt = n.Line
	for _, e := range es {
		switch e.key {
		case "rules":
			f.rulesAt = e.value.Line
			f.rules, err = f.texts(e)
			for i, r := range f.rules {
				if !strings.HasPrefix(r, rules.Prefix) {
					f.rules[i] = f.beside(r)
				}
			}
		case "with":
			f.with, err = f.text(e)
		case "matching":
			var m string
			m, err = f.text(e)
			if f.matching = rule.Matching(m); err == nil && f.matching != rule.First && f.matching != rule.All {
				err = f.errorf(e.value.Line, "matching must be first or all")
			}
		case "timezone":
			var zone string
			if zone, err = f.text(e); err == nil {
				if f.location, err = time.LoadLocation(zone); err != nil {
					err = f.errorf(e.value.Line, "timezone must be a name such as Europe/Berlin, or UTC")
				}
			}
		case "start":
			f.start, err = f.time(e)
		case "tests":
			tests = e.value
		}
		if err != nil {
			return err
		}
	}
	if f.rules == nil {
		if f.rules, err = f.own(); err != nil {
			return err
		}
	}
	if tests == nil || tests.Kind != yaml.SequenceNode || len(tests.Content) == 0 {
		return f.errorf(n.Line, "tests must be a list of tests")
	}
	for _, c := range tests.Content {
		t, err := f.test(resolved(c))
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(f.tests, func(o *test) bool { return o.name == t.name }); i >= 0 {
			return f.errorf(t.at, "the test %q is there twice: see line %d", t.name, f.tests[i].at)
		}
		f.tests = append(f.tests, t)
	}
	return nil
}

// beside returns the path of a file that the file of tests names.
func (f *file) beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(f.name), name)
}

// own returns the file of rules that the file of tests is called like.
func (f *file) own() ([]string, error) {
	for _, suffix := range Suffixes {
		if base, ok := strings.CutSuffix(f.name, suffix); ok {
			return []string{base + filepath.Ext(suffix)}, nil
		}
	}
	return nil, f.errorf(0, "rules must say which files of rules are tested, unless the file is called NAME%s", Suffixes[0])
}

func (f *file) test(n *yaml.Node) (*test, error) {
	es, err := f.entries(n, "a test", "name", "start", "only", "with", "events", "expect", "others")
	if err != nil {
		return nil, err
	}
	t := &test{at: n.Line, start: f.start}
	var events, expect *yaml.Node
	others := false
	for _, e := range es {
		switch e.key {
		case "name":
			t.name, err = f.text(e)
		case "start":
			t.start, err = f.time(e)
		case "only":
			t.only, err = f.texts(e)
		case "with":
			t.with, err = f.text(e)
		case "events":
			events = e.value
		case "expect":
			expect = e.value
		case "others":
			others, err = f.others(e)
		}
		if err != nil {
			return nil, err
		}
	}
	switch {
	case t.name == "":
		return nil, f.errorf(n.Line, "a test must have a name")
	case events == nil || events.Kind != yaml.SequenceNode:
		return nil, f.errorf(n.Line, "test %q: events must be a list", t.name)
	}
	checked := false
	for _, c := range events.Content {
		s, err := f.step(resolved(c))
		if err != nil {
			return nil, err
		}
		checked = checked || s.expect != nil
		t.steps = append(t.steps, s)
	}
	if expect == nil && !checked {
		return nil, f.errorf(n.Line, "test %q: expect is missing: say which alerts are raised, or none", t.name)
	}
	x := &expectation{at: n.Line}
	if expect != nil {
		if x, err = f.expectation(expect); err != nil {
			return nil, err
		}
	}
	x.others = others
	if expect != nil || !others {
		t.steps = append(t.steps, step{at: x.at, expect: x})
	}
	return t, nil
}

func (f *file) others(e entry) (bool, error) {
	switch t, _ := f.text(e); t {
	case "allowed":
		return true, nil
	case "refused":
		return false, nil
	}
	return false, f.errorf(e.value.Line, "others must be allowed or refused")
}

// The keys of steps that are events, and those that go with them.
var (
	inputKeys = []string{"audit", "audit_file", "event", "cloudevent", "cloudevents_file", "capture"}
	stepKeys  = append(slices.Clone(inputKeys), "wait", "expect", "after", "at", "times", "every", "source", "grep")
)

func (f *file) step(n *yaml.Node) (step, error) {
	es, err := f.entries(n, "an item of events", stepKeys...)
	if err != nil {
		return step{}, err
	}
	s := step{at: n.Line, times: 1}
	var what, source string
	var value entry
	var grep *regexp.Regexp
	repeated, waits := false, false
	for _, e := range es {
		switch e.key {
		case "wait", "after":
			s.after, err = f.duration(e)
			waits = waits || e.key == "wait"
		case "at":
			s.time, err = f.time(e)
		case "times":
			s.times, err = f.number(e, 1, maxTimes)
			repeated = true
		case "every":
			s.every, err = f.duration(e)
			repeated = true
		case "source":
			source, err = f.text(e)
		case "grep":
			var pattern string
			if pattern, err = f.text(e); err == nil {
				if grep, err = regexp.Compile(pattern); err != nil {
					err = f.errorf(e.value.Line, "grep: %w", err)
				}
			}
		case "expect":
			s.expect, err = f.expectation(e.value)
		default:
			if what != "" {
				return s, f.errorf(e.value.Line, "%s and %s must be two items of events", what, e.key)
			}
			what, value = e.key, e
		}
		if err != nil {
			return s, err
		}
	}
	switch {
	case waits && len(es) > 1:
		return s, f.errorf(n.Line, "wait must be alone; beside an event it is called after")
	case s.expect != nil && len(es) > 1:
		return s, f.errorf(n.Line, "expect must be alone among events")
	case what == "" && !waits && s.expect == nil:
		return s, f.errorf(n.Line, "an item of events must have one of %s, wait and expect", strings.Join(inputKeys, ", "))
	case what == "":
		return s, nil
	case strings.HasSuffix(what, "_file") || what == "capture":
		if repeated {
			return s, f.errorf(n.Line, "times and every are for single events")
		}
		s.input, err = f.fromFile(what, value, source, grep)
	case grep != nil:
		return s, f.errorf(n.Line, "grep is for files of events")
	default:
		s.input, err = f.inline(what, value, source)
	}
	return s, err
}
