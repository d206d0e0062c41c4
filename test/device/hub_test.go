package device_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/systemd/systemdtest"
	"github.com/tocsin-events/tocsin/test/device"
)

var program string

func TestMain(m *testing.M) {
	if os.Getenv("TOCSIN_TESTS") != "all" && os.Getenv(faultTime) == "" {
		fmt.Println("skipped, because it takes a minute: TOCSIN_TESTS=all runs it, and .ci/run does")
		return
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tocsin-device-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "tocsin")
	build := exec.Command("go", "build", "-o", program, "../../cmd/tocsin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		return 1
	}
	// They wait for programs most of the time.
	if err := flag.Set("test.parallel", "3"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const (
	root     = "the-root-token"
	patience = 60 * time.Second
)

// hub is the real program as a service, with a source for each device. The service manager
// holds its sockets.
type hub struct {
	*testing.T
	manager *systemdtest.Manager
	dir     string // of its data and sockets
	process *exec.Cmd
	said    *bytes.Buffer
	url     string
	sockets map[string]string // address by source
}

// newHub prepares a hub in a directory. Held says that the service manager holds the
// sockets and stores connections; otherwise the hub makes them.
func newHub(t *testing.T, dir, spool string, held bool) *hub {
	t.Helper()
	h := &hub{T: t, dir: dir, sockets: make(map[string]string)}
	store := 0
	if held {
		store = 100
	}
	h.manager = systemdtest.New(t, store)
	short, err := os.MkdirTemp("", "dv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	listen := func(name, network, address string) string {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(!held)
		}
		if held {
			h.manager.Hold(name, l.(systemdtest.Socket))
		}
		return l.Addr().String()
	}
	h.url = "http://" + listen("api", "tcp", "127.0.0.1:0")
	h.sockets["unix"] = listen("unix", "unix", filepath.Join(short, "audit.sock"))
	h.sockets["tcp"] = listen("tcp", "tcp", "127.0.0.1:0")
	h.sockets["http"] = listen("http", "tcp", "127.0.0.1:0")
	config := fmt.Sprintf(`data_dir: %s
journal: {max_bytes: 0}
listen: {address: %q}
auth: {root_token: {env: TOCSIN_ROOT_TOKEN}}
sources:
`, filepath.Join(dir, "data"), strings.TrimPrefix(h.url, "http://"))
	for _, s := range [][3]string{{"unix", "socket", "unix"}, {"tcp", "socket", "tcp"}, {"http", "http", "tcp"}} {
		config += fmt.Sprintf("  - {name: %s, server: vault, type: vault_audit_%s, address: \"%s:%s\", spool: %s}\n", s[0], s[1], s[2], h.sockets[s[0]], spool)
	}
	if err := os.WriteFile(filepath.Join(short, "tocsin.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	h.sockets["config"] = filepath.Join(short, "tocsin.yaml")
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			t.Logf("the last hub said:\n%s", h.said)
		}
	})
	return h
}

// launch starts the program.
func (h *hub) launch() {
	h.said = new(bytes.Buffer)
	h.process = h.manager.Command(program, "server", "--config", h.sockets["config"])
	h.process.Env = append(h.process.Env, "TOCSIN_ROOT_TOKEN="+root)
	h.process.Stderr = h.said
	if err := h.process.Start(); err != nil {
		h.Error(err)
	}
}

// start starts the program and waits until it is ready.
func (h *hub) start() {
	h.Helper()
	before := h.manager.Messages()
	h.launch()
	h.manager.Await("READY=1", before)
}

func (h *hub) stop() {
	h.Helper()
	if err := h.process.Process.Signal(syscall.SIGTERM); err != nil {
		h.Error(err)
	}
	if err := h.process.Wait(); err != nil {
		h.Errorf("the hub ended with %v:\n%s", err, h.said)
	}
	h.process = nil
}

func (h *hub) kill() {
	if h.process != nil {
		h.process.Process.Kill()
		h.process.Wait()
		h.process = nil
	}
}

// metric returns the sum of a metric over its labels.
func (h *hub) metric(name string, labels ...string) (sum float64) {
	h.Helper()
	response, err := http.Get(h.url + "/metrics")
	if err != nil {
		h.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		h.Fatal(err)
	}
next:
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(line, l) {
				continue next
			}
		}
		fields := strings.Fields(line)
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			h.Fatal(err)
		}
		sum += value
	}
	return sum
}

// await waits until a condition holds.
func (h *hub) await(what string, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("not within %v: %s\n%s", patience, what, h.said)
		}
	}
}

// settled waits until the journal has everything.
func (h *hub) settled() {
	h.Helper()
	h.await("the spools are empty", func() bool { return h.metric("tocsin_spool_lines") == 0 })
}

// endOfEntries is the number of the entry that is the last one in the journal.
const endOfEntries = 1 << 60

// entries reads the numbers of all entries in the journal through the API: how often each
// is there. All that was sent must be settled.
func (h *hub) entries() map[uint64]int {
	h.Helper()
	last := device.Socket{Network: "unix", Address: h.sockets["unix"]}
	defer last.Close()
	if err := last.Write(device.Entry(endOfEntries, 0)); err != nil {
		h.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := client.Subscribe(ctx, "audit/*", client.Options{Address: h.url, Token: root, Since: "24h", Format: client.FormatCloudEvents})
	if err != nil {
		h.Fatal(err)
	}
	defer s.Close()
	seen := make(map[uint64]int)
	for seen[endOfEntries] == 0 {
		m, err := s.Next(ctx)
		if err != nil {
			h.Fatal(err)
		}
		if id, ok := m.Event.Metadata.Text("request_id"); ok {
			if n, ok := device.Number(id); ok {
				seen[n]++
			}
		}
	}
	return seen
}
