package outbound

import (
	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
)

// EventID is the id of an event in the headers of requests: that of the event if it is a
// UUID. Others are unique only together with their source, and need not fit into a header.
func EventID(e *event.Event) string {
	if len(e.ID) == 36 && uuid.Validate(e.ID) == nil {
		return e.ID
	}
	return event.DeriveID("webhook event", e.Source, e.ID)
}
