package outbound

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// TLS is how an encrypted connection is checked, at least TLS 1.2. The zero TLS means the
// authorities of the system and no client certificate.
//
// What the secrets are in is read again every few seconds while requests are sent. When it
// has changed, new connections are made.
type TLS struct {
	CA         Secret // PEM with the authorities, instead of those of the system
	Cert, Key  Secret // PEM of a client certificate and its private key; both or none
	ServerName string // in the certificate of the receiver, if it is not the host
}

// material is what the secrets of a [TLS] say.
type material struct{ ca, cert, key string }

// sum stands for the material where that is kept.
func (m *material) sum() [sha256.Size]byte {
	return sha256.Sum256([]byte(m.ca + "\x00" + m.cert + "\x00" + m.key))
}

// lookAgain is how often the files are read.
const lookAgain = 5 * time.Second

func (t *TLS) material() (m material, err error) {
	for _, s := range []struct {
		name   string
		secret Secret
		to     *string
	}{{"ca", t.CA, &m.ca}, {"cert", t.Cert, &m.cert}, {"key", t.Key, &m.key}} {
		if s.secret == nil {
			continue
		}
		if *s.to, err = s.secret(); err != nil {
			return m, fmt.Errorf("tls: %s: %w", s.name, err)
		}
	}
	return m, nil
}

// config makes the settings. Errors do not repeat what was read.
func (t *TLS) config(m material) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	if t.CA != nil {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(m.ca)) {
			return nil, errors.New("tls: ca has no certificate in PEM form")
		}
	}
	if (t.Cert == nil) != (t.Key == nil) {
		return nil, errors.New("tls: cert and key belong together")
	}
	if t.Cert != nil {
		pair, err := tls.X509KeyPair([]byte(m.cert), []byte(m.key))
		if err != nil {
			return nil, fmt.Errorf("tls: the client certificate and its key cannot be used: %w", err)
		}
		// Also when the receiver does not name its authority: its answer says more than ours could.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return c, nil
}

// current returns the transport with the certificates as they are now. While they cannot be
// read, nothing is sent.
func (c *Client) current(now time.Time) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &c.options.TLS
	fixed := t.CA == nil && t.Cert == nil && t.Key == nil
	if c.transport != nil && (fixed || now.Sub(c.looked) < lookAgain) {
		return c.transport, nil
	}
	m, err := t.material()
	if err != nil {
		return nil, err
	}
	if sum := m.sum(); c.transport == nil || sum != c.loaded {
		next, err := c.newTransport(m)
		if err != nil {
			return nil, err
		}
		if c.transport != nil {
			c.transport.CloseIdleConnections()
		}
		c.transport, c.loaded = next, sum
	}
	c.looked = now
	return c.transport, nil
}
