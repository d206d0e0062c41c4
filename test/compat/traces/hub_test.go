// Package traces proves that real tracing systems understand the spans of the hub: a
// Zipkin server and an OpenTelemetry Collector get them from the real program, which
// follows an audit log, and are asked for them back; also after the collector was down and
// the hub was killed.
package traces

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for something that should happen soon.
const patience = time.Minute

var programs struct {
	sync.Mutex
	dir   string
	built map[string]error
}

func TestMain(m *testing.M) {
	var err error
	if programs.dir, err = os.MkdirTemp("", "tocsin-traces-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(programs.dir)
	os.Exit(code)
}

// build builds a program, once.
func build(t *testing.T, name, dir, pkg string) (path string, err error) {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	path = filepath.Join(programs.dir, name)
	if err, done := programs.built[name]; done {
		return path, err
	}
	build := exec.Command("go", "build", "-o", path, pkg)
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, failed := build.CombinedOutput(); failed != nil {
		err = fmt.Errorf("build %s: %w\n%s", name, failed, out)
	}
	if programs.built == nil {
		programs.built = make(map[string]error)
	}
	programs.built[name] = err
	return path, err
}

// process is a program that runs beside a test.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	exited chan struct{}
}

// start starts a program whose messages go to the log of the test. It is ended with the
// test at the latest.
func start(t *testing.T, name string, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: exec.Command(program, args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	out, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout = p.cmd.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			t.Log(name + ": " + lines.Text())
		}
		p.cmd.Wait()
	}()
	t.Cleanup(p.stop)
	return p
}

// stop ends it as an operator does.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.kill()
		p.t.Errorf("%s did not stop within %v of SIGTERM", p.name, patience)
	}
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.exited
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// freePort returns a port of loopback that nobody has at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// startHub runs the program and waits until it listens.
func startHub(t *testing.T, args ...string) (p *process, address string) {
	t.Helper()
	program, err := build(t, "tocsin", "../../..", "./cmd/tocsin")
	if err != nil {
		t.Fatal(err)
	}
	file, home := filepath.Join(t.TempDir(), "address"), t.TempDir()
	p = start(t, "hub", []string{"HOME=" + home, "XDG_CACHE_HOME=" + home, "XDG_CONFIG_HOME=" + home}, program, append(args, "--address-file", file)...)
	eventually(t, "the hub listens", func() bool {
		b, err := os.ReadFile(file)
		address = strings.TrimSpace(string(b))
		return err == nil && strings.HasSuffix(string(b), "\n")
	})
	return p, address
}

// request is what is expected of a span.
type request struct {
	id       string // UUID
	start    time.Time
	duration time.Duration
	secret   string
	failed   bool
}

// traceID is the request id without its hyphens.
func (r *request) traceID() string { return strings.ReplaceAll(r.id, "-", "") }

// auditLog writes an audit log as a server does.
type auditLog struct {
	t    *testing.T
	path string // of a file
	to   io.WriteCloser
}

func newAuditLog(t *testing.T) *auditLog {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return &auditLog{t, path, file}
}

// newAuditDevice writes to a socket instead, as a socket audit device does.
func newAuditDevice(t *testing.T, socket string) *auditLog {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &auditLog{t: t, to: conn}
}

// write appends n requests, of which the responses come in another order.
func (l *auditLog) write(n int) []request {
	l.t.Helper()
	all := newRequests(n)
	var text []byte
	for i := 0; i < n; i += 5 {
		group := all[i:min(i+5, n)]
		for j := range group {
			text = l.entry(text, &group[j], "request")
		}
		for j := len(group) - 1; j >= 0; j-- {
			text = l.entry(text, &group[j], "response")
		}
	}
	l.append(text)
	return all
}

// half appends one entry of each request.
func (l *auditLog) half(requests []request, kind string) {
	l.t.Helper()
	var text []byte
	for i := range requests {
		text = l.entry(text, &requests[i], kind)
	}
	l.append(text)
}

func (l *auditLog) append(text []byte) {
	l.t.Helper()
	if _, err := l.to.Write(text); err != nil {
		l.t.Fatal(err)
	}
}

func (l *auditLog) entry(text []byte, r *request, kind string) []byte {
	l.t.Helper()
	at := r.start
	e := map[string]any{
		"type": kind,
		"auth": map[string]any{"display_name": "token", "policies": []string{"default"}, "token_type": "service"},
		"request": map[string]any{
			"id": r.id, "operation": "update", "namespace": map[string]any{"id": "root"},
			"mount_point": "secret/", "mount_type": "kv", "mount_accessor": "kv_1", "mount_class": "secret",
			"path": "secret/data/" + r.secret, "remote_address": "192.0.2.7", "remote_port": 40000,
		},
	}
	if kind == "response" {
		at = at.Add(r.duration)
		e["response"] = map[string]any{"mount_type": "kv", "data": map[string]any{"version": 1}}
		if r.failed {
			e["error"] = "1 error occurred:\n\t* permission denied\n\n"
			e["response"] = map[string]any{"mount_type": "kv"}
		}
	}
	e["time"] = at.UTC().Format(time.RFC3339Nano)
	line, err := json.Marshal(e)
	if err != nil {
		l.t.Fatal(err)
	}
	return append(append(text, line...), '\n')
}

// newRequests makes requests of all lengths from below a microsecond.
func newRequests(n int) []request {
	var all []request
	now := time.Now()
	for i := range n {
		r := request{
			id: uuid(), start: now.Add(time.Duration(i) * time.Microsecond), secret: fmt.Sprintf("app-%d", i),
			duration: time.Duration(1+i*i) * 7777 * time.Nanosecond, failed: i%10 == 3,
		}
		if i == 0 {
			r.duration = 999 * time.Nanosecond
		}
		all = append(all, r)
	}
	return all
}

// uuid returns a random UUID, version 4.
func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
