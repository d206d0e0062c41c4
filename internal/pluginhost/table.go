package pluginhost

import (
	"slices"
	"strings"
)

// table finds mounts by path. It is immutable.
type table struct {
	all    []*Mount // by full path
	byPath map[string]*Mount
}

func newTable(mounts []*Mount) *table {
	t := &table{all: slices.Clone(mounts), byPath: make(map[string]*Mount, len(mounts))}
	slices.SortFunc(t.all, func(a, b *Mount) int { return strings.Compare(a.Record().Full(), b.Record().Full()) })
	for _, m := range t.all {
		t.byPath[m.Record().Full()] = m
	}
	return t
}

// find returns the mount with the longest path that begins the full path, and the rest of
// it. "secret" means "secret/".
func (t *table) find(full string) (*Mount, string) {
	var found *Mount
	at := 0
	for i := 0; i < len(full); i++ {
		if full[i] != '/' {
			continue
		}
		if m := t.byPath[full[:i+1]]; m != nil {
			found, at = m, i+1
		}
	}
	if found == nil {
		if m := t.byPath[full+"/"]; m != nil {
			return m, ""
		}
		return nil, ""
	}
	return found, full[at:]
}

// conflict returns a mount whose path begins with that of another, or the other way
// round.
func (t *table) conflict(full string) *Mount {
	for _, m := range t.all {
		if at := m.Record().Full(); strings.HasPrefix(at, full) || strings.HasPrefix(full, at) {
			return m
		}
	}
	return nil
}

// Find returns the mount of a path, and the path within the mount; nil when there is none.
// The header is the canonical namespace that a client gave beside the path: the mount is
// in it or below. A namespace may also begin the path.
func (h *Host) Find(header, path string) (*Mount, string) {
	m, rest := h.table.Load().find(header + path)
	if m == nil || !m.inUse() || !strings.HasPrefix(m.Record().Namespace, header) {
		return nil, ""
	}
	return m, rest
}

// Mounts returns the mounts of a class in a namespace, by path. Those of earlier
// configurations are among them; see [Detached].
func (h *Host) Mounts(class Class, namespace string) []*Mount {
	var found []*Mount
	for _, m := range h.table.Load().all {
		if r := m.Record(); r.Class == class && r.Namespace == namespace {
			found = append(found, m)
		}
	}
	return found
}

// All returns all mounts, by path with namespace.
func (h *Host) All() []*Mount { return h.table.Load().all }

// at returns the mount of exactly this path.
func (h *Host) at(class Class, namespace, path string) *Mount {
	c := MountConfig{Class: class, Namespace: namespace, Path: strings.Trim(path, "/") + "/"}
	if m := h.table.Load().byPath[c.Full()]; m != nil && m.Record().Class == class {
		return m
	}
	return nil
}
