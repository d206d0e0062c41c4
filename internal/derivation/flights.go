package derivation

import (
	"crypto/sha1"
	"time"

	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/list"
)

// maxFlightAge is after what time, by the clock of the stream, a request without a
// response counts as ended. The server's own limit for a request is 90 s.
const maxFlightAge = 5 * time.Minute

// flightID stands for a request id.
type flightID [16]byte

func flightIDOf(id string) flightID {
	if u, ok := auditlog.ParseUUID(id); ok {
		return u
	}
	sum := sha1.Sum([]byte(id))
	return flightID(sum[:16])
}

// flight is a request whose response has not been seen.
type flight struct {
	id    flightID
	start stamp
	class class
	key   *key               // what it may change; nil for reads
	mount *mount             // for a config write
	place list.Links[flight] // in the table, or among those for reuse
}

// flightTable holds the requests under way in the order of their request lines.
type flightTable struct {
	byID  map[flightID]*flight
	order list.List[flight] // the oldest first
	free  list.List[flight] // for reuse
	early earlyResponses
}

func (t *flightTable) reset() { *t = flightTable{byID: make(map[flightID]*flight)} }

// earlyResponses are the last responses that came before their requests, over another
// device: such a request is over, and must not be waited for. They are no part of a
// snapshot; a request that is not recognised only makes its key uncertain for a while.
type earlyResponses struct {
	ids  map[flightID]struct{}
	ring [1024]flightID
	next int
}

func (r *earlyResponses) add(id flightID) {
	if r.ids == nil {
		r.ids = make(map[flightID]struct{}, len(r.ring))
	}
	delete(r.ids, r.ring[r.next])
	r.ids[id] = struct{}{}
	r.ring[r.next] = id
	r.next = (r.next + 1) % len(r.ring)
}

// take reports whether the response of a request has come, once.
func (r *earlyResponses) take(id flightID) bool {
	_, ok := r.ids[id]
	delete(r.ids, id)
	return ok
}

func (t *flightTable) add(id flightID, start stamp) *flight {
	f := t.free.First()
	if f != nil {
		t.free.Remove(&f.place)
	} else {
		f = new(flight)
	}
	*f = flight{id: id, start: start, class: noClass}
	t.order.PushBack(f, &f.place)
	t.byID[id] = f
	return f
}

// remove takes a flight out. It may be read until the next add.
func (t *flightTable) remove(f *flight) {
	t.order.Remove(&f.place)
	delete(t.byID, f.id)
	t.free.PushFront(f, &f.place)
}

// land ends a flight: its effect is known, or known to be unknown.
func (f *flight) land() {
	if f.key != nil && f.key.spans[f.class].flights > 0 {
		f.key.spans[f.class].flights--
	}
	if f.mount != nil && f.mount.configs.flights > 0 {
		f.mount.configs.flights--
	}
}

// kvRequest notes a request to a kv mount, so that its response is known to
// overlap with others.
func (d *Deriver) kvRequest(e *auditlog.Entry) {
	r := &e.Request
	if e.Error != "" || r.ID == "" {
		return
	}
	at, ok := d.locate(e)
	if !ok || d.kvVersion(at.m) == 1 {
		return
	}
	verb, name := split(at.rel)
	if verb == "" {
		return
	}
	id := flightIDOf(r.ID)
	if d.flights.early.take(id) {
		return
	}
	if f := d.flights.byID[id]; f != nil {
		d.abandon(f) // an id that was used before
	}
	f := d.flights.add(id, stamp{seq: d.seq, time: nanos(e)})
	f.class = classOf(verb, r.Operation)
	switch {
	case verb == "config" && r.Operation != "read":
		f.mount = at.m
		f.mount.configs.flights++
	case f.class != noClass:
		k := d.key(at.m, name)
		if r.Operation == "create" {
			d.sawAbsent(at.m, k, f.start)
		}
		if d.beside(k, verb, r) {
			break
		}
		f.key = k
		k.spans[f.class].flights++
	}
	if len(d.flights.byID) > maxFlights {
		d.abandon(d.flights.order.First())
	}
}

// existenceAge is how long before the request entry the server may have looked
// whether a key exists, which it does to tell create from update.
const existenceAge = int64(time.Second)

// sawAbsent notes that a key did not exist shortly before a moment.
func (d *Deriver) sawAbsent(m *mount, k *key, at stamp) {
	looked := at
	looked.time -= existenceAge
	if k.exists == no || k.overlaps(looked, write, settle, drop) {
		return
	}
	if k.exists == yes {
		d.lost(m)
	}
	d.absent(m, k, at)
}

// beside is true for a request that names only versions below the current one: it
// cannot change whether the key is readable.
func (d *Deriver) beside(k *key, verb string, r *auditlog.Request) bool {
	if !k.currentKnown || verb != "delete" && verb != "undelete" && verb != "destroy" {
		return false
	}
	list := d.readVersions(r.Data.Get("versions"))
	if list.hidden {
		return false
	}
	for _, n := range list.numbers {
		if n >= 0 && uint64(n) >= k.current {
			return false
		}
	}
	return true
}

// land ends the flight of a response and returns when the request began.
func (d *Deriver) land(e *auditlog.Entry) stamp {
	if e.Request.ID == "" {
		return unknownStart
	}
	id := flightIDOf(e.Request.ID)
	f := d.flights.byID[id]
	if f == nil {
		if len(d.hashes.devices) > 1 {
			d.flights.early.add(id)
		}
		return unknownStart
	}
	f.land()
	d.flights.remove(f)
	return f.start
}

// abandon gives up waiting for a response: the request may have been carried out
// at any moment until now.
func (d *Deriver) abandon(f *flight) {
	f.land()
	if f.key != nil {
		f.key.maybe(f.class)
		f.key.spans[f.class].finish(stamp{seq: d.seq, time: f.start.time + int64(maxFlightAge)})
	}
	if f.mount != nil {
		f.mount.max = number{}
		f.mount.configs.finish(stamp{seq: d.seq, time: f.start.time + int64(maxFlightAge)})
	}
	d.flights.remove(f)
}

func (d *Deriver) expireFlights(now int64) {
	for f := d.flights.order.First(); f != nil && now-f.start.time > int64(maxFlightAge); f = d.flights.order.First() {
		d.abandon(f)
	}
}

// key returns the state of a key of a mount.
func (d *Deriver) key(m *mount, name string) *key {
	k, fresh := d.keys.get(m.id, name)
	if !fresh && k.epoch != d.epoch {
		k.forget()
		fresh = true
	}
	if fresh {
		k.epoch = d.epoch
		if m.complete {
			d.absent(m, k, stamp{})
		}
	}
	return k
}

// absent notes that a key does not exist, since at or before.
func (d *Deriver) absent(m *mount, k *key, at stamp) {
	k.absent(at)
	k.limit = d.limitOf(m, k)
}
