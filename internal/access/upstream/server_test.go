package upstream

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a small Vault: it knows some tokens and answers lookup-self.
type server struct {
	*httptest.Server
	asked atomic.Int64
	// handler, if set, answers instead.
	handler atomic.Pointer[http.HandlerFunc]

	mu     sync.Mutex
	tokens map[string]map[string]any // by namespace header + " " + token
}

func newServer(t *testing.T) *server {
	s := &server{tokens: make(map[string]map[string]any)}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // handshakes that fail on purpose
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	if h := s.handler.Load(); h != nil {
		(*h)(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	s.mu.Lock()
	data := s.tokens[r.Header.Get("X-Vault-Namespace")+" "+r.Header.Get("X-Vault-Token")]
	s.mu.Unlock()
	switch {
	case r.Method != http.MethodGet || r.URL.Path != "/v1/auth/token/lookup-self" || r.Header.Get("X-Vault-Request") != "true":
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintln(w, `{"errors":["bad request"]}`)
	case data == nil:
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintln(w, `{"errors":["permission denied"]}`)
	default:
		json.NewEncoder(w).Encode(map[string]any{"data": data})
	}
}

// add makes a token known, with changes to what is usual: pairs of member and value.
func (s *server) add(namespace, token string, pairs ...any) {
	data := map[string]any{
		"id": token, "type": "service", "policies": []string{"default", "team"}, "num_uses": 0, "ttl": 0,
		"expire_time": nil, "accessor": "accessor", "display_name": "token", "meta": nil, "entity_id": "",
		"creation_time": 1_700_000_000, "renewable": true,
	}
	for i := 0; i < len(pairs); i += 2 {
		data[pairs[i].(string)] = pairs[i+1]
		if pairs[i+1] == "absent" {
			delete(data, pairs[i].(string))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[namespace+" "+token] = data
}

func (s *server) remove(namespace, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, namespace+" "+token)
}

func (s *server) answer(h http.HandlerFunc) { s.handler.Store(&h) }

// caFile writes the certificate of the server to a file.
func (s *server) caFile(t *testing.T) string {
	return writeFile(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func writeFile(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// provider makes a Provider for s. Its log is checked to be without tokens at the end
// of the test: all of them begin with "secret".
func (s *server) provider(t *testing.T, change func(*Config)) (*Provider, *log) {
	t.Helper()
	l := &log{}
	c := Config{
		Address: s.URL,
		CAFile:  s.caFile(t),
		Timeout: 10 * time.Second,
		Logger:  slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&c)
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		if bytes.Contains([]byte(l.String()), []byte("secret")) {
			t.Errorf("the log has a token in it:\n%s", l)
		}
	})
	return p, l
}

// log is a buffer that may be written to and read at the same time.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
