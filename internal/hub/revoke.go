package hub

import (
	"errors"
	"os"
	"time"

	"github.com/tocsin-events/tocsin/internal/websocket"
)

// How rights that are taken away stop what is on its way: whoever hands bytes to
// the kernel announces the attempt first and looks then whether they may still be
// sent; who takes rights away does so first and looks then for attempts that are
// announced. One of the two sees the other, without a lock between them while
// nothing is taken away. An attempt does not wait for the client, so it can be
// waited for; a write that waits for its client between two attempts is woken by
// its deadline and gives up.

// Bits of Subscription.writing, which has the tick in which the write under way
// began, or is 0 if there is none.
const (
	interrupted uint64 = 1 << iota // the deadline is set to end the write
	patient                        // the write takes as long as it takes
	attempting                     // bytes are being handed to the kernel
	awaited                        // somebody waits for the end of the attempt
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
	var attempts []<-chan struct{}
	for _, s := range members {
		if s.writing.Load() == 0 {
			continue
		}
		s.group.mu.Lock()
		if attempt := s.interrupt(); attempt != nil {
			attempts = append(attempts, attempt)
		}
		s.group.mu.Unlock()
	}
	for _, attempt := range attempts {
		<-attempt
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
	attempt := s.interrupt()
	s.group.mu.Unlock()
	if attempt != nil {
		<-attempt
	}
}

// beginWrite begins a write of events that were selected in an epoch. It returns
// false, and there is nothing to end, if they must not be sent any more.
func (s *Subscription) beginWrite(epoch, flags uint64) bool {
	s.epoch = epoch
	s.writing.Store(s.hub.now.Load()<<tickShift | flags)
	if s.outdated() {
		s.endWrite(nil)
		return false
	}
	return true
}

// outdated says whether what is being written must not be sent any more.
func (s *Subscription) outdated() bool {
	return s.ending.Load() || s.group.epoch.Load() != s.epoch
}

// endWrite ends a write that was begun. It returns the error of the write, or
// errInterrupted if it was interrupted or stopped, and undoes what interrupt did.
func (s *Subscription) endWrite(err error) error {
	if err == websocket.ErrStopped {
		err = errInterrupted
	}
	if s.writing.Swap(0)&interrupted == 0 {
		return err
	}
	s.group.mu.Lock()
	s.conn.SetWriteDeadline(s.deadline)
	s.group.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errInterrupted
	}
	return err
}

// attempts are the attempts of the write of a subscription that was begun.
type attempts Subscription

func (a *attempts) Begin() bool {
	s := (*Subscription)(a)
	s.writing.Or(attempting)
	if s.outdated() {
		a.End(s.writing.And(^attempting))
		return false
	}
	return true
}

func (a *attempts) End(before uint64) {
	if before&awaited == 0 {
		return
	}
	s := (*Subscription)(a)
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	s.writing.And(^awaited)
	close(s.attempted)
	s.attempted = nil
}

// writeAttempts writes buffers as the write that was begun, and ends it.
func (s *Subscription) writeAttempts(buffers [][]byte) (n int, err error) {
	n, err = s.conn.WriteAttempts(buffers, (*attempts)(s), &s.writing, attempting)
	return n, s.endWrite(err)
}

// interrupt ends the write that is under way, if there is one and the connection
// survives that. The channel that it returns, if not nil, is closed when the
// attempt that is being made is over. group.mu is held.
func (s *Subscription) interrupt() <-chan struct{} {
	for {
		w := s.writing.Load()
		if w == 0 || !s.conn.Interruptible() {
			return nil
		}
		bits := interrupted
		if w&attempting != 0 {
			bits |= awaited
		}
		if !s.writing.CompareAndSwap(w, w|bits) {
			continue
		}
		if w&interrupted == 0 {
			s.conn.SetWriteDeadline(longAgo)
		}
		if bits&awaited == 0 {
			return nil
		}
		if s.attempted == nil {
			s.attempted = make(chan struct{})
		}
		return s.attempted
	}
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
