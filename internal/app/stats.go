package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tocsin-events/tocsin/internal/inbox"
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

// spoolCollectors returns the metrics of the inbox of a source.
func spoolCollectors(name string, stats func() inbox.Stats) []prometheus.Collector {
	labels := prometheus.Labels{"name": name}
	gauge := func(metric, help string, value func(inbox.Stats) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "tocsin", Subsystem: "spool", Name: metric, Help: help, ConstLabels: labels,
		}, func() float64 { return value(stats()) })
	}
	counter := func(metric, help string, value func(inbox.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "tocsin", Subsystem: "spool", Name: metric, Help: help, ConstLabels: labels,
		}, func() float64 { return float64(value(stats())) })
	}
	return []prometheus.Collector{
		gauge("memory_bytes", "Bytes of lines that wait in memory for the disk.", func(s inbox.Stats) float64 { return float64(s.MemoryBytes) }),
		gauge("disk_bytes", "Bytes of lines that wait on the disk for the journal.", func(s inbox.Stats) float64 { return float64(s.DiskBytes) }),
		gauge("lines", "Lines that wait for the journal.", func(s inbox.Stats) float64 { return float64(s.MemoryLines + s.DiskLines) }),
		gauge("oldest_seconds", "Age of the oldest line that waits for the journal.", func(s inbox.Stats) float64 { return s.Oldest.Seconds() }),
		gauge("file_bytes", "Size of the files, those that are reserved included.", func(s inbox.Stats) float64 { return float64(s.FileBytes) }),
		counter("dropped_lines_total", "Lines that were not kept because memory and disk were full.", func(s inbox.Stats) uint64 { return s.DroppedLines }),
		counter("dropped_bytes_total", "Bytes of the lines that were not kept.", func(s inbox.Stats) uint64 { return s.DroppedBytes }),
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
