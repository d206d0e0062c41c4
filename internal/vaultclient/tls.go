package vaultclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
)

// TLS is what a user says about a connection that is encrypted. The zero TLS means
// the certificate authorities of the machine and no client certificate.
type TLS struct {
	// CACert is a PEM file with the authorities that sign the certificate of the
	// server, instead of those of the machine.
	CACert string
	// ClientCert and ClientKey are PEM files, both or none.
	ClientCert, ClientKey string
	// ServerName is the name in the certificate of the server, if it is not that in
	// its address.
	ServerName string
}

// Transport returns a transport that connects in this way, with its own connections.
func (t TLS) Transport() (*http.Transport, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CACert != "" {
		pem, err := os.ReadFile(t.CACert)
		if err != nil {
			return nil, fmt.Errorf("read CA certificate: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM form", t.CACert)
		}
	}
	switch {
	case t.ClientCert != "" && t.ClientKey != "":
		pair, err := tls.LoadX509KeyPair(t.ClientCert, t.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("load client certificate %s with key %s: %w", t.ClientCert, t.ClientKey, err)
		}
		c.Certificates = []tls.Certificate{pair}
	case t.ClientCert != "":
		return nil, errors.New("a client certificate needs its key")
	case t.ClientKey != "":
		return nil, errors.New("the key of a client certificate needs the certificate")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = c
	return transport, nil
}
