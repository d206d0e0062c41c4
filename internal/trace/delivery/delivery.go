// Package delivery brings the spans of the journal to exporters. Each exporter has a
// delivery of its own: a cursor that reads the journal at its own pace, makes the spans,
// takes a sample of them, sends them in batches, tries again for as long as it must, and
// remembers durably how far it has come. So an exporter that is slow, or whose receiver is
// down for hours, delays nobody else, costs no memory, and loses nothing that the journal
// still has.
//
// Delivered is at least once: after a crash, the batches that were on their way, or were
// delivered in the moment before it that storing the progress takes, are sent again, with the
// same trace and span ids.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/throttle"
	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/export"
)

// Journal is what a delivery needs of the journal, which [*journal.Journal] has.
type Journal interface {
	Read(after journal.Position) *journal.Reader
	End() journal.Position
	State(ctx context.Context, bucket string) (jetstream.KeyValue, error)
}

// Tracer makes spans of events, as [*trace.Tracer] does.
type Tracer interface {
	Add(dst []*trace.Span, e *event.Event, at journal.Position) []*trace.Span
	Settle(dst []*trace.Span) []*trace.Span
	Flush(dst []*trace.Span) []*trace.Span
	Expire(dst []*trace.Span, now time.Time) []*trace.Span
	Progress() trace.Progress
	Stats() trace.Stats
}

// From is where a delivery begins that has no position yet.
type From string

// The places where a delivery can begin.
const (
	FromStart From = "start" // the oldest event in the journal
	FromEnd   From = "end"   // what comes from now on
)

// Defaults of a [Config].
const (
	DefaultMaxSpans     = 512
	DefaultMaxBytes     = 1 << 20
	DefaultMaxDelay     = time.Second
	DefaultInFlight     = 4
	DefaultFlushTimeout = 3 * time.Second
)

// DefaultBackoff is the pause between attempts.
var DefaultBackoff = Backoff{First: 500 * time.Millisecond, Most: 15 * time.Second}

// Config says what is delivered, and how. Name, Exporter and Tracer are required.
type Config struct {
	// Name of the exporter. The progress is stored under it.
	Name string
	// Exporter is closed by Run.
	Exporter export.Exporter
	// Tracer returns a tracer that goes on from there.
	Tracer func(trace.Progress) (Tracer, error)
	// Sampling must be set: the zero value exports nothing.
	Sampling Sampling
	// From says where to begin the first time; default [FromEnd].
	From From
	// A batch is sent when it has so many spans, or so many bytes, or when so much time
	// has passed since its first one.
	MaxSpans int
	MaxBytes int
	MaxDelay time.Duration
	// InFlight is how many batches are on their way at the same time, at least 2: with one,
	// a batch that a receiver fails with could not be told from a receiver that fails.
	InFlight int
	Backoff  Backoff
	// FlushTimeout bounds how long Run sends after its context has ended.
	FlushTimeout time.Duration
}

// Deps are what a Delivery works with. Journal is required.
type Deps struct {
	Journal Journal
	Metrics *metrics.Metrics // default: private
	Logger  *slog.Logger     // default: none
}

// Delivery brings spans to one exporter.
type Delivery struct {
	config  Config
	log     *slog.Logger
	journal Journal
	metrics *metrics.Component
	record  record
	gate    *gate
	order   order
	slots   chan struct{} // one element per batch on its way

	encoding   sync.Mutex
	sending    sync.WaitGroup
	progressed chan struct{} // has an element when something was delivered
	stopping   chan struct{} // closed: nothing waits for the receiver any more

	counts   counts
	rejected atomic.Pointer[rejection] // last one
	ended    atomic.Pointer[error]     // why Run has returned
	saving   atomic.Pointer[string]    // why the progress cannot be stored
	warnings struct {
		nextFailing       atomic.Int64 // Unix time in nanoseconds; 0: at once
		rejected, answers throttle.Throttle
	}

	// Of the goroutine that reads.
	tracer  Tracer
	spans   []*trace.Span    // given out by the tracer and not looked at
	batch   []*trace.Span    // to be sent next
	bytes   int              // of batch
	own     int              // how many of batch do not share the memory of records
	held    int              // bytes of the records that may be in memory because of batch
	due     time.Time        // when batch is sent at the latest
	pending item             // of batch
	at      mark             // behind the last record read
	resumed journal.Position // up to here everything was delivered before the start
}

// rejection is why spans were not delivered and never will be.
type rejection struct {
	at     time.Time
	spans  int
	reason string
}

// New returns a delivery that does nothing before Run.
func New(c Config, deps Deps) *Delivery {
	if c.From == "" {
		c.From = FromEnd
	}
	if c.MaxSpans <= 0 {
		c.MaxSpans = DefaultMaxSpans
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.MaxDelay <= 0 {
		c.MaxDelay = DefaultMaxDelay
	}
	if c.InFlight <= 0 {
		c.InFlight = DefaultInFlight
	}
	c.InFlight = max(c.InFlight, 2)
	if c.Backoff == (Backoff{}) {
		c.Backoff = DefaultBackoff
	}
	if c.FlushTimeout <= 0 {
		c.FlushTimeout = DefaultFlushTimeout
	}
	if deps.Metrics == nil {
		deps.Metrics = metrics.New(nil)
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	return &Delivery{
		config: c, log: deps.Logger.With("exporter", c.Name), journal: deps.Journal,
		metrics:    deps.Metrics.Component("traces", c.Name),
		record:     record{journal: deps.Journal, name: c.Name},
		gate:       newGate(c.Backoff),
		slots:      make(chan struct{}, c.InFlight),
		stopping:   make(chan struct{}),
		progressed: make(chan struct{}, 1),
	}
}

// Name returns the name of the exporter.
func (d *Delivery) Name() string { return d.config.Name }

// Run delivers until ctx ends. Then it sends what it has read, once and for at most
// FlushTimeout, stores how far it has come, and closes the exporter. It returns an error
// when it can never begin. It must be called once.
func (d *Delivery) Run(ctx context.Context) (err error) {
	defer d.config.Exporter.Close()
	defer func() {
		if err != nil {
			d.ended.Store(&err)
		}
	}()
	reader, err := d.begin(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("exporter %s: %w", d.config.Name, err)
	}
	sendCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	keepCtx, stopKeeping := context.WithCancel(sendCtx)
	var keeping sync.WaitGroup
	keeping.Go(func() { d.keep(keepCtx) })

	err = d.read(ctx, sendCtx, reader)
	d.finish(sendCtx, cancel)
	stopKeeping()
	keeping.Wait()
	d.save(context.WithoutCancel(ctx))
	if ctx.Err() != nil || errors.Is(err, journal.ErrClosed) {
		return nil
	}
	return fmt.Errorf("exporter %s: %w", d.config.Name, err)
}

// begin finds out where to go on, and stores where that is the first time: a position
// that is not stored would be another one after a restart.
func (d *Delivery) begin(ctx context.Context) (*journal.Reader, error) {
	var at mark
	var known bool
	err := d.retry(ctx, "read back how far the exporter was", func(ctx context.Context) (err error) {
		at, known, err = d.record.load(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !known {
		if d.config.From == FromEnd {
			end := d.journal.End()
			at = mark{trace.Progress{Read: end, Open: end, Closed: end}, end}
		}
		if err := d.retry(ctx, "store where the exporter begins", func(ctx context.Context) error {
			return d.record.save(ctx, at)
		}); err != nil {
			return nil, err
		}
	}
	if d.tracer, err = d.config.Tracer(at.progress); err != nil {
		return nil, err
	}
	d.order.reach(at, time.Now())
	d.at, d.resumed = mark{at.progress, at.progress.Read}, at.through
	return d.journal.Read(at.progress.Read), nil
}

// retry does what the journal's storage may not do at the moment, until it does.
func (d *Delivery) retry(ctx context.Context, what string, try func(context.Context) error) error {
	for n := 1; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, saveTimeout)
		err := try(attempt)
		cancel()
		d.noteSaving(what, err)
		if err == nil || errors.Is(err, errRecord) {
			return err
		}
		timer := time.NewTimer(d.config.Backoff.wait(n))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// lookAgain is how often a batch that is due looks for somebody who can send it.
const lookAgain = 20 * time.Millisecond

// expireEvery is how often requests are looked for that have waited for too long.
const expireEvery = time.Second

// read makes batches of the journal until ctx ends, and sends what is left then.
func (d *Delivery) read(ctx, sendCtx context.Context, reader *journal.Reader) error {
	expire := time.Now().Add(expireEvery)
	for {
		wake := expire
		if len(d.batch) > 0 && d.due.Before(wake) {
			wake = d.due
		}
		waitCtx, cancel := context.WithDeadline(ctx, wake)
		b, err := reader.Next(waitCtx)
		cancel()
		var gap *journal.GapError
		switch {
		case err == nil:
			err = d.take(ctx, sendCtx, b)
		case errors.As(err, &gap):
			err = d.gap(gap)
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			err = nil
			if now := time.Now(); !now.Before(expire) && d.caughtUp() {
				d.spans = d.tracer.Expire(d.spans[:0], now)
				if err = d.sort(ctx, sendCtx, d.spans, now); err == nil {
					d.reach(d.at.through, now)
				}
			}
		}
		now := time.Now()
		if err == nil && len(d.batch) > 0 && !now.Before(d.due) {
			select {
			case d.slots <- struct{}{}:
				d.start(sendCtx)
			default: // all are busy: it grows meanwhile
				d.due = now.Add(lookAgain)
			}
		}
		if !now.Before(expire) {
			expire = now.Add(expireEvery)
			d.counts.setTracer(d.tracer.Stats())
		}
		if err != nil {
			d.counts.setTracer(d.tracer.Stats())
			return err
		}
	}
}

// take makes the spans of a record of the journal.
func (d *Delivery) take(ctx, sendCtx context.Context, b *journal.Batch) error {
	for i := b.Start(); i < b.Len(); i++ {
		if i > b.Start() && d.nearlyFull() && trace.IsEntry(b.Event(i)) {
			if err := d.cut(ctx, sendCtx, b.Position(i-1), b.Recorded()); err != nil {
				return err
			}
		}
		d.spans = d.tracer.Add(d.spans[:0], b.Event(i), b.Position(i))
		if len(d.spans) > 0 {
			if err := d.sort(ctx, sendCtx, d.spans, b.Recorded()); err != nil {
				return err
			}
		}
	}
	d.spans = d.tracer.Flush(d.spans[:0])
	if err := d.sort(ctx, sendCtx, d.spans, b.Recorded()); err != nil {
		return err
	}
	d.reach(b.End(), b.Recorded())
	d.hold(b.Size())
	return nil
}

// Records that a batch keeps in memory may take so much, and so many times the batch.
const (
	heldBytes = 4 << 20
	heldTimes = 4
)

// hold notes that a record was read, which spans of the batch may be made of. When the batch
// has little of what was read, because of the sampling or because there is much else in the
// journal, its spans become independent of the records.
func (d *Delivery) hold(record int) {
	if len(d.batch) == 0 {
		return
	}
	if d.held += record; d.held <= heldBytes+heldTimes*d.bytes {
		return
	}
	d.held = 0
	for i, s := range d.batch[d.own:] {
		d.batch[d.own+i] = s.Detached()
	}
	d.own = len(d.batch)
}

// nearlyFull says that the batch has room for one span, or for few bytes.
func (d *Delivery) nearlyFull() bool {
	return len(d.batch)+1 >= d.config.MaxSpans || d.bytes >= d.config.MaxBytes-d.config.MaxBytes/8
}

// cut sends the batch in the middle of a record, where its end is a place to go on from: a
// record may have the spans of many batches.
func (d *Delivery) cut(ctx, sendCtx context.Context, through journal.Position, recorded time.Time) error {
	d.spans = d.tracer.Settle(d.spans[:0])
	for _, s := range d.spans {
		d.collect(s, recorded)
	}
	d.reach(through, recorded)
	if len(d.batch) == 0 {
		return nil
	}
	return d.send(ctx, sendCtx)
}

// reach notes that all spans up to here are in batches.
func (d *Delivery) reach(through journal.Position, recorded time.Time) {
	if clear(d.spans[:cap(d.spans)]); cap(d.spans) > 4*d.config.MaxSpans { // they keep records of the journal in memory
		d.spans = nil
	}
	d.at = mark{d.tracer.Progress(), through}
	if through.Compare(d.resumed) < 0 {
		return // read again for the requests that are open
	}
	if len(d.batch) > 0 {
		d.pending.mark, d.pending.marked = d.at, true
		return
	}
	d.order.reach(d.at, recorded)
}

// caughtUp says that everything was read that the journal has.
func (d *Delivery) caughtUp() bool {
	end, at := d.journal.End(), d.at.through
	return end.IsZero() || !at.IsZero() && at.Ordinal >= end.Ordinal
}

// sort puts the spans that are exported into the batch, which is sent when it is full.
func (d *Delivery) sort(ctx, sendCtx context.Context, spans []*trace.Span, recorded time.Time) error {
	for _, s := range spans {
		d.collect(s, recorded)
		if len(d.batch) >= d.config.MaxSpans || d.bytes >= d.config.MaxBytes {
			if err := d.send(ctx, sendCtx); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect puts a span that is exported into the batch.
func (d *Delivery) collect(s *trace.Span, recorded time.Time) {
	d.metrics.Received.Inc()
	if !d.config.Sampling.Takes(s) {
		d.counts.sampledOut.Add(1)
		return
	}
	if len(d.batch) == 0 {
		d.due = time.Now().Add(d.config.MaxDelay)
		d.pending.recorded = recorded
	}
	d.batch = append(d.batch, s)
	d.bytes += spanBytes(s)
}

// spanBytes is about how many bytes a span has when it is encoded.
func spanBytes(s *trace.Span) int {
	n := 64 + len(s.Name) + len(s.Message) + len(s.TraceState)
	for i := range s.Attributes {
		a := &s.Attributes[i]
		n += 12 + len(a.Key) + len(a.Value.Text)
		for _, text := range a.Value.Texts {
			n += 4 + len(text)
		}
	}
	return n
}

// send hands the batch to a sender, when there is one. Nothing is read while it waits for
// that. It returns the error of ctx when that ends before; the batch is then still there.
func (d *Delivery) send(ctx, sendCtx context.Context) error {
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	d.start(sendCtx)
	return nil
}

// start sends the batch. The caller has taken a slot.
func (d *Delivery) start(sendCtx context.Context) {
	i := d.pending
	spans := d.batch
	d.batch, d.bytes = make([]*trace.Span, 0, min(len(spans), d.config.MaxSpans)), 0
	d.own, d.held = 0, 0
	d.pending.marked = false
	payload := d.encode(spans)
	d.order.add(&i)
	d.sending.Go(func() {
		defer func() { <-d.slots }()
		s := sender{Delivery: d, budget: splitBudget, begin: d.gate.passed()}
		if s.deliver(sendCtx, payload, spans) {
			d.order.finish(&i)
			select {
			case d.progressed <- struct{}{}:
			default:
			}
		}
	})
}

func (d *Delivery) encode(spans []*trace.Span) export.Payload {
	d.encoding.Lock()
	defer d.encoding.Unlock()
	return d.config.Exporter.Encode(spans)
}

// finish sends what is left, and waits for those that send.
func (d *Delivery) finish(sendCtx context.Context, cancel context.CancelFunc) {
	close(d.stopping) // whoever waits for the receiver gives up, and its slot is free
	limit, release := context.WithTimeout(sendCtx, d.config.FlushTimeout)
	defer release()
	if len(d.batch) > 0 {
		select {
		case d.slots <- struct{}{}:
			d.start(sendCtx)
		case <-limit.Done():
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.sending.Wait()
	}()
	select {
	case <-done:
		return
	case <-limit.Done():
	}
	cancel()
	select {
	case <-done:
	case <-time.After(time.Second): // a stream that takes nothing cannot be interrupted
		d.log.Warn("The exporter does not end; its last spans may be sent again.")
	}
}

// gap passes over what the journal does not have any more.
func (d *Delivery) gap(gap *journal.GapError) error {
	if errors.Is(gap.Cause, journal.ErrNotFound) {
		d.log.Warn("The journal is not the one that was read before; spans are made of all that it has.", "error", gap)
		tracer, err := d.config.Tracer(trace.Progress{})
		if err != nil {
			return err
		}
		d.tracer, d.resumed = tracer, journal.Position{}
		d.counts.gaps.Add(1)
		return nil
	}
	// Behind the progress there may be older events that are read again for their
	// requests only. Their spans were delivered.
	missed := gap.Events
	if missed > 0 && !d.resumed.IsZero() {
		if missed = min(missed, gap.Next.Ordinal-min(d.resumed.Ordinal+1, gap.Next.Ordinal)); missed == 0 {
			return nil
		}
	}
	d.counts.gaps.Add(1)
	d.counts.missed.Add(missed)
	d.log.Error("Events were removed from the journal before their spans were delivered: the exporter was behind for longer than the journal keeps them.", "events", missed, "error", gap)
	return nil
}
