package derivation

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// This file holds what each change to a kv v2 key says about its state, and what
// the state says about the event.

// dataWrite handles a new version: data/KEY written or patched.
func (d *Deriver) dataWrite(r *request, operation string) {
	k := d.key(r.m, r.name)
	v, hasVersion := r.e.Response.Data.Get("version").Int()
	hasVersion = hasVersion && v > 0
	assumed := false
	if !hasVersion && operation == "data-patch" {
		// A wrapped answer also hides that there was nothing to patch.
		if d.notLive(k, r.start, r.end) == yes && !k.overlaps(r.start, write, kill, revive, drop) {
			return
		}
		assumed = d.notLive(k, r.start, r.end) != no || k.overlaps(r.start, kill, revive, drop)
	}
	if hasVersion && operation == "data-patch" && !k.overlaps(r.start, write, kill, revive, drop) {
		d.looked(k, true) // only what is live can be patched
	}
	d.relimit(r, k)
	version := uint64(v)
	if !hasVersion && !assumed && k.currentKnown && !k.overlaps(r.start, write, drop) {
		version, hasVersion = k.current+1, true
	}
	if !hasVersion {
		d.sendKV(r, "kv-v2/"+operation, assumed, change(r, operation, r.apiPath("", r.at.rel), &numbers{}, "", ""))
		k.maybe(write)
		if !assumed && !k.overlaps(r.start, drop) {
			k.setExists(yes, r.end)
		}
		k.spans[write].finish(r.end)
		k.spans[hidden].finish(r.end)
		return
	}
	d.follow(r, k, version)
	n := numbers{current: version, currentKnown: true}
	if !r.m.configs.overlaps(r.start) && !k.overlaps(r.start, settle, drop) {
		n.oldest, n.oldestKnown = k.oldestAt(version)
	}
	d.sendKV(r, "kv-v2/"+operation, assumed, change(r, operation, r.apiPath("", r.at.rel), &n, "", ""))
	d.wrote(r, k, version)
	d.learnCAS(r, version)
}

// follow compares the number of a new version with what is known, before it is
// used: a number that cannot follow means that entries are missing.
func (d *Deriver) follow(r *request, k *key, version uint64) {
	switch {
	case k.overlaps(r.start, drop):
		k.forget()
	case !k.currentKnown, version == k.current+1, k.overlaps(r.start, write):
	case version > k.current:
		d.lost(r.m)
		k.max, k.hasBase = number{}, false
	default:
		d.lost(r.m)
		k.forget()
	}
	if !k.hasBase {
		// Before the first version the oldest is 0, before another one it may be any.
		k.hasBase, k.baseVersion, k.baseLow, k.baseHigh = true, version-1, 0, version-1
	}
	k.limit = d.limitOf(r.m, k)
}

// lost notes that entries are missing: keys of the mount may exist that were never
// seen.
func (d *Deriver) lost(m *mount) {
	d.stats.Lost++
	m.complete = false
}

// wrote brings the state up to a new version.
func (d *Deriver) wrote(r *request, k *key, version uint64) {
	if r.m.configs.overlaps(r.start) || k.overlaps(r.start, settle) {
		// The limit changed before or after this version.
		k.baseVersion, k.baseHigh = max(version, k.baseVersion), max(version, k.baseHigh)
	}
	switch {
	case k.overlaps(r.start, drop):
		k.forget()
	case k.currentKnown && version <= k.current: // a later version was seen already
		k.setExists(yes, r.end)
	default:
		k.setExists(yes, r.end)
		k.current, k.currentKnown = version, !k.overlaps(r.start, hidden)
		if k.overlaps(r.start, kill) {
			k.setLatest(latestUnknown, r.end)
		} else {
			k.setLatest(latestLive, r.end)
		}
		k.expiry = d.readExpiry(r.e.Response.Data.Get("deletion_time"))
		if text, ok := r.e.Response.Data.Get("deletion_time").Text(); ok {
			if h, ok := d.hashes.parse(text); ok && d.hashes.sawDeletionTime(h, whichVersion{hashName(k.name), version}) {
				for _, m := range d.mounts.byID {
					d.learnOption(m)
				}
			}
		}
	}
	k.spans[write].finish(r.end)
}

// learnCAS learns the hash of a version number from a check-and-set that
// succeeded: it named the version before the new one.
func (d *Deriver) learnCAS(r *request, version uint64) {
	text, ok := r.e.Request.Data.Get("options").Get("cas").Text()
	if !ok {
		return
	}
	if h, ok := d.hashes.parse(text); ok && version <= math.MaxInt64 {
		d.hashes.learn(h, int64(version-1))
	}
}

// readExpiry reads the deletion time of a version that is not deleted.
func (d *Deriver) readExpiry(v auditlog.Value) expiry {
	text, ok := v.Text()
	if !ok {
		return expiry{}
	}
	if text == "" {
		return expiry{kind: expiresNever}
	}
	if h, ok := d.hashes.parse(text); ok {
		if d.hashes.isEmpty(h.short()) {
			return expiry{kind: expiresNever}
		}
		return expiry{kind: expiresHashed, digest: h.short()}
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return expiry{kind: expiresAt, at: t.UnixNano()}
	}
	return expiry{}
}

// expired says whether the current version, live when last seen, has expired.
func (d *Deriver) expired(x expiry, start, end stamp) tri {
	switch {
	case d.never(x), x.kind == expiresAt && end.time < x.at:
		return no
	case x.kind == expiresAt && start.time > x.at:
		return yes
	}
	return unknown
}

// never is true for a version that surely does not expire.
func (d *Deriver) never(x expiry) bool {
	return x.kind == expiresNever || x.kind == expiresHashed && d.hashes.isEmpty(x.digest)
}

// notLive says whether the key has no readable current version, leaving aside
// operations at the same time.
func (d *Deriver) notLive(k *key, start, end stamp) tri {
	if k.exists == no {
		return yes
	}
	switch k.latest {
	case latestUnknown:
		return unknown
	case latestLive:
		return d.expired(k.expiry, start, end)
	}
	return yes
}

// numbersNow returns the version metadata of an operation that makes no version.
func (d *Deriver) numbersNow(r *request, k *key) *numbers {
	n := new(numbers)
	if !k.currentKnown || k.overlaps(r.start, write, drop) {
		return n
	}
	n.current, n.currentKnown = k.current, true
	d.relimit(r, k)
	n.oldest, n.oldestKnown = k.oldestAt(k.current)
	return n
}

// dataDelete handles the soft deletion of the current version. It sends no event
// when there is none or it is deleted already.
func (d *Deriver) dataDelete(r *request) {
	k := d.key(r.m, r.name)
	gone := d.notLive(k, r.start, r.end)
	switch {
	case !k.latestAt.before(r.start),
		gone == yes && k.overlaps(r.start, write, revive),
		gone == no && k.overlaps(r.start, kill, drop):
		gone = unknown
	}
	if gone != yes {
		d.sendKV(r, "kv-v2/data-delete", gone == unknown, change(r, "data-delete", "", d.numbersNow(r, k), "", ""))
	}
	switch {
	case k.overlaps(r.start, write, revive, drop):
		// It may have been written or undeleted afterwards.
		if k.latest != latestNone {
			k.setLatest(latestUnknown, r.end)
		}
	case k.latest == latestLive && k.overlaps(r.start, kill):
		k.setLatest(latestGone, r.end)
	case k.latest == latestLive:
		k.setLatest(latestDeleted, r.end)
	case k.latest == latestUnknown:
		k.setLatest(latestNotLive, r.end)
	}
	k.spans[kill].finish(r.end)
}

// existed says whether the key existed when the request was carried out.
func (k *key) existed(r *request) tri {
	switch {
	case !k.existsAt.before(r.start),
		k.exists == yes && k.overlaps(r.start, drop),
		k.exists == no && k.overlaps(r.start, write, settle):
		return unknown
	}
	return k.exists
}

// versions handles delete/KEY, undelete/KEY and destroy/KEY. They send an event
// whenever the key exists, whatever the versions are.
func (d *Deriver) versions(r *request, operation, dataPath, versionsKey string, c class) {
	k := d.key(r.m, r.name)
	exists := k.existed(r)
	list := d.readVersions(r.e.Request.Data.Get("versions"))
	if exists != no {
		d.sendCounted(r, "kv-v2/"+operation, exists == unknown,
			change(r, operation, dataPath, d.numbersNow(r, k), versionsKey, list.text), list.count)
	}
	hit := list.includes(k.current, &d.hashes)
	if k.currentKnown && hit == no && !k.overlaps(r.start, write, drop) {
		return
	}
	defer k.spans[c].finish(r.end)
	was := k.latest
	switch {
	case was == latestNone && k.exists == no && !k.overlaps(r.start, write):
		return
	case !k.currentKnown || k.overlaps(r.start, write, drop):
		k.maybe(c)
		if k.overlaps(r.start, write, revive, drop) {
			k.setLatest(latestUnknown, r.end)
		}
		return
	case c == kill && hit == yes && k.overlaps(r.start, kill) && !k.overlaps(r.start, revive):
		if was != latestDestroyed {
			k.setLatest(latestGone, r.end)
		}
		return
	case k.overlaps(r.start, kill, revive):
		k.setLatest(latestUnknown, r.end)
		return
	}
	if was == latestLive {
		switch d.expired(k.expiry, r.start, r.end) {
		case yes:
			was = latestDeleted
		case unknown:
			was = latestUnknown
		}
	}
	if hit == unknown && list.single && (was == latestLive && c == kill || was == latestDeleted && c == revive) {
		k.probe = &probe{digest: list.digest, version: k.current, live: was == latestLive, seq: r.end.seq}
	}
	k.setLatest(after(operation, was, hit), r.end)
	if operation == "undelete" && k.latest == latestLive {
		k.expiry = expiry{kind: expiresNever}
		if hit == unknown {
			k.expiry = expiry{}
		}
	}
}

// after returns the state of the current version after an operation on a list of
// versions that includes it (yes) or may include it (unknown).
func after(operation string, was latest, hit tri) latest {
	switch operation {
	case "delete":
		switch {
		case was != latestLive && was != latestUnknown:
			return was
		case hit == yes && was == latestLive:
			return latestDeleted
		case hit == yes:
			return latestGone
		}
	case "undelete":
		switch {
		case was == latestDestroyed:
			return was
		case was == latestLive, was == latestDeleted && hit == yes:
			return latestLive
		}
	case "destroy":
		switch {
		case hit == yes || was == latestDestroyed:
			return latestDestroyed
		case was == latestDeleted || was == latestGone:
			return latestGone
		case was == latestNotLive:
			return was
		}
	}
	return latestUnknown
}

// versionList is the list of versions of a request, as far as it is readable.
type versionList struct {
	numbers []int64
	hidden  bool // some are hashed
	// The hashed one, when all hashed elements of an array are equal.
	digest digest
	single bool
	text   string // as the event has it; empty when some are hidden
	count  string // of hidden lists: how many
}

func (l *versionList) includes(version uint64, t *dictionary) tri {
	for _, n := range l.numbers {
		if n >= 0 && uint64(n) == version {
			return yes
		}
	}
	if l.hidden && !(l.single && t.differs(l.digest, int64(version))) {
		return unknown
	}
	return no
}

// readVersions reads the member "versions": a list, one number, or a text with
// commas; each number plain, as a text, or hashed.
func (d *Deriver) readVersions(all auditlog.Value) versionList {
	var l versionList
	add := func(v auditlog.Value) {
		if n, ok := v.Int(); ok && n <= 1<<53 && n >= -1<<53 { // beyond, audit devices round
			l.numbers = append(l.numbers, n)
			return
		}
		text, ok := v.Text()
		if !ok {
			l.hidden, l.single = true, false
			return
		}
		if h, ok := d.hashes.parse(text); ok {
			if n, ok := d.hashes.lookup(h); ok {
				l.numbers = append(l.numbers, n)
				return
			}
			d.askHash()
			l.single = all.Kind() == auditlog.Array && (!l.hidden || l.single && l.digest == h)
			l.digest, l.hidden = h, true
			return
		}
		for part := range strings.SplitSeq(text, ",") {
			n, err := strconv.ParseInt(strings.TrimSpace(part), 10, 64)
			if err != nil {
				l.hidden, l.single = true, false
				return
			}
			l.numbers = append(l.numbers, n)
		}
	}
	if all.Kind() == auditlog.Array {
		count := 0
		for element := range all.Elements() {
			add(element)
			count++
		}
		l.count = strconv.Itoa(count)
	} else {
		add(all)
	}
	if l.hidden {
		return l
	}
	l.count = ""
	b := append(make([]byte, 0, 2+4*len(l.numbers)), '[')
	for i, n := range l.numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	l.text = string(append(b, ']'))
	return l
}

// metadataWrite handles metadata/KEY written or patched.
func (d *Deriver) metadataWrite(r *request, operation string) {
	body := &r.e.Request.Data
	if operation == "metadata-write" && !hasAny(body, metadataFields[:]) {
		return
	}
	d.sendKV(r, "kv-v2/"+operation, false, change(r, operation, r.apiPath("", r.at.rel), nil, "", ""))
	k := d.key(r.m, r.name)
	d.relimit(r, k)
	switch {
	case k.overlaps(r.start, drop):
		k.maybe(drop)
	case k.exists == no && !k.overlaps(r.start, write): // made without a version
		k.setExists(yes, r.end)
		k.current, k.currentKnown = 0, true
		k.setLatest(latestNone, r.end)
	default: // whatever it was, it exists now
		k.setExists(yes, r.end)
	}
	if v := body.Get("max_versions"); v.Kind() != auditlog.Absent {
		k.max = d.readNumber(v)
		if k.overlaps(r.start, settle) {
			k.max = number{}
		}
		d.relimit(r, k)
	}
	k.spans[settle].finish(r.end)
}

// metadataDelete handles the removal of a key with all its versions.
func (d *Deriver) metadataDelete(r *request) {
	k := d.key(r.m, r.name)
	exists := k.existed(r)
	if exists != no {
		d.sendKV(r, "kv-v2/metadata-delete", exists == unknown, change(r, "metadata-delete", "", nil, "", ""))
	}
	if k.overlaps(r.start, write, settle) {
		k.maybe(drop)
	} else {
		d.absent(r.m, k, r.end)
	}
	k.spans[drop].finish(r.end)
}

// hashName is FNV-1a, to name a key in few bytes.
func hashName(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
