// Package sinks proves with the real program what is promised about events that go to
// sinks: the program is killed, receivers fail, hang and go away, and disks become full. What
// arrived in the end is compared with what was acknowledged to publishers.
package sinks

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/api"
)

var program string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tocsin-sinks-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "tocsin")
	build := exec.Command("go", "build", "-o", program, "../../cmd/tocsin")
	// It is made without cgo. What go test has compiled for other tests may have it, and all
	// is compiled twice then, for which only those who run all tests have the time.
	if os.Getenv("TOCSIN_TESTS") == "all" {
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		return 1
	}
	// They wait for programs most of the time.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const (
	root     = "the-root-token"
	patience = time.Minute
)

// faultRounds returns how often to do something: so often, or what the environment says.
func faultRounds(t *testing.T, rounds int) int {
	t.Helper()
	if text := os.Getenv("TOCSIN_FAULT_ROUNDS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	return rounds
}

// hub is the real program, which is killed and started again with the same data.
type hub struct {
	*testing.T
	dir    string
	data   string
	client *http.Client

	starts  int
	running atomic.Int64 // starts, for other goroutines
	process *exec.Cmd
	said    bytes.Buffer // of all starts; belongs to the process while it runs

	mu  sync.Mutex
	url string // "" while it does not serve
}

// newHub prepares a hub whose data are in data, or somewhere if that is "". The
// configuration comes after that.
func newHub(t *testing.T, data, config string) *hub {
	t.Helper()
	h := &hub{T: t, dir: t.TempDir(), data: data, client: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	if data == "" {
		h.data = filepath.Join(h.dir, "data")
	}
	config = fmt.Sprintf("data_dir: %s\nlisten: {address: \"127.0.0.1:0\", failed_logins: {max: 0}}\n%s", h.data, config)
	if err := os.WriteFile(filepath.Join(h.dir, "tocsin.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			said := h.said.Bytes()
			t.Logf("the hub said:\n%s", said[max(0, len(said)-6_000):])
		}
	})
	return h
}

func (h *hub) addressFile() string {
	return filepath.Join(h.dir, fmt.Sprintf("address-%d", h.starts))
}

// launch starts the program and does not wait for anything.
func (h *hub) launch() {
	h.Helper()
	h.starts++
	h.running.Store(int64(h.starts))
	h.process = exec.Command(program, "server", "--config", filepath.Join(h.dir, "tocsin.yaml"), "--address-file", h.addressFile())
	h.process.Env = append(os.Environ(), "TOCSIN_ROOT_TOKEN="+root)
	h.process.Stderr = &h.said
	if err := h.process.Start(); err != nil {
		h.Fatal(err)
	}
}

// start starts the program and waits until it serves.
func (h *hub) start() {
	h.Helper()
	h.launch()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if address, err := os.ReadFile(h.addressFile()); err == nil && len(address) > 0 {
			url := strings.TrimSpace(string(address))
			if response, err := h.client.Get(url + "/api/v1/health/ready"); err == nil {
				response.Body.Close()
				if response.StatusCode == http.StatusOK {
					h.serves(url)
					return
				}
			}
		}
		if time.Now().After(deadline) {
			h.kill()
			h.Fatalf("start %d: the hub does not serve", h.starts)
		}
	}
}

func (h *hub) serves(url string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.url = url
}

// address is where the hub is, "" while it does not serve.
func (h *hub) address() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.url
}

// kill ends the program as kill -9 does.
func (h *hub) kill() { h.end(syscall.SIGKILL) }

// stop ends the program in an orderly way.
func (h *hub) stop() { h.end(syscall.SIGTERM) }

func (h *hub) end(signal syscall.Signal) {
	if h.process == nil {
		return
	}
	_ = h.process.Process.Signal(signal)
	h.serves("")
	gone := make(chan struct{})
	go func() {
		_ = h.process.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(patience):
		_ = h.process.Process.Kill()
		<-gone
		h.Errorf("the hub did not end within %v of %v", patience, signal)
	}
	h.process = nil
	h.client.CloseIdleConnections()
}

// ask makes a request about sinks and decodes the answer into v, if there is one. The error
// says that there was no whole answer.
func (h *hub) ask(method, path, body string, v any) (status int, text string, err error) {
	r, err := http.NewRequest(method, h.address()+"/api/v1/sinks"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("X-Vault-Token", root)
	response, err := h.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, "", err
	}
	if v != nil && response.StatusCode/100 == 2 {
		err = json.Unmarshal(all, v)
	}
	return response.StatusCode, string(all), err
}

// must makes a request that has to work.
func (h *hub) must(method, path, body string, v any) {
	h.Helper()
	status, text, err := h.ask(method, path, body, v)
	if err != nil || status/100 != 2 {
		h.Fatalf("%s %s: %d %s %v", method, path, status, text, err)
	}
}

func (h *hub) sink(name string) (s api.Sink) {
	h.Helper()
	h.must("GET", "/"+name, "", &s)
	return s
}

// awaitSink waits until something holds for a sink.
func (h *hub) awaitSink(name, what string, done func(api.Sink) bool) api.Sink {
	h.Helper()
	var s api.Sink
	await(h.T, name+": "+what, func() bool { s = h.sink(name); return done(s) }, func() string { s.Definition = nil; return fmt.Sprintf("%+v", s) })
	return s
}

// settled says that a sink has nothing to do.
func settled(s api.Sink) bool {
	return s.State == "running" && s.LagEvents == 0 && s.Waiting == 0 && s.InFlight == 0 && s.Problem == ""
}

// letters returns all dead letters of a sink.
func (h *hub) letters(name string) (all []api.DeadLetter) {
	h.Helper()
	for after := uint64(0); ; {
		var page api.DeadLetterList
		h.must("GET", fmt.Sprintf("/%s/dead-letters?limit=1000&after=%d", name, after), "", &page)
		all = append(all, page.Letters...)
		if page.Next == 0 {
			return all
		}
		after = page.Next
	}
}

// await waits until something holds.
func await(t *testing.T, what string, done func() bool, instead func() string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %s", what, patience, instead())
		}
	}
}
