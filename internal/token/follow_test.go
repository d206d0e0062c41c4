package token

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestWatchFails has one store miss changes in several ways, and catch up.
func TestWatchFails(t *testing.T) {
	for name, tt := range map[string]struct {
		fail, heal func(b *fakeBucket)
		within     time.Duration // of healing
		noticed    bool          // by Health, while it lasts
	}{
		"watches end": {
			fail: func(b *fakeBucket) {
				b.setFault(func(call, _ string) error { return map[string]error{"watch": errFake}[call] })
				b.breakWatches()
			},
			heal:    func(b *fakeBucket) { b.setFault(nil) },
			within:  reloadMost + 100*time.Millisecond,
			noticed: true,
		},
		"watches are silent": {
			fail:   func(b *fakeBucket) { b.deafen() },
			heal:   func(*fakeBucket) {},
			within: probeEvery + 2*probeGrace + 100*time.Millisecond,
		},
		"bucket is away": {
			fail: func(b *fakeBucket) {
				b.deafen()
				b.setFault(func(call, _ string) error {
					return map[string]error{"last": errFake, "watch": errFake}[call]
				})
			},
			heal:    func(b *fakeBucket) { b.setFault(nil) },
			within:  2*probeEvery + 100*time.Millisecond,
			noticed: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newFake()
				s := openFake(t, b)
				ids := s.tree(2)
				_, orphaned := s.create(Request{})
				_, orphan := s.create(Request{Parent: orphaned.ID})
				_, used := s.create(Request{NumUses: 9})
				_, lost := s.create(Request{})
				_, short := s.create(Request{TTL: 2 * time.Minute})
				_, renewed := s.create(Request{TTL: 3 * time.Minute})
				root, _ := s.Lookup("root")
				_, ofRoot := s.create(Request{Parent: root.ID})
				s.log.take()

				tt.fail(b)
				time.Sleep(10100 * time.Millisecond)
				if err := s.Health(); (err != nil) != tt.noticed {
					t.Error("health while the watch is broken:", err)
				}

				// Another node goes on by itself.
				other := openFake(t, &direct{fakeBucket: b})
				_, made := other.create(Request{})
				wantErr(t, "revoke", other.Revoke(t.Context(), ids[0]), nil)
				wantErr(t, "revoke orphan", other.RevokeOrphan(t.Context(), orphaned.ID), nil)
				wantErr(t, "use", other.Use(t.Context(), used.ID), nil)
				wantErr(t, "revoke", other.Revoke(t.Context(), root.ID), nil)
				if _, _, err := other.Renew(t.Context(), renewed.ID, time.Hour); err != nil {
					t.Error(err)
				}
				b.write(lost.ID.String(), nil, jetstream.KeyValueDelete, func(*fakeEntry) bool { return true })
				if tt.noticed {
					time.Sleep(4 * time.Minute)
					want(t, "alive by the old expiry", s.alive(renewed.ID), false)
				}
				_ = other.Close()

				tt.heal(b)
				time.Sleep(tt.within)
				synctest.Wait()
				wantErr(t, "health", s.Health(), nil)
				for _, id := range append(ids, lost.ID, orphaned.ID, root.ID, ofRoot.ID) {
					if s.alive(id) {
						t.Errorf("%.4s is alive", id)
					}
				}
				if e, err := s.ByID(orphan.ID); err != nil || !e.Orphan() {
					t.Error("orphan:", e, err)
				}
				if e, err := s.ByID(used.ID); err != nil || e.NumUses != 8 {
					t.Error("used:", e, err)
				}
				if !s.alive(made.ID) || !s.alive(renewed.ID) {
					t.Error("the new one or the renewed one is not known")
				}
				if _, err := s.Lookup("root"); err == nil {
					t.Error("the root token is still known")
				}
				ends := make(map[ID]End)
				for _, c := range s.log.take() {
					if ends[c.ID] != 0 && c.ID != renewed.ID { // that was heard of too late
						t.Errorf("told after its end: %v", describe([]Change{c}))
					}
					if c.Entry != nil && c.Local || c.End == Revoked && c.Local {
						t.Errorf("told as its own: %v", describe([]Change{c}))
					}
					ends[c.ID] = c.End
				}
				for id, end := range map[ID]End{ids[0]: Revoked, ids[1]: Revoked, ids[2]: Revoked, orphaned.ID: Revoked,
					orphan.ID: 0, lost.ID: Forgotten, used.ID: 0, made.ID: 0, root.ID: Revoked, ofRoot.ID: Revoked} {
					if got, told := ends[id]; !told {
						// What was removed before it could be read has no reason.
						t.Errorf("%.4s was not told", id)
					} else if got != end && !(end == Revoked && got == Forgotten) {
						t.Errorf("%.4s: ended as %v, want %v", id, got, end)
					}
				}
				if tt.noticed {
					want(t, "short", ends[short.ID], Expired)
				}
				// What was written by nobody while it was broken is still followed.
				_, e := s.create(Request{})
				wantErr(t, "revoke", s.Revoke(t.Context(), e.ID), nil)
			})
		})
	}
}

// direct is a bucket for another node: the faults are not its.
type direct struct{ *fakeBucket }

func (d *direct) last(context.Context) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.revision, nil
}

func (d *direct) watch(ctx context.Context) (jetstream.KeyWatcher, error) {
	return d.watchAs(ctx, true)
}

func TestOwnWriteNoticesSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := openFake(t, b)
		b.deafen()
		begin := time.Now()
		_, e := s.create(Request{})
		if took := time.Since(begin); took > time.Second {
			t.Errorf("a write took %v", took)
		}
		b.deafen()
		begin = time.Now()
		wantErr(t, "revoke", s.Revoke(t.Context(), e.ID), nil)
		if took := time.Since(begin); took > time.Second || s.alive(e.ID) {
			t.Errorf("a revocation took %v", took)
		}
	})
}

// TestNeverConfirmed returns with an error when a change is stored but never comes
// back.
func TestNeverConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := openFake(t, b)
		b.deafen()
		b.setFault(func(call, _ string) error { return map[string]error{"last": errFake, "watch": errFake}[call] })
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, _, _, err := s.Create(ctx, Request{})
		wantErr(t, "create", err, ErrUnavailable)
		wantErr(t, "create", err, context.DeadlineExceeded)
		_, _, _, err = s.Create(t.Context(), Request{})
		wantErr(t, "create without a deadline", err, ErrUnavailable)
		want(t, "waiters left", len(s.waiters), 0)
		b.setFault(nil)
		time.Sleep(2 * reloadMost)
		want(t, "tokens", s.Stats().Tokens, 3) // they were stored, nobody knows their values
	})
}

func TestRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := openFake(t, b)
		_, kept := s.create(Request{})
		_, gone := s.create(Request{})
		time.Sleep(time.Second)
		b.mu.Lock()
		delete(b.keys, gone.ID.String())
		b.revision--
		b.mu.Unlock()
		time.Sleep(probeEvery + 100*time.Millisecond)
		if !s.alive(kept.ID) || s.alive(gone.ID) {
			t.Error("the tokens are not those of the bucket")
		}
		_, e := s.create(Request{})
		if !s.alive(e.ID) {
			t.Error("a new token is not alive")
		}
	})
}

func TestMaxStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := openFake(t, b, func(c *Config) { c.MaxStale = time.Minute })
		value, e := s.create(Request{})
		time.Sleep(time.Hour)
		if _, err := s.Lookup(value); err != nil {
			t.Error(err)
		}
		b.setFault(func(string, string) error { return errFake })
		time.Sleep(time.Minute - time.Second)
		if _, err := s.Lookup(value); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		_, err := s.Lookup(value)
		wantErr(t, "lookup", err, ErrStale)
		_, err = s.ByAccessor(e.Accessor)
		wantErr(t, "by accessor", err, ErrStale)
		b.setFault(nil)
		time.Sleep(2 * time.Second)
		if _, err := s.Lookup(value); err != nil {
			t.Error(err)
		}
	})
}

// TestLoadStalls opens a store whose first watch delivers only a part.
func TestLoadStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := openFake(t, b)
		s.create(Request{})
		_ = s.Close()
		silent := &stalling{fakeBucket: b}
		begin := time.Now()
		_, err := open(t.Context(), Config{Key: testKey, Changed: func([]Change) {}}, silent, time.Now)
		if took := time.Since(begin); err == nil || took != loadStall {
			t.Errorf("%v after %v", err, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		_, err = open(ctx, Config{Key: testKey, Changed: func([]Change) {}}, silent, time.Now)
		wantErr(t, "open", err, context.DeadlineExceeded)
		want(t, "took", time.Since(begin), time.Second)
	})
}

// stalling never says that all was delivered.
type stalling struct{ *fakeBucket }

func (s *stalling) watch(ctx context.Context) (jetstream.KeyWatcher, error) {
	return s.watchAs(ctx, false)
}

// TestSlowListener has Changed block: nothing is lost or out of order, and the
// changes that pile up come at once.
func TestSlowListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		writer := openFake(t, b)
		release := make(chan struct{})
		var batches [][]Change
		openFake(t, b, func(c *Config) {
			c.Changed = func(changes []Change) {
				batches = append(batches, changes)
				<-release
			}
		})
		var ids []ID
		for range 100 {
			_, e := writer.create(Request{})
			ids = append(ids, e.ID)
			synctest.Wait()
		}
		want(t, "calls while one is busy", len(batches), 1)
		close(release)
		synctest.Wait()
		want(t, "calls", len(batches), 2)
		var told []ID
		for _, c := range slices.Concat(batches...) {
			told = append(told, c.ID)
		}
		if !slices.Equal(told, ids) {
			t.Error("the changes are not those that were made, in their order")
		}
	})
}

// TestAbandoned removes what the node that should have done it never did.
func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		var silent bool
		s := openFake(t, &failing{fakeBucket: b, fails: func(call string) bool { return silent && call == "remove" }})
		other := openFake(t, b)
		ids := s.tree(5)
		silent = true
		wantErr(t, "revoke", s.Revoke(t.Context(), ids[0]), nil)
		synctest.Wait()
		time.Sleep(abandonedAfter - time.Second)
		want(t, "left in the bucket", len(b.values()), 6)
		time.Sleep(abandonedAfter/4 + 2*time.Second)
		want(t, "left in the bucket", len(b.values()), 0)
		silent = false
		time.Sleep(2 * retryMost)
		for _, s := range []*testStore{s, other} {
			want(t, "in memory", s.Stats(), Stats{Tokens: 1})
		}
	})
}

// failing is a bucket that fails one node only.
type failing struct {
	*fakeBucket
	fails func(call string) bool
}

func (f *failing) remove(ctx context.Context, key string, revision uint64) error {
	if f.fails("remove") {
		return errFake
	}
	return f.fakeBucket.remove(ctx, key, revision)
}

// TestLateChildOfOrphanMaker has a child reach the bucket between the writing of the
// other children and the removal of the tombstone.
func TestLateChildOfOrphanMaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := openFake(t, b)
		_, p := s.create(Request{})
		late := s.hashes.id("late")
		b.setFault(func(call, key string) error {
			if call == "remove" && key == p.ID.String() {
				b.setFault(nil)
				v := content{by: "elsewhere", lineage: lineage{accessor: p.Accessor},
					entry: &Entry{ID: late, Accessor: "late", Created: time.Now(), Parent: p.ID}}
				raw, _ := v.encode(time.Now())
				b.create(t.Context(), late.String(), raw)
			}
			return nil
		})
		wantErr(t, "revoke orphan", s.RevokeOrphan(t.Context(), p.ID), nil)
		eventually(t, "all is settled", func() bool { return s.Stats() == Stats{Tokens: 2} && len(b.values()) == 1 })
		if e, err := s.ByID(late); err != nil || !e.Orphan() {
			t.Error(e, err)
		}
		if next := openFake(t, b); !next.alive(late) {
			t.Error("after a restart it is not alive")
		}
	})
}

// TestSecondLife makes a token of the same value as one that has ended, while the
// descendants of the first are still in the bucket: they stay ended.
func TestSecondLife(t *testing.T) {
	b := newFake()
	s := openFake(t, b)
	_, first := s.create(Request{Value: "the-same-value-twice"})
	_, child := s.create(Request{Parent: first.ID})
	b.setFault(func(call, key string) error {
		if call == "remove" && key == child.ID.String() {
			return errFake
		}
		return nil
	})
	wantErr(t, "revoke", s.Revoke(t.Context(), first.ID), nil)
	_, second := s.create(Request{Value: "the-same-value-twice"})
	want(t, "id", second.ID, first.ID)
	next := openFake(t, b)
	if !next.alive(second.ID) || next.alive(child.ID) || s.alive(child.ID) {
		t.Error("a child of the first life is one of the second")
	}
	b.setFault(nil)
	eventually(t, "it is removed", func() bool { return len(b.values()) == 1 })
}

// TestModel does random things on two stores of one bucket, whose watches fail now
// and then and which are opened anew, and compares with a plain list of tokens.
func TestModel(t *testing.T) {
	type token struct {
		accessor string
		parent   ID
		expires  time.Time
		uses     int
	}
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			b := newFake()
			stores := []*testStore{openFake(t, b), openFake(t, b)}
			model := make(map[ID]*token)
			var order []ID // all that ever were
			end := func(id ID) {
				ended := map[ID]bool{id: true}
				delete(model, id)
				for again := true; again; {
					again = false
					for id, m := range model {
						if ended[m.parent] {
							ended[id], again = true, true
							delete(model, id)
						}
					}
				}
			}
			tick := func() { // what expires ends in the order of time
				for {
					var first ID
					for id, m := range model {
						if m.expires.After(time.Now()) {
							continue
						}
						if f := model[first]; f == nil || m.expires.Before(f.expires) {
							first = id
						}
					}
					if first == (ID{}) {
						return
					}
					end(first)
				}
			}
			pick := func() ID {
				if len(order) == 0 || random.IntN(10) == 0 {
					return ID{1}
				}
				return order[len(order)-1-random.IntN(min(len(order), 12))]
			}
			for step := range 150 {
				tick()
				s := stores[random.IntN(2)]
				what := fmt.Sprintf("seed %d, step %d", seed, step)
				id := pick()
				m := model[id]
				// A store that has missed something may not know a token yet, and fail. It
				// does nothing with one of which it does not know that it has ended.
				synctest.Wait()
				known := s.alive(id)
				if !known {
					m = nil
				}
				var expected error
				if m == nil {
					expected = ErrNotFound
				}
				switch op := random.IntN(20); op {
				default:
					r := Request{TTL: time.Duration(1+random.IntN(300))*time.Second + time.Duration(step)*time.Millisecond}
					if random.IntN(3) > 0 {
						r.Parent = id
					} else {
						expected = nil
					}
					if random.IntN(3) == 0 {
						r.NumUses = 1 + random.IntN(3)
					}
					_, e, _, err := s.Create(t.Context(), r)
					if expected != nil && err == nil && e.Orphan() {
						expected = nil // its parent was ended without it a moment ago
					}
					if tick(); errors.Is(err, ErrNotFound) && (model[id] == nil || !s.alive(id)) {
						expected = err // it expired meanwhile, for all that the store knows
					}
					wantErr(t, what+" create", err, expected)
					if err == nil {
						model[e.ID] = &token{e.Accessor, e.Parent, e.Expires, e.NumUses}
						order = append(order, e.ID)
					}
				case 0, 1:
					err := s.Revoke(t.Context(), id)
					if m != nil || !known {
						wantErr(t, what+" revoke", err, expected)
					}
					if m != nil {
						end(id)
					}
				case 2, 3:
					err := s.RevokeOrphan(t.Context(), id)
					if m != nil || !known {
						wantErr(t, what+" revoke orphan", err, expected)
					}
					if m == nil {
						break
					}
					// Should it have expired before anybody heard of this, its children ended.
					expired := !m.expires.After(time.Now())
					for child, m := range model {
						if m.parent == id && (!expired || s.alive(child)) {
							m.parent = ID{}
						}
					}
					end(id)
				case 4, 5, 6:
					err := s.Use(t.Context(), id)
					if tick(); errors.Is(err, ErrNotFound) && model[id] == nil {
						break
					}
					if m != nil || !known {
						wantErr(t, what+" use", err, expected)
					}
					if m != nil && m.uses > 0 {
						if m.uses--; m.uses == 0 {
							end(id)
						}
					}
				case 7, 8:
					e, _, err := s.Renew(t.Context(), id, time.Duration(1+random.IntN(300))*time.Second)
					if err == nil && m != nil {
						m.expires = e.Expires
					}
					if tick(); errors.Is(err, ErrNotFound) && model[id] == nil {
						break
					}
					wantErr(t, what+" renew", err, expected)
				case 9, 10:
					time.Sleep(time.Duration(random.IntN(60)) * time.Second)
				case 11:
					b.deafen()
				case 12:
					b.breakWatches()
				case 13:
					i := random.IntN(2)
					_ = stores[i].Close()
					stores[i] = openFake(t, b)
				}
				if t.Failed() {
					return
				}
			}
			time.Sleep(5*time.Second + time.Millisecond/2) // all is heard of, and nothing due in just this moment
			eventually(t, fmt.Sprintf("seed %d: stores, bucket and model have the same tokens", seed), func() bool {
				tick()
				stats := Stats{Tokens: len(model) + 1}
				return stores[0].Stats() == stats && stores[1].Stats() == stats && len(b.values()) == len(model)
			})
			for _, s := range stores {
				for id, m := range model {
					e, err := s.ByID(id)
					if err != nil {
						t.Fatalf("seed %d: %.4s: %v", seed, id, err)
					}
					if e.Accessor != m.accessor || e.Parent != m.parent || !e.Expires.Equal(m.expires) || e.NumUses != m.uses {
						t.Errorf("seed %d: %+v, want %+v", seed, e, m)
					}
				}
			}
		})
	}
}
