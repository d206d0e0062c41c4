package derivation

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// mount is what is known of one kv mount.
type mount struct {
	id       uint64
	accessor string // empty until an entry tells
	point    string // path with namespace and trailing slash
	used     uint64 // seq of the last entry

	version    int  // 1, 2, or 0 while unknown
	configured bool // version is from Options.KVVersions
	// complete is true when every key was created in sight and none was forgotten:
	// a key never seen does not exist.
	complete bool
	// option is the hash of the mount option "version", when the creation or a
	// preflight read showed it.
	option    digest
	hasOption bool

	max     number // max_versions of the mount's config
	configs span   // config writes

	plugin *event.PluginInfo // of the last event
}

// number is a number that may be unknown. A hashed one keeps its hash: what it
// stands for may be learnt later.
type number struct {
	n      uint64
	known  bool
	digest digest // zero when there is none
}

// mountTable finds mounts by accessor and by path.
type mountTable struct {
	nextID     uint64
	byID       map[uint64]*mount // all
	byAccessor map[string]*mount
	byPoint    map[string]*mount
}

func (t *mountTable) reset() {
	*t = mountTable{byID: make(map[uint64]*mount), byAccessor: make(map[string]*mount), byPoint: make(map[string]*mount)}
}

// gap forgets what only an unbroken stream can tell.
func (t *mountTable) gap() {
	for _, m := range t.byID {
		m.complete, m.max = false, number{}
		m.configs = span{}
	}
}

func (t *mountTable) add(point, accessor string, seq uint64) *mount {
	if len(t.byID) >= maxMounts {
		t.evict()
	}
	t.nextID++
	m := &mount{id: t.nextID, point: strings.Clone(point), used: seq}
	t.byID[m.id] = m
	t.byPoint[m.point] = m
	t.setAccessor(m, accessor)
	return m
}

func (t *mountTable) setAccessor(m *mount, accessor string) {
	if accessor != "" {
		m.accessor = strings.Clone(accessor)
		t.byAccessor[m.accessor] = m
	}
}

func (t *mountTable) remove(m *mount) {
	delete(t.byID, m.id)
	if t.byPoint[m.point] == m {
		delete(t.byPoint, m.point)
	}
	if m.accessor != "" && t.byAccessor[m.accessor] == m {
		delete(t.byAccessor, m.accessor)
	}
}

// evict forgets the tenth of the mounts that was not used for the longest time.
func (t *mountTable) evict() {
	all := slices.SortedFunc(maps.Values(t.byID), func(a, b *mount) int {
		return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(a.id, b.id))
	})
	for _, m := range all[:maxMounts/10] {
		t.remove(m)
	}
}

// find returns the mount of an entry, by accessor where the entry has one: a mount
// that was moved keeps its accessor and its keys, a new mount on an old path has
// another accessor and starts afresh.
func (t *mountTable) find(point, accessor string, seq uint64) *mount {
	m := t.byPoint[point]
	if accessor != "" && (m == nil || m.accessor != accessor) {
		switch known := t.byAccessor[accessor]; {
		case known != nil: // moved
			if m != nil && m.accessor == "" {
				t.remove(m) // its requests were those of the moved mount
			}
			if t.byPoint[known.point] == known {
				delete(t.byPoint, known.point)
			}
			known.point = strings.Clone(point)
			known.plugin = nil
			t.byPoint[known.point] = known
			m = known
		case m != nil && m.accessor == "": // known by path so far
			t.setAccessor(m, accessor)
		default:
			m = t.add(point, accessor, seq)
		}
	}
	if m == nil {
		m = t.add(point, "", seq)
	}
	m.used = seq
	return m
}

// located is where a request went.
type located struct {
	m *mount
	// path is the mount's path without namespace; rel what of the request path
	// follows it.
	path, rel string
	guessed   bool // the mount path is not in the entry and not known
}

// locate splits the path of a request into mount and rest. Entries of Vault before
// 1.14 do not have the mount path: then a known mount, or the first path element
// that kv v2 gives a meaning to, decides.
func (d *Deriver) locate(e *auditlog.Entry) (located, bool) {
	r := &e.Request
	point := e.MountPoint()
	ns := Namespace(r.NamespacePath)
	if point == "" {
		return d.locateOld(e, ns)
	}
	path, ok := strings.CutPrefix(point, ns)
	if !ok {
		path = point
	}
	rel, ok := strings.CutPrefix(r.Path, path)
	if !ok {
		return located{}, false
	}
	return located{m: d.mount(e, point), path: path, rel: rel}, true
}

func (d *Deriver) locateOld(e *auditlog.Entry, ns string) (located, bool) {
	full := ns + e.Request.Path
	for i := strings.LastIndexByte(full, '/'); i > len(ns); i = strings.LastIndexByte(full[:i], '/') {
		point := full[:i+1]
		_, configured := d.o.KVVersions[point]
		if configured || d.mounts.byPoint[point] != nil {
			return located{m: d.mount(e, point), path: point[len(ns):], rel: full[i+1:]}, true
		}
	}
	path := e.Request.Path
	first := strings.IndexByte(path, '/')
	if first < 0 {
		return located{}, false
	}
	cut := first + 1
	for i := cut; i < len(path); {
		element, rest, more := strings.Cut(path[i:], "/")
		if isVerb(element) && (more && rest != "" && element != "config" || !more && element == "config") {
			cut = i
			break
		}
		if !more {
			break
		}
		i += len(element) + 1
	}
	return located{m: d.mount(e, ns+path[:cut]), path: path[:cut], rel: path[cut:], guessed: true}, true
}

// mount finds the mount of an entry and applies the configuration to a new one.
func (d *Deriver) mount(e *auditlog.Entry, point string) *mount {
	m := d.mounts.find(point, e.MountAccessor(), d.seq)
	if v, ok := d.o.KVVersions[m.point]; ok && !m.configured {
		m.version, m.configured = v, true
	}
	if m.version == 0 && e.MountType() == "generic" {
		m.version = 1
	}
	return m
}

// isVerb is true for the first path elements that have a meaning in kv v2.
func isVerb(element string) bool {
	switch element {
	case "data", "metadata", "delete", "undelete", "destroy", "subkeys", "detailed-metadata", "config":
		return true
	}
	return false
}

// setVersion notes evidence of the version of a mount. The newest wins: a mount
// can be upgraded from 1 to 2. Upgraded keys are older than our knowledge.
func (d *Deriver) setVersion(m *mount, version int) {
	if m.configured {
		return
	}
	if m.version == 1 && version == 2 {
		m.complete = false
	}
	if m.version != version {
		m.version = version
		m.plugin = nil
		d.learnOption(m)
	}
}

// learnOption learns the hash of "1" or "2" from the mount option of a mount whose
// version is known, and the version of a mount from a known hash.
func (d *Deriver) learnOption(m *mount) {
	switch {
	case !m.hasOption || m.configured:
	case m.version == 2:
		d.hashes.learn(m.option, 2)
	case m.version == 1 && d.hashes.isNotEmpty(m.option):
		d.hashes.learn(m.option, 1) // an empty option means 1 too, and is ruled out
	case m.version == 0:
		if n, ok := d.hashes.lookup(m.option); ok && (n == 1 || n == 2) {
			m.version = int(n)
		}
	}
}

// kvVersion returns the version of a mount, 0 when it is not known.
func (d *Deriver) kvVersion(m *mount) int {
	if m.version == 0 && m.hasOption {
		d.learnOption(m)
	}
	if m.version == 0 {
		return d.toldVersion(m)
	}
	return m.version
}

// setOption notes the mount option "version" as an entry shows it.
func (d *Deriver) setOption(m *mount, option auditlog.Value) {
	text, ok := option.Text()
	if !ok {
		if n, ok := option.Int(); ok && (n == 1 || n == 2) {
			d.setVersion(m, int(n))
		}
		return
	}
	switch text {
	case "1", "2":
		d.setVersion(m, int(text[0]-'0'))
		return
	}
	if h, ok := d.hashes.parse(text); ok {
		if m.hasOption && m.option != h && m.option.device == h.device {
			m.complete = false // upgraded
			if n, ok := d.hashes.lookup(h); ok && (n == 1 || n == 2) {
				d.setVersion(m, int(n))
			}
		}
		m.option, m.hasOption = h, true
		d.learnOption(m)
	}
}

// system learns from successful requests to the system backend which mounts are
// made, upgraded and removed.
func (d *Deriver) system(e *auditlog.Entry) {
	r := &e.Request
	rest, ok := strings.CutPrefix(r.Path, "sys/")
	if !ok || e.Outcome() != auditlog.Succeeded {
		return
	}
	ns := Namespace(r.NamespacePath)
	if at, ok := strings.CutPrefix(rest, "mounts/"); ok && at != "" {
		write := r.Operation == "create" || r.Operation == "update" || r.Operation == "patch"
		point, tune := strings.CutSuffix(strings.TrimSuffix(at, "/"), "/tune")
		point = ns + point + "/"
		switch m := d.mounts.byPoint[point]; {
		case tune && write:
			if v := r.Data.Get("options").Get("version"); m != nil && v.Present() {
				m.complete = false
				d.setOption(m, v)
			}
		case write:
			// A mount that is known at this path already was used before this line,
			// or its removal was not seen: then nothing is certain.
			fresh := m == nil
			if !fresh {
				d.removeMount(m)
			}
			m = d.mounts.add(point, "", d.seq)
			m.complete, m.max.known = fresh, fresh
			if v, ok := d.o.KVVersions[point]; ok {
				m.version, m.configured = v, true
			}
			d.setOption(m, r.Data.Get("options").Get("version"))
		case r.Operation == "delete" && m != nil:
			d.removeMount(m)
		}
		return
	}
	if at, ok := strings.CutPrefix(rest, "internal/ui/mounts/"); ok && r.Operation == "read" {
		// The preflight read of the CLI: at is a path somewhere in the mount.
		full := ns + strings.TrimSuffix(at, "/") + "/"
		for i := len(full) - 1; i > len(ns); i = strings.LastIndexByte(full[:i], '/') {
			if m := d.mounts.byPoint[full[:i+1]]; m != nil {
				d.setOption(m, e.Response.Data.Get("options").Get("version"))
				return
			}
		}
	}
}

// removeMount forgets a mount that was removed, with its keys.
func (d *Deriver) removeMount(m *mount) {
	d.mounts.remove(m)
	d.keys.removeMount(m.id)
}

// pluginInfo says which mount an event comes from. The mount path of an auth
// method is without "auth/" there, as Vault has it; paths have it.
func pluginInfo(e *auditlog.Entry, at place) *event.PluginInfo {
	mountPath := at.path
	if at.class == "auth" {
		mountPath = strings.TrimPrefix(mountPath, "auth/")
	}
	running := e.Request.MountRunningVersion
	if running == "" {
		running = e.Response.MountVersion
	}
	return &event.PluginInfo{
		MountClass:    at.class,
		MountAccessor: e.MountAccessor(),
		MountPath:     mountPath,
		Plugin:        at.kind,
		PluginVersion: running,
	}
}
