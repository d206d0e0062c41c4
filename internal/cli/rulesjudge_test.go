package cli

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin-events/tocsin/internal/eventinput"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// A plugin that cannot tell a value for a moment holds up the events that need it; after a while
// they are judged without, which is said once.
func TestRulesMissingValues(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		works  time.Duration // the plugin does, after that time
		alerts int
		said   int
	}{
		"for a moment": {5 * time.Second, 3, 0},
		"for ever":     {time.Hour, 0, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			plugin, start := fieldstest.New(), time.Now()
			source := fieldstest.NewSource("fake", nil)
			timer := time.AfterFunc(tc.works, func() { source.Set(plugin) })
			defer timer.Stop()
			plugins := &startedPlugins{registry: fields.New(fields.Options{})}
			plugins.registry.Add(source)
			set, report := rule.Compile([]load.File{{Name: "r", Content: []byte("- rule: R\n  desc: d\n  condition: fake.text = x\n  output: x\n  priority: INFO\n  source: fakes\n")}},
				rule.Options{Plugins: []*sourceplugin.Description{&plugin.About}})
			if err := report.Err(); err != nil {
				t.Fatal(err)
			}
			run, err := set.NewRun(rule.RunOptions{Fields: plugins.registry})
			if err != nil {
				t.Fatal(err)
			}
			defer run.Close()
			var said strings.Builder
			alerts := 0
			j := &ruleJudge{run: run, plugins: plugins, notes: newNotes(&said, true), alert: func(*rule.Alert) error { alerts++; return nil }}
			to := eventinput.NewCollector(func(rec *eventinput.Record) error { return j.record(t.Context(), rec) })
			for range 3 {
				if err := errors.Join(to.Add(fieldstest.Event(`{"text":"x"}`)), to.Flush()); err != nil {
					t.Fatal(err)
				}
			}
			if n := strings.Count(said.String(), "Events are judged without it."); alerts != tc.alerts || n != tc.said {
				t.Errorf("%s: %d alerts; said: %s", name, alerts, said.String())
			}
			if waited := time.Since(start); waited > 2*extractPatience+time.Minute {
				t.Errorf("%s: it has waited for %v", name, waited)
			}
		})
	}
}
