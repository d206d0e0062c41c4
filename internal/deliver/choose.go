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

// choosing is since when, and why, it cannot be told which events of a stream are for the sink.
// It is guarded by the lock of the delivery.
type choosing struct {
	since   time.Time // zero: it can
	reason  string
	nextLog time.Time // zero: nothing was logged
}

// sift returns which events of a record are for the sink; nil: Match says it. The error is that
// of ctx.
func (d *Delivery) sift(ctx context.Context, s *stream, rec Record) ([]Choice, error) {
	if d.options.Choose == nil {
		return nil, nil
	}
	choices := make([]Choice, rec.Len())
	for n := 1; ; n++ {
		err := d.options.Choose(ctx, rec, choices, false)
		last := err != nil && ctx.Err() == nil && d.unchosen(s, err)
		if last {
			clear(choices)
			err = d.options.Choose(ctx, rec, choices, true)
		}
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
			if !last {
				d.chosen(s)
			}
			return choices, nil
		}
		clear(choices)
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
func (d *Delivery) chosen(s *stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := s.choosing
	s.choosing = choosing{}
	if !c.nextLog.IsZero() {
		d.note(Change{}, func() {
			d.log.Info("It can be told again which events are for the sink.", "after", time.Since(c.since).Round(time.Millisecond))
		})
		d.tellLocked()
	}
}

// unchosen notes that it could not, and says whether that has been so for too long.
func (d *Delivery) unchosen(s *stream, err error) (tooLong bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	c := &s.choosing
	if c.since.IsZero() {
		c.since = now
	}
	c.reason = tidy(err.Error())
	if now.Sub(c.since) >= tellAfter && !now.Before(c.nextLog) {
		c.nextLog = now.Add(warnEvery)
		reason, since := c.reason, clock(c.since)
		d.note(Change{}, func() {
			d.log.Warn("It cannot be told which events are for the sink. They stay in the journal until it can.", "reason", reason, "since", since)
		})
		d.tellLocked()
	}
	return d.policy.GiveUp > 0 && now.Sub(c.since) >= d.policy.GiveUp
}

// undecidable returns what has been so for longest of what is being read.
func (d *Delivery) undecidable() choosing {
	c := d.live.choosing
	for _, b := range d.backgrounds {
		if o := b.stream.choosing; !o.since.IsZero() && (c.since.IsZero() || o.since.Before(c.since)) {
			c = o
		}
	}
	return c
}

// problem describes it for people; "": there is none.
func (c choosing) problem() string {
	if c.since.IsZero() {
		return ""
	}
	return fmt.Sprintf("cannot be told since %s which events are for the sink: %s", clock(c.since), c.reason)
}
