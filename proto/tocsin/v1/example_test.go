package tocsinv1_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// Many events on one stream; each response says what is durable.
func ExamplePublisherClient_publishStream() {
	conn, err := grpc.NewClient("127.0.0.1:8280", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-vault-token", "root")
	stream, err := tocsinv1.NewPublisherClient(conn).PublishStream(ctx)
	if err != nil {
		log.Fatal(err)
	}
	// Send and receive at the same time: the server slows down who does not read.
	go func() {
		for order := range uint64(3) {
			stream.Send(&tocsinv1.PublishStreamRequest{Sequence: order + 1, Events: []*tocsinv1.Event{{
				Id:      fmt.Sprintf("order-%d", order),
				Source:  "/shop",
				Type:    "shop/order-placed",
				Subject: fmt.Sprintf("orders/%d", order),
				Time:    timestamppb.Now(),
			}}})
		}
		stream.CloseSend()
	}()
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			log.Fatal(err) // what is not acknowledged is to be sent again
		}
		fmt.Printf("durable up to request %d: %d stored, %d known before\n", r.AcknowledgedSequence, r.Accepted, r.Duplicates)
		for _, refused := range r.Refused {
			log.Printf("event %d of request %d: %s", refused.Index, refused.Sequence, refused.Reason)
		}
	}
}
