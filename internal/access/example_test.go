package access_test

import (
	"fmt"
	"net/http"

	"github.com/tocsin-events/tocsin/internal/access"
)

func Example() {
	auth, err := access.NewAuthenticator("s3cret")
	if err != nil {
		panic(err)
	}
	r, _ := http.NewRequest("GET", "https://hub.example/v1/sys/events/subscribe/kv*", nil)
	_, err = auth.Authenticate(r)
	fmt.Println(err)
	r.Header.Set("X-Vault-Token", "s3cret")
	id, err := auth.Authenticate(r)
	fmt.Println(id.MayConnect("kv*"), err)
	// Output:
	// permission denied
	// true <nil>
}
