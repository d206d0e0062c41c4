package app

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
)

// spans collects what is posted to it as Zipkin does, and what is written to it as lines.
type spans struct {
	mu     sync.Mutex
	posted []map[string]any
	lines  bytes.Buffer
	status int
}

func (s *spans) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines.Write(p)
}

func (s *spans) written() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines.String()
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var list []map[string]any
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status != 0 {
		w.WriteHeader(s.status)
		return
	}
	if err != nil || json.Unmarshal(body, &list) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.posted = append(s.posted, list...)
	w.WriteHeader(http.StatusAccepted)
}

func (s *spans) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func (s *spans) all() []map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.posted
}

func exporter(name string, t config.TraceExporterType, url string) config.TraceExporter {
	e := config.DefaultTraceExporter()
	e.Name, e.Type, e.URL, e.From, e.Compression = name, t, url, config.FromStart, "none"
	e.Batch.Delay = config.Duration(10 * time.Millisecond)
	return e
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// From lines in a file to two exporters, over an outage of one of them and a restart.
func TestTraces(t *testing.T) {
	whole, file := auditLog(t)
	received := &spans{}
	server := httptest.NewServer(received)
	t.Cleanup(server.Close)
	o := options(t, file)
	o.Stdout = received
	o.Config.Traces.Exporters = []config.TraceExporter{
		exporter("zipkin", config.TraceZipkin, server.URL), exporter("lines", config.TraceStdout, ""),
	}
	o.Config.Traces.Exporters[1].Format = "json"
	requests := bytes.Count(whole, []byte(`"type":"response"`))
	a, stop := start(t, o)
	received.answer(http.StatusServiceUnavailable)
	appendTo(t, file, whole)
	eventually(t, "the other exporter has all", func() bool { return strings.Count(received.written(), "\n") >= requests })
	if n := len(received.all()); n != 0 {
		t.Fatalf("%d spans from a receiver that takes none", n)
	}
	if _, body := get(t, a.URL()+"/metrics"); !strings.Contains(body, `tocsin_traces_failing_seconds{exporter="zipkin"}`) {
		t.Error("no metrics")
	}
	stop()
	received.answer(0)
	a, _ = start(t, o)
	eventually(t, "the first has all, too", func() bool { return len(received.all()) >= requests })
	_, body := get(t, a.URL()+"/api/v1/health")
	for _, want := range []string{`"name":"exporter zipkin","ok":true`, `"name":"exporter lines","ok":true`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	seen := make(map[any]bool)
	for _, s := range received.all() {
		if s["kind"] != "SERVER" || s["localEndpoint"].(map[string]any)["serviceName"] != "log0" || seen[s["id"]] {
			t.Errorf("%v", s)
		}
		seen[s["id"]] = true
	}
	if lines := strings.Count(received.written(), "\n"); lines != len(received.all()) {
		t.Errorf("%d lines, %d spans", lines, len(received.all()))
	}
}

// TestLargeEntryAsSpan: the bytes of an entry that are beside the journal are part of the
// span.
func TestLargeEntryAsSpan(t *testing.T) {
	whole, file := auditLog(t)
	received := &spans{}
	o := options(t, file)
	o.Stdout = received
	o.Config.Limits.MaxMetadata, o.Config.Limits.MaxEvent = 1<<10, 1<<10
	e := exporter("lines", config.TraceStdout, "")
	e.Format = "json"
	o.Config.Traces.Exporters = []config.TraceExporter{e}
	start(t, o)
	appendTo(t, file, whole)
	requests := bytes.Count(whole, []byte(`"type":"response"`))
	eventually(t, "all spans", func() bool { return strings.Count(received.written(), "\n") >= requests })
	if n := strings.Count(received.written(), `"request.mount_point":`); n < requests/2 {
		t.Errorf("%d of %d spans have what only the bytes tell", n, requests)
	}
}

func TestTracesThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	classic := filepath.Join(dir, "key")
	if err := os.WriteFile(classic, []byte(strings.Repeat("0a", 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*config.TraceExporter){
		"traces.exporters[0] (a): tls: read ca_file": func(e *config.TraceExporter) {
			e.URL, e.TLS.CAFile = "https://127.0.0.1:1", missing
		},
		"traces.exporters[0] (a): header k: read secret": func(e *config.TraceExporter) {
			e.Headers = []config.TraceHeader{{Name: "k", Secret: config.SecretFromFile(missing)}}
		},
		"the key is a classic one, which needs the name of a dataset": func(e *config.TraceExporter) {
			e.Type, e.URL, e.APIKey = config.TraceHoneycomb, "", config.SecretFromFile(classic)
		},
	} {
		o := options(t)
		e := exporter("a", config.TraceZipkin, "http://127.0.0.1:1")
		change(&e)
		o.Config.Traces.Exporters = []config.TraceExporter{e}
		if a, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
			if err == nil {
				a.Close()
			}
		}
	}
	o := options(t)
	o.Config.Traces.Names = []config.TraceName{{Path: "a/{b", Name: "c"}}
	o.Config.Traces.Exporters = []config.TraceExporter{exporter("a", config.TraceStdout, "")}
	if _, err := New(t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), "traces: ") {
		t.Errorf("%v", err)
	}
}
