package config

import (
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Plugins is the section "plugins".
type Plugins struct {
	StorageKey        Secret         `yaml:"storage_key" doc:"The key that opens the storage of plugins, 32 random bytes in base64 (openssl rand -base64 32), as {env: NAME} or {file: PATH}. For another key, put it before the old one, on a line of its own, and remove the old one after a start. Without it the storage cannot be read any more: back it up, apart from the data. This or storage_key_command makes the hub host plugins."`
	StorageKeyCommand []string       `yaml:"storage_key_command" doc:"Program, with arguments, that prints that key, for example one that asks a KMS. It has 30 seconds."`
	Directory         string         `yaml:"directory" doc:"Directory with the executables that may be registered while the hub runs (sys/plugins/catalog). Only administrators may be able to write to it. Empty: none may."`
	StartTimeout      Duration       `yaml:"start_timeout" min:"1s" max:"10m" doc:"How long a plugin may take to start."`
	RequestTimeout    Duration       `yaml:"request_timeout" min:"1s" max:"10m" doc:"How long a plugin may take for a request. One that does not answer anything any more is ended and started again."`
	Sources           []SourcePlugin `yaml:"sources" doc:"Plugins that are sources of events: programs that speak the plugin protocol, and native Falco plugins. They need no storage_key. Each has:"`
	Mounts            []Mount        `yaml:"mounts" doc:"Plugins and where they answer. More can be mounted while the hub runs. Each has:"`
}

// Enabled reports whether plugins are hosted.
func (p Plugins) Enabled() bool { return p.StorageKey.IsSet() || len(p.StorageKeyCommand) > 0 }

// Mount is one element of "plugins.mounts".
type Mount struct {
	Path            string     `yaml:"path" doc:"Where the plugin answers: secret means /v1/secret/, for auth plugins /v1/auth/secret/."`
	Type            MountClass `yaml:"type" oneof:"secret,auth" doc:"What the plugin is: secret or auth."`
	Namespace       string     `yaml:"namespace" doc:"The namespace of the path. Empty: root."`
	Name            string     `yaml:"name" doc:"The name of the plugin, kv for example, in events and in accessors. Empty: the name of the executable without vault-plugin-secrets- or vault-plugin-auth-."`
	Command         string     `yaml:"command" doc:"The executable, as an absolute path. Mounts with the same name and type are one plugin; it is enough that one of them has the command."`
	Args            []string   `yaml:"args" doc:"Its arguments."`
	Env             Texts      `yaml:"env" doc:"Variables of its environment: NAME to value. It gets nothing else of the hub's, but for PATH, HOME and the like."`
	PassEnv         []string   `yaml:"pass_env" doc:"Names of variables that it gets as the hub has them, for secrets."`
	SHA256          string     `yaml:"sha256" doc:"Checksum that the executable must have, in hexadecimal digits. Empty: none is asked for."`
	ReloadOnChange  bool       `yaml:"reload_on_change" doc:"true starts the plugin anew whenever the executable changes. Only without sha256."`
	Version         string     `yaml:"version" doc:"Version of the plugin, told in events where it does not tell one itself."`
	Description     string     `yaml:"description" doc:"For people."`
	Options         Texts      `yaml:"options" doc:"Options of the mount: {version: \"2\"} for kv version 2."`
	DefaultLeaseTTL Duration   `yaml:"default_lease_ttl" min:"1s" max:"36500d" zero:"32 days" doc:"What the plugin is told about how long leases live."`
	MaxLeaseTTL     Duration   `yaml:"max_lease_ttl" min:"1s" max:"36500d" zero:"32 days" doc:"And at most."`
	LoginPolicies   []string   `yaml:"login_policies" doc:"Policies that logins of an auth plugin may give, * stands for any characters; others are left out. Empty: its logins give no tokens. Whoever controls the plugin can have these policies."`
}

// MountClass is what a plugin is for.
type MountClass string

// The classes of plugins.
const (
	MountSecret MountClass = "secret"
	MountAuth   MountClass = "auth"
)

func defaultPlugins() Plugins {
	return Plugins{StartTimeout: Duration(time.Minute), RequestTimeout: Duration(90 * time.Second)}
}

// DefaultMount returns what the fields of a mount are when its element in the file does
// not mention them.
func DefaultMount() Mount { return Mount{Type: MountSecret} }

// PluginName returns the name of the plugin of a mount.
func (m Mount) PluginName() string {
	if m.Name != "" || m.Command == "" {
		return m.Name
	}
	name := filepath.Base(m.Command)
	for _, prefix := range []string{"vault-plugin-secrets-", "vault-plugin-auth-", "openbao-plugin-secrets-", "openbao-plugin-auth-", "vault-plugin-"} {
		if short, ok := strings.CutPrefix(name, prefix); ok && short != "" {
			return short
		}
	}
	return name
}

var (
	pluginName   = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (v *validator) plugins(p Plugins) {
	switch {
	case p.StorageKey.IsSet() && len(p.StorageKeyCommand) > 0:
		v.report("plugins", "storage_key and storage_key_command are set; keep one")
	case len(p.Mounts) > 0 && !p.Enabled():
		v.report("plugins", "has mounts but neither storage_key nor storage_key_command; make a key with \"openssl rand -base64 32 > FILE\" and add \"storage_key: {file: FILE}\"")
	}
	if p.Directory != "" && !filepath.IsAbs(p.Directory) {
		v.report("plugins.directory", "%q is not an absolute path", shorten(p.Directory))
	}
	paths := make(map[string]int)
	plugins := make(map[[2]string]int) // those that have a command
	for i, m := range p.Mounts {
		key := fmt.Sprintf("plugins.mounts[%d]", i)
		full := strings.Trim(m.Namespace, "/") + "\x00" + string(m.Type) + "\x00" + strings.Trim(m.Path, "/")
		if first, seen := paths[full]; m.Path == "" {
			v.report(key, "has no path; add for example \"path: secret\"")
		} else if seen {
			v.report(key+".path", "%q is already the path of plugins.mounts[%d]", shorten(m.Path), first)
		}
		paths[full] = i
		v.mount(key, m)
		if m.Command == "" {
			continue
		}
		id := [2]string{string(m.Type), m.PluginName()}
		if first, seen := plugins[id]; !seen {
			plugins[id] = i
		} else if o := p.Mounts[first]; !samePlugin(o, m) {
			v.report(key, "is of the same plugin %q as plugins.mounts[%d], but with another command, args, env, pass_env, sha256, version or reload_on_change; give it another name, or leave them out", m.PluginName(), first)
		}
	}
	for i, m := range p.Mounts {
		if _, known := plugins[[2]string{string(m.Type), m.PluginName()}]; m.Command == "" && !known {
			v.report(fmt.Sprintf("plugins.mounts[%d]", i), "has no command, and no other mount has one for the plugin %q; add \"command:\" with the executable", shorten(m.Name))
		}
	}
}

func samePlugin(a, b Mount) bool {
	return a.Command == b.Command && slices.Equal(a.Args, b.Args) && maps.Equal(a.Env, b.Env) && slices.Equal(a.PassEnv, b.PassEnv) &&
		a.SHA256 == b.SHA256 && a.Version == b.Version && a.ReloadOnChange == b.ReloadOnChange
}

func (v *validator) mount(key string, m Mount) {
	if m.Command != "" && !filepath.IsAbs(m.Command) {
		v.report(key+".command", "%q is not an absolute path", shorten(m.Command))
	}
	if name := m.PluginName(); name != "" && !pluginName.MatchString(name) {
		v.report(key+".name", "%q must have letters, digits, -, _ and . only, at most 128", shorten(name))
	}
	if sum, err := hex.DecodeString(m.SHA256); err != nil || m.SHA256 != "" && len(sum) != 32 {
		v.report(key+".sha256", "is not 64 hexadecimal digits; print them with: sha256sum FILE")
	}
	if m.SHA256 != "" && m.ReloadOnChange {
		v.report(key+".reload_on_change", "makes no sense with a sha256, which another executable does not have")
	}
	for _, name := range append(slices.Sorted(maps.Keys(m.Env)), m.PassEnv...) {
		if !variableName.MatchString(name) {
			v.report(key, "%q is no name of a variable of the environment", shorten(name))
		}
	}
	if len(m.LoginPolicies) > 0 && m.Type != MountAuth {
		v.report(key+".login_policies", "are for plugins of type auth")
	}
	if slices.Contains(m.LoginPolicies, "root") {
		v.report(key+".login_policies", "\"root\" cannot be given by logins")
	}
}
