// Package severity says how bad it is what an event tells, for sinks whose receivers want to
// know. Alerts say so themselves; of other events the type and the metadata are looked at.
package severity

import (
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

// Severity is one of syslog (RFC 5424 section 6.2.1): the lower, the worse.
type Severity int

// The severities.
const (
	Emergency Severity = iota
	Alert
	Critical
	Error
	Warning
	Notice
	Informational
	Debug
)

// String returns the name, as rules have it as their priority.
func (s Severity) String() string {
	names := [...]string{"Emergency", "Alert", "Critical", "Error", "Warning", "Notice", "Informational", "Debug"}
	if s >= 0 && int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// Number returns the severity number of OpenTelemetry's data model of logs, which is also that of
// the severity extension of CloudEvents, and its short name.
func (s Severity) Number() (int, string) {
	switch s {
	case Emergency:
		return 21, "FATAL"
	case Alert:
		return 19, "ERROR3"
	case Critical:
		return 18, "ERROR2"
	case Error:
		return 17, "ERROR"
	case Warning:
		return 13, "WARN"
	case Notice:
		return 10, "INFO2"
	case Debug:
		return 5, "DEBUG"
	}
	return 9, "INFO"
}

// Types of events that have a meaning here.
const (
	AlertTypes = "alert/"       // of alerts
	SinkTypes  = "tocsin/sink-" // of the hub's own about sinks
)

// Keys of the metadata of alerts. The names are those of Falco.
const (
	MetadataPriority = "priority" // the name of a severity
	MetadataRule     = "rule"     // its name
	MetadataOutput   = "output"   // what has happened, for people
	MetadataKey      = "key"      // whom the alert is about, if the rule tells them apart
	MetadataState    = "state"    // "resolved" when it is over
)

// Of returns the severity of an event.
//
//   - An alert has that of its priority, or else is a warning.
//   - An event about a sink of the hub that does not deliver is an error.
//   - What tells that something was refused, has failed or was lost is a warning.
//   - Everything else is informational.
func Of(e *event.Event) Severity {
	switch {
	case strings.HasPrefix(e.Type, AlertTypes):
		return parse(text(e, MetadataPriority))
	case strings.HasPrefix(e.Type, SinkTypes):
		switch strings.TrimPrefix(e.Type, SinkTypes) {
		case "failing", "disabled", "full", "gap":
			return Error
		}
		return Informational
	case says(e, "fail", "denied", "refused", "lost", "quarantined", "crash", "rate-limited"),
		text(e, "outcome") == "refused", text(e, "status") == "denied":
		return Warning
	}
	return Informational
}

// Resolved says that what was told before is over.
func Resolved(e *event.Event) bool {
	switch {
	case strings.HasPrefix(e.Type, AlertTypes):
		return text(e, MetadataState) == "resolved"
	case strings.HasPrefix(e.Type, SinkTypes):
		what := strings.TrimPrefix(e.Type, SinkTypes)
		return what == "recovered" || what == "resumed"
	}
	return false
}

// parse reads the priority of an alert. The names of other systems are known, too.
func parse(priority string) Severity {
	switch strings.ToLower(priority) {
	case "emergency", "emerg", "fatal":
		return Emergency
	case "alert":
		return Alert
	case "critical", "crit", "high":
		return Critical
	case "error", "err":
		return Error
	case "notice", "low":
		return Notice
	case "informational", "info":
		return Informational
	case "debug":
		return Debug
	}
	return Warning
}

// says says whether one of the words is in the type, behind its first part.
func says(e *event.Event, words ...string) bool {
	_, what, _ := strings.Cut(e.Type, "/")
	for _, w := range words {
		if strings.Contains(what, w) {
			return true
		}
	}
	return false
}

func text(e *event.Event, key string) string {
	s, _ := e.Metadata.Text(key)
	return s
}
