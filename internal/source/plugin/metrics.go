package plugin

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// maxMetrics is how many metrics of one plugin are exported.
const maxMetrics = 100

// boundMetrics returns the metrics that are exported: the first of each name, with names that can
// be labels.
func boundMetrics(all []sourceplugin.Metric) []sourceplugin.Metric {
	kept := make([]sourceplugin.Metric, 0, min(len(all), maxMetrics))
	seen := make(map[string]bool)
	for _, m := range all {
		if len(kept) == maxMetrics {
			break
		}
		if m.Name = clean(m.Name, maxName); m.Name != "" && !seen[m.Name] {
			seen[m.Name] = true
			m.Name = strings.Clone(m.Name)
			kept = append(kept, m)
		}
	}
	return kept
}

// collector exports the numbers of one source.
type collector struct {
	s                                    *Source
	up, starts, progress, gauge, counter *prometheus.Desc
}

// Collector returns the metrics of the source that are not those of every component: whether it
// runs, how often it was started, how far it is, and what its plugin tells.
func (s *Source) Collector() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tocsin_plugin_"+name, help, labels, prometheus.Labels{"source": s.config.Name})
	}
	return &collector{
		s:        s,
		up:       desc("source_up", "1 while the plugin of a source runs."),
		starts:   desc("source_starts_total", "How often the plugin of a source was started."),
		progress: desc("source_progress_ratio", "How far the stream of a plugin is, from 0 to 1, if it tells."),
		gauge:    desc("metric", "What a plugin tells of itself: numbers that rise and fall.", "metric"),
		counter:  desc("metric_total", "What a plugin tells of itself: numbers that only rise.", "metric"),
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.starts, c.progress, c.gauge, c.counter} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	c.s.mu.Lock()
	st, values := c.s.status, c.s.values // which are not changed
	c.s.mu.Unlock()
	up := 0.0
	if st.State == Running {
		up = 1
	}
	to <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, up)
	to <- prometheus.MustNewConstMetric(c.starts, prometheus.CounterValue, float64(st.Starts))
	if st.Progress != nil {
		to <- prometheus.MustNewConstMetric(c.progress, prometheus.GaugeValue, st.Progress.Fraction)
	}
	for _, m := range values {
		if m.Monotonic {
			to <- prometheus.MustNewConstMetric(c.counter, prometheus.CounterValue, m.Value, m.Name)
		} else {
			to <- prometheus.MustNewConstMetric(c.gauge, prometheus.GaugeValue, m.Value, m.Name)
		}
	}
}
