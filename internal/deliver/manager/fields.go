package manager

import (
	"context"
	"errors"
	"strings"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/filter"
)

// errNoFields is why a filter cannot have fields of plugins.
var errNoFields = errors.New("fields of plugins cannot be used here")

// checkField says what is wrong with a field. Of plugins that have not been started yet nothing is
// known; when it is, chooser says it.
func (m *Manager) checkField(field string) error {
	if m.o.Fields == nil {
		return errNoFields
	}
	if err := m.o.Fields.Check(field); err != nil && !errors.Is(err, fields.ErrNotYet) {
		return err
	}
	return nil
}

// chooser chooses events by fields that plugins extract of them.
type chooser struct {
	registry *fields.Registry
	selected *filter.Compiled
	use      *fields.Use
}

// newChooser returns nil if no fields are asked for. The error is about the definition.
func (m *Manager) newChooser(selected *filter.Compiled) (*chooser, error) {
	names := selected.Fields()
	if len(names) == 0 {
		return nil, nil
	}
	use, err := m.o.Fields.Use(names...)
	if err != nil {
		return nil, err
	}
	return &chooser{m.o.Fields, selected, use}, nil
}

// choose is the Choose of a delivery.
func (c *chooser) choose(ctx context.Context, r deliver.Record, choices []deliver.Choice) {
	row := chooserRow{chooser: c, view: c.use.View(ctx, r)}
	for i := r.Start(); i < r.Len(); i++ {
		row.event, row.problem = r.Event(i), nil
		row.view.At(i)
		choice := &choices[i]
		choice.Take = c.selected.MatchRow(row.event, &row)
		if m := row.view.Missing(); m != nil {
			choice.Problem, choice.Final = m.Error(), m.Final
		}
		if row.problem != nil {
			choice.Problem, choice.Final = row.problem.Error(), false
		}
	}
}

// problem returns what is wrong with the fields, as far as that is known now.
func (c *chooser) problem() error {
	for _, name := range c.use.Names() {
		if err := c.registry.Check(name); err != nil && !errors.Is(err, fields.ErrNotYet) {
			return err
		}
	}
	return nil
}

func (c *chooser) release() {
	if c != nil {
		c.use.Release()
	}
}

// chooserRow has the fields of one event, and notes whether they were asked for although there are
// no such fields.
type chooserRow struct {
	*chooser
	view    *fields.View
	event   *event.Event
	problem error
	checked bool
	wrong   error // what is wrong with the fields, if it was checked
}

// Texts implements [filter.Row].
func (r *chooserRow) Texts(field int) (texts []string, list bool) {
	if !strings.HasPrefix(r.event.Type, falcoevent.TypePrefix) {
		return nil, false
	}
	if !r.checked {
		r.wrong, r.checked = r.chooser.problem(), true
	}
	if r.wrong != nil {
		r.problem = r.wrong
		return nil, false
	}
	return r.view.Texts(field)
}
