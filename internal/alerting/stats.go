package alerting

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
)

// stats count since the start of the hub.
type stats struct {
	missed, failed, repeats, loaded, refused atomic.Uint64

	mu      sync.Mutex
	rules   map[string]*ruleStats
	now     rule.Stats // of the run that judges
	before  rule.Stats // of those before it
	events  map[string]uint64
	earlier map[string]uint64
}

type ruleStats struct {
	alerts, suppressed uint64
	last               time.Time
}

// raised is what an alert counts for.
type raised struct {
	rule       string
	suppressed int
}

func (s *stats) init() {
	s.rules, s.events, s.earlier = make(map[string]*ruleStats), make(map[string]uint64), make(map[string]uint64)
}

// judged notes what the run has counted that judges.
func (s *stats) judged(now rule.Stats, events map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.events = now, events
}

// closed notes what a run has counted that judges no more.
func (s *stats) closed(now rule.Stats, events map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = sum(s.before, now)
	for source, n := range events {
		s.earlier[source] += n
	}
	s.now, s.events = rule.Stats{}, nil
}

func sum(a, b rule.Stats) rule.Stats {
	b.Events += a.Events
	b.Missing += a.Missing
	b.Window.Evicted += a.Window.Evicted
	b.Window.Late += a.Window.Late
	b.Window.Skewed += a.Window.Skewed
	b.Window.Held += a.Window.Held
	return b
}

// totals returns what was counted by all runs.
func (s *stats) totals() (rule.Stats, map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := maps.Clone(s.earlier)
	for source, n := range s.events {
		events[source] += n
	}
	return sum(s.before, s.now), events
}

// maxRuleStats bounds the rules that are counted, of all that there were.
const maxRuleStats = 10_000

// raised notes a durable alert.
func (s *stats) raised(r raised, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.rules[r.rule]
	if of == nil {
		if len(s.rules) >= maxRuleStats {
			return
		}
		of = new(ruleStats)
		s.rules[r.rule] = of
	}
	of.alerts++
	of.suppressed += uint64(r.suppressed)
	of.last = now
}

func (s *stats) of(name string) ruleStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rules[name]; r != nil {
		return *r
	}
	return ruleStats{}
}

// status is what others may know of how it goes.
type status struct {
	newest  *compiled // that judges, or is to do so next
	active  *compiled
	since   time.Time // it judges
	refused *Refusal
	useless string    // why the rules from before the start cannot be used
	starved time.Time // an event waits for a plugin since then
	reason  string    // why
	blind   bool      // events are judged without values
	lag     uint64
	age     time.Duration
	at      journal.Position
	over    bool
	err     error
}

// nowActive notes which rules judge.
func (a *Alerting) nowActive(c *compiled) {
	a.gaveUp = a.gaveUp && !a.waiting.IsZero()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.active, a.status.since = c, a.o.now()
	a.status.starved, a.status.reason, a.status.blind = time.Time{}, "", false
}

func (a *Alerting) setStarving(reason string, since time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.reason, a.status.starved, a.status.blind = reason, since, false
}

func (a *Alerting) setBlind(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.reason, a.status.blind = reason, true
}

func (a *Alerting) setLag(lag uint64, age time.Duration, at journal.Position) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.lag, a.status.age, a.status.at = lag, age, at
}

// over notes that nothing is judged any more.
func (a *Alerting) over(err error) {
	a.mu.Lock()
	a.status.over, a.status.err = true, err
	a.mu.Unlock()
	a.swapFailed(cmp.Or(err, errEnded))
}

// starvedLong is how long an event may wait for a plugin before it is told.
const starvedLong = 5 * time.Second

// Health returns what is wrong, for people: mistakes in the files, plugins that are waited for,
// alerts that cannot be stored. It is a [health.Check].
func (a *Alerting) Health() error {
	a.mu.Lock()
	s := a.status
	a.mu.Unlock()
	var all []error
	if s.err != nil {
		all = append(all, s.err)
	}
	if r := s.refused; r != nil {
		stay := "no rules are there"
		if s.useless != "" {
			stay += ", and those from before the start cannot be used: " + s.useless
		}
		if c := s.active; c != nil {
			stay = fmt.Sprintf("the %d rules from before judge", len(c.set.Loaded()))
			if !c.earlier.IsZero() {
				stay = fmt.Sprintf("the %d rules that were loaded at %s, before the start, judge since %s", len(c.set.Loaded()), c.earlier.UTC().Format(time.RFC3339), s.since.UTC().Format(time.RFC3339))
			}
		}
		all = append(all, fmt.Errorf("%w; %s. \"tocsin rules check\" tells more", r, stay))
	}
	if c := s.active; c != nil && len(c.set.Waiting()) > 0 {
		all = append(all, fmt.Errorf("rules wait for plugins: %s, because the plugin of the source %s has not been started yet", ruleNames(c.set.Waiting()), strings.Join(c.plugins.silent, ", ")))
	}
	switch {
	case s.blind:
		all = append(all, fmt.Errorf("events are judged without a field of a plugin: %s", s.reason))
	case !s.starved.IsZero() && a.o.now().Sub(s.starved) >= starvedLong:
		all = append(all, fmt.Errorf("events wait for a field of a plugin: %s", s.reason))
	}
	if text := a.saving.Load(); text != nil {
		all = append(all, errors.New(*text))
	}
	return errors.Join(all...)
}

// Status is how rules and alerts are.
type Status struct {
	// State is "loading" as long as no rules judge, "judging", "waiting" for plugins, "blind" if
	// events are judged without what a plugin would say, or "stopped".
	State   string
	Since   time.Time // the rules judge
	Problem string    // what Health says
	Refused *Refusal  // of files that are not loaded
	Earlier time.Time // the rules that judge were loaded then, before the start, because of Refused; zero: they were not
	Files   int
	Rules   []RuleStatus // in definition order
	// Warnings are those of the files whose rules judge.
	Warnings []string
	At       journal.Position // behind the last event that was judged
	Lag      uint64           // events behind it
	LagAge   time.Duration
	Events   uint64 // that were judged since the start
	Missing  uint64 // of these, without a value that a plugin could not tell
	Missed   uint64 // events that were removed from the journal before
	Held     uint64 // alerts that throttles held back
	Evicted  uint64 // keys that windows have forgotten because there were too many
	Keys     int    // that windows and throttles remember
}

// RuleStatus is how a rule is.
type RuleStatus struct {
	*load.Rule
	Slug string
	// State is "active", "disabled" or "waiting".
	State              string
	Alerts, Suppressed uint64 // since the start
	Last               time.Time
}

// Status returns how rules and alerts are.
func (a *Alerting) Status() Status {
	a.mu.Lock()
	s := a.status
	a.mu.Unlock()
	totals, _ := a.stats.totals()
	st := Status{
		State: "judging", Since: s.since, Refused: s.refused, At: s.at, Lag: s.lag, LagAge: s.age,
		Events: totals.Events, Missing: totals.Missing, Missed: a.stats.missed.Load(),
		Held: totals.Window.Held, Evicted: totals.Window.Evicted, Keys: totals.Window.Keys,
	}
	switch {
	case s.over:
		st.State = "stopped"
	case s.active == nil:
		st.State = "loading"
	case s.blind:
		st.State = "blind"
	case !s.starved.IsZero() || len(s.active.set.Waiting()) > 0:
		st.State = "waiting"
	}
	if err := a.Health(); err != nil {
		st.Problem = err.Error()
	}
	c := s.active
	if c == nil {
		return st
	}
	st.Earlier = c.earlier
	st.Files = len(c.files)
	for _, f := range c.report.Files {
		for _, w := range f.Warnings {
			if len(st.Warnings) < maxProblems {
				st.Warnings = append(st.Warnings, cut(w.Error(), 1<<10))
			}
		}
	}
	for _, r := range c.set.Rules() {
		of := a.stats.of(r.Name)
		one := RuleStatus{Rule: r, Slug: c.slugs[r.Name], State: "active", Alerts: of.alerts, Suppressed: of.suppressed, Last: of.last}
		switch {
		case !r.Enabled:
			one.State = "disabled"
		case slices.Contains(c.set.Waiting(), r):
			one.State = "waiting"
		}
		st.Rules = append(st.Rules, one)
	}
	return st
}

// collector exports what is counted.
type collector struct{ a *Alerting }

var (
	descAlerts     = prometheus.NewDesc("tocsin_rules_alerts_total", "Alerts that are durable, by rule. Rules beyond a thousand are counted as \"other\".", []string{"rule", "priority"}, nil)
	descSuppressed = prometheus.NewDesc("tocsin_rules_suppressed_total", "Alerts that throttles have held back. They are told, as a number, in the next alert or in one of their own.", nil, nil)
	descEvents     = prometheus.NewDesc("tocsin_rules_events_total", "Events that rules have judged, by event source.", []string{"source"}, nil)
	descMissing    = prometheus.NewDesc("tocsin_rules_missing_values_total", "Events that were judged without the value of a field, because a plugin could not tell it.", nil, nil)
	descMissed     = prometheus.NewDesc("tocsin_rules_missed_events_total", "Events that were removed from the journal before rules have judged them.", nil, nil)
	descFailed     = prometheus.NewDesc("tocsin_rules_failed_alerts_total", "Alerts that could not be kept, because nothing made an event of them that the limits allow.", nil, nil)
	descRepeats    = prometheus.NewDesc("tocsin_rules_repeated_alerts_total", "Alerts that were in the journal already when events were judged again after a crash, or when it was not known whether they were stored.", nil, nil)
	descEvicted    = prometheus.NewDesc("tocsin_rules_evicted_total", "What windows and throttles have forgotten before its time, because there was too much.", nil, nil)
	descLate       = prometheus.NewDesc("tocsin_rules_late_events_total", "Events that came too late for the window of a rule.", nil, nil)
	descKeys       = prometheus.NewDesc("tocsin_rules_keys", "Combinations of values that windows and throttles remember.", nil, nil)
	descMemory     = prometheus.NewDesc("tocsin_rules_memory_bytes", "Memory of windows and throttles.", nil, nil)
	descLoaded     = prometheus.NewDesc("tocsin_rules_loaded", "Rules by what they do: active ones judge, disabled ones do not, waiting ones ask for a plugin that is not known yet.", []string{"state"}, nil)
	descReloads    = prometheus.NewDesc("tocsin_rules_reloads_total", "Files of rules that were loaded, or refused because of mistakes.", []string{"outcome"}, nil)
	descRefused    = prometheus.NewDesc("tocsin_rules_refused", "1 if the files of rules have mistakes, so that the rules from before judge; otherwise 0.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descAlerts, descSuppressed, descEvents, descMissing, descMissed, descFailed, descRepeats, descEvicted, descLate, descKeys, descMemory, descLoaded, descReloads, descRefused,
	} {
		ch <- d
	}
}

// maxSeries bounds the rules that have series of their own.
const maxSeries = 1000

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	s := &c.a.stats
	totals, events := s.totals()
	counter(descSuppressed, totals.Window.Held)
	for source, n := range events {
		counter(descEvents, n, strings.ToValidUTF8(source, "\uFFFD"))
	}
	counter(descMissing, totals.Missing)
	counter(descMissed, s.missed.Load())
	counter(descFailed, s.failed.Load())
	counter(descRepeats, s.repeats.Load())
	counter(descEvicted, totals.Window.Evicted)
	counter(descLate, totals.Window.Late)
	gauge(descKeys, float64(totals.Window.Keys))
	gauge(descMemory, float64(totals.Window.Bytes))
	counter(descReloads, s.loaded.Load(), "loaded")
	counter(descReloads, s.refused.Load(), "refused")
	st := c.a.Status()
	states := map[string]int{"active": 0, "disabled": 0, "waiting": 0}
	other := map[string]uint64{}
	for i, r := range st.Rules {
		states[r.State]++
		if i >= maxSeries {
			other[r.Priority.String()] += r.Alerts
			continue
		}
		if r.State == "active" || r.Alerts > 0 {
			counter(descAlerts, r.Alerts, r.Slug, r.Priority.String())
		}
	}
	for priority, n := range other {
		counter(descAlerts, n, "other", priority)
	}
	for state, n := range states {
		gauge(descLoaded, float64(n), state)
	}
	refused := 0.0
	if st.Refused != nil {
		refused = 1
	}
	gauge(descRefused, refused)
}
