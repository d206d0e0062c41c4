package eventfields

import (
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/rule/field"
)

// ask returns a reader for fields of the event source tocsin.
func ask(t testing.TB, source string, o Options, texts ...string) *Reader {
	t.Helper()
	r, err := NewReader(source, requests(t, source, texts...), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func requests(t testing.TB, source string, texts ...string) []field.Request {
	t.Helper()
	q := field.NewRequests(Fields(source))
	for _, text := range texts {
		add(t, q, text)
	}
	return q.List()
}

func TestFirst(t *testing.T) {
	r := ask(t, "tocsin", Options{}, "event.type", "audit.request.path", "audit.auth.policies", "audit.outcome", "json.value[/request/path]")
	r.Event(t.Context(), &event.Event{Type: "audit/response", DataContentType: "application/json", Data: []byte(`{"type":"response","auth":{"policies":["a","b\n"]},"request":{"path":"secret/x"}}`)})
	for i := range 5 {
		t.Log(i, r.Values(i))
	}
}
