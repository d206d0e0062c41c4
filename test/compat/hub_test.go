package compat

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/vault/api"
)

const rootToken = "compat-root-token"

// patience is how long a test waits for something that should happen soon.
const patience = 20 * time.Second

// binary builds the real program, once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tocsin-compat-")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "tocsin")
	build := exec.Command("go", "build", "-o", program, "./cmd/tocsin")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return program, nil
})

func TestMain(m *testing.M) {
	for _, name := range os.Environ() { // what is set for other servers must not reach the clients
		if name, _, _ := strings.Cut(name, "="); strings.HasPrefix(name, "VAULT_") || strings.HasPrefix(name, "BAO_") {
			os.Unsetenv(name)
		}
	}
	code := m.Run()
	if program, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(program))
	}
	if dir, err := pluginDir(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// run starts the program with arguments and returns the URL that it listens on.
func run(t *testing.T, args ...string) string {
	t.Helper()
	address, _ := runUntil(t, args...)
	return address
}

// runUntil is run that also returns how the program is stopped before the test ends.
func runUntil(t *testing.T, args ...string) (address string, stop func()) {
	t.Helper()
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	addressFile := filepath.Join(t.TempDir(), "address")
	hub := exec.Command(program, append(args, "--address-file", addressFile)...)
	home := t.TempDir()
	hub.Env = append(os.Environ(), "XDG_CACHE_HOME="+home, "XDG_CONFIG_HOME="+home, "HOME="+home)
	stderr, err := hub.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			t.Log("hub: " + lines.Text())
		}
		hub.Wait()
		close(exited)
	}()
	stop = sync.OnceFunc(func() {
		hub.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(15 * time.Second):
			hub.Process.Kill()
			<-exited
			t.Error("the hub did not stop within 15 s of SIGTERM")
		}
	})
	t.Cleanup(stop)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(addressFile); err == nil && strings.HasSuffix(string(b), "\n") {
			return strings.TrimSpace(string(b)), stop
		}
		select {
		case <-exited:
			t.Fatal("the hub ended")
		default:
		}
	}
	t.Fatal("the hub did not write its address")
	return "", nil
}

// startHub runs a hub for development that follows the audit log at file.
func startHub(t *testing.T, file string) (address string) {
	t.Helper()
	return run(t, "dev", "--audit-file", file, "--listen", "127.0.0.1:0", "--root-token", rootToken)
}

// hub is a hub with TLS that follows an audit log which a test writes.
type hub struct {
	t       *testing.T
	address string
	ca      string // file
	log     *os.File
}

// writes counts those of all tests.
var writes atomic.Int64

// startSecureHub runs the program as for real use. The configuration is completed by
// the lines of auth.
func startSecureHub(t *testing.T, auth ...string) *hub {
	t.Helper()
	dir := t.TempDir()
	h := &hub{t: t, ca: filepath.Join(dir, "ca.pem")}
	certificates(t, dir)
	log, err := os.OpenFile(filepath.Join(dir, "audit.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	h.log = log
	config := filepath.Join(dir, "tocsin.yaml")
	text := fmt.Sprintf(`
listen:
  address: 127.0.0.1:0
  tls: {cert_file: %[1]s/server.pem, key_file: %[1]s/server-key.pem}
  failed_logins: {max: 0}
data_dir: %[1]s/data
auth:
  root_token: {file: %[1]s/root}
  %[2]s
sources:
  - {name: vault, path: %[1]s/audit.log, from: start}
log: {level: warn}
`, dir, strings.Join(auth, "\n  "))
	for file, content := range map[string]string{config: text, filepath.Join(dir, "root"): rootToken} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.address = run(t, "server", "--config", config)
	return h
}

// certificates writes an authority, ca.pem, and with it server.pem and server-key.pem.
func certificates(t *testing.T, dir string) {
	t.Helper()
	caKey, serverKey := newKey(t), newKey(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "compat"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "hub"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
	}
	write := func(name, kind string, der []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	write("ca.pem", "CERTIFICATE", der, err)
	der, err = x509.CreateCertificate(rand.Reader, server, ca, &serverKey.PublicKey, caKey)
	write("server.pem", "CERTIFICATE", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(serverKey)
	write("server-key.pem", "PRIVATE KEY", der, err)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// client returns Vault's Go client, configured as its users do.
func (h *hub) client(token, namespace string) *api.Client {
	h.t.Helper()
	config := api.DefaultConfig()
	config.Address = h.address
	config.MaxRetries = 0
	if err := config.ConfigureTLS(&api.TLSConfig{CACert: h.ca}); err != nil {
		h.t.Fatal(err)
	}
	c, err := api.NewClient(config)
	if err != nil {
		h.t.Fatal(err)
	}
	c.SetToken(token)
	if namespace != "" {
		c.SetNamespace(namespace)
	}
	return c
}

func (h *hub) root() *api.Client { return h.client(rootToken, "") }

// write appends the audit entries of a write to a kv version 2 secret.
func (h *hub) write(namespace, secret string) {
	h.t.Helper()
	n := writes.Add(1)
	now := time.Now().UTC()
	ns := map[string]any{"id": "root"}
	if namespace != "" {
		ns = map[string]any{"id": "id-" + strings.Trim(namespace, "/"), "path": namespace}
	}
	request := map[string]any{
		"id": fmt.Sprintf("00000000-0000-4000-8000-%012d", n), "operation": "update", "namespace": ns,
		"mount_point": "secret/", "mount_type": "kv", "mount_accessor": "kv_1", "mount_class": "secret", "mount_running_version": "v1",
		"path": "secret/data/" + secret, "data": map[string]any{"data": map[string]any{}}, "remote_address": "127.0.0.1",
	}
	auth := map[string]any{"accessor": "hmac-sha256:00", "policies": []string{"default"}, "token_type": "service"}
	for _, entry := range []map[string]any{
		{"time": now.Format(time.RFC3339Nano), "type": "request", "auth": auth, "request": request},
		{
			"time": now.Add(time.Millisecond).Format(time.RFC3339Nano), "type": "response", "auth": auth, "request": request,
			"response": map[string]any{
				"mount_point": "secret/", "mount_type": "kv", "mount_accessor": "kv_1", "mount_class": "secret",
				"data": map[string]any{"created_time": now.Format(time.RFC3339Nano), "custom_metadata": nil, "deletion_time": "", "destroyed": false, "version": n},
			},
		},
	} {
		line, err := json.Marshal(entry)
		if err != nil {
			h.t.Fatal(err)
		}
		if _, err := h.log.Write(append(line, '\n')); err != nil {
			h.t.Fatal(err)
		}
	}
}

// stream is a subscription, read by a goroutine of its own.
type stream struct {
	t      *testing.T
	conn   *websocket.Conn
	paths  chan string // namespace and path of each event
	ended  chan struct{}
	err    error     // once ended
	at     time.Time // when it ended
	cancel context.CancelFunc
}

// subscribe opens a subscription as Vault's command line tool does.
func (h *hub) subscribe(c *api.Client, eventType string, query url.Values) *stream {
	h.t.Helper()
	if query == nil {
		query = url.Values{}
	}
	query.Set("json", "true")
	ctx, cancel := context.WithCancel(context.Background())
	conn, _, err := dial(ctx, c, eventType, query)
	if err != nil {
		cancel()
		h.t.Fatal(err)
	}
	s := &stream{t: h.t, conn: conn, paths: make(chan string, 10_000), ended: make(chan struct{}), cancel: cancel}
	go s.read(ctx)
	h.t.Cleanup(func() {
		cancel()
		<-s.ended
		conn.CloseNow()
	})
	return s
}

func (s *stream) read(ctx context.Context) {
	defer close(s.ended)
	for {
		_, message, err := s.conn.Read(ctx)
		if err != nil {
			s.err, s.at = err, time.Now()
			return
		}
		var envelope struct {
			Data struct {
				Event     struct{ Metadata struct{ Path string } }
				Namespace string
			}
		}
		if err := json.Unmarshal(message, &envelope); err != nil {
			s.t.Errorf("message %q: %v", message, err)
		}
		s.paths <- envelope.Data.Namespace + envelope.Data.Event.Metadata.Path
	}
}

// want waits for exactly these events, in this order.
func (s *stream) want(paths ...string) {
	s.t.Helper()
	for _, want := range paths {
		select {
		case got := <-s.paths:
			if got != want {
				s.t.Fatalf("event of %s, want %s", got, want)
			}
		case <-s.ended:
			s.t.Fatalf("the subscription ended: %v; want the event of %s", s.err, want)
		case <-time.After(patience):
			s.t.Fatalf("no event of %s", want)
		}
	}
}

// wantEnd waits until the hub ends the subscription, with this close code and reason
// and without another event, and returns when that was.
func (s *stream) wantEnd(code websocket.StatusCode, reason string) time.Time {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.t.Fatal("the subscription has not ended")
	}
	var closed websocket.CloseError
	if !errors.As(s.err, &closed) || closed.Code != code || !strings.Contains(closed.Reason, reason) {
		s.t.Errorf("the subscription ended with %v, want %d %s", s.err, code, reason)
	}
	select {
	case got := <-s.paths:
		s.t.Errorf("an event of %s too many", got)
	default:
	}
	return s.at
}

// dial connects the way in which Vault's command line tool does it: the official client
// gives address, token, namespace, headers and TLS, a plain WebSocket client the
// connection. The header for the namespace is there twice, as from the tool.
func dial(ctx context.Context, client *api.Client, eventType string, query url.Values) (*websocket.Conn, *http.Response, error) {
	request := client.NewRequest("GET", path.Join("/v1/sys/events/subscribe", eventType))
	u := *request.URL
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	u.RawQuery = query.Encode()
	headers := client.Headers()
	if headers == nil {
		headers = http.Header{}
	}
	headers.Set("X-Vault-Request", "true")
	headers.Add("X-Vault-Token", client.Token())
	headers.Add("X-Vault-Namespace", client.Namespace())
	return websocket.Dial(ctx, u.String(), &websocket.DialOptions{
		HTTPClient: client.CloneConfig().HttpClient, HTTPHeader: headers, CompressionMode: websocket.CompressionNoContextTakeover,
	})
}
