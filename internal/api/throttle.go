package api

import (
	"sync"
	"time"
)

// warnEvery is the least time between two warnings about requests that cannot be served.
const warnEvery = 10 * time.Second

// throttle keeps clients, who need no token for it, from filling the log while
// something else is out of order.
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
	skipped, t.skipped, t.next = t.skipped, 0, now.Add(warnEvery)
	return skipped, true
}

// warn logs that a request cannot be served at the moment, unless another one could not
// lately.
func (a *API) warn(message string, args ...any) {
	if skipped, ok := a.warned.allow(); ok {
		a.log.Warn(message, append(args, "skipped", skipped)...)
	}
}
