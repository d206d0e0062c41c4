package plugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"slices"
	"strconv"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Bounds of one batch.
const (
	maxBatchBytes    = 64 << 20 // beside one event of the largest size
	maxPositionBytes = 64 << 10
)

// Bounds of what is handed to the journal together. One of them is what an event takes when it
// is larger than that.
const (
	unitEvents = 512
	unitBytes  = 128 << 10
)

// Reasons under which events are counted as refused.
const (
	reasonTooLarge = "too-large"
	reasonInvalid  = "invalid"
)

// batch is what a plugin gave at once, on its way into the journal. Its memory is used again.
type batch struct {
	batch    sourceplugin.Batch
	events   []event.Event
	pointers []*event.Event
	units    []unit
	bytes    int
	position []byte // of its own; nil: none
	ordinal  uint64 // of the last event
}

// unit is what is submitted together.
type unit struct {
	from, to int
	receipt  *journal.Receipt
	err      error
}

// converter makes events of what a plugin gives.
type converter struct {
	origin  *falcoevent.Origin
	stream  string
	ordinal uint64 // of the last event
	text    []byte // of an ordinal
	good    string // a type of which an event was found to keep the limits
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// convert makes the events of b. What does not keep the rules is an error; the events before it
// count.
func (r *run) convert(ctx context.Context, b *batch) error {
	b.events, b.units, b.position, b.bytes = b.events[:0], b.units[:0], nil, 0
	in := &b.batch
	if len(in.Events) > maxBatchBytes+r.config.MaxEvent {
		return failure(Lying, "a batch has %d bytes, which is more than %d", len(in.Events), maxBatchBytes+r.config.MaxEvent)
	}
	r.drop(in.Dropped, reasonTooLarge, in.DroppedReason)
	c := r.converter()
	var lie error
	count := 0
	for rest := in.Events; len(rest) > 0; count++ {
		var e scapevent.Event
		var err error
		if e, rest, err = scapevent.Next(rest); err != nil {
			lie = failure(Lying, "event %d of a batch: %v", count+1, err)
			break
		}
		if e.Type() == scapevent.Plugin && e.PluginID() != r.about.ID {
			lie = failure(Lying, "event %d of a batch has the plugin id %d, that of the plugin is %d", count+1, e.PluginID(), r.about.ID)
			break
		}
		c.ordinal++
		if !r.add(ctx, b, c, e) {
			break // the hub stops
		}
	}
	r.counts.Received.Add(float64(count))
	switch {
	case lie != nil:
	case ctx.Err() != nil && count != in.Count: // not all were taken
	case count != in.Count:
		lie = failure(Lying, "a batch has %d events, but says that there are %d", count, in.Count)
	case len(in.Position) > maxPositionBytes:
		lie = failure(Lying, "a resume position has %d bytes, which is more than %d", len(in.Position), maxPositionBytes)
	case in.Position != nil && r.about.Capabilities.Resume:
		b.position = append(make([]byte, 0, len(in.Position)), in.Position...)
	}
	b.ordinal = c.ordinal
	b.cut(r.deps.Journal.MaxUnitBytes())
	return lie
}

// converter returns that of the run.
func (r *run) converter() *converter {
	if r.converting == nil {
		r.converting = &converter{
			origin: falcoevent.NewOrigin(r.config.Name, r.config.Namespace, r.config.Path, r.about),
			stream: r.place.Stream, ordinal: r.place.Events,
		}
	}
	return r.converting
}

// add makes an event of e, or drops it. It returns false when ctx ended before it could.
func (r *run) add(ctx context.Context, b *batch, c *converter, e scapevent.Event) bool {
	if len(e) > r.config.MaxEvent {
		r.drop(1, reasonTooLarge, "max_event")
		return true
	}
	if e.Nanos() == scapevent.NoTime {
		e.SetNanos(uint64(time.Now().UnixNano()))
	}
	b.events = append(b.events, event.Event{})
	ev := &b.events[len(b.events)-1]
	c.origin.Set(ev, c.id(e, r.about.Capabilities.Resume), e)
	// Events of one type differ in what can break no limit, and in their size.
	if ev.Type == c.good && ev.Size() <= r.config.Limits.MaxEventBytes {
		return true
	}
	err := r.fits(ev)
	if err == nil {
		c.good = ev.Type
	}
	if errors.Is(err, event.ErrTooLarge) && r.deps.Keep != nil && len(ev.Data) > r.config.Limits.MaxEventBytes/2 {
		if !r.keep(ctx, ev) {
			b.events = b.events[:len(b.events)-1]
			return false
		}
		err = r.fits(ev)
	}
	if err != nil {
		b.events = b.events[:len(b.events)-1]
		if errors.Is(err, event.ErrTooLarge) {
			r.drop(1, reasonTooLarge, err.Error())
		} else {
			r.drop(1, reasonInvalid, err.Error())
		}
	}
	return true
}

func (r *run) fits(ev *event.Event) error {
	err := r.config.Limits.Check(ev)
	if size, most := journal.StoredBytes(ev), r.deps.Journal.MaxUnitBytes(); err == nil && size > most {
		err = &event.LimitError{Part: "stored event", Size: size, Max: most}
	}
	return err
}

// id returns the id of the event that was counted last.
func (c *converter) id(e scapevent.Event, resumable bool) string {
	if !resumable {
		return event.NewID()
	}
	sum := crc32.Update(crc32.Checksum(e.Data(), castagnoli), castagnoli, []byte(e.Name()))
	c.text = strconv.AppendUint(c.text[:0], c.ordinal, 10)
	c.text = append(c.text, ' ')
	c.text = strconv.AppendUint(c.text, uint64(sum), 16)
	return event.DeriveID("plugin-source", c.origin.Source, c.stream, string(c.text))
}

// keep puts the payload of ev beside the journal, and waits until that is possible. It returns
// false when ctx ends.
func (r *run) keep(ctx context.Context, ev *event.Event) bool {
	for {
		ref, err := r.deps.Keep(ctx, ev.Data)
		if err == nil {
			sum := sha256.Sum256(ev.Data)
			ev.Metadata = slices.Clone(ev.Metadata)
			ev.Metadata.Set("size", strconv.Itoa(len(ev.Data)))
			ev.Metadata.Set("sha256", hex.EncodeToString(sum[:]))
			ev.Data, ev.DataRef = nil, ref
			return true
		}
		if skipped, ok := r.unkept.Allow(); ok {
			r.log.Warn("A large payload cannot be stored; the plugin waits.", "error", err, "skipped", skipped)
		}
		if !sleep(ctx, time.Second) {
			return false
		}
	}
}

// drop counts events that are left out.
func (r *run) drop(n int, reason, why string) {
	if n <= 0 {
		return
	}
	r.counts.Refused(reason).Add(float64(n))
	r.mu.Lock()
	r.status.Dropped += uint64(n)
	r.mu.Unlock()
	if skipped, ok := r.dropping.Allow(); ok {
		r.log.Warn("Events of a plugin were dropped.", "events", n, "reason", reason, "detail", clean(why, maxReason), "skipped", skipped)
	}
}

// cut makes units of the events.
func (b *batch) cut(most int) {
	b.pointers = b.pointers[:0]
	most = min(most, unitBytes)
	size, from := 0, 0
	for i := range b.events {
		ev := &b.events[i]
		b.pointers = append(b.pointers, ev)
		n := journal.StoredBytes(ev)
		if i > from && (size+n > most || i-from == unitEvents) {
			b.units = append(b.units, unit{from: from, to: i})
			from, size = i, 0
		}
		size += n
		b.bytes += n
	}
	if from < len(b.events) {
		b.units = append(b.units, unit{from: from, to: len(b.events)})
	}
}
