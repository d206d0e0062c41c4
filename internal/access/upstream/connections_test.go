package upstream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func (a *authority) issue(t *testing.T, name string) (certificate, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func TestServerCertificate(t *testing.T) {
	s := newServer(t)
	s.add("", "secret-1")
	foreign := writeFile(t, "foreign.pem", newAuthority(t).pem())
	for _, test := range []struct {
		name   string
		change func(*Config)
		ok     bool
	}{
		{"right", func(*Config) {}, true},
		{"another name in it", func(c *Config) { c.ServerName = "example.com" }, true}, // httptest's certificate has it
		{"wrong name", func(c *Config) { c.ServerName = "vault.example.org" }, false},
		{"another authority", func(c *Config) { c.CAFile = foreign }, false},
		{"authorities of the system", func(c *Config) { c.CAFile = "" }, false},
	} {
		p, l := s.provider(t, test.change)
		before := s.asked.Load()
		_, err := p.Authenticate(t.Context(), "secret-1", "")
		if test.ok {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if !errors.Is(err, access.ErrUnavailable) || s.asked.Load() != before {
			t.Errorf("%s: %v, asked %d times", test.name, err, s.asked.Load()-before)
		}
		if !strings.Contains(l.String(), "x509") && !strings.Contains(l.String(), "certificate") {
			t.Errorf("%s: log %q", test.name, l)
		}
	}
}

func TestClientCertificateIsReadAgain(t *testing.T) {
	clients := newAuthority(t)
	var name atomic.Value // of the client's certificate, as the server has seen it
	s := newServer(t)
	pool := x509.NewCertPool()
	pool.AddCert(clients.certificate)
	s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, pool
	s.answer(func(w http.ResponseWriter, r *http.Request) {
		name.Store(r.TLS.PeerCertificates[0].Subject.CommonName)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(403)
		io.WriteString(w, `{"errors":[]}`)
	})
	certificate, key := clients.issue(t, "first")
	certFile, keyFile := writeFile(t, "cert.pem", certificate), writeFile(t, "key.pem", key)
	p, l := s.provider(t, func(c *Config) { c.CertFile, c.KeyFile = certFile, keyFile })
	p.connections.lookEvery = 0
	ask := func(want string) {
		t.Helper()
		if _, err := p.Authenticate(t.Context(), "secret-1", ""); !errors.Is(err, access.ErrDenied) {
			t.Fatalf("got %v", err)
		}
		if got := name.Load(); got != want {
			t.Errorf("the server has seen %v, want %s", got, want)
		}
	}
	ask("first")

	write := func(file string, text []byte, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		// Times of files are coarse; make sure that it differs.
		if err := os.Chtimes(file, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	certificate, key = clients.issue(t, "second")
	write(certFile, certificate, time.Hour) // does not fit its key yet
	ask("first")
	if !strings.Contains(l.String(), "keeping the certificates") {
		t.Errorf("log %q", l)
	}
	write(keyFile, key, time.Hour)
	ask("second")

	without, _ := s.provider(t, nil)
	if _, err := without.Authenticate(t.Context(), "secret-1", ""); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("without a certificate: %v", err)
	}
}

func TestProxy(t *testing.T) {
	s := newServer(t)
	s.add("", "secret-1")
	var connected atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("X-Vault-Token") != "" {
			t.Errorf("the proxy got %s %v", r.Method, r.Header)
		}
		connected.Add(1)
		server, err := net.Dial("tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		defer server.Close()
		client, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer client.Close()
		io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(server, client)
			server.Close()
		}()
		io.Copy(client, server)
	}))
	defer proxy.Close()

	p, _ := s.provider(t, func(c *Config) { c.ProxyURL = proxy.URL })
	if _, err := p.Authenticate(t.Context(), "secret-1", ""); err != nil {
		t.Fatal(err)
	}
	if connected.Load() != 1 {
		t.Errorf("%d connections through the proxy", connected.Load())
	}
	direct, _ := s.provider(t, nil)
	if direct.connections.transport.Proxy != nil {
		t.Error("the environment would be asked for a proxy")
	}
}

func TestConnectionIsReused(t *testing.T) {
	s := newServer(t)
	addresses := make(map[string]bool)
	s.answer(func(w http.ResponseWriter, r *http.Request) {
		addresses[r.RemoteAddr] = true
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(403)
		io.WriteString(w, `{"errors":[]}`)
	})
	p, _ := s.provider(t, nil)
	for range 20 {
		p.Authenticate(t.Context(), "secret-1", "")
	}
	if len(addresses) != 1 {
		t.Errorf("%d connections for 20 questions", len(addresses))
	}
}
