package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

func rows() []row {
	return []row{
		{name: "append, one pipelined producer", against: "256 KiB write + fdatasync", unit: "B/s", want: 0.5, measure: appendBesideDisk},
		{name: "append, one pipelined producer, events", against: "JetStream default, not synced", unit: "/s", want: 1.2, measure: appendBesideJetStream},
		{name: "append, 1,000 producers that wait", against: "JetStream SyncAlways, one message each", unit: "/s", want: 20, measure: appendWaiting},
		{name: "gRPC stream publish, durable", against: "wanted", unit: "/s", want: 1, measure: grpcRate},
		{name: "gRPC stream publish, durable ", against: "append, one pipelined producer", unit: "/s", want: 0.3, measure: grpcStream},
		{name: "audit file to durable events", against: "encoding/json into a map", unit: "B/s", want: 3, measure: ingest},
		{name: "unix socket to durable events", against: "audit file to durable events", unit: "B/s", want: 0.6, measure: socketIngest},
		{name: "unix socket, writer blocked at 20,000 entries/s, p99", against: "allowed", unit: "ms", want: 1, most: true, measure: socketBlocked},
		{name: "audit log to spans at an OTLP endpoint, per second of processor", against: "encoding/json into a map, OpenTelemetry SDK", unit: "/s", want: 5, measure: spans},
		{name: "memory, 100,000 requests that wait for their response", against: "allowed", unit: "B", want: 1, most: true, rounds: 1, measure: openRequests},
		{name: "HTTP batch publish, durable: 100 events of 700 B per request, 8 connections", against: "wanted", unit: "/s", want: 1, measure: publishBesideWanted},
		{name: "HTTP batch publish, durable: 100 events of 700 B per request, 8 connections ", against: "bare HTTP server, encoding/json into maps", unit: "/s", want: 0.4, measure: publishBesideServer},
		{name: "fan-out, 100 subscribers", against: "bare loop, 64 frames per write", unit: "/s", want: 0.5, measure: fanOutBesideLoop(100)},
		{name: "fan-out, 1,000 subscribers", against: "bare loop, 64 frames per write", unit: "/s", want: 0.5, measure: fanOutBesideLoop(1000)},
		{name: "fan-out, 100 subscribers ", against: "nats-server WebSocket", unit: "/s", want: 1.5, measure: fanOutBesideNATS(100)},
		{name: "fan-out, 1,000 subscribers ", against: "nats-server WebSocket", unit: "/s", want: 1.5, measure: fanOutBesideNATS(1000)},
		{name: "Go SDK, asynchronous send, per call", against: "allowed", unit: "µs", want: 1, most: true, measure: sdkCall},
		{name: "Go SDK, one connection, durable", against: "wanted", unit: "/s", want: 1, measure: sdkDurable},
		{name: "Vault plugin, SendEvent over go-plugin, durable", against: "wanted", unit: "/s", want: 1, measure: pluginEvents},
		{name: "journal to file sink", against: "copy of the file by one buffered writer", unit: "B/s", want: 0.6, measure: fileSink},
		{name: "journal to webhook, one event per request", against: "bare net/http client loop", unit: "/s", want: 0.8, measure: webhookSink},
		{name: "48 sinks beside a dead and a slow one", against: "without these", unit: "/s", want: 0.95, measure: deadAndSlow},
		{name: "audit library, Log per call, queue in memory", against: "allowed", unit: "µs", want: 1, most: true, measure: trailCall},
		{name: "audit library, Log until durable at 10,000/s, p99", against: "allowed", unit: "ms", want: 1, most: true, measure: trailDurable},
		{name: "native plugin, events of 16 B through its process, counted", against: "wanted", unit: "/s", want: 1, measure: nativeCounted},
		{name: "native plugin, payloads of 700 B into the journal", against: "append of the same, one pipelined producer", unit: "/s", want: 0.6, measure: nativeDurable},
		{name: "native plugin, 10 fields that are strings extracted, events", against: "wanted", unit: "/s", want: 1, measure: nativeExtract},
		{name: "10 rules that mix fields of two native plugins in Go, events", against: "wanted", unit: "/s", want: 1, measure: twoPlugins},
		{name: "plugin of our SDK in the process, events of 16 B, counted", against: "wanted", unit: "/s", want: 1, measure: sdkCounted},
		{name: "plugin for Falco in our host, frames of 700 B", against: "wanted", unit: "/s", want: 1, measure: tocsinFed},
		{name: "plugin for Falco in our host, history of a hub, 700 B", against: "counting the frames of the same", unit: "/s", want: 0.6, measure: tocsinReads},
		{name: "capture write, 700 B", against: "copy in the disk cache", unit: "B/s", want: 0.5, measure: captureWrite},
		{name: "capture read, 700 B", against: "copy in the disk cache", unit: "B/s", want: 0.5, measure: captureRead},
		{name: "50 typical rules over recorded audit events, per second of processor", against: "wanted", unit: "/s", want: 1, measure: judgeRate},
		{name: "1,000 typical rules over recorded audit events, per event", against: "50 rules", unit: "µs", want: 4, most: true, measure: judgeMany},
		{name: "policy decision, not cached, 1,000 rules", against: "allowed", unit: "µs", want: 1, most: true, measure: decide},
		{name: "fan-out, 1,000 subscribers, 50 policy sets", against: "the same with root tokens", unit: "/s", want: 0.8, measure: fanOutPolicySets},
		{name: "10,000 tokens revoked one by one: pause of others", against: "allowed", unit: "ms", want: 1, most: true, rounds: 1, measure: revocationPause},
		{name: "token revoked: answer to last event or close", against: "allowed", unit: "ms", want: 1, most: true, measure: revocationBound},
		{name: "latency p99 at 1,000/s, 100 subscribers", against: "allowed", unit: "ms", want: 1, most: true, measure: latency},
		{name: "memory, idle hub", against: "allowed", unit: "B", want: 1, most: true, rounds: 1, measure: idleMemory},
		{name: "memory, 10,000 idle subscribers", against: "allowed", unit: "B", want: 1, most: true, rounds: 1, measure: subscriberMemory},
		{name: "memory, after following a large log", against: "after a tenth of it", unit: "B", want: 1.1, most: true, rounds: 1, measure: followMemory},
	}
}

// sample returns an event of eventBytes bytes whose payload does not compress.
func sample() *event.Event {
	e := &event.Event{ID: event.NewID(), Type: "bench/sample", Source: "/bench", Path: "bench/sample", Time: time.Now(), DataContentType: "text/plain"}
	e.Metadata.Set(event.MetadataPath, e.Path)
	e.Data = noise(eventBytes - e.Size())
	return e
}

func openJournal(ctx context.Context, dir string) (_ *journal.Journal, closeAndRemove func(), err error) {
	dir, err = os.MkdirTemp(dir, "journal")
	if err != nil {
		return nil, nil, err
	}
	j, err := journal.Open(ctx, journal.Config{Dir: dir})
	if err != nil {
		return nil, nil, err
	}
	return j, func() {
		j.Close(context.WithoutCancel(ctx))
		os.RemoveAll(dir)
	}, nil
}

// pipelined submits single events that make makes without waiting for each and counts those
// that were acknowledged.
func pipelined(ctx context.Context, j *journal.Journal, make func() *event.Event) turn {
	var events [4096]*event.Event // more than a record holds, so that it does not repeat itself
	for i := range events {
		events[i] = make()
	}
	return func(d time.Duration) (float64, error) {
		before := appended(j)
		var last *journal.Receipt
		n := uint64(0)
		for start := time.Now(); time.Since(start) < d; n++ {
			var err error
			if last, err = j.Submit(ctx, events[n%uint64(len(events))]); err != nil {
				return 0, err
			}
		}
		if _, err := last.Wait(ctx); err != nil { // those of one goroutine are answered in order
			return 0, err
		}
		if got := appended(j) - before; got != n {
			return 0, fmt.Errorf("%d events were submitted and %d are in the journal", n, got)
		}
		return float64(n), nil
	}
}

// appended is how many events a journal has ever had.
func appended(j *journal.Journal) uint64 {
	if end := j.End(); !end.IsZero() {
		return end.Ordinal + 1
	}
	return 0
}

func appendBesideDisk(ctx context.Context, s settings) (ours, against float64, err error) {
	j, done, err := openJournal(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	limit, done, err := bareSync(s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	ours, against, err = alternate(s.window, pipelined(ctx, j, sample), limit)
	return ours * eventBytes, against, err
}

func appendBesideJetStream(ctx context.Context, s settings) (ours, against float64, err error) {
	j, done, err := openJournal(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	theirs, done, err := jetStreamAppend(ctx, s.dir, false, 1024)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	return alternate(s.window, pipelined(ctx, j, sample), theirs)
}

func appendWaiting(ctx context.Context, s settings) (ours, against float64, err error) {
	const producers = 1000
	j, done, err := openJournal(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	theirs, done, err := jetStreamAppend(ctx, s.dir, true, producers)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	events := make([]*event.Event, producers)
	for i := range events {
		events[i] = sample()
	}
	return alternate(s.window, func(d time.Duration) (float64, error) {
		var n atomic.Int64
		var failed atomic.Pointer[error]
		var wg sync.WaitGroup
		start := time.Now()
		for _, e := range events {
			wg.Go(func() {
				for time.Since(start) < d {
					if _, err := j.Append(ctx, e); err != nil {
						failed.Store(&err)
						return
					}
					n.Add(1)
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return 0, *err
		}
		return float64(n.Load()), nil
	}, theirs)
}
