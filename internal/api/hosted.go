package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/pluginhost"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/trail"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// maxHostedBody bounds the bodies of requests to hosted plugins, in bytes.
const maxHostedBody = 2 << 20

// place finds out what a request is about: a path of the API, or one of a hosted plugin.
// The paths of mounts come first, because there is "sys" and "auth" also in names of
// secrets.
func (a *API) place(c *call) *refusal {
	if a.plugins != nil {
		header, refused := headerNamespace(c.r)
		if refused != nil {
			return refused
		}
		if header != "" {
			if header, refused = joinNamespace(header, ""); refused != nil {
				return refused
			}
		}
		path := strings.TrimPrefix(c.r.URL.Path, "/v1/")
		if m, _ := a.plugins.Find(header, path); m != nil {
			c.mount, c.namespace = m, m.Record().Namespace
			c.path = strings.TrimPrefix(header+path, c.namespace)
			return checkHostedPath(path)
		}
	}
	var refused *refusal
	c.namespace, c.path, refused = locate(c.r)
	return refused
}

// checkHostedPath refuses what a plugin could understand as another path than the one that
// policies were asked about.
func checkHostedPath(path string) *refusal {
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || 0x7f <= r && r <= 0x9f || r == '\uFFFD' }) {
		return badRequest("the path is not valid UTF-8 or has control characters")
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return badRequest("the path has the element %q", segment)
		}
	}
	if strings.Contains(path, "//") {
		return badRequest("the path has an empty segment")
	}
	return nil
}

// serveHosted hands a request to the plugin of a mount. Rights are those of any path:
// create or update for a write, depending on whether the plugin says that the object
// exists, and sudo where the plugin asks for it. Whoever has neither create nor update
// does not get as far as that question.
func (a *API) serveHosted(c *call, w http.ResponseWriter, aclPath string) (*reply, string, error) {
	mount := c.mount.Record()
	if c.operation == opOther {
		return nil, "", unsupportedOperation()
	}
	within := strings.TrimPrefix(aclPath, mount.Relative())
	if aclPath+"/" == mount.Relative() {
		within = ""
	}
	needs, err := c.mount.Access(c.ctx, within)
	if err != nil {
		return nil, "", err
	}
	if bare, slash := strings.CutSuffix(within, "/"); slash && c.operation != opList { // see call.allows
		of, err := c.mount.Access(c.ctx, bare)
		if err != nil {
			return nil, "", err
		}
		needs.Sudo, needs.Open = needs.Sudo || of.Sudo, needs.Open && of.Open
	}
	largest := int64(maxHostedBody)
	if needs.Open {
		largest = maxLoginBody
		if refused := a.limited(c.r, ""); refused != nil {
			return nil, "", refused
		}
	} else if err := a.admit(c); err != nil {
		return nil, "", err
	}
	if err := a.readArguments(c, &route{maxBody: largest}, w); err != nil {
		return nil, "", err
	}
	request := hostedRequest(c, within, needs.Open)
	if request.Operation == vaultplugin.ReadOperation || request.Operation == vaultplugin.ListOperation {
		if help, err := strconv.ParseBool(c.r.URL.Query().Get("help")); err == nil && help {
			request.Operation = vaultplugin.HelpOperation
			delete(request.Data, "help")
		}
	}
	allows := func(needed policy.Capabilities) bool {
		if needs.Sudo {
			needed |= policy.Sudo
		}
		return needs.Open || c.allows(needed, aclPath)
	}
	switch request.Operation {
	case vaultplugin.HelpOperation: // for everybody who has a token, as in Vault
	case vaultplugin.UpdateOperation:
		if !allows(policy.Create) && !allows(policy.Update) {
			return nil, "", permissionDenied()
		}
		if strings.HasSuffix(c.path, "/") {
			return nil, "", endsInSlash()
		}
		exists, err := c.mount.Exists(c.ctx, request)
		if err != nil {
			return nil, "", err
		}
		needed := policy.Update
		if !exists {
			request.Operation, needed = vaultplugin.CreateOperation, policy.Create
		}
		if !allows(needed) {
			return nil, "", permissionDenied()
		}
	default:
		if !allows(c.operation.capability()) {
			return nil, "", permissionDenied()
		}
		if c.operation == opPatch && strings.HasSuffix(c.path, "/") {
			return nil, "", endsInSlash()
		}
	}
	if c.operation != opRead && c.operation != opList {
		c.ctx = context.WithoutCancel(c.ctx) // the host bounds it
	}
	response, err := c.mount.Handle(c.ctx, request)
	reply, err := a.hostedReply(c, request, response, err)
	if refused, ok := errors.AsType[*refusal](err); ok && needs.Open && refused.status/100 == 4 && refused.status != http.StatusNotFound {
		a.failed(c.r, "")
		if mount.Class == pluginhost.Auth {
			refused.why = loginRefused
		}
	}
	return reply, mount.Plugin, err
}

// hostedRequest is what the plugin is told of a request.
func hostedRequest(c *call, within string, open bool) *vaultplugin.Request {
	r := &vaultplugin.Request{
		ID: uuid.NewString(), Path: within, Data: c.arguments, Unauthenticated: open,
		Operation: map[operation]vaultplugin.Operation{
			opRead: vaultplugin.ReadOperation, opList: vaultplugin.ListOperation, opUpdate: vaultplugin.UpdateOperation,
			opDelete: vaultplugin.DeleteOperation, opPatch: vaultplugin.PatchOperation,
		}[c.operation],
	}
	if c.operation == opList {
		delete(r.Data, "list")
	}
	if e := c.id.Entry(); e != nil {
		r.ClientToken, r.ClientTokenAccessor, r.ClientTokenRemainingUses = c.mount.Hash(c.token()), e.Accessor, e.NumUses
		r.DisplayName, r.EntityID = e.DisplayName, e.Subject.EntityID
	}
	if c.mount.Record().Class == pluginhost.Auth {
		r.Connection = &vaultplugin.Connection{RemoteAddr: remote(c.r), TLS: c.r.TLS}
		if address, err := netip.ParseAddrPort(c.r.RemoteAddr); err == nil {
			r.Connection.RemotePort = int(address.Port())
		}
	}
	return r
}

// hostedReply turns the answer of a plugin into that of the API.
func (a *API) hostedReply(c *call, request *vaultplugin.Request, response *vaultplugin.Response, err error) (*reply, error) {
	text, isError := response.ErrorText()
	if err != nil {
		remote, ok := errors.AsType[*vaultplugin.RemoteError](err)
		if !ok {
			return nil, err
		}
		refused := &refusal{status: remote.HTTPStatus(), text: text, why: "plugin"}
		if !isError || text == "" {
			refused.text = errorList(remote.Message)
		}
		return nil, refused
	}
	if isError {
		refused := badRequest("%s", text)
		refused.why = "plugin"
		return nil, refused
	}
	reading := request.Operation == vaultplugin.ReadOperation || request.Operation == vaultplugin.ListOperation
	switch {
	case response == nil && reading:
		return nil, nothing()
	case response == nil:
		return &reply{}, nil
	case response.Data[vaultplugin.RawStatusCode] != nil:
		return rawReply(response.Data)
	case response.Wrap != nil && response.Wrap.TTL > 0:
		return nil, &refusal{status: http.StatusBadGateway, text: "the plugin asks for a wrapped response, which is not possible here"}
	case response.Redirect != "":
		return nil, &refusal{status: http.StatusBadGateway, text: "the plugin answers with a redirect, which is not followed here"}
	case request.Operation == vaultplugin.HelpOperation:
		return &reply{bare: response.Data}, nil
	case request.Operation == vaultplugin.ListOperation && !hasKeys(response.Data) && len(response.Warnings) == 0:
		return nil, nothing()
	}
	r := &reply{data: response.Data, warnings: response.Warnings}
	if secret := response.Secret; secret != nil {
		r.leaseDuration = int64(secret.TTL / time.Second)
	}
	// The lease of a kv plugin is no lease, but how often to look; in Vault it has no id.
	if secret, plugin := response.Secret, c.mount.Record().Plugin; secret != nil && plugin != "kv" && plugin != "generic" {
		r.leaseID = c.mount.Record().Relative() + request.Path + "/" + uuid.NewString()
		r.warnings = append(r.warnings, "this hub does not manage leases: nothing is revoked when the lease ends")
	}
	if response.Auth != nil {
		var err error
		if r.auth, err = a.loginByPlugin(c, response.Auth); err != nil {
			return nil, err
		}
	}
	if r.data == nil && reading && r.auth == nil && len(r.warnings) == 0 {
		r.data = map[string]any{}
	}
	return r, nil
}

func hasKeys(data map[string]any) bool {
	keys, ok := data["keys"].([]any)
	return !ok && len(data) > 0 || len(keys) > 0
}

// rawReply is an answer that the plugin has written itself.
func rawReply(data map[string]any) (*reply, error) {
	code, _ := scalar(data[vaultplugin.RawStatusCode])
	status, err := strconv.Atoi(code)
	if err != nil || status < 200 || status > 599 {
		return nil, &refusal{status: http.StatusBadGateway, text: "the plugin answers with a status that is none"}
	}
	r := &reply{status: status, raw: []byte{}, contentType: "application/octet-stream"}
	if text, ok := data[vaultplugin.RawContentType].(string); ok && text != "" {
		r.contentType = text
	}
	if text, ok := data[vaultplugin.RawBody].(string); ok {
		// Bytes of a plugin are base64 here, and texts are as they were; nothing says which
		// it is, so what can be base64 counts as that, as in Vault.
		if r.raw, err = base64.StdEncoding.DecodeString(text); err != nil {
			r.raw = []byte(text)
		}
	}
	return r, nil
}

// defaultLoginTTL is how long a token lives that a plugin gives no time for.
const defaultLoginTTL = time.Hour

// loginByPlugin makes a token for whom an auth plugin has recognised, with those of the
// policies that the configuration lets the mount give. It lives as long as the plugin says
// and cannot be extended beyond, because the plugin would not be asked.
func (a *API) loginByPlugin(c *call, auth *vaultplugin.Auth) (*authBlock, error) {
	mount := c.mount.Record()
	if mount.Class != pluginhost.Auth || len(mount.LoginPolicies) == 0 {
		return nil, &refusal{status: http.StatusForbidden, why: "plugin",
			text: errorList("logins at " + mount.Relative() + " give no tokens here; name the policies that they may give as login_policies of the mount in the configuration of the hub")}
	}
	if auth.NumUses > 0 || len(auth.BoundCIDRs) > 0 {
		return nil, &refusal{status: http.StatusForbidden, why: "plugin",
			text: errorList("the plugin gives a token with limited uses or addresses, which is not possible here")}
	}
	var policies []string
	for _, name := range append(auth.Policies, auth.TokenPolicies...) {
		for _, pattern := range mount.LoginPolicies {
			if glob := event.CompileGlob(pattern); glob.Match(strings.ToLower(strings.TrimSpace(name))) {
				policies = append(policies, name)
				break
			}
		}
	}
	ttl := auth.TTL
	if ttl <= 0 {
		ttl = defaultLoginTTL
	}
	for _, most := range []time.Duration{auth.MaxTTL, auth.ExplicitMaxTTL, mount.MaxLeaseTTL} {
		if most > 0 {
			ttl = min(ttl, most)
		}
	}
	now := time.Now()
	external := &access.External{
		Provider: strings.TrimSuffix(mount.Path, "/"), DisplayName: auth.DisplayName, Namespace: mount.Namespace,
		Policies: policies, Created: now, Expires: now.Add(ttl), Meta: auth.Metadata,
	}
	value, e, err := a.authority.Login(c.ctx, external, c.path)
	if err != nil {
		return nil, err
	}
	record := c.change("login")
	record.Who = trail.Who{DisplayName: e.DisplayName, Accessor: e.Accessor, Policies: e.Policies, Provider: external.Provider, Remote: remote(c.r)}
	if err := a.commitNewToken(c, record, e); err != nil {
		return nil, err
	}
	return newAuth(value, e, now), nil
}

// hostedRefusal returns how an error of the host is answered; nil if it is none.
func hostedRefusal(err error) *refusal {
	down, isDown := errors.AsType[*pluginhost.DownError](err)
	remote, isRemote := errors.AsType[*vaultplugin.RemoteError](err)
	text := func(kind error) string { return strings.TrimPrefix(err.Error(), kind.Error()+": ") }
	switch {
	case isDown:
		return &refusal{status: http.StatusServiceUnavailable, text: down.Error(), after: down.RetryAfter}
	case isRemote:
		return &refusal{status: remote.HTTPStatus(), text: errorList(remote.Message), why: "plugin"}
	case errors.Is(err, pluginhost.ErrInvalid):
		return badRequest("%s", text(pluginhost.ErrInvalid))
	case errors.Is(err, pluginhost.ErrNotFound):
		return &refusal{status: http.StatusNotFound, text: err.Error()}
	case errors.Is(err, vaultplugin.ErrTimeout):
		return &refusal{status: http.StatusGatewayTimeout, text: "the plugin did not answer in time"}
	case errors.Is(err, vaultplugin.ErrProtocol):
		return &refusal{status: http.StatusBadGateway, text: fmt.Sprintf("the plugin gave an answer that is none: %v", err)}
	case errors.Is(err, pluginhost.ErrClosed), errors.Is(err, pluginhost.ErrUnavailable), errors.Is(err, vaultplugin.ErrExited), errors.Is(err, vaultplugin.ErrClosed):
		return &refusal{status: http.StatusServiceUnavailable, text: "temporarily unavailable; try again"}
	}
	return nil
}
