// Package fliptotel carries audit events of package flipt in spans of OpenTelemetry, as Flipt
// does: an event becomes a span event named "event", with attributes under flipt.event, and an
// [Exporter] makes audit events of them again.
//
// A span that is not sampled, limits of the SDK and a full queue of a batch processor lose what is
// in spans, without a word. Where no event may be lost, give it to a [flipt.Logger] instead, which
// needs no span. Where spans must be used, give the exporter its spans with
// sdktrace.WithSyncer: [flipt.Fanout] has the queues, and a batch processor would have to share
// its own among the spans of all requests.
package fliptotel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/tocsin-events/tocsin/audit/flipt"
)

// SpanEventName is the name of the span events.
const SpanEventName = "event"

// The attributes of an event. All values are texts.
const (
	prefix = "flipt.event."

	KeyVersion   = attribute.Key(prefix + "version")
	KeyAction    = attribute.Key(prefix + "action")
	KeyType      = attribute.Key(prefix + "type")
	KeyTimestamp = attribute.Key(prefix + "timestamp")
	KeyStatus    = attribute.Key(prefix + "status")
	KeyActor     = attribute.Key(prefix + "metadata.actor") // JSON
	KeyPayload   = attribute.Key(prefix + "payload")        // JSON
)

// DecodeToAttributes returns the attributes that stand for an event: version, action, type,
// timestamp and status, those of them that are not empty; the actor, always, as JSON; and
// the payload as JSON, if there is one that can be encoded.
func DecodeToAttributes(e *flipt.Event) []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, 7)
	for _, a := range []struct {
		key   attribute.Key
		value string
	}{{KeyVersion, e.Version}, {KeyAction, e.Action}, {KeyType, e.Type}, {KeyTimestamp, e.Timestamp}, {KeyStatus, e.Status}} {
		if a.value != "" {
			all = append(all, a.key.String(a.value))
		}
	}
	if actor, err := json.Marshal(e.Metadata.Actor); err == nil {
		all = append(all, KeyActor.String(string(actor)))
	}
	if e.Payload != nil {
		if payload, err := json.Marshal(e.Payload); err == nil {
			all = append(all, KeyPayload.String(string(payload)))
		}
	}
	return all
}

// FromAttributes is the inverse of [DecodeToAttributes]. Attributes that it does not know are ignored.
// The error is [flipt.ErrNotValid] when they are no event, as those of any other span event,
// and another one when actor or payload are not JSON.
func FromAttributes(all []attribute.KeyValue) (*flipt.Event, error) {
	e := new(flipt.Event)
	for _, a := range all {
		switch text := a.Value.AsString(); a.Key {
		case KeyVersion:
			e.Version = text
		case KeyAction:
			e.Action = text
		case KeyType:
			e.Type = text
		case KeyTimestamp:
			e.Timestamp = text
		case KeyStatus:
			e.Status = text
		case KeyActor:
			if err := json.Unmarshal([]byte(text), &e.Metadata.Actor); err != nil {
				return nil, fmt.Errorf("read the actor: %w", err)
			}
		case KeyPayload:
			var err error
			if e.Payload, err = flipt.DecodePayload([]byte(text)); err != nil {
				return nil, err
			}
		}
	}
	if !e.Valid() {
		return nil, flipt.ErrNotValid
	}
	return e, nil
}

// AddToSpan adds an event to the span of ctx and reports whether that one is recorded. If it
// is not, the event is nowhere: give it to a [flipt.Logger].
func AddToSpan(ctx context.Context, e *flipt.Event) bool {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return false
	}
	span.AddEvent(SpanEventName, trace.WithAttributes(DecodeToAttributes(e)...))
	return true
}

// EventExporter is what a program needs of an exporter.
type EventExporter interface {
	sdktrace.SpanExporter
	SendAudits(ctx context.Context, events []flipt.Event) error
}

// Exporter takes the audit events out of spans and gives them to a [flipt.Sender]. It is safe
// for concurrent use.
type Exporter struct {
	to  flipt.Sender
	log *slog.Logger

	broken, dropped atomic.Uint64
	once            sync.Once
	result          error
}

// NewExporter returns an exporter. A nil logger is slog.Default.
func NewExporter(to flipt.Sender, log *slog.Logger) *Exporter {
	if log == nil {
		log = slog.Default()
	}
	return &Exporter{to: to, log: log}
}

// ExportSpans sends the audit events of all spans, in their order, at once. Other span events are
// left out. One whose actor or payload is not JSON, or that lacks a part, is left out, logged, and
// counted; the rest is sent. The error is that of the sender.
func (x *Exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	var events []flipt.Event
	for _, span := range spans {
		if n := span.DroppedEvents(); n > 0 {
			x.dropped.Add(uint64(n))
			x.log.Warn("a span has dropped events, which may have been audit events; raise its limits, or give them to a flipt.Logger", "span", span.Name(), "events", n)
		}
		for _, of := range span.Events() {
			e, err := FromAttributes(of.Attributes)
			switch {
			case err == nil:
				events = append(events, *e)
			case errors.Is(err, flipt.ErrNotValid) && !isAudit(of.Attributes):
			default:
				x.broken.Add(1)
				x.log.Error("audit event not decodable", "span", span.Name(), "error", err)
			}
		}
	}
	if len(events) == 0 {
		return nil
	}
	return x.to.SendAudits(ctx, events)
}

// isAudit reports whether a span event was meant to be an audit event.
func isAudit(all []attribute.KeyValue) bool {
	for _, a := range all {
		if strings.HasPrefix(string(a.Key), prefix) {
			return true
		}
	}
	return false
}

// SendAudits sends events that are in no span.
func (x *Exporter) SendAudits(ctx context.Context, events []flipt.Event) error {
	if len(events) == 0 {
		return nil
	}
	return x.to.SendAudits(ctx, events)
}

// Shutdown ends the sender and returns its error; a second call returns the same.
func (x *Exporter) Shutdown(ctx context.Context) error {
	x.once.Do(func() { x.result = x.to.Shutdown(ctx) })
	return x.result
}

// Lost returns how many audit events could not be read, and how many events spans have
// dropped.
func (x *Exporter) Lost() (broken, dropped uint64) { return x.broken.Load(), x.dropped.Load() }
