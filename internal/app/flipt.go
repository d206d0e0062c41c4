package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/source/fliptaudit"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// fliptSources are the Flipt servers that send, and those whose logs are imported.
type fliptSources struct {
	app     *App
	metrics *metrics.Metrics
	only    *fliptaudit.Source // when there is one
	all     map[string]*fliptaudit.Source

	mu    sync.Mutex
	extra map[string]*fliptaudit.Source
}

// makeFlipt makes the sources of the type flipt.
func (a *App) makeFlipt(common *metrics.Metrics) *fliptSources {
	f := &fliptSources{app: a, metrics: common, all: make(map[string]*fliptaudit.Source), extra: make(map[string]*fliptaudit.Source)}
	for _, c := range a.config.Sources {
		if c.Type != config.Flipt {
			continue
		}
		var secrets []func() (string, error)
		for _, secret := range c.SigningSecrets {
			secrets = append(secrets, secret.Reveal)
		}
		s := f.make(fliptaudit.Config{Name: c.Name, Secrets: secrets, Unsigned: fliptaudit.Unsigned(c.Unsigned)})
		f.all[c.Name], f.only = s, s
		a.health.Register("source "+c.Name, health.Degradation, s.Health)
	}
	if len(f.all) > 1 {
		f.only = nil
	}
	return f
}

func (f *fliptSources) make(c fliptaudit.Config) *fliptaudit.Source {
	c.Limits = f.app.config.Limits.Event()
	return fliptaudit.New(c, fliptaudit.Deps{Journal: f.app.journal, Keep: f.app.keepPayload, Metrics: f.metrics, Logger: component(f.app.log, "source")})
}

// Source implements [api.FliptSources].
func (f *fliptSources) Source(name string) *fliptaudit.Source {
	if name == "" {
		return f.only
	}
	return f.all[name]
}

// Log implements [api.FliptSources].
func (f *fliptSources) Log(name string) (*fliptaudit.Source, error) {
	if s := f.all[name]; s != nil {
		return s, nil
	}
	if !serverName.MatchString(name) {
		return nil, fmt.Errorf("%w: %.80q; names have 1 to 63 lower-case letters, digits, - and _", api.ErrNoAuditLog, name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.extra[name]
	if s == nil {
		if len(f.extra) == maxImportServers {
			return nil, fmt.Errorf("%w: logs of %d servers without a source were imported already; restart the hub, or add a source", api.ErrNoAuditLog, maxImportServers)
		}
		s = f.make(fliptaudit.Config{Name: name})
		f.extra[name] = s
	}
	return s, nil
}

// payloadTimeout bounds one store of a payload, which is many writes, each synced.
const payloadTimeout = 30 * time.Second

// keepPayload stores what is too large for an event and returns where it is served. It lasts as
// long as an event.
func (a *App) keepPayload(ctx context.Context, data []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, payloadTimeout)
	defer cancel()
	store, err := a.journal.Payloads(ctx, vaultaudit.PayloadBucket)
	if err != nil {
		return "", fmt.Errorf("open the bucket %s: %w", vaultaudit.PayloadBucket, err)
	}
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	switch info, err := store.GetInfo(ctx, name); {
	case err == nil && info.Size == uint64(len(data)) && time.Since(info.ModTime) < time.Hour:
		return vaultaudit.PayloadPath + name, nil // for a repeat
	case err != nil && !errors.Is(err, jetstream.ErrObjectNotFound):
		return "", err
	}
	if _, err := store.PutBytes(ctx, name, data); err != nil {
		return "", err
	}
	return vaultaudit.PayloadPath + name, nil
}
