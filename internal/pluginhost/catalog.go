package pluginhost

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tocsin-events/tocsin/internal/strongbox"
)

// Plugin is an executable that can be mounted.
type Plugin struct {
	Class   Class
	Name    string
	Version string // as registered, possibly empty
	// Command is the path of the executable: relative to [Config.Directory] for those
	// that are registered while the hub runs, absolute for others.
	Command string
	Args    []string
	Env     []string // "NAME=value"; may have secrets
	// SHA256 of the executable, in hexadecimal digits. Of the configuration it may be
	// empty: whatever is there when the plugin is started.
	SHA256 string
	// Watch reloads the plugin when its executable changes; only without SHA256.
	Watch  bool `json:"-"`
	Origin Origin
}

// id names a plugin among all.
type pluginID struct {
	class         Class
	name, version string
}

func (p *Plugin) id() pluginID { return pluginID{p.Class, p.Name, p.Version} }

// catalog has the plugins. It is immutable; Host.changing is held while it is replaced.
type catalog map[pluginID]*Plugin

const (
	systemCompartment = "system"
	catalogPrefix     = "catalog/"
	mountPrefix       = "mounts/"
)

func catalogKey(id pluginID) string {
	return catalogPrefix + string(id.class) + "/" + id.name + "/" + cmp.Or(id.version, "-")
}

// The bounds of what is registered.
const (
	maxCommandBytes = 1 << 10
	maxArguments    = 64
	maxArgBytes     = 16 << 10
)

func (p *Plugin) check() error {
	if !p.Class.valid() {
		return invalidf("the type of a plugin is %q, it must be secret or auth", p.Class)
	}
	if err := checkPluginName(p.Name); err != nil {
		return err
	}
	if p.Version != "" {
		if err := checkPluginName(strings.ReplaceAll(p.Version, "+", "-")); err != nil || p.Version == "-" { // which stands for none where it is stored
			return invalidf("the version %.40q is not one like v1.2.3", p.Version)
		}
	}
	size := len(p.Command)
	for _, text := range slices.Concat(p.Args, p.Env) {
		if strings.ContainsRune(text, 0) {
			return invalidf("an argument or variable has a NUL byte")
		}
		size += len(text)
	}
	switch {
	case p.Command == "":
		return invalidf("no command is given")
	case strings.ContainsRune(p.Command, 0), len(p.Command) > maxCommandBytes:
		return invalidf("the command is too long, or has a NUL byte")
	case len(p.Args) > maxArguments, len(p.Env) > maxArguments, size > maxArgBytes:
		return invalidf("there are more than %d arguments or variables, or more than %d bytes of them", maxArguments, maxArgBytes)
	}
	for _, variable := range p.Env {
		if name, _, ok := strings.Cut(variable, "="); !ok || name == "" {
			return invalidf("a variable of the environment is not of the form NAME=value")
		}
	}
	if p.SHA256 != "" {
		if sum, err := hex.DecodeString(p.SHA256); err != nil || len(sum) != sha256.Size {
			return invalidf("the sha256 is not 64 hexadecimal digits")
		}
	}
	return nil
}

// loadCatalog reads what was registered and adds the plugins of the configuration.
func (h *Host) loadCatalog(ctx context.Context) error {
	all := make(catalog)
	err := h.loadRecords(ctx, catalogPrefix, func(value []byte) error {
		p := new(Plugin)
		if err := json.Unmarshal(value, p); err != nil {
			return err
		}
		p.Origin = FromAPI
		all[p.id()] = p
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range h.config.Plugins {
		p.Origin = FromConfig
		if err := p.check(); err != nil {
			return fmt.Errorf("plugin %s of the configuration: %w", p.Name, err)
		}
		if !filepath.IsAbs(p.Command) {
			return fmt.Errorf("plugin %s of the configuration: the command %s is not absolute", p.Name, p.Command)
		}
		if old := all[p.id()]; old != nil {
			h.log.Warn("A registered plugin is not used, because the configuration has one of the same name.", "plugin", p.Name, "command", old.Command)
		}
		all[p.id()] = &p
	}
	h.catalog.Store(&all)
	return nil
}

// loadRecords calls load with the values below a prefix of the system compartment.
func (h *Host) loadRecords(ctx context.Context, prefix string, load func(value []byte) error) error {
	names, err := h.system.List(ctx, prefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			if err := h.loadRecords(ctx, prefix+name, load); err != nil {
				return err
			}
			continue
		}
		entry, err := h.system.Get(ctx, prefix+name)
		if err != nil {
			return err
		}
		if entry == nil {
			continue
		}
		if err := load(entry.Value); err != nil {
			return fmt.Errorf("%s%s: %w", prefix, name, err)
		}
	}
	return nil
}

// Register puts a plugin into the catalog, in place of the one with the same class, name
// and version. What runs goes on with the former until it is reloaded. The error wraps
// [ErrInvalid] or [ErrUnavailable].
func (h *Host) Register(ctx context.Context, p Plugin) error {
	p.Origin, p.Watch = FromAPI, false
	p.SHA256 = strings.ToLower(p.SHA256)
	if err := p.check(); err != nil {
		return err
	}
	if p.SHA256 == "" {
		return invalidf("the sha256 of the executable is needed")
	}
	if _, err := h.executable(&p); err != nil {
		return err
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.closed.Load() {
		return ErrClosed
	}
	all := *h.catalog.Load()
	old := all[p.id()]
	switch {
	case old != nil && old.Origin == FromConfig:
		return invalidf("plugin %q is in the configuration of the hub; change it there", p.Name)
	case old == nil && len(all) >= MaxPlugins:
		return invalidf("there are %d plugins already", MaxPlugins)
	}
	value, err := json.Marshal(&p)
	if err != nil {
		return err
	}
	if err := h.system.Put(ctx, strongbox.Entry{Key: catalogKey(p.id()), Value: value}); err != nil {
		return storeError("store the plugin", err)
	}
	all = maps.Clone(all)
	all[p.id()] = &p
	h.catalog.Store(&all)
	return nil
}

// Deregister removes a plugin from the catalog; one that there is not is no error. Mounts
// that use it must be disabled first.
func (h *Host) Deregister(ctx context.Context, class Class, name, version string) error {
	h.changing.Lock()
	defer h.changing.Unlock()
	id := pluginID{class, name, version}
	all := *h.catalog.Load()
	p := all[id]
	if p == nil {
		return nil
	}
	if p.Origin == FromConfig {
		return invalidf("plugin %q is in the configuration of the hub; remove it there", name)
	}
	for _, m := range h.table.Load().all {
		r := m.Record()
		if used, err := h.selectPlugin(r.Class, r.Plugin, r.Version); err == nil && used.id() == id {
			return invalidf("plugin %q is in use at %s; disable that first", name, r.Full())
		}
	}
	if err := h.system.Delete(ctx, catalogKey(id)); err != nil {
		return storeError("remove the plugin", err)
	}
	all = maps.Clone(all)
	delete(all, id)
	h.catalog.Store(&all)
	return nil
}

// Plugins returns all plugins, by class, name and version.
func (h *Host) Plugins() []Plugin {
	all := *h.catalog.Load()
	plugins := make([]Plugin, 0, len(all))
	for _, p := range all {
		plugins = append(plugins, *p)
	}
	slices.SortFunc(plugins, func(a, b Plugin) int {
		return cmp.Or(strings.Compare(string(a.Class), string(b.Class)), strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
	return plugins
}

// Plugin returns a plugin. The error wraps [ErrNotFound].
func (h *Host) Plugin(class Class, name, version string) (Plugin, error) {
	p, err := h.selectPlugin(class, name, version)
	if err != nil {
		return Plugin{}, err
	}
	return *p, nil
}

// selectPlugin returns the plugin that a mount uses: exactly the one with that version, or
// without a version the one that has none, or the only one.
func (h *Host) selectPlugin(class Class, name, version string) (*Plugin, error) {
	all := *h.catalog.Load()
	if p := all[pluginID{class, name, version}]; p != nil {
		return p, nil
	}
	if version != "" {
		return nil, fmt.Errorf("plugin %q in version %q: %w in the catalog", name, version, ErrNotFound)
	}
	var found *Plugin
	for id, p := range all {
		if id.class == class && id.name == name {
			if found != nil {
				return nil, invalidf("there are several versions of plugin %q; say which one", name)
			}
			found = p
		}
	}
	if found == nil {
		return nil, fmt.Errorf("plugin %q: %w in the catalog", name, ErrNotFound)
	}
	return found, nil
}

// executable returns the file to be executed. What was registered must be in the plugin
// directory, wherever links lead.
func (h *Host) executable(p *Plugin) (string, error) {
	if p.Origin == FromConfig {
		return p.Command, nil
	}
	if h.config.Directory == "" {
		return "", invalidf("plugins cannot be registered: plugins.directory is not set in the configuration of the hub")
	}
	if filepath.IsAbs(p.Command) || !filepath.IsLocal(p.Command) {
		return "", invalidf("the command %.80q is not a path within the plugin directory", p.Command)
	}
	directory, err := filepath.EvalSymlinks(h.config.Directory)
	if err != nil {
		return "", invalidf("the plugin directory of the hub cannot be used: %w", err)
	}
	file, err := filepath.EvalSymlinks(filepath.Join(directory, p.Command))
	if err != nil {
		return "", invalidf("the command %.80q is not in the plugin directory", p.Command)
	}
	if within, err := filepath.Rel(directory, file); err != nil || !filepath.IsLocal(within) {
		return "", invalidf("the command %.80q leads out of the plugin directory", p.Command)
	}
	return file, nil
}

// maxExecutable bounds the file that is read for its checksum.
const maxExecutable = 2 << 30

// checksum returns the SHA-256 of an executable.
func checksum(file string) ([]byte, error) {
	if info, err := os.Stat(file); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() { // to open a pipe would block
		return nil, fmt.Errorf("%s is not a file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxExecutable+1))
	if err != nil {
		return nil, err
	}
	if n > maxExecutable {
		return nil, fmt.Errorf("%s has more than %d bytes", file, maxExecutable)
	}
	return h.Sum(nil), nil
}
