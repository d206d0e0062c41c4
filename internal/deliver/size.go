package deliver

import (
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

// eventBytes is about how many bytes an event has when it is encoded.
func eventBytes(e *event.Event) int {
	n := 160 + len(e.ID) + len(e.Type) + len(e.Namespace) + len(e.Source) + len(e.Path) + len(e.Note) + len(e.Data) + len(e.DataSchema) + len(e.DataRef)
	for i := range e.Metadata {
		n += 8 + len(e.Metadata[i].Key) + len(e.Metadata[i].Value)
	}
	for i := range e.Extensions {
		n += 8 + len(e.Extensions[i].Key) + len(e.Extensions[i].Value)
	}
	return n
}

// eventMemory is what an event takes besides its encoding.
const eventMemory = 512

// detached returns a copy of an event that shares no memory with the record of the journal
// that it is in, for when little of that is needed.
func detached(e *event.Event) *event.Event {
	c := *e
	c.Metadata, c.Extensions = e.Metadata.Clone(), e.Extensions.Clone()
	c.EntityIDs = slices.Clone(e.EntityIDs)
	if e.Data != nil {
		c.Data = append([]byte{}, e.Data...)
	}
	if e.Plugin != nil {
		p := *e.Plugin
		c.Plugin = &p
	}
	n := 0
	eachText(&c, func(text *string) { n += len(*text) })
	var b strings.Builder
	b.Grow(n)
	eachText(&c, func(text *string) {
		begin := b.Len()
		b.WriteString(*text)
		*text = b.String()[begin:]
	})
	return &c
}

func eachText(e *event.Event, do func(*string)) {
	for _, text := range [...]*string{&e.ID, &e.Type, &e.Namespace, &e.Source, &e.Path, &e.Note, &e.DataContentType, &e.DataSchema, &e.DataRef} {
		do(text)
	}
	for i := range e.EntityIDs {
		do(&e.EntityIDs[i])
	}
	for _, fields := range [...]event.Fields{e.Metadata, e.Extensions} {
		for i := range fields {
			do(&fields[i].Key)
			do(&fields[i].Value)
		}
	}
	if p := e.Plugin; p != nil {
		for _, text := range [...]*string{&p.MountClass, &p.MountAccessor, &p.MountPath, &p.Plugin, &p.PluginVersion, &p.Version} {
			do(text)
		}
	}
}
