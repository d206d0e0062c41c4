package deliver

import (
	"time"
)

// poison is how often a sink may fail with an event alone, while it takes others, before
// that is given up although the policy has no limit of attempts. With the default back-off
// it takes some minutes.
const poison = 10

// verdict is the result of one event, and what becomes of it.
type verdict struct {
	Result
	alone bool // it is about this event only
	next  next
}

// next is what becomes of an event after an attempt.
type next uint8

const (
	settled next = iota
	aside        // it becomes a dead letter
	held         // it waits, and owns its key
	back         // it is sent again as soon as something can be sent
)

// tally sums up the results of a batch.
type tally struct {
	outcomes [Gone + 1]int
	after    time.Duration // the longest
	first    Result        // of an event that was not delivered
	innocent bool          // some of the doubtful ones may not be to blame
}

// works says that the endpoint has answered.
func (t *tally) works() bool { return t.outcomes[Delivered]+t.outcomes[Refused] > 0 }

// finish draws the conclusions from an attempt.
func (d *Delivery) finish(w *worker, whole Result) {
	now := time.Now()
	s := w.stream
	d.sending--
	s.sending--
	s.inFlight -= len(w.entries)
	if s.background != nil {
		d.backgroundSending--
	}
	moved := false
	if len(w.batch.decided) == 0 && whole.Outcome == Delivered {
		d.remember(w, whole, now)
		d.answered(w.pass, true, now)
		if whole.After > 0 {
			d.gate.leave(now, whole.After)
		}
		for _, e := range w.entries {
			moved = d.delivered(s, e) || moved
		}
	} else {
		moved = d.finishParts(w, whole, now)
	}
	clear(w.entries)
	clear(w.batch.Items)
	clear(w.results)
	w.entries, w.results, w.stream = w.entries[:0], w.results[:0], nil
	d.progressed(s, moved)
	if d.restarting && d.sending == 0 {
		d.restart()
	}
}

// delivered ends the way of an event, and returns whether the place in the journal has moved.
func (d *Delivery) delivered(s *stream, e *entry) (moved bool) {
	d.counts.Delivered++
	s.freeKey(e)
	if g := s.background; g != nil {
		g.sent++
		if g.redrive != nil {
			s.removals = append(s.removals, e)
			d.kickClerk()
			return false
		}
	}
	return s.settle(e)
}

// finishParts is finish for a batch of which not everything was delivered.
func (d *Delivery) finishParts(w *worker, whole Result, now time.Time) (moved bool) {
	s := w.stream
	rest := w.spread(whole)
	t := d.tally(w)
	ending := d.sendCtx.Err() != nil // what failed because of that is not to blame
	d.remember(w, t.first, now)
	if t.first.Outcome != Delivered {
		d.counts.FailedAttempts++
	}
	failed := false
	switch {
	case t.outcomes[Gone] > 0:
		d.gate.given(w.pass)
		d.disable(t.first.Reason, now)
	case t.works():
		d.answered(w.pass, t.outcomes[Delivered] > 0, now)
	case !ending && (t.outcomes[Retry] > 0 || t.outcomes[Doubtful] > 0 && t.innocent):
		d.failed(w.pass, t.first, t.after, now)
		failed = true
	default:
		d.gate.given(w.pass)
	}
	if t.after > 0 && !ending {
		d.gate.leave(now, t.after)
	}
	asides := len(s.asides)
	d.led++
	for i, e := range w.entries {
		v := &w.results[i]
		if v.next = d.judge(e, v, rest, failed, ending, w.begun, now); v.next == settled {
			continue
		}
		s.takeKey(e)
	}
	for i, e := range w.entries {
		v := &w.results[i]
		// Of a key only the first event waits by itself: the others come after it.
		follows := e.owner != nil && e.owner.led == d.led
		if v.next == held && follows {
			v.next = back
		}
		if e.owner != nil && v.next != settled {
			e.owner.led, e.owner.batch = d.led, nil
		}
		switch v.next {
		case settled:
			moved = d.delivered(s, e) || moved
		case aside:
			s.setAside(e)
		case held:
			s.hold(e)
			if e.trouble.due.After(now) { // else this worker looks for it at once
				d.wakeAt(e.trouble.due)
			}
		}
	}
	for i := len(w.entries) - 1; i >= 0; i-- {
		if w.results[i].next == back {
			s.giveBack(w.entries[i])
		}
	}
	if len(s.asides) > asides {
		d.kickClerk()
	}
	return moved
}

// spread gives each event its result, and returns how many have that of the batch.
func (w *worker) spread(whole Result) (rest int) {
	for range w.entries {
		w.results = append(w.results, verdict{Result: whole})
	}
	for _, dec := range w.batch.decided {
		if dec.item >= 0 && dec.item < len(w.results) {
			w.results[dec.item] = verdict{Result: dec.result.tidy(), alone: true}
		}
	}
	for i := range w.results {
		if !w.results[i].alone {
			rest++
		}
	}
	return rest
}

func (d *Delivery) tally(w *worker) (t tally) {
	for i := range w.results {
		v := &w.results[i]
		t.outcomes[v.Outcome]++
		t.after = max(t.after, v.After)
		if v.Outcome != Delivered && (t.first.Outcome == Delivered || v.Outcome == Gone) {
			t.first = v.Result
		}
		if v.Outcome == Doubtful {
			known := w.entries[i].trouble
			t.innocent = t.innocent || known == nil || known.doubts == 0 || d.gate.successes == known.latest
		}
	}
	return t
}

// judge decides what becomes of an event. rest is how many have its result, if that is the
// one of the batch; failed says that nobody can send now.
func (d *Delivery) judge(e *entry, v *verdict, rest int, failed, ending bool, begun, now time.Time) next {
	if v.Outcome == Delivered {
		return settled
	}
	alone := v.alone || rest == 1
	if ending && v.Outcome != Refused && v.Outcome != Impossible {
		if e.trouble != nil && e.trouble.doubts > 0 {
			e.trouble.due = now
			return held
		}
		return back
	}
	t := e.troubled()
	if t.tries == 0 {
		t.first = begun
	}
	t.tries++
	t.last, t.result = now, v.Result
	switch v.Outcome {
	case Refused, Impossible:
		if alone {
			return aside
		}
		t.most = max(rest/2, 1)
		return back
	case Doubtful:
		if !alone { // others may be to blame: its time begins when it is alone
			t.most = max(rest/2, 1)
			return back
		}
		if t.doubts == 0 {
			t.since, t.began = now, d.gate.successes
		}
		if t.doubts > 0 && !t.blamed && d.gate.successes > t.began {
			t.blamed, t.excused = true, t.doubts-1
		}
		t.latest, t.most = d.gate.successes, 1
		if t.doubts++; d.givenUp(t, now) {
			return aside
		}
		t.due = now
		if !failed {
			t.due = now.Add(d.policy.Backoff.wait(t.doubts))
		}
		return held
	}
	switch {
	case v.Outcome == Retry && !failed: // others are delivered
		t.postponed++
		t.due = now.Add(d.policy.Backoff.wait(t.postponed))
		return held
	case t.doubts > 0:
		t.due = now
		return held
	}
	return back
}

// givenUp says that an event is not tried any more.
func (d *Delivery) givenUp(t *trouble, now time.Time) bool {
	p := &d.policy
	switch {
	case p.Attempts > 0 && t.doubts >= p.Attempts, p.GiveUp > 0 && now.Sub(t.since) >= p.GiveUp:
		return true
	}
	return p.Attempts == 0 && t.blamed && t.doubts-t.excused >= poison
}

// deadLetter makes a dead letter of an event.
func (e *entry) deadLetter() DeadLetter {
	t := e.trouble
	l := DeadLetter{Event: e.event, At: e.at, Cause: CauseFailed, Failure: Failure{
		Outcome: t.result.Outcome, Attempts: t.tries, First: t.first, Last: t.last,
		Status: t.result.Status, Reason: t.result.Reason,
	}}
	if t.result.Outcome == Refused {
		l.Cause = CauseRefused
	}
	return l
}
