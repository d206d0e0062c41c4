package compat

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/logical"
	"google.golang.org/protobuf/proto"
)

// officialClient returns Vault's Go client, configured as its users do.
func officialClient(t *testing.T, address string) *api.Client {
	t.Helper()
	config := api.DefaultConfig()
	config.Address = "http://" + strings.TrimPrefix(address, "http://")
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(rootToken)
	return client
}

func TestOfficialClientReadsTheStream(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	recorded, err := os.ReadFile("testdata/audit.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	client := officialClient(t, startHub(t, file))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	asJSON, _, err := dial(ctx, client, "kv-v2/*", url.Values{"json": {"true"}, "namespaces": {"*"}, "filter": {`data_path != "nothing"`}})
	if err != nil {
		t.Fatal(err)
	}
	defer asJSON.CloseNow()
	asProto, _, err := dial(ctx, client, "kv-v2/*", url.Values{"namespaces": {"*"}})
	if err != nil {
		t.Fatal(err)
	}
	defer asProto.CloseNow()

	// The subscriptions are live now, so everything that is written from here
	// on must arrive, in the order of the log.
	log, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := log.Write(recorded); err != nil {
		t.Fatal(err)
	}
	writes := 0
	for range 20 {
		kind, message, err := asJSON.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if kind != websocket.MessageText || message[len(message)-1] != '\n' {
			t.Fatalf("message %q of kind %v, want text that ends in a newline", message, kind)
		}
		var envelope struct {
			ID, Source, SpecVersion, Type string

			DataContentType string `json:"datacontentype"` // as Vault spells it
			Data            struct {
				Event struct {
					ID       string
					Metadata map[string]string
				}
				EventType  string `json:"event_type"`
				PluginInfo struct {
					MountPath string `json:"mount_path"`
				} `json:"plugin_info"`
			}
		}
		if err := json.Unmarshal(message, &envelope); err != nil {
			t.Fatal(err)
		}
		d := envelope.Data
		if envelope.ID != d.Event.ID || envelope.Type != "*" || envelope.SpecVersion != "1.0" ||
			!strings.HasPrefix(envelope.Source, "vault://") || envelope.DataContentType != "application/cloudevents" {
			t.Errorf("envelope %s", message)
		}
		if !strings.HasPrefix(d.Event.Metadata["path"], d.PluginInfo.MountPath) || d.Event.Metadata["modified"] != "true" {
			t.Errorf("metadata %s", message)
		}
		if d.EventType == "kv-v2/data-write" {
			writes++
		}

		kind, message, err = asProto.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var received logical.EventReceived
		if err := proto.Unmarshal(message, &received); err != nil || kind != websocket.MessageBinary {
			t.Fatalf("binary message of kind %v: %v", kind, err)
		}
		if received.ID() != envelope.ID || received.EventType != d.EventType {
			t.Errorf("binary form %v\nJSON form %s", &received, message)
		}
	}
	if writes == 0 {
		t.Error("no data-write among the events")
	}
}

func TestOfficialClientIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	client := officialClient(t, startHub(t, file))
	for _, c := range []struct {
		name, token, eventType string
		query                  url.Values
		status                 int
	}{
		{"unknown token", "nonsense", "kv*", url.Values{"json": {"true"}}, 403},
		{"no token", "", "kv*", nil, 403},
		{"bad json", rootToken, "kv*", url.Values{"json": {"maybe"}}, 400},
		{"bad filter", rootToken, "kv*", url.Values{"filter": {"event_type =="}}, 400},
		{"unknown selector", rootToken, "kv*", url.Values{"filter": {`path == "x"`}}, 400},
		{"no event type", rootToken, "", nil, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			client.SetToken(c.token)
			conn, response, err := dial(t.Context(), client, c.eventType, c.query)
			if err == nil {
				conn.CloseNow()
				t.Fatal("accepted")
			}
			if response == nil || response.StatusCode != c.status {
				t.Errorf("answered %v, %v; want status %d", response, err, c.status)
			}
		})
	}
}
