package app

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/trace/meter"
)

// scrape returns /metrics in the format that is asked for.
func scrape(t *testing.T, a *App, accept string) (contentType, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", a.URL()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != 200 {
		t.Fatalf("%v: %s", err, answer.Status)
	}
	return answer.Header.Get("Content-Type"), string(body)
}

const requestsCounted = `tocsin_audit_requests_total{mount_point="secret/",mount_type="kv",namespace="root",operation="read",outcome="ok",source="log0"} `

// The requests in an audit log are counted from the first line on, once, also over a
// restart of the hub; a scrape gets exemplars if it asks for a format that has them.
func TestAuditMetrics(t *testing.T) {
	recording, err := os.ReadFile("../auditlog/testdata/openbao-audit-small.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(recording), "\n")
	cut := len(lines) / 2
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(strings.Join(lines[:cut], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options(t, path)
	await := func(a *App, text string, done func(string) bool) string {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			if _, got := scrape(t, a, ""); done(got) {
				return got
			}
			if time.Now().After(deadline) {
				_, got := scrape(t, a, "")
				t.Fatalf("%s not counted:\n%s", text, got)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	sum := func(text string) (n int) {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "tocsin_audit_requests_total{") {
				n += atoi(t, line[strings.LastIndexByte(line, ' ')+1:])
			}
		}
		return n
	}
	ended := 0 // in the first half: responses, and requests that get none
	for _, line := range lines[:cut] {
		var entry struct {
			Type    string
			Request struct{ ID string }
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Type == "response" || strings.Count(string(recording), `"request":{"id":"`+entry.Request.ID+`"`) == 1 {
			ended++
		}
	}
	first, stop := start(t, o)
	text := await(first, "first half", func(s string) bool { return sum(s) == ended })
	if !strings.Contains(text, requestsCounted) || strings.Contains(text, "trace_id") {
		t.Errorf("not as expected:\n%s", text)
	}
	contentType, text := scrape(t, first, "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(contentType, "application/openmetrics-text") || !strings.Contains(text, `# {trace_id="`) || !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("%s:\n%s", contentType, text)
	}
	contentType, _ = scrape(t, first, "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	if !strings.HasPrefix(contentType, "application/vnd.google.protobuf") {
		t.Errorf("protobuf: %s", contentType)
	}
	stop()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(strings.Join(lines[cut:], "")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	second, _ := start(t, o)
	await(second, "second half", func(s string) bool { return sum(s) == 242-ended })
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	for _, c := range strings.TrimSpace(s) {
		if c < '0' || c > '9' {
			t.Fatalf("%q is no number", s)
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// The meter does not need the configuration, but both have the same defaults.
func TestAuditMetricsDefaults(t *testing.T) {
	c := config.Default().AuditMetrics
	bounds := c.Bounds()
	if c.MaxSeries != meter.DefaultMaxSeries || len(bounds) != len(meter.DefaultBuckets) {
		t.Fatalf("%+v", c)
	}
	for i := range bounds {
		if bounds[i] != meter.DefaultBuckets[i] {
			t.Errorf("bucket %d: %v, %v", i, bounds[i], meter.DefaultBuckets[i])
		}
	}
}

func TestAuditMetricsOff(t *testing.T) {
	o := options(t)
	o.Config.AuditMetrics.Enabled = false
	a, _ := start(t, o)
	if _, text := scrape(t, a, ""); strings.Contains(text, "tocsin_audit_") {
		t.Errorf("counted:\n%s", text)
	}
}
