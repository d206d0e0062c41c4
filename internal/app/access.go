package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/access/jwt"
	"github.com/tocsin-events/tocsin/internal/access/upstream"
	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/token"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// openAccess opens the authority over tokens and policies.
func (a *App) openAccess(ctx context.Context, c config.Auth, root string, providers []access.Provider) (err error) {
	a.access, err = access.Open(ctx, access.Config{
		State:      a.journal.State,
		RootToken:  root,
		DefaultTTL: time.Duration(c.DefaultTTL),
		MaxTTL:     time.Duration(c.MaxTTL),
		Providers:  providers,
		Changed: func(key any) {
			if h := a.hub.Load(); h != nil { // not yet at the start, when nobody is connected
				h.Invalidate(key)
			}
		},
		Ended:    func(e *token.Entry, why access.Ended) { a.trail.Record(end(e, why)) },
		LoggedIn: func(id access.Identity, r *http.Request) { a.trail.Record(login(id, r)) },
		Logger:   component(a.log, "access"),
	})
	if err != nil {
		return fmt.Errorf("open tokens and policies in %s: %w", a.config.DataDir, err)
	}
	a.onStop("access", a.access.Close)
	a.health.Register("access", health.Degradation, a.access.Health)
	return a.checkWayIn(root, len(providers) > 0)
}

// checkWayIn makes sure that somebody can use the hub.
func (a *App) checkWayIn(root string, providers bool) error {
	if root == "" {
		if !providers && a.access.Tokens().Stats().Tokens == 0 {
			return errors.New("auth.root_token: there is none, no token is stored, and there is neither auth.upstream nor auth.jwt, " +
				"so nobody could get in; set auth.root_token to {env: NAME} or {file: PATH}, at least for the first start")
		}
		return nil
	}
	if _, err := a.access.Tokens().Lookup(root); errors.Is(err, token.ErrNotFound) {
		a.log.Warn("The configured root token was revoked and is not accepted. " +
			"For a root token, put another value where auth.root_token refers to; for none, set auth.root_token to {}.")
	}
	return nil
}

// makeProviders makes those who know the tokens of elsewhere. JWTs say whose they
// are, so their issuers come before the upstream server, which takes any text for a
// token that it might know.
func (a *App) makeProviders(c config.Auth) ([]access.Provider, error) {
	var all []access.Provider
	a.logins = make(map[string]access.Provider, len(c.JWT))
	for _, issuer := range c.JWT {
		config := jwtConfig(issuer)
		config.Logger = component(a.log, "jwt")
		p, err := jwt.New(config)
		if err != nil {
			return nil, fmt.Errorf("auth.%w", err)
		}
		a.onStop("issuer "+issuer.Name, func(context.Context) error { p.Close(); return nil })
		a.logins[issuer.Name] = p
		all = append(all, p)
	}
	if c.Upstream.Enabled() {
		config := upstreamConfig(c.Upstream)
		config.Logger = component(a.log, "upstream")
		p, err := upstream.New(config)
		if err != nil {
			return nil, fmt.Errorf("auth.%w", err)
		}
		a.onStop("upstream", func(context.Context) error { p.Close(); return nil })
		all = append(all, p)
	}
	return all, nil
}

func upstreamConfig(c config.Upstream) upstream.Config {
	return upstream.Config{
		Address:           c.Address,
		InsecureAllowHTTP: c.InsecureAllowHTTP,
		Namespace:         c.Namespace,
		CAFile:            c.CAFile,
		ServerName:        c.ServerName,
		CertFile:          c.CertFile,
		KeyFile:           c.KeyFile,
		ProxyURL:          c.ProxyURL,
		Timeout:           time.Duration(c.Timeout),
		Recheck:           time.Duration(c.Recheck),
		Patience:          zeroIsNone(c.Patience),
		AllowRoot:         c.AllowRoot,
	}
}

func jwtConfig(c config.JWT) jwt.Config {
	j := jwt.Config{
		Name:              c.Name,
		Issuer:            c.Issuer,
		DiscoveryURL:      c.DiscoveryURL,
		JWKSURL:           c.JWKSURL,
		JWKSFile:          c.JWKSFile,
		PublicKeyFiles:    c.PublicKeyFiles,
		CAFile:            c.CAFile,
		BearerTokenFile:   c.BearerTokenFile,
		InsecureAllowHTTP: c.InsecureAllowHTTP,
		ProxyURL:          c.ProxyURL,
		Timeout:           time.Duration(c.Timeout),
		KeyRefresh:        time.Duration(c.KeyRefresh),
		Patience:          time.Duration(c.Patience),
		Audiences:         c.Audiences,
		Algorithms:        c.Algorithms,
		Leeway:            zeroIsNone(c.Leeway),
		MaxLifetime:       zeroIsNone(c.MaxLifetime),
		UserClaim:         c.UserClaim,
		GroupsClaim:       c.GroupsClaim,
		Metadata:          c.Metadata,
		Namespace:         c.Namespace,
		DefaultPolicies:   c.DefaultPolicies,
	}
	for _, rule := range c.Policies {
		j.Rules = append(j.Rules, jwt.Rule{When: rule.When, Policies: rule.Policies})
	}
	return j
}

// zeroIsNone turns 0, which means none in the configuration, into what means none to
// the providers, for which 0 is the default.
func zeroIsNone(d config.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return time.Duration(d)
}

// failures returns the limit on failed authentications.
func failures(c config.FailedLogins) api.Failures {
	if c.Max == 0 {
		return api.Failures{PerSecond: -1}
	}
	return api.Failures{PerSecond: float64(c.Max) / time.Duration(c.Per).Seconds(), Burst: c.Max}
}

// rootToken reveals the token and checks that clients can send it. It is empty when
// there is to be none.
func rootToken(s config.Secret) (string, error) {
	if !s.IsSet() {
		return "", nil
	}
	token, err := s.Reveal()
	if err != nil {
		return "", fmt.Errorf("auth.root_token: %w; {} means that there is none, once there are other tokens", err)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("auth.root_token: the value has spaces or characters that are not printable ASCII, which fit into no HTTP header")
	}
	return token, nil
}

// nodeName returns the name of this hub in events about itself.
func nodeName(configured string) string {
	if configured != "" {
		return configured
	}
	if host, err := os.Hostname(); err == nil && host != "" {
		return host
	}
	return "tocsin"
}

// end is the record of a token that has ended without a request to end it. It is on
// the path that made the token, in its namespace.
func end(e *token.Entry, why access.Ended) trail.Record {
	r := trail.Record{What: "token-revoke", Namespace: e.Namespace, Path: e.Path, Operation: "delete", Modified: true}
	switch why {
	case access.EndedExpired:
		r.What = "token-expire"
	case access.EndedUsedUp:
		r.Fields.Set("reason", why.Error())
	default:
		r.Fields.Set("reason", "parent token ended")
	}
	r.SetTarget(e)
	return r
}

// login is the record of somebody known elsewhere who was authenticated anew. It is
// on the path "auth/PROVIDER", in the namespace in which the policies are.
func login(id access.Identity, r *http.Request) trail.Record {
	e := id.Entry()
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		remote = r.RemoteAddr
	}
	return trail.Record{
		What: "login", Namespace: e.Namespace, Path: e.Path, Operation: "update",
		Who: trail.Who{
			DisplayName: e.DisplayName, Accessor: e.Accessor, EntityID: e.Subject.EntityID,
			Policies: e.Policies, Provider: id.Provider(), Remote: remote,
		},
	}
}
