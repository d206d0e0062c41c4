// Package app builds the program from its configuration: listener, receivers, journal, trail,
// tokens and policies, sources, plugins, hub, HTTP server, in that order, and takes it down in
// reverse, so that what ends last can still be recorded. It
// touches no flags, no signals and no global state, so tests run any number of apps in
// one process.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/grpcapi"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/pluginhost"
	"github.com/tocsin-events/tocsin/internal/publish"
	"github.com/tocsin-events/tocsin/internal/sink/stdout"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/systemd"
	"github.com/tocsin-events/tocsin/internal/trail"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// Options are what an App is made of. Config and Logger are required.
type Options struct {
	Config  config.Config
	Logger  *slog.Logger
	Version string
	// Stdout is where exporters and sinks of type stdout write; default os.Stdout.
	Stdout  io.Writer
	Systemd *systemd.Service // that started the process; nil: none has

	// LaunchSource starts the process of a source plugin and gives the plugin its config; nil: as
	// [SourceProcess] says. The context is valid for as long as it is to run.
	LaunchSource func(context.Context, SourceProcess) (sourceplugin.Plugin, error)

	launch      func(context.Context, vaultplugin.Options) (pluginhost.Process, error) // of plugins, in tests
	steadyAfter time.Duration                                                          // of source plugins, in tests
}

// ErrListen is wrapped by the error of New when the address cannot be listened
// on. It also wraps the system's reason, for example EADDRINUSE.
var ErrListen = errors.New("listen")

// stopTimeout bounds the orderly end of everything together. What has not ended
// by then is cut; nothing that was acknowledged is lost by that.
const stopTimeout = 10 * time.Second

// App is the running program. Make it with [New], then call Run once or Close.
type App struct {
	log       *slog.Logger
	config    config.Config
	version   string
	registry  *prometheus.Registry
	health    health.Registry
	journal   *journal.Journal
	trail     *trail.Trail
	catalog   *catalog.Catalog
	intake    *publish.Intake
	access    *access.Authority
	logins    map[string]access.Provider
	plugins   *pluginhost.Host        // nil: none are hosted
	sockets   string                  // directory of the sockets of plugins; empty: where temporary files are
	hub       atomic.Pointer[hub.Hub] // nil while New runs
	listener  net.Listener
	server    *http.Server
	sources   sources
	receivers map[string]*receiving // by the name of their source
	imports   *imports
	traces    traces
	fields    *fields.Registry
	sinks     *manager.Manager
	meter     auditMeter
	rules     ruleJudge
	systemd   *systemd.Service
	stdout    *stdout.Output // of sinks

	stops []stop // in the order of creation
	once  sync.Once
	err   error // of Close
}

// stop ends one part of the app. It is registered right after the part was made.
type stop struct {
	name string
	run  func(context.Context) error
}

func (a *App) onStop(name string, run func(context.Context) error) {
	a.stops = append(a.stops, stop{name, run})
}

// New opens the journal and binds the addresses; nothing is served or read before
// [App.Run], but what audit devices send is received already. The error wraps [ErrListen],
// [receiver.ErrInUse], [journal.ErrLocked] or
// [journal.ErrVersion] where one is the reason, and is a [config.Error] for a
// configuration that is not valid.
func New(ctx context.Context, o Options) (_ *App, err error) {
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	root, err := rootToken(o.Config.Auth.RootToken)
	if err != nil {
		return nil, err
	}
	a := &App{log: o.Logger, config: o.Config, registry: newRegistry(o.Version), systemd: cmp.Or(o.Systemd, new(systemd.Service))}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	a.version = o.Version
	c := o.Config
	common := metrics.New(a.registry)

	providers, err := a.makeProviders(c.Auth)
	if err != nil {
		return nil, err
	}
	// The address before the journal: a second start with the same configuration then
	// fails before it touches the data.
	conns := newConnections(c.Listen, common, a.registry, component(a.log, "listener"))
	if a.listener, err = a.listen(c.Listen, conns); err != nil {
		return nil, err
	}
	a.onStop("listener", func(context.Context) error { return ignoreClosed(a.listener.Close()) })

	if err := a.startReceivers(); err != nil {
		return nil, err
	}

	a.journal, err = journal.Open(ctx, journal.Config{
		Dir:             c.DataDir,
		MaxAge:          time.Duration(c.Journal.MaxAge),
		MaxBytes:        int64(c.Journal.MaxBytes),
		Limits:          c.Limits.Event(),
		MaxPendingBytes: int(c.Journal.PendingBytes),
		CacheBytes:      int64(c.Journal.CacheBytes),
		Logger:          component(a.log, "journal"),
		Metrics:         common,
	})
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	a.onStop("journal", a.journal.Close)
	a.health.Register("journal", health.Readiness, a.journal.Health)
	a.makeSockets()

	a.trail = trail.New(trail.Options{
		Journal: a.journal,
		Node:    nodeName(c.Node),
		Limits:  c.Limits.Event(),
		Metrics: common,
		Logger:  component(a.log, "trail"),
	})
	a.onStop("trail", a.stopTrail)

	// What comes in until the others end can still be sent on.
	a.onStop("sinks", a.stopSinks)

	// What sources take in until they end can still be exported.
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	a.stdout = stdout.NewOutput(o.Stdout)
	if err := a.makeTraces(common, o.Version, o.Stdout); err != nil {
		return nil, err
	}
	a.onStop("exporters", a.traces.stop)
	if err := a.makeAuditMeter(ctx, common); err != nil {
		return nil, err
	}
	a.onStop("audit metrics", a.meter.stop)

	if err := a.openCatalog(ctx, c.Publish.Types); err != nil {
		return nil, err
	}
	pluginSources, err := a.makePluginSources(o, common)
	if err != nil {
		return nil, err
	}
	a.makeFields(pluginSources)
	if err := a.makeRules(common); err != nil {
		return nil, err
	}
	a.onStop("rules", a.rules.stop)
	if err := a.openSinks(ctx); err != nil {
		return nil, err
	}
	secrets, err := a.secretRules(c.Publish.Secrets)
	if err != nil {
		return nil, err
	}
	a.intake = publish.New(publish.Options{
		Journal: a.journal,
		Limits:  c.Limits.Event(),
		Secrets: secrets,
		Catalog: a.catalog,
		Window:  time.Duration(c.Publish.Deduplicate.Window),
		MaxIDs:  c.Publish.Deduplicate.MaxIDs,
		Metrics: common,
		Logger:  component(a.log, "publish"),
	})
	a.onStop("intake", a.intake.Close)

	if err := a.openAccess(ctx, c.Auth, root, providers); err != nil {
		return nil, err
	}
	if err := a.makeSources(ctx, common); err != nil {
		return nil, err
	}
	a.onStop("sources", a.sources.stop)
	a.imports = a.makeImports(common)
	a.onStop("imports", a.imports.stop)
	if err := a.openPlugins(ctx, o); err != nil {
		return nil, err
	}

	h := hub.New(hub.Options{
		Journal:          hub.FromJournal(a.journal),
		Fields:           a.fields,
		MaxSubscriptions: c.Subscriptions.Max,
		MemoryBytes:      int64(c.Subscriptions.MemoryBytes),
		Logger:           component(a.log, "hub"),
		Metrics:          common,
		Registry:         a.registry,
	})
	a.hub.Store(h)

	calls := grpcapi.New(grpcapi.Options{
		Intake: a.intake, Limits: c.Limits.Event(), Health: &a.health, Metrics: common, Logger: component(a.log, "grpc"),
	})

	handler := api.New(api.Options{
		Hub:            h,
		Positions:      a.journal,
		Authority:      a.access,
		Trail:          a.trail,
		Logins:         a.logins,
		Intake:         a.intake,
		AuditLogs:      a.imports,
		Flipt:          a.makeFlipt(common),
		Plugins:        a.plugins,
		Failures:       failures(c.Listen.FailedLogins),
		Version:        o.Version,
		Payloads:       payloads{a.journal},
		GRPC:           calls,
		EventTypes:     a.catalog,
		Sinks:          a.sinks,
		PluginSources:  pluginSources,
		Fields:         a.fields,
		Rules:          a.rules.alerting,
		Health:         &a.health,
		Metrics:        promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelWarn)}),
		AllowedOrigins: c.Listen.AllowedOrigins,
		Counters:       common,
		Logger:         component(a.log, "api"),
	})
	a.onStop("subscriptions", handler.Shutdown)

	a.server = api.NewServer(handler, component(a.log, "api"))
	a.server.ConnState = conns.changed
	a.onStop("requests", a.stopServer)
	a.onStop("calls", bounded(calls.Shutdown))
	return a, nil
}

func component(log *slog.Logger, name string) *slog.Logger { return log.With("component", name) }

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
