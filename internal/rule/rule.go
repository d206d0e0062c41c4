// Package rule compiles files of rules and judges the events of records by them. It puts together
// what the packages below it do: load reads files, match decides which rules fit an event, window
// counts over several events, output writes what an alert says. It reads no journal, stores
// nothing and sends nothing.
//
// # Which rules look at which events
//
// Every event has an event source, see [SourceOf], and a rule is about the events of one. The rules
// of a source are asked in the order of their definition. With [First] the first that fits is the
// only one that raises an alert, as in Falco; with [All] every one does. Rules with a window look
// at every event of their source, whatever the others say, because they would count wrongly
// otherwise, and keep no other rule from being asked.
package rule

import (
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Matching says how many rules may raise an alert about one event.
type Matching string

// The ways of matching.
const (
	First Matching = "first" // the first that fits, in definition order
	All   Matching = "all"   // every one that fits
)

// Options are how files are compiled. The zero value compiles rules about the events of the hub
// itself, of every priority.
type Options struct {
	// Plugins are what plugins offer. Rules may be about the event sources that they have or
	// extract from, and about [falcoevent.EventSource].
	Plugins []*sourceplugin.Description
	// Incomplete says that there are plugins that are not known yet. Rules that ask for an event
	// source or a field that there is not are no mistakes then, but wait: see [Set.Waiting]. The
	// fields of [falcoevent.EventSource] are always known.
	Incomplete bool
	// Matching is how many rules raise an alert; default [First].
	Matching Matching
	// Minimum is the least priority of rules that are loaded; nil: all are.
	Minimum *severity.Severity
	// Selections enable and disable rules, in this order.
	Selections []load.Selection
	// StrictLists leaves names of lists in quoted strings alone, where Falco replaces them.
	StrictLists bool
	// Location is that of clock times such as evt.time; default [time.Local].
	Location *time.Location
	// Hostname is what evt.hostname is; default the name of the machine.
	Hostname string
}

// Alert is what a rule says about an event, or about what its throttle held back.
type Alert struct {
	// ID is the same whenever the same rule is raised by the same events.
	ID   string
	Rule *load.Rule
	// Time is that of Event; of a summary, when the last event happened that it is about.
	Time time.Time
	// Event is the one that raised the alert, the last of those that it is about; nil for a summary.
	Event *event.Event
	// Namespace is that of Event; of a summary, the innermost one that has all events it is about.
	Namespace string
	// EventIDs are those of the events that it is about, in order; of many only the first and the
	// last ones.
	EventIDs []string
	// Count is how many events, or different values, it is about: 1 for a rule without a window.
	// Of a summary it is Suppressed.
	Count int
	// First is when the first of the events happened.
	First time.Time
	// Suppressed is how many alerts of the rule, with the same key, were held back since the last.
	Suppressed int
	// Summary says that it is only about those that were held back, because none has come since
	// that could have told it.
	Summary bool
	// Key is what the events of a window or a throttle have in common: fields and their values as
	// texts, nil for a rule without.
	Key []KeyValue
	// Output is what the rule says. A summary has no fields.
	Output string
	// Fields are the fields of the output in order, with their values as JSON: null for one that
	// the event does not have.
	Fields []Field
}

// KeyValue is a field and its value as text.
type KeyValue struct{ Name, Value string }

// Field is a field of the output of an alert.
type Field struct {
	Name string // as it is written in the output
	JSON []byte // its value
}

// AlertTypes begins the types of alerts that are events. They are judged by no rules.
const AlertTypes = severity.AlertTypes

// SourceOf returns the event source of an event: that of the plugin which it comes from, and
// [falcoevent.EventSource] for every other one. It is empty for alerts, which no rule is about.
func SourceOf(e *event.Event) string {
	rest, ok := strings.CutPrefix(e.Type, falcoevent.TypePrefix)
	switch {
	case ok:
		source, _, _ := strings.Cut(rest, "/")
		return falcoevent.Unescaped(source)
	case strings.HasPrefix(e.Type, AlertTypes):
		return ""
	}
	return falcoevent.EventSource
}
