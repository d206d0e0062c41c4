// Package upstream knows the tokens of a Vault or OpenBao server. It asks the server
// about a token with the token itself (GET auth/token/lookup-self), so that it needs
// no right of its own there; every token with the server's policy "default", or
// another that allows lookup-self, can be used here.
//
// From the answer it takes names: of the policies, of the namespace and of who it
// is. What the policies allow here is written here; those of the server are never
// read.
//
// It keeps no answers and no tokens. Package access caches, joins equal questions
// and asks again; this package only takes care that a server that does not answer
// is not asked by everybody at once.
//
// Not accepted are tokens with a limited number of uses (each question would take
// one), tokens bound to addresses (the server sees the address of the hub, not that
// of the client), and anything that is neither a service nor a batch token.
package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/throttle"
)

const (
	// maxTokenBytes bounds a token. Batch tokens carry their metadata, so they can
	// be some kilobytes long.
	maxTokenBytes = 8 << 10
	// maxNamespaceBytes and maxNamespaceDepth bound a namespace; for each level
	// the server may be asked once.
	maxNamespaceBytes = 1 << 10
	maxNamespaceDepth = 8
	// maxAsking is how many questions are asked at once, maxWaiting how many more
	// may wait for their turn.
	maxAsking  = 32
	maxWaiting = 1024
	// issuedHere begins the tokens of the hub, which nobody else may get to see.
	issuedHere = "tcs."
)

// Provider is an [access.Provider] for the tokens of one server. It is safe for
// concurrent use.
type Provider struct {
	name      string
	address   string // for people
	endpoint  string
	namespace string // "": that of the request
	timeout   time.Duration
	recheck   time.Duration
	patience  time.Duration
	allowRoot bool
	log       *slog.Logger

	connections *connections
	circuit     circuit
	asking      chan struct{} // one element per question under way
	waiting     atomic.Int64
	refusals    throttle.Throttle // log messages about tokens that are not accepted
	failures    throttle.Throttle // log messages about answers that make no sense
}

var (
	_ access.Provider   = (*Provider)(nil)
	_ access.Everywhere = (*Provider)(nil)
)

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// New returns a Provider for the server that c names. It reads the files of c, but
// does not connect. An error says which field is wrong.
func New(c Config) (*Provider, error) {
	if c.Name == "" {
		c.Name = "upstream"
	}
	if !validName.MatchString(c.Name) {
		return nil, fmt.Errorf("upstream: name %q: use lower-case letters, digits, - and _", c.Name)
	}
	address, err := checkAddress(c.Address, c.InsecureAllowHTTP)
	if err != nil {
		return nil, fmt.Errorf("upstream: address: %w", err)
	}
	namespace := event.CanonicalNamespace(c.Namespace)
	if !validNamespace(namespace) {
		return nil, fmt.Errorf("upstream: namespace %q is not one: use at most %d names with slashes between them", c.Namespace, maxNamespaceDepth)
	}
	for _, d := range []struct {
		field string
		value *time.Duration
		other time.Duration
	}{
		{"timeout", &c.Timeout, DefaultTimeout},
		{"recheck", &c.Recheck, DefaultRecheck},
		{"patience", &c.Patience, DefaultPatience},
	} {
		if *d.value == 0 {
			*d.value = d.other
		}
		if *d.value < 0 && d.field != "patience" {
			return nil, fmt.Errorf("upstream: %s: %s is negative", d.field, *d.value)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	log := c.Logger.With("provider", c.Name)
	connections, err := newConnections(c, address.Scheme == "https", log)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	return &Provider{
		name:        c.Name,
		address:     address.String(),
		endpoint:    address.JoinPath("v1/auth/token/lookup-self").String(),
		namespace:   namespace,
		timeout:     c.Timeout,
		recheck:     c.Recheck,
		patience:    max(c.Patience, 0),
		allowRoot:   c.AllowRoot,
		log:         log,
		connections: connections,
		asking:      make(chan struct{}, maxAsking),
	}, nil
}

// Close closes the connections that are not in use. The Provider must not be used
// any more.
func (p *Provider) Close() { p.connections.close() }

// Name is what the server is called.
func (p *Provider) Name() string { return p.name }

// Recheck implements [access.Provider].
func (p *Provider) Recheck() time.Duration { return p.recheck }

// Patience implements [access.Provider].
func (p *Provider) Patience() time.Duration { return p.patience }

// Everywhere implements [access.Everywhere]: it is so with a configured namespace.
func (p *Provider) Everywhere() bool { return p.namespace != "" }

// Recognises says whether the server can be asked about a token: it is printable
// ASCII, not one of the hub's own, and not a JWT, which would give another system's
// credential to the server.
func (p *Provider) Recognises(value, namespace string) bool {
	if value == "" || len(value) > maxTokenBytes || strings.HasPrefix(value, issuedHere) {
		return false
	}
	// "eyJ" is how an object in base64 begins.
	if strings.HasPrefix(value, "eyJ") && strings.Count(value, ".") >= 2 {
		return false
	}
	for i := range len(value) {
		if value[i] <= ' ' || value[i] >= 0x7f {
			return false
		}
	}
	return p.namespace != "" || validNamespace(event.CanonicalNamespace(namespace))
}

// Authenticate asks the server whose token it is. When the namespace is not
// configured, it asks in the namespace of the request and then in those above it,
// because a token can be used below the namespace that it belongs to; the identity
// has the namespace of the token.
//
// The error wraps [access.ErrDenied] or [access.ErrUnavailable], never contains the
// token, and is also ErrUnavailable when ctx ends.
func (p *Provider) Authenticate(ctx context.Context, value, namespace string) (*access.External, error) {
	if !p.Recognises(value, namespace) {
		return nil, access.ErrDenied
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, errTooSlow)
	defer cancel()
	if err := p.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer func() { <-p.asking }()

	if p.namespace != "" {
		return p.lookup(ctx, value, p.namespace)
	}
	for namespace = event.CanonicalNamespace(namespace); ; namespace = parent(namespace) {
		x, err := p.lookup(ctx, value, namespace)
		if namespace == "" || !isDenied(err) {
			return x, err
		}
	}
}

// takeTurn waits until the server may be asked. The caller returns its turn by
// receiving from p.asking.
func (p *Provider) takeTurn(ctx context.Context) error {
	select {
	case p.asking <- struct{}{}:
		return nil
	default:
	}
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > maxWaiting {
		return p.unavailable("is being asked about too many tokens")
	}
	select {
	case p.asking <- struct{}{}:
		return nil
	case <-ctx.Done():
		return p.interrupted(ctx)
	}
}

// checkAddress parses the URL of a server.
func checkAddress(text string, insecure bool) (*url.URL, error) {
	if text == "" {
		return nil, fmt.Errorf("is empty; write the URL of the server, for example https://vault.example.com:8200")
	}
	u, err := url.Parse(text)
	if err != nil {
		// The text is not repeated: it may have a password in it.
		return nil, fmt.Errorf("is not a URL; write one like https://vault.example.com:8200")
	}
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("has a user name in it; leave it out, the server is asked with the token of each client")
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Hostname() == "":
		return nil, fmt.Errorf("%q has no https:// or no host; write it like https://vault.example.com:8200", text)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("%q has a query or fragment; leave it out", text)
	case u.Scheme == "http" && !insecure && !loopback(u.Hostname()):
		return nil, fmt.Errorf("%q would send tokens unencrypted; use https, or set insecure_allow_http if the network is yours alone", text)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	if u.Path == "/v1" || strings.HasSuffix(u.Path, "/v1") {
		return nil, fmt.Errorf("%q ends in /v1; leave that out", text)
	}
	u.RawPath = ""
	return u, nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// validNamespace says whether a canonical namespace can be sent in a header.
func validNamespace(namespace string) bool {
	if len(namespace) > maxNamespaceBytes || strings.Count(namespace, "/") > maxNamespaceDepth {
		return false
	}
	for i := range len(namespace) {
		if namespace[i] < ' ' || namespace[i] >= 0x7f {
			return false
		}
	}
	return true
}

// parent returns the namespace above a canonical one.
func parent(namespace string) string {
	return namespace[:strings.LastIndexByte(strings.TrimSuffix(namespace, "/"), '/')+1]
}

// noRedirects keeps a token from going where the answer says instead of where the
// configuration does.
func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
