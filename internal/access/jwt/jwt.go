// Package jwt knows the tokens (JSON Web Tokens, RFC 7519) of an issuer: an OpenID
// Connect provider, a Kubernetes cluster, or anybody else whose public keys are at
// hand. The claims of a token tell who it is and, by rules, which policies it has.
//
// A token is accepted when its signature is by a key of the issuer and by an
// accepted algorithm, "iss" is the issuer, "aud" has one of the audiences, "exp" is
// ahead, "nbf" and "iat" are not, and it is not older than allowed. The keys come
// from the configured place only: whatever a token says about where its key is
// ("jku", "x5u", "jwk", "x5c") is ignored. Unsigned, encrypted and nested tokens,
// tokens with extensions that must be understood ("crit"), and JSON in which a name
// occurs twice are refused.
//
// The package performs no login and asks nobody about single tokens: a token that
// its issuer has taken back is accepted until "exp". Package access caches.
package jwt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/throttle"
)

// maxLeeway is the most by which clocks may differ.
const maxLeeway = 5 * time.Minute

// algorithms are all that can be accepted. "none" and those with a shared secret
// cannot: with the latter, whoever checks tokens could make them.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512,
	jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512,
	jose.EdDSA,
}

// Provider is an [access.Provider] for the tokens of one issuer. It is safe for
// concurrent use.
type Provider struct {
	name        string
	issuer      string
	audiences   []string
	algorithms  []jose.SignatureAlgorithm
	leeway      time.Duration
	maxLifetime time.Duration // 0: no limit
	recheck     time.Duration
	user        claimRef
	groups      *claimRef // nil: none
	metadata    []metadata
	namespace   string
	rules       []rule
	policies    []string
	log         *slog.Logger
	refusals    throttle.Throttle
	keys        *keyring
}

var (
	_ access.Provider   = (*Provider)(nil)
	_ access.Everywhere = (*Provider)(nil)
)

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// New returns a Provider for the issuer that c describes. It reads key files, but
// does not connect: keys from elsewhere are fetched for the first token. An error
// says which field is wrong.
func New(c Config) (*Provider, error) {
	if !validName.MatchString(c.Name) {
		return nil, fmt.Errorf("jwt: name %q: use lower-case letters, digits, - and _", c.Name)
	}
	p, err := newProvider(c)
	if err != nil {
		return nil, fmt.Errorf("jwt %s: %w", c.Name, err)
	}
	return p, nil
}

func newProvider(c Config) (*Provider, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	p := &Provider{
		name:      c.Name,
		issuer:    c.Issuer,
		audiences: slices.Clone(c.Audiences),
		namespace: event.CanonicalNamespace(c.Namespace),
		log:       c.Logger.With("provider", c.Name),
	}
	if c.Issuer == "" {
		return nil, errors.New("issuer: is empty; write the claim \"iss\" of the tokens")
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		return nil, errors.New("audiences: is empty; name at least one, so that tokens made for other services are refused")
	}
	for _, name := range c.Algorithms {
		if !slices.Contains(algorithms, jose.SignatureAlgorithm(name)) {
			return nil, fmt.Errorf("algorithms: %q is not accepted; use some of %v", name, algorithms)
		}
		p.algorithms = append(p.algorithms, jose.SignatureAlgorithm(name))
	}
	if len(p.algorithms) == 0 {
		p.algorithms = algorithms
	}
	if err := p.durations(&c); err != nil {
		return nil, err
	}
	if err := p.mapping(c); err != nil {
		return nil, err
	}
	var err error
	p.keys, err = newKeyring(c, p.log)
	return p, err
}

// durations fills in the defaults of c and checks its bounds.
func (p *Provider) durations(c *Config) error {
	set := func(d *time.Duration, or time.Duration) {
		if *d == 0 {
			*d = or
		}
	}
	set(&c.Timeout, DefaultTimeout)
	set(&c.Leeway, DefaultLeeway)
	set(&c.MaxLifetime, DefaultMaxLifetime)
	set(&c.KeyRefresh, DefaultKeyRefresh)
	set(&c.Patience, max(DefaultPatience, c.KeyRefresh))
	switch {
	case c.Timeout < 0:
		return fmt.Errorf("timeout: %s is negative", c.Timeout)
	case c.Leeway > maxLeeway:
		return fmt.Errorf("leeway: %s is more than %s; set the clocks", c.Leeway, maxLeeway)
	case c.KeyRefresh < minInterval:
		return fmt.Errorf("key_refresh: %s is less than %s", c.KeyRefresh, minInterval)
	case c.Patience < c.KeyRefresh:
		return fmt.Errorf("patience: %s is less than key_refresh, %s", c.Patience, c.KeyRefresh)
	}
	p.leeway = max(c.Leeway, 0)
	p.maxLifetime = max(c.MaxLifetime, 0)
	p.recheck = c.KeyRefresh
	return nil
}

// mapping compiles what is made of claims.
func (p *Provider) mapping(c Config) error {
	if c.UserClaim == "" {
		c.UserClaim = DefaultUserClaim
	}
	var err error
	if p.user, err = parseClaimRef(c.UserClaim); err != nil {
		return fmt.Errorf("user_claim: %w", err)
	}
	if c.GroupsClaim != "" {
		groups, err := parseClaimRef(c.GroupsClaim)
		if err != nil {
			return fmt.Errorf("groups_claim: %w", err)
		}
		p.groups = &groups
	}
	if p.metadata, err = compileMetadata(c.Metadata); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	if err := checkPolicies(c.DefaultPolicies); err != nil {
		return fmt.Errorf("default_policies: %w", err)
	}
	p.policies = slices.Clone(c.DefaultPolicies)
	for i, r := range c.Rules {
		compiled, err := compileRule(r)
		if err != nil {
			return fmt.Errorf("policies[%d]: %w", i, err) // their name in the configuration
		}
		p.rules = append(p.rules, compiled)
	}
	if len(p.rules) == 0 && len(p.policies) == 0 {
		return errors.New("rules: there are none, and no default_policies; no token could do anything")
	}
	return nil
}

// Close ends a fetch of keys that is under way and waits for its end. Tokens that
// need a newer key than those known are then ErrUnavailable.
func (p *Provider) Close() { p.keys.close() }

// Name is what the issuer is called.
func (p *Provider) Name() string { return p.name }

// Recheck implements [access.Provider]: it is the configured KeyRefresh, so that the
// removal of a key is noticed.
func (p *Provider) Recheck() time.Duration { return p.recheck }

// Patience implements [access.Provider]. It is 0: when the keys cannot be fetched,
// the old ones are used for as long as configured, and after that there is no reason
// to wait any longer.
func (p *Provider) Patience() time.Duration { return 0 }

// Everywhere implements [access.Everywhere]: the namespace is in the configuration.
func (p *Provider) Everywhere() bool { return true }

// Recognises says whether a token has the form of a signed JWT and says that it is
// of this issuer; nothing of it has been checked then.
func (p *Provider) Recognises(value, _ string) bool {
	t, err := parse(value)
	return err == nil && t.claims["iss"] == p.issuer
}

// Authenticate checks a token and says who it is. The identity expires with the
// token, by the clock of this machine and without leeway, or when the token is as
// old as MaxLifetime. Its entity has an id that depends on the issuer and "sub" only.
//
// The error wraps [access.ErrDenied], whatever is wrong (the log says what), or
// [access.ErrUnavailable] when the keys of the issuer are not known.
func (p *Provider) Authenticate(ctx context.Context, value, _ string) (*access.External, error) {
	t, err := parse(value)
	if err != nil {
		return nil, p.refuse(err)
	}
	// The claims come first although they could be anybody's: what is wrong anyway
	// then costs neither cryptography nor a fetch of keys.
	x, err := p.identity(t, time.Now())
	if err != nil {
		return nil, p.refuse(err)
	}
	if err := p.checkSignature(ctx, t); err != nil {
		if errors.Is(err, access.ErrUnavailable) {
			return nil, err
		}
		return nil, p.refuse(err)
	}
	return x, nil
}

// checkSignature returns nil if a key of the issuer has signed t.
func (p *Provider) checkSignature(ctx context.Context, t *token) error {
	algorithm := jose.SignatureAlgorithm(t.header.Algorithm)
	if !slices.Contains(p.algorithms, algorithm) {
		return fmt.Errorf("its algorithm %q is not accepted", t.header.Algorithm)
	}
	signed, err := jose.ParseSignedCompact(t.text, p.algorithms)
	if err != nil {
		return errors.New("it is not a signed token")
	}
	verified := func(keys []key) (known bool, ok bool) {
		for _, k := range keys {
			exact := k.id == t.header.KeyID && k.id != ""
			if !exact && k.id != "" && t.header.KeyID != "" {
				continue
			}
			known = known || exact
			if k.fits(algorithm) {
				if _, err := signed.Verify(k.public); err == nil {
					return true, true
				}
			}
		}
		return known, false
	}
	keys, err := p.keys.current(ctx)
	if keys == nil {
		return p.unavailable(err)
	}
	known, ok := verified(keys)
	if ok {
		return nil
	}
	if known {
		return errors.New("its signature is wrong")
	}
	// The key may be new.
	if keys, err = p.keys.newest(ctx); err != nil {
		return p.unavailable(err)
	}
	if _, ok := verified(keys); !ok {
		return errors.New("no key of the issuer has signed it")
	}
	return nil
}

// unavailable returns the error for a token that cannot be checked. It is for
// clients; the cause is in the log.
func (p *Provider) unavailable(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: waiting for the keys of the issuer %s: %w", access.ErrUnavailable, p.name, err)
	}
	return fmt.Errorf("%w: the token cannot be checked now, because the keys of the issuer %s cannot be fetched; try again, or see the log of the hub for the cause",
		access.ErrUnavailable, p.name)
}

// refuse logs why a token is refused, which its bearer is not told.
func (p *Provider) refuse(why error) error {
	if skipped, ok := p.refusals.Allow(); ok {
		p.log.Info("token refused", "reason", why, "skipped", skipped)
	}
	return access.ErrDenied
}

// checkPolicies checks names of policies to be given.
func checkPolicies(names []string) error {
	for _, name := range names {
		if strings.TrimSpace(name) == "" {
			return errors.New("has an empty name")
		}
		if strings.EqualFold(strings.TrimSpace(name), "root") {
			return errors.New("the policy root cannot be given to tokens of elsewhere")
		}
	}
	return nil
}
