package pluginhost

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/internal/strongbox"
)

// loadMounts reads the mounts, completes what was interrupted, and makes them what the
// configuration says.
func (h *Host) loadMounts(ctx context.Context) error {
	var mounts []*Mount
	err := h.loadRecords(ctx, mountPrefix, func(value []byte) error {
		r := new(Record)
		if err := json.Unmarshal(value, r); err != nil {
			return err
		}
		if r.State == creating || r.State == removing {
			return h.erase(ctx, r)
		}
		m, err := h.openMount(ctx, *r)
		if err == nil {
			mounts = append(mounts, m)
		}
		return err
	})
	if err != nil {
		return err
	}
	h.table.Store(newTable(mounts))
	return h.reconcile(ctx)
}

// openMount opens the storage of a mount.
func (h *Host) openMount(ctx context.Context, r Record) (*Mount, error) {
	if r.State == Detached {
		return newMount(h, r, nil), nil
	}
	storage, err := h.config.Box.Compartment(ctx, r.UUID)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", r.Full(), err)
	}
	return newMount(h, r, storage), nil
}

// reconcile makes the mounts of the configuration.
func (h *Host) reconcile(ctx context.Context) error {
	configured := make(map[string]bool)
	for i := range h.config.Mounts {
		c := h.config.Mounts[i]
		if err := c.normalise(h.config.ReservedAuth); err != nil {
			return fmt.Errorf("mount %s of the configuration: %w", c.Path, err)
		}
		full := c.Full()
		configured[full] = true
		existing := h.table.Load().byPath[full]
		switch other := h.table.Load().conflict(full); {
		case existing == nil && other != nil:
			return fmt.Errorf("mount %s of the configuration: there is one at %s; disable that, or choose another path", full, other.Record().Full())
		case existing == nil:
			r := newRecord(c, FromConfig)
			if err := h.store(ctx, r); err != nil {
				return err
			}
			m, err := h.openMount(ctx, r)
			if err != nil {
				return err
			}
			h.table.Store(newTable(append(slices.Clone(h.table.Load().all), m)))
			continue
		}
		r := *existing.Record()
		if r.Plugin != c.Plugin || r.Class != c.Class {
			return fmt.Errorf("mount %s of the configuration: its storage belongs to the plugin %q, and it is to be one of %q; choose another path, or disable the mount first (DELETE sys/mounts/%s), which removes its storage",
				full, r.Plugin, c.Plugin, r.Path)
		}
		r.MountConfig, r.Origin, r.State = c, FromConfig, ""
		if reflect.DeepEqual(r, *existing.Record()) {
			continue // so that the hub starts on a full disk
		}
		if err := h.store(ctx, r); err != nil {
			return err
		}
		m, err := h.openMount(ctx, r)
		if err != nil {
			return err
		}
		h.replaceInTable(existing, m)
	}
	for _, m := range h.table.Load().all {
		r := *m.Record()
		if r.Origin != FromConfig || configured[r.Full()] {
			continue
		}
		h.log.Warn("A mount is not in the configuration any more. It does not run; its storage is kept until the mount is disabled.", "mount", r.Full())
		if r.State != Detached {
			r.State = Detached
			if err := h.store(ctx, r); err != nil {
				return err
			}
			h.replaceInTable(m, newMount(h, r, nil))
		}
	}
	return nil
}

func newRecord(c MountConfig, origin Origin) Record {
	var suffix [4]byte
	rand.Read(suffix[:])
	accessor := c.Plugin + "_" + hex.EncodeToString(suffix[:])
	if c.Class == Auth {
		accessor = "auth_" + accessor
	}
	return Record{MountConfig: c, UUID: uuid.NewString(), Accessor: accessor, Origin: origin, Created: time.Now().UTC()}
}

func (h *Host) replaceInTable(old, m *Mount) {
	all := slices.DeleteFunc(slices.Clone(h.table.Load().all), func(o *Mount) bool { return o == old })
	if m != nil {
		all = append(all, m)
	}
	h.table.Store(newTable(all))
}

// store stores the record of a mount.
func (h *Host) store(ctx context.Context, r Record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return storeError("store the mount", h.system.Put(ctx, strongbox.Entry{Key: mountPrefix + r.UUID, Value: value}))
}

// erase removes the storage of a mount, and then the record.
func (h *Host) erase(ctx context.Context, r *Record) error {
	if err := h.config.Box.Remove(ctx, r.UUID); err != nil {
		return storeError("remove the storage of the mount", err)
	}
	return storeError("remove the mount", h.system.Delete(ctx, mountPrefix+r.UUID))
}

// Enable makes a mount and returns when its plugin runs. If it does not start, there is no
// mount. The error wraps [ErrInvalid], [ErrUnavailable] or [ErrClosed].
func (h *Host) Enable(ctx context.Context, c MountConfig) (*Mount, error) {
	if err := c.normalise(h.config.ReservedAuth); err != nil {
		return nil, err
	}
	c.LoginPolicies = nil // whoever may mount something must not give policies away by it
	ctx, done := h.until(ctx)
	defer done()
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.closed.Load() {
		return nil, ErrClosed
	}
	t := h.table.Load()
	if other := t.conflict(c.Full()); other != nil {
		return nil, invalidf("path is already in use at %s", other.Record().Full())
	}
	if len(t.all) >= MaxMounts {
		return nil, invalidf("there are %d mounts already", MaxMounts)
	}
	p, err := h.selectPlugin(c.Class, c.Plugin, c.Version)
	if err != nil {
		return nil, invalidf("%w", err)
	}
	c.Version = p.Version // whatever else is registered later
	r := newRecord(c, FromAPI)
	r.State = creating
	if err := h.store(ctx, r); err != nil {
		return nil, err
	}
	m, err := h.begin(ctx, r)
	if err != nil {
		h.metrics.forget(r.Full())
		if undo := h.erase(context.WithoutCancel(ctx), &r); undo != nil {
			h.log.Warn("A mount that could not be made is removed at the next start.", "mount", r.Full(), "error", undo)
		}
		return nil, err
	}
	h.table.Store(newTable(append(slices.Clone(t.all), m)))
	m.keepRunning()
	h.log.Info("A plugin was mounted.", "mount", r.Full(), "plugin", r.Plugin)
	return m, nil
}

// begin starts a new mount.
func (h *Host) begin(ctx context.Context, r Record) (*Mount, error) {
	m, err := h.openMount(ctx, r)
	if err != nil {
		return nil, err
	}
	inst, err := m.open(ctx, &r, nil)
	if err != nil {
		return nil, invalidf("the plugin cannot be mounted: %w", err)
	}
	r.State = ""
	m.record.Store(&r)
	if err := h.store(ctx, r); err != nil {
		m.close(ctx, inst)
		return nil, err
	}
	m.mu.Lock()
	m.runLocked(inst)
	m.mu.Unlock()
	return m, nil
}

// Disable removes a mount with its storage; one that there is not is no error. The error
// wraps [ErrInvalid] or [ErrUnavailable].
func (h *Host) Disable(ctx context.Context, class Class, namespace, path string) (*Record, error) {
	ctx, done := h.until(ctx)
	defer done()
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.closed.Load() {
		return nil, ErrClosed
	}
	m := h.at(class, namespace, path)
	if m == nil {
		return nil, nil
	}
	r := *m.Record()
	if m.Configured() {
		return nil, invalidf("the mount %s is in the configuration of the hub; remove it there first", r.Full())
	}
	r.State = removing
	if err := h.store(ctx, r); err != nil {
		return nil, err
	}
	m.tainted.Store(true)
	drain, cancel := context.WithTimeout(ctx, drainTimeout)
	m.hold(drain)
	select {
	case m.opening <- struct{}{}: // a start under way has ended
	case <-drain.Done():
	}
	cancel()
	m.shutDown(ctx)
	h.replaceInTable(m, nil)
	h.metrics.forget(r.Full())
	if err := h.erase(context.WithoutCancel(ctx), &r); err != nil {
		h.log.Warn("The storage of a mount that was disabled is removed at the next start.", "mount", r.Full(), "error", err)
	}
	h.log.Info("A plugin was unmounted.", "mount", r.Full(), "plugin", r.Plugin)
	return &r, nil
}

// Tuning is what can be changed of a mount; nil leaves it.
type Tuning struct {
	Description                  *string
	DefaultLeaseTTL, MaxLeaseTTL *time.Duration
	// Options replace those of the same name; the plugin is set up again.
	Options map[string]string
	Version *string // of the plugin; in effect with the next reload
}

// Tune changes a mount. The error wraps [ErrNotFound], [ErrInvalid] or [ErrUnavailable].
func (h *Host) Tune(ctx context.Context, class Class, namespace, path string, t Tuning) error {
	ctx, done := h.until(ctx)
	defer done()
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.closed.Load() {
		return ErrClosed
	}
	m := h.at(class, namespace, path)
	if m == nil || !m.inUse() {
		return fmt.Errorf("mount %s: %w", path, ErrNotFound)
	}
	before := m.Record()
	if before.Origin == FromConfig {
		return invalidf("the mount %s is in the configuration of the hub; change it there", before.Full())
	}
	r := *before
	r.Description = *cmp.Or(t.Description, &r.Description)
	r.DefaultLeaseTTL = *cmp.Or(t.DefaultLeaseTTL, &r.DefaultLeaseTTL)
	r.MaxLeaseTTL = *cmp.Or(t.MaxLeaseTTL, &r.MaxLeaseTTL)
	r.Version = *cmp.Or(t.Version, &r.Version)
	if len(t.Options) > 0 {
		r.Options = maps.Clone(r.Options)
		if r.Options == nil {
			r.Options = make(map[string]string)
		}
		maps.Copy(r.Options, t.Options)
	}
	if err := r.normalise(h.config.ReservedAuth); err != nil {
		return err
	}
	if _, err := h.selectPlugin(r.Class, r.Plugin, r.Version); err != nil {
		return invalidf("%w", err)
	}
	if err := h.store(ctx, r); err != nil {
		return err
	}
	if maps.Equal(r.Options, before.Options) {
		m.record.Store(&r)
		return nil
	}
	if err := m.replace(ctx, &r); err != nil {
		if undo := h.store(context.WithoutCancel(ctx), *before); undo != nil {
			h.log.Error("The former options of a mount could not be stored again.", "mount", r.Full(), "error", undo)
		}
		return invalidf("the plugin does not accept the options: %w", err)
	}
	return nil
}
