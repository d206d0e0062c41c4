package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
)

// Print what happens to secrets, from an hour ago on, until the program ends.
func Example() {
	ctx := context.Background()
	sub, err := client.Subscribe(ctx, "kv-v2/*", client.Options{
		Address: "http://127.0.0.1:8280",
		Token:   os.Getenv("TOCSIN_TOKEN"),
		Since:   "1h",
		Notify: func(n client.Notice) {
			if n.Kind == client.Gap {
				log.Printf("events are missing: %v", n.Err)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer sub.Close()
	for message, err := range sub.All(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		path, _ := message.Event.Metadata.Text("path")
		fmt.Println(message.Event.Time, message.Event.Type, path)
	}
}

// Tell what happens, without ever waiting for the hub.
func ExampleSendEvent() {
	publisher, err := client.NewPublisher(client.PublisherOptions{
		Address: "http://127.0.0.1:8280",
		Token:   os.Getenv("TOCSIN_TOKEN"),
		Notify: func(n client.Notice) {
			if n.Err != nil {
				log.Printf("events: %v", n.Err)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := publisher.Close(ctx); err != nil {
			log.Print(err)
		}
	}()
	if err := client.SendEvent(context.Background(), publisher, "app/order-placed", "path", "orders/4711", "customer", "17"); err != nil {
		log.Print(err)
	}
}

// Go on when an event is durable.
func ExamplePublisher_Publish() {
	publisher, err := client.NewPublisher(client.PublisherOptions{Address: "http://127.0.0.1:8280", Token: os.Getenv("TOCSIN_TOKEN")})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	defer publisher.Close(ctx)
	e := event.NewNotification("deploy/done", "path", "deploy/web", "version", "1.2.3")
	e.Data, e.DataContentType = []byte(`{"took":17}`), "application/json"
	err = publisher.Publish(ctx, e)
	var refused *client.RefusedError
	switch {
	case errors.As(err, &refused):
		log.Fatalf("the hub does not want it: %v", refused)
	case err != nil:
		log.Printf("it is not known to be stored: %v", err) // publishing e again is safe
	}
}

// Survive an outage of the hub and a restart of the program.
func ExampleSpool() {
	publisher, err := client.NewPublisher(client.PublisherOptions{
		Address: "https://hub.example:8280",
		Token:   os.Getenv("TOCSIN_TOKEN"),
		Spool:   &client.Spool{Dir: "/var/lib/shop/events", MaxBytes: 256 << 20},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	defer publisher.Close(ctx)
	if err := client.SendEvent(ctx, publisher, "app/order-placed", "path", "orders/4711"); err != nil {
		log.Print(err)
	}
	if err := publisher.Sync(ctx); err != nil { // it survives kill -9 from here on
		log.Print(err)
	}
}
