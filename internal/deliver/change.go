package deliver

import "time"

// Kind is what has changed.
type Kind string

// The kinds of changes.
const (
	// ChangeFailing: nothing can be delivered, for long enough to tell. Outage says more.
	ChangeFailing Kind = "failing"
	// ChangeRecovered: after that, something was delivered. Outage is the one that is over.
	ChangeRecovered Kind = "recovered"
	// ChangeHeld: nothing is sent from now on. Held says why.
	ChangeHeld Kind = "held"
	// ChangeResumed: it is sent again.
	ChangeResumed Kind = "resumed"
	// ChangeGap: the journal had removed Missed events before they were read (0: nobody
	// knows how many). Reason says more.
	ChangeGap Kind = "gap"
	// ChangeLettersFull: there is no room for more dead letters. Events that should become
	// some wait, with those that may not overtake them.
	ChangeLettersFull Kind = "letters_full"
	// ChangeReplayed: a replay or redrive has ended. ID says which.
	ChangeReplayed Kind = "replayed"
)

// Change is something that people want to know of a delivery.
type Change struct {
	Kind   Kind
	At     time.Time
	Outage Outage
	Held   Held
	Missed uint64
	ID     string
	Reason string
}

// notice is a change that is to be told, and logged.
type notice struct {
	change Change
	log    func()
}

// note makes that others are told of a change when the lock is free.
func (d *Delivery) note(c Change, log func()) {
	c.At = time.Now()
	d.notices = append(d.notices, notice{c, log})
}

// tellLocked tells what was noted. The lock is released meanwhile.
func (d *Delivery) tellLocked() {
	if d.telling || len(d.notices) == 0 {
		return
	}
	d.telling = true
	for len(d.notices) > 0 {
		notices := d.notices
		d.notices = nil
		d.mu.Unlock()
		for _, n := range notices {
			if n.log != nil {
				n.log()
			}
			if n.change.Kind != "" && d.options.Changed != nil {
				d.options.Changed(n.change)
			}
		}
		d.mu.Lock()
	}
	d.telling = false
}

const (
	// tellAttempts and tellAfter are how often in a row, or for how long, nothing can be
	// delivered before others are told.
	tellAttempts = 5
	tellAfter    = 10 * time.Second
	// warnEvery is the time between two messages about one outage.
	warnEvery = 5 * time.Minute
)

// failed notes that nothing can be delivered.
func (d *Delivery) failed(p pass, r Result, after time.Duration, now time.Time) {
	g := &d.gate
	g.failed(p, r, now)
	if g.told {
		if now.Before(d.nextWarning) {
			return
		}
	} else if g.failures < tellAttempts && now.Sub(g.since) < tellAfter && after < tellAfter {
		return
	}
	c := Change{Outage: g.outage()}
	if !g.told {
		c.Kind = ChangeFailing
	}
	g.told, d.nextWarning = true, now.Add(warnEvery)
	d.note(c, func() {
		d.log.Warn("Events cannot be delivered. They stay in the journal and are sent later.", "reason", c.Outage.Reason, "attempts", c.Outage.Attempts, "since", c.Outage.Since.UTC().Format(time.RFC3339))
	})
}

// answered notes that the endpoint has answered, and whether it has taken something.
func (d *Delivery) answered(p pass, delivered bool, now time.Time) {
	g := &d.gate
	if g.told {
		g.told = false
		c := Change{Kind: ChangeRecovered, Outage: g.outage()}
		d.note(c, func() {
			d.log.Info("Events are delivered again.", "outage", now.Sub(c.Outage.Since).Round(time.Millisecond), "attempts", c.Outage.Attempts)
		})
	}
	g.succeeded(p, delivered)
}
