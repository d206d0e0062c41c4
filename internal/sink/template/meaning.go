package template

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// What presets say of an event is found here, so that templates of one's own can say it,
// too.

// Prefixes of the types of events that have a meaning of their own.
const (
	alertPrefix = "alert/"
	sinkPrefix  = "tocsin/sink-"
)

// Keys of the metadata of alerts. The names are those of Falco.
const (
	metadataPriority = "priority" // of syslog and Falco: "Critical"
	metadataRule     = "rule"
	metadataOutput   = "output" // what has happened, for people
	metadataState    = "state"  // "resolved" when it is over
)

// The severities, which are those of PagerDuty.
const (
	severityCritical = "critical"
	severityError    = "error"
	severityWarning  = "warning"
	severityInfo     = "info"
)

// Severity is how bad it is: critical, error, warning or info. Alerts have it from their
// priority. Of other events, those that tell that something was refused or has failed are
// a warning, and those about a sink that does not deliver are an error.
func (v *view) Severity() string {
	priority := strings.ToLower(v.text(metadataPriority))
	switch {
	case strings.HasPrefix(v.Type, alertPrefix):
	case strings.HasPrefix(v.Type, sinkPrefix):
		if v.Resolved() || !hasWord(v.Type, "fail", "dead", "disabled", "stopped", "full", "lost", "gap", "gone", "stuck", "open") {
			return severityInfo
		}
		return severityError
	case hasWord(v.Type, "fail", "denied", "refused", "lost", "quarantined", "crash", "rate-limited"), v.text("outcome") == "refused", v.text("status") == "denied":
		return severityWarning
	default:
		return severityInfo
	}
	switch priority {
	case "emergency", "alert", "critical", "fatal", "high":
		return severityCritical
	case "error":
		return severityError
	case "warning", "warn", "medium", "":
		return severityWarning
	}
	return severityInfo // notice, informational, info, debug, low
}

func hasWord(eventType string, words ...string) bool {
	_, what, _ := strings.Cut(eventType, "/")
	for _, w := range words {
		if strings.Contains(what, w) {
			return true
		}
	}
	return false
}

// Resolved says that what was told before is over.
func (v *view) Resolved() bool {
	switch {
	case strings.HasPrefix(v.Type, alertPrefix):
		return v.text(metadataState) == "resolved"
	case strings.HasPrefix(v.Type, sinkPrefix):
		return hasWord(v.Type, "recovered", "resumed", "works", "enabled", "started", "closed")
	}
	return false
}

// Subject is whom it is about: the rule of an alert, the name of a sink, or the path with
// its namespace.
func (v *view) Subject() string {
	switch {
	case strings.HasPrefix(v.Type, alertPrefix):
		if rule := v.text(metadataRule); rule != "" {
			return rule
		}
		return strings.TrimPrefix(v.Type, alertPrefix)
	case strings.HasPrefix(v.Type, sinkPrefix):
		for _, key := range []string{"sink", "name"} {
			if name := v.text(key); name != "" {
				return name
			}
		}
	}
	if v.Path == "" {
		return v.Source
	}
	return v.Namespace + v.Path
}

// Actor is who did it, "" if that is not told.
func (v *view) Actor() string {
	for _, key := range []string{"display_name", "email", "entity_id", "accessor", "remote_address"} {
		if s := v.text(key); s != "" {
			return s
		}
	}
	return ""
}

// Summary is one line that tells what has happened.
func (v *view) Summary() string {
	if strings.HasPrefix(v.Type, alertPrefix) {
		s := v.text(metadataOutput)
		if s == "" {
			s = v.Subject()
		}
		if v.Resolved() {
			s = "Resolved: " + s
		}
		return oneLine(s)
	}
	s := v.Type + " " + v.Subject()
	if actor := v.Actor(); actor != "" {
		s += " by " + actor
	}
	for _, key := range []string{"error", "reason"} {
		if why := v.text(key); why != "" {
			s += ": " + why
			break
		}
	}
	return oneLine(s)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Description says what events of the type mean, "" if that is not known.
func (v *view) Description() string {
	if v.describe == nil {
		return ""
	}
	return v.describe(v.Type)
}

// Key is the same for all events about one thing: of an alert, for its rule and whom it is
// about, so that the one that says that it is over has it, too; of a sink, for the sink;
// else for the type, the source and the path.
func (v *view) Key() string {
	parts := []string{v.Type, v.Source, v.Namespace, v.Path}
	if strings.HasPrefix(v.Type, sinkPrefix) {
		parts = []string{sinkPrefix, v.Source, v.Subject()}
	}
	h := sha256.New()
	for _, p := range parts {
		h.Write(append([]byte(p), 0))
	}
	return "tocsin-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// Facts are what there is to know, for people: name and value of each, in an order that
// does not change.
func (v *view) Facts() []any {
	var list []any
	add := func(name, value string) {
		if value != "" {
			list = append(list, map[string]any{"Name": name, "Value": value})
		}
	}
	add("Path", v.Path)
	add("Namespace", v.Namespace)
	add("Source", v.Source)
	add("By", v.Actor())
	add("From", v.text("remote_address"))
	seen := map[string]bool{"path": true, "data_path": true, "operation": true, "modified": true, "display_name": true, "remote_address": true, metadataOutput: true}
	for _, f := range v.event.Metadata {
		if !seen[f.Key] && !strings.HasSuffix(f.Key, "_id") && !strings.HasSuffix(f.Key, "accessor") {
			add(f.Key, f.Value)
		}
	}
	return list
}
