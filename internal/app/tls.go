package app

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
)

// reloading is something that was read from files which may be replaced while the
// program runs, as renewals do. It is safe for concurrent use.
type reloading[T any] struct {
	name  string
	files []string
	load  func() (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	current T
	version []fileVersion // of the files that current, or the last failure, was read from
}

type fileVersion struct {
	modified time.Time
	size     int64
}

// newReloading reads the files for the first time.
func newReloading[T any](name string, load func() (T, error), log *slog.Logger, files ...string) (*reloading[T], error) {
	r := &reloading[T]{name: name, files: files, load: load, log: log}
	r.version = r.look()
	var err error
	if r.current, err = load(); err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return r, nil
}

// get returns what is in the files. When they cannot be loaded, for example because
// only one of them was replaced so far, what was in them before stays in use.
func (r *reloading[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.look(); !slices.Equal(v, r.version) {
		r.version = v
		loaded, err := r.load()
		if err != nil {
			r.log.Warn("Changed files cannot be loaded, what was in them before stays in use.", "what", r.name, "error", err)
		} else {
			r.current = loaded
			r.log.Info("Changed files were loaded.", "what", r.name)
		}
	}
	return r.current
}

func (r *reloading[T]) look() []fileVersion {
	v := make([]fileVersion, len(r.files))
	for i, path := range r.files {
		if info, err := os.Stat(path); err == nil {
			v[i] = fileVersion{info.ModTime(), info.Size()}
		}
	}
	return v
}

func loadCertificate(key string, c config.TLS, log *slog.Logger) (*reloading[*tls.Certificate], error) {
	return newReloading("the certificate of "+key, func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		return &pair, err
	}, log, c.CertFile, c.KeyFile)
}

// maxCABytes bounds the file of client authorities. The authorities of a whole
// operating system are about 250 kB.
const maxCABytes = 4 << 20

func loadClientCAs(key string, c config.TLS, log *slog.Logger) (*reloading[*x509.CertPool], error) {
	return newReloading(key+".client_ca_file", func() (*x509.CertPool, error) {
		info, err := os.Stat(c.ClientCAFile)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || info.Size() > maxCABytes {
			return nil, fmt.Errorf("%s is no file of certificates: it is not a regular file or larger than %s", c.ClientCAFile, config.Size(maxCABytes))
		}
		text, err := os.ReadFile(c.ClientCAFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s has no PEM certificate in it", c.ClientCAFile)
		}
		return pool, nil
	}, log, c.ClientCAFile)
}

// serverTLS returns the settings of a listener; key is where they are in the configuration.
func serverTLS(key string, c config.TLS, log *slog.Logger, protocols ...string) (*tls.Config, error) {
	certificate, err := loadCertificate(key, c, log)
	if err != nil {
		return nil, err
	}
	settings := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate.get(), nil },
	}
	if c.ClientAuth == config.ClientAuthNone {
		return settings, nil
	}
	authorities, err := loadClientCAs(key, c, log)
	if err != nil {
		return nil, err
	}
	settings.ClientAuth = tls.VerifyClientCertIfGiven
	if c.ClientAuth == config.ClientAuthRequire {
		settings.ClientAuth = tls.RequireAndVerifyClientCert
	}
	// A session that is resumed would not be checked against the authorities of now.
	settings.SessionTicketsDisabled = true
	settings.ClientCAs = authorities.get()
	perConnection := settings.Clone()
	settings.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s := perConnection.Clone()
		s.ClientCAs = authorities.get()
		return s, nil
	}
	return settings, nil
}
