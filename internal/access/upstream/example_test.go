package upstream_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/tocsin-events/tocsin/internal/access/upstream"
)

func Example() {
	// In place of a real server, one that knows a single token.
	vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{
			"id": r.Header.Get("X-Vault-Token"), "type": "service", "num_uses": 0, "ttl": 0,
			"display_name": "ldap-ann", "policies": []string{"default"}, "identity_policies": []string{"team-a"},
		}})
	}))
	defer vault.Close()

	p, err := upstream.New(upstream.Config{Name: "prod", Address: vault.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	if token := "hvs.example"; p.Recognises(token, "") {
		who, err := p.Authenticate(context.Background(), token, "")
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(who.Provider, who.DisplayName, who.Policies)
	}
	// Output: prod ldap-ann [default team-a]
}
