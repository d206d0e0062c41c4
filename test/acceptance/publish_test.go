package acceptance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
)

// TestKillDuringPublishing kills the hub in the middle of what the Go SDK publishes. In
// the end every event is in the journal, and their first occurrences are in the order in
// which they were sent.
func TestKillDuringPublishing(t *testing.T) {
	t.Parallel()
	const total = 50_000
	k := newKilled(t)
	k.start()
	var mu sync.Mutex // of where the hub is
	where := strings.TrimPrefix(k.url, "http://")
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		mu.Lock()
		address := where
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	p, err := client.NewPublisher(client.PublisherOptions{
		Address: "http://hub", Token: root, Source: "/killed", MaxBatchEvents: 500, HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sent := make(chan error, 1)
	go func() {
		for n := range total {
			e := event.NewNotification("killed/sent", "path", "killed")
			e.ID = fmt.Sprintf("%06d", n)
			if err := p.Queue(ctx, e); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for kills := range 3 {
		for p.Stats().Acknowledged < uint64((kills+1)*total/5) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		k.kill()
		k.start()
		mu.Lock()
		where = strings.TrimPrefix(k.url, "http://")
		mu.Unlock()
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	stats := p.Stats()
	t.Logf("%+v", stats)
	if stats.Acknowledged != total || stats.Retries == 0 {
		t.Error("not everything was acknowledged, or nothing was tested")
	}
	sub, err := client.Subscribe(ctx, "killed/*", client.Options{Address: k.url, Token: root, Since: "oldest"})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	for next := 0; next < total; {
		m, err := sub.Next(ctx)
		if err != nil {
			t.Fatalf("after %d events: %v", next, err)
		}
		switch want := fmt.Sprintf("%06d", next); {
		case m.Event.ID == want:
			next++
		case m.Event.ID > want:
			t.Fatalf("%s comes before %s", m.Event.ID, want)
		}
	}
}
