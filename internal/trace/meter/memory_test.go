package meter

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/internal/trace"
)

// What the documentation says about memory: a combination of labels with everything that
// it can have.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 370
	tb := newTable(DefaultMaxSeries, DefaultBuckets)
	labels := func() prometheus.Labels {
		return prometheus.Labels{"trace_id": "0123456789abcdef0123456789abcdef"}
	}
	for i := range n {
		r := tb.row(&trace.Span{Source: "vault://prod", Request: trace.Request{MountPoint: fmt.Sprintf("m%d/", i/5), MountType: "kv", Operation: fmt.Sprintf("read%s", []string{"", "a", "b", "c", "d"}[i%5])}})
		for o := range trace.Outcomes {
			r.count(o, time.Unix(1, 0), labels)
		}
		for k := range 400 {
			r.observe(time.Duration(float64(time.Microsecond)*pow(1.05, k)), time.Unix(1, 0), labels)
		}
	}
	if len(tb.rows) < n-1 {
		t.Fatalf("%d rows", len(tb.rows))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n
	t.Logf("%d bytes for a combination", used)
	if used > 40_000 {
		t.Errorf("%d bytes for a combination", used)
	}
	runtime.KeepAlive(tb)
}

func pow(x float64, n int) float64 {
	y := 1.0
	for range n {
		y *= x
	}
	return y
}
