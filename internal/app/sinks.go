package app

import (
	"fmt"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

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
