package app

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
)

// certificate is a certificate and key in files that may be replaced while the
// program runs, as renewals do. It is safe for concurrent use.
type certificate struct {
	files config.TLS
	log   *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	version [2]fileVersion // of the files that current, or the last failure, was read from
}

type fileVersion struct {
	modified time.Time
	size     int64
}

func loadCertificate(files config.TLS, log *slog.Logger) (*certificate, error) {
	c := &certificate{files: files, log: log, version: versions(files)}
	loaded, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate of listen.tls: %w", err)
	}
	c.current = &loaded
	return c, nil
}

// get serves tls.Config.GetCertificate. Files that cannot be loaded, for example
// because only one of them was replaced so far, leave the old certificate in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := versions(c.files); v != c.version {
		c.version = v
		loaded, err := tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile)
		if err != nil {
			c.log.Warn("The changed certificate cannot be loaded, the old one stays in use.", "error", err)
		} else {
			c.current = &loaded
			c.log.Info("The certificate was replaced.")
		}
	}
	return c.current, nil
}

func versions(files config.TLS) (v [2]fileVersion) {
	for i, path := range []string{files.CertFile, files.KeyFile} {
		if info, err := os.Stat(path); err == nil {
			v[i] = fileVersion{info.ModTime(), info.Size()}
		}
	}
	return v
}

// serverTLS returns the settings of the listener.
func (c *certificate) serverTLS() *tls.Config {
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}
