package meter

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/internal/trace"
)

// newTestTable returns a table and what reads its series.
func newTestTable(t *testing.T, maxSeries int) (*table, running) {
	registry := prometheus.NewRegistry()
	tb := newTable(maxSeries, DefaultBuckets)
	registry.MustRegister(tb.collectors()...)
	return tb, running{t, registry, nil}
}

func (t *table) add(s *trace.Span) {
	row := t.row(s)
	labels := func() prometheus.Labels { return prometheus.Labels{"trace_id": "x"} }
	row.count(s.Outcome(), time.Unix(1, 0), labels)
	row.observe(time.Millisecond, time.Unix(1, 0), labels)
}

// Nobody can make more series than there may be, and nothing goes uncounted.
func TestOverflow(t *testing.T) {
	const n = 5000
	for _, limit := range []int{100, 1000, 10_000} {
		tb, r := newTestTable(t, limit)
		for i := range n {
			tb.add(&trace.Span{Source: "vault://prod", Failed: i%3 == 0, ErrorType: fmt.Sprint(400 + i%200), Request: trace.Request{
				Namespace: fmt.Sprintf("ns%d/", i%700), MountPoint: fmt.Sprintf("m%d/", i), MountType: fmt.Sprintf("t%d", i%300), Operation: fmt.Sprintf("op%s", strings.Repeat("x", i%100)),
			}})
		}
		series, times := 0, uint64(0)
		for _, m := range r.series(durations) {
			series += len(m.GetHistogram().GetBucket()) + 3
			times += m.GetHistogram().GetSampleCount()
		}
		counts := r.counts(requestsTotal)
		if series += len(counts); series > limit {
			t.Errorf("%d series, limit %d", series, limit)
		}
		if total(counts) != n || times != n {
			t.Errorf("%v requests and %d durations of %d", total(counts), times, n)
		}
		all := "mount_point=other mount_type=other namespace=other operation=other outcome=ok source=other"
		overflow := r.counts("tocsin_audit_metrics_overflow_total")
		if counts[all] == 0 || overflow["label=series"] == 0 {
			t.Errorf("limit %d: %v in the common series, overflow %v", limit, counts[all], overflow)
		}
	}
}

// One label with too many values leaves the others as they are.
func TestManyValues(t *testing.T) {
	tb, r := newTestTable(t, 1_000_000)
	for i := range 1000 {
		tb.add(&trace.Span{Source: "vault://prod", Request: trace.Request{MountPoint: fmt.Sprintf("m%d/", i), MountType: "kv", Operation: "read"}})
	}
	counts := r.counts(requestsTotal)
	if len(counts) != labelValues[labelMountPoint]+1 || counts["mount_point=m5/ mount_type=kv namespace=root operation=read outcome=ok source=prod"] != 1 ||
		counts["mount_point=other mount_type=kv namespace=root operation=read outcome=ok source=prod"] != float64(1000-labelValues[labelMountPoint]) {
		t.Errorf("%v", counts)
	}
	if n := r.counts("tocsin_audit_metrics_overflow_total")["label=mount_point"]; n != float64(1000-labelValues[labelMountPoint]) {
		t.Errorf("overflow %v", n)
	}
}

func TestHostileLabels(t *testing.T) {
	tb, r := newTestTable(t, 1_000_000)
	for _, hostile := range []string{
		"", "a\nb\"} 5\n", "\x1b[2J", "\xff\xfe", "\u202egnp", strings.Repeat("ä", 500), strings.Repeat("x", 127) + "ä", "\x00", "other", `\`,
		"s.1234567890 with spaces", "read\t",
	} {
		tb.add(&trace.Span{Source: hostile, Request: trace.Request{Namespace: hostile, MountPoint: hostile, MountType: hostile, Operation: hostile}})
	}
	for i := range 1000 {
		tb.add(&trace.Span{Request: trace.Request{MountPoint: strings.Repeat("y", 200) + fmt.Sprint(i)}})
	}
	families, err := r.registry.Gather() // refuses what is no UTF-8
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				v := l.GetValue()
				if len(v) == 0 || len(v) > maxLabelBytes+len("…") || !utf8.ValidString(v) || strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("%s=%q", l.GetName(), v)
				}
				if l.GetName() == "operation" && v != other && v != none {
					t.Errorf("operation %q", v)
				}
			}
		}
	}
	if n := len(tb.known[labelMountPoint]); n > 20 {
		t.Errorf("%d values are remembered of texts that begin alike", n)
	}
}
