package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

// externalsOf is an Authority without a store, for a bubble of synctest.
func externalsOf(t *testing.T, providers ...Provider) *Authority {
	a := &Authority{grants: newGrants(), log: quiet}
	a.externals = newExternals(providers, a.admit, quiet)
	t.Cleanup(func() {
		if err := a.externals.close(context.Background()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
	return a
}

// enter authenticates somebody known elsewhere.
func enter(a *Authority, value string) (Identity, bool, error) {
	found, err := a.externals.authenticate(context.Background(), value, "")
	if err != nil {
		return Identity{}, false, err
	}
	return a.identity(found.entry, found.grant, found.session), found.anew, nil
}

func mustEnter(t *testing.T, a *Authority, value string) Identity {
	t.Helper()
	id, _, err := enter(a, value)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// kept is the token that is kept for an identity.
func kept(a *Authority, id Identity) string {
	a.externals.mu.Lock()
	defer a.externals.mu.Unlock()
	return id.session.value
}

// sessions is how many are kept.
func sessions(a *Authority) int {
	a.externals.mu.Lock()
	defer a.externals.mu.Unlock()
	return max(len(a.externals.sessions), a.externals.idle.len())
}

func TestExternalCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &elsewhere{recheck: time.Minute}
		p.set("ext.a", External{Policies: []string{"B ", "a", "a", "root", "not a name"}, DisplayName: "ann"})
		a := externalsOf(t, p)
		id, anew, err := enter(a, "ext.a")
		if err != nil || !anew {
			t.Fatalf("new %v, %v", anew, err)
		}
		if e := id.Entry(); id.Provider() != "elsewhere" || id.Root() || fmt.Sprint(e.Policies) != "[a b]" || e.DisplayName != "ann" || e.ID != [32]byte{} {
			t.Errorf("identity %+v of %s", id.Entry(), id.Provider())
		}
		for range 3 {
			if _, anew, err := enter(a, "ext.a"); err != nil || anew {
				t.Errorf("cached: new %v, %v", anew, err)
			}
		}
		if n := p.questions(); n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
		time.Sleep(time.Minute + time.Millisecond)
		synctest.Wait()
		if _, anew, err := enter(a, "ext.a"); err != nil || !anew || p.questions() != 1 {
			t.Errorf("after the recheck time: new %v, %v", anew, err)
		}
		if _, _, err := enter(a, "int.a"); !errors.Is(err, ErrDenied) || p.questions() != 0 {
			t.Errorf("a token that is not recognised: %v", err)
		}
	})
}

func TestExternalDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &elsewhere{recheck: time.Minute}
		a := externalsOf(t, p)
		for range 3 {
			if _, _, err := enter(a, "ext.a"); !errors.Is(err, ErrDenied) || errors.Is(err, ErrUnavailable) {
				t.Errorf("unknown token: %v", err)
			}
		}
		if n := p.questions(); n != 1 {
			t.Errorf("asked %d times, want once", n)
		}
		p.set("ext.a", External{Policies: []string{"a"}})
		time.Sleep(deniedFor)
		synctest.Wait()
		mustEnter(t, a, "ext.a")

		// No answer is not an answer.
		for _, failure := range []error{errors.New("broken"), fmt.Errorf("%w: down", ErrUnavailable)} {
			p.fail(failure)
			for range 2 {
				if _, _, err := enter(a, "ext.b"); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDenied) {
					t.Errorf("no answer: %v", err)
				}
			}
		}
		p.fail(nil)
		p.set("ext.b", External{Expires: time.Now().Add(-time.Second)})
		if _, _, err := enter(a, "ext.b"); !errors.Is(err, ErrDenied) {
			t.Errorf("an expired one: %v", err)
		}
	})
}

func TestDeniedIsBounded(t *testing.T) {
	d := deniedTokens{since: make(map[sessionKey]time.Time)}
	now := time.Now()
	var keys []sessionKey
	for i := range maxDenied + 100 {
		key := sessionKey{byte(i), byte(i >> 8), byte(i >> 16)}
		keys = append(keys, key)
		d.add(key, now.Add(time.Duration(i)))
	}
	if len(d.since) != maxDenied || len(d.order) != maxDenied {
		t.Errorf("%d and %d are remembered, want %d", len(d.since), len(d.order), maxDenied)
	}
	if now := now.Add(maxDenied + 100); d.has(keys[99], now) || !d.has(keys[100], now) || !d.has(keys[maxDenied+99], now) {
		t.Error("not the oldest ones went")
	}
	d.forget(keys[200])
	d.add(keys[200], now.Add(time.Second))
	for i := range 300 {
		d.add(sessionKey{0xff, byte(i), byte(i >> 8)}, now.Add(2*time.Second))
	}
	if !d.has(keys[200], now.Add(2*time.Second)) {
		t.Error("one that was denied again went with its first time")
	}
	d.add(keys[0], now.Add(time.Hour))
	if len(d.since) != 1 || len(d.order) != 1 {
		t.Errorf("%d and %d are remembered after an hour, want 1", len(d.since), len(d.order))
	}
}

// Equal tokens share an answer, different ones wait for their turn.
func TestExternalLookupsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &elsewhere{recheck: time.Minute, delay: time.Second}
		for i := range 2 * maxLookups {
			p.set(fmt.Sprintf("ext.%d", i), External{})
		}
		a := externalsOf(t, p)
		var wg sync.WaitGroup
		var mu sync.Mutex
		logins := 0
		for range 10 {
			for i := range 2 * maxLookups {
				wg.Go(func() {
					_, anew, err := enter(a, fmt.Sprintf("ext.%d", i))
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					if anew {
						logins++
					}
				})
			}
		}
		start := time.Now()
		wg.Wait()
		if n := p.questions(); n != 2*maxLookups || p.max != maxLookups || logins != n {
			t.Errorf("asked %d times, %d at once, with %d logins", n, p.max, logins)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestExternalWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &elsewhere{recheck: time.Minute, delay: time.Hour}
		a := externalsOf(t, p)
		var wg sync.WaitGroup
		for i := range maxLookups {
			wg.Go(func() {
				start := time.Now()
				if _, _, err := enter(a, fmt.Sprintf("ext.%d", i)); !errors.Is(err, ErrUnavailable) || time.Since(start) != lookupTimeout {
					t.Errorf("after %s: %v", time.Since(start), err)
				}
			})
		}
		synctest.Wait()
		// Whoever gives up does not take the others along.
		for _, limit := range []time.Duration{time.Second, time.Minute} {
			for range 2 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), limit)
					defer cancel()
					start := time.Now()
					_, err := a.externals.authenticate(ctx, "ext.late", "")
					if took := time.Since(start); !errors.Is(err, ErrUnavailable) || limit == time.Second && took != limit || limit == time.Minute && took <= limit/6 {
						t.Errorf("of %s, after %s: %v", limit, took, err)
					}
				})
			}
			synctest.Wait()
		}
		wg.Wait()
	})
}

func TestExternalRecheck(t *testing.T) {
	const every, patience = time.Minute, 5 * time.Minute
	for _, tt := range []struct {
		name       string
		then       func(a *Authority, p *elsewhere)
		within     time.Duration // the end
		notBefore  time.Duration
		want       Ended
		afterwards error // for a request
	}{
		{name: "goes on", then: func(*Authority, *elsewhere) {}},
		{name: "revoked", then: func(_ *Authority, p *elsewhere) { p.forget("ext.a") },
			within: every, want: EndedRevoked, afterwards: ErrDenied},
		{name: "other policies", then: func(_ *Authority, p *elsewhere) { p.set("ext.a", External{Policies: []string{"b"}}) },
			within: every, want: EndedPolicies},
		{name: "another namespace", then: func(_ *Authority, p *elsewhere) {
			p.set("ext.a", External{Policies: []string{"a"}, Namespace: "ns1/"})
		}, within: every, want: EndedPolicies},
		{name: "root", then: func(_ *Authority, p *elsewhere) { p.set("ext.a", External{Root: true}) },
			within: every, want: EndedPolicies},
		{name: "another subject, without templates", then: func(_ *Authority, p *elsewhere) {
			p.set("ext.a", External{Policies: []string{"a"}, Subject: policy.Subject{EntityID: "x"}, Meta: map[string]string{"a": "b"}})
		}},
		{name: "expires", then: func(_ *Authority, p *elsewhere) {
			p.set("ext.a", External{Policies: []string{"a"}, Expires: time.Now().Add(10 * time.Minute)})
		}, within: 10 * time.Minute, notBefore: 10 * time.Minute, want: EndedExpired, afterwards: ErrDenied},
		{name: "no answer", then: func(_ *Authority, p *elsewhere) { p.fail(ErrUnavailable) },
			within: every + patience, notBefore: patience, want: EndedUnconfirmed, afterwards: ErrUnavailable},
		{name: "hangs", then: func(_ *Authority, p *elsewhere) { p.slow(time.Hour) },
			within: every + patience, notBefore: patience, want: EndedUnconfirmed, afterwards: ErrUnavailable},
		{name: "an answer in time", then: func(_ *Authority, p *elsewhere) {
			p.fail(errors.New("down"))
			time.AfterFunc(every+patience-20*time.Second, func() { p.fail(nil) })
		}},
		{name: "revoked while there was no answer", then: func(_ *Authority, p *elsewhere) {
			p.fail(errors.New("down"))
			time.AfterFunc(every+patience-20*time.Second, func() { p.fail(nil) })
			p.forget("ext.a")
		}, within: every + patience, notBefore: patience - 20*time.Second, want: EndedRevoked, afterwards: ErrDenied},
		{name: "a request finds it revoked", then: func(a *Authority, p *elsewhere) {
			time.AfterFunc(2*every, func() {
				p.fail(ErrUnavailable)
				time.Sleep(every + time.Second) // what is remembered is too old now
				p.fail(ErrDenied)
				enter(a, "ext.a")
			})
		}, within: 3*every + 2*time.Second, notBefore: 3 * every, want: EndedRevoked, afterwards: ErrDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &elsewhere{recheck: every, patience: patience}
				p.set("ext.a", External{Policies: []string{"a"}})
				a := externalsOf(t, p)
				id := mustEnter(t, a, "ext.a")
				start := time.Now()
				var ends []Ended
				var took time.Duration
				for range 2 {
					defer a.Follow(id, func() { t.Error("told of a change") }, func(why Ended) {
						ends, took = append(ends, why), time.Since(start)
					})()
				}
				p.questions()
				tt.then(a, p)
				time.Sleep(20 * time.Minute)
				synctest.Wait()
				if tt.want == "" {
					if len(ends) > 0 {
						t.Errorf("ended: %q", ends)
					}
					if n := p.questions(); n < 20 || n > 60 {
						t.Errorf("asked %d times in 20 minutes", n)
					}
					return
				}
				if len(ends) != 2 || ends[0] != tt.want || ends[1] != tt.want {
					t.Fatalf("ended: %q, want %q twice", ends, tt.want)
				}
				if took > tt.within || took < tt.notBefore {
					t.Errorf("ended after %s, want %s to %s", took, tt.notBefore, tt.within)
				}
				if n := p.questions(); n > 60 {
					t.Errorf("asked %d times", n)
				}
				var late []Ended
				a.Follow(id, func() {}, func(why Ended) { late = append(late, why) })()
				if len(late) != 1 || late[0] != tt.want {
					t.Errorf("one who follows late is told %q", late)
				}
				if _, _, err := enter(a, "ext.a"); !errors.Is(err, tt.afterwards) {
					t.Errorf("a request afterwards: %v, want %v", err, tt.afterwards)
				}
			})
		})
	}
}

// Tokens that need not be confirmed are not, and end on time.
func TestExternalWithoutRecheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &elsewhere{}
		p.set("ext.a", External{Policies: []string{"a"}, Expires: time.Now().Add(time.Hour)})
		p.set("ext.b", External{Policies: []string{"a"}})
		a := externalsOf(t, p)
		id, forever := mustEnter(t, a, "ext.a"), mustEnter(t, a, "ext.b")
		if kept(a, id) != "" || kept(a, forever) != "" {
			t.Error("the token is kept although nobody needs it")
		}
		start := time.Now()
		var ended []Ended
		var took time.Duration
		defer a.Follow(id, func() {}, func(why Ended) { ended, took = append(ended, why), time.Since(start) })()
		defer a.Follow(forever, func() {}, func(why Ended) { t.Error(why) })()
		time.Sleep(1000 * time.Hour)
		synctest.Wait()
		if len(ended) != 1 || ended[0] != EndedExpired || took != time.Hour {
			t.Errorf("ended %q after %s", ended, took)
		}
		if _, _, err := enter(a, "ext.b"); err != nil || p.questions() != 2 {
			t.Errorf("the one without end: %v", err)
		}
		if _, _, err := enter(a, "ext.a"); !errors.Is(err, ErrDenied) {
			t.Errorf("the one that has ended: %v", err)
		}
	})
}

// A token that nobody follows is not confirmed, and forgotten after a while.
func TestExternalIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &elsewhere{recheck: 10 * time.Second, patience: time.Minute}
		p.set("ext.a", External{Policies: []string{"a"}})
		a := externalsOf(t, p)
		id := mustEnter(t, a, "ext.a")
		if n := p.questions(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(linger - time.Second)
		synctest.Wait()
		if kept(a, id) != "ext.a" || p.questions() != 0 {
			t.Error("forgotten too early, or confirmed although nobody follows")
		}
		// A request that took long can still follow; what is too old is confirmed at once.
		ended := ""
		stop := a.Follow(id, func() {}, func(why Ended) { ended = string(why) })
		synctest.Wait()
		if ended != "" || p.questions() != 1 {
			t.Errorf("followed late: %q", ended)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := p.questions(); ended != "" || n < 360 || n > 410 {
			t.Errorf("asked %d times within an hour; %q", n, ended)
		}
		stop()
		time.Sleep(linger + time.Second)
		synctest.Wait()
		if kept(a, id) != "" || sessions(a) != 0 || p.questions() != 0 {
			t.Error("the token is kept although nobody uses it")
		}
		stop = a.Follow(id, func() {}, func(why Ended) { ended = string(why) })
		if ended != string(EndedUnconfirmed) {
			t.Errorf("followed too late: %q", ended)
		}
		stop()
	})
}

func TestIdleSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &elsewhere{recheck: time.Minute}
		a := externalsOf(t, p)
		for i := range maxIdle + 10 {
			p.set(fmt.Sprintf("ext.%d", i), External{})
		}
		defer a.Follow(mustEnter(t, a, "ext.0"), func() {}, func(why Ended) { t.Error(why) })()
		for i := range maxIdle + 10 {
			mustEnter(t, a, fmt.Sprintf("ext.%d", i))
		}
		if n := sessions(a); n != maxIdle+1 {
			t.Errorf("%d are kept, want %d and one that is followed", n, maxIdle)
		}
		p.questions()
		mustEnter(t, a, "ext.0")
		mustEnter(t, a, fmt.Sprintf("ext.%d", maxIdle+9))
		if n := p.questions(); n != 0 {
			t.Error("not those went that were not used for longest")
		}
	})
}

// The end of Close is the end of all questions.
func TestExternalClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &elsewhere{recheck: time.Minute, delay: time.Second}
		p.set("ext.a", External{})
		a := externalsOf(t, p)
		id := mustEnter(t, a, "ext.a")
		stop := a.Follow(id, func() {}, func(why Ended) { t.Error(why) })
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, _, err := enter(a, "ext.b"); !errors.Is(err, ErrUnavailable) {
				t.Errorf("asked while it closes: %v", err)
			}
		})
		synctest.Wait()
		if err := a.externals.close(context.Background()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		p.questions()
		if _, _, err := enter(a, "ext.a"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("asked after close: %v", err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := p.questions(); n != 0 {
			t.Errorf("asked %d times after close", n)
		}
		stop()
	})
}

// Providers are asked in their order; the first that knows the token wins.
func TestProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := &elsewhere{recheck: time.Minute}, &elsewhere{recheck: time.Minute}
		a := externalsOf(t, first, second)
		for _, tt := range []struct {
			value             string
			inFirst, inSecond bool
			failing           bool
			want              string
			err               error
		}{
			{"ext.1", true, true, false, "[first]", nil},
			{"ext.2", false, true, false, "[second]", nil},
			{"ext.3", false, false, false, "", ErrDenied},
			{"ext.4", false, true, true, "[second]", nil},
			{"ext.5", false, false, true, "", ErrUnavailable},
		} {
			if tt.inFirst {
				first.set(tt.value, External{Policies: []string{"first"}})
			}
			if tt.inSecond {
				second.set(tt.value, External{Policies: []string{"second"}})
			}
			first.fail(nil)
			if tt.failing {
				first.fail(ErrUnavailable)
			}
			id, _, err := enter(a, tt.value)
			if !errors.Is(err, tt.err) || err == nil && fmt.Sprint(id.Entry().Policies) != tt.want {
				t.Errorf("%s: %v, %v", tt.value, id.Entry(), err)
			}
		}
	})
}

func TestKeysOfExternals(t *testing.T) {
	x := newExternals(nil, nil, quiet)
	defer x.close(context.Background())
	y := newExternals(nil, nil, quiet)
	defer y.close(context.Background())
	keys := map[sessionKey]bool{
		x.key("a", ""): true, x.key("", "a"): true, x.key("b", "a"): true, x.key("ab", ""): true, x.key("", "ab"): true, y.key("a", ""): true,
	}
	if len(keys) != 6 {
		t.Errorf("%d different keys of 6", len(keys))
	}
	if key := x.key("a", ""); !keys[key] {
		t.Error("a key is not the same again")
	}
}

// The whole way of a request, with the policies that are stored here.
func TestExternalRequests(t *testing.T) {
	p := &elsewhere{recheck: time.Hour, patience: time.Hour}
	var logins []string
	var changed int
	a := open(t, func(c *Config) {
		c.Providers = []Provider{p}
		c.LoggedIn = func(id Identity, r *http.Request) {
			logins = append(logins, id.Entry().DisplayName+" from "+r.RemoteAddr)
		}
		c.Changed = func(any) { changed++ }
	})
	p.set("ns1/ext.a", External{DisplayName: "ann", Namespace: "ns1/", Policies: []string{"p"}})
	p.set("ext.r", External{DisplayName: "rob", Root: true, Namespace: "ns1/", Policies: []string{"p"}})
	put(t, a, "ns1", "p", reads("x"))
	ann, err := a.Authenticate(request("ext.a"), "ns1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(request("ext.a"), "/ns1/"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(request("ext.a"), ""); !errors.Is(err, ErrDenied) {
		t.Errorf("in another namespace: %v", err)
	}
	if !ann.Allows(policy.Read, "ns1/x", nil) || ann.Allows(policy.Read, "x", nil) || ann.Allows(policy.Read, "ns1/auth/token/lookup-self", nil) {
		t.Error("not the rights of the policy")
	}
	rob := authenticate(t, a, "ext.r")
	if !rob.Root() || rob.Entry().Namespace != "" || fmt.Sprint(rob.Entry().Policies) != "[root]" {
		t.Errorf("not root: %+v", rob.Entry())
	}
	if len(logins) != 2 || logins[0] != "ann from 192.0.2.1:1234" {
		t.Errorf("logins %q", logins)
	}
	local, _ := issue(t, a, CreateRequest{Request: token.Request{Namespace: "ns1/", Policies: []string{"p"}}})
	same := authenticate(t, a, local)
	if same.Key() == ann.Key() {
		t.Error("a token with the policy default has the key of one without")
	}
	w := follow(t, a, ann)
	put(t, a, "ns1", "p", reads("y"))
	w.want(t, 1)
	if changed == 0 || ann.Allows(policy.Read, "ns1/x", nil) {
		t.Error("the change is not in effect")
	}
	if _, err := a.Authenticate(request("tcs.unknown"), ""); !errors.Is(err, ErrDenied) {
		t.Errorf("a token that only we could have made: %v", err)
	}
	for name, err := range map[string]error{
		"revoke": a.RevokeSelf(t.Context(), ann),
		"renew":  func() error { _, _, err := a.RenewSelf(t.Context(), ann, 0); return err }(),
	} {
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "elsewhere") {
			t.Errorf("%s a token of elsewhere: %v", name, err)
		}
	}
	if err := a.Use(t.Context(), ann); err != nil {
		t.Errorf("use: %v", err)
	}
}

// elsewhereEverywhere answers the same in all namespaces.
type elsewhereEverywhere struct{ *elsewhere }

func (elsewhereEverywhere) Everywhere() bool { return true }

// Who sends other namespaces is nobody else, unless the provider says so.
func TestNamespacesOfRequests(t *testing.T) {
	for _, everywhere := range []bool{false, true} {
		p := &elsewhere{recheck: time.Hour}
		for _, namespace := range []string{"", "ns1/", "ns2/"} {
			p.set(namespace+"ext.a", External{Policies: []string{"x"}, Expires: time.Now().Add(time.Hour)})
		}
		var provider Provider = p
		want := 3
		if everywhere {
			provider, want = elsewhereEverywhere{p}, 1
		}
		var logins atomic.Int32
		a := open(t, func(c *Config) {
			c.Providers = []Provider{provider}
			c.LoggedIn = func(Identity, *http.Request) { logins.Add(1) }
		})
		for _, namespace := range []string{"", "ns1/", "ns2/", "ns1/"} {
			if _, err := a.Authenticate(request("ext.a"), namespace); err != nil {
				t.Fatal(err)
			}
		}
		if asked := p.questions(); asked != want || int(logins.Load()) != want {
			t.Errorf("everywhere %v: asked %d times, %d logins, want %d", everywhere, asked, logins.Load(), want)
		}
	}
}
