package sinks

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/api"
)

// versioned is a receiver that knows which secret belongs to which version of a definition.
type versioned struct {
	*testing.T
	mu      sync.Mutex
	arrived map[string][]string // paths by event id
}

// secretOf is the bearer token of a version.
func secretOf(version int) string { return fmt.Sprintf("not-for-everybody-%d", version) }

func (v *versioned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	var version int
	if _, err := fmt.Sscanf(r.URL.Path, "/version/%d", &version); err != nil || r.Header.Get("Authorization") != "Bearer "+secretOf(version) {
		v.Errorf("%s came with %q", r.URL.Path, r.Header.Get("Authorization"))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	id := r.Header.Get("Tocsin-Event-Id")
	v.arrived[id] = append(v.arrived[id], r.URL.Path)
}

func (v *versioned) has(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.arrived[id]) > 0
}

// TestRunTimeSinksAreKilled kills the hub while a sink with a secret is added, replaced,
// paused, resumed and removed over the API. After each restart the sink is what it was
// before the change or after it, after it if that was answered; its secret is that of its
// definition, and is nowhere in the data directory; and what was published arrives.
func TestRunTimeSinksAreKilled(t *testing.T) {
	t.Parallel()
	rounds := faultRounds(t, 8)
	v := &versioned{T: t, arrived: make(map[string][]string)}
	server := httptest.NewServer(v)
	t.Cleanup(server.Close)
	h := newHub(t, "", "delivery: {allow: [127.0.0.1], stop_timeout: 500ms}\n")

	// state is what a sink may be. Versions count up, so that each definition is another one.
	type state struct {
		version int // 0: there is none
		paused  bool
	}
	now, next := state{}, 1
	type change struct {
		method, path, body string
		after              state
	}
	definition := func(version int) string {
		return fmt.Sprintf(`{"type":"webhook","events":{"types":["shop/*"]},"retry":{"first":"5ms","most":"50ms"},"webhook":{"url":"%s/version/%d","bearer_token":{"value":%q}}}`, server.URL, version, secretOf(version))
	}
	choose := func() change {
		put := change{"PUT", "/run", definition(next), state{next, now.paused}}
		if now.version == 0 {
			put.after.paused = false
			return put
		}
		return []change{
			put,
			{"POST", "/run/pause", "", state{now.version, true}},
			{"POST", "/run/resume", "", state{now.version, false}},
			{"DELETE", "/run?state=drop", "", state{}},
		}[rand.IntN(4)]
	}
	look := func() (s state) {
		var got api.Sink
		status, text, err := h.ask("GET", "/run", "", &got)
		if err != nil {
			t.Fatal(err)
		}
		if status == http.StatusNotFound || got.Origin == "removed" { // what it has left is not dropped yet
			return s
		}
		if status != http.StatusOK || got.State == "broken" || got.Health != "" && got.State == "running" {
			t.Fatalf("the sink: %d %s", status, text)
		}
		if _, err := fmt.Sscanf(string(got.Definition[bytes.Index(got.Definition, []byte("/version/")):]), "/version/%d", &s.version); err != nil {
			t.Fatal(err)
		}
		s.paused = got.State == "paused"
		return s
	}
	published := 0
	var owed []string // published while there is the sink
	h.start()
	answered, made := 0, 0
	for round := range rounds {
		for range 3 {
			c := choose()
			next++
			before := now
			if now.version > 0 && c.after.version > 0 {
				published++
				id := fmt.Sprintf("9-%d", published)
				p := publisher{hub: h}
				if err := p.post([]byte(`[{"specversion":"1.0","id":"` + id + `","source":"/shop","type":"shop/sold","subject":"shop/1"}]`)); err != nil {
					t.Fatal(err)
				}
				owed = append(owed, id)
			}
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				time.Sleep(time.Duration(rand.IntN(25_000)) * time.Microsecond)
				_ = h.process.Process.Kill()
			}()
			status, text, err := h.ask(c.method, c.path, c.body, nil)
			if err == nil && status/100 == 2 && c.method == "PUT" && before.version == 0 {
				// From now on it has to get what comes, wherever the hub is killed.
				id := fmt.Sprintf("8-%d", next)
				p := publisher{hub: h}
				if p.post([]byte(`[{"specversion":"1.0","id":"`+id+`","source":"/shop","type":"shop/sold","subject":"shop/1"}]`)) == nil {
					owed = append(owed, id)
				}
			}
			<-killed
			h.kill()
			h.start()
			now = look()
			made++
			switch {
			case err == nil && status/100 == 2:
				answered++
				if now != c.after {
					t.Fatalf("round %d: %s %s was answered %d %s; it was %+v, and is %+v, want %+v", round, c.method, c.path, status, text, before, now, c.after)
				}
			case err == nil:
				t.Fatalf("%s %s: %d %s", c.method, c.path, status, text)
			case now != before && now != c.after:
				t.Fatalf("round %d: %s %s was not answered; it was %+v, and is %+v, want that or %+v", round, c.method, c.path, before, now, c.after)
			}
			if now.version == 0 {
				owed = nil
			}
		}
		if now.version == 0 {
			continue
		}
		h.must("POST", "/run/resume", "", nil)
		now.paused = false
		for _, id := range owed {
			await(t, "the sink gets "+id, func() bool { return v.has(id) }, func() string { return fmt.Sprintf("%+v", h.sink("run")) })
		}
		owed = nil
	}
	if letters := h.sinkNames(); len(letters) > 1 {
		t.Errorf("sinks %v", letters)
	}
	h.stop()
	if bytes.Contains(h.said.Bytes(), []byte("not-for-everybody")) {
		t.Error("a secret is in the log")
	}
	err := filepath.WalkDir(h.data, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && bytes.Contains(text, []byte("not-for-everybody")) {
			t.Errorf("a secret is in %s", strings.TrimPrefix(path, h.data))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d changes, %d were answered", made, answered)
}

// sinkNames returns the names of all sinks.
func (h *hub) sinkNames() (names []string) {
	h.Helper()
	var list api.SinkList
	h.must("GET", "", "", &list)
	for _, s := range list.Sinks {
		names = append(names, s.Name)
	}
	return names
}
