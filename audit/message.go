package audit

import (
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

// The metadata of the events that sinks and hubs get. Those of [Event.Metadata] with other
// names are there, too.
const (
	metaService   = "service"
	metaOutcome   = "outcome"
	metaReason    = "reason"
	metaActor     = "actor" // name, or else id
	metaActorID   = "actor_id"
	metaAddress   = "remote_address"
	metaRequest   = "request_id"
	metaTargetID  = "target_id"
	metaTarget    = "target_type"
	contentType   = "application/json"
	maxMetaText   = 256 // of texts that are whole in the data
	extTraceparen = "traceparent"
	extTracestate = "tracestate"
)

// message makes what sinks get of an audit event and its JSON form.
func message(source string, e *Event, data []byte) *event.Event {
	m := &event.Event{
		ID: e.ID, Type: e.Type(), Source: source, Namespace: event.CanonicalNamespace(e.Target.Namespace), Path: clean(e.Target.path(), 2*MaxTextBytes),
		Time: e.Time, Data: data, DataContentType: contentType, DataSchema: Schema,
	}
	if slices.ContainsFunc(e.Truncated, func(t Truncation) bool { return t.Path == "/target/namespace" }) {
		m.Path = "" // nobody may judge it by the rules of the root namespace
	}
	m.Metadata = make(event.Fields, 0, 12+len(e.Metadata))
	set := func(key, text string) {
		if text != "" {
			m.Metadata.Set(key, clean(text, maxMetaText))
		}
	}
	set(metaActor, e.Actor.Name)
	if e.Actor.Name == "" {
		set(metaActor, e.Actor.ID)
	}
	set(metaActorID, e.Actor.ID)
	set(event.MetadataOperation, e.Action)
	set(metaOutcome, string(e.Outcome))
	set(metaReason, e.Reason)
	set(metaAddress, e.Actor.IP)
	set(metaRequest, e.RequestID)
	set(metaService, e.Service)
	set(metaTargetID, e.Target.ID)
	set(metaTarget, e.Target.Type)
	if m.Path != "" {
		m.Metadata.Set(event.MetadataPath, m.Path)
	}
	for k, v := range e.Metadata {
		if _, taken := m.Metadata.Get(k); !taken && k != event.MetadataPath && k != event.MetadataDataPath && k != event.MetadataModified {
			m.Metadata.Set(clean(k, maxKeyBytes), clean(v, MaxValueBytes+4))
		}
	}
	if isTraceparent(e.Traceparent) {
		m.Extensions.Set(extTraceparen, e.Traceparent)
		if e.Tracestate != "" && isPrintable(e.Tracestate) {
			m.Extensions.Set(extTracestate, e.Tracestate)
		}
	}
	return m
}

// clean returns a text as UTF-8, not much longer than allowed.
func clean(s string, most int) string { return strings.ToValidUTF8(cut(s, most), "\uFFFD") }

// decode makes what sinks get of an entry of the queue.
func (l *Logger) decode(number uint64, entry []byte) (*event.Event, error) {
	data := complete(number+1, entry)
	e, err := readOwn(data)
	if err != nil {
		return nil, err
	}
	m := message(l.source, &e, data)
	if err := messageLimits.Check(m); err != nil {
		return nil, err
	}
	return m, nil
}

// messageLimits are those of a hub, with room for its data.
var messageLimits = event.Limits{MaxTypeBytes: 256, MaxMetadataKeys: 128, MaxMetadataBytes: 64 << 10, MaxEventBytes: 2 * MaxEventBytes}
