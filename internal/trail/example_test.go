package trail_test

import (
	"context"
	"fmt"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// printer is a journal that prints instead.
type printer struct{}

func (printer) Append(_ context.Context, events ...*event.Event) (journal.Position, error) {
	for _, e := range events {
		outcome, _ := e.Metadata.Text("outcome")
		who, _ := e.Metadata.Text("display_name")
		fmt.Println(e.Type, e.Namespace+e.Path, outcome, "by", who)
	}
	return journal.Position{}, nil
}

func Example() {
	ctx := context.Background()
	t := trail.New(trail.Options{Journal: printer{}, Node: "hub-1"})
	ci := trail.Who{DisplayName: "token-ci"}
	t.Record(trail.Record{What: "subscribe-denied", Namespace: "ns1/", Path: "sys/events/subscribe/kv*", Operation: "subscribe", Who: ci, Error: "permission denied"})
	err := t.Commit(ctx, trail.Record{What: "policy-write", Path: "sys/policies/acl/team", Operation: "update", Modified: true, Who: trail.Who{DisplayName: "root"}})
	fmt.Println(err)
	fmt.Println(t.Close(ctx))
	// Output:
	// tocsin/subscribe-denied ns1/sys/events/subscribe/kv* refused by token-ci
	// tocsin/policy-write sys/policies/acl/team done by root
	// <nil>
	// <nil>
}
