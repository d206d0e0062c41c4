package plugin

import (
	"fmt"
	"slices"
	"sync"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Claims knows what the plugins of a hub call themselves and give, so that none is taken for
// another: by its id, its name, or its fields. One plugin may be that of several sources. The zero
// value is ready.
type Claims struct {
	mu  sync.Mutex
	all []claim // in the order in which the sources came
}

// claim is what the plugin of a source has said of itself. It stays while the plugin does not run.
type claim struct {
	source string
	about  *sourceplugin.Description
}

// take makes a plugin that of a source, instead of the one that it had. It returns why that cannot
// be, for people, and "" if it can.
func (c *Claims) take(source string, d *sourceplugin.Description) (problem string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own := -1
	for i, other := range c.all {
		if other.source == source {
			own = i
			continue
		}
		if problem := conflict(d, other.about); problem != "" {
			return fmt.Sprintf("%s; that one is already the plugin of the source %q, so remove one of the two from plugins.sources", problem, other.source)
		}
	}
	if own < 0 {
		own = len(c.all)
		c.all = append(c.all, claim{source: source})
	}
	c.all[own].about = d
	return ""
}

// conflict returns why two plugins cannot be in one hub; "" if they can.
func conflict(d, other *sourceplugin.Description) string {
	sameID, sameName := d.ID == other.ID && d.ID != 0, d.Name == other.Name
	same := sameName && d.ID == other.ID && d.EventSource == other.EventSource
	switch {
	case same:
	case sameID:
		return fmt.Sprintf("the plugin %q has the id %d, and so has the plugin %q: each plugin needs an id of its own", clean(d.Name, maxName), d.ID, clean(other.Name, maxName))
	case sameName:
		return fmt.Sprintf("there are two plugins %q: this one has the id %d and the event source %q, the other one the id %d and the event source %q",
			clean(d.Name, maxName), d.ID, clean(d.EventSource, maxName), other.ID, clean(other.EventSource, maxName))
	}
	if !d.Capabilities.Extract || !other.Capabilities.Extract || !meet(d, other) {
		return ""
	}
	// Variants of a plugin share their event source and their fields. An event is shown to the one
	// that it came from, so both may have a field if it is the same one.
	variants := same || d.EventSource != "" && d.EventSource == other.EventSource
	theirs := make(map[string]*sourceplugin.Field, len(other.Fields))
	for i := range other.Fields {
		theirs[other.Fields[i].Name] = &other.Fields[i]
	}
	for i := range d.Fields {
		f, name := theirs[d.Fields[i].Name], clean(d.Fields[i].Name, maxName)
		switch {
		case f == nil:
		case !variants:
			return fmt.Sprintf("the plugin %q extracts the field %s from events that the plugin %q extracts it from, too", clean(d.Name, maxName), name, clean(other.Name, maxName))
		case f.Type != d.Fields[i].Type || f.List != d.Fields[i].List || f.Arg != d.Fields[i].Arg:
			return fmt.Sprintf("the field %s of the plugin %q has another type or argument than that of the plugin %q, for events of the same source", name, clean(d.Name, maxName), clean(other.Name, maxName))
		}
	}
	return ""
}

// meet says whether there may be events that two plugins extract from.
func meet(a, b *sourceplugin.Description) bool {
	from := func(d *sourceplugin.Description) []string {
		if len(d.ExtractSources) == 0 && d.EventSource != "" {
			return []string{d.EventSource}
		}
		return d.ExtractSources
	}
	ofA, ofB := from(a), from(b)
	return len(ofA) == 0 || len(ofB) == 0 || slices.ContainsFunc(ofA, func(source string) bool { return slices.Contains(ofB, source) })
}
