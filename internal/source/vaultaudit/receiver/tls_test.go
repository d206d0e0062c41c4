package receiver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/test/device"
)

// certificate is one for loopback that signs itself.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func TestTLS(t *testing.T) {
	pair, pool := certificate(t)
	server := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	for _, kind := range []Kind{Socket, HTTP} {
		t.Run(string(kind), func(t *testing.T) {
			c := tcpConfig()
			c.Kind, c.TLS = kind, server
			m := newMemory()
			r := open(t, c, Deps{Inbox: m})
			plain := dial(t, r)
			send(t, plain, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nplain\n")
			plain.Close()
			client := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
			if kind == HTTP {
				transport := &http.Transport{TLSClientConfig: client}
				defer transport.CloseIdleConnections()
				d := &device.HTTP{URL: "https://" + r.Addr().String(), Client: &http.Client{Transport: transport}}
				if err := d.Write(t.Context(), []byte("hello\n")); err != nil {
					t.Fatal(err)
				}
			} else {
				secure, err := tls.Dial("tcp", r.Addr().String(), client)
				if err != nil {
					t.Fatal(err)
				}
				send(t, secure, "hello\n")
				m.await(t, 1)
				secure.Close()
			}
			// Without a certificate.
			if conn, err := tls.Dial("tcp", r.Addr().String(), &tls.Config{RootCAs: pool}); err == nil {
				conn.Write([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nnobody\n"))
				conn.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					t.Error("a client without a certificate got an answer")
				}
				conn.Close()
			}
			if got := m.all(); len(got) != 1 || got[0] != "hello" {
				t.Errorf("got %q", got)
			}
			if kind == Socket {
				until(t, "handshakes have failed", func() bool { return r.Stats().Handshakes == 2 })
			}
		})
	}
}

// What is on the way over TLS is read in the end.
func TestEndOnTLS(t *testing.T) {
	pair, pool := certificate(t)
	c := tcpConfig()
	c.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	m := newMemory()
	r := open(t, c, Deps{Inbox: m})
	conn, err := tls.Dial("tcp", r.Addr().String(), &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 500 {
		send(t, conn, "a line that was sent before the end\n")
	}
	stop(t, r)
	if got := len(m.all()); got != 500 {
		t.Errorf("%d lines", got)
	}
}
