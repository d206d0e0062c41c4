package alerting

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/severity"
	"github.com/tocsin-events/tocsin/internal/sink/template"
)

// Alerts tell receivers how bad it is, what has happened, and which of them belong together.
func TestPresets(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusOK)
	}))
	defer server.Close()
	guard, err := outbound.NewGuard("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	m := maker{source: source, hostname: "here", limits: event.DefaultLimits}
	alertOf := func(client string) *event.Event {
		a := &rule.Alert{
			ID: event.NewID(), Rule: &load.Rule{Name: "Root token used", Priority: severity.Critical, Source: "tocsin", Tags: []string{"vault"}},
			Time: time.Unix(1700000000, 0), Event: app(1, "audit/request"), Count: 1, Key: []rule.KeyValue{{Name: "audit.client", Value: client}}, Output: "A root token is used by " + client,
		}
		e, err := m.event(a, "root-token-used")
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	send := func(preset template.Preset, e *event.Event) string {
		t.Helper()
		o := template.Options{Preset: preset, URL: server.URL, Connection: outbound.Options{Guard: guard, Timeout: patience}}
		if preset == template.PagerDuty {
			o.RoutingKey = func() (string, error) { return strings.Repeat("k", 32), nil }
		}
		s, err := template.New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if r := s.Send(t.Context(), &deliver.Batch{Items: []deliver.Item{{Event: e}}}); r.Outcome != deliver.Delivered {
			t.Fatalf("%s: %+v", preset, r)
		}
		mu.Lock()
		defer mu.Unlock()
		return string(body)
	}
	if got := send(template.Slack, alertOf("me")); !strings.Contains(got, "A root token is used by me") || !strings.Contains(got, `"color":"#e01e5a"`) && !strings.Contains(got, `"color": "#e01e5a"`) {
		t.Errorf("slack: %s", got)
	}
	type incident struct {
		Key     string `json:"dedup_key"`
		Payload struct{ Summary, Severity, Component, Class string }
	}
	keys := make(map[string]string)
	for _, client := range []string{"me", "you", "me"} {
		var i incident
		if err := json.Unmarshal([]byte(send(template.PagerDuty, alertOf(client))), &i); err != nil {
			t.Fatal(err)
		}
		if i.Payload.Severity != "critical" || i.Payload.Summary != "A root token is used by "+client || i.Payload.Component != "Root token used" || i.Payload.Class != "alert/root-token-used" {
			t.Errorf("pagerduty: %+v", i)
		}
		if before := keys[client]; before != "" && before != i.Key {
			t.Error("alerts about one client are two incidents")
		}
		keys[client] = i.Key
	}
	if keys["me"] == keys["you"] {
		t.Error("alerts about two clients are one incident")
	}
	var list []struct{ Labels, Annotations map[string]string }
	if err := json.Unmarshal([]byte(send(template.Alertmanager, alertOf("me"))), &list); err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if l := list[0].Labels; l["alertname"] != "Root token used" || l["severity"] != "critical" || list[0].Annotations["summary"] != "A root token is used by me" {
		t.Errorf("alertmanager: %+v", list)
	}
}
