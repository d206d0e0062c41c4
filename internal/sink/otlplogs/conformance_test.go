package otlplogs

import (
	"compress/gzip"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // what the sink compresses with
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivertest"
	"github.com/tocsin-events/tocsin/internal/telemetry"
)

const secret = "very-secret-api-key"

// receiver takes log records over HTTP or gRPC, behind a gate.
type receiver struct {
	t        testing.TB
	gate     *delivertest.Gate
	protocol Protocol

	mu      sync.Mutex
	mode    delivertest.Mode
	arrived []delivertest.Arrival
}

func newReceiver(t testing.TB, protocol Protocol) delivertest.Receiver {
	r := &receiver{t: t, protocol: protocol}
	if protocol == GRPC {
		s := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.MaxRecvMsgSize(64<<20), grpc.UnknownServiceHandler(r.stream))
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); s.Serve(listener) }()
		t.Cleanup(func() { s.Stop(); <-done })
		r.gate = delivertest.NewGate(t, listener.Addr().String())
		return r
	}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	r.gate = delivertest.NewGate(t, s.Listener.Addr().String())
	return r
}

// verdict is what the receiver thinks of a request.
type verdict int

const (
	yes verdict = iota
	later
	never
)

func (r *receiver) take(body []byte) verdict {
	list := records(r.t, body)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.mode == delivertest.Fails:
		return later
	case r.mode == delivertest.RefusesOne && slices.ContainsFunc(list, func(l received) bool { return l.attributes["cloudevents.event_type"] == delivertest.RefusedType }):
		return never
	case r.mode == delivertest.Slow:
		time.Sleep(20 * time.Millisecond) // that is what slow means
	}
	for _, l := range list {
		id, _ := l.attributes["cloudevents.event_id"].(string)
		r.arrived = append(r.arrived, delivertest.Arrival{ID: id})
	}
	return yes
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	unzip, err := gzip.NewReader(request.Body)
	if err != nil {
		return
	}
	body, err := io.ReadAll(unzip)
	if err != nil {
		return
	}
	switch r.take(body) {
	case later:
		http.Error(w, "not now, "+request.Header.Get("Api-Key"), http.StatusServiceUnavailable)
	case never:
		http.Error(w, "never, "+request.Header.Get("Api-Key"), http.StatusBadRequest)
	}
}

func (r *receiver) stream(_ any, stream grpc.ServerStream) error {
	var body []byte
	if err := stream.RecvMsg(&body); err != nil {
		return err
	}
	switch r.take(body) {
	case later:
		return status.Error(codes.Unavailable, "not now, "+secret)
	case never:
		return status.Error(codes.InvalidArgument, "never, "+secret)
	}
	var answer []byte
	return stream.SendMsg(&answer)
}

// raw leaves messages as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (r *receiver) Sink(*slog.Logger) (deliver.Sink, error) {
	return New(Options{
		URL: "http://" + r.gate.Address(), Protocol: r.protocol, Gzip: true, Timeout: time.Minute, Version: "test",
		Headers: []telemetry.Header{{Name: "Api-Key", Value: func() (string, error) { return secret, nil }}},
	})
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
	return slices.Clone(r.arrived)
}

func TestConformance(t *testing.T) {
	variants := make(map[string]delivertest.Harness)
	for _, protocol := range []Protocol{HTTP, GRPC} {
		variants[string(protocol)] = delivertest.Harness{
			Receiver: func(t testing.TB) delivertest.Receiver { return newReceiver(t, protocol) },
			Modes: []delivertest.Mode{
				delivertest.Fails, delivertest.Refuses, delivertest.Closes, delivertest.Hangs, delivertest.Slow, delivertest.RefusesOne,
			},
			Secrets: []string{secret},
			Options: []any{Options{Headers: []telemetry.Header{{Name: "Api-Key", Value: func() (string, error) { return secret, nil }}}}},
		}
	}
	delivertest.RunEach(t, variants)
}
