package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// What a component does not have is not exported: it would be 0 for ever.
func TestNoSeriesWithoutAMeaning(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := New(reg)
	m.Component("source", "vault").Received.Add(3)
	m.Component("journal", "journal").Appended.Add(2)
	m.Component("hub", "subscribe").Refused("denied").Inc()
	m.Component("trail", "trail").Appended.Inc()
	m.Component("listener", "http").Refused("too many").Inc()
	m.LagBytes("source", "vault", func() int64 { return 700 })
	m.LagBytes("source", "bao", func() int64 { return 0 })
	want := `
# HELP tocsin_appended_total Events made durable in the journal.
# TYPE tocsin_appended_total counter
tocsin_appended_total{component="journal",name="journal"} 2
tocsin_appended_total{component="source",name="vault"} 0
tocsin_appended_total{component="trail",name="trail"} 1
# HELP tocsin_delivered_total Events handed to a consumer.
# TYPE tocsin_delivered_total counter
tocsin_delivered_total{component="hub",name="subscribe"} 0
# HELP tocsin_duplicates_total Items that had come already, over another way or sent again, and were not kept twice.
# TYPE tocsin_duplicates_total counter
tocsin_duplicates_total{component="source",name="vault"} 0
# HELP tocsin_lag_bytes Bytes of a file that a source has not read yet.
# TYPE tocsin_lag_bytes gauge
tocsin_lag_bytes{component="source",name="bao"} 0
tocsin_lag_bytes{component="source",name="vault"} 700
# HELP tocsin_lag_events Events in the journal that a consumer has not read yet.
# TYPE tocsin_lag_events gauge
tocsin_lag_events{component="hub",name="subscribe"} 0
# HELP tocsin_lag_seconds Age of the oldest event that a consumer has not read yet.
# TYPE tocsin_lag_seconds gauge
tocsin_lag_seconds{component="hub",name="subscribe"} 0
# HELP tocsin_lost_total Items that came and could not be kept.
# TYPE tocsin_lost_total counter
tocsin_lost_total{component="source",name="vault"} 0
# HELP tocsin_quarantined_total Items kept as quarantined events because they could not be understood.
# TYPE tocsin_quarantined_total counter
tocsin_quarantined_total{component="source",name="vault"} 0
# HELP tocsin_received_total Items that came in: audit lines, posted events, messages.
# TYPE tocsin_received_total counter
tocsin_received_total{component="source",name="vault"} 3
tocsin_received_total{component="trail",name="trail"} 0
# HELP tocsin_refused_total Items not accepted, by reason; the producer was told.
# TYPE tocsin_refused_total counter
tocsin_refused_total{component="hub",name="subscribe",reason="denied"} 1
tocsin_refused_total{component="listener",name="http",reason="too many"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// A component of another kind has everything, and the same labels the same counters.
func TestOtherComponents(t *testing.T) {
	m := New(nil)
	m.Component("sink", "kafka").Delivered.Inc()
	m.LagBytes("sink", "kafka", func() int64 { return 1 }) // private: nothing to register with
	c := m.Component("sink", "kafka")
	if n := testutil.ToFloat64(c.Delivered); n != 1 {
		t.Errorf("delivered %v", n)
	}
	for _, metric := range []prometheus.Collector{c.Received, c.Appended, c.Quarantined, c.LagEvents, c.LagSeconds} {
		if n := testutil.ToFloat64(metric); n != 0 {
			t.Errorf("%v", n)
		}
	}
}
