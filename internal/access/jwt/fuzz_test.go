package jwt

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/access"
)

// FuzzToken feeds whole tokens. Nothing may panic, none may be accepted whose
// signature nobody can have made, and what is recognised says the issuer also to
// another decoder.
func FuzzToken(f *testing.F) {
	p, _ := static(f, nil, public("a", p256Key()))
	good := sign("ES256", p256Other(), head("ES256", "a"), claims(testIssuer))
	for _, seed := range []string{good, good + ".x", "a.b.c", "", "..", sign("none", nil, `{"alg":"none"}`, claims(testIssuer)),
		sign("ES256", p256Other(), `{"alg":"ES256"}`, `{"iss":"`+testIssuer+`","iss":"x"}`),
		sign("ES256", p256Other(), `{"alg":"ES256"}`, `{"iss":"`+testIssuer+`","x":17e0470470}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		recognised := p.Recognises(token, "")
		if _, err := p.Authenticate(t.Context(), token, ""); !errors.Is(err, access.ErrDenied) {
			t.Fatalf("got %v", err)
		}
		if !recognised {
			return
		}
		raw, err := base64url.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		if claims, err := decodeOtherwise(raw); err != nil || claims["iss"] != testIssuer {
			t.Fatalf("recognised, but encoding/json reads %v, %v", claims["iss"], err)
		}
	})
}

// decodeOtherwise decodes claims with another decoder than the package.
func decodeOtherwise(raw []byte) (claims map[string]any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return claims, d.Decode(&claims)
}

// FuzzClaims feeds claims as if they were signed. What is accepted must be usable.
func FuzzClaims(f *testing.F) {
	for _, seed := range []string{claims(testIssuer), claims(testIssuer, "aud", []string{"tocsin"}, "groups", []string{"a", "b"}),
		claims(testIssuer, "exp", json.RawMessage("1e10"), "iat", "absent"), `{}`, `null`, `{"iss":1}`} {
		f.Add(seed)
	}
	p, _ := static(f, func(c *Config) {
		c.GroupsClaim, c.MaxLifetime = "groups", time.Hour
		c.Metadata = map[string]string{"/a/b": "ab"}
		c.Rules = []Rule{{When: map[string]string{"/a/0": "*"}, Policies: []string{"p"}}}
	}, public("a", p256Key()))
	header := b64([]byte(`{"alg":"ES256"}`))
	f.Fuzz(func(t *testing.T, text string) {
		token, err := parse(header + "." + b64([]byte(text)) + ".AAAA")
		if err != nil {
			return
		}
		now := time.Now()
		x, err := p.identity(token, now)
		if err != nil {
			return
		}
		if !x.Expires.After(now) || x.Expires.Sub(now) > time.Hour+p.leeway || x.Root || len(x.Policies) == 0 {
			t.Fatalf("accepted %+v", x)
		}
		if !validPerson(x.Subject.EntityName) || !utf8.ValidString(x.DisplayName) {
			t.Fatalf("user %q", x.Subject.EntityName)
		}
		total := 0
		for k, v := range x.Subject.Claims {
			total += len(k) + len(v)
		}
		if total > 3*maxTokenBytes { // U+FFFD is three bytes for one
			t.Fatalf("claims have %d bytes", total)
		}
		if again, err := decodeOtherwise([]byte(text)); err != nil || again["iss"] != testIssuer || again["sub"] == nil {
			t.Fatalf("encoding/json reads %v, %v", again, err)
		}
	})
}
