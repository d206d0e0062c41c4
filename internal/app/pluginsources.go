package app

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/source/plugin"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// SourceProcess is the child process that a source plugin runs in, or, for a native one, that
// loads it.
type SourceProcess struct {
	Source  string // name of the source
	Command string
	Args    []string
	Env     []string // NAME=VALUE, beside what every plugin gets
	// File is what must have the checksum SHA256, in hexadecimal digits; empty: none is asked for.
	File, SHA256 string
	Config       string   // of the plugin
	Secrets      []string // the values of variables that it gets as the hub has them
	SocketDir    string   // in which it gets a directory for its socket
	MaxEvent     int
	MaxMemory    int64 // 0: no limit
	StartTimeout time.Duration
	CallTimeout  time.Duration
	Logger       *slog.Logger // of what the plugin logs
}

// launchSource starts a source plugin in a process of its own.
func launchSource(ctx context.Context, p SourceProcess) (sourceplugin.Plugin, error) {
	o := pluginprocess.Options{
		Name: filepath.Base(p.File), Command: p.Command, Args: p.Args, Env: p.Env, MaxMemory: p.MaxMemory,
		Secrets: p.Secrets, SocketDir: p.SocketDir, Logger: p.Logger, StartTimeout: p.StartTimeout, CallTimeout: p.CallTimeout,
	}
	if p.SHA256 != "" {
		sum, err := hex.DecodeString(p.SHA256)
		if err != nil {
			return nil, fmt.Errorf("its sha256: %w", err)
		}
		if p.File == p.Command {
			o.SHA256 = sum
		} else { // of a library, which is checked by the process that loads it
			o.Args = append([]string{o.Args[0], "--sha256", p.SHA256}, o.Args[1:]...)
		}
	}
	return pluginprocess.Launch(ctx, o, p.Config)
}

// pluginSourcesPath is the path of the events about source plugins.
const pluginSourcesPath = "sys/plugin-sources/"

// pluginSources are the sources that are plugins.
type pluginSources []*plugin.Source

// Statuses implements [api.PluginSources].
func (p pluginSources) Statuses() []plugin.Status {
	all := make([]plugin.Status, len(p))
	for i, s := range p {
		all[i] = s.Status()
	}
	return all
}

// makePluginSources makes the sources of plugins.sources. Each has a health check of its own, and
// keeps nothing else from working.
func (a *App) makePluginSources(o Options, common *metrics.Metrics) (pluginSources, error) {
	if len(a.config.Plugins.Sources) == 0 {
		return nil, nil
	}
	launch := o.LaunchSource
	if launch == nil {
		launch = launchSource
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the program itself, which loads native plugins: %w", err)
	}
	claims := new(plugin.Claims)
	var all pluginSources
	for _, c := range a.config.Plugins.Sources {
		name := c.SourceName()
		process := sourceProcess(c, executable)
		process.SocketDir = a.sockets
		process.Logger = component(a.log, "plugin").With("source", name)
		s := plugin.New(plugin.Config{
			Name: name, Namespace: c.Namespace, Path: c.Path, Params: c.OpenText(), ExtractOnly: c.NoStream,
			Restart: plugin.Restart(c.Restart), MaxPause: time.Duration(c.MaxPause), MaxEvent: int(c.MaxEvent),
			StartTimeout: time.Duration(c.StartTimeout), CallTimeout: time.Duration(c.CallTimeout), StopTimeout: sourceTimeout, SteadyAfter: o.steadyAfter,
			Secrets: process.Secrets,
			Limits:  a.config.Limits.Event(),
		}, plugin.Deps{
			Launch:  func(ctx context.Context) (sourceplugin.Plugin, error) { return launch(ctx, process) },
			Journal: a.journal,
			Keep:    a.keepPayload,
			Claims:  claims,
			Record:  a.recordPluginSource,
			Metrics: common,
			Logger:  component(a.log, "source"),
		})
		all = append(all, s)
		a.sources.all = append(a.sources.all, namedSource{name, s})
		a.health.Register("source "+name, health.Degradation, s.Health)
		a.registry.MustRegister(s.Collector())
	}
	return all, nil
}

// shortestSecret is how long the value of a variable must be to be taken out of texts. Shorter
// ones, such as "true", would be found where they are none.
const shortestSecret = 6

// sourceProcess says how a plugin is run: a command as it is, and a library by this program.
func sourceProcess(c config.SourcePlugin, executable string) SourceProcess {
	p := SourceProcess{
		Source: c.SourceName(), Command: c.Command, Args: c.Args, File: c.Command, SHA256: c.SHA256, Config: c.ConfigText(),
		MaxEvent: int(c.MaxEvent), MaxMemory: int64(c.MaxMemory),
		StartTimeout: time.Duration(c.StartTimeout), CallTimeout: time.Duration(c.CallTimeout),
	}
	if c.Library != "" {
		p.Command, p.Args, p.File = executable, []string{"plugin-host", c.Library}, c.Library
	}
	for key, value := range c.Env {
		p.Env = append(p.Env, key+"="+value)
	}
	for _, key := range c.PassEnv {
		if value, ok := os.LookupEnv(key); ok {
			p.Env = append(p.Env, key+"="+value)
			if len(value) >= shortestSecret {
				p.Secrets = append(p.Secrets, value)
			}
		}
	}
	slices.Sort(p.Env)
	return p
}

// recordPluginSource puts what happened to a source into the trail.
func (a *App) recordPluginSource(i plugin.Incident) {
	r := trail.Record{What: i.What, Path: pluginSourcesPath + i.Name, Operation: i.What[len("plugin-source-"):]}
	failures, since := "", ""
	if i.Failures > 0 {
		failures = fmt.Sprint(i.Failures)
	}
	if !i.Since.IsZero() {
		since = i.Since.UTC().Format(time.RFC3339Nano)
	}
	for _, f := range []event.Field{
		{Key: "plugin_source", Value: i.Name}, {Key: "plugin", Value: i.Plugin}, {Key: "plugin_version", Value: i.Version},
		{Key: "kind", Value: string(i.Kind)}, {Key: "reason", Value: i.Reason}, {Key: "count", Value: failures}, {Key: "since", Value: since},
	} {
		if f.Value != "" {
			r.Fields.Set(f.Key, f.Value)
		}
	}
	a.trail.Record(r)
}
