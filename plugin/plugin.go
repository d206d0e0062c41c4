// Package plugin is for authors of plugins: code that a host runs and that tells the host
// what happened. Whoever knows Vault's SDK finds its names and rules here:
//
//	err := plugin.SendEvent(ctx, sender, "kv-v2/data-write",
//		plugin.Path, "secret/data/app",
//		plugin.Operation, "data-write")
//
// A plugin is given its [Sender] by the host. In a program of its own, a
// *client.Publisher is one.
package plugin

import (
	"context"

	"github.com/tocsin-events/tocsin/event"
)

// Keys of metadata that have a meaning to the hub and to subscribers, with Vault's
// spelling.
const (
	Path      = event.MetadataPath      // API path on which a subscriber needs a right
	DataPath  = event.MetadataDataPath  // API path from which the new data can be read
	Operation = event.MetadataOperation // what was done
	Modified  = event.MetadataModified  // "true" when stored data changed
)

// ExtraValueAtEnd is the key of the last of an odd number of texts.
const ExtraValueAtEnd = event.ExtraValueAtEnd

// ErrNoEvents means that there is no sender: the host has no event system, or nobody
// configured one. The plugin can go on; errors.Is tells it from other errors.
var ErrNoEvents = event.ErrNoEvents

// Sender takes events over to deliver them.
//
// SendEvent returns without waiting for delivery and keeps nothing of e that the caller
// could change later. It does not matter whether ctx has ended: what happened has
// happened. An error means that the event will not be delivered. It is safe for concurrent use.
type Sender interface {
	SendEvent(ctx context.Context, e *event.Event) error
}

// SendEvent hands an event to sender and returns at once. The metadata are pairs of key
// and value, of which the last counts if a key occurs twice; the value of an odd one at
// the end goes under [ExtraValueAtEnd]. They must not have secrets. The event gets a random
// id and the time of the call.
//
// The error is [ErrNoEvents] if sender is nil, else that of the sender. Where an event
// is not worth failing for, it is ignored or logged.
func SendEvent(ctx context.Context, sender Sender, eventType string, metadata ...string) error {
	if sender == nil {
		return ErrNoEvents
	}
	return sender.SendEvent(ctx, event.NewNotification(eventType, metadata...))
}
