package deliver

import (
	"context"
	"fmt"
	"time"
)

// Choice says whether an event is for the sink.
type Choice struct {
	// Take: it is.
	Take bool
	// Problem, if not empty, says why that cannot be told, now or later. The event becomes a
	// dead letter.
	Problem string
}

// chooseBackoff is the pause after it could not be told what is for the sink.
var chooseBackoff = Backoff{First: 500 * time.Millisecond, Most: 10 * time.Second}

// choosing is what is known of records of which it could not be told what is for the sink. It
// is guarded by the lock of the delivery.
type choosing struct {
	since   time.Time // zero: it can
	reason  string
	nextLog time.Time
}

// sift returns which events of a record are for the sink; nil: Match says it. The error is that
// of ctx.
func (d *Delivery) sift(ctx context.Context, rec Record) ([]Choice, error) {
	if d.options.Choose == nil {
		return nil, nil
	}
	choices := make([]Choice, rec.Len())
	for n := 1; ; n++ {
		err := d.options.Choose(ctx, rec, choices, false)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			d.chosen()
			return choices, nil
		}
		clear(choices)
		if d.unchosen(err) {
			if err := d.options.Choose(ctx, rec, choices, true); err == nil && ctx.Err() == nil {
				return choices, nil
			}
			clear(choices)
		}
		timer := time.NewTimer(chooseBackoff.wait(n))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// chosen notes that it could be told what is for the sink.
func (d *Delivery) chosen() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.choosing; !c.since.IsZero() && !c.nextLog.IsZero() {
		d.note(Change{}, func() {
			d.log.Info("It can be told again which events are for the sink.", "after", time.Since(c.since).Round(time.Millisecond))
		})
	}
	d.choosing = choosing{}
	d.tellLocked()
}

// unchosen notes that it could not, and says whether that has been so for too long.
func (d *Delivery) unchosen(err error) (last bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	c := &d.choosing
	if c.since.IsZero() {
		c.since = now
	}
	c.reason = tidy(err.Error())
	last = d.policy.ChooseWait > 0 && now.Sub(c.since) >= d.policy.ChooseWait
	if now.Sub(c.since) >= tellAfter && !now.Before(c.nextLog) {
		c.nextLog = now.Add(warnEvery)
		reason, since := c.reason, c.since
		d.note(Change{}, func() {
			d.log.Warn("It cannot be told which events are for the sink. They stay in the journal until it can.", "reason", reason, "since", since.UTC().Format(time.RFC3339))
		})
	}
	d.tellLocked()
	return last
}

// problem describes it for people; "": there is none.
func (c *choosing) problem() string {
	if c.since.IsZero() {
		return ""
	}
	return fmt.Sprintf("cannot tell which events are for the sink since %s: %s", clock(c.since), c.reason)
}

// undecidable sets an event aside of which it cannot be told whether it is for the sink.
func (s *stream) undecidable(w *worker, e *entry) bool {
	if e.trouble == nil || !e.trouble.undecidable {
		return false
	}
	s.setAside(e)
	if e.owner != nil {
		e.owner.batch, e.owner.expiring = w, true
	}
	return true
}
