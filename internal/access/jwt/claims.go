package jwt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
)

const (
	// maxNameBytes bounds the names of users, subjects and groups.
	maxNameBytes = 512
	// maxTime is the last second of the year 9999.
	maxTime = 253402300799
	// defaultPolicy is the policy that every token has, so that somebody can look at
	// their own; one that is exchanged for this has it as well.
	defaultPolicy = "default"
)

// private claims are of one token rather than of its bearer. They are not offered to
// templates of policies: what is different in each token would make each its own
// subject.
var private = []string{"exp", "iat", "nbf", "jti", "nonce", "auth_time", "at_hash", "c_hash", "s_hash", "sid", "sub_jwk", "cnf"}

// identity checks the claims of a token and says who it is, provided that the
// signature is right.
func (p *Provider) identity(t *token, now time.Time) (*access.External, error) {
	if t.claims["iss"] != p.issuer {
		return nil, errors.New("it is of another issuer")
	}
	if !p.isFor(t.claims["aud"]) {
		return nil, errors.New("it is for another audience")
	}
	issued, expires, err := p.lifetime(t.claims, now)
	if err != nil {
		return nil, err
	}
	subject, ok := t.claims["sub"].(string)
	if !ok || !validPerson(subject) {
		return nil, errors.New("it has no usable subject (sub)")
	}
	value, _ := p.user.find(t.claims)
	user, ok := scalar(value)
	if _, isBool := value.(bool); !ok || isBool || !validPerson(user) {
		return nil, fmt.Errorf("it has no usable name of a user (%s)", p.user.name)
	}
	policies := slices.Clone(p.policies)
	for _, r := range p.rules {
		if r.applies(t.claims) {
			policies = append(policies, r.policies...)
		}
	}
	if len(policies) == 0 {
		return nil, errors.New("no rule gives it policies")
	}
	policies = append(policies, defaultPolicy)
	slices.Sort(policies)

	meta := make(map[string]string)
	for _, m := range p.metadata {
		if value, ok := m.claim.find(t.claims); ok {
			if text, ok := scalar(value); ok {
				meta[m.name] = text
			}
		}
	}
	return &access.External{
		Provider:    p.name,
		DisplayName: p.name + "-" + user,
		Namespace:   p.namespace,
		Policies:    slices.Compact(policies),
		Subject: policy.Subject{
			EntityID:   event.DeriveID("jwt", p.issuer, subject),
			EntityName: user,
			Aliases: map[string]policy.Alias{p.name: {
				ID: event.DeriveID("jwt-alias", p.issuer, subject), Name: user, Metadata: maps.Clone(meta),
			}},
			Groups:        p.groupsOf(t.claims),
			TokenMetadata: meta,
			DisplayName:   p.name + "-" + user,
			Claims:        plain(t.claims),
		},
		Created: issued,
		Expires: expires,
		Meta:    maps.Clone(meta),
	}, nil
}

// isFor says whether a claim "aud" (RFC 7519 section 4.1.3) has one of the
// audiences.
func (p *Provider) isFor(aud any) bool {
	switch aud := aud.(type) {
	case string:
		return slices.Contains(p.audiences, aud)
	case []any:
		found := false
		for _, a := range aud {
			text, ok := a.(string)
			if !ok {
				return false
			}
			found = found || slices.Contains(p.audiences, text)
		}
		return found
	}
	return false
}

// lifetime checks the times of a token. issued is zero if it does not say.
func (p *Provider) lifetime(claims map[string]any, now time.Time) (issued, expires time.Time, err error) {
	var at [3]time.Time
	for i, name := range []string{"iat", "nbf", "exp"} {
		value, ok := claims[name]
		if !ok {
			continue
		}
		if at[i], ok = numericDate(value); !ok {
			return issued, expires, fmt.Errorf("its time %s is not a number of seconds", name)
		}
	}
	issued, notBefore, expires := at[0], at[1], at[2]
	switch {
	case expires.IsZero():
		return issued, expires, errors.New("it does not say when it expires (exp)")
	case !now.Before(expires):
		return issued, expires, errors.New("it has expired")
	case notBefore.After(now.Add(p.leeway)):
		return issued, expires, errors.New("it is not valid yet (nbf)")
	case issued.After(now.Add(p.leeway)):
		return issued, expires, errors.New("it was issued in the future (iat)")
	case !issued.IsZero() && !issued.Before(expires):
		return issued, expires, errors.New("it expires before it was issued")
	}
	if p.maxLifetime == 0 {
		return issued, expires, nil
	}
	if issued.IsZero() {
		if expires.Sub(now) > p.maxLifetime {
			return issued, expires, fmt.Errorf("it lives longer than %s and does not say since when (iat)", p.maxLifetime)
		}
		return issued, expires, nil
	}
	if last := issued.Add(p.maxLifetime); last.Before(expires) {
		expires = last
	}
	if !now.Before(expires) {
		return issued, expires, fmt.Errorf("it is older than %s", p.maxLifetime)
	}
	return issued, expires, nil
}

// numericDate converts seconds since 1970 (RFC 7519 section 2). It takes numbers
// only, no texts.
func numericDate(value any) (time.Time, bool) {
	number, ok := value.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseFloat(string(number), 64)
	if err != nil || !(seconds > 0 && seconds <= maxTime) {
		return time.Time{}, false
	}
	whole := int64(seconds)
	return time.Unix(whole, int64((seconds-float64(whole))*1e9)), true
}

// groupsOf returns the groups that a token names. Elements that cannot be names of
// groups are left out.
func (p *Provider) groupsOf(claims map[string]any) []policy.Group {
	if p.groups == nil {
		return nil
	}
	value, _ := p.groups.find(claims)
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var groups []policy.Group
	seen := make(map[string]bool)
	for _, element := range list {
		name, ok := element.(string)
		if ok && validPerson(name) && !seen[name] {
			seen[name] = true
			groups = append(groups, policy.Group{ID: event.DeriveID("jwt-group", p.issuer, name), Name: name})
		}
	}
	return groups
}

// plain returns the top-level claims that are texts, numbers or booleans.
func plain(claims map[string]any) map[string]string {
	texts := make(map[string]string, len(claims))
	for name, value := range claims {
		if text, ok := scalar(value); ok && !slices.Contains(private, name) {
			texts[name] = text
		}
	}
	return texts
}

// scalar returns a text, number or boolean as text: a number as it was written.
func scalar(value any) (string, bool) {
	switch value := value.(type) {
	case string:
		return value, true
	case json.Number:
		return string(value), true
	case bool:
		return strconv.FormatBool(value), true
	}
	return "", false
}

// validPerson says whether a text can name somebody. U+FFFD stands where half of a
// surrogate pair was: two such names could look like one.
func validPerson(name string) bool {
	return name != "" && len(name) <= maxNameBytes && !strings.ContainsRune(name, utf8.RuneError) &&
		strings.IndexFunc(name, unicode.IsControl) < 0 && strings.TrimSpace(name) == name
}
