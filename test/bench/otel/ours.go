package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/export"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
)

const batch = 512 // spans in one request, for both

// ours is what the hub does, without the journal between: lines to events, with all that
// is derived from them, events to spans, spans to the endpoint.
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
	translator := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "vault"})
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

	// As with the SDK, one goroutine sends.
	payloads, sent := make(chan export.Payload, 2), make(chan error, 1)
	go func() {
		var failed error
		for p := range payloads {
			if a := exporter.Export(context.Background(), p); failed == nil && (a.Outcome != export.Delivered || a.Rejected > 0) {
				failed = fmt.Errorf("%d spans were not delivered: %s", p.Spans, a.Reason)
			}
		}
		sent <- failed
	}()
	send := func(spans []*trace.Span) []*trace.Span {
		requests += len(spans)
		mark(spans)
		payloads <- exporter.Encode(spans)
		return spans[:0]
	}
	// As in the hub, the source makes events while the tracer works on earlier ones. A
	// record of the journal has about 200 lines.
	records := make(chan []*event.Event, 4)
	go func() {
		defer close(records)
		for part := range slices.Chunk(lines, 200) {
			events := make([]*event.Event, 0, 300)
			for _, line := range part {
				events = translator.Translate(events, line)
			}
			records <- events
		}
	}()
	spans := make([]*trace.Span, 0, 2*batch)
	for events := range records {
		for _, e := range events {
			spans = tracer.Add(spans, e, journal.Position{})
		}
		if spans = tracer.Flush(spans); len(spans) >= batch {
			spans = send(spans)
		}
	}
	if spans = tracer.Close(spans); len(spans) > 0 {
		send(spans)
	}
	close(payloads)
	return requests, <-sent
}
