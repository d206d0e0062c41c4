package upstream

import (
	"sync"
	"time"
)

// pause is how long nobody asks a server that did not answer. Then one question is
// let through, and decides whether the others are.
const pause = time.Second

// circuit remembers for a short time that a server does not answer. Without it
// everybody with an unknown token would wait for the whole timeout, and a flood of
// them would take every connection. The zero circuit is closed: all may ask.
type circuit struct {
	mu      sync.Mutex
	open    bool
	until   time.Time // nobody asks before
	probing bool      // somebody is finding out
	since   time.Time // open since
	refused uint64    // questions not asked since then
}

// outcome is what a question has shown about the server.
type outcome int

const (
	unknown  outcome = iota // the one who asked has gone away
	answered                // whatever the answer was
	silent
)

// enter says whether the server may be asked. If so, leave must be called.
func (c *circuit) enter() (leave func(outcome) transition, ok bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	probe := false
	if c.open {
		if c.probing || now.Before(c.until) {
			c.refused++
			return nil, false
		}
		c.probing, probe = true, true
	}
	return func(o outcome) transition { return c.leave(o, probe) }, true
}

// transition is what changed by an outcome.
type transition struct {
	failed    bool          // the circuit has opened
	recovered bool          // it has closed again,
	after     time.Duration // having been open for so long,
	refused   uint64        // in which so many questions were not asked
}

func (c *circuit) leave(o outcome, probe bool) (t transition) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if probe {
		c.probing = false
	}
	switch o {
	case answered:
		if c.open {
			t = transition{recovered: true, after: now.Sub(c.since), refused: c.refused}
			c.open, c.refused = false, 0
		}
	case silent:
		if !c.open {
			c.open, c.since, c.refused = true, now, 0
			t.failed = true
		}
		c.until = now.Add(pause)
	}
	return t
}
