package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/audit"
)

// discarding is a sink of an audit trail that takes everything.
type discarding struct{}

func (discarding) Send(context.Context, []audit.Event) error { return nil }

// trailEvent is what a service writes down about a request.
func trailEvent() audit.Event {
	return audit.Event{
		Action: "update", Target: audit.Target{Type: "order", ID: "order-4711", Name: "Order 4711"}, Outcome: audit.Success,
		Actor:     audit.Actor{ID: "u-1042", Name: "Ada Lovelace", Email: "ada@example.com", Method: "oidc", IP: "192.0.2.17", UserAgent: "Mozilla/5.0 (X11; Linux x86_64)"},
		RequestID: "0198c0de-5d4f-7c22-9a55-1f7a6b1d2e3f", Metadata: map[string]string{"region": "eu-1"},
	}
}

// trailCall is audit.Log with a queue in memory, 20,000 events at a time by one goroutine,
// which a sink takes meanwhile: microseconds per call, of the median burst.
func trailCall(ctx context.Context, s settings) (ours, against float64, err error) {
	const burst = 20_000
	l, err := audit.New(audit.Options{Service: "bench", Outputs: []audit.Output{audit.To("discard", discarding{})}})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, l.Close(ctx)) }()
	e := trailEvent()
	var calls []float64
	for end := time.Now().Add(s.window); time.Now().Before(end); {
		start := time.Now()
		for range burst {
			if err := l.Log(ctx, e); err != nil {
				return 0, 0, err
			}
		}
		calls = append(calls, float64(time.Since(start).Nanoseconds())/burst/1000)
		if err := l.Flush(ctx); err != nil {
			return 0, 0, err
		}
	}
	return median(calls), 1.5, nil
}

// trailDurable logs 10,000 events per second, each at its time whatever became of those
// before, with a queue on disk: milliseconds from that time until the event is durable, p99.
func trailDurable(ctx context.Context, s settings) (ours, against float64, err error) {
	const rate, callers = 10_000, 256
	dir, err := os.MkdirTemp(s.dir, "trail")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	l, err := audit.New(audit.Options{Service: "bench", Dir: dir, Outputs: []audit.Output{audit.To("discard", discarding{})}})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, l.Close(ctx)) }()
	e := trailEvent()
	took := make([]time.Duration, int(s.window.Seconds()*rate))
	due := make(chan int, len(took))
	failed := make(chan error, callers)
	begin := time.Now()
	at := func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second / rate) }
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for i := range due {
				if err := l.Log(ctx, e); err != nil {
					failed <- err
					return
				}
				took[i] = time.Since(at(i))
			}
		})
	}
	for i := range took {
		if wait := time.Until(at(i)); wait > 0 {
			time.Sleep(wait)
		}
		due <- i
	}
	close(due)
	group.Wait()
	select {
	case err := <-failed:
		return 0, 0, fmt.Errorf("log: %w", err)
	default:
	}
	slices.Sort(took)
	return took[len(took)*99/100].Seconds() * 1000, 5, nil
}
