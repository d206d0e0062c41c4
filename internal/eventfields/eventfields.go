// Package eventfields has the fields that the hub itself knows of events, for rules: evt.* and
// event.* of all events, json.* and jevt.* of those whose payload is JSON, and audit.* of the
// entries of audit logs. A [Reader] gives their values, and with them those that plugins extract,
// event by event.
//
// # Which fields there are
//
// The event source decides: events of plugins have that of their type, all others the event source
// "tocsin". [Fields] returns the hub's own fields of an event source, and
// [Combine] adds those of plugins.
//
// # What it costs
//
// Values are made when somebody asks for them, once for each event, and without allocating. The
// payload is read once, in one pass for all that is wanted of it, however many fields that are;
// only the fields that need judgement, such as the outcome of a request, read an entry again.
package eventfields

import (
	"fmt"
	"slices"

	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// definition is a field of the hub: what it is, and how a query for it is answered.
type definition struct {
	sourceplugin.Field
	// bind prepares a query: it says what is wanted of the payload, and sets get.
	bind func(r *Reader, q *query)
}

// definitions returns those of an event source, in the order in which people read them.
func definitions(source string) []definition {
	list := slices.Concat(genericFields(), eventFields(), jsonFields())
	if source == falcoevent.EventSource {
		list = append(list, auditFields()...)
	}
	return list
}

// Fields returns the hub's own fields for the events of an event source.
func Fields(source string) []field.Field {
	var list []field.Field
	for _, d := range definitions(source) {
		list = append(list, field.Field{Field: d.Field})
	}
	return list
}

// Combine returns all fields that the events of an event source have: the hub's own, and those of
// plugins that extract from it. A field of a plugin whose name is taken is left out; the problems
// say which. A plugin without an event source and without a list of them extracts from all.
func Combine(source string, plugins ...*sourceplugin.Description) (list []field.Field, problems []error) {
	list = Fields(source)
	of := make(map[string]string, len(list))
	for _, f := range list {
		of[f.Name] = ""
	}
	for _, d := range plugins {
		if !extracts(d, source) {
			continue
		}
		for _, f := range d.Fields {
			other, taken := of[f.Name]
			switch {
			case !taken:
				of[f.Name] = d.Name
				list = append(list, field.Field{Field: f, Of: d.Name})
			case other == "":
				problems = append(problems, fmt.Errorf("the field %s of the plugin %s is not used: the hub has a field of this name", f.Name, d.Name))
			case other != d.Name:
				problems = append(problems, fmt.Errorf("the field %s of the plugin %s is not used: the plugin %s has a field of this name", f.Name, d.Name, other))
			}
		}
	}
	return list, problems
}

// extracts says whether a plugin extracts from the events of an event source.
func extracts(d *sourceplugin.Description, source string) bool {
	switch {
	case d == nil || !d.Capabilities.Extract:
		return false
	case len(d.ExtractSources) > 0:
		return slices.Contains(d.ExtractSources, source)
	}
	return d.EventSource == "" || d.EventSource == source
}
