package token

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// removers is how many goroutines remove ended tokens from the bucket.
	removers = 4
	// retryFirst and retryMost bound their pauses after failures.
	retryFirst = 20 * time.Millisecond
	retryMost  = 5 * time.Second
)

// job is one ended token to be removed from the bucket.
type job struct {
	id ID
	// claim: to find out whether this node is the one to end it, at this revision.
	claim    bool
	revision uint64
}

// jobs is a queue of jobs, claims first. There is at most one for each token that
// has ended, and one claim for each that expires.
type jobs struct {
	mu     sync.Mutex
	some   sync.Cond
	claims []job
	others []job
	closed bool
}

func (q *jobs) init() { q.some.L = &q.mu }

func (q *jobs) add(j job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.claim {
		q.claims = append(q.claims, j)
	} else {
		q.others = append(q.others, j)
	}
	q.some.Signal()
}

// next waits for a job; false: there will be none.
func (q *jobs) next() (j job, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.claims) == 0 && len(q.others) == 0 && !q.closed {
		q.some.Wait()
	}
	if q.closed {
		return job{}, false
	}
	list := &q.claims
	if len(*list) == 0 {
		list = &q.others
	}
	j, *list = (*list)[0], (*list)[1:]
	return j, true
}

func (q *jobs) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.some.Broadcast()
}

// queue has an ended token removed from the bucket. The caller has the lock.
func (s *Store) queue(id ID, x *ended) {
	if !x.queued {
		x.queued = true
		s.jobs.add(job{id: id})
	}
}

// remove removes ended tokens from the bucket until ctx ends.
func (s *Store) remove(ctx context.Context) {
	pause, failures := retryFirst, 0
	for {
		j, ok := s.jobs.next()
		if !ok {
			return
		}
		var err error
		if j.claim {
			err = s.bucket.remove(ctx, j.id.String(), j.revision)
			s.claimed(j, err)
		} else {
			err = s.removeEnded(ctx, j.id)
		}
		switch {
		case err == nil || errors.Is(err, errConflict):
			pause, failures = retryFirst, 0
			continue
		case ctx.Err() != nil:
			return
		case failures == 0:
			s.log.Warn("tokens: an ended token cannot be removed from the bucket; trying again", "error", err)
		}
		failures++
		sleep(ctx, pause)
		pause = min(2*pause, retryMost)
	}
}

// removeEnded removes what the bucket has of an ended token, after its children
// were written again that live on.
func (s *Store) removeEnded(ctx context.Context, id ID) error {
	s.mu.Lock()
	x := s.ended[id]
	if x == nil {
		s.mu.Unlock()
		return nil
	}
	revision, adopt, keep := x.revision, x.adopt, x.root || x.removed || x.gone
	s.mu.Unlock()

	done := 0
	var err error
	for ; done < len(adopt) && err == nil; done++ {
		err = s.adopt(ctx, adopt[done], id)
	}
	if err != nil {
		done--
	}
	removed := false
	if err == nil && !keep {
		err = s.bucket.remove(ctx, id.String(), revision)
		removed = err == nil
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	x.queued = false
	x.adopt = x.adopt[done:]
	if now := s.ended[id]; now != x { // the bucket was read anew
		if now != nil {
			now.queued = false
			s.queue(id, now)
		}
		return err
	}
	x.removed = x.removed || removed
	switch {
	case x.gone && len(x.adopt) == 0:
		delete(s.ended, id)
	case errors.Is(err, errConflict) && x.revision == revision:
		x.since = s.now() // the watch will tell what it is now
	case err == nil && x.settled():
	default:
		s.queue(id, x)
	}
	return err
}

// adopt writes a child of an ended token again, without that parent.
func (s *Store) adopt(ctx context.Context, child, parent ID) error {
	for {
		s.mu.RLock()
		r := s.byID[child]
		if r == nil || r.stored != parent {
			s.mu.RUnlock()
			return nil
		}
		v := content{by: s.node, entry: r.entry}
		revision := r.revision
		s.mu.RUnlock()
		b, err := v.encode(s.now())
		if err != nil {
			return err
		}
		written, err := s.bucket.update(ctx, child.String(), b, revision)
		switch {
		case err == nil:
			return s.await(ctx, written)
		case !errors.Is(err, errConflict):
			return err
		}
		// Somebody has changed it who may not have known yet.
		if err := s.awaitOther(ctx, child, revision); err != nil {
			return err
		}
	}
}
