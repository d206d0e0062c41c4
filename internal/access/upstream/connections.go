package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

const (
	// lookInterval is how often the files of certificates are looked at.
	lookInterval = 5 * time.Second
	// maxFileBytes bounds a file of certificates.
	maxFileBytes = 4 << 20
)

// connections makes connections to the server, anew when the files for TLS have
// changed.
type connections struct {
	files      []string // CA, certificate, key; those that are configured
	build      func() (*http.Transport, error)
	log        *slog.Logger
	lookEvery  time.Duration
	mu         sync.Mutex
	transport  *http.Transport
	stamps     []stamp
	lastLooked time.Time
}

// stamp tells versions of a file apart.
type stamp struct {
	modified time.Time
	size     int64
}

func newConnections(c Config, encrypted bool, log *slog.Logger) (*connections, error) {
	if (c.CertFile == "") != (c.KeyFile == "") {
		return nil, errors.New("cert_file and key_file belong together: set both, or none")
	}
	if !encrypted && (c.CAFile != "" || c.CertFile != "" || c.ServerName != "") {
		return nil, errors.New("ca_file, cert_file, key_file and server_name have no effect on an http address; remove them or use https")
	}
	var proxy func(*http.Request) (*url.URL, error)
	if c.ProxyURL != "" {
		u, err := url.Parse(c.ProxyURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, errors.New("proxy_url: is not an http:// or https:// URL") // not repeated: it may have a password
		}
		proxy = http.ProxyURL(u)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s := &connections{log: log, lookEvery: lookInterval}
	for _, file := range []string{c.CAFile, c.CertFile, c.KeyFile} {
		if file != "" {
			s.files = append(s.files, file)
		}
	}
	s.build = func() (*http.Transport, error) {
		config, err := tlsConfig(c)
		if err != nil {
			return nil, err
		}
		return &http.Transport{
			Proxy:               proxy,
			DialContext:         (&net.Dialer{Timeout: c.Timeout}).DialContext,
			TLSClientConfig:     config,
			TLSHandshakeTimeout: c.Timeout,
			// A compressed answer could be any size; it is not asked for.
			DisableCompression:     true,
			MaxConnsPerHost:        maxAsking,
			MaxIdleConnsPerHost:    maxAsking,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			// Not HTTP/2: one broken connection then fails one question.
			Protocols: protocols,
		}, nil
	}
	s.stamps, s.lastLooked = s.look(), time.Now()
	var err error
	s.transport, err = s.build()
	return s, err
}

func tlsConfig(c Config) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CAFile != "" {
		text, err := readFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca_file: %s has no PEM certificate in it", c.CAFile)
		}
	}
	if c.CertFile != "" {
		cert, err := readFile(c.CertFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		key, err := readFile(c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("key_file: %w", err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cert_file %s and key_file %s: %w", c.CertFile, c.KeyFile, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() || info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s is no file of certificates: it is a directory or larger than 4 MiB", name)
	}
	return os.ReadFile(name)
}

// current returns the transport for a question now.
func (s *connections) current() *http.Transport {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) == 0 || time.Since(s.lastLooked) < s.lookEvery {
		return s.transport
	}
	s.lastLooked = time.Now()
	stamps := s.look()
	if equal(stamps, s.stamps) {
		return s.transport
	}
	// A pair of files is not replaced in one step. When they do not fit each other,
	// the old ones are used until the next look.
	fresh, err := s.build()
	if err != nil {
		s.log.Warn("keeping the certificates as they were, because their files are broken", "error", err)
		return s.transport
	}
	s.stamps = stamps
	s.transport.CloseIdleConnections()
	s.transport = fresh
	s.log.Info("certificates have changed")
	return s.transport
}

func (s *connections) look() []stamp {
	stamps := make([]stamp, len(s.files))
	for i, name := range s.files {
		if info, err := os.Stat(name); err == nil {
			stamps[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return stamps
}

func equal(a, b []stamp) bool {
	for i := range a {
		if !a[i].modified.Equal(b[i].modified) || a[i].size != b[i].size {
			return false
		}
	}
	return true
}

func (s *connections) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.transport.CloseIdleConnections()
}
