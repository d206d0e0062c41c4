package app

import (
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/delivery"
	"github.com/tocsin-events/tocsin/internal/trace/export"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
)

// traces are the exporters of an app.
type traces struct {
	all     delivery.Collector
	cancel  context.CancelFunc // nil before start
	running sync.WaitGroup
}

// makeTraces makes the exporters of the configuration, and a health check for each: one
// whose receiver is down is red, and keeps nothing else from working.
func (a *App) makeTraces(common *metrics.Metrics, version string, stdout io.Writer) error {
	c := a.config.Traces
	if len(c.Exporters) == 0 {
		return nil
	}
	options, err := tracerOptions(c)
	if err != nil {
		return err
	}
	options.Fetch = a.fetchEntry
	encoding := otlp.Options{Version: version}
	for _, name := range slices.Sorted(maps.Keys(c.Resource)) {
		encoding.Resource = append(encoding.Resource, trace.Attribute{Key: name, Value: trace.Value{Kind: trace.Text, Text: c.Resource[name]}})
	}
	for i, e := range c.Exporters {
		exporter, err := makeExporter(e, encoding, stdout)
		if err != nil {
			return fmt.Errorf("traces.exporters[%d] (%s): %w", i, e.Name, err)
		}
		d := delivery.New(delivery.Config{
			Name:     e.Name,
			Exporter: exporter,
			Tracer: func(p trace.Progress) (delivery.Tracer, error) {
				o := options
				o.Resume = p
				return trace.NewTracer(o)
			},
			Sampling: delivery.Sampling{
				Ratio: float64(e.Sample), Errors: e.KeepErrors, Slow: time.Duration(e.KeepSlow), Caller: e.FollowCaller,
			},
			From:     delivery.From(e.From),
			MaxSpans: e.Batch.Spans,
			MaxBytes: int(e.Batch.Bytes),
			MaxDelay: time.Duration(e.Batch.Delay),
			InFlight: e.InFlight,
		}, delivery.Deps{Journal: a.journal, Metrics: common, Logger: component(a.log, "traces")})
		a.traces.all = append(a.traces.all, d)
		a.health.Register("exporter "+e.Name, health.Degradation, d.Health)
	}
	a.registry.MustRegister(a.traces.all)
	return nil
}

// start runs all exporters until stop.
func (t *traces) start(a *App) {
	var ctx context.Context
	ctx, t.cancel = context.WithCancel(context.Background())
	for _, d := range t.all {
		t.running.Go(func() {
			if err := d.Run(ctx); err != nil {
				component(a.log, "traces").Error("The exporter has ended.", "exporter", d.Name(), "error", err)
			}
		})
	}
}

// stop sends what was read, ends the exporters, and waits. They bound that themselves.
func (t *traces) stop(context.Context) error {
	if t.cancel != nil {
		t.cancel()
		t.running.Wait()
	}
	return nil
}

// tracerOptions returns what all exporters have in common.
func tracerOptions(c config.Traces) (trace.Options, error) {
	o := trace.Options{
		Window:   time.Duration(c.Window),
		MaxBytes: int64(c.MemoryBytes),
		MaxNames: c.MaxNames,
		Attributes: trace.AttributeOptions{
			Allow: c.Attributes.Allow, Deny: c.Attributes.Deny,
			MaxText: int(c.Attributes.MaxText), MaxElements: c.Attributes.MaxElements, MaxAttributes: c.Attributes.MaxCount,
			OmitHashed: c.Attributes.OmitHashed,
		},
	}
	for _, n := range c.Names {
		o.Names = append(o.Names, trace.NameRule{Path: n.Path, Name: n.Name})
	}
	for _, r := range c.Redact {
		pattern, err := regexp.Compile(r.Pattern)
		if err != nil {
			return o, fmt.Errorf("traces.redact: %w", err)
		}
		o.Redactions = append(o.Redactions, trace.Redaction{Key: r.Attribute, Pattern: pattern, Replace: r.Replace})
	}
	if _, err := trace.NewTracer(o); err != nil {
		return o, fmt.Errorf("traces: %w", err)
	}
	return o, nil
}

// makeExporter makes one exporter. It reads files, but does not connect.
func makeExporter(c config.TraceExporter, o otlp.Options, stdout io.Writer) (export.Exporter, error) {
	if c.Type == config.TraceStdout {
		return export.NewWriter(stdout, export.Form(c.Format), o), nil
	}
	settings, err := export.TLS{
		CAFile: c.TLS.CAFile, CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile, ServerName: c.TLS.ServerName,
	}.Config()
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	connection := export.Connection{
		URL:       c.URL,
		Proxy:     c.ProxyURL,
		TLS:       settings,
		Gzip:      c.Compression == "gzip",
		Timeout:   time.Duration(c.Timeout),
		UserAgent: strings.TrimSuffix("tocsin/"+o.Version, "/"),
	}
	for _, h := range c.Headers {
		if !h.Secret.IsSet() {
			connection.Headers = append(connection.Headers, export.Fixed(h.Name, h.Value))
			continue
		}
		if _, err := h.Secret.Reveal(); err != nil {
			return nil, fmt.Errorf("header %s: %w", h.Name, err)
		}
		connection.Headers = append(connection.Headers, export.Header{Name: h.Name, Value: h.Secret.Reveal})
	}
	switch c.Type {
	case config.TraceOTLPGRPC:
		return export.NewOTLPGRPC(connection, o)
	case config.TraceOTLPHTTP:
		return export.NewOTLPHTTP(connection, export.Encoding(c.Encoding), o)
	case config.TraceZipkin:
		return export.NewZipkin(connection)
	case config.TraceHoneycomb:
		return export.NewHoneycomb(connection, export.Honeycomb{Key: c.APIKey.Reveal, Dataset: c.Dataset, EU: c.Region == "eu"}, o)
	}
	return nil, fmt.Errorf("unknown type %q", c.Type)
}

// fetchTimeout bounds how long the bytes of one large audit entry are waited for.
const fetchTimeout = 5 * time.Second

// fetchEntry reads the bytes of an audit entry that was too large for an event.
func (a *App) fetchEntry(e *event.Event) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	return a.payload(ctx, e.DataRef)
}
