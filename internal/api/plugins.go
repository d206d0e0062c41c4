package api

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/pluginhost"
	"github.com/tocsin-events/tocsin/internal/token"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// Mounts and the catalog of plugins, as Vault's sys/mounts, sys/auth and sys/plugins have
// them. What is not served here (remount, leases, replication) is not accepted in silence.

var (
	mountFields = []string{
		"type", "description", "config", "local", "seal_wrap", "external_entropy_access", "options", "plugin_name", "plugin_version",
		"default_lease_ttl", "max_lease_ttl", "force_no_cache",
	}
	pluginFields = []string{"type", "name", "command", "args", "env", "sha256", "sha_256", "version", "oci_image", "runtime", "download"}
)

// hosting returns the host, or the refusal of a hub that hosts nothing.
func (a *API) hosting() (*pluginhost.Host, error) {
	if a.plugins == nil {
		return nil, badRequest("this hub hosts no plugins; set plugins.storage_key in its configuration")
	}
	return a.plugins, nil
}

// ofRoot refuses what is about the plugins of all namespaces, and must not be for those to
// say who have rights in one of them.
func (c *call) ofRoot() error {
	if c.namespace != "" {
		return badRequest("plugins belong to all namespaces; this can be done in the root namespace only")
	}
	return nil
}

// target says which mount a path of sys/mounts or sys/auth is about.
func (c *call) target() (class pluginhost.Class, path string, tune bool) {
	class = pluginhost.Secret
	if strings.HasPrefix(c.path, "sys/auth/") {
		class = pluginhost.Auth
	}
	path, tune = strings.CutSuffix(strings.TrimSuffix(c.name, "/"), "/tune")
	return class, path, tune
}

// readMount serves GET sys/mounts/{path} and {path}/tune, and the same for sys/auth.
func (a *API) readMount(c *call) (*reply, error) {
	class, path, tune := c.target()
	mounts := a.secrets(c.namespace)
	if class == pluginhost.Auth {
		mounts = a.auths(c.namespace)
	}
	found, ok := mounts[strings.Trim(path, "/")+"/"].(map[string]any)
	if !ok {
		return nil, badRequest("No secret engine mount at %s/", strings.Trim(path, "/"))
	}
	if !tune {
		return &reply{data: found, flat: true}, nil
	}
	data := map[string]any{"description": found["description"], "options": found["options"], "plugin_version": found["plugin_version"]}
	for name, value := range found["config"].(map[string]any) {
		data[name] = value
	}
	return &reply{data: data, flat: true}, nil
}

// writeMount serves POST sys/mounts/{path}, which mounts a plugin, and {path}/tune.
func (a *API) writeMount(c *call) (*reply, error) {
	host, err := a.hosting()
	if err != nil {
		return nil, err
	}
	class, path, tune := c.target()
	if tune {
		return a.tuneMount(c, host, class, path)
	}
	in := c.reader()
	settings, _ := c.arguments["config"].(map[string]any)
	config := &reader{arguments: settings}
	m := pluginhost.MountConfig{
		Class: class, Namespace: c.namespace, Path: path,
		Plugin:          cmp.Or(in.text("type"), in.text("plugin_name"), config.text("plugin_name")),
		Version:         cmp.Or(in.text("plugin_version"), config.text("plugin_version")),
		Description:     in.text("description"),
		Options:         in.table("options"),
		DefaultLeaseTTL: config.duration("default_lease_ttl"),
		MaxLeaseTTL:     config.duration("max_lease_ttl"),
		Local:           in.boolean("local", false),
	}
	if err := cmp.Or(in.err, config.err); err != nil {
		return nil, err
	}
	if m.Plugin == "kv-v2" || m.Plugin == "kv-v1" { // what Vault calls the plugin kv with an option
		if _, err := host.Plugin(class, m.Plugin, m.Version); err != nil {
			if m.Options == nil {
				m.Options = make(map[string]string)
			}
			m.Options["version"] = m.Plugin[len("kv-v"):]
			m.Plugin = "kv"
		}
	}
	made, err := host.Enable(c.ctx, m)
	if err != nil {
		return nil, err
	}
	record := c.change("mount")
	setMount(&record, made.Record())
	return &reply{}, a.commit(c.ctx, record, "the plugin was mounted"+notRecorded)
}

func setMount(record *trail.Record, r *pluginhost.Record) {
	record.Fields.Set("plugin", r.Plugin)
	record.Fields.Set("mount_class", string(r.Class))
	record.Fields.Set("mount_path", r.Path)
	record.Fields.Set("mount_accessor", r.Accessor)
}

func (a *API) tuneMount(c *call, host *pluginhost.Host, class pluginhost.Class, path string) (*reply, error) {
	in := c.reader()
	var t pluginhost.Tuning
	for name, field := range map[string]**time.Duration{"default_lease_ttl": &t.DefaultLeaseTTL, "max_lease_ttl": &t.MaxLeaseTTL} {
		if text, _ := scalar(c.arguments[name]); text != "" && text != "system" {
			d := in.duration(name)
			*field = &d
		}
	}
	for name, field := range map[string]**string{"description": &t.Description, "plugin_version": &t.Version} {
		if c.arguments[name] != nil {
			text := in.text(name)
			*field = &text
		}
	}
	t.Options = in.table("options")
	if err := in.failed(); err != nil {
		return nil, err
	}
	if err := host.Tune(c.ctx, class, c.namespace, path, t); err != nil {
		return nil, err
	}
	record := c.change("mount-tune")
	return &reply{}, a.commit(c.ctx, record, "the mount was changed"+notRecorded)
}

// disableMount serves DELETE sys/mounts/{path}, which removes the storage as well.
func (a *API) disableMount(c *call) (*reply, error) {
	host, err := a.hosting()
	if err != nil {
		return nil, err
	}
	class, path, tune := c.target()
	if tune {
		return nil, unsupportedOperation()
	}
	// Only mounts of the configuration give tokens, and one that can be disabled is not in it
	// any more and runs no more, so that no further ones come.
	for _, m := range host.Mounts(class, c.namespace) {
		if r := m.Record(); class == pluginhost.Auth && r.Path == strings.Trim(path, "/")+"/" && !m.Configured() {
			if err := a.revokeLogins(c, r.Relative()); err != nil {
				return nil, err
			}
		}
	}
	gone, err := host.Disable(c.ctx, class, c.namespace, path)
	if err != nil || gone == nil {
		return &reply{}, err
	}
	record := c.change("unmount")
	setMount(&record, gone)
	return &reply{}, a.commit(c.ctx, record, "the plugin was unmounted"+notRecorded)
}

// revokeLogins ends the tokens that logins at an auth mount have given, and their children.
func (a *API) revokeLogins(c *call, mount string) error {
	tokens := a.authority.Tokens()
	for _, accessor := range tokens.Accessors(c.namespace) {
		e, err := tokens.ByAccessor(accessor)
		if err != nil || !strings.HasPrefix(e.Path, mount) {
			continue // it has ended, or is of another one
		}
		if err := tokens.Revoke(c.ctx, e.ID); err != nil && !errors.Is(err, token.ErrNotFound) {
			return fmt.Errorf("%w: revoke the tokens of the mount: %w", access.ErrUnavailable, err)
		}
		record := c.change("token-revoke")
		record.SetTarget(e)
		record.Fields.Set("reason", "auth mount disabled")
		a.trail.Record(record)
	}
	return nil
}

// pluginTarget takes the path TYPE/NAME apart.
func (c *call) pluginTarget() (class pluginhost.Class, name string, refused *refusal) {
	typ, name, _ := strings.Cut(strings.TrimSuffix(c.name, "/"), "/")
	switch class = pluginhost.Class(typ); {
	case class != pluginhost.Secret && class != pluginhost.Auth && typ != "database":
		return "", "", badRequest("unknown plugin type %.40q; there are secret and auth", typ)
	case c.operation != opList && name == "":
		return "", "", badRequest("missing plugin name")
	}
	return class, name, nil
}

// describePlugin describes a plugin in the words of Vault.
func describePlugin(p pluginhost.Plugin) map[string]any {
	return map[string]any{
		"type": string(p.Class), "name": p.Name, "version": p.Version, "builtin": false, "sha256": p.SHA256,
		"deprecation_status": "",
	}
}

// listAllPlugins serves sys/plugins/catalog.
func (a *API) listAllPlugins(*call) (*reply, error) {
	names := map[string][]string{"auth": {}, "secret": {}, "database": {}}
	detailed := []map[string]any{}
	if a.plugins != nil {
		for _, p := range a.plugins.Plugins() {
			if class := string(p.Class); !slices.Contains(names[class], p.Name) {
				names[class] = append(names[class], p.Name)
			}
			detailed = append(detailed, describePlugin(p))
		}
	}
	return &reply{data: map[string]any{"auth": names["auth"], "secret": names["secret"], "database": names["database"], "detailed": detailed}, flat: true}, nil
}

// listPlugins serves LIST sys/plugins/catalog/{type}.
func (a *API) listPlugins(c *call) (*reply, error) {
	class, _, refused := c.pluginTarget()
	if refused != nil {
		return nil, refused
	}
	var names []string
	if a.plugins != nil {
		for _, p := range a.plugins.Plugins() {
			if p.Class == class && !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
		}
	}
	if names == nil {
		return nil, nothing()
	}
	return &reply{data: map[string]any{"keys": names}}, nil
}

// readPlugin serves GET sys/plugins/catalog/{type}/{name}. What a plugin gets as its
// environment is not told.
func (a *API) readPlugin(c *call) (*reply, error) {
	class, name, refused := c.pluginTarget()
	if refused != nil {
		return nil, refused
	}
	if err := c.ofRoot(); err != nil {
		return nil, err
	}
	if a.plugins == nil {
		return nil, nothing()
	}
	p, err := a.plugins.Plugin(class, name, c.r.URL.Query().Get("version"))
	if err != nil {
		return nil, nothing()
	}
	data := describePlugin(p)
	data["command"], data["args"] = p.Command, p.Args
	return &reply{data: data, flat: true}, nil
}

// registerPlugin serves POST sys/plugins/catalog/{type}/{name}.
func (a *API) registerPlugin(c *call) (*reply, error) {
	host, err := a.hosting()
	if err != nil {
		return nil, err
	}
	class, name, refused := c.pluginTarget()
	if refused != nil {
		return nil, refused
	}
	in := c.reader()
	p := pluginhost.Plugin{
		Class: class, Name: name, Version: in.text("version"), Command: in.text("command"),
		Args: in.texts("args"), Env: in.texts("env"), SHA256: cmp.Or(in.text("sha256"), in.text("sha_256")),
	}
	image, download := in.text("oci_image"), in.boolean("download", false)
	if err := in.failed(); err != nil {
		return nil, err
	}
	if image != "" || download {
		return nil, badRequest("plugins in container images, and downloads, are not supported; register an executable in the plugin directory")
	}
	if command, args, ok := strings.Cut(strings.TrimSpace(p.Command), " "); ok && len(p.Args) == 0 { // the older form
		p.Command, p.Args = command, strings.Fields(args)
	}
	p.Command = cmp.Or(p.Command, name)
	if err := c.ofRoot(); err != nil {
		return nil, err
	}
	if err := host.Register(c.ctx, p); err != nil {
		return nil, err
	}
	record := c.change("plugin-register")
	record.Fields.Set("plugin", p.Name)
	record.Fields.Set("plugin_version", p.Version)
	record.Fields.Set("command", p.Command)
	record.Fields.Set("sha256", p.SHA256)
	return &reply{}, a.commit(c.ctx, record, "the plugin was registered"+notRecorded)
}

// deregisterPlugin serves DELETE sys/plugins/catalog/{type}/{name}.
func (a *API) deregisterPlugin(c *call) (*reply, error) {
	host, err := a.hosting()
	if err != nil {
		return nil, err
	}
	class, name, refused := c.pluginTarget()
	if refused != nil {
		return nil, refused
	}
	if err := c.ofRoot(); err != nil {
		return nil, err
	}
	if err := host.Deregister(c.ctx, class, name, c.r.URL.Query().Get("version")); err != nil {
		return nil, err
	}
	record := c.change("plugin-deregister")
	record.Fields.Set("plugin", name)
	return &reply{}, a.commit(c.ctx, record, "the plugin was deregistered"+notRecorded)
}

// reloadPlugin serves POST sys/plugins/reload/backend, for a plugin or mounts, and
// sys/plugins/reload/{type}/{name}.
func (a *API) reloadPlugin(c *call) (*reply, error) {
	host, err := a.hosting()
	if err != nil {
		return nil, err
	}
	in := c.reader()
	plugin, paths := in.text("plugin"), in.texts("mounts")
	if err := in.failed(); err != nil {
		return nil, err
	}
	class := pluginhost.Class("")
	if c.name != "backend" {
		var refused *refusal
		if class, plugin, refused = c.pluginTarget(); refused != nil {
			return nil, refused
		}
	}
	record := c.change("plugin-reload")
	var mounts []*pluginhost.Mount
	switch {
	case plugin != "" && len(paths) > 0:
		return nil, badRequest("give a plugin or mounts, not both")
	case plugin != "":
		if err := c.ofRoot(); err != nil {
			return nil, err
		}
		record.Fields.Set("plugin", plugin)
		mounts, err = host.Reload(c.ctx, class, plugin)
	case len(paths) > 0:
		for i, path := range paths {
			paths[i] = c.namespace + strings.Trim(path, "/") + "/"
		}
		mounts, err = host.ReloadMounts(c.ctx, paths...)
	default:
		return nil, badRequest("give a plugin or mounts to reload")
	}
	if err != nil {
		if refused := hostedRefusal(err); refused == nil || refused.status >= http.StatusInternalServerError {
			a.log.Error("A plugin could not be reloaded; the former goes on if it can.", "plugin", plugin, "error", err)
		}
		return nil, badRequest("not reloaded: %v", err)
	}
	names := make([]string, len(mounts))
	for i, m := range mounts {
		names[i] = m.Record().Full()
	}
	record.Fields.Set("mounts", strings.Join(names, " "))
	return &reply{data: map[string]any{"mounts": names}}, a.commit(c.ctx, record, "the plugin was reloaded"+notRecorded)
}
