package derivation

import (
	"encoding/hex"
	"strings"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// digest is a value hashed by an audit device.
type digest [32]byte

// short is enough of a digest to recognise it among few.
type short uint64

func (h digest) short() short {
	var s short
	for _, b := range h[:8] {
		s = s<<8 | short(b)
	}
	return s
}

// parseDigest reads "hmac-sha256:<hex>".
func parseDigest(s string) (h digest, ok bool) {
	if !auditlog.IsHashed(s) {
		return h, false
	}
	_, err := hex.Decode(h[:], []byte(s[strings.IndexByte(s, ':')+1:]))
	return h, err == nil
}

// dictionary knows what the hashes of small numbers stand for. Version numbers
// that callers send as texts (on Vault also those sent as numbers) are hashed;
// but the same number shows in clear elsewhere in the stream, and a device hashes
// equal values equally.
type dictionary struct {
	numbers map[digest]meaning
	digests map[int64]digest // the other way round
	// empty is the hash of the empty text, which stands for "no deletion time".
	empty    short
	hasEmpty bool
	// candidate is a hash seen as the deletion time of one write.
	candidate    digest
	candidateFor whichVersion
}

// meaning is what a digest stands for; void when the stream contradicted itself.
type meaning struct {
	n    int64
	void bool
}

// whichVersion names a version of a key.
type whichVersion struct {
	key     uint64
	version uint64
}

func (t *dictionary) reset(given map[string]int64) {
	*t = dictionary{numbers: make(map[digest]meaning), digests: make(map[int64]digest)}
	for text, n := range given {
		if h, ok := parseDigest(text); ok {
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
		t.digests[n] = h
	case ok && m.n != n && !m.void:
		t.numbers[h] = meaning{void: true}
		delete(t.digests, m.n)
	}
}

func (t *dictionary) lookup(h digest) (n int64, ok bool) {
	m, ok := t.numbers[h]
	return m.n, ok && !m.void
}

// differs is true when h stands for another number than n because n has another
// hash.
func (t *dictionary) differs(h digest, n int64) bool {
	known, ok := t.digests[n]
	return ok && known != h
}

// sawDeletionTime learns the hash of the empty text: two writes of different
// versions cannot expire in the same nanosecond, so a hash that both have as
// their deletion time stands for none.
func (t *dictionary) sawDeletionTime(h digest, which whichVersion) (learnt bool) {
	if t.hasEmpty && t.empty == h.short() {
		return false
	}
	if t.candidate == h && t.candidateFor != which {
		t.empty, t.hasEmpty = h.short(), true
		return true
	}
	t.candidate, t.candidateFor = h, which
	return false
}
