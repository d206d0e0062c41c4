package config

import "time"

// AuditMetrics is the section "audit_metrics".
type AuditMetrics struct {
	Enabled   bool       `yaml:"enabled" doc:"false counts nothing."`
	MaxSeries int        `yaml:"max_series" min:"100" max:"1000000" doc:"How many time series there may be. One combination of server, namespace, mount and operation takes 10 and one for each bucket; what is beyond is counted under \"other\"."`
	Buckets   []Duration `yaml:"buckets" min:"1us" max:"1h" doc:"Upper bounds of the histogram of durations, ascending, at most 64."`
}

func defaultAuditMetrics() AuditMetrics {
	const ms = Duration(time.Millisecond)
	return AuditMetrics{Enabled: true, MaxSeries: 10_000, Buckets: []Duration{
		ms / 4, ms / 2, ms, ms * 5 / 2, 5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms,
		1000 * ms, 2500 * ms, 5000 * ms, 10_000 * ms, 30_000 * ms, 60_000 * ms,
	}}
}

// maxBuckets bounds a histogram.
const maxBuckets = 64

func (v *validator) auditMetrics(c AuditMetrics) {
	const key = "audit_metrics.buckets"
	if len(c.Buckets) == 0 || len(c.Buckets) > maxBuckets {
		v.report(key, "must be 1 to %d durations", maxBuckets)
		return
	}
	for i := 1; i < len(c.Buckets); i++ {
		if before := c.Buckets[i-1]; c.Buckets[i] <= before {
			v.report(key, "must ascend, but %s follows %s", c.Buckets[i], before)
			return
		}
	}
}

// Bounds returns the buckets in the form that the rest of the program uses.
func (c AuditMetrics) Bounds() []time.Duration {
	bounds := make([]time.Duration, len(c.Buckets))
	for i, b := range c.Buckets {
		bounds[i] = time.Duration(b)
	}
	return bounds
}
