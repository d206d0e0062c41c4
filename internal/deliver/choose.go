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
	// Problem, if not empty, says why that cannot be told.
	Problem string
	// Final says that it never can be. The event becomes a dead letter.
	Final bool
}

// chooseBackoff is the pause after it could not be told what is for the sink.
var chooseBackoff = Backoff{First: 500 * time.Millisecond, Most: 5 * time.Second}

// choosing is what is known of a record of which it could not be told what is for the sink.
type choosing struct {
	since   time.Time // zero: it can
	reason  string
	nextLog time.Time
}

// sift returns what Choose says of a record, nil if there is no Choose. It waits until that can
// be told of all events, at most for Policy.GiveUp. The error is that of ctx.
func (d *Delivery) sift(ctx context.Context, s *stream, rec Record) ([]Choice, error) {
	if d.options.Choose == nil {
		return nil, nil
	}
	choices := make([]Choice, rec.Len())
	for n := 1; ; n++ {
		d.options.Choose(ctx, rec, choices)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		reason := obstacle(choices)
		if reason == "" {
			d.chosen(s)
			return choices, nil
		}
		if d.unchosen(s, reason) {
			return choices, nil
		}
		timer := time.NewTimer(chooseBackoff.wait(n))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		clear(choices)
	}
}

// obstacle returns why it cannot be told of some events now, "" if it can be told of all.
func obstacle(choices []Choice) string {
	for i := range choices {
		if c := &choices[i]; c.Problem != "" && !c.Final {
			return c.Problem
		}
	}
	return ""
}

// chosen notes that it could be told of a record of a stream what is for the sink.
func (d *Delivery) chosen(s *stream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := s.choosing
	if c.since.IsZero() {
		return
	}
	s.choosing = choosing{}
	if !c.nextLog.IsZero() {
		d.note(Change{}, func() {
			d.log.Info("It can be told again which events are for the sink.", "after", time.Since(c.since).Round(time.Millisecond))
		})
	}
	d.tellLocked()
}

// unchosen notes that it could not, and says whether that has been so for too long.
func (d *Delivery) unchosen(s *stream, reason string) (tooLong bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	c := &s.choosing
	if c.since.IsZero() {
		c.since = now
	}
	c.reason = tidy(reason)
	since := c.since
	switch {
	case d.policy.GiveUp > 0 && now.Sub(since) >= d.policy.GiveUp:
		s.choosing = choosing{}
		tooLong = true
	case now.Sub(since) >= tellAfter && !now.Before(c.nextLog):
		c.nextLog = now.Add(warnEvery)
		reason := c.reason
		d.note(Change{}, func() {
			d.log.Warn("It cannot be told which events are for the sink. They stay in the journal until it can.", "reason", reason, "since", since.UTC().Format(time.RFC3339))
		})
	}
	d.tellLocked()
	return tooLong
}

// unsifted returns the oldest trouble with choosing that a stream has; since is zero if none has.
func (d *Delivery) unsifted() (c choosing) {
	c = d.live.choosing
	for _, b := range d.backgrounds {
		if o := b.stream.choosing; !o.since.IsZero() && (c.since.IsZero() || o.since.Before(c.since)) {
			c = o
		}
	}
	return c
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
