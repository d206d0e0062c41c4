// Package plugin is for authors of plugins: code that a host runs and that tells the host
// what happened. Whoever knows Vault's SDK finds its names and rules here:
//
//	err := plugin.SendEvent(ctx, sender, "kv-v2/data-write",
//		plugin.Path, "secret/data/app",
//		plugin.Operation, "data-write")
//
// A plugin is given its [Sender] by the host. In a program of its own, a
// *client.Publisher is one.
//
// # Source plugins
//
// A source plugin opens streams of events, and the hub does the rest: it stores them, starts the
// plugin again when it fails, hands it the place where it was, and gives its events to whoever may
// see them. This is a whole one:
//
//	type config struct {
//		Sides uint64 `json:"sides,omitempty" jsonschema:"minimum=2,description=Sides of the dice."`
//	}
//
//	func (c *config) SetDefaults() { c.Sides = 6 }
//
//	type params struct {
//		Rolls int `json:"rolls"`
//	}
//
//	type dice struct{ config }
//
//	func (d *dice) Open(_ context.Context, p params, _ []byte) (plugin.Stream, error) {
//		return plugin.Pull(func(context.Context) (plugin.Event, error) {
//			if p.Rolls == 0 {
//				return plugin.Event{}, io.EOF
//			}
//			p.Rolls--
//			return plugin.Event{Data: strconv.AppendUint(nil, 1+rand.Uint64N(d.Sides), 10)}, nil
//		}), nil
//	}
//
//	func (d *dice) Extract(_ context.Context, e *plugin.Event, fields []plugin.Request) error {
//		for i := range fields { // there is one field, dice.value
//			if value, err := strconv.ParseUint(string(e.Data), 10, 64); err == nil {
//				fields[i].SetUint64(value)
//			}
//		}
//		return nil
//	}
//
//	func main() {
//		serve.Main(plugin.New(plugin.Info{
//			Name: "dice", Version: "0.1.0", ID: 999, EventSource: "dice",
//			Fields: []plugin.Field{{Name: "dice.value", Type: plugin.Uint64, Description: "What was rolled"}},
//		}, func(_ context.Context, c config) (*dice, error) { return &dice{c}, nil }))
//	}
//
// "tocsin plugin new NAME" writes one with resume positions and a test. Code of a plugin that
// panics, hangs or gives what it may not is an error of its stream, with a text that says what.
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
