package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/event"
)

func TestMain(m *testing.M) {
	if runChild() {
		return
	}
	goleak.VerifyTestMain(m)
}

// quick is a timing for tests that do not test it.
var quick = timing{minBackoff: time.Millisecond, maxBackoff: 5 * time.Millisecond, handshake: 5 * time.Second, idle: 5 * time.Second}

// fakeHub is a server with a numbered log that ends connections as a test wants.
type fakeHub struct {
	t *testing.T
	*httptest.Server

	mu       sync.Mutex
	requests []*http.Request
	serve    func(n int, w http.ResponseWriter, r *http.Request) // connection n, from 0
}

func newFakeHub(t *testing.T, serve func(n int, w http.ResponseWriter, r *http.Request)) *fakeHub {
	h := &fakeHub{t: t, serve: serve}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		n := len(h.requests)
		h.requests = append(h.requests, r)
		h.mu.Unlock()
		h.serve(n, w, r)
	}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.Start()
	t.Cleanup(func() {
		h.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return h
}

// queries returns one parameter of every request so far.
func (h *fakeHub) queries(name string) (values []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.requests {
		values = append(values, r.URL.Query().Get(name))
	}
	return values
}

func (h *fakeHub) subscribe(t *testing.T, o Options) *Subscription {
	t.Helper()
	o.Address = h.URL
	s, err := subscribe(t.Context(), "kv-v2/*", o, quick)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func position(n int) string { return fmt.Sprintf("pos%05d", n) }

func message(n int, sequence bool) []byte {
	e := &event.Event{ID: fmt.Sprintf("id-%d", n), Type: "kv-v2/data-write", Source: "vault://test", Time: time.Unix(int64(n), 0)}
	if !sequence {
		return event.AppendVaultJSON(nil, e, "")
	}
	return event.AppendVaultJSON(nil, e, position(n))
}

// accept upgrades the connection; the context ends when the client goes away.
func accept(t *testing.T, w http.ResponseWriter, r *http.Request) (*websocket.Conn, context.Context) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	return c, c.CloseRead(r.Context())
}

func send(ctx context.Context, c *websocket.Conn, messages ...[]byte) {
	for _, m := range messages {
		if c.Write(ctx, websocket.MessageText, m) != nil {
			return
		}
	}
}

func ids(t *testing.T, s *Subscription, n int) (got []string) {
	t.Helper()
	for range n {
		m, err := s.Next(t.Context())
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		got = append(got, m.Event.ID)
	}
	return got
}

// The server ends the connection in every way there is after every few events,
// and repeats some; each event arrives once.
func TestResume(t *testing.T) {
	const total = 60
	h := newFakeHub(t, func(n int, w http.ResponseWriter, r *http.Request) {
		next := 0
		if since := r.URL.Query().Get("since"); since != "" {
			fmt.Sscanf(since, "pos%d", &next)
			if n%2 == 0 {
				next++ // else the last event is repeated
			}
		}
		if n%5 == 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		c, ctx := accept(t, w, r)
		for i := next; i < min(next+4, total); i++ {
			send(ctx, c, message(i, true))
		}
		switch n % 3 {
		case 0:
			c.Close(websocket.StatusGoingAway, "restart")
		case 1:
			c.CloseNow()
		case 2:
			c.Write(ctx, websocket.MessageText, message(min(next+4, total), true)[:10])
			c.CloseNow()
		}
	})
	var notices []Notice
	s := h.subscribe(t, Options{Notify: func(n Notice) { notices = append(notices, n) }})
	for i := range total {
		m, err := s.Next(t.Context())
		for err != nil && strings.Contains(err.Error(), "decode") {
			m, err = s.Next(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("id-%d", i); m.Event.ID != want || m.Position != position(i) {
			t.Fatalf("event %d is %s at %s", i, m.Event.ID, m.Position)
		}
		if string(m.Raw) != string(message(i, true)) {
			t.Fatalf("raw bytes %q", m.Raw)
		}
	}
	disconnected, reconnected := 0, 0
	for _, n := range notices {
		switch n.Kind {
		case Disconnected:
			disconnected++
			if n.Err == nil || n.Retry < 0 {
				t.Errorf("notice %+v", n)
			}
		case Reconnected:
			reconnected++
		default:
			t.Errorf("notice %+v", n)
		}
	}
	if reconnected == 0 || disconnected < reconnected {
		t.Errorf("%d notices of lost connections, %d of new ones", disconnected, reconnected)
	}
}

func TestRequest(t *testing.T) {
	h := newFakeHub(t, func(n int, w http.ResponseWriter, r *http.Request) {
		c, _ := accept(t, w, r)
		c.CloseNow()
	})
	h.subscribe(t, Options{
		Token: "t0ken", Namespace: "ns1/", Namespaces: []string{"*", "a b"}, Filter: `event_type == "x"`, Since: "1h", Format: FormatCloudEvents,
	})
	r := h.requests[0]
	if r.URL.Path != "/v1/sys/events/subscribe/kv-v2/*" {
		t.Errorf("path %q", r.URL.Path)
	}
	want := url.Values{
		"json": {"true"}, "sequence": {"true"}, "namespaces": {"*", "a b"}, "filter": {`event_type == "x"`}, "since": {"1h"}, "format": {"cloudevents"},
	}
	if r.URL.RawQuery != want.Encode() {
		t.Errorf("query %q", r.URL.RawQuery)
	}
	for name, want := range map[string]string{"X-Vault-Token": "t0ken", "X-Vault-Namespace": "ns1/", "X-Vault-Request": "true"} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		status  int
		body    string
		wraps   error
		message string
	}{
		{403, `{"errors":["permission denied"]}`, ErrPermission, "server answered 403: permission denied"},
		{401, ``, ErrPermission, "server answered 401 Unauthorized"},
		{404, `404 page not found`, ErrNotFound, "server answered 404: 404 page not found"},
		{400, `{"errors":["a","b\u001b[31m"]}`, ErrBadRequest, "server answered 400: a; b [31m"},
		{426, ``, ErrBadRequest, "server answered 426 Upgrade Required"},
		{429, ``, ErrUnavailable, "server answered 429 Too Many Requests"},
		{500, `{"errors":[]}`, ErrUnavailable, "server answered 500 Internal Server Error"},
		{503, `{"errors":["Vault is sealed"]}`, ErrUnavailable, "server answered 503: Vault is sealed"},
		{200, `hello`, nil, "server answered 200: hello"},
	} {
		t.Run(fmt.Sprint(tc.status), func(t *testing.T) {
			h := newFakeHub(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.body)
			})
			_, err := Subscribe(t.Context(), "*", Options{Address: h.URL})
			status, ok := errors.AsType[*StatusError](err)
			if !ok || status.StatusCode != tc.status || status.RetryAfter != 7*time.Second {
				t.Fatalf("error is %#v", err)
			}
			if tc.wraps != nil && !errors.Is(err, tc.wraps) || err.Error() != tc.message {
				t.Errorf("error is %q, want %q", err, tc.message)
			}
		})
	}
}

func TestRedirects(t *testing.T) {
	active := newFakeHub(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != "t0ken" {
			t.Error("the token did not follow the redirect")
		}
		c, ctx := accept(t, w, r)
		send(ctx, c, message(0, true))
		<-ctx.Done()
		c.CloseNow()
	})
	redirect := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "ws"+strings.TrimPrefix(active.URL, "http")+r.URL.RequestURI(), http.StatusTemporaryRedirect)
	})
	standby := newFakeHub(t, func(_ int, w http.ResponseWriter, r *http.Request) { redirect(w, r) })
	ids(t, standby.subscribe(t, Options{Token: "t0ken"}), 1)

	secure := httptest.NewTLSServer(redirect)
	t.Cleanup(secure.Close)
	_, err := Subscribe(t.Context(), "*", Options{Address: secure.URL, Token: "t0ken", HTTPClient: secure.Client()})
	if err == nil || !strings.Contains(err.Error(), "unencrypted") || strings.Contains(err.Error(), "t0ken") {
		t.Errorf("from https to http: %v", err)
	}

	endless := newFakeHub(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.RequestURI(), http.StatusTemporaryRedirect)
	})
	if _, err := Subscribe(t.Context(), "*", Options{Address: endless.URL}); err == nil || !strings.Contains(err.Error(), "10 redirects") {
		t.Errorf("endless redirects: %v", err)
	}
	if n := len(endless.queries("json")); n != 11 {
		t.Errorf("%d requests", n)
	}
}

func TestRefusedWhileReconnecting(t *testing.T) {
	h := newFakeHub(t, func(n int, w http.ResponseWriter, r *http.Request) {
		if n > 0 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		c, ctx := accept(t, w, r)
		send(ctx, c, message(0, true))
		c.CloseNow()
	})
	s := h.subscribe(t, Options{})
	ids(t, s, 1)
	if _, err := s.Next(t.Context()); !errors.Is(err, ErrPermission) {
		t.Errorf("got %v", err)
	}
}

// A server that takes the right away says so once; the client does not try again.
func TestEndedByTheServer(t *testing.T) {
	for reason, want := range map[string]string{
		"token revoked":        "the server ended the subscription: token revoked",
		"a\x1b[2Jb":            "the server ended the subscription: a [2Jb",
		"":                     "the server ended the subscription and does not say why",
		"permission denied: p": "the server ended the subscription: permission denied: p",
	} {
		t.Run(want, func(t *testing.T) {
			h := newFakeHub(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				c, ctx := accept(t, w, r)
				send(ctx, c, message(0, true))
				c.Close(websocket.StatusPolicyViolation, reason)
			})
			s := h.subscribe(t, Options{Notify: func(n Notice) { t.Errorf("notice %+v", n) }})
			ids(t, s, 1)
			for range 3 {
				_, err := s.Next(t.Context())
				ended, ok := errors.AsType[*EndedError](err)
				if !ok || !errors.Is(err, ErrPermission) || err.Error() != want || ended.Reason != printable(reason) {
					t.Errorf("got %#v, %v", err, err)
				}
			}
			if n := len(h.queries("json")); n != 1 {
				t.Errorf("%d connections were made", n)
			}
		})
	}
}

func TestGaps(t *testing.T) {
	for name, serve := range map[string]func(n int, w http.ResponseWriter, r *http.Request){
		"told by the close code": func(n int, w http.ResponseWriter, r *http.Request) {
			c, ctx := accept(t, w, r)
			if n == 0 {
				send(ctx, c, message(8, true))
				c.Close(4410, "5 events are missing")
				return
			}
			send(ctx, c, message(3, true)) // of a smaller position: it counts all the same
			<-ctx.Done()
		},
		"position is not known": func(n int, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				w.WriteHeader(400)
				io.WriteString(w, `{"errors":["5 events are missing"]}`)
				return
			}
			c, ctx := accept(t, w, r)
			if n == 0 {
				send(ctx, c, message(8, true))
				c.CloseNow()
				return
			}
			send(ctx, c, message(3, true))
			<-ctx.Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var gaps []string
			h := newFakeHub(t, serve)
			s := h.subscribe(t, Options{Notify: func(n Notice) {
				if n.Kind == Gap {
					gaps = append(gaps, n.Err.Error())
				}
			}})
			if got := ids(t, s, 2); got[0] != "id-8" || got[1] != "id-3" {
				t.Errorf("events %q", got)
			}
			if len(gaps) != 1 || !strings.Contains(gaps[0], "5 events are missing") {
				t.Errorf("gaps %q", gaps)
			}
			since := h.queries("since")
			if last := since[len(since)-1]; last != "oldest" {
				t.Errorf("goes on with since=%q", since)
			}
		})
	}
}

func TestServerWithoutHistory(t *testing.T) {
	h := newFakeHub(t, func(n int, w http.ResponseWriter, r *http.Request) {
		c, ctx := accept(t, w, r)
		send(ctx, c, message(n, false))
		if n > 0 {
			<-ctx.Done()
		}
		c.CloseNow()
	})
	gaps := 0
	s := h.subscribe(t, Options{Notify: func(n Notice) {
		if n.Kind == Gap {
			gaps++
		}
	}})
	ids(t, s, 2)
	if gaps != 1 {
		t.Errorf("%d gaps told", gaps)
	}
}

func TestCancelAndGoOn(t *testing.T) {
	second := make(chan struct{})
	h := newFakeHub(t, func(n int, w http.ResponseWriter, r *http.Request) {
		c, ctx := accept(t, w, r)
		defer c.CloseNow()
		if n == 0 {
			send(ctx, c, message(0, true))
			<-ctx.Done()
			return
		}
		if since := r.URL.Query().Get("since"); since != position(0) {
			t.Errorf("since is %q", since)
		}
		send(ctx, c, message(1, true))
		<-second
	})
	s := h.subscribe(t, Options{})
	ids(t, s, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	ids(t, s, 1)

	time.AfterFunc(20*time.Millisecond, func() { s.Close() })
	for range 2 {
		if _, err := s.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	close(second)
}

// Close ends the connection, whether Next is called or not.
func TestCloseTellsTheServer(t *testing.T) {
	gone := make(chan struct{})
	h := newFakeHub(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		c, ctx := accept(t, w, r)
		<-ctx.Done()
		c.CloseNow()
		close(gone)
	})
	h.subscribe(t, Options{}).Close()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("the connection is still open")
	}
}

func TestAll(t *testing.T) {
	h := newFakeHub(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		c, ctx := accept(t, w, r)
		send(ctx, c, message(0, true), message(1, true))
		<-ctx.Done()
		c.CloseNow()
	})
	s := h.subscribe(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for m, err := range s.All(ctx) {
		if err != nil || m.Event.ID != fmt.Sprintf("id-%d", n) {
			t.Fatalf("event %d: %v, %v", n, m, err)
		}
		if n++; n == 2 {
			cancel()
		}
	}
	if n != 2 {
		t.Errorf("%d events", n)
	}
}

func TestSilentServerIsGivenUp(t *testing.T) {
	h := newFakeHub(t, func(n int, w http.ResponseWriter, r *http.Request) {
		c, ctx := accept(t, w, r)
		defer c.CloseNow()
		if n == 0 { // pings keep the connection, silence ends it
			for range 4 {
				c.Ping(ctx)
				time.Sleep(50 * time.Millisecond)
			}
			send(ctx, c, message(0, true))
		} else {
			send(ctx, c, message(1, true))
		}
		<-ctx.Done()
	})
	var reason error
	o := Options{Address: h.URL, Notify: func(n Notice) {
		if n.Kind == Disconnected {
			reason = n.Err
		}
	}}
	patience := quick
	patience.idle = 120 * time.Millisecond
	s, err := subscribe(t.Context(), "*", o, patience)
	if err != nil {
		t.Fatal(err)
	}
	ids(t, s, 1)
	if reason != nil {
		t.Errorf("given up in spite of pings: %v", reason)
	}
	ids(t, s, 1)
	if reason == nil || !strings.Contains(reason.Error(), "silent") {
		t.Errorf("reason %v", reason)
	}
	s.Close()
}

func TestMessageTooLarge(t *testing.T) {
	h := newFakeHub(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		c, ctx := accept(t, w, r)
		send(ctx, c, message(0, true))
		<-ctx.Done()
		c.CloseNow()
	})
	s := h.subscribe(t, Options{MaxMessageBytes: 50})
	if _, err := s.Next(t.Context()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestMalformedMessage(t *testing.T) {
	h := newFakeHub(t, func(_ int, w http.ResponseWriter, r *http.Request) {
		c, ctx := accept(t, w, r)
		send(ctx, c, []byte("what?"), message(1, true))
		<-ctx.Done()
		c.CloseNow()
	})
	s := h.subscribe(t, Options{})
	if _, err := s.Next(t.Context()); !errors.Is(err, event.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if got := ids(t, s, 1); got[0] != "id-1" {
		t.Errorf("then %q", got)
	}
}

func TestBadOptions(t *testing.T) {
	for address, want := range map[string]string{
		"":                         "no address",
		"ftp://127.0.0.1":          "is not the address of a server",
		"http://":                  "is not the address of a server",
		"http://a b":               "is not the address of a server",
		"http://hvs.token@host":    "a token does not belong into a URL",
		"http://host?token=secret": "a token does not belong into a URL",
	} {
		_, err := Subscribe(t.Context(), "*", Options{Address: address})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", address, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hvs.token") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: the error shows the token: %v", address, err)
		}
	}
	if _, err := Subscribe(t.Context(), "", Options{Address: "127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "no event type") {
		t.Errorf("no type: %v", err)
	}
	if _, err := Subscribe(t.Context(), "*", Options{Address: "127.0.0.1:1"}); !errors.Is(err, syscall.ECONNREFUSED) ||
		!strings.HasPrefix(err.Error(), "connect to 127.0.0.1:1: ") {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestBegin(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, tc := range []struct {
		name, since, position string
		behind                bool
		first, later          string // now and 5 s later
	}{
		{"live", "", "", false, "", "6s"},
		{"duration", "1h", "", false, "1h", "1h0m6s"},
		{"time", "2026-01-01T00:00:00Z", "", false, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"},
		{"position", "1h", "abc", false, "abc", "abc"},
		{"after a gap", "1h", "", true, "oldest", "oldest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &Subscription{options: Options{Since: tc.since}, position: tc.position, behind: tc.behind}
			if got := s.begin(start); got != tc.first {
				t.Errorf("first %q, want %q", got, tc.first)
			}
			if got := s.begin(start.Add(5 * time.Second)); got != tc.later {
				t.Errorf("later %q, want %q", got, tc.later)
			}
		})
	}
}

func TestBackoffGrowsAndObeysTheServer(t *testing.T) {
	s := &Subscription{timing: defaultTiming}
	for n := range 100 {
		s.failed(errors.New("x"))
		if most := min(15*time.Second, 250*time.Millisecond<<min(n, 10)); s.delay > most {
			t.Errorf("attempt %d waits %v", n, s.delay)
		}
	}
	s.failed(&StatusError{StatusCode: 503, RetryAfter: time.Minute})
	if s.delay != time.Minute {
		t.Errorf("waits %v although the server asks for a minute", s.delay)
	}
}

// A subscription that does not follow ends behind what there was, also over several connections.
func TestNoFollow(t *testing.T) {
	h := newFakeHub(t, func(n int, w http.ResponseWriter, r *http.Request) {
		c, ctx := accept(t, w, r)
		switch n {
		case 0:
			send(ctx, c, message(0, true))
			c.CloseNow()
		case 1: // by a proxy
			c.Close(websocket.StatusNormalClosure, "maintenance")
		case 2:
			c.Close(closeGap, "gap: 7 events removed by retention")
		default:
			send(ctx, c, message(1, true))
			c.Close(websocket.StatusNormalClosure, "complete")
		}
	})
	gaps := 0
	s := h.subscribe(t, Options{Since: oldest, NoFollow: true, Notify: func(n Notice) {
		if n.Kind == Gap {
			gaps++
		}
	}})
	ids(t, s, 2)
	for range 2 {
		if _, err := s.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	}
	if q := h.queries("follow"); !slices.Equal(q, []string{"false", "false", "false", "false"}) {
		t.Errorf("asked with %q", q)
	}
	if q := h.queries("since"); !slices.Equal(q, []string{oldest, position(0), position(0), oldest}) || gaps != 1 {
		t.Errorf("asked since %q, with %d gaps", q, gaps)
	}
}
