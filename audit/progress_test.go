package audit

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// losing is a sink that loses what it has when it is synced for the second time.
type losing struct {
	mu      sync.Mutex
	syncs   int
	pending []string
	durable map[string]bool
}

func (s *losing) Send(_ context.Context, b *deliver.Batch) deliver.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, item := range b.Items {
		s.pending = append(s.pending, item.Event.ID)
	}
	return deliver.Result{}
}

func (s *losing) Sync(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return nil
	}
	if s.syncs++; s.syncs == 2 {
		s.pending = nil
		return errors.New("input/output error")
	}
	for _, id := range s.pending {
		s.durable[id] = true
	}
	s.pending = nil
	return nil
}

func (s *losing) Close() error { return nil }

// TestMemoryKeepsUnsynced: a queue in memory that is full keeps what a sink has not synced, and
// so can lose.
func TestMemoryKeepsUnsynced(t *testing.T) {
	s := &losing{durable: make(map[string]bool)}
	l, err := New(Options{Service: "shop", MaxBytes: 1 << 20, Outputs: []Output{{
		Name: "disk", FirstRetry: 1, MaxRetry: 1, make: func(*Logger) (deliver.Sink, error) { return s, nil },
	}}})
	if err != nil {
		t.Fatal(err)
	}
	const n = 10_000
	text := strings.Repeat("x", 200)
	for range n {
		if err := l.Log(t.Context(), Event{Action: "create", Target: Target{Type: "order", ID: text}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if len(s.durable) != n {
		t.Errorf("%d events of %d are durable, after %d syncs", len(s.durable), n, s.syncs)
	}
}
