package hub

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/filter"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// withFields returns a hub whose filters can ask a plugin.
func withFields(t *testing.T, j Journal) (*Hub, *fieldstest.Plugin, *fieldstest.Source) {
	t.Helper()
	plugin := fieldstest.New()
	source := fieldstest.NewSource("fake", plugin)
	registry := fields.New(fields.Options{})
	registry.Add(source)
	return newTestHub(t, j, Options{Fields: registry, FieldWait: time.Second}), plugin, source
}

// filtered asks for the events of a filter from now on.
func filtered(t *testing.T, h *Hub, expression string) Request {
	t.Helper()
	f, err := filter.CompileFields(expression, func(string, *string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return Request{Selection: Selection{Type: "*", Namespaces: []string{""}, Filter: f}, Format: CloudEvents, After: h.End(), Allow: everything, AccessKey: "root"}
}

// However many filters there are, a plugin is asked once about a batch.
func TestFieldsAreSharedByGroups(t *testing.T) {
	j := newMemJournal()
	h, plugin, _ := withFields(t, j)
	ln := listen(t)
	texts := connect(t, h, ln, filtered(t, h, `field["fake.text"] == "b"`))
	same := connect(t, h, ln, filtered(t, h, `field["fake.text"] == "b"`))
	lists := connect(t, h, ln, filtered(t, h, `"x" in field["fake.list"] and event_type == "falco/fakes"`))
	values := connect(t, h, ln, filtered(t, h, `field["fake.value[deep]"] contains "ee" or field["fake.number"] == 7`))
	plain := connect(t, h, ln, filtered(t, h, `event_type != "falco/fakes"`))
	for range 3 {
		a, b, c := fieldstest.Event(`{"text":"a","list":["x","y"]}`), fieldstest.Event(`{"text":"b","deep":"deeper"}`), fieldstest.Event(`{"number":7}`)
		j.append(a, testEvent(1), b, c)
		for _, want := range []struct {
			c      *client
			events []*event.Event
		}{{texts, []*event.Event{b}}, {same, []*event.Event{b}}, {lists, []*event.Event{a}}, {values, []*event.Event{b, c}}, {plain, []*event.Event{testEvent(1)}}} {
			for _, e := range want.events {
				if got := want.c.event(); got.ID != e.ID {
					t.Fatalf("got %s, want %s", got.ID, e.ID)
				}
			}
		}
	}
	calls := plugin.Calls()
	if len(calls) != 3 {
		t.Fatalf("%d calls for three batches", len(calls))
	}
	for _, c := range calls {
		if c.Events != 3 || len(c.Fields) != 4 {
			t.Errorf("a call was about %d events and the fields %v", c.Events, c.Fields)
		}
	}
}

// Nobody is asked about what the selection, the rights or the rest of the filter decide.
func TestFieldsAreLazy(t *testing.T) {
	j := newMemJournal()
	h, plugin, _ := withFields(t, j)
	ln := listen(t)
	blind := filtered(t, h, `field["fake.text"] != "nothing"`)
	blind.Allow, blind.AccessKey = func(e *event.Event) bool { return e.Path != fieldstest.Event("").Path }, "blind"
	other := filtered(t, h, `field["fake.text"] == "a"`)
	other.Type = "falco/others"
	clients := []*client{
		connect(t, h, ln, blind),
		connect(t, h, ln, filtered(t, h, `field["fake.text"] == "a" or event_type != "x"`)),
		connect(t, h, ln, filtered(t, h, `not (field["fake.text"] == "a" or event_type == "falco/fakes")`)),
	}
	connect(t, h, ln, other)
	j.append(fieldstest.Event(`{"text":"a"}`), testEvent(5))
	if got := clients[1].event(); got.Type != "falco/fakes" {
		t.Error(got)
	}
	for _, c := range clients {
		if got := c.event(); got.ID != testEvent(5).ID {
			t.Errorf("got %s", got.ID)
		}
	}
	if calls := plugin.Calls(); len(calls) != 0 {
		t.Errorf("calls: %v", calls)
	}
}

// A subscription waits for a plugin that is started again, and others do not.
func TestFieldsAreWaitedFor(t *testing.T) {
	j := newMemJournal()
	h, plugin, source := withFields(t, j)
	h.fieldWait = time.Hour
	ln := listen(t)
	is := connect(t, h, ln, filtered(t, h, `field["fake.text"] == "a"`))
	isNot := connect(t, h, ln, filtered(t, h, `field["fake.text"] != "a"`))
	plain := connect(t, h, ln, filtered(t, h, `event_type == "falco/fakes"`))
	source.Set(nil)
	a, b := fieldstest.Event(`{"text":"a"}`), fieldstest.Event(`{"text":"b"}`)
	j.append(a, b)
	if got := plain.event(); got.ID != a.ID {
		t.Errorf("got %s", got.ID)
	}
	eventually(t, "both wait", func() bool {
		waiting := 0
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, g := range h.groups {
			if g.lacked.Load() != 0 {
				waiting++
			}
		}
		return waiting == 2
	})
	source.Set(plugin)
	if got := is.event(); got.ID != a.ID {
		t.Errorf("got %s", got.ID)
	}
	if got := isNot.event(); got.ID != b.ID {
		t.Errorf("got %s", got.ID)
	}
	if n := testutil.ToFloat64(h.metrics.missingFields); n != 0 {
		t.Errorf("%v events were decided without", n)
	}
}

// What cannot be extracted for too long has no value, which is counted.
func TestFieldsOfNobody(t *testing.T) {
	j := newMemJournal()
	h, plugin, source := withFields(t, j)
	ln := listen(t)
	is := connect(t, h, ln, filtered(t, h, `field["fake.text"] == "a"`))
	isNot := connect(t, h, ln, filtered(t, h, `field["fake.text"] != "a"`))
	source.Set(nil)
	first, second := fieldstest.Event(`{"text":"a"}`), fieldstest.Event(`{"text":"a"}`)
	j.append(first)
	if got := isNot.event(); got.ID != first.ID {
		t.Errorf("got %s", got.ID)
	}
	eventually(t, "both have decided", func() bool { return testutil.ToFloat64(h.metrics.missingFields) == 2 })
	source.Set(plugin)
	j.append(second)
	if got := is.event(); got.ID != second.ID {
		t.Errorf("got %s", got.ID)
	}
}

func TestFieldsWithoutPlugins(t *testing.T) {
	h := newTestHub(t, newMemJournal(), Options{})
	if _, err := h.Subscribe(filtered(t, h, `field["fake.text"] == "a"`)); err == nil {
		t.Error("a filter with fields is accepted")
	}
	h, _, _ = withFields(t, newMemJournal())
	for i := 0; ; i++ {
		s, err := h.Subscribe(filtered(t, h, fmt.Sprintf(`field["f%d"] == "a"`, i)))
		if i == fields.MaxInUse {
			if !errors.Is(err, ErrSelection) || !errors.Is(err, fields.ErrTooMany) {
				t.Error(err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Cancel)
	}
	h.members[0].Cancel()
	s, err := h.Subscribe(filtered(t, h, `field["other"] == "a"`))
	if err != nil {
		t.Fatalf("the fields of a subscription that has ended are still in use: %v", err)
	}
	s.Cancel()
}

// A plugin that hangs keeps nobody else waiting, and does not keep the hub from ending.
func TestFieldsOfAPluginThatHangs(t *testing.T) {
	j := newMemJournal()
	h, plugin, _ := withFields(t, j)
	asked := make(chan struct{}, 8)
	plugin.Before = func(ctx context.Context, _ []sourceplugin.Event) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	ln := listen(t)
	connect(t, h, ln, filtered(t, h, `field["fake.text"] != "a"`))
	plain := connect(t, h, ln, filtered(t, h, `event_type == "falco/fakes"`))
	e := fieldstest.Event(`{"text":"b"}`)
	j.append(e)
	<-asked
	if got := plain.event(); got.ID != e.ID {
		t.Errorf("got %s", got.ID)
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > shutdownTimeout+time.Second {
		t.Errorf("it took %s", took)
	}
}

// Who waits for a plugin can go, and can be sent away, at once.
func TestFieldsOfNobodyWhoIsWaitedForNoMore(t *testing.T) {
	j := newMemJournal()
	h, _, source := withFields(t, j)
	h.fieldWait = time.Hour
	source.Set(nil)
	ln := listen(t)
	ended := make(chan struct{}, 2)
	var all []*client
	var subscriptions []*Subscription
	for _, text := range []string{"a", "b"} {
		r := filtered(t, h, fmt.Sprintf(`field["fake.text"] != %q`, text))
		r.Ended = func(uint64, string) { ended <- struct{}{} }
		s := subscribe(t, h, r)
		subscriptions = append(subscriptions, s)
		all = append(all, serve(t, s, ln))
	}
	j.append(fieldstest.Event(`{"text":"c"}`))
	eventually(t, "both wait", func() bool {
		return subscriptions[0].group.lacked.Load() != 0 && subscriptions[1].group.lacked.Load() != 0
	})
	subscriptions[0].Revoke("token revoked")
	if code, reason := all[0].closed(); code != 1008 || reason != "token revoked" {
		t.Errorf("%d %s", code, reason)
	}
	all[1].conn.Close()
	for range all {
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Fatal("a subscription does not end")
		}
	}
}
