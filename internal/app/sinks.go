package app

import (
	"context"
	"fmt"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
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

// Reopen makes sinks begin anew what they write to, for somebody who has moved files away.
func (a *App) Reopen() {
	a.log.Info("Reopening what sinks write to.")
	a.sinks.Reopen()
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
func (a *App) makeSink(c config.Sink) (deliver.Sink, error) {
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
		return a.makeKafkaSink(c)
	case config.SinkTypeNATS:
		return a.makeNATSSink(c)
	case config.SinkTypeOTLPLogs:
		return a.makeOTLPLogsSink(c)
	}
	return nil, fmt.Errorf("unknown type %q", c.Type)
}
