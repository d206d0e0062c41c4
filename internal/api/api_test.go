package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/journal"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(idleClientsEnv); what != "" {
		idleClients(what)
		return
	}
	// The server waits half a second after the answer to a body that it has not read.
	if err := flag.Set("test.parallel", "6"); err != nil { // they wait most of the time
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

func (n *node) append(events ...*event.Event) journal.Position {
	n.t.Helper()
	p, err := n.journal.Append(n.t.Context(), events...)
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// kv is an event that a kv mount sent, with a number to recognise it by.
func kv(number int) *event.Event {
	e := &event.Event{ID: fmt.Sprintf("event-%d", number), Type: "kv-v2/data-write", Source: event.SourceVault("node-1"),
		Path: "secret/data/app", Time: time.Date(2026, 11, 21, 3, 4, 5, 0, time.UTC)}
	e.Metadata.Set("path", "secret/data/app")
	e.Metadata.Set("operation", "data-write")
	return e
}

type payloads struct{}

func (payloads) Open(_ context.Context, name string) (*Payload, error) {
	switch name {
	case "audit/1":
		return &Payload{io.NopCloser(strings.NewReader(`{"type":"response"}`)), 19, "application/json"}, nil
	case "broken":
		return nil, errors.New("connection lost")
	}
	return nil, fmt.Errorf("look up %s: %w", name, fs.ErrNotExist)
}

// answer is a response with its body.
type answer struct {
	*http.Response
	body string
	conn net.Conn      // of a 101
	rest *bufio.Reader // of the connection
}

// raw sends the bytes of a request on a connection of its own.
func (n *node) raw(request string) answer {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, request); err != nil {
		n.t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	a := answer{Response: res, conn: conn, rest: r}
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, err := io.ReadAll(res.Body)
		if err != nil {
			n.t.Fatal(err)
		}
		a.body = string(body)
		conn.Close()
	}
	return a
}

const upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: uF37OHv76XpnMCpW956C+A==\r\n"

// request builds a request with the root token unless the headers have another.
func request(method, target string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: hub.example:8280\r\n", method, target)
	token := "X-Vault-Token: root\r\n"
	for _, h := range headers {
		if strings.HasPrefix(h, "X-Vault-Token:") || strings.HasPrefix(h, "Authorization:") {
			token = ""
		}
		b.WriteString(h)
		if !strings.HasSuffix(h, "\r\n") {
			b.WriteString("\r\n")
		}
	}
	return b.String() + token + "\r\n"
}

// text reads one text frame of less than 64 KiB.
func (a answer) text(t testing.TB) string {
	t.Helper()
	var h [4]byte
	if _, err := io.ReadFull(a.rest, h[:2]); err != nil {
		t.Fatal(err)
	}
	length := int(h[1])
	if length == 126 {
		if _, err := io.ReadFull(a.rest, h[2:]); err != nil {
			t.Fatal(err)
		}
		length = int(h[2])<<8 | int(h[3])
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(a.rest, payload); err != nil {
		t.Fatal(err)
	}
	if h[0] != 0x81 {
		t.Fatalf("got a frame beginning with %#x and payload %q, want a text frame", h[0], payload)
	}
	return string(payload)
}

// TestHandshakes has the rows of the table of Vault's answers that apply.
func TestHandshakes(t *testing.T) {
	n := startNode(t, func(o *Options) { o.AllowedOrigins = []string{"*.example.org", "https://ui.example.net:444"} })
	const path = "/v1/sys/events/subscribe/kv-v2/*"
	const refused = `{"errors":["could not accept as websocket"]}` + "\n"
	denied := `{"errors":["permission denied"]}` + "\n"
	unsupported := `{"errors":["1 error occurred:\n\t* unsupported path\n\n"]}` + "\n"
	for _, tt := range []struct {
		name    string
		request string
		status  int
		body    string // exact, unless it begins with "..." (end) or ends with it (beginning)
		header  map[string]string
	}{
		{"websocket", request("GET", path, upgrade), 101, "", map[string]string{"Sec-WebSocket-Accept": "EnjlJePGIVonoYOaS8jt/HUg97U=",
			"Connection": "Upgrade", "Upgrade": "websocket", "Cache-Control": "no-store", "Sec-WebSocket-Extensions": "", "X-Vault-Namespace": ""}},
		{"bearer", request("GET", path, upgrade, "Authorization: Bearer root"), 101, "", nil},
		{"encoded", request("GET", "/v1/sys/events/subscribe/kv%2A?json=true&filter=operation+%21%3D+%22data-write%22&namespaces=ns1&namespaces=ns2%2A", upgrade), 101, "", nil},
		{"spaces", request("GET", "/v1/sys/events/subscribe/%20kv*%20", upgrade), 101, "", nil},
		{"namespace in the path", request("GET", "/v1/ns1/sub/sys/events/subscribe/kv*", upgrade), 101, "", nil},
		{"namespace in the header", request("GET", path, upgrade, "X-Vault-Namespace: ns1"), 101, "", map[string]string{"X-Vault-Namespace": "ns1/"}},
		{"namespace twice", request("GET", path, upgrade, "X-Vault-Namespace: ns1", "X-Vault-Namespace: ns1/"), 101, "", map[string]string{"X-Vault-Namespace": "ns1/"}},
		{"empty namespace", request("GET", path, upgrade, "X-Vault-Namespace:"), 101, "", nil},
		{"two namespaces", request("GET", path, upgrade, "X-Vault-Namespace: ns1", "X-Vault-Namespace: ns2"), 400, `{"errors":["the header X-Vault-Namespace ...`, nil},
		{"own origin", request("GET", path, upgrade, "Origin: http://hub.example:8280"), 101, "", nil},
		{"allowed origin", request("GET", path, upgrade, "Origin: https://a.EXAMPLE.org"), 101, "", nil},
		{"allowed origin with scheme", request("GET", path, upgrade, "Origin: https://ui.example.net:444"), 101, "", nil},

		{"without the last slash", request("GET", "/v1/sys/events/subscribe", upgrade), 404, unsupported, nil},
		{"without the last slash in a namespace", request("GET", "/v1/ns1/sys/events/subscribe", upgrade), 404, unsupported, nil},
		{"no token", request("GET", path, upgrade, "X-Vault-Token:"), 403, denied, map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"}},
		{"wrong token", request("GET", path, upgrade, "X-Vault-Token: bogus"), 403, denied, nil},
		{"wrong token and everything else", request("POST", "/v1/sys/events/subscribe/?json=x", "X-Vault-Token: bogus"), 403, denied, nil},
		{"token in the URL", request("GET", path+"?token=root", upgrade), 400, `{"errors":["the URL has a token...`, nil},
		{"no type", request("GET", "/v1/sys/events/subscribe/?json=maybe", upgrade), 400, `{"errors":["did not specify eventType to subscribe to"]}` + "\n", nil},
		{"blank type", request("GET", "/v1/sys/events/subscribe/%20", upgrade), 400, `{"errors":["did not specify eventType to subscribe to"]}` + "\n", nil},
		{"bad json", request("GET", path+"?json=maybe&filter==", upgrade), 400, `{"errors":["invalid parameter for JSON: maybe"]}` + "\n", nil},
		{"bad filter", request("GET", path+"?filter=event_type+==", upgrade), 400, "Error subscribing\n...", map[string]string{"Content-Type": "text/plain; charset=utf-8"}},
		{"unknown selector", request("GET", path+"?filter=path+==+x", upgrade), 400, "Error subscribing\nfilter: has an unknown selector \"path\"...", nil},
		{"bad format", request("GET", path+"?format=xml", upgrade), 400, `{"errors":["unknown format ...`, nil},
		{"bad sequence", request("GET", path+"?json=1&sequence=x", upgrade), 400, `{"errors":["invalid parameter sequence...`, nil},
		{"bad follow", request("GET", path+"?json=1&follow=x", upgrade), 400, `{"errors":["invalid parameter follow...`, nil},
		{"sequence in protobuf", request("GET", path+"?sequence=true", upgrade), 400, `{"errors":["sequence=true needs ...`, nil},
		{"bad query", request("GET", path+"?a=%zz", upgrade), 400, `{"errors":["the query of the URL ...`, nil},
		{"long type", request("GET", "/v1/sys/events/subscribe/"+strings.Repeat("x", 257), upgrade), 400, `{"errors":["selection exceeds ...`, nil},
		{"many namespaces", request("GET", path+"?"+strings.Repeat("namespaces=x1&", 32)+func() (s string) {
			for i := range 80 {
				s += fmt.Sprintf("namespaces=n%d&", i)
			}
			return s
		}(), upgrade), 400, `{"errors":["selection exceeds ...`, nil},
		{"bad since", request("GET", path+"?since=2026-13-01T00:00:00Z", upgrade), 400, `{"errors":["...`, nil},
		{"unknown event id", request("GET", path+"?since=no-such-event", upgrade), 410, `{"errors":["since: ...`, nil},
		{"negative duration", request("GET", path+"?since=-5m", upgrade), 400, `{"errors":["...`, nil},

		{"no upgrade", request("GET", path), 426, "..." + refused, map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Cache-Control": "no-store"}},
		{"no upgrade and bad since", request("GET", path+"?since=x%20y"), 426, "..." + refused, nil},
		{"no upgrade token", request("GET", path, "Connection: Upgrade", "Upgrade: h2c"), 426, "..." + refused, nil},
		{"POST without upgrade", request("POST", path), 426, "..." + refused, nil},
		{"POST with upgrade", request("POST", path, upgrade), 405, "..." + refused, map[string]string{"Allow": "GET"}},
		{"with a body", request("GET", path, upgrade, "Content-Length: 0001") + "x", 400, "..." + refused, nil},
		{"version 12", request("GET", path, strings.Replace(upgrade, "13", "12", 1)), 400, "..." + refused, map[string]string{"Sec-WebSocket-Version": "13"}},
		{"no key", request("GET", path, strings.Replace(upgrade, "-Key", "-Kee", 1)), 400, "..." + refused, nil},
		{"short key", request("GET", path, strings.Replace(upgrade, "uF37OHv76XpnMCpW956C+A==", "uF37OHv7", 1)), 400, "..." + refused, nil},
		{"foreign origin", request("GET", path, upgrade, "Origin: https://evil.example"), 403, "..." + refused, nil},
		{"foreign origin with our host as prefix", request("GET", path, upgrade, "Origin: http://hub.example:8280.evil.example"), 403, "..." + refused, nil},
		{"null origin", request("GET", path, upgrade, "Origin: null"), 403, "..." + refused, nil},
		{"foreign scheme", request("GET", path, upgrade, "Origin: http://ui.example.net:444"), 403, "..." + refused, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := n.raw(tt.request)
			if a.StatusCode != tt.status {
				t.Fatalf("status %d, want %d; body %q", a.StatusCode, tt.status, a.body)
			}
			ok := a.body == tt.body
			if want, cut := strings.CutPrefix(tt.body, "..."); cut {
				ok = strings.HasSuffix(a.body, want) && len(a.body) > len(want)
			} else if want, cut := strings.CutSuffix(tt.body, "..."); cut {
				ok = strings.HasPrefix(a.body, want) && len(a.body) > len(want)
			}
			if !ok {
				t.Errorf("body %q, want %q", a.body, tt.body)
			}
			for name, want := range tt.header {
				if got := a.Header.Get(name); got != want {
					t.Errorf("header %s is %q, want %q", name, got, want)
				}
			}
		})
	}
}

// TestRealClients replays what the command of Vault and a minimal client sent.
func TestRealClients(t *testing.T) {
	n := startNode(t, nil)
	for name, namespace := range map[string]string{"cli-root": "", "minimal": "", "cli-namespace": "ns1/"} {
		t.Run(name, func(t *testing.T) {
			handshake, err := os.ReadFile(filepath.Join("testdata", name+".http"))
			if err != nil {
				t.Fatal(err)
			}
			a := n.raw(string(handshake))
			if a.StatusCode != 101 || a.Header.Get("Sec-WebSocket-Extensions") != "" {
				t.Fatalf("answer %v", a.Response)
			}
			if got := a.Header.Get("X-Vault-Namespace"); got != namespace {
				t.Errorf("namespace %q, want %q", got, namespace)
			}
			foreign, e := kv(1), kv(2)
			foreign.Namespace, e.Namespace = "other/", namespace
			n.append(foreign, e)
			if name == "minimal" {
				var h [2]byte
				if _, err := io.ReadFull(a.rest, h[:]); err != nil || h[0] != 0x82 {
					t.Fatal(h, err)
				}
				payload := make([]byte, h[1])
				if _, err := io.ReadFull(a.rest, payload); err != nil {
					t.Fatal(err)
				}
				if want := event.AppendVaultProto(nil, e); !bytes.Equal(payload, want) {
					t.Errorf("got %q, want %q", payload, want)
				}
				return
			}
			if got, want := a.text(t), string(event.AppendVaultJSON(nil, e, "")); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestPlainWebSocketClient reads the stream with another implementation, which
// offers compression.
func TestPlainWebSocketClient(t *testing.T) {
	n := startNode(t, nil)
	for i := range 3 {
		n.append(kv(i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+n.addr+"/v1/sys/events/subscribe/kv*?json=true&since=oldest", &websocket.DialOptions{
		HTTPHeader: http.Header{"X-Vault-Token": {"root"}}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for i := range 3 {
		typ, got, err := c.Read(ctx)
		if want := event.AppendVaultJSON(nil, kv(i), ""); err != nil || typ != websocket.MessageText || !bytes.Equal(got, want) {
			t.Fatalf("got %v %q %v", typ, got, err)
		}
	}
	go c.Write(ctx, websocket.MessageText, []byte("hello"))
	var closed websocket.CloseError
	if _, _, err := c.Read(ctx); !errors.As(err, &closed) || closed.Code != 1008 || closed.Reason != "unexpected data message" {
		t.Errorf("got %v", err)
	}
}

// TestNothingMissedAfter101 appends as soon as the 101 has come.
func TestNothingMissedAfter101(t *testing.T) {
	n := startNode(t, nil)
	for i := range 200 {
		a := n.raw(request("GET", "/v1/sys/events/subscribe/kv*?json=true", upgrade))
		e := kv(i)
		n.append(e)
		if got, want := a.text(t), string(event.AppendVaultJSON(nil, e, "")); got != want {
			t.Fatalf("round %d: got %s", i, got)
		}
		a.conn.Close()
	}
}

func TestSince(t *testing.T) {
	n := startNode(t, nil)
	var positions []journal.Position
	for i := range 10 {
		positions = append(positions, n.append(kv(i)))
	}
	for since, first := range map[string]int{
		"oldest":              0,
		positions[3].String(): 4,
		"event-6":             7,
		"1h":                  0,
		time.Now().Add(-time.Minute).Format(time.RFC3339): 0,
	} {
		t.Run(since, func(t *testing.T) {
			a := n.raw(request("GET", "/v1/sys/events/subscribe/*?json=true&sequence=true&since="+strings.ReplaceAll(since, "+", "%2B"), upgrade))
			if a.StatusCode != 101 {
				t.Fatalf("status %d: %s", a.StatusCode, a.body)
			}
			for i := first; i < 10; i++ {
				if got, want := a.text(t), string(event.AppendVaultJSON(nil, kv(i), positions[i].String())); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
			}
		})
	}
	for _, since := range []string{"0s", "", time.Now().Add(time.Hour).UTC().Format(time.RFC3339)} {
		t.Run("only new with "+since, func(t *testing.T) {
			a := n.raw(request("GET", "/v1/sys/events/subscribe/kv*?format=cloudevents&since="+since, upgrade))
			n.append(kv(10))
			e, err := event.ParseCloudEvent([]byte(a.text(t)))
			if err != nil || e.ID != "event-10" || e.Recorded.IsZero() {
				t.Errorf("got %+v, %v", e, err)
			}
		})
	}
}

// TestFollow: with follow=false the connection ends behind what there was when it began, in every
// format, with all values that a bool has in a query.
func TestFollow(t *testing.T) {
	n := startNode(t, nil)
	for i := range 3 {
		n.append(kv(i))
	}
	for _, query := range []string{"json=true&follow=false&since=oldest", "format=cloudevents&follow=0&since=oldest", "json=1&follow=f&since=oldest"} {
		a := n.raw(request("GET", "/v1/sys/events/subscribe/kv*?"+query, upgrade))
		n.append(kv(9))
		for i := range 3 {
			if text := a.text(t); !strings.Contains(text, fmt.Sprintf(`"event-%d"`, i)) {
				t.Errorf("%s: event %d is %s", query, i, text)
			}
		}
		// Nothing may be between the last event and the end.
		var end [4 + len("complete")]byte
		if _, err := io.ReadFull(a.rest, end[:]); err != nil || end[0] != 0x88 || end[2] != 1000>>8 || end[3] != 1000&0xff || string(end[4:]) != "complete" {
			t.Errorf("%s: ends with %q, %v", query, end, err)
		}
		n = startNode(t, nil)
		for i := range 3 {
			n.append(kv(i))
		}
	}
	for _, query := range []string{"json=true&follow=true&since=oldest", "json=true&follow=&since=oldest"} {
		a := n.raw(request("GET", "/v1/sys/events/subscribe/kv*?"+query, upgrade))
		for range 3 {
			a.text(t)
		}
		n.append(kv(9))
		if text := a.text(t); !strings.Contains(text, `"event-9"`) {
			t.Errorf("%s: %s", query, text)
		}
		n = startNode(t, nil)
		for i := range 3 {
			n.append(kv(i))
		}
	}
}

// slowPositions counts the lookups that run at once and holds them until release.
type slowPositions struct {
	Positions
	began   chan string
	release chan struct{}
}

func (p slowPositions) Since(ctx context.Context, since string, now time.Time) (journal.Position, error) {
	p.began <- since
	select {
	case <-p.release:
	case <-ctx.Done():
	}
	return p.Positions.Since(ctx, since, now)
}

// TestSearchesWaitForEachOther: searches for events, which cost, run one after the
// other, and nothing else waits for them.
func TestSearchesWaitForEachOther(t *testing.T) {
	p := slowPositions{began: make(chan string, 10), release: make(chan struct{})}
	n := startNode(t, func(o *Options) { p.Positions = o.Positions; o.Positions = p })
	position := n.append(kv(1)).String()
	subscribe := func(since string) answer {
		return n.raw(request("GET", "/v1/sys/events/subscribe/*?since="+since, upgrade))
	}
	answers := make(chan answer)
	go func() { answers <- subscribe("unknown-1") }()
	if got := <-p.began; got != "unknown-1" {
		t.Fatal(got)
	}
	go func() { answers <- subscribe("unknown-2") }()
	for _, since := range []string{position, "5m", "oldest", "2026-01-02T15:04:05Z"} {
		go func() { answers <- subscribe(since) }()
		if got := <-p.began; got != since {
			t.Fatalf("%s is looked up beside a search, want %s", got, since)
		}
	}
	close(p.release)
	codes := map[int]int{}
	for range 6 {
		codes[(<-answers).StatusCode]++
	}
	if codes[410] != 2 || codes[101] != 4 {
		t.Errorf("answers %v, want 2 with 410 and 4 with 101", codes)
	}
}

func TestOtherPaths(t *testing.T) {
	n := startNode(t, nil)
	broken := errors.New("disk full")
	var state error
	n.health.Register("journal", health.Readiness, func() error { return state })
	for _, tt := range []struct {
		name, request string
		status        int
		body          string // contained
	}{
		{"metrics", request("GET", "/metrics", "X-Vault-Token:"), 200, "tocsin_up 1"},
		{"metrics with POST", request("POST", "/metrics"), 405, `"errors"`},
		{"health", request("GET", "/api/v1/health", "X-Vault-Token:"), 200, `"status":"ok"`},
		{"live", request("GET", "/api/v1/health/live"), 200, `"journal"`},
		{"ready", request("GET", "/api/v1/health/ready"), 200, `"ok":true`},
		{"payload", request("GET", "/api/v1/payloads/audit/1"), 200, `{"type":"response"}`},
		{"payload without token", request("GET", "/api/v1/payloads/audit/1", "X-Vault-Token:"), 403, "permission denied"},
		{"payload not there", request("GET", "/api/v1/payloads/audit/2"), 404, "there is no payload"},
		{"payload not readable", request("GET", "/api/v1/payloads/broken"), 503, "cannot be read at the moment"},
		{"unknown", request("GET", "/nothing"), 404, `unknown path`},
		{"unknown below v1", request("GET", "/v1/secret/data/app"), 404, `no handler for route \"secret/data/app\"`},
		{"unknown below v1 without token", request("GET", "/v1/secret/data/app", "X-Vault-Token:"), 403, "permission denied"},
		{"token in the URL", request("GET", "/metrics?access_token=x", "X-Vault-Token:"), 400, "replace the token"},
		{"health broken", "broken", 503, "disk full"},
		{"ready broken", "broken ready", 503, "disk full"},
		{"live while not ready", "broken live", 200, "disk full"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.request
			if rest, ok := strings.CutPrefix(r, "broken"); ok {
				state = broken
				r = request("GET", "/api/v1/health"+strings.ReplaceAll(rest, " ", "/"))
			}
			a := n.raw(r)
			if a.StatusCode != tt.status || !strings.Contains(a.body, tt.body) {
				t.Errorf("status %d, body %q; want %d, %q", a.StatusCode, a.body, tt.status, tt.body)
			}
			if a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Control is %q", a.Header.Get("Cache-Control"))
			}
		})
	}
}

func TestTooManyAndShutdown(t *testing.T) {
	n := startNode(t, func(o *Options) {
		o.Hub = hub.New(hub.Options{Journal: hub.FromJournal(o.Positions.(*journal.Journal)), MaxSubscriptions: 1, Logger: o.Logger})
	})
	const target = "/v1/sys/events/subscribe/kv*"
	first := n.raw(request("GET", target, upgrade))
	if a := n.raw(request("GET", target, upgrade)); a.StatusCode != 503 || !strings.Contains(a.body, "too many subscriptions") || a.Header.Get("Retry-After") == "" {
		t.Errorf("second subscription: %d %q", a.StatusCode, a.body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.api.Shutdown(ctx) }()
	want := append([]byte{0x88, 26, 0x03, 0xe9}, "server is shutting down"...)
	want[1] = byte(len(want) - 2)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(first.rest, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %q %v", got, err)
	}
	first.conn.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if a := n.raw(request("GET", target, upgrade)); a.StatusCode != 503 || !strings.Contains(a.body, "shutting down") {
		t.Errorf("subscription after shutdown: %d %q", a.StatusCode, a.body)
	}
}
