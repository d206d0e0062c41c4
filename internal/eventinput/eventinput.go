// Package eventinput reads events from where people have them, an audit log, lines of CloudEvents,
// a capture or a stream of a plugin, and hands them on in records, as a journal has them, for who
// judges events without a hub.
package eventinput

import (
	"errors"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/position"
)

// Bounds of a record.
const (
	maxEvents = 1024
	maxBytes  = 4 << 20
)

// Record is some successive events. It is like one of a journal (fields.Record), with positions
// that are its own.
type Record struct {
	seq    uint64
	events []*event.Event
}

// Len returns how many events there are; at least one.
func (r *Record) Len() int { return len(r.events) }

// Event returns one of them.
func (r *Record) Event(i int) *event.Event { return r.events[i] }

// Position returns where it is.
func (r *Record) Position(i int) position.Position {
	return position.Position{Seq: r.seq, Index: uint32(i)}
}

// Collector makes records of events that come one by one. It is for one goroutine.
type Collector struct {
	emit  func(*Record) error
	seq   uint64
	bytes int
	held  []*event.Event
	left  uint64
}

// NewCollector returns a Collector that hands its records to emit, which may keep them.
func NewCollector(emit func(*Record) error) *Collector { return &Collector{emit: emit} }

// ErrEnough is returned when there are as many events as were wanted.
var ErrEnough = errors.New("there are enough events")

// Limit has Add return ErrEnough with the n-th event from now on, when it is handed on.
func (c *Collector) Limit(n uint64) { c.left = n }

// Add adds an event, which nobody may change afterwards. The error is that of emit, or ErrEnough.
func (c *Collector) Add(e *event.Event) error {
	c.held = append(c.held, e)
	c.bytes += len(e.Data)
	if c.left > 0 {
		if c.left--; c.left == 0 {
			if err := c.Flush(); err != nil {
				return err
			}
			return ErrEnough
		}
	}
	if len(c.held) < maxEvents && c.bytes < maxBytes {
		return nil
	}
	return c.Flush()
}

// Flush hands on what is held, if there is something. It is called before more events are waited
// for, and at the end. The error is that of emit.
func (c *Collector) Flush() error {
	if len(c.held) == 0 {
		return nil
	}
	c.seq++
	r := &Record{seq: c.seq, events: c.held}
	c.held, c.bytes = make([]*event.Event, 0, min(len(c.held), maxEvents)), 0
	return c.emit(r)
}
