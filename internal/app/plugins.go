package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/child"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/pluginhost"
	"github.com/tocsin-events/tocsin/internal/strongbox"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// pluginTimeout is the part of stopTimeout in which plugins end by themselves.
const pluginTimeout = 4 * time.Second

// keyCommandTimeout and maxKeyOutput bound the program that prints the storage key.
const (
	keyCommandTimeout = 30 * time.Second
	maxKeyOutput      = 64 << 10
)

// makeSockets makes the directory of the sockets of plugins, which nobody else has while the
// journal in the data directory is open.
func (a *App) makeSockets() {
	if c := a.config.Plugins; !c.Enabled() && len(c.Sources) == 0 {
		return
	}
	dir, err := child.SocketDir(a.config.DataDir)
	if err != nil {
		a.log.Warn("Plugins have their sockets where temporary files are; a hub that is killed leaves empty directories there.", "error", err)
		return
	}
	a.sockets = dir
	a.onStop("sockets", func(context.Context) error { return os.RemoveAll(dir) })
}

// openPlugins makes the host of plugins, if there is to be one.
func (a *App) openPlugins(ctx context.Context, o Options) error {
	c := a.config.Plugins
	if !c.Enabled() {
		return nil
	}
	keys, from, err := storageKeys(ctx, c)
	if err != nil {
		return err
	}
	box, err := strongbox.Open(ctx, strongbox.Config{
		State:  a.journal.State,
		Remove: a.journal.RemoveState,
		Keys:   keys,
		From:   from,
		Logger: component(a.log, "storage"),
	})
	if err != nil {
		return fmt.Errorf("%w (%s)", err, a.config.DataDir)
	}
	plugins, mounts := pluginConfig(c)
	reserved := make([]string, 0, len(a.logins))
	for name := range a.logins {
		reserved = append(reserved, name)
	}
	a.plugins, err = pluginhost.Open(ctx, pluginhost.Config{
		Box:            box,
		Intake:         a.intake,
		Node:           nodeName(a.config.Node),
		Directory:      c.Directory,
		Plugins:        plugins,
		Mounts:         mounts,
		ReservedAuth:   reserved,
		StartTimeout:   time.Duration(c.StartTimeout),
		RequestTimeout: time.Duration(c.RequestTimeout),
		SocketDir:      a.sockets,
		Launch:         o.launch,
		// What is left on a full disk is for what the hub itself has to keep.
		Ready:    func() error { return fullOnly(a.journal.Health()) },
		Incident: a.recordIncident,
		Registry: a.registry,
		Logger:   component(a.log, "plugins"),
	})
	if err != nil {
		return err
	}
	a.onStop("plugins", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
		defer cancel()
		return a.plugins.Close(ctx)
	})
	a.health.Register("plugins", health.Degradation, a.plugins.Health)
	return nil
}

// fullOnly returns errors that say that there is no space left.
func fullOnly(err error) error {
	if errors.Is(err, journal.ErrFull) {
		return err
	}
	return nil
}

// recordIncident puts what happened to a plugin into the trail, on the path by which its
// mount is managed.
func (a *App) recordIncident(i pluginhost.Incident) {
	path := "sys/mounts/" + i.Mount.Path
	if i.Mount.Class == pluginhost.Auth {
		path = "sys/auth/" + i.Mount.Path
	}
	r := trail.Record{What: i.What, Namespace: i.Mount.Namespace, Path: strings.TrimSuffix(path, "/"), Operation: strings.TrimPrefix(i.What, "plugin-")}
	for _, f := range []event.Field{
		{Key: "plugin", Value: i.Mount.Plugin}, {Key: "mount_class", Value: string(i.Mount.Class)}, {Key: "mount_path", Value: i.Mount.Path},
		{Key: "mount_accessor", Value: i.Mount.Accessor}, {Key: "sha256", Value: i.SHA256}, {Key: "reason", Value: i.Error},
	} {
		if f.Value != "" {
			r.Fields.Set(f.Key, f.Value)
		}
	}
	a.trail.Record(r)
}

// storageKeys returns the keys of the storage and where they come from.
func storageKeys(ctx context.Context, c config.Plugins) (keys []strongbox.Key, from string, err error) {
	var text, setting string
	if len(c.StorageKeyCommand) > 0 {
		setting, from = "plugins.storage_key_command", "the command "+c.StorageKeyCommand[0]
		text, err = runKeyCommand(ctx, c.StorageKeyCommand)
	} else {
		setting, from = "plugins.storage_key", "plugins.storage_key "+c.StorageKey.Reference()
		text, err = c.StorageKey.Reveal()
	}
	if err == nil {
		keys, err = strongbox.ParseKeys(text)
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", setting, err)
	}
	return keys, from, nil
}

// clipped keeps the first bytes of what is written.
type clipped struct {
	bytes.Buffer
	most int
}

func (b *clipped) Write(p []byte) (int, error) {
	if left := b.most - b.Len(); left > 0 {
		b.Buffer.Write(p[:min(left, len(p))])
	}
	return len(p), nil
}

// runKeyCommand returns what the command prints. What it prints elsewhere is shown in
// errors only.
func runKeyCommand(ctx context.Context, argv []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, keyCommandTimeout)
	defer cancel()
	stdout, stderr := &clipped{most: maxKeyOutput}, &clipped{most: 1 << 10}
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	command.Stdout, command.Stderr = stdout, stderr
	command.WaitDelay = time.Second
	if err := command.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("it has not ended within %v", keyCommandTimeout)
		}
		return "", fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(strings.ToValidUTF8(stderr.String(), "\uFFFD")))
	}
	return stdout.String(), nil
}

// pluginConfig returns the plugins and mounts of the configuration.
func pluginConfig(c config.Plugins) (plugins []pluginhost.Plugin, mounts []pluginhost.MountConfig) {
	find := func(m config.Mount) int {
		return slices.IndexFunc(plugins, func(p pluginhost.Plugin) bool {
			return p.Class == pluginhost.Class(m.Type) && p.Name == m.PluginName()
		})
	}
	for _, m := range c.Mounts {
		class, name := pluginhost.Class(m.Type), m.PluginName()
		if m.Command != "" && find(m) < 0 {
			p := pluginhost.Plugin{Class: class, Name: name, Version: m.Version, Command: m.Command, Args: m.Args, SHA256: m.SHA256, Watch: m.ReloadOnChange}
			for key, value := range m.Env {
				p.Env = append(p.Env, key+"="+value)
			}
			for _, key := range m.PassEnv {
				if value, ok := os.LookupEnv(key); ok {
					p.Env = append(p.Env, key+"="+value)
				}
			}
			slices.Sort(p.Env)
			plugins = append(plugins, p)
		}
		mounts = append(mounts, pluginhost.MountConfig{
			Class: class, Namespace: m.Namespace, Path: m.Path, Plugin: name, Description: m.Description, Options: m.Options,
			DefaultLeaseTTL: time.Duration(m.DefaultLeaseTTL), MaxLeaseTTL: time.Duration(m.MaxLeaseTTL), LoginPolicies: m.LoginPolicies,
		})
	}
	for i, m := range c.Mounts { // its own plugin, whatever is registered under the same name
		if at := find(m); at >= 0 {
			mounts[i].Version = plugins[at].Version
		}
	}
	return plugins, mounts
}

// Plugins says whether all hosted plugins run; the error is why some do not, once it has
// been tried.
func (a *App) Plugins() (running bool, err error) {
	if a.plugins == nil {
		return true, nil
	}
	return a.plugins.Ready()
}
