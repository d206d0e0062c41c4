package app

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{certificate, key}
}

// issue returns a certificate for loopback and for clients, and its key, in PEM.
func (a authority) issue(t *testing.T, serial int64) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "tocsin test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &private.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// writeFile replaces a file, with a time of modification of its own.
func writeFile(t *testing.T, path string, text []byte) {
	t.Helper()
	at := time.Now()
	if info, err := os.Stat(path); err == nil {
		at = info.ModTime().Add(time.Second)
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path+".new", at, at); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (a authority) writeServer(t *testing.T, c config.TLS, serial int64) {
	t.Helper()
	certificate, key := a.issue(t, serial)
	writeFile(t, c.CertFile, certificate)
	writeFile(t, c.KeyFile, key)
}

func tlsFiles(t *testing.T) config.TLS {
	dir := t.TempDir()
	return config.TLS{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), ClientAuth: config.ClientAuthNone}
}

// httpsClient trusts one authority and, if signed by another is given, presents a
// certificate of it. Every request makes a connection of its own.
func httpsClient(t *testing.T, server authority, signedBy *authority) *http.Client {
	t.Helper()
	settings := &tls.Config{RootCAs: server.pool()}
	if signedBy != nil {
		certificate, err := tls.X509KeyPair(signedBy.issue(t, 7))
		if err != nil {
			t.Fatal(err)
		}
		// Also when the server asks for those of others.
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
		settings.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: settings, DisableKeepAlives: true}}
}

// serial makes a request and returns the serial number of the server's certificate.
func serial(c *http.Client, url string) (int64, error) {
	r, err := c.Get(url)
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	io.Copy(io.Discard, r.Body)
	return r.TLS.PeerCertificates[0].SerialNumber.Int64(), nil
}

func TestCertificateIsReplaced(t *testing.T) {
	ca := newAuthority(t, "ca")
	files := tlsFiles(t)
	ca.writeServer(t, files, 1)
	c, err := loadCertificate("listen.tls", files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.get().Leaf.SerialNumber.Int64(); got != 1 {
		t.Errorf("serial %d", got)
	}
	writeFile(t, files.CertFile, []byte("half a file"))
	if got := c.get().Leaf.SerialNumber.Int64(); got != 1 {
		t.Errorf("with a broken file: serial %d", got)
	}
	certificate, key := ca.issue(t, 2)
	writeFile(t, files.CertFile, certificate) // the key follows later
	if got := c.get().Leaf.SerialNumber.Int64(); got != 1 {
		t.Errorf("with the key of another: serial %d", got)
	}
	writeFile(t, files.KeyFile, key)
	if got := c.get().Leaf.SerialNumber.Int64(); got != 2 {
		t.Errorf("after the renewal: serial %d", got)
	}
	if err := os.Remove(files.CertFile); err != nil {
		t.Fatal(err)
	}
	if got := c.get().Leaf.SerialNumber.Int64(); got != 2 {
		t.Errorf("without the file: serial %d", got)
	}
}

func TestTLSFilesMissing(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	files := tlsFiles(t)
	_, err := serverTLS("listen.tls", files, log)
	if err == nil || !strings.Contains(err.Error(), "cert.pem") || !strings.Contains(err.Error(), "listen.tls") {
		t.Errorf("got %v", err)
	}
	newAuthority(t, "ca").writeServer(t, files, 1)
	files.ClientAuth, files.ClientCAFile = config.ClientAuthRequire, filepath.Join(t.TempDir(), "ca.pem")
	for name, text := range map[string][]byte{"missing": nil, "no certificate": []byte("hello"), "too large": bytes.Repeat([]byte("x"), maxCABytes+1)} {
		if text != nil {
			writeFile(t, files.ClientCAFile, text)
		}
		if _, err := serverTLS("listen.tls", files, log); err == nil || !strings.Contains(err.Error(), "ca.pem") || !strings.Contains(err.Error(), "listen.tls.client_ca_file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTLS(t *testing.T) {
	whole, file := auditLog(t)
	ca := newAuthority(t, "ca")
	o := options(t, file)
	o.Config.Listen.TLS = tlsFiles(t)
	ca.writeServer(t, o.Config.Listen.TLS, 1)
	a, _ := start(t, o)
	if !strings.HasPrefix(a.URL(), "https://127.0.0.1:") {
		t.Errorf("URL %s", a.URL())
	}
	s := subscribe(t, a, client.Options{HTTPClient: httpsClient(t, ca, nil)}, "*/data-write")
	appendTo(t, file, whole)
	if _, got := next(t, s); got != "kv-v2/data-write secret/data/app/db" {
		t.Errorf("event %q", got)
	}

	// The next connection gets the renewed certificate, the old ones go on.
	ca.writeServer(t, o.Config.Listen.TLS, 2)
	if got, err := serial(httpsClient(t, ca, nil), a.URL()+"/metrics"); got != 2 || err != nil {
		t.Errorf("serial %d, %v", got, err)
	}
	if _, got := next(t, s); got == "" {
		t.Error("the subscription has ended")
	}
	if _, err := serial(httpsClient(t, newAuthority(t, "other"), nil), a.URL()+"/metrics"); err == nil {
		t.Error("the client trusts anybody")
	}
}

func TestPlaintextIsRefused(t *testing.T) {
	o := options(t)
	o.Config.Listen.TLS = tlsFiles(t)
	newAuthority(t, "ca").writeServer(t, o.Config.Listen.TLS, 1)
	a, _ := start(t, o)
	r, err := http.NewRequest("GET", "http://"+a.Addr().String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusBadRequest || strings.Contains(string(body), "tocsin_") {
		t.Errorf("got %d %s", answer.StatusCode, body)
	}
	o.Config.Listen.TLS, o.Config.Listen.Address = config.TLS{ClientAuth: config.ClientAuthNone}, "0.0.0.0:0"
	if _, err := New(t.Context(), o); !config.IsProblem(err) || !strings.Contains(err.Error(), "dangerously_send_tokens_unencrypted") {
		t.Errorf("every interface without TLS: %v", err)
	}
	// What is dangerous can be had, and is logged.
	var log bytes.Buffer
	o = options(t)
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	o.Config.Listen.Address, o.Config.Listen.SendUnencrypted = "0.0.0.0:0", true
	b, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "sent unencrypted") {
		t.Errorf("no warning in %s", log.String())
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	ca := newAuthority(t, "ca")
	o := options(t)
	o.Config.Listen.TLS = tlsFiles(t)
	ca.writeServer(t, o.Config.Listen.TLS, 1)
	a, _ := start(t, o)
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", a.Addr().String(), &tls.Config{RootCAs: ca.pool(), MinVersion: version, MaxVersion: version})
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

func TestClientCertificates(t *testing.T) {
	server, clients, others := newAuthority(t, "server"), newAuthority(t, "clients"), newAuthority(t, "others")
	for _, auth := range []config.ClientAuth{config.ClientAuthRequire, config.ClientAuthOptional} {
		t.Run(string(auth), func(t *testing.T) {
			o := options(t)
			c := tlsFiles(t)
			c.ClientAuth, c.ClientCAFile = auth, filepath.Join(t.TempDir(), "ca.pem")
			server.writeServer(t, c, 1)
			writeFile(t, c.ClientCAFile, clients.pem())
			o.Config.Listen.TLS = c
			a, _ := start(t, o)
			url := a.URL() + "/metrics"
			check := func(what string, c *http.Client, want bool) {
				t.Helper()
				if _, err := serial(c, url); (err == nil) != want {
					t.Errorf("%s: %v", what, err)
				}
			}
			good := httpsClient(t, server, &clients)
			check("good", good, true)
			check("none", httpsClient(t, server, nil), auth == config.ClientAuthOptional)
			check("of other authority", httpsClient(t, server, &others), false)
			s := subscribe(t, a, client.Options{HTTPClient: good}, "*")

			// Another authority from now on. The session of the good client, which it
			// could resume, does not help it.
			writeFile(t, c.ClientCAFile, others.pem())
			check("good before", good, false)
			check("good now", httpsClient(t, server, &others), true)
			writeFile(t, c.ClientCAFile, []byte("half a file"))
			check("good with a broken file", httpsClient(t, server, &others), true)
			check("bad with a broken file", good, false)
			check("still none", httpsClient(t, server, nil), auth == config.ClientAuthOptional)
			// A certificate is checked when a connection begins.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := s.Next(ctx); err != nil {
				t.Errorf("the old connection: %v", err) // it sees its own beginning
			}
		})
	}
}
