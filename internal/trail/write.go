package trail

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
)

const (
	// One append has at most groupEvents events with groupBytes, or one event.
	groupEvents = 256
	groupBytes  = 256 << 10

	// While the journal pushes back, it is asked again when it says, within these.
	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// write is the one goroutine that appends, until the trail is closed and nothing is
// left, or Close gives up.
func (t *Trail) write() {
	defer close(t.written)
	for {
		group, closed := t.take()
		switch {
		case len(group) > 0:
			t.append(group)
		case closed:
			return
		default:
			<-t.wake
		}
	}
}

// take removes what is to be appended next from those who wait.
func (t *Trail) take() (group []item, closed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 && t.lost.count > 0 && !t.over {
		t.reportLocked()
	}
	n, bytes := 0, 0
	for n < len(t.waiting) && n < groupEvents {
		bytes += t.waiting[n].size
		if n > 0 && bytes > t.groupBytes() {
			break
		}
		if t.waiting[n].answer != nil {
			t.commits--
		}
		n++
	}
	group = append(group, t.waiting[:n]...)
	clear(t.waiting[:n])
	if t.waiting = t.waiting[n:]; len(t.waiting) == 0 {
		t.waiting = nil // what a burst needed
	}
	return group, t.closed
}

// groupBytes is what the journal surely takes at once, also with a limit on events
// that is smaller than usual.
func (t *Trail) groupBytes() int { return min(groupBytes, 2*t.maker.limits.MaxEventBytes) }

// append returns when the fate of every item of the group is known. It appends them
// in order and together, or, if the journal finds fault with one, one by one.
func (t *Trail) append(group []item) {
	together := true
	for len(group) > 0 {
		n := 1
		if together {
			n = len(group)
		}
		err := t.appendOnce(group[:n])
		switch {
		case err == nil:
			t.metrics.Appended.Add(float64(n))
			t.finish(group[:n], nil)
			group = group[n:]
		case t.ctx.Err() != nil:
			t.giveUp(group, "unwritten", err)
			return
		case errors.Is(err, journal.ErrClosed):
			t.giveUp(group, "journal_closed", err)
			return
		case errors.Is(err, event.ErrInvalid) || errors.Is(err, event.ErrTooLarge):
			if n > 1 {
				together = false
				continue
			}
			t.log.Error("The journal does not take a record of the audit trail.", "type", group[0].event.Type, "error", err)
			t.refuse(group[:1], "invalid", err)
			group = group[1:]
		default:
			group = t.refuseCommits(group, err)
			if len(group) > 0 {
				t.pause(err)
			}
		}
	}
}

func (t *Trail) appendOnce(group []item) error {
	events := make([]*event.Event, len(group))
	for i := range group {
		events[i] = group[i].event
	}
	_, err := t.journal.Append(t.ctx, events...)
	return err
}

// finish frees the room of items and answers those who wait for them.
func (t *Trail) finish(items []item, err error) {
	t.mu.Lock()
	for i := range items {
		if items[i].answer == nil {
			t.count--
			t.bytes -= items[i].size
		}
	}
	t.mu.Unlock()
	for i := range items {
		switch {
		case items[i].answer != nil:
			items[i].answer <- err
		case items[i].report > 0 && err == nil:
			t.log.Warn("Records of the audit trail were lost: they were made faster than the journal took them.", "count", items[i].report)
		}
	}
}

// refuse ends items that were not written. Records nobody waits for are lost; a
// report with which the journal finds fault is not made again, because it would
// again.
func (t *Trail) refuse(items []item, reason string, err error) {
	t.finish(items, err)
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range items {
		switch one := &items[i]; {
		case one.report == 0:
			t.metrics.Refused(reason).Inc()
			if one.answer == nil {
				t.loseLocked(1, one.event.Time)
			}
		case t.over:
			t.loseLocked(one.report, one.event.Time)
		}
	}
}

// giveUp ends what is left of a group and everything that waits, for ever.
func (t *Trail) giveUp(group []item, reason string, err error) {
	t.mu.Lock()
	t.over = true
	group = append(group, t.waiting...)
	t.waiting, t.commits = nil, 0
	t.mu.Unlock()
	t.refuse(group, reason, err)
}

// refuseCommits answers everybody who waits with err, in the group and behind it,
// and returns what is left of the group.
func (t *Trail) refuseCommits(group []item, err error) (rest []item) {
	var refused []item
	split := func(items []item) []item {
		kept := items[:0]
		for _, i := range items {
			if i.answer != nil {
				refused = append(refused, i)
			} else {
				kept = append(kept, i)
			}
		}
		clear(items[len(kept):])
		return kept
	}
	rest = split(group)
	t.mu.Lock()
	if t.commits > 0 {
		t.waiting = split(t.waiting)
		t.commits = 0
	}
	t.mu.Unlock()
	if len(refused) > 0 {
		t.refuse(refused, "pushback", err)
	}
	return rest
}

// pause waits until the journal should be asked again: when it said, or as soon as
// somebody waits for an answer.
func (t *Trail) pause(err error) {
	wait := firstRetry
	if p := (*journal.PushbackError)(nil); errors.As(err, &p) {
		wait = min(max(p.RetryAfter, firstRetry), lastRetry)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.hurry:
	case <-t.ctx.Done():
	}
}

// lost makes the event about a loss.
func (m *maker) lost(l loss, now time.Time) (*event.Event, error) {
	var fields event.Fields
	fields.Set("count", strconv.Itoa(l.count))
	fields.Set("since", l.since.UTC().Format(time.RFC3339Nano))
	return m.event(Record{What: strings.TrimPrefix(LostType, typePrefix), Path: LostPath, Operation: "update", Fields: fields}, now)
}
