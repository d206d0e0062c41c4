package deliver_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/delivermem"
)

// counter is a sink that counts.
type counter struct {
	events atomic.Int64
	want   int64
	done   chan struct{}
	work   time.Duration
}

func (c *counter) Send(_ context.Context, b *deliver.Batch) deliver.Result {
	if c.work > 0 {
		for begin := time.Now(); time.Since(begin) < c.work; {
		}
	}
	if c.events.Add(int64(len(b.Items))) == c.want {
		close(c.done)
	}
	return deliver.Result{}
}

func (c *counter) Close() error { return nil }

func filled(n, paths int) *delivermem.Journal {
	j := new(delivermem.Journal)
	const size = 500
	data := make([]byte, 500)
	for i := 0; i < n; i += size {
		events := make([]event.Event, size)
		record := make([]*event.Event, size)
		for k := range events {
			events[k] = event.Event{ID: fmt.Sprintf("018f7a62-0000-7000-8000-%012d", i+k), Type: "kv-v2/data-write", Source: "vault://prod", Path: fmt.Sprint("secret/data/", (i+k)%paths), Data: data,
				Metadata: event.Fields{{Key: "data_path", Value: "secret/data/x"}, {Key: "modified", Value: "true"}, {Key: "operation", Value: "data-write"}, {Key: "path", Value: "secret/data/x"}}}
			record[k] = &events[k]
		}
		j.Append(record...)
	}
	return j
}

// BenchmarkDelivery is what the engine costs for an event, with a sink that does nothing: in
// batches as for a file, and one by one with several at a time as for a webhook. "loop" is a
// bare loop with the same sink.
func BenchmarkDelivery(b *testing.B) {
	for _, shape := range []struct {
		name               string
		concurrency, batch int
	}{{"batches", 1, 500}, {"batches-concurrent", 8, 500}, {"single", 8, 1}} {
		b.Run(shape.name, func(b *testing.B) {
			n := (b.N + 499) / 500 * 500
			j := filled(min(n, 50_000), 1000)
			for left := n; left > 0; left -= 50_000 {
				n := min(left, 50_000)
				c := &counter{want: int64(n), done: make(chan struct{})}
				d := deliver.New(deliver.Options{Name: "bench", Sink: c, Journal: j, Store: new(delivermem.Store), From: deliver.FromStart,
					Policy: deliver.Policy{Concurrency: shape.concurrency, MaxEvents: shape.batch}})
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan struct{})
				if left == n {
					b.ReportAllocs()
				}
				go func() { defer close(ended); d.Run(ctx) }()
				<-c.done
				cancel()
				<-ended
			}
		})
	}
}
