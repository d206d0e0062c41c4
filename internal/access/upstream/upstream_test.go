package upstream

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
)

func TestAuthenticate(t *testing.T) {
	s := newServer(t)
	s.add("", "secret-1", "meta", map[string]string{"team": "a"}, "identity_policies", []string{"team", "extra"}, "entity_id", "e1")
	p, _ := s.provider(t, func(c *Config) { c.Name = "prod" })
	x, err := p.Authenticate(t.Context(), "secret-1", "")
	if err != nil {
		t.Fatal(err)
	}
	want := &access.External{
		Provider: "prod", DisplayName: "token", Accessor: "accessor",
		Policies: []string{"default", "extra", "team"},
		Subject:  policy.Subject{EntityID: "e1", TokenMetadata: map[string]string{"team": "a"}, DisplayName: "token"},
		Created:  time.Unix(1_700_000_000, 0), Renewable: true,
		Meta: map[string]string{"team": "a"},
	}
	if !reflect.DeepEqual(x, want) {
		t.Errorf("got  %+v\nwant %+v", x, want)
	}

	if _, err := p.Authenticate(t.Context(), "secret-2", ""); !errors.Is(err, access.ErrDenied) {
		t.Errorf("unknown token: %v", err)
	}
	s.remove("", "secret-1")
	if _, err := p.Authenticate(t.Context(), "secret-1", ""); !errors.Is(err, access.ErrDenied) {
		t.Errorf("revoked token: %v", err)
	}
	if got := s.asked.Load(); got != 3 {
		t.Errorf("asked %d times, want 3: nothing is kept", got)
	}
}

// TestData has all that can be wrong with an answer of status 200.
func TestData(t *testing.T) {
	const denied, unavailable = "denied", "unavailable"
	for _, test := range []struct {
		name  string
		pairs []any
		root  bool   // AllowRoot
		want  string // policies, "ROOT", denied or unavailable
		log   string
	}{
		{name: "usual", want: "default team"},
		{name: "batch", pairs: []any{"type", "batch", "accessor", ""}, want: "default team"},
		{name: "no policies", pairs: []any{"policies", []string{}}, want: ""},
		{name: "root not allowed", pairs: []any{"policies", []string{"root"}}, want: ""},
		{name: "root allowed", pairs: []any{"policies", []string{"root"}}, root: true, want: "ROOT root"},
		{name: "root by identity", pairs: []any{"identity_policies", []string{"root"}}, root: true, want: "ROOT default root team"},
		{name: "root of another namespace", pairs: []any{"policies", []string{"root"}, "namespace_path", "ns1/"}, root: true, want: ""},
		{name: "root allowed, not root", root: true, want: "default team"},
		{name: "limited uses", pairs: []any{"num_uses", 3}, want: denied, log: "number of uses"},
		{name: "last use", pairs: []any{"num_uses", -1}, want: denied, log: "number of uses"},
		{name: "uses not told", pairs: []any{"num_uses", "absent"}, want: unavailable, log: "lacks"},
		{name: "uses null", pairs: []any{"num_uses", nil}, want: unavailable, log: "lacks"},
		{name: "uses a text", pairs: []any{"num_uses", "0"}, want: unavailable, log: "wrong type"},
		{name: "bound", pairs: []any{"bound_cidrs", []string{"10.0.0.0/8"}}, want: denied, log: "bound to addresses"},
		{name: "bound to nothing", pairs: []any{"bound_cidrs", []string{}}, want: "default team"},
		{name: "another type", pairs: []any{"type", "recovery"}, want: denied, log: "neither"},
		{name: "no type", pairs: []any{"type", "absent"}, want: unavailable, log: "lacks"},
		{name: "no policies member", pairs: []any{"policies", "absent"}, want: unavailable, log: "lacks"},
		{name: "policies a text", pairs: []any{"policies", "root"}, want: unavailable, log: "wrong type"},
		{name: "policies null", pairs: []any{"policies", nil}, want: unavailable, log: "lacks"},
		{name: "policy names of other types", pairs: []any{"policies", []any{1}}, want: unavailable, log: "wrong type"},
		{name: "too many policies", pairs: []any{"policies", make([]string, 1001)}, want: denied, log: "more than"},
		{name: "empty names", pairs: []any{"policies", []string{"", "a"}}, want: "a"},
		{name: "large metadata", pairs: []any{"meta", map[string]string{"a": strings.Repeat("x", 70_000)}}, want: denied, log: "metadata"},
		{name: "metadata of other types", pairs: []any{"meta", map[string]int{"a": 1}}, want: unavailable, log: "wrong type"},
		{name: "another token", pairs: []any{"id", "secret-other"}, want: unavailable, log: "another token"},
		{name: "no id", pairs: []any{"id", "absent"}, want: unavailable, log: "lacks"},
		{name: "expired", pairs: []any{"expire_time", "2001-01-01T00:00:00Z"}, want: denied},
		{name: "bad time", pairs: []any{"expire_time", "soon"}, want: unavailable, log: "broken"},
		{name: "huge ttl", pairs: []any{"ttl", int64(9e18)}, want: "default team"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.add("", "secret-1", test.pairs...)
			p, l := s.provider(t, func(c *Config) { c.AllowRoot = test.root })
			x, err := p.Authenticate(t.Context(), "secret-1", "")
			got := ""
			switch {
			case errors.Is(err, access.ErrDenied):
				got = denied
			case errors.Is(err, access.ErrUnavailable):
				got = unavailable
			case err != nil:
				got = err.Error()
			default:
				got = strings.Join(x.Policies, " ")
				if x.Root {
					got = "ROOT " + got
				}
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if !strings.Contains(l.String(), test.log) || (test.log == "") != (l.String() == "") {
				t.Errorf("log %q, want %q", l, test.log)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has a token in it: %v", err)
			}
		})
	}
}

// TestAnswers has answers other than 200 and such as no Vault gives.
func TestAnswers(t *testing.T) {
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	typed := func(mediaType string, h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			h(w, r)
		}
	}
	good := `{"data":{"id":"secret-1","type":"service","policies":[],"num_uses":0,"ttl":0}}`
	for _, test := range []struct {
		name   string
		h      http.HandlerFunc
		denied bool
		log    string // of ErrUnavailable
	}{
		{"403", status(403, `{"errors":["permission denied"]}`), true, ""},
		{"404 of a namespace", status(404, `{"errors":["no such namespace"]}`), true, ""},
		{"404 without text", status(404, `{"errors":[]}`), true, ""},
		{"namespace of the token is gone", status(500, `{"errors":["failed to look up namespace from the token: no namespace"]}`), true, ""},
		{"403 of something else", status(403, `{"message":"Forbidden"}`), false, "is the address"},
		{"403 with wrong types", status(403, `{"errors":"denied"}`), false, "is the address"},
		{"404 page", func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) }, false, "not JSON"},
		{"400", status(400, `{"errors":["missing client token"]}`), false, "is the address"},
		{"401", status(401, ``), false, "is the address"},
		{"412", status(412, `{"errors":["required index state not present"]}`), false, "newest changes"},
		{"429", status(429, `{"errors":["request path \"auth/token/lookup-self\": rate limit quota exceeded"]}`), false, "rate"},
		{"500", status(500, `{"errors":["1 error occurred:\n\t* internal error\n\n"]}`), false, "see its log"},
		{"502", status(502, `<html>`), false, "see its log"},
		{"503 sealed", status(503, `{"errors":["Vault is sealed"]}`), false, "sealed"},
		{"204", status(204, ``), false, "is the address"},
		{"307 without address", status(307, ``), false, "redirect"},
		{"empty", status(200, ``), false, "broken"},
		{"HTML", typed("text/html", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<!doctype html>") }), false, "not JSON"},
		{"JSON called HTML", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, good)
		}, false, "not JSON"},
		{"array", status(200, `[]`), false, "wrong type"},
		{"null", status(200, `null`), false, "lacks"},
		{"data null", status(200, `{"data":null}`), false, "lacks"},
		{"data text", status(200, `{"data":"x"}`), false, "wrong type"},
		{"two values", status(200, good+good), false, "broken"},
		{"cut", status(200, good[:len(good)-2]), false, "broken"},
		{"deep", status(200, strings.Repeat(`{"data":`, 100_000)), false, "broken"},
		{"large", status(200, `{"x":"`+strings.Repeat("x", 1<<20)+`"}`), false, "larger"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat(" ", 64<<10)); err != nil {
					return
				}
			}
		}, false, "larger"},
		{"gzip bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			for range 16 {
				io.WriteString(z, strings.Repeat(" ", 1<<20))
			}
		}, false, "compressed"},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false, "does not answer"},
		{"hangs up in the middle", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"data":`)
			panic(http.ErrAbortHandler)
		}, false, "does not answer"},
		{"huge header", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Large", strings.Repeat("x", 1<<20))
		}, false, "does not answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.answer(test.h)
			p, l := s.provider(t, nil)
			_, err := p.Authenticate(t.Context(), "secret-1", "")
			if test.denied {
				if !errors.Is(err, access.ErrDenied) || l.String() != "" {
					t.Errorf("got %v and log %q, want ErrDenied and none", err, l)
				}
				return
			}
			if !errors.Is(err, access.ErrUnavailable) || errors.Is(err, access.ErrDenied) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
			if !strings.Contains(l.String(), test.log) {
				t.Errorf("log %q, want %q", l, test.log)
			}
			for _, want := range []string{"upstream", p.address, "try again"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not mention %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has the token in it: %v", err)
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var told atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := newServer(t)
		s.answer(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+r.URL.Path, status) })
		p, l := s.provider(t, nil)
		if _, err := p.Authenticate(t.Context(), "secret-1", ""); !errors.Is(err, access.ErrUnavailable) {
			t.Errorf("%d: %v", status, err)
		}
		if !strings.Contains(l.String(), "redirect") {
			t.Errorf("%d: log %q", status, l)
		}
	}
	if told.Load() != 0 {
		t.Error("the other server was asked")
	}
}

func TestNamespaces(t *testing.T) {
	s := newServer(t)
	s.add("", "secret-root")
	s.add("a", "secret-a", "namespace_path", "a/")
	s.add("a/b", "secret-ab", "namespace_path", "a/b/")
	p, _ := s.provider(t, nil)
	fixed, _ := s.provider(t, func(c *Config) { c.Namespace = "/a/" })
	for _, test := range []struct {
		p         *Provider
		token, in string
		want      string // namespace, or "denied"
		asked     int64
	}{
		{p, "secret-root", "", "", 1},
		{p, "secret-root", "a/", "", 2},
		{p, "secret-root", "a/b/c/", "", 4},
		{p, "secret-a", "a/", "a/", 1},
		{p, "secret-a", "/a/b", "a/", 2},
		{p, "secret-a", "", "denied", 1},
		{p, "secret-a", "b/", "denied", 2},
		{p, "secret-ab", "a/b/", "a/b/", 1},
		{p, "secret-ab", "a/", "denied", 2},
		{p, "secret-1", "1/2/3/4/5/6/7/8/", "denied", 9},
		{p, "secret-root", "1/2/3/4/5/6/7/8/9/", "denied", 0},
		{p, "secret-root", "a\r\nX-Vault-Token: root/", "denied", 0},
		{p, "secret-root", "ü/", "denied", 0},
		{fixed, "secret-a", "", "a/", 1},
		{fixed, "secret-a", "b/", "a/", 1},
		{fixed, "secret-ab", "a/b/", "denied", 1},
		{fixed, "secret-root", "", "denied", 1},
	} {
		before := s.asked.Load()
		x, err := test.p.Authenticate(t.Context(), test.token, test.in)
		got := "denied"
		if err == nil {
			got = x.Namespace
		} else if !errors.Is(err, access.ErrDenied) {
			t.Errorf("%s in %q: %v", test.token, test.in, err)
		}
		if asked := s.asked.Load() - before; got != test.want || asked != test.asked {
			t.Errorf("%s in %q: namespace %q after %d questions, want %q after %d", test.token, test.in, got, asked, test.want, test.asked)
		}
	}
}

func TestRecognises(t *testing.T) {
	p, err := New(Config{Address: "https://vault.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]bool{
		"":                false,
		"root":            true,
		"hvs.CAESIA":      true,
		"hvs.CAESIA.nsid": true,
		"s.a.b":           true,
		"tcs.x":           false,
		"tcs":             true,
		"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ4In0.sig": false,
		"eyJhbGciOiJkaXIifQ....x":                  false,
		"eyJhb":                                    true,
		"eyJ.x":                                    true,
		"sp ace":                                   false,
		"line\nbreak":                              false,
		"nul\x00":                                  false,
		"del\x7f":                                  false,
		"tökén":                                    false,
		"\xff\xfe":                                 false,
		strings.Repeat("x", 8<<10):                 true,
		strings.Repeat("x", 8<<10+1):               false,
	} {
		if got := p.Recognises(token, ""); got != want {
			t.Errorf("Recognises(%.50q) = %v, want %v", token, got, want)
		}
		if !want {
			// It must not even be tried: the address does not exist.
			if _, err := p.Authenticate(t.Context(), token, ""); !errors.Is(err, access.ErrDenied) {
				t.Errorf("Authenticate(%.50q): %v", token, err)
			}
		}
	}
}

func TestServerIsSlow(t *testing.T) {
	for name, before := range map[string]string{"nothing": "", "half of the answer": `{"data":`} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			release := make(chan struct{})
			s.answer(func(w http.ResponseWriter, r *http.Request) {
				if before != "" {
					w.Header().Set("Content-Type", "application/json")
					io.WriteString(w, before)
					w.(http.Flusher).Flush()
				}
				<-release
			})
			t.Cleanup(func() { close(release) }) // before the server closes
			p, l := s.provider(t, func(c *Config) { c.Timeout = 100 * time.Millisecond })
			_, err := p.Authenticate(t.Context(), "secret-1", "")
			if !errors.Is(err, access.ErrUnavailable) || !strings.Contains(err.Error(), "in time") {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(l.String(), "does not answer") {
				t.Errorf("log %q", l)
			}
			// Others do not wait.
			before := s.asked.Load()
			start := time.Now()
			for range 1000 {
				if _, err := p.Authenticate(t.Context(), "secret-2", ""); !errors.Is(err, access.ErrUnavailable) {
					t.Fatal(err)
				}
			}
			if s.asked.Load() != before {
				t.Error("the server was asked although it had just not answered")
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("1000 refusals took %s", took)
			}
		})
	}
}

// TestClientGoesAway: whoever hangs up says nothing about the server.
func TestClientGoesAway(t *testing.T) {
	s := newServer(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	s.answer(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
	})
	t.Cleanup(func() { close(release) })
	p, l := s.provider(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := p.Authenticate(ctx, "secret-1", "")
	if !errors.Is(err, access.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.handler.Store(nil)
	s.add("", "secret-2")
	if _, err := p.Authenticate(t.Context(), "secret-2", ""); err != nil {
		t.Errorf("the next one: %v", err)
	}
	if l.String() != "" {
		t.Errorf("log %q", l)
	}
}

// TestDeadlineOfCaller: a server that has not answered by the deadline of the caller
// is slow, even when its own time is not over.
func TestDeadlineOfCaller(t *testing.T) {
	s := newServer(t)
	release := make(chan struct{})
	s.answer(func(http.ResponseWriter, *http.Request) { <-release })
	t.Cleanup(func() { close(release) })
	p, _ := s.provider(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Authenticate(ctx, "secret-1", ""); !errors.Is(err, access.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	before := s.asked.Load()
	if _, err := p.Authenticate(t.Context(), "secret-1", ""); !errors.Is(err, access.ErrUnavailable) || s.asked.Load() != before {
		t.Errorf("asked again: %v", err)
	}
}

// TestFlood: more questions at once than the server gets are in order, and all are
// answered.
func TestFlood(t *testing.T) {
	s := newServer(t)
	var now, most atomic.Int64
	s.answer(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(403)
		io.WriteString(w, `{"errors":["permission denied"]}`)
	})
	p, _ := s.provider(t, nil)
	var group sync.WaitGroup
	for i := range 500 {
		group.Go(func() {
			if _, err := p.Authenticate(t.Context(), fmt.Sprint("secret-", i), ""); !errors.Is(err, access.ErrDenied) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if most.Load() > maxAsking {
		t.Errorf("%d questions at once, the bound is %d", most.Load(), maxAsking)
	}
	if len(p.asking) != 0 || p.waiting.Load() != 0 {
		t.Errorf("%d turns not returned, %d still waiting", len(p.asking), p.waiting.Load())
	}
}

func TestTooManyWaiting(t *testing.T) {
	p, err := New(Config{Address: "https://vault.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for range maxAsking {
		p.asking <- struct{}{}
	}
	p.waiting.Store(maxWaiting)
	if _, err := p.Authenticate(t.Context(), "secret-1", ""); !errors.Is(err, access.ErrUnavailable) || !strings.Contains(err.Error(), "too many") {
		t.Errorf("got %v", err)
	}
	p.waiting.Store(0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Authenticate(ctx, "secret-1", ""); !errors.Is(err, access.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	s := newServer(t)
	p, l := s.provider(t, nil)
	s.Close()
	_, err := p.Authenticate(t.Context(), "secret-1", "")
	if !errors.Is(err, access.ErrUnavailable) || !strings.Contains(err.Error(), p.address) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(l.String(), "connection refused") {
		t.Errorf("log %q", l)
	}
}

func TestNewRefuses(t *testing.T) {
	bad := writeFile(t, "bad.pem", []byte("no certificate"))
	for _, test := range []struct {
		c    Config
		want string
	}{
		{Config{}, "address: is empty"},
		{Config{Address: "vault.example.com:8200"}, "no https://"},
		{Config{Address: "ftp://vault.example.com"}, "no https://"},
		{Config{Address: "https://"}, "no host"},
		{Config{Address: "https://:8200"}, "no host"},
		{Config{Address: "https://%zz"}, "not a URL"},
		{Config{Address: "https://a:hunter2@vault.example.com"}, "user name"},
		{Config{Address: "https://vault.example.com?x=1"}, "query"},
		{Config{Address: "https://vault.example.com#x"}, "fragment"},
		{Config{Address: "https://vault.example.com/v1/"}, "/v1"},
		{Config{Address: "http://vault.example.com:8200"}, "unencrypted"},
		{Config{Address: "http://10.1.2.3:8200"}, "unencrypted"},
		{Config{Address: "http://localhost.example.com"}, "unencrypted"},
		{Config{Address: "http://127.0.0.1", CAFile: bad}, "no effect"},
		{Config{Address: "https://a", Name: "Not A Name"}, "name"},
		{Config{Address: "https://a", Namespace: "1/2/3/4/5/6/7/8/9"}, "namespace"},
		{Config{Address: "https://a", Namespace: "a\nb"}, "namespace"},
		{Config{Address: "https://a", Timeout: -1}, "timeout"},
		{Config{Address: "https://a", Recheck: -1}, "recheck"},
		{Config{Address: "https://a", CAFile: "/nonexistent/ca.pem"}, "ca_file: stat /nonexistent"},
		{Config{Address: "https://a", CAFile: bad}, "no PEM certificate"},
		{Config{Address: "https://a", CAFile: t.TempDir()}, "directory"},
		{Config{Address: "https://a", CertFile: bad}, "belong together"},
		{Config{Address: "https://a", KeyFile: bad}, "belong together"},
		{Config{Address: "https://a", CertFile: bad, KeyFile: bad}, "cert_file"},
		{Config{Address: "https://a", ProxyURL: "proxy.example.com"}, "proxy_url"},
	} {
		_, err := New(test.c)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v, want %q", test.c, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("password in %v", err)
		}
	}
	for _, c := range []Config{
		{Address: "http://127.0.0.1:8200"},
		{Address: "http://[::1]:8200"},
		{Address: "http://localhost:8200/"},
		{Address: "http://vault.internal:8200", InsecureAllowHTTP: true},
		{Address: "https://vault.example.com:8200/prefix/", Patience: -1},
	} {
		if _, err := New(c); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	p, err := New(Config{Address: "https://vault.example.com/prefix/"})
	if err != nil {
		t.Fatal(err)
	}
	if p.Name() != "upstream" || p.Recheck() != DefaultRecheck || p.Patience() != DefaultPatience || p.timeout != DefaultTimeout {
		t.Errorf("%s %s %s %s", p.Name(), p.Recheck(), p.Patience(), p.timeout)
	}
	if want := "https://vault.example.com/prefix/v1/auth/token/lookup-self"; p.endpoint != want {
		t.Errorf("endpoint %s, want %s", p.endpoint, want)
	}
	if p, _ = New(Config{Address: "https://a", Patience: -1}); p.Patience() != 0 {
		t.Errorf("patience %s", p.Patience())
	}
}
