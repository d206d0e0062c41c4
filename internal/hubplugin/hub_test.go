package hubplugin

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/app"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/pluginwire"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func TestMain(m *testing.M) {
	if pluginwire.Hosted() { // as the process of a plugin
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

const patience = time.Minute

const token = "t0ken"

// hub is a real hub in this process.
type hub struct {
	t       testing.TB
	app     *app.App
	dir     string
	address string // host and port, the same after a restart
	token   string
	stop    func()
}

// startHub starts a hub that reads the audit log if that is wanted.
func startHub(t testing.TB, audit bool) *hub {
	h := &hub{t: t, dir: t.TempDir(), address: "127.0.0.1:0", token: token}
	if audit {
		b, err := os.ReadFile("testdata/audit.jsonl")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.dir, "audit.log"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *hub) start() {
	h.t.Helper()
	text := fmt.Sprintf("listen: {address: %q}\ndata_dir: %s\n", h.address, filepath.Join(h.dir, "data"))
	if _, err := os.Stat(filepath.Join(h.dir, "audit.log")); err == nil {
		text += fmt.Sprintf("sources: [{name: vault, type: vault_audit_file, path: %s}]\n", filepath.Join(h.dir, "audit.log"))
	}
	c, err := config.Parse("tocsin.yaml", []byte(text))
	if err != nil {
		h.t.Fatal(err)
	}
	c.Auth.RootToken = config.SecretValue(h.token)
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, app.Options{Config: c, Logger: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		cancel()
		h.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	h.app, h.address = a, a.Addr().String()
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
		h.stop = func() {}
	}
}

func (h *hub) url() string { return "http://" + h.address }

// publish publishes numbered events, those from the first up to before the last.
func (h *hub) publish(first, last int) {
	h.t.Helper()
	p, err := client.NewPublisher(client.PublisherOptions{Address: h.url(), Token: h.token})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for n := first; n < last; n++ {
		if err := p.SendEvent(ctx, numbered(n)); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := p.Close(ctx); err != nil {
		h.t.Fatal(err)
	}
}

func numbered(n int) *event.Event {
	e := event.NewNotification("app/number", "n", fmt.Sprint(n), event.MetadataPath, "numbers/"+fmt.Sprint(n))
	e.ID, e.Source, e.Time = fmt.Sprint("id-", n), "test", time.Unix(1_700_000_000+int64(n), 123)
	e.Data, e.DataContentType = fmt.Appendf(nil, `{"n":%d,"text":"\u00e4"}`, n), "application/json"
	return e
}

// all are the events that a hub has, as a subscriber gets them.
func (h *hub) all(eventType string) (list [][]byte) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := client.Subscribe(ctx, eventType, client.Options{Address: h.url(), Token: h.token, Since: "oldest", NoFollow: true, Format: client.FormatCloudEvents})
	if err != nil {
		h.t.Fatal(err)
	}
	defer s.Close()
	for m, err := range s.All(ctx) {
		if err != nil {
			break
		}
		list = append(list, bytes.TrimSpace(m.Raw))
	}
	return list
}

// awaitEvents waits until a hub has so many events of a type.
func (h *hub) awaitEvents(eventType string, n int) {
	h.t.Helper()
	await(h.t, fmt.Sprintf("%d events of %s", n, eventType), func() bool { return len(h.all(eventType)) >= n })
}

func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func configText(t testing.TB, c Config) string {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// send publishes one event.
func (h *hub) send(e *event.Event) {
	h.t.Helper()
	p, err := client.NewPublisher(client.PublisherOptions{Address: h.url(), Token: h.token})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Publish(ctx, e); err != nil {
		h.t.Error(err)
	}
	if err := p.Close(ctx); err != nil {
		h.t.Error(err)
	}
}

// acceptKey is the answer to a key of a handshake (RFC 6455).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// eventsOf makes events of the plugin of payloads.
func eventsOf(payloads ...[]byte) (list []sourceplugin.Event) {
	for i, b := range payloads {
		list = append(list, sourceplugin.Event{Event: scapevent.Append(nil, falcoevent.PluginID, uint64(i), b), Number: uint64(i + 1), Source: falcoevent.EventSource})
	}
	return list
}

// requestsOf asks for fields.
func requestsOf(t testing.TB, p sourceplugin.Plugin, texts ...string) (list []sourceplugin.FieldRequest) {
	t.Helper()
	for _, text := range texts {
		q, err := fieldtext.Parse(text, p.Describe().Fields)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, q)
	}
	return list
}
