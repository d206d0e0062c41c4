package deliver

import (
	"time"
)

// mostAfter bounds how long a receiver can demand to be left alone.
const mostAfter = 24 * time.Hour

// gate is what all pass before they send. While the receiver works it lets everybody
// through; after a failure nobody until the back-off is over, and then one at a time, until
// one has succeeded. It is guarded by the lock of the delivery.
type gate struct {
	backoff Backoff

	failures  int // in a row
	since     time.Time
	until     time.Time
	trying    bool   // somebody is sending although the last one failed
	successes uint64 // how often something was delivered
	status    int
	reason    string
	told      bool // others know of the outage
}

// pass is the permission to send once, which ends with succeeded, failed or given.
type pass struct {
	failures int
	trying   bool
}

// admits says whether something may be sent now. If not, it says when, zero: when that is
// decided which is being tried.
func (g *gate) admits(now time.Time) (ok bool, until time.Time) {
	switch {
	case now.Before(g.until):
		return false, g.until
	case g.failures > 0 && g.trying:
		return false, time.Time{}
	}
	return true, time.Time{}
}

// enter takes the permission that admits has promised.
func (g *gate) enter() pass {
	if g.failures == 0 {
		return pass{}
	}
	g.trying = true
	return pass{failures: g.failures, trying: true}
}

// succeeded says that the receiver has answered, and whether it has taken something.
func (g *gate) succeeded(p pass, delivered bool) {
	g.failures, g.reason, g.status = 0, "", 0
	g.given(p)
	if delivered {
		g.successes++
	}
}

// failed says that nothing can be delivered now. Of failures at the same time only the
// first counts.
func (g *gate) failed(p pass, r Result, now time.Time) {
	if p.failures == g.failures {
		if g.failures == 0 {
			g.since = now
		}
		g.failures++
		g.leave(now, g.backoff.wait(g.failures))
	}
	g.reason, g.status = r.Reason, r.Status
	g.given(p)
}

// given gives a permission back that led to nothing.
func (g *gate) given(p pass) { g.trying = g.trying && !p.trying }

// leave makes that nothing is sent before a time has passed.
func (g *gate) leave(now time.Time, pause time.Duration) {
	if until := now.Add(min(pause, mostAfter)); until.After(g.until) {
		g.until = until
	}
}

// open makes that something may be sent at once.
func (g *gate) open() { g.until = time.Time{} }

func (g *gate) outage() Outage {
	return Outage{Since: g.since, Attempts: g.failures, Reason: g.reason, Status: g.status, Next: g.until}
}
