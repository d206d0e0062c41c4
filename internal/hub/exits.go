package hub

import (
	"sync"
	"time"
)

const (
	// doors is how many revoked subscriptions are closed at once.
	doors = 4
	// doorTime is how long one of them is waited for before the next has its turn:
	// a client that does not read does not hold the others up.
	doorTime = time.Millisecond
)

// exits has the close frames of revoked subscriptions sent a few at a time. That
// nothing else is sent to them does not wait for it; but thousands that close at
// once would keep all others from being served for as long as it takes.
type exits struct {
	mu    sync.Mutex
	queue []*Subscription
	open  int // doors
}

// leave takes a subscription that is ending and for which a goroutine run is
// counted but not started.
func (e *exits) leave(s *Subscription) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.gone = make(chan struct{})
	e.queue = append(e.queue, s)
	if e.open < doors {
		e.open++
		s.hub.tasks.Go(e.door)
	}
}

func (e *exits) door() {
	late := time.NewTimer(doorTime)
	defer late.Stop()
	for s := e.next(); s != nil; s = e.next() {
		late.Reset(doorTime)
		go s.run()
		select {
		case <-s.gone:
		case <-late.C:
		}
	}
}

// next is who leaves next. Without any, the door is closed.
func (e *exits) next() *Subscription {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		e.queue = nil
		e.open--
		return nil
	}
	s := e.queue[0]
	e.queue[0] = nil
	e.queue = e.queue[1:]
	return s
}
