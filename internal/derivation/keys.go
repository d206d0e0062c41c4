package derivation

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/tocsin-events/tocsin/internal/list"
)

// stamp is a moment of the stream: the count of entries, and the server's clock.
type stamp struct {
	seq  uint64
	time int64
}

// unknownStart is the start of a request whose request entry was not seen.
var unknownStart = stamp{time: math.MinInt64}

// span follows the operations of one class on one key: those under way and the end
// of the last one.
type span struct {
	flights int32
	done    stamp
}

// overlaps is true unless every operation of the span was over before start, by
// the order of the lines and by the clock.
func (s *span) overlaps(start stamp) bool {
	return s.flights > 0 || s.done.seq > start.seq || s.done.seq > 0 && s.done.time >= start.time
}

// before is true when the moment was over before start, by both clocks.
func (s stamp) before(start stamp) bool {
	return s == stamp{} || s.seq <= start.seq && s.time < start.time
}

func (s *span) finish(at stamp) {
	s.done.seq = max(s.done.seq, at.seq)
	s.done.time = max(s.done.time, at.time)
}

// class is a kind of change to a key.
type class uint8

const (
	write  class = iota // makes a version
	kill                // may delete or destroy versions
	revive              // may undelete versions
	settle              // writes the key's metadata
	drop                // removes the key with its metadata
	hidden              // makes a version whose number is not in the log
	classes
	noClass = classes
)

// tri is a truth value that may be unknown.
type tri uint8

const (
	unknown tri = iota
	no
	yes
)

// latest is the state of the current version of a key.
type latest uint8

const (
	latestUnknown   latest = iota
	latestLive             // readable, unless it has expired
	latestDeleted          // deleted or expired, can be undeleted
	latestDestroyed        // for ever
	latestGone             // deleted or destroyed
	latestNone             // there is no version
	latestNotLive          // any of the last four
)

// expiry says when the current version deletes itself.
type expiry struct {
	kind   expiryKind
	at     int64 // for expiresAt: nanoseconds since 1970
	digest short // for expiresHashed
}

type expiryKind uint8

const (
	expiresUnknown expiryKind = iota
	expiresNever
	expiresAt
	expiresHashed // the time is hashed; it may be the empty text, that is never
)

// key is what is known of one key of a kv v2 mount.
type key struct {
	name  string          // mount id in 8 bytes, then the key
	used  list.Links[key] // in the order of use
	epoch uint64          // of the stream when this was learnt

	exists       tri
	existsAt     stamp  // by when that was so
	current      uint64 // newest version ever made; meaningful when currentKnown
	currentKnown bool
	latest       latest
	latestAt     stamp // by when it was live, or was not
	expiry       expiry
	max          number // max_versions of the key's metadata

	// The oldest version when baseVersion was made is in [baseLow, baseHigh], and
	// limit versions have been kept since (0: not known).
	hasBase     bool
	baseVersion uint64
	baseLow     uint64
	baseHigh    uint64
	limit       uint64

	probe *probe // a hashed number that the next look at the key may reveal
	spans [classes]span
}

// probe is a hashed version number in an operation on a key whose current version
// was in a known state: if that state turns out to have changed, the hash stands
// for the current version.
type probe struct {
	digest  digest
	version uint64
	live    bool   // state before
	seq     uint64 // of the operation
}

// overlaps is true when an operation of one of the classes may have run at the
// same time as one that began at start.
func (k *key) overlaps(start stamp, of ...class) bool {
	for _, c := range of {
		if k.spans[c].overlaps(start) {
			return true
		}
	}
	return false
}

// setExists notes whether the key exists, since at or before.
func (k *key) setExists(exists tri, at stamp) {
	if k.exists != exists {
		k.exists, k.existsAt = exists, at
	}
}

// setLatest notes the state of the current version, since at or before.
func (k *key) setLatest(l latest, at stamp) {
	if l.live() != k.latest.live() {
		k.latestAt = at
	}
	k.latest = l
}

func (l latest) live() tri {
	switch l {
	case latestUnknown:
		return unknown
	case latestLive:
		return yes
	}
	return no
}

// forget makes everything about the key unknown, except what is under way.
func (k *key) forget() {
	*k = key{name: k.name, used: k.used, epoch: k.epoch, spans: k.spans}
}

// absent notes that the key does not exist, since at or before.
func (k *key) absent(at stamp) {
	exists, existsAt, latest, latestAt := k.exists, k.existsAt, k.latest, k.latestAt
	k.forget()
	k.exists, k.existsAt, k.latest, k.latestAt = exists, existsAt, latest, latestAt
	k.setExists(no, at)
	k.currentKnown = true
	k.setLatest(latestNone, at)
	k.max.known = true
	k.hasBase = true
}

// maybe notes that an operation of a class may or may not have been carried out,
// at an unknown moment.
func (k *key) maybe(c class) {
	switch c {
	case write:
		if k.exists == no {
			k.exists = unknown
		}
		k.currentKnown = false
		k.latest = latestUnknown
	case kill:
		if k.latest == latestLive {
			k.latest = latestUnknown
		}
	case revive:
		if k.latest != latestDestroyed && k.latest != latestNone {
			k.latest = latestUnknown
		}
	case settle:
		if k.exists == no {
			k.exists = unknown
		}
		k.max = number{}
		k.hasBase = false
	case drop:
		k.forget()
	}
}

// oldestAt returns the oldest version at the time when version v was made, if that
// is known.
func (k *key) oldestAt(v uint64) (uint64, bool) {
	if !k.hasBase || v < k.baseVersion {
		return 0, false
	}
	low, ok := prune(k.baseLow, k.baseVersion, v, k.limit)
	if !ok {
		return 0, false
	}
	high, _ := prune(k.baseHigh, k.baseVersion, v, k.limit)
	return low, low == high
}

// prune is kv's rule: making version v removes the oldest versions when there
// would be more than limit.
func prune(oldest, base, v, limit uint64) (uint64, bool) {
	switch {
	case v == base:
		return oldest, true
	case limit == 0:
		return 0, false
	case v-oldest >= limit:
		return v - limit + 1, true
	}
	return oldest, true
}

// rebase makes version v the base from which oldest versions are counted, keeping
// what is known.
func (k *key) rebase(v uint64) {
	if k.hasBase && v >= k.baseVersion {
		low, ok := prune(k.baseLow, k.baseVersion, v, k.limit)
		if ok {
			high, _ := prune(k.baseHigh, k.baseVersion, v, k.limit)
			k.baseVersion, k.baseLow, k.baseHigh = v, low, high
			return
		}
		k.baseVersion, k.baseHigh = v, max(k.baseHigh, v)
		return
	}
	k.hasBase, k.baseVersion, k.baseLow, k.baseHigh = true, v, 0, v
}

// keyTable holds the most recently used keys, bounded in number and bytes.
type keyTable struct {
	byName   map[string]*key
	byUse    list.List[key] // most recently used first
	bytes    int64
	maxKeys  int
	maxBytes int64
	buf      []byte
	evicted  func(mountID uint64)
}

// keyOverhead is what a key costs beside its name: the struct, the map entry and
// the allocations.
const keyOverhead = 384

func (t *keyTable) reset(maxKeys int, maxBytes int64) {
	*t = keyTable{byName: make(map[string]*key), maxKeys: maxKeys, maxBytes: maxBytes}
}

// nameOf returns the table's name of a key, valid until the next call.
func (t *keyTable) nameOf(mountID uint64, name string) []byte {
	t.buf = append(binary.BigEndian.AppendUint64(t.buf[:0], mountID), name...)
	return t.buf
}

// get returns the state of a key, and whether it is new.
func (t *keyTable) get(mountID uint64, name string) (k *key, fresh bool) {
	b := t.nameOf(mountID, name)
	k = t.byName[string(b)]
	if k == nil {
		return t.insert(string(b)), true
	}
	if t.byUse.First() != k {
		t.byUse.Remove(&k.used)
		t.byUse.PushFront(k, &k.used)
	}
	return k, false
}

// insert adds a key under a name that is not there.
func (t *keyTable) insert(name string) *key {
	k := &key{name: name}
	t.byName[k.name] = k
	t.bytes += int64(len(k.name)) + keyOverhead
	t.byUse.PushFront(k, &k.used)
	t.shrink()
	return k
}

// shrink forgets keys until the table keeps its bounds, except the one just used.
func (t *keyTable) shrink() {
	for (len(t.byName) > t.maxKeys || t.bytes > t.maxBytes) && t.byUse.Last() != t.byUse.First() {
		k := t.byUse.Last()
		t.remove(k)
		if t.evicted != nil {
			t.evicted(k.mountID())
		}
	}
}

func (t *keyTable) remove(k *key) {
	t.byUse.Remove(&k.used)
	delete(t.byName, k.name)
	t.bytes -= int64(len(k.name)) + keyOverhead
}

// removeMount forgets all keys of a mount. It looks at every key, which is little
// beside what the removal of a mount costs the server.
func (t *keyTable) removeMount(mountID uint64) {
	for k := t.byUse.First(); k != nil; {
		next := k.used.Next()
		if k.mountID() == mountID {
			t.remove(k)
		}
		k = next
	}
}

func (t *keyTable) clearFlights() {
	for _, k := range t.byName {
		for c := range k.spans {
			k.spans[c].flights = 0
		}
	}
}

func (k *key) mountID() uint64 { return binary.BigEndian.Uint64([]byte(k.name[:8])) }

// split returns the element of kv v2 with which a path in the mount begins and the
// key behind it. Both are empty when the path has no meaning in kv v2.
func split(rel string) (verb, name string) {
	if rel == "config" {
		return rel, ""
	}
	verb, name, found := strings.Cut(rel, "/")
	if !found || name == "" || verb == "config" || !isVerb(verb) {
		return "", ""
	}
	return verb, name
}

// classOf returns which class of change a request to a kv v2 path may be.
func classOf(verb, operation string) class {
	writes := operation == "create" || operation == "update"
	switch {
	case verb == "data" && (writes || operation == "patch"):
		return write
	case verb == "data" && operation == "delete", (verb == "delete" || verb == "destroy") && writes:
		return kill
	case verb == "undelete" && writes:
		return revive
	case verb == "metadata" && (writes || operation == "patch"):
		return settle
	case verb == "metadata" && operation == "delete":
		return drop
	}
	return noClass
}
