package app

import (
	"fmt"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/filter"
	"github.com/tocsin-events/tocsin/internal/sink/template"
)

func (a *App) makeTemplateSink(c config.Sink) (deliver.Sink, error) {
	t := c.Template
	var secret []config.SinkHeader
	var headers []template.Header
	for _, h := range t.Headers {
		if h.Secret.IsSet() {
			secret = append(secret, h)
		} else {
			headers = append(headers, template.Header{Name: h.Name, Value: h.Value})
		}
	}
	connection, err := a.outbound(c, t.Allow, t.TLS, secret)
	if err != nil {
		return nil, err
	}
	connection.Bearer, connection.Username, connection.Password = reveal(t.BearerToken), t.Username, reveal(t.Password)
	samples, err := a.samples(c.Events)
	if err != nil {
		return nil, err
	}
	options := template.Options{
		URL: t.URL, SecretURL: reveal(t.SecretURL), Connection: connection, Headers: headers,
		Method: t.Method, Body: t.Body, Text: t.Text, RoutingKey: reveal(t.RoutingKey),
		Samples: samples, Describe: catalog.Describe,
	}
	if t.Preset != config.SinkPresetNone {
		options.Preset = template.Preset(t.Preset)
	}
	for _, k := range t.SigningKeys {
		options.SigningKeys = append(options.SigningKeys, k.Reveal)
	}
	return template.New(options)
}

// samples returns examples of the types that a sink selects. Namespaces are no matter:
// events of a type look the same in all of them. Nor are filters by fields of plugins, which
// examples have not.
func (a *App) samples(c config.SinkEvents) ([]*event.Event, error) {
	selection := filter.Selection{Types: c.Types, Pairs: c.Pairs, Filter: c.Filter}
	compiled, err := selection.CompileFields(func(string, *string) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	if len(compiled.Fields()) > 0 {
		selection.Filter = ""
	}
	selected, err := selection.Compile()
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	var list []*event.Event
	for _, e := range a.catalog.Samples() {
		if e = template.Sample(e); selected(e) {
			list = append(list, e)
		}
	}
	return list, nil
}
