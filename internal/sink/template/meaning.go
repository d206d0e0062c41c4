package template

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/tocsin-events/tocsin/internal/severity"
)

// What presets say of an event is found here, so that templates of one's own can say it,
// too.

// Severity is how bad it is, in the words of PagerDuty: critical, error, warning or info.
func (v *view) Severity() string {
	switch s := severity.Of(v.event); {
	case s <= severity.Critical:
		return "critical"
	case s == severity.Error:
		return "error"
	case s == severity.Warning:
		return "warning"
	}
	return "info"
}

// Resolved says that what was told before is over.
func (v *view) Resolved() bool { return severity.Resolved(v.event) }

// Subject is whom it is about: the rule of an alert, the name of a sink, or the path with
// its namespace.
func (v *view) Subject() string {
	switch {
	case strings.HasPrefix(v.Type, severity.AlertTypes):
		if rule := v.text(severity.MetadataRule); rule != "" {
			return rule
		}
		return strings.TrimPrefix(v.Type, severity.AlertTypes)
	case strings.HasPrefix(v.Type, severity.SinkTypes):
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
	if strings.HasPrefix(v.Type, severity.AlertTypes) {
		s := v.text(severity.MetadataOutput)
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
// about, so that the one that says that it is over has it, too; of a sink, for its trouble
// and the end of that; else for the type, the source and the path.
func (v *view) Key() string {
	parts := []string{v.Type, v.Source, v.Namespace, v.Path}
	if strings.HasPrefix(v.Type, severity.SinkTypes) && (v.Resolved() || severity.Of(v.event) == severity.Error) {
		parts = []string{severity.SinkTypes, v.Source, v.Subject()}
	}
	if key := v.text(severity.MetadataKey); key != "" && strings.HasPrefix(v.Type, severity.AlertTypes) {
		parts = append(parts, key)
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
	seen := map[string]bool{"path": true, "data_path": true, "operation": true, "modified": true, "display_name": true, "remote_address": true, severity.MetadataOutput: true}
	for _, f := range v.event.Metadata {
		if !seen[f.Key] && !strings.HasSuffix(f.Key, "_id") && !strings.HasSuffix(f.Key, "accessor") {
			add(f.Key, f.Value)
		}
	}
	return list
}
