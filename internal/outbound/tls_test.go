package outbound

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pemOf("CERTIFICATE", der)}
}

// issue returns a certificate and its key.
func (a *authority) issue(t *testing.T, name string, ends time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: ends.Add(-2 * time.Hour), NotAfter: ends,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", keyDER)
}

// serveTLS starts a server that says who its client is.
func serveTLS(t *testing.T, cert, key string, change func(*tls.Config)) string {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto)
		if peers := r.TLS.PeerCertificates; len(peers) > 0 {
			io.WriteString(w, " "+peers[0].Subject.CommonName)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if change != nil {
		change(s.TLS)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL + "/"
}

func text(s string) Secret { return func() (string, error) { return s, nil } }

func TestTLS(t *testing.T) {
	good, other := newAuthority(t, "good"), newAuthority(t, "other")
	hour := time.Now().Add(time.Hour)
	cert, key := good.issue(t, "127.0.0.1", hour)
	named, namedKey := good.issue(t, "hooks.example.com", hour)
	old, oldKey := good.issue(t, "127.0.0.1", time.Now().Add(-time.Minute))
	clientCert, clientKey := good.issue(t, "tocsin", hour)
	otherCert, otherKey := other.issue(t, "mallory", hour)
	pool := x509.NewCertPool()
	pool.AddCert(good.cert)
	mutual := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool }
	ca := TLS{CA: text(good.pem)}
	with := func(change func(*TLS)) TLS { o := ca; change(&o); return o }

	tests := []struct {
		name      string
		cert, key string
		server    func(*tls.Config)
		options   TLS
		answer    string
		reason    string // a part of it
	}{
		{"good", cert, key, nil, ca, "HTTP/2.0", ""},
		{"HTTP/1", cert, key, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, ca, "HTTP/1.1", ""},
		{"unknown authority", cert, key, nil, TLS{}, "", "is signed by an authority that is not known here; set tls.ca"},
		{"wrong authority", cert, key, nil, TLS{CA: text(other.pem)}, "", "is signed by an authority that is not known here"},
		{"wrong name", named, namedKey, nil, ca, "", "is for another host; set tls.server_name"},
		{"server name", named, namedKey, nil, with(func(o *TLS) { o.ServerName = "hooks.example.com" }), "HTTP/2.0", ""},
		{"other server name", cert, key, nil, with(func(o *TLS) { o.ServerName = "hooks.example.com" }), "", "is for another host"},
		{"expired", old, oldKey, nil, ca, "", "has expired"},
		{"TLS 1.1", cert, key, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, ca, "", "has ended the handshake (tls: protocol version not supported)"},
		{"mutual", cert, key, mutual, with(func(o *TLS) { o.Cert, o.Key = text(clientCert), text(clientKey) }), "HTTP/2.0 tocsin", ""},
		{"no client certificate", cert, key, mutual, ca, "", "wants a client certificate, or another one"},
		{"wrong client certificate", cert, key, mutual, with(func(o *TLS) { o.Cert, o.Key = text(otherCert), text(otherKey) }), "", "wants a client certificate, or another one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := parseURL(t, serveTLS(t, tt.cert, tt.key, tt.server))
			c := client(t, Options{TLS: tt.options})
			answer, err := c.Do(t.Context(), &Request{URL: u, Body: []byte("x")})
			if tt.reason == "" {
				if err != nil || string(answer.Body) != tt.answer {
					t.Errorf("%+v, %v, want %q", answer, err, tt.answer)
				}
				return
			}
			if err == nil {
				t.Fatalf("%s, want an error", answer.Body)
			}
			if r := Failed(t.Context(), err); r.Outcome != deliver.Retry || !strings.Contains(r.Reason, tt.reason) {
				t.Errorf("%+v, want one about %q", r, tt.reason)
			}
		})
	}
}

// TestCertificatesAreReloaded changes the files under a client that runs.
func TestCertificatesAreReloaded(t *testing.T) {
	a := newAuthority(t, "a")
	hour := time.Now().Add(time.Hour)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	serverCert, serverKey := a.issue(t, "127.0.0.1", hour)
	u := parseURL(t, serveTLS(t, serverCert, serverKey, func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, pool }))
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) Secret {
		return func() (string, error) {
			b, err := os.ReadFile(filepath.Join(dir, name))
			return string(b), err
		}
	}
	write("ca", a.pem)
	for _, name := range []string{"first", "second"} {
		cert, key := a.issue(t, name, hour)
		write(name+".cert", cert)
		write(name+".key", key)
	}
	name := "first"
	c := client(t, Options{TLS: TLS{
		CA: read("ca"), Cert: func() (string, error) { return read(name + ".cert")() }, Key: func() (string, error) { return read(name + ".key")() },
	}})
	later := func() { // as if some seconds had passed
		c.mu.Lock()
		defer c.mu.Unlock()
		c.looked = c.looked.Add(-lookAgain)
	}
	expect := func(want string) {
		t.Helper()
		later()
		answer, err := c.Do(t.Context(), &Request{URL: u})
		switch {
		case err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%v, want %s", err, want)
		case err == nil && string(answer.Body) != want:
			t.Errorf("%s, want %s", answer.Body, want)
		}
	}
	expect("HTTP/2.0 first")
	name = "second"
	expect("HTTP/2.0 second")
	name = "third"
	expect("tls: cert: open")
	cert, _ := a.issue(t, "third", hour)
	write("third.cert", cert)
	_, key := a.issue(t, "other", hour)
	write("third.key", key)
	expect("tls: the client certificate and its key cannot be used")
	name = "first"
	expect("HTTP/2.0 first")
	write("ca", newAuthority(t, "b").pem)
	expect("is signed by an authority that is not known here")
	write("ca", "nonsense")
	expect("tls: ca has no certificate")
	write("ca", a.pem)
	expect("HTTP/2.0 first")
}
