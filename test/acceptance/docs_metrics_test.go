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
	"time"

	"github.com/tocsin-events/tocsin/internal/app"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
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
	"tocsin_rules_events_total":      true,
	"tocsin_rules_alerts_total":      true,

	"tocsin_fields_extract_calls_total":    true,
	"tocsin_fields_extracted_events_total": true,

	"tocsin_audit_request_duration_seconds": true,
}

// talker is a source plugin that tells numbers and progress, and nothing else.
type talker struct{ sourceplugin.Plugin }

func (talker) Describe() *sourceplugin.Description {
	return &sourceplugin.Description{
		Name: "talker", Version: "1.0.0", ID: 999, EventSource: "talk",
		Capabilities: sourceplugin.Capabilities{Source: true, Progress: true, Metrics: true},
	}
}
func (talker) Metrics(context.Context) ([]sourceplugin.Metric, error) {
	return []sourceplugin.Metric{{Name: "heard", Value: 1}, {Name: "said", Monotonic: true, Value: 2}}, nil
}
func (talker) Open(context.Context, sourceplugin.Open) (sourceplugin.Stream, error) {
	return talk{}, nil
}
func (talker) Close(context.Context) error { return nil }

type talk struct{ sourceplugin.Stream }

func (talk) Next(ctx context.Context, _ *sourceplugin.Batch) error {
	<-ctx.Done()
	return ctx.Err()
}
func (talk) Progress(context.Context) (sourceplugin.Progress, error) {
	return sourceplugin.Progress{Fraction: 0.5}, nil
}
func (talk) Close(context.Context) error { return nil }

// TestDocumentedMetrics: the metrics that the documentation names, also in its alert rules,
// are on /metrics of a hub that has a device of each kind, a source plugin, an exporter of spans and a sink.
func TestDocumentedMetrics(t *testing.T) {
	t.Parallel()
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
	source := config.DefaultSourcePlugin()
	source.Name, source.Command = "plugin", "/nothing"
	c.Plugins.Sources = append(c.Plugins.Sources, source)
	sink := config.DefaultSink()
	sink.Name, sink.Type, sink.Webhook.URL = "hook", config.SinkTypeWebhook, "https://hooks.example.com"
	sink.Events.Types = []string{"none"} // nothing is sent
	c.Sinks = append(c.Sinks, sink)
	c.Rules.Builtin = []config.RuleSet{config.RulesVault}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a, err := app.New(ctx, app.Options{
		Config: c, Logger: slog.New(slog.DiscardHandler), Version: "test", Stdout: io.Discard,
		LaunchSource: func(context.Context, app.SourceProcess) (sourceplugin.Plugin, error) { return talker{}, nil },
	})
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
	var page []byte
	for end := time.Now().Add(time.Minute); !strings.Contains(string(page), "tocsin_plugin_source_progress_ratio"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the plugin does not tell its progress:\n%s", page)
		}
		answer, err := http.Get(a.URL() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		page, err = io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
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
