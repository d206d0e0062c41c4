package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/config"
)

// hook is an endpoint of webhooks.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	after  string // Retry-After
	bodies []string
}

func newHook(t *testing.T) *hook {
	h := &hook{status: 200}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.after != "" {
			w.Header().Set("Retry-After", h.after)
		}
		w.WriteHeader(h.status)
		if h.status == 200 {
			h.bodies = append(h.bodies, string(body))
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) say(status int, after string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status, h.after = status, after
}

func (h *hook) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.bodies)
}

// sinks makes a request below /api/v1/sinks and decodes the answer into v, if there is one.
func sinks(t *testing.T, a *App, method, path, body string, v any) int {
	t.Helper()
	r, err := http.NewRequest(method, a.URL()+"/api/v1/sinks"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", root)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode/100 != 2 {
		t.Logf("%s %s: %d %s", method, path, response.StatusCode, text)
	} else if v != nil {
		if err := json.Unmarshal(text, v); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return response.StatusCode
}

func awaitSink(t *testing.T, a *App, name, what string, done func(api.Sink) bool) {
	t.Helper()
	var s api.Sink
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		s = api.Sink{}
		if sinks(t, a, "GET", "/"+name, "", &s); done(s) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s: %+v", what, s)
		}
	}
}

// useSink does with a sink whatever can be done, in a hub that allows 127.0.0.1. The secret
// is one of its secrets.
func useSink(t *testing.T, a *App, secret string) {
	t.Helper()
	h := newHook(t)
	must := func(method, path, body string) {
		t.Helper()
		if status := sinks(t, a, method, "/hook"+path, body, nil); status/100 != 2 {
			t.Fatalf("%s %s: %d", method, path, status)
		}
	}
	published := 0
	publish := func() {
		t.Helper()
		published++
		r, err := http.NewRequest("POST", a.URL()+"/api/v1/events", strings.NewReader(fmt.Sprintf(`{"specversion":"1.0","id":"sink-%d","source":"/shop","type":"shop/sold"}`, published)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Vault-Token", root)
		r.Header.Set("Content-Type", "application/cloudevents+json")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 200 {
			t.Fatalf("publish: %d", response.StatusCode)
		}
	}
	definition := fmt.Sprintf(`{"type":"webhook","events":{"types":["shop/sold"]},"webhook":{"url":%q,"insecure_allow_http":true,"headers":[{"name":"X-Key","secret":{"value":%q}}]}}`, h.URL, secret)
	must("PUT", "", definition)
	must("PUT", "", definition)
	awaitSink(t, a, "hook", "running", func(s api.Sink) bool { return s.State == "running" })
	must("POST", "/test", "")
	h.say(503, "3600")
	publish()
	awaitSink(t, a, "hook", "failing", func(s api.Sink) bool { return s.State == "failing" })
	h.say(200, "")
	must("POST", "/pause", `{"reason":"`+"repair"+`"}`)
	must("POST", "/resume", "")
	awaitSink(t, a, "hook", "recovered", func(s api.Sink) bool { return s.State == "running" && s.Counts.Delivered == 1 })
	h.say(400, "")
	publish()
	awaitSink(t, a, "hook", "a dead letter", func(s api.Sink) bool { return s.Letters == 1 })
	must("GET", "/dead-letters", "")
	h.say(200, "")
	must("POST", "/dead-letters/redrive", `{"all":true}`)
	awaitSink(t, a, "hook", "redriven", func(s api.Sink) bool { return s.Letters == 0 })
	must("DELETE", "/dead-letters?all=true", "")
	must("POST", "/disable", "")
	var replay api.SinkReplayed
	if status := sinks(t, a, "POST", "/hook/replay", `{"since":"oldest"}`, &replay); status != 202 {
		t.Fatalf("replay: %d", status)
	}
	must("DELETE", "/replays/"+replay.ID, "")
	must("DELETE", "?state=drop", "")
}

// A sink that was added at run time, and one of the file, send what comes in, over a restart;
// both are in health and metrics.
func TestSinks(t *testing.T) {
	h := newHook(t)
	o := options(t)
	o.Config.Delivery.Allow = []string{"127.0.0.1"}
	s := config.DefaultSink()
	s.Name, s.Type, s.From = "file-hook", config.SinkTypeWebhook, config.FromStart
	s.Webhook.URL = h.URL
	s.Events.Types = []string{"shop/*"}
	o.Config.Sinks = []config.Sink{s}
	a, stop := start(t, o)
	definition := fmt.Sprintf(`{"type":"webhook","from":"start","events":{"types":["shop/*"]},"webhook":{"url":%q,"insecure_allow_http":true,"bearer_token":{"value":"hunter2"}}}`, h.URL)
	if status := sinks(t, a, "PUT", "/run-hook", definition, nil); status != 201 {
		t.Fatalf("%d", status)
	}
	if status := publishEvent(t, a, root); status != 200 {
		t.Fatalf("publish: %d", status)
	}
	both := func(s api.Sink) bool { return s.Counts.Delivered == 1 && s.LagEvents == 0 }
	for _, name := range []string{"file-hook", "run-hook"} {
		awaitSink(t, a, name, "delivered", both)
	}
	stop()
	a, _ = start(t, o)
	for _, name := range []string{"file-hook", "run-hook"} {
		awaitSink(t, a, name, "running", func(s api.Sink) bool { return s.State == "running" && s.Counts.Delivered == 0 })
	}
	if h.count() != 2 {
		t.Errorf("%d requests: %q", h.count(), h.bodies)
	}
	a.Reopen()
	report := a.health.Report()
	text := fmt.Sprint(report)
	if !report.OK() || !strings.Contains(text, "sink file-hook") || !strings.Contains(text, "sink run-hook") {
		t.Errorf("health: %+v", report)
	}
	response, err := http.Get(a.URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	metrics, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`tocsin_sink_state{sink="run-hook",state="running"} 1`, `tocsin_sink_info{origin="file",sink="file-hook",type="webhook"} 1`} {
		if !strings.Contains(string(metrics), line) {
			t.Errorf("/metrics has no %s", line)
		}
	}
	if strings.Contains(string(metrics), "hunter2") {
		t.Error("/metrics has a secret")
	}
	// The example of an event type that the hub knows is a test.
	var tested api.SinkTested
	if status := sinks(t, a, "POST", "/run-hook/test", `{"type":"kv-v2/data-write"}`, &tested); status != 200 || tested.Outcome != "delivered" || tested.Type != "kv-v2/data-write" {
		t.Errorf("test: %d %+v", status, tested)
	}
}

// A sink of the file that cannot be made keeps the hub from starting, and names itself.
func TestSinkOfFileCannotBeMade(t *testing.T) {
	o := options(t)
	s := config.DefaultSink()
	s.Name, s.Type, s.Webhook.URL = "hook", config.SinkTypeWebhook, "https://hooks.example.com"
	s.Webhook.TLS.CA = config.SecretFromFile(t.TempDir() + "/missing.pem")
	o.Config.Sinks = []config.Sink{s}
	a, err := New(t.Context(), o)
	if err == nil {
		a.Close()
		t.Fatal("it was made")
	}
	if !strings.Contains(err.Error(), "sinks[0] (hook): ") || !strings.Contains(err.Error(), "missing.pem") {
		t.Errorf("%v", err)
	}
}
