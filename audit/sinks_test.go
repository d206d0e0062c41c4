package audit

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

// What imports this package must not get a hub with it.
func TestDependencies(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "github.com/tocsin-events/tocsin/audit").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"github.com/tocsin-events/tocsin/", "github.com/google/uuid", "google.golang.org/protobuf/encoding/protowire",
		"google.golang.org/protobuf/internal/", "github.com/klauspost/compress/", "golang.org/x/sys/",
	}
	for line := range strings.Lines(string(out)) {
		name := strings.TrimSpace(line)
		first, _, _ := strings.Cut(name, "/")
		if !strings.Contains(first, ".") {
			continue // of the standard library
		}
		ok := false
		for _, prefix := range allowed {
			ok = ok || strings.HasPrefix(name, prefix)
		}
		if !ok {
			t.Errorf("it imports %s", name)
		}
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "logs", "audit.jsonl")
	l := newLogger(t, Options{Dir: filepath.Join(dir, "queue"), Outputs: []Output{
		ToFile(path, FileOptions{}), ToFile(path+".ce", FileOptions{Format: CloudEvents, Mode: 0o600, NoSync: true}).Named("events"),
	}})
	logEvent(t, l, "a")
	flush(t, l)
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	logEvent(t, l, "b")
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path + ".moved": "a", path: "b"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var e Event
		if err := json.Unmarshal(text, &e); err != nil || e.ID != want || bytes.Count(text, []byte("\n")) != 1 {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
	text, err := os.ReadFile(path + ".ce")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	e, err := event.ParseCloudEvent([]byte(lines[1]))
	if err != nil || len(lines) != 2 || e.Type != "shop/order/create" || e.Path != "order/7" {
		t.Errorf("%s: %v", text, err)
	}
}

func TestWriter(t *testing.T) {
	for _, f := range []Format{JSON, CloudEvents, Pretty, ""} {
		var b bytes.Buffer
		l := newLogger(t, Options{Outputs: []Output{ToWriter("own", &b, f)}})
		logEvent(t, l, "a")
		flush(t, l)
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if text := b.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "order") {
			t.Errorf("%s: %q", f, text)
		}
	}
	for _, o := range []Output{
		ToWriter("own", nil, JSON), ToStdout("x"), ToFile("", FileOptions{}), ToFile("x", FileOptions{Format: Pretty}), ToWebhook("ftp://x", WebhookOptions{}),
		ToWebhook("https://x", WebhookOptions{Format: JSON}), ToWebhook("https://x", WebhookOptions{Allow: []string{"0.0.0.0/0"}}),
		ToWebhook("https://x", WebhookOptions{SigningKeys: []Secret{SecretText("whsec_x")}}), ToHub("", HubOptions{}),
	} {
		l, err := New(Options{Service: "x", Outputs: []Output{o}})
		if err == nil {
			_ = l.Close(t.Context())
			t.Errorf("sink %s is made", o.Name)
		} else if strings.Contains(err.Error(), "whsec_x") {
			t.Error(err)
		}
	}
}

func TestWebhook(t *testing.T) {
	secret := standardwebhooks.NewSecret()
	key, err := standardwebhooks.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	status := http.StatusNoContent
	var bodies []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = standardwebhooks.Verify([]standardwebhooks.Key{key}, r.Header, body, time.Now(), time.Minute)
		}
		if err != nil || r.Header.Get("Authorization") != "Bearer tok" || r.Header.Get("X-Own") != "own" {
			t.Errorf("%v, %v", err, r.Header)
		}
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, string(body))
		w.WriteHeader(status)
	}))
	defer server.Close()
	o := WebhookOptions{
		SigningKeys: []Secret{SecretText(secret)}, Bearer: SecretText("tok"), Headers: map[string]Secret{"X-Own": SecretText("own")}, Allow: []string{"127.0.0.1"},
	}
	batch := o
	batch.Batch = true
	l := newLogger(t, Options{Outputs: []Output{ToWebhook(server.URL, o), ToWebhook(server.URL, batch).Named("batch")}})
	logEvent(t, l, "a")
	flush(t, l)
	mu.Lock()
	all := strings.Join(bodies, "\n")
	status = http.StatusGone
	mu.Unlock()
	if !strings.Contains(all, `{"type":"shop.order.create","timestamp":`) || !strings.Contains(all, `[{"version":"1","sequence":1,"id":"a"`) {
		t.Error(all)
	}
	// 410 disables, and the event is kept until somebody resumes.
	logEvent(t, l, "b")
	until(t, "both are disabled", func() bool {
		st := l.Stats()
		return st.Sinks[0].Condition == "disabled" && st.Sinks[1].Condition == "disabled"
	})
	if err := l.Health(); err == nil {
		t.Error("it is healthy")
	}
	mu.Lock()
	status, bodies = http.StatusOK, nil
	mu.Unlock()
	for _, name := range []string{"webhook", "batch"} {
		if err := l.Resume(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, l)
	mu.Lock()
	defer mu.Unlock()
	if len(bodies) != 2 || !strings.Contains(bodies[0], `"id":"b"`) {
		t.Error(bodies)
	}
}

// The error of an address inside says where a Go program allows it.
func TestWebhookInside(t *testing.T) {
	_, err := New(Options{Service: "shop", Outputs: []Output{ToWebhook("http://10.0.0.1/x", WebhookOptions{Allow: []string{"192.168.0.0/16"}})}})
	if err == nil || !strings.Contains(err.Error(), `add "10.0.0.1" to WebhookOptions.Allow`) {
		t.Error(err)
	}
}
