package jwt

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
)

const testIssuer = "https://issuer.example"

// verdict is "accepted", "denied" or "unavailable".
func verdict(t testing.TB, p *Provider, token string) string {
	t.Helper()
	x, err := p.Authenticate(context.Background(), token, "")
	switch {
	case err == nil && x != nil:
		return "accepted"
	case x == nil && errors.Is(err, access.ErrDenied):
		return "denied"
	case x == nil && errors.Is(err, access.ErrUnavailable):
		return "unavailable"
	}
	t.Errorf("got %+v, %v", x, err)
	return ""
}

func TestAlgorithms(t *testing.T) {
	keys := map[string]crypto.Signer{"rsa": rsaKey(), "p256": p256Key(), "p384": p384Key(), "p521": p521Key(), "ed": edKey()}
	var set []jose.JSONWebKey
	for id, k := range keys {
		set = append(set, public(id, k))
	}
	p, _ := static(t, nil, set...)
	only, _ := static(t, func(c *Config) { c.Algorithms = []string{"ES256"} }, set...)
	right := map[string]string{
		"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
		"ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed",
	}
	for algorithm, owner := range right {
		body := claims(testIssuer)
		token := sign(algorithm, keys[owner], head(algorithm, owner), body)
		if got := verdict(t, p, token); got != "accepted" {
			t.Errorf("%s: %s", algorithm, got)
		}
		if got := verdict(t, p, sign(algorithm, keys[owner], fmt.Sprintf(`{"alg":%q}`, algorithm), body)); got != "accepted" {
			t.Errorf("%s without key id: %s", algorithm, got)
		}
		if got, want := verdict(t, only, token), map[bool]string{true: "accepted", false: "denied"}[algorithm == "ES256"]; got != want {
			t.Errorf("%s where only ES256 is accepted: %s", algorithm, got)
		}
		for id := range keys {
			if id != owner {
				if got := verdict(t, p, sign(algorithm, keys[owner], head(algorithm, id), body)); got != "denied" {
					t.Errorf("%s with the id of key %s: %s", algorithm, id, got)
				}
			}
		}
		// The header says another algorithm than the one of the signature.
		for other := range right {
			if other != algorithm {
				if got := verdict(t, p, sign(algorithm, keys[owner], head(other, owner), body)); got != "denied" {
					t.Errorf("%s called %s: %s", algorithm, other, got)
				}
			}
		}
	}
}

func TestKeyIsBoundToItsAlgorithm(t *testing.T) {
	k := public("a", rsaKey())
	k.Algorithm = "PS256"
	p, _ := static(t, nil, k)
	for algorithm, want := range map[string]string{"PS256": "accepted", "RS256": "denied", "PS384": "denied"} {
		if got := verdict(t, p, sign(algorithm, rsaKey(), head(algorithm, "a"), claims(testIssuer))); got != want {
			t.Errorf("%s: %s", algorithm, got)
		}
	}
}

func TestAttacks(t *testing.T) {
	elsewhere := newIssuer(t, public("a", otherRSA()))
	embedded := string(must(json.Marshal(jose.JSONWebKey{Key: otherRSA().Public(), KeyID: "a"})))
	body := claims(testIssuer)
	rs := func(header, claims string) string { return sign("RS256", rsaKey(), header, claims) }
	good := rs(head("RS256", "a"), body)
	part := strings.Split(good, ".")
	es := strings.Split(sign("ES256", p256Key(), head("ES256", "e"), body), ".")
	admin := b64([]byte(claims(testIssuer, "sub", "admin")))

	for _, test := range []struct{ name, token, want string }{
		{"good", good, "accepted"},

		{"none", sign("none", nil, `{"alg":"none"}`, body), "denied"},
		{"none with signature", rs(`{"alg":"none","kid":"a"}`, body), "denied"},
		{"nOnE", rs(`{"alg":"nOnE","kid":"a"}`, body), "denied"},
		{"no algorithm", rs(`{"kid":"a"}`, body), "denied"},
		{"algorithm a list", rs(`{"alg":["RS256"],"kid":"a"}`, body), "denied"},
		{"algorithm twice", rs(`{"alg":"RS256","alg":"none","kid":"a"}`, body), "denied"},
		{"algorithm in capitals", rs(`{"ALG":"RS256","kid":"a"}`, body), "denied"},
		{"public key as secret, PEM", sign("HS256", pemOf(rsaKey().Public()), head("HS256", "a"), body), "denied"},
		{"public key as secret, JSON", sign("HS256", must(json.Marshal(public("a", rsaKey()))), head("HS256", "a"), body), "denied"},
		{"empty secret", sign("HS256", []byte{}, head("HS256", "a"), body), "denied"},

		{"another key", sign("RS256", otherRSA(), head("RS256", "a"), body), "denied"},
		{"another key, no id", sign("RS256", otherRSA(), `{"alg":"RS256"}`, body), "denied"},
		{"embedded key", sign("RS256", otherRSA(), `{"alg":"RS256","kid":"a","jwk":`+embedded+`}`, body), "denied"},
		{"embedded key beside the right one", rs(`{"alg":"RS256","kid":"a","jwk":`+embedded+`}`, body), "accepted"},
		{"address of keys", sign("RS256", otherRSA(), `{"alg":"RS256","kid":"a","jku":"`+elsewhere.URL+`/keys"}`, body), "denied"},
		{"address of keys, unknown id", sign("RS256", otherRSA(), `{"alg":"RS256","kid":"b","jku":"`+elsewhere.URL+`/keys"}`, body), "denied"},
		{"address of keys beside the right one", rs(`{"alg":"RS256","kid":"a","jku":"`+elsewhere.URL+`/keys"}`, body), "accepted"},
		{"address of certificate", sign("RS256", otherRSA(), `{"alg":"RS256","kid":"a","x5u":"`+elsewhere.URL+`/keys"}`, body), "denied"},
		{"address as id", sign("RS256", otherRSA(), head("RS256", elsewhere.URL+"/keys"), body), "denied"},
		{"path as id", sign("RS256", otherRSA(), head("RS256", "../../../../dev/null"), body), "denied"},
		{"path as id, empty secret", sign("HS256", []byte{}, head("HS256", "/dev/null"), body), "denied"},
		{"id a number", rs(`{"alg":"RS256","kid":1}`, body), "denied"},
		{"id with other case", rs(head("RS256", "A"), body), "denied"},

		{"critical extension", rs(`{"alg":"RS256","kid":"a","crit":["exp"],"exp":1}`, body), "denied"},
		{"critical, known to others", rs(`{"alg":"RS256","kid":"a","crit":["b64"],"b64":true}`, body), "denied"},
		{"critical, empty", rs(`{"alg":"RS256","kid":"a","crit":[]}`, body), "denied"},
		{"critical, null", rs(`{"alg":"RS256","kid":"a","crit":null}`, body), "denied"},
		{"b64 alone", rs(`{"alg":"RS256","kid":"a","b64":false}`, body), "denied"},
		{"unknown member", rs(`{"alg":"RS256","kid":"a","x-extra":{"a":[1]}}`, body), "accepted"},
		{"encrypted", rs(`{"alg":"RS256","enc":"A128GCM","kid":"a"}`, body), "denied"},
		{"compressed", rs(`{"alg":"RS256","zip":"DEF","kid":"a"}`, body), "denied"},
		{"nested", rs(`{"alg":"RS256","kid":"a","cty":"JWT"}`, `"`+good+`"`), "denied"},
		{"said to be nested", rs(`{"alg":"RS256","kid":"a","cty":"JWT"}`, body), "denied"},
		{"without type", rs(`{"alg":"RS256","kid":"a"}`, body), "accepted"},
		{"access token", rs(`{"alg":"RS256","kid":"a","typ":"at+jwt"}`, body), "accepted"},
		{"access token, long", rs(`{"alg":"RS256","kid":"a","typ":"application/at+JWT"}`, body), "accepted"},
		{"logout token", rs(`{"alg":"RS256","kid":"a","typ":"logout+jwt"}`, body), "denied"},
		{"proof of possession", rs(`{"alg":"RS256","kid":"a","typ":"dpop+jwt"}`, body), "denied"},
		{"type a number", rs(`{"alg":"RS256","kid":"a","typ":1}`, body), "denied"},

		{"claims exchanged", part[0] + "." + admin + "." + part[2], "denied"},
		{"header exchanged", b64([]byte(`{"alg":"RS256"}`)) + "." + part[1] + "." + part[2], "denied"},
		{"signature of another", part[0] + "." + part[1] + "." + es[2], "denied"},
		{"no signature", part[0] + "." + part[1] + ".", "denied"},
		{"signature missing", part[0] + "." + part[1], "denied"},
		{"signature cut", good[:len(good)-4], "denied"},
		{"signature of zeros", es[0] + "." + es[1] + "." + b64(make([]byte, 64)), "denied"},
		{"four parts", good + "." + part[2], "denied"},
		{"five parts", "a.b.c.d.e", "denied"},
		{"JSON form", `{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`, "denied"},
		{"space in front", " " + good, "denied"},
		{"line break at the end", good + "\n", "denied"},
		{"line break in the middle", part[0] + ".\r\n" + part[1] + "." + part[2], "denied"},
		{"padding", part[0] + "." + part[1] + "." + part[2] + "==", "denied"},
		{"standard base64", strings.NewReplacer("-", "+", "_", "/").Replace(part[0]+"."+part[1]) + "." + "+" + part[2][1:], "denied"},
		{"signature in another spelling", respell(good), "denied"},
		{"empty", "", "denied"},
		{"dots", "..", "denied"},
		{"large", rs(head("RS256", "a"), claims(testIssuer, "x", strings.Repeat("x", 8<<10))), "denied"},
		{"not UTF-8", rs(head("RS256", "a"), strings.Replace(body, "ann", "an\xff", 1)), "denied"},
		{"deep", rs(head("RS256", "a"), strings.Replace(body, `"ann"`, `"ann","x":`+strings.Repeat("[", 20)+strings.Repeat("]", 20), 1)), "denied"},
		{"not so deep", rs(head("RS256", "a"), strings.Replace(body, `"ann"`, `"ann","x":`+strings.Repeat("[", 15)+strings.Repeat("]", 15), 1)), "accepted"},
		{"name twice", rs(head("RS256", "a"), strings.Replace(body, `"ann"`, `"ann","sub":"admin"`, 1)), "denied"},
		{"name twice by escapes", rs(head("RS256", "a"), strings.Replace(body, `"ann"`, `"ann","s\u0075b":"admin"`, 1)), "denied"},
		{"name twice inside", rs(head("RS256", "a"), strings.Replace(body, `"ann"`, `"ann","x":[{"a":1,"a":2}]`, 1)), "denied"},
		{"two objects", rs(head("RS256", "a"), body+body), "denied"},
		{"array", rs(head("RS256", "a"), "["+body+"]"), "denied"},
		{"null", rs(head("RS256", "a"), "null"), "denied"},
		{"null header", rs("null", body), "denied"},
		{"issuer in capitals", rs(head("RS256", "a"), strings.Replace(body, `"iss"`, `"ISS"`, 1)), "denied"},
		{"audience in capitals", rs(head("RS256", "a"), strings.Replace(body, `"aud"`, `"AUD"`, 1)), "denied"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, l := static(t, nil, public("a", rsaKey()), public("e", p256Key()))
			if got := verdict(t, p, test.token); got != test.want {
				t.Errorf("got %s, want %s; log %s", got, test.want, l)
			}
			if test.want == "denied" && !strings.Contains(l.String(), "token refused") {
				t.Errorf("log %q does not say why", l)
			}
			for _, part := range strings.Split(test.token, ".") {
				if len(part) > 8 && strings.Contains(l.String(), part) {
					t.Errorf("the log has part of the token: %s", l)
				}
			}
		})
	}
	if n := elsewhere.anything.Load(); n != 0 {
		t.Errorf("the attacker's server was asked %d times", n)
	}
}

// respell returns a token with the same bytes in another spelling: bits that base64
// does not need are set in the last letter.
func respell(token string) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(letters, token[len(token)-1])
	return token[:len(token)-1] + letters[last|1:last|1+1]
}

func TestClaims(t *testing.T) {
	now := time.Now().Unix()
	for _, test := range []struct {
		name  string
		pairs []any
		want  string // "accepted", or a piece of the reason
	}{
		{"usual", nil, "accepted"},

		{"another issuer", []any{"iss", "https://issuer.example.org"}, "issuer"},
		{"issuer with slash", []any{"iss", testIssuer + "/"}, "issuer"},
		{"issuer in another case", []any{"iss", "https://ISSUER.example"}, "issuer"},
		{"no issuer", []any{"iss", "absent"}, "issuer"},
		{"issuer a list", []any{"iss", []string{testIssuer}}, "issuer"},

		{"audience in a list", []any{"aud", []string{"other", "tocsin"}}, "accepted"},
		{"second audience", []any{"aud", "tocsin-2"}, "accepted"},
		{"another audience", []any{"aud", "other"}, "audience"},
		{"others in a list", []any{"aud", []string{"other", "Tocsin", "tocsin "}}, "audience"},
		{"empty list", []any{"aud", []string{}}, "audience"},
		{"list with a number", []any{"aud", []any{"tocsin", 1}}, "audience"},
		{"no audience", []any{"aud", "absent"}, "audience"},
		{"audience null", []any{"aud", nil}, "audience"},
		{"audience an object", []any{"aud", map[string]any{"tocsin": true}}, "audience"},

		{"expired", []any{"exp", now - 1, "iat", now - 100}, "expired"},
		{"expires now", []any{"exp", now, "iat", now - 100}, "expired"},
		{"no expiry", []any{"exp", "absent"}, "does not say"},
		{"expiry null", []any{"exp", nil}, "exp is not a number"},
		{"expiry a text", []any{"exp", fmt.Sprint(now + 60)}, "exp is not a number"},
		{"expiry a fraction", []any{"exp", json.RawMessage(fmt.Sprint(now+60) + ".75")}, "accepted"},
		{"expiry with exponent", []any{"exp", json.RawMessage("1e13"), "iat", "absent"}, "exp is not a number"},
		{"expiry in scientific form", []any{"exp", json.RawMessage(fmt.Sprintf("%de0", now+60))}, "accepted"},
		{"expiry zero", []any{"exp", 0}, "exp is not a number"},
		{"expiry negative", []any{"exp", -1}, "exp is not a number"},
		{"expiry in milliseconds", []any{"exp", now * 1000}, "exp is not a number"},
		{"expiry larger than a number can be", []any{"exp", json.RawMessage("1e999999999")}, "exp is not a number"},
		{"expiry with many digits", []any{"exp", json.RawMessage(strings.Repeat("9", 4000))}, "exp is not a number"},
		{"expiry wraps around", []any{"exp", json.RawMessage("18446744073709551615")}, "exp is not a number"},
		{"expiry a list", []any{"exp", []int64{now + 60}}, "exp is not a number"},

		{"not yet", []any{"nbf", now + 120}, "not valid yet"},
		{"not yet, within leeway", []any{"nbf", now + 10}, "accepted"},
		{"from the future", []any{"iat", now + 120}, "issued in the future"},
		{"from the future, within leeway", []any{"iat", now + 10}, "accepted"},
		{"issued after its end", []any{"iat", now + 10, "exp", now + 5}, "before it was issued"},
		{"nbf a text", []any{"nbf", "0"}, "nbf is not a number"},
		{"iat a text", []any{"iat", "0"}, "iat is not a number"},

		{"long-lived", []any{"exp", now + 365*86400}, "accepted"}, // bounded, see TestLifetime
		{"older than allowed", []any{"iat", now - 3601}, "older than"},
		{"without iat", []any{"iat", "absent"}, "accepted"},
		{"long-lived without iat", []any{"iat", "absent", "exp", now + 3700}, "lives longer"},

		{"no subject", []any{"sub", "absent"}, "sub"},
		{"subject empty", []any{"sub", ""}, "sub"},
		{"subject a number", []any{"sub", 1}, "sub"},
		{"subject a list", []any{"sub", []string{"ann"}}, "sub"},
		{"subject long", []any{"sub", strings.Repeat("a", 513)}, "sub"},
		{"subject with control character", []any{"sub", "a\x00b"}, "sub"},
		{"subject with line break", []any{"sub", "a\nb"}, "sub"},
		{"subject with half a pair", []any{"sub", json.RawMessage(`"a\ud800"`)}, "sub"},
		{"subject with space around", []any{"sub", " ann"}, "sub"},
		{"subject in Greek", []any{"sub", "Ἄννα"}, "accepted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, l := static(t, func(c *Config) {
				c.Audiences = []string{"tocsin", "tocsin-2"}
				c.MaxLifetime = time.Hour
			}, public("a", edKey()))
			got := verdict(t, p, sign("EdDSA", edKey(), head("EdDSA", "a"), claims(testIssuer, test.pairs...)))
			if test.want == "accepted" {
				if got != "accepted" {
					t.Errorf("%s: %s", got, l)
				}
				return
			}
			if got != "denied" || !strings.Contains(l.String(), test.want) {
				t.Errorf("got %s, log %q; want denied and %q", got, l, test.want)
			}
		})
	}
}

func TestLifetime(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for _, test := range []struct {
		name  string
		max   time.Duration
		pairs []any
		want  time.Duration // from now
	}{
		{"short", time.Hour, []any{"exp", at(10 * time.Minute)}, 10 * time.Minute},
		{"bounded", time.Hour, []any{"iat", at(-10 * time.Minute), "exp", at(48 * time.Hour)}, 50 * time.Minute},
		{"by default", 0, []any{"iat", at(-time.Hour), "exp", at(9000 * time.Hour)}, 23 * time.Hour},
		{"no limit", -1, []any{"iat", at(-9000 * time.Hour), "exp", at(9000 * time.Hour)}, 9000 * time.Hour},
		{"no iat", time.Hour, []any{"iat", "absent", "exp", at(50 * time.Minute)}, 50 * time.Minute},
		{"no iat, no limit", -1, []any{"iat", "absent", "exp", at(9000 * time.Hour)}, 9000 * time.Hour},
	} {
		p, _ := static(t, func(c *Config) { c.MaxLifetime = test.max }, public("a", edKey()))
		x, err := p.Authenticate(t.Context(), sign("EdDSA", edKey(), head("EdDSA", "a"), claims(testIssuer, test.pairs...)), "")
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := x.Expires.Sub(now); got != test.want {
			t.Errorf("%s: expires in %s, want %s", test.name, got, test.want)
		}
	}
}

// TestKubernetes has the claims of a projected service account token.
func TestKubernetes(t *testing.T) {
	now := time.Now().Unix()
	body := fmt.Sprintf(`{
		"aud": ["tocsin", "https://kubernetes.default.svc.cluster.local"],
		"exp": %d, "iat": %d, "nbf": %d,
		"iss": "https://kubernetes.default.svc.cluster.local",
		"jti": "ea28ed49-2e11-4280-9ec5-bc3d1d84661a",
		"kubernetes.io": {
			"namespace": "payments",
			"node": {"name": "node-7", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
			"pod": {"name": "worker-6b8f9", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
			"serviceaccount": {"name": "worker", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
			"warnafter": %d
		},
		"sub": "system:serviceaccount:payments:worker"
	}`, now+3600, now, now, now+3000)
	p, _ := static(t, func(c *Config) {
		c.Name = "k8s"
		c.Issuer = "https://kubernetes.default.svc.cluster.local"
		c.DefaultPolicies = nil
		c.Namespace = "/platform"
		c.Metadata = map[string]string{
			"/kubernetes.io/namespace":           "namespace",
			"/kubernetes.io/serviceaccount/name": "account",
			"/kubernetes.io/secret/name":         "secret",
			"/kubernetes.io/node":                "node", // an object
		}
		c.Rules = []Rule{
			{When: map[string]string{"/kubernetes.io/namespace": "payments", "sub": "system:serviceaccount:*"}, Policies: []string{"payments", "base"}},
			{When: map[string]string{"/kubernetes.io/namespace": "other"}, Policies: []string{"other"}},
			{When: map[string]string{"/kubernetes.io/namespace": "pay*", "/kubernetes.io/pod/name": "worker-*"}, Policies: []string{"base", "workers"}},
		}
	}, public("k", rsaKey()))
	token := sign("RS256", rsaKey(), `{"alg":"RS256","kid":"k"}`, body)
	if !p.Recognises(token, "") {
		t.Fatal("not recognised")
	}
	got, err := p.Authenticate(t.Context(), token, "")
	if err != nil {
		t.Fatal(err)
	}
	const user = "system:serviceaccount:payments:worker"
	meta := map[string]string{"namespace": "payments", "account": "worker"}
	want := &access.External{
		Provider: "k8s", DisplayName: "k8s-" + user, Namespace: "platform/",
		Policies: []string{"base", "default", "payments", "workers"},
		Subject: policy.Subject{
			EntityID:      event.DeriveID("jwt", p.issuer, user),
			EntityName:    user,
			Aliases:       map[string]policy.Alias{"k8s": {ID: event.DeriveID("jwt-alias", p.issuer, user), Name: user, Metadata: meta}},
			TokenMetadata: meta,
			DisplayName:   "k8s-" + user,
			Claims:        map[string]string{"iss": p.issuer, "sub": user},
		},
		Created: time.Unix(now, 0), Expires: time.Unix(now+3600, 0), Meta: meta,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	other := strings.ReplaceAll(strings.ReplaceAll(body, "payments", "elsewhere"), "worker-6b8f9", "x")
	if got := verdict(t, p, sign("RS256", rsaKey(), `{"alg":"RS256","kid":"k"}`, other)); got != "denied" {
		t.Errorf("a token without rule: %s", got)
	}
}

func TestIdentity(t *testing.T) {
	p, _ := static(t, func(c *Config) {
		c.UserClaim, c.GroupsClaim = "preferred_username", "/realm/groups"
		c.Metadata = map[string]string{"department": "team", "admin": "admin", "level": "level", "list": "list"}
	}, public("a", edKey()))
	authenticate := func(pairs ...any) (*access.External, error) {
		return p.Authenticate(t.Context(), sign("EdDSA", edKey(), head("EdDSA", "a"), claims(testIssuer, pairs...)), "")
	}
	x, err := authenticate("preferred_username", "ann@example.com", "jti", "1", "nonce", "n",
		"department", "a/b", "admin", true, "level", json.RawMessage("1e3"), "list", []string{"x"}, "email_verified", false,
		"realm", map[string]any{"groups": []any{"ops", "dev", "ops", 7, "", nil, "a\nb", strings.Repeat("g", 600)}})
	if err != nil {
		t.Fatal(err)
	}
	if x.Subject.EntityName != "ann@example.com" || x.DisplayName != "corp-ann@example.com" || x.Subject.EntityID != event.DeriveID("jwt", testIssuer, "ann") {
		t.Errorf("got %+v", x)
	}
	if want := map[string]string{"team": "a/b", "admin": "true", "level": "1e3"}; !reflect.DeepEqual(x.Meta, want) {
		t.Errorf("metadata %v, want %v", x.Meta, want)
	}
	var groups []string
	for _, g := range x.Subject.Groups {
		groups = append(groups, g.Name)
	}
	if want := []string{"ops", "dev"}; !slices.Equal(groups, want) || x.Subject.Groups[0].ID != event.DeriveID("jwt-group", testIssuer, "ops") {
		t.Errorf("groups %v, want %v", x.Subject.Groups, want)
	}
	want := map[string]string{
		"iss": testIssuer, "aud": "tocsin", "sub": "ann", "preferred_username": "ann@example.com",
		"department": "a/b", "admin": "true", "level": "1e3", "email_verified": "false",
	}
	if !reflect.DeepEqual(x.Subject.Claims, want) {
		t.Errorf("claims %v, want %v", x.Subject.Claims, want)
	}

	// The next token of the same user is the same subject.
	next, err := authenticate("preferred_username", "ann@example.com", "jti", "2", "iat", time.Now().Unix()-5, "exp", time.Now().Unix()+900)
	if err != nil {
		t.Fatal(err)
	}
	again, err := authenticate("preferred_username", "ann@example.com", "jti", "3", "nonce", "m")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(next.Subject, again.Subject) {
		t.Errorf("got %+v and then %+v", next.Subject, again.Subject)
	}

	for _, group := range []any{"ops", []string{"ops"}} {
		x, err := authenticate("preferred_username", 42, "realm", map[string]any{"groups": group})
		if err != nil || len(x.Subject.Groups) != 1 || x.Subject.EntityName != "42" {
			t.Errorf("group %v: %+v, %v", group, x, err)
		}
	}
	for _, user := range []any{"absent", nil, "", true, []string{"ann"}, "a\tb", map[string]any{"a": 1}} {
		if _, err := authenticate("preferred_username", user); !errors.Is(err, access.ErrDenied) {
			t.Errorf("user %v: %v", user, err)
		}
	}
}

func TestRecognises(t *testing.T) {
	p, _ := static(t, nil, public("a", edKey()))
	mine := claims(testIssuer, "exp", 1, "aud", "another")
	for name, test := range map[string]struct {
		token string
		want  bool
	}{
		"signed by nobody":   {sign("HS256", []byte("x"), head("HS256", "x"), mine), true},
		"of another":         {sign("HS256", []byte("x"), head("HS256", "x"), claims("https://other.example")), false},
		"no signature":       {sign("none", nil, `{"alg":"none"}`, mine), false},
		"Vault token":        {"hvs.CAESIJ", false},
		"three parts":        {"a.b.c", false},
		"five parts":         {"eyJhbGciOiJkaXIifQ..a.b.c", false},
		"issuer twice":       {sign("HS256", []byte("x"), head("HS256", "x"), `{"iss":"x","iss":"`+testIssuer+`"}`), false},
		"issuer in the head": {sign("HS256", []byte("x"), `{"alg":"HS256","iss":"`+testIssuer+`"}`, `{}`), false},
		"empty":              {"", false},
	} {
		if got := p.Recognises(test.token, ""); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	usual := Config{Name: "corp", Issuer: testIssuer, Audiences: []string{"a"}, DefaultPolicies: []string{"p"}}
	with := func(change func(*Config)) Config {
		c := usual
		change(&c)
		return c
	}
	rule := func(r Rule) Config { return with(func(c *Config) { c.Rules = []Rule{r} }) }
	weak := writeFile(t, "weak.json", []byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`))
	private := writeFile(t, "private.pem", []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	for _, test := range []struct {
		c    Config
		want string
	}{
		{with(func(c *Config) { c.Name = "" }), "name"},
		{with(func(c *Config) { c.Name = "A b" }), "name"},
		{with(func(c *Config) { c.Issuer = "" }), "issuer: is empty"},
		{with(func(c *Config) { c.Issuer = "accounts.example.com" }), "issuer (as no discovery_url is set)"},
		{with(func(c *Config) { c.Audiences = nil }), "audiences"},
		{with(func(c *Config) { c.Audiences = []string{""} }), "audiences"},
		{with(func(c *Config) { c.Algorithms = []string{"ES256", "none"} }), `"none"`},
		{with(func(c *Config) { c.Algorithms = []string{"HS256"} }), `"HS256"`},
		{with(func(c *Config) { c.Algorithms = []string{""} }), "algorithms"},
		{with(func(c *Config) { c.Leeway = time.Hour }), "leeway"},
		{with(func(c *Config) { c.Timeout = -1 }), "timeout"},
		{with(func(c *Config) { c.KeyRefresh = time.Second }), "key_refresh"},
		{with(func(c *Config) { c.Patience = time.Minute }), "patience"},
		{with(func(c *Config) { c.DefaultPolicies = nil }), "no token could do anything"},
		{with(func(c *Config) { c.DefaultPolicies = []string{" "} }), "default_policies"},
		{with(func(c *Config) { c.DefaultPolicies = []string{"Root"} }), "root"},
		{with(func(c *Config) { c.UserClaim = "/a~2" }), "user_claim"},
		{with(func(c *Config) { c.GroupsClaim = "/a~" }), "groups_claim"},
		{with(func(c *Config) { c.Metadata = map[string]string{"a": ""} }), "metadata"},
		{with(func(c *Config) { c.Metadata = map[string]string{"": "a"} }), "metadata"},
		{with(func(c *Config) { c.Metadata = map[string]string{"a": "x", "b": "x"} }), `a and b are both to be known as "x"`},
		{rule(Rule{Policies: []string{"a"}}), "policies[0]: when: is empty"},
		{rule(Rule{When: map[string]string{"a": "b"}}), "policies[0]: policies"},
		{rule(Rule{When: map[string]string{"a": "b"}, Policies: []string{"root"}}), "policies[0]: policies"},
		{rule(Rule{When: map[string]string{"": "b"}, Policies: []string{"a"}}), "policies[0]: when"},
		{with(func(c *Config) { c.DiscoveryURL = "http://issuer.example" }), "not encrypted"},
		{with(func(c *Config) { c.DiscoveryURL = "https://a:hunter2@issuer.example" }), "user name"},
		{with(func(c *Config) { c.JWKSURL = "file:///etc/keys" }), "https://"},
		{with(func(c *Config) { c.JWKSURL = "https://%zz:hunter2" }), "not a URL"},
		{with(func(c *Config) { c.JWKSURL, c.JWKSFile = "https://a", "b" }), "jwks_url and jwks_file"},
		{with(func(c *Config) { c.JWKSURL = "https://a"; c.ProxyURL = "hunter2" }), "proxy_url"},
		{with(func(c *Config) { c.JWKSURL = "https://a"; c.CAFile = "/nonexistent" }), "ca_file"},
		{with(func(c *Config) { c.JWKSURL = "https://a"; c.CAFile = weak }), "no PEM certificate"},
		{with(func(c *Config) { c.JWKSFile = weak; c.CAFile = weak }), "have no effect with jwks_file"},
		{with(func(c *Config) { c.JWKSFile = "/nonexistent/keys.json" }), "jwks_file: open /nonexistent"},
		{with(func(c *Config) { c.JWKSFile = weak }), "no usable key among 1"},
		{with(func(c *Config) { c.JWKSFile = private }), "not a JSON object"},
		{with(func(c *Config) { c.PublicKeyFiles = []string{private} }), "private key"},
		{with(func(c *Config) { c.PublicKeyFiles = []string{weak} }), "no public key"},
		{with(func(c *Config) { c.PublicKeyFiles = []string{t.TempDir()} }), "not a file"},
	} {
		_, err := New(test.c)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v, want %q", test.c, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("password in %v", err)
		}
	}
	p, err := New(usual)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Name() != "corp" || p.Recheck() != DefaultKeyRefresh || p.Patience() != 0 {
		t.Errorf("%s %s %s", p.Name(), p.Recheck(), p.Patience())
	}
}
