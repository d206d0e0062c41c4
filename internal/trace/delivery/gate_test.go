package delivery

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoff(t *testing.T) {
	b := Backoff{First: time.Second, Most: 10 * time.Second}
	for n, most := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 40: 10 * time.Second, 1000: 10 * time.Second} {
		var longest time.Duration
		for range 2000 {
			w := b.wait(n)
			if w < 0 || w > most {
				t.Fatalf("failure %d: %v", n, w)
			}
			longest = max(longest, w)
		}
		if longest < most*9/10 {
			t.Errorf("failure %d: never more than %v of %v", n, longest, most)
		}
	}
}

// TestGate: after a failure one sender at a time tries, and a success lets all go.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(Backoff{First: time.Second, Most: 4 * time.Second})
		ctx, stopping := t.Context(), make(chan struct{})
		first, _ := g.enter(ctx, stopping)
		second, _ := g.enter(ctx, stopping)
		first.failed(0, "down")
		second.failed(0, "down") // at the same time: counts once
		if o := g.outage(); o.failures != 1 || o.reason != "down" {
			t.Fatalf("%+v", o)
		}
		var inside, passed atomic.Int64
		for range 5 {
			go func() {
				p, ok := g.enter(ctx, stopping)
				if !ok {
					t.Error("not let in")
				}
				if inside.Add(1) > 1 && g.outage().failures > 0 {
					t.Error("two try at once")
				}
				time.Sleep(time.Second)
				inside.Add(-1)
				passed.Add(1)
				p.succeeded()
			}()
		}
		time.Sleep(2100 * time.Millisecond) // at most the back-off, and the first
		synctest.Wait()
		if passed.Load() < 1 {
			t.Error("nobody tries")
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if n := passed.Load(); n != 5 {
			t.Errorf("%d of 5", n)
		}
		if o := g.outage(); o.failures != 0 {
			t.Errorf("%+v", o)
		}
	})
}

func TestGateRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(Backoff{First: time.Millisecond, Most: time.Millisecond})
		p, _ := g.enter(t.Context(), nil)
		start := time.Now()
		p.failed(time.Minute, "slow down")
		p, _ = g.enter(t.Context(), nil)
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("waited %v", waited)
		}
		if outage, failures := p.succeeded(); outage != time.Minute || failures != 1 {
			t.Errorf("%v, %d", outage, failures)
		}
	})
}

func TestGateStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(Backoff{First: time.Hour, Most: time.Hour})
		p, _ := g.enter(t.Context(), nil)
		p.failed(time.Hour, "down")
		stopping := make(chan struct{})
		go func() {
			time.Sleep(time.Second)
			close(stopping)
		}()
		if _, ok := g.enter(t.Context(), stopping); ok {
			t.Error("let in although it stops")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, ok := g.enter(ctx, nil); ok {
			t.Error("let in although ctx has ended")
		}
	})
}
