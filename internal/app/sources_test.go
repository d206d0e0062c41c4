package app

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"slices"
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
	if status, body := fetch(m.Event.DataRef, root); status != 200 || !bytes.Equal(body, large) {
		t.Errorf("status %d, %d bytes, want %d", status, len(body), len(large))
	}
	if status, _ := fetch(m.Event.DataRef, "wrong"); status != 403 {
		t.Errorf("with a wrong token: status %d", status)
	}
	for _, name := range []string{"unknown", "", strings.Repeat("a", 64), strings.Repeat("a", 5000)} {
		if status, body := fetch("/api/v1/payloads/"+name, root); status != 404 {
			t.Errorf("payload %.10q: status %d, %s", name, status, body)
		}
	}
}

func TestRedactionKeyIsKept(t *testing.T) {
	dir := t.TempDir()
	key := func() []byte {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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

// The smallest journal that a configuration may ask for can be opened, for every
// size of events.
func TestSmallestJournal(t *testing.T) {
	for _, c := range []struct{ event, pending, max config.Size }{
		{1 << 10, 1 << 20, 16 << 20},
		{1 << 20, 4 << 20, 4 * (4<<20 + 4<<10)},
		{8 << 20, 24 << 20, 4 * (24<<20 + 4<<10)},
	} {
		o := options(t)
		o.Config.Limits.MaxEvent, o.Config.Limits.MaxMetadata = c.event, 1<<10
		o.Config.Journal.PendingBytes, o.Config.Journal.MaxBytes = c.pending, c.max
		a, err := New(t.Context(), o)
		if err != nil {
			t.Errorf("events of %s: %v", c.event, err)
			continue
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDefaultsOfTheJournal(t *testing.T) {
	c := config.Default().Journal
	if c.PendingBytes != journal.DefaultMaxPendingBytes || c.CacheBytes != journal.DefaultCacheBytes {
		t.Errorf("pending %s, cache %s are not the journal's own", c.PendingBytes, c.CacheBytes)
	}
}

// The metrics show how far a source is behind and what happened to its file.
func TestMetricsOfASource(t *testing.T) {
	_, file := auditLog(t)
	a, _ := start(t, options(t, file))
	appendTo(t, file, []byte("half a line")) // stays unread until its line feed
	await(t, a.URL()+"/metrics", `tocsin_lag_bytes{component="source",name="log0"} 11`)
	appendTo(t, file, []byte("\n"))
	await(t, a.URL()+"/metrics", `tocsin_lag_bytes{component="source",name="log0"} 0`,
		`tocsin_quarantined_total{component="source",name="log0"} 1`)
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	await(t, a.URL()+"/metrics", `tocsin_source_file_incidents_total{incident="truncation",name="log0"} 1`)
}

// await waits until a page has all of these lines.
func await(t *testing.T, url string, lines ...string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, page := get(t, url)
		missing := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.Contains(page, l+"\n") })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s lacks %q:\n%s", url, missing, page)
		}
	}
}
