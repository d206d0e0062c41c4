package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
)

// TestRealServer runs against a Vault or OpenBao server when TOCSIN_TEST_UPSTREAM has
// its address and TOCSIN_TEST_UPSTREAM_TOKEN a token that may create others; for
// example one started with "vault server -dev -dev-root-token-id=root".
// TOCSIN_TEST_UPSTREAM_CA may name a file with the authority of its certificate.
func TestRealServer(t *testing.T) {
	address, parent := os.Getenv("TOCSIN_TEST_UPSTREAM"), os.Getenv("TOCSIN_TEST_UPSTREAM_TOKEN")
	if address == "" {
		t.Skip("TOCSIN_TEST_UPSTREAM is not set")
	}
	p, err := New(Config{Address: address, CAFile: os.Getenv("TOCSIN_TEST_UPSTREAM_CA")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	client := &http.Client{Transport: p.connections.current()}
	call := func(path string, body any, answer any) {
		t.Helper()
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+"/v1/"+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Vault-Token", parent)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode/100 != 2 {
			t.Fatalf("%s: %s", path, response.Status)
		}
		if answer != nil {
			if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
				t.Fatal(err)
			}
		}
	}
	create := func(parameters map[string]any) string {
		t.Helper()
		var created struct {
			Auth struct {
				ClientToken string `json:"client_token"`
			} `json:"auth"`
		}
		call("auth/token/create", parameters, &created)
		return created.Auth.ClientToken
	}
	denied := func(what, token, namespace string) {
		t.Helper()
		if x, err := p.Authenticate(t.Context(), token, namespace); !errors.Is(err, access.ErrDenied) {
			t.Errorf("%s: got %+v, %v", what, x, err)
		}
	}

	token := create(map[string]any{"policies": []string{"team-a"}, "ttl": "1h", "meta": map[string]string{"team": "a"}})
	for range 3 { // a look changes nothing
		x, err := p.Authenticate(t.Context(), token, "")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(x.Policies, []string{"default", "team-a"}) || x.Root || x.Namespace != "" || x.Accessor == "" || x.Meta["team"] != "a" {
			t.Errorf("got %+v", x)
		}
		if left := time.Until(x.Expires); left < 59*time.Minute || left > 61*time.Minute {
			t.Errorf("expires in %s", left)
		}
	}
	call("auth/token/revoke", map[string]string{"token": token}, nil)
	denied("revoked", token, "")

	x, err := p.Authenticate(t.Context(), create(map[string]any{"policies": []string{"team-a"}, "type": "batch", "ttl": "1h"}), "")
	if err != nil || !slices.Contains(x.Policies, "team-a") {
		t.Errorf("batch: %+v, %v", x, err)
	}
	x, err = p.Authenticate(t.Context(), create(map[string]any{"policies": []string{"root"}, "ttl": "1h"}), "")
	if err != nil || x.Root || len(x.Policies) != 0 {
		t.Errorf("root: %+v, %v", x, err)
	}
	denied("limited uses", create(map[string]any{"policies": []string{"team-a"}, "num_uses": 5}), "")
	denied("may not look itself up", create(map[string]any{"policies": []string{"team-a"}, "no_default_policy": true}), "")
	for _, junk := range []string{"junk", "hvs.junk", "hvb.AAAAAQJunk", "s.x", "a.b", "hvs.CAESIJ.ns", "%00", "..", "-"} {
		denied(junk, junk, "")
	}
}
