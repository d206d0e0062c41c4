package webhook

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/sink/format"
)

// BenchmarkOneEvent compares one event per request with a loop of a bare net/http client that
// posts the same body with the same concurrency, in turns against the same server, without
// any of our headers. It prints the ratio, of which 80 % should be reached without signatures.
func BenchmarkOneEvent(b *testing.B) {
	const concurrency = 8
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
	}))
	defer server.Close()
	items := make([]deliver.Item, 64)
	for i := range items {
		e := event.NewNotification("kv-v2/data-write", "path", fmt.Sprintf("secret/data/app-%d", i), "operation", "data-write", "modified", "true",
			"data_path", "secret/data/app", "current_version", "3", "oldest_version", "0", "mount_point", "secret/", "note", strings.Repeat("x", 200))
		e.Source = "vault://node-1"
		items[i] = deliver.Item{Event: e}
	}
	secret := text(secretKey)
	for name, o := range map[string]Options{
		"plain":  {},
		"signed": {SigningKeys: []outbound.Secret{secret}, Connection: outbound.Options{Bearer: text(bearer)}},
	} {
		b.Run(name, func(b *testing.B) {
			o.URL, o.Format = server.URL, format.CloudEvents
			o.Connection.Guard, o.Connection.Concurrency, o.Connection.UserAgent = loopback, concurrency, "tocsin/bench"
			s := open(b, o)
			body := event.AppendCloudEvent(nil, items[0].Event, "")
			bare := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency}}
			defer bare.CloseIdleConnections()
			ours := func(i int) bool { // as a delivery does it
				ctx, cancel := context.WithTimeout(b.Context(), outbound.DefaultTimeout)
				defer cancel()
				return s.Send(ctx, &deliver.Batch{Items: items[i%len(items) : i%len(items)+1], Attempt: 1}).Outcome == deliver.Delivered
			}
			theirs := func(int) bool {
				r, err := bare.Post(server.URL, "application/json", bytes.NewReader(body))
				if err != nil {
					return false
				}
				defer r.Body.Close()
				io.Copy(io.Discard, r.Body)
				return r.StatusCode == 200
			}
			// What counts is the time of the processors, of both sides: others are at work on the
			// machine of most who run this.
			run := func(n int, do func(int) bool) time.Duration {
				start := processorTime(b)
				var next atomic.Int64
				var wg sync.WaitGroup
				for range concurrency {
					wg.Go(func() {
						for i := next.Add(1); i <= int64(n); i = next.Add(1) {
							if !do(int(i)) {
								b.Error("a request has failed")
								return
							}
						}
					})
				}
				wg.Wait()
				return processorTime(b) - start
			}
			run(100, ours)
			run(100, theirs)
			b.ReportAllocs()
			var mine, other time.Duration
			const turn = 500
			n := 0
			for b.Loop() { // a turn of each
				mine += run(turn, ours)
				other += run(turn, theirs)
				n += turn
			}
			b.ReportMetric(float64(mine.Microseconds())/float64(n), "ours-µs")
			b.ReportMetric(float64(other.Microseconds())/float64(n), "bare-µs")
			b.ReportMetric(100*other.Seconds()/mine.Seconds(), "%of-bare")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEncode is what the form standard costs.
func BenchmarkEncode(b *testing.B) {
	item := sample()
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = appendStandard(dst[:0], item)
	}
}
