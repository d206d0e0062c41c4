package eventfields

import (
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Listed is a field as people, and programs, are told about it.
type Listed struct {
	Name string `json:"name"`
	Type string `json:"type"` // of an element
	List bool   `json:"list"`
	// Usage is how it is written: NAME, NAME[KEY] and the like, with "?" behind an argument that
	// may be left out.
	Usage    string    `json:"usage"`
	Argument *Argument `json:"argument,omitempty"`
	// Sources are the event sources whose events may have it; none: all.
	Sources     []string `json:"sources,omitempty"`
	Plugin      string   `json:"plugin,omitempty"` // empty: the hub itself
	Description string   `json:"description"`
}

// Argument says what may be in the brackets behind the name of a field.
type Argument struct {
	Required bool `json:"required"`
	Key      bool `json:"key"`
	Index    bool `json:"index"`
}

// List returns the fields that rules may ask for: the hub's own, and those of plugins. With an
// event source, only those that its events may have. The problems are those of [Combine].
func List(source string, plugins ...*sourceplugin.Description) (list []Listed, problems []string) {
	sources := []string{falcoevent.EventSource}
	if source != "" {
		sources = []string{source}
	} else {
		for _, d := range plugins {
			if d.EventSource != "" {
				sources = append(sources, d.EventSource)
			}
			if d.Capabilities.Extract {
				sources = append(sources, d.ExtractSources...)
			}
		}
	}
	ofAll := make(map[string]bool)
	for _, d := range definitions("") {
		ofAll[d.Name] = true
	}
	places := make(map[string]int) // of a name and a plugin
	done := make(map[string]bool)
	for _, source := range sources {
		if done[source] {
			continue
		}
		done[source] = true
		fields, wrong := Combine(source, plugins...)
		for _, err := range wrong {
			if !slices.Contains(problems, err.Error()) {
				problems = append(problems, err.Error())
			}
		}
		for i := range fields {
			f := &fields[i]
			all := f.Of == "" && ofAll[f.Name] || f.Of != "" && extractsAll(f.Of, plugins)
			key := f.Of + "\x00" + f.Name
			at, ok := places[key]
			if !ok {
				at = len(list)
				places[key] = at
				list = append(list, listed(&f.Field, f.Of))
			}
			if !all {
				list[at].Sources = append(list[at].Sources, source)
			}
		}
	}
	return list, problems
}

// extractsAll says whether a plugin extracts from the events of all event sources.
func extractsAll(name string, plugins []*sourceplugin.Description) bool {
	return slices.ContainsFunc(plugins, func(d *sourceplugin.Description) bool {
		return d.Name == name && d.EventSource == "" && len(d.ExtractSources) == 0
	})
}

func listed(f *sourceplugin.Field, plugin string) Listed {
	l := Listed{
		Name: f.Name, Type: strings.TrimPrefix(fieldtext.TypeName(f), "list of "), List: f.List, Usage: fieldtext.Usage(f),
		Plugin: plugin, Description: f.Description,
	}
	if f.Arg.Key || f.Arg.Index {
		l.Argument = &Argument{f.Arg.Required, f.Arg.Key, f.Arg.Index}
	}
	return l
}
