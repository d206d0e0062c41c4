// Package metrics holds the one naming scheme of the counters that every
// component of the pipeline keeps: what it received, appended, delivered,
// refused and quarantined, and how far it is behind. Each metric has the labels
// component ("source", "journal", "hub", "sink", ...) and name (the name of the
// source, the subscription API, the sink).
package metrics

import "github.com/prometheus/client_golang/prometheus"

// Metrics creates the counters of components. It is safe for concurrent use.
type Metrics struct {
	registry                                            prometheus.Registerer // nil: private
	received, appended, delivered, refused, quarantined *prometheus.CounterVec
	duplicates, lost                                    *prometheus.CounterVec
	lagEvents, lagSeconds                               *prometheus.GaugeVec
}

// New registers the metrics with reg. A nil reg keeps them private, for tests.
func New(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tocsin", Name: name, Help: help},
			append([]string{"component", "name"}, more...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "tocsin", Name: name, Help: help},
			[]string{"component", "name"})
	}
	m := &Metrics{
		registry:    reg,
		received:    counter("received_total", "Items that came in: audit lines, posted events, messages."),
		appended:    counter("appended_total", "Events made durable in the journal."),
		delivered:   counter("delivered_total", "Events handed to a consumer."),
		refused:     counter("refused_total", "Items not accepted, by reason; the producer was told.", "reason"),
		quarantined: counter("quarantined_total", "Items kept as quarantined events because they could not be understood."),
		duplicates:  counter("duplicates_total", "Items that had come already, over another way or sent again, and were not kept twice."),
		lost:        counter("lost_total", "Items that came and could not be kept."),
		lagEvents:   gauge("lag_events", "Events in the journal that a consumer has not read yet."),
		lagSeconds:  gauge("lag_seconds", "Age of the oldest event that a consumer has not read yet."),
	}
	if reg != nil {
		reg.MustRegister(m.received, m.appended, m.delivered, m.refused, m.quarantined, m.duplicates, m.lost, m.lagEvents, m.lagSeconds)
	}
	return m
}

// Component is the set of metrics of one named component. A metric that it does
// not have is nil and not exported: a lag that nobody measures would read as none.
type Component struct {
	Received, Appended, Delivered, Quarantined prometheus.Counter
	Duplicates, Lost                           prometheus.Counter
	LagEvents, LagSeconds                      prometheus.Gauge

	refused *prometheus.CounterVec
}

// Component returns the metrics of the component with these label values. The
// same values give the same counters. A "source" has Received, Appended, Quarantined,
// Duplicates and Lost, a "trail" or "publish" Received and Appended, a "journal" Appended,
// a "hub" Delivered and the lags, a "traces" those and Received, "audit_metrics" and "rules" the lags,
// an "api" or "listener" none, any other component all but Duplicates and Lost; each can
// refuse.
func (m *Metrics) Component(component, name string) *Component {
	c := &Component{refused: m.refused.MustCurryWith(prometheus.Labels{"component": component, "name": name})}
	source, journal, hub := component == "source", component == "journal", component == "hub"
	trail := component == "trail" || component == "publish"
	traces := component == "traces"
	meter := component == "audit_metrics" || component == "rules"
	other := !traces && !meter && !source && !trail && !journal && !hub && component != "api" && component != "listener"
	if source || other {
		c.Quarantined = m.quarantined.WithLabelValues(component, name)
	}
	if source {
		c.Duplicates = m.duplicates.WithLabelValues(component, name)
		c.Lost = m.lost.WithLabelValues(component, name)
	}
	if source || trail || traces || other {
		c.Received = m.received.WithLabelValues(component, name)
	}
	if source || trail || journal || other {
		c.Appended = m.appended.WithLabelValues(component, name)
	}
	if hub || traces || other {
		c.Delivered = m.delivered.WithLabelValues(component, name)
	}
	if hub || traces || meter || other {
		c.LagEvents = m.lagEvents.WithLabelValues(component, name)
		c.LagSeconds = m.lagSeconds.WithLabelValues(component, name)
	}
	return c
}

// LagBytes exports how many bytes a component has not read yet of what it reads,
// for those that cannot count events before they have read them. It must be
// called once for these label values; behind is called at every scrape, by any
// goroutine.
func (m *Metrics) LagBytes(component, name string, behind func() int64) {
	if m.registry == nil {
		return
	}
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "tocsin", Name: "lag_bytes", Help: "Bytes of a file that a source has not read yet.",
		ConstLabels: prometheus.Labels{"component": component, "name": name},
	}, func() float64 { return float64(behind()) }))
}

// Refused counts items not accepted for a reason: a short constant, never text
// from outside.
func (c *Component) Refused(reason string) prometheus.Counter {
	return c.refused.WithLabelValues(reason)
}
