package access

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

func TestFollowTokens(t *testing.T) {
	a := open(t)
	for _, tt := range []struct {
		name string
		end  func(id Identity)
		want Ended
	}{
		{"revoked", func(id Identity) {
			if err := a.Tokens().Revoke(t.Context(), id.Entry().ID); err != nil {
				t.Fatal(err)
			}
		}, EndedRevoked},
		{"revoked with its parent", func(id Identity) {
			if err := a.Tokens().Revoke(t.Context(), id.Entry().Parent); err != nil {
				t.Fatal(err)
			}
		}, EndedRevoked},
		{"expired", func(id Identity) {
			await(t, "expiry", func() bool { return !time.Now().Before(id.Entry().Expires.Add(100 * time.Millisecond)) })
		}, EndedExpired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent, _ := issue(t, a, with("x"))
			ttl := time.Hour
			if tt.want == EndedExpired {
				ttl = 200 * time.Millisecond
			}
			value, _, _, err := a.CreateToken(t.Context(), authenticate(t, a, parent), CreateRequest{
				Request: token.Request{Path: "auth/token/create", TTL: ttl},
			})
			if err != nil {
				t.Fatal(err)
			}
			id := authenticate(t, a, value)
			first, second := follow(t, a, id), follow(t, a, id)
			stopped := new(told)
			a.Follow(id, stopped.changed, stopped.ended)()
			tt.end(id)
			first.want(t, 0, tt.want)
			second.want(t, 0, tt.want)
			stopped.want(t, 0)
			late := follow(t, a, id)
			late.want(t, 0, tt.want)
		})
	}
	await(t, "followers to go", func() bool {
		a.followMu.Lock()
		defer a.followMu.Unlock()
		return len(a.following) <= 3 // of tests, until their cleanup
	})
}

func TestFollowNobody(t *testing.T) {
	a := open(t)
	w := follow(t, a, Identity{})
	w.want(t, 0, EndedRevoked)
}

// The root token is followed like every other one.
func TestFollowRoot(t *testing.T) {
	a := open(t)
	id := authenticate(t, a, rootToken)
	w := follow(t, a, id)
	if err := a.RevokeSelf(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	w.want(t, 0, EndedRevoked)
	if _, err := a.Authenticate(request(rootToken), ""); err == nil {
		t.Error("a revoked root token is valid")
	}
}

func TestFollowPolicies(t *testing.T) {
	var keys []any
	var mine func(any) // checks what is in effect when Changed is called
	a := open(t, func(c *Config) {
		c.Changed = func(key any) {
			keys = append(keys, key)
			if mine != nil {
				mine(key)
			}
		}
	})
	value, _ := issue(t, a, with("p", "q"))
	id := authenticate(t, a, value)
	other, _ := issue(t, a, with("r"))
	w, untouched := follow(t, a, id), follow(t, a, authenticate(t, a, other))

	mine = func(any) {
		w.want(t, 0) // those who follow come later
		if !id.Allows(policy.Read, "x", nil) {
			t.Error("the old rights are in effect when the change is told")
		}
	}
	put(t, a, "", "p", reads("x")) // did not exist before
	mine = nil
	w.want(t, 1)
	if len(keys) != 1 || keys[0] != id.Key() {
		t.Errorf("told of %d keys", len(keys))
	}
	put(t, a, "ns1", "p", reads("x")) // another one
	put(t, a, "", "s", reads("x"))
	put(t, a, "", "p", reads("x")) // the same text
	w.want(t, 1)
	put(t, a, "", "p", reads("y"))
	w.want(t, 2)
	if id.Allows(policy.Read, "x", nil) || !id.Allows(policy.Read, "y", nil) {
		t.Error("the new text is not in effect")
	}
	if err := a.DeletePolicy(t.Context(), "", "p"); err != nil {
		t.Fatal(err)
	}
	w.want(t, 3)
	if id.Allows(policy.Read, "y", nil) {
		t.Error("the deleted policy is in effect")
	}
	untouched.want(t, 0)
	put(t, a, "", "default", reads("z")) // has everybody
	w.want(t, 4)
	untouched.want(t, 1)
	if len(keys) != 5 {
		t.Errorf("told of %d keys, want 5", len(keys))
	}
}

// What happens between Authenticate and Follow is told by Follow.
func TestFollowLate(t *testing.T) {
	a := open(t)
	value, _ := issue(t, a, with("p"))
	id := authenticate(t, a, value)
	follow(t, a, id).want(t, 0)
	put(t, a, "", "p", reads("x"))
	follow(t, a, id).want(t, 1)
	follow(t, a, authenticate(t, a, value)).want(t, 0)
}

// stop may be called from within, and ends what is told.
func TestStopFromWithin(t *testing.T) {
	a := open(t)
	value, _ := issue(t, a, with("p"))
	id := authenticate(t, a, value)
	calls := 0
	var stop func()
	stop = a.Follow(id, func() { calls++; stop() }, func(Ended) { t.Error("ended after the stop") })
	put(t, a, "", "p", reads("x"))
	put(t, a, "", "p", reads("y"))
	if err := a.RevokeSelf(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
}

// No end is lost, none is told twice, and no two calls overlap, whatever happens at
// the same time.
func TestFollowStorm(t *testing.T) {
	a := open(t)
	const tokens = 20
	values := make([]string, tokens)
	for i := range values {
		values[i], _ = issue(t, a, with("p"))
	}
	stopWriting := make(chan struct{})
	var writer, followers sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stopWriting:
				return
			default:
				put(t, a, "", "p", reads(string(rune('a'+i%26))))
			}
		}
	})
	for _, value := range values {
		id := authenticate(t, a, value)
		for range 8 {
			var inside atomic.Int32
			var ends atomic.Int32
			enter := func() {
				if inside.Add(1) != 1 {
					t.Error("two calls at once")
				}
				inside.Add(-1)
			}
			over := make(chan struct{})
			delay := rand.N(20 * time.Millisecond)
			followers.Go(func() {
				time.Sleep(delay) // before, during or after the end
				stop := a.Follow(id, enter, func(why Ended) {
					enter()
					if why != EndedRevoked {
						t.Errorf("ended: %s", why)
					}
					if ends.Add(1) == 1 {
						close(over)
					}
				})
				<-over
				stop()
				if n := ends.Load(); n != 1 {
					t.Errorf("told of %d ends", n)
				}
			})
		}
		followers.Go(func() {
			if err := a.Tokens().Revoke(t.Context(), id.Entry().ID); err != nil {
				t.Error(err)
			}
		})
	}
	followers.Wait()
	close(stopWriting)
	writer.Wait()
	if len(a.following) != 0 {
		t.Errorf("%d tokens are still followed", len(a.following))
	}
}

// This node says once of each token that it has ended without being asked to end that
// one.
func TestEndedByThemselves(t *testing.T) {
	type end struct {
		id  token.ID
		why Ended
	}
	ended := make(chan end, 10)
	a := open(t, func(c *Config) { c.Ended = func(e *token.Entry, why Ended) { ended <- end{e.ID, why} } })
	create := func(r token.Request) *token.Entry {
		t.Helper()
		_, e, _, err := a.Tokens().Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	wants := func(want ...end) {
		t.Helper()
		for range want {
			if got := <-ended; !slices.Contains(want, got) {
				t.Errorf("ended: %v, want %v", got, want)
			}
		}
		if len(ended) != 0 {
			t.Errorf("also ended: %v", <-ended)
		}
	}

	expiring := create(token.Request{TTL: 200 * time.Millisecond})
	child := create(token.Request{Parent: expiring.ID})
	wants(end{expiring.ID, EndedExpired}, end{child.ID, EndedRevoked})

	once := create(token.Request{NumUses: 1})
	if err := a.Tokens().Use(t.Context(), once.ID); err != nil {
		t.Fatal(err)
	}
	wants(end{once.ID, EndedUsedUp})

	revoked := create(token.Request{})
	child = create(token.Request{Parent: revoked.ID})
	grandchild := create(token.Request{Parent: child.ID})
	if err := a.Tokens().Revoke(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	wants(end{child.ID, EndedRevoked}, end{grandchild.ID, EndedRevoked})

	revoked = create(token.Request{})
	create(token.Request{Parent: revoked.ID})
	if err := a.Tokens().RevokeOrphan(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	wants()
}
