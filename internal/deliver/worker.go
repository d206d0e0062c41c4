package deliver

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// worker sends one batch after the other.
type worker struct {
	batch   Batch
	entries []*entry
	stream  *stream
	pass    pass
	begun   time.Time
	results []verdict // of each event, when not all were delivered
}

// wake makes a worker look for something to send.
func (d *Delivery) wake() {
	switch {
	case d.idle > 0:
		d.work.Signal()
	case d.running && !d.stopping && d.workers < d.policy.Concurrency:
		d.workers++
		go d.worker()
	}
}

// worker sends until the delivery stops.
func (d *Delivery) worker() {
	w := new(worker)
	d.mu.Lock()
	for d.next(w) {
		d.mu.Unlock()
		r := d.send(w)
		d.mu.Lock()
		d.finish(w, r)
		d.tellLocked()
	}
	d.workers--
	if d.workers == 0 && d.stopping {
		close(d.sent)
	}
	d.mu.Unlock()
}

// next waits for a batch to send. It returns false when the delivery stops.
func (d *Delivery) next(w *worker) bool {
	for !d.stopping {
		now := time.Now()
		at, ok := d.pick(w, now)
		if ok {
			d.begin(w, now)
			if d.idle > 0 || d.workers < d.policy.Concurrency {
				d.wakeIfMore(now) // also to look when the rest may be sent
			}
			return true
		}
		d.wakeAt(at)
		d.idle++
		d.work.Wait()
		d.idle--
	}
	return false
}

// pick cuts a batch, if there is one that may be sent. If not, it says when to look again,
// zero: when something has changed.
func (d *Delivery) pick(w *worker, now time.Time) (at time.Time, ok bool) {
	if d.held.By != "" || d.restarting {
		return time.Time{}, false
	}
	if d.unsynced > 0 && (d.sending > 0 || d.unsaved == unsavedUrgent) {
		return time.Time{}, false // that is to be made durable first
	}
	if ok, at := d.gate.admits(now); !ok {
		return at, false
	}
	limit, at := d.limiter.allows(now)
	if limit == 0 {
		return at, false
	}
	// Every fourth batch is one of a replay or redrive, if there are such.
	turns := [2]bool{false, true} // background?
	if d.turn >= 3 {
		turns = [2]bool{true, false}
	}
	for _, background := range turns {
		if !background {
			if ok, next := d.pickFrom(w, d.live, limit, now); ok {
				d.turn++
				return at, true
			} else {
				at = sooner(at, next)
			}
			continue
		}
		if n := len(d.backgrounds); n > 0 && d.backgroundSending < max(d.policy.Concurrency/2, 1) {
			for i := range n {
				b := d.backgrounds[(d.robin+i)%n]
				if ok, next := d.pickFrom(w, b.stream, limit, now); ok {
					d.robin, d.turn = (d.robin+i+1)%n, 0
					return at, true
				} else {
					at = sooner(at, next)
				}
			}
		}
	}
	return at, false
}

// sooner returns the earlier of two times, of which a zero one does not count.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (d *Delivery) pickFrom(w *worker, s *stream, limit int, now time.Time) (ok bool, at time.Time) {
	asides := len(s.asides)
	at = s.due(now)
	// An outage may be because of those that have failed before. So they are tried alternately
	// with others, until it is over.
	if s.doubted.len() > 0 && d.gate.failures%2 == 0 && s.cutDoubted(w) {
		ok = true
	} else if ripe, next := s.ripe(&d.policy, d.flushing > 0, now); ripe && s.cut(w, &d.policy, limit, now) {
		ok = true
	} else if at = sooner(at, next); s.cutDoubted(w) {
		ok = true
	}
	if len(s.asides) > asides {
		d.kickClerk()
	}
	if ok {
		w.stream = s
	}
	return ok, at
}

// wakeIfMore wakes another worker when there is more to send.
func (d *Delivery) wakeIfMore(now time.Time) {
	if ok, _ := d.gate.admits(now); !ok {
		return
	}
	more := d.live.more()
	for i := 0; i < len(d.backgrounds) && !more; i++ {
		more = d.backgrounds[i].stream.more()
	}
	if more {
		d.wake()
	}
}

// wakeAt makes a worker look again at a time.
func (d *Delivery) wakeAt(at time.Time) {
	if at.IsZero() || !d.alarmAt.IsZero() && !at.Before(d.alarmAt) {
		return
	}
	d.alarmAt = at
	pause := max(time.Until(at), 1)
	if d.alarm == nil {
		d.alarm = time.AfterFunc(pause, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.alarmAt = time.Time{}
			d.wake()
		})
		return
	}
	d.alarm.Reset(pause)
}

// begin makes the batch ready to be sent.
func (d *Delivery) begin(w *worker, now time.Time) {
	w.pass, w.begun = d.gate.enter(), now
	b := &w.batch
	b.Items, b.decided, b.Attempt = b.Items[:0], b.decided[:0], 1
	again := 0
	for _, e := range w.entries {
		b.Items = append(b.Items, Item{e.event, e.at})
		if t := e.trouble; t != nil && t.tries > 0 {
			b.Attempt = max(b.Attempt, t.tries+1)
			again++
		}
	}
	b.Replay, b.Redriven = "", false
	if g := w.stream.background; g != nil {
		if g.redrive == nil {
			b.Replay = g.id
		} else {
			b.Redriven = true
		}
		d.backgroundSending++
	}
	w.stream.sending++
	w.stream.inFlight += len(w.entries)
	d.sending++
	d.counts.Attempts++
	d.counts.Retried += uint64(again)
	d.limiter.take(now, len(w.entries))
}

// send hands the batch to the sink.
func (d *Delivery) send(w *worker) Result {
	ctx, cancel := context.WithTimeout(d.sendCtx, d.policy.Timeout)
	defer cancel()
	return d.call(ctx, &w.batch)
}

// call is Send of the sink, with results that are as they should be.
func (d *Delivery) call(ctx context.Context, b *Batch) (r Result) {
	defer func() {
		if v := recover(); v != nil {
			r = Result{Outcome: Doubtful, Reason: fmt.Sprintf("the sink panicked: %v", v)}
			b.decided = b.decided[:0]
			if d.panicked.CompareAndSwap(false, true) {
				d.log.Error("The sink panicked. Please report this.", "panic", v, "stack", string(debug.Stack()))
			}
		}
		r = r.tidy()
	}()
	return d.options.Sink.Send(ctx, b)
}

func (r Result) tidy() Result {
	if r.Outcome > Gone {
		r.Outcome = Doubtful
	}
	if r.Outcome != Delivered && r.Reason == "" {
		r.Reason = "no reason was given"
	}
	r.Reason = tidy(r.Reason)
	r.After = min(max(r.After, 0), mostAfter)
	return r
}

// tidy makes a reason one line that is not too long.
func tidy(reason string) string {
	if len(reason) > MaxReasonBytes {
		n := MaxReasonBytes
		for n > 0 && !utf8.RuneStart(reason[n]) {
			n--
		}
		reason = reason[:n]
	}
	if !strings.ContainsFunc(reason, unicode.IsControl) && utf8.ValidString(reason) {
		return reason
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(reason, "?"))
}
