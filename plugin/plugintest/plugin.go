package plugintest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// maxListed is how many of the params that a plugin lists are tried.
const maxListed = 20

var versionForm = regexp.MustCompile(`^\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?$`)

// describes: what a plugin says of itself is complete and fits together.
func describes(x *trial) {
	d := x.about
	for what, text := range map[string]string{"name": d.Name, "version": d.Version} {
		x.checkText("its "+what, text)
	}
	if !versionForm.MatchString(d.Version) {
		x.Errorf("its version is %q, and must be MAJOR.MINOR.PATCH", d.Version)
	}
	if (d.ID == 0) != (d.EventSource == "") || d.Capabilities.Source && d.ID == 0 {
		x.Errorf("its id is %d and its event source %q", d.ID, d.EventSource)
	}
	if (d.Capabilities.Resume || d.Capabilities.Progress || d.Capabilities.OpenParams) && !d.Capabilities.Source {
		x.Errorf("it says what its streams can do, and opens none")
	}
	if d.Capabilities.Extract != (len(d.Fields) > 0) {
		x.Errorf("it declares %d fields, and that it extracts fields: %v", len(d.Fields), d.Capabilities.Extract)
	}
	for what, schema := range map[string]string{"config": d.ConfigSchema, "params": d.ParamsSchema} {
		if strings.TrimSpace(schema) == "" {
			continue
		}
		if _, err := catalog.NewChecker("the schema", []byte(schema)); err != nil {
			x.Errorf("the JSON Schema of its %s: %v", what, err)
		}
	}
	seen := make(map[string]bool)
	for _, f := range d.Fields {
		x.checkText("the name of a field", f.Name)
		x.checkText("the description of the field "+f.Name, f.Description)
		switch {
		case strings.ContainsAny(f.Name, "[] \t\n\"'"):
			x.Errorf("the name of the field %q has brackets, quotes or blanks", f.Name)
		case seen[f.Name]:
			x.Errorf("the field %s is there twice", f.Name)
		case f.Arg.Required && !f.Arg.Index && !f.Arg.Key:
			x.Errorf("the field %s needs an argument, and takes none", f.Name)
		case !knownType(f.Type):
			x.Errorf("the field %s has the type %d, which is none", f.Name, f.Type)
		}
		seen[f.Name] = true
	}
}

// lacks: what a plugin does not have is told as such.
func lacks(x *trial) {
	can := x.about.Capabilities
	not := func(what string, has bool, call func(ctx context.Context) error) {
		x.Helper()
		if has {
			return
		}
		x.within(x.o.Patience, what, func(ctx context.Context) {
			if err := call(ctx); !errors.Is(err, sourceplugin.ErrNotSupported) {
				x.Errorf("the plugin does not declare %s, and answers %v", what, err)
			}
		})
	}
	not("OpenParams", can.OpenParams, func(ctx context.Context) error { _, err := x.plugin.OpenParams(ctx); return err })
	not("Strings", can.Strings, func(ctx context.Context) error { _, err := x.plugin.Strings(ctx, nil); return err })
	not("Extract", can.Extract, func(ctx context.Context) error { _, err := x.plugin.Extract(ctx, nil, nil); return err })
	not("SetConfig", can.SetConfig, func(ctx context.Context) error { return x.plugin.SetConfig(ctx, x.o.Config) })
	not("Open", can.Source, func(ctx context.Context) error { _, err := x.plugin.Open(ctx, sourceplugin.Open{}); return err })
	if can.Source {
		r := x.open(sourceplugin.Open{})
		not("Progress", can.Progress, func(ctx context.Context) error { _, err := r.stream.Progress(ctx); return err })
		x.ask("Acknowledge", func(ctx context.Context) error { return r.stream.Acknowledge(ctx, []byte("nothing")) })
	}
}

// configs: bad ones are refused.
func configs(x *trial) {
	bad := x.o.BadConfigs
	if x.about.ConfigSchema != "" {
		bad = append([]string{"{", "\x00", `{"a":}`}, bad...)
	}
	for _, config := range bad {
		p, err := x.start(config, slog.New(slog.DiscardHandler)) // it may say why there, too
		if err == nil {
			x.closePlugin(p)
		}
		if errors.Is(err, sourceplugin.ErrExited) {
			// A plugin may end when it cannot have its config.
			err = errors.New(err.Error())
		}
		x.refused(fmt.Sprintf("the config %.80q", config), err)
	}
}

// badParams: bad ones are refused, and do no harm.
func badParams(x *trial) {
	bad := x.o.BadParams
	if x.about.ParamsSchema != "" {
		bad = append([]string{"{", "\x00"}, bad...)
	}
	for _, params := range bad {
		_, err := x.tryOpen(sourceplugin.Open{Params: params})
		x.refused(fmt.Sprintf("a stream with the params %.80q", params), err)
	}
	x.open(sourceplugin.Open{}).all()
}

// listedParams: a stream can be opened with what the plugin lists.
func listedParams(x *trial) {
	var list []sourceplugin.OpenParam
	x.ask("OpenParams", func(ctx context.Context) (err error) { list, err = x.plugin.OpenParams(ctx); return err })
	seen := make(map[string]bool)
	for i, p := range list {
		if seen[p.Value] {
			x.Errorf("the params %q are listed twice", p.Value)
		}
		if seen[p.Value] = true; i >= maxListed {
			continue
		}
		r, err := x.tryOpen(sourceplugin.Open{Params: p.Value})
		if err != nil {
			x.Errorf("open a stream with the listed params %q: %v", p.Value, err)
			continue
		}
		x.within(x.o.Patience, "reading", func(ctx context.Context) {
			soon, cancel := context.WithTimeout(ctx, min(x.o.Prompt/4, time.Second))
			defer cancel()
			r.next(soon)
		})
		r.close()
	}
}

// metrics: their names and values make sense, and what only grows does not shrink.
func metrics(x *trial) {
	before := x.metrics()
	if x.about.Capabilities.Source {
		x.open(sourceplugin.Open{}).all()
	}
	after := x.metrics()
	for name, m := range before {
		if now, ok := after[name]; ok && m.Monotonic && now.Value < m.Value {
			x.Errorf("the metric %s is declared to grow only, and went from %v to %v", name, m.Value, now.Value)
		}
	}
}

var metricName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

func (x *trial) metrics() map[string]sourceplugin.Metric {
	x.Helper()
	all := make(map[string]sourceplugin.Metric)
	x.ask("Metrics", func(ctx context.Context) error {
		list, err := x.plugin.Metrics(ctx)
		for _, m := range list {
			switch _, twice := all[m.Name]; {
			case twice:
				x.Errorf("the metric %s is there twice", m.Name)
			case !metricName.MatchString(m.Name):
				x.Errorf("a metric has the name %q; letters, digits and _ are allowed", m.Name)
			case math.IsNaN(m.Value) || math.IsInf(m.Value, 0):
				x.Errorf("the metric %s is %v", m.Name, m.Value)
			case m.Monotonic && m.Value < 0:
				x.Errorf("the metric %s only grows, and is %v", m.Name, m.Value)
			}
			all[m.Name] = m
		}
		return err
	})
	return all
}

// setConfig: a config can be changed, also while a stream is open; a bad one changes nothing.
func setConfig(x *trial) {
	set := func(config string) (err error) {
		x.within(x.o.Patience, "SetConfig", func(ctx context.Context) { err = x.plugin.SetConfig(ctx, config) })
		return err
	}
	good := func() {
		x.Helper()
		if err := set(x.o.Config); err != nil {
			x.Errorf("SetConfig with the config that the plugin has: %v", err)
		}
	}
	good()
	for _, config := range x.o.BadConfigs {
		x.refused(fmt.Sprintf("SetConfig with the config %.80q", config), set(config))
	}
	if !x.about.Capabilities.Source {
		return
	}
	first := x.open(sourceplugin.Open{}).all()
	first.close()
	r := x.open(sourceplugin.Open{})
	r.upTo(1)
	good()
	r.all()
	x.same("a stream during which the config was set to what it was", r.read, first.read)
}

// allAtOnce: whatever can be asked for is asked for by several at the same time.
func allAtOnce(x *trial) {
	list := x.material()
	asked := list[:min(len(list), 200)]
	can := x.about.Capabilities
	var busy sync.WaitGroup
	keep := func(what string, f func(ctx context.Context) error) {
		for range 2 {
			busy.Go(func() {
				for range 5 {
					x.ask(what+", while others are busy", f)
				}
			})
		}
	}
	keep("Metrics", func(ctx context.Context) error { _, err := x.plugin.Metrics(ctx); return err })
	if can.OpenParams {
		keep("OpenParams", func(ctx context.Context) error { _, err := x.plugin.OpenParams(ctx); return err })
	}
	if can.Strings {
		keep("Strings", func(ctx context.Context) error { _, err := x.plugin.Strings(ctx, asked); return err })
	}
	if requests := x.requests(); can.Extract && len(requests) > 0 {
		keep("Extract", func(ctx context.Context) error { _, err := x.plugin.Extract(ctx, asked, requests); return err })
	}
	if can.SetConfig {
		keep("SetConfig", func(ctx context.Context) error { return x.plugin.SetConfig(ctx, x.o.Config) })
	}
	if can.Source {
		streams := 2
		if x.o.Exclusive {
			streams = 1
		}
		for range streams {
			r := x.open(sourceplugin.Open{})
			busy.Go(func() {
				r.all()
				x.same("a stream while the plugin is busy", r.read, list[:len(list)-len(x.o.Feed)])
			})
		}
	}
	busy.Wait()
}
