package plugin

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errTimeout means that a call was not over in time.
var errTimeout = errors.New("it has not answered in time")

// grace is how long a call that is to end may take to notice that.
const grace = time.Second

// await runs call, which may not heed any context, and returns what it does. When it has not come
// back in time, or ctx ends, cancel is called, and after a moment it stays behind as a stray: its
// result is given to late.
func await[T any](ctx context.Context, s *Source, timeout time.Duration, cancel func(), call func() (T, error), late func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	leave := s.strays.add()
	var mu sync.Mutex
	left := false // nobody waits for the result
	go func() {
		defer leave()
		v, err := call()
		mu.Lock()
		gone := left
		if !gone {
			done <- result{v, err}
		}
		mu.Unlock()
		if gone && err == nil && late != nil {
			late(v)
		}
	}()
	t := time.NewTimer(timeout)
	defer t.Stop()
	why := errTimeout
	select {
	case r := <-done:
		return r.value, r.err
	case <-t.C:
	case <-ctx.Done():
		why = ctx.Err()
	}
	cancel()
	t.Reset(grace)
	select {
	case r := <-done:
		if r.err == nil && late != nil {
			late(r.value)
		}
	case <-t.C:
		mu.Lock()
		left = true
		mu.Unlock()
		select {
		case r := <-done: // at the same moment
			if r.err == nil && late != nil {
				late(r.value)
			}
		default:
		}
	}
	var none T
	return none, why
}

// strays are calls that run. Those of a run that is over keep the next one from starting.
type strays struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n is 0; nil: nobody waits
}

func (s *strays) add() (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.n--; s.n == 0 && s.none != nil {
			close(s.none)
			s.none = nil
		}
	}
}

// idle is closed once there are none.
func (s *strays) idle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		c := make(chan struct{})
		close(c)
		return c
	}
	if s.none == nil {
		s.none = make(chan struct{})
	}
	return s.none
}
