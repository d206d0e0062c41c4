package plugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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

// partEvents is how many events are made at once of a batch: what an event takes in memory is
// several times what a small one takes on its way here.
const partEvents = 4096

// Reasons under which events are counted as refused.
const (
	reasonTooLarge = "too-large"
	reasonInvalid  = "invalid"
)

// batch is what a plugin gave at once, on its way into the journal, or a part of it: all but the
// last refer to the bytes that the last has. Its memory is used again.
type batch struct {
	batch    sourceplugin.Batch
	events   []event.Event
	sizes    []int // of the events, in the journal
	pointers []*event.Event
	units    []unit
	bytes    int
	position []byte // of its own; nil: none
	ordinal  uint64 // of the last event
}

// memory is what b takes, empty or not.
func (b *batch) memory() int {
	const perEvent = 400 // with its size, pointer and id
	return cap(b.batch.Events) + perEvent*cap(b.events)
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
	ids     *identity
	ordinal uint64      // of the last event
	good    event.Event // an event that keeps the limits, without data
	stored  int         // what it takes in the journal
}

// errNotTaken means that nobody takes events any more.
var errNotTaken = errors.New("nobody takes the events")

// convert makes the events of b. Of a batch with very many, all but the last partEvents are
// handed over by part, which returns false when nobody takes them. What does not keep the rules
// is an error; the events before it count.
func (r *run) convert(ctx context.Context, b *batch, part func(*batch) bool) error {
	b.events, b.sizes, b.position = b.events[:0], b.sizes[:0], nil
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
		if e.PluginID() != r.about.ID {
			lie = failure(Lying, "event %d of a batch has the plugin id %d, that of the plugin is %d", count+1, e.PluginID(), r.about.ID)
			break
		}
		if len(b.events) == partEvents {
			b.cut(r.deps.Journal.MaxUnitBytes())
			if !part(b) {
				return errNotTaken
			}
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
			origin:  falcoevent.NewOrigin(r.config.Name, r.config.Namespace, r.config.Path, r.about),
			ordinal: r.place.Events,
		}
		r.converting.ids = newIdentity(r.converting.origin.Source, r.place.Stream)
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
	sum := uint32(0)
	if r.about.Capabilities.Resume {
		sum = checksum(e)
	}
	b.events = append(b.events, event.Event{})
	ev := &b.events[len(b.events)-1]
	c.origin.Set(ev, c.ids.id(c.ordinal, sum), e)
	// Nearly all events of a stream are alike.
	if ev.Alike(&c.good) && r.config.Limits.CheckLike(ev, &c.good) == nil {
		if stored := c.stored + len(ev.Data); stored <= r.deps.Journal.MaxUnitBytes() {
			b.sizes = append(b.sizes, stored)
			return true
		}
	}
	stored, err := r.fits(ev)
	if errors.Is(err, event.ErrTooLarge) && r.deps.Keep != nil && len(ev.Data) > r.config.Limits.MaxEventBytes/2 {
		if !r.keep(ctx, ev) {
			b.events = b.events[:len(b.events)-1]
			return false
		}
		stored, err = r.fits(ev)
	}
	switch {
	case errors.Is(err, event.ErrTooLarge):
		r.drop(1, reasonTooLarge, err.Error())
	case err != nil:
		r.drop(1, reasonInvalid, err.Error())
	default:
		c.good, c.stored = *ev, stored-len(ev.Data)
		c.good.Data = nil
		b.sizes = append(b.sizes, stored)
		return true
	}
	b.events = b.events[:len(b.events)-1]
	return true
}

// fits returns how large an event is in the journal, if that takes it.
func (r *run) fits(ev *event.Event) (stored int, err error) {
	stored = journal.StoredBytes(ev)
	if err := r.config.Limits.Check(ev); err != nil {
		return 0, err
	}
	if most := r.deps.Journal.MaxUnitBytes(); stored > most {
		return 0, &event.LimitError{Part: "stored event", Size: stored, Max: most}
	}
	return stored, nil
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
		r.log.Warn("Events of a plugin were dropped.", "events", n, "reason", reason, "detail", clean(r.redact(why), maxReason), "skipped", skipped)
	}
}

// giveEvents moves the events of b, and what belongs to them, to another batch.
func (b *batch) giveEvents(to *batch) {
	to.position = nil
	to.events, b.events = b.events, to.events[:0]
	to.sizes, b.sizes = b.sizes, to.sizes[:0]
	to.pointers, b.pointers = b.pointers, to.pointers[:0]
	to.units, b.units = b.units, to.units[:0]
	to.bytes, b.bytes = b.bytes, 0
}

// cut makes units of the events.
func (b *batch) cut(most int) {
	b.pointers, b.units, b.bytes = b.pointers[:0], b.units[:0], 0
	most = min(most, unitBytes)
	size, from := 0, 0
	for i := range b.events {
		ev := &b.events[i]
		b.pointers = append(b.pointers, ev)
		n := b.sizes[i]
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
