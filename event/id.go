package event

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// NewID returns a fresh random, time-ordered id (UUIDv7, RFC 9562). Ids that one
// process makes ascend. They are unique, but no secrets: whoever sees some may
// guess others.
func NewID() string { return newID(time.Now()) }

// newID makes the id of a moment. Its random bits come from the generator of the
// runtime, which needs neither a lock nor a system call.
func newID(now time.Time) string {
	var id [16]byte
	stamp := nextStamp(now.UnixNano())
	binary.BigEndian.PutUint64(id[:8], uint64(stamp>>12)<<16|0x7000|uint64(stamp&0xfff))
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()&(1<<62-1)|1<<63)
	return formatID(&id)
}

// lastStamp is the stamp of the last id of this process.
var lastStamp atomic.Int64

// nextStamp returns milliseconds and, in the lower 12 bits, what part of the next has
// passed (RFC 9562 section 6.2, method 3). It is above every earlier one.
func nextStamp(nanos int64) int64 {
	const million = 1_000_000
	stamp := nanos/million<<12 | nanos%million>>8
	for {
		last := lastStamp.Load()
		if stamp <= last {
			stamp = last + 1
		}
		if lastStamp.CompareAndSwap(last, stamp) {
			return stamp
		}
	}
}

// formatID writes a UUID as text.
func formatID(id *[16]byte) string {
	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
