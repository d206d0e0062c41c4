package rule

import (
	"context"
	"strconv"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/eventfields"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/rule/match"
	"github.com/tocsin-events/tocsin/internal/rule/output"
	"github.com/tocsin-events/tocsin/internal/rule/window"
)

// Set is a compiled set of rules. It is immutable and safe for concurrent use.
type Set struct {
	options  Options
	rules    []*load.Rule // all of them
	loaded   []*load.Rule // those that judge
	waiting  []*load.Rule
	sources  map[string]*sourceSet
	specs    []window.Spec
	windowed []*compiledRule // by the numbers of specs
}

// sourceSet is the rules of an event source.
type sourceSet struct {
	name      string
	matcher   *match.Matcher
	requests  []field.Request
	rules     []*compiledRule // by the numbers of the matcher
	sequences []int           // rules whose window has conditions that follow
	windows   bool            // a rule has a window
	plugins   bool            // a field of a plugin is asked for
}

type compiledRule struct {
	rule       *load.Rule
	source     *sourceSet
	output     *output.Template
	window     int // in Set.specs; -1: it has neither window nor throttle
	then       []match.Condition
	by, values []value
	throttleBy []value
	wants      []int // requests of what is asked for when it fits
	plugins    bool  // one of these is a field of a plugin
}

// Rules returns all rules in definition order, also those that are not enabled. They must not be
// changed.
func (s *Set) Rules() []*load.Rule { return s.rules }

// Loaded returns the rules that judge events, in definition order.
func (s *Set) Loaded() []*load.Rule { return s.loaded }

// Waiting returns the rules that ask for an event source or a field that there is not, which may
// be one of a plugin that is not known yet, see [Options.Incomplete]. They judge nothing.
func (s *Set) Waiting() []*load.Rule { return s.waiting }

// RunOptions are what a Run works with. The zero value is usable.
type RunOptions struct {
	// Fields extracts the fields of plugins. Nil: there must be none in the rules.
	Fields *fields.Registry
	// Payload returns a payload that is kept outside of its event; nil: such events have none.
	Payload func(ctx context.Context, ref string) ([]byte, error)
	// Summary returns what the plugin of an event says of it, for evt.plugininfo. Nil, and without
	// ok: it is a shortened payload.
	Summary func(ctx context.Context, e *event.Event) (text string, ok bool)
	// Limits bound the memory of windows and throttles.
	Limits window.Limits
}

// Stats count what a Run did.
type Stats struct {
	Events  uint64 // that were looked at by a rule
	Missing uint64 // of these, those judged without a value that could not be had
	Window  window.Stats
}

// Run judges events by a Set, and remembers what windows and throttles need. It is for one
// goroutine.
type Run struct {
	set     *Set
	sources map[string]*sourceRun
	windows *window.State
	lenient bool
	stats   Stats
	due     time.Time // when windows have something to tell; zero: never

	lastType string // of the event before, and what that leads to
	last     *sourceRun
	buf      []byte
	texts    [2][]string
}

// sourceRun is what judges the events of one event source.
type sourceRun struct {
	set    *sourceSet
	reader *eventfields.Reader
	state  *match.State
	rec    fields.Record // that reader is at; nil: none
	hits   []int
	steps  []uint32 // of sequences
	events uint64
}

// NewRun returns a Run that has seen nothing. [Run.Close] ends it. The error wraps
// [fields.ErrTooMany].
func (s *Set) NewRun(o RunOptions) (_ *Run, err error) {
	r := &Run{set: s, sources: make(map[string]*sourceRun)}
	if r.windows, err = window.New(s.specs, o.Limits); err != nil {
		return nil, err
	}
	for name, source := range s.sources {
		reader, err := eventfields.NewReader(name, source.requests, eventfields.Options{
			Location: s.options.Location, Hostname: s.options.Hostname, Payload: o.Payload, Plugins: o.Fields, Summary: o.Summary,
		})
		if err != nil {
			r.Close()
			return nil, err
		}
		r.sources[name] = &sourceRun{set: source, reader: reader, state: source.matcher.NewState(), steps: make([]uint32, len(source.sequences))}
	}
	return r, nil
}

// Close says that the fields of plugins are not wanted any more.
func (r *Run) Close() {
	for _, s := range r.sources {
		s.reader.Close()
	}
}

// Set returns the rules.
func (r *Run) Set() *Set { return r.set }

// Stats returns what was counted so far.
func (r *Run) Stats() Stats {
	s := r.stats
	s.Window = r.windows.Stats()
	return s
}

// EventsOf returns how many events of each event source were looked at.
func (r *Run) EventsOf() map[string]uint64 {
	all := make(map[string]uint64, len(r.sources))
	for name, s := range r.sources {
		all[name] = s.events
	}
	return all
}

// Lenient has the run take values that a plugin cannot tell now for missing ones, and count them,
// instead of returning an error. It is for who has waited for long enough.
func (r *Run) Lenient(on bool) { r.lenient = on }

// Told says whether a plugin has answered about an event of the last record.
func (r *Run) Told() bool {
	for _, s := range r.sources {
		if s.rec != nil && s.set.plugins && s.reader.Told() {
			return true
		}
	}
	return false
}

// Fetched says whether a payload that is kept outside of its event was read, of the last record.
func (r *Run) Fetched() bool {
	for _, s := range r.sources {
		if s.rec != nil && s.reader.Fetched() {
			return true
		}
	}
	return false
}

// Snapshot returns what windows and throttles remember.
func (r *Run) Snapshot() []byte { return r.windows.Snapshot() }

// Restore replaces what they remember by a Snapshot, which may be one of other rules: those that
// have the same name, window and throttle go on with it. Rules that wait keep it for when they judge.
func (r *Run) Restore(snapshot []byte) (lost []window.Lost, err error) {
	lost, err = r.windows.Restore(snapshot)
	r.noteDue()
	return lost, err
}

// Follow has the run go on where another one ends, which must not be used any more: it knows the
// requests whose response is still to come, and goes on counting events.
func (r *Run) Follow(before *Run) {
	for name, s := range r.sources {
		if old := before.sources[name]; old != nil {
			s.reader.Follow(old.reader)
		}
	}
}

// Due returns when [Run.Advance] has something to tell; ok is false if there is nothing.
func (r *Run) Due() (at time.Time, ok bool) { return r.due, !r.due.IsZero() }

func (r *Run) noteDue() {
	r.due = time.Time{}
	if at, ok := r.windows.Due(); ok {
		r.due = at
	}
}

// Advance tells what throttles have held back, if no alert has come that could tell it. It is for
// when no events come, and the time is now; Record does it by itself.
func (r *Run) Advance(now time.Time, emit func(*Alert) error) error {
	defer r.noteDue()
	return r.windows.Advance(now, func(s window.Summary) error { return emit(r.summary(s)) })
}

// Abandon tells what the throttles of some rules have held back. Nothing can be judged any more
// then.
func (r *Run) Abandon(names []string, emit func(*Alert) error) error {
	of := make(map[string]bool, len(names))
	for _, name := range names {
		of[name] = true
	}
	return r.windows.Advance(time.Unix(1<<33, 0), func(s window.Summary) error {
		if !of[r.set.windowed[s.Rule].rule.Name] {
			return nil
		}
		return emit(r.summary(s))
	})
}

// Record judges the events of a record from the one with the index from on, and gives the alerts
// to emit, in the order of events and, for an event, of rules. An Alert is emit's to keep, as long
// as the event.
//
// It returns the index of the first event that was not judged: that of the record's end if there is
// no error. If a plugin cannot tell the value of a field now the error wraps a [*fields.Missing],
// and a later call may go on with that event, as if it had never been looked at. With an error of
// emit, or of ctx, the Run is of no use any more.
func (r *Run) Record(ctx context.Context, rec fields.Record, from int, emit func(*Alert) error) (next int, err error) {
	for _, s := range r.sources {
		s.rec = nil
	}
	for i := from; i < rec.Len(); i++ {
		e := rec.Event(i)
		s := r.sourceOf(e)
		if s == nil {
			continue
		}
		if s.rec == nil {
			s.rec = rec
			s.reader.Record(ctx, rec)
		}
		s.reader.At(i)
		if err := r.judge(s, e, emit); err != nil {
			if ctx.Err() != nil {
				return i, ctx.Err()
			}
			return i, err
		}
	}
	return rec.Len(), nil
}

// sourceOf returns what judges an event, nil if no rule does.
func (r *Run) sourceOf(e *event.Event) *sourceRun {
	if e.Type != r.lastType || r.lastType == "" {
		r.lastType, r.last = e.Type, r.sources[SourceOf(e)]
	}
	return r.last
}

// judge judges an event, at which the reader is.
func (r *Run) judge(s *sourceRun, e *event.Event, emit func(*Alert) error) error {
	s.state.Start(s.reader)
	s.hits = s.hits[:0]
	for found := false; ; {
		n, ok := s.state.Next()
		if !ok {
			break
		}
		if s.set.rules[n].rule.Window == nil && r.set.options.Matching == First {
			if found {
				continue
			}
			found = true
			if !s.set.windows {
				s.hits = append(s.hits, n)
				break
			}
		}
		s.hits = append(s.hits, n)
	}
	follows := r.follow(s)
	if len(s.hits) > 0 || follows {
		r.ask(s, e)
	}
	if m := s.reader.Missing(); m != nil {
		if !m.Final && !r.lenient {
			s.reader.Back()
			return m
		}
		r.stats.Missing++
	}
	r.stats.Events++
	s.events++
	at := stored(e)
	if !e.Recorded.IsZero() && r.windows.Stored(at) {
		r.noteDue()
	}
	if !r.due.IsZero() {
		if !at.Before(r.due) {
			if err := r.Advance(at, emit); err != nil {
				return err
			}
		}
	}
	if len(s.hits) == 0 && !follows {
		return nil
	}
	return r.raise(s, e, emit)
}

func stored(e *event.Event) time.Time {
	if e.Recorded.IsZero() {
		return e.Time
	}
	return e.Recorded
}

// follow looks which steps of sequences an event is, and says whether it is one of a rule whose
// condition it does not fit.
func (r *Run) follow(s *sourceRun) bool {
	any := false
	for i, n := range s.set.sequences {
		s.steps[i] = 0
		for k, step := range s.set.rules[n].then {
			if s.state.Holds(step) {
				s.steps[i] |= 2 << k
				any = true
			}
		}
	}
	return any
}

// ask asks for all values that alerts of the rules that fit could need, if one of them may be
// missing: nothing may be remembered of an event that is judged again.
func (r *Run) ask(s *sourceRun, e *event.Event) {
	ask := func(c *compiledRule) {
		if c.plugins || e.DataRef != "" {
			for _, q := range c.wants {
				s.reader.Values(q)
			}
		}
	}
	for _, n := range s.hits {
		ask(s.set.rules[n])
	}
	for i, n := range s.set.sequences {
		if s.steps[i] != 0 {
			ask(s.set.rules[n])
		}
	}
}

// raise has windows and throttles look at an event, and raises alerts.
func (r *Run) raise(s *sourceRun, e *event.Event, emit func(*Alert) error) error {
	hits, sequences := s.hits, s.set.sequences
	for i := 0; len(hits) > 0 || i < len(sequences); {
		// The rules in definition order: those that fit, and those of which a step does.
		n, fits := -1, false
		if len(hits) > 0 {
			n, fits = hits[0], true
		}
		steps := uint32(0)
		if i < len(sequences) && (n < 0 || sequences[i] <= n) {
			if sequences[i] != n {
				n, fits = sequences[i], false
			}
			steps = s.steps[i]
			i++
		}
		if fits {
			hits = hits[1:]
			steps |= 1
		}
		if steps == 0 {
			continue
		}
		if err := r.rule(s, s.set.rules[n], steps, e, emit); err != nil {
			return err
		}
	}
	return nil
}

// rule raises the alert of a rule that an event fits, if its window and its throttle want that.
func (r *Run) rule(s *sourceRun, c *compiledRule, steps uint32, e *event.Event, emit func(*Alert) error) error {
	a := Alert{Rule: c.rule, Time: e.Time, Event: e, Namespace: e.Namespace, Count: 1, First: e.Time}
	at := window.Event{ID: e.ID, Time: e.Time, Recorded: e.Recorded, Namespace: e.Namespace}
	if c.rule.Window != nil {
		by, ok := r.valuesOf(0, c.by, s.reader, true)
		if !ok {
			return nil
		}
		values, ok := r.valuesOf(1, c.values, s.reader, true)
		if !ok {
			return nil
		}
		g, ok := r.windows.Window(c.window, at, window.Input{By: by, Values: values, Steps: steps})
		if !ok {
			return nil
		}
		a.Count, a.First, a.EventIDs = g.Count, g.First, g.IDs
		a.Key = keyOf(c.by, by)
		if len(c.rule.Window.New) > 0 {
			a.Key = append(a.Key, keyOf(c.values, values)...)
		}
	} else {
		a.EventIDs = []string{e.ID}
	}
	if c.rule.Throttle != nil {
		by, _ := r.valuesOf(0, c.throttleBy, s.reader, false)
		held, ok := r.windows.Throttle(c.window, at, by)
		r.noteDue()
		if !ok {
			return nil
		}
		a.Suppressed = held.Count
		if a.Key == nil {
			a.Key = keyOf(c.throttleBy, by)
		}
	}
	a.ID = event.DeriveID("alert", c.rule.Name, e.Source, e.ID)
	r.buf = c.output.Append(r.buf[:0], s.reader)
	a.Output = string(r.buf)
	for _, f := range c.output.Values(s.reader) {
		a.Fields = append(a.Fields, Field(f))
	}
	return emit(&a)
}

// valuesOf returns values as texts, in a piece of memory of which there are two. all wants none to
// be missing.
func (r *Run) valuesOf(which int, values []value, row field.Row, all bool) ([]string, bool) {
	texts := r.texts[which][:0]
	for _, v := range values {
		if all {
			if elements, ok := v.operand.Values(row); !ok || len(elements) == 0 {
				return nil, false
			}
		}
		r.buf = v.text.Append(r.buf[:0], row)
		texts = append(texts, string(r.buf))
	}
	r.texts[which] = texts
	return texts, true
}

func keyOf(values []value, texts []string) (key []KeyValue) {
	for i, v := range values {
		key = append(key, KeyValue{v.name, texts[i]})
	}
	return key
}

// summary makes the alert of what a throttle has held back.
func (r *Run) summary(s window.Summary) *Alert {
	c := r.set.windowed[s.Rule]
	a := &Alert{
		ID:   event.DeriveID("alert summary", c.rule.Name, s.After, strconv.Itoa(s.Count), s.Last.Format(time.RFC3339Nano)),
		Rule: c.rule, Time: s.Last, Namespace: s.Namespace, First: s.First, EventIDs: s.IDs, Count: s.Count, Suppressed: s.Count, Summary: true,
	}
	for i, v := range s.By {
		if i < len(c.throttleBy) {
			a.Key = append(a.Key, KeyValue{c.throttleBy[i].name, v})
		}
	}
	a.Output = strconv.Itoa(s.Count) + " more alerts of the rule " + c.rule.Name + " were held back"
	if s.Count == 1 {
		a.Output = "1 more alert of the rule " + c.rule.Name + " was held back"
	}
	for i, k := range a.Key {
		if i == 0 {
			a.Output += " for "
		} else {
			a.Output += ", "
		}
		a.Output += k.Name + "=" + k.Value
	}
	return a
}
