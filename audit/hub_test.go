package audit

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
)

const hubToken = "tcs.hubtokenhubtokenhubtoken1"

// fakeHub answers as a hub does, in the modes of the suite.
type fakeHub struct {
	server *httptest.Server
	addr   string

	mu      sync.Mutex
	mode    delivertest.Mode
	changed chan struct{} // closed when mode changes
	arrived []delivertest.Arrival
	bad     string // what a test noticed
}

func newFakeHub(t testing.TB) *fakeHub {
	h := &fakeHub{changed: make(chan struct{})}
	h.listen(t, "127.0.0.1:0")
	t.Cleanup(func() {
		h.Set(delivertest.Works)
		h.server.Close()
		if h.bad != "" {
			t.Error(h.bad)
		}
	})
	return h
}

func (h *fakeHub) listen(t testing.TB, addr string) {
	h.server = httptest.NewUnstartedServer(h)
	h.server.Config.ErrorLog = discardLog()
	if addr != "127.0.0.1:0" {
		h.server.Listener.Close()
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		h.server.Listener = l
	}
	h.server.Start()
	h.addr = h.server.Listener.Addr().String()
}

func (h *fakeHub) Sink(*slog.Logger) (deliver.Sink, error) {
	return newHubSink("http://"+h.addr+"/prefix", HubOptions{Token: SecretText(hubToken), Namespace: "team-a"})
}

func (h *fakeHub) Set(m delivertest.Mode) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mode = m
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *fakeHub) Arrived() []delivertest.Arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.arrived[:len(h.arrived):len(h.arrived)]
}

func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	mode, changed := h.mode, h.changed
	h.mu.Unlock()
	switch mode {
	case delivertest.Fails:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"errors":["the journal is full"]}`)
		return
	case delivertest.Closes:
		panic(http.ErrAbortHandler)
	case delivertest.Hangs:
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case delivertest.Slow:
		time.Sleep(20 * time.Millisecond)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var texts []json.RawMessage
	if err := json.Unmarshal(body, &texts); err != nil || r.URL.Path != "/prefix/api/v1/events" || r.URL.RawQuery != "partial=true" ||
		r.Header.Get("X-Vault-Token") != hubToken || r.Header.Get("X-Vault-Namespace") != "team-a" || r.Header.Get("Content-Type") != "application/cloudevents-batch+json" {
		h.mu.Lock()
		h.bad = "the request is wrong: " + r.URL.String()
		h.mu.Unlock()
	}
	type refused struct {
		Index   int    `json:"index"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	answer := struct {
		Accepted int       `json:"accepted"`
		Refused  []refused `json:"refused,omitempty"`
	}{}
	h.mu.Lock()
	for i, text := range texts {
		e, err := event.ParseCloudEvent(text)
		switch {
		case err != nil:
			h.bad = err.Error()
		case mode == delivertest.RefusesOne && e.Type == delivertest.RefusedType:
			answer.Refused = append(answer.Refused, refused{i, "invalid", "not this one"})
			continue
		}
		h.arrived = append(h.arrived, delivertest.Arrival{ID: e.ID}) // without the sequence, which is the hub's
		answer.Accepted++
	}
	h.mu.Unlock()
	if len(answer.Refused) > 0 {
		w.WriteHeader(http.StatusMultiStatus)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func TestHubConformance(t *testing.T) {
	delivertest.Run(t, delivertest.Harness{
		Receiver: func(t testing.TB) delivertest.Receiver { return newFakeHub(t) },
		Modes:    []delivertest.Mode{delivertest.Fails, delivertest.Closes, delivertest.Hangs, delivertest.Slow, delivertest.RefusesOne},
		Without:  map[delivertest.Mode]string{delivertest.Refuses: "the same as one that closes connections, for a client of net/http"},
		Secrets:  []string{hubToken},
		Options:  []any{HubOptions{Token: SecretText(hubToken)}, ToHub("http://hub", HubOptions{Token: SecretText(hubToken)})},
	})
}

// What a hub may answer, and what becomes of two events then.
func TestHubAnswers(t *testing.T) {
	status, body, header := 0, "", http.Header{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for k, v := range header {
			w.Header()[k] = v
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	defer server.Close()
	s, err := newHubSink(server.URL, HubOptions{Token: SecretText(hubToken)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e := &event.Event{ID: "1", Type: "a/b/c", Source: "x", Time: time.Now(), Data: []byte("{}"), DataContentType: "application/json"}
	for _, c := range []struct {
		status  int
		body    string
		outcome deliver.Outcome
		reason  string
	}{
		{200, `{"accepted":2}`, deliver.Delivered, ""},
		{200, `{"accepted":1,"duplicates":1}`, deliver.Delivered, ""},
		{200, `{"accepted":1}`, deliver.Retry, "is the address right?"},
		{200, `<html>`, deliver.Retry, "is the address right?"},
		{207, `{"accepted":1,"refused":[{"index":7}]}`, deliver.Retry, "is the address right?"},
		{400, `{"errors":["bad namespace"]}`, deliver.Doubtful, "bad namespace"},
		{401, ``, deliver.Retry, "401"},
		{403, `{"errors":["permission denied for ` + hubToken + `"]}`, deliver.Retry, "masked"},
		{404, ``, deliver.Retry, "404"},
		{413, `{"errors":["too large"]}`, deliver.Refused, "too large"},
		{429, ``, deliver.Retry, "429"},
		{500, "{\"errors\":[\"a\\nb\\u001b[2J\"]}", deliver.Retry, "a b"},
		{503, strings.Repeat("x", 100_000), deliver.Retry, "503"},
	} {
		status, body, header = c.status, c.body, http.Header{"Retry-After": {"7"}}
		r := s.Send(t.Context(), &deliver.Batch{Items: []deliver.Item{{Event: e}, {Event: e}}, Attempt: 1})
		if r.Outcome != c.outcome || !strings.Contains(r.Reason, c.reason) || strings.Contains(r.Reason, hubToken) || strings.ContainsAny(r.Reason, "\n\x1b") || len(r.Reason) > deliver.MaxReasonBytes {
			t.Errorf("%d %.60q: %+v", c.status, c.body, r)
		}
		if r.Outcome == deliver.Retry && r.After != 7*time.Second || r.Outcome != deliver.Delivered && r.Status != c.status {
			t.Errorf("%d: %+v", c.status, r)
		}
	}
	for _, c := range []struct {
		text string
		want time.Duration
	}{{"", 0}, {"x", 0}, {"-1", 0}, {"999999999", 24 * time.Hour}, {"Fri, 27 Nov 2026 06:00:10 GMT", 10 * time.Second}, {"Fri, 27 Nov 2020 06:00:10 GMT", 0}} {
		if got := retryAfter(http.Header{"Retry-After": {c.text}}, time.Date(2026, 11, 27, 6, 0, 0, 0, time.UTC)); got != c.want {
			t.Errorf("%q: %v, want %v", c.text, got, c.want)
		}
	}
}

func TestHubOptions(t *testing.T) {
	for _, c := range []struct {
		address string
		o       HubOptions
	}{
		{"", HubOptions{}},
		{"http://user:secret@hub", HubOptions{}},
		{"ftp://hub", HubOptions{}},
		{"hub", HubOptions{Token: SecretFile(filepath.Join(t.TempDir(), "missing"))}},
		{"hub", HubOptions{Token: SecretEnv("TOCSIN_TEST_IS_NOT_SET")}},
	} {
		if s, err := newHubSink(c.address, c.o); err == nil || strings.Contains(err.Error(), "secret") {
			if s != nil {
				s.Close()
			}
			t.Errorf("%s: %v", c.address, err)
		}
	}
}

// The token is read again for each request; a redirect is followed, but not to http.
func TestHubToken(t *testing.T) {
	var seen []string
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("X-Vault-Token"))
		_, _ = io.WriteString(w, `{"accepted":1}`)
	}))
	defer hub.Close()
	secure := httptest.NewTLSServer(http.RedirectHandler(hub.URL+"/api/v1/events", http.StatusTemporaryRedirect))
	defer secure.Close()
	standby := httptest.NewServer(http.RedirectHandler(hub.URL+"/api/v1/events", http.StatusTemporaryRedirect))
	defer standby.Close()
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(" one\n")
	s, err := newHubSink(standby.URL, HubOptions{Token: SecretFile(file)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := &deliver.Batch{Items: []deliver.Item{{Event: &event.Event{ID: "1", Type: "a", Source: "x", Time: time.Now()}}}, Attempt: 1}
	for _, text := range []string{"one", "two"} {
		write(text)
		if r := s.Send(t.Context(), b); r.Outcome != deliver.Delivered {
			t.Fatalf("%+v", r)
		}
	}
	if strings.Join(seen, " ") != "one two" {
		t.Errorf("tokens %v", seen)
	}
	down, err := newHubSink(secure.URL, HubOptions{Token: SecretText(hubToken), HTTPClient: secure.Client()})
	if err != nil {
		t.Fatal(err)
	}
	defer down.Close()
	if r := down.Send(t.Context(), b); r.Outcome != deliver.Retry || !strings.Contains(r.Reason, "unencrypted") || len(seen) != 2 {
		t.Errorf("%+v", r)
	}
	secure.Client().CloseIdleConnections()
}
