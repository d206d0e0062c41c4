package delivery

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Backoff is how long to wait after failures: after the nth in a row a random time between
// 0 and First doubled n-1 times, but at most Most.
type Backoff struct{ First, Most time.Duration }

// wait draws the pause after failure n, from 1.
func (b Backoff) wait(n int) time.Duration {
	limit := b.Most
	if n := n - 1; n < 32 && b.First<<n < b.Most && b.First<<n > 0 {
		limit = b.First << n
	}
	return rand.N(limit + 1)
}

// gate is what all senders to one receiver pass before they send. While the receiver
// works it lets everybody through; after a failure nobody until the back-off is over, and
// then one at a time, until one has succeeded. It is safe for concurrent use.
type gate struct {
	backoff Backoff

	mu        sync.Mutex
	failures  int // in a row
	since     time.Time
	until     time.Time
	trying    bool // somebody is sending although the last one failed
	reason    string
	successes uint64
	changed   chan struct{} // closed when one of these has changed
}

func newGate(b Backoff) *gate { return &gate{backoff: b, changed: make(chan struct{})} }

// pass is the permission to send once, which ends with succeeded, failed or given.
type pass struct {
	gate     *gate
	failures int
	trying   bool
}

// enter waits until something may be sent. It returns false when stopping is closed or ctx
// ends before.
func (g *gate) enter(ctx context.Context, stopping <-chan struct{}) (pass, bool) {
	for {
		g.mu.Lock()
		now := time.Now()
		switch {
		case g.failures == 0 && !now.Before(g.until):
			g.mu.Unlock()
			return pass{gate: g}, true
		case !g.trying && !now.Before(g.until):
			g.trying = true
			p := pass{gate: g, failures: g.failures, trying: true}
			g.mu.Unlock()
			return p, true
		}
		pause, changed := max(g.until.Sub(now), 0), g.changed
		if g.trying {
			pause = time.Hour // until that is decided
		}
		g.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		case <-stopping:
			timer.Stop()
			return pass{}, false
		case <-ctx.Done():
			timer.Stop()
			return pass{}, false
		}
	}
}

func (g *gate) changeLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// succeeded says that the receiver has answered. It returns for how long it had not before.
func (p pass) succeeded() (outage time.Duration, failures int) {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failures > 0 {
		outage, failures = time.Since(g.since), g.failures
	}
	g.failures, g.reason = 0, ""
	g.trying = g.trying && !p.trying
	g.successes++
	g.changeLocked()
	return outage, failures
}

// failed says that nothing can be delivered now, and not before after has passed. Of
// failures at the same time only the first counts.
func (p pass) failed(after time.Duration, reason string) {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if p.failures == g.failures {
		if g.failures == 0 {
			g.since = now
		}
		g.failures++
		if until := now.Add(g.backoff.wait(g.failures)); until.After(g.until) {
			g.until = until
		}
	}
	if until := now.Add(after); until.After(g.until) {
		g.until = until
	}
	g.reason = reason
	g.trying = g.trying && !p.trying
	g.changeLocked()
}

// given gives a permission back that led to nothing.
func (p pass) given() {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trying = g.trying && !p.trying
	g.changeLocked()
}

// outage is a time in which nothing can be delivered.
type outage struct {
	since    time.Time
	failures int // 0: there is none
	reason   string
}

func (g *gate) outage() outage {
	g.mu.Lock()
	defer g.mu.Unlock()
	return outage{g.since, g.failures, g.reason}
}

// passed returns how often something was answered.
func (g *gate) passed() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.successes
}
