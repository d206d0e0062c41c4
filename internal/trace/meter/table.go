package meter

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// The labels of a request.
const (
	labelSource = iota
	labelNamespace
	labelMountPoint
	labelMountType
	labelOperation
	labels
)

var labelNames = [labels]string{"source", "namespace", "mount_point", "mount_type", "operation"}

// labelValues is how many different values a label has at most, beside those below. Who may
// make mounts and namespaces can make any number of them.
var labelValues = [labels]int{64, 128, 256, 64, 32}

const (
	none  = "none"  // not told by the server
	root  = "root"  // the root namespace
	other = "other" // one of those for which there is no room

	// maxLabelBytes is how many bytes of a value are kept.
	maxLabelBytes = 128
	// exemplarEvery is how often the exemplar of a bucket or counter is replaced.
	exemplarEvery = 5 * time.Second
)

// limitSeries is what the metric of overflows calls the bound of all together.
const limitSeries = "series"

// labelSet is the values of the labels of one row.
type labelSet [labels]string

// table has the time series of requests.
type table struct {
	max, used int // time series
	bounds    []float64
	buckets   []time.Duration

	known [labels]map[string]string // values of the entries and what became of them
	rows  map[labelSet]*row
	full  *row // of all for which there is no room

	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	overflow  *prometheus.CounterVec
	overflows [labels + 1]prometheus.Counter
}

// row is the time series of the requests with the same labels.
type row struct {
	table    *table
	labels   labelSet
	outcomes [trace.Outcomes]exemplified
	latency  prometheus.ExemplarObserver // nil until it is needed
	shown    []time.Time                 // when the exemplar of each bucket was replaced
}

// exemplified is a counter and when its exemplar was replaced.
type exemplified struct {
	prometheus.ExemplarAdder
	shown time.Time
}

func newTable(maxSeries int, buckets []time.Duration) *table {
	t := &table{max: maxSeries, buckets: buckets, rows: make(map[labelSet]*row)}
	for _, b := range buckets {
		t.bounds = append(t.bounds, b.Seconds())
	}
	for i := range t.known {
		t.known[i] = make(map[string]string)
	}
	t.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "tocsin", Name: "audit_requests_total",
		Help: "Requests to Vault or OpenBao, as its audit log has them, by how they ended: ok, not_found, denied, rejected, rate_limited, error, or unanswered.",
	}, append(slices.Clone(labelNames[:]), "outcome"))
	t.durations = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "tocsin", Name: "audit_request_duration_seconds",
		Help:    "How long requests to Vault or OpenBao took, from the audit entry of the request to that of its response.",
		Buckets: t.bounds,
		// Prometheus gets them if it asks for them. They are not reset, but get coarser.
		NativeHistogramBucketFactor:    1.1,
		NativeHistogramMaxBucketNumber: 100,
		NativeHistogramZeroThreshold:   1e-6,
	}, labelNames[:])
	t.overflow = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "tocsin", Name: "audit_metrics_overflow_total",
		Help: "Requests that were counted under \"other\" because a label has too many values, or because there are too many time series (label=\"series\").",
	}, []string{"label"})
	for i, name := range append(slices.Clone(labelNames[:]), limitSeries) {
		t.overflows[i] = t.overflow.WithLabelValues(name)
	}
	// What has no room still has this row, which is reserved.
	t.full = &row{table: t, labels: labelSet{other, other, other, other, other}}
	t.rows[t.full.labels] = t.full
	t.used = t.cost()
	return t
}

func (t *table) collectors() []prometheus.Collector {
	return []prometheus.Collector{t.requests, t.durations, t.overflow}
}

// cost is how many time series a row can be: the outcomes, and the buckets, that of +Inf,
// the sum and the count of the histogram.
func (t *table) cost() int { return int(trace.Outcomes) + len(t.buckets) + 3 }

// row returns the time series that a request belongs to.
func (t *table) row(s *trace.Span) *row {
	r := &s.Request
	set := labelSet{
		labelSource:     t.value(labelSource, s.Source),
		labelNamespace:  t.value(labelNamespace, r.Namespace),
		labelMountPoint: t.value(labelMountPoint, r.MountPoint),
		labelMountType:  t.value(labelMountType, r.MountType),
		labelOperation:  t.value(labelOperation, r.Operation),
	}
	if found, ok := t.rows[set]; ok {
		return found
	}
	if t.used+t.cost() > t.max {
		t.overflows[labels].Inc()
		return t.full
	}
	added := &row{table: t, labels: set}
	t.rows[set] = added
	t.used += t.cost()
	return added
}

// value returns what a label is for what an entry says.
func (t *table) value(label int, said string) string {
	if len(said) > maxLabelBytes {
		said = said[:maxLabelBytes+1] // of which sanitize shows that it is not all
	}
	if known, ok := t.known[label][said]; ok {
		return known
	}
	if len(t.known[label]) >= labelValues[label] {
		t.overflows[label].Inc()
		return other
	}
	clean := sanitize(said)
	switch {
	case label == labelSource:
		clean = sanitize(strings.TrimPrefix(said, event.SourceVault("")))
	case label == labelNamespace && said == "":
		clean = root
	case label == labelOperation && said != "" && !isWord(said):
		clean = other
	}
	t.known[label][strings.Clone(said)] = clean // said shares the memory of the entry
	return clean
}

// sanitize returns a text that can be shown anywhere: valid, printable, not empty, and not
// long.
func sanitize(s string) string {
	if s == "" {
		return none
	}
	more := ""
	if len(s) > maxLabelBytes {
		cut := maxLabelBytes
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s, more = s[:cut], "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError))) + more
}

// isWord says whether s looks like an operation.
func isWord(s string) bool {
	return len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz-_") == ""
}

// count counts a request with this outcome. The exemplar is asked for only when it is time
// for another one.
func (r *row) count(o trace.Outcome, now time.Time, exemplar func() prometheus.Labels) {
	c := &r.outcomes[o]
	if c.ExemplarAdder == nil {
		c.ExemplarAdder = r.table.requests.WithLabelValues(append(r.labels[:], o.String())...).(prometheus.ExemplarAdder)
	}
	if now.Sub(c.shown) >= exemplarEvery {
		c.shown = now
		c.AddWithExemplar(1, exemplar())
		return
	}
	c.ExemplarAdder.(prometheus.Counter).Inc()
}

// observe adds the duration of a request.
func (r *row) observe(d time.Duration, now time.Time, exemplar func() prometheus.Labels) {
	if r.latency == nil {
		r.latency = r.table.durations.WithLabelValues(r.labels[:]...).(prometheus.ExemplarObserver)
		r.shown = make([]time.Time, len(r.table.buckets)+1)
	}
	bucket, _ := slices.BinarySearch(r.table.buckets, d)
	if now.Sub(r.shown[bucket]) >= exemplarEvery {
		r.shown[bucket] = now
		r.latency.ObserveWithExemplar(d.Seconds(), exemplar())
		return
	}
	r.latency.(prometheus.Observer).Observe(d.Seconds())
}
