package token_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/token"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "tokens")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	j, err := journal.Open(ctx, journal.Config{Dir: dir, Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer j.Close(ctx)
	bucket, err := j.State(ctx, "tokens")
	if err != nil {
		log.Fatal(err)
	}

	store, err := token.Open(ctx, token.Config{
		Bucket: bucket,
		Key:    []byte("a secret of at least 32 bytes ..."),
		Changed: func(changes []token.Change) {
			for _, c := range changes {
				if c.End != 0 {
					fmt.Println(c.Last.DisplayName, c.End)
				}
			}
		},
		Logger: quiet,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	value, parent, _, err := store.Create(ctx, token.Request{
		Policies: []string{"ops"}, DisplayName: "token-deploy", Path: "auth/token/create", TTL: time.Hour,
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, _, _, err := store.Create(ctx, token.Request{DisplayName: "token-job", Parent: parent.ID}); err != nil {
		log.Fatal(err)
	}
	found, err := store.Lookup(value)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.HasPrefix(value, token.Prefix), found.DisplayName, found.Policies, found.TTL)
	if err := store.Revoke(ctx, found.ID); err != nil {
		log.Fatal(err)
	}
	_, err = store.Lookup(value)
	fmt.Println(err)
	// Output:
	// true token-deploy [ops] 1h0m0s
	// token-deploy revoked
	// token-job revoked
	// no such token
}
