// Package plugintest tries source plugins as a hub uses them: streams that are read, interrupted,
// closed, opened twice and resumed, configs and params that are good and bad, all fields of all
// events, and whatever else a plugin says that it can do.
//
// For a plugin that is written with package plugin, one call runs all checks in the process of the
// test, where the race detector sees it, and then again in a process of its own, as below a hub:
//
//	func TestPlugin(t *testing.T) {
//		plugintest.Run(t, newPlugin(), plugintest.Options{
//			Params: `{"rolls": 1000}`,
//			Events: 1000,
//		})
//	}
//
// That process is the test's own program, which runs the test with that name up to the call of
// [Run], and serves the plugin there. Nothing else is needed.
//
// [RunProgram] tries a program, in whatever language it is written.
package plugintest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/pluginlocal"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/pluginwire"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
	"github.com/tocsin-events/tocsin/plugin/serve"
)

// Options say what a plugin is tried with, and what is expected of it. A plugin that opens streams
// needs Events or Endless, one that does not needs Feed if it extracts fields.
type Options struct {
	// Config is one that the plugin takes, BadConfigs are some that it must refuse.
	Config     string
	BadConfigs []string
	// Params are those of the streams that are tried, BadParams are some that it must refuse.
	Params    string
	BadParams []string

	// Events is how many events a stream has until it ends. Endless is for a stream that does not
	// end instead: so many of its events are read, which must come within Patience.
	Events, Endless int
	// Check, if not nil, looks at the events of a stream.
	Check func(t testing.TB, events []plugin.Event)
	// Identity is what an event still has when another stream, opened with the same params, gives
	// it again. Nil: its name and payload. For streams that are random, or that are never twice
	// the same, it can be a function that always returns "", so that events are only counted.
	Identity func(plugin.Event) string
	// Exclusive: no stream can be opened while another one is open.
	Exclusive bool

	// Values are those that fields must have, as people read them ("tocsin plugin run --field"):
	// under a field, with its argument in brackets if it has one, those of the first events.
	// "<NA>" is no value.
	Values map[string][]string
	// Feed are events of others that fields are extracted from, beside those of the plugin's own
	// streams. One without a Source has the first of the plugin's.
	Feed []plugin.Event

	// Patience is how long something that works may take; default 60 s. Prompt is within which a
	// plugin must have returned when it is told to end; default 10 s.
	Patience, Prompt time.Duration
}

// Program is an executable that speaks the plugin protocol.
type Program struct {
	Command string // a path
	Args    []string
	Env     []string // NAME=VALUE, beside PATH, HOME and the like
}

// Run tries a plugin, in this process and in one of its own. It may be called once in a test, or
// a part of it (t.Run).
func Run(t *testing.T, p *plugin.Plugin, o Options) {
	t.Helper()
	if pluginwire.Hosted() {
		serve.Main(p)
	}
	if err := p.Check(); err != nil {
		t.Fatalf("the declaration of the plugin: %v", err)
	}
	t.Run("in this process", func(t *testing.T) {
		try(t, o, func(ctx context.Context, _ *slog.Logger, config string) (sourceplugin.Plugin, error) {
			return pluginlocal.Launch(ctx, p, config)
		})
	})
	t.Run("as a process", func(t *testing.T) {
		self, err := os.Executable()
		if err != nil {
			t.Fatalf("find the program of the test: %v", err)
		}
		parts := strings.Split(strings.TrimSuffix(t.Name(), "/as_a_process"), "/")
		for i := range parts {
			parts[i] = "^" + regexp.QuoteMeta(parts[i]) + "$"
		}
		program := Program{Command: self, Args: []string{"-test.run=" + strings.Join(parts, "/")}}
		// With the race detector a process waits for a second before it ends, unless it is told not to.
		program.Env = append(program.Env, "GORACE=atexit_sleep_ms=20 "+os.Getenv("GORACE"))
		// A process that counts what of it has run needs a place to leave that.
		if testing.CoverMode() != "" {
			program.Env = append(program.Env, "GOCOVERDIR="+t.TempDir())
		}
		try(t, o, program.launch)
	})
}

// RunProgram tries a program. It has the checks of [Run].
func RunProgram(t *testing.T, p Program, o Options) {
	t.Helper()
	try(t, o, p.launch)
}

func (p Program) launch(ctx context.Context, log *slog.Logger, config string) (sourceplugin.Plugin, error) {
	running, err := pluginprocess.Launch(ctx, pluginprocess.Options{
		Command: p.Command, Args: p.Args, Env: p.Env, Logger: log,
		StopTimeout: time.Minute, // it is Options.Prompt that counts
	}, config)
	if err != nil {
		return nil, err // and not a nil *Process
	}
	return running, nil
}

// launcher makes a plugin run.
type launcher func(ctx context.Context, log *slog.Logger, config string) (sourceplugin.Plugin, error)

// check is one of the checks. It is left out for a plugin that has not what it needs.
type check struct {
	name  string
	needs func(sourceplugin.Capabilities) bool
	run   func(*trial)
}

func always(sourceplugin.Capabilities) bool       { return true }
func source(c sourceplugin.Capabilities) bool     { return c.Source }
func extracts(c sourceplugin.Capabilities) bool   { return c.Extract }
func tells(c sourceplugin.Capabilities) bool      { return c.Strings }
func lists(c sourceplugin.Capabilities) bool      { return c.Source && c.OpenParams }
func configures(c sourceplugin.Capabilities) bool { return c.SetConfig }
func resumes(c sourceplugin.Capabilities) bool    { return c.Source && c.Resume }
func progresses(c sourceplugin.Capabilities) bool { return c.Source && c.Progress }

// checks are all of them.
func checks() []check {
	return []check{
		{"description", always, describes},
		{"what it does not have", always, lacks},
		{"configs", always, configs},
		{"params", source, badParams},
		{"listed params", lists, listedParams},
		{"events", source, events},
		{"the same again", source, again},
		{"size of events", source, sizes},
		{"interrupted", source, interrupted},
		{"two streams", source, twoStreams},
		{"close", source, closing},
		{"close while reading", source, closeWhileReading},
		{"close the plugin while reading", source, closePlugin},
		{"close without reading", source, closeUnread},
		{"progress", progresses, progress},
		{"resume", resumes, resume},
		{"acknowledgements", resumes, acknowledge},
		{"foreign positions", resumes, foreignPositions},
		{"texts", tells, texts},
		{"fields", extracts, fields},
		{"arguments of fields", extracts, arguments},
		{"foreign events", always, foreign},
		{"metrics", always, metrics},
		{"another config", configures, setConfig},
		{"all at once", always, allAtOnce},
	}
}

// try runs the checks.
func try(t *testing.T, o Options, launch launcher) {
	o.complete()
	ctx, cancel := context.WithTimeout(context.Background(), o.Patience)
	defer cancel()
	p, err := launch(ctx, slog.New(slog.NewTextHandler(t.Output(), nil)), o.Config)
	if err != nil {
		t.Fatalf("start the plugin: %v", err)
	}
	about := p.Describe()
	if err := errors.Join(o.fit(about), p.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	for _, c := range checks() {
		if c.needs(about.Capabilities) {
			t.Run(c.name, func(t *testing.T) { c.try(t, o, launch) })
		}
	}
}

// complete fills in what is left out.
func (o *Options) complete() {
	if o.Patience <= 0 {
		o.Patience = 60 * time.Second
	}
	if o.Prompt <= 0 {
		o.Prompt = 10 * time.Second
	}
	if o.Identity == nil {
		o.Identity = func(e plugin.Event) string { return e.Name + "\x00" + string(e.Data) }
	}
}

// fit says what is missing for a plugin.
func (o *Options) fit(d *sourceplugin.Description) error {
	switch can := d.Capabilities; {
	case can.Source && (o.Events > 0) == (o.Endless > 0):
		return errors.New("plugintest: set Options.Events to how many events a stream with Options.Params has, or Options.Endless to how many are to be read of one that does not end")
	case !can.Source && (o.Events > 0 || o.Endless > 0 || o.Params != "" || len(o.BadParams) > 0):
		return errors.New("plugintest: Options says what a stream has, and the plugin opens none")
	case !can.Source && can.Extract && len(o.Feed) == 0:
		return errors.New("plugintest: set Options.Feed to events that fields can be extracted from, since the plugin has none of its own")
	case !can.Extract && len(o.Values) > 0:
		return errors.New("plugintest: Options.Values has fields, and the plugin extracts none")
	}
	return nil
}

// wanted is how many events are read of a stream.
func (o *Options) wanted() int { return max(o.Events, o.Endless) }
