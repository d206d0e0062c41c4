package api

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reports collects what a limiter reports.
type reports struct {
	mu     sync.Mutex
	counts map[string]int
}

func (r *reports) add(from netip.Prefix, refused int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = make(map[string]int)
	}
	r.counts[from.String()] += refused
}

// all returns what was reported so far.
func (r *reports) all() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

func address(s string) netip.Prefix {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = s
	return source(r)
}

func TestSource(t *testing.T) {
	for remoteAddr, want := range map[string]string{
		"192.0.2.7:80":                     "192.0.2.7/32",
		"[::ffff:192.0.2.7]:80":            "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:80":        "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff:ffff::]:80":    "2001:db8:1:2::/64",
		"[2001:db8:1:3:3:4:5:6]:80":        "2001:db8:1:3::/64",
		"[fe80::1%eth0]:80":                "fe80::/64",
		"@":                                "invalid Prefix",
		"":                                 "invalid Prefix",
		"192.0.2.7":                        "invalid Prefix",
		"[2001:db8:1:2:3:4:5:6%zone/x]:80": "2001:db8:1:2::/64",
	} {
		if got := address(remoteAddr).String(); got != want {
			t.Errorf("%q: %s, want %s", remoteAddr, got, want)
		}
	}
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := new(reports)
		l := newLimiter(Failures{PerSecond: 2, Burst: 5}, got.add)
		a, b := address("192.0.2.1:1"), address("192.0.2.2:1")
		for i := range 5 {
			if wait := l.wait(a); wait != 0 {
				t.Fatalf("failure %d has to wait %v", i, wait)
			}
			l.fail(a)
		}
		if wait := l.wait(a); wait != 500*time.Millisecond {
			t.Errorf("at the limit: %v", wait)
		}
		if wait := l.wait(b); wait != 0 {
			t.Errorf("another address: %v", wait)
		}
		time.Sleep(500 * time.Millisecond)
		if wait := l.wait(a); wait != 0 {
			t.Errorf("later: %v", wait)
		}
		for range 1000 { // who were on their way
			l.fail(a)
		}
		if wait := l.wait(a); wait < 10*time.Second || wait > 11*time.Second {
			t.Errorf("far over the limit: %v", wait)
		}
		for range 7 {
			l.refuse(a)
		}
		l.refuse(b) // not known, not counted
		if all := got.all(); len(all) != 0 {
			t.Errorf("reported at once: %v", all)
		}
		time.Sleep(limitInterval)
		synctest.Wait()
		if all := got.all(); len(all) != 1 || all["192.0.2.1/32"] != 7 {
			t.Errorf("reported: %v", all)
		}
		if l.order.Len() != 0 || len(l.buckets) != 0 {
			t.Errorf("%d and %d addresses are remembered for nothing", l.order.Len(), len(l.buckets))
		}
		for range 10 {
			l.fail(a)
		}
		l.refuse(a)
		l.close()
		if all := got.all(); all["192.0.2.1/32"] != 8 {
			t.Errorf("reported at the end: %v", all)
		}
		l.refuse(a)
		if l.timer != nil {
			t.Error("there is a timer after the end")
		}
	})
}

func TestLimiterForgetsTheOldest(t *testing.T) {
	got := new(reports)
	l := newLimiter(Failures{PerSecond: 0.001, Burst: 1}, got.add)
	l.most = 3
	for i := range 4 {
		from := address(fmt.Sprintf("192.0.2.%d:1", i))
		l.fail(from)
		l.refuse(from)
		l.fail(address("192.0.2.0:1")) // so this one is never the oldest
	}
	if all := got.all(); len(l.buckets) != 3 || l.order.Len() != 3 || all["192.0.2.1/32"] != 1 || len(all) != 1 {
		t.Errorf("%d addresses, reported %v", len(l.buckets), all)
	}
	if l.wait(address("192.0.2.0:1")) == 0 || l.wait(address("192.0.2.1:1")) != 0 {
		t.Error("the wrong one was forgotten")
	}
	l.close()
	if all := got.all(); len(all) != 4 {
		t.Errorf("reported %v", all)
	}
}

func TestNoLimit(t *testing.T) {
	l := newLimiter(Failures{PerSecond: -1}, nil)
	l.fail(netip.Prefix{})
	if l.wait(netip.Prefix{}) != 0 {
		t.Error("there is a limit")
	}
	l.close()
}

func TestKnown(t *testing.T) {
	k := newKnown()
	for i := range 3 * maxKnown {
		k.add(strconv.Itoa(i))
	}
	if n := len(k.newer) + len(k.earlier); n > 2*maxKnown || n < maxKnown {
		t.Errorf("%d are remembered", n)
	}
	last := strconv.Itoa(3*maxKnown - 1)
	if !k.has(last) || k.has("0") || k.has("x") {
		t.Error("the last is forgotten, or the first is not")
	}
	if k.remove(last); k.has(last) {
		t.Error("it is still there")
	}
}

func TestFailedAuthentications(t *testing.T) {
	n := startNode(t, func(o *Options) {
		o.Failures = Failures{PerSecond: 0.001, Burst: 5}
		o.Logins = logins(&issuer{})
	})
	n.newToken(`{"id":"in-use","policies":["default"]}`)
	n.newToken(`{"id":"new","policies":["default"]}`)
	self := func(token string) ask { return ask{method: "GET", path: "/v1/auth/token/lookup-self", token: token} }
	n.must(self("in-use"))
	for i, q := range []ask{self("nope"), self("-"), {method: "GET", path: "/v1/sys/events/subscribe/*", token: "nope"},
		{method: "GET", path: "/api/v1/payloads/audit/1", token: "nope"}, {method: "POST", path: "/v1/auth/jwt/login", token: "-", body: `{"jwt":"jwt.bad"}`}} {
		if status, _ := n.do(q); status != 403 {
			t.Fatalf("failure %d: %d", i, status)
		}
	}
	const tooMany = "too many failed authentications from your address; try again later"
	for _, q := range []ask{self("nope"), self("-"), self("new"), {method: "GET", path: "/v1/sys/events/subscribe/*", token: "nope"},
		{method: "GET", path: "/api/v1/payloads/audit/1", token: "nope"}, {method: "POST", path: "/v1/auth/jwt/login", token: "-", body: `{"jwt":"jwt.good"}`},
		{method: "GET", path: "/v1/sys/internal/ui/mounts/sys", token: "nope"}} {
		status, raw, header := n.try(q)
		if status != 429 || !strings.Contains(string(raw), tooMany) {
			t.Errorf("%v: %d %s", q, status, raw)
		}
		if after, err := strconv.Atoi(header.Get("Retry-After")); err != nil || after < 900 || after > 1000 {
			t.Errorf("Retry-After is %q", header.Get("Retry-After"))
		}
	}
	n.must(self("in-use")) // and root, which made the tokens
	n.must(self(""))
	n.must(ask{method: "GET", path: "/v1/sys/health", token: "nope"})
	n.must(ask{method: "PUT", path: "/v1/auth/token/revoke", body: `{"token":"in-use"}`})
	if status, _ := n.do(self("in-use")); status != 403 {
		t.Errorf("a token that was in use and is no more: %d", status)
	}
	if status, _ := n.do(self("in-use")); status != 429 {
		t.Errorf("a token that was in use and is no more, again: %d", status)
	}

	n.api.limiter.flush()
	e := n.await("request-denied", 5)
	if e.Path != limitPath || field(e, "count") != "8" || field(e, "remote_address") != "127.0.0.1" || field(e, "outcome") != "refused" {
		t.Errorf("recorded as %+v", e)
	}
	if all := n.trail("request-denied"); len(all) != 5 {
		t.Errorf("%d records, want those of 4 failures and one of all that were refused", len(all))
	}
}
