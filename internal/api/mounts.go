package api

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Clients ask for mounts before they do something. There are those of the API itself:
// the tokens and logins below auth/, and sys/.

// mount describes one in the words of Vault.
func mount(accessor, typ, description string) map[string]any {
	return map[string]any{
		"accessor":                strings.ReplaceAll(accessor, "/", "_"),
		"config":                  map[string]any{"default_lease_ttl": 0, "force_no_cache": false, "max_lease_ttl": 0},
		"description":             description,
		"external_entropy_access": false,
		"local":                   false,
		"options":                 nil,
		"plugin_version":          "",
		"running_plugin_version":  "",
		"running_sha256":          "",
		"seal_wrap":               false,
		"type":                    typ,
		"uuid":                    "",
	}
}

// auths are the mounts below auth/.
func (a *API) auths() map[string]any {
	mounts := map[string]any{"token/": mount("auth_token", "token", "tokens issued here")}
	for name := range a.logins {
		mounts[name+"/"] = mount("auth_"+name, "jwt", "tokens for the JWTs of an issuer")
	}
	return mounts
}

// secrets are all others.
func (a *API) secrets() map[string]any {
	return map[string]any{"sys/": mount("system", "system", "policies, events and state of the hub")}
}

func (a *API) authMounts(*call) (*reply, error) { return &reply{data: a.auths(), flat: true}, nil }

func (a *API) secretMounts(*call) (*reply, error) { return &reply{data: a.secrets(), flat: true}, nil }

// visibleMounts serves sys/internal/ui/mounts. Who has a token may know all of them,
// others none.
func (a *API) visibleMounts(c *call) (*reply, error) {
	auths, secrets := map[string]any{}, map[string]any{}
	if c.token() != "" {
		if err := a.admit(c); err != nil {
			return nil, err
		}
		auths, secrets = a.auths(), a.secrets()
	}
	return &reply{data: map[string]any{"auth": auths, "secret": secrets}}, nil
}

// mountOf serves sys/internal/ui/mounts/{path}, which clients of kv ask for the mount
// of a path. Whether there is another mount is not told, as in Vault.
func (a *API) mountOf(c *call) (*reply, error) {
	if err := a.admit(c); err != nil {
		return nil, err
	}
	path := strings.Trim(c.name, "/") + "/"
	mounts := a.secrets()
	within := path
	if rest, ok := strings.CutPrefix(path, "auth/"); ok {
		mounts, within = a.auths(), rest
	}
	for _, at := range slices.Backward(slices.Sorted(maps.Keys(mounts))) { // the longer first
		if strings.HasPrefix(within, at) {
			data := maps.Clone(mounts[at].(map[string]any))
			data["path"] = at
			return &reply{data: data}, nil
		}
	}
	return nil, &refusal{status: http.StatusForbidden, why: "no mount",
		text: "preflight capability check returned 403, please ensure client's policies grant access to path " + strconv.Quote(path)}
}
