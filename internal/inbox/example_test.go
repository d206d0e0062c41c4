package inbox_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/tocsin-events/tocsin/internal/inbox"
)

func Example() {
	dir, err := os.MkdirTemp("", "inbox")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	x, err := inbox.Open(inbox.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer x.Close(ctx)

	// A sender.
	at, err := x.Put(ctx, []inbox.Line{{Data: []byte("one"), Size: 3}, {Data: []byte("two"), Size: 3}})
	if err != nil {
		log.Fatal(err)
	}
	if err := x.Durable(ctx, at); err != nil { // only if it must know
		log.Fatal(err)
	}

	// The reader.
	if err := x.Seek(inbox.Position{}); err != nil { // or where it was
		log.Fatal(err)
	}
	var b inbox.Batch
	if err := x.Read(ctx, &b); err != nil {
		log.Fatal(err)
	}
	for _, l := range b.Lines {
		fmt.Printf("%s\n", l.Data)
	}
	x.Acknowledge(b.After()) // the lines are durable elsewhere
	x.Release(b.After())     // and so is the position
	// Output:
	// one
	// two
}
