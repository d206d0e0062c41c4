package app

import (
	"context"
	"fmt"
	"regexp"
	"sync"

	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// maxImportServers bounds of how many servers that have no source logs are imported
// between two starts of the hub.
const maxImportServers = 100

// serverName is what the name of a source may be.
var serverName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// imports takes in old audit logs: of servers that have sources, and of others, which get
// one that reads nothing else.
type imports struct {
	app     *App
	metrics *metrics.Metrics
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	extra map[string]*vaultaudit.Source
}

func (a *App) makeImports(common *metrics.Metrics) *imports {
	ctx, cancel := context.WithCancel(context.Background())
	return &imports{app: a, metrics: common, ctx: ctx, cancel: cancel, extra: make(map[string]*vaultaudit.Source)}
}

// AuditLog implements [api.AuditLogs].
func (i *imports) AuditLog(server string) (api.AuditLog, error) {
	for _, s := range i.app.sources.all {
		if source, ok := s.source.(*vaultaudit.Source); ok && s.name == server {
			return source, nil
		}
	}
	if !serverName.MatchString(server) {
		return nil, fmt.Errorf("%w: %.80q; names have 1 to 63 lower-case letters, digits, - and _", api.ErrNoAuditLog, server)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if s := i.extra[server]; s != nil {
		return s, nil
	}
	switch {
	case i.ctx.Err() != nil:
		return nil, vaultaudit.ErrNotRunning
	case len(i.extra) == maxImportServers:
		return nil, fmt.Errorf("%w: logs of %d servers without a source were imported already; restart the hub, or add a source", api.ErrNoAuditLog, maxImportServers)
	}
	salt, err := redactionSalt(i.ctx, i.app.journal)
	if err != nil {
		i.app.log.Warn("The key of redacted values cannot be read; equal values of this import will have other hashes.", "error", err)
	}
	s, err := vaultaudit.New(vaultaudit.Config{
		Name: server, Limits: i.app.config.Limits.Event(), Translator: vaultaudit.TranslatorConfig{Salt: salt}, ShutdownTimeout: sourceTimeout,
	}, vaultaudit.Deps{Journal: i.app.journal, Metrics: i.metrics, Logger: component(i.app.log, "source")})
	if err != nil {
		return nil, err
	}
	i.extra[server] = s
	i.running.Go(func() {
		if err := s.Run(i.ctx); err != nil {
			component(i.app.log, "source").Error("The source has ended.", "name", server, "error", err)
		}
	})
	return s, nil
}

// stop ends what AuditLog started.
func (i *imports) stop(context.Context) error {
	i.cancel()
	i.mu.Lock() // nothing is started any more
	defer i.mu.Unlock()
	i.running.Wait()
	return nil
}
