// Package fliptzap writes audit events of package flipt with zap.
package fliptzap

import (
	"go.uber.org/zap/zapcore"

	"github.com/tocsin-events/tocsin/audit/flipt"
)

// Object returns e for zap.Object and zap.Inline. Its fields are, in this order, the texts version,
// type, action and status, metadata and payload as they are, and the text timestamp. With
// zap.Inline and an encoder without keys of its own, a line is that of Flipt's log file.
func Object(e *flipt.Event) zapcore.ObjectMarshaler { return object{e} }

type object struct{ *flipt.Event }

// MarshalLogObject adds the fields. The error is that of the encoder for metadata or payload.
func (o object) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	if o.Event == nil {
		return nil
	}
	enc.AddString("version", o.Version)
	enc.AddString("type", o.Type)
	enc.AddString("action", o.Action)
	enc.AddString("status", o.Status)
	if err := enc.AddReflected("metadata", o.Metadata); err != nil {
		return err
	}
	if err := enc.AddReflected("payload", o.Payload); err != nil {
		return err
	}
	enc.AddString("timestamp", o.Timestamp)
	return nil
}
