package app

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/leak"
)

// openCatalog opens the catalogue of event types. It is closed after everything that
// publishes, and before the journal.
func (a *App) openCatalog(ctx context.Context, types []config.EventType) (err error) {
	c := catalog.Config{State: a.journal.State, Alerts: a.alertTypes, Logger: component(a.log, "catalog")}
	for _, t := range types {
		c.Declared = append(c.Declared, catalog.Declared{
			Type: t.Type, Description: t.Description, Metadata: t.Metadata, SchemaFile: t.SchemaFile, Mode: catalog.Mode(t.Mode),
		})
	}
	if a.catalog, err = catalog.Open(ctx, c); err != nil {
		return fmt.Errorf("publish.types: %w", err)
	}
	a.onStop("event types", a.catalog.Close)
	a.registry.MustRegister(catalogMetrics(a.catalog)...)
	return nil
}

func catalogMetrics(c *catalog.Catalog) []prometheus.Collector {
	violations := func(mode catalog.Mode, count func(catalog.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "tocsin", Name: "schema_violations_total", Help: "Published events that do not adhere to the schema of their type, by what became of them.",
			ConstLabels: prometheus.Labels{"mode": string(mode)},
		}, func() float64 { return float64(count(c.Stats())) })
	}
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "tocsin", Name: "learnt_event_types", Help: "Event types that were learnt from what was published, counted in each namespace.",
		}, func() float64 { return float64(c.Stats().Learnt) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "tocsin", Name: "unlearnt_events_total", Help: "Published events whose type is not in the catalogue, because there are too many types.",
		}, func() float64 { return float64(c.Stats().Unlearnt) }),
		violations(catalog.Warn, func(s catalog.Stats) uint64 { return s.Warned }),
		violations(catalog.RefuseEvents, func(s catalog.Stats) uint64 { return s.Refused }),
	}
}

// secretRules makes the rules on secrets in published events.
func (a *App) secretRules(c config.Secrets) (*leak.Rules, error) {
	rules, err := leak.New(c.Options())
	if err != nil {
		return nil, fmt.Errorf("publish.secrets: %w", err)
	}
	a.registry.MustRegister(secretsFound{rules})
	return rules, nil
}

// secretsFound exports how often the detectors have found something.
type secretsFound struct{ rules *leak.Rules }

var secretsFoundDesc = prometheus.NewDesc("tocsin_secrets_found_total",
	"What looked like a secret in published events, by detector and what was done about it.", []string{"detector", "action"}, nil)

// Describe implements [prometheus.Collector].
func (s secretsFound) Describe(to chan<- *prometheus.Desc) { to <- secretsFoundDesc }

// Collect implements [prometheus.Collector].
func (s secretsFound) Collect(to chan<- prometheus.Metric) {
	for _, c := range s.rules.Counts() {
		to <- prometheus.MustNewConstMetric(secretsFoundDesc, prometheus.CounterValue, float64(c.Refused), c.Detector, string(leak.Refuse))
		to <- prometheus.MustNewConstMetric(secretsFoundDesc, prometheus.CounterValue, float64(c.Masked), c.Detector, string(leak.Mask))
	}
}
