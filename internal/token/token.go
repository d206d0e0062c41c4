// Package token keeps the tokens that the hub has issued: their creation, renewal,
// expiry and revocation with all their children. Of a token itself only a keyed
// hash is ever stored; entries live in a key-value bucket and are served from
// memory, which follows the bucket, also over changes by other nodes.
//
// It does not know what policies mean, nor who may create what; package access does.
//
// # What the bucket has
//
// The key of a token is its [ID] in hexadecimal digits, the value is its entry in
// JSON (see stored). Tokens end in one of three ways:
//
//   - Revoked or used up: one write replaces the entry by a tombstone that says
//     why, and by which node. From then on every node that reads it takes the token
//     and all its descendants for ended. The keys of the descendants are removed
//     afterwards, in the background, and so is the tombstone after a second.
//   - Expired: every node sees for itself that the time is up. They compete for
//     removing the key, and the one that does it reports the end. None waits for
//     long to tell: what cannot be decided in some 50 ms ends regardless.
//   - With its parent: an entry whose parent the bucket does not have any more counts
//     as ended, whenever it is read. So a crash between the end of a token and the
//     removal of its descendants leaves none alive.
//
// A removed key leaves a delete marker that the server removes by itself, when the
// bucket was made with a LimitMarkerTTL.
//
// # When the bucket fails
//
// What is in memory goes on being served, expiry works, writing methods fail with
// [ErrUnavailable], and [Store.Health] says why. Where other nodes write to the
// same bucket, Config.MaxStale bounds for how long tokens are accepted whose
// revocation could not be noticed. When the bucket is back, the store reads all of
// it and tells the differences as changes.
package token

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/internal/policy"
)

var (
	// ErrNotFound means that there is no such token or accessor, or not any more.
	ErrNotFound = errors.New("no such token")
	// ErrNotRenewable means that a token cannot be renewed.
	ErrNotRenewable = errors.New("token is not renewable")
	// ErrExists means that a token with the wanted value exists.
	ErrExists = errors.New("a token with this value exists already")
	// ErrInvalid means that a token as requested cannot be; the text says why.
	ErrInvalid = errors.New("invalid token request")
	// ErrTooMany means that there are Config.MaxTokens already.
	ErrTooMany = errors.New("there are too many tokens; revoke some, or give them shorter lives")
	// ErrUnavailable means that the bucket did not do what was asked of it, or that it
	// is not known whether it did. Asking again is safe, but may take a second use.
	ErrUnavailable = errors.New("tokens cannot be stored at the moment")
	// ErrStale means that revocations could not be noticed for longer than
	// Config.MaxStale, so that no token can be taken for valid.
	ErrStale = errors.New("tokens cannot be confirmed at the moment")
)

// ID is the keyed hash of a token. It is what parents and children are known by.
type ID [32]byte

// String returns the ID in hexadecimal digits. It is not secret.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Entry is one token as it is now. It is immutable: changes make a new one.
type Entry struct {
	ID       ID
	Accessor string
	// Namespace is canonical (see event.CanonicalNamespace).
	Namespace string
	// Policies are sorted, without repeats; ["root"] for one that may do everything.
	Policies    []string
	DisplayName string
	Meta        map[string]string
	// Path is the API path that made it, for example "auth/token/create".
	Path    string
	Created time.Time
	// TTL is how long it was to live when it was created; 0: for ever.
	TTL time.Duration
	// Expires is when it ends; zero: never.
	Expires        time.Time
	Period         time.Duration // 0: not periodic
	ExplicitMaxTTL time.Duration // 0: none
	// NumUses is how many requests may still be made; 0: no limit.
	NumUses     int
	Renewable   bool
	LastRenewal time.Time // zero: never
	// Parent is the zero ID for orphans.
	Parent ID
	// Subject is what templates of policies refer to.
	Subject policy.Subject
}

// Orphan says whether the token ends independently of others.
func (e *Entry) Orphan() bool { return e.Parent == ID{} }

// live says whether the time of the token is not up.
func (e *Entry) live(now time.Time) bool { return e.Expires.IsZero() || now.Before(e.Expires) }

// Request is a token to be made. Limits on it are checked by [Store.Create]; whether
// the caller may is not.
type Request struct {
	// Value is what the token is to be; "": a random one. Like Vault, the store takes
	// any printable ASCII text of up to MaxValueBytes without a point. One that can
	// be guessed is the caller's risk.
	Value          string
	Namespace      string
	Policies       []string
	DisplayName    string
	Meta           map[string]string
	Path           string
	TTL            time.Duration // 0: the default, or never for policies ["root"]
	Period         time.Duration
	ExplicitMaxTTL time.Duration
	NumUses        int
	NotRenewable   bool
	Parent         ID // zero: orphan
	Subject        policy.Subject
}

// End says why a token is no more.
type End int

// The ways in which a token ends.
const (
	Revoked   End = iota + 1 // by somebody, itself or with its parent
	Expired                  // its time was up
	UsedUp                   // its last use was made
	Forgotten                // the bucket has it no more, for a reason that this node does not know
)

// String returns the name of the end in lower case.
func (e End) String() string {
	switch e {
	case Revoked:
		return "revoked"
	case Expired:
		return "expired"
	case UsedUp:
		return "used up"
	case Forgotten:
		return "forgotten"
	default:
		return fmt.Sprintf("End(%d)", int(e))
	}
}

// Change is what happened to one token. Exactly one of Entry (created, renewed,
// used, orphaned) and End is meaningful. A token that another node renewed, while
// this one could not hear of it, expires here at the time that is known here, and
// comes back with an Entry, like a new one, when it is heard of.
type Change struct {
	ID    ID
	Entry *Entry // as it is now; nil when it ended
	Last  *Entry // as it was when it ended; nil otherwise
	End   End
	// Local: this node did it, so this node reports it. For a token that expired it
	// is true on the one node that removed it from the bucket; when that is not known
	// within some 50 ms it is true on all nodes that could not wait any longer.
	Local bool
}

// Config configures a Store. Bucket, Key and Changed are required.
type Config struct {
	// Bucket has the entries, one key each, and nothing else. For delete markers not
	// to stay for ever it must have been made with a LimitMarkerTTL.
	Bucket jetstream.KeyValue
	// Key is the secret with which tokens are hashed, at least 32 bytes.
	Key []byte
	// RootToken may do everything and has no entry in the bucket; it is known until
	// it is revoked, which outlasts restarts. Its children end when it is revoked,
	// not when another one is configured in its place. Empty: there is none.
	RootToken string
	// DefaultTTL is how long a token lives that does not say (0: 768 hours), MaxTTL
	// the most that one without period may (0: 768 hours), and the longest period.
	DefaultTTL, MaxTTL time.Duration
	// MaxTokens is how many there may be (0: a million). Each takes about a kilobyte
	// of memory.
	MaxTokens int
	// MaxStale is for how long tokens are found while changes by other nodes cannot
	// be followed; after it lookups fail with ErrStale. 0: for ever, which is right
	// only where no other node writes to the bucket.
	MaxStale time.Duration
	// Changed is called for changes, in their order, one call at a time, on this or
	// another node; a change is in effect on this node before. Writing methods wait
	// for it to return, so it must not call them, nor wait for somebody who does. It
	// may be called before Open has returned, for tokens that expired meanwhile, and
	// is not called after Close has.
	Changed func([]Change)
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

const (
	defaultTTL       = 768 * time.Hour
	defaultMaxTokens = 1_000_000
	minKeyBytes      = 32
)

func (c *Config) setDefaults() error {
	if c.DefaultTTL == 0 {
		c.DefaultTTL = defaultTTL
	}
	if c.MaxTTL == 0 {
		c.MaxTTL = defaultTTL
	}
	if c.MaxTokens == 0 {
		c.MaxTokens = defaultMaxTokens
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	switch {
	case len(c.Key) < minKeyBytes:
		return fmt.Errorf("the key has %d bytes, at least %d are needed", len(c.Key), minKeyBytes)
	case c.DefaultTTL < 0 || c.MaxTTL < 0 || c.MaxTokens < 0 || c.MaxStale < 0:
		return errors.New("TTLs and limits cannot be negative")
	case c.Changed == nil:
		return errors.New("nobody is told of changes")
	case len(c.RootToken) > MaxValueBytes:
		return fmt.Errorf("the root token has %d bytes, at most %d are possible", len(c.RootToken), MaxValueBytes)
	}
	return nil
}

// Store is the tokens. It is safe for concurrent use. Writing methods return after
// the change is durable, in effect on this node, and Changed has returned for it.
// When their context ends first, or the bucket fails, they return an error that
// wraps ErrUnavailable, and the change may or may not come.
type Store struct {
	config Config
	bucket bucket
	log    *slog.Logger
	now    func() time.Time
	node   string // of this Store; in all that it writes
	hashes hasher

	// One writing method at a time has a token, so that those of one node do not
	// fail over each other's revisions.
	stripes [64]chan struct{}

	mu sync.RWMutex
	table
	applied  uint64    // all of the bucket up to this revision is in the table
	told     uint64    // and Changed has returned for it
	loaded   bool      // once
	armed    time.Time // when the clock looks at the table next
	changes  []Change
	waiters  []waiter
	untold   chan struct{} // 1: the teller has something to do
	rearm    chan struct{} // 1: the clock has to look at the table
	caughtUp chan struct{} // 1: the teller has taken all changes
	jobs     jobs
	resting  []ID // own tombstones in the order of time

	rewatch   chan string   // 1: the watch must be made anew, and why
	probeNow  chan struct{} // 1: somebody waits for too long
	following atomic.Bool   // there is a watch
	condition atomic.Pointer[condition]
	started   time.Time
	confirmed atomic.Int64 // nanoseconds after started: when all was known last

	cancel  context.CancelFunc
	stopped <-chan struct{} // closed by cancel
	tasks   sync.WaitGroup
	closed  atomic.Bool
}

// Open loads the tokens and follows the bucket until [Store.Close]. Tokens whose
// time is up are removed.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Bucket == nil {
		return nil, errors.New("open tokens: no bucket")
	}
	b, err := openBucket(ctx, c.Bucket)
	if err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	if b.markers == 0 {
		cmp.Or(c.Logger, slog.Default()).Warn("tokens: the bucket keeps the delete markers of ended tokens for ever", "bucket", c.Bucket.Bucket())
	}
	return open(ctx, c, b, time.Now)
}

func open(ctx context.Context, c Config, b bucket, now func() time.Time) (*Store, error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	s := &Store{
		config: c, bucket: b, log: c.Logger, now: now, node: rand.Text(), started: time.Now(),
		table:    newTable(),
		untold:   make(chan struct{}, 1),
		rearm:    make(chan struct{}, 1),
		caughtUp: make(chan struct{}, 1),
		rewatch:  make(chan string, 1),
		probeNow: make(chan struct{}, 1),
	}
	s.hashes.key = append([]byte(nil), c.Key...)
	for i := range s.stripes {
		s.stripes[i] = make(chan struct{}, 1)
	}
	s.jobs.init()
	if c.RootToken != "" {
		s.addRoot(s.rootEntry(c.RootToken))
		s.config.RootToken = "" // from here on its hash is enough
	}
	running, cancel := context.WithCancel(context.Background())
	s.cancel, s.stopped = cancel, running.Done()
	w, err := s.load(ctx, running)
	if err != nil {
		cancel()
		s.tasks.Wait()
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	s.following.Store(true)
	s.tasks.Go(func() { s.follow(running, w) })
	s.tasks.Go(func() { s.probe(running) })
	s.tasks.Go(func() { s.clock(running) })
	s.tasks.Go(func() { s.tell(running) })
	for range removers {
		s.tasks.Go(func() { s.remove(running) })
	}
	return s, nil
}

// Close stops following the bucket. What the store does in the background is given
// up; the next Open goes on with it. It returns nil, also when repeated.
func (s *Store) Close() error {
	s.closed.Store(true)
	s.cancel()
	s.jobs.close()
	s.tasks.Wait()
	return nil
}

// signal wakes whoever reads c, or makes sure that it looks again.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Lookup returns the entry of a token that is valid now, from memory. The error is
// ErrNotFound or ErrStale. It takes the same time for all tokens that are not known.
func (s *Store) Lookup(value string) (*Entry, error) {
	if len(value) > MaxValueBytes {
		return nil, ErrNotFound
	}
	return s.ByID(s.hashes.id(value))
}

// ByID is like Lookup.
func (s *Store) ByID(id ID) (*Entry, error) {
	if s.config.MaxStale > 0 && s.stale() {
		return nil, ErrStale
	}
	s.mu.RLock()
	r := s.byID[id]
	if r == nil {
		s.mu.RUnlock()
		return nil, ErrNotFound
	}
	e := r.entry
	s.mu.RUnlock()
	if !e.live(s.now()) {
		return nil, ErrNotFound
	}
	return e, nil
}

// ByAccessor is like Lookup.
func (s *Store) ByAccessor(accessor string) (*Entry, error) {
	s.mu.RLock()
	r := s.byAccessor[accessor]
	s.mu.RUnlock()
	if r == nil {
		return nil, ErrNotFound
	}
	return s.ByID(r.id)
}

// Accessors returns the accessors of all tokens of a namespace, sorted.
func (s *Store) Accessors(namespace string) []string {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.accessors(namespace, now)
}

// Stats are counts of what a Store has.
type Stats struct {
	Tokens     int // that are valid
	Unreadable int // values of the bucket that are no entries, or depend on one
	Removing   int // tokens that have ended but are still in the bucket
}

// Stats returns the counts of now.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Stats{Tokens: len(s.byID), Unreadable: len(s.unreadable), Removing: len(s.ended)}
}
