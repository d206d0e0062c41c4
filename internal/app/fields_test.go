package app

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Before the plugin has been started once, a subscription is told to try again, and a sink waits;
// then both get what their filters say, and what is wrong is refused.
func TestFieldsInFilters(t *testing.T) {
	o := options(t)
	fake := sourceOf("fake", "/fake")
	fake.NoStream = true
	o.Config.Plugins.Sources = []config.SourcePlugin{fake}
	o.Config.Delivery.Allow = []string{"127.0.0.1"}
	plugin, begin := fieldstest.New(), make(chan struct{})
	o.LaunchSource = func(ctx context.Context, _ SourceProcess) (sourceplugin.Plugin, error) {
		select {
		case <-begin:
			return plugin, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	a, _ := start(t, o)
	h := newHook(t)
	definition := `{"type":"webhook","webhook":{"url":"` + h.URL + `"},"from":"start","events":{"filter":"field[\"fake.text\"] == \"a\""}}`
	if status := sinks(t, a, http.MethodPut, "/chosen", definition, nil); status != http.StatusCreated {
		t.Fatalf("the sink is answered %d", status)
	}
	refused := func(filter string, code int, text string) {
		t.Helper()
		s, err := client.Subscribe(t.Context(), "falco/*", client.Options{Address: a.URL(), Token: root, Filter: filter})
		if err == nil {
			s.Close()
		}
		var status *client.StatusError
		if !errors.As(err, &status) || status.StatusCode != code || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", filter, err)
		} else if (code == http.StatusServiceUnavailable) != (status.RetryAfter > 0) {
			t.Errorf("%s: Retry-After is %s", filter, status.RetryAfter)
		}
	}
	refused(`field["fake.text"] == "a"`, http.StatusServiceUnavailable, "the plugin of the source fake has not been started yet; try again when it has")
	e, other := fieldstest.Event(`{"text":"a"}`), fieldstest.Event(`{"text":"b"}`)
	if _, err := a.journal.Append(t.Context(), other, e); err != nil {
		t.Fatal(err)
	}
	awaitSink(t, a, "chosen", "it says why it waits", func(s api.Sink) bool {
		return strings.Contains(s.Filter, "the plugin of the source fake has not been started yet")
	})

	close(begin)
	awaitSink(t, a, "chosen", "it has its event", func(s api.Sink) bool { return s.Counts.Delivered == 1 && s.LagEvents == 0 && s.Filter == "" })
	for deadline := time.Now().Add(time.Minute); a.fields.Known("fake.text") != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the fields are not known")
		}
	}
	refused(`field["fake.txet"] == "a"`, http.StatusBadRequest, `unknown field "fake.txet"; did you mean "fake.text"?`)
	refused(`field["fake.value"] == "a"`, http.StatusBadRequest, "field fake.value needs an argument")
	refused(`field["fake.text[1]"] == "a"`, http.StatusBadRequest, "field fake.text takes no argument")
	refused(`field["fake.number"] == "a"`, http.StatusBadRequest, "field fake.number")
	s := subscribe(t, a, client.Options{Since: "oldest", Filter: `field["fake.text"] == "b"`}, "falco/*")
	if m, _ := next(t, s); m.Event.ID != other.ID {
		t.Errorf("got %s", m.Event.ID)
	}
	for _, c := range plugin.Calls() {
		if len(c.Fields) != 1 || c.Fields[0] != "fake.text" {
			t.Errorf("the plugin was asked for %v", c.Fields)
		}
	}
}
