package api

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/pluginhost"
)

// Clients ask for mounts before they do something. There are those of the API itself, the
// tokens and logins below auth/ and sys/, and those of hosted plugins.

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

// hostedMount describes the mount of a plugin.
func hostedMount(m *pluginhost.Mount) map[string]any {
	r := m.Record()
	described := mount(r.Accessor, r.Plugin, r.Description)
	described["config"] = leaseTimes(r)
	described["local"] = r.Local
	if len(r.Options) > 0 {
		described["options"] = r.Options
	}
	described["plugin_version"], described["uuid"] = r.Version, r.UUID
	described["running_plugin_version"], described["running_sha256"] = m.Running()
	if r.State == pluginhost.Detached {
		described["deprecation_status"] = "detached: not in the configuration any more; its storage is kept"
	}
	return described
}

func leaseTimes(r *pluginhost.Record) map[string]any {
	return map[string]any{
		"default_lease_ttl": int64(r.DefaultLeaseTTL / time.Second), "max_lease_ttl": int64(r.MaxLeaseTTL / time.Second), "force_no_cache": false,
	}
}

// auths are the mounts below auth/ of a namespace.
func (a *API) auths(namespace string) map[string]any {
	mounts := map[string]any{"token/": mount("auth_token", "token", "tokens issued here")}
	for name := range a.logins {
		mounts[name+"/"] = mount("auth_"+name, "jwt", "tokens for the JWTs of an issuer")
	}
	a.addHosted(mounts, pluginhost.Auth, namespace)
	return mounts
}

// secrets are all others.
func (a *API) secrets(namespace string) map[string]any {
	mounts := map[string]any{"sys/": mount("system", "system", "policies, events and state of the hub")}
	a.addHosted(mounts, pluginhost.Secret, namespace)
	return mounts
}

func (a *API) addHosted(mounts map[string]any, class pluginhost.Class, namespace string) {
	if a.plugins == nil {
		return
	}
	for _, m := range a.plugins.Mounts(class, namespace) {
		mounts[m.Record().Path] = hostedMount(m)
	}
}

func (a *API) authMounts(c *call) (*reply, error) {
	return &reply{data: a.auths(c.namespace), flat: true}, nil
}

func (a *API) secretMounts(c *call) (*reply, error) {
	return &reply{data: a.secrets(c.namespace), flat: true}, nil
}

// shown says whether somebody may know of a mount: those of the API itself, and those
// below which some policy grants something.
func (a *API) shown(id access.Identity, namespace, path string, described any) bool {
	return described.(map[string]any)["uuid"] == "" || id.Touches(namespace+path)
}

// visibleMounts serves sys/internal/ui/mounts. Who has a token may know those that it can
// use, others none.
func (a *API) visibleMounts(c *call) (*reply, error) {
	auths, secrets := map[string]any{}, map[string]any{}
	if c.token() != "" {
		if err := a.admit(c); err != nil {
			return nil, err
		}
		auths, secrets = a.auths(c.namespace), a.secrets(c.namespace)
		maps.DeleteFunc(auths, func(path string, m any) bool { return !a.shown(c.id, c.namespace, "auth/"+path, m) })
		maps.DeleteFunc(secrets, func(path string, m any) bool { return !a.shown(c.id, c.namespace, path, m) })
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
	mounts, below := a.secrets(c.namespace), ""
	within := path
	if rest, ok := strings.CutPrefix(path, "auth/"); ok {
		mounts, within, below = a.auths(c.namespace), rest, "auth/"
	}
	for _, at := range slices.Backward(slices.Sorted(maps.Keys(mounts))) { // the longer first
		if strings.HasPrefix(within, at) && a.shown(c.id, c.namespace, below+at, mounts[at]) {
			data := maps.Clone(mounts[at].(map[string]any))
			data["path"] = at
			return &reply{data: data}, nil
		}
	}
	return nil, &refusal{status: http.StatusForbidden, why: "no mount",
		text: "preflight capability check returned 403, please ensure client's policies grant access to path " + strconv.Quote(path)}
}
