package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/token"
)

const (
	// maxLookups is how many providers are asked at once for requests, and as many
	// again for tokens in use; the others wait.
	maxLookups = 16
	// lookupTimeout bounds one answer of a provider.
	lookupTimeout = 10 * time.Second
	// lookupWait bounds how long a request waits for its turn.
	lookupWait = 10 * time.Second
	// maxIdle is how many sessions are kept that nobody follows; the one not used
	// for longest goes first.
	maxIdle = 10_000
	// linger is how long a session is kept at least after it was used, so that a
	// request that has authenticated can follow it.
	linger = 2 * time.Minute
	// maxDenied is how many tokens are remembered that nobody knows, and deniedFor
	// how long.
	maxDenied = 10_000
	deniedFor = 10 * time.Second
)

// sessionKey is the keyed hash of a namespace and a token.
type sessionKey [sha256.Size]byte

// externals knows the tokens of providers that are in use, or were used lately. It is
// safe for concurrent use.
type externals struct {
	providers []Provider
	admit     func(*External) (*token.Entry, *grant)
	log       *slog.Logger
	hashKey   []byte // of this process

	ctx      context.Context // ends with close
	cancel   context.CancelFunc
	running  sync.WaitGroup
	lookups  chan struct{} // one element per lookup for a request
	rechecks chan struct{} // one element per recheck

	mu       sync.Mutex
	closed   bool
	sessions map[sessionKey]*session
	idle     idleSessions
	flights  map[sessionKey]*flight
	denied   deniedTokens
}

// flight is one lookup that is under way.
type flight struct {
	done chan struct{}
	// The rest is set before done is closed, but for told.
	session   *session
	err       error
	abandoned bool // nothing was found out; ask again
	told      bool // somebody was told that it is anew; guarded by externals.mu
}

// found is who a token belongs to.
type found struct {
	session *session
	entry   *token.Entry
	grant   *grant
	anew    bool // not from the cache, and nobody was told so before
}

func newExternals(providers []Provider, admit func(*External) (*token.Entry, *grant), log *slog.Logger) *externals {
	x := &externals{
		providers: providers,
		admit:     admit,
		log:       log,
		hashKey:   make([]byte, sha256.Size),
		lookups:   make(chan struct{}, maxLookups),
		rechecks:  make(chan struct{}, maxLookups),
		sessions:  make(map[sessionKey]*session),
		flights:   make(map[sessionKey]*flight),
		denied:    deniedTokens{since: make(map[sessionKey]time.Time)},
	}
	rand.Read(x.hashKey)
	x.ctx, x.cancel = context.WithCancel(context.Background())
	return x
}

// close forgets all tokens and waits for the providers that are being asked.
func (x *externals) close(ctx context.Context) error {
	x.mu.Lock()
	x.closed = true
	x.cancel()
	for _, s := range x.sessions {
		x.drop(s)
	}
	x.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		x.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the providers of tokens: %w", ctx.Err())
	}
}

// recognised returns the providers that may know a token.
func (x *externals) recognised(value, namespace string) []Provider {
	var found []Provider
	for _, p := range x.providers {
		if p.Recognises(value, namespace) {
			found = append(found, p)
		}
	}
	return found
}

func (x *externals) key(value, namespace string) (key sessionKey) {
	hash := hmac.New(sha256.New, x.hashKey)
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(namespace)))
	hash.Write(length[:])
	hash.Write([]byte(namespace))
	hash.Write([]byte(value))
	hash.Sum(key[:0])
	return key
}

// authenticate returns whose token it is, from what is remembered or by asking.
// Requests with the same token at the same time share one answer. The error wraps
// ErrDenied or ErrUnavailable.
func (x *externals) authenticate(ctx context.Context, value, namespace string) (found, error) {
	providers := x.recognised(value, namespace)
	if len(providers) == 0 {
		return found{}, ErrDenied
	}
	if !slices.ContainsFunc(providers, asksNamespace) {
		namespace = ""
	}
	key := x.key(value, namespace)
	for {
		x.mu.Lock()
		now := time.Now()
		if x.closed {
			x.mu.Unlock()
			return found{}, fmt.Errorf("%w: shutting down", ErrUnavailable)
		}
		if s := x.sessions[key]; s != nil && s.fresh(now) {
			x.touch(s, now)
			known := found{session: s, entry: s.entry, grant: s.grant}
			x.mu.Unlock()
			return known, nil
		}
		if x.denied.has(key, now) {
			x.mu.Unlock()
			return found{}, ErrDenied
		}
		f := x.flights[key]
		if f == nil {
			f = &flight{done: make(chan struct{})}
			x.flights[key] = f
			x.mu.Unlock()
			x.launch(ctx, f, key, providers, value, namespace)
		} else {
			x.mu.Unlock()
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return found{}, fmt.Errorf("%w: the token could not be looked up in time", ErrUnavailable)
		}
		if f.abandoned && ctx.Err() == nil {
			continue // who went first gave up, not we
		}
		return x.landed(f)
	}
}

// landed is the result of a flight for one of those who waited.
func (x *externals) landed(f *flight) (found, error) {
	if f.err != nil {
		return found{}, f.err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	anew := !f.told
	f.told = true
	return found{session: f.session, entry: f.session.entry, grant: f.session.grant, anew: anew}, nil
}

// launch waits for its turn and then has the providers asked. They are asked also
// when the request has ended meanwhile, because others may wait for the answer.
func (x *externals) launch(ctx context.Context, f *flight, key sessionKey, providers []Provider, value, namespace string) {
	timeout := time.NewTimer(lookupWait)
	defer timeout.Stop()
	select {
	case x.lookups <- struct{}{}:
	case <-ctx.Done():
		x.land(key, f, nil, nil, true)
		return
	case <-timeout.C:
		x.land(key, f, nil, fmt.Errorf("%w: too many tokens of elsewhere are being looked up", ErrUnavailable), false)
		return
	}
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		<-x.lookups
		x.land(key, f, nil, fmt.Errorf("%w: shutting down", ErrUnavailable), false)
		return
	}
	x.running.Add(1)
	x.mu.Unlock()
	go func() {
		defer x.running.Done()
		p, external, err := x.ask(providers, value, namespace)
		<-x.lookups
		var s *session
		switch {
		case err == nil:
			s, err = x.settle(key, p, value, namespace, external)
		case errors.Is(err, ErrDenied):
			err = ErrDenied
			x.deny(key)
		}
		x.land(key, f, s, err, false)
	}()
}

// land tells those who wait for a flight.
func (x *externals) land(key sessionKey, f *flight, s *session, err error, abandoned bool) {
	f.session, f.err, f.abandoned = s, err, abandoned
	if abandoned {
		f.err = fmt.Errorf("%w: the token could not be looked up in time", ErrUnavailable)
	}
	x.mu.Lock()
	delete(x.flights, key)
	x.mu.Unlock()
	close(f.done)
}

// ask returns whose token it is and which provider says so. Without a provider that
// knows it, not to have got an answer from one weighs more than the no of another.
func (x *externals) ask(providers []Provider, value, namespace string) (Provider, *External, error) {
	err := ErrDenied
	for _, p := range providers {
		external, failed := x.askOne(p, value, namespace)
		if failed == nil {
			return p, external, nil
		}
		if !errors.Is(failed, ErrDenied) {
			err = failed
		}
	}
	return nil, nil, err
}

func (x *externals) askOne(p Provider, value, namespace string) (*External, error) {
	ctx, cancel := context.WithTimeout(x.ctx, lookupTimeout)
	defer cancel()
	external, err := p.Authenticate(ctx, value, namespace)
	switch {
	case err == nil && external == nil: // a mistake of the provider must not let anybody in
		return nil, fmt.Errorf("%w: no answer about the token", ErrUnavailable)
	case err == nil && !external.Expires.IsZero() && !time.Now().Before(external.Expires):
		return nil, ErrDenied
	case err == nil:
		return external, nil
	case errors.Is(err, ErrDenied), errors.Is(err, ErrUnavailable):
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// deny remembers that nobody knows a token, and ends it for those who use it.
func (x *externals) deny(key sessionKey) {
	x.mu.Lock()
	x.denied.add(key, time.Now())
	s := x.sessions[key]
	var followers []*follower
	if s != nil {
		followers = x.end(s, EndedRevoked)
	}
	x.mu.Unlock()
	tell(followers, EndedRevoked)
}

// settle remembers whose token it is. Who uses the token with other rights than it
// has now is told to authenticate again.
func (x *externals) settle(key sessionKey, p Provider, value, namespace string, external *External) (*session, error) {
	entry, g := x.admit(external)
	x.mu.Lock()
	now := time.Now()
	if x.closed {
		x.mu.Unlock()
		return nil, fmt.Errorf("%w: shutting down", ErrUnavailable)
	}
	s := x.sessions[key]
	var followers []*follower
	if s != nil && (s.grant != g || s.asked != p) {
		followers = x.end(s, EndedPolicies)
		s = nil
	}
	if s == nil {
		s = &session{key: key, asked: p, provider: external.Provider, namespace: namespace, grant: g}
		if p.Recheck() > 0 {
			s.value = value
		}
		x.sessions[key] = s
		s.timer = time.AfterFunc(time.Hour, func() { x.wake(s) })
	}
	s.confirm(external, entry, now)
	x.denied.forget(key)
	x.touch(s, now)
	x.schedule(s, now)
	x.mu.Unlock()
	tell(followers, EndedPolicies)
	return s, nil
}

func tell(followers []*follower, why Ended) {
	for _, f := range followers {
		f.tellEnded(why)
	}
}

// deniedTokens remembers tokens that nobody knows, so that repeating them costs the
// other side nothing. The oldest go when there are too many.
type deniedTokens struct {
	since map[sessionKey]time.Time
	order []deniedToken // oldest first; may have some that were forgotten
}

type deniedToken struct {
	key sessionKey
	at  time.Time
}

func (d *deniedTokens) has(key sessionKey, now time.Time) bool {
	at, ok := d.since[key]
	return ok && now.Sub(at) < deniedFor
}

func (d *deniedTokens) add(key sessionKey, now time.Time) {
	gone := 0
	for gone < len(d.order) && (len(d.order)-gone >= maxDenied || now.Sub(d.order[gone].at) >= deniedFor) {
		if oldest := d.order[gone]; d.since[oldest.key].Equal(oldest.at) {
			delete(d.since, oldest.key)
		}
		gone++
	}
	d.order = append(d.order[gone:], deniedToken{key, now})
	d.since[key] = now
}

func (d *deniedTokens) forget(key sessionKey) { delete(d.since, key) }
