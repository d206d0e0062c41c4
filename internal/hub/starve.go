package hub

import (
	"time"

	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// A subscription whose filter needs a field of a plugin that cannot be asked now stands where
// it is, and holds nothing. It looks again after a while, for as long as it is patient; then it
// ends, and the client is told where to go on.

const (
	// fieldsPause is the time after which a plugin is asked again.
	fieldsPause = 500 * time.Millisecond
	// fieldsPatience is how long a subscription waits for a plugin.
	fieldsPatience = time.Minute
)

// fieldsReason is the reason for which subscriptions end that have waited too long.
const fieldsReason = "a field of the filter cannot be extracted; go on with since="

// pickByFields picks for a group whose filter asks for fields of plugins. It returns the first
// event of which it cannot tell, and how many it has decided without a field that never can be
// extracted of them.
func (b *batch) pickByFields(g *group, p *picks) (stop, refused int, why *fields.Missing) {
	view := g.fields.View(g.hub.asking, b.events)
	for i := b.events.Start(); i < b.events.Len(); i++ {
		match := g.matcher.matchRow(b.events.Event(i), view.At(i))
		if missing := view.Missing(); missing != nil {
			if !missing.Final {
				return i, refused, missing
			}
			refused++
		}
		if match {
			p.add(i)
		}
	}
	return b.events.Len(), refused, nil
}

// starve has the subscription wait at a place for a plugin, or end if it has waited for long
// enough. It returns false if the goroutine is to end.
func (s *Subscription) starve(at place) bool {
	m := at.mark()
	if !s.starving(m) {
		from := m.before.String()
		if m.before.IsZero() {
			from = journal.Oldest
		}
		s.finish(websocket.AppendClose(nil, websocket.StatusTryAgainLater, fieldsReason+from), "fields cannot be extracted")
		return true
	}
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	if s.ending.Load() || s.pinging || s.pong != nil {
		s.parked = &m
		s.at = place{}
		return true
	}
	s.parked, s.at, s.running = &m, place{}, false
	time.AfterFunc(s.hub.fieldsPause, func() {
		s.group.mu.Lock()
		defer s.group.mu.Unlock()
		if s.parked == &m && !s.ending.Load() {
			s.wake()
		}
	})
	return false
}

// starving notes that the subscription waits for a plugin, and says whether it may go on to.
func (s *Subscription) starving(m mark) bool {
	now := time.Now()
	if s.starved.IsZero() {
		s.starved = now
		s.hub.metrics.starving.Inc()
	}
	return now.Sub(s.starved) < s.hub.fieldsPatience
}

// fed notes that it does not, or not any more.
func (s *Subscription) fed() {
	if !s.starved.IsZero() {
		s.starved = time.Time{}
		s.hub.metrics.starving.Dec()
	}
}
