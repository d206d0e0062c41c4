package api

import (
	"errors"
	"net/http"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/token"
)

// authenticate returns who makes a request in a namespace, or how it is refused. It
// does not use up a token with limited uses.
func (a *API) authenticate(r *http.Request, namespace string) (access.Identity, *refusal) {
	value := access.Token(r)
	if refused := a.limited(r, value); refused != nil {
		return access.Identity{}, refused
	}
	id, err := a.authority.Authenticate(r, namespace)
	switch {
	case err == nil:
		a.known.add(value)
		return id, nil
	case errors.Is(err, access.ErrDenied):
		a.failed(r, value)
		return access.Identity{}, invalidToken(value)
	case errors.Is(err, access.ErrUnavailable):
		a.warn("cannot validate token at the moment", "error", err)
		return access.Identity{}, &refusal{status: http.StatusServiceUnavailable, text: "the token cannot be validated at the moment; try again"}
	}
	a.log.Error("cannot validate token", "error", err)
	return access.Identity{}, &refusal{status: http.StatusInternalServerError, text: "error validating token"}
}

// limited returns a refusal if the address of a request has failed too often, unless
// the token is known to be valid.
func (a *API) limited(r *http.Request, value string) *refusal {
	from := source(r)
	wait := a.limiter.wait(from)
	if wait == 0 || a.known.has(value) {
		return nil
	}
	a.limiter.refuse(from)
	return &refusal{status: http.StatusTooManyRequests, after: wait,
		text: "too many failed authentications from your address; try again later"}
}

// failed counts a failed authentication.
func (a *API) failed(r *http.Request, value string) {
	a.limiter.fail(source(r))
	a.known.remove(value)
}

// invalidToken is the refusal of a token that is not valid. That one was sent is
// nothing new to the client.
func invalidToken(value string) *refusal {
	if value == "" {
		return &refusal{status: http.StatusForbidden, text: "permission denied"}
	}
	return &refusal{status: http.StatusForbidden, text: errorList("permission denied", "invalid token")}
}

// use takes one use from a token with limited uses, before the request is served: so
// as many requests at once get no more than that.
func (a *API) use(r *http.Request, id access.Identity) *refusal {
	err := a.authority.Use(r.Context(), id)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, token.ErrNotFound), errors.Is(err, access.ErrDenied):
		return invalidToken(access.Token(r))
	}
	a.warn("cannot count the use of a token", "error", err)
	return &refusal{status: http.StatusServiceUnavailable, text: "the token cannot be validated at the moment; try again"}
}

// admit sets who makes a request and takes a use of the token.
func (a *API) admit(c *call) error {
	id, refused := a.authenticate(c.r, c.namespace)
	if refused == nil {
		refused = a.use(c.r, id)
	}
	if refused != nil {
		return refused
	}
	c.id = id
	return nil
}
