package enrich

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/derivation"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers like Vault 1.21 and OpenBao 2.6 do: their bodies and statuses were
// taken down from them.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	tokens   map[string][]string          // token to what it may ask for
	mounts   map[string]map[string]string // namespace to path to "accessor version"
	salt     string
	upTo     int    // the policy allows no larger numbers; 0: it does
	lease    int    // seconds; 0: tokens are not renewable
	fault    string // how every answer is wrong
	requests []string
}

func newServer(t *testing.T) *server {
	s := &server{
		tokens: map[string][]string{"t0ken": {"sys/mounts", "sys/audit-hash/file"}},
		mounts: map[string]map[string]string{"": {"secret/": "kv_1 2", "kv1/": "kv_2 1"}},
		salt:   "salt",
	}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	namespace := r.Header.Get("X-Vault-Namespace")
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	s.requests = append(s.requests, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Method, path, namespace, body)))
	refuse := func(status int, text string) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string][]string{"errors": {text}})
	}
	switch s.fault {
	case "sealed":
		refuse(503, "Vault is sealed")
		return
	case "html":
		io.WriteString(w, "<html>")
		return
	case "large":
		io.Copy(w, io.LimitReader(zeros{}, 17<<20))
		return
	case "shape":
		io.WriteString(w, `{"data":[1,2]}`)
		return
	case "redirect":
		http.Redirect(w, r, "https://active.example.org:8200"+r.URL.Path, http.StatusTemporaryRedirect)
		return
	}
	rights, valid := s.tokens[r.Header.Get("X-Vault-Token")]
	if path == "auth/token/renew-self" && valid {
		if s.lease == 0 {
			refuse(400, "lease is not renewable")
			return
		}
		fmt.Fprintf(w, `{"auth":{"client_token":"x","lease_duration":%d,"renewable":true}}`, s.lease)
		return
	}
	if !valid && s.lease == 0 {
		refuse(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
		return
	}
	if !valid || !slices.Contains(rights, path) {
		refuse(403, "1 error occurred:\n\t* permission denied\n\n")
		return
	}
	device, hash := strings.CutPrefix(path, "sys/audit-hash/")
	switch {
	case hash && r.Method == "POST" && namespace == "":
		var in struct{ Input string }
		if json.Unmarshal(body, &in) != nil || in.Input == "" {
			refuse(400, `the "input" parameter is empty`)
		} else if device != "file" {
			refuse(400, fmt.Sprintf("unknown audit backend %q", device+"/"))
		} else if n, _ := strconv.Atoi(in.Input); s.upTo > 0 && n > s.upTo {
			refuse(403, "1 error occurred:\n\t* permission denied\n\n")
		} else {
			fmt.Fprintf(w, `{"request_id":"x","data":{"hash":%q},"warnings":null}`, hashed(s.salt, in.Input))
		}
	case path == "sys/mounts" && r.Method == "GET" && s.mounts[namespace] != nil:
		data := map[string]any{"sys/": map[string]any{"type": "system", "accessor": "system_1", "options": nil}}
		for path, m := range s.mounts[namespace] {
			var accessor, version string
			fmt.Sscan(m, &accessor, &version)
			options := map[string]any{"version": version}
			if version == "" {
				options = nil
			}
			data[path] = map[string]any{"type": "kv", "accessor": accessor, "options": options}
		}
		json.NewEncoder(w).Encode(map[string]any{"data": data})
	default:
		refuse(404, "no handler for route")
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func hashed(salt, text string) string {
	m := hmac.New(sha256.New, []byte(salt))
	m.Write([]byte(text))
	return "hmac-sha256:" + hex.EncodeToString(m.Sum(nil))
}

// set changes the server.
func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// asked counts the requests that begin with a text.
func (s *server) asked(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

// logs is a buffer that is written to and read at the same time.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs an asker until the end of the test and returns what it logs.
func start(t *testing.T, s *server, change func(*Config)) (*Asker, *logs) {
	t.Helper()
	var out logs
	c := Config{
		Name:     "vault",
		Device:   "file/",
		Address:  s.URL,
		Token:    func() (string, error) { return "t0ken", nil },
		Interval: time.Hour,
		Logger:   slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
		pause:    time.Millisecond,
		backoff:  time.Millisecond,
	}
	if change != nil {
		change(&c)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if strings.Contains(out.String(), "t0ken") {
			t.Errorf("the token is in the log:\n%s", &out)
		}
	})
	return a, &out
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timeout: %s", what)
		}
	}
}

// collected is what an asker answered in a test.
type collected struct {
	mounts []derivation.Mount
	hashes map[string]int64
}

func (c *collected) take(a *Asker, q derivation.Questions) {
	for _, answer := range a.Exchange(q) {
		if len(answer.Mounts) > 0 {
			c.mounts = answer.Mounts
			slices.SortFunc(c.mounts, func(a, b derivation.Mount) int { return strings.Compare(a.Point, b.Point) })
		}
		if len(answer.Hashes) > 0 {
			if c.hashes == nil {
				c.hashes = map[string]int64{}
			}
			maps.Copy(c.hashes, answer.Hashes)
		}
	}
}

func TestAsks(t *testing.T) {
	s := newServer(t)
	s.mounts[""]["old/"] = "kv_3" // made without a version
	a, _ := start(t, s, nil)
	var c collected
	until(t, "answers", func() bool {
		c.take(a, derivation.Questions{})
		return len(c.mounts) > 0 && len(c.hashes) > 0
	})
	if want := []derivation.Mount{{Point: "kv1/", Accessor: "kv_2", Version: 1}, {Point: "old/", Accessor: "kv_3", Version: 1}, {Point: "secret/", Accessor: "kv_1", Version: 2}}; !slices.Equal(c.mounts, want) {
		t.Errorf("mounts %v", c.mounts)
	}
	if len(c.hashes) != firstNumbers || c.hashes[hashed("salt", "1")] != 1 || c.hashes[hashed("salt", "100")] != 100 {
		t.Errorf("%d hashes", len(c.hashes))
	}
	if err := a.Health(); err != nil {
		t.Error(err)
	}
	if a.Exchange(derivation.Questions{}) != nil {
		t.Error("an answer was given twice")
	}
}

// Without a device only mounts are asked for.
func TestWithoutDevice(t *testing.T) {
	s := newServer(t)
	a, _ := start(t, s, func(c *Config) { c.Device = "" })
	var c collected
	until(t, "mounts", func() bool { c.take(a, derivation.Questions{Devices: []string{"vault"}}); return len(c.mounts) > 0 })
	a.Exchange(derivation.Questions{Devices: []string{"vault"}})
	if n := s.asked("POST sys/audit-hash"); n != 0 {
		t.Errorf("%d questions for hashes", n)
	}
}

// A device that was disabled and enabled again has another salt; one that was not is
// asked for one number only.
func TestNewSalt(t *testing.T) {
	s := newServer(t)
	a, _ := start(t, s, func(c *Config) { c.Interval = 5 * time.Millisecond })
	var c collected
	until(t, "three rounds", func() bool { c.take(a, derivation.Questions{}); return s.asked("GET sys/mounts") > 3 })
	if n := s.asked(`POST sys/audit-hash/file  {"input":"2"}`); n != 1 {
		t.Errorf("the second number was asked for %d times", n)
	}
	s.set(func() { s.salt = "other" })
	until(t, "the new hashes", func() bool { c.take(a, derivation.Questions{}); return c.hashes[hashed("other", "100")] == 100 })
}

func TestMoreNumbers(t *testing.T) {
	s := newServer(t)
	a, _ := start(t, s, nil)
	var c collected
	until(t, "the first", func() bool { c.take(a, derivation.Questions{}); return len(c.hashes) == firstNumbers })
	a.Exchange(derivation.Questions{Devices: []string{"another"}})
	for n := 2 * firstNumbers; n <= maxNumber; n += firstNumbers {
		c.take(a, derivation.Questions{Devices: []string{"another", "vault"}})
		until(t, fmt.Sprint(n), func() bool { c.take(a, derivation.Questions{}); return len(c.hashes) == n })
	}
	rounds := s.asked("GET sys/mounts")
	c.take(a, derivation.Questions{Devices: []string{"vault"}})
	until(t, "another round", func() bool { return s.asked("GET sys/mounts") > rounds })
	if n := s.asked("POST sys/audit-hash"); n > maxNumber+2*maxNumber/firstNumbers {
		t.Errorf("%d questions", n)
	}
	if c.hashes[hashed("salt", "777")] != 777 {
		t.Error("a number is missing")
	}
}

// A policy may name the numbers that may be asked for.
func TestNumbersOfPolicy(t *testing.T) {
	for _, upTo := range []int{50, firstNumbers, firstNumbers + 7} {
		s := newServer(t)
		s.upTo = upTo
		a, _ := start(t, s, nil)
		var c collected
		until(t, "the first", func() bool { c.take(a, derivation.Questions{}); return len(c.hashes) == min(upTo, firstNumbers) })
		for range 3 {
			rounds := s.asked("GET sys/mounts")
			// A question counts only when no answer is on its way, so the stream asks again.
			until(t, "a round", func() bool {
				c.take(a, derivation.Questions{Devices: []string{"vault"}})
				return s.asked("GET sys/mounts") > rounds
			})
		}
		until(t, "all", func() bool { c.take(a, derivation.Questions{}); return len(c.hashes) == upTo })
		if n := s.asked(fmt.Sprintf(`POST sys/audit-hash/file  {"input":"%d"}`, upTo+1)); n != 1 {
			t.Errorf("asked %d times for more than %d", n, upTo)
		}
		if err := a.Health(); err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownMounts(t *testing.T) {
	s := newServer(t)
	s.mounts["ns1"] = map[string]string{"kv/": "kv_7 2"}
	a, out := start(t, s, nil)
	var c collected
	until(t, "the first answer", func() bool { c.take(a, derivation.Questions{}); return len(c.mounts) == 2 })
	s.set(func() { s.mounts[""]["new/"] = "kv_8 2" })
	q := derivation.Questions{Mounts: []derivation.UnknownMount{{Point: "new/", Accessor: "kv_8"}}}
	c.take(a, q)
	until(t, "the new mount", func() bool { c.take(a, derivation.Questions{}); return len(c.mounts) == 3 })
	// A mount of another namespace, and one of a namespace that may not be read.
	q.Mounts = []derivation.UnknownMount{{Namespace: "ns1/", Point: "ns1/kv/", Accessor: "kv_7"}, {Namespace: "ns2/", Point: "ns2/kv/", Accessor: "kv_9"}}
	c.take(a, q)
	until(t, "the namespace", func() bool { c.take(a, derivation.Questions{}); return len(c.mounts) == 4 })
	if !slices.Contains(c.mounts, derivation.Mount{Point: "ns1/kv/", Accessor: "kv_7", Version: 2}) {
		t.Errorf("mounts %v", c.mounts)
	}
	if err := a.Health(); err != nil {
		t.Errorf("one namespace that cannot be read: %v", err)
	}
	if !strings.Contains(out.String(), "namespace=ns2/") {
		t.Error("the namespace that cannot be read is not logged")
	}
	// What nothing is known of is not asked for again and again.
	rounds := s.asked("GET sys/mounts")
	for range 20 {
		c.take(a, q)
	}
	select {
	case <-a.wake:
		t.Error("asked again in vain")
	default:
	}
	if n := s.asked("GET sys/mounts"); n != rounds {
		t.Errorf("%d more rounds", n-rounds)
	}
}

// A token of a namespace is for the mounts in it.
func TestNamespaceOfToken(t *testing.T) {
	s := newServer(t)
	s.mounts["ns1"] = map[string]string{"kv/": "kv_7 2"}
	s.mounts["ns1/child"] = map[string]string{"kv/": "kv_8 1"}
	a, _ := start(t, s, func(c *Config) { c.Namespace, c.Device = "/ns1", "" })
	var c collected
	until(t, "the first answer", func() bool { c.take(a, derivation.Questions{}); return len(c.mounts) == 1 })
	c.take(a, derivation.Questions{Mounts: []derivation.UnknownMount{
		{Point: "secret/", Accessor: "kv_1"}, {Namespace: "ns1/child/", Point: "ns1/child/kv/", Accessor: "kv_8"},
	}})
	until(t, "the child", func() bool { c.take(a, derivation.Questions{}); return len(c.mounts) == 2 })
	if want := []derivation.Mount{{Point: "ns1/child/kv/", Accessor: "kv_8", Version: 1}, {Point: "ns1/kv/", Accessor: "kv_7", Version: 2}}; !slices.Equal(c.mounts, want) {
		t.Errorf("mounts %v", c.mounts)
	}
	for _, r := range s.requests {
		if strings.HasPrefix(r, "GET sys/mounts") && !strings.HasPrefix(r, "GET sys/mounts ns1") {
			t.Errorf("asked %q", r)
		}
	}
}

func TestFailuresAndRemedies(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*server, *Config)
		want   []string
		heal   func(*server)
		mounts bool // are told nevertheless
	}{
		{name: "no right to the mounts", change: func(s *server, _ *Config) { s.tokens["t0ken"] = []string{"sys/audit-hash/file"} },
			want: []string{"ask for the mounts", "403", `path "sys/mounts" { capabilities = ["read"] }`, "docs/enrichment.md"},
			heal: func(s *server) { s.tokens["t0ken"] = []string{"sys/mounts", "sys/audit-hash/file"} }},
		{name: "no right to hashes", change: func(s *server, _ *Config) { s.tokens["t0ken"] = []string{"sys/mounts"} },
			want: []string{"audit device file", `path "sys/audit-hash/file" { capabilities = ["update"] }`}, mounts: true,
			heal: func(s *server) { s.tokens["t0ken"] = []string{"sys/mounts", "sys/audit-hash/file"} }},
		{name: "revoked", change: func(s *server, _ *Config) { s.tokens = nil }, want: []string{"invalid token; the token has expired or was revoked: make a new one"},
			heal: func(s *server) { s.tokens = map[string][]string{"t0ken": {"sys/mounts", "sys/audit-hash/file"}} }},
		{name: "no right at all", change: func(s *server, _ *Config) { s.tokens["t0ken"] = nil },
			want: []string{`path "sys/mounts"`, `path "sys/audit-hash/file"`, "; "},
			heal: func(s *server) { s.tokens = map[string][]string{"t0ken": {"sys/mounts", "sys/audit-hash/file"}} }},
		{name: "no such device", change: func(s *server, c *Config) {
			s.tokens["t0ken"] = []string{"sys/mounts", "sys/audit-hash/nope"}
			c.Device = "nope"
		}, want: []string{`unknown audit backend "nope/"`, "bao audit list"}, mounts: true},
		{name: "sealed", change: func(s *server, _ *Config) { s.fault = "sealed" }, want: []string{"503", "Vault is sealed"},
			heal: func(s *server) { s.fault = "" }},
		{name: "not the API", change: func(s *server, _ *Config) { s.fault = "html" }, want: []string{"not of Vault's API", "check that vault.address"},
			heal: func(s *server) { s.fault = "" }},
		{name: "another shape", change: func(s *server, _ *Config) { s.fault = "shape" }, want: []string{"not of Vault's API"},
			heal: func(s *server) { s.fault = "" }},
		{name: "a flood", change: func(s *server, _ *Config) { s.fault = "large" }, want: []string{"too large"},
			heal: func(s *server) { s.fault = "" }},
		{name: "a standby", change: func(s *server, _ *Config) { s.fault = "redirect" }, want: []string{"307", "active.example.org"},
			heal: func(s *server) { s.fault = "" }},
		{name: "nobody there", change: func(_ *server, c *Config) { c.Address = "http://127.0.0.1:1" }, want: []string{"127.0.0.1:1", "refused"}},
		{name: "no token", change: func(_ *server, c *Config) { c.Token = config.SecretFromFile("/nonexistent").Reveal }, want: []string{"read the token", "/nonexistent"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newServer(t)
			a, out := start(t, s, func(c *Config) { tc.change(s, c) })
			until(t, "the failure", func() bool { return a.Health() != nil })
			text := a.Health().Error()
			for _, want := range tc.want {
				if !strings.Contains(text, want) {
					t.Errorf("%q has no %q", text, want)
				}
			}
			if strings.Contains(text, "\n") || strings.Contains(text, "t0ken") {
				t.Errorf("%q", text)
			}
			var c collected
			if c.take(a, derivation.Questions{}); tc.mounts != (len(c.mounts) > 0) {
				t.Errorf("mounts %v", c.mounts)
			}
			if tc.heal == nil {
				return
			}
			s.set(func() { tc.heal(s) })
			until(t, "all is well", func() bool {
				c.take(a, derivation.Questions{})
				return a.Health() == nil && len(c.mounts) == 2 && len(c.hashes) == firstNumbers
			})
			if n := strings.Count(out.String(), "level=WARN"); n == 0 || n > 4 {
				t.Errorf("%d warnings:\n%s", n, out)
			}
		})
	}
}

// The file of a token is read again, and a token that gets a new value is a new one.
func TestTokenFile(t *testing.T) {
	s := newServer(t)
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("old-t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ := start(t, s, func(c *Config) { c.Token = config.SecretFromFile(path).Reveal })
	until(t, "the failure", func() bool { return a.Health() != nil })
	if err := os.WriteFile(path, []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the new token", func() bool { return a.Health() == nil })
}

// Over TLS, the server must have a certificate of the given authority.
func TestTLS(t *testing.T) {
	s := newServer(t)
	secure := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ := start(t, s, func(c *Config) { c.Address, c.TLS.CACert = secure.URL, ca })
	until(t, "an answer", func() bool { return len(a.Exchange(derivation.Questions{})) > 0 })
	stranger, _ := start(t, s, func(c *Config) { c.Address = secure.URL })
	until(t, "the refusal", func() bool { return stranger.Health() != nil })
	if text := stranger.Health().Error(); !strings.Contains(text, "certificate") {
		t.Errorf("%q", text)
	}
	if _, err := New(Config{Address: secure.URL, TLS: vaultclient.TLS{CACert: "/nonexistent"}}); err == nil {
		t.Error("an authority that cannot be read is accepted")
	}
	if _, err := New(Config{Address: "ftp://a"}); err == nil {
		t.Error("a strange address is accepted")
	}
}

func TestRenewal(t *testing.T) {
	s := newServer(t)
	s.lease = 2 // renewed after one second
	a, _ := start(t, s, func(c *Config) { c.Interval = 20 * time.Millisecond })
	until(t, "the second renewal", func() bool { return s.asked("POST auth/token/renew-self") >= 2 })
	if rounds := s.asked("GET sys/mounts"); rounds < 10 {
		t.Errorf("renewed twice in %d rounds", rounds)
	}
	s.set(func() { s.lease, s.requests = 0, nil })
	until(t, "the refusal", func() bool { return s.asked("POST auth/token/renew-self") == 1 })
	rounds := s.asked("GET sys/mounts")
	until(t, "more rounds", func() bool { return s.asked("GET sys/mounts") > rounds+5 })
	if n := s.asked("POST auth/token/renew-self"); n != 1 {
		t.Errorf("%d renewals of a token that cannot be renewed", n)
	}
	if err := a.Health(); err != nil {
		t.Error(err)
	}
}

// What nobody takes does not pile up.
func TestAnswersNobodyTakes(t *testing.T) {
	s := newServer(t)
	a, _ := start(t, s, func(c *Config) { c.Interval = time.Millisecond })
	until(t, "rounds", func() bool { return s.asked("GET sys/mounts") > 20 })
	if answers := a.Exchange(derivation.Questions{}); len(answers) > 2 {
		t.Errorf("%d answers", len(answers))
	}
	var idle Asker
	for n := range int64(3) {
		idle.tell(derivation.Answers{Device: "vault", Hashes: map[string]int64{fmt.Sprint(n): n}})
		idle.tell(derivation.Answers{Mounts: []derivation.Mount{{Point: fmt.Sprint(n)}}})
	}
	if answers := idle.Exchange(derivation.Questions{}); len(answers) != 2 || len(answers[0].Hashes) != 3 || len(answers[1].Mounts) != 1 || answers[1].Mounts[0].Point != "2" {
		t.Errorf("got %v", answers)
	}
}

// After a regular round, a mount that nothing was known of is asked for again.
func TestAskedAgainAtTheInterval(t *testing.T) {
	s := newServer(t)
	a, _ := start(t, s, func(c *Config) { c.Interval = 5 * time.Millisecond })
	q := derivation.Questions{Mounts: []derivation.UnknownMount{{Point: "gone/", Accessor: "kv_9"}}}
	for range 3 {
		until(t, "a round that forgets", func() bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			return len(a.asked.vain) == 0
		})
		a.Exchange(derivation.Questions{})
		a.Exchange(q)
	}
}

// The answers make a version list readable that is hashed in the stream.
func TestDerivedWithAnswers(t *testing.T) {
	s := newServer(t)
	a, _ := start(t, s, nil)
	other, _ := start(t, s, func(c *Config) { c.Name, c.Device = "second", "" })
	exchange := Join(other, a)
	d := derivation.New(derivation.Options{Source: "vault://t"})
	d.Device("vault")
	hashes := false
	until(t, "answers", func() bool {
		for _, answer := range exchange(d.Questions()) {
			d.Answer(answer)
			hashes = hashes || len(answer.Hashes) > 0
		}
		return hashes
	})
	e := derive(t, d, fmt.Sprintf(`{"time":"2026-11-27T03:02:25.5Z","type":"response","request":{"id":"7fc8bef6-28b0-2d24-013f-847e4b8ae0fd","operation":"update","mount_point":"secret/","mount_type":"kv","mount_accessor":"kv_1","namespace":{"id":"root"},"path":"secret/destroy/a","data":{"versions":[%q,%q]}},"response":{"mount_type":"kv","mount_accessor":"kv_1"}}`,
		hashed("salt", "3"), hashed("salt", "12")))
	if v, _ := e.Metadata.Text("destroyed_versions"); e.Type != "kv-v2/destroy" || v != "[3,12]" {
		t.Errorf("%s %q", e.Type, v)
	}
}

// derive returns the only event of a line.
func derive(t *testing.T, d *derivation.Deriver, line string) *event.Event {
	t.Helper()
	var p auditlog.Parser
	e, err := p.Parse([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	events := d.Apply(e)
	if len(events) != 1 {
		t.Fatalf("%d events", len(events))
	}
	return events[0]
}

func FuzzParseMounts(f *testing.F) {
	f.Add("ns1/", []byte(`{"secret/":{"accessor":"kv_1","options":{"version":"2"},"type":"kv"},"sys/":{"type":"system","options":null}}`))
	f.Add("", []byte(`null`))
	f.Add("", []byte(`{"":{"type":"kv"},"a":{"type":"generic","options":{"version":2}}}`))
	f.Fuzz(func(t *testing.T, namespace string, data []byte) {
		mounts, err := parseMounts(namespace, data)
		for _, m := range mounts {
			if err != nil || m.Version != 1 && m.Version != 2 || !strings.HasPrefix(m.Point, namespace) || !strings.HasSuffix(m.Point, "/") {
				t.Errorf("%+v, %v", m, err)
			}
		}
	})
}
