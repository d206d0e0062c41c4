package jwt_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tocsin-events/tocsin/internal/access/jwt"
)

// A Kubernetes cluster, whose service accounts get the policy named like their
// namespace's team. Its keys are in a file here; usually they are fetched.
func Example() {
	public, private, _ := ed25519.GenerateKey(nil)
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	keys := filepath.Join(dir, "keys.json")
	set := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
	if err := os.WriteFile(keys, []byte(set), 0o600); err != nil {
		fmt.Println(err)
		return
	}

	p, err := jwt.New(jwt.Config{
		Name:      "kubernetes",
		Issuer:    "https://kubernetes.default.svc.cluster.local",
		JWKSFile:  keys,
		Audiences: []string{"tocsin"},
		Metadata:  map[string]string{"/kubernetes.io/namespace": "namespace"},
		Rules: []jwt.Rule{{
			When:     map[string]string{"/kubernetes.io/namespace": "payments"},
			Policies: []string{"team-payments"},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()

	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(map[string]any{"alg": "EdDSA", "kid": "1"}) + "." + part(map[string]any{
		"iss": "https://kubernetes.default.svc.cluster.local", "aud": []string{"tocsin"},
		"sub": "system:serviceaccount:payments:worker",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "payments"},
	})
	token := signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(signed)))

	if p.Recognises(token, "") {
		who, err := p.Authenticate(context.Background(), token, "")
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(who.DisplayName, who.Policies, who.Meta)
	}
	// Output: kubernetes-system:serviceaccount:payments:worker [default team-payments] map[namespace:payments]
}
