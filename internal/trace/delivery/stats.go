package delivery

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/internal/trace"
)

// counts are the counters of a delivery.
type counts struct {
	delivered, rejected, sampledOut atomic.Uint64 // spans
	batches, batchesRejected, split atomic.Uint64
	retried                         atomic.Uint64 // attempts that were not the last of a batch
	gaps, missed                    atomic.Uint64

	mu     sync.Mutex
	tracer trace.Stats
}

func (c *counts) setTracer(s trace.Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tracer = s
}

// Stats are the figures of a delivery.
type Stats struct {
	Tracer     trace.Stats   // of what was made since the start
	Delivered  uint64        // spans that the receiver has taken
	Rejected   uint64        // spans that it will never take
	SampledOut uint64        // spans that were not to be exported
	Batches    uint64        // delivered
	Retried    uint64        // attempts that failed and were repeated
	Split      uint64        // batches that were sent in two halves
	Gaps       uint64        // places at which events were missing from the journal
	Missed     uint64        // events that were missing there
	InFlight   int           // batches on their way
	LagEvents  uint64        // events of which spans may not be delivered yet
	Lag        time.Duration // age of the oldest of these
}

// Stats returns the figures of now.
func (d *Delivery) Stats() Stats {
	c := &d.counts
	c.mu.Lock()
	s := Stats{Tracer: c.tracer}
	c.mu.Unlock()
	s.Delivered, s.Rejected, s.SampledOut = c.delivered.Load(), c.rejected.Load(), c.sampledOut.Load()
	s.Batches, s.Retried, s.Split = c.batches.Load(), c.retried.Load(), c.split.Load()
	s.Gaps, s.Missed = c.gaps.Load(), c.missed.Load()
	s.LagEvents, s.Lag = d.lag()
	s.InFlight, _ = d.order.waiting()
	return s
}

// lag is how far the receiver is behind the journal.
func (d *Delivery) lag() (events uint64, age time.Duration) {
	end, through := d.journal.End(), d.order.committed().through
	if end.IsZero() || through.Compare(end) >= 0 {
		return 0, 0
	}
	if events = end.Ordinal + 1; !through.IsZero() {
		events = end.Ordinal - through.Ordinal
	}
	_, oldest := d.order.waiting()
	return events, max(time.Since(oldest), 0)
}

func (d *Delivery) measure() {
	events, age := d.lag()
	d.metrics.LagEvents.Set(float64(events))
	d.metrics.LagSeconds.Set(age.Seconds())
}

const (
	// failingFor is how long nothing may be delivered before that is a matter of health.
	failingFor = 30 * time.Second
	// rejectedFor is how long it stays one that spans were refused.
	rejectedFor = 10 * time.Minute
)

// Health returns what is wrong with the delivery.
func (d *Delivery) Health() error {
	if err := d.ended.Load(); err != nil {
		return *err
	}
	if o := d.gate.outage(); o.failures > 0 && time.Since(o.since) > failingFor {
		events, _ := d.lag()
		return fmt.Errorf("no spans are delivered since %s (%d attempts): %s; %d events wait in the journal and are lost for this exporter once the journal removes them (journal.max_age, max_bytes)",
			o.since.UTC().Format(time.RFC3339), o.failures, o.reason, events)
	}
	if text := d.saving.Load(); text != nil {
		return fmt.Errorf("%s; spans delivered meanwhile are delivered again after a restart", *text)
	}
	if r := d.rejected.Load(); r != nil && time.Since(r.at) < rejectedFor {
		return fmt.Errorf("the receiver refused %d spans at %s, %d since the start: %s", r.spans, r.at.UTC().Format(time.RFC3339), d.counts.rejected.Load(), r.reason)
	}
	return nil
}

// Collector exports the figures of deliveries.
type Collector []*Delivery

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tocsin_traces_"+name, help, append([]string{"exporter"}, labels...), nil)
}

var (
	spansDesc    = desc("spans_total", "Spans by what became of them: delivered, rejected (the receiver refused them for ever) or sampled_out.", "outcome")
	attemptsDesc = desc("batches_total", "Batches by what became of them: delivered, retried (an attempt failed), split or rejected.", "outcome")
	madeDesc     = desc("made_total", "Spans made of audit entries: complete, expected (of one entry that has no other), request_only (no response came) or response_only.", "kind")
	failedDesc   = desc("made_failed_total", "Spans made of requests that failed.")
	entriesDesc  = desc("entries_total", "Audit entries and spans that were special: duplicate, unreadable, evicted (closed early for lack of memory), repeated (made again after a restart and not sent again).", "what")
	openDesc     = desc("open_requests", "Requests that wait for their second entry.")
	memoryDesc   = desc("open_bytes", "Memory that they take.")
	inFlightDesc = desc("batches_in_flight", "Batches on their way to the receiver.")
	missedDesc   = desc("missed_events_total", "Events that the journal removed before their spans were delivered.")
	failingDesc  = desc("failing_seconds", "For how long nothing could be delivered; 0: the last batch was.")
)

// Describe implements [prometheus.Collector].
func (c Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{spansDesc, attemptsDesc, madeDesc, failedDesc, entriesDesc, openDesc, memoryDesc, inFlightDesc, missedDesc, failingDesc} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	for _, d := range c {
		s := d.Stats()
		counter := func(desc *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), append([]string{d.Name()}, labels...)...)
		}
		gauge := func(desc *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, d.Name())
		}
		counter(spansDesc, s.Delivered, "delivered")
		counter(spansDesc, s.Rejected, "rejected")
		counter(spansDesc, s.SampledOut, "sampled_out")
		counter(attemptsDesc, s.Batches, "delivered")
		counter(attemptsDesc, s.Retried, "retried")
		counter(attemptsDesc, s.Split, "split")
		counter(attemptsDesc, d.counts.batchesRejected.Load(), "rejected")
		counter(madeDesc, s.Tracer.Complete, "complete")
		counter(madeDesc, s.Tracer.Expected, "expected")
		counter(madeDesc, s.Tracer.RequestOnly, "request_only")
		counter(madeDesc, s.Tracer.ResponseOnly, "response_only")
		counter(failedDesc, s.Tracer.Failed)
		counter(entriesDesc, s.Tracer.Duplicates, "duplicate")
		counter(entriesDesc, s.Tracer.Unreadable, "unreadable")
		counter(entriesDesc, s.Tracer.Evicted, "evicted")
		counter(entriesDesc, s.Tracer.Repeated, "repeated")
		gauge(openDesc, float64(s.Tracer.Open))
		gauge(memoryDesc, float64(s.Tracer.OpenBytes))
		gauge(inFlightDesc, float64(s.InFlight))
		counter(missedDesc, s.Missed)
		failing := 0.0
		if o := d.gate.outage(); o.failures > 0 {
			failing = time.Since(o.since).Seconds()
		}
		gauge(failingDesc, failing)
	}
}
