package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/export"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
)

const batch = 512 // spans in one request, for both

// ours is what the hub does with entries, without the journal and the derivation of
// notifications, which the other pipeline does not have: parse lines, pair entries, send
// spans.
func ours(url string, lines [][]byte) (requests int, err error) {
	return pipeline(url, lines, func([]*trace.Span) {})
}

// oursMarked marks the spans that the other pipeline does not make.
func oursMarked(url string, lines [][]byte) (requests int, err error) {
	return pipeline(url, lines, func(spans []*trace.Span) {
		for _, s := range spans {
			if s.Kind != trace.Complete {
				s.Attributes = append(s.Attributes, trace.Attribute{Key: "tocsin.single", Value: trace.BoolValue(true)})
			}
		}
	})
}

func pipeline(url string, lines [][]byte, mark func([]*trace.Span)) (requests int, err error) {
	tracer, err := trace.NewTracer(trace.Options{
		// What the other pipeline does not know, or has in another way.
		Names:      []trace.NameRule{{Path: "{path...}", Name: "{path}"}},
		MaxNames:   1 << 20,
		Attributes: trace.AttributeOptions{Deny: []string{"tocsin.audit.ids", "tocsin.event.ids", "tocsin.incomplete"}},
	})
	if err != nil {
		return 0, err
	}
	exporter, err := export.NewOTLPHTTP(export.Connection{URL: url, Timeout: 10 * time.Second}, export.Protobuf, otlp.Options{Version: "bench"})
	if err != nil {
		return 0, err
	}
	defer exporter.Close()

	// As with the SDK, another goroutine encodes and sends.
	batches, sent := make(chan []*trace.Span, 4), make(chan error, 1)
	go func() {
		var failed error
		for spans := range batches {
			if a := exporter.Export(context.Background(), exporter.Encode(spans)); failed == nil && (a.Outcome != export.Delivered || a.Rejected > 0) {
				failed = fmt.Errorf("%d spans were not delivered: %s", len(spans), a.Reason)
			}
		}
		sent <- failed
	}()
	send := func(spans []*trace.Span) []*trace.Span {
		requests += len(spans)
		mark(spans)
		batches <- spans
		return make([]*trace.Span, 0, 2*batch)
	}
	spans := make([]*trace.Span, 0, 2*batch)
	var parser auditlog.Parser
	for i, line := range lines {
		e, err := parser.Parse(line)
		if err != nil {
			return 0, err
		}
		spans = tracer.AddEntry(spans, "vault://vault", e)
		if i%200 == 199 { // about a record of the journal
			spans = tracer.Flush(spans)
		}
		if len(spans) >= batch {
			spans = send(spans)
		}
	}
	if spans = tracer.Close(spans); len(spans) > 0 {
		send(spans)
	}
	close(batches)
	return requests, <-sent
}
