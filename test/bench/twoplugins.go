package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/pluginprocess"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// jsonPlugin is the source of a plugin in Go that extracts fields of JSON.
const jsonPlugin = "./test/bench/testdata/jsonfields"

// goPlugin builds that plugin under a name and starts it in a process of its own.
func goPlugin(ctx context.Context, s settings, name string) (*pluginprocess.Process, error) {
	library := filepath.Join(s.dir, name+".so")
	build := exec.CommandContext(ctx, "go", "build", "-buildmode=c-shared", "-ldflags", "-X main.name="+name, "-o", library, jsonPlugin)
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the plugin: %w\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return pluginprocess.Launch(ctx, pluginprocess.Options{Name: name, Command: self, Args: []string{pluginHost, library}, Logger: slog.New(slog.DiscardHandler)}, "")
}

// always is a source whose plugin runs.
type always struct {
	name   string
	plugin sourceplugin.Plugin
}

func (a always) Name() string                        { return a.name }
func (a always) Plugin() (sourceplugin.Plugin, bool) { return a.plugin, true }

// pluginRecord is a record of the journal with events of a plugin.
type pluginRecord struct {
	events []*event.Event
	seq    uint64
}

func (r *pluginRecord) Len() int                 { return len(r.events) }
func (r *pluginRecord) Event(i int) *event.Event { return r.events[i] }
func (r *pluginRecord) Position(i int) position.Position {
	return position.Position{Seq: r.seq, Index: uint32(i)}
}

// mixedRules are rules each of whose conditions asks both plugins about every event.
func mixedRules(count int) []byte {
	var b strings.Builder
	for i := range count {
		fmt.Fprintf(&b, "- rule: Mixed %d\n  desc: Fields of two plugins in one condition\n  source: bench\n  priority: NOTICE\n"+
			"  condition: left.value[verb] = create and right.value[user/name] = user%d and left.value[code] != \"200\"\n"+
			"  output: \"%%left.value[verb] by %%right.value[user/name]\"\n", i, i)
	}
	return []byte(b.String())
}

// twoPlugins measures how many events per second ten rules judge that mix fields of two native
// plugins in Go, each of which parses the JSON of every event.
func twoPlugins(ctx context.Context, s settings) (ours, against float64, err error) {
	registry := fields.New(fields.Options{})
	var about []*sourceplugin.Description
	for _, name := range []string{"left", "right"} {
		p, err := goPlugin(ctx, s, name)
		if err != nil {
			return 0, 0, err
		}
		defer func() { err = errors.Join(err, p.Close(context.WithoutCancel(ctx))) }()
		registry.Add(always{name, p})
		about = append(about, p.Describe())
	}
	set, report := rule.Compile([]load.File{{Name: "mixed.yaml", Content: mixedRules(10)}}, rule.Options{Plugins: about, Matching: rule.All})
	if set == nil || len(set.Loaded()) != 10 {
		return 0, 0, fmt.Errorf("the rules do not compile: %+v", report)
	}
	run, err := set.NewRun(rule.RunOptions{Fields: registry})
	if err != nil {
		return 0, 0, err
	}
	defer run.Close()
	origin := falcoevent.NewOrigin("bench", "", "", &sourceplugin.Description{Name: "bench", ID: 1, EventSource: "bench"})
	rec := new(pluginRecord)
	const count = 370 // about as many as a record of the journal has
	for i := range count {
		payload := fmt.Sprintf(`{"verb":"create","user":{"name":"user%d"},"code":%d,"pad":%q}`, i, 200+i%2, strings.Repeat("some text ", 62))
		e := new(event.Event)
		origin.Set(e, fmt.Sprint("event-", i), scapevent.Append(nil, 1, uint64(i+1), []byte(payload)))
		rec.events = append(rec.events, e)
	}
	n, alerts := 0, 0
	start := time.Now()
	for time.Since(start) < s.window {
		rec.seq++ // another one, about which nothing is known
		next, err := run.Record(ctx, rec, 0, func(*rule.Alert) error { alerts++; return nil })
		if err != nil || next != count {
			return 0, 0, fmt.Errorf("%d of %d events were judged: %w", next, count, err)
		}
		n += count
	}
	took := time.Since(start)
	if want := n / count * 5; alerts != want { // users 1, 3, 5, 7 and 9
		return 0, 0, fmt.Errorf("%d alerts instead of %d", alerts, want)
	}
	return float64(n) / took.Seconds(), 20_000, nil
}
