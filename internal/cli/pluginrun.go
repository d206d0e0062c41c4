package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/app"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/strongbox"
)

const pluginRunLong = `Run a plugin and print its events, until Ctrl-C or the end of its stream.

A source plugin is a library (.so) that was built for Falco, or an executable that speaks
the plugin protocol of Tocsin. It runs in a process of its own, without a hub. --open says
what its stream is opened with, --field extracts fields of each event, --capture records
the events in a file that Falco, sysdig and "tocsin capture" read. A library is a source
plugin, and so is what gets one of the flags --config, --open, --field, --count, --capture
and --metrics, or --type source. "tocsin plugin inspect" tells what it can do.

Exit codes: 0 the stream has ended, --count events came, or Ctrl-C; 1 the plugin or its stream
failed; 2 wrong usage; 3 some events were too large and are left out.

Any other executable is a Vault plugin, built with HashiCorp's or OpenBao's SDK: it is
mounted in a hub that runs until Ctrl-C. It is not changed in any way, and what works here
works in a server.

The hub listens on loopback only, has one root token that it prints, and removes its data
when it ends (unless --data-dir names a directory). It speaks Vault's API: use vault, bao,
curl or any client library.

When the executable is built again the plugin is reloaded, without losing a request and
with its storage kept. What the plugin logs is on standard error.

--path can be repeated to mount the plugin several times; --option belongs to the --path
before it, or to all if there is none before it. Arguments of the plugin come after "--".`

const pluginRunExample = `  # A Falco plugin, without Falco.
  tocsin plugin run ./libdummy.so --open '{"start": 1, "maxEvents": 10}' --field dummy.value

  # A Vault plugin, in a hub.
  tocsin plugin run ./vault-plugin-secrets-kv --path secret --option version=2

  # In another terminal, or with curl:
  vault kv put secret/app password=x

  # The same plugin twice, in one process.
  tocsin plugin run ./vault-plugin-secrets-kv --path secret --option version=2 --path legacy

  # An auth plugin whose logins give the policy "team-a".
  tocsin plugin run ./vault-plugin-auth-mine --type auth --login-policy team-a`

// pluginMounts are the mounts that --path and --option stand for, in their order.
type pluginMounts struct {
	mounts  []config.Mount
	options config.Texts // for all
}

// twice returns a path that is there more than once.
func (m *pluginMounts) twice() (path string, twice bool) {
	seen := make(map[string]bool)
	for _, mount := range m.mounts {
		if seen[mount.Path] {
			return mount.Path, true
		}
		seen[mount.Path] = true
	}
	return "", false
}

type pathFlag struct{ *pluginMounts }

func (f pathFlag) String() string { return "" }
func (f pathFlag) Type() string   { return "path" }
func (f pathFlag) Set(v string) error {
	if strings.Trim(v, "/") == "" {
		return errors.New("must not be empty")
	}
	m := config.DefaultMount()
	m.Path = strings.Trim(v, "/")
	f.mounts = append(f.mounts, m)
	return nil
}

type optionFlag struct{ *pluginMounts }

func (f optionFlag) String() string { return "" }
func (f optionFlag) Type() string   { return "key=value" }
func (f optionFlag) Set(v string) error {
	target := &f.options
	if n := len(f.mounts); n > 0 {
		target = &f.mounts[n-1].Options
	}
	values := keyValues(*target)
	if err := values.Set(v); err != nil {
		return err
	}
	*target = config.Texts(values)
	return nil
}

type pluginRunFlags struct {
	devFlags
	mounts        pluginMounts
	class         string
	name          string
	namespace     string
	env           keyValues
	loginPolicies []string
	noReload      bool
	output        outputFlag
	pluginLevel   logLevelFlag
	all           bool
	stream        streamFlags
}

// pluginFileArgs checks the arguments of a command that starts a plugin: the plugin and, after
// "--", its own.
func pluginFileArgs(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef(cmd, "%s is missing", name)
		}
		if dash := cmd.ArgsLenAtDash(); len(args) > 1 && dash != 1 {
			return usagef(cmd, "unexpected argument %q; arguments of the plugin come after \"--\"", args[1])
		}
		return nil
	}
}

// typeSource is --type for source plugins.
const typeSource = "source"

// isSource reports whether what is run is a source plugin.
func (f *pluginRunFlags) isSource(cmd *cobra.Command, file string) (bool, error) {
	ours, vaults := changed(cmd.Flags(), streamFlagNames), changed(cmd.Flags(), vaultFlagNames)
	source := f.class == typeSource
	if !cmd.Flags().Changed("type") {
		source = ours != "" || isLibrary(file)
	}
	switch {
	case source && vaults != "" && ours != "":
		return false, usagef(cmd, "--%s is for source plugins, and --%s for Vault plugins", ours, vaults)
	case source && vaults != "":
		return false, usagef(cmd, "--%s is for Vault plugins, and this is a source plugin", vaults)
	case !source && ours != "":
		return false, usagef(cmd, "--%s is for source plugins: --type source", ours)
	}
	return source, nil
}

func newPluginRun(s *Streams) *cobra.Command {
	f := pluginRunFlags{devFlags: devFlags{logLevel: "warn"}, pluginLevel: defaultPluginLevel, output: outputPretty}
	cmd := &cobra.Command{
		Use:     "run LIBRARY|EXECUTABLE [-- ARGUMENT...]",
		Short:   "Run a source plugin, or a Vault plugin in a hub, and print its events",
		Long:    pluginRunLong,
		Example: pluginRunExample,
		Args:    pluginFileArgs("the LIBRARY or EXECUTABLE of the plugin"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.class != string(config.MountSecret) && f.class != string(config.MountAuth) && f.class != typeSource {
				return usagef(cmd, "--type must be source, secret or auth, it is %q", f.class)
			}
			source, err := f.isSource(cmd, args[0])
			if err != nil {
				return err
			}
			if source {
				if err := checkArgs(cmd, args[0], args[1:]); err != nil {
					return err
				}
				file, err := findPlugin(args[0])
				if err != nil {
					return err
				}
				l := &pluginLaunch{file: file, args: args[1:], env: f.env.list(), log: newLogger(s.Err, config.Log{Level: config.LogLevel(f.pluginLevel), Format: "text"})}
				return f.stream.run(cmd, s, l, f.output)
			}
			if err := f.check(cmd); err != nil {
				return err
			}
			if len(f.loginPolicies) > 0 && f.class != string(config.MountAuth) {
				return usagef(cmd, "--login-policy is for auth plugins: --type auth")
			}
			if path, twice := f.mounts.twice(); twice {
				return usagef(cmd, "--path %s is given twice", path)
			}
			return f.run(cmd.Context(), s, args[0], args[1:])
		},
	}
	flags := cmd.Flags()
	f.stream.register(flags)
	flags.Var(pathFlag{&f.mounts}, "path", "mount the plugin here (default: its name); repeatable")
	flags.Var(optionFlag{&f.mounts}, "option", "option of the mount, for example version=2; repeatable")
	flags.StringVar(&f.class, "type", string(config.MountSecret), "what the plugin is: source, secret or auth")
	flags.StringVar(&f.name, "name", "", "`name` of the plugin (default: that of the executable without vault-plugin-secrets- or the like)")
	flags.StringVar(&f.namespace, "namespace", "", "`namespace` to mount it in")
	flags.Var(&f.env, "env", "variable of its environment; repeatable")
	flags.StringArrayVar(&f.loginPolicies, "login-policy", nil, "`policy` that logins of an auth plugin may give; repeatable")
	flags.BoolVar(&f.noReload, "no-reload", false, "do not reload the plugin when its executable changes")
	flags.VarP(&f.output, "output", "o", "how events are printed: pretty or json (one per line, and nothing else on standard output)")
	flags.BoolVar(&f.all, "all", false, "print also what happens to the hub itself, such as logins and subscriptions")
	flags.StringVar(&f.dataDir, "data-dir", "", "keep the data in this `directory`, with the key of the storage beside it, instead of a temporary one")
	flags.StringVar(&f.rootToken, "root-token", "", "`token` that may do everything, instead of a random one")
	flags.StringVar(&f.listen, "listen", config.Default().Listen.Address, "loopback `address` to listen on; port 0 takes a free one")
	flags.StringVar(&f.addressFile, "address-file", "", "write the URL that the hub listens on to this `file` when it is ready")
	flags.Var(&f.pluginLevel, "plugin-log-level", "least important messages of the plugin on standard error: debug, info, warn or error")
	flags.Var(&f.logLevel, "log-level", "least important messages of the hub on standard error: debug, info, warn or error")
	return cmd
}

// pluginConfig adds the plugin to a configuration.
func (f *pluginRunFlags) pluginConfig(c *config.Config, executable string, args []string) error {
	if !strings.ContainsRune(executable, filepath.Separator) {
		if found, err := exec.LookPath(executable); err == nil {
			executable = found
		}
	}
	executable, err := filepath.Abs(executable)
	if err != nil {
		return fmt.Errorf("find the plugin: %w", err)
	}
	info, err := os.Stat(executable)
	switch {
	case err != nil:
		return &adviceError{fmt.Errorf("find the plugin: %w", err), "Build it first, for example with \"go build\"."}
	case info.IsDir():
		return fmt.Errorf("%s is a directory; name the executable in it", executable)
	case info.Mode()&0o111 == 0:
		return &adviceError{fmt.Errorf("%s is not executable", executable), "Build it with \"go build\", or make it executable with chmod +x."}
	}
	if len(f.mounts.mounts) == 0 {
		named := config.Mount{Name: f.name, Command: executable}
		if err := (pathFlag{&f.mounts}).Set(named.PluginName()); err != nil {
			return err
		}
	}
	for i, m := range f.mounts.mounts {
		m.Type, m.Name, m.Namespace, m.LoginPolicies = config.MountClass(f.class), f.name, f.namespace, f.loginPolicies
		m.Command, m.Args, m.Env, m.ReloadOnChange = executable, args, config.Texts(f.env), !f.noReload
		for key, value := range f.mounts.options {
			if m.Options == nil {
				m.Options = make(config.Texts)
			}
			if _, own := m.Options[key]; !own {
				m.Options[key] = value
			}
		}
		f.mounts.mounts[i] = m
	}
	c.Plugins.Mounts = f.mounts.mounts
	return nil
}

// keyFile is where the key of the storage is in a data directory for development.
const keyFile = "plugin-storage.key"

// storageKey returns the key of the storage: one that is in memory only, or that of a
// data directory that is kept.
func (f *devFlags) storageKey() (config.Secret, error) {
	if f.dataDir == "" {
		return config.SecretValue(strongbox.NewKey().Encode()), nil
	}
	path := filepath.Join(f.dataDir, keyFile)
	if err := os.MkdirAll(f.dataDir, 0o700); err != nil {
		return config.Secret{}, fmt.Errorf("make the data directory: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return config.SecretFromFile(path), nil
	}
	if err == nil {
		_, err = fmt.Fprintln(file, strongbox.NewKey().Encode())
		err = errors.Join(err, file.Sync(), file.Close())
	}
	if err != nil {
		return config.Secret{}, fmt.Errorf("store the key of the plugin storage: %w", err)
	}
	return config.SecretFromFile(path), nil
}

func (f *pluginRunFlags) run(ctx context.Context, s *Streams, executable string, args []string) (err error) {
	key, err := f.storageKey()
	if err != nil {
		return err
	}
	dir := f.dataDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "tocsin-plugin-"); err != nil {
			return fmt.Errorf("make a temporary data directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	c := f.config(dir)
	c.Plugins.StorageKey = key
	if err := f.pluginConfig(&c, executable, args); err != nil {
		return err
	}
	if err := c.Validate(); err != nil {
		return err
	}
	a, err := app.New(ctx, app.Options{Config: c, Logger: f.logger(s, c.Log), Version: version()})
	if err != nil {
		return startError(err, c, "--listen", "--data-dir")
	}
	token, err := c.Auth.RootToken.Reveal()
	if err != nil {
		return errors.Join(err, a.Close())
	}
	if remove, err := writeDevToken(a.Addr().String(), token); err == nil {
		defer remove()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := f.watch(ctx, s, a, token, dir); err != nil && ctx.Err() == nil {
			cancel(err)
		}
	})
	err = a.Run(ctx)
	cancel(nil)
	watching.Wait()
	return err
}

// logger shows of the plugin, whose author is looking, more than of the hub.
func (f *pluginRunFlags) logger(s *Streams, c config.Log) *slog.Logger {
	ours := newLogger(s.Err, c).Handler()
	c.Level = config.LogLevel(f.pluginLevel)
	return slog.New(pluginFirst{ours, newLogger(s.Err, c).Handler()})
}

// pluginFirst is a handler with a level of its own for what has the attribute "plugin",
// which loggers of plugins are made with.
type pluginFirst struct{ hub, plugin slog.Handler }

func (h pluginFirst) Enabled(ctx context.Context, l slog.Level) bool { return h.hub.Enabled(ctx, l) }

func (h pluginFirst) Handle(ctx context.Context, r slog.Record) error { return h.hub.Handle(ctx, r) }

func (h pluginFirst) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := pluginFirst{h.hub.WithAttrs(attrs), h.plugin.WithAttrs(attrs)}
	if slices.ContainsFunc(attrs, func(a slog.Attr) bool { return a.Key == "plugin" }) {
		return next.plugin
	}
	return next
}

func (h pluginFirst) WithGroup(name string) slog.Handler {
	return pluginFirst{h.hub.WithGroup(name), h.plugin.WithGroup(name)}
}

// watch waits for the plugin, says how to use it, and prints its events.
func (f *pluginRunFlags) watch(ctx context.Context, s *Streams, a *app.App, token, dir string) error {
	sub, err := client.Subscribe(ctx, "*", client.Options{Address: a.URL(), Token: token, Namespaces: []string{"*"}})
	if err != nil {
		return fmt.Errorf("subscribe to the events: %w", err)
	}
	defer sub.Close()
	state := f.waitForPlugin(ctx, a)
	if ctx.Err() != nil {
		return nil
	}
	out := s.Out
	about := out
	if f.output == outputJSON {
		about = s.Err // programs read the events
	}
	fmt.Fprint(about, f.pluginBanner(a, token, dir, state))
	if err := writeAddress(f.addressFile, a); err != nil {
		return err
	}
	p := newPrinter(out, f.output)
	for {
		m, err := sub.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if !f.all && strings.HasPrefix(m.Event.Type, "tocsin/") && !strings.HasPrefix(m.Event.Type, "tocsin/plugin-") {
			continue
		}
		if f.output == outputPretty {
			m.Event = withoutNoise(m.Event)
		}
		if err := p.message(m, false); err != nil {
			return err
		}
	}
}

// withoutNoise returns an event without what its type and path have told.
func withoutNoise(e *event.Event) *event.Event {
	if !strings.HasPrefix(e.Type, "tocsin/") {
		return e
	}
	short := *e
	short.Metadata = e.Metadata.Clone()
	for _, key := range []string{"mount_accessor", "mount_class", "mount_path", "outcome", "plugin"} {
		short.Metadata.Delete(key)
	}
	return &short
}

// waitForPlugin waits until the plugin runs, or has failed to start, and says which.
func (f *pluginRunFlags) waitForPlugin(ctx context.Context, a *app.App) string {
	const patience = time.Minute
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; {
		running, err := a.Plugins()
		switch {
		case err != nil:
			next := "It is tried again; build it anew, and it is started at once."
			if f.noReload {
				next = "It is tried again."
			}
			return fmt.Sprintf("DOES NOT START: %v\n%14s %s", err, "", next)
		case running:
			return "runs"
		case time.Now().After(deadline):
			return "is still being started"
		}
		select {
		case <-ctx.Done():
			return ""
		case <-ticker.C:
		}
	}
}

// pluginBanner says what runs and how to use it. What is printed can be copied.
func (f *pluginRunFlags) pluginBanner(a *app.App, token, dir, state string) string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	b.WriteString("Tocsin with a plugin: loopback only, no TLS, one root token. A test bench, not a manager of secrets.\n\n")
	first := f.mounts.mounts[0]
	row("Plugin", "%s, %s, %s", first.PluginName(), first.Command, state)
	for _, m := range f.mounts.mounts {
		row("Mount", "%s", strings.TrimSpace(f.mountedAt(m)+" "+pairs(m.Options)))
	}
	row("Address", "%s", a.URL())
	row("Root token", "%s", token)
	if f.dataDir == "" {
		row("Data", "%s (removed at exit, like the key of the storage)", dir)
	} else {
		row("Data", "%s (the key of the storage is in it: %s)", dir, keyFile)
	}
	at := f.mountedAt(first)
	export := fmt.Sprintf("VAULT_ADDR=%s VAULT_TOKEN=%s", a.URL(), token)
	if a.URL() != defaultAddress {
		export += fmt.Sprintf(" %s=%s", addressEnv, a.URL())
	}
	fmt.Fprintf(&b, "\nIn another terminal:\n\n  export %s\n  curl -H \"X-Vault-Token: $VAULT_TOKEN\" \"$VAULT_ADDR/v1/%s?help=1\"\n", export, at)
	switch {
	case first.PluginName() == "kv":
		fmt.Fprintf(&b, "  vault kv put %sapp password=x\n", at)
	case first.Type == config.MountSecret:
		fmt.Fprintf(&b, "  vault write %sPATH key=value\n", at)
	}
	b.WriteString("\nEvents of the plugin appear here. ")
	if !f.noReload {
		b.WriteString("Build the executable again and it is reloaded. ")
	}
	b.WriteString("Ctrl-C ends it.\n\n")
	return b.String()
}

// mountedAt returns the path of a mount as it is behind /v1/.
func (f *pluginRunFlags) mountedAt(m config.Mount) string {
	path := m.Path + "/"
	if m.Type == config.MountAuth {
		path = "auth/" + path
	}
	return event.CanonicalNamespace(m.Namespace) + path
}
