package main

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// fan drives one stream of messages to n subscribers in a closed loop: at most
// window messages are in flight to a subscriber on average, so the rate is what
// the server sustains and nothing has to be dropped.
type fan struct {
	window  int64
	ready   sync.WaitGroup
	readers sync.WaitGroup
	conns   []net.Conn
	counts  []counter
	closing atomic.Bool
	failed  atomic.Pointer[error]
}

type counter struct {
	atomic.Int64
	_ [56]byte // a cache line each
}

func newFan(n, window int) *fan {
	f := &fan{window: int64(window), counts: make([]counter, n)}
	f.ready.Add(n)
	return f
}

// reader runs read for connection i; read calls count with the number of
// messages that arrived, and f.ready.Done once when the subscription is live.
func (f *fan) reader(i int, conn net.Conn, read func(count func(int)) error) {
	f.conns = append(f.conns, conn)
	c := &f.counts[i]
	f.readers.Go(func() {
		if err := read(func(n int) { c.Add(int64(n)) }); err != nil && !f.closing.Load() {
			err = fmt.Errorf("subscriber %d: %w", i, err)
			f.failed.CompareAndSwap(nil, &err)
		}
	})
}

func (f *fan) awaitReady(ctx context.Context) error {
	done := make(chan struct{})
	go func() { f.ready.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(30 * time.Second):
		return fmt.Errorf("not all subscriptions became live")
	}
}

func (f *fan) received() (sum int64) {
	for i := range f.counts {
		sum += f.counts[i].Load()
	}
	return sum
}

// drive publishes for d as fast as the window allows and returns deliveries per
// second. publish sends k messages, at least half a window, so that there is as
// much for each write as the bare loop has. Every message must arrive at everybody,
// or the measurement is an error.
func (f *fan) drive(ctx context.Context, d time.Duration, publish func(k int) error) (float64, error) {
	n := int64(len(f.counts))
	before := f.received()
	start, published := time.Now(), int64(0)
	for time.Since(start) < d && ctx.Err() == nil {
		room := (f.received()-before)/n + f.window - published
		if room < max(1, f.window/2) {
			runtime.Gosched()
			time.Sleep(50 * time.Microsecond)
			continue
		}
		if err := publish(int(room)); err != nil {
			return 0, err
		}
		published += room
		if err := f.failed.Load(); err != nil {
			return 0, *err
		}
	}
	want := published * n
	for deadline := time.Now().Add(20 * time.Second); f.received()-before < want; time.Sleep(time.Millisecond) {
		if err := f.failed.Load(); err != nil {
			return 0, *err
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return 0, fmt.Errorf("%d of %d deliveries are missing", want-f.received()+before, want)
		}
	}
	return float64(want) / time.Since(start).Seconds(), nil
}

func (f *fan) close() {
	f.closing.Store(true)
	for _, c := range f.conns {
		c.Close()
	}
	f.readers.Wait()
}
