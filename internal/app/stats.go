package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tocsin-events/tocsin/internal/tail"
)

// newRegistry returns a registry with what every program has: the Go runtime, the
// process, and which version this is.
func newRegistry(version string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "tocsin", Name: "build_info", Help: "1; the label says which version runs.",
		ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
	reg.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// fileIncidents returns counters of what happened to the file that a source
// follows. The last three say that lines may have been missed.
func fileIncidents(name string, stats func() tail.Stats) []prometheus.Collector {
	counter := func(incident string, count func(tail.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "tocsin", Name: "source_file_incidents_total",
			Help:        "What happened to a followed file. After missing, compressed and unreadable lines may have been missed.",
			ConstLabels: prometheus.Labels{"name": name, "incident": incident},
		}, func() float64 { return float64(count(stats())) })
	}
	return []prometheus.Collector{
		counter("rotation", func(s tail.Stats) uint64 { return s.Rotations }),
		counter("truncation", func(s tail.Stats) uint64 { return s.Truncations }),
		counter("torn_line", func(s tail.Stats) uint64 { return s.Torn }),
		counter("long_line", func(s tail.Stats) uint64 { return s.TooLong }),
		counter("nul_byte", func(s tail.Stats) uint64 { return s.NULs }),
		counter("missing", func(s tail.Stats) uint64 { return s.Missing }),
		counter("compressed", func(s tail.Stats) uint64 { return s.Compressed }),
		counter("unreadable", func(s tail.Stats) uint64 { return s.Unreadable }),
	}
}

// Stats are the figures that a person who watches the hub wants to see. All but
// Subscribers and Healthy only grow.
type Stats struct {
	Lines       uint64 // that sources read
	Events      uint64 // made durable
	Delivered   uint64 // to all subscribers together
	Quarantined uint64 // lines that were not understood
	Subscribers int
	Healthy     bool
	At          time.Time
}

// Stats returns the figures of now. They are those of /metrics, added up over
// sources.
func (a *App) Stats() Stats {
	s := Stats{At: time.Now(), Healthy: a.health.Report().OK()}
	families, err := a.registry.Gather()
	if err != nil {
		return s // what could not be gathered is logged where it is served
	}
	for _, f := range families {
		sum := func(component string) (total float64) {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "component" && l.GetValue() == component {
						total += m.GetCounter().GetValue()
					}
				}
			}
			return total
		}
		switch f.GetName() {
		case "tocsin_received_total":
			s.Lines = uint64(sum("source"))
		case "tocsin_appended_total":
			s.Events = uint64(sum("journal"))
		case "tocsin_delivered_total":
			s.Delivered = uint64(sum("hub"))
		case "tocsin_quarantined_total":
			s.Quarantined = uint64(sum("source"))
		case "tocsin_hub_subscriptions":
			s.Subscribers = int(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	return s
}
