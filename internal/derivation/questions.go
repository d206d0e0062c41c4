package derivation

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// maxQuestions bounds what Questions returns of each kind.
const maxQuestions = 100

// Questions are what the stream left open and the server can tell.
type Questions struct {
	// Mounts are kv mounts whose version is not known.
	Mounts []UnknownMount
	// Devices name the devices (see [Deriver.Device]) of which version numbers were
	// hashed that could not be read.
	Devices []string
}

// IsZero reports whether nothing was left open.
func (q Questions) IsZero() bool { return len(q.Mounts) == 0 && len(q.Devices) == 0 }

// UnknownMount is a kv mount whose version is not known.
type UnknownMount struct {
	Namespace string // with trailing slash; empty is root
	Point     string // path with namespace and trailing slash
	Accessor  string // empty when no entry has told it
}

// Answers are what the server said when it was asked.
type Answers struct {
	// Mounts are kv mounts. A mount that is missing is not known to be gone.
	Mounts []Mount
	// Hashes tells what hashes ("hmac-sha256:...") of small numbers by Device stand
	// for.
	Device string
	Hashes map[string]int64
}

// Mount is a kv mount as the server knows it.
type Mount struct {
	Point    string // path with namespace and trailing slash
	Accessor string
	Version  int // 1 or 2
}

// Questions returns what the entries since the last call left open, at most a
// hundred of each kind, in a fixed order.
func (d *Deriver) Questions() Questions {
	var q Questions
	if len(d.open.mounts) > 0 {
		q.Mounts = slices.SortedFunc(maps.Values(d.open.mounts), func(a, b UnknownMount) int { return cmp.Compare(a.Point, b.Point) })
		clear(d.open.mounts)
	}
	if len(d.open.devices) > 0 {
		q.Devices = slices.Sorted(maps.Keys(d.open.devices))
		clear(d.open.devices)
	}
	return q
}

// Answer takes what the server said. It may say it about a time that is ahead of the
// stream, so it decides only what neither the options nor the stream has: the version
// of a mount of which there is no evidence, which is told by its accessor, because
// another mount may have had its path before. By the path alone only entries without
// accessors go, those of old servers and those of a moment. What a hash stands for is
// certain, and corrects what the stream made believe. Answers are forgotten with
// [Deriver.Reset] except what has been used; give them again after [Deriver.Restore].
func (d *Deriver) Answer(a Answers) {
	if len(a.Hashes) > 0 {
		current := d.hashes.devices[d.hashes.device].name
		d.hashes.use(a.Device)
		for _, text := range slices.Sorted(maps.Keys(a.Hashes)) {
			if _, given := d.o.VersionHashes[text]; given && a.Device == "" {
				continue
			}
			if h, ok := d.hashes.parse(text); ok {
				d.hashes.tell(h, a.Hashes[text])
			}
		}
		d.hashes.use(current)
	}
	for _, told := range a.Mounts {
		if told.Version == 1 || told.Version == 2 {
			d.open.tell(told)
		}
	}
}

// tell notes for certain that h is the hash of n.
func (t *dictionary) tell(h digest, n int64) {
	m, ok := t.numbers[h]
	switch {
	case !ok && len(t.numbers) >= maxHashes:
		return
	case ok && !m.void && t.digests[whichNumber{h.device, m.n}] == h:
		delete(t.digests, whichNumber{h.device, m.n})
	}
	t.numbers[h] = meaning{n: n, told: true}
	t.digests[whichNumber{h.device, n}] = h
}

// open is what was asked and what was answered.
type open struct {
	mounts  map[string]UnknownMount // by point
	devices map[string]struct{}

	byAccessor map[string]int // versions of kv mounts, as the server told them
	byPoint    map[string]int
}

func (o *open) reset() {
	*o = open{
		mounts: make(map[string]UnknownMount), devices: make(map[string]struct{}),
		byAccessor: make(map[string]int), byPoint: make(map[string]int),
	}
}

// tell keeps the version of a mount, also when the mount is gone: the stream may be
// behind.
func (o *open) tell(m Mount) {
	for key, versions := range map[string]map[string]int{m.Accessor: o.byAccessor, m.Point: o.byPoint} {
		if key == "" {
			continue
		}
		if _, known := versions[key]; !known && len(versions) >= maxMounts {
			clear(versions) // those that there are come again with the next answers
		}
		versions[key] = m.Version
	}
}

// toldVersion returns the version of a mount that the server told, 0 when it did not.
func (d *Deriver) toldVersion(m *mount) int {
	if m.accessor == "" {
		return d.open.byPoint[m.point]
	}
	if v := d.open.byAccessor[m.accessor]; v != 0 {
		d.setVersion(m, v)
	}
	return m.version
}

// askMount notes that the version of the mount of an entry is not known.
func (d *Deriver) askMount(e *auditlog.Entry, m *mount) {
	if _, noted := d.open.mounts[m.point]; noted || len(d.open.mounts) >= maxQuestions {
		return
	}
	point := strings.Clone(m.point)
	d.open.mounts[point] = UnknownMount{
		Namespace: strings.Clone(Namespace(e.Request.NamespacePath)),
		Point:     point,
		Accessor:  strings.Clone(m.accessor),
	}
}

// askHash notes that a hash of the current device could not be read.
func (d *Deriver) askHash() {
	if len(d.open.devices) < maxQuestions {
		d.open.devices[d.hashes.devices[d.hashes.device].name] = struct{}{}
	}
}
