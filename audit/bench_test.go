package audit

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// countingSink takes everything.
type countingSink struct{}

func (countingSink) Send(context.Context, []Event) error { return nil }

func benchEvent() Event {
	return Event{
		Action: "update", Target: Target{Type: "order", ID: "order-4711", Name: "Order 4711"}, Outcome: Success,
		Actor:     Actor{ID: "u-1042", Name: "Ada Lovelace", Email: "ada@example.com", Method: "oidc", IP: "192.0.2.17", UserAgent: "Mozilla/5.0 (X11; Linux x86_64)"},
		RequestID: "0198c0de-5d4f-7c22-9a55-1f7a6b1d2e3f", Metadata: map[string]string{"region": "eu-1"},
	}
}

// BenchmarkLogMemory is one call with a queue in memory, by one caller and by several.
func BenchmarkLogMemory(b *testing.B) {
	for _, callers := range []int{1, 8} {
		b.Run(map[int]string{1: "one caller", 8: "8 callers"}[callers], func(b *testing.B) {
			// The sink is paused, and what does not fit is dropped, so that the call is measured,
			// and not what comes behind it.
			l := newLogger(b, Options{Outputs: []Output{To("own", countingSink{})}, MaxBytes: 1 << 30, WhenFull: Drop})
			if err := l.Pause(b.Context(), "own", "benchmark"); err != nil {
				b.Fatal(err)
			}
			e, ctx := benchEvent(), b.Context()
			b.ReportAllocs()
			b.SetParallelism(callers)
			b.ResetTimer()
			if callers == 1 {
				for range b.N {
					_ = l.Log(ctx, e)
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = l.Log(ctx, e)
				}
			})
		})
	}
}

// BenchmarkLogMemoryDelivered is the same with a sink that takes everything at the same time.
func BenchmarkLogMemoryDelivered(b *testing.B) {
	l := newLogger(b, Options{Outputs: []Output{To("own", countingSink{})}})
	e, ctx := benchEvent(), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Log(ctx, e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLogDurable is one call with a queue on disk, by 64 callers at once.
func BenchmarkLogDurable(b *testing.B) {
	l := newLogger(b, Options{Dir: b.TempDir(), Outputs: []Output{To("own", countingSink{})}})
	e, ctx := benchEvent(), b.Context()
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Log(ctx, e); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/float64(l.Stats().Queue.Syncs), "events/sync")
}

// BenchmarkLogDurableRate logs 10,000 events per second, each at its time whatever became of
// those before, and reports how long calls take.
func BenchmarkLogDurableRate(b *testing.B) {
	const rate = 10_000
	l := newLogger(b, Options{Dir: b.TempDir(), Outputs: []Output{To("own", countingSink{})}})
	e, ctx := benchEvent(), b.Context()
	took := make([]time.Duration, b.N)
	due := make(chan int, b.N)
	var group sync.WaitGroup
	b.ResetTimer()
	begin := time.Now()
	at := func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second / rate) }
	for range 256 {
		group.Go(func() {
			for i := range due {
				if err := l.Log(ctx, e); err != nil {
					b.Error(err)
				}
				took[i] = time.Since(at(i))
			}
		})
	}
	for i := range b.N {
		if wait := time.Until(at(i)); wait > 0 {
			time.Sleep(wait)
		}
		due <- i
	}
	close(due)
	group.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-µs")
	b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "events/s")
}
