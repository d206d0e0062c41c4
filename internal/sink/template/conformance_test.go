package template

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/safetemplate"
)

// Secrets of the sinks of the suite.
const (
	secretPath   = "T0000/B0000/very-secret-path"
	secretHeader = "very-secret-header"
	secretKey    = "very-secret-routing-key"
	secretSigner = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTAx"
)

// receiver is an HTTP server behind a gate.
type receiver struct {
	t    testing.TB
	gate *delivertest.Gate

	mu      sync.Mutex
	mode    delivertest.Mode
	arrived []delivertest.Arrival
}

func newReceiver(t testing.TB) delivertest.Receiver {
	r := &receiver{t: t}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	r.gate = delivertest.NewGate(t, s.Listener.Addr().String())
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := event.ParseCloudEvent(body)
	switch {
	case err != nil:
		r.t.Errorf("%v: %.200s", err, body)
		w.WriteHeader(http.StatusBadRequest)
	case r.mode == delivertest.Fails:
		http.Error(w, "not now: "+request.URL.String()+" "+request.Header.Get("X-Key")+" "+secretKey, http.StatusServiceUnavailable)
	case r.mode == delivertest.RefusesOne && e.Type == delivertest.RefusedType:
		http.Error(w, "never: "+request.URL.String()+" "+request.Header.Get("X-Key")+" "+secretKey, http.StatusBadRequest)
	default:
		if r.mode == delivertest.Slow {
			time.Sleep(20 * time.Millisecond) // that is what slow means
		}
		r.arrived = append(r.arrived, delivertest.Arrival{ID: e.ID, Event: e})
	}
}

func (r *receiver) Sink(*slog.Logger) (deliver.Sink, error) { return New(r.options()) }

func (r *receiver) options() Options {
	guard, err := outbound.NewGuard("127.0.0.1")
	if err != nil {
		r.t.Fatal(err)
	}
	return Options{
		SecretURL: fixed("http://" + r.gate.Address() + "/" + secretPath),
		Connection: outbound.Options{
			Guard: guard, UserAgent: "tocsin/test", Timeout: time.Minute,
			Headers: []outbound.Header{{Name: "X-Key", Value: fixed(secretHeader)}},
		},
		Body: `{{.CloudEvent}}`, RoutingKey: fixed(secretKey), SigningKeys: []outbound.Secret{fixed(secretSigner)},
	}
}

func (r *receiver) Set(m delivertest.Mode) {
	r.mu.Lock()
	r.mode = m
	r.mu.Unlock()
	r.gate.Set(r.t, m)
}

func (r *receiver) Arrived() []delivertest.Arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]delivertest.Arrival(nil), r.arrived...)
}

func TestConformance(t *testing.T) {
	delivertest.Run(t, delivertest.Harness{
		Receiver: newReceiver,
		Modes: []delivertest.Mode{
			delivertest.Fails, delivertest.Refuses, delivertest.Closes, delivertest.Hangs, delivertest.Slow, delivertest.RefusesOne,
		},
		LargestData:  safetemplate.MaxOutputBytes / 2,
		TooLargeData: safetemplate.MaxOutputBytes + 1,
		Secrets:      []string{secretPath, "very-secret-path", secretHeader, secretKey, secretSigner, secretSigner[6:]},
		Options:      []any{Options{RoutingKey: fixed(secretKey), SecretURL: fixed(secretPath)}},
		Errors: func(t testing.TB) []error {
			var errs []error
			for _, o := range []Options{
				{SecretURL: fixed("ftp://" + secretPath), Body: "1"},
				{SecretURL: fixed("https://user:" + secretHeader + "@example.com/"), Body: "1"},
				{SecretURL: fixed("https://example.com/" + secretPath), Body: "{{"},
				{SecretURL: fixed("https://example.com/" + secretPath), Body: "1", SigningKeys: []outbound.Secret{fixed(secretSigner + "x!")}},
				{SecretURL: fixed("http://10.0.0.1/" + secretPath), Body: `{"k": {{.RoutingKey}}, "x": {{.Metadata.x}}}`, RoutingKey: fixed(secretKey), Samples: []*event.Event{sampleEvent()}},
			} {
				sink, err := New(o)
				if err == nil {
					sink.Close()
					t.Errorf("accepted: %+v", o)
					continue
				}
				errs = append(errs, err)
			}
			return errs
		},
	})
}
