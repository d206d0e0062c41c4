package vaultclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
)

// serve starts a server with one answer.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := New(Options{Address: server.URL + "/prefix/", Token: "t0ken", Namespace: "ns1"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRequest(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"data":{"k":[%q,%q,%q]},"auth":null,"warnings":["a\u001b[2J\nb"]}`, r.Method+" "+r.RequestURI, body,
			r.Header.Get("X-Vault-Token")+" "+r.Header.Get("X-Vault-Namespace")+" "+r.Header.Get("X-Vault-Request")+" "+r.Header.Get("Content-Type"))
	})
	for _, tc := range []struct {
		method, path string
		query        url.Values
		body         any
		want         string
	}{
		{"GET", "sys/policies/acl/a b?c/d%", nil, nil, `{"k":["GET /prefix/v1/sys/policies/acl/a%20b%3Fc/d%25","","t0ken ns1 true "]}`},
		{"GET", "sys/policies/acl", url.Values{"list": {"true"}}, nil, `{"k":["GET /prefix/v1/sys/policies/acl?list=true","","t0ken ns1 true "]}`},
		{"PUT", "x", nil, map[string]any{"a": 1}, `{"k":["PUT /prefix/v1/x","{\"a\":1}","t0ken ns1 true application/json"]}`},
		{"PUT", "x", nil, Raw{"application/yaml", []byte("a: 1\n")}, `{"k":["PUT /prefix/v1/x","a: 1\n","t0ken ns1 true application/yaml"]}`},
	} {
		a, err := c.Do(t.Context(), tc.method, tc.path, tc.query, tc.body)
		if err != nil {
			t.Fatal(err)
		}
		if string(a.Data) != tc.want || a.Auth != nil || !slices.Equal(a.Warnings, []string{"a [2J b"}) {
			t.Errorf("%s %s: %s %v %q", tc.method, tc.path, a.Data, a.Auth, a.Warnings)
		}
	}
}

func TestAnswers(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		status     int
		want       error
		text       string
	}{
		{"empty", "", 204, nil, ""},
		{"blank", " \n", 200, nil, ""},
		{"no JSON", "<html>", 200, ErrNoAnswer, "not of Vault's API"},
		{"an array", "[]", 200, ErrNoAnswer, "not of Vault's API"},
		{"too large", strings.Repeat(" ", MaxAnswerBytes+1), 200, ErrTooLarge, "too large"},
		{"denied", `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`, 403, client.ErrPermission, "server answered 403: 1 error occurred: * permission denied"},
		{"nothing there", `{"errors":[]}`, 404, client.ErrNotFound, "server answered 404 Not Found"},
		{"bad", "a\x1b[31mb", 400, client.ErrBadRequest, "server answered 400: a [31mb"},
		{"sealed", `{"errors":["Vault is sealed"]}`, 503, client.ErrUnavailable, "Vault is sealed"},
		{"long text", strings.Repeat("x", 10_000), 500, client.ErrUnavailable, ": " + strings.Repeat("x", maxMessage)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.body)
			})
			a, err := c.Do(t.Context(), "GET", "x", nil, nil)
			switch {
			case tc.want == nil && (err != nil || a.Body != nil):
				t.Errorf("%+v, %v", a, err)
			case tc.want != nil && (!errors.Is(err, tc.want) || !strings.HasSuffix(err.Error(), tc.text) && !strings.Contains(err.Error(), tc.text+":")):
				t.Errorf("got %v", err)
			case tc.want != nil && len(err.Error()) > maxMessage+100:
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

// A redirect is not followed, so the token goes nowhere else.
func TestRedirect(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	t.Cleanup(other.Close)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	_, err := c.Do(t.Context(), "PUT", "x", nil, map[string]string{"token": "s3cret"})
	if err == nil || !strings.Contains(err.Error(), "it redirects to "+other.URL) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
}

func TestFetch(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "%s %q", r.RequestURI, r.Header.Get("X-Vault-Token"))
	})
	status, body, err := c.Fetch(t.Context(), "api/v1/health")
	if err != nil || status != 503 || string(body) != `/prefix/api/v1/health ""` {
		t.Errorf("%d %s, %v", status, body, err)
	}
}

func TestConnectErrorsAreShort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	c, err := New(Options{Address: host, Token: "t0ken"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Do(t.Context(), "GET", "sys/policies/acl/x", nil, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "connect to "+host+": dial tcp") || strings.Contains(err.Error(), "acl") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = c.Do(ctx, "GET", "x", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := New(Options{Address: "ftp://x"}); err == nil {
		t.Error("a bad address is accepted")
	}
	if _, err := c.Do(t.Context(), "BAD METHOD", "x", nil, nil); err == nil {
		t.Error("a bad method is accepted")
	}
}

// authority makes certificates, files of the test in PEM form.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.make("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	return a
}

// make writes NAME.crt and NAME.key.
func (a *authority) make(name string, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for kind, b := range map[string][]byte{"CERTIFICATE": der, "PRIVATE KEY": private} {
		file := a.path(name + map[string]string{"CERTIFICATE": ".crt", "PRIVATE KEY": ".key"}[kind])
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) path(file string) string { return filepath.Join(a.dir, file) }

func TestTLS(t *testing.T) {
	a := newAuthority(t)
	a.make("server", &x509.Certificate{DNSNames: []string{"hub.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, a.cert, a.key)
	a.make("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, a.cert, a.key)
	if err := os.WriteFile(a.path("empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(a.path("server.crt"), a.path("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"data":%q}`, r.TLS.PeerCertificates[0].Subject.CommonName+" asks "+r.TLS.ServerName)
	}))
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)

	full := TLS{CACert: a.path("ca.crt"), ClientCert: a.path("client.crt"), ClientKey: a.path("client.key")}
	with := func(change func(*TLS)) TLS { c := full; change(&c); return c }
	for _, tc := range []struct {
		name string
		tls  TLS
		want string // of data, or of the error
	}{
		{"all", full, `"client asks "`},
		{"name", with(func(c *TLS) { c.ServerName = "hub.example" }), `"client asks hub.example"`},
		{"wrong name", with(func(c *TLS) { c.ServerName = "other.example" }), "valid for hub.example, not other.example"},
		{"no CA", with(func(c *TLS) { c.CACert = "" }), "unknown authority"},
		{"missing CA", with(func(c *TLS) { c.CACert = a.path("none") }), "read CA certificate: open "},
		{"no PEM", with(func(c *TLS) { c.CACert = a.path("empty") }), "has no certificate in PEM form"},
		{"no client certificate", with(func(c *TLS) { c.ClientCert, c.ClientKey = "", "" }), "certificate required"},
		{"no key", with(func(c *TLS) { c.ClientKey = "" }), "needs its key"},
		{"no certificate for the key", with(func(c *TLS) { c.ClientCert = "" }), "needs the certificate"},
		{"key of another", with(func(c *TLS) { c.ClientKey = a.path("server.key") }), "does not match"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			transport, err := tc.tls.Transport()
			var answer *Answer
			if err == nil {
				defer transport.CloseIdleConnections()
				c, newErr := New(Options{Address: server.URL, Transport: transport})
				if newErr != nil {
					t.Fatal(newErr)
				}
				answer, err = c.Do(t.Context(), "GET", "x", nil, nil)
			}
			if err != nil {
				if !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v", err)
				}
			} else if string(answer.Data) != tc.want {
				t.Errorf("got %s", answer.Data)
			}
		})
	}
}
