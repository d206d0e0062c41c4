package api

import (
	"container/list"
	"hash/maphash"
	"math"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Failures says how often authentication may fail from one address: an IPv4
// address, or an IPv6 network of 64 bits, because whoever has one address of it has
// all. Beyond that, requests from there are refused with 429 before anything else is
// done for them, except those with a token that was valid lately: others behind
// the same address, perhaps a proxy, are not shut out by one who fails.
type Failures struct {
	// PerSecond is how often it may fail for long; 0: [DefaultFailuresPerSecond],
	// negative: there is no limit.
	PerSecond float64
	// Burst is how often it may fail at once; 0: [DefaultFailuresBurst].
	Burst int
}

// Defaults of [Failures]. They are for addresses that many clients share, whose tokens
// may all have expired over night.
const (
	DefaultFailuresPerSecond = 10
	DefaultFailuresBurst     = 100
)

const (
	// maxAddresses bounds the addresses that are remembered. The one that failed
	// longest ago is forgotten first.
	maxAddresses = 100_000
	// maxDebt bounds how long an address can be refused after its last failure.
	maxDebt = 10 * time.Second
	// limitInterval is how often refused requests are reported, as one number for
	// each address.
	limitInterval = time.Minute
)

// limiter is a leaky bucket of failures for each address. It is safe for concurrent
// use.
type limiter struct {
	rate   float64 // per second
	burst  float64
	most   int           // addresses
	every  time.Duration // between reports
	now    func() time.Time
	report func(from netip.Prefix, refused int)

	mu      sync.Mutex
	buckets map[netip.Prefix]*list.Element
	order   list.List // of *bucket, the last to fail in front
	timer   *time.Timer
	closed  bool
}

type bucket struct {
	from    netip.Prefix
	level   float64 // failures that have not leaked away at the time at
	at      time.Time
	refused int // not reported yet
}

// newLimiter returns a limiter, nil if there is no limit. report is called without
// locks, by any goroutine.
func newLimiter(f Failures, report func(netip.Prefix, int)) *limiter {
	if f.PerSecond < 0 {
		return nil
	}
	if f.PerSecond == 0 {
		f.PerSecond = DefaultFailuresPerSecond
	}
	if f.Burst <= 0 {
		f.Burst = DefaultFailuresBurst
	}
	return &limiter{rate: f.PerSecond, burst: float64(f.Burst), most: maxAddresses, every: limitInterval,
		now: time.Now, report: report, buckets: make(map[netip.Prefix]*list.Element)}
}

// wait returns how long an address is refused from now on; 0: it is not.
func (l *limiter) wait(from netip.Prefix) time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.buckets[from]
	if e == nil {
		return 0
	}
	b := e.Value.(*bucket)
	l.leakLocked(b)
	return max(0, time.Duration((b.level-l.burst+1)/l.rate*float64(time.Second)))
}

// refuse counts a request that was refused unseen.
func (l *limiter) refuse(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.buckets[from]
	if e == nil {
		return // forgotten since
	}
	e.Value.(*bucket).refused++
	if l.timer == nil && !l.closed {
		l.timer = time.AfterFunc(l.every, l.flush)
	}
}

// fail counts a failure.
func (l *limiter) fail(from netip.Prefix) {
	if l == nil {
		return
	}
	forgotten := bucket{}
	l.mu.Lock()
	e := l.buckets[from]
	if e == nil {
		if l.order.Len() >= l.most {
			last := l.order.Back()
			forgotten = *l.order.Remove(last).(*bucket)
			delete(l.buckets, forgotten.from)
		}
		e = l.order.PushFront(&bucket{from: from, at: l.now()})
		l.buckets[from] = e
	}
	l.order.MoveToFront(e)
	b := e.Value.(*bucket)
	l.leakLocked(b)
	// Those who were on their way when the limit was reached count, too, up to a bound.
	b.level = min(b.level+1, l.burst+maxDebt.Seconds()*l.rate)
	l.mu.Unlock()
	if forgotten.refused > 0 {
		l.report(forgotten.from, forgotten.refused)
	}
}

// take counts one more of what is limited, and says whether the address is below the
// limit; if not, it is part of the next report.
func (l *limiter) take(from netip.Prefix) bool {
	if l.wait(from) > 0 {
		l.refuse(from)
		return false
	}
	l.fail(from)
	return true
}

func (l *limiter) leakLocked(b *bucket) {
	now := l.now()
	b.level = max(0, b.level-now.Sub(b.at).Seconds()*l.rate)
	b.at = now
}

// flush reports what was refused since the last time, and forgets addresses whose
// failures have all leaked away.
func (l *limiter) flush() {
	var due []bucket
	l.mu.Lock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	var next *list.Element
	for e := l.order.Front(); e != nil; e = next {
		next = e.Next()
		b := e.Value.(*bucket)
		l.leakLocked(b)
		if b.refused > 0 {
			due = append(due, *b)
			b.refused = 0
		}
		if b.level == 0 {
			l.order.Remove(e)
			delete(l.buckets, b.from)
		}
	}
	l.mu.Unlock()
	for _, b := range due {
		l.report(b.from, b.refused)
	}
}

// close reports what is left and stops reporting by itself.
func (l *limiter) close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.flush()
}

// source returns the address of a request as the limiter sees it. Requests whose
// address is not known count as from one.
func source(r *http.Request) netip.Prefix {
	address, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	ip := address.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits) // cannot fail with these
	return p
}

// remote returns the address of a request without its port.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

// retryAfter returns a value for the header Retry-After, in seconds.
func retryAfter(d time.Duration) int { return max(1, int(math.Ceil(d.Seconds()))) }

// maxKnown bounds each of the two halves of known.
const maxKnown = 10_000

// known remembers by a hash which tokens were valid lately. That one is remembered by
// mistake, or not any more, only changes what is done at the limit of failures. It is safe
// for concurrent use.
type known struct {
	seed maphash.Seed

	mu             sync.Mutex
	newer, earlier map[uint64]struct{}
}

func newKnown() *known {
	return &known{seed: maphash.MakeSeed(), newer: make(map[uint64]struct{})}
}

func (k *known) has(token string) bool {
	h := maphash.String(k.seed, token)
	k.mu.Lock()
	defer k.mu.Unlock()
	_, newer := k.newer[h]
	_, earlier := k.earlier[h]
	return newer || earlier
}

func (k *known) add(token string) {
	h := maphash.String(k.seed, token)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.newer) >= maxKnown {
		k.newer, k.earlier = make(map[uint64]struct{}), k.newer
	}
	k.newer[h] = struct{}{}
}

func (k *known) remove(token string) {
	h := maphash.String(k.seed, token)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.newer, h)
	delete(k.earlier, h)
}
