package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/internal/strongbox"
	"github.com/tocsin-events/tocsin/internal/throttle"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// How long a mount waits before its plugin is started again: not at all after it has run
// for steadyAfter, else twice as long each time.
const (
	restartFirst = 200 * time.Millisecond
	restartMost  = 30 * time.Second
	steadyAfter  = 30 * time.Second
	// startPatience is how long a request waits for a start that is due or under way.
	startPatience = 20 * time.Second
	// drainTimeout is how long a reload waits for the requests under way.
	drainTimeout = 10 * time.Second
	// probeTimeout is how long a plugin that has not answered in time has to answer a
	// question that it does not have to think about.
	probeTimeout = 5 * time.Second
)

// Mount is a path at which a plugin answers. It is safe for concurrent use.
type Mount struct {
	host    *Host
	record  atomic.Pointer[Record]
	storage *strongbox.Compartment // nil for one that is detached
	paths   atomic.Pointer[special]
	tainted atomic.Bool // is being removed
	warned  throttle.Throttle
	events  eventCounters
	// opening is taken by whoever makes a backend or takes one away, so that there are
	// never two.
	opening chan struct{}

	mu       sync.Mutex
	current  *instance // nil while the plugin does not run
	changed  chan struct{}
	kept     bool          // keepRunning was called
	wake     chan struct{} // the keeper has something to do
	held     bool          // requests wait, because a reload is under way
	over     bool          // nothing is started any more
	lastErr  error         // why it does not run
	retryAt  time.Time
	failures int
	upSince  time.Time
}

// instance is a running backend and the requests that it is answering.
type instance struct {
	backend  Backend
	process  *process
	version  atomic.Pointer[string] // events are sent before the plugin has said its own
	started  time.Time
	requests int           // guarded by Mount.mu
	idle     chan struct{} // closed when requests drops to 0 while somebody waits for that
	dead     bool          // guarded by Mount.mu
}

func newMount(h *Host, r Record, storage *strongbox.Compartment) *Mount {
	m := &Mount{host: h, storage: storage, changed: make(chan struct{}), wake: make(chan struct{}, 1), opening: make(chan struct{}, 1)}
	m.record.Store(&r)
	m.events = h.metrics.eventsOf(r.Full())
	return m
}

// Record returns the mount as it is stored.
func (m *Mount) Record() *Record { return m.record.Load() }

// inUse says whether requests are handed to the mount.
func (m *Mount) inUse() bool { return m.Record().State == "" && !m.tainted.Load() }

// Configured says whether the mount is that of the configuration, and is neither changed
// nor removed but there.
func (m *Mount) Configured() bool {
	r := m.Record()
	return r.Origin == FromConfig && r.State != Detached
}

// Running says what runs at the moment; empty for nothing.
func (m *Mount) Running() (version, sha256 string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil {
		return "", ""
	}
	return *m.current.version.Load(), m.current.process.sha256
}

// health says that the mount does not run; nil if it does, or is not to. The reason may have
// what a plugin has written, and health is shown to everybody.
func (m *Mount) health() error {
	r := m.Record()
	if r.State != "" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.lastErr
	switch {
	case m.current != nil, m.over, err == nil: // or it is started for the first time
		return nil
	case errors.Is(err, vaultplugin.ErrChecksum):
		return errors.New("the executable of the plugin is not the one that is registered; the log has more")
	case errors.Is(err, vaultplugin.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return errors.New("the plugin has not started in time; the log has more")
	case errors.Is(err, errEnded):
		return err
	}
	return errors.New("the plugin cannot be started; the log says why")
}

// errEnded is wrapped by the error of a mount whose process has ended.
var errEnded = errors.New("the plugin has ended")

// keepRunning starts the plugin and starts it again whenever it has ended.
func (m *Mount) keepRunning() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept || m.Record().State != "" {
		return
	}
	m.kept = true
	m.host.running.Go(m.keep)
}

func (m *Mount) keep() {
	for {
		m.mu.Lock()
		var due <-chan time.Time
		var exited <-chan struct{}
		switch {
		case m.over:
			m.mu.Unlock()
			return
		case m.held:
		case m.current != nil:
			exited = m.current.process.Exited()
		default:
			due = time.After(max(0, time.Until(m.retryAt)))
		}
		current := m.current
		m.mu.Unlock()
		select {
		case <-m.host.ctx.Done():
			return
		case <-m.wake:
		case <-exited:
			m.died(current)
		case <-due:
			m.start()
		}
	}
}

// poke has the keeper look again.
func (m *Mount) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// notifyLocked wakes those who wait for a change of the mount.
func (m *Mount) notifyLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
	m.poke()
}

// start starts the plugin once.
func (m *Mount) start() {
	select {
	case m.opening <- struct{}{}:
		defer func() { <-m.opening }()
	case <-m.wake: // somebody is at it, and there may be something else to do
		return
	case <-m.host.ctx.Done():
		return
	}
	m.mu.Lock()
	if m.current != nil || m.over {
		m.mu.Unlock()
		return
	}
	again := m.failures > 0 || !m.upSince.IsZero()
	m.mu.Unlock()
	inst, err := m.open(m.host.ctx, m.Record(), nil)
	m.mu.Lock()
	if err == nil && m.over {
		m.mu.Unlock()
		m.close(context.Background(), inst)
		return
	}
	if err != nil {
		m.failedLocked(err)
		failures, retry := m.failures, time.Until(m.retryAt)
		m.mu.Unlock()
		if m.host.ctx.Err() == nil {
			m.host.log.Error("A plugin cannot be started.", "mount", m.Record().Full(), "error", err, "failures", failures, "retry", retry.Round(time.Millisecond))
		}
		return
	}
	m.runLocked(inst)
	m.mu.Unlock()
	if again {
		m.host.log.Info("A plugin runs again.", "mount", m.Record().Full(), "pid", inst.process.PID())
		m.host.incident(Incident{What: "plugin-restart", Mount: *m.Record(), SHA256: inst.process.sha256})
	}
}

func (m *Mount) runLocked(inst *instance) {
	m.current, m.lastErr, m.upSince = inst, nil, time.Now()
	m.host.metrics.up.WithLabelValues(m.Record().Full()).Set(1)
	m.notifyLocked()
}

// failedLocked notes that the plugin does not run, and when to try again.
func (m *Mount) failedLocked(err error) {
	if !m.upSince.IsZero() && time.Since(m.upSince) > steadyAfter {
		m.failures = 0
	}
	m.upSince = time.Time{}
	m.lastErr = err
	m.retryAt = time.Now()
	if m.failures > 0 {
		m.retryAt = m.retryAt.Add(min(restartFirst<<min(m.failures-1, 10), restartMost))
	}
	m.failures++
	m.host.metrics.up.WithLabelValues(m.Record().Full()).Set(0)
	m.notifyLocked()
}

// died takes notice of the end of a process that nobody asked for. It may be told several
// times.
func (m *Mount) died(inst *instance) {
	m.mu.Lock()
	if inst == nil || inst.dead || m.current != inst {
		m.mu.Unlock()
		return
	}
	inst.dead = true
	m.current = nil
	reason := endOf(inst.process)
	m.failedLocked(fmt.Errorf("%w: %s", errEnded, reason))
	m.mu.Unlock()
	m.host.metrics.crashes.WithLabelValues(m.Record().Plugin).Inc()
	m.host.log.Error("A plugin has ended and is started again.", "mount", m.Record().Full(), "plugin", m.Record().Plugin, "pid", inst.process.PID(), "reason", reason)
	m.host.incident(Incident{What: "plugin-crash", Mount: *m.Record(), Error: reason, SHA256: inst.process.sha256})
	m.close(m.host.ctx, inst)
}

// open makes a backend of the mount by a record, in a process that is given, or else in
// that of its plugin.
func (m *Mount) open(ctx context.Context, r *Record, in *process) (*instance, error) {
	ctx, cancel := context.WithTimeout(ctx, m.host.config.StartTimeout)
	defer cancel()
	if in == nil {
		p, err := m.host.selectPlugin(r.Class, r.Plugin, r.Version)
		if err != nil {
			return nil, err
		}
		if in, err = m.host.processes.acquire(ctx, p); err != nil {
			return nil, err
		}
	}
	inst := &instance{process: in, started: time.Now()}
	inst.version.Store(&in.plugin.Version)
	config := maps.Clone(r.Options)
	if config == nil {
		config = make(map[string]string)
	}
	config["plugin_name"], config["plugin_type"], config["plugin_version"] = r.Plugin, string(r.Class), in.plugin.Version
	backend, err := in.Open(ctx, vaultplugin.Setup{
		Config: config, BackendUUID: r.UUID, Storage: mountStorage{m.storage, m.host.config.Ready},
		System: vaultplugin.System{
			DefaultLeaseTTL: r.DefaultLeaseTTL, MaxLeaseTTL: r.MaxLeaseTTL, Tainted: m.tainted.Load, LocalMount: r.Local,
			ClusterID: r.UUID, ClusterName: m.host.config.Node,
		},
		SendEvent: func(ctx context.Context, eventType string, data *vaultplugin.EventData) error {
			return m.sendEvent(ctx, *inst.version.Load(), eventType, data)
		},
	})
	if err != nil {
		m.host.processes.release(ctx, in)
		return nil, fmt.Errorf("set the plugin up: %w", err)
	}
	inst.backend = backend
	fail := func(err error) (*instance, error) {
		m.close(ctx, inst)
		return nil, err
	}
	if got := backend.Type(); string(r.Class) != got.String() {
		return fail(fmt.Errorf("the plugin is of type %s and is to be mounted as %s; mount it as %s", got, r.Class, got))
	}
	if version := backend.Version(); version != "" {
		inst.version.Store(&version)
	}
	if err := backend.Initialize(ctx); err != nil {
		return fail(fmt.Errorf("initialize the plugin: %w", err))
	}
	m.paths.Store(newSpecial(backend.SpecialPaths()))
	return inst, nil
}

// close ends a backend and gives its process back.
func (m *Mount) close(ctx context.Context, inst *instance) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if !exited(inst.process) {
		inst.backend.Close(ctx)
	}
	m.host.processes.release(ctx, inst.process)
}

// DownError says that the plugin of a mount does not run. It wraps [ErrDown].
type DownError struct {
	Mount string
	Cause error // may be nil
	// RetryAfter is when it may run again.
	RetryAfter time.Duration
}

func (e *DownError) Error() string {
	return fmt.Sprintf("the plugin of %s does not run at the moment; the log of the server says why", e.Mount)
}

// Unwrap returns [ErrDown].
func (e *DownError) Unwrap() error { return ErrDown }

// acquire returns the running backend for a request; it waits for a start or reload that
// is due soon. done must be called.
func (m *Mount) acquire(ctx context.Context) (*instance, error) {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		m.mu.Lock()
		switch {
		case m.over || m.host.closed.Load():
			m.mu.Unlock()
			return nil, ErrClosed
		case m.current != nil && !m.held:
			inst := m.current
			inst.requests++
			m.mu.Unlock()
			return inst, nil
		case !m.kept || m.lastErr != nil && time.Until(m.retryAt) > startPatience/4:
			err := &DownError{Mount: m.Record().Full(), Cause: m.lastErr, RetryAfter: max(time.Second, time.Until(m.retryAt))}
			m.mu.Unlock()
			return nil, err
		}
		changed, cause, failures := m.changed, m.lastErr, m.failures
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, &DownError{Mount: m.Record().Full(), Cause: cause, RetryAfter: time.Second}
		}
		m.mu.Lock()
		failed := m.current == nil && !m.held && m.failures > failures+1
		m.mu.Unlock()
		if failed { // twice while we waited
			return nil, &DownError{Mount: m.Record().Full(), Cause: cause, RetryAfter: time.Second}
		}
	}
}

// done gives a backend back after a request.
func (m *Mount) done(inst *instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if inst.requests--; inst.requests == 0 && inst.idle != nil {
		close(inst.idle)
		inst.idle = nil
	}
}

// hold keeps requests back and waits for those under way, until ctx ends. It returns the
// backend that has been running; release lets requests go on.
func (m *Mount) hold(ctx context.Context) *instance {
	m.mu.Lock()
	m.held = true
	inst := m.current
	var idle chan struct{}
	if inst != nil && inst.requests > 0 {
		idle = make(chan struct{})
		inst.idle = idle
	}
	m.mu.Unlock()
	m.poke()
	if idle != nil {
		select {
		case <-idle:
		case <-inst.process.Exited():
		case <-ctx.Done():
		}
	}
	return inst
}

// shutDown ends the mount for good.
func (m *Mount) shutDown(ctx context.Context) {
	m.mu.Lock()
	m.over = true
	inst := m.current
	m.current = nil
	if inst != nil {
		inst.dead = true
	}
	m.notifyLocked()
	m.mu.Unlock()
	if inst != nil {
		m.close(ctx, inst)
	}
}

// mountStorage is the storage of a mount as vaultplugin serves it.
type mountStorage struct {
	box   *strongbox.Compartment
	ready func() error
}

func (s mountStorage) List(ctx context.Context, prefix string) ([]string, error) {
	return s.box.List(ctx, prefix)
}

func (s mountStorage) Get(ctx context.Context, key string) (*vaultplugin.StorageEntry, error) {
	e, err := s.box.Get(ctx, key)
	if e == nil || err != nil {
		return nil, err
	}
	return &vaultplugin.StorageEntry{Key: e.Key, Value: e.Value, SealWrap: e.Flag}, nil
}

func (s mountStorage) Put(ctx context.Context, e *vaultplugin.StorageEntry) error {
	if err := s.ready(); err != nil {
		return fmt.Errorf("%w: %w", strongbox.ErrUnavailable, err)
	}
	return s.box.Put(ctx, strongbox.Entry{Key: e.Key, Value: e.Value, Flag: e.SealWrap})
}

func (s mountStorage) Delete(ctx context.Context, key string) error { return s.box.Delete(ctx, key) }
