package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
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
