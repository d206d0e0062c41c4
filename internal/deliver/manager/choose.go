package manager

import (
	"context"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/filter"
)

// chooser selects events for a sink whose filter asks for fields of plugins.
type chooser struct {
	selected *filter.Compiled
	use      *fields.Use
}

// choose is [deliver.Options.Choose]. An event for which a field is missing waits, unless the
// plugin refuses it for good.
func (c chooser) choose(ctx context.Context, r deliver.Record, choices []deliver.Choice, last bool) error {
	view := c.use.View(ctx, r)
	for i := r.Start(); i < r.Len(); i++ {
		take := c.selected.MatchRow(r.Event(i), view.At(i))
		switch missing := view.Missing(); {
		case missing == nil:
			choices[i].Take = take
		case missing.Final || last:
			choices[i].Problem = "cannot tell whether it is for the sink: " + missing.Error()
		default:
			return missing
		}
	}
	return nil
}

// release says that the fields are not wanted any more.
func (s *sink) release() {
	if s.fields != nil {
		s.fields.Release()
	}
}
