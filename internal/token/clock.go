package token

import (
	"context"
	"errors"
	"time"
)

const (
	// claimPatience is how long an expired token waits for the bucket to say which
	// node ended it before it ends regardless, and outrunPatience for the change of
	// another node that came before.
	claimPatience  = 50 * time.Millisecond
	outrunPatience = 40 * time.Millisecond
	// maxNap is how long the clock sleeps at most, because wall clocks jump.
	maxNap = time.Second
)

// clock ends tokens when their time is up.
func (s *Store) clock(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.rearm:
		}
		timer.Reset(s.expire())
	}
}

// expire does what is due and returns when to look again.
//
// Lookup has refused the tokens already. Which node ends one is decided by who
// removes its key, because only that node reports it; but who follows the token
// cannot wait for long.
func (s *Store) expire() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for len(s.due) > 0 && !now.Before(s.due[0].due) {
		r := s.due[0]
		if r.claim == unclaimed {
			r.claim = claiming
			s.schedule(r, now.Add(claimPatience))
			s.jobs.add(job{id: r.id, revision: r.revision, claim: true})
			continue
		}
		s.expired(r, true, !r.marked) // rather told by two nodes than by none
	}
	nap := maxNap
	if len(s.due) > 0 {
		nap = min(nap, s.due[0].due.Sub(now))
	}
	s.armed = now.Add(nap)
	s.wake()
	return nap
}

// expired ends r. lapsed: while it is not known whether the bucket still has it.
func (s *Store) expired(r *record, local, lapsed bool) {
	if !r.marked {
		s.ended[r.id] = &ended{revision: r.revision, accessor: r.entry.Accessor, since: s.now(), own: local, lapsed: lapsed, queued: r.claim == claiming}
	}
	s.finish(r, Expired, local)
}

// claimed takes the answer of the bucket to a claim.
func (s *Store) claimed(j job, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	r := s.byID[j.id]
	waits := r != nil && r.claim == claiming && r.revision == j.revision
	x := s.ended[j.id]
	if x != nil && x.revision != j.revision {
		x = nil
	}
	switch {
	case err == nil:
		if waits {
			s.expired(r, true, false)
			x = s.ended[j.id]
		}
		if x != nil {
			x.queued, x.removed = false, true
		}
	case errors.Is(err, errConflict):
		if x != nil {
			x.queued = false
		}
		switch {
		case waits && r.marked:
			s.expired(r, false, false)
		case waits:
			r.claim = outrun
			s.schedule(r, s.now().Add(outrunPatience))
		}
	default:
		if waits {
			s.expired(r, true, !r.marked)
			x = s.ended[j.id]
		}
		if x != nil {
			x.queued = false
			s.queue(j.id, x)
		}
	}
}
