package rule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// record is some events, as a record of a journal.
type record struct {
	seq    uint64
	events []*event.Event
}

func (r *record) Len() int                 { return len(r.events) }
func (r *record) Event(i int) *event.Event { return r.events[i] }
func (r *record) Position(i int) position.Position {
	return position.Position{Seq: r.seq, Index: uint32(i)}
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// appEvent is the nth event of an application: each is a second after the one before.
func appEvent(n int, typ string, metadata ...string) *event.Event {
	e := event.NewNotification(typ, metadata...)
	e.ID, e.Source, e.Time = fmt.Sprint("event-", n), "app://test", start.Add(time.Duration(n)*time.Second)
	e.Recorded = e.Time
	return e
}

func mustCompile(t testing.TB, text string, change ...func(*Options)) *Set {
	t.Helper()
	o := Options{Location: time.UTC, Hostname: "here"}
	for _, f := range change {
		f(&o)
	}
	s, report := Compile([]load.File{{Name: "rules.yaml", Content: []byte(text)}}, o)
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	return s
}

func newRun(t testing.TB, s *Set, o RunOptions) *Run {
	t.Helper()
	r, err := s.NewRun(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// judge judges events, as one record, and returns the alerts.
func judge(t testing.TB, r *Run, events ...*event.Event) (alerts []*Alert) {
	t.Helper()
	rec := &record{seq: 1, events: events}
	next, err := r.Record(t.Context(), rec, 0, func(a *Alert) error { alerts = append(alerts, a); return nil })
	if err != nil || next != len(events) {
		t.Fatalf("stopped at %d of %d: %v", next, len(events), err)
	}
	return alerts
}

func outputs(alerts []*Alert) string {
	var list []string
	for _, a := range alerts {
		list = append(list, a.Output)
	}
	return strings.Join(list, " | ")
}

// ruleText is a rule about events of the hub.
func ruleText(name, condition, more string) string {
	text := fmt.Sprintf("- rule: %s\n  desc: d\n  condition: %s\n  output: '%s %%event.type %%event.metadata[who]'\n  priority: WARNING\n  source: tocsin\n", name, condition, name)
	for line := range strings.SplitSeq(more, "\n") {
		if line != "" {
			text += "  " + line + "\n"
		}
	}
	return text
}

func TestMatching(t *testing.T) {
	text := ruleText("one", `event.type startswith "app/a"`, "") + ruleText("two", `event.type = "app/ab"`, "") +
		ruleText("off", `event.type exists`, "enabled: false") + ruleText("three", `event.type endswith "b"`, "tags: [x]")
	events := []*event.Event{appEvent(1, "app/a", "who", "me"), appEvent(2, "app/ab"), appEvent(3, "app/b", "who", "you"), appEvent(4, "app/c"), appEvent(5, "alert/ab")}
	for _, tt := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"first", func(o *Options) {}, "one app/a me | one app/ab <NA> | three app/b you"},
		{"all", func(o *Options) { o.Matching = All }, "one app/a me | one app/ab <NA> | two app/ab <NA> | three app/ab <NA> | three app/b you"},
		{"selection", func(o *Options) {
			o.Selections = []load.Selection{{Rule: "*"}, {Enable: true, Tag: "x"}}
		}, "three app/ab <NA> | three app/b you"},
		{"priority", func(o *Options) { p := severity.Error; o.Minimum = &p }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := outputs(judge(t, newRun(t, mustCompile(t, text, tt.change), RunOptions{}), events...)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestAlert(t *testing.T) {
	s := mustCompile(t, ruleText("A rule", "event.metadata[who] = me", "tags: [b, a]"))
	e := appEvent(1, "app/a", "who", "me")
	alerts := judge(t, newRun(t, s, RunOptions{}), e)
	if len(alerts) != 1 {
		t.Fatalf("%d alerts", len(alerts))
	}
	a := alerts[0]
	if a.Rule.Name != "A rule" || a.Rule.Priority != severity.Warning || a.Event != e || !a.Time.Equal(e.Time) || a.Count != 1 || fmt.Sprint(a.EventIDs) != "[event-1]" {
		t.Errorf("got %+v", a)
	}
	var fields []string
	for _, f := range a.Fields {
		fields = append(fields, f.Name+"="+string(f.JSON))
	}
	if got := strings.Join(fields, " "); got != `event.type="app/a" event.metadata[who]="me"` {
		t.Errorf("fields %s", got)
	}
	again := judge(t, newRun(t, s, RunOptions{}), e)
	if again[0].ID != a.ID {
		t.Errorf("ids %s and %s of one alert", a.ID, again[0].ID)
	}
	if other := judge(t, newRun(t, s, RunOptions{}), appEvent(2, "app/a", "who", "me")); other[0].ID == a.ID {
		t.Error("two alerts have one id")
	}
}

func TestWindows(t *testing.T) {
	text := ruleText("many", `event.type = "app/fail"`, "window: {count: 3, within: 1m, by: ['event.metadata[who]']}") +
		ruleText("any", `event.type startswith "app/"`, "") +
		ruleText("then", `event.type = "app/a"`, `window: {then: ['event.type = "app/b"'], within: 1m, by: ['event.metadata[who]']}`)
	r := newRun(t, mustCompile(t, text), RunOptions{})
	alerts := judge(t, r,
		appEvent(1, "app/fail", "who", "me"), appEvent(2, "app/fail", "who", "you"), appEvent(3, "app/fail", "who", "me"), appEvent(4, "app/fail"),
		appEvent(5, "app/a", "who", "me"), appEvent(6, "app/fail", "who", "me"), appEvent(7, "app/b", "who", "you"), appEvent(8, "app/b", "who", "me"))
	// A rule with a window keeps no other from being asked, and none keeps it.
	const want = "any app/fail me | any app/fail you | any app/fail me | any app/fail <NA> | any app/a me | many app/fail me | any app/fail me | any app/b you | any app/b me | then app/b me"
	if got := outputs(alerts); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	many := alerts[5]
	if many.Count != 3 || fmt.Sprint(many.EventIDs) != "[event-1 event-3 event-6]" || fmt.Sprint(many.Key) != "[{event.metadata[who] me}]" || !many.First.Equal(start.Add(time.Second)) {
		t.Errorf("got %+v", many)
	}
}

func TestSnapshot(t *testing.T) {
	const window = "window: {count: 3, within: 1m}\n"
	text := ruleText("many", `event.type = "app/fail"`, window+"throttle: {every: 1m}")
	var events []*event.Event
	for i := range 9 {
		events = append(events, appEvent(i, "app/fail"))
	}
	want := judge(t, newRun(t, mustCompile(t, text), RunOptions{}), append(events, appEvent(500, "app/other"))...)
	if len(want) != 2 || want[0].Suppressed != 0 || !want[1].Summary || want[1].Suppressed != 2 {
		t.Fatalf("got %s", outputs(want))
	}
	for cut := range events {
		before := newRun(t, mustCompile(t, text), RunOptions{})
		got := judge(t, before, events[:cut]...)
		after := newRun(t, mustCompile(t, text+ruleText("new", "event.type = nothing", "")), RunOptions{})
		if lost, err := after.Restore(before.Snapshot()); err != nil || len(lost) > 0 {
			t.Fatal(lost, err)
		}
		got = append(got, judge(t, after, append(events[cut:], appEvent(500, "app/other"))...)...)
		if outputs(got) != outputs(want) || got[1].ID != want[1].ID {
			t.Errorf("cut at %d: got %s, want %s", cut, outputs(got), outputs(want))
		}
	}
	// What a rule has held back that is not there any more is told when it goes.
	before := newRun(t, mustCompile(t, text), RunOptions{})
	judge(t, before, events...)
	after := newRun(t, mustCompile(t, ruleText("another", `event.type = "app/fail"`, "")), RunOptions{})
	lost, err := after.Restore(before.Snapshot())
	if err != nil || fmt.Sprint(lost) != "[{many 2}]" {
		t.Fatal(lost, err)
	}
	var told []*Alert
	if err := before.Abandon([]string{lost[0].Name}, func(a *Alert) error { told = append(told, a); return nil }); err != nil || outputs(told) != "2 more alerts of the rule many were held back" {
		t.Errorf("got %s, %v", outputs(told), err)
	}
}

// Requests that have begun are known to the rules that come after, and events are counted on.
func TestFollow(t *testing.T) {
	text := ruleText("fifth", "evt.num = 4", "") + ruleText("slow", `audit.duration.ms >= 2000`, "")
	before := newRun(t, mustCompile(t, text), RunOptions{})
	judge(t, before, appEvent(1, "audit/request", "request_id", "a"), appEvent(2, "audit/request", "request_id", "b"), appEvent(2, "app/a"))
	after := newRun(t, mustCompile(t, ruleText("other", "evt.num = 1", "")+text), RunOptions{})
	after.Follow(before)
	got := judge(t, after, appEvent(3, "audit/response", "request_id", "b"), appEvent(3, "audit/response", "request_id", "a"))
	var names []string
	for _, a := range got {
		names = append(names, a.Rule.Name)
	}
	if fmt.Sprint(names) != "[fifth slow]" {
		t.Errorf("got %v", names)
	}
}

// A summary is in the innermost namespace that has all that it is about: whoever may see only one
// of them must not learn of the others.
func TestNamespaceOfSummaries(t *testing.T) {
	for want, namespaces := range map[string][]string{
		"a/b/": {"a/b/", "a/b/", "a/b/"},
		"a/":   {"a/b/", "a/b/", "a/bc/"},
		"":     {"a/", "a/", "b/"},
		"b/":   {"a/", "b/", "b/c/"}, // the first is not held back
	} {
		text := ruleText("held", `event.type = "app/a"`, "throttle: {every: 1h}")
		run := newRun(t, mustCompile(t, text), RunOptions{})
		var events []*event.Event
		for i, n := range namespaces {
			e := appEvent(i, "app/a")
			e.Namespace = n
			events = append(events, e)
		}
		if alerts := judge(t, run, events...); len(alerts) != 1 || alerts[0].Namespace != namespaces[0] {
			t.Fatalf("got %s", outputs(alerts))
		}
		again := newRun(t, mustCompile(t, text), RunOptions{})
		if lost, err := again.Restore(run.Snapshot()); err != nil || len(lost) > 0 {
			t.Fatal(lost, err)
		}
		last := appEvent(5*3600, "app/b")
		if alerts := judge(t, again, last); len(alerts) != 1 || !alerts[0].Summary || alerts[0].Namespace != want {
			t.Errorf("%q: got %+v", namespaces, alerts)
		}
	}
}

// fakeRule is a rule about events of the plugin of package fieldstest.
func fakeRule(name, condition, output string) string {
	return fmt.Sprintf("- rule: %s\n  desc: d\n  condition: %s\n  output: '%s'\n  priority: INFO\n  source: fakes\n", name, condition, output)
}

func TestPlugins(t *testing.T) {
	plugin := fieldstest.New()
	var down error
	plugin.Before = func(context.Context, []sourceplugin.Event) error { return down }
	registry := fields.New(fields.Options{})
	registry.Add(fieldstest.NewSource("fake", plugin))
	text := fakeRule("number", "fake.number > 5 and evt.source = fakes", "%fake.text %fake.list %evt.num") + ruleText("own", "event.type startswith app", "")
	s := mustCompile(t, text, func(o *Options) { o.Plugins = []*sourceplugin.Description{plugin.Describe()} })
	r := newRun(t, s, RunOptions{Fields: registry})
	events := []*event.Event{
		fieldstest.Event(`{"number": 6, "text": "six", "list": ["a", "b"]}`), appEvent(1, "app/x"), fieldstest.Event(`{"number": 5}`), fieldstest.Event(`{"number": 7}`),
	}
	if got := outputs(judge(t, r, events...)); got != "six (a,b) 1 | own app/x <NA> | <NA> <NA> 3" {
		t.Errorf("got %s", got)
	}

	down = errors.New("not now")
	r = newRun(t, s, RunOptions{Fields: registry})
	rec := &record{seq: 2, events: append([]*event.Event{appEvent(2, "app/y")}, events...)}
	var got []*Alert
	emit := func(a *Alert) error { got = append(got, a); return nil }
	next, err := r.Record(t.Context(), rec, 0, emit)
	var missing *fields.Missing
	if next != 1 || !errors.As(err, &missing) || outputs(got) != "own app/y <NA>" {
		t.Fatalf("stopped at %d with %v, after %s", next, err, outputs(got))
	}
	down = nil
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		next, err = r.Record(t.Context(), rec, next, emit)
	}
	if err != nil || outputs(got) != "own app/y <NA> | six (a,b) 1 | own app/x <NA> | <NA> <NA> 3" || r.Stats().Missing != 0 {
		t.Errorf("got %s, %v, %+v", outputs(got), err, r.Stats())
	}
	if !r.Told() {
		t.Error("no plugin has told anything")
	}

	down, got = errors.New("not now"), nil
	r = newRun(t, s, RunOptions{Fields: registry})
	r.Lenient(true)
	if next, err := r.Record(t.Context(), &record{seq: 3, events: events}, 0, emit); err != nil || next != 4 || outputs(got) != "own app/x <NA>" || r.Stats().Missing != 3 || r.Told() {
		t.Errorf("stopped at %d, %v, %s, %+v", next, err, outputs(got), r.Stats())
	}
}

// Rules that ask for what a plugin may have that is not known yet wait for it. The fields of our own
// events are known.
func TestWaiting(t *testing.T) {
	text := fakeRule("number", "fake.number > 5", "%fake.text") + ruleText("own", "event.type startswith app", "")
	files := []load.File{{Name: "rules.yaml", Content: []byte(text + fakeRule("typo", "fake.typo = x", "x"))}}
	if s, report := Compile([]load.File{{Name: "rules.yaml", Content: []byte(text + ruleText("typo", "event.typ = x", ""))}}, Options{Incomplete: true}); s != nil || report.OK() {
		t.Error("an unknown field is no mistake")
	}
	s, report := Compile(files, Options{Incomplete: true})
	if !report.OK() {
		t.Fatal(report.Err())
	}
	var waiting []string
	for _, r := range s.Waiting() {
		waiting = append(waiting, r.Name)
	}
	if fmt.Sprint(waiting) != "[number typo]" || len(s.Loaded()) != 1 || len(s.Rules()) != 3 {
		t.Errorf("%v wait, %d are loaded, of %d", waiting, len(s.Loaded()), len(s.Rules()))
	}
	if got := outputs(judge(t, newRun(t, s, RunOptions{}), fieldstest.Event(`{"number": 6}`), appEvent(1, "app/x"))); got != "own app/x <NA>" {
		t.Errorf("got %s", got)
	}
}

func TestNoAllocation(t *testing.T) {
	text := ruleText("one", `event.type startswith "app/a" and event.metadata[who] = me`, "") + ruleText("two", `audit.request.path = "x"`, "window: {count: 3, within: 1m}")
	r := newRun(t, mustCompile(t, text), RunOptions{})
	rec := &record{seq: 1, events: []*event.Event{appEvent(1, "app/a", "who", "you"), appEvent(2, "app/b"), appEvent(3, "alert/x")}}
	emit := func(*Alert) error { return errors.New("no rule fits") }
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.Record(context.Background(), rec, 0, emit); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for events that fit nothing", n)
	}
}
