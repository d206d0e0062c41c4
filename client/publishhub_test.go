package client

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// quickPublish is a timing for tests that do not test it.
var quickPublish = publishTiming{minBackoff: time.Millisecond, maxBackoff: 5 * time.Millisecond, attempt: 5 * time.Second, spoolRetry: time.Millisecond}

// store is what a publishHub has on its disk: it outlives restarts of the hub.
type store struct {
	mu     sync.Mutex
	events []*event.Event // in the order in which they were stored, without repeats
	known  map[string]bool
	twice  int
}

func newStore() *store { return &store{known: make(map[string]bool)} }

func (s *store) add(e *event.Event) (isNew bool) {
	key := e.Source + "\x00" + e.ID
	if s.known[key] {
		s.twice++
		return false
	}
	s.known[key] = true
	s.events = append(s.events, e)
	return true
}

func (s *store) ids() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		ids = append(ids, e.ID)
	}
	return ids
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.events)
}

// publishHub takes events in as a hub does. Hook, if set, may answer request n, counted
// from 0, itself; it returns true then.
type publishHub struct {
	*httptest.Server
	*store
	maxBody int64
	refuse  func(*event.Event) (code, message string)

	hooks    sync.Mutex
	requests int
	hook     func(n int, w http.ResponseWriter, r *http.Request) bool
}

func newPublishHub(t testing.TB) *publishHub {
	h := &publishHub{store: newStore(), maxBody: 8 << 20}
	h.Server = httptest.NewUnstartedServer(h)
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.Start()
	t.Cleanup(h.Close)
	return h
}

func (h *publishHub) setHook(f func(n int, w http.ResponseWriter, r *http.Request) bool) {
	h.hooks.Lock()
	defer h.hooks.Unlock()
	h.hook = f
}

func (h *publishHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.hooks.Lock()
	n, hook := h.requests, h.hook
	h.requests++
	h.hooks.Unlock()
	if hook != nil && hook(n, w, r) {
		return
	}
	h.publish(w, r)
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(text)
}

func sorry(w http.ResponseWriter, status int, message string) {
	answerJSON(w, status, map[string]any{"errors": []string{message}})
}

// publish follows the description of the API.
func (h *publishHub) publish(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/api/v1/events":
		sorry(w, http.StatusNotFound, "not here")
		return
	case r.Header.Get("Content-Type") != "application/cloudevents-batch+json":
		sorry(w, http.StatusUnsupportedMediaType, "the fake takes batches only")
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.maxBody))
	if err != nil {
		sorry(w, http.StatusRequestEntityTooLarge, "the body is too large")
		return
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		sorry(w, http.StatusBadRequest, "the body is not a JSON array")
		return
	}
	partial := r.URL.Query().Get("partial") == "true"
	var (
		events  []*event.Event
		refused []refusal
		said    []string
	)
	for i, text := range raw {
		e, err := event.ParseCloudEvent(text)
		code, message := "", ""
		if err != nil {
			e, code, message = new(event.Event), "invalid", err.Error()
		} else if e.Complete(time.Now()); h.refuse != nil {
			code, message = h.refuse(e)
		}
		if code != "" {
			refused = append(refused, refusal{i, e.ID, code, message})
			said = append(said, fmt.Sprintf("event %d: %s", i, message))
			continue
		}
		events = append(events, e)
	}
	if len(refused) > 0 && !partial {
		answerJSON(w, http.StatusBadRequest, map[string]any{"errors": said, "refused": refused})
		return
	}
	accepted, duplicates := 0, 0
	h.mu.Lock()
	for _, e := range events {
		if h.add(e) {
			accepted++
		} else {
			duplicates++
		}
	}
	h.mu.Unlock()
	answer, status := map[string]any{"accepted": accepted, "duplicates": duplicates}, http.StatusOK
	if len(refused) > 0 {
		answer["refused"], status = refused, http.StatusMultiStatus
	}
	answerJSON(w, status, answer)
}

func (h *publishHub) publisher(t testing.TB, o PublisherOptions) *Publisher {
	t.Helper()
	o.Address = h.URL
	p, err := newPublisher(o, quickPublish)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Log(err)
		}
	})
	return p
}

// tee returns the events of a request and another body with them.
func tee(r *http.Request) ([]json.RawMessage, io.ReadCloser) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, http.NoBody
	}
	texts, _ := elements(text)
	return texts, io.NopCloser(bytes.NewReader(text))
}
