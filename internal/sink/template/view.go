package template

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/jsonvalue"
	"github.com/tocsin-events/tocsin/internal/safetemplate"
)

// view is what a template sees of an event: its exported fields and methods. It is used
// by one goroutine.
type view struct {
	ID, Type, Namespace, Source, Path    string
	Time                                 time.Time
	Recorded                             any // a time.Time; missing before the journal has it
	EntityIDs                            []any
	Note                                 string
	DataContentType, DataSchema, DataRef string
	Sequence                             string
	Attempt                              int
	Replay                               string
	Redriven                             bool

	event    *event.Event
	describe func(eventType string) string
	key      string // the routing key

	asFlipt              flipt
	isFlipt              bool // asFlipt was made
	metadata, extensions map[string]any
	data                 any
	decoded              bool
}

func newView(item deliver.Item, b *deliver.Batch) *view {
	e := item.Event
	v := &view{
		ID: e.ID, Type: e.Type, Namespace: e.Namespace, Source: e.Source, Path: e.Path,
		Time: e.Time, Note: e.Note,
		DataContentType: e.DataContentType, DataSchema: e.DataSchema, DataRef: e.DataRef,
		Sequence: item.At.String(), Attempt: max(b.Attempt, 1), Replay: b.Replay, Redriven: b.Redriven,
		EntityIDs: []any{}, event: e,
	}
	if !e.Recorded.IsZero() {
		v.Recorded = e.Recorded
	}
	for _, id := range e.EntityIDs {
		v.EntityIDs = append(v.EntityIDs, id)
	}
	return v
}

// TemplateValue is what {{.}} prints: the event as a CloudEvent.
func (v *view) TemplateValue() (any, error) { return v.CloudEvent(), nil }

// CloudEvent is the event as a CloudEvent in JSON.
func (v *view) CloudEvent() safetemplate.Literal {
	return safetemplate.Literal(event.AppendCloudEvent(nil, v.event, v.Sequence))
}

// Metadata are the metadata by key.
func (v *view) Metadata() map[string]any {
	if v.metadata == nil {
		v.metadata = fields(v.event.Metadata)
	}
	return v.metadata
}

// Extensions are further attributes of CloudEvents.
func (v *view) Extensions() map[string]any {
	if v.extensions == nil {
		v.extensions = fields(v.event.Extensions)
	}
	return v.extensions
}

func fields(list event.Fields) map[string]any {
	m := make(map[string]any, len(list))
	for _, f := range list {
		if !f.JSON {
			m[f.Key] = f.Value
		} else if value, err := jsonvalue.Decode([]byte(f.Value)); err == nil {
			m[f.Key] = value
		}
	}
	return m
}

// Data is the payload: the value of JSON, the text of text/*. Anything else, and no payload
// at all, is missing.
func (v *view) Data() any {
	if v.decoded {
		return v.data
	}
	v.decoded = true
	v.data = map[string]any(nil)
	e := v.event
	mediaType := strings.ToLower(e.DataContentType)
	mediaType, _, _ = strings.Cut(mediaType, ";")
	mediaType = strings.TrimSpace(mediaType)
	switch {
	case len(e.Data) == 0:
	case strings.HasPrefix(mediaType, "text/") && mediaType != "text/json":
		if utf8.Valid(e.Data) {
			v.data = string(e.Data)
		}
	case mediaType == "", strings.HasSuffix(mediaType, "/json"), strings.HasSuffix(mediaType, "+json"):
		if value, err := jsonvalue.Decode(e.Data); err == nil {
			v.data = value
		}
	}
	return v.data
}

// DataText is the payload as text, whatever it is; "" if there is none.
func (v *view) DataText() string { return string(v.event.Data) }

// DataBase64 is the payload in base64.
func (v *view) DataBase64() string { return base64.StdEncoding.EncodeToString(v.event.Data) }

// plugin is a mount with the names of event.PluginInfo. As JSON it has those of Vault.
type plugin map[string]any

// TemplateValue implements [safetemplate.Valuer].
func (p plugin) TemplateValue() (any, error) {
	if p == nil {
		return nil, nil
	}
	m := make(map[string]any, len(p))
	for name, key := range map[string]string{
		"MountClass": "mount_class", "MountAccessor": "mount_accessor", "MountPath": "mount_path", "Plugin": "plugin",
		"PluginVersion": "plugin_version", "Version": "version", "IsLocal": "is_local",
	} {
		m[key] = p[name]
	}
	return m, nil
}

// Plugin is the mount that sent the event, missing if none did.
func (v *view) Plugin() plugin {
	p := v.event.Plugin
	if p == nil {
		return nil
	}
	return plugin{
		"MountClass": p.MountClass, "MountAccessor": p.MountAccessor, "MountPath": p.MountPath, "Plugin": p.Plugin,
		"PluginVersion": p.PluginVersion, "Version": p.Version, "IsLocal": p.IsLocal,
	}
}

// flipt is an audit event of Flipt, with the names that Flipt's templates have. As JSON it
// is what Flipt sends.
type flipt map[string]any

// TemplateValue implements [safetemplate.Valuer].
func (f flipt) TemplateValue() (any, error) {
	if f == nil {
		return nil, nil
	}
	return f[""], nil
}

// actor and metadata of a Flipt event are JSON with other names, too.
type part map[string]any

// TemplateValue implements [safetemplate.Valuer].
func (p part) TemplateValue() (any, error) { return p[""], nil }

// Flipt is the audit event of Flipt that the event is, missing if it is none.
func (v *view) Flipt() flipt {
	if !v.isFlipt {
		v.asFlipt, v.isFlipt = v.makeFlipt(), true
	}
	return v.asFlipt
}

func (v *view) makeFlipt() flipt {
	if !strings.HasPrefix(v.Type, fliptevent.TypePrefix) {
		return nil
	}
	e, err := fliptevent.Decode(v.event.Data)
	if err != nil {
		return nil
	}
	payload := any(jsonvalue.Null(nil))
	if len(e.Payload) > 0 {
		if payload, err = jsonvalue.Decode(e.Payload); err != nil {
			return nil
		}
	}
	f := flipt{
		"":        safetemplate.Literal(fliptevent.AppendWebhook(nil, e)),
		"Version": e.Version, "Type": e.Type, "Action": e.Action, "Payload": payload, "Timestamp": e.Timestamp, "Status": e.Status,
	}
	metadata := part{"": safetemplate.Literal("{}"), "Actor": map[string]any(nil)}
	if a := e.Actor; a != nil {
		who := map[string]any{}
		for name, value := range map[string]string{"authentication": a.Authentication, "ip": a.IP, "email": a.Email, "name": a.Name, "picture": a.Picture} {
			if value != "" {
				who[name] = value
			}
		}
		for _, more := range a.More {
			who[more.Name] = more.Value
		}
		metadata["Actor"] = part{
			"": who, "Authentication": a.Authentication, "IP": a.IP, "Email": a.Email, "Name": a.Name, "Picture": a.Picture,
		}
		metadata[""] = map[string]any{"actor": who}
	}
	f["Metadata"] = metadata
	return f
}

// RoutingKey is the secret of the option of that name, missing without it.
func (v *view) RoutingKey() any {
	if v.key == "" {
		return nil
	}
	return v.key
}

// text returns a text of the metadata, "" if there is none.
func (v *view) text(key string) string {
	f, _ := v.event.Metadata.Get(key)
	if f.JSON && !json.Valid([]byte(f.Value)) {
		return ""
	}
	return f.Value
}
