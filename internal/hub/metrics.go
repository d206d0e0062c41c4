package hub

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/tocsin-events/tocsin/internal/metrics"
)

// hubMetrics are the hub's part of the common metrics and its own ones.
type hubMetrics struct {
	*metrics.Component
	subscriptions, groups, stalled, memory prometheus.Gauge
	starving                               prometheus.Gauge
	gaps, gapEvents                        prometheus.Counter
	readErrors, journalReads               prometheus.Counter
	missingFields                          prometheus.Counter
}

func newHubMetrics(m *metrics.Metrics, reg prometheus.Registerer) *hubMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tocsin", Subsystem: "hub", Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tocsin", Subsystem: "hub", Name: name, Help: help})
	}
	h := &hubMetrics{
		Component:     m.Component("hub", "subscribe"),
		subscriptions: gauge("subscriptions", "Subscriptions that are open."),
		groups:        gauge("groups", "Different things that the open subscriptions ask for."),
		stalled:       gauge("stalled_subscriptions", "Subscriptions whose peer does not read at the moment."),
		starving:      gauge("waiting_for_fields_subscriptions", "Subscriptions that wait because a field of their filter cannot be extracted at the moment."),
		memory:        gauge("memory_bytes", "Memory of the events kept for the subscriptions that are working on them."),
		gaps:          counter("gaps_total", "Subscriptions closed because retention had removed events due to them."),
		gapEvents:     counter("gap_events_total", "Events that retention had removed before a subscription got to them, selected by it or not."),
		readErrors:    counter("journal_read_errors_total", "Failed reads of the journal; they are repeated."),
		journalReads:  counter("journal_reads_total", "Batches read from the journal, each once for all subscriptions at its place."),
		missingFields: counter("missing_fields_events_total", "Events that a filter has decided on without a field, because the plugin fails with the event, once for each filter."),
	}
	if reg != nil {
		reg.MustRegister(h.subscriptions, h.groups, h.stalled, h.starving, h.memory, h.gaps, h.gapEvents, h.readErrors, h.journalReads, h.missingFields)
	}
	return h
}
