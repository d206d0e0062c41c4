package client

import (
	"context"
	"sync"
	"testing"

	"github.com/tocsin-events/tocsin/plugin"
)

// benchmarkSend times calls while a hub in another process takes the events, without the
// time that it needs when the calls are over.
func benchmarkSend(b *testing.B, parallel int, o PublisherOptions, send func(context.Context, *Publisher) error) {
	o.Address = startHub(b)
	o.MaxQueueEvents = 1 << 20
	o.MaxQueueBytes = 1 << 30
	p, err := NewPublisher(o)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close(context.Background())
	const burst = 50_000
	sendBurst := func(n int) {
		if parallel == 1 {
			for range n {
				if err := send(b.Context(), p); err != nil {
					b.Fatal(err)
				}
			}
			return
		}
		var group sync.WaitGroup
		for range parallel {
			group.Go(func() {
				for range n / parallel {
					if err := send(b.Context(), p); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		group.Wait()
	}
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; sent += burst {
		sendBurst(min(burst, b.N-sent))
		b.StopTimer()
		if err := p.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.StopTimer()
	if s := p.Stats(); s.Refused > 0 || s.Dropped > 0 || s.Waiting > 0 {
		b.Fatalf("%+v", s)
	}
}

func sendMetadata(ctx context.Context, p *Publisher) error {
	return SendEvent(ctx, p, "app/order-placed", "path", "orders/4711", "operation", "place", "customer", "17")
}

func BenchmarkSendEvent(b *testing.B) { benchmarkSend(b, 1, PublisherOptions{}, sendMetadata) }

func BenchmarkSendEventParallel(b *testing.B) { benchmarkSend(b, 8, PublisherOptions{}, sendMetadata) }

func BenchmarkSendEventPlugin(b *testing.B) {
	benchmarkSend(b, 1, PublisherOptions{}, func(ctx context.Context, p *Publisher) error {
		return plugin.SendEvent(ctx, p, "app/order-placed", "path", "orders/4711", "operation", "place", "customer", "17")
	})
}

func BenchmarkSendEventSpool(b *testing.B) {
	benchmarkSend(b, 1, PublisherOptions{Spool: &Spool{Dir: b.TempDir()}}, sendMetadata)
}
