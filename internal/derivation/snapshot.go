package derivation

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
)

// A snapshot is: one version byte, the parts below, and a CRC-32C of all before it
// in 4 bytes, big endian. Numbers are uvarints, texts and digests are preceded by
// nothing but their length where it is not fixed. A later version of the program
// must be able to read every earlier layout, or start without state: the state only
// makes events better.
//
// Layout 1 knew one device only, so its digests have no number of a device.
const snapshotVersion = 2

// ErrSnapshot is wrapped by the errors of [Deriver.Restore].
var ErrSnapshot = errors.New("unusable snapshot")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot returns everything that was learnt, for Restore. The same state always
// gives the same bytes. The error is nil in this version.
func (d *Deriver) Snapshot() ([]byte, error) {
	w := &writer{b: make([]byte, 0, 1024+128*len(d.keys.byName))}
	w.b = append(w.b, snapshotVersion)
	w.uint(d.seq)
	w.uint(d.epoch)
	w.dictionary(&d.hashes)
	w.mounts(&d.mounts)
	places := w.keys(&d.keys)
	w.flights(&d.flights, &d.mounts, places)
	return binary.BigEndian.AppendUint32(w.b, crc32.Checksum(w.b, castagnoli)), nil
}

// Restore replaces the state by that of a snapshot. On error, which wraps
// [ErrSnapshot], the state is empty and the Deriver can be used.
func (d *Deriver) Restore(b []byte) error {
	d.Reset()
	if err := d.restore(b); err != nil {
		d.Reset()
		return fmt.Errorf("restore derivation state: %w: %w", ErrSnapshot, err)
	}
	return nil
}

func (d *Deriver) restore(b []byte) error {
	if len(b) < 5 {
		return errShort
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if body[0] < 1 || body[0] > snapshotVersion {
		return fmt.Errorf("layout %d is not known", body[0])
	}
	if crc32.Checksum(body, castagnoli) != sum {
		return errors.New("the checksum does not match")
	}
	r := &reader{b: body[1:], layout: body[0]}
	d.seq = r.uint()
	d.epoch = r.uint()
	r.dictionary(&d.hashes, d.o.VersionHashes)
	r.mounts(&d.mounts)
	keys := r.keys(d)
	r.flights(d, keys)
	if r.err == nil && len(r.b) > 0 {
		r.fail("bytes are left over")
	}
	return r.err
}

type writer struct{ b []byte }

func (w *writer) uint(n uint64)         { w.b = binary.AppendUvarint(w.b, n) }
func (w *writer) int(n int64)           { w.b = binary.AppendVarint(w.b, n) }
func (w *writer) text(s string)         { w.uint(uint64(len(s))); w.b = append(w.b, s...) }
func (w *writer) digest(h digest)       { w.b = append(append(w.b, h.sum[:]...), h.device) }
func (w *writer) stamp(s stamp)         { w.uint(s.seq); w.int(s.time) }
func (w *writer) span(s span)           { w.uint(uint64(s.flights)); w.stamp(s.done) }
func (w *writer) flag(flags ...bool)    { w.b = append(w.b, pack(flags)) }
func (w *writer) small(numbers ...byte) { w.b = append(w.b, numbers...) }

func pack(flags []bool) (b byte) {
	for i, f := range flags {
		if f {
			b |= 1 << i
		}
	}
	return b
}

func (w *writer) number(n number) {
	w.flag(n.known, n.digest != digest{})
	w.uint(n.n)
	if n.digest != (digest{}) {
		w.digest(n.digest)
	}
}

func (w *writer) dictionary(t *dictionary) {
	w.uint(uint64(len(t.devices)))
	for i := range t.devices {
		d := &t.devices[i]
		w.text(d.name)
		w.flag(d.hasEmpty)
		w.uint(uint64(d.empty))
		w.digest(d.candidate)
		w.uint(d.candidateFor.key)
		w.uint(d.candidateFor.version)
	}
	w.uint(uint64(len(t.numbers)))
	for _, h := range slices.SortedFunc(maps.Keys(t.numbers), compareDigests) {
		m := t.numbers[h]
		w.digest(h)
		w.int(m.n)
		w.flag(m.void, t.digests[whichNumber{h.device, m.n}] == h)
	}
}

func compareDigests(a, b digest) int {
	return cmp.Or(cmp.Compare(a.device, b.device), bytes.Compare(a.sum[:], b.sum[:]))
}

func (w *writer) mounts(t *mountTable) {
	w.uint(t.nextID)
	w.uint(uint64(len(t.byID)))
	for _, id := range slices.Sorted(maps.Keys(t.byID)) {
		m := t.byID[id]
		w.uint(m.id)
		w.text(m.accessor)
		w.text(m.point)
		w.uint(m.used)
		w.small(byte(m.version))
		w.flag(m.configured, m.complete, m.hasOption, t.byPoint[m.point] == m, m.accessor != "" && t.byAccessor[m.accessor] == m)
		w.digest(m.option)
		w.number(m.max)
		w.span(m.configs)
	}
}

// keys writes the keys, least recently used first, and returns their places.
func (w *writer) keys(t *keyTable) map[*key]int {
	places := make(map[*key]int, len(t.byName))
	w.uint(uint64(len(t.byName)))
	for k := t.byUse.Last(); k != nil; k = k.used.Prev() {
		places[k] = len(places)
		w.text(k.name)
		w.uint(k.epoch)
		w.small(byte(k.exists), byte(k.latest), byte(k.expiry.kind))
		w.flag(k.currentKnown, k.hasBase, k.probe != nil)
		w.stamp(k.existsAt)
		w.stamp(k.latestAt)
		w.uint(k.current)
		w.int(k.expiry.at)
		w.uint(uint64(k.expiry.digest))
		w.number(k.max)
		w.uint(k.baseVersion)
		w.uint(k.baseLow)
		w.uint(k.baseHigh)
		w.uint(k.limit)
		if p := k.probe; p != nil {
			w.digest(p.digest)
			w.uint(p.version)
			w.flag(p.live)
			w.uint(p.seq)
		}
		for c := range k.spans {
			w.span(k.spans[c])
		}
	}
	return places
}

func (w *writer) flights(t *flightTable, mounts *mountTable, places map[*key]int) {
	w.uint(uint64(len(t.byID)))
	for f := t.order.First(); f != nil; f = f.place.Next() {
		w.b = append(w.b, f.id[:]...)
		w.stamp(f.start)
		w.small(byte(f.class))
		place := 0 // of the key, from 1
		if i, ok := places[f.key]; ok {
			place = i + 1
		}
		w.uint(uint64(place))
		var mountID uint64
		if f.mount != nil && mounts.byID[f.mount.id] == f.mount {
			mountID = f.mount.id
		}
		w.uint(mountID)
	}
}

var errShort = errors.New("it ends too early")

// reader reads what writer wrote. After an error it returns zero values.
type reader struct {
	b       []byte
	layout  byte
	devices int // with hashes
	err     error
}

func (r *reader) fail(text string) {
	if r.err == nil {
		r.err = errors.New(text)
	}
	r.b = nil
}

func (r *reader) uint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.fail(errShort.Error())
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) int() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.fail(errShort.Error())
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail(errShort.Error())
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) text() string { return string(r.bytes(r.uint())) }

func (r *reader) digest() (h digest) {
	copy(h.sum[:], r.bytes(uint64(len(h.sum))))
	if r.layout > 1 {
		if h.device = r.small(maxDevices); int(h.device) >= r.devices {
			r.fail("a hash is of an unknown device")
		}
	}
	return h
}

// small reads a byte that must be below limit.
func (r *reader) small(limit byte) byte {
	b := r.bytes(1)
	if b == nil {
		return 0
	}
	if b[0] >= limit {
		r.fail("a value is out of range")
		return 0
	}
	return b[0]
}

func (r *reader) flags(to ...*bool) {
	b := r.small(1 << len(to))
	for i := range to {
		*to[i] = b&(1<<i) != 0
	}
}

func (r *reader) stamp() stamp { return stamp{seq: r.uint(), time: r.int()} }

// count reads how many things of at least size bytes follow.
func (r *reader) count(size int) int {
	n := r.uint()
	if n > uint64(len(r.b)/size) {
		r.fail("a count is too large")
		return 0
	}
	return int(n)
}

// span reads a span without its flights, which are counted again as they are read.
func (r *reader) span() span {
	r.uint()
	return span{done: r.stamp()}
}

func (r *reader) number() (n number) {
	var hashed bool
	r.flags(&n.known, &hashed)
	n.n = r.uint()
	if hashed {
		n.digest = r.digest()
	}
	return n
}

func (r *reader) dictionary(t *dictionary, given map[string]int64) {
	t.reset(nil)
	devices := 1
	if r.layout > 1 {
		devices = r.count(38)
	}
	if devices < 1 || devices > maxDevices {
		r.fail("the number of devices is wrong")
		return
	}
	r.devices = devices
	t.devices = make([]deviceHashes, devices)
	for i := range t.devices {
		d := &t.devices[i]
		if r.layout > 1 {
			d.name = r.text()
		}
		r.flags(&d.hasEmpty)
		d.empty = short(r.uint())
		d.candidate = r.digest()
		d.candidateFor = whichVersion{key: r.uint(), version: r.uint()}
	}
	for range r.count(34) {
		h, m := r.digest(), meaning{n: r.int()}
		var first bool
		r.flags(&m.void, &first)
		t.numbers[h] = m
		if first && !m.void {
			t.digests[whichNumber{h.device, m.n}] = h
		}
	}
	for text, n := range given {
		if h, ok := t.parse(text); ok {
			t.numbers[h] = meaning{n: n}
			t.digests[whichNumber{h.device, n}] = h
		}
	}
}

func (r *reader) mounts(t *mountTable) {
	t.nextID = r.uint()
	for range r.count(40) {
		m := &mount{id: r.uint(), accessor: r.text(), point: r.text(), used: r.uint(), version: int(r.small(3))}
		var byPoint, byAccessor bool
		r.flags(&m.configured, &m.complete, &m.hasOption, &byPoint, &byAccessor)
		m.option, m.max, m.configs = r.digest(), r.number(), r.span()
		if r.err != nil {
			return
		}
		if m.id > t.nextID || t.byID[m.id] != nil {
			r.fail("a mount has an impossible number")
			return
		}
		t.byID[m.id] = m
		if byPoint {
			t.byPoint[m.point] = m
		}
		if byAccessor {
			t.byAccessor[m.accessor] = m
		}
	}
}

func (r *reader) keys(d *Deriver) []*key {
	n := r.count(24)
	keys := make([]*key, 0, n)
	for range n {
		name := r.text()
		if r.err == nil && (len(name) < 8 || d.keys.byName[name] != nil) {
			r.fail("a key has an impossible name")
		}
		if r.err != nil {
			return nil
		}
		k := d.keys.insert(name)
		k.epoch = r.uint()
		k.exists = tri(r.small(byte(yes) + 1))
		k.latest = latest(r.small(byte(latestNotLive) + 1))
		k.expiry.kind = expiryKind(r.small(byte(expiresHashed) + 1))
		var hasProbe bool
		r.flags(&k.currentKnown, &k.hasBase, &hasProbe)
		k.existsAt, k.latestAt = r.stamp(), r.stamp()
		k.current = r.uint()
		k.expiry.at = r.int()
		k.expiry.digest = short(r.uint())
		k.max = r.number()
		k.baseVersion, k.baseLow, k.baseHigh, k.limit = r.uint(), r.uint(), r.uint(), r.uint()
		if k.baseLow > k.baseHigh || k.baseHigh > k.baseVersion {
			r.fail("a key has an impossible oldest version")
		}
		if hasProbe {
			k.probe = &probe{digest: r.digest(), version: r.uint()}
			r.flags(&k.probe.live)
			k.probe.seq = r.uint()
		}
		for c := range k.spans {
			k.spans[c] = r.span()
		}
		keys = append(keys, k)
	}
	return keys
}

func (r *reader) flights(d *Deriver, keys []*key) {
	for range r.count(20) {
		id := flightID(append(make([]byte, 0, 16), r.bytes(16)...)[:16])
		start, c := r.stamp(), class(r.small(byte(noClass)+1))
		place, mountID := r.uint(), r.uint()
		if r.err == nil && (d.flights.byID[id] != nil || place > uint64(len(keys)) || place > 0 && c == noClass) {
			r.fail("a request under way is impossible")
		}
		if r.err != nil {
			return
		}
		f := d.flights.add(id, start)
		f.class = c
		if place > 0 {
			f.key = keys[place-1]
			f.key.spans[c].flights++
		}
		if f.mount = d.mounts.byID[mountID]; f.mount != nil {
			f.mount.configs.flights++
		}
	}
}
