// Package access decides who may do what. A token is turned into an [Identity]
// once per request, and the identity answers the questions; who asks them does
// not know how they are decided.
//
// So far there is one token, the root token, which may do everything.
package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"

	"github.com/tocsin-events/tocsin/event"
)

var (
	// ErrDenied means that a request has no token or one that is not valid. It
	// does not tell which, so that nothing can be learnt by trying.
	ErrDenied = errors.New("permission denied")
	// ErrTokenInURL means that a request carries a token in its URL, where it
	// ends up in logs and histories: whether valid or not, it must be considered
	// known to others.
	ErrTokenInURL = errors.New("the URL has a token in its query; send it in the header X-Vault-Token or Authorization: Bearer, " +
		"and replace the token, because URLs are written to logs")
)

// Identity is who makes a request, as far as it matters for what they may do. The
// zero Identity is nobody and may do nothing. An Identity is immutable and safe
// for concurrent use.
type Identity struct{ root bool }

// Key is equal for identities that get the same answer to every question, as long
// as what they may do is not changed. It is comparable.
func (id Identity) Key() any { return id }

// Root says whether the identity may do everything.
func (id Identity) Root() bool { return id.root }

// MayConnect says whether the identity may subscribe to the event type glob typ,
// taken literally. What it then sees is decided by MaySee.
func (id Identity) MayConnect(typ string) bool { return id.root }

// MaySee says whether the identity may see e.
func (id Identity) MaySee(e *event.Event) bool { return id.root }

// Authenticator knows the tokens. It is safe for concurrent use.
type Authenticator struct{ root [sha256.Size]byte }

// NewAuthenticator returns an Authenticator that knows the root token, which must
// not be empty. It keeps only a hash.
func NewAuthenticator(rootToken string) (*Authenticator, error) {
	if rootToken == "" {
		return nil, errors.New("the root token is empty")
	}
	return &Authenticator{sha256.Sum256([]byte(rootToken))}, nil
}

// Authenticate returns the identity of the token of a request. The error is
// [ErrDenied] or [ErrTokenInURL].
func (a *Authenticator) Authenticate(r *http.Request) (Identity, error) {
	if TokenInURL(r) {
		return Identity{}, ErrTokenInURL
	}
	// Both sides are hashed, so that neither the content nor the length of the
	// token can be learnt from the time that it takes.
	sum := sha256.Sum256([]byte(Token(r)))
	if subtle.ConstantTimeCompare(sum[:], a.root[:]) != 1 {
		return Identity{}, ErrDenied
	}
	return Identity{root: true}, nil
}

// Token returns the token of a request, "" for none: the header X-Vault-Token, or
// else the first header Authorization that begins with "Bearer ".
func Token(r *http.Request) string {
	if token := r.Header.Get("X-Vault-Token"); token != "" {
		return token
	}
	for _, value := range r.Header.Values("Authorization") {
		if token, ok := strings.CutPrefix(value, "Bearer "); ok {
			return strings.TrimSpace(token)
		}
	}
	return ""
}

// TokenInURL says whether the query of a request has a parameter for tokens.
func TokenInURL(r *http.Request) bool {
	query := r.URL.Query()
	for name := range query {
		switch strings.ToLower(name) {
		case "token", "access_token", "x-vault-token":
			return true
		}
	}
	return false
}
