package access_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/journal"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "tocsin-access-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	quiet := slog.New(slog.DiscardHandler)
	j, err := journal.Open(ctx, journal.Config{Dir: dir, ReserveBytes: -1, Logger: quiet})
	if err != nil {
		panic(err)
	}
	defer j.Close(ctx)

	auth, err := access.Open(ctx, access.Config{State: j.State, RootToken: "s3cret", Logger: quiet})
	if err != nil {
		panic(err)
	}
	defer auth.Close(ctx)
	_, err = auth.PutPolicy(ctx, "", "kv", `
path "sys/events/subscribe/kv*" { capabilities = ["read"] }
path "secret/*"                 { capabilities = ["subscribe"] subscribe_event_types = ["kv*"] }`)
	if err != nil {
		panic(err)
	}

	r, _ := http.NewRequest("GET", "https://hub.example/v1/sys/events/subscribe/kv*", nil)
	_, err = auth.Authenticate(r, "")
	fmt.Println(err)

	r.Header.Set("X-Vault-Token", "s3cret")
	root, err := auth.Authenticate(r, "")
	if err != nil {
		panic(err)
	}
	create := access.CreateRequest{}
	create.Path, create.Policies = "auth/token/create", []string{"kv"}
	value, _, _, err := auth.CreateToken(ctx, root, create)
	if err != nil {
		panic(err)
	}

	r.Header.Set("X-Vault-Token", value)
	id, err := auth.Authenticate(r, "")
	fmt.Println(id.MayConnect("", "kv*"), id.MayConnect("", "*"), err)
	stop := auth.Follow(id,
		func() { fmt.Println("still connected:", id.MayConnect("", "kv*")) },
		func(why access.Ended) { fmt.Println(why) })
	defer stop()
	if err := auth.DeletePolicy(ctx, "", "kv"); err != nil {
		panic(err)
	}
	if err := auth.RevokeSelf(ctx, id); err != nil {
		panic(err)
	}
	// Output:
	// permission denied
	// true false <nil>
	// still connected: false
	// token revoked
}
