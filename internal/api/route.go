package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/pluginhost"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/token"
)

// changeTimeout bounds a change and its record, which go on when the client does not
// wait for them.
const changeTimeout = 30 * time.Second

// operation is what a request wants to do with a path, whatever its method.
type operation string

const (
	opRead   operation = "read"
	opList   operation = "list"
	opUpdate operation = "update"
	opDelete operation = "delete"
	opPatch  operation = "patch"
	opOther  operation = "other" // HEAD and OPTIONS, which hardly any path has
)

// capability returns what policies call an operation.
func (o operation) capability() policy.Capabilities {
	switch o {
	case opList:
		return policy.List
	case opUpdate:
		return policy.Update
	case opDelete:
		return policy.Delete
	case opPatch:
		return policy.Patch
	}
	return policy.Read
}

// handler serves an operation on a path. The error is a [*refusal], or one that
// [API.refusalOf] knows.
type handler func(*call) (*reply, error)

// route is a path of Vault's API and what can be done with it.
type route struct {
	// path is exact, or ends in "/*", which stands for at least one more byte.
	path                       string
	read, list, update, delete handler
	head                       handler // HEAD
	open                       bool    // needs no token; the handler may ask for one
	sudo                       bool
	mountType                  string   // in the envelope
	fields                     []string // what bodies may have; clients are told what else they sent
	maxBody                    int64    // in bytes; 0: maxBody
	changes                    bool     // the handler goes on when the client has gone
	// folded: the name is understood as [policyName] has it, so the right to that is needed
	// as well as to what was sent; else a rule would be got round by another spelling.
	folded bool
	// twin is the same path in the other spelling. What is denied there is denied here, too.
	twin string
}

// vaultRoutes are all paths but that of subscriptions.
func (a *API) vaultRoutes() []route {
	const system, tokens = "system", "token"
	creation := []string{"id", "policies", "meta", "ttl", "lease", "explicit_max_ttl", "period", "no_parent",
		"no_default_policy", "display_name", "num_uses", "renewable", "type", "entity_alias"}
	return []route{
		{path: "auth/token/create", update: a.createToken, fields: creation, mountType: tokens, changes: true},
		{path: "auth/token/create-orphan", update: a.createToken, fields: creation, mountType: tokens, changes: true},
		{path: "auth/token/create/*", update: unknownRole, fields: creation, mountType: tokens},
		{path: "auth/token/lookup", read: a.lookup, update: a.lookup, fields: []string{"token"}, mountType: tokens},
		{path: "auth/token/lookup-self", read: a.lookupSelf, update: a.lookupSelf, fields: []string{"token"}, mountType: tokens},
		{path: "auth/token/lookup-accessor", update: a.lookupAccessor, fields: []string{"accessor"}, mountType: tokens},
		{path: "auth/token/renew", update: a.renew, fields: []string{"token", "increment"}, mountType: tokens, changes: true},
		{path: "auth/token/renew-self", update: a.renewSelf, fields: []string{"token", "increment"}, mountType: tokens, changes: true},
		{path: "auth/token/renew-accessor", update: a.renewAccessor, fields: []string{"accessor", "increment"}, mountType: tokens, changes: true},
		{path: "auth/token/revoke", update: a.revoke, fields: []string{"token"}, mountType: tokens, changes: true},
		{path: "auth/token/revoke-self", update: a.revokeSelf, mountType: tokens, changes: true},
		{path: "auth/token/revoke-accessor", update: a.revokeAccessor, fields: []string{"accessor"}, mountType: tokens, changes: true},
		{path: "auth/token/revoke-orphan", update: a.revokeOrphan, fields: []string{"token"}, sudo: true, mountType: tokens, changes: true},
		{path: "auth/token/accessors", list: a.listAccessors, sudo: true, mountType: tokens},

		{path: "sys/policies/acl", list: a.listPolicies, mountType: system, twin: "sys/policy"},
		{path: "sys/policies/acl/*", read: a.readPolicy, update: a.writePolicy, delete: a.deletePolicy, fields: []string{"policy"}, mountType: system, changes: true, folded: true, twin: "sys/policy/*"},
		{path: "sys/policy", read: a.listPoliciesOld, list: a.listPoliciesOld, mountType: system, twin: "sys/policies/acl"},
		{path: "sys/policy/*", read: a.readPolicyOld, update: a.writePolicyOld, delete: a.deletePolicy, fields: []string{"policy", "rules"}, mountType: system, changes: true, folded: true, twin: "sys/policies/acl/*"},

		{path: "sys/capabilities", update: a.capabilities, fields: []string{"path", "paths", "token"}, mountType: system},
		{path: "sys/capabilities-self", update: a.capabilitiesSelf, fields: []string{"path", "paths", "token"}, mountType: system},
		{path: "sys/capabilities-accessor", update: a.capabilitiesAccessor, fields: []string{"path", "paths", "accessor"}, mountType: system},

		{path: "sys/health", read: a.sysHealth, head: a.sysHealth, open: true},
		{path: "sys/seal-status", read: a.sealStatus, open: true},
		{path: "sys/leader", read: a.leader, open: true},
		{path: "sys/init", read: a.initialized, update: a.initialize, open: true},
		{path: "sys/experiments", read: a.experiments, mountType: system},
		{path: "sys/mounts", read: a.secretMounts, mountType: system},
		{path: "sys/mounts/*", read: a.readMount, update: a.writeMount, delete: a.disableMount, fields: mountFields, mountType: system, changes: true},
		{path: "sys/auth", read: a.authMounts, mountType: system},
		{path: "sys/auth/*", read: a.readMount, update: a.writeMount, delete: a.disableMount, fields: mountFields, sudo: true, mountType: system, changes: true},
		{path: "sys/plugins/catalog", read: a.listAllPlugins, list: a.listAllPlugins, sudo: true, mountType: system},
		{path: "sys/plugins/catalog/*", read: a.readPlugin, list: a.listPlugins, update: a.registerPlugin, delete: a.deregisterPlugin, fields: pluginFields, sudo: true, mountType: system, changes: true},
		{path: "sys/plugins/reload/*", update: a.reloadPlugin, fields: []string{"plugin", "mounts", "scope"}, sudo: true, mountType: system, changes: true},
		{path: "sys/internal/ui/mounts", read: a.visibleMounts, open: true},
		{path: "sys/internal/ui/mounts/*", read: a.mountOf, open: true},
	}
}

// routeOf returns the route of a path, nil for none, and what its "*" stands for.
func (a *API) routeOf(path string) (*route, string) {
	if name, ok := strings.CutPrefix(path, "auth/"); ok {
		if name, ok := strings.CutSuffix(name, "/login"); ok && a.logins[name] != nil {
			return &route{path: path, update: a.login, open: true, fields: []string{"jwt", "role"},
				mountType: "jwt", maxBody: maxLoginBody, changes: true}, name
		}
	}
	for i := range a.routes {
		route := &a.routes[i]
		if route.path == path {
			return route, ""
		}
		if prefix, ok := strings.CutSuffix(route.path, "*"); ok && strings.HasPrefix(path, prefix) && len(path) > len(prefix) {
			return route, path[len(prefix):]
		}
	}
	return nil, ""
}

func (r *route) handler(o operation, method string) handler {
	switch o {
	case opRead:
		return r.read
	case opList:
		return r.list
	case opUpdate:
		return r.update
	case opDelete:
		return r.delete
	}
	if method == http.MethodHead {
		return r.head
	}
	return nil
}

// call is a request of Vault's API while it is served.
type call struct {
	r *http.Request
	// ctx is that of the request, or, for changes, one that does not end with it.
	ctx       context.Context
	namespace string // canonical
	path      string // within the namespace
	operation operation
	name      string            // what the "*" of the route stands for
	mount     *pluginhost.Mount // nil for paths of the API
	id        access.Identity   // zero on open paths
	arguments arguments         // of the body, or of the query
}

// token returns the token that the client presented.
func (c *call) token() string { return access.Token(c.r) }

// maxUnread is how much of a body is read that is not wanted, in bytes.
const maxUnread = 256 << 10

// vault serves Vault's API.
func (a *API) vault(w http.ResponseWriter, r *http.Request) {
	c := &call{r: r, ctx: r.Context()}
	if refused := a.place(c); refused != nil {
		refused.answer(w)
		return
	}
	if typ, ok := strings.CutPrefix(c.path, subscribePath); ok && c.mount == nil {
		a.subscribe(w, r, c.namespace, typ)
		return
	}
	reply, mountType, err := a.serve(c, w)
	if err != nil {
		refused := a.refusalOf(c, err)
		a.requests.Refused(refused.reason()).Inc()
		a.recordRefusal(attempt{what: c.deniedWhat(refused), namespace: c.namespace, path: c.path, operation: string(c.operation), id: c.id, request: r}, refused)
		if refused.status != http.StatusTooManyRequests {
			discard(r.Body, maxUnread)
		}
		refused.answer(w)
		return
	}
	reply.answer(w, mountType)
}

// discard reads a body that is not wanted: a client that is still sending it sees the
// answer only after that. Those who send more than most bytes may see a broken connection
// instead.
func discard(body io.Reader, most int64) { _, _ = io.CopyN(io.Discard, body, most) }

// serve checks everything that does not depend on the path, in Vault's order except
// that nothing of the body is read before the token was checked, and serves the
// request.
func (a *API) serve(c *call, w http.ResponseWriter) (*reply, string, error) {
	if refused := c.readMethod(); refused != nil {
		return nil, "", refused
	}
	if wanted := c.r.Header.Get("X-Vault-Wrap-TTL"); wanted != "" {
		if ttl, err := parseDuration(wanted); err != nil || ttl != 0 {
			return nil, "", badRequest("response wrapping is not supported; send no X-Vault-Wrap-TTL")
		}
	}
	aclPath := c.path
	if c.operation == opList {
		c.path = strings.TrimSuffix(c.path, "/")
		aclPath = c.path + "/"
	}
	if c.mount != nil {
		return a.serveHosted(c, w, aclPath)
	}
	if strings.Contains(c.path, "//") {
		return nil, "", badRequest("the path has an empty segment")
	}
	var route *route
	if route, c.name = a.routeOf(c.path); route == nil {
		route = &unknownRoute
	}
	if !route.open {
		if err := a.admit(c); err != nil {
			return nil, "", err
		}
	}
	if err := a.readArguments(c, route, w); err != nil {
		return nil, "", err
	}
	if !route.open && !c.mayUse(route, aclPath) {
		return nil, "", permissionDenied()
	}
	serve := route.handler(c.operation, c.r.Method)
	switch {
	case route == &unknownRoute && isAPI(c.path):
		return nil, "", unsupportedPath()
	case route == &unknownRoute:
		return nil, "", &refusal{status: http.StatusNotFound,
			text: fmt.Sprintf("no handler for route %q. route entry not found.", c.namespace+c.path)}
	case serve == nil && c.operation == opList:
		return nil, "", unsupportedPath()
	case serve == nil:
		return nil, "", unsupportedOperation()
	case c.operation == opUpdate && strings.HasSuffix(c.path, "/"):
		return nil, "", endsInSlash()
	}
	if route.changes {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), changeTimeout)
		defer cancel()
		c.ctx = ctx
	}
	reply, err := serve(c)
	if err != nil {
		return nil, "", err
	}
	if c.operation == opUpdate && reply.bare == nil {
		reply.warnings = append(reply.warnings, c.arguments.unknown(route.fields)...)
	}
	return reply, route.mountType, nil
}

// mayUse says whether the policies of who makes the request allow it.
func (c *call) mayUse(route *route, aclPath string) bool {
	needed := c.operation.capability()
	if route.sudo {
		needed |= policy.Sudo
	}
	if !c.allows(needed, aclPath) {
		return false
	}
	if route.folded && !c.id.Allows(needed, c.namespace+strings.TrimSuffix(route.path, "*")+policyName(c), c.arguments) {
		return false
	}
	twin, named := strings.CutSuffix(route.twin, "*")
	switch {
	case twin == "":
		return true
	case named:
		twin += policyName(c)
	default:
		twin += "/" // of a list, whatever the method
	}
	return !c.id.Capabilities(c.namespace + twin).Has(policy.Deny)
}

// allows says whether the policies of who makes the request allow something on its path.
// Handlers and plugins may take "x/" for "x", except in lists; so the right to that is needed
// as well, else a rule about it would be got round.
func (c *call) allows(needed policy.Capabilities, aclPath string) bool {
	if !c.id.Allows(needed, c.namespace+aclPath, c.arguments) {
		return false
	}
	bare, slash := strings.CutSuffix(aclPath, "/")
	return !slash || c.operation == opList || c.mount != nil && aclPath == c.mount.Record().Relative() ||
		c.id.Allows(needed, c.namespace+bare, c.arguments)
}

// unknownRoute stands for paths that there are not: who may not use them is not told
// so.
var unknownRoute route

// isAPI says whether a path is one of those that are served here, or could be.
func isAPI(path string) bool {
	return strings.HasPrefix(path, "sys/") || strings.HasPrefix(path, "auth/token/") || path == "auth/token"
}

// readMethod sets the operation.
func (c *call) readMethod() *refusal {
	switch c.r.Method {
	case http.MethodGet:
		c.operation = opRead
		if raw := c.r.URL.Query().Get("list"); raw != "" {
			list, err := strconv.ParseBool(raw)
			if err != nil {
				return badRequest("invalid parameter list: %q is neither true nor false", raw)
			}
			if list {
				c.operation = opList
			}
		}
	case "LIST":
		c.operation = opList
	case http.MethodPost, http.MethodPut:
		c.operation = opUpdate
	case http.MethodDelete:
		c.operation = opDelete
	case http.MethodPatch:
		c.operation = opPatch
		if content, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";"); strings.TrimSpace(content) != "application/merge-patch+json" {
			return &refusal{status: http.StatusUnsupportedMediaType,
				text: fmt.Sprintf("PATCH requires the Content-Type application/merge-patch+json, it is %q", content)}
		}
	case http.MethodHead, http.MethodOptions:
		c.operation = opOther
	default:
		return &refusal{status: http.StatusMethodNotAllowed}
	}
	return nil
}

// deniedWhat is what a denial is called in the trail.
func (c *call) deniedWhat(refused *refusal) string {
	if refused.why == loginRefused || strings.HasPrefix(c.path, "auth/") && strings.HasSuffix(c.path, "/login") {
		return "login-denied"
	}
	return "request-denied"
}

// refusalOf returns how an error of a handler is answered.
func (a *API) refusalOf(c *call, err error) *refusal {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused
	}
	if refused := hostedRefusal(err); refused != nil {
		if refused.status >= http.StatusInternalServerError {
			a.warn("a plugin did not serve a request", "path", c.namespace+c.path, "error", err)
		}
		return refused
	}
	switch {
	case errors.Is(err, access.ErrDenied):
		return &refusal{status: http.StatusForbidden, text: errorList(err.Error())}
	case errors.Is(err, access.ErrBeyond):
		refused := badRequest("%s", strings.TrimPrefix(err.Error(), access.ErrBeyond.Error()+": "))
		refused.why = beyond
		return refused
	case errors.Is(err, access.ErrInvalid):
		return badRequest("%s", strings.TrimPrefix(err.Error(), access.ErrInvalid.Error()+": "))
	case errors.Is(err, access.ErrNoPolicy):
		return nothing()
	case errors.Is(err, token.ErrTooMany):
		return &refusal{status: http.StatusServiceUnavailable, text: token.ErrTooMany.Error()}
	case errors.Is(err, access.ErrUnavailable), errors.Is(err, journal.ErrPushback),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		a.warn("request cannot be served at the moment", "path", c.path, "error", err)
		return &refusal{status: http.StatusServiceUnavailable, text: "temporarily unavailable; try again"}
	}
	a.log.Error("request failed", "path", c.path, "error", err)
	return &refusal{status: http.StatusInternalServerError, text: "internal error; the log of the server has more"}
}

// locate takes the URL and header of a request apart: the namespace, and the path
// within it, which begins with the first segment "sys" or "auth". A path without one
// is in the namespace of the header.
func locate(r *http.Request) (namespace, path string, refused *refusal) {
	path = strings.TrimPrefix(r.URL.Path, "/v1/")
	if !utf8.ValidString(path) {
		return "", "", badRequest("the path is not valid UTF-8")
	}
	namespace, refused = headerNamespace(r)
	if refused != nil {
		return "", "", refused
	}
	for at := 0; ; {
		rest := path[at:]
		segment, _, more := strings.Cut(rest, "/")
		if more && segment == "" {
			return "", "", badRequest("the path has an empty segment")
		}
		if more && (segment == "sys" || segment == "auth") {
			if namespace, refused = joinNamespace(namespace, path[:at]); refused != nil {
				return "", "", refused
			}
			return namespace, rest, nil
		}
		if !more {
			namespace, refused = joinNamespace(namespace, "")
			return namespace, path, refused
		}
		at += len(segment) + 1
	}
}

// headerNamespace returns the namespace in the header of a request, in its
// canonical form. Vault's own client sends the same one twice.
func headerNamespace(r *http.Request) (string, *refusal) {
	namespaces := slices.Clone(r.Header.Values("X-Vault-Namespace"))
	for i := range namespaces {
		namespaces[i] = event.CanonicalNamespace(namespaces[i])
	}
	switch namespaces = slices.Compact(namespaces); len(namespaces) {
	case 0:
		return "", nil
	case 1:
		return namespaces[0], nil
	}
	return "", badRequest("the header X-Vault-Namespace is there several times with different values")
}

// joinNamespace returns the namespace of a path within that of the header, both
// canonical or empty, or why it cannot be one. Policies are about paths that begin
// with it, so that it must not have what is special in those.
func joinNamespace(header, inPath string) (string, *refusal) {
	namespace := header + event.CanonicalNamespace(inPath)
	if err := policy.CheckNamespace(namespace); err != nil {
		return "", badRequest("%v", err)
	}
	return namespace, nil
}
