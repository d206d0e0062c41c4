package jwt

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "crypto/sha512"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The keys of the tests; making RSA keys takes long.
var (
	rsaKey    = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA  = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p256Other = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384Key   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521Key   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey     = sync.OnceValue(func() ed25519.PrivateKey {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return must(key, err)
	})
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign makes a token of the texts of a header and of claims, whatever they are. The
// algorithm is that of the signature; the header may say another.
func sign(algorithm string, private any, header, claims string) string {
	input := b64([]byte(header)) + "." + b64([]byte(claims))
	return input + "." + b64(signature(algorithm, private, input))
}

func signature(algorithm string, private any, input string) []byte {
	if algorithm == "none" {
		return nil
	}
	if algorithm == "HS256" {
		h := hmac.New(sha256.New, private.([]byte))
		h.Write([]byte(input))
		return h.Sum(nil)
	}
	if algorithm == "EdDSA" {
		return ed25519.Sign(private.(ed25519.PrivateKey), []byte(input))
	}
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[algorithm[2:]]
	h := hash.New()
	h.Write([]byte(input))
	sum := h.Sum(nil)
	switch algorithm[:2] {
	case "RS":
		return must(rsa.SignPKCS1v15(rand.Reader, private.(*rsa.PrivateKey), hash, sum))
	case "PS":
		return must(rsa.SignPSS(rand.Reader, private.(*rsa.PrivateKey), hash, sum, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
	}
	key := private.(*ecdsa.PrivateKey)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum)
	if err != nil {
		panic(err)
	}
	size := (key.Curve.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

// public is the key of a set for a private key.
func public(id string, private crypto.Signer) jose.JSONWebKey {
	return jose.JSONWebKey{Key: private.Public(), KeyID: id, Use: "sig"}
}

// issuer is an OpenID Connect provider.
type issuer struct {
	*httptest.Server
	documents atomic.Int64 // answers to requests for keys
	anything  atomic.Int64 // requests altogether
	handler   atomic.Pointer[http.HandlerFunc]

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	keysAt  string // "": this server
	name    string // "": its URL
	bearers []string
}

func newIssuer(t *testing.T, keys ...jose.JSONWebKey) *issuer {
	i := &issuer{keys: keys}
	i.Server = httptest.NewUnstartedServer(i)
	i.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // handshakes that fail on purpose
	i.StartTLS()
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.anything.Add(1)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.bearers = append(i.bearers, r.URL.Path+" "+r.Header.Get("Authorization"))
	if h := i.handler.Load(); h != nil {
		(*h)(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case wellKnown:
		name, keysAt := i.name, i.keysAt
		if name == "" {
			name = i.URL
		}
		if keysAt == "" {
			keysAt = i.URL + "/keys"
		}
		json.NewEncoder(w).Encode(map[string]any{"issuer": name, "jwks_uri": keysAt, "response_types_supported": []string{"id_token"}})
	case "/keys":
		i.documents.Add(1)
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: i.keys})
	default:
		http.NotFound(w, r)
	}
}

func (i *issuer) rotate(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

func (i *issuer) answer(h http.HandlerFunc) { i.handler.Store(&h) }

func (i *issuer) caFile(t *testing.T) string {
	return writeFile(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}))
}

// config is that of a Provider for i.
func (i *issuer) config(t *testing.T) Config {
	return Config{
		Name: "corp", Issuer: i.URL, CAFile: i.caFile(t), Audiences: []string{"tocsin"}, DefaultPolicies: []string{"everybody"},
	}
}

// provider makes a Provider that is closed at the end of the test.
func provider(t testing.TB, c Config) (*Provider, *log) {
	t.Helper()
	l := &log{}
	c.Logger = slog.New(slog.NewTextHandler(l, nil))
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, l
}

// static makes a Provider for the issuer "https://issuer.example" with keys in a file.
func static(t testing.TB, change func(*Config), keys ...jose.JSONWebKey) (*Provider, *log) {
	t.Helper()
	c := Config{
		Name: "corp", Issuer: "https://issuer.example", Audiences: []string{"tocsin"}, DefaultPolicies: []string{"everybody"},
		JWKSFile: writeFile(t, "keys.json", must(json.Marshal(jose.JSONWebKeySet{Keys: keys}))),
	}
	if change != nil {
		change(&c)
	}
	return provider(t, c)
}

// claims returns claims as JSON: usual ones with changes, which are pairs of name and
// value; "absent" takes one away.
func claims(issuer string, pairs ...any) string {
	now := time.Now().Unix()
	c := map[string]any{"iss": issuer, "aud": "tocsin", "sub": "ann", "iat": now, "exp": now + 600}
	for i := 0; i < len(pairs); i += 2 {
		c[pairs[i].(string)] = pairs[i+1]
		if pairs[i+1] == "absent" {
			delete(c, pairs[i].(string))
		}
	}
	return string(must(json.Marshal(c)))
}

func head(algorithm, id string) string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, algorithm, id)
}

func writeFile(t testing.TB, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pemOf(public any) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(public))})
}

// log is a buffer that may be written to and read at the same time.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.ReplaceAll(l.buf.String(), `\"`, `"`)
}
