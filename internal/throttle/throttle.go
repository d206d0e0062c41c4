// Package throttle keeps log messages that others can cause as often as they like,
// such as clients without a token, from filling the log.
package throttle

import (
	"sync"
	"time"
)

// Every is the least time between two messages of one Throttle.
const Every = 10 * time.Second

// Throttle is for one kind of message. The zero value is ready, and it is safe for
// concurrent use.
type Throttle struct {
	mu      sync.Mutex
	next    time.Time
	skipped uint64
}

// Allow says whether a message may be written now, and how many were not since the
// last one.
func (t *Throttle) Allow() (skipped uint64, ok bool) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.next) {
		t.skipped++
		return 0, false
	}
	skipped, t.skipped, t.next = t.skipped, 0, now.Add(Every)
	return skipped, true
}
