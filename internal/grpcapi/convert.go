package grpcapi

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// convert returns the event of a message, which it shares memory with, or why there is
// none. What depends on the attributes together is checked by the intake.
func convert(m *tocsinv1.Event) (*event.Event, *publish.Refusal) {
	if m == nil {
		m = new(tocsinv1.Event)
	}
	refuse := func(text string) (*event.Event, *publish.Refusal) {
		return nil, &publish.Refusal{ID: m.Id, Code: publish.Invalid, Text: text}
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return refuse("event: has a field that this version does not know")
	}
	e := &event.Event{
		ID: m.Id, Source: m.Source, Type: m.Type, Path: m.Subject, Namespace: m.Namespace,
		DataContentType: m.DataContentType, DataSchema: m.DataSchema, DataRef: m.DataRef,
	}
	if len(m.Data) > 0 {
		e.Data = m.Data
	}
	if m.Time != nil {
		if len(m.Time.ProtoReflect().GetUnknown()) > 0 || m.Time.CheckValid() != nil {
			return refuse("time: is not between the years 1 and 9999")
		}
		e.Time = m.Time.AsTime()
	}
	var problem string
	if e.Metadata, problem = fields(m.Metadata, m.MetadataJson); problem != "" {
		return refuse("metadata " + problem)
	}
	if e.Extensions, problem = fields(m.Extensions, m.ExtensionsJson); problem != "" {
		return refuse("extension " + problem)
	}
	if e.Path == "" {
		e.Path, _ = e.Metadata.Text(event.MetadataPath)
	}
	return e, nil
}

// fields joins texts and JSON texts, or says which of them cannot be.
func fields(texts, values map[string]string) (f event.Fields, problem string) {
	if len(texts)+len(values) == 0 {
		return nil, ""
	}
	f = make(event.Fields, 0, len(texts)+len(values))
	for key, value := range texts {
		f = append(f, event.Field{Key: key, Value: value})
	}
	for key, value := range values {
		if _, twice := texts[key]; twice {
			return nil, clip(key, 100) + ": is there as text and as JSON"
		}
		field := event.Field{Key: key, JSON: true}
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(value)); err != nil {
			return nil, clip(key, 100) + ": is not JSON"
		}
		if field.Value = compact.String(); strings.HasPrefix(field.Value, `"`) {
			var text string
			if err := json.Unmarshal(compact.Bytes(), &text); err != nil {
				return nil, clip(key, 100) + ": is not JSON"
			}
			field.Value, field.JSON = text, false
		}
		f = append(f, field)
	}
	slices.SortFunc(f, func(a, b event.Field) int { return strings.Compare(a.Key, b.Key) })
	return f, ""
}

// converted are the events of a request that can be looked at, and those that cannot.
type converted struct {
	events []*event.Event
	unconverted
}

// unconverted are those that cannot.
type unconverted struct {
	refused []*publish.Refusal // by ascending index
	index   []int              // of the others in the request; nil if these are all
}

func convertAll(messages []*tocsinv1.Event) converted {
	c := converted{events: make([]*event.Event, 0, len(messages))}
	for i, m := range messages {
		e, refused := convert(m)
		switch {
		case refused != nil:
			if c.index == nil {
				c.index = make([]int, i, len(messages))
				for j := range c.index {
					c.index[j] = j
				}
			}
			refused.Index = i
			c.refused = append(c.refused, refused)
		default:
			if c.index != nil {
				c.index = append(c.index, i)
			}
			c.events = append(c.events, e)
		}
	}
	return c
}

// complete makes the result for the others that of the request.
func (c *unconverted) complete(r *publish.Result) {
	if c.index == nil {
		return
	}
	refused := slices.Clone(r.Refused)
	for i := range refused {
		moved := *refused[i]
		moved.Index = c.index[moved.Index]
		refused[i] = &moved
	}
	refused = append(refused, c.refused...)
	slices.SortFunc(refused, func(a, b *publish.Refusal) int { return a.Index - b.Index })
	r.Refused = refused
	r.Warnings = slices.Clone(r.Warnings)
	for i := range r.Warnings {
		r.Warnings[i].Index = c.index[r.Warnings[i].Index]
	}
}
