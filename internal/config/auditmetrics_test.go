package config

import (
	"strings"
	"testing"
)

func TestAuditMetricsProblems(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"series":     {"{max_series: 5}", "audit_metrics.max_series: 5 is too small; the least is 100"},
		"no bucket":  {"{buckets: [0]}", "audit_metrics.buckets[0]: 0 is too small"},
		"too short":  {"{buckets: [10ns]}", "audit_metrics.buckets[0]: 10ns is too small; the least is 1µs"},
		"too long":   {"{buckets: [1ms, 2h]}", "audit_metrics.buckets[1]: 2h is too large; the most is 1h"},
		"order":      {"{buckets: [1s, 1ms]}", "audit_metrics.buckets: must ascend, but 1ms follows 1s"},
		"twice":      {"{buckets: [1s, 1s]}", "audit_metrics.buckets: must ascend, but 1s follows 1s"},
		"many":       {"{buckets: [" + strings.Repeat("1s, ", 64) + "2s]}", "audit_metrics.buckets: must be 1 to 64 durations"},
		"no list":    {"{buckets: 1s}", "audit_metrics.buckets: must be a list"},
		"no boolean": {"{enabled: maybe}", "audit_metrics.enabled: must be true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("tocsin.yaml", []byte("audit_metrics: "+test.text+"\n"))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	c, err := Parse("tocsin.yaml", []byte("audit_metrics: {buckets: []}\n"))
	if err != nil || len(c.AuditMetrics.Buckets) != 17 {
		t.Errorf("an empty list gave %v, %v", c.AuditMetrics.Buckets, err)
	}
}
