package pluginhost

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// processes are the running plugins. Mounts of the same plugin share one, if it can do
// that and both want the same executable.
type processes struct {
	host *Host

	mu     sync.Mutex
	all    map[*process]struct{}
	shared map[string]*process // by launch key; those that are to be used for further mounts
	starts map[string]*launching
}

// process is a running plugin and how many mounts use it.
type process struct {
	Process
	key    string
	plugin Plugin
	sha256 string // of the executable that was started
	users  int    // guarded by processes.mu; the process is stopped when there are none
}

// launching is a start that several may wait for.
type launching struct {
	done    chan struct{}
	process *process
	err     error
}

// launchKey is equal for plugins that may share a process.
func launchKey(p *Plugin, sum string) string {
	return strings.Join([]string{string(p.Class), p.Name, p.Version, string(p.Origin), p.Command, sum, strings.Join(p.Args, "\x01"), strings.Join(p.Env, "\x01")}, "\x00")
}

// acquire returns a process for one more mount of a plugin, which release gives back.
func (ps *processes) acquire(ctx context.Context, p *Plugin) (*process, error) {
	file, err := ps.host.executable(p)
	if err != nil {
		return nil, err
	}
	sum, err := checksum(file)
	if err != nil {
		return nil, fmt.Errorf("read the executable: %w", err)
	}
	found := hex.EncodeToString(sum)
	if p.SHA256 != "" && !strings.EqualFold(p.SHA256, found) {
		return nil, fmt.Errorf("%s: %w: it is %s, registered is %s; register the new one if you trust it", file, vaultplugin.ErrChecksum, found, p.SHA256)
	}
	key := launchKey(p, found)
	for {
		ps.mu.Lock()
		if running := ps.shared[key]; running != nil && !exited(running) {
			running.users++
			ps.mu.Unlock()
			return running, nil
		}
		if start := ps.starts[key]; start != nil {
			ps.mu.Unlock()
			select {
			case <-start.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if start.err != nil {
				return nil, start.err
			}
			continue // it is shared now, or this mount needs one of its own
		}
		start := &launching{done: make(chan struct{})}
		if ps.starts == nil {
			ps.starts, ps.shared, ps.all = make(map[string]*launching), make(map[string]*process), make(map[*process]struct{})
		}
		ps.starts[key] = start
		ps.mu.Unlock()
		start.process, start.err = ps.launch(ctx, p, file, sum, key)
		ps.mu.Lock()
		delete(ps.starts, key)
		if start.err == nil {
			start.process.users = 1
			ps.all[start.process] = struct{}{}
			if start.process.Multiplexed() {
				ps.shared[key] = start.process
			}
		}
		ps.mu.Unlock()
		close(start.done)
		return start.process, start.err
	}
}

func exited(p Process) bool {
	select {
	case <-p.Exited():
		return true
	default:
		return false
	}
}

func (ps *processes) launch(ctx context.Context, p *Plugin, file string, sum []byte, key string) (*process, error) {
	h := ps.host
	ctx, cancel := context.WithTimeout(ctx, h.config.StartTimeout)
	defer cancel()
	running, err := h.config.Launch(ctx, vaultplugin.Options{
		Name: p.Name, Command: file, Args: p.Args, Env: p.Env, SHA256: sum, SocketDir: h.config.SocketDir,
		Logger:       slog.New(pluginLog{h.log.Handler()}),
		StartTimeout: h.config.StartTimeout, CallTimeout: h.config.RequestTimeout, StopTimeout: stopTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("start the plugin: %w", err)
	}
	h.metrics.starts.WithLabelValues(p.Name).Inc()
	h.log.Info("A plugin was started.", "plugin", p.Name, "pid", running.PID(), "sha256", hex.EncodeToString(sum), "multiplexed", running.Multiplexed())
	return &process{Process: running, key: key, plugin: *p, sha256: hex.EncodeToString(sum)}, nil
}

// retire keeps a process from being used for further mounts.
func (ps *processes) retire(p *process) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.shared[p.key] == p {
		delete(ps.shared, p.key)
	}
}

// release gives a process back; the last one who does stops it.
func (ps *processes) release(ctx context.Context, p *process) {
	ps.mu.Lock()
	p.users--
	last := p.users == 0
	if last {
		if ps.shared[p.key] == p {
			delete(ps.shared, p.key)
		}
	}
	ps.mu.Unlock()
	if !last {
		return
	}
	p.Stop(ctx)
	ps.mu.Lock()
	delete(ps.all, p)
	ps.mu.Unlock()
}

// stopAll ends whatever still runs.
func (ps *processes) stopAll(ctx context.Context) {
	ps.mu.Lock()
	left := slices.Collect(maps.Keys(ps.all))
	ps.mu.Unlock()
	var stopping sync.WaitGroup
	for _, p := range left {
		stopping.Go(func() { p.Stop(ctx) })
	}
	stopping.Wait()
}

// endings are the ways in which a process ends, as the system tells them.
var endings = regexp.MustCompile(`exit status \d+|signal: [a-z ]+`)

// endOf says how a process has ended, for people, without what the plugin has written last:
// that is for the log only.
func endOf(p Process) string {
	if err := p.ExitError(); err != nil {
		if how := endings.FindString(err.Error()); how != "" {
			return strings.TrimSpace(how)
		}
	}
	return "it ended"
}

// gone says whether an error of a backend means that its process, or it itself, is not
// there any more.
func gone(err error) bool {
	return errors.Is(err, vaultplugin.ErrExited) || errors.Is(err, vaultplugin.ErrClosed)
}
