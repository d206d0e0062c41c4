package client_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/tocsin-events/tocsin/client"
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
