package hub

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/filter"
)

// Bounds of what a subscription may ask for.
const (
	MaxTypeBytes       = 256
	MaxNamespaces      = 64
	MaxNamespacesBytes = 4096
)

// ErrSelection is wrapped by the errors of selections that exceed a bound.
var ErrSelection = errors.New("selection exceeds a bound")

// Selection says which events a subscription is about.
type Selection struct {
	// Type is a glob over event types, in the sense of [event.Glob].
	Type string
	// Namespaces are globs over namespaces without slashes at their ends, as
	// [Namespaces] makes them; "" is the root namespace. Without any, nothing is
	// selected.
	Namespaces []string
	// Filter further restricts the events; nil does not.
	Filter *filter.Filter
}

// Namespaces returns the globs that a request in the namespace request with these
// relative globs asks for: the namespace itself, and each glob below it. Slashes
// at the ends do not matter, and ".." does not lead out of the namespace.
func Namespaces(request string, relative []string) []string {
	request = strings.Trim(request, "/")
	globs := []string{request}
	for _, glob := range relative {
		if glob != "" {
			glob = path.Join(request, path.Clean("/"+glob))
			globs = append(globs, strings.Trim(glob, "/"))
		}
	}
	slices.Sort(globs)
	return slices.Compact(globs)
}

func (s *Selection) check() error {
	total := 0
	for _, ns := range s.Namespaces {
		total += len(ns)
	}
	switch {
	case len(s.Type) > MaxTypeBytes:
		return fmt.Errorf("%w: the event type has %d bytes, at most %d are allowed", ErrSelection, len(s.Type), MaxTypeBytes)
	case len(s.Namespaces) > MaxNamespaces:
		return fmt.Errorf("%w: %d namespaces, at most %d are allowed", ErrSelection, len(s.Namespaces), MaxNamespaces)
	case total > MaxNamespacesBytes:
		return fmt.Errorf("%w: the namespaces have %d bytes, at most %d are allowed", ErrSelection, total, MaxNamespacesBytes)
	}
	return nil
}

// matcher is a selection made ready.
type matcher struct {
	types      event.Glob
	namespaces []event.Glob
	filter     *filter.Filter
	allow      func(*event.Event) bool // nil allows everything
}

func newMatcher(s Selection, allow func(*event.Event) bool) matcher {
	m := matcher{types: event.CompileGlob(s.Type), filter: s.Filter, allow: allow}
	for _, ns := range s.Namespaces {
		m.namespaces = append(m.namespaces, event.CompileGlob(ns))
	}
	return m
}

func (m *matcher) match(e *event.Event) bool {
	return m.types.Match(e.Type) && m.inNamespace(strings.TrimSuffix(e.Namespace, "/")) &&
		m.filter.Match(e) && (m.allow == nil || m.allow(e))
}

// matchRow is match with the fields of the event. What needs none of them is decided first,
// also whether the viewer may see the event.
func (m *matcher) matchRow(e *event.Event, row filter.Row) bool {
	return m.types.Match(e.Type) && m.inNamespace(strings.TrimSuffix(e.Namespace, "/")) &&
		(m.allow == nil || m.allow(e)) && m.filter.MatchRow(e, row)
}

func (m *matcher) inNamespace(ns string) bool {
	for i := range m.namespaces {
		if m.namespaces[i].Match(ns) {
			return true
		}
	}
	return false
}

// key tells selections apart that select differently. Quoting keeps bytes that a
// client chose from making two selections look the same.
func (s *Selection) key() string {
	return fmt.Sprintf("%q %q %q", s.Type, s.Namespaces, s.Filter.String())
}
