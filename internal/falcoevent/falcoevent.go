// Package falcoevent turns events of plugins, as bytes, into events of the journal, and events
// of the journal into events of plugins.
//
// An event of a plugin is an event of the type "falco/<event source>", an asynchronous one of
// "falco/<event source>/<name>", whose data are the payload, verbatim. Back it becomes exactly
// the bytes that it came from. An event of any other type becomes an event of the plugin
// [PluginID], whose payload is the CloudEvent, and so comes back with all that it has.
package falcoevent

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// PluginID is the id of the plugin that events of other types than "falco/..." seem to come
// from: "Tocs", in the block of ids that Falco leaves to private use.
const PluginID uint32 = 0x54_6f_63_73

// EventSource is the event source of such events.
const EventSource = "tocsin"

// TypePrefix begins the types of events of plugins.
const TypePrefix = "falco/"

// Metadata of events of plugins.
const (
	MetadataPlugin        = "plugin"
	MetadataPluginID      = "plugin_id"
	MetadataPluginVersion = "plugin_version"
	MetadataEventSource   = "event_source"
)

// The content types of payloads.
const (
	contentJSON  = "application/json"
	contentBytes = "application/octet-stream"
)

// Source returns the source of the events of a source with a name.
func Source(name string) string { return "plugin://" + name }

// Origin is what the events of one source have in common. It must not be changed while it is
// used.
type Origin struct {
	Source      string // as [Source] returns it
	Namespace   string
	Path        string
	EventSource string
	// Metadata are shared by all events.
	Metadata event.Fields

	eventType string
}

// NewOrigin returns the origin of the events of a source of a name. An empty path is
// "falco/<event source>/<name>".
func NewOrigin(name, namespace, path string, d *sourceplugin.Description) *Origin {
	if path == "" {
		path = TypePrefix + escape(d.EventSource) + "/" + name
	}
	o := &Origin{
		Source: Source(name), Namespace: event.CanonicalNamespace(namespace), Path: path,
		EventSource: d.EventSource, eventType: TypePrefix + escape(d.EventSource),
	}
	for _, f := range [...][2]string{
		{event.MetadataPath, path}, {MetadataPlugin, d.Name}, {MetadataPluginVersion, d.Version}, {MetadataEventSource, d.EventSource},
	} {
		if f[1] != "" {
			o.Metadata.Set(f[0], strings.ToValidUTF8(f[1], "\uFFFD"))
		}
	}
	o.Metadata.Set(MetadataPluginID, strconv.FormatUint(uint64(d.ID), 10))
	return o
}

// Set makes dst the event that e is, with an id. Its data are a part of e, which must not
// change afterwards. The time must be known: [scapevent.NoTime] is for who reads e first.
func (o *Origin) Set(dst *event.Event, id string, e scapevent.Event) {
	data := e.Data()
	*dst = event.Event{
		ID: id, Type: o.eventType, Namespace: o.Namespace, Source: o.Source, Path: o.Path, Metadata: o.Metadata,
		Time: e.Time(), Data: data, DataContentType: contentType(data),
	}
	if dst.Type == "" {
		dst.Type = TypePrefix + escape(o.EventSource)
	}
	if dst.Data == nil {
		dst.Data = []byte{}
	}
	if e.Type() == scapevent.Async {
		dst.Type += "/" + escape(e.Name())
	}
}

// contentType tells JSON objects from other payloads. An object on several lines, or with white
// space around it, counts as bytes, because the encodings of an event would change it.
func contentType(data []byte) string {
	if n := len(data); n < 2 || data[0] != '{' || data[n-1] != '}' || bytes.IndexByte(data, '\n') >= 0 || bytes.IndexByte(data, '\r') >= 0 || !utf8.Valid(data) || !jsontext.Valid(data) {
		return contentBytes
	}
	return contentJSON
}

// escape makes text a part of the type of an event: what must not be in a type, and the
// slash, is written as in a URL.
func escape(text string) string {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '*' || c == '/' || c == '%' {
			return escapeAll(text)
		}
	}
	return text
}

// Unescaped returns the event source, or name, that a part of the type of an event stands for. What
// is not well written stands for itself.
func Unescaped(part string) string {
	if strings.IndexByte(part, '%') >= 0 {
		if text, err := url.PathUnescape(part); err == nil {
			return text
		}
	}
	return part
}

func escapeAll(text string) string {
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case c <= ' ' || c >= 0x7f || c == '*' || c == '/' || c == '%':
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Append appends what e is as an event of a plugin. An event of the type "falco/..." that says
// no id of a plugin, has no payload, or a time that such an event cannot have, is like one of
// another type. The error is that of an event that is too large.
func Append(dst []byte, e *event.Event) ([]byte, error) {
	nanos := nanosOf(e.Time)
	if id, name, async, ok := native(e); ok {
		if len(e.Data) > scapevent.MaxDataBytes-len(name) {
			return dst, tooLarge(len(e.Data))
		}
		if async {
			return scapevent.AppendAsync(dst, id, nanos, name, e.Data), nil
		}
		return scapevent.Append(dst, id, nanos, e.Data), nil
	}
	start := len(dst)
	dst = scapevent.AppendFunc(dst, PluginID, nanos, func(dst []byte) []byte { return event.AppendCloudEvent(dst, e, "") })
	if size := len(dst) - start - scapevent.PayloadOffset; size > scapevent.MaxDataBytes {
		return dst[:start], tooLarge(size)
	}
	return dst, nil
}

// ErrTooLarge is of an event that no event of a plugin can hold.
var ErrTooLarge = errors.New("the payload is too large for an event of a plugin")

func tooLarge(size int) error {
	return fmt.Errorf("%w: %d bytes, of at most %d", ErrTooLarge, size, int64(scapevent.MaxDataBytes))
}

// nanosOf returns t in nanoseconds since 1970. What is outside their range is the nearest
// that is in it.
func nanosOf(t time.Time) uint64 {
	switch {
	case t.Before(time.Unix(0, 0)):
		return 0
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return uint64(t.UnixNano())
}

// native returns what an event of a plugin is written with.
func native(e *event.Event) (id uint32, name string, async, ok bool) {
	rest, is := strings.CutPrefix(e.Type, TypePrefix)
	if !is || e.Data == nil || !time.Unix(0, int64(nanosOf(e.Time))).Equal(e.Time) {
		return 0, "", false, false
	}
	text, is := e.Metadata.Text(MetadataPluginID)
	if !is {
		return 0, "", false, false
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || uint32(n) == PluginID {
		return 0, "", false, false
	}
	_, name, async = strings.Cut(rest, "/")
	if async {
		if name, err = url.PathUnescape(name); err != nil || strings.IndexByte(name, 0) >= 0 {
			return 0, "", false, false
		}
	}
	return uint32(n), name, async, true
}

// ErrNotOurs is returned by [Parse] for the events of others.
var ErrNotOurs = errors.New("not an event of Tocsin's own plugin")

// Parse returns the event that [Append] has written as one of the plugin [PluginID]: with all
// that [event.ParseCloudEvent] gives back. Of another plugin it returns ErrNotOurs. It copies
// what it keeps.
func Parse(e scapevent.Event) (*event.Event, error) {
	if e.PluginID() != PluginID || e.Type() != scapevent.Plugin {
		return nil, ErrNotOurs
	}
	ours, err := event.ParseCloudEvent(e.Data())
	if err != nil {
		return nil, fmt.Errorf("the payload of an event of the plugin %d is no CloudEvent: %w", PluginID, err)
	}
	return ours, nil
}
