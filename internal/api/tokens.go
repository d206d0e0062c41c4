package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/token"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// createToken serves auth/token/create and auth/token/create-orphan.
func (a *API) createToken(c *call) (*reply, error) {
	in := c.reader()
	request := access.CreateRequest{
		Request: token.Request{
			Value:          in.text("id"),
			Namespace:      c.namespace,
			DisplayName:    in.text("display_name"),
			Meta:           in.table("meta"),
			Path:           c.path,
			TTL:            in.duration("ttl"),
			Period:         in.duration("period"),
			ExplicitMaxTTL: in.duration("explicit_max_ttl"),
			NumUses:        in.whole("num_uses"),
			NotRenewable:   !in.boolean("renewable", true),
		},
		NoDefaultPolicy: in.boolean("no_default_policy", false),
		Orphan:          in.boolean("no_parent", false) || strings.HasSuffix(c.path, "-orphan"),
	}
	if lease := in.duration("lease"); request.TTL == 0 { // the older spelling
		request.TTL = lease
	}
	for _, name := range in.texts("policies") {
		if name = strings.TrimSpace(name); name != "" {
			request.Policies = append(request.Policies, name)
		}
	}
	typ, alias := in.text("type"), in.text("entity_alias")
	if err := in.failed(); err != nil {
		return nil, err
	}
	switch typ {
	case "", "service", "default":
	case "batch":
		return nil, badRequest("batch tokens are not supported; create one of type \"service\"")
	default:
		return nil, badRequest("unknown token type %.40q; there is \"service\"", typ)
	}
	if alias != "" {
		return nil, badRequest("entity_alias is not supported: there are no token roles")
	}
	value, e, warnings, err := a.authority.CreateToken(c.ctx, c.id, request)
	if err != nil {
		return nil, a.uncertain(c, "token-create", nil, err)
	}
	record := c.change("token-create")
	record.SetTarget(e)
	if err := a.commitNewToken(c, record, e); err != nil {
		return nil, err
	}
	return &reply{auth: newAuth(value, e, time.Now()), warnings: warnings}, nil
}

// commitNewToken records that a token was made. One that cannot be recorded ends
// before anybody has it.
func (a *API) commitNewToken(c *call, record trail.Record, e *token.Entry) error {
	err := a.commit(c.ctx, record, "no token was made, because it could not be recorded in the journal")
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), changeTimeout)
	defer cancel()
	if undo := a.authority.Tokens().Revoke(ctx, e.ID); undo != nil && !errors.Is(undo, token.ErrNotFound) {
		a.log.Error("a token that could not be recorded could not be revoked; nobody has it", "accessor", e.Accessor, "error", undo)
	}
	return err
}

func unknownRole(*call) (*reply, error) {
	return nil, badRequest("unknown role: token roles are not supported")
}

// lookup serves auth/token/lookup. Without a token it is about that of the request.
func (a *API) lookup(c *call) (*reply, error) {
	in := c.reader()
	value := in.text("token")
	if err := in.failed(); err != nil {
		return nil, err
	}
	if value == "" || value == c.token() {
		return a.lookupSelf(c)
	}
	e, err := a.tokenOf(c, value)
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		// No list, as from Vault's core: its token store says this.
		return nil, &refusal{status: http.StatusForbidden, text: "bad token", why: "bad token"}
	}
	return &reply{data: describe(e, value, time.Now())}, nil
}

func (a *API) lookupSelf(c *call) (*reply, error) {
	if c.id.Entry().ID != (token.ID{}) { // others have logged in when they were authenticated
		a.recordLogin(c)
	}
	e := *c.id.Entry()
	// The entry is that before this request, which was a use; Vault tells the last
	// one by a negative number.
	if e.NumUses--; e.NumUses == 0 {
		e.NumUses = -1
	} else if e.NumUses < 0 {
		e.NumUses = 0
	}
	return &reply{data: describe(&e, c.token(), time.Now())}, nil
}

func (a *API) lookupAccessor(c *call) (*reply, error) {
	e, err := a.byAccessor(c)
	if err != nil {
		return nil, err
	}
	return &reply{data: describe(e, "", time.Now())}, nil
}

// describe returns what lookups say about a token. The value is what the client
// presented; it is not known otherwise.
func describe(e *token.Entry, value string, now time.Time) map[string]any {
	data := map[string]any{
		"accessor":         e.Accessor,
		"creation_time":    e.Created.Unix(),
		"creation_ttl":     seconds(e.TTL),
		"display_name":     e.DisplayName,
		"entity_id":        e.Subject.EntityID,
		"expire_time":      nil,
		"explicit_max_ttl": seconds(e.ExplicitMaxTTL),
		"id":               value,
		"issue_time":       e.Created.UTC(),
		"meta":             e.Meta,
		"num_uses":         e.NumUses,
		"orphan":           e.Orphan(),
		"path":             e.Path,
		"policies":         e.Policies,
		"renewable":        e.Renewable,
		"ttl":              int64(0),
		"type":             "service",
	}
	if !e.Expires.IsZero() {
		data["expire_time"] = e.Expires.UTC()
		data["ttl"] = max(0, seconds(e.Expires.Sub(now)))
	}
	if e.Period > 0 {
		data["period"] = seconds(e.Period)
	}
	if !e.LastRenewal.IsZero() {
		data["last_renewal"] = e.LastRenewal.UTC()
		data["last_renewal_time"] = e.LastRenewal.Unix()
	}
	if e.Namespace != "" {
		data["namespace_path"] = e.Namespace
	}
	return data
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// byAccessor returns the token that the field "accessor" is about.
func (a *API) byAccessor(c *call) (*token.Entry, error) {
	in := c.reader()
	accessor := in.text("accessor")
	if err := in.failed(); err != nil {
		return nil, err
	}
	if accessor == "" {
		return nil, badRequest("%s", errorList("missing accessor"))
	}
	e, err := visible(c)(a.authority.Tokens().ByAccessor(accessor))
	if err == nil && e == nil {
		err = errInvalidAccessor
	}
	return e, err
}

var errInvalidAccessor = badRequest("%s", errorList("invalid accessor"))

// byToken returns the value in the field "token" and its entry, nil for none.
func (a *API) byToken(c *call) (string, *token.Entry, error) {
	in := c.reader()
	value := in.text("token")
	if err := in.failed(); err != nil {
		return "", nil, err
	}
	if value == "" {
		return "", nil, badRequest("missing token ID")
	}
	e, err := a.tokenOf(c, value)
	return value, e, err
}

// tokenOf returns the entry of a token that a request may be about, nil for none.
func (a *API) tokenOf(c *call, value string) (*token.Entry, error) {
	return visible(c)(a.authority.Tokens().Lookup(value))
}

// visible returns a filter for what the store has found: a token of the namespace of
// the request or below, or nil. Otherwise who manages one namespace could end the
// tokens of all.
func visible(c *call) func(*token.Entry, error) (*token.Entry, error) {
	return func(e *token.Entry, err error) (*token.Entry, error) {
		switch {
		case errors.Is(err, token.ErrNotFound):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("%w: %w", access.ErrUnavailable, err)
		case !strings.HasPrefix(e.Namespace, c.namespace):
			return nil, nil
		}
		return e, nil
	}
}

func (a *API) renew(c *call) (*reply, error) {
	value, e, err := a.byToken(c)
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, badRequest("token not found")
	}
	return a.renewToken(c, value, e)
}

func (a *API) renewSelf(c *call) (*reply, error) { return a.renewToken(c, c.token(), c.id.Entry()) }

func (a *API) renewAccessor(c *call) (*reply, error) {
	e, err := a.byAccessor(c)
	if err != nil {
		return nil, err
	}
	return a.renewToken(c, "", e)
}

func (a *API) renewToken(c *call, value string, e *token.Entry) (*reply, error) {
	in := c.reader()
	increment := in.duration("increment")
	if err := in.failed(); err != nil {
		return nil, err
	}
	if isForeign(e) {
		return nil, badRequest("the token was not issued here; renew it where it was")
	}
	renewed, warnings, err := a.authority.Tokens().Renew(c.ctx, e.ID, increment)
	switch {
	case errors.Is(err, token.ErrNotRenewable):
		return nil, badRequest("lease is not renewable")
	case errors.Is(err, token.ErrNotFound):
		return nil, badRequest("token not found")
	case err != nil:
		return nil, a.uncertain(c, "token-renew", e, err)
	}
	record := c.change("token-renew")
	record.SetTarget(renewed)
	if err := a.commit(c.ctx, record, "the token was renewed"+notRecorded); err != nil {
		return nil, err
	}
	return &reply{auth: newAuth(value, renewed, time.Now()), warnings: warnings}, nil
}

// isForeign says whether an entry stands for a token that is known elsewhere. It has
// the ID that no token has.
func isForeign(e *token.Entry) bool { return e.ID == token.ID{} }

// revoke serves auth/token/revoke. That there is no such token is a success, as in
// Vault.
func (a *API) revoke(c *call) (*reply, error) {
	_, e, err := a.byToken(c)
	if err != nil || e == nil {
		return &reply{}, err
	}
	return a.revokeToken(c, e, a.authority.Tokens().Revoke)
}

func (a *API) revokeSelf(c *call) (*reply, error) {
	return a.revokeToken(c, c.id.Entry(), a.authority.Tokens().Revoke)
}

func (a *API) revokeAccessor(c *call) (*reply, error) {
	e, err := a.byAccessor(c)
	if err == errInvalidAccessor {
		return &reply{warnings: []string{"there is no token with this accessor"}}, nil
	}
	if err != nil {
		return nil, err
	}
	return a.revokeToken(c, e, a.authority.Tokens().Revoke)
}

func (a *API) revokeOrphan(c *call) (*reply, error) {
	_, e, err := a.byToken(c)
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, badRequest("token to revoke not found")
	}
	return a.revokeToken(c, e, a.authority.Tokens().RevokeOrphan)
}

func (a *API) revokeToken(c *call, e *token.Entry, revoke func(context.Context, token.ID) error) (*reply, error) {
	if isForeign(e) {
		return nil, badRequest("the token was not issued here; revoke it where it was")
	}
	err := revoke(c.ctx, e.ID)
	if errors.Is(err, token.ErrNotFound) {
		return &reply{}, nil // somebody was faster
	}
	if err != nil {
		return nil, a.uncertain(c, "token-revoke", e, err)
	}
	record := c.change("token-revoke")
	record.SetTarget(e)
	if err := a.commit(c.ctx, record, "the token was revoked"+notRecorded); err != nil {
		return nil, err
	}
	return &reply{}, nil
}

func (a *API) listAccessors(c *call) (*reply, error) {
	return keys(a.authority.Tokens().Accessors(c.namespace))
}

// keys is the answer of lists.
func keys(names []string) (*reply, error) {
	if len(names) == 0 {
		return nil, nothing()
	}
	return &reply{data: map[string]any{"keys": names}}, nil
}

// uncertain records a change that failed in a way that does not tell whether it was made,
// and returns the error for the client. e is the token that it is about, if any.
func (a *API) uncertain(c *call, what string, e *token.Entry, err error) error {
	for _, certain := range []error{access.ErrDenied, access.ErrInvalid, access.ErrNoPolicy, token.ErrTooMany} {
		if errors.Is(err, certain) {
			return err
		}
	}
	record := c.change(what)
	record.Error = "failed; it may have been made"
	if e != nil {
		record.SetTarget(e)
	}
	a.trail.Record(record)
	return fmt.Errorf("%w: %s: %w", access.ErrUnavailable, what, err)
}
