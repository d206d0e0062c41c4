package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/coder/websocket"
)

// order returns an event as the SDK's users make it.
func order(t *testing.T, id, contentType string, data any) cloudevents.Event {
	t.Helper()
	e := cloudevents.NewEvent()
	e.SetID(id)
	e.SetType("shop/order-made")
	e.SetSource("https://shop.example/1")
	e.SetSubject("Straße/1 2")
	e.SetTime(time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC))
	e.SetDataSchema("https://shop.example/order")
	e.SetExtension("partitionkey", "customer 7")
	e.SetExtension("sampledrate", 30)
	if err := e.SetData(contentType, data); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestCloudEventsSDK publishes with the official Go SDK in all three content modes and reads
// the events back, with the SDK, from a subscription.
func TestCloudEventsSDK(t *testing.T) {
	address := startHub(t, filepath.Join(t.TempDir(), "audit.log"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, _, err := dial(ctx, officialClient(t, address), "shop/*", url.Values{"format": {"cloudevents"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 20)

	target := address + "/api/v1/events"
	client, err := cloudevents.NewClientHTTP(cloudevents.WithTarget(target), cloudevents.WithHeader("Authorization", "Bearer "+rootToken))
	if err != nil {
		t.Fatal(err)
	}
	payload := map[string]any{"order": 17.0, "note": "<&> \u2028 é"}
	made := func(mode string) []cloudevents.Event {
		return []cloudevents.Event{
			order(t, mode+" json", cloudevents.ApplicationJSON, payload), order(t, mode+" text", cloudevents.TextPlain, "one\ntwo"),
			order(t, mode+" bytes", "application/octet-stream", []byte{0, 1, 0xff}),
		}
	}
	var want []cloudevents.Event
	for mode, with := range map[string]func(context.Context) context.Context{"binary": binding.WithForceBinary, "structured": binding.WithForceStructured} {
		for _, e := range made(mode) {
			result := client.Send(with(ctx), e)
			var answer *cehttp.Result
			if !cloudevents.IsACK(result) || !cloudevents.ResultAs(result, &answer) || answer.StatusCode != http.StatusOK {
				t.Fatalf("%s: %v", e.ID(), result)
			}
			want = append(want, e)
		}
	}
	batch := made("batch")
	want = append(want, batch...)
	request, err := cehttp.NewHTTPRequestFromEvents(ctx, target, batch)
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := publish(t, request); status != 200 || answer != `{"accepted":3,"duplicates":0}`+"\n" {
		t.Fatalf("batch: %d %s", status, answer)
	}
	for _, e := range want {
		kind, message, err := conn.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var got cloudevents.Event
		if err := json.Unmarshal(message, &got); err != nil || kind != websocket.MessageText {
			t.Fatalf("%s: %v", message, err)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%s: %v", message, err)
		}
		if got.ID() != e.ID() || got.Type() != e.Type() || got.Source() != e.Source() || got.Subject() != e.Subject() || !got.Time().Equal(e.Time()) ||
			got.DataSchema() != e.DataSchema() || got.DataContentType() != e.DataContentType() || got.Extensions()["partitionkey"] != "customer 7" {
			t.Errorf("%s: got %s", e.ID(), message)
		}
		if !bytes.Equal(got.Data(), e.Data()) && !sameJSON(got.Data(), e.Data()) {
			t.Errorf("%s: data %q, want %q", e.ID(), got.Data(), e.Data())
		}
	}

	// What is refused is told to the SDK as such.
	reserved := order(t, "x", cloudevents.TextPlain, "x")
	reserved.SetType("a type")
	if result := client.Send(ctx, reserved); cloudevents.IsACK(result) {
		t.Errorf("a type with a space is accepted: %v", result)
	}
	webhook, err := http.NewRequestWithContext(ctx, http.MethodOptions, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	webhook.Header.Set("WebHook-Request-Origin", "shop.example")
	if status, _ := publish(t, webhook); status != 200 {
		t.Errorf("the handshake of a webhook is answered with %d", status)
	}
}

func sameJSON(a, b []byte) bool {
	var x, y map[string]any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && x["order"] == y["order"] && x["note"] == y["note"]
}

// publish makes a request with the root token.
func publish(t *testing.T, r *http.Request) (status int, answer string) {
	t.Helper()
	r.Header.Set("X-Vault-Token", rootToken)
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
