package jwt

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestParseKeySet(t *testing.T) {
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	encode := func(k any) string { return string(must(json.Marshal(k))) }
	good := encode(public("good", p256Key()))
	with := func(member string) string { return strings.Replace(good, "{", "{"+member+",", 1) }
	for _, test := range []struct {
		name, set string
		want      int    // keys
		err       string // "": none
	}{
		{"EC", good, 1, ""},
		{"RSA", encode(public("a", rsaKey())), 1, ""},
		{"Ed25519", encode(public("a", edKey())), 1, ""},
		{"all", encode(public("a", rsaKey())) + "," + encode(public("b", p384Key())) + "," + encode(public("c", p521Key())), 3, ""},
		{"same id twice", good + "," + good, 2, ""},
		{"unknown kinds beside a good one", `{"kty":"OKP","crv":"Ed448","x":"AA"},{"kty":"new"},{"kty":"EC","crv":"secp256k1"},{},null,1,"x",` + good, 1, ""},
		{"weak RSA", encode(public("a", weak)), 0, "no usable key among 1"},
		{"shared secret", `{"kty":"oct","kid":"a","k":"c2VjcmV0"}`, 0, "no usable key"},
		{"private RSA", encode(jose.JSONWebKey{Key: rsaKey(), KeyID: "a"}), 0, "no usable key"},
		{"private EC", encode(jose.JSONWebKey{Key: p256Key(), KeyID: "a"}), 0, "no usable key"},
		{"private Ed25519", encode(jose.JSONWebKey{Key: edKey(), KeyID: "a"}), 0, "no usable key"},
		{"for encryption", strings.Replace(good, `"sig"`, `"enc"`, 1), 0, "no usable key"},
		{"for any use", strings.Replace(good, `"use":"sig",`, ``, 1), 1, ""},
		{"to sign with", with(`"key_ops":["sign"]`), 0, "no usable key"},
		{"to verify with", with(`"key_ops":["verify","sign"]`), 1, ""},
		{"algorithm", with(`"alg":"ES256"`), 1, ""},
		{"algorithm with secret", with(`"alg":"HS256"`), 0, "no usable key"},
		{"algorithm unknown", with(`"alg":"ES256K"`), 0, "no usable key"},
		{"not on its curve", `{"kty":"EC","crv":"P-256","x":"` + b64(make([]byte, 32)) + `","y":"` + b64(make([]byte, 32)) + `"}`, 0, "no usable key"},
		{"broken certificate", with(`"x5c":["AAAA"]`), 0, "no usable key"},
		{"none", "", 0, "no usable key among 0"},
		{"too many", strings.Repeat(good+",", 64) + good, 0, "more than 64"},
	} {
		keys, err := parseKeySet([]byte(`{"keys":[` + test.set + `]}`))
		if len(keys) != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %d keys, %v", test.name, len(keys), err)
		}
	}
	for _, text := range []string{``, `null`, `{}`, `[]`, `{"keys":1}`, `{"keys":null}`, `<html>`, `{"keys":[`, `{"keys":[],"keys":[` + good + `]}`} {
		if keys, err := parseKeySet([]byte(text)); err == nil || keys != nil {
			t.Errorf("%s: %v, %v", text, keys, err)
		}
	}
}

func TestParsePEM(t *testing.T) {
	certificate := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{}, &x509.Certificate{}, p384Key().Public(), p384Key()))
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	for _, test := range []struct {
		name, text string
		want       int
		err        string
	}{
		{"PKIX", string(pemOf(rsaKey().Public())), 1, ""},
		{"PKCS1", block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)), 1, ""},
		{"certificate", block("CERTIFICATE", certificate), 1, ""},
		{"several, with text between", "a key:\n" + string(pemOf(edKey().Public())) + "and another:\n" + string(pemOf(p256Key().Public())), 2, ""},
		{"other blocks", block("EC PARAMETERS", []byte{1}) + string(pemOf(p256Key().Public())), 1, ""},
		{"private", string(pemOf(p256Key().Public())) + block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(p256Key()))), 0, "private key"},
		{"weak", string(pemOf(weak.Public())), 0, "cannot be used"},
		{"curve", string(pemOf(p224.Public())), 0, "cannot be used"},
		{"broken", block("PUBLIC KEY", []byte{1, 2, 3}), 0, "broken PUBLIC KEY"},
		{"broken certificate", block("CERTIFICATE", []byte{1, 2, 3}), 0, "broken CERTIFICATE"},
		{"empty", "", 0, "no public key"},
	} {
		keys, err := parsePEM([]byte(test.text))
		if len(keys) != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %d keys, %v", test.name, len(keys), err)
		}
	}
}

// TestKeyFiles: files are read again when they change, and kept when they break.
func TestKeyFiles(t *testing.T) {
	first := sign("EdDSA", edKey(), head("EdDSA", "1"), claims(testIssuer))
	second := sign("ES256", p256Key(), head("ES256", "2"), claims(testIssuer))
	set := func(keys ...jose.JSONWebKey) []byte { return must(json.Marshal(jose.JSONWebKeySet{Keys: keys})) }
	for _, test := range []struct {
		name     string
		change   func(*Config, string)
		old, new []byte
	}{
		{"set", func(c *Config, f string) { c.JWKSFile = f }, set(public("1", edKey())), set(public("2", p256Key()))},
		{"PEM", func(c *Config, f string) { c.JWKSFile, c.PublicKeyFiles = "", []string{f} }, pemOf(edKey().Public()), pemOf(p256Key().Public())},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := writeFile(t, "keys", test.old)
			p, l := static(t, func(c *Config) { test.change(c, file) })
			expect := func(token, want string) {
				t.Helper()
				if got := verdict(t, p, token); got != want {
					t.Errorf("got %s, want %s; log %s", got, want, l)
				}
			}
			expect(first, "accepted")
			expect(second, "denied")
			p.keys.refresh, p.keys.interval = 0, 0 // as if time had passed
			if err := os.WriteFile(file, test.new, 0o600); err != nil {
				t.Fatal(err)
			}
			expect(first, "denied")
			expect(second, "accepted")
			if err := os.WriteFile(file, []byte("broken"), 0o600); err != nil {
				t.Fatal(err)
			}
			expect(second, "accepted")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			expect(second, "accepted")
			if !strings.Contains(l.String(), "cannot be read again") || !strings.Contains(l.String(), file) {
				t.Errorf("log %q", l)
			}
		})
	}
}

func TestKeyFileLimits(t *testing.T) {
	dir := t.TempDir()
	if _, err := readFile(dir); err == nil {
		t.Error("a directory was read")
	}
	large := writeFile(t, "large", make([]byte, maxDocumentBytes+1))
	if _, err := readFile(large); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("got %v", err)
	}
	// Files mounted into a pod are links, which are exchanged.
	target := writeFile(t, "target", []byte("x"))
	link := filepath.Join(dir, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if text, err := readFile(link); err != nil || string(text) != "x" {
		t.Errorf("got %q, %v", text, err)
	}
}

// TestFetch has what issuers may answer.
func TestFetch(t *testing.T) {
	plain := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
	}
	document := func(issuer, keys string) http.HandlerFunc {
		return plain(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, issuer, keys))
	}
	for _, test := range []struct {
		name string
		h    func(url string) http.HandlerFunc
		log  string
	}{
		{"another issuer", func(url string) http.HandlerFunc { return document("https://other.example", url+"/keys") }, "is of the issuer"},
		{"issuer with slash", func(url string) http.HandlerFunc { return document(url+"/", url+"/keys") }, "is of the issuer"},
		{"no issuer", func(url string) http.HandlerFunc { return plain(`{"jwks_uri":"` + url + `/keys"}`) }, "is of the issuer"},
		{"keys unencrypted", func(url string) http.HandlerFunc { return document(url, "http://issuer.example/keys") }, "not encrypted"},
		{"keys in a file", func(url string) http.HandlerFunc { return document(url, "file:///etc/passwd") }, "not an https:// URL"},
		{"no keys", func(url string) http.HandlerFunc { return document(url, "") }, "jwks_uri"},
		{"keys with password", func(url string) http.HandlerFunc {
			return document(url, strings.Replace(url, "//", "//u:p@", 1)+"/keys")
		}, "user name"},
		{"HTML", func(string) http.HandlerFunc { return plain("<!doctype html>") }, "not a discovery document"},
		{"wrong types", func(string) http.HandlerFunc { return plain(`{"issuer":1}`) }, "not a discovery document"},
		{"member twice", func(url string) http.HandlerFunc {
			return plain(`{"issuer":"x","issuer":"` + url + `","jwks_uri":"` + url + `/keys"}`)
		}, "not a discovery document"},
		{"404", func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
		}, "404"},
		{"401", func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) }
		}, "bearer_token_file"},
		{"redirect", func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://attacker.example/keys", http.StatusFound)
			}
		}, "redirects"},
		{"large", func(string) http.HandlerFunc { return plain(strings.Repeat(" ", maxDocumentBytes+1)) }, "larger"},
		{"bomb", func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				defer z.Close()
				for range 16 {
					io.WriteString(z, strings.Repeat(" ", 1<<20))
				}
			}
		}, "not a discovery document"},
		{"hangs up", func(string) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		}, "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			i := newIssuer(t, public("1", edKey()))
			i.answer(test.h(i.URL))
			p, l := provider(t, i.config(t))
			if got := verdict(t, p, sign("EdDSA", edKey(), head("EdDSA", "1"), claims(i.URL))); got != "unavailable" {
				t.Errorf("got %s", got)
			}
			if !strings.Contains(l.String(), test.log) {
				t.Errorf("log %q, want %q", l, test.log)
			}
		})
	}
}

func TestSlowIssuer(t *testing.T) {
	i := newIssuer(t, public("1", edKey()))
	release := make(chan struct{})
	i.answer(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"issuer":`)
		w.(http.Flusher).Flush()
		<-release
	})
	t.Cleanup(func() { close(release) })
	c := i.config(t)
	c.Timeout = 100 * time.Millisecond
	p, l := provider(t, c)
	token := sign("EdDSA", edKey(), head("EdDSA", "1"), claims(i.URL))
	start := time.Now()
	for range 300 {
		if got := verdict(t, p, token); got != "unavailable" {
			t.Fatal(got)
		}
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("300 tokens took %s", took)
	}
	if !strings.Contains(l.String(), "no answer within 100ms") {
		t.Errorf("log %q", l)
	}
}

func TestIssuerCertificate(t *testing.T) {
	i := newIssuer(t, public("1", edKey()))
	c := i.config(t)
	c.CAFile = ""
	p, l := provider(t, c)
	if got := verdict(t, p, sign("EdDSA", edKey(), head("EdDSA", "1"), claims(i.URL))); got != "unavailable" || i.anything.Load() != 0 {
		t.Errorf("got %s, asked %d times", got, i.anything.Load())
	}
	if !strings.Contains(l.String(), "certificate") {
		t.Errorf("log %q", l)
	}
}

// TestDiscovery finds the keys in every way that can be configured.
func TestDiscovery(t *testing.T) {
	i := newIssuer(t, public("1", edKey()))
	i.name = "https://kubernetes.default.svc.cluster.local"
	token := sign("EdDSA", edKey(), head("EdDSA", "1"), claims(i.name))
	for name, change := range map[string]func(*Config){
		"base":            func(c *Config) { c.DiscoveryURL = i.URL },
		"base with slash": func(c *Config) { c.DiscoveryURL = i.URL + "/" },
		"document":        func(c *Config) { c.DiscoveryURL = i.URL + wellKnown },
		"keys":            func(c *Config) { c.JWKSURL = i.URL + "/keys" },
	} {
		c := i.config(t)
		c.Issuer = i.name
		change(&c)
		p, l := provider(t, c)
		if got := verdict(t, p, token); got != "accepted" {
			t.Errorf("%s: %s %s", name, got, l)
		}
	}
}

// TestBearer: the token for the issuer goes to where it is configured to go, is read
// anew each time, and goes nowhere else.
func TestBearer(t *testing.T) {
	elsewhere := newIssuer(t, public("1", edKey()))
	i := newIssuer(t, public("1", edKey()))
	file := writeFile(t, "token", []byte("first\n"))
	c := i.config(t)
	c.BearerTokenFile = file
	c.CAFile = writeFile(t, "both.pem", append(must(os.ReadFile(i.caFile(t))), must(os.ReadFile(elsewhere.caFile(t)))...))
	p, l := provider(t, c)
	token := sign("EdDSA", edKey(), head("EdDSA", "1"), claims(i.URL))
	if got := verdict(t, p, token); got != "accepted" {
		t.Fatalf("%s %s", got, l)
	}
	if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	i.keysAt = elsewhere.URL + "/keys"
	i.mu.Unlock()
	p.keys.refresh, p.keys.interval = 0, 0
	if got := verdict(t, p, token); got != "accepted" || elsewhere.documents.Load() != 1 {
		t.Fatalf("%s %s", got, l)
	}
	want := []string{wellKnown + " Bearer first", "/keys Bearer first", wellKnown + " Bearer second"}
	if fmt.Sprint(i.bearers) != fmt.Sprint(want) {
		t.Errorf("sent %q, want %q", i.bearers, want)
	}
	if want := []string{"/keys "}; fmt.Sprint(elsewhere.bearers) != fmt.Sprint(want) {
		t.Errorf("sent elsewhere %q, want %q", elsewhere.bearers, want)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.keys.patience = 0
	if got := verdict(t, p, token); got != "unavailable" || !strings.Contains(l.String(), "bearer_token_file") {
		t.Errorf("%s %s", got, l)
	}
}
