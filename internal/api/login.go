package api

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// maxLoginBody bounds the bodies of those who have no token yet, in bytes.
const maxLoginBody = 64 << 10

// login serves auth/{name}/login with {"jwt":"...","role":"..."}, as clients of
// Vault's jwt and kubernetes methods send it. The answer is a token issued here, which ends
// when the JWT does. What it may do depends on the claims of the JWT alone: the role is
// accepted, because those clients must send one, and has no effect.
func (a *API) login(c *call) (*reply, error) {
	in := c.reader()
	jwt := strings.TrimSpace(in.text("jwt")) // of a file with a line break at its end
	in.text("role")
	if err := in.failed(); err != nil {
		return nil, err
	}
	if jwt == "" {
		return nil, badRequest("missing jwt")
	}
	if refused := a.limited(c.r, jwt); refused != nil {
		return nil, refused
	}
	provider := a.logins[c.name]
	external, err := (*access.External)(nil), access.ErrDenied
	if provider.Recognises(jwt, c.namespace) {
		external, err = provider.Authenticate(c.ctx, jwt, c.namespace)
	}
	switch {
	case errors.Is(err, access.ErrDenied):
		a.failed(c.r, jwt)
		return nil, &refusal{status: http.StatusForbidden, text: errorList("permission denied")}
	case err != nil:
		return nil, err
	}
	value, e, err := a.authority.Login(c.ctx, external, c.path)
	if err != nil {
		return nil, err
	}
	a.known.add(jwt)
	record := c.change("login")
	record.Who = trail.Who{DisplayName: e.DisplayName, Accessor: e.Accessor, EntityID: e.Subject.EntityID,
		Policies: e.Policies, Provider: external.Provider, Remote: remote(c.r)}
	if err := a.commitNewToken(c, record, e); err != nil {
		return nil, err
	}
	return &reply{auth: newAuth(value, e, time.Now())}, nil
}
