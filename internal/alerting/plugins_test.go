package alerting

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
)

const fakeRule = "- rule: number\n  desc: d\n  condition: fake.number > 5\n  output: '%fake.text'\n  priority: INFO\n  source: fakes\n"

// Events wait for a plugin that is not known yet, and for one that does not run.
func TestWaitingForPlugins(t *testing.T) {
	t.Parallel()
	s := newSetup(t, fakeRule)
	from := fieldstest.NewSource("fake", nil)
	s.o.Fields.Add(from)
	s.append(fieldstest.Event(`{"number": 6, "text": "first"}`))
	a, _ := s.start()
	eventually(t, "the rule waits", func() bool { return a.Status().State == "waiting" })
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "rules wait for plugins: number, because the plugin of the source fake has not been started yet") {
		t.Errorf("health: %v", err)
	}
	plugin := fieldstest.New()
	from.Set(plugin)
	eventually(t, "an alert", func() bool { return outputs(s.alerts()) == "first" })
	from.Set(nil)
	s.append(fieldstest.Event(`{"number": 7, "text": "second"}`))
	eventually(t, "the event waits", func() bool { return a.Status().State == "waiting" })
	from.Set(plugin)
	eventually(t, "another alert", func() bool { return outputs(s.alerts()) == "first | second" })
	eventually(t, "nothing waits", func() bool { return a.Status().State == "judging" && a.Health() == nil })
	if st := a.Status(); st.Missing != 0 {
		t.Errorf("%d events were judged without a value", st.Missing)
	}
}

// What their windows remember is there again when the plugin is known again after a start, even if
// the hub was stopped before.
func TestMemoryWaitsForPlugins(t *testing.T) {
	t.Parallel()
	s := newSetup(t, fakeRule+"  window: {count: 2, within: 1h}\n")
	plugin := fieldstest.New()
	from := fieldstest.NewSource("fake", plugin)
	s.o.Fields.Add(from)
	a, stop := s.start()
	s.append(fieldstest.Event(`{"number": 6, "text": "first"}`))
	s.judged(a)
	stop()
	for range 2 {
		s.o.Fields, from = fields.New(fields.Options{}), fieldstest.NewSource("fake", nil)
		s.o.Fields.Add(from)
		stop()
		a, stop = s.start()
		eventually(t, "the rule waits", func() bool { return a.Status().State == "waiting" })
	}
	from.Set(plugin)
	s.append(fieldstest.Event(`{"number": 7, "text": "second"}`))
	eventually(t, "an alert about both", func() bool { return outputs(s.alerts()) == "second" })
}

// Rules that ask for a field that the plugin turns out not to have are refused once, and again only
// when something has changed.
func TestRefusedForAPlugin(t *testing.T) {
	t.Parallel()
	s := newSetup(t, strings.ReplaceAll(fakeRule, "fake.number", "fake.nothing"))
	s.o.Reload = -1
	from := fieldstest.NewSource("fake", nil)
	s.o.Fields.Add(from)
	a, err := New(s.o)
	if err != nil {
		t.Fatal(err)
	}
	var tried plugins
	a.loadForPlugins(t.Context(), &tried)
	from.Set(fieldstest.New())
	for range 5 {
		a.loadForPlugins(t.Context(), &tried)
	}
	if told := s.told("rules-refused"); len(told) != 1 || a.Health() == nil {
		t.Errorf("refused %d times, health: %v", len(told), a.Health())
	}
}

// But not for ever.
func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	s := newSetup(t, fakeRule+ruleText("own", `event.type = "app/a"`, ""))
	s.o.Patience = 300 * time.Millisecond
	from := fieldstest.NewSource("fake", nil)
	s.o.Fields.Add(from)
	s.append(fieldstest.Event(`{"number": 6, "text": "first"}`), app(1, "app/a"))
	a, _ := s.start()
	eventually(t, "an alert", func() bool { return outputs(s.alerts()) == "own app/a <NA>" })
	if told := s.told("rules-waiting"); len(told) != 1 {
		t.Errorf("told %+v", told)
	}
	plugin := fieldstest.New()
	from.Set(plugin)
	eventually(t, "the rule judges", func() bool { return a.Status().State == "judging" })
	from.Set(nil)
	s.append(fieldstest.Event(`{"number": 6, "text": "second"}`), app(2, "app/a"))
	eventually(t, "another alert", func() bool { return outputs(s.alerts()) == "own app/a <NA> | own app/a <NA>" })
	if st := a.Status(); st.State != "blind" || st.Missing != 1 || len(s.told("rules-blind")) != 1 {
		t.Errorf("got %+v", st)
	}
	if err := a.Health(); err == nil || !strings.Contains(err.Error(), "judged without a field of a plugin") {
		t.Errorf("health: %v", err)
	}
	from.Set(plugin)
	eventually(t, "it sees again", func() bool {
		s.append(fieldstest.Event(`{"number": 7, "text": "third"}`))
		return a.Status().State == "judging"
	})
	if len(s.told("rules-sighted")) != 1 {
		t.Error("that it sees again is not told")
	}
	eventually(t, "the last alert", func() bool { return strings.HasSuffix(outputs(s.alerts()), "third") })
}

// A payload that cannot be read for too long does not leave the rules blind when payloads can be
// read again.
func TestPayloadsComeBack(t *testing.T) {
	t.Parallel()
	s := newSetup(t, ruleText("large", "event.data[/n] exists", ""))
	s.o.Patience = 100 * time.Millisecond
	var broken atomic.Bool
	s.o.Payload = func(context.Context, string) ([]byte, error) {
		if broken.Load() {
			return nil, errors.New("broken")
		}
		return []byte(`{"n": 1}`), nil
	}
	large := func(n int) *event.Event {
		e := app(n, "app/large")
		e.DataRef = "objects/large"
		return e
	}
	broken.Store(true)
	a, _ := s.start()
	s.append(large(1))
	eventually(t, "it is judged without", func() bool { return a.Status().State == "blind" && a.Status().Missing == 1 })
	broken.Store(false)
	s.append(large(2))
	eventually(t, "an alert", func() bool { return len(s.alerts()) == 1 })
	eventually(t, "it sees again", func() bool { return a.Status().State == "judging" && a.Health() == nil })
}
