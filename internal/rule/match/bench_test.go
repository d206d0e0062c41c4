package match_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/demo"
	"github.com/tocsin-events/tocsin/internal/position"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/rule/load"
	"github.com/tocsin-events/tocsin/internal/rule/typical"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// record is events as the journal has them.
type record []*event.Event

func (r record) Len() int                       { return len(r) }
func (r record) Event(i int) *event.Event       { return r[i] }
func (r record) Position(int) position.Position { return position.Position{} }

// recordedEvents are the entries of a recorded audit log.
func recordedEvents(t testing.TB) record {
	t.Helper()
	text, err := demo.Recording()
	if err != nil {
		t.Fatal(err)
	}
	translator := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "bench"})
	var all record
	for line := range bytes.Lines(text) {
		for _, e := range translator.Translate(nil, bytes.TrimSpace(line)) {
			if e.Type == vaultaudit.TypeRequest || e.Type == vaultaudit.TypeResponse {
				all = append(all, e)
			}
		}
	}
	return all
}

func typicalRun(t testing.TB, rules int) *rule.Run {
	t.Helper()
	set, report := rule.Compile([]load.File{{Name: "typical.yaml", Content: []byte(typical.Rules(rules))}}, rule.Options{})
	if set == nil {
		t.Fatalf("%+v", report.Files[0].Errors[0])
	}
	run, err := set.NewRun(rule.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run.Close)
	return run
}

func judge(t testing.TB, run *rule.Run, rec record) {
	if _, err := run.Record(t.Context(), rec, 0, func(a *rule.Alert) error {
		return fmt.Errorf("the rule %s fits an event that it should not fit", a.Rule.Name)
	}); err != nil {
		t.Fatal(err)
	}
}

func TestTypicalRulesDoNotAllocate(t *testing.T) {
	events := recordedEvents(t)
	run := typicalRun(t, 100)
	judge(t, run, events)
	if n := testing.AllocsPerRun(10, func() { judge(t, run, events) }); n > float64(len(events))/20 {
		t.Errorf("%.0f allocations at %d events that no rule fits", n, len(events))
	}
}

// BenchmarkTypicalRules judges the entries of a recorded audit log.
func BenchmarkTypicalRules(b *testing.B) {
	events := recordedEvents(b)
	for _, rules := range []int{1, 50, 1000} {
		b.Run(fmt.Sprint(rules), func(b *testing.B) {
			run := typicalRun(b, rules)
			b.ReportAllocs()
			for b.Loop() {
				judge(b, run, events)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
		})
	}
}
