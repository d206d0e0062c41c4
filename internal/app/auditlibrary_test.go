package app

import (
	"fmt"
	"testing"

	"github.com/tocsin-events/tocsin/audit"
	"github.com/tocsin-events/tocsin/client"
)

// TestAuditLibrary: what a service logs with the audit library is in the hub, with the types,
// paths, namespaces and metadata that policies and filters judge.
func TestAuditLibrary(t *testing.T) {
	a, _ := start(t, options(t))
	l, err := audit.New(audit.Options{
		Service: "shop", Dir: t.TempDir(), Outputs: []audit.Output{audit.ToHub(a.URL(), audit.HubOptions{Token: audit.SecretText(root)})},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Test(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := subscribe(t, a, client.Options{Filter: `operation == "delete"`, Format: client.FormatCloudEvents, Namespaces: []string{"*"}}, "shop/*")
	ctx := audit.WithActor(t.Context(), audit.Actor{ID: "u1", Name: "Ada", IP: "192.0.2.1"})
	for i, action := range []string{"create", "delete", "read", "delete"} {
		e := audit.Event{ID: fmt.Sprint("event-", i), Action: action, Target: audit.Target{Type: "order", ID: "7"}, Payload: map[string]string{"password": "hunter22hunter"}, Outcome: audit.Denied}
		if i == 3 {
			e.Target.Namespace = "team-a"
			e.Metadata = map[string]string{"api_key": "AKIAABCDEFGHIJKLMNOP", "region": "eu"}
		}
		if err := l.Log(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, what := next(t, s)
	if what != "shop/order/delete order/7" || m.Event.ID != "event-1" || m.Event.DataSchema != audit.Schema {
		t.Errorf("%s: %+v", what, m.Event)
	}
	for key, want := range map[string]string{"outcome": "denied", "actor": "Ada", "actor_id": "u1", "remote_address": "192.0.2.1", "target_id": "7", "service": "shop"} {
		if got, _ := m.Event.Metadata.Text(key); got != want {
			t.Errorf("metadata %s: %q, want %q", key, got, want)
		}
	}
	m, what = next(t, s)
	if region, _ := m.Event.Metadata.Text("region"); what != "shop/order/delete order/7" || m.Event.ID != "event-3" || m.Event.Namespace != "team-a/" || region != "eu" {
		t.Errorf("%s: %+v", what, m.Event)
	}
	var e audit.Event
	if err := e.UnmarshalJSON(m.Event.Data); err != nil || e.Sequence != 4 || e.Actor.Name != "Ada" || e.Metadata["api_key"] != "<masked:aws-key>" {
		t.Errorf("%+v, %v", e, err)
	}
}
