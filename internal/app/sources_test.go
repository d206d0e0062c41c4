package app

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// The bytes of an entry above the event size limit are served where the event
// says that they are.
func TestPayloads(t *testing.T) {
	whole, file := auditLog(t)
	var large []byte
	for line := range bytes.Lines(whole) {
		if line = bytes.TrimSuffix(line, []byte("\n")); len(line) > len(large) {
			large = bytes.Clone(line)
		}
	}
	o := options(t, file)
	o.Config.Limits.MaxMetadata = 1 << 10
	o.Config.Limits.MaxEvent = config.Size(len(large) - 1)
	a, _ := start(t, o)
	s := subscribe(t, a, client.Options{Format: client.FormatCloudEvents}, "audit/*")
	appendTo(t, file, append(large, '\n'))
	m, _ := next(t, s)
	if m.Event.DataRef == "" || len(m.Event.Data) != 0 {
		t.Fatalf("dataref %q and %d bytes of data", m.Event.DataRef, len(m.Event.Data))
	}
	fetch := func(path, token string) (int, []byte) {
		t.Helper()
		r, err := http.NewRequest(http.MethodGet, a.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Vault-Token", token)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, body
	}
	if status, body := fetch(m.Event.DataRef, token); status != 200 || !bytes.Equal(body, large) {
		t.Errorf("status %d, %d bytes, want %d", status, len(body), len(large))
	}
	if status, _ := fetch(m.Event.DataRef, "wrong"); status != 403 {
		t.Errorf("with a wrong token: status %d", status)
	}
	for _, name := range []string{"unknown", "", strings.Repeat("a", 64), strings.Repeat("a", 5000)} {
		if status, body := fetch("/api/v1/payloads/"+name, token); status != 404 {
			t.Errorf("payload %.10q: status %d, %s", name, status, body)
		}
	}
}

func TestRedactionKeyIsKept(t *testing.T) {
	dir := t.TempDir()
	key := func() []byte {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		j, err := journal.Open(ctx, journal.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close(ctx)
		b, err := redactionSalt(ctx, j)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := key()
	if len(first) != saltBytes || !bytes.Equal(first, key()) {
		t.Errorf("key of %d bytes, another one after a restart", len(first))
	}
}

func TestNamesOfBeginningsAgree(t *testing.T) {
	if tail.From(config.FromStart) != tail.Start || tail.From(config.FromEnd) != tail.End {
		t.Error("config and tail name the beginnings differently")
	}
}
