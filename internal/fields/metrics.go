package fields

import "github.com/prometheus/client_golang/prometheus"

// fieldMetrics count what is asked and answered.
type fieldMetrics struct {
	calls, events, missing *prometheus.CounterVec
	orphans                prometheus.Counter
	inUse, memory          prometheus.Gauge
}

func newFieldMetrics(reg prometheus.Registerer) *fieldMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tocsin", Subsystem: "fields", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tocsin", Subsystem: "fields", Name: name, Help: help})
	}
	m := &fieldMetrics{
		calls:   counter("extract_calls_total", "Calls that have a plugin extract fields, by what became of them.", "source", "outcome"),
		events:  counter("extracted_events_total", "Events that a plugin has extracted fields of.", "source"),
		missing: counter("missing_values_total", "Values of fields that could not be extracted: unavailable ones are asked for again, refused ones are not.", "reason"),
		orphans: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tocsin", Subsystem: "fields", Name: "events_without_plugin_total", Help: "Events that fields were asked of although no plugin extracts from their event source. They have none."}),
		inUse:   gauge("in_use", "Different fields of plugins that filters and rules ask for."),
		memory:  gauge("memory_bytes", "Memory of the values that were extracted lately."),
	}
	m.missing.WithLabelValues(reasonUnavailable)
	m.missing.WithLabelValues(reasonRefused)
	if reg != nil {
		reg.MustRegister(m.calls, m.events, m.missing, m.orphans, m.inUse, m.memory)
	}
	return m
}

// Labels.
const (
	reasonUnavailable = "unavailable"
	reasonRefused     = "refused"
	outcomeAnswered   = "answered"
	outcomeFailed     = "failed"
)
