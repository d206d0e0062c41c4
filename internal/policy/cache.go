package policy

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

const (
	// The keys of decisions that an ACL remembers have at most cacheBytes together;
	// it begins with a few, since most see few paths, and takes more as it needs them.
	cacheBytes      = 64 << 10
	firstCacheBytes = 4 << 10
	// bytesPerSlot makes about three times as many slots as there are keys of usual
	// length, so that there is nearly always one free where a key belongs.
	bytesPerSlot = 16
	// bucketSlots is how many slots there are where a key belongs: a cache line.
	bucketSlots = 8
	// cacheKeyBytes bounds one key: it is not worth displacing many others.
	cacheKeyBytes = 1 << 10
)

// cache remembers decisions of an ACL. It is of no consequence what it forgets: a
// decision may take the place of another, and when all space for keys is used, it
// begins anew. So there are no locks, and its memory is bounded whatever is asked.
type cache struct {
	seed       maphash.Seed
	generation atomic.Pointer[generation]
}

func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

// generation is a table of decisions. Keys are only ever appended, each by one who
// has reserved its place, and can be read once a slot that refers to them is seen.
type generation struct {
	keys  []byte
	used  atomic.Int64 // may exceed len(keys), when it is full
	slots []atomic.Uint64
}

// bucket returns the slots where a decision belongs.
func (g *generation) bucket(h uint64) []atomic.Uint64 {
	i := h % uint64(len(g.slots)/bucketSlots) * bucketSlots
	return g.slots[i : i+bucketSlots]
}

// The bits of a slot, 0 if it is empty: whether it is used, the decision, where the
// key begins, the lengths of its three parts, and a part of its hash.
const (
	slotUsed = 1 << iota
	slotYes

	offsetShift    = 2
	offsetBits     = 16
	namespaceShift = offsetShift + offsetBits
	pathShift      = namespaceShift + lengthBits
	typeShift      = pathShift + lengthBits
	lengthBits     = 10
	tagShift       = typeShift + lengthBits
)

func newGeneration(size int) *generation {
	return &generation{keys: make([]byte, size), slots: make([]atomic.Uint64, size/bytesPerSlot)}
}

// hash returns the hash of a decision; false if it is too long to be remembered.
func (c *cache) hash(namespace, path, eventType string) (h uint64, ok bool) {
	if len(namespace)+len(path)+len(eventType) >= cacheKeyBytes {
		return 0, false
	}
	h = maphash.String(c.seed, path)
	h = bits.RotateLeft64(h, 21) ^ maphash.String(c.seed, eventType)
	if namespace != "" {
		h = bits.RotateLeft64(h, 21) ^ maphash.String(c.seed, namespace)
	}
	return h, true
}

func (c *cache) get(h uint64, namespace, path, eventType string) (may, known bool) {
	g := c.generation.Load()
	if g == nil {
		return false, false
	}
	const own = slotYes | (1<<offsetBits-1)<<offsetShift // what the key does not tell
	want := pack(h, namespace, path, eventType)
	bucket := g.bucket(h)
	for i := range bucket {
		slot := bucket[i].Load()
		if slot == 0 {
			break
		}
		if slot&^own != want {
			continue
		}
		key := g.keys[slot>>offsetShift&(1<<offsetBits-1):]
		n, p := len(namespace), len(namespace)+len(path)
		if string(key[:n]) == namespace && string(key[n:p]) == path && string(key[p:p+len(eventType)]) == eventType {
			return slot&slotYes != 0, true
		}
	}
	return false, false
}

// pack returns the bits of a slot that are the same for every decision of a key.
func pack(h uint64, namespace, path, eventType string) uint64 {
	return slotUsed | uint64(len(namespace))<<namespaceShift | uint64(len(path))<<pathShift |
		uint64(len(eventType))<<typeShift | h>>tagShift<<tagShift
}

func (c *cache) put(h uint64, namespace, path, eventType string, may bool) {
	g := c.generation.Load()
	if g == nil {
		g = c.next(nil, firstCacheBytes)
	}
	size := int64(len(namespace) + len(path) + len(eventType))
	end := g.used.Add(size)
	if end > int64(len(g.keys)) {
		g = c.next(g, min(4*len(g.keys), cacheBytes))
		if end = g.used.Add(size); end > int64(len(g.keys)) {
			return
		}
	}
	key := append(g.keys[end-size:end-size:end], namespace...)
	_ = append(append(key, path...), eventType...)
	slot := pack(h, namespace, path, eventType) | uint64(end-size)<<offsetShift
	if may {
		slot |= slotYes
	}
	bucket := g.bucket(h)
	for i := range bucket {
		if bucket[i].CompareAndSwap(0, slot) {
			return
		}
	}
	bucket[uint64(end)%bucketSlots].Store(slot)
}

// next replaces a generation by an empty one, unless that has been done.
func (c *cache) next(old *generation, size int) *generation {
	g := newGeneration(size)
	if !c.generation.CompareAndSwap(old, g) {
		return c.generation.Load()
	}
	return g
}
