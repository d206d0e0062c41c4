package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/tocsin-events/tocsin/client"
)

// sdkBurst is how many events the rows about the Go SDK send before they wait.
const sdkBurst = 50_000

// sendSDK sends bursts of events with three pairs of metadata to the real program in a
// process of its own, which takes them meanwhile. It tells how long a call took in the
// median burst, and how many events per second became durable.
func sendSDK(ctx context.Context, s settings) (perCall time.Duration, rate float64, err error) {
	p, err := startProcess(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	publisher, err := client.NewPublisher(client.PublisherOptions{Address: p.address, Token: benchToken})
	if err != nil {
		return 0, 0, err
	}
	defer publisher.Close(context.WithoutCancel(ctx))
	var calls []float64
	burst := func() error {
		start := time.Now()
		for range sdkBurst {
			if err := client.SendEvent(ctx, publisher, "app/order-placed", "path", "orders/4711", "operation", "place", "customer", "17"); err != nil {
				return err
			}
		}
		calls = append(calls, float64(time.Since(start))/sdkBurst)
		return publisher.Flush(ctx)
	}
	if err := burst(); err != nil { // connects, and grows what is used again
		return 0, 0, err
	}
	calls = nil
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for time.Since(start) < s.window {
		if err := burst(); err != nil {
			return 0, 0, err
		}
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	events := float64(len(calls) * sdkBurst)
	if n := float64(after.Mallocs-before.Mallocs) / events; n > 2 {
		return 0, 0, fmt.Errorf("%.2f allocations per event, at most 2 are allowed", n)
	}
	if stats := publisher.Stats(); stats.Acknowledged != stats.Taken || stats.Retries > 0 {
		return 0, 0, fmt.Errorf("not all went as it should: %+v", stats)
	}
	return time.Duration(median(calls)), events / took.Seconds(), nil
}

// sdkCall compares the time of a call, while the hub takes events, with what is allowed.
func sdkCall(ctx context.Context, s settings) (ours, against float64, err error) {
	perCall, _, err := sendSDK(ctx, s)
	return float64(perCall.Nanoseconds()) / 1e3, 1, err
}

// sdkDurable compares the events per second of one publisher with one connection with
// what is wanted.
func sdkDurable(ctx context.Context, s settings) (ours, against float64, err error) {
	_, rate, err := sendSDK(ctx, s)
	return rate, 100_000, err
}
