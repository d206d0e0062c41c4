package fields

import (
	"errors"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/fields/fieldstest"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func TestSummary(t *testing.T) {
	t.Parallel()
	plugin := fieldstest.New()
	calls := 0
	var fail error
	plugin.Say = func(events []sourceplugin.Event) (texts []string, err error) {
		calls++
		for _, e := range events {
			texts = append(texts, e.Source+": "+string(e.Data()))
		}
		return texts, fail
	}
	r := New(Options{})
	source := fieldstest.NewSource("fake", plugin)
	r.Add(fieldstest.NewSource("nothing", nil))
	r.Add(source)
	e := fieldstest.Event("hello")
	check := func(e *event.Event, want string, asked int) {
		t.Helper()
		before := calls
		if text, ok := r.Summary(t.Context(), e); text != want || ok != (want != "") || calls-before != asked {
			t.Errorf("%q, %v after %d calls", text, ok, calls-before)
		}
	}
	check(e, "", 0) // it cannot
	plugin.About.Capabilities.Strings = true
	check(e, "fakes: hello", 1)
	check(&event.Event{Type: "audit/request", Data: []byte("{}")}, "", 0)
	other := *e
	other.Type = "falco/other"
	check(&other, "", 0)
	fail = errors.New("no")
	check(e, "", 1)
	fail = nil
	check(e, "", 0) // it is left alone
	source.Set(nil)
	check(e, "", 0)
}
