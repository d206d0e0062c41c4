package eventfields

import (
	"testing"

	"github.com/tocsin-events/tocsin/event"
)

func TestFirst(t *testing.T) {
	r := ask(t, "tocsin", Options{}, "event.type", "audit.request.path", "audit.auth.policies", "audit.outcome", "json.value[/request/path]")
	r.Event(t.Context(), &event.Event{Type: "audit/response", DataContentType: "application/json", Data: []byte(`{"type":"response","auth":{"policies":["a","b\n"]},"request":{"path":"secret/x"}}`)})
	for i := range 5 {
		t.Log(i, r.Values(i))
	}
}
