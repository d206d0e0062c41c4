package manager

import (
	"strconv"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// What happens to a sink is recorded at once as long as it is little: reportBurst records,
// and then one more every reportEvery. Of what is more only the newest of its group
// is kept, and recorded when it is time, with how many it stands for.
const (
	reportBurst = 6
	reportEvery = 5 * time.Minute
)

// reporter makes records of the trail of what a delivery tells, which logs it by itself. A
// sink that fails and recovers all the time makes few of them.
type reporter struct {
	m    *Manager
	sink *sink

	mu      sync.Mutex
	tokens  int
	filled  time.Time // when tokens was right
	waiting []report  // at most one of a group
	timer   *time.Timer
	closed  bool
}

// report is a change that is recorded, and how many of its group it stands for.
type report struct {
	deliver.Change
	group string
	count int
}

func newReporter(m *Manager, s *sink) *reporter {
	return &reporter{m: m, sink: s, tokens: reportBurst, filled: time.Now()}
}

// groupOf returns the group of a change, of which the newest says what is so; "" for changes
// that are not recorded here.
func groupOf(c deliver.Change) string {
	switch c.Kind {
	case deliver.ChangeFailing, deliver.ChangeRecovered:
		return "outage"
	case deliver.ChangeHeld:
		if c.Held.ByEndpoint {
			return "held"
		}
	case deliver.ChangeGap, deliver.ChangeLettersFull:
		return string(c.Kind)
	}
	return "" // somebody has asked for it, who is in the record of that
}

// changed takes what a delivery tells. It never blocks.
func (r *reporter) changed(c deliver.Change) {
	group := groupOf(c)
	if group == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	next := report{Change: c, group: group, count: 1}
	for i, w := range r.waiting {
		if w.group == group {
			next.count += w.count
			next.Missed += w.Missed
			r.waiting = append(r.waiting[:i], r.waiting[i+1:]...)
			break
		}
	}
	r.waiting = append(r.waiting, next)
	r.flush()
}

// flush records what waits, as far as that is allowed now. r.mu is held.
func (r *reporter) flush() {
	now := time.Now()
	if n := int(now.Sub(r.filled) / reportEvery); n > 0 {
		r.tokens = min(r.tokens+n, reportBurst)
		r.filled = r.filled.Add(time.Duration(n) * reportEvery)
	}
	for len(r.waiting) > 0 && (r.tokens > 0 || r.closed) {
		if r.tokens == reportBurst {
			r.filled = now
		}
		r.tokens = max(r.tokens-1, 0)
		r.m.o.Record(r.sink.record(r.waiting[0]))
		r.waiting = r.waiting[1:]
	}
	if len(r.waiting) == 0 || r.timer != nil {
		return
	}
	r.timer = time.AfterFunc(r.filled.Add(reportEvery).Sub(now), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.timer = nil
		r.flush()
	})
}

// close records what waits.
func (r *reporter) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.flush()
}

// record is what is kept of a report.
func (s *sink) record(r report) trail.Record {
	rec := trail.Record{Path: Path(s.name)}
	set := func(key, value string) {
		if value != "" {
			rec.Fields.Set(key, value)
		}
	}
	number := func(key string, n int) {
		if n > 0 {
			set(key, strconv.Itoa(n))
		}
	}
	set("sink", s.name)
	set("sink_type", string(s.config.Type))
	if r.count > 1 {
		number("count", r.count)
	}
	switch r.Kind {
	case deliver.ChangeFailing, deliver.ChangeRecovered:
		rec.What, rec.Operation = "sink-failing", "fail"
		if r.Kind == deliver.ChangeRecovered {
			rec.What, rec.Operation = "sink-recovered", "recover"
			set("duration_seconds", strconv.FormatFloat(max(r.At.Sub(r.Outage.Since), 0).Seconds(), 'f', 3, 64))
		}
		set("reason", r.Outage.Reason)
		set("since", r.Outage.Since.UTC().Format(time.RFC3339))
		number("attempts", r.Outage.Attempts)
		number("response_status", r.Outage.Status)
	case deliver.ChangeHeld:
		rec.What, rec.Operation = "sink-disabled", "disable"
		set("reason", r.Held.Reason)
	case deliver.ChangeGap:
		rec.What, rec.Operation = "sink-gap", "gap"
		set("reason", r.Reason)
		set("missed", strconv.FormatUint(r.Missed, 10))
	case deliver.ChangeLettersFull:
		rec.What, rec.Operation = "sink-full", "full"
		set("reason", r.Reason)
	}
	return rec
}
