package vaultaudit

import (
	"context"
	"errors"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

const (
	// saveInterval is the shortest time between two stores of the position.
	saveInterval = time.Second
	// idleInterval is the time after which the stored position follows a journal
	// that only others append to, so that a restart need not read all of that.
	idleInterval = time.Minute
)

// appender is the last stage: units to the journal, in order, and then the
// position. It runs in one goroutine.
type appender struct {
	*Source
	progress *progress
	imports  <-chan *unit // of what is imported
	flight   []flying     // submitted and not collected, in order
	bytes    int          // of the units in flight
	searches int          // for units of unknown fate, in a row, that failed
}

// unitOverhead is what a unit counts in flight beside its events, so that also units
// without any are bounded.
const unitOverhead = 256

// flying is a submitted unit.
type flying struct {
	*unit
	receipt  receipt
	err      error            // of the submit or the receipt
	position journal.Position // of the first event, once durable
	durable  bool
	unknown  bool // it may be in the journal although err says that it failed
}

// run appends units until the channel is closed, and then stores the position. It
// returns early when ctx ends, or with an error when the journal is closed.
func (a *appender) run(ctx context.Context, units <-chan *unit) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for units != nil || len(a.flight) > 0 {
		in, imports := units, a.imports
		if a.bytes >= maxInFlightBytes {
			in, imports = nil, nil
		}
		var done <-chan struct{}
		if len(a.flight) > 0 {
			done = a.flight[0].receipt.Done()
		}
		timer.Reset(time.Until(a.progress.due(len(a.flight) == 0)))
		var err error
		select {
		case u, more := <-in:
			if !more {
				units = nil
				continue
			}
			err = a.take(ctx, u)
		case u := <-imports:
			err = a.take(ctx, u)
		case <-done:
			err = a.land(ctx)
		case <-timer.C:
			err = a.progress.save(ctx, len(a.flight) == 0)
		case <-ctx.Done():
			err = ctx.Err()
		}
		if errors.Is(err, journal.ErrClosed) {
			return err
		}
		if ctx.Err() != nil {
			a.log.Warn("stopped before all that was read was durable; the rest is read again at the next start", "units", len(a.flight))
			return nil
		}
	}
	if err := a.progress.save(ctx, true); err != nil {
		a.log.Warn("position was not stored; the last lines are read again at the next start and recognised", "error", err)
	}
	return nil
}

// take submits a unit, and repeats that until the journal takes it.
func (a *appender) take(ctx context.Context, u *unit) error {
	if err := a.progress.begin(ctx, u); err != nil {
		return err
	}
	f := flying{unit: u}
	a.send(ctx, &f)
	a.flight = append(a.flight, f)
	a.bytes += u.bytes + unitOverhead
	if f.err != nil {
		return a.repeat(ctx)
	}
	return nil
}

// send submits the events of f.
func (a *appender) send(ctx context.Context, f *flying) {
	f.receipt, f.err = receipt(nothing{}), nil
	if len(f.events) == 0 {
		return
	}
	r, err := a.submit(ctx, f.events)
	if errors.Is(err, event.ErrInvalid) || errors.Is(err, event.ErrTooLarge) {
		a.salvage(f.unit)
		r, err = a.submit(ctx, f.events)
	}
	if f.err = err; err == nil {
		f.receipt = r
	}
}

// salvage changes a unit that the journal refuses for ever, so that one odd entry
// does not hold up all that come after it: an event that does not keep the limits
// is replaced by a quarantined one with the same id and data when it stands for a
// line, and refused and counted when it was derived.
func (a *appender) salvage(u *unit) {
	kept := u.events[:0]
	for _, e := range u.events {
		err := a.config.Limits.Check(e)
		switch {
		case err == nil:
			kept = append(kept, e)
		case a.ours(e):
			q := &event.Event{
				ID: e.ID, Type: TypeQuarantined, Source: e.Source, Path: e.Path, Note: err.Error(), Time: e.Time,
				Data: e.Data, DataContentType: e.DataContentType, DataRef: e.DataRef,
			}
			for _, key := range [...]string{metadataDevice, metadataImported} {
				if text, ok := e.Metadata.Text(key); ok {
					q.Metadata.Set(key, text)
				}
			}
			q.Metadata.Set(event.MetadataPath, e.Path)
			q.Metadata.Set(metadataReason, reasonLimit)
			if redacted, ok := e.Metadata.Text(metadataRedacted); ok {
				q.Metadata.Set(metadataRedacted, redacted)
			}
			kept = append(kept, q)
			u.tell(Stats{Quarantined: 1})
		default:
			u.tell(Stats{Refused: 1})
		}
	}
	clear(u.events[len(kept):])
	u.events = kept
}

// tell counts what became of events of the unit.
func (u *unit) tell(c Stats) {
	if u.input == nil {
		u.imported.add(c)
		return
	}
	u.input.metrics.Quarantined.Add(float64(c.Quarantined))
	u.input.metrics.Refused("limit").Add(float64(c.Refused))
	u.input.count(c)
}

// land collects the units that are durable, in order.
func (a *appender) land(ctx context.Context) error {
	for len(a.flight) > 0 {
		f := &a.flight[0]
		select {
		case <-f.receipt.Done():
		default:
			return nil
		}
		if f.position, f.err = f.receipt.Wait(ctx); f.err != nil {
			return a.repeat(ctx)
		}
		a.collect()
	}
	return nil
}

// collect takes note of the oldest unit, which is durable.
func (a *appender) collect() {
	f := a.flight[0]
	a.flight[0] = flying{}
	if a.flight = a.flight[1:]; len(a.flight) == 0 {
		a.flight = nil // lets the array go, which only ever moves forward
	}
	a.bytes -= f.bytes + unitOverhead
	a.progress.note(f.unit, f.position)
	n := len(f.events)
	if f.done != nil {
		f.done(nil)
	}
	if f.input == nil {
		return
	}
	if n > 0 {
		f.input.metrics.Appended.Add(float64(n))
		f.input.count(Stats{Events: uint64(n)})
	}
	if f.from != nil && f.from.Inbox != nil {
		f.from.Inbox.Acknowledge(f.after.inbox)
	}
}

// repeat brings the units in flight into the journal, of which at least one
// failed: it waits for the answers to all, and repeats those that failed in their
// order until none does. Nothing new is submitted meanwhile, so the reader waits.
func (a *appender) repeat(ctx context.Context) error {
	const what = "append to the journal"
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		var cause error
		for i := range a.flight {
			f := &a.flight[i]
			if f.err == nil && !f.durable {
				f.position, f.err = f.receipt.Wait(ctx)
				f.durable = f.err == nil
			}
			var p *journal.PushbackError
			f.unknown = f.unknown || errors.As(f.err, &p) && p.Unknown
			if cause == nil {
				cause = f.err
			}
		}
		if cause == nil {
			break
		}
		if errors.Is(cause, journal.ErrClosed) || ctx.Err() != nil {
			return cause
		}
		a.trouble(stageAppend, what, cause)
		if !sleep(ctx, retryAfter(cause, pause)) {
			return ctx.Err()
		}
		if !a.findUnknown(ctx) {
			continue
		}
		for i := range a.flight {
			f := &a.flight[i]
			if f.durable {
				continue
			}
			if a.send(ctx, f); f.err != nil {
				// Those behind it wait for it; their errors stay as they are.
				break
			}
		}
	}
	a.trouble(stageAppend, what, nil)
	for len(a.flight) > 0 {
		a.collect()
	}
	return nil
}

const (
	// findTimeout bounds one search for units of unknown fate.
	findTimeout = 5 * time.Second
	// maxSearches is how often it is tried until they are appended again all the same.
	maxSearches = 12
)

// findUnknown looks in the journal for the units that may be there although their
// append failed, so that they are not appended twice. It returns false when that cannot be
// known yet: as long as the journal takes nothing, what it was given last may still get
// into it.
func (a *appender) findUnknown(ctx context.Context) bool {
	var unknown []*flying
	for i := range a.flight {
		if f := &a.flight[i]; f.unknown && !f.durable {
			unknown = append(unknown, f)
		}
	}
	if len(unknown) == 0 {
		return true
	}
	if !a.journal.Accepts() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	err := a.readBack(ctx, a.progress.position, a.journal.End(), func(*journal.GapError) {}, func(b *journal.Batch) {
		for i := b.Start(); i < b.Len(); {
			next := i + 1
			for k, f := range unknown {
				last := i + len(f.events) - 1
				if last < b.Len() && b.Event(i).ID == f.events[0].ID && b.Event(last).ID == f.events[last-i].ID {
					f.position, f.err, f.durable = b.Position(i), nil, true
					unknown = append(unknown[:k], unknown[k+1:]...)
					next = last + 1
					break
				}
			}
			i = next
		}
	})
	if err != nil {
		if a.searches++; a.searches < maxSearches {
			return false
		}
		a.log.Warn("could not look for events whose append has an unknown outcome; they may be in the journal twice", "error", err)
	}
	a.searches = 0
	for _, f := range unknown {
		f.unknown = false
	}
	return true
}

// nothing is the receipt of a unit without events.
type nothing struct{}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (nothing) Done() <-chan struct{} { return closed }

func (nothing) Wait(context.Context) (journal.Position, error) { return journal.Position{}, nil }
