package compat

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	reference "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/sink/webhook"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

// TestStandardWebhooks has the reference library verify what the sink signs, of all bodies,
// while a key is replaced by another.
func TestStandardWebhooks(t *testing.T) {
	type request struct {
		header http.Header
		body   []byte
	}
	var got []request
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, request{r.Header, body})
	}))
	defer server.Close()
	guard, err := outbound.NewGuard("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	first, second, other := standardwebhooks.NewSecret(), standardwebhooks.NewSecret(), standardwebhooks.NewSecret()
	private, _ := standardwebhooks.NewKeyPair()
	verifies := func(secret string, r request) bool {
		t.Helper()
		w, err := reference.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		return w.Verify(r.body, r.header) == nil
	}
	e := event.NewNotification("kv-v2/data-write", "path", "secret/data/app", "name", "ü \" \\ \u2028")
	e.Source = "vault://node-1"
	events := []deliver.Item{{Event: e}, {Event: e}}
	for _, keys := range [][]string{{first}, {first, second}, {private, second, first}, {second}} {
		for _, o := range []webhook.Options{
			{}, {Format: format.CloudEvents, Gzip: true}, {Body: webhook.Array, Format: format.Vault}, {Body: webhook.Lines, Format: format.Raw},
			{Body: webhook.CloudEventsBatch, Format: format.CloudEvents},
		} {
			o.URL, o.Connection = server.URL, outbound.Options{Guard: guard}
			with := map[string]bool{}
			for _, k := range keys {
				with[k] = true
				o.SigningKeys = append(o.SigningKeys, func() (string, error) { return k, nil })
			}
			sink, err := webhook.New(o)
			if err != nil {
				t.Fatal(err)
			}
			got = nil
			if r := sink.Send(t.Context(), &deliver.Batch{Items: events, Attempt: 1}); r.Outcome != deliver.Delivered {
				t.Errorf("%+v", r)
			}
			sink.Close()
			for _, r := range got {
				for _, secret := range []string{first, second, other} {
					if verifies(secret, r) != with[secret] {
						t.Errorf("%s %s: a key that is in use (%v) verifies: %v", o.Body, o.Format, with[secret], !with[secret])
					}
				}
				r.body[0] ^= 1
				if verifies(keys[len(keys)-1], r) {
					t.Error("a changed body is verified")
				}
			}
			if len(got) == 0 {
				t.Error("nothing was sent")
			}
		}
	}
}

// TestStandardWebhooksReference has us verify what the reference library signs.
func TestStandardWebhooksReference(t *testing.T) {
	text := standardwebhooks.NewSecret()
	w, err := reference.NewWebhook(text)
	if err != nil {
		t.Fatal(err)
	}
	key, err := standardwebhooks.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	now, body := time.Now(), []byte(`{"type":"a.b"}`)
	signature, err := w.Sign("msg_1", now, body)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	h.Set(reference.HeaderWebhookID, "msg_1")
	h.Set(reference.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(reference.HeaderWebhookSignature, signature)
	if err := standardwebhooks.Verify([]standardwebhooks.Key{key}, h, body, now, 0); err != nil {
		t.Error(err)
	}
	if ours := standardwebhooks.AppendSignatures(nil, []standardwebhooks.Key{key}, "msg_1", now, body); string(ours) != signature {
		t.Errorf("%s, want %s", ours, signature)
	}
}
