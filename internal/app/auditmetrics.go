package app

import (
	"context"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/trace/meter"
)

// auditMeter counts the requests that the audit entries in the journal are about.
type auditMeter struct {
	meter   *meter.Meter       // nil: nothing is counted
	cancel  context.CancelFunc // nil before start
	running sync.WaitGroup
}

// makeAuditMeter must come before anything is read: what is in the journal by then does
// not count.
func (a *App) makeAuditMeter(ctx context.Context, common *metrics.Metrics) error {
	c := a.config.AuditMetrics
	if !c.Enabled {
		return nil
	}
	var err error
	a.meter.meter, err = meter.New(ctx, meter.Options{
		MaxSeries: c.MaxSeries,
		Buckets:   c.Bounds(),
		Window:    time.Duration(a.config.Traces.Window),
		Fetch:     a.fetchEntry,
	}, meter.Deps{Journal: a.journal, Registry: a.registry, Metrics: common, Logger: component(a.log, "audit_metrics")})
	return err
}

func (m *auditMeter) start(a *App) {
	if m.meter == nil {
		return
	}
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	m.running.Go(func() {
		if err := m.meter.Run(ctx); err != nil {
			component(a.log, "audit_metrics").Error("Requests are not counted any more.", "error", err)
		}
	})
}

func (m *auditMeter) stop(context.Context) error {
	if m.cancel != nil {
		m.cancel()
		m.running.Wait()
	}
	return nil
}
