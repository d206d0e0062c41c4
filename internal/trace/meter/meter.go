// Package meter counts the requests to Vault and OpenBao that the journal has: how many
// there are, how they end and how long they take, by server, namespace, mount and
// operation, for Prometheus. It is a cursor on the journal like any other consumer, and
// pairs the entries as package trace does. Requests of old logs that were imported are not
// counted: Prometheus would take them for requests of now.
//
// Callers of a server choose what stands in its audit log, so everything that becomes a
// label is bounded: in length, in how many values a label has, and in how many time series
// there are. What would be beyond is counted under "other".
package meter

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/throttle"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// Journal is what a Meter needs of the journal, which [*journal.Journal] has.
type Journal interface {
	Read(after journal.Position) *journal.Reader
	End() journal.Position
	Recent(ctx context.Context, n uint64) (journal.Position, error)
}

// DefaultBuckets are the upper bounds of the histogram of durations.
var DefaultBuckets = []time.Duration{
	250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
}

// Defaults and bounds of [Options].
const (
	DefaultMaxSeries = 10_000
	MaxBuckets       = 64
	// openBytes bounds the memory of requests that wait for their response: more than
	// 40,000.
	openBytes = 32 << 20
)

// Options of a Meter. The zero value is usable.
type Options struct {
	// MaxSeries bounds how many time series there are of requests and their durations.
	// Zero: DefaultMaxSeries.
	MaxSeries int
	// Buckets are the upper bounds of the histogram, in ascending order, at most
	// MaxBuckets. Nil: DefaultBuckets.
	Buckets []time.Duration
	// Window is how long a response is waited for. Zero: trace.DefaultWindow.
	Window time.Duration
	// Fetch returns the data of an event that has DataRef instead, see [trace.Options].
	Fetch func(*event.Event) ([]byte, error)
}

// Deps are what a Meter works with. Journal is required.
type Deps struct {
	Journal  Journal
	Registry prometheus.Registerer // default: none, for tests
	Metrics  *metrics.Metrics      // default: private
	Logger   *slog.Logger          // default: none
}

// Meter counts requests.
type Meter struct {
	journal Journal
	lag     *metrics.Component
	log     *slog.Logger
	gaps    throttle.Throttle

	// Of the goroutine that reads.
	tracer *trace.Tracer
	table  *table
	after  journal.Position
	read   uint64    // events before this one were read
	last   time.Time // when the last event that was read was recorded
	spans  []*trace.Span
	hex    [2 * len(trace.TraceID{})]byte

	unpaired [2]*prometheus.CounterVec
	missed   prometheus.Counter
}

// warmUp is how many events before the end of the journal are read again, so that requests
// that were under way when the hub was stopped are counted, and with their whole duration.
const warmUp = 20_000

// New returns a Meter that counts the requests which end behind the present end of the
// journal. Nothing is read before [Meter.Run].
func New(ctx context.Context, o Options, deps Deps) (*Meter, error) {
	if o.MaxSeries <= 0 {
		o.MaxSeries = DefaultMaxSeries
	}
	if o.Buckets == nil {
		o.Buckets = DefaultBuckets
	}
	if !areBuckets(o.Buckets) {
		return nil, fmt.Errorf("the buckets must be 1 to %d durations above 0, in ascending order", MaxBuckets)
	}
	if deps.Metrics == nil {
		deps.Metrics = metrics.New(nil)
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	end := deps.Journal.End()
	back, err := deps.Journal.Recent(ctx, warmUp)
	if err != nil || back.Compare(end) > 0 {
		back = end // the requests under way at the end of the last run will lack their beginning
	}
	tracer, err := trace.NewTracer(trace.Options{
		Bare:     true,
		Window:   o.Window,
		MaxBytes: openBytes,
		Fetch:    o.Fetch,
		Resume:   trace.Progress{Read: back, Back: back, Open: back, Closed: end},
	})
	if err != nil {
		return nil, err
	}
	m := &Meter{
		journal: deps.Journal,
		lag:     deps.Metrics.Component("audit_metrics", "audit_metrics"),
		log:     deps.Logger,
		tracer:  tracer,
		table:   newTable(o.MaxSeries, o.Buckets),
		after:   back,
		missed: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "tocsin", Name: "audit_metrics_missed_events_total",
			Help: "Events that were removed from the journal before they were counted.",
		}),
	}
	m.read = ordinal(back)
	unpaired := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "tocsin", Name: "audit_unpaired_total",
		Help: "Requests of which an audit entry is missing: the response did not come in time, or its request was never seen.",
	}, []string{labelNames[labelSource], "missing"})
	for i, missing := range []string{"response", "request"} {
		m.unpaired[i] = unpaired.MustCurryWith(prometheus.Labels{"missing": missing})
	}
	if deps.Registry != nil {
		for _, c := range append(m.table.collectors(), unpaired, m.missed) {
			if err := deps.Registry.Register(c); err != nil {
				return nil, fmt.Errorf("register the metrics of audited requests: %w", err)
			}
		}
	}
	return m, nil
}

func areBuckets(list []time.Duration) bool {
	last := time.Duration(0)
	for _, b := range list {
		if b <= last {
			return false
		}
		last = b
	}
	return len(list) > 0 && len(list) <= MaxBuckets
}

// ordinal is how many events there are up to a position.
func ordinal(p journal.Position) uint64 {
	if p.IsZero() {
		return 0
	}
	return p.Ordinal + 1
}

// expireEvery is how often requests are looked for that have waited for too long, and the
// lag is measured.
const expireEvery = time.Second

// Run counts until ctx ends. It returns an error only when the journal cannot be read any
// more. It must be called once.
func (m *Meter) Run(ctx context.Context) error {
	reader := m.journal.Read(m.after)
	expire := time.Now().Add(expireEvery)
	for {
		waitCtx, cancel := context.WithDeadline(ctx, expire)
		b, err := reader.Next(waitCtx)
		cancel()
		now := time.Now()
		var gap *journal.GapError
		switch {
		case err == nil:
			m.take(b, now)
		case errors.As(err, &gap):
			m.miss(gap)
		case ctx.Err() != nil || errors.Is(err, journal.ErrClosed):
			return nil
		case !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("count audited requests: %w", err)
		}
		if !now.Before(expire) {
			expire = now.Add(expireEvery)
			if m.measureLag(now) == 0 {
				m.spans = m.tracer.Expire(m.spans, now)
				m.count(now)
			}
		}
	}
}

// take counts what a record of the journal completes.
func (m *Meter) take(b *journal.Batch, now time.Time) {
	for i := b.Start(); i < b.Len(); i++ {
		m.spans = m.tracer.Add(m.spans, b.Event(i), b.Position(i))
	}
	m.spans = m.tracer.Flush(m.spans)
	m.count(now)
	m.read = ordinal(b.End())
	m.last = b.Recorded()
}

func (m *Meter) miss(gap *journal.GapError) {
	m.missed.Add(float64(gap.Events))
	m.read = max(m.read, gap.Next.Ordinal)
	if skipped, ok := m.gaps.Allow(); ok {
		m.log.Warn("Events were removed from the journal before their requests were counted.", "events", gap.Events, "skipped", skipped, "error", gap.Cause)
	}
}

// measureLag returns how many events are not read yet.
func (m *Meter) measureLag(now time.Time) uint64 {
	end := ordinal(m.journal.End())
	lag := end - min(end, m.read)
	m.lag.LagEvents.Set(float64(lag))
	age := time.Duration(0)
	if lag > 0 && !m.last.IsZero() {
		age = max(0, now.Sub(m.last))
	}
	m.lag.LagSeconds.Set(age.Seconds())
	return lag
}

// count counts the requests of the spans and lets go of them.
func (m *Meter) count(now time.Time) {
	for _, s := range m.spans {
		m.request(s, now)
	}
	clear(m.spans) // they keep records of the journal in memory
	m.spans = m.spans[:0]
}

func (m *Meter) request(s *trace.Span, now time.Time) {
	if !s.Counts() || s.Imported {
		return
	}
	row := m.table.row(s)
	var traceID string
	exemplar := func() prometheus.Labels {
		if traceID == "" {
			hex.Encode(m.hex[:], s.TraceID[:])
			traceID = string(m.hex[:])
		}
		return prometheus.Labels{"trace_id": traceID}
	}
	row.count(s.Outcome(), now, exemplar)
	if s.Kind == trace.Complete {
		row.observe(s.Duration(), now, exemplar)
	}
	if s.Incomplete() {
		missing := m.unpaired[0]
		if s.Kind == trace.ResponseOnly {
			missing = m.unpaired[1]
		}
		missing.WithLabelValues(row.labels[labelSource]).Inc()
	}
}
