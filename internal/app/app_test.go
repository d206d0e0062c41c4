package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/systemd"
	"github.com/tocsin-events/tocsin/internal/systemd/systemdtest"
)

// The client of NATS may leave a goroutine behind that waits on a channel which it has
// set to nil: one that starts while the last answer to a put into an object store comes.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "6"); err != nil { // they wait most of the time
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

const root = "t0ken"

// options is a hub on a free port that follows the given audit logs, named
// "log0", "log1", ...
func options(t *testing.T, logs ...string) Options {
	c := config.Default()
	c.Listen.Address = "127.0.0.1:0"
	c.DataDir = filepath.Join(t.TempDir(), "data")
	c.Auth.RootToken = config.SecretValue(root)
	for i, path := range logs {
		s := config.DefaultSource()
		s.Name, s.Path = "log"+string(rune('0'+i)), path
		c.Sources = append(c.Sources, s)
	}
	return Options{Config: c, Logger: slog.New(slog.DiscardHandler), Version: "test"}
}

// start runs an app until the test ends or the returned function is called.
func start(t *testing.T, o Options) (a *App, stop func()) {
	t.Helper()
	a, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return a, run(t, a)
}

// run runs an app until the test ends or the returned function is called.
func run(t *testing.T, a *App) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	}
	t.Cleanup(stop)
	return stop
}

func subscribe(t *testing.T, a *App, o client.Options, eventType string) *client.Subscription {
	t.Helper()
	o.Address, o.Token = a.URL(), cmp.Or(o.Token, root)
	s, err := client.Subscribe(t.Context(), eventType, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// next returns the type and path of the next event.
func next(t *testing.T, s *client.Subscription) (*client.Message, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	path, _ := m.Event.Metadata.Text("path")
	return m, m.Event.Type + " " + path
}

func auditLog(t *testing.T) (whole []byte, copied string) {
	t.Helper()
	whole, err := os.ReadFile("testdata/audit.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	copied = filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(copied, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return whole, copied
}

func appendTo(t *testing.T, path string, text []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// From a line in a file to a subscriber, over a restart.
func TestEndToEnd(t *testing.T) {
	whole, file := auditLog(t)
	lines := strings.SplitAfter(string(whole), "\n")
	o := options(t, file)
	a, stop := start(t, o)
	s := subscribe(t, a, client.Options{}, "kv-v2/*")
	appendTo(t, file, []byte(strings.Join(lines[:8], "")))
	if _, got := next(t, s); got != "kv-v2/data-write secret/data/app/db" {
		t.Errorf("first event %q", got)
	}
	last, _ := next(t, s)
	eventually(t, "what is counted", func() bool { // a moment after it is seen
		stats := a.Stats()
		return stats.Lines == 8 && stats.Events >= 10 && stats.Subscribers == 1 && stats.Healthy
	})
	s.Close()
	stop()

	appendTo(t, file, []byte(strings.Join(lines[8:], "")))
	a, _ = start(t, o)
	s = subscribe(t, a, client.Options{Since: last.Position}, "kv-v2/*")
	if _, got := next(t, s); got != "kv-v2/data-patch secret/data/app/db" {
		t.Errorf("first event after the restart %q", got)
	}
}

func TestHTTP(t *testing.T) {
	whole, file := auditLog(t)
	a, _ := start(t, options(t, file))
	s := subscribe(t, a, client.Options{}, "*")
	appendTo(t, file, whole)
	next(t, s)
	status, body := get(t, a.URL()+"/metrics")
	const all = `tocsin_received_total{component="source",name="log0"} 36`
	for deadline := time.Now().Add(time.Minute); !strings.Contains(body, all) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		status, body = get(t, a.URL()+"/metrics")
	}
	if status != 200 || !strings.Contains(body, all) ||
		!strings.Contains(body, `tocsin_build_info{version="test"} 1`) || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics: %d %s", status, body)
	}
	status, body = get(t, a.URL()+"/api/v1/health")
	var health any
	if err := json.Unmarshal([]byte(body), &health); status != 200 || err != nil || !strings.Contains(body, "journal") {
		t.Errorf("health: %d %s", status, body)
	}
}

func TestBusyAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := options(t)
	o.Config.Listen.Address = l.Addr().String()
	if _, err := New(t.Context(), o); !errors.Is(err, ErrListen) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(o.Config.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory was touched: %v", err)
	}
}

func TestLockedDataDirectory(t *testing.T) {
	o := options(t)
	_, stop := start(t, o)
	if _, err := New(t.Context(), o); !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), o.Config.DataDir) {
		t.Errorf("got %v", err)
	}
	stop()
	if a, err := New(t.Context(), o); err != nil {
		t.Errorf("after the end of the first: %v", err)
	} else if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestBadConfiguration(t *testing.T) {
	o := options(t)
	o.Config.DataDir = ""
	if _, err := New(t.Context(), o); !config.IsProblem(err) {
		t.Errorf("got %v", err)
	}
	for name, secret := range map[string]config.Secret{
		"not set":    config.SecretFromEnv("TOCSIN_TEST_NOT_SET"),
		"with space": config.SecretValue("very secret"),
		"not ASCII":  config.SecretValue("very\u00e4secret"),
	} {
		o := options(t)
		o.Config.Auth.RootToken = secret
		_, err := New(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "auth.root_token") || strings.Contains(err.Error(), "very") {
			t.Errorf("%s: got %v", name, err)
		}
		if name == "not set" && !strings.Contains(err.Error(), "{} means that there is none") {
			t.Errorf("%s: no way out in %v", name, err)
		}
	}
	o = options(t)
	o.Config.Auth.RootToken = config.Secret{}
	if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "nobody could get in; set auth.root_token") {
		t.Errorf("no way in: %v", err)
	}
	// The last step of the start that can fail gives back what those before it took.
	o.Config.Auth.RootToken = config.SecretValue(root)
	if a, err := New(t.Context(), o); err != nil {
		t.Errorf("after a start that failed: %v", err)
	} else if err := a.Close(); err != nil {
		t.Error(err)
	}
	o = options(t)
	o.Config.Auth.Upstream.Address = "https://vault.example.com"
	o.Config.Auth.Upstream.CAFile = filepath.Join(t.TempDir(), "missing.pem")
	if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "auth.upstream: ca_file") || !strings.Contains(err.Error(), "missing.pem") {
		t.Errorf("upstream: %v", err)
	}
	o = options(t)
	o.Config.Auth.JWT = []config.JWT{config.DefaultJWT()}
	j := &o.Config.Auth.JWT[0]
	j.Name, j.Issuer, j.JWKSFile, j.Audiences, j.DefaultPolicies = "a", "a", filepath.Join(t.TempDir(), "missing.json"), []string{"a"}, []string{"a"}
	if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "auth.jwt a: ") || !strings.Contains(err.Error(), "missing.json") {
		t.Errorf("jwt: %v", err)
	}
	o = options(t)
	o.Config.Listen.TLS = tlsFiles(t)
	if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "cert.pem") {
		t.Errorf("got %v", err)
	}
}

// One source whose path is a directory does not keep the other from working, and
// the health says which one and why.
func TestFailingSource(t *testing.T) {
	whole, file := auditLog(t)
	dir := t.TempDir()
	a, _ := start(t, options(t, dir, file))
	s := subscribe(t, a, client.Options{}, "kv-v2/*")
	appendTo(t, file, whole)
	next(t, s)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, body := get(t, a.URL()+"/api/v1/health")
		if strings.Contains(body, dir) && strings.Contains(body, "log0") && !a.Stats().Healthy {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("health does not mention %s: %s", dir, body)
		}
	}
}

func TestSystemd(t *testing.T) {
	m := systemdtest.New(t, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m.Hold("http", l.(*net.TCPListener))
	o := options(t)
	o.Config.Listen.Address = l.Addr().String()
	const first = 300
	if o.Systemd, err = systemd.FromVariables(m.Variables(first), first); err != nil {
		t.Fatal(err)
	}
	a, stop := start(t, o) // the address is in use, but by its own socket
	if a.Addr().String() != l.Addr().String() {
		t.Errorf("listens on %s, not on %s", a.Addr(), l.Addr())
	}
	ready := m.Await("READY=1", 0)
	stop()
	m.Await("STOPPING=1", ready)
}

func TestCloseWithoutRun(t *testing.T) {
	a, err := New(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := net.Dial("tcp", a.Addr().String()); err == nil {
		t.Error("the address is still bound")
	}
}

// Run ends with an error when it cannot serve any more.
func TestLostListener(t *testing.T) {
	a, err := New(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	a.listener = brokenListener{a.listener}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "serve: broken") {
		t.Errorf("got %v", err)
	}
}

type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, errors.New("broken") }

func TestURL(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:0": "http://127.0.0.1:", "[::1]:0": "http://[::1]:", ":0": "http://127.0.0.1:", "0.0.0.0:0": "http://127.0.0.1:",
	} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err)
			continue
		}
		if got := (&App{listener: l}).URL(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s", address, got)
		}
		l.Close()
	}
}
