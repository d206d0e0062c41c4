package app

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

// TestWebhookSink makes sinks of type webhook from their definitions.
func TestWebhookSink(t *testing.T) {
	secret := standardwebhooks.NewSecret()
	key, err := standardwebhooks.ParseKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TEST_WEBHOOK_TOKEN", "token")
	problems := make(chan string, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		problem := ""
		if err := standardwebhooks.Verify([]standardwebhooks.Key{key}, r.Header, body, time.Now(), 0); err != nil {
			problem = err.Error()
		}
		if h := r.Header; h.Get("User-Agent") != "tocsin/1.2.3" || h.Get("Authorization") != "Bearer token" || h.Get("X-Env") != "prod" || h.Get("Content-Encoding") != "gzip" ||
			h.Get("Content-Type") != "application/cloudevents-batch+json" || h.Get("X-Flipt-Webhook-Signature") == "" {
			problem += "; headers"
		}
		problems <- problem
	}))
	defer receiver.Close()
	a := &App{version: "1.2.3", config: config.Default()}
	good := "signing_keys: [{file: " + file + "}], bearer_token: {env: TEST_WEBHOOK_TOKEN}, headers: [{name: X-Env, value: prod}], body: array, format: cloudevents, gzip: true, flipt_secret: {file: " + file + "}"
	for name, test := range map[string]struct {
		fields, want string
		allow        []string
	}{
		"allowed for the sink": {good + ", allow: [127.0.0.1]", "", nil},
		"allowed for all":      {good, "", []string{"127.0.0.0/8"}},
		"not allowed":          {good, `add "127.0.0.1" to delivery.allow`, nil},
		"no key":               {"signing_keys: [{file: " + file + ".none}]", "signing key 1: read secret", []string{"127.0.0.1"}},
		"no CA":                {"tls: {ca: {file: " + file + "}}", "tls: ca has no certificate", []string{"127.0.0.1"}},
	} {
		url := receiver.URL
		if strings.HasPrefix(test.fields, "tls") {
			url = strings.Replace(url, "http:", "https:", 1)
		}
		c, err := config.Parse("t.yaml", []byte("sinks: [{name: a, type: webhook, webhook: {url: '"+url+"', "+test.fields+"}}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		a.config.Delivery.Allow = test.allow
		sink, err := a.makeSink(c.Sinks[0], manager.File)
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %s", name, err, test.want)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		e := event.NewNotification("kv-v2/data-write", "path", "secret/data/app")
		e.Source = "vault://node-1"
		if r := sink.Send(t.Context(), &deliver.Batch{Attempt: 1, Items: []deliver.Item{{Event: e}}}); r.Outcome != deliver.Delivered {
			t.Errorf("%s: %+v", name, r)
		} else if problem := <-problems; problem != "" {
			t.Errorf("%s: %s", name, problem)
		}
		sink.Close()
	}
}
