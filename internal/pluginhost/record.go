package pluginhost

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/event"
)

// Class is what a plugin is for.
type Class string

// The classes, as Vault's API calls them.
const (
	Secret Class = "secret"
	Auth   Class = "auth"
)

func (c Class) valid() bool { return c == Secret || c == Auth }

// Origin is where a mount or plugin comes from.
type Origin string

// The origins.
const (
	FromConfig Origin = "config"
	FromAPI    Origin = "api"
)

// MountConfig says what a mount is to be.
type MountConfig struct {
	Class     Class
	Namespace string // canonical
	Path      string // relative to the namespace, without "auth/", with a trailing slash
	// Plugin and Version select a plugin of the catalog. Without a version it is the one
	// without, or the only one.
	Plugin, Version string
	Description     string
	Options         map[string]string
	// DefaultLeaseTTL and MaxLeaseTTL are told to the plugin; 0: 32 days.
	DefaultLeaseTTL, MaxLeaseTTL time.Duration
	// LoginPolicies are the policies that logins of an auth plugin may give. Without any,
	// its logins give no tokens.
	LoginPolicies []string
	Local         bool // told in events
}

// Record is a mount as it is stored. It is not changed once it is shared.
type Record struct {
	MountConfig
	UUID     string
	Accessor string
	Origin   Origin
	Created  time.Time
	// State is empty for a mount that is in use.
	State State
}

// State is where a mount is in its life.
type State string

// The states of mounts that are not in use.
const (
	creating State = "creating" // is removed at the next start
	removing State = "removing" // likewise
	// Detached is a mount of an earlier configuration: its storage is kept, and it does
	// not run.
	Detached State = "detached"
)

// Full returns the path with namespace, "ns1/secret/" or "ns1/auth/x/".
func (c *MountConfig) Full() string { return c.Namespace + c.Relative() }

// Relative returns the path within the namespace, "secret/" or "auth/x/".
func (c *MountConfig) Relative() string {
	if c.Class == Auth {
		return "auth/" + c.Path
	}
	return c.Path
}

// Info is what events say about the mount.
func (r *Record) info(pluginVersion string) *event.PluginInfo {
	return &event.PluginInfo{
		MountClass: string(r.Class), MountAccessor: r.Accessor, MountPath: r.Path, Plugin: r.Plugin,
		PluginVersion: pluginVersion, Version: r.Options["version"], IsLocal: r.Local,
	}
}

// The bounds of what a mount is called and given.
const (
	maxPathBytes    = 256
	maxPathSegments = 16
	maxOptions      = 64
	maxOptionBytes  = 8 << 10
	maxDescription  = 1 << 10
	maxNameBytes    = 128
)

// normalise completes a configuration, or says what is wrong with it. The error wraps
// [ErrInvalid].
func (c *MountConfig) normalise(reservedAuth []string) error {
	c.Namespace = event.CanonicalNamespace(c.Namespace)
	c.Path = strings.Trim(c.Path, "/") + "/"
	if !c.Class.valid() {
		return invalidf("the class of a mount is %q, it must be secret or auth", c.Class)
	}
	if err := checkPath(c.Path); err != nil {
		return err
	}
	first, _, _ := strings.Cut(c.Path, "/")
	switch {
	case c.Class == Secret && slices.Contains([]string{"sys", "auth", "cubbyhole", "identity"}, first):
		return invalidf("cannot mount at %q: the path is taken by the hub", c.Path)
	case c.Class == Auth && (first == "token" || slices.Contains(reservedAuth, first)):
		return invalidf("cannot mount at %q: the path is taken by the hub", "auth/"+c.Path)
	}
	if err := checkPluginName(c.Plugin); err != nil {
		return err
	}
	if len(c.Description) > maxDescription || !utf8.ValidString(c.Description) {
		return invalidf("the description has more than %d bytes, or is not UTF-8", maxDescription)
	}
	if len(c.Options) > maxOptions {
		return invalidf("there are more than %d options", maxOptions)
	}
	size := 0
	for name, value := range c.Options {
		size += len(name) + len(value)
		if !utf8.ValidString(name) || !utf8.ValidString(value) || name == "" {
			return invalidf("option %.40q is not UTF-8 or has no name", name)
		}
	}
	if size > maxOptionBytes {
		return invalidf("the options have more than %d bytes", maxOptionBytes)
	}
	if c.DefaultLeaseTTL < 0 || c.MaxLeaseTTL < 0 {
		return invalidf("a lease time is negative")
	}
	if c.Class != Auth && len(c.LoginPolicies) > 0 {
		return invalidf("login policies are for auth plugins")
	}
	c.Options = maps.Clone(c.Options)
	return nil
}

// checkPath checks the path of a mount: it must not have what is special in policies, and
// no element that could be taken for the API.
func checkPath(path string) error {
	trimmed := strings.TrimSuffix(path, "/")
	if trimmed == "" {
		return invalidf("the path of the mount is empty")
	}
	if len(path) > maxPathBytes || strings.Count(path, "/") > maxPathSegments {
		return invalidf("the path of the mount has more than %d bytes or %d elements", maxPathBytes, maxPathSegments)
	}
	if !utf8.ValidString(path) {
		return invalidf("the path of the mount is not UTF-8")
	}
	for segment := range strings.SplitSeq(trimmed, "/") {
		switch {
		case segment == "", segment == ".", segment == "..", segment == "sys", segment == "auth":
			return invalidf("the path %q of the mount has the element %q, which no mount may have", path, segment)
		case strings.ContainsFunc(segment, func(r rune) bool { return r <= ' ' || r == '*' || r == '+' || 0x7f <= r && r <= 0x9f }):
			return invalidf("the path %q of the mount has spaces, control characters, * or +", path)
		}
	}
	return nil
}

// checkPluginName checks the name of a plugin, which is in paths of the API, logs and
// metrics.
func checkPluginName(name string) error {
	if name == "" || len(name) > maxNameBytes {
		return invalidf("the name of a plugin must have 1 to %d bytes", maxNameBytes)
	}
	if strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}) || strings.Trim(name, ".") == "" {
		return invalidf("the name %q of a plugin has other than letters, digits, \"-\", \"_\" and \".\"", fmt.Sprintf("%.40s", name))
	}
	return nil
}
