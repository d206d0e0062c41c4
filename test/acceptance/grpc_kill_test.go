package acceptance

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/tocsin-events/tocsin/client"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// TestKillDuringStream kills the hub while events come on a gRPC stream. Their producer
// sends what was not acknowledged again; in the end each event is there once, in order.
func TestKillDuringStream(t *testing.T) {
	t.Parallel()
	rounds := 4
	if text := os.Getenv(faultRounds); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	k := newKilled(t)
	k.start()
	p := &streamer{T: t}
	for round := range rounds {
		stop := make(chan struct{})
		ended := make(chan error, 1)
		address := strings.TrimPrefix(k.url, "http://")
		go func() { ended <- p.produce(address, stop) }()
		time.Sleep(time.Duration(50+rand.IntN(300)) * time.Millisecond)
		if round%3 == 2 { // an orderly end of the producer now and then
			close(stop)
			if err := <-ended; err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			k.kill()
		} else {
			k.kill()
			if err := <-ended; err == nil {
				t.Fatalf("round %d: a stream to a hub that was killed ended well", round)
			}
		}
		k.start()
	}
	if p.acknowledged == 0 {
		t.Fatal("nothing was acknowledged")
	}
	stop := make(chan struct{})
	close(stop)
	if err := p.produce(strings.TrimPrefix(k.url, "http://"), stop); err != nil { // one more, behind all others
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := client.Subscribe(ctx, "shop/*", client.Options{Address: k.url, Token: root, Since: "oldest"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range p.acknowledged * perRequest {
		m, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("event %d of %d: %v", i, p.acknowledged*perRequest, err)
		}
		if m.Event.ID != strconv.FormatUint(i, 10) {
			t.Fatalf("event %s is where %d should be", m.Event.ID, i)
		}
	}
	t.Logf("%d events", p.acknowledged*perRequest)
}

// streamer has events with the ids 0, 1, ... to say, for ever.
type streamer struct {
	*testing.T
	acknowledged uint64 // requests
}

const perRequest = 20

// produce sends requests from the first that was not acknowledged on, one at least,
// until stop is closed or the stream fails.
func (p *streamer) produce(address string, stop <-chan struct{}) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(p.Context(), "x-vault-token", root), patience)
	defer cancel()
	first := p.acknowledged
	stream, err := tocsinv1.NewPublisherClient(conn).PublishStream(ctx)
	if err != nil {
		return err
	}
	go func() {
		defer stream.CloseSend()
		for n := first; ; n++ {
			r := &tocsinv1.PublishStreamRequest{Sequence: n + 1}
			for i := range uint64(perRequest) {
				r.Events = append(r.Events, &tocsinv1.Event{Id: strconv.FormatUint(n*perRequest+i, 10), Source: "/shop", Type: "shop/order-placed", Data: make([]byte, 300)})
			}
			if stream.Send(r) != nil {
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(r.Refused) > 0 {
			p.Errorf("refused: %v", r.Refused[0])
		}
		p.acknowledged = r.AcknowledgedSequence
	}
}
