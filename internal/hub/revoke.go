package hub

import (
	"errors"
	"os"
	"time"

	"github.com/tocsin-events/tocsin/internal/websocket"
)

// How rights that are taken away stop what is on its way: whoever writes events
// announces that first and looks then whether they may still be sent; who takes
// rights away does so first and looks then for writes that are announced. One of
// the two sees the other, without a lock between them while nothing is taken away.
// A write that is seen is interrupted by its deadline and waited for, which does
// not depend on the client.

// Bits of Subscription.writing, which has the tick in which the write began, or
// is 0 if there is none.
const (
	interrupted uint64 = 1 << iota // the write is being ended by its deadline
	patient                        // the write takes as long as it takes
	tickShift   = iota
)

// longAgo is a deadline that ends a write at once.
var longAgo = time.Unix(1, 0)

// Invalidate says that Allow gives other answers than before for all requests with
// this AccessKey. When it returns, nothing is sent any more that was selected by the
// old answers, except the rest of a frame that is sent in part, and over TLS the
// piece that is being written: about 16 KiB, or one event if it is larger. Which events a subscription is past
// does not change; the new answers are for all that come after the last one that it
// was sent, or that was left out before the call.
func (h *Hub) Invalidate(accessKey any) {
	h.mu.Lock()
	var members []*Subscription
	for g := range h.access[accessKey] {
		g.epoch.Add(1)
		members = append(members, g.members...)
	}
	h.mu.Unlock()
	var writes []<-chan struct{}
	for _, s := range members {
		if s.writing.Load() == 0 {
			continue
		}
		s.group.mu.Lock()
		if written := s.stopWrite(); written != nil {
			writes = append(writes, written)
		}
		s.group.mu.Unlock()
	}
	for _, written := range writes {
		<-written
	}
}

// Revoke ends the subscription, served or not yet, with close code 1008 and a
// reason, of which a client sees the first 123 bytes. When it returns, no further
// event is sent, with the exceptions of [Hub.Invalidate]; the client gets the close
// frame and has a few seconds to answer it. If the subscription is ending
// already, for another reason, that reason stays.
func (s *Subscription) Revoke(reason string) {
	s.group.mu.Lock()
	if s.setEnding(websocket.AppendClose(nil, websocket.StatusPolicyViolation, reason), reason) && s.claim() {
		s.hub.exits.leave(s)
	}
	written := s.stopWrite()
	s.group.mu.Unlock()
	if written != nil {
		<-written
	}
}

// beginWrite announces a write of events that were selected in an epoch. It
// returns false, and there is nothing to end, if they must not be sent any more.
func (s *Subscription) beginWrite(epoch, flags uint64) bool {
	s.writing.Store(s.hub.now.Load()<<tickShift | flags)
	if s.outdated(epoch) {
		s.endWrite(nil)
		return false
	}
	return true
}

// outdated says whether events selected in an epoch must not be sent any more.
func (s *Subscription) outdated(epoch uint64) bool {
	return s.ending.Load() || s.group.epoch.Load() != epoch
}

// endWrite ends a write that was begun. It returns the error of the write, or
// errInterrupted if interrupt has ended it, and undoes what interrupt did.
func (s *Subscription) endWrite(err error) error {
	if s.writing.Swap(0)&interrupted == 0 {
		return err
	}
	s.group.mu.Lock()
	s.conn.SetWriteDeadline(s.deadline)
	if s.written != nil {
		close(s.written)
		s.written = nil
	}
	s.group.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errInterrupted
	}
	return err
}

// interrupt ends the write that is under way; false means that there is none, or
// none that can be ended. group.mu is held.
func (s *Subscription) interrupt() bool {
	for {
		w := s.writing.Load()
		switch {
		case w == 0 || !s.conn.Interruptible():
			return false
		case w&interrupted != 0:
			return true
		case s.writing.CompareAndSwap(w, w|interrupted):
			s.conn.SetWriteDeadline(longAgo)
			return true
		}
	}
}

// stopWrite is interrupt for those who wait until the write is over, which the
// channel tells that is returned, if not nil. group.mu is held.
func (s *Subscription) stopWrite() <-chan struct{} {
	if !s.interrupt() {
		return nil
	}
	if s.written == nil {
		s.written = make(chan struct{})
	}
	return s.written
}

// interruptIfStuck interrupts a write that has not come to its end for some ticks,
// so that what it holds can be let go.
func (s *Subscription) interruptIfStuck(now uint64) {
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	if s.stuck(now) && !s.ending.Load() {
		s.interrupt()
	}
}

// stuck says whether there is a write that should have come to its end. Those that
// are known to take long are not meant.
func (s *Subscription) stuck(now uint64) bool {
	w := s.writing.Load()
	return w != 0 && w&patient == 0 && now >= w>>tickShift+stallTicks
}
