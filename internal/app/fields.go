package app

import "github.com/tocsin-events/tocsin/internal/fields"

// makeFields makes what has source plugins extract fields of events, in the order of the
// configuration.
func (a *App) makeFields(sources pluginSources) {
	a.fields = fields.New(fields.Options{
		Payload:  a.payload,
		Logger:   component(a.log, "fields"),
		Registry: a.registry,
	})
	for _, s := range sources {
		a.fields.Add(s)
	}
}
