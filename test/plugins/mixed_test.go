//go:build linux && amd64

package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
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

// runs is a source whose plugin runs.
type runs struct {
	name   string
	plugin *pluginprocess.Process
}

func (r runs) Name() string                        { return r.name }
func (r runs) Plugin() (sourceplugin.Plugin, bool) { return r.plugin, true }

// entries are events as the journal has them.
type entries []*event.Event

func (e entries) Len() int                 { return len(e) }
func (e entries) Event(i int) *event.Event { return e[i] }
func (e entries) Position(i int) position.Position {
	return position.Position{Seq: 1, Index: uint32(i)}
}

const mixedRule = `
- rule: Mixed
  desc: Fields of two plugins in one condition, and compared with each other
  source: bench
  priority: NOTICE
  condition: >
    left.value[verb] = create and right.value[user/name] in (alice, bob) and left.value[user/name] = val(right.value[user/name])
    and not right.value[none] exists and jevt.value[/verb] = create
  output: "%left.value[verb] by %right.value[user/name], %left.value[none]"
`

// Two native plugins in Go, each in a process of its own, answer about one condition. When one of
// them has ended, nothing is decided without it.
func TestRulesOverTwoGoPlugins(t *testing.T) {
	t.Parallel()
	registry := fields.New(fields.Options{Timeout: time.Minute})
	var about []*sourceplugin.Description
	var right *pluginprocess.Process
	for _, name := range []string{"left", "right"} {
		library := shared(t, "../bench/testdata/jsonfields", "-ldflags=-X main.name="+name)
		p, err := pluginprocess.Launch(t.Context(), pluginprocess.Options{
			Name: name, Command: hubProgram(t), Args: []string{"plugin-host", library}, Logger: slog.New(slog.DiscardHandler),
		}, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close(context.Background()) })
		registry.Add(runs{name, p})
		about = append(about, p.Describe())
		right = p
	}
	set, report := rule.Compile([]load.File{{Name: "mixed.yaml", Content: []byte(mixedRule)}}, rule.Options{Plugins: about})
	if set == nil || len(set.Loaded()) != 1 {
		t.Fatalf("%+v", report)
	}
	run, err := set.NewRun(rule.RunOptions{Fields: registry})
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close()
	origin := falcoevent.NewOrigin("bench", "", "", &sourceplugin.Description{Name: "bench", ID: 1, EventSource: "bench"})
	var list entries
	for i, user := range []string{"alice", "carol", "bob", "bob"} {
		verb := "create"
		if i == 3 {
			verb = "delete"
		}
		e := new(event.Event)
		origin.Set(e, fmt.Sprint(i), scapevent.Append(nil, 1, uint64(i+1), fmt.Appendf(nil, `{"verb":%q,"user":{"name":%q}}`, verb, user)))
		list = append(list, e)
	}
	var outputs []string
	emit := func(a *rule.Alert) error {
		outputs = append(outputs, a.Output)
		return nil
	}
	if next, err := run.Record(t.Context(), list, 0, emit); err != nil || next != len(list) {
		t.Fatal(next, err)
	}
	if want := []string{"create by alice, <NA>", "create by bob, <NA>"}; !slices.Equal(outputs, want) {
		t.Errorf("%q instead of %q", outputs, want)
	}
	if err := right.Close(t.Context()); err != nil {
		t.Error(err)
	}
	later := entries{list[0]}
	next, err := run.Record(t.Context(), other{later}, 0, emit)
	if missing, ok := errors.AsType[*fields.Missing](err); !ok || missing.Final || next != 0 || len(outputs) != 2 {
		t.Errorf("%d, %v, %q", next, err, outputs)
	}
}

// other is another record.
type other struct{ entries }

func (o other) Position(i int) position.Position { return position.Position{Seq: 2, Index: uint32(i)} }
