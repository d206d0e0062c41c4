package grpcapi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// BenchmarkStream publishes events of about 700 bytes on one stream, client included;
// one operation is one durable event.
func BenchmarkStream(b *testing.B) {
	const batch, ahead = 300, 32
	j, err := journal.Open(b.Context(), journal.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close(context.Background())
	s := New(Options{Intake: publish.New(publish.Options{Journal: j})})
	stream, err := dial(b, s, &Caller{Publisher: publish.Host}).PublishStream(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var requests []*tocsinv1.PublishStreamRequest
	for range 64 {
		r := new(tocsinv1.PublishStreamRequest)
		for range batch {
			data := make([]byte, 550)
			for i := range data {
				data[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[rand.IntN(64)]
			}
			r.Events = append(r.Events, &tocsinv1.Event{Source: "/bench", Type: "bench/sample", Time: timestamppb.New(time.Now()),
				Metadata: map[string]string{"path": "bench/sample"}, Data: data, DataContentType: "text/plain"})
		}
		requests = append(requests, r)
	}
	window := make(chan struct{}, ahead)
	failed := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	n := uint64((b.N + batch - 1) / batch)
	go func() {
		for acknowledged := uint64(0); acknowledged < n; {
			r, err := stream.Recv()
			if err == nil && len(r.Refused) > 0 {
				err = fmt.Errorf("refused: %v", r.Refused[0])
			}
			if err != nil {
				failed <- err
				return
			}
			for ; acknowledged < r.AcknowledgedSequence; acknowledged++ {
				<-window
			}
		}
		failed <- nil
	}()
	for i := range n {
		window <- struct{}{}
		r := requests[i%64]
		r.Sequence = i + 1
		for k, e := range r.Events {
			e.Id = fmt.Sprintf("bench-%d-%d-0000-000000000000", i, k)
		}
		if err := stream.Send(r); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
