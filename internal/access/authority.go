package access

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

// Why something that was asked of the Authority cannot be done; errors wrap one of
// them, and their texts are for the client.
var (
	// ErrInvalid: the request makes no sense; 400.
	ErrInvalid = errors.New("invalid request")
	// ErrBeyond: more is asked for than the one who asks may give away; it wraps
	// ErrInvalid and has its text, because Vault answers 400 to that.
	ErrBeyond = fmt.Errorf("%w", ErrInvalid)
	// ErrNoPolicy: there is no such policy; 404.
	ErrNoPolicy = errors.New("no such policy")
	// ErrUnavailable: it cannot be found out or stored at the moment; 503.
	ErrUnavailable = errors.New("temporarily unavailable")
)

// The buckets, and the key of the secret with which tokens are hashed.
const (
	policyBucket = "tocsin-policies"
	tokenBucket  = "tocsin-tokens"
	secretBucket = "tocsin-secrets"
	signingKey   = "tokens"
)

// signingKeyBytes is the length of that secret.
const signingKeyBytes = 32

// maxTokenBytes is the longest token that is looked at. Tokens issued here have some
// dozens of bytes, JWTs with many groups a few thousand.
const maxTokenBytes = 8 << 10

// Config configures an Authority. State is required.
type Config struct {
	// State opens key-value buckets; [journal.Journal.State] does.
	State func(ctx context.Context, bucket string) (jetstream.KeyValue, error)
	// RootToken may do everything. Empty: there is none.
	RootToken string
	// DefaultTTL and MaxTTL of tokens, see [token.Config].
	DefaultTTL, MaxTTL time.Duration
	// Providers are asked in this order about tokens that were not issued here.
	Providers []Provider
	// Changed is called after the rights that belong to a Key have changed, before
	// those who follow are told. It may be nil. It must not block for long, nor change
	// policies: whoever did waits for it.
	Changed func(key any)
	// Ended is called when this node has ended a token that nobody asked it to end:
	// because its time was up, its last use was made, or its parent has ended
	// ([EndedRevoked]). It may be nil. It must not block.
	Ended func(*token.Entry, Ended)
	// LoggedIn is called when somebody from elsewhere was authenticated anew, not
	// from the cache, in the goroutine of the request. It may be nil.
	LoggedIn func(id Identity, r *http.Request)
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

// Authority knows all tokens and policies and decides by them. It is safe for
// concurrent use.
type Authority struct {
	config    Config
	log       *slog.Logger
	grants    *grants
	policies  *policies
	tokens    *token.Store
	externals *externals

	followMu  sync.Mutex
	following map[token.ID]map[*follower]struct{} // of tokens issued here
}

// Open loads tokens and policies and follows their changes until Close. It makes the
// policy "default" of the root namespace when there is none. ctx bounds the loading
// only.
func Open(ctx context.Context, c Config) (_ *Authority, err error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	a := &Authority{
		config:    c,
		log:       c.Logger,
		following: make(map[token.ID]map[*follower]struct{}),
	}
	a.grants = newGrants()
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close(context.WithoutCancel(ctx)))
		}
	}()
	bucket, err := c.State(ctx, policyBucket)
	if err != nil {
		return nil, fmt.Errorf("open policies: %w", err)
	}
	if a.policies, err = openPolicies(ctx, bucket, a.grants, a.policiesChanged, checkInterval, a.log); err != nil {
		return nil, fmt.Errorf("load policies: %w", err)
	}
	a.externals = newExternals(c.Providers, a.admit, a.log)
	key, err := tokenKey(ctx, c.State)
	if err != nil {
		return nil, err
	}
	if bucket, err = c.State(ctx, tokenBucket); err != nil {
		return nil, fmt.Errorf("open tokens: %w", err)
	}
	a.tokens, err = token.Open(ctx, token.Config{
		Bucket:     bucket,
		Key:        key,
		RootToken:  c.RootToken,
		DefaultTTL: c.DefaultTTL,
		MaxTTL:     c.MaxTTL,
		Changed:    a.tokensChanged,
		Logger:     a.log,
	})
	if err != nil {
		return nil, fmt.Errorf("load tokens: %w", err)
	}
	return a, nil
}

// tokenKey returns the secret with which tokens are hashed. It is made once for all
// nodes; of two that make it at the same time, one gets that of the other.
func tokenKey(ctx context.Context, state func(context.Context, string) (jetstream.KeyValue, error)) ([]byte, error) {
	kv, err := state(ctx, secretBucket)
	if err != nil {
		return nil, fmt.Errorf("open the key of the tokens: %w", err)
	}
	key := make([]byte, signingKeyBytes)
	rand.Read(key)
	switch _, err := kv.Create(ctx, signingKey, key); {
	case err == nil:
		return key, nil
	case !errors.Is(err, jetstream.ErrKeyExists):
		return nil, fmt.Errorf("store the key of the tokens: %w", err)
	}
	entry, err := kv.Get(ctx, signingKey)
	if err != nil {
		return nil, fmt.Errorf("read the key of the tokens: %w", err)
	}
	if len(entry.Value()) < signingKeyBytes {
		// With a key that anybody could guess, tokens could be found from what is stored.
		return nil, fmt.Errorf("the key of the tokens in bucket %s has %d bytes instead of %d", secretBucket, len(entry.Value()), signingKeyBytes)
	}
	return entry.Value(), nil
}

// Close stops following, and waits until ctx ends for what is under way. Nobody who
// follows is told.
func (a *Authority) Close(ctx context.Context) error {
	var errs []error
	if a.externals != nil {
		errs = append(errs, a.externals.close(ctx))
	}
	if a.tokens != nil {
		errs = append(errs, a.tokens.Close())
	}
	if a.policies != nil {
		errs = append(errs, a.policies.close(ctx))
	}
	return errors.Join(errs...)
}

// Health says why changes cannot be followed at the moment, or which policies cannot
// be read; nil when all is well.
func (a *Authority) Health() error {
	return errors.Join(a.policies.health(), a.tokens.Health())
}

// Authenticate returns who makes a request in a namespace. It does not use up a
// token with limited uses; see Use. The error wraps [ErrDenied], [ErrTokenInURL] or
// [ErrUnavailable].
//
// Tokens issued here come first. What is not one of them is shown to the providers
// that recognise it, in their order, until one knows it; their answers are cached.
func (a *Authority) Authenticate(r *http.Request, namespace string) (Identity, error) {
	if TokenInURL(r) {
		return Identity{}, ErrTokenInURL
	}
	value := Token(r)
	if value == "" || len(value) > maxTokenBytes || !utf8.ValidString(value) {
		return Identity{}, ErrDenied
	}
	entry, err := a.tokens.Lookup(value)
	switch {
	case err == nil:
		return a.local(entry), nil
	case !errors.Is(err, token.ErrNotFound):
		return Identity{}, storeError(err, "look up the token")
	case strings.HasPrefix(value, token.Prefix): // one of ours that is no more is nobody else's business
		return Identity{}, ErrDenied
	}
	found, err := a.externals.authenticate(r.Context(), value, event.CanonicalNamespace(namespace))
	if err != nil {
		return Identity{}, err
	}
	id := a.identity(found.entry, found.grant, found.session)
	if found.anew && a.config.LoggedIn != nil {
		a.config.LoggedIn(id, r)
	}
	return id, nil
}

// Identify returns the identity of a token that somebody else presents, for lookups
// and capabilities; only tokens issued here. The error is [token.ErrNotFound].
func (a *Authority) Identify(e *token.Entry) (Identity, error) {
	entry, err := a.tokens.ByID(e.ID)
	if err != nil {
		return Identity{}, err
	}
	return a.local(entry), nil
}

// Tokens are the tokens issued here.
func (a *Authority) Tokens() *token.Store { return a.tokens }

// Use takes one use from a token with limited uses, and nothing from others. The
// error wraps ErrDenied when none is left, or ErrUnavailable. The last use ends the
// token, also for those who follow it.
func (a *Authority) Use(ctx context.Context, id Identity) error {
	switch {
	case id.entry == nil:
		return ErrDenied
	case id.session != nil || id.entry.NumUses == 0:
		return nil
	}
	return storeError(a.tokens.Use(ctx, id.entry.ID), "use up the token")
}

// storeError is an error of the token store for the client.
func storeError(err error, verb string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, token.ErrNotFound):
		return ErrDenied
	case errors.Is(err, token.ErrNotRenewable), errors.Is(err, token.ErrExists), errors.Is(err, token.ErrInvalid):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, verb, err)
}

// local returns the identity of a token issued here.
func (a *Authority) local(e *token.Entry) Identity {
	return a.identity(e, a.grants.get(e.Namespace, e.Policies, e.Subject), nil)
}

func (a *Authority) identity(e *token.Entry, g *grant, s *session) Identity {
	return Identity{grants: a.grants, entry: e, grant: g, seen: g.version.Load(), session: s}
}

// admit returns what somebody known elsewhere may do here.
func (a *Authority) admit(x *External) (*token.Entry, *grant) {
	e := externalEntry(x)
	return e, a.grants.get(e.Namespace, e.Policies, e.Subject)
}

// externalEntry describes somebody known elsewhere as a token.
func externalEntry(x *External) *token.Entry {
	e := &token.Entry{
		Accessor:    x.Accessor,
		Namespace:   event.CanonicalNamespace(x.Namespace),
		Policies:    cleanNames(x.Policies),
		DisplayName: x.DisplayName,
		Meta:        x.Meta,
		Path:        "auth/" + x.Provider,
		Created:     x.Created,
		Expires:     x.Expires,
		Renewable:   x.Renewable,
		Subject:     x.Subject,
	}
	if !x.Created.IsZero() && !x.Expires.IsZero() {
		e.TTL = max(0, x.Expires.Sub(x.Created))
	}
	if x.Root {
		e.Namespace, e.Policies = "", []string{policy.RootPolicy.Name}
	}
	return e
}
