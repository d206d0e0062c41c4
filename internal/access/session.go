package access

import (
	"container/list"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tocsin-events/tocsin/internal/token"
)

// retryFirst and retryMost bound the pause after a recheck that got no answer; within
// them it is a quarter of the time between rechecks.
const (
	retryFirst = time.Second
	retryMost  = 10 * time.Second
)

// session is a token of a provider that is valid as far as is known. While somebody
// follows it, it is confirmed again and again; else it is forgotten after a while.
// All fields that are not constant are guarded by externals.mu.
type session struct {
	key       sessionKey
	asked     Provider
	provider  string // its name
	namespace string // of the requests
	grant     *grant // what it stands for; with other rights it would be another session

	value     string // the token, for rechecks; empty where there are none, and after the end
	entry     *token.Entry
	expires   time.Time // zero: not known
	checked   time.Time // when it was confirmed last
	used      time.Time // when somebody authenticated with it, or stopped following
	nextCheck time.Time // when it must be confirmed again, if followed
	doubt     time.Time // since when it could not be; zero: it was
	checking  bool      // that is under way
	over      Ended     // why it is not valid any more; empty: it is
	dropped   bool      // not kept any more

	followers map[*follower]struct{}
	idle      *list.Element // among those that nobody follows
	timer     *time.Timer
}

// confirm takes in what the provider says now.
func (s *session) confirm(external *External, e *token.Entry, now time.Time) {
	s.entry, s.expires, s.checked, s.doubt = e, external.Expires, now, time.Time{}
	if recheck := s.asked.Recheck(); recheck > 0 {
		// A little early, not all at once.
		s.nextCheck = now.Add(recheck - rand.N(recheck/10+1))
	}
}

// fresh says whether the provider need not be asked for a request.
func (s *session) fresh(now time.Time) bool {
	if s.over != "" || s.dropped || s.grant.void.Load() || !s.expires.IsZero() && !now.Before(s.expires) {
		return false
	}
	recheck := s.asked.Recheck()
	return recheck <= 0 || now.Before(s.checked.Add(recheck))
}

// until is when a session that could not be confirmed ends.
func (s *session) until() time.Time {
	// The first try has the time for an answer, whatever the patience.
	return s.doubt.Add(max(s.asked.Patience(), lookupTimeout))
}

// keptUntil is when a session that nobody follows is forgotten; zero: only to make
// room.
func (s *session) keptUntil() time.Time {
	recheck := s.asked.Recheck()
	if recheck <= 0 {
		return s.expires
	}
	kept := s.checked.Add(recheck)
	if lingers := s.used.Add(linger); lingers.After(kept) {
		kept = lingers
	}
	return kept
}

// touch notes that a session was used. mu is held.
func (x *externals) touch(s *session, now time.Time) {
	s.used = now
	if len(s.followers) > 0 {
		return
	}
	x.idle.use(s)
	if x.idle.len() > maxIdle {
		x.drop(x.idle.oldest())
	}
}

// schedule sets the timer of a session for whatever comes next. mu is held.
func (x *externals) schedule(s *session, now time.Time) {
	if s.dropped {
		return
	}
	next := s.expires
	earlier := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if len(s.followers) == 0 {
		earlier(s.keptUntil())
	} else if s.asked.Recheck() > 0 {
		if !s.doubt.IsZero() {
			earlier(s.until())
		}
		if !s.checking {
			earlier(s.nextCheck)
		}
	}
	if next.IsZero() {
		s.timer.Stop()
		return
	}
	s.timer.Reset(max(0, next.Sub(now)))
}

// wake does what is due for a session. The timer may be early or late.
func (x *externals) wake(s *session) {
	x.mu.Lock()
	if x.closed || s.dropped {
		x.mu.Unlock()
		return
	}
	now := time.Now()
	var why Ended
	followed := len(s.followers) > 0
	switch {
	case !s.expires.IsZero() && !now.Before(s.expires):
		why = EndedExpired
	case !followed:
		if kept := s.keptUntil(); !kept.IsZero() && !now.Before(kept) {
			x.drop(s)
		}
	case s.asked.Recheck() <= 0:
	case !s.doubt.IsZero() && !now.Before(s.until()):
		why = EndedUnconfirmed
	case !s.checking && !now.Before(s.nextCheck):
		s.checking = true
		if s.doubt.IsZero() {
			s.doubt = now
		}
		x.running.Add(1)
		go func() {
			defer x.running.Done()
			x.recheck(s)
		}()
	}
	var followers []*follower
	if why != "" {
		followers = x.end(s, why)
	}
	x.schedule(s, now)
	x.mu.Unlock()
	tell(followers, why)
}

// recheck asks the provider again about a session that is followed.
func (x *externals) recheck(s *session) {
	x.mu.Lock()
	value, until, dropped := s.value, s.until(), s.dropped
	x.mu.Unlock()
	if dropped {
		return
	}
	ctx, cancel := context.WithDeadline(x.ctx, until)
	defer cancel()
	select {
	case x.rechecks <- struct{}{}:
	case <-ctx.Done():
		x.mu.Lock()
		defer x.mu.Unlock()
		s.checking = false
		if !x.closed {
			x.schedule(s, time.Now()) // ends it, unless a request has confirmed it meanwhile
		}
		return
	}
	external, err := x.askOne(s.asked, value, s.namespace)
	<-x.rechecks
	var entry *token.Entry
	var g *grant
	if err == nil {
		entry, g = x.admit(external)
	}

	x.mu.Lock()
	s.checking = false
	if x.closed || s.dropped {
		x.mu.Unlock()
		return
	}
	now := time.Now()
	var why Ended
	switch {
	case err == nil && g == s.grant:
		s.confirm(external, entry, now)
	case err == nil:
		why = EndedPolicies
	case errors.Is(err, ErrDenied):
		why = EndedRevoked
		x.denied.add(s.key, now)
	case s.doubt.IsZero(): // a request has confirmed it meanwhile
	case now.Sub(s.doubt) >= s.asked.Patience():
		why = EndedUnconfirmed
	default:
		s.nextCheck = now.Add(min(max(s.asked.Recheck()/4, retryFirst), retryMost))
		x.log.Debug("A token in use could not be confirmed; trying again.", "provider", s.provider, "error", err)
	}
	var followers []*follower
	if why != "" {
		followers = x.end(s, why)
	}
	x.schedule(s, now)
	x.mu.Unlock()
	tell(followers, why)
}

// end makes a session invalid and returns who has to be told. mu is held.
func (x *externals) end(s *session, why Ended) []*follower {
	followers := keys(s.followers)
	s.over = why
	x.drop(s)
	return followers
}

// drop forgets a session with its token. mu is held.
func (x *externals) drop(s *session) {
	s.value, s.dropped = "", true
	s.timer.Stop()
	x.idle.remove(s)
	if x.sessions[s.key] == s {
		delete(x.sessions, s.key)
	}
}

// ended says whether a session is known to be not valid any more.
func (x *externals) ended(s *session) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return s.over != ""
}

// follow adds a follower and returns why the session has ended already, if it has.
func (x *externals) follow(s *session, f *follower) Ended {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case s.over != "":
		return s.over
	case s.dropped:
		return EndedUnconfirmed // too long ago, and the token is not there any more
	}
	if s.followers == nil {
		s.followers = make(map[*follower]struct{}, 1)
	}
	s.followers[f] = struct{}{}
	x.idle.remove(s)
	x.schedule(s, time.Now())
	return ""
}

func (x *externals) unfollow(s *session, f *follower) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, ok := s.followers[f]; !ok {
		return
	}
	delete(s.followers, f)
	if len(s.followers) == 0 && !s.dropped {
		now := time.Now()
		x.touch(s, now)
		x.schedule(s, now)
	}
}

// idleSessions are those that nobody follows, by when they were used. The zero value
// is empty.
type idleSessions struct{ order list.List }

func (i *idleSessions) len() int { return i.order.Len() }

// use adds a session, or makes it the last one to be removed.
func (i *idleSessions) use(s *session) {
	if s.idle == nil {
		s.idle = i.order.PushBack(s)
	} else {
		i.order.MoveToBack(s.idle)
	}
}

func (i *idleSessions) oldest() *session { return i.order.Front().Value.(*session) }

func (i *idleSessions) remove(s *session) {
	if s.idle != nil {
		i.order.Remove(s.idle)
		s.idle = nil
	}
}
