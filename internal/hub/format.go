package hub

import (
	"fmt"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// Format is how events are written to a subscriber: one WebSocket message each.
type Format uint8

const (
	// Protobuf is Vault's default: a binary message with the protobuf message
	// EventReceived. It has no place for a sequence.
	Protobuf Format = iota
	// VaultJSON is Vault's json=true: a text message with Vault's JSON envelope,
	// ending in a newline.
	VaultJSON
	// CloudEvents is a text message with correct CloudEvents 1.0 JSON, ending in
	// a newline.
	CloudEvents
)

func (f Format) String() string {
	switch f {
	case Protobuf:
		return "protobuf"
	case VaultJSON:
		return "vault-json"
	case CloudEvents:
		return "cloudevents"
	}
	return fmt.Sprintf("format %d", uint8(f))
}

// encoding is everything that the bytes of a message depend on, besides the event.
type encoding struct {
	format   Format
	sequence bool
}

// appendFrame appends the complete WebSocket frame of e, whose position is named
// by sequence if the encoding has one.
func (enc encoding) appendFrame(dst []byte, e *event.Event, sequence string) []byte {
	start := len(dst)
	dst = websocket.BeginFrame(dst)
	switch enc.format {
	case Protobuf:
		return websocket.EndFrame(event.AppendVaultProto(dst, e), start, websocket.Binary)
	case CloudEvents:
		dst = append(event.AppendCloudEvent(dst, e, sequence), '\n')
	default:
		dst = event.AppendVaultJSON(dst, e, sequence)
	}
	return websocket.EndFrame(dst, start, websocket.Text)
}
