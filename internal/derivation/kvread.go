package derivation

import (
	"strconv"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// This file holds what the state of a kv v2 key learns from requests that change
// nothing.

// dataRead learns from data/KEY or subkeys/KEY read with success, found or not.
func (d *Deriver) dataRead(r *request) {
	if r.e.Response.Wrap.Present || d.kvVersion(r.m) != 2 {
		return
	}
	metadata := r.e.Response.Data.Get("metadata")
	v, found := metadata.Get("version").Int()
	asked := r.e.Request.Data.Get("version")
	if found && v <= 0 || !found && r.e.Response.Data.Len() > 0 {
		return
	}
	k := d.key(r.m, r.name)
	if k.overlaps(r.start, write, kill, revive, drop) {
		return
	}
	version := uint64(v)
	switch {
	case found && asked.Kind() == auditlog.Absent:
		d.sawCurrent(r, k, version)
		d.sawLive(r, k, metadata.Get("deletion_time"))
	case found:
		if k.exists == no || k.currentKnown && version > k.current {
			d.lost(r.m)
			k.forget()
		}
		k.setExists(yes, r.end)
		if !k.currentKnown {
			return
		}
		if version == k.current {
			d.sawLive(r, k, metadata.Get("deletion_time"))
			return
		}
		// It is not the current version, so it was asked for by its number.
		if text, ok := asked.Text(); ok {
			if h, ok := d.hashes.parse(text); ok {
				d.hashes.learn(h, v)
			}
		}
	case asked.Kind() == auditlog.Absent && !k.overlaps(r.start, settle):
		d.sawNoVersion(r, k)
	}
}

// sawCurrent notes that version is the current one.
func (d *Deriver) sawCurrent(r *request, k *key, version uint64) {
	if k.exists == no || k.currentKnown && k.current != version {
		d.lost(r.m)
		k.forget()
	}
	d.relimit(r, k)
	k.setExists(yes, r.end)
	k.current, k.currentKnown = version, true
	if !k.hasBase {
		k.rebase(version)
	}
}

// looked learns from a look at the current version, live or not, whether the last
// operation on the key named that version.
func (d *Deriver) looked(k *key, live bool) {
	p := k.probe
	if p == nil {
		return
	}
	k.probe = nil
	for c := range k.spans {
		if k.spans[c].flights > 0 || k.spans[c].done.seq > p.seq {
			return
		}
	}
	if p.live != live && k.currentKnown && k.current == p.version && (live || d.never(k.expiry)) {
		d.hashes.learn(p.digest, int64(p.version))
	}
}

// sawLive notes that the current version can be read.
func (d *Deriver) sawLive(r *request, k *key, deletionTime auditlog.Value) {
	d.looked(k, true)
	k.setLatest(latestLive, r.end)
	k.expiry = d.readExpiry(deletionTime)
}

// sawNoVersion notes that a key has no current version, if it exists at all.
func (d *Deriver) sawNoVersion(r *request, k *key) {
	if k.exists == no || k.latest == latestNone {
		return
	}
	if k.currentKnown && k.current > 0 {
		d.lost(r.m)
		k.forget()
	}
	k.setLatest(latestNone, r.end)
}

// v2NotFound learns from requests that were answered with status 404.
func (d *Deriver) v2NotFound(r *request) {
	operation := r.e.Request.Operation
	patch, read := operation == "patch", operation == "read"
	if r.e.Response.Wrap.Present || r.verb == "config" || d.kvVersion(r.m) != 2 {
		return
	}
	switch {
	case patch && r.verb == "metadata":
		if k := d.key(r.m, r.name); !k.overlaps(r.start, write, settle, drop) {
			d.absent(r.m, k, r.end)
		}
	case patch && r.verb == "data", read && (r.verb == "data" || r.verb == "subkeys"):
		k := d.key(r.m, r.name)
		if k.overlaps(r.start, write, kill, revive, drop) {
			return
		}
		if r.e.Response.Data.Get("http_raw_body").Kind() == auditlog.Absent {
			if patch && !k.overlaps(r.start, settle) {
				d.sawNoVersion(r, k)
			}
			return
		}
		// The version is there, but deleted, expired or destroyed.
		if k.exists == no {
			d.lost(r.m)
			k.forget()
		}
		k.setExists(yes, r.end)
		if read && r.e.Request.Data.Get("version").Kind() != auditlog.Absent {
			return
		}
		d.looked(k, false)
		switch k.latest {
		case latestLive:
			if d.expired(k.expiry, r.start, r.end) != no {
				k.setLatest(latestDeleted, r.end)
			} else {
				k.setLatest(latestGone, r.end)
			}
		case latestUnknown, latestNone, latestNotLive:
			k.setLatest(latestGone, r.end)
		}
	}
}

// metadataRead learns everything from metadata/KEY.
func (d *Deriver) metadataRead(r *request) {
	if r.e.Response.Wrap.Present || d.kvVersion(r.m) != 2 {
		return
	}
	data := &r.e.Response.Data
	k := d.key(r.m, r.name)
	if k.overlaps(r.start, write, kill, revive, settle, drop) {
		return
	}
	if data.Len() == 0 {
		if k.exists == yes {
			d.lost(r.m)
		}
		d.absent(r.m, k, r.end)
		return
	}
	current, ok1 := data.Get("current_version").Int()
	oldest, ok2 := data.Get("oldest_version").Int()
	limit, ok3 := data.Get("max_versions").Int()
	if !ok1 || !ok2 || !ok3 || oldest < 0 || current < oldest || limit < 0 {
		return
	}
	d.sawCurrent(r, k, uint64(current))
	if k.max.digest != (digest{}) {
		d.hashes.learn(k.max.digest, limit)
	}
	k.max = number{n: uint64(limit), known: true, digest: k.max.digest}
	k.hasBase, k.baseVersion, k.baseLow, k.baseHigh = true, uint64(current), uint64(oldest), uint64(oldest)
	k.limit = d.limitOf(r.m, k)
	if current == 0 {
		k.setLatest(latestNone, r.end)
		return
	}
	version := data.Get("versions").Get(strconv.FormatInt(current, 10))
	if destroyed, ok := version.Get("destroyed").Bool(); ok && destroyed {
		d.looked(k, false)
		k.setLatest(latestDestroyed, r.end)
		return
	}
	x := d.readExpiry(version.Get("deletion_time"))
	switch d.expired(x, r.start, r.end) {
	case no:
		d.looked(k, true)
		k.setLatest(latestLive, r.end)
		k.expiry = x
	case yes:
		d.looked(k, false)
		k.setLatest(latestDeleted, r.end)
	default: // a hashed time tells nothing new
		if k.latest == latestNone {
			k.setLatest(latestUnknown, r.end)
		}
	}
}
