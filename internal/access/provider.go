package access

import (
	"context"
	"time"

	"github.com/tocsin-events/tocsin/internal/policy"
)

// External is somebody who is known elsewhere. It is not changed once it was
// returned by a [Provider].
type External struct {
	// Provider names where: "upstream", or the name of a JWT issuer.
	Provider    string
	DisplayName string
	Accessor    string // if there is one
	// Namespace and Policies select policies stored here. Namespace is canonical.
	// Nothing is added to Policies, not even "default"; names that no policy can
	// have, and "root", select nothing.
	Namespace string
	Policies  []string
	Root      bool // may do everything here; Namespace and Policies are ignored
	Subject   policy.Subject
	Created   time.Time
	Expires   time.Time // zero: not known
	Renewable bool
	Meta      map[string]string
}

// Provider knows tokens of elsewhere. It is safe for concurrent use. What it answers
// is cached by the Authority, which asks at most 16 times at once for requests, and
// once for all requests with the same token, and 16 times at once for tokens in use.
type Provider interface {
	// Recognises says, without asking anybody, whether a token could be one of its.
	Recognises(value, namespace string) bool
	// Authenticate returns whose token it is. The error wraps ErrDenied when the
	// token is not valid, and ErrUnavailable when that could not be found out; others
	// count as the latter. Its text may be sent to the client and does not have the
	// token. ctx ends after ten seconds at most.
	Authenticate(ctx context.Context, value, namespace string) (*External, error)
	// Recheck is how often a token in use must be authenticated again, so that a
	// revocation is noticed; 0: never, it is valid until it expires. It is also how
	// long an answer is cached.
	Recheck() time.Duration
	// Patience is how long a token in use stays valid when it cannot be
	// authenticated again because the other side does not answer, counted from when
	// it should have been.
	Patience() time.Duration
}

// Everywhere is implemented by a [Provider] whose answers may not depend on the
// namespace of the request. Where they do not, a token is remembered once and not once for every
// namespace that its bearer writes in a header: otherwise each would be a login of its own, and
// displace those of others.
type Everywhere interface {
	// Everywhere says whether the answer is the same in all namespaces; always the same.
	Everywhere() bool
}

// asksNamespace says whether answers of p may depend on the namespace.
func asksNamespace(p Provider) bool {
	e, ok := p.(Everywhere)
	return !ok || !e.Everywhere()
}
