package eventfields

import (
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// eventFields are what every event has in the journal.
func eventFields() []definition {
	const (
		text, number = sourceplugin.String, sourceplugin.Uint64
		at           = sourceplugin.AbsTime
	)
	// of is a text of the event that it has unless it is empty.
	of := func(name, description string, get func(*event.Event) string) definition {
		return plain(name, text, description, func(r *Reader, q *query) []field.Element { return q.filled(get(r.e)) })
	}
	// ofMount is the same of the mount that sent it.
	ofMount := func(name, description string, get func(*event.PluginInfo) string) definition {
		return of(name, description, func(e *event.Event) string {
			if e.Plugin == nil {
				return ""
			}
			return get(e.Plugin)
		})
	}
	// keyed is a text that a key tells from others.
	keyed := func(name, description string, get func(e *event.Event) event.Fields) definition {
		d := plain(name, text, description, func(r *Reader, q *query) []field.Element {
			f, ok := get(r.e).Get(q.arg)
			if !ok {
				return nil
			}
			return q.text(f.Value)
		})
		d.Arg = sourceplugin.ArgRule{Required: true, Key: true}
		return d
	}
	ids := plain("event.entity_ids", text, "The entities that the event is about, of events that Vault's plugins send.", func(r *Reader, q *query) []field.Element {
		q.list = q.list[:0]
		for _, id := range r.e.EntityIDs {
			q.list = append(q.list, field.Element{Text: id})
		}
		return q.list
	})
	ids.List = true
	data := definition{
		Field: sourceplugin.Field{
			Name: "event.data", Type: text, Arg: sourceplugin.ArgRule{Key: true},
			Description: "The payload as it is; with an argument, the value in a JSON payload at that place, a JSON pointer such as /spec/name. A text is without its quotes, what is no text as JSON. There is no value for null, and for a place that is there twice.",
		},
		bind: func(r *Reader, q *query) {
			if !q.argPresent {
				q.get = func(r *Reader, q *query) []field.Element { return q.filled(r.data(q)) }
				return
			}
			q.node = r.pick.want(0, pointer(q.arg)...)
			q.get = func(r *Reader, q *query) []field.Element {
				if !r.read(q) {
					return nil
				}
				return q.json(r.pick.only(q.node))
			}
		},
	}
	return []definition{
		of("event.id", "The id of the event, which is unique together with event.source.", func(e *event.Event) string { return e.ID }),
		of("event.type", "What happened, for example kv-v2/data-write.", func(e *event.Event) string { return e.Type }),
		of("event.source", "Where it happened, for example vault://prod or plugin://k8s.", func(e *event.Event) string { return e.Source }),
		plain("event.namespace", text, "The namespace, with a slash at its end; empty for the root namespace.",
			func(r *Reader, q *query) []field.Element { return q.text(r.e.Namespace) }),
		of("event.path", "The path, in the namespace, on which a subscriber needs a right.", func(e *event.Event) string { return e.Path }),
		of("event.subject", "The subject of the CloudEvent, which is the path.", func(e *event.Event) string { return e.Path }),
		keyed("event.metadata", "What describes the event: the value under a key of its metadata, for example event.metadata[operation].",
			func(e *event.Event) event.Fields { return e.Metadata }),
		keyed("event.extension", "An extension attribute of the CloudEvent, for example event.extension[certainty].",
			func(e *event.Event) event.Fields { return e.Extensions }),
		plain("event.time", at, "When it happened, as its producer says, in nanoseconds since 1970.",
			func(r *Reader, q *query) []field.Element { return q.number(uint64(r.nanos)) }),
		plain("event.time.hour", number, "The hour at which it happened, 0 to 23, in the time zone of the rules.",
			func(r *Reader, q *query) []field.Element { return q.number(uint64(r.local().hour)) }),
		plain("event.time.minute_of_day", number, "The minute of the day at which it happened, 0 to 1439, in the time zone of the rules: 510 is 08:30.",
			func(r *Reader, q *query) []field.Element { return q.number(uint64(r.local().ofDay)) }),
		plain("event.time.weekday", number, "The day of the week on which it happened, 1 (Monday) to 7 (Sunday), in the time zone of the rules.",
			func(r *Reader, q *query) []field.Element { return q.number(uint64(r.local().day)) }),
		plain("event.time.date", text, "The day on which it happened, for example 2026-11-27, in the time zone of the rules.",
			func(r *Reader, q *query) []field.Element {
				q.buf = append(q.buf[:0], r.local().text[:len("2006-01-02")]...)
				return q.bytes()
			}),
		plain("event.recorded", at, "When the journal took it, in nanoseconds since 1970.",
			func(r *Reader, q *query) []field.Element {
				if r.e.Recorded.IsZero() {
					return nil
				}
				return q.number(uint64(nanosOf(r.e.Recorded)))
			}),
		plain("event.severity", text, "How bad it is: Emergency, Alert, Critical, Error, Warning, Notice, Informational or Debug.",
			func(r *Reader, q *query) []field.Element { return q.text(severity.Of(r.e).String()) }),
		data,
		of("event.datacontenttype", "The media type of the payload.", func(e *event.Event) string { return e.DataContentType }),
		of("event.dataschema", "The URI of the schema of the payload.", func(e *event.Event) string { return e.DataSchema }),
		of("event.dataref", "Where the payload is kept that is too large for the event.", func(e *event.Event) string { return e.DataRef }),
		of("event.note", "The note of events that Vault's plugins send.", func(e *event.Event) string { return e.Note }),
		ids,
		ofMount("event.plugin.mount_class", "The class of the mount that sent it: secret or auth.", func(p *event.PluginInfo) string { return p.MountClass }),
		ofMount("event.plugin.mount_accessor", "The accessor of the mount that sent it.", func(p *event.PluginInfo) string { return p.MountAccessor }),
		ofMount("event.plugin.mount_path", "The path of the mount that sent it, with a slash at its end.", func(p *event.PluginInfo) string { return p.MountPath }),
		ofMount("event.plugin.name", "The plugin of the mount that sent it, for example kv.", func(p *event.PluginInfo) string { return p.Plugin }),
		ofMount("event.plugin.version", "The version of that plugin.", func(p *event.PluginInfo) string { return p.PluginVersion }),
		ofMount("event.plugin.mount_version", "The option version of the mount: 2 for version 2 of kv.", func(p *event.PluginInfo) string { return p.Version }),
		plain("event.plugin.is_local", sourceplugin.Bool, "Whether the mount that sent it is not replicated.", func(r *Reader, q *query) []field.Element {
			if r.e.Plugin == nil {
				return nil
			}
			return q.truth(r.e.Plugin.IsLocal)
		}),
	}
}
