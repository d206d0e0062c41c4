package meter

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func recorded(t testing.TB, name string) [][]byte {
	t.Helper()
	b, err := os.ReadFile("../../auditlog/testdata/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(b), []byte("\n"))
}

func openJournal(t testing.TB) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return j
}

// store appends the events of lines, n lines at a time.
func store(t testing.TB, j *journal.Journal, lines [][]byte, n int) {
	t.Helper()
	tr := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "prod"})
	for chunk := range slices.Chunk(lines, n) {
		var events []*event.Event
		for _, line := range chunk {
			events = tr.Translate(events, line)
		}
		if _, err := j.Append(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
	}
}

// running is a meter at work.
type running struct {
	t        *testing.T
	registry *prometheus.Registry
	stop     func()
}

func start(t *testing.T, j *journal.Journal, o Options) running {
	t.Helper()
	registry := prometheus.NewRegistry()
	m, err := New(t.Context(), o, Deps{Journal: j, Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return running{t, registry, stop}
}

// series returns the metrics of one name by their labels.
func (r running) series(name string) map[string]*dto.Metric {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	found := make(map[string]*dto.Metric)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			found[strings.Join(labels, " ")] = m
		}
	}
	return found
}

// counts returns the counters of one name that are not 0.
func (r running) counts(name string) map[string]float64 {
	r.t.Helper()
	counts := make(map[string]float64)
	for labels, m := range r.series(name) {
		if n := m.GetCounter().GetValue(); n > 0 {
			counts[labels] = n
		}
	}
	return counts
}

func total(counts map[string]float64) (sum float64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// wait waits until a counter has this sum over all labels.
func (r running) wait(name string, want float64) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for total(r.counts(name)) < want {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: %v, want %v", name, total(r.counts(name)), want)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

const (
	requestsTotal = "tocsin_audit_requests_total"
	durations     = "tocsin_audit_request_duration_seconds"
	unpairedTotal = "tocsin_audit_unpaired_total"
)

// naive is what a few lines over encoding/json count.
type naive struct {
	requests, sums, times map[string]float64
	n                     float64
}

func countNaively(t *testing.T, lines [][]byte) naive {
	type entry struct {
		Time    time.Time
		Type    string
		Error   string
		Request struct {
			ID, Operation, Path string
			MountPoint          string `json:"mount_point"`
			MountType           string `json:"mount_type"`
			Namespace           struct{ Path string }
		}
		Response struct {
			Data   map[string]any
			Secret any
		}
	}
	began := map[string]time.Time{}
	answered := map[string]bool{}
	entries := make([]entry, len(lines))
	for i, line := range lines {
		if err := json.Unmarshal(line, &entries[i]); err != nil {
			t.Fatal(err)
		}
		if e := entries[i]; e.Type == "response" {
			answered[e.Request.ID] = true
		}
	}
	n := naive{map[string]float64{}, map[string]float64{}, map[string]float64{}, 0}
	for _, e := range entries {
		r := e.Request
		if e.Type == "request" {
			began[r.ID] = e.Time
			if answered[r.ID] {
				continue
			}
		}
		labels := fmt.Sprintf("mount_point=%s mount_type=%s namespace=%s operation=%s", cmp.Or(strings.TrimPrefix(r.MountPoint, r.Namespace.Path), "none"),
			cmp.Or(r.MountType, "none"), cmp.Or(r.Namespace.Path, "root"), r.Operation)
		code, _ := e.Response.Data["http_status_code"].(float64)
		_, failedAnswer := e.Response.Data["error"]
		end := "ok"
		switch {
		case strings.Contains(e.Error, "permission denied") || e.Error == "invalid credentials":
			end = "denied"
		case strings.Contains(e.Error, "invalid request") || strings.Contains(e.Error, "unsupported"):
			end = "rejected"
		case strings.Contains(e.Error, "quota exceeded"):
			end = "rate_limited"
		case e.Error != "":
			end = "error"
		case code == 404:
			end = "not_found"
		case failedAnswer && len(e.Response.Data) <= 2 && e.Response.Secret == nil:
			end = "rejected"
		case e.Type == "request" && r.Path != "sys/audit/test" && r.Path != "sys/seal":
			end = "unanswered"
		}
		if end == "rejected" && strings.HasPrefix(r.Path, "auth/userpass/login/") {
			end = "denied"
		}
		n.requests[labels+" outcome="+end+" source=prod"]++
		n.n++
		if e.Type == "response" && r.ID != "" && !began[r.ID].IsZero() {
			n.sums[labels+" source=prod"] += e.Time.Sub(began[r.ID]).Seconds()
			n.times[labels+" source=prod"]++
		}
	}
	return n
}

// inOrder is how naive orders the labels.
func inOrder(labels string) string {
	parts := strings.Fields(labels)
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

func sorted(m map[string]float64) map[string]float64 {
	out := make(map[string]float64)
	for k, v := range m {
		out[inOrder(k)] += v
	}
	return out
}

// Everything in the recordings is counted, exactly.
func TestRecordings(t *testing.T) {
	for _, name := range []string{"openbao-audit-small", "kv025-audit-small"} {
		for _, chunk := range []int{1, 50} {
			t.Run(fmt.Sprintf("%s/%d", name, chunk), func(t *testing.T) {
				t.Parallel()
				lines := recorded(t, name)
				want := countNaively(t, lines)
				j := openJournal(t)
				r := start(t, j, Options{Window: 2 * time.Second})
				store(t, j, lines, chunk)
				r.wait(requestsTotal, want.n)
				if got, want := sorted(r.counts(requestsTotal)), sorted(want.requests); !maps.Equal(got, want) {
					for k := range maps.Keys(got) {
						want[k] += 0
					}
					for k, v := range want {
						if got[k] != v {
							t.Errorf("%s: %v, want %v", k, got[k], v)
						}
					}
				}
				sums, times := sorted(want.sums), sorted(want.times)
				for labels, m := range r.series(durations) {
					key, h := inOrder(labels), m.GetHistogram()
					if float64(h.GetSampleCount()) != times[key] || math.Abs(h.GetSampleSum()-sums[key]) > 1e-9 {
						t.Errorf("%s: %d durations, sum %v; want %v, %v", labels, h.GetSampleCount(), h.GetSampleSum(), times[key], sums[key])
					}
					if len(h.GetBucket()) != len(DefaultBuckets) || h.GetSchema() == 0 {
						t.Errorf("%s: %d buckets, native schema %d", labels, len(h.GetBucket()), h.GetSchema())
					}
					delete(times, key)
				}
				if len(times) > 0 {
					t.Errorf("no durations of %v", times)
				}
			})
		}
	}
}

const line = `{"time":"2026-11-21T01:00:%s","type":"%s","auth":{"token_type":"service","display_name":"app"},"request":{"id":"%s","operation":"read","mount_point":"secret/","mount_type":"kv","namespace":{"id":"root"},"path":"secret/data/a"}%s}`

func request(id string) []byte { return fmt.Appendf(nil, line, "00Z", "request", id, "") }
func response(id string, took time.Duration) []byte {
	at := time.Time{}.Add(took).Format("05.999999999Z")
	return fmt.Appendf(nil, line, at, "response", id, `,"response":{"mount_type":"kv"}`)
}

const (
	id1 = "11111111-2222-3333-4444-555555555551"
	id2 = "11111111-2222-3333-4444-555555555552"
	id3 = "11111111-2222-3333-4444-555555555553"
	app = "mount_point=secret/ mount_type=kv namespace=root operation=read"
)

// The exemplar of a bucket is a request whose duration is in it, and is shown to those who
// ask for OpenMetrics; others get the old format.
func TestExemplars(t *testing.T) {
	j := openJournal(t)
	r := start(t, j, Options{})
	store(t, j, [][]byte{request(id1), response(id1, 3*time.Millisecond), request(id2), response(id2, 2*time.Second)}, 10)
	r.wait(requestsTotal, 2)

	handler := promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
	scrape := func(accept string) (contentType, text string) {
		req := httptest.NewRequest("GET", "/metrics", nil)
		if accept != "" {
			req.Header.Set("Accept", accept)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		return w.Header().Get("Content-Type"), w.Body.String()
	}
	contentType, text := scrape("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
	if !strings.HasPrefix(contentType, "application/openmetrics-text") || !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("%s:\n%s", contentType, text)
	}
	for _, want := range []string{
		`le="0.005"} 1 # {trace_id="11111111222233334444555555555551"} 0.003`,
		`le="2.5"} 2 # {trace_id="11111111222233334444555555555552"} 2.0`,
		`outcome="ok",source="prod"} 2.0 # {trace_id="11111111222233334444555555555551"} 1.0`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	for _, accept := range []string{"", "text/plain", "*/*"} {
		contentType, text = scrape(accept)
		if !strings.HasPrefix(contentType, "text/plain") || strings.Contains(text, "trace_id") || !strings.Contains(text, `outcome="ok",source="prod"} 2`+"\n") {
			t.Errorf("%q: %s:\n%s", accept, contentType, text)
		}
	}
}

// What ended before the hub was started is not counted. What was under way then is, with
// its whole duration.
func TestRestart(t *testing.T) {
	j := openJournal(t)
	store(t, j, [][]byte{request(id1), response(id1, time.Second), request(id2), response(id3, time.Second)}, 3)
	first := start(t, j, Options{})
	store(t, j, [][]byte{response(id2, 2*time.Second), request(id1 + "x")}, 1)
	first.wait(requestsTotal, 1)
	first.stop()
	check := func(r running, sum float64) {
		t.Helper()
		h := r.series(durations)[app+" source=prod"].GetHistogram()
		if h.GetSampleCount() != 1 || h.GetSampleSum() != sum {
			t.Errorf("%d durations, sum %v, want %v", h.GetSampleCount(), h.GetSampleSum(), sum)
		}
		if n := total(r.counts(requestsTotal)); n != 1 {
			t.Errorf("%v requests", n)
		}
	}
	check(first, 2)

	second := start(t, j, Options{})
	store(t, j, [][]byte{response(id1+"x", 4*time.Second)}, 1)
	second.wait(requestsTotal, 1)
	check(second, 4)
}

// Requests of which an entry is lost are counted, and told apart.
func TestUnpaired(t *testing.T) {
	j := openJournal(t)
	r := start(t, j, Options{Window: 50 * time.Millisecond})
	store(t, j, [][]byte{request(id1), response(id2, time.Second), request(id3), response(id3, time.Second)}, 4)
	r.wait(unpairedTotal, 2)
	want := map[string]float64{"missing=request source=prod": 1, "missing=response source=prod": 1}
	if got := r.counts(unpairedTotal); !maps.Equal(got, want) {
		t.Errorf("unpaired %v", got)
	}
	want = map[string]float64{app + " outcome=unanswered source=prod": 1, app + " outcome=ok source=prod": 2}
	if got := sorted(r.counts(requestsTotal)); !maps.Equal(got, sorted(want)) {
		t.Errorf("requests %v", got)
	}
	if h := r.series(durations)[app+" source=prod"].GetHistogram(); h.GetSampleCount() != 1 {
		t.Errorf("%d durations", h.GetSampleCount())
	}
}

// What is imported was not requested now.
func TestImportedIsNotCounted(t *testing.T) {
	j := openJournal(t)
	r := start(t, j, Options{Window: 50 * time.Millisecond})
	tr := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "prod"})
	var events []*event.Event
	for _, line := range [][]byte{request(id1), response(id1, time.Second), request(id2)} { // one lacks its response
		events = tr.Translate(events, line)
	}
	for _, e := range events {
		e.Metadata.Set("imported", "true")
	}
	if _, err := j.Append(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
	store(t, j, [][]byte{request(id3)}, 1)
	r.wait(unpairedTotal, 1)
	want := map[string]float64{app + " outcome=unanswered source=prod": 1}
	if got := sorted(r.counts(requestsTotal)); !maps.Equal(got, sorted(want)) {
		t.Errorf("requests %v", got)
	}
	if h := r.series(durations)[app+" source=prod"].GetHistogram(); h.GetSampleCount() != 0 {
		t.Errorf("%d durations", h.GetSampleCount())
	}
}

func TestMissedEvents(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := New(t.Context(), Options{}, Deps{Journal: openJournal(t), Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	m.miss(&journal.GapError{Events: 7, Next: journal.Position{Seq: 3, Ordinal: 9}})
	if n := total(running{t, registry, nil}.counts("tocsin_audit_metrics_missed_events_total")); n != 7 || m.read != 9 {
		t.Errorf("missed %v, read %d", n, m.read)
	}
}

func TestBuckets(t *testing.T) {
	j := openJournal(t)
	for _, bad := range [][]time.Duration{{}, {0}, {-1}, {2, 1}, {1, 1}, make([]time.Duration, 100)} {
		if _, err := New(t.Context(), Options{Buckets: bad}, Deps{Journal: j}); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	registry := prometheus.NewRegistry()
	if _, err := New(t.Context(), Options{}, Deps{Journal: j, Registry: registry}); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), Options{}, Deps{Journal: j, Registry: registry}); err == nil {
		t.Error("two meters in one registry")
	}
}
