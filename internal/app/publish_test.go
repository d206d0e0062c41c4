package app

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/publish"
)

func getPage(t *testing.T, a *App, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", a.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", root)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// TestPublishingRules: what is published passes the rules of the configuration, is counted,
// and what it looks like is known after a restart.
func TestPublishingRules(t *testing.T) {
	o := options(t)
	schema := filepath.Join(t.TempDir(), "order.json")
	if err := os.WriteFile(schema, []byte(`{"type": "object", "properties": {"amount": {"type": "integer"}}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	p := &o.Config.Publish
	p.Secrets.Actions = config.Texts{"jwt": "mask"}
	p.Secrets.ExceptTypes = []string{"legacy/*"}
	strict, lax := config.DefaultEventType(), config.DefaultEventType()
	strict.Type, strict.SchemaFile, strict.Mode = "shop/order", schema, "refuse"
	lax.Type, lax.SchemaFile = "shop/*", schema
	p.Types = []config.EventType{strict, lax}

	a, stop := start(t, o)
	publishOne := func(eventType, data string, metadata ...string) (publish.Result, string) {
		e := event.NewNotification(eventType, metadata...)
		e.Source = "app://shop"
		if data != "" {
			e.Data, e.DataContentType = []byte(data), "application/json"
		}
		result, err := a.intake.Publish(t.Context(), publish.Request{By: publish.Host, Events: []*event.Event{e}})
		if refused, ok := errors.AsType[*publish.RefusedError](err); ok {
			return result, string(refused.Refused[0].Code) + ": " + refused.Refused[0].Text
		}
		if err != nil {
			t.Fatal(err)
		}
		return result, ""
	}
	jwt := strings.Join([]string{"eyJhbGciOiJFUzI1NiJ9", "eyJzdWIiOiJhcHAifQ", "c2ln"}, ".")
	if _, refused := publishOne("shop/order", `{"amount":3}`, "token", jwt); refused != "" {
		t.Error(refused)
	}
	if _, refused := publishOne("shop/paid", "", "db_password", "hunter2"); !strings.HasPrefix(refused, `secret: metadata "db_password": looks like a secret by its name`) {
		t.Error(refused)
	}
	if _, refused := publishOne("legacy/x", "", "db_password", "hunter2"); refused != "" {
		t.Error(refused)
	}
	if _, refused := publishOne("shop/order", `{"amount":"three"}`); refused != `schema: data: does not adhere to the schema for "shop/order": /amount must be integer, is string` {
		t.Error(refused)
	}
	if result, refused := publishOne("shop/paid", `{"amount":"three"}`); refused != "" || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0].Text, "/amount must be integer") {
		t.Error(result, refused)
	}
	_, metrics := getPage(t, a, "/metrics")
	for _, want := range []string{
		"tocsin_learnt_event_types 3", "tocsin_unlearnt_events_total 0",
		`tocsin_schema_violations_total{mode="refuse"} 1`, `tocsin_schema_violations_total{mode="warn"} 1`,
		`tocsin_secrets_found_total{action="mask",detector="jwt"} 1`, `tocsin_secrets_found_total{action="refuse",detector="secret-name"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("/metrics has no %s", want)
		}
	}
	stop()

	a, _ = start(t, o)
	status, text := getPage(t, a, "/api/v1/event-types/shop/order")
	var known struct {
		Origin   string
		Metadata []struct{ Key string }
		Seen     struct{ Events int }
		Schema   struct{ Mode string }
	}
	if err := json.Unmarshal([]byte(text), &known); err != nil || status != 200 {
		t.Fatal(status, text, err)
	}
	if known.Origin != "configured" || known.Seen.Events != 1 || len(known.Metadata) != 1 || known.Metadata[0].Key != "token" || known.Schema.Mode != "refuse" {
		t.Errorf("%s", text)
	}
	if strings.Contains(text, jwt[:10]) {
		t.Errorf("the catalogue has a value: %s", text)
	}
}

func TestBadSchemaKeepsFromStarting(t *testing.T) {
	o := options(t)
	bad := config.DefaultEventType()
	bad.Type, bad.SchemaFile = "shop/*", filepath.Join(t.TempDir(), "none.json")
	o.Config.Publish.Types = []config.EventType{bad}
	a, err := New(t.Context(), o)
	if a != nil || err == nil || !strings.Contains(err.Error(), `publish.types: schema of event type "shop/*"`) || !strings.Contains(err.Error(), "none.json") {
		t.Error(err)
	}
}
