package journal

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/tocsin-events/tocsin/event"
)

func unit(size int) []*event.Event {
	e := numbered(1)
	e.Data = make([]byte, size)
	return []*event.Event{e}
}

// drain does what the writer does, without a disk.
func drain(q *queue) (records int) {
	for b := q.take(1); b != nil; b = q.take(1) {
		records++
		q.finish(b, uint64(records), 0, nil)
	}
	return records
}

func TestQueuePushback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 10 << 10
		q := newQueue(most, 4<<10)
		for range 5 {
			if _, err := q.put(t.Context(), 2<<10, unit(2<<10-100)); err != nil {
				t.Fatal(err)
			}
		}
		if q.pending > most {
			t.Errorf("%d bytes pending", q.pending)
		}
		// These wait, also the last, which would fit: first come first served.
		accepted := make(chan struct{}, 10)
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := q.put(ctx, 9<<10, unit(9<<10-100))
			gaveUp <- err
		}()
		synctest.Wait()
		for _, size := range []int{3 << 10, 1 << 10} {
			go func() {
				if _, err := q.put(t.Context(), size, unit(size-100)); err != nil {
					t.Error(err)
				}
				accepted <- struct{}{}
			}()
			synctest.Wait()
		}
		if len(accepted) != 0 {
			t.Error("a producer did not wait")
		}
		cancel()
		err := <-gaveUp
		var pushback *PushbackError
		if !errors.As(err, &pushback) || !errors.Is(err, ErrBusy) || !errors.Is(err, ErrPushback) ||
			!errors.Is(err, context.Canceled) || pushback.RetryAfter <= 0 || pushback.Unknown {
			t.Errorf("gave up with %v", err)
		}
		drain(q)
		synctest.Wait()
		<-accepted
		<-accepted
		drain(q)
		if q.pending != 0 || len(q.waiters) != 0 || !q.idle() {
			t.Errorf("at the end %d bytes pending, %d waiters", q.pending, len(q.waiters))
		}
	})
}

func TestQueueRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(4<<10, 4<<10)
		receipt, err := q.put(t.Context(), 3<<10, unit(2<<10))
		if err != nil {
			t.Fatal(err)
		}
		waiter := make(chan error, 1)
		go func() {
			_, err := q.put(t.Context(), 3<<10, unit(2<<10))
			waiter <- err
		}()
		synctest.Wait()
		full := &PushbackError{kind: ErrFull, RetryAfter: downRetry}
		if n := q.refuse(full, full); n != 1 {
			t.Errorf("%d events failed", n)
		}
		if _, err := receipt.Wait(t.Context()); !errors.Is(err, ErrFull) {
			t.Errorf("accepted event: %v", err)
		}
		if err := <-waiter; !errors.Is(err, ErrFull) {
			t.Errorf("waiting event: %v", err)
		}
		if _, err := q.put(t.Context(), 100, unit(1)); !errors.Is(err, ErrFull) {
			t.Errorf("new event: %v", err)
		}
		q.accept()
		if receipt, err = q.put(t.Context(), 1<<10, unit(1)); err != nil {
			t.Errorf("after accept: %v", err)
		}
		// Closing keeps what was accepted, and is for ever.
		q.refuse(ErrClosed, nil)
		q.accept()
		if _, err := q.put(t.Context(), 100, unit(1)); !errors.Is(err, ErrClosed) {
			t.Errorf("after close: %v", err)
		}
		if n := drain(q); n != 1 {
			t.Errorf("%d records after close", n)
		}
		if _, err := receipt.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if q.pending != 0 {
			t.Errorf("%d bytes pending", q.pending)
		}
	})
}

// TestQueueWake checks that the writer is woken exactly when it asked for it.
func TestQueueWake(t *testing.T) {
	q := newQueue(1<<20, 8<<10)
	put := func(size int) {
		t.Helper()
		if _, err := q.put(t.Context(), size, unit(size-100)); err != nil {
			t.Fatal(err)
		}
	}
	woken := func() bool {
		select {
		case <-q.wake:
			return true
		default:
			return false
		}
	}
	put(1 << 10)
	if woken() {
		t.Error("woken before it asked")
	}
	if q.take(4<<10) != nil {
		t.Error("got a block that is too small")
	}
	put(1 << 10)
	if woken() {
		t.Error("woken for too little")
	}
	put(3 << 10)
	if !woken() {
		t.Error("not woken for enough")
	}
	if b := q.take(4 << 10); b == nil || b.count != 3 {
		t.Errorf("took %v", b)
	}
	if q.take(1) != nil {
		t.Error("took an empty block")
	}
	put(200)
	if !woken() {
		t.Error("not woken for the first event")
	}
}

func TestErrors(t *testing.T) {
	for _, kind := range []error{ErrFull, ErrUnavailable, ErrBusy} {
		err := fmt.Errorf("wrapped: %w", &PushbackError{Reason: "why", RetryAfter: 1, kind: kind, cause: context.Canceled})
		if !errors.Is(err, kind) || !errors.Is(err, ErrPushback) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v does not wrap its kind, ErrPushback and the cause", err)
		}
	}
}
