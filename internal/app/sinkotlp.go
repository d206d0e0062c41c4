package app

import (
	"fmt"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/sink/otlplogs"
	"github.com/tocsin-events/tocsin/internal/telemetry"
)

func (a *App) makeOTLPLogsSink(c config.Sink, origin manager.Origin) (deliver.Sink, error) {
	o := c.OTLPLogs
	options := otlplogs.Options{
		URL: o.URL, Gzip: o.Compression == "gzip", Timeout: time.Duration(c.Timeout), Version: a.version,
		TLS:      otlplogs.TLS{CA: reveal(o.TLS.CA), Cert: reveal(o.TLS.Cert), Key: reveal(o.TLS.Key), ServerName: o.TLS.ServerName},
		Resource: o.Resource,
	}
	guard, err := a.guard(origin)
	if err != nil {
		return nil, err
	}
	if guard != nil {
		if err := checkHost(guard, o.URL); err != nil {
			return nil, fmt.Errorf("url: %w", err)
		}
		options.Dial = guard.DialContext
	}
	switch {
	case o.Protocol == config.OTLPOverGRPC:
		options.Protocol = otlplogs.GRPC
	case o.Encoding == "json":
		options.Protocol = otlplogs.HTTPJSON
	default:
		options.Protocol = otlplogs.HTTP
	}
	for _, h := range o.Headers {
		if h.Secret.IsSet() {
			options.Headers = append(options.Headers, telemetry.Header{Name: h.Name, Value: h.Secret.Reveal})
		} else {
			options.Headers = append(options.Headers, telemetry.Fixed(h.Name, h.Value))
		}
	}
	return otlplogs.New(options)
}
