package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tocsin-events/tocsin/event"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

const (
	// grpcBatch is how many events each request of the gRPC row has.
	grpcBatch = 300
	// grpcAhead is how many requests are sent before the first is acknowledged.
	grpcAhead = 32
)

// publisher is a client with one stream.
type publisher struct {
	conn   *grpc.ClientConn
	stream grpc.BidiStreamingClient[tocsinv1.PublishStreamRequest, tocsinv1.PublishStreamResponse]
	// requests are sent in turn, with new ids each time.
	requests  []*tocsinv1.PublishStreamRequest
	sequence  uint64
	responses chan *tocsinv1.PublishStreamResponse
	failed    chan error
}

func dialPublisher(ctx context.Context, address string) (*publisher, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	p := &publisher{conn: conn, responses: make(chan *tocsinv1.PublishStreamResponse, grpcAhead), failed: make(chan error, 1)}
	ctx = metadata.AppendToOutgoingContext(ctx, "x-vault-token", benchToken)
	if p.stream, err = tocsinv1.NewPublisherClient(conn).PublishStream(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	for range 2 * grpcAhead { // a request that is being sent is not changed
		r := new(tocsinv1.PublishStreamRequest)
		for range grpcBatch {
			e := sample()
			r.Events = append(r.Events, &tocsinv1.Event{Id: e.ID, Source: e.Source, Type: e.Type, Subject: e.Path, Time: timestamppb.New(e.Time),
				Metadata: map[string]string{event.MetadataPath: e.Path}, Data: e.Data, DataContentType: e.DataContentType})
		}
		p.requests = append(p.requests, r)
	}
	go func() {
		for {
			response, err := p.stream.Recv()
			if err != nil {
				p.failed <- err
				return
			}
			p.responses <- response
		}
	}()
	return p, nil
}

// turn publishes for about d and returns how many events were acknowledged.
func (p *publisher) turn(d time.Duration) (float64, error) {
	events, first := uint64(0), p.sequence
	acknowledged := first
	await := func() error {
		select {
		case r := <-p.responses:
			if len(r.Refused) > 0 {
				return fmt.Errorf("an event was refused: %v", r.Refused[0])
			}
			acknowledged, events = r.AcknowledgedSequence, events+r.Accepted
			return nil
		case err := <-p.failed:
			return err
		}
	}
	for start := time.Now(); time.Since(start) < d; {
		for p.sequence-acknowledged >= grpcAhead {
			if err := await(); err != nil {
				return 0, err
			}
		}
		p.sequence++
		r := p.requests[p.sequence%uint64(len(p.requests))]
		r.Sequence = p.sequence
		for i, e := range r.Events {
			e.Id = "bench-" + strconv.FormatUint(p.sequence*grpcBatch+uint64(i), 36)
		}
		if err := p.stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
	}
	for acknowledged < p.sequence {
		if err := await(); err != nil {
			return 0, err
		}
	}
	if want := (p.sequence - first) * grpcBatch; events != want {
		return 0, fmt.Errorf("%d events were sent and %d accepted", want, events)
	}
	return float64(events), nil
}

// grpcStream publishes to the real hub on one stream, and compares with a program that
// has the journal in itself.
func grpcStream(ctx context.Context, s settings) (ours, against float64, err error) {
	hub, err := startProcess(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer hub.stop()
	p, err := dialPublisher(ctx, hub.address)
	if err != nil {
		return 0, 0, err
	}
	defer p.conn.Close()
	j, done, err := openJournal(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	return alternate(s.window, p.turn, pipelined(ctx, j, sample))
}

// grpcRate is the same rate beside the one that is wanted.
func grpcRate(ctx context.Context, s settings) (ours, against float64, err error) {
	ours, _, err = grpcStream(ctx, s)
	return ours, 150_000, err
}
