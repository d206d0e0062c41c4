// Package pluginhost makes Vault plugins usable that run below the hub: it knows which
// plugins there are (the catalog) and at which paths they answer (the mounts), keeps their
// processes running, hands requests to them, and publishes the events that they send, with
// what only the host knows: namespace, mount and path.
//
// What it knows, and what mounts store, is encrypted in a [strongbox.Box]. It speaks no
// HTTP and decides about no rights; package api does. Processes and their protocol are
// package vaultplugin's.
//
// # The life of a mount
//
// Mounts come from the configuration, or are made while the hub runs. A mount is started
// as soon as it is there, and again with growing pauses whenever its process has ended
// without having been asked to. Requests wait for a start that is under way. A request
// whose process ends is repeated once with the next one, so that a plugin which does
// something that must not be done twice has to recognise a repeat, as with Vault.
//
// Mounts of one plugin share a process if the plugin can do that. A reload starts the new
// process first; then the requests of each mount are held back until those under way are
// answered, and go on with the new one. There are never two backends at once that use the
// storage of one mount.
package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tocsin-events/tocsin/internal/publish"
	"github.com/tocsin-events/tocsin/internal/strongbox"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// What is wrong with something that was asked of the host; errors wrap one of them, and
// their texts are for the client.
var (
	// ErrInvalid: the request makes no sense; 400.
	ErrInvalid = errors.New("invalid request")
	// ErrNotFound: there is no such mount or plugin.
	ErrNotFound = errors.New("not found")
	// ErrDown: the plugin of the mount does not run at the moment. See [DownError].
	ErrDown = errors.New("the plugin does not run at the moment")
	// ErrUnavailable: it cannot be stored at the moment.
	ErrUnavailable = errors.New("temporarily unavailable")
	// ErrClosed: the host was closed.
	ErrClosed = errors.New("the plugins are stopping")
)

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// Defaults of [Config] and bounds.
const (
	DefaultStartTimeout   = time.Minute
	DefaultRequestTimeout = 90 * time.Second
	// MaxMounts and MaxPlugins bound mounts and registered plugins.
	MaxMounts  = 256
	MaxPlugins = 1024
	// stopTimeout is how long one process gets to clean up.
	stopTimeout = 3 * time.Second
)

// Process is a running plugin as the host needs it; see [vaultplugin.Process].
type Process interface {
	Open(ctx context.Context, s vaultplugin.Setup) (Backend, error)
	Multiplexed() bool
	Exited() <-chan struct{}
	ExitError() error
	PID() int
	Stop(ctx context.Context)
	Kill()
}

// Backend is one mount of a running plugin; see [vaultplugin.Backend].
type Backend interface {
	Type() vaultplugin.Type
	Version() string
	SpecialPaths() vaultplugin.Paths
	Initialize(ctx context.Context) error
	HandleRequest(ctx context.Context, r *vaultplugin.Request) (*vaultplugin.Response, error)
	HandleExistenceCheck(ctx context.Context, r *vaultplugin.Request) (found, exists bool, err error)
	InvalidateKey(ctx context.Context, key string) error
	Close(ctx context.Context)
}

// Intake publishes; *[publish.Intake] does.
type Intake interface {
	Publish(ctx context.Context, r publish.Request) (publish.Result, error)
}

// Config is what a host is made of. Box and Intake are required.
type Config struct {
	Box    *strongbox.Box
	Intake Intake
	// Node names the hub in the source of events, "vault://NODE".
	Node string
	// Directory is where plugins must be that are registered while the hub runs. Empty:
	// none can be.
	Directory string
	// Plugins and Mounts are those of the configuration.
	Plugins []Plugin
	Mounts  []MountConfig
	// ReservedAuth are names below auth/ that are taken.
	ReservedAuth []string

	StartTimeout, RequestTimeout time.Duration

	// Ready says why plugins may store nothing at the moment; nil: never. What the host
	// itself has to keep is stored all the same.
	Ready func() error
	// SocketDir is where plugins have their sockets; empty: where temporary files are.
	SocketDir string
	// Launch starts a process; nil: [vaultplugin.Launch].
	Launch func(ctx context.Context, o vaultplugin.Options) (Process, error)
	// Incident is told what nobody asked for: that a plugin has ended, and that it runs
	// again. It may be nil, and must not block.
	Incident func(Incident)
	// Registry gets the metrics; nil keeps them private.
	Registry prometheus.Registerer
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

// Incident is something that happened to a mount.
type Incident struct {
	What   string // "plugin-crash", "plugin-restart" or "plugin-reload"
	Mount  Record
	Error  string // of a crash
	SHA256 string // of the executable that runs now
}

// Host hosts plugins. It is safe for concurrent use.
type Host struct {
	config    Config
	log       *slog.Logger
	system    *strongbox.Compartment
	hashKey   []byte // of what stands for tokens
	metrics   *hostMetrics
	processes processes

	// changing is held while mounts or the catalog change.
	changing sync.Mutex
	catalog  atomic.Pointer[catalog]
	table    atomic.Pointer[table]

	ctx     context.Context // of everything that goes on; ended by Close
	cancel  context.CancelFunc
	running sync.WaitGroup
	started atomic.Bool
	closed  atomic.Bool
}

// Open loads catalog and mounts and completes what was interrupted. Nothing is started
// before [Host.Start].
func Open(ctx context.Context, c Config) (*Host, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.StartTimeout <= 0 {
		c.StartTimeout = DefaultStartTimeout
	}
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = DefaultRequestTimeout
	}
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	if c.Launch == nil {
		c.Launch = launch
	}
	h := &Host{config: c, log: c.Logger, metrics: newMetrics(c.Registry)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.processes.host = h
	h.hashKey = c.Box.Secret("client tokens")
	h.table.Store(newTable(nil))
	var err error
	if h.system, err = c.Box.Compartment(ctx, systemCompartment); err != nil {
		return nil, fmt.Errorf("open mounts and catalog of plugins: %w", err)
	}
	if err := h.loadCatalog(ctx); err != nil {
		return nil, fmt.Errorf("load the catalog of plugins: %w", err)
	}
	if err := h.loadMounts(ctx); err != nil {
		return nil, fmt.Errorf("load the mounts of plugins: %w", err)
	}
	return h, nil
}

// launch is the real thing.
func launch(ctx context.Context, o vaultplugin.Options) (Process, error) {
	p, err := vaultplugin.Launch(ctx, o)
	if err != nil {
		return nil, err
	}
	return realProcess{p}, nil
}

type realProcess struct{ *vaultplugin.Process }

func (p realProcess) Open(ctx context.Context, s vaultplugin.Setup) (Backend, error) {
	b, err := p.Process.Open(ctx, s)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Start starts all mounts in the background, and keeps them running until Close.
func (h *Host) Start() {
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.closed.Load() || h.started.Swap(true) {
		return
	}
	for _, m := range h.table.Load().all {
		m.keepRunning()
	}
	h.running.Go(h.watchExecutables)
}

// Close refuses new requests and stops all plugins, those that do not stop before ctx ends
// by force. No process is left.
func (h *Host) Close(ctx context.Context) error {
	h.closed.Store(true)
	h.cancel()
	h.changing.Lock() // a change under way ends soon
	mounts := h.table.Load().all
	h.changing.Unlock()
	var closing sync.WaitGroup
	for _, m := range mounts {
		closing.Go(func() { m.shutDown(ctx) })
	}
	closing.Wait()
	h.processes.stopAll(ctx)
	h.running.Wait()
	return nil
}

// Health says which mounts do not run, and why; nil when all do. It is for a check of
// degradation.
func (h *Host) Health() error {
	const most = 10
	var errs []error
	for _, m := range h.table.Load().all {
		if err := m.health(); err != nil {
			if len(errs) == most {
				return errors.Join(append(errs, errors.New("and more"))...)
			}
			errs = append(errs, fmt.Errorf("mount %s: %w", m.Record().Full(), err))
		}
	}
	return errors.Join(errs...)
}

// Ready says whether all mounts run; the error is why some of them cannot be started.
func (h *Host) Ready() (bool, error) {
	ready := true
	for _, m := range h.table.Load().all {
		if m.Record().State != "" {
			continue
		}
		m.mu.Lock()
		running, err := m.current != nil, m.lastErr
		m.mu.Unlock()
		if err != nil {
			return false, fmt.Errorf("mount %s: %w", m.Record().Full(), err)
		}
		ready = ready && running
	}
	return ready, nil
}

// until returns a context that ends with Close as well. done must be called.
func (h *Host) until(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(h.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// incident tells about something that nobody asked for.
func (h *Host) incident(i Incident) {
	if h.config.Incident != nil && !h.closed.Load() {
		h.config.Incident(i)
	}
}

// storeError is an error of the box for the client.
func storeError(verb string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, strongbox.ErrTooLarge) || errors.Is(err, strongbox.ErrInvalid) {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, verb, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, verb, err)
}
