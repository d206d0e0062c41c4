package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// sourceTimeout is the part of stopTimeout in which a source waits until what it
// has read is durable. The rest is read again at the next start.
const sourceTimeout = 5 * time.Second

// source is what the app needs of a source. Run ends with ctx, or with an error
// that trying again does not help against; Health says what is wrong meanwhile.
type source interface {
	Run(ctx context.Context) error
	Health() error
}

// sources are the sources of an app.
type sources struct {
	all     []namedSource
	cancel  context.CancelFunc // nil before start
	running sync.WaitGroup
}

type namedSource struct {
	name string
	source
}

// start runs all sources until stop.
func (s *sources) start(log *slog.Logger) {
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	for _, source := range s.all {
		s.running.Go(func() {
			if err := source.Run(ctx); err != nil {
				component(log, "source").Error("The source has ended.", "name", source.name, "error", err)
			}
		})
	}
}

// stop ends them and waits. They bound that themselves.
func (s *sources) stop(context.Context) error {
	if s.cancel != nil {
		s.cancel()
		s.running.Wait()
	}
	return nil
}

// makeSources makes the sources of the configuration, and a health check for
// each: a source that fails is red, and keeps nothing else from working.
func (a *App) makeSources(ctx context.Context, common *metrics.Metrics) error {
	if len(a.config.Sources) == 0 {
		return nil
	}
	salt, err := redactionSalt(ctx, a.journal)
	if err != nil {
		a.log.Warn("The key of redacted values cannot be stored; equal values will have other hashes after a restart.", "error", err)
	}
	for _, devices := range byServer(a.config.Sources) {
		s, err := a.makeSource(devices, salt, common)
		if err != nil {
			return fmt.Errorf("source %s: %w", devices[0].ServerName(), err)
		}
		a.sources.all = append(a.sources.all, namedSource{devices[0].ServerName(), s})
		for _, c := range devices {
			a.health.Register("source "+c.Name, health.Degradation, func() error { return s.InputHealth(c.Name) })
		}
	}
	return nil
}

// byServer groups the audit devices of each server of Vault.
func byServer(sources []config.Source) (groups [][]config.Source) {
	at := make(map[string]int)
	for _, c := range sources {
		if c.Type == config.Flipt {
			continue
		}
		i, ok := at[c.ServerName()]
		if !ok {
			i = len(groups)
			at[c.ServerName()] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], c)
	}
	return groups
}

// makeSource makes the source of the devices of one server, which are understood alike.
func (a *App) makeSource(devices []config.Source, salt []byte, common *metrics.Metrics) (*vaultaudit.Source, error) {
	first := devices[0]
	var inputs []vaultaudit.Input
	for _, c := range devices {
		switch c.Type {
		case config.VaultAuditFile:
			inputs = append(inputs, vaultaudit.Input{Name: c.Name, Paths: c.Files(), From: tail.From(c.From), MaxLine: int(c.MaxLine)})
		default:
			inputs = append(inputs, vaultaudit.Input{Name: c.Name, Inbox: a.receivers[c.Name].inbox})
		}
	}
	ask, err := a.makeAskers(devices)
	if err != nil {
		return nil, err
	}
	s, err := vaultaudit.New(vaultaudit.Config{
		Name:   first.ServerName(),
		Ask:    ask,
		Inputs: inputs,
		Limits: a.config.Limits.Event(),
		Translator: vaultaudit.TranslatorConfig{
			KeepRaw:       first.KeepRaw,
			Salt:          salt,
			KVVersions:    first.KVVersions,
			HoldUncertain: first.HoldUncertain,
			OmitCaller:    first.OmitCaller,
		},
		ShutdownTimeout: sourceTimeout,
	}, vaultaudit.Deps{Journal: a.journal, Metrics: common, Logger: component(a.log, "source")})
	if err != nil {
		return nil, err
	}
	for _, c := range devices {
		if c.Type == config.VaultAuditFile {
			stats := func() tail.Stats { return s.TailStats(c.Name) }
			common.LagBytes("source", c.Name, func() int64 { return stats().Behind })
			a.registry.MustRegister(fileIncidents(c.Name, stats)...)
		}
	}
	return s, nil
}

// Where the key of redacted values is kept.
const (
	secretBucket = "tocsin-secrets"
	saltKey      = "redaction"
	saltBytes    = 32
)

// redactionSalt returns the key with which redacted values are hashed. It is made
// once per data directory, so that equal values can be recognised for as long as
// the events last.
func redactionSalt(ctx context.Context, j *journal.Journal) ([]byte, error) {
	kv, err := j.State(ctx, secretBucket)
	if err != nil {
		return nil, fmt.Errorf("open the bucket %s: %w", secretBucket, err)
	}
	switch entry, err := kv.Get(ctx, saltKey); {
	case err == nil:
		return entry.Value(), nil
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, fmt.Errorf("read the key: %w", err)
	}
	salt := make([]byte, saltBytes)
	rand.Read(salt)
	if _, err := kv.Put(ctx, saltKey, salt); err != nil {
		return nil, fmt.Errorf("store the key: %w", err)
	}
	return salt, nil
}
