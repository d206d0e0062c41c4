package deliver

import "time"

// rateSlices is into how many parts the time of a rate is divided.
const rateSlices = 64

// limiter bounds how many events are sent in any time of a length. It remembers how many
// were sent in parts of it, and forgets a part when all of it is over. It is guarded by the
// lock of the delivery.
type limiter struct {
	events int // 0: no limit
	per    time.Duration

	slice time.Duration
	sent  deque[sent]
	total int
}

type sent struct {
	until  time.Time // the events were sent before
	events int
}

func newLimiter(r Rate) limiter {
	return limiter{events: r.Events, per: r.Per, slice: max(r.Per/rateSlices, 1)}
}

// allows returns how many events may be sent now. If there are none it says when there will
// be.
func (l *limiter) allows(now time.Time) (events int, next time.Time) {
	if l.events <= 0 {
		return int(^uint(0) >> 1), time.Time{}
	}
	for l.sent.len() > 0 && !now.Before(l.sent.at(0).until.Add(l.per)) {
		l.total -= l.sent.pop().events
	}
	if events = l.events - l.total; events <= 0 {
		return 0, l.sent.at(0).until.Add(l.per)
	}
	return events, time.Time{}
}

// take notes that events are sent.
func (l *limiter) take(now time.Time, events int) {
	if l.events <= 0 || events == 0 {
		return
	}
	l.total += events
	if n := l.sent.len(); n > 0 {
		if last := l.sent.at(n - 1); now.Before(last.until) {
			l.sent.ring[(l.sent.head+n-1)&(len(l.sent.ring)-1)].events += events
			return
		}
	}
	l.sent.push(sent{now.Add(l.slice), events})
}
