package ruletest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
)

// expected is an alert, or several that are alike.
type expected struct {
	at       int
	rule     string
	count    int
	output   *string
	contains []string
	matches  *regexp.Regexp
	fields   map[string]any
	priority string
	tags     []string
	events   *int
	held     *int
	summary  *bool
	time     time.Time
}

func (f *file) expectation(n *yaml.Node) (*expectation, error) {
	x := &expectation{at: n.Line}
	switch {
	case n.Kind == yaml.ScalarNode && n.Value == "none":
		return x, nil
	case n.Kind == yaml.SequenceNode:
		for _, c := range n.Content {
			a, err := f.expected(resolved(c))
			if err != nil {
				return nil, err
			}
			x.alerts = append(x.alerts, a)
		}
		return x, nil
	}
	return nil, f.errorf(n.Line, "expect must be a list of alerts, or none")
}

func (f *file) expected(n *yaml.Node) (expected, error) {
	x := expected{at: n.Line, count: 1}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		x.rule = n.Value
		return x, nil
	}
	es, err := f.entries(n, "an expected alert", "rule", "count", "output", "contains", "matches", "fields", "priority", "tags", "events", "held", "summary", "time")
	if err != nil {
		return x, err
	}
	for _, e := range es {
		var number int
		switch e.key {
		case "rule":
			x.rule, err = f.text(e)
		case "count":
			x.count, err = f.number(e, 0, maxAlerts)
		case "output":
			var t string
			t, err = f.text(e)
			x.output = &t
		case "contains":
			x.contains, err = f.texts(e)
		case "matches":
			var t string
			if t, err = f.text(e); err == nil {
				if x.matches, err = regexp.Compile(t); err != nil {
					err = f.errorf(e.value.Line, "matches: %w", err)
				}
			}
		case "fields":
			if e.value.Kind != yaml.MappingNode || e.value.Decode(&x.fields) != nil {
				err = f.errorf(e.value.Line, "fields must be a map of fields and values")
			}
		case "priority":
			x.priority, err = f.text(e)
		case "tags":
			x.tags, err = f.texts(e)
		case "events":
			number, err = f.number(e, 1, maxEvents)
			x.events = &number
		case "held":
			number, err = f.number(e, 0, maxEvents)
			x.held = &number
		case "summary":
			var is bool
			is, err = f.truth(e)
			x.summary = &is
		case "time":
			x.time, err = f.time(e)
		}
		if err != nil {
			return x, err
		}
	}
	if x.rule == "" {
		return x, f.errorf(n.Line, "an expected alert must have a rule")
	}
	return x, nil
}

// differences returns what of an alert is not as expected, a line for each thing.
func (x *expected) differences(a *rule.Alert) (lines []string) {
	differs := func(what, got, want string) {
		lines = append(lines, what+": got  "+got, strings.Repeat(" ", len(what))+"  want "+want)
	}
	if x.output != nil && a.Output != *x.output {
		differs("output", quoted(a.Output), quoted(*x.output))
		if at := firstDifference(a.Output, *x.output); at > 0 {
			lines = append(lines, strings.Repeat(" ", len("output: got  ")+at)+"^")
		}
	}
	for _, c := range x.contains {
		if !strings.Contains(a.Output, c) {
			differs("output", quoted(a.Output), "... "+quoted(c)+" ...")
		}
	}
	if x.matches != nil && !x.matches.MatchString(a.Output) {
		differs("output", quoted(a.Output), "to match "+x.matches.String())
	}
	for _, name := range slices.Sorted(maps.Keys(x.fields)) {
		i := slices.IndexFunc(a.Fields, func(f rule.Field) bool { return f.Name == name })
		want, _ := json.Marshal(x.fields[name])
		switch {
		case i >= 0 && sameJSON(a.Fields[i].JSON, x.fields[name]):
		case i >= 0:
			differs(name, string(a.Fields[i].JSON), string(want))
		default:
			if k := slices.IndexFunc(a.Key, func(k rule.KeyValue) bool { return k.Name == name }); k < 0 {
				differs(name, "nothing: the output of the rule does not have it", string(want))
			} else if fmt.Sprint(x.fields[name]) != a.Key[k].Value {
				differs(name, quoted(a.Key[k].Value), string(want))
			}
		}
	}
	if x.priority != "" && !strings.EqualFold(x.priority, a.Rule.Priority.String()) {
		differs("priority", a.Rule.Priority.String(), x.priority)
	}
	for _, t := range x.tags {
		if !slices.Contains(a.Rule.Tags, t) {
			differs("tags", strings.Join(a.Rule.Tags, ", "), t)
		}
	}
	if x.events != nil && a.Count != *x.events {
		differs("events", fmt.Sprint(a.Count), fmt.Sprint(*x.events))
	}
	if x.held != nil && a.Suppressed != *x.held {
		differs("held", fmt.Sprint(a.Suppressed), fmt.Sprint(*x.held))
	}
	if x.summary != nil && a.Summary != *x.summary {
		differs("summary", fmt.Sprint(a.Summary), fmt.Sprint(*x.summary))
	}
	if !x.time.IsZero() && !a.Time.Equal(x.time) {
		differs("time", a.Time.UTC().Format(time.RFC3339Nano), x.time.UTC().Format(time.RFC3339Nano))
	}
	return lines
}

func quoted(text string) string {
	raw, _ := json.Marshal(text)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(text) == nil {
		raw = bytes.TrimSpace(b.Bytes())
	}
	return string(raw)
}

// firstDifference returns where two texts differ, in characters of what quoted prints for plain text.
func firstDifference(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return len([]rune(a[:n])) + 1
}

// sameJSON compares a value of an alert with one of YAML, in which numbers need no quotes, whether
// the field has a number or a text.
func sameJSON(got []byte, want any) bool {
	raw, err := json.Marshal(want)
	if err != nil {
		return false
	}
	if bytes.Equal(raw, got) {
		return true
	}
	var text string
	switch w, isText := want.(string); {
	case isText && json.Unmarshal(got, &text) != nil:
		return w == string(got)
	case !isText && json.Unmarshal(got, &text) == nil:
		return text == string(raw)
	}
	return normal(raw) == normal(got)
}

func normal(raw []byte) string {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return string(raw)
	}
	b, _ := json.Marshal(v)
	return string(b)
}

// judge compares alerts with those that are expected: each of them must be one, whatever the order.
func (x *expectation) judge(alerts []*rule.Alert, set *rule.Set, location *time.Location) (failures []Failure) {
	of, left := x.assign(alerts)
	for i := range x.alerts {
		e := &x.alerts[i]
		if !slices.ContainsFunc(set.Rules(), func(r *load.Rule) bool { return r.Name == e.rule }) {
			failures = append(failures, Failure{Line: e.at, Message: fmt.Sprintf("there is no rule %q%s", e.rule, hint(e.rule, names(set)))})
			continue
		}
		got := len(of[i])
		if got == e.count {
			continue
		}
		fail := Failure{Line: e.at, Message: fmt.Sprintf("expected %s of %q, got %s", alertsOf(e.count), e.rule, number(got))}
		for _, a := range left {
			if alerts[a].Rule.Name != e.rule {
				continue
			}
			fail.Details = append(fail.Details, "this one does not fit: "+line(alerts[a], location))
			for _, d := range e.differences(alerts[a]) {
				fail.Details = append(fail.Details, "    "+d)
			}
			left = slices.DeleteFunc(slices.Clone(left), func(o int) bool { return o == a })
			break
		}
		failures = append(failures, fail)
	}
	if len(left) == 0 || x.others {
		return failures
	}
	byRule := map[string][]int{}
	var order []string
	for _, a := range left {
		name := alerts[a].Rule.Name
		if byRule[name] == nil {
			order = append(order, name)
		}
		byRule[name] = append(byRule[name], a)
	}
	for _, name := range order {
		fail := Failure{Line: x.at, Message: fmt.Sprintf("not expected: %s of %q", alertsOf(len(byRule[name])), name)}
		for i, a := range byRule[name] {
			if i == maxShown {
				fail.Details = append(fail.Details, fmt.Sprintf("... and %d more", len(byRule[name])-i))
				break
			}
			fail.Details = append(fail.Details, line(alerts[a], location))
		}
		failures = append(failures, fail)
	}
	return failures
}

func alertsOf(n int) string {
	if n == 1 {
		return "1 alert"
	}
	return fmt.Sprintf("%d alerts", n)
}

func number(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

func line(a *rule.Alert, location *time.Location) string {
	text := a.Time.In(location).Format("15:04:05.000") + " " + a.Rule.Priority.String() + " " + quoted(a.Output)
	if a.Suppressed > 0 {
		text += fmt.Sprintf(" (%d held back)", a.Suppressed)
	}
	return text
}

// assign gives as many alerts as possible to what is expected, as many to each as it counts, and
// returns which got there and the others.
func (x *expectation) assign(alerts []*rule.Alert) (of [][]int, left []int) {
	of = make([][]int, len(x.alerts))
	fits := func(a, i int) bool {
		e := &x.alerts[i]
		return e.count > 0 && e.rule == alerts[a].Rule.Name && len(e.differences(alerts[a])) == 0
	}
	// An augmenting path: who is in the way moves to where it fits as well.
	var find func(a int, tried []bool) bool
	find = func(a int, tried []bool) bool {
		for i := range x.alerts {
			if tried[i] || !fits(a, i) {
				continue
			}
			tried[i] = true
			if len(of[i]) < x.alerts[i].count {
				of[i] = append(of[i], a)
				return true
			}
			for k, other := range of[i] {
				if find(other, tried) {
					of[i][k] = a
					return true
				}
			}
		}
		return false
	}
	for a := range alerts {
		if !find(a, make([]bool, len(x.alerts))) {
			left = append(left, a)
		}
	}
	return of, left
}
