package client

import (
	"errors"
	"fmt"
)

var (
	// ErrQueueFull is wrapped by every [QueueFullError].
	ErrQueueFull = errors.New("the queue of events is full")
	// ErrPublisherClosed is returned by a [Publisher] after Close.
	ErrPublisherClosed = errors.New("the publisher is closed")
	// ErrRefused is wrapped by every [RefusedError].
	ErrRefused = errors.New("the hub refused events")
	// ErrUndelivered is wrapped by every [UndeliveredError].
	ErrUndelivered = errors.New("events were not delivered")
)

// QueueFullError means that a publisher has no room for an event: the hub or the disk
// takes events more slowly than the program sends them, or not at all. It wraps
// ErrQueueFull and Cause.
type QueueFullError struct {
	Events     int   // in memory
	Bytes      int   // theirs
	SpoolBytes int64 // on the disk
	// Cause is why Queue or Publish did not wait any longer; else nil.
	Cause error
	// Queued is how many events of a Queue or Publish were queued before.
	Queued int
}

func (e *QueueFullError) Error() string {
	text := fmt.Sprintf("%v: %d events of %d bytes wait in memory", ErrQueueFull, e.Events, e.Bytes)
	if e.SpoolBytes > 0 {
		text += fmt.Sprintf(" and %d bytes in the spool", e.SpoolBytes)
	}
	if e.Cause != nil {
		text = fmt.Sprintf("%v while %s", e.Cause, text)
	}
	return text
}

// Unwrap returns ErrQueueFull and the cause, if there is one.
func (e *QueueFullError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrQueueFull}
	}
	return []error{ErrQueueFull, e.Cause}
}

// Refusal says that the hub does not want an event, and why. It would refuse it again.
type Refusal struct {
	// Index is that of the event among those of a Publish. In a [Notice], it counts the
	// events that the publisher took, from 0; it is negative for an event that was in the
	// spool before.
	Index int
	// ID is that of the event.
	ID string
	// Code is "invalid", "too-large", "denied" (by the policies of the token),
	// "reserved" (only the hub says such things), "secret" (has what looks like one),
	// "schema" (does not adhere to that of its type), or another that the hub tells.
	Code string
	// Message is for people; it names the attribute.
	Message string
	// Event is what was sent, a CloudEvent in JSON.
	Event []byte
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("event %d, %s: %s", r.Index, r.Code, r.Message)
}

// Unwrap returns ErrRefused.
func (r *Refusal) Unwrap() error { return ErrRefused }

// RefusedError means that the hub refused some events of a Publish; the others are
// durable. It wraps ErrRefused.
type RefusedError struct {
	Refused []Refusal // by ascending index, at least one
}

func (e *RefusedError) Error() string {
	text := e.Refused[0].Error()
	if more := len(e.Refused) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more were refused)", more)
	}
	return text
}

// Unwrap returns ErrRefused.
func (e *RefusedError) Unwrap() error { return ErrRefused }

// UndeliveredError means that a publisher was closed before the hub answered for all
// events. It wraps ErrUndelivered and Cause.
type UndeliveredError struct {
	// Lost are gone, unless a request that was interrupted has arrived.
	Lost int
	// Spooled are published by the next publisher with the same spool.
	Spooled int
	// Cause is why there was no time for them.
	Cause error
}

func (e *UndeliveredError) Error() string {
	text := fmt.Sprintf("events not delivered: %d", e.Lost)
	if e.Spooled > 0 {
		text = fmt.Sprintf("events not delivered: %d are in the spool, %d are lost", e.Spooled, e.Lost)
	}
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap returns ErrUndelivered and the cause, if there is one.
func (e *UndeliveredError) Unwrap() []error {
	if e.Cause == nil {
		return []error{ErrUndelivered}
	}
	return []error{ErrUndelivered, e.Cause}
}
