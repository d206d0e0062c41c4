package pluginhost

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"
)

// Reload starts the mounts of a plugin with what the catalog has now. Requests under way
// are answered by what runs, those that come meanwhile wait. If the new one does not
// start, what runs goes on. It returns the mounts. The error wraps [ErrNotFound],
// [ErrInvalid] or [ErrClosed].
func (h *Host) Reload(ctx context.Context, class Class, plugin string) ([]*Mount, error) {
	return h.reloadThose(ctx, func(r *Record) bool {
		return r.Plugin == plugin && (class == "" || r.Class == class)
	}, fmt.Sprintf("plugin %q is not mounted", plugin))
}

// ReloadMounts is Reload for mounts, by full path.
func (h *Host) ReloadMounts(ctx context.Context, full ...string) ([]*Mount, error) {
	wanted := make(map[string]bool)
	for _, path := range full {
		if h.table.Load().byPath[path] == nil {
			return nil, fmt.Errorf("mount %s: %w", path, ErrNotFound)
		}
		wanted[path] = true
	}
	return h.reloadThose(ctx, func(r *Record) bool { return wanted[r.Full()] }, "no mount is given")
}

func (h *Host) reloadThose(ctx context.Context, wanted func(*Record) bool, none string) ([]*Mount, error) {
	ctx, done := h.until(ctx)
	defer done()
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.closed.Load() {
		return nil, ErrClosed
	}
	var mounts []*Mount
	for _, m := range h.table.Load().all {
		if m.inUse() && wanted(m.Record()) {
			mounts = append(mounts, m)
		}
	}
	if len(mounts) == 0 {
		return nil, fmt.Errorf("%s: %w", none, ErrNotFound)
	}
	for _, m := range mounts {
		m.mu.Lock()
		if m.current != nil {
			h.processes.retire(m.current.process)
		}
		m.mu.Unlock()
	}
	var errs []error
	for _, m := range mounts {
		if err := m.replace(ctx, m.Record()); err != nil {
			errs = append(errs, fmt.Errorf("mount %s: %w", m.Record().Full(), err))
		}
	}
	return mounts, errors.Join(errs...)
}

// replace sets the plugin up anew, by a record that becomes that of the mount: first its
// process, while requests go on, then, while they wait, the backend. Should that fail, the
// former goes on as it was. changing is held.
func (m *Mount) replace(ctx context.Context, r *Record) error {
	p, err := m.host.selectPlugin(r.Class, r.Plugin, r.Version)
	if err != nil {
		return err
	}
	next, err := m.host.processes.acquire(ctx, p)
	if err != nil {
		return err
	}
	select {
	case m.opening <- struct{}{}: // a start under way has ended
		defer func() { <-m.opening }()
	case <-ctx.Done():
		m.host.processes.release(context.WithoutCancel(ctx), next)
		return ctx.Err()
	}
	drain, cancel := context.WithTimeout(ctx, drainTimeout)
	old := m.hold(drain)
	cancel()
	m.mu.Lock()
	if m.over {
		m.held = false
		m.mu.Unlock()
		m.host.processes.release(ctx, next)
		return ErrClosed
	}
	if old != nil && old.dead {
		old = nil
	}
	if old != nil {
		old.dead = true // ours from now on
	}
	m.current = nil
	m.mu.Unlock()
	if old != nil && !exited(old.process) {
		closing, cancel := context.WithTimeout(ctx, stopTimeout)
		old.backend.Close(closing)
		cancel()
	}
	inst, err := m.open(ctx, r, next)
	var former *process
	if old != nil {
		former = old.process
	}
	if err != nil && former != nil && !exited(former) {
		back, backErr := m.open(context.WithoutCancel(ctx), m.Record(), former)
		former = nil // open has it, or has given it back
		if backErr != nil {
			err = errors.Join(err, fmt.Errorf("and the former one does not go on: %w", backErr))
		}
		inst = back
	}
	m.mu.Lock()
	m.held = false
	if err == nil {
		m.record.Store(r)
	}
	over := m.over
	if over {
		m.notifyLocked()
	} else if inst != nil {
		m.failures = 0
		m.runLocked(inst)
	} else {
		m.failedLocked(err)
	}
	m.mu.Unlock()
	if over && inst != nil {
		m.close(context.WithoutCancel(ctx), inst)
		err = errors.Join(err, ErrClosed)
	}
	if former != nil {
		m.host.processes.release(context.WithoutCancel(ctx), former)
	}
	if err == nil {
		m.host.log.Info("A plugin was reloaded.", "mount", r.Full(), "pid", inst.process.PID(), "version", *inst.version.Load(), "sha256", inst.process.sha256)
	}
	return err
}

// watchInterval is how often executables are looked at that are to be reloaded when they
// change. One that has changed is reloaded when it has not changed any more for as long.
const watchInterval = 400 * time.Millisecond

// stamp is what a file looks like from outside.
type stamp struct {
	size int64
	time time.Time
	mode os.FileMode
}

func stampOf(file string) stamp {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	return stamp{info.Size(), info.ModTime(), info.Mode()}
}

// watchExecutables reloads plugins of the configuration when their executables change, as
// far as that is wanted.
func (h *Host) watchExecutables() {
	type watched struct {
		plugin        Plugin
		tried, before stamp
	}
	var all []*watched
	for _, p := range h.config.Plugins {
		if p.Watch && p.SHA256 == "" {
			now := stampOf(p.Command)
			all = append(all, &watched{p, now, now})
		}
	}
	if len(all) == 0 {
		return
	}
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-ticker.C:
		}
		for _, w := range all {
			now := stampOf(w.plugin.Command)
			settled := now == w.before
			w.before = now
			if !settled || now == w.tried || now.mode&0o100 == 0 {
				continue
			}
			w.tried = now
			if h.runs(&w.plugin) {
				continue
			}
			mounts, err := h.Reload(h.ctx, w.plugin.Class, w.plugin.Name)
			if err != nil {
				h.log.Error("A plugin whose executable has changed could not be reloaded; the former goes on if it can.", "plugin", w.plugin.Name, "error", err)
				continue
			}
			for _, m := range mounts {
				_, sum := m.Running()
				h.incident(Incident{What: "plugin-reload", Mount: *m.Record(), SHA256: sum})
			}
		}
	}
}

// runs says whether all mounts of a plugin run with the executable as it is now.
func (h *Host) runs(p *Plugin) bool {
	sum, err := checksum(p.Command)
	if err != nil {
		return true // it is being written, or gone; there is nothing to reload
	}
	for _, m := range h.table.Load().all {
		if r := m.Record(); !m.inUse() || r.Plugin != p.Name || r.Class != p.Class {
			continue
		}
		_, running := m.Running()
		if got, err := hex.DecodeString(running); err != nil || !bytes.Equal(got, sum) {
			return false
		}
	}
	return true
}
