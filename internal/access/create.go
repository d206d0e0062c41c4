package access

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

// orphanPath is the path whose tokens are orphans without further rights: to be
// allowed to use it is the right.
const orphanPath = "auth/token/create-orphan"

// CreateRequest is what a client asks for; see Vault's auth/token/create.
type CreateRequest struct {
	token.Request
	// Policies of the embedded Request: none means those of the creator. Parent and
	// Subject of it are ignored.
	NoDefaultPolicy bool
	Orphan          bool
}

// CreateToken makes a token as by asks for. Whether by may use the path of the request
// at all is for the caller to check. The error wraps ErrDenied, ErrInvalid or
// ErrUnavailable; a warning says what the token has not got, or not to the full.
//
// The rules are Vault's, as far as they are not stricter here. Somebody who may do
// everything, or has sudo on the path within the namespace of the request, may
//   - choose the value of the token, in the root namespace
//   - make it an orphan, or periodic
//   - give it policies of others
//   - make it in a namespace below its own
//
// Others make children of their own token with policies that it has, and with its
// subject, so that templates stand for the same as before: metadata and display name
// of the child are for information only. Orphans without sudo can be made by those who
// may use the path auth/token/create-orphan.
//
// The policy "root" is given alone, only by those who have it, in the root namespace;
// a root token that expires does not make one that does not. A token with limited uses
// makes none. The policy "default" is added for those with sudo or when the creator
// has it, unless it is not wanted.
//
// Somebody known elsewhere needs sudo. A token made so is an orphan, because there is
// no parent here, and ends for good when that of its creator would have ended by
// itself, as far as that is known; it does not end with a revocation elsewhere.
func (a *Authority) CreateToken(ctx context.Context, by Identity, r CreateRequest) (value string, e *token.Entry, warnings []string, err error) {
	creator, err := a.current(by)
	if err != nil {
		return "", nil, nil, err
	}
	c := creation{by: by, creator: creator, CreateRequest: r}
	for _, step := range []func() error{c.checkNamespace, c.checkPrivileges, c.bound, c.choosePolicies} {
		if err := step(); err != nil {
			return "", nil, nil, err
		}
	}
	c.describe()
	value, e, warnings, err = a.tokens.Create(ctx, c.Request) // not found: the parent is gone
	if err != nil {
		return "", nil, nil, storeError(err, "store the token")
	}
	warnings = append(c.warnings, warnings...)
	return value, e, append(warnings, a.missingPolicies(e)...), nil
}

// current returns the token of an identity as it is now. The error wraps ErrDenied when
// it has ended, or ErrUnavailable.
func (a *Authority) current(id Identity) (*token.Entry, error) {
	switch {
	case id.entry == nil:
		return nil, ErrDenied
	case id.session == nil:
		e, err := a.tokens.ByID(id.entry.ID)
		return e, storeError(err, "look up the token")
	case a.externals.ended(id.session):
		return nil, ErrDenied
	}
	return id.entry, nil
}

// creation is a token that is being made. Its steps complete the request.
type creation struct {
	CreateRequest
	by       Identity
	creator  *token.Entry
	sudo     bool
	below    bool // in a namespace below that of the creator
	warnings []string
}

// sudoNeeded is the error for what needs more than the right to make tokens.
func (c *creation) sudoNeeded(what string) error {
	return fmt.Errorf("%w: %s needs a token that may do everything or has sudo on %s", ErrBeyond, what, c.Namespace+c.Path)
}

func (c *creation) checkNamespace() error {
	c.Namespace = event.CanonicalNamespace(c.Namespace)
	if !strings.HasPrefix(c.Namespace, c.creator.Namespace) { // both end with a slash, or are empty
		return ErrDenied
	}
	c.below = c.Namespace != c.creator.Namespace
	c.sudo = c.by.Root() || c.by.Capabilities(c.Namespace+c.Path).Has(policy.Sudo)
	if c.below && !c.sudo {
		return c.sudoNeeded("a token in a namespace below one's own")
	}
	return nil
}

func (c *creation) checkPrivileges() error {
	switch {
	case c.by.session != nil && !c.sudo:
		return fmt.Errorf("%w: a token that is not from here makes none without sudo on %s", ErrDenied, c.Namespace+c.Path)
	case c.creator.NumUses > 0:
		return fmt.Errorf("%w: a token with limited uses cannot make others", ErrInvalid)
	case c.NumUses < 0:
		return fmt.Errorf("%w: num_uses is negative", ErrInvalid)
	case c.TTL < 0 || c.Period < 0 || c.ExplicitMaxTTL < 0:
		return fmt.Errorf("%w: a duration is negative", ErrInvalid)
	case c.Value != "" && !c.sudo:
		return c.sudoNeeded("to choose the id of a token")
	case c.Value != "" && c.Namespace != "":
		return fmt.Errorf("%w: the id of a token can be chosen in the root namespace only", ErrInvalid)
	case c.Period > 0 && !c.sudo:
		return c.sudoNeeded("a periodic token")
	case c.Orphan && c.Path != orphanPath && !c.sudo:
		return c.sudoNeeded("an orphan token")
	}
	if c.Path == orphanPath {
		c.Orphan = true
	}
	return nil
}

// choosePolicies sets the policies of the token.
func (c *creation) choosePolicies() error {
	wanted, err := checkNames(c.Policies)
	if err != nil {
		return err
	}
	addDefault := false
	switch {
	case c.below:
		addDefault = true
	case len(wanted) == 0:
		wanted = slices.Clone(c.creator.Policies)
	case c.sudo:
		addDefault = true
	default:
		for _, name := range wanted {
			if !slices.Contains(c.creator.Policies, name) {
				return fmt.Errorf("%w: the policies of a token must be some of those of its creator, which has not %q", ErrBeyond, name)
			}
		}
		addDefault = slices.Contains(c.creator.Policies, defaultPolicyName)
	}
	if slices.Contains(wanted, policy.RootPolicy.Name) {
		c.Policies = wanted
		return c.checkRoot()
	}
	if addDefault {
		wanted = append(wanted, defaultPolicyName)
	}
	if c.NoDefaultPolicy {
		wanted = slices.DeleteFunc(wanted, func(name string) bool { return name == defaultPolicyName })
	}
	slices.Sort(wanted)
	c.Policies = slices.Compact(wanted)
	return nil
}

// checkRoot says whether the token may have the policy root.
func (c *creation) checkRoot() error {
	switch {
	case !c.by.Root():
		return fmt.Errorf("%w: the policy %q is only given by those who have it", ErrBeyond, policy.RootPolicy.Name)
	case c.Namespace != "":
		return fmt.Errorf("%w: there is no policy %q in a namespace below the root", ErrInvalid, policy.RootPolicy.Name)
	case len(c.Policies) > 1:
		return fmt.Errorf("%w: the policy %q allows everything and is not given together with others", ErrInvalid, policy.RootPolicy.Name)
	case !c.creator.Expires.IsZero() && c.TTL == 0 && c.Period == 0 && c.ExplicitMaxTTL == 0:
		return fmt.Errorf("%w: a root token that expires makes only those that do; give a ttl", ErrInvalid)
	}
	return nil
}

// bound sets what the token belongs to and how long it may live.
func (c *creation) bound() error {
	c.Parent = token.ID{}
	if c.by.session == nil {
		if !c.Orphan {
			c.Parent = c.creator.ID
		}
		return nil
	}
	if !c.Orphan {
		c.warnings = append(c.warnings, "the token is an orphan: its creator is not from here")
	}
	if c.creator.Expires.IsZero() {
		return nil
	}
	if c.Period > 0 {
		return fmt.Errorf("%w: the creator of the token is not from here and expires, so that the token cannot be periodic", ErrInvalid)
	}
	left := time.Until(c.creator.Expires)
	if left <= 0 {
		return ErrDenied
	}
	if c.TTL > left || c.ExplicitMaxTTL > left {
		c.warnings = append(c.warnings, "the token ends not later than that of its creator")
	}
	endWithin(&c.Request, left)
	return nil
}

// endWithin lets a token end for good after a time at most.
func endWithin(r *token.Request, left time.Duration) {
	if r.ExplicitMaxTTL == 0 || r.ExplicitMaxTTL > left {
		r.ExplicitMaxTTL = left
	}
	if r.TTL == 0 || r.TTL > left {
		r.TTL = left
	}
}

// describe sets names and subject of the token.
func (c *creation) describe() {
	c.DisplayName = displayName(c.DisplayName)
	subject := policy.Subject{}
	if !c.Orphan || !c.sudo {
		subject = c.creator.Subject
	}
	if c.sudo {
		subject.TokenMetadata = maps.Clone(c.Meta)
		subject.DisplayName = c.DisplayName
	}
	c.Subject = subject
}

// missingPolicies warns of policies that a token has, but that there are not.
func (a *Authority) missingPolicies(e *token.Entry) (warnings []string) {
	set := a.grants.policies.Load()
	for _, name := range e.Policies {
		if name != policy.RootPolicy.Name && set.get(policyID{e.Namespace, name}) == nil {
			warnings = append(warnings, fmt.Sprintf("policy %q does not exist", name))
		}
	}
	return warnings
}

// checkNames returns the names of policies as they are stored under, or what is wrong
// with one. Empty ones are left out, as by Vault.
func checkNames(names []string) ([]string, error) {
	if len(names) > token.MaxPolicies {
		return nil, fmt.Errorf("%w: %d policies, at most %d are possible", ErrInvalid, len(names), token.MaxPolicies)
	}
	clean := make([]string, 0, len(names)+1)
	for _, name := range names {
		if strings.TrimSpace(name) == "" {
			continue
		}
		name, err := policy.CleanName(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if !slices.Contains(clean, name) {
			clean = append(clean, name)
		}
	}
	return clean, nil
}

var notInDisplayName = regexp.MustCompile(`[^a-zA-Z0-9-]`)

// displayName returns the name of a token for people, which a client has chosen.
func displayName(chosen string) string {
	if chosen == "" {
		return "token"
	}
	return strings.TrimSuffix("token-"+notInDisplayName.ReplaceAllString(chosen, "-"), "-")
}

// Login makes a token for somebody known elsewhere, which ends for good when what it
// was made for ends by itself; a revocation there does not end it. path is that of the
// login. The token has the policies of x and "default". The error wraps ErrDenied when
// the time of x is up, ErrInvalid when it is not known, or ErrUnavailable.
func (a *Authority) Login(ctx context.Context, x *External, path string) (value string, e *token.Entry, err error) {
	left := time.Until(x.Expires)
	switch {
	case x.Expires.IsZero():
		return "", nil, fmt.Errorf("%w: it is not known when the login would have to end; use the token itself", ErrInvalid)
	case left <= 0:
		return "", nil, ErrDenied
	}
	as := externalEntry(x)
	r := token.Request{
		Namespace:   as.Namespace,
		Policies:    as.Policies,
		DisplayName: as.DisplayName,
		Meta:        maps.Clone(x.Meta),
		Path:        path,
		Subject:     x.Subject,
	}
	if !x.Root {
		r.Policies = cleanNames(append(r.Policies, defaultPolicyName))
	}
	endWithin(&r, left)
	value, e, _, err = a.tokens.Create(ctx, r)
	if err != nil {
		return "", nil, storeError(err, "store the token")
	}
	return value, e, nil
}

// RenewSelf extends the token of an identity, see [token.Store.Renew]. The error wraps
// ErrDenied when it has ended, ErrInvalid when it cannot be renewed, which is so for
// all that are not from here, or ErrUnavailable.
func (a *Authority) RenewSelf(ctx context.Context, id Identity, increment time.Duration) (e *token.Entry, warnings []string, err error) {
	if err := ownToken(id, "renew"); err != nil {
		return nil, nil, err
	}
	e, warnings, err = a.tokens.Renew(ctx, id.entry.ID, increment)
	return e, warnings, storeError(err, "renew the token")
}

// RevokeSelf ends the token of an identity and all that descend from it. The error
// wraps ErrInvalid for one that is not from here: this program cannot end it, and to
// pretend would be dangerous.
func (a *Authority) RevokeSelf(ctx context.Context, id Identity) error {
	if err := ownToken(id, "revoke"); err != nil {
		return err
	}
	return storeError(a.tokens.Revoke(ctx, id.entry.ID), "revoke the token")
}

// ownToken says whether the token of an identity was issued here.
func ownToken(id Identity, verb string) error {
	switch {
	case id.entry == nil:
		return ErrDenied
	case id.session != nil:
		return fmt.Errorf("%w: the token is not from here but from %s; %s it there", ErrInvalid, id.session.provider, verb)
	}
	return nil
}
