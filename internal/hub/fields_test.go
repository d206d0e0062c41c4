package hub

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/filter"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// withFields returns a hub whose filters can ask a plugin.
func withFields(t *testing.T, j Journal) (*Hub, *fieldstest.Plugin, *fieldstest.Source) {
	t.Helper()
	plugin := fieldstest.New()
	source := fieldstest.NewSource("fake", plugin)
	registry := fields.New(fields.Options{})
	registry.Add(source)
	return newTestHub(t, j, Options{Fields: registry}), plugin, source
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

// Whoever needs a plugin that does not run waits for it, and misses nothing. Others go on.
func TestFieldsWaitForThePlugin(t *testing.T) {
	j := newMemJournal()
	h, plugin, source := withFields(t, j)
	h.fieldsPause = 5 * time.Millisecond
	ln := listen(t)
	is := connect(t, h, ln, filtered(t, h, `field["fake.text"] == "a"`))
	isNot := connect(t, h, ln, filtered(t, h, `field["fake.text"] != "a"`))
	either := connect(t, h, ln, filtered(t, h, `field["fake.text"] == "b" or event_type == "falco/fakes"`))
	a, b, c := fieldstest.Event(`{"text":"a"}`), fieldstest.Event(`{"text":"b"}`), fieldstest.Event(`{"text":"a"}`)
	want := func(c *client, events ...*event.Event) {
		t.Helper()
		for _, e := range events {
			if got := c.event(); got.ID != e.ID {
				t.Fatalf("got %s, want %s", got.ID, e.ID)
			}
		}
	}
	j.append(a, b)
	want(is, a)
	want(isNot, b)
	source.Set(nil)
	// What needs no field comes before what does.
	first := testEvent(3)
	j.append(first, a)
	j.append(b)
	j.append(c)
	want(isNot, first)
	want(either, a, b, a, b, c)
	eventually(t, "two wait", func() bool { return testutil.ToFloat64(h.metrics.starving) == 2 })
	is.send(websocket.Ping, []byte("hello")) // is answered meanwhile
	if op, payload, err := is.read(); err != nil || op != websocket.Pong || string(payload) != "hello" {
		t.Error(op, payload, err)
	}
	asked := testutil.ToFloat64(h.metrics.starving)
	source.Set(plugin)
	want(is, a, c)
	want(isNot, b)
	eventually(t, "none waits", func() bool { return testutil.ToFloat64(h.metrics.starving) == 0 })
	if asked != 2 || testutil.ToFloat64(h.metrics.missingFields) != 0 {
		t.Error("an event was decided on without its field")
	}
}

// A plugin that fails with an event is not waited for: the event does not have the field.
func TestFieldsThatAreRefused(t *testing.T) {
	j := newMemJournal()
	h, _, _ := withFields(t, j)
	h.fieldsPause = 5 * time.Millisecond
	isNot := connect(t, h, listen(t), filtered(t, h, `field["fake.text"] != "a"`))
	bad, good := fieldstest.Event(`{"text":"a","fail":true}`), fieldstest.Event(`{"text":"b"}`)
	j.append(bad, good)
	for _, e := range []*event.Event{bad, good} {
		if got := isNot.event(); got.ID != e.ID {
			t.Errorf("got %s, want %s", got.ID, e.ID)
		}
	}
	if n := testutil.ToFloat64(h.metrics.missingFields); n != 1 {
		t.Errorf("%v events were decided on without their field", n)
	}
}

// A plugin that does not come back ends the subscription, which is told where to go on.
func TestFieldsThatNeverCome(t *testing.T) {
	j := newMemJournal()
	h, plugin, source := withFields(t, j)
	h.fieldsPause, h.fieldsPatience = 5*time.Millisecond, 50*time.Millisecond
	ln := listen(t)
	r := filtered(t, h, `field["fake.text"] == "a" or event_type != "falco/fakes"`)
	c := connect(t, h, ln, r)
	source.Set(nil)
	last, lost := testEvent(1), fieldstest.Event(`{"text":"a"}`)
	j.append(last, lost)
	if got := c.event(); got.ID != last.ID {
		t.Errorf("got %s", got.ID)
	}
	code, reason := c.closed()
	since, found := strings.CutPrefix(reason, fieldsReason)
	if code != websocket.StatusTryAgainLater || !found {
		t.Fatal(code, reason)
	}
	var err error
	if r.After, err = journal.ParsePosition(since); err != nil {
		t.Fatal(err)
	}
	source.Set(plugin)
	if got := connect(t, h, ln, r).event(); got.ID != lost.ID {
		t.Errorf("it goes on with %s", got.ID)
	}
	eventually(t, "none waits", func() bool { return testutil.ToFloat64(h.metrics.starving) == 0 })
}

// Rights that change and subscriptions that end are not held up by a plugin that does not run.
func TestWaitingForFieldsEndsAtOnce(t *testing.T) {
	j := newMemJournal()
	h, _, source := withFields(t, j)
	h.fieldsPause = time.Hour
	source.Set(nil)
	ln := listen(t)
	revoked := connect(t, h, ln, filtered(t, h, `field["fake.text"] == "a"`))
	closing := connect(t, h, ln, filtered(t, h, `field["fake.text"] != "a"`))
	j.append(fieldstest.Event(`{"text":"a"}`))
	eventually(t, "both wait", func() bool { return testutil.ToFloat64(h.metrics.starving) == 2 })
	h.mu.Lock()
	var s *Subscription
	for _, m := range h.members {
		if strings.Contains(m.group.key.selection, "==") {
			s = m
		}
	}
	h.mu.Unlock()
	s.Revoke("no more")
	if code, reason := revoked.closed(); code != websocket.StatusPolicyViolation || reason != "no more" {
		t.Error(code, reason)
	}
	closing.send(websocket.Close, binary.BigEndian.AppendUint16(nil, websocket.StatusNormal))
	if code, _ := closing.closed(); code != websocket.StatusNormal {
		t.Error(code)
	}
	eventually(t, "none is left", func() bool { return testutil.ToFloat64(h.metrics.starving) == 0 })
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > shutdownTimeout+time.Second {
		t.Errorf("it took %s", took)
	}
}
