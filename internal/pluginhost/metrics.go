package pluginhost

import "github.com/prometheus/client_golang/prometheus"

// hostMetrics are the counters of the host. Those with a mount go with it.
type hostMetrics struct {
	requests        *prometheus.CounterVec
	events          *prometheus.CounterVec
	starts, crashes *prometheus.CounterVec
	up              *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *hostMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tocsin", Subsystem: "plugin", Name: name, Help: help}, labels)
	}
	m := &hostMetrics{
		requests: counter("requests_total", "Requests handed to the plugin of a mount.", "mount", "outcome"),
		events:   counter("events_total", "Events that the plugin of a mount has sent: published, repeated (an id that was there), refused by reason, completed (had no id), failed (could not be stored).", "mount", "result"),
		starts:   counter("starts_total", "Processes of a plugin that were started.", "plugin"),
		crashes:  counter("crashes_total", "Mounts whose process ended without having been asked to.", "plugin"),
		up:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "tocsin", Subsystem: "plugin", Name: "up", Help: "1 if the plugin of a mount runs."}, []string{"mount"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.events, m.starts, m.crashes, m.up)
	}
	return m
}

// eventCounters count the events of a mount.
type eventCounters struct {
	published, repeated, completed, failed prometheus.Counter
	refused                                func(reason string) prometheus.Counter
}

func (m *hostMetrics) eventsOf(mount string) eventCounters {
	return eventCounters{
		published: m.events.WithLabelValues(mount, "published"),
		repeated:  m.events.WithLabelValues(mount, "repeated"),
		completed: m.events.WithLabelValues(mount, "completed"),
		failed:    m.events.WithLabelValues(mount, "failed"),
		refused:   func(reason string) prometheus.Counter { return m.events.WithLabelValues(mount, "refused "+reason) },
	}
}

// forget removes what belongs to a mount.
func (m *hostMetrics) forget(mount string) {
	labels := prometheus.Labels{"mount": mount}
	m.requests.DeletePartialMatch(labels)
	m.events.DeletePartialMatch(labels)
	m.up.DeletePartialMatch(labels)
}
