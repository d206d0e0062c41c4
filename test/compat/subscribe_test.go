package compat

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/logical"
	"google.golang.org/protobuf/proto"
)

const rootToken = "compat-root-token"

// startHub builds and runs the real binary, following the audit log at file,
// and returns the address that it listens on.
func startHub(t *testing.T, file string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "tocsin")
	build := exec.Command("go", "build", "-o", binary, "./cmd/tocsin")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	addressFile := filepath.Join(t.TempDir(), "address")
	hub := exec.Command(binary, "dev", "--audit-file", file, "--listen", "127.0.0.1:0",
		"--root-token", rootToken, "--address-file", addressFile)
	hub.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir(), "HOME="+t.TempDir())
	stderr, err := hub.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			t.Log("hub: " + lines.Text())
		}
		hub.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		hub.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(15 * time.Second):
			hub.Process.Kill()
			<-exited
			t.Error("the hub did not stop within 15 s of SIGTERM")
		}
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(addressFile); err == nil && strings.HasSuffix(string(b), "\n") {
			return strings.TrimSpace(string(b))
		}
		select {
		case <-exited:
			t.Fatal("the hub ended")
		default:
		}
	}
	t.Fatal("the hub did not write its address")
	return ""
}

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

// subscribe dials the way in which Vault's command line tool does it: the
// official client gives address, token, namespace and headers, a plain
// WebSocket client the connection.
func subscribe(ctx context.Context, client *api.Client, eventType string, query url.Values) (*websocket.Conn, *http.Response, error) {
	request := client.NewRequest("GET", path.Join("/v1/sys/events/subscribe", eventType))
	u := *request.URL
	u.Scheme = "ws"
	u.RawQuery = query.Encode()
	headers := client.Headers()
	if headers == nil {
		headers = http.Header{}
	}
	headers.Set("X-Vault-Request", "true")
	headers.Set("X-Vault-Token", client.Token())
	headers.Set("X-Vault-Namespace", client.Namespace())
	return websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPHeader: headers, CompressionMode: websocket.CompressionNoContextTakeover})
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

	asJSON, _, err := subscribe(ctx, client, "kv-v2/*", url.Values{"json": {"true"}, "namespaces": {"*"}, "filter": {`data_path != "nothing"`}})
	if err != nil {
		t.Fatal(err)
	}
	defer asJSON.CloseNow()
	asProto, _, err := subscribe(ctx, client, "kv-v2/*", url.Values{"namespaces": {"*"}})
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
			conn, response, err := subscribe(t.Context(), client, c.eventType, c.query)
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
