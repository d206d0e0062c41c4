package token

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// Bounds of a [Request], beside the one of its value and the one of all of it as it
// is stored (64 KiB).
const (
	MaxPolicies     = 256
	MaxPolicyBytes  = 256 // of a name
	MaxDisplayBytes = 512
	MaxPathBytes    = 1024
	MaxMeta         = 64
	MaxMetaKeyBytes = 128
	MaxMetaBytes    = 4096 // of a value
)

// takenPatience is how long a value that was freed a moment ago may stay in the
// bucket.
const takenPatience = 2 * time.Second

// rootEntry is the entry of the root token of the configuration.
func (s *Store) rootEntry(value string) *Entry {
	return &Entry{
		ID: s.hashes.id(value), Accessor: s.hashes.rootAccessor(value), Policies: []string{"root"},
		DisplayName: "root", Path: "auth/token/root", Created: s.now().UTC(),
	}
}

func (s *Store) addRoot(e *Entry) { s.add(&record{id: e.ID, entry: e, root: true}) }

// lock waits for the turn of a token. Different tokens may share it.
func (s *Store) lock(ctx context.Context, id ID) (unlock func(), err error) {
	turn := s.stripes[int(id[0])%len(s.stripes)]
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case <-s.stopped:
		return nil, fmt.Errorf("%w: closed", ErrUnavailable)
	}
}

// snapshot is what is known of a valid token.
type snapshot struct {
	entry    *Entry
	revision uint64
	lineage  lineage
	root     bool
}

// current returns a valid token as it is now. The error is ErrNotFound.
func (s *Store) current(id ID) (snapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.byID[id]
	if r == nil || !r.entry.live(s.now()) {
		return snapshot{}, ErrNotFound
	}
	return snapshot{r.entry, r.revision, r.lineage, r.root}, nil
}

// check says what is wrong with a request.
func (r *Request) check() error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	switch {
	case r.Namespace != event.CanonicalNamespace(r.Namespace):
		return invalid("namespace %q is not in the canonical form", clip(r.Namespace))
	case len(r.Policies) > MaxPolicies:
		return invalid("it has %d policies, at most %d are possible", len(r.Policies), MaxPolicies)
	case len(r.DisplayName) > MaxDisplayBytes:
		return invalid("the display name has %d bytes, at most %d are possible", len(r.DisplayName), MaxDisplayBytes)
	case len(r.Path) > MaxPathBytes:
		return invalid("the path has %d bytes, at most %d are possible", len(r.Path), MaxPathBytes)
	case len(r.Meta) > MaxMeta:
		return invalid("it has %d metadata, at most %d are possible", len(r.Meta), MaxMeta)
	case r.TTL < 0 || r.Period < 0 || r.ExplicitMaxTTL < 0:
		return invalid("ttl, period and explicit_max_ttl cannot be negative")
	case r.NumUses < 0:
		return invalid("the number of uses cannot be negative")
	}
	for _, p := range r.Policies {
		if p == "" || len(p) > MaxPolicyBytes {
			return invalid("the name of a policy has %d bytes, 1 to %d are possible", len(p), MaxPolicyBytes)
		}
	}
	for k, v := range r.Meta {
		switch {
		case k == "" || len(k) > MaxMetaKeyBytes:
			return invalid("a key of the metadata has %d bytes, 1 to %d are possible", len(k), MaxMetaKeyBytes)
		case len(v) > MaxMetaBytes:
			return invalid("metadata %q has %d bytes, at most %d are possible", k, len(v), MaxMetaBytes)
		}
	}
	return checkValue(r.Value)
}

// Create makes a token and returns its value, which is not kept. The error wraps
// ErrInvalid, ErrExists, ErrTooMany, ErrNotFound when the parent is not valid (any
// more), or ErrUnavailable.
func (s *Store) Create(ctx context.Context, r Request) (value string, e *Entry, warnings []string, err error) {
	if err := r.check(); err != nil {
		return "", nil, nil, err
	}
	s.mu.RLock()
	n := len(s.byID)
	s.mu.RUnlock()
	if n >= s.config.MaxTokens {
		return "", nil, nil, ErrTooMany
	}
	now := s.now().UTC()
	e = &Entry{
		Accessor: randomText(accessorChars), Namespace: r.Namespace,
		Policies:    slices.Compact(slices.Sorted(slices.Values(r.Policies))),
		DisplayName: r.DisplayName, Meta: maps.Clone(r.Meta), Path: r.Path, Created: now,
		Period: r.Period, ExplicitMaxTTL: r.ExplicitMaxTTL, NumUses: r.NumUses, Parent: r.Parent, Subject: r.Subject,
	}
	bounds := limits{s.config.DefaultTTL, s.config.MaxTTL, r.Period, r.ExplicitMaxTTL}
	if e.TTL, warnings, err = bounds.initial(&r, now); err != nil {
		return "", nil, nil, err
	}
	if e.TTL > 0 {
		e.Expires, e.Renewable = now.Add(e.TTL), !r.NotRenewable
	}
	if value = r.Value; value == "" {
		value = Prefix + randomText(valueChars)
	} else if len(value) < shortValue {
		warnings = append(warnings, fmt.Sprintf("the token has only %d characters; whoever guesses it has its rights", len(value)))
	}
	e.ID = s.hashes.id(value)
	v := content{by: s.node, entry: e}
	if !e.Orphan() {
		parent, err := s.current(e.Parent)
		if err != nil {
			return "", nil, nil, fmt.Errorf("parent: %w", err)
		}
		v.lineage = lineage{parent.entry.Accessor, parent.root}
	}
	if e, err = s.store(ctx, &v); err != nil {
		return "", nil, nil, err
	}
	return value, e, warnings, nil
}

// store writes a new entry and returns it as it is once it is in effect.
func (s *Store) store(ctx context.Context, v *content) (*Entry, error) {
	e := v.entry
	unlock, err := s.lock(ctx, e.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	b, err := v.encode(s.now())
	if err != nil {
		return nil, err
	}
	revision, err := s.createKey(ctx, e.ID, b)
	if err != nil {
		return nil, err
	}
	if err := s.await(ctx, revision); err != nil {
		return nil, err
	}
	now, err := s.current(e.ID)
	if err != nil || now.entry.Accessor != e.Accessor {
		return nil, fmt.Errorf("%w: it has ended already, with its parent or because its time was up", ErrNotFound)
	}
	return now.entry, nil
}

// createKey stores a value under a key that has none. A token of the same value
// that has just ended may still be on its way out.
func (s *Store) createKey(ctx context.Context, id ID, b []byte) (uint64, error) {
	for patience := takenPatience; ; patience -= retryFirst {
		s.mu.Lock()
		taken, x := s.byID[id] != nil, s.ended[id]
		if x != nil && !x.settled() {
			s.queue(id, x)
		}
		s.mu.Unlock()
		if taken || x != nil && x.root {
			return 0, ErrExists
		}
		if x == nil {
			revision, err := s.bucket.create(ctx, id.String(), b)
			switch {
			case err == nil:
				return revision, nil
			case !errors.Is(err, errConflict):
				return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
		}
		if patience <= 0 {
			return 0, ErrExists
		}
		sleep(ctx, retryFirst)
		if ctx.Err() != nil {
			return 0, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// change replaces the value of a token by what next makes of its entry, until
// nobody came in between. next is called again after somebody did. It returns when
// the change is in effect.
func (s *Store) change(ctx context.Context, id ID, next func(e *Entry) (*content, error)) error {
	unlock, err := s.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	for {
		now, err := s.current(id)
		if err != nil {
			return err
		}
		v, err := next(now.entry)
		if err != nil {
			return err
		}
		v.by, v.lineage = s.node, now.lineage
		if v.entry == nil {
			v.accessor, v.root = now.entry.Accessor, now.root
		}
		b, err := v.encode(s.now())
		if err != nil {
			return err
		}
		var written uint64
		if now.root {
			written, err = s.bucket.put(ctx, id.String(), b)
		} else {
			written, err = s.bucket.update(ctx, id.String(), b, now.revision)
		}
		switch {
		case err == nil:
			return s.await(ctx, written)
		case !errors.Is(err, errConflict):
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if err := s.awaitOther(ctx, id, now.revision); err != nil {
			return err
		}
	}
}

// awaitAll waits until all is in effect that the bucket has now.
func (s *Store) awaitAll(ctx context.Context) error {
	last, err := s.bucket.last(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return s.await(ctx, last)
}

// awaitOther waits until what somebody else has written over a revision of a token
// is in effect.
func (s *Store) awaitOther(ctx context.Context, id ID, revision uint64) error {
	if err := s.awaitAll(ctx); err != nil {
		return err
	}
	if now, err := s.current(id); err == nil && now.revision == revision {
		s.demandWatch("the bucket has a token that is not the one known")
		return fmt.Errorf("%w: the bucket has the token in a form that is not known here", ErrUnavailable)
	}
	return nil
}

// Use takes one use from a token with limited uses, and revokes it after its last.
// It does nothing for others. The error is ErrNotFound when no use is left; when it
// wraps ErrUnavailable, the use may have been taken.
func (s *Store) Use(ctx context.Context, id ID) error {
	if now, err := s.current(id); err != nil || now.entry.NumUses == 0 {
		return err
	}
	return s.change(ctx, id, func(e *Entry) (*content, error) {
		if e.NumUses == 1 {
			return &content{end: UsedUp}, nil
		}
		used := *e
		used.NumUses--
		return &content{entry: &used}, nil
	})
}

// Renew extends a token by increment from now (0: by what it was given last),
// bounded by its and the store's limits; a periodic one by its period. The error
// wraps ErrNotFound, ErrNotRenewable or ErrUnavailable.
func (s *Store) Renew(ctx context.Context, id ID, increment time.Duration) (e *Entry, warnings []string, err error) {
	err = s.change(ctx, id, func(old *Entry) (*content, error) {
		if !old.Renewable {
			return nil, ErrNotRenewable
		}
		now := s.now().UTC()
		wanted := increment
		if wanted <= 0 {
			wanted = old.granted()
		}
		bounds := limits{s.config.DefaultTTL, s.config.MaxTTL, old.Period, old.ExplicitMaxTTL}
		var ttl time.Duration
		var err error
		if ttl, warnings, err = bounds.lifetime(wanted, old.Created, now); err != nil {
			return nil, err
		}
		renewed := *old
		renewed.LastRenewal, renewed.Expires = now, now.Add(ttl)
		return &content{entry: &renewed}, nil
	})
	if err == nil {
		e, err = s.ByID(id)
	}
	if err != nil {
		return nil, nil, err
	}
	return e, warnings, nil
}

// Revoke ends a token and all tokens that descend from it. The error wraps
// ErrNotFound or ErrUnavailable.
func (s *Store) Revoke(ctx context.Context, id ID) error { return s.end(ctx, id, false) }

// RevokeOrphan ends a token; its children become orphans. Otherwise it is like
// Revoke.
func (s *Store) RevokeOrphan(ctx context.Context, id ID) error { return s.end(ctx, id, true) }

func (s *Store) end(ctx context.Context, id ID, orphans bool) error {
	return s.change(ctx, id, func(*Entry) (*content, error) {
		return &content{end: Revoked, orphans: orphans}, nil
	})
}
