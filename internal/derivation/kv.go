package derivation

import (
	"path"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// request is a response entry of a kv mount on its way to an event.
type request struct {
	e     *auditlog.Entry
	at    located
	m     *mount
	start stamp
	end   stamp
	verb  string // of kv v2; empty when the path has no meaning there
	name  string // the key
	// assumed is true when the split of the path or the version of the mount is a
	// guess.
	assumed bool
}

func (d *Deriver) kvResponse(e *auditlog.Entry) {
	start := d.land(e)
	at, ok := d.locate(e)
	if !ok {
		return
	}
	r := &request{e: e, at: at, m: at.m, start: start, end: stamp{seq: d.seq, time: nanos(e)}, assumed: at.guessed}
	r.verb, r.name = split(at.rel)
	outcome := e.Outcome()
	if version := evidence(r, outcome); version != 0 {
		d.setVersion(r.m, version)
	}
	version := d.kvVersion(r.m)
	if version == 0 {
		d.askMount(e, r.m)
		version = guessVersion(r)
		r.assumed = true
	}
	switch {
	case version == 1:
		if outcome == auditlog.Succeeded {
			d.v1(r)
		}
	case r.verb == "":
	case outcome == auditlog.Succeeded:
		d.v2(r)
	case outcome == auditlog.FailedStatus:
		d.v2NotFound(r)
	}
}

func isWrite(operation string) bool { return operation == "create" || operation == "update" }

// evidence returns the version of a kv mount that a response proves, 0 for none.
func evidence(r *request, outcome auditlog.Outcome) int {
	data := &r.e.Response.Data
	operation := r.e.Request.Operation
	if outcome == auditlog.FailedStatus {
		if code, _ := data.Get("http_status_code").Int(); code == 404 {
			return 2
		}
		return 0
	}
	if outcome != auditlog.Succeeded {
		return 0
	}
	wrapped := r.e.Response.Wrap.Present
	switch {
	case isWrite(operation) && r.verb == "data":
		if data.Get("version").Kind() == auditlog.Number {
			return 2
		}
		if !wrapped && data.Len() == 0 {
			return 1 // v2 answers with the new version
		}
	case isWrite(operation) && r.verb == "" && r.at.rel != "":
		if !wrapped && data.Len() == 0 {
			return 1 // v2 knows no such path
		}
	case operation == "patch" && !wrapped:
		return 2 // v1 cannot patch
	case operation == "read" && r.e.Response.HasSecret:
		return 1
	case operation == "read" && (r.verb == "metadata" || r.verb == "config") && data.Get("cas_required").Kind() == auditlog.Bool:
		return 2
	case operation == "read" && r.verb == "config" && !wrapped && data.Len() == 0:
		return 1 // v2 always has a config
	case operation == "read" && r.verb == "data" && data.Get("metadata").Get("version").Kind() == auditlog.Number:
		return 2
	}
	return 0
}

// guessVersion decides by the shape of the path and body before there is evidence.
func guessVersion(r *request) int {
	body := &r.e.Request.Data
	switch {
	case r.verb == "":
		return 1
	case isWrite(r.e.Request.Operation):
		switch r.verb {
		case "delete", "undelete", "destroy":
			if !body.Get("versions").Present() {
				return 1
			}
		case "config":
			if body.Len() > 0 && !hasAny(body, configFields[:]) {
				return 1
			}
		case "metadata":
			if body.Len() > 0 && !hasAny(body, metadataFields[:]) {
				return 1
			}
		case "subkeys", "detailed-metadata":
			return 1
		}
	case r.e.Request.Operation == "delete" && r.verb != "data" && r.verb != "metadata":
		return 1
	}
	return 2
}

// Members of a body that make a write of metadata or config a change. A body with
// none of them is answered with success and changes nothing. The last ones exist
// on OpenBao only.
var (
	metadataFields = [...]string{"max_versions", "cas_required", "delete_version_after", "custom_metadata", "metadata_cas_required", "metadata_cas"}
	configFields   = [...]string{"max_versions", "cas_required", "delete_version_after", "metadata_cas_required"}
)

func hasAny(body *auditlog.Data, names []string) bool {
	for _, name := range names {
		if body.Get(name).Kind() != auditlog.Absent {
			return true
		}
	}
	return false
}

func (d *Deriver) v1(r *request) {
	if r.at.rel == "" {
		return
	}
	where := r.apiPath("", r.at.rel)
	switch operation := r.e.Request.Operation; {
	case isWrite(operation):
		d.sendKV(r, "kv-v1/write", false, event.Fields{
			{Key: event.MetadataDataPath, Value: where},
			{Key: event.MetadataModified, Value: "true"},
			{Key: event.MetadataOperation, Value: "write"},
			{Key: event.MetadataPath, Value: where},
		})
	case operation == "delete":
		d.sendKV(r, "kv-v1/delete", false, event.Fields{
			{Key: event.MetadataModified, Value: "true"},
			{Key: event.MetadataOperation, Value: "delete"},
			{Key: event.MetadataPath, Value: where},
		})
	}
}

// apiPath returns verb/rest under the mount, as Vault joins them, but never
// outside of the mount.
func (r *request) apiPath(verb, rest string) string {
	raw := r.e.Request.Path
	if verb != "" || len(r.at.path)+len(rest) != len(raw) {
		raw = r.at.path + verb + rest
	}
	if clean := path.Clean(raw); clean == raw || strings.HasPrefix(clean, r.at.path) {
		return clean
	}
	return raw
}

// sendKV sends a kv event.
func (d *Deriver) sendKV(r *request, kind string, assumed bool, metadata event.Fields) {
	d.sendCounted(r, kind, assumed, metadata, "")
}

func (d *Deriver) sendCounted(r *request, kind string, assumed bool, metadata event.Fields, versionCount string) {
	info := pluginInfo(r.e, place{kind: r.e.MountType(), class: "secret", path: r.at.path})
	if strings.HasPrefix(kind, "kv-v2/") {
		info.Version = "2"
	}
	if old := r.m.plugin; old != nil && *old == *info {
		info = old
	} else {
		kept := *info
		for _, s := range [...]*string{&kept.MountClass, &kept.MountAccessor, &kept.MountPath, &kept.Plugin, &kept.PluginVersion} {
			*s = strings.Clone(*s)
		}
		r.m.plugin, info = &kept, &kept
	}
	d.send(r.e, draft{kind: kind, metadata: metadata, plugin: info, assumed: assumed || r.assumed, versionCount: versionCount})
}

// numbers are the version metadata of an event, as far as known.
type numbers struct {
	current, oldest           uint64
	currentKnown, oldestKnown bool
}

// change builds the metadata of an event of kv v2 in the order of the keys.
// versions goes under "<kind>d_versions".
func change(r *request, operation, dataPath string, v *numbers, versionsKey, versions string) event.Fields {
	m := make(event.Fields, 0, 7)
	add := func(key, value string, ok bool) {
		if ok {
			m = append(m, event.Field{Key: key, Value: value})
		}
	}
	if v != nil {
		add("current_version", strconv.FormatUint(v.current, 10), v.currentKnown)
	}
	add(event.MetadataDataPath, dataPath, dataPath != "")
	if versionsKey < event.MetadataModified { // deleted_, destroyed_versions
		add(versionsKey, versions, versions != "")
	}
	add(event.MetadataModified, "true", true)
	if v != nil {
		add("oldest_version", strconv.FormatUint(v.oldest, 10), v.oldestKnown)
	}
	add(event.MetadataOperation, operation, true)
	add(event.MetadataPath, r.apiPath("", r.at.rel), true)
	if versionsKey > event.MetadataModified { // undeleted_versions
		add(versionsKey, versions, versions != "")
	}
	return m
}

func (d *Deriver) v2(r *request) {
	operation := r.e.Request.Operation
	switch {
	case r.verb == "config":
		d.config(r)
	case r.verb == "data" && isWrite(operation):
		d.dataWrite(r, "data-write")
	case r.verb == "data" && operation == "patch":
		d.dataWrite(r, "data-patch")
	case r.verb == "data" && operation == "delete":
		d.dataDelete(r)
	case r.verb == "delete" && isWrite(operation):
		d.versions(r, "delete", "", "deleted_versions", kill)
	case r.verb == "undelete" && isWrite(operation):
		d.versions(r, "undelete", r.apiPath("data/", r.name), "undeleted_versions", revive)
	case r.verb == "destroy" && isWrite(operation):
		d.versions(r, "destroy", "", "destroyed_versions", kill)
	case r.verb == "metadata" && isWrite(operation):
		d.metadataWrite(r, "metadata-write")
	case r.verb == "metadata" && operation == "patch":
		d.metadataWrite(r, "metadata-patch")
	case r.verb == "metadata" && operation == "delete":
		d.metadataDelete(r)
	case operation == "read" && (r.verb == "data" || r.verb == "subkeys"):
		d.dataRead(r)
	case operation == "read" && r.verb == "metadata":
		d.metadataRead(r)
	}
}

// limitOf returns how many versions of a key are kept, 0 when it is not known.
func (d *Deriver) limitOf(m *mount, k *key) uint64 {
	d.resolve(&m.max)
	d.resolve(&k.max)
	if !m.max.known || !k.max.known {
		return 0
	}
	if n := max(m.max.n, k.max.n); n > 0 {
		return n
	}
	return 10
}

// resolve looks up a hashed number.
func (d *Deriver) resolve(n *number) {
	if n.known || n.digest == (digest{}) {
		return
	}
	if v, ok := d.hashes.lookup(n.digest); ok && v >= 0 {
		n.n, n.known = uint64(v), true
	}
}

// readNumber reads a number of a request, plain or hashed.
func (d *Deriver) readNumber(v auditlog.Value) number {
	if n, ok := v.Int(); ok && n >= 0 {
		return number{n: uint64(n), known: true}
	}
	text, ok := v.Text()
	if !ok {
		return number{}
	}
	if h, ok := d.hashes.parse(text); ok {
		n := number{digest: h}
		d.resolve(&n)
		return n
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return number{n: n, known: true}
	}
	return number{}
}

// relimit brings the key's limit up to date: until now the old one held. It must be
// called before something depends on the limit.
func (d *Deriver) relimit(r *request, k *key) {
	limit := d.limitOf(r.m, k)
	if limit == k.limit {
		return
	}
	if k.currentKnown && !k.overlaps(r.start, write, drop) {
		k.rebase(k.current)
	} else {
		k.hasBase = false
	}
	k.limit = limit
}

func (d *Deriver) config(r *request) {
	body, data := &r.e.Request.Data, &r.e.Response.Data
	switch operation := r.e.Request.Operation; {
	case operation == "read":
		if n, ok := data.Get("max_versions").Int(); ok && n >= 0 && !r.m.configs.overlaps(r.start) {
			if r.m.max.digest != (digest{}) {
				d.hashes.learn(r.m.max.digest, n)
			}
			r.m.max = number{n: uint64(n), known: true, digest: r.m.max.digest}
		}
	case isWrite(operation) && hasAny(body, configFields[:]):
		d.sendKV(r, "kv-v2/config-write", false, change(r, "config-write", r.apiPath("", r.at.rel), nil, "", ""))
		if v := body.Get("max_versions"); v.Kind() != auditlog.Absent {
			r.m.max = d.readNumber(v)
			if r.m.configs.overlaps(r.start) {
				r.m.max = number{}
			}
		}
		r.m.configs.finish(r.end)
	}
}
