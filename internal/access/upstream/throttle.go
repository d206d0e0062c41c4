package upstream

import (
	"sync"
	"time"
)

// every is the least time between two log messages of one throttle.
const every = 10 * time.Second

// throttle keeps what others can cause from filling the log.
type throttle struct {
	mu      sync.Mutex
	next    time.Time
	skipped uint64
}

// allow says whether a message may be written now, and how many were not since the
// last one.
func (t *throttle) allow() (skipped uint64, ok bool) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.next) {
		t.skipped++
		return 0, false
	}
	skipped, t.skipped, t.next = t.skipped, 0, now.Add(every)
	return skipped, true
}
