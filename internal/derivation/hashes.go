package derivation

import (
	"encoding/hex"
	"strings"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// digest is a value hashed by an audit device. Devices hash equal values differently.
type digest struct {
	sum    [32]byte
	device uint8 // index in dictionary.devices
}

// short is enough of a digest to recognise it among few.
type short uint64

func (h digest) short() short {
	var s short
	for _, b := range h.sum[:8] {
		s = s<<8 | short(b)
	}
	return s
}

// parse reads "hmac-sha256:<hex>" of an entry of the current device.
func (t *dictionary) parse(s string) (h digest, ok bool) {
	if !auditlog.IsHashed(s) {
		return h, false
	}
	h.device = t.device
	_, err := hex.Decode(h.sum[:], []byte(s[strings.IndexByte(s, ':')+1:]))
	return h, err == nil
}

// maxDevices bounds how many devices have hashes that are learnt.
const maxDevices = 64

// use makes the entries that follow those of the named device, which must not be
// told from another one when there are too many.
func (t *dictionary) use(name string) {
	if t.devices[t.device].name == name {
		return
	}
	for i := range t.devices {
		if t.devices[i].name == name {
			t.device = uint8(i)
			return
		}
	}
	if len(t.devices) == maxDevices {
		t.forget(maxDevices - 1)
		t.devices = t.devices[:maxDevices-1]
	}
	t.device = uint8(len(t.devices))
	t.devices = append(t.devices, deviceHashes{name: name})
}

// forget drops what was learnt of a device.
func (t *dictionary) forget(device uint8) {
	for h, m := range t.numbers {
		if h.device == device {
			delete(t.numbers, h)
			delete(t.digests, whichNumber{device, m.n})
		}
	}
}

// dictionary knows what the hashes of small numbers stand for. Version numbers
// that callers send as texts (on Vault also those sent as numbers) are hashed;
// but the same number shows in clear elsewhere in the stream, and a device hashes
// equal values equally.
type dictionary struct {
	numbers map[digest]meaning
	digests map[whichNumber]digest // the other way round
	devices []deviceHashes         // the first has no name
	device  uint8                  // whose entries come now
}

// deviceHashes is what else is known of the hashes of one device.
type deviceHashes struct {
	name string
	// empty is the hash of the empty text, which stands for "no deletion time".
	empty    short
	hasEmpty bool
	// candidate is a hash seen as the deletion time of one write.
	candidate    digest
	candidateFor whichVersion
}

// whichNumber is a number as a device hashes it.
type whichNumber struct {
	device uint8
	n      int64
}

// meaning is what a digest stands for; void when the stream contradicted itself.
type meaning struct {
	n    int64
	void bool
	told bool // by the server
}

// whichVersion names a version of a key.
type whichVersion struct {
	key     uint64
	version uint64
}

func (t *dictionary) reset(given map[string]int64) {
	*t = dictionary{numbers: make(map[digest]meaning), digests: make(map[whichNumber]digest), devices: make([]deviceHashes, 1)}
	for text, n := range given {
		if h, ok := t.parse(text); ok {
			t.learn(h, n)
		}
	}
}

// learn notes that h is the hash of n. A contradiction voids the entry for good.
func (t *dictionary) learn(h digest, n int64) {
	m, ok := t.numbers[h]
	switch {
	case !ok && len(t.numbers) < maxHashes:
		t.numbers[h] = meaning{n: n}
		t.digests[whichNumber{h.device, n}] = h
	case ok && m.n != n && !m.void && !m.told:
		t.numbers[h] = meaning{void: true}
		delete(t.digests, whichNumber{h.device, m.n})
	}
}

func (t *dictionary) lookup(h digest) (n int64, ok bool) {
	m, ok := t.numbers[h]
	return m.n, ok && !m.void
}

// differs is true when h stands for another number than n because n has another
// hash.
func (t *dictionary) differs(h digest, n int64) bool {
	known, ok := t.digests[whichNumber{h.device, n}]
	return ok && known != h
}

// sawDeletionTime learns the hash of the empty text: two writes of different
// versions cannot expire in the same nanosecond, so a hash that both have as
// their deletion time stands for none.
func (t *dictionary) sawDeletionTime(h digest, which whichVersion) (learnt bool) {
	d := &t.devices[h.device]
	if d.hasEmpty && d.empty == h.short() {
		return false
	}
	if d.candidate == h && d.candidateFor != which {
		d.empty, d.hasEmpty = h.short(), true
		return true
	}
	d.candidate, d.candidateFor = h, which
	return false
}

// isEmpty is true for the hash of the empty text, by any device.
func (t *dictionary) isEmpty(h short) bool {
	for i := range t.devices {
		if d := &t.devices[i]; d.hasEmpty && d.empty == h {
			return true
		}
	}
	return false
}

// isNotEmpty is true for a hash of which it is known that it is not that of the empty
// text.
func (t *dictionary) isNotEmpty(h digest) bool {
	d := &t.devices[h.device]
	return d.hasEmpty && d.empty != h.short()
}
