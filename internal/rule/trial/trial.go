// Package trial sums up what rules say about a time that is over: how many alerts each raises, and
// when, next to those that were raised then. Its memory is bounded, however long that time is.
package trial

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/severity"
)

// DefaultSamples is how many alerts of each rule are kept as they are, unless said otherwise.
const DefaultSamples = 3

// maxLive bounds the names of rules that are counted although they are not tried.
const maxLive = 10_000

// Trial collects what happens while events are judged in the order in which they were recorded. It
// is for one goroutine.
type Trial struct {
	samples  int
	timeline timeline
	rules    []*counts
	byName   map[string]*counts
	events   uint64
	alerts   uint64
	first    time.Time
	last     time.Time
	bySource map[string]uint64
	otherRun map[string]uint64 // alerts of rules that are not tried, by name
}

// counts are those of a rule.
type counts struct {
	rule        *load.Rule
	alerts      uint64
	suppressed  uint64
	live        uint64
	first, last time.Time
	bins        []uint64
	samples     []Sample
}

// New returns a Trial of rules, in definition order. A negative number of samples is none.
func New(rules []*load.Rule, samples int) *Trial {
	t := &Trial{samples: samples, byName: make(map[string]*counts), bySource: make(map[string]uint64), otherRun: make(map[string]uint64)}
	for _, r := range rules {
		c := &counts{rule: r}
		t.rules = append(t.rules, c)
		t.byName[r.Name] = c
	}
	return t
}

// Event says that an event is looked at, before the alerts about it. Alerts among the events are
// those that were raised then.
func (t *Trial) Event(e *event.Event) {
	if strings.HasPrefix(e.Type, rule.AlertTypes) {
		t.raised(e)
		return
	}
	t.events++
	if source := rule.SourceOf(e); t.bySource[source] > 0 || len(t.bySource) < maxLive {
		t.bySource[source]++
	}
	if t.first.IsZero() || e.Time.Before(t.first) {
		t.first = e.Time
	}
	if e.Time.After(t.last) {
		t.last = e.Time
	}
	t.timeline.include(e.Time, t.each)
}

// raised counts an alert that was raised then.
func (t *Trial) raised(e *event.Event) {
	name, ok := e.Metadata.Text(severity.MetadataRule)
	if !ok {
		return
	}
	if c := t.byName[name]; c != nil {
		c.live++
	} else if t.otherRun[name] > 0 || len(t.otherRun) < maxLive {
		t.otherRun[name]++
	}
}

// Alert counts an alert, and keeps it as a sample if there are not enough of its rule. Summaries
// are counted as what they are about.
func (t *Trial) Alert(a *rule.Alert) {
	c := t.byName[a.Rule.Name]
	if c == nil {
		c = &counts{rule: a.Rule}
		t.rules = append(t.rules, c)
		t.byName[a.Rule.Name] = c
	}
	c.suppressed += uint64(max(a.Suppressed, 0))
	if a.Summary {
		return
	}
	t.alerts++
	c.alerts++
	if c.first.IsZero() || a.Time.Before(c.first) {
		c.first = a.Time
	}
	if a.Time.After(c.last) {
		c.last = a.Time
	}
	t.timeline.include(a.Time, t.each)
	c.bins = t.timeline.count(c.bins, a.Time)
	if len(c.samples) < t.samples {
		c.samples = append(c.samples, sampleOf(a))
	}
}

// each gives the bins of every rule to what changes them.
func (t *Trial) each(change func([]uint64) []uint64) {
	for _, c := range t.rules {
		if c.bins != nil {
			c.bins = change(c.bins)
		}
	}
}

// maxSampleText bounds the text of a sample, in bytes.
const maxSampleText = 4 << 10

func sampleOf(a *rule.Alert) Sample {
	s := Sample{Time: a.Time.UTC(), Output: a.Output, Count: a.Count, Suppressed: a.Suppressed}
	if a.Event != nil {
		s.Event = a.Event.ID
	}
	if len(s.Output) > maxSampleText {
		s.Output = strings.ToValidUTF8(s.Output[:maxSampleText], "") + "…"
	}
	for _, k := range a.Key {
		s.Key = append(s.Key, k.Name+"="+k.Value)
	}
	s.Output = strings.Clone(s.Output) // without the rest of the alert
	s.Event = strings.Clone(s.Event)
	return s
}

// Report is what came of a trial.
type Report struct {
	Events uint64 `json:"events"`
	Alerts uint64 `json:"alerts"`
	// Suppressed is how many alerts were held back by throttles.
	Suppressed uint64            `json:"suppressed"`
	From       *time.Time        `json:"from,omitempty"` // of the first event; nil without events
	To         *time.Time        `json:"to,omitempty"`
	Sources    map[string]uint64 `json:"sources"` // events
	// BinSeconds is how long a bin is, and Bins when each begins.
	BinSeconds int64       `json:"bin_seconds"`
	Bins       []time.Time `json:"bins"`
	TimeLine   []uint64    `json:"time_line"` // alerts in each bin
	Rules      []Rule      `json:"rules"`     // in definition order
	// Other are the alerts that were raised then by rules that are not tried.
	Other map[string]uint64 `json:"other_live_alerts,omitempty"`
}

// Rule is what one rule came to.
type Rule struct {
	Rule       string            `json:"rule"`
	Source     string            `json:"source"`
	Priority   string            `json:"priority"`
	Tags       []string          `json:"tags"`
	Alerts     uint64            `json:"alerts"`
	Suppressed uint64            `json:"suppressed"`
	Live       uint64            `json:"live_alerts"` // that were raised then by a rule of this name
	First      *time.Time        `json:"first,omitempty"`
	Last       *time.Time        `json:"last,omitempty"`
	TimeLine   []uint64          `json:"time_line,omitempty"`
	Samples    []Sample          `json:"samples,omitempty"`
	severity   severity.Severity // for people
}

// Sample is an alert.
type Sample struct {
	Time       time.Time `json:"time"`
	Output     string    `json:"output"`
	Event      string    `json:"event,omitempty"` // id of the last one that it is about
	Count      int       `json:"count"`           // of events that it is about
	Suppressed int       `json:"suppressed"`
	Key        []string  `json:"key,omitempty"` // NAME=VALUE
}

// Report returns what came of it so far.
func (t *Trial) Report() *Report {
	r := &Report{
		Events: t.events, Alerts: t.alerts, From: moment(t.first), To: moment(t.last), Sources: t.bySource, Other: t.otherRun,
		BinSeconds: t.timeline.width, Bins: t.timeline.starts(), TimeLine: make([]uint64, t.timeline.bins),
		Rules: []Rule{},
	}
	for _, c := range t.rules {
		line := Rule{
			Rule: c.rule.Name, Source: c.rule.Source, Priority: c.rule.Priority.String(), Tags: c.rule.Tags, severity: c.rule.Priority,
			Alerts: c.alerts, Suppressed: c.suppressed, Live: c.live, First: moment(c.first), Last: moment(c.last), Samples: c.samples,
		}
		if line.Tags == nil {
			line.Tags = []string{}
		}
		if c.alerts > 0 {
			line.TimeLine = make([]uint64, t.timeline.bins)
			copy(line.TimeLine, c.bins)
			for i, n := range line.TimeLine {
				r.TimeLine[i] += n
			}
		}
		r.Suppressed += c.suppressed
		r.Rules = append(r.Rules, line)
	}
	return r
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// loudest returns the rules that raised alerts, those with most first.
func (r *Report) loudest() []*Rule {
	var list []*Rule
	for i := range r.Rules {
		if r.Rules[i].Alerts > 0 {
			list = append(list, &r.Rules[i])
		}
	}
	slices.SortStableFunc(list, func(a, b *Rule) int {
		return cmp.Or(cmp.Compare(b.Alerts, a.Alerts), cmp.Compare(a.severity, b.severity))
	})
	return list
}
