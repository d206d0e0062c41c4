package api

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/journal"
)

// startTypes starts a node with a catalogue that has learnt something in several
// namespaces.
func startTypes(t *testing.T) *node {
	t.Helper()
	schema := filepath.Join(t.TempDir(), "order.json")
	if err := os.WriteFile(schema, []byte(`{"required": ["order"]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	// A journal of its own, because that of the node is closed with it.
	j, err := journal.Open(t.Context(), journal.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(context.Background()) })
	c, err := catalog.Open(t.Context(), catalog.Config{State: j.State, Declared: []catalog.Declared{
		{Type: "shop/order", Description: "An order.", SchemaFile: schema, Mode: catalog.RefuseEvents},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	for _, where := range [][2]string{{"", "app/root"}, {"a/", "app/a"}, {"a/b/", "app/a-b"}, {"c/", "app/c"}} {
		e := event.NewNotification(where[1], "path", "x", "k", "secret value")
		e.Namespace, e.Source = where[0], "app://x"
		c.Learn(e)
	}
	return startNode(t, func(o *Options) { o.EventTypes = c })
}

func (b body) types() string {
	var names []string
	list, _ := b["types"].([]any)
	for _, one := range list {
		names = append(names, one.(map[string]any)["type"].(string))
	}
	return strings.Join(names, " ")
}

func TestEventTypes(t *testing.T) {
	n := startTypes(t)
	all := n.must(ask{method: "GET", path: "/api/v1/event-types"})
	for _, want := range []string{"kv-v2/data-write", "tocsin/login", "shop/order", "app/root", "app/a", "app/a-b", "app/c"} {
		if !strings.Contains(" "+all.types()+" ", " "+want+" ") {
			t.Errorf("%s is missing in %s", want, all.types())
		}
	}
	for query, want := range map[string]string{
		"?type=shop/*":                           "shop/order",
		"?origin=learnt":                         "app/a app/a-b app/c app/root",
		"?origin=configured":                     "shop/order",
		"?origin=learnt&type=app/a*":             "app/a app/a-b",
		"?origin=learnt&limit=2":                 "app/a app/a-b",
		"?origin=learnt&limit=2&after=app%2Fa-b": "app/c app/root",
		"?type=none":                             "",
	} {
		b := n.must(ask{method: "GET", path: "/api/v1/event-types" + query})
		if b.types() != want || b["more"] == true != (query == "?origin=learnt&limit=2") {
			t.Errorf("%s: %s, more %v", query, b.types(), b["more"])
		}
	}
	for _, query := range []string{"?origin=made-up", "?limit=0", "?limit=x", "?limit=1001", "?typ=x", "?type=a&type=b"} {
		if status, b := n.do(ask{method: "GET", path: "/api/v1/event-types" + query}); status != 400 {
			t.Errorf("%s: %d %v", query, status, b)
		}
	}
	one := n.must(ask{method: "GET", path: "/api/v1/event-types/kv-v2/data-write"})
	if one["origin"] != "built-in" || one["vault_since"] != "1.13" || one.object("example")["type"] != "kv-v2/data-write" {
		t.Errorf("%v", one)
	}
	one = n.must(ask{method: "GET", path: "/api/v1/event-types/shop%2Forder"})
	if schema := one.object("schema"); schema["mode"] != "refuse" || schema["schema"] == nil {
		t.Errorf("%v", one)
	}
	_, raw, header := n.try(ask{method: "GET", path: "/api/v1/event-types/app/root"})
	if strings.Contains(string(raw), "secret value") || !strings.Contains(string(raw), `"k":"TEXT"`) || header.Get("Content-Type") != "application/json" {
		t.Errorf("%s", raw)
	}
	if status, b := n.do(ask{method: "GET", path: "/api/v1/event-types/no/such"}); status != 404 || !strings.Contains(b.errors()[0], `"no/such" is not known`) {
		t.Errorf("%d %v", status, b)
	}
	if status, _ := n.do(ask{method: "POST", path: "/api/v1/event-types"}); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", status)
	}
}

// TestEventTypesRights: who may ask, and what was learnt in a namespace is seen only by those
// who may ask there.
func TestEventTypesRights(t *testing.T) {
	n := startTypes(t)
	namespaced := func(ns string) map[string]string { return map[string]string{"X-Vault-Namespace": ns} }
	n.putPolicy("", "reader", `path "sys/event-types" { capabilities = ["read"] }
		path "sys/event-types/*" { capabilities = ["read"] }
		path "sys/event-types/app/root" { capabilities = ["deny"] }
		path "a/sys/event-types" { capabilities = ["read"] }`)
	n.putPolicy("a/", "team", `path "sys/event-types" { capabilities = ["read"] }
		path "sys/event-types/*" { capabilities = ["read"] }
		path "+/sys/event-types/app/*" { capabilities = ["read"] }`)
	reader := n.newToken(`{"policies":["reader"]}`)
	team := n.must(ask{method: "POST", path: "/v1/a/auth/token/create", body: `{"policies":["team"]}`}).auth()["client_token"].(string)
	nobody := n.newToken(`{"policies":["default"]}`)

	list := func(token, ns string) string {
		return n.must(ask{method: "GET", path: "/api/v1/event-types?origin=learnt", token: token, header: namespaced(ns)}).types()
	}
	if got := list(reader, ""); got != "app/a" { // not that of a/b/ and c/, and not the denied one
		t.Errorf("reader: %s", got)
	}
	if got := list(team, "a"); got != "app/a" {
		t.Errorf("team: %s", got)
	}
	if got := list("root", "a"); got != "app/a app/a-b" {
		t.Errorf("root in a/: %s", got)
	}
	for _, tt := range []struct {
		token, ns, path string
		status          int
	}{
		{"-", "", "", 403}, {"no such token", "", "", 403}, {nobody, "", "", 403}, {nobody, "", "/kv-v2/delete", 403},
		{reader, "", "/kv-v2/delete", 200}, {reader, "", "/app/root", 403}, {reader, "", "/app/c", 404}, {reader, "c", "", 403}, {reader, "a", "", 200}, {reader, "a", "/app/a", 403},
		{team, "", "", 403}, {team, "a", "/app/a", 200}, {team, "a", "/app/a-b", 200}, {team, "a", "/app/root", 404}, {team, "c", "/app/c", 403},
		{reader, "sys", "", 400}, {reader, "a/../c", "", 400},
	} {
		if status, b := n.do(ask{method: "GET", path: "/api/v1/event-types" + tt.path, token: tt.token, header: namespaced(tt.ns)}); status != tt.status {
			t.Errorf("%.8s in %q%s: %d %v, want %d", tt.token, tt.ns, tt.path, status, b, tt.status)
		}
	}
	if e := n.await("request-denied", 3); field(e, "path") != "sys/event-types" || field(e, "operation") != "read" {
		t.Errorf("%v", e.Metadata)
	}
	if e := n.await("request-denied", 4); field(e, "path") != "sys/event-types/kv-v2/delete" {
		t.Errorf("%v", e.Metadata)
	}
}

// TestEventTypesUses: asking takes a use of a token.
func TestEventTypesUses(t *testing.T) {
	n := startTypes(t)
	n.putPolicy("", "reader", `path "sys/event-types" { capabilities = ["read"] }`)
	token := n.newToken(`{"policies":["reader"],"num_uses":2}`)
	for _, want := range []int{200, 200, 403} {
		if status, _ := n.do(ask{method: "GET", path: "/api/v1/event-types", token: token}); status != want {
			t.Errorf("%d, want %d", status, want)
		}
	}
}
