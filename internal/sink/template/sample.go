package template

import (
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/severity"
)

// Sample makes an example of a type better if it can: those of Flipt get the data that they
// have, and alerts their metadata.
func Sample(e *event.Event) *event.Event {
	switch {
	case strings.HasPrefix(e.Type, fliptevent.TypePrefix) && e.Type != fliptevent.TypeQuarantined:
		what, action, found := strings.Cut(strings.TrimPrefix(e.Type, fliptevent.TypePrefix), "/")
		if !found {
			return e
		}
		f := &fliptevent.Event{
			Version: fliptevent.Version2, Type: what, Action: action, Status: fliptevent.StatusSuccess, Timestamp: "2026-01-01T00:00:00Z",
			Actor:   &fliptevent.Actor{Authentication: "token", IP: "192.0.2.1"},
			Payload: fmt.Appendf(nil, `{"description":"","enabled":true,"key":"app","name":"App","namespace_key":"default"}`),
		}
		sample, err := fliptevent.ToEvent(fliptevent.AppendWebhook(nil, f), f, fliptevent.Origin{Server: "flipt", Now: time.Unix(0, 0).UTC()})
		if err != nil {
			return e
		}
		return sample
	case strings.HasPrefix(e.Type, severity.AlertTypes):
		sample := *e
		sample.Metadata = e.Metadata.Clone()
		for _, key := range []struct{ name, value string }{
			{severity.MetadataPriority, "Warning"}, {severity.MetadataRule, strings.TrimPrefix(e.Type, severity.AlertTypes)}, {severity.MetadataOutput, "what has happened"},
		} {
			if _, there := sample.Metadata.Get(key.name); !there {
				sample.Metadata.Set(key.name, key.value)
			}
		}
		return &sample
	}
	return e
}
