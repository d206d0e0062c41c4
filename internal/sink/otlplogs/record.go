package otlplogs

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/jsonvalue"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/tracecontext"
)

// record is a log record. Its values are those of package jsonvalue, and []byte.
type record struct {
	time, observed uint64 // nanoseconds since 1970, 0: not known
	severity       int
	severityText   string
	body           any // nil: none
	attributes     []attribute
	trace          tracecontext.Traceparent
	eventName      string
}

type attribute struct {
	key   string
	value any
}

// Names of attributes. Those of CloudEvents are semantic conventions.
const (
	attrID          = "cloudevents.event_id"
	attrSource      = "cloudevents.event_source"
	attrSpecVersion = "cloudevents.event_spec_version"
	attrSubject     = "cloudevents.event_subject"
	attrType        = "cloudevents.event_type"

	attrNamespace   = "tocsin.namespace"
	attrSequence    = "tocsin.sequence"
	attrEntityIDs   = "tocsin.entity_ids"
	attrNote        = "tocsin.note"
	attrContentType = "tocsin.data.content_type"
	attrSchema      = "tocsin.data.schema"
	attrRef         = "tocsin.data.ref"
	attrReplay      = "tocsin.replay"
	attrRedriven    = "tocsin.redriven"

	prefixPlugin    = "tocsin.plugin."
	prefixMetadata  = "tocsin.metadata."
	prefixExtension = "tocsin.extension."
)

// newRecord makes the record of an event.
func newRecord(item deliver.Item, b *deliver.Batch) *record {
	e := item.Event
	r := &record{time: nanos(e.Time), observed: nanos(e.Recorded), body: body(e), eventName: clean(e.Type)}
	if r.observed == 0 {
		r.observed = r.time
	}
	r.severity, r.severityText = severity.Of(e).Number()
	if strings.HasPrefix(e.Type, severity.AlertTypes) {
		if priority, ok := e.Metadata.Text(severity.MetadataPriority); ok {
			r.severityText = clean(priority) // as its source calls it
		}
	}
	if parent, ok := e.Extensions.Text("traceparent"); ok {
		r.trace, _ = tracecontext.ParseTraceparent(parent)
	}
	text := func(key, value string) {
		if value != "" {
			r.attributes = append(r.attributes, attribute{key, clean(value)})
		}
	}
	text(attrID, e.ID)
	text(attrSource, e.Source)
	text(attrSpecVersion, "1.0")
	text(attrSubject, e.Path)
	text(attrType, e.Type)
	text(attrNamespace, e.Namespace)
	text(attrSequence, item.At.String())
	if len(e.EntityIDs) > 0 {
		ids := make([]any, len(e.EntityIDs))
		for i, id := range e.EntityIDs {
			ids[i] = clean(id)
		}
		r.attributes = append(r.attributes, attribute{attrEntityIDs, ids})
	}
	text(attrNote, e.Note)
	text(attrContentType, e.DataContentType)
	text(attrSchema, e.DataSchema)
	text(attrRef, e.DataRef)
	text(attrReplay, b.Replay)
	if b.Redriven {
		r.attributes = append(r.attributes, attribute{attrRedriven, true})
	}
	if p := e.Plugin; p != nil {
		text(prefixPlugin+"mount_class", p.MountClass)
		text(prefixPlugin+"mount_accessor", p.MountAccessor)
		text(prefixPlugin+"mount_path", p.MountPath)
		text(prefixPlugin+"plugin", p.Plugin)
		text(prefixPlugin+"plugin_version", p.PluginVersion)
		text(prefixPlugin+"version", p.Version)
		if p.IsLocal {
			r.attributes = append(r.attributes, attribute{prefixPlugin + "is_local", true})
		}
	}
	r.fields(prefixMetadata, e.Metadata)
	r.fields(prefixExtension, e.Extensions)
	return r
}

// fields adds named values under a prefix.
func (r *record) fields(prefix string, fields event.Fields) {
	for _, f := range fields {
		a := attribute{clean(prefix + f.Key), clean(f.Value)}
		if f.JSON {
			if v, err := jsonvalue.Decode([]byte(f.Value)); err == nil {
				a.value = v
			}
		}
		r.attributes = append(r.attributes, a)
	}
}

// body returns the payload: JSON as its values, other text as a string, anything else as
// bytes. Of an event without a payload it is a line for people, as many receivers show little
// else.
func body(e *event.Event) any {
	if e.Data == nil {
		return clean(strings.TrimSpace(e.Type + " " + e.Namespace + e.Path))
	}
	mediaType, _, _ := strings.Cut(strings.ToLower(e.DataContentType), ";")
	mediaType = strings.TrimSpace(mediaType)
	if mediaType == "" || strings.HasSuffix(mediaType, "/json") || strings.HasSuffix(mediaType, "+json") {
		if v, err := jsonvalue.Decode(e.Data); err == nil {
			return v
		}
	}
	if utf8.Valid(e.Data) {
		return string(e.Data)
	}
	return e.Data
}

// maxDepth is how deep values are lists and objects: the decoders of protobuf allow messages
// 100 deep, and a level takes three. What is deeper is JSON in a string.
const maxDepth = 24

// flat is what a value is at a depth.
func flat(v any, depth int) any {
	switch v := v.(type) {
	case []any:
		if depth < maxDepth || len(v) == 0 {
			return v
		}
	case map[string]any:
		if depth < maxDepth || len(v) == 0 {
			return v
		}
	case json.Number: // no number of OTLP has it
		return string(v)
	default:
		return v
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "" // of a value that was decoded there is none
	}
	return string(text)
}

func keysOf(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

// nanos returns a time as OTLP has it; 0 is not known.
func nanos(t time.Time) uint64 {
	const last = 1<<63 - 1
	switch {
	case t.Unix() < 0:
		return 0
	case t.Unix() >= last/int64(time.Second): // the year 2262
		return last
	}
	return uint64(t.UnixNano())
}

// clean returns s as valid UTF-8: receivers refuse a whole request for one bad byte.
func clean(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
