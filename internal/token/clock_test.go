package token

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := openFake(t, b)
		_, a := s.create(Request{TTL: time.Hour})
		_, child := s.create(Request{Parent: a.ID, TTL: 2 * time.Hour})
		_, first := s.create(Request{TTL: 59 * time.Minute})
		_, own := s.create(Request{Parent: a.ID, TTL: 30 * time.Minute})
		_, renewed := s.create(Request{TTL: time.Hour})
		s.log.take()
		at := func(after time.Duration, expected ...string) {
			t.Helper()
			time.Sleep(time.Until(a.Created.Add(after)))
			synctest.Wait()
			want(t, fmt.Sprint("told after ", after), fmt.Sprint(describe(s.log.take())), fmt.Sprint(expected))
		}
		expired := func(e *Entry) string { return fmt.Sprintf("%.4s expired, local true", e.ID) }
		at(30*time.Minute - 1)
		at(30*time.Minute, expired(own))
		if _, _, err := s.Renew(t.Context(), renewed.ID, 0); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.log.take()
		at(59*time.Minute, expired(first))
		at(time.Hour - 1)
		if !s.alive(a.ID) || !s.alive(child.ID) {
			t.Error("a token ended too early")
		}
		at(time.Hour, expired(a), fmt.Sprintf("%.4s revoked, local true", child.ID))
		at(90*time.Minute-1, []string{}...)
		at(90*time.Minute, expired(renewed))
		synctest.Wait()
		want(t, "left in the bucket", len(b.values()), 0)
		want(t, "left in memory", s.Stats(), Stats{Tokens: 1})
		want(t, "left in the heap", len(s.due), 0)
	})
}

// TestExpiryWithoutBucket ends tokens in time although the bucket hangs, fails, or
// the clock of the store is late, and removes them once it can.
func TestExpiryWithoutBucket(t *testing.T) {
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newFake()
			s := openFake(t, b)
			_, a := s.create(Request{TTL: time.Minute})
			_, child := s.create(Request{Parent: a.ID})
			s.log.take()
			release := make(chan struct{})
			b.setFault(func(call, _ string) error {
				if hang {
					<-release
				}
				return errFake
			})
			time.Sleep(time.Minute)
			if s.alive(a.ID) {
				t.Error("alive when its time was up")
			}
			time.Sleep(claimPatience)
			synctest.Wait()
			want(t, "told", fmt.Sprint(describe(s.log.take())),
				fmt.Sprintf("[%.4s expired, local true %.4s revoked, local true]", a.ID, child.ID))
			time.Sleep(time.Hour)
			if err := s.Health(); (err == nil) != hang { // while it hangs nobody knows better
				t.Error("health:", err)
			}
			want(t, "to be removed", s.Stats().Removing, 2)
			if calls := b.called("remove"); calls > 4*int(time.Hour/retryMost)+100 {
				t.Errorf("the bucket was asked %d times in an hour", calls)
			}
			b.setFault(nil)
			close(release)
			time.Sleep(time.Minute)
			want(t, "left in the bucket", len(b.values()), 0)
			want(t, "left in memory", s.Stats(), Stats{Tokens: 1})
			wantErr(t, "health", s.Health(), nil)
			want(t, "told twice", len(s.log.take()), 0)
		})
	}
}

// TestExpiryOfTwo has two stores end the same tokens: both at once, and each token is
// reported by one.
func TestExpiryOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		b.setFault(func(call, _ string) error { // as slow as a disk
			if call == "remove" {
				time.Sleep(time.Duration(rand.IntN(int(3 * time.Millisecond))))
			}
			return nil
		})
		one, two := openFake(t, b), openFake(t, b)
		var ids []ID
		for i := range 20 {
			_, e := one.create(Request{TTL: time.Minute + time.Duration(i)*20*time.Millisecond})
			ids = append(ids, e.ID)
		}
		time.Sleep(2 * time.Minute)
		for _, id := range ids {
			a, z := one.log.ends(t, id)[id], two.log.ends(t, id)[id]
			if a.End != Expired || z.End != Expired || a.Local == z.Local {
				t.Errorf("%.4s: %v and %v, local %t and %t", id, a.End, z.End, a.Local, z.Local)
			}
		}
		want(t, "left in the bucket", len(b.values()), 0)
	})
}

// TestRenewedElsewhere has a token renewed on one node a moment before both want to
// end it, and the news late. When it is too late, it ends and comes back.
func TestRenewedElsewhere(t *testing.T) {
	for _, tt := range []struct {
		delay time.Duration
		late  bool
	}{{0, false}, {10 * time.Millisecond, false}, {30 * time.Millisecond, false}, {time.Second, true}} {
		synctest.Test(t, func(t *testing.T) {
			b := newFake()
			one, two := openFake(t, b), openFake(t, b)
			_, e := one.create(Request{TTL: time.Minute})
			_, child := one.create(Request{Parent: e.ID})
			synctest.Wait()
			one.log.take()
			two.log.take()
			b.delay = tt.delay
			time.Sleep(time.Minute - time.Millisecond)
			_, _, err := two.Renew(t.Context(), e.ID, time.Hour)
			wantErr(t, fmt.Sprint("renewal with a delay of ", tt.delay), err, nil)
			time.Sleep(time.Minute)
			for i, s := range []*testStore{one, two} {
				want(t, "alive", s.alive(e.ID) && s.alive(child.ID), true)
				told := fmt.Sprintf("%.4s is, local %t", e.ID, i == 1)
				if tt.late {
					told = fmt.Sprintf("%.4s expired, local true %.4s revoked, local true %s %.4s is, local %t", e.ID, child.ID, told, child.ID, i == 0)
				}
				want(t, fmt.Sprint("told with a delay of ", tt.delay), fmt.Sprint(describe(s.log.take())), "["+told+"]")
			}
			want(t, "in the bucket", len(b.values()), 2)
			want(t, "to be removed", one.Stats().Removing+two.Stats().Removing, 0)
		})
	}
}

func TestWallClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var offset time.Duration
		jump := func(by time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			offset += by
		}
		s := &testStore{t: t, log: newLog()}
		var err error
		s.Store, err = open(t.Context(), Config{Key: testKey, Changed: s.log.changed, Logger: slog.New(slog.DiscardHandler)}, newFake(), func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Round(0).Add(offset)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		_, e := s.create(Request{TTL: time.Hour})
		_, longer := s.create(Request{TTL: 3 * time.Hour})
		s.log.take()
		jump(time.Hour)
		if s.alive(e.ID) {
			t.Error("alive after the clock was put forward")
		}
		time.Sleep(maxNap)
		synctest.Wait()
		want(t, "told", fmt.Sprint(describe(s.log.take())), fmt.Sprintf("[%.4s expired, local true]", e.ID))
		jump(-24 * time.Hour)
		if s.alive(e.ID) {
			t.Error("alive again after the clock was put back")
		}
		time.Sleep(3 * time.Hour)
		if !s.alive(longer.ID) {
			t.Error("ended before its time by the clock")
		}
		jump(24 * time.Hour)
		time.Sleep(maxNap)
		synctest.Wait()
		want(t, "told", fmt.Sprint(describe(s.log.take())), fmt.Sprintf("[%.4s expired, local true]", longer.ID))
	})
}

// TestExpiredWhileClosed reports what ended while no store was open.
func TestExpiredWhileClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := openFake(t, b)
		value, e := s.create(Request{TTL: time.Minute})
		_, child := s.create(Request{Parent: e.ID})
		_ = s.Close()
		time.Sleep(time.Hour)
		next := openFake(t, b)
		if _, err := next.Lookup(value); err == nil {
			t.Error("an expired token is found")
		}
		synctest.Wait()
		want(t, "told", fmt.Sprint(describe(next.log.take())),
			fmt.Sprintf("[%.4s expired, local true %.4s revoked, local true]", e.ID, child.ID))
		want(t, "left in the bucket", len(b.values()), 0)
	})
}

// TestDueHeap compares the order of expiry with a sorted list.
func TestDueHeap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	tab := newTable()
	now := time.Now()
	var all []*record
	for i := range 500 {
		r := &record{id: ID{byte(i), byte(i >> 8), 1}, entry: &Entry{Accessor: fmt.Sprint(i), Expires: now.Add(time.Duration(random.IntN(1000)))}}
		tab.add(r)
		all = append(all, r)
	}
	for range 2000 {
		i := random.IntN(len(all))
		switch random.IntN(3) {
		case 0:
			e := *all[i].entry
			e.Expires = now.Add(time.Duration(random.IntN(1000)))
			tab.replace(all[i], &e)
		case 1:
			e := *all[i].entry
			e.Expires = time.Time{}
			tab.replace(all[i], &e)
		case 2:
			if len(all) > 100 {
				tab.cut(all[i])
				all = slices.Delete(all, i, i+1)
			}
		}
	}
	var due []time.Time
	for _, r := range all {
		if !r.entry.Expires.IsZero() {
			due = append(due, r.entry.Expires)
		}
	}
	slices.SortFunc(due, time.Time.Compare)
	want(t, "in the heap", len(tab.due), len(due))
	for _, d := range due {
		r := tab.due[0]
		if !r.due.Equal(d) {
			t.Fatalf("due at %v, want %v", r.due, d)
		}
		tab.cut(r)
	}
	want(t, "at the end", len(tab.due), 0)
}
