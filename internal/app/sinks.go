package app

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/outbound"
)

// openSinks makes the sinks of the configuration, and those that were added at run time.
func (a *App) openSinks(ctx context.Context) (err error) {
	a.sinks, err = manager.Open(ctx, manager.Options{
		Journal:  a.journal,
		DataDir:  a.config.DataDir,
		Delivery: a.config.Delivery,
		Sinks:    a.config.Sinks,
		Make:     a.makeSink,
		Sample:   a.sampleEvent,
		Fields:   a.fields,
		Node:     nodeName(a.config.Node),
		Record:   a.trail.Record,
		Health:   &a.health,
		Registry: a.registry,
		Logger:   component(a.log, "sinks"),
	})
	return err
}

func (a *App) stopSinks(ctx context.Context) error {
	if a.sinks == nil {
		return nil
	}
	return a.sinks.Stop(ctx)
}

// Reopen makes sinks begin anew what they write to, for somebody who has moved files away, and
// loads the rules anew, for somebody who has changed them.
func (a *App) Reopen() {
	a.log.Info("Reopening what sinks write to.")
	a.sinks.Reopen()
	a.rules.reload(a)
}

// sampleEvent returns the example of an event type that is known to the hub.
func (a *App) sampleEvent(eventType string) (*event.Event, bool) {
	t, ok := a.catalog.Lookup(eventType, func(string) bool { return true })
	if !ok || t.Example == nil {
		return nil, false
	}
	e, err := event.ParseCloudEvent(t.Example)
	return e, err == nil
}

// makeSink makes a sink of its description. It reads files, but does not connect.
//
// Webhooks and templates send to what delivery.allow says, whoever defines them; brokers,
// servers and collectors are inside mostly, so that where the configuration file has them is
// good enough. Who adds one while the hub runs gets no further with these than with those.
func (a *App) makeSink(c config.Sink, origin manager.Origin) (deliver.Sink, error) {
	switch c.Type {
	case config.SinkTypeFile:
		return a.makeFileSink(c)
	case config.SinkTypeStdout:
		return a.makeStdoutSink(c)
	case config.SinkTypeWebhook:
		return a.makeWebhookSink(c)
	case config.SinkTypeTemplate:
		return a.makeTemplateSink(c)
	case config.SinkTypeKafka:
		return a.makeKafkaSink(c, origin)
	case config.SinkTypeNATS:
		return a.makeNATSSink(c, origin)
	case config.SinkTypeOTLPLogs:
		return a.makeOTLPLogsSink(c, origin)
	}
	return nil, fmt.Errorf("unknown type %q", c.Type)
}

// guard returns what decides where a sink of an origin may connect to that does not send with
// package outbound; nil: to wherever it wants.
func (a *App) guard(origin manager.Origin) (*outbound.Guard, error) {
	if origin == manager.File {
		return nil, nil
	}
	guard, err := outbound.NewGuard(a.config.Delivery.Allow...)
	if err != nil {
		return nil, fmt.Errorf("allow: %w", err)
	}
	return guard, nil
}

// checkHost says what can be said about the host of a URL without looking it up.
func checkHost(guard *outbound.Guard, text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("is not a URL")
	}
	return guard.CheckHost(u.Hostname())
}
