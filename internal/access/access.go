// Package access decides who may do what. A token is turned into an [Identity]
// once per request, and the identity answers the questions; who asks them does
// not know how they are decided.
//
// It brings together the tokens issued here (package token), those of other
// systems (a [Provider]) and the policies that are stored here, and tells those
// who are connected when their rights change or end.
//
// # Grants
//
// All who have the same policies in the same namespace share one grant, which is what
// [Identity.Key] returns; if a policy has templates, only those with the same subject.
// A change of a policy compiles the new rights of the grants that have it aside, puts
// them in place, and tells: whoever asks after that is answered by the new ones. The
// node that was asked for the change does all that before it answers.
//
// A policy that does not exist grants nothing. One that is stored but cannot be read
// takes everything from those who have it, because nobody knows what it would deny;
// [Authority.Health] names it.
//
// # Tokens of elsewhere
//
// What a provider says about a token is remembered for as long as it allows, and asked
// again and again while somebody follows the token: a revocation is noticed within
// [Provider.Recheck] and the time of one answer. If the other side does not answer,
// the token ends after its [Provider.Patience], counted from when it should have been
// confirmed, but not before the ten seconds are over that an answer may take. The
// token itself is in memory while it is remembered or followed, for [Provider.Recheck]
// or two minutes after its last use, whichever is longer, and nowhere else; those that
// need no confirmation are not kept at all.
//
// Package access does not speak HTTP beyond reading tokens from requests, does not limit
// how often somebody may try, and records nothing; packages api and trail do.
package access

import (
	"errors"
	"net/http"
	"strings"
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
