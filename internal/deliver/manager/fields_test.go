package manager

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// withFields is a bench with sinks whose filters can ask a plugin, which does not run.
func withFields(t *testing.T, sinks ...config.Sink) (*bench, *fieldstest.Source) {
	b := newBench(t)
	source := fieldstest.NewSource("fake", nil)
	b.o.Fields = fields.New(fields.Options{Timeout: time.Second})
	b.o.Fields.Add(source)
	b.o.Sinks = sinks
	return b.open(), source
}

func filtered(name, expression string) config.Sink {
	return fileSink(name, func(s *config.Sink) { s.Events = config.SinkEvents{Filter: expression} })
}

// hookFor is the definition of a sink that is added at run time.
func hookFor(expression string) string {
	return strings.Replace(hook, "types: [shop/*]", "filter: '"+expression+"'", 1)
}

// fake appends an event of the plugin and returns its id.
func (b *bench) fake(payload string) string {
	b.t.Helper()
	e := fieldstest.Event(payload)
	if _, err := b.journal.Append(b.t.Context(), e); err != nil {
		b.t.Fatal(err)
	}
	return e.ID
}

func (b *bench) awaitStatus(name, what string) {
	b.t.Helper()
	await(b.t, name+" says "+what, func() bool { return strings.Contains(b.info(name).Status.Undecided, what) })
}

// A sink starts before the plugin, waits for it, then and when it ends, and gets what it is to
// get. Others do not wait.
func TestSinksWaitForPlugins(t *testing.T) {
	b, source := withFields(t, filtered("one", `field["fake.text"] == "a"`), filtered("other", `event_type == "falco/fakes" or field["fake.text"] == "b"`))
	b.awaitCondition("one", deliver.Running)
	b.awaitCondition("other", deliver.Running)
	first := b.fake(`{"text":"a"}`)
	second := b.fake(`{"text":"b"}`)
	b.awaitGot("other", first, second)
	b.awaitStatus("one", "field fake.text: the plugin of the source fake has not been started yet")
	plugin := fieldstest.New()
	source.Set(plugin)
	b.awaitGot("one", first)
	await(t, "it does not wait any more", func() bool { i := b.info("one"); return i.Status.Undecided == "" && i.Status.LagEvents == 0 })
	source.Set(nil)
	third := b.fake(`{"text":"a"}`)
	b.awaitStatus("one", "field fake.text: the plugin of the source fake does not run")
	b.reopen() // nothing is lost when the hub ends meanwhile
	b.awaitStatus("one", "the plugin of the source fake does not run")
	source.Set(plugin)
	b.awaitGot("one", first, third)
	for _, c := range plugin.Calls() {
		if len(c.Fields) != 1 || c.Fields[0] != "fake.text" {
			t.Errorf("it was asked for %v", c.Fields)
		}
	}
}

// A field that there is not is refused when that is known. Before, it is told of when it is.
func TestSinksWithoutTheirField(t *testing.T) {
	b, source := withFields(t, filtered("one", `field["fake.txet"] == "a"`))
	b.put("two", hookFor(`field["fake.txet"] == "a"`))
	if report := b.o.Health.Report(); !report.OK() {
		t.Errorf("health: %+v", report)
	}
	source.Set(fieldstest.New())
	const wrong = `unknown field "fake.txet"; did you mean "fake.text"?`
	for _, name := range []string{"one", "two"} {
		if err := b.info(name).Health; err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("health of %s: %v", name, err)
		}
	}
	other, mine := &event.Event{ID: "other", Type: "shop/order", Source: "/shop", Path: "shop/1", Time: time.Now().UTC()}, ""
	if _, err := b.journal.Append(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	mine = b.fake(`{"text":"a"}`)
	b.awaitStatus("one", wrong)
	b.awaitStatus("two", wrong)
	var refused *DefinitionError
	for _, expression := range []string{`field["fake.txet"] == "a"`, `field["fake.value"] == "a"`, `field["fake.text[x]"] == "a"`} {
		_, _, err := b.m.Put(t.Context(), "three", []byte(hookFor(expression)))
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", expression, err)
		}
	}
	b.put("two", hookFor(`field["fake.text"] == "a"`))
	b.awaitGot("two", mine)
	if err := b.info("two").Health; err != nil {
		t.Error(err)
	}
}

// A plugin that cannot cope with an event makes it a dead letter; one that lies does so with all,
// and one that hangs makes its sink wait.
func TestSinksOfBadPlugins(t *testing.T) {
	b, source := withFields(t, filtered("one", `field["fake.text"] == "a"`))
	plugin := fieldstest.New()
	source.Set(plugin)
	before := b.fake(`{"text":"a"}`)
	bad := b.fake(`{"text":"a","fail":true}`)
	after := b.fake(`{"text":"a"}`)
	b.awaitGot("one", before, after)
	await(t, "the dead letter", func() bool { return b.info("one").Status.DeadLetters == 1 })
	letters, err := b.m.Letters(t.Context(), "one", 0, 10)
	if err != nil || len(letters) != 1 || letters[0].Event.ID != bad || !strings.Contains(letters[0].Reason, "this event is too much") {
		t.Fatalf("%+v, %v", letters, err)
	}

	hangs := fieldstest.New()
	hangs.Before = func(ctx context.Context, _ []sourceplugin.Event) error { <-ctx.Done(); return ctx.Err() }
	source.Set(hangs)
	last := b.fake(`{"text":"a"}`)
	b.awaitStatus("one", "field fake.text: ")
	source.Set(plugin)
	b.awaitGot("one", before, after, last)

	lies := fieldstest.New()
	lies.Wrong = func(v *sourceplugin.Values) { v.Counts = append(v.Counts, 7) }
	source.Set(lies)
	b.fake(`{"text":"a"}`)
	await(t, "the sink says that the plugin lies", func() bool {
		i := b.info("one")
		return strings.Contains(i.Status.Undecided, "make no sense") || i.Status.DeadLetters == 2
	})
}

// Fields are in use for as long as there is a sink that asks for them.
func TestFieldsOfSinksAreReleased(t *testing.T) {
	b, source := withFields(t)
	source.Set(fieldstest.New())
	with := hookFor(`field["fake.text"] == "a"`)
	free := func() bool {
		use, err := b.o.Fields.Use(names(fields.MaxInUse)...)
		if err != nil {
			return false
		}
		use.Release()
		return true
	}
	b.put("a", with)
	if free() {
		t.Error("the field is not in use")
	}
	b.put("a", hook)
	if !free() {
		t.Error("a sink that was replaced uses its field")
	}
	b.put("a", with)
	if _, err := b.m.Delete(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	use, err := b.o.Fields.Use(names(fields.MaxInUse)...)
	if err != nil {
		t.Fatalf("a sink that was removed uses its field: %v", err)
	}
	if _, _, err := b.m.Put(t.Context(), "a", []byte(with)); !errors.Is(err, fields.ErrTooMany) {
		t.Errorf("too many fields: %v", err)
	}
	use.Release()
	b.put("a", with)
}

func names(n int) (list []string) {
	for i := range n {
		list = append(list, "x."+strings.Repeat("y", i+1))
	}
	return list
}
