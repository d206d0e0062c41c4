package acceptance

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/app"
	"github.com/tocsin-events/tocsin/internal/config"
)

var (
	metricName   = regexp.MustCompile(`\btocsin_[a-z0-9_]+(\.\.\.)?`)
	metricSuffix = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// madeLater are metrics that are there when there is something to count.
var madeLater = map[string]bool{
	"tocsin_refused_total":           true,
	"tocsin_audit_unpaired_total":    true,
	"tocsin_plugin_up":               true,
	"tocsin_plugin_requests_total":   true,
	"tocsin_plugin_events_total":     true,
	"tocsin_plugin_starts_total":     true,
	"tocsin_plugin_crashes_total":    true,
	"tocsin_audit_requests_total":    true,
	"tocsin_schema_violations_total": true,

	"tocsin_audit_request_duration_seconds": true,
}

// TestDocumentedMetrics: the metrics that the documentation names, also in its alert rules,
// are on /metrics of a hub that has a device of each kind, an exporter of spans and a sink.
func TestDocumentedMetrics(t *testing.T) {
	dir := t.TempDir()
	c := config.Default()
	c.Listen.Address = "127.0.0.1:0"
	c.DataDir = filepath.Join(dir, "data")
	c.Auth.RootToken = config.SecretValue("a-token-for-tests")
	for _, s := range []config.Source{
		{Name: "file", Path: filepath.Join(dir, "audit.log")},
		{Name: "socket", Type: config.VaultAuditSocket, Address: "tcp:127.0.0.1:0"},
		{Name: "syslog", Type: config.VaultAuditSyslog, Address: "udp:127.0.0.1:0"},
		{Name: "http", Type: config.VaultAuditHTTP, Address: "tcp:127.0.0.1:0"},
	} {
		source := config.DefaultSource()
		source.Name, source.Path, source.Address = s.Name, s.Path, s.Address
		if s.Type != "" {
			source.Type = s.Type
		}
		c.Sources = append(c.Sources, source)
	}
	exporter := config.DefaultTraceExporter()
	exporter.Name, exporter.Type = "stdout", config.TraceStdout
	c.Traces.Exporters = append(c.Traces.Exporters, exporter)
	sink := config.DefaultSink()
	sink.Name, sink.Type, sink.Webhook.URL = "hook", config.SinkTypeWebhook, "https://hooks.example.com"
	sink.Events.Types = []string{"none"} // nothing is sent
	c.Sinks = append(c.Sinks, sink)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a, err := app.New(ctx, app.Options{Config: c, Logger: slog.New(slog.DiscardHandler), Version: "test", Stdout: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	answer, err := http.Get(a.URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}

	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, file := range append(pages, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range metricName.FindAllString(string(text), -1) {
			prefix := strings.TrimSuffix(name, "...")
			base := metricSuffix.ReplaceAllString(name, "")
			checked++
			switch {
			case prefix != name:
				if !strings.Contains(string(page), "# TYPE "+prefix) {
					t.Errorf("%s: no metric begins with %s", file, prefix)
				}
			case !madeLater[name] && !madeLater[base] && !strings.Contains(string(page), "# TYPE "+name+" ") && !strings.Contains(string(page), "# TYPE "+base+" "):
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d metrics were found", checked)
	}
}
