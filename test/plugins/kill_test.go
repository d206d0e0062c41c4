// Package plugins tests source plugins with the real program and real processes.
package plugins

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/journal"
)

const events = 60_000

// build builds the program and the plugin.
func build(t *testing.T) (hub, plugin string) {
	t.Helper()
	dir := t.TempDir()
	hub, plugin = filepath.Join(dir, "tocsin"), filepath.Join(dir, "numbers")
	for path, from := range map[string]string{hub: "../../cmd/tocsin", plugin: "./testdata/numbers"} {
		command := exec.Command("go", "build", "-o", path, from)
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", from, err, out)
		}
	}
	return hub, plugin
}

// server is a hub that runs.
type server struct {
	command *exec.Cmd
	url     string
	log     *safeBuffer
	ended   chan struct{}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs a hub until the test ends.
func start(t *testing.T, hub, config, tmp string) *server {
	t.Helper()
	address := filepath.Join(t.TempDir(), "address")
	s := &server{command: exec.Command(hub, "server", "--config", config, "--address-file", address), log: new(safeBuffer), ended: make(chan struct{})}
	s.command.Stderr = s.log
	s.command.Env = append(os.Environ(), "TMPDIR="+tmp)
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.ended)
		_ = s.command.Wait()
	}()
	t.Cleanup(s.kill)
	await(t, "the hub listens", s.log, func() bool {
		b, err := os.ReadFile(address)
		s.url = strings.TrimSpace(string(b))
		return err == nil && s.url != ""
	})
	return s
}

func (s *server) kill() {
	_ = s.command.Process.Kill()
	<-s.ended
}

func await(t *testing.T, what string, log *safeBuffer, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s\n%s", what, log)
		}
	}
}

// status is what the hub tells of the source.
func (s *server) status() (st struct {
	State     string
	Events    uint64
	LastError *struct{ Kind, Reason string } `json:"last_error"`
}, err error) {
	r, err := http.NewRequest(http.MethodGet, s.url+"/api/v1/plugin-sources/numbers", nil)
	if err != nil {
		return st, err
	}
	r.Header.Set("X-Vault-Token", "t0ken")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return st, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(body, &st)
}

// pids returns the processes of a plugin.
func pids(plugin string) (all []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe")); err == nil && exe == plugin {
			all = append(all, pid)
		}
	}
	return all
}

// However often, and whenever, the hub and the plugin are killed: every event of a source with
// resume positions is in the journal, those that are there several times have one id, and no
// process of a plugin is left behind, nor a directory of its sockets.
func TestKill(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds programs and takes seconds")
	}
	hub, plugin := build(t)
	dir := t.TempDir()
	config, data, token := filepath.Join(dir, "tocsin.yaml"), filepath.Join(dir, "data"), filepath.Join(dir, "token")
	text := fmt.Sprintf(`
listen: {address: "127.0.0.1:0"}
data_dir: %s
auth: {root_token: {file: %s}}
plugins:
  sources:
    - {name: numbers, command: %s, open: "%d", max_pause: 1s}
`, data, token, plugin, events)
	if err := os.WriteFile(token, []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	hubs, plugins, tmp := 0, 0, t.TempDir()
	sockets := filepath.Join(data, "sockets")
	left := func() []string {
		names, _ := filepath.Glob(filepath.Join(sockets, "plugin-dir*"))
		return names
	}
	swept, ended := 0, 0
	for round := 0; ; round++ {
		before := left()
		s := start(t, hub, config, tmp)
		for _, name := range before {
			if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left of an earlier hub: %v", name, err)
			}
			swept++
		}
		if round >= 10 {
			await(t, "the end of the stream", s.log, func() bool { st, err := s.status(); return err == nil && st.State == "ended" })
			if err := s.command.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			<-s.ended
			break
		}
		// Sometimes before anything is read, sometimes in the middle.
		await(t, "the plugin runs", s.log, func() bool { return len(pids(plugin)) > 0 })
		time.Sleep(rand.N(150 * time.Millisecond))
		if round%2 == 1 {
			for _, pid := range pids(plugin) {
				if p, err := os.FindProcess(pid); err == nil && p.Kill() == nil {
					plugins++
				}
			}
			time.Sleep(rand.N(300 * time.Millisecond))
		}
		if round%3 == 2 { // in order
			if err := s.command.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			select {
			case <-s.ended:
			case <-time.After(time.Minute):
				t.Fatalf("the hub does not end\n%s", s.log)
			}
			if len(pids(plugin)) > 0 {
				t.Error("the hub has ended, and a plugin has not")
			}
			ended++
		}
		s.kill()
		hubs++
		await(t, "no plugin is left", s.log, func() bool { return len(pids(plugin)) == 0 })
	}

	if _, err := os.Stat(sockets); !errors.Is(err, fs.ErrNotExist) || swept == 0 {
		t.Errorf("%d directories of sockets were left by killed hubs, and after the end of one: %v", swept, err)
	}
	if names, err := filepath.Glob(filepath.Join(tmp, "*")); err != nil || len(names) > 0 {
		t.Errorf("temporary files are left: %q, %v", names, err)
	}
	j, err := journal.Open(t.Context(), journal.Config{Dir: data, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(context.Background())
	ids, all := make(map[int]string), 0
	end := j.End()
	r := j.Read(journal.Position{})
	for at := (journal.Position{}); at.Compare(end) < 0; {
		b, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			e := b.Event(i)
			if e.Source != "plugin://numbers" {
				continue
			}
			var payload struct{ N int }
			if err := json.Unmarshal(e.Data, &payload); err != nil {
				t.Fatal(err)
			}
			if id, ok := ids[payload.N]; ok && id != e.ID {
				t.Errorf("%d is there with two ids", payload.N)
			}
			ids[payload.N] = e.ID
			all++
		}
		at = b.End()
	}
	different := make(map[string]bool)
	for n := 1; n <= events; n++ {
		if ids[n] == "" {
			t.Fatalf("%d is missing, of %d", n, all)
		}
		different[ids[n]] = true
	}
	if len(ids) != events || len(different) != events {
		t.Errorf("%d numbers with %d ids", len(ids), len(different))
	}
	t.Logf("the hub was killed %d times, and ended %d times, the plugin %d times; %d events are repeats", hubs-ended, ended, plugins, all-events)
}
