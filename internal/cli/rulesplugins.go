package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/eventinput"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// rulePlugin is a plugin that the command line names.
type rulePlugin struct {
	file         string
	config, open string
	opened       bool // --open is given
	args         []string
	environment  map[string]string
}

// rulePlugins are the plugins that --plugin, --config and --open stand for, in their order.
type rulePlugins struct {
	list            []rulePlugin
	enable, disable []string
	env             keyValues
	level           logLevelFlag
}

// maxRulePlugins bounds the processes that are started.
const maxRulePlugins = 64

func (p *rulePlugins) register(flags *pflag.FlagSet) {
	p.level = defaultPluginLevel
	flags.Var(pluginFlag{p}, "plugin", "`file` of a source plugin: a library (.so) or an executable; repeatable")
	flags.Var(pluginTextFlag{p, false}, "config", "`text` of the config of the --plugin before it, mostly JSON; @FILE reads a file, @- standard input")
	flags.Var(&p.env, "plugin-env", "variable of the environment of plugins; repeatable")
	flags.Var(&p.level, "plugin-log-level", "least important messages of plugins on standard error: debug, info, warn or error")
}

// registerStreams registers the flags for who opens streams.
func (p *rulePlugins) registerStreams(flags *pflag.FlagSet) {
	flags.Var(pluginTextFlag{p, true}, "open", "`params` that the stream of the --plugin before it is opened with; @FILE reads a file, @- standard input")
	flags.StringArrayVar(&p.enable, "enable-source", nil, "open only streams of this event `source`; repeatable")
	flags.StringArrayVar(&p.disable, "disable-source", nil, "do not open streams of this event `source`; repeatable")
}

// pluginFlag is the value of --plugin.
type pluginFlag struct{ *rulePlugins }

func (f pluginFlag) String() string { return "" }
func (f pluginFlag) Type() string   { return "file" }
func (f pluginFlag) Set(v string) error {
	switch {
	case v == "":
		return errors.New("must not be empty")
	case len(f.list) == maxRulePlugins:
		return fmt.Errorf("there are more than %d", maxRulePlugins)
	}
	f.list = append(f.list, rulePlugin{file: v})
	return nil
}

// pluginTextFlag is the value of --config and --open.
type pluginTextFlag struct {
	*rulePlugins
	open bool
}

func (f pluginTextFlag) String() string { return "" }
func (f pluginTextFlag) Type() string   { return "text" }
func (f pluginTextFlag) Set(v string) error {
	if len(f.list) == 0 {
		return errors.New("must be behind the --plugin that it is for")
	}
	p := &f.list[len(f.list)-1]
	if f.open {
		p.open, p.opened = v, true
	} else {
		p.config = v
	}
	return nil
}

// check refuses what makes no sense.
func (p *rulePlugins) check(cmd *cobra.Command) error {
	standard := 0
	for _, one := range p.list {
		for _, text := range []string{one.config, one.open} {
			if text == "@-" {
				standard++
			}
		}
	}
	if standard > 1 {
		return usagef(cmd, "only one of --config and --open can be standard input")
	}
	return nil
}

// startedPlugins are plugins that run.
type startedPlugins struct {
	all      []startedPlugin
	registry *fields.Registry
	payload  func(ctx context.Context, ref string) ([]byte, error) // nil: there are none
}

// payloads says where payloads are that are not in their events. It is called before events are
// judged.
func (p *startedPlugins) payloads(fetch func(ctx context.Context, ref string) ([]byte, error)) {
	p.payload = fetch
}

type startedPlugin struct {
	rulePlugin
	*pluginprocess.Process
}

// Name and Plugin make it one whose fields can be asked for.
func (p startedPlugin) Name() string { return p.Describe().Name }

// Plugin returns the plugin, whether it still runs or not: it is not started again.
func (p startedPlugin) Plugin() (sourceplugin.Plugin, bool) { return p.Process, true }

// start starts the plugins and gives them their configs.
func (p *rulePlugins) start(ctx context.Context, s *Streams) (_ *startedPlugins, err error) {
	log := newLogger(s.Err, config.Log{Level: config.LogLevel(p.level), Format: "text"})
	started := new(startedPlugins)
	started.registry = fields.New(fields.Options{Payload: func(ctx context.Context, ref string) ([]byte, error) {
		if started.payload == nil {
			return nil, fs.ErrNotExist
		}
		return started.payload(ctx, ref)
	}})
	running := started // which a return of nil does not change
	defer func() {
		if err != nil {
			err = errors.Join(err, running.Close(ctx))
		}
	}()
	for _, one := range p.list {
		text, err := paramText("config", one.config, s.In)
		if err != nil {
			return nil, err
		}
		if one.open, err = paramText("open", one.open, s.In); err != nil {
			return nil, err
		}
		file, err := findPlugin(one.file)
		if err != nil {
			return nil, err
		}
		env := p.env.list()
		for name, value := range one.environment {
			env = append(env, name+"="+value)
		}
		l := &pluginLaunch{file: file, args: one.args, env: env, log: log}
		program, err := l.start(ctx)
		if err != nil {
			return nil, err
		}
		started.all = append(started.all, startedPlugin{one, program})
		if _, err := initPlugin(ctx, program, text, one.file); err != nil {
			return nil, err
		}
		if err := started.fits(program.Describe()); err != nil {
			return nil, err
		}
		started.registry.Add(startedPlugin{one, program})
	}
	return started, nil
}

// fits says whether the last plugin can run beside those before it.
func (p *startedPlugins) fits(d *sourceplugin.Description) error {
	for _, before := range p.all[:len(p.all)-1] {
		switch b := before.Describe(); {
		case b.Name == d.Name:
			return fmt.Errorf("there are two plugins of the name %s", visible(d.Name))
		case d.ID != 0 && b.ID == d.ID:
			return fmt.Errorf("the plugins %s and %s have the same id, %d", visible(b.Name), visible(d.Name), d.ID)
		}
	}
	return nil
}

// Close ends the plugins.
func (p *startedPlugins) Close(ctx context.Context) (err error) {
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	for _, one := range slices.Backward(p.all) {
		err = errors.Join(err, one.Process.Close(ending))
	}
	return err
}

// descriptions returns what the plugins say of themselves.
func (p *startedPlugins) descriptions() (list []*sourceplugin.Description) {
	for _, one := range p.all {
		list = append(list, one.Describe())
	}
	return list
}

// summary returns what the plugin of an event says of it. It is for one goroutine.
func (p *startedPlugins) summary(ctx context.Context, e *event.Event) (text string, ok bool) {
	source := rule.SourceOf(e)
	for _, one := range p.all {
		d := one.Describe()
		if !d.Capabilities.Strings || d.EventSource != source || source == "" {
			continue
		}
		buf, err := falcoevent.Append(nil, e)
		if err != nil {
			return "", false
		}
		texts, err := one.Strings(ctx, []sourceplugin.Event{{Event: buf, Source: source}})
		if err != nil || len(texts) != 1 {
			return "", false
		}
		return texts[0], true
	}
	return "", false
}

// ended returns an error that says which plugin runs no more; nil if all do.
func (p *startedPlugins) ended() error {
	for _, one := range p.all {
		select {
		case <-one.Exited():
			return fmt.Errorf("the plugin %s has ended", visible(one.Describe().Name))
		default:
		}
	}
	return nil
}

// streams returns the streams that are to be opened: those of all plugins that have one, unless
// their event sources are not wanted.
func (p *startedPlugins) streams(cmd *cobra.Command, f *rulePlugins) (list []eventinput.Stream, err error) {
	var sources []string
	for _, one := range p.all {
		d := one.Describe()
		if !d.Capabilities.Source {
			if one.opened {
				return nil, &adviceError{fmt.Errorf("the plugin %s has no stream of events, so --open is not for it", visible(d.Name)), "Put --open behind the --plugin whose stream it is for."}
			}
			continue
		}
		sources = append(sources, d.EventSource)
		if len(f.enable) > 0 && !slices.Contains(f.enable, d.EventSource) || slices.Contains(f.disable, d.EventSource) {
			continue
		}
		list = append(list, eventinput.Stream{Plugin: one.Process, Params: one.open})
	}
	for _, name := range slices.Concat(f.enable, f.disable) {
		if slices.Contains(sources, name) {
			continue
		}
		if near := config.Nearest(name, sources); near != "" {
			return nil, usagef(cmd, "no plugin has the event source %q; did you mean %q?", name, near)
		}
		return nil, usagef(cmd, "no plugin has the event source %q", name)
	}
	if len(list) == 0 {
		return nil, usagef(cmd, "there is no stream of events to read: name a plugin that has one, or --capture, --audit or --events")
	}
	return list, nil
}

// pluginName names a plugin for people.
func pluginName(p sourceplugin.Plugin) string { return visible(p.Describe().Name) }
