package receiver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/test/device"
)

func httpConfig() Config {
	return Config{Name: "vault", Kind: HTTP, Network: "tcp", Address: "127.0.0.1:0"}
}

// post is a request as its recording has it.
type post struct {
	Method, URI, Host, Body string
	Headers                 http.Header
}

func recordedPosts(t testing.TB) (all []post) {
	t.Helper()
	raw, err := os.ReadFile("testdata/openbao-http-posts.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(raw) {
		var p post
		if err := json.Unmarshal(line, &p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// bytes is the request as it was on the wire.
func (p post) bytes() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", p.Method, p.URI, p.Host)
	p.Headers.Write(&b)
	return b.String() + "\r\n" + p.Body
}

// answer reads an answer, and checks that the connection can be used again without reading
// a body.
func answer(t testing.TB, r *bufio.Reader) *http.Response {
	t.Helper()
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.ContentLength > 0 || len(response.TransferEncoding) > 0 {
		t.Fatalf("the answer %s has a body", response.Status)
	}
	return response
}

// The recorded posts over one connection, each cut at every byte into two writes.
func TestRecordedPosts(t *testing.T) {
	m := newMemory()
	c := httpConfig()
	c.Secret = func() (string, error) { return "example-token", nil }
	r := open(t, c, Deps{Inbox: m})
	conn := dial(t, r)
	conn.(*net.TCPConn).SetNoDelay(true)
	answers := bufio.NewReader(conn)
	sent := 0
	for _, p := range recordedPosts(t) {
		text := p.bytes()
		want := strings.TrimSuffix(p.Body, "\n")
		for i := range len(text) {
			m.reset()
			send(t, conn, text[:i])
			send(t, conn, text[i:])
			if response := answer(t, answers); response.StatusCode != http.StatusNoContent {
				t.Fatalf("cut at %d: %s %v", i, response.Status, response.Header)
			}
			sent++
			if got := m.all(); !slices.Equal(got, []string{want}) {
				t.Fatalf("cut at %d: got %q", i, got)
			}
		}
	}
	if s := r.Stats(); s.Connections != 1 || s.Answers[204] != uint64(sent) || s.Lines != uint64(sent) || sent < 10_000 {
		t.Errorf("%d posts, stats %+v", sent, s)
	}
}

func TestHTTPAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		request string // after the host
		change  func(*Config, *memory)
		code    int
		want    []string
		reason  string
	}{
		"no final newline":    {"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\none", nil, 204, []string{"one"}, ""},
		"several lines":       {"POST /x HTTP/1.1\r\nContent-Length: 11\r\n\r\none\r\n\ntwo\n\n", nil, 204, []string{"one", "two"}, ""},
		"chunked":             {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\non\r\n2\r\ne\n\r\n0\r\n\r\n", nil, 204, []string{"one"}, ""},
		"nothing":             {"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", nil, 204, nil, ""},
		"waits for its cue":   {"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\none", nil, 100, nil, ""},
		"another method":      {"GET / HTTP/1.1\r\n\r\n", nil, 405, nil, "only POST"},
		"a put":               {"PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\none", nil, 405, nil, "only POST"},
		"compressed":          {"POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\none", nil, 415, nil, "no Content-Encoding is understood"},
		"too long":            {"POST / HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n", nil, 413, nil, "the body has more than 1114112 bytes; see max_line"},
		"too long, chunked":   {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n" + strings.Repeat("x", 1<<21) + "\r\n0\r\n\r\n", nil, 413, nil, "the body has more than 1114112 bytes; see max_line"},
		"the spool is full":   {"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\none", func(_ *Config, m *memory) { m.full = true }, 503, nil, "the spool is full"},
		"the spool blocks":    {"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\none", func(_ *Config, m *memory) { m.blocked = make(chan struct{}) }, 503, nil, "it was not durable within 1s"},
		"not durable":         {"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\none", func(_ *Config, m *memory) { m.durable = make(chan struct{}) }, 503, []string{"one"}, "it was not durable within 1s"},
		"no secret":           {"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\none", secret("", "hush"), 401, nil, "wrong secret"},
		"a wrong secret":      {"POST / HTTP/1.1\r\nAuthorization: Bearer hus\r\nContent-Length: 3\r\n\r\none", secret("", "hush"), 401, nil, "wrong secret"},
		"another scheme":      {"POST / HTTP/1.1\r\nAuthorization: Basic hush\r\nContent-Length: 3\r\n\r\none", secret("", "hush"), 401, nil, "wrong secret"},
		"the secret":          {"POST / HTTP/1.1\r\nAuthorization: bearer hush\r\nContent-Length: 3\r\n\r\none", secret("", "hush"), 204, []string{"one"}, ""},
		"in another header":   {"POST / HTTP/1.1\r\nAuthorization: Bearer hush\r\nContent-Length: 3\r\n\r\none", secret("X-Audit", "hush"), 401, nil, "wrong secret"},
		"in its header":       {"POST / HTTP/1.1\r\nX-Audit: hush\r\nContent-Length: 3\r\n\r\none", secret("X-Audit", "hush"), 204, []string{"one"}, ""},
		"an unknown secret":   {"POST / HTTP/1.1\r\nAuthorization: Bearer \r\nContent-Length: 3\r\n\r\none", secret("", ""), 503, nil, "the receiver does not know its secret"},
		"a body that is late": {"POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\none", secret("", ""), 503, nil, "the receiver does not know its secret"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			c := httpConfig()
			c.MaxLine = 1 << 20
			if test.change != nil {
				test.change(&c, m)
			}
			r := open(t, c, Deps{Inbox: m})
			conn := dial(t, r)
			begin := time.Now()
			send(t, conn, strings.Replace(test.request, "\r\n", "\r\nHost: x\r\n", 1))
			response := answer(t, bufio.NewReader(conn))
			if response.StatusCode != test.code || response.Header.Get("Tocsin-Reason") != test.reason {
				t.Errorf("answer %s, %v", response.Status, response.Header)
			}
			if took := time.Since(begin); took > answerTime+20*time.Second {
				t.Errorf("answered after %v", took)
			}
			if test.code == 100 {
				return
			}
			if got := m.all(); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if s := r.Stats(); s.Answers[test.code] != 1 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

func secret(header, value string) func(*Config, *memory) {
	return func(c *Config, _ *memory) {
		c.SecretHeader = header
		c.Secret = func() (string, error) { return value, nil }
	}
}

func TestSecretThatCannotBeRead(t *testing.T) {
	m := newMemory()
	c := httpConfig()
	fails := true
	var mu sync.Mutex
	c.Secret = func() (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if fails {
			return "", errors.New("the file is missing")
		}
		return "hush", nil
	}
	r := open(t, c, Deps{Inbox: m})
	d := &device.HTTP{URL: "http://" + r.Addr().String(), Header: http.Header{"Authorization": {"Bearer hush"}}}
	if err := d.Write(t.Context(), []byte("one\n")); err == nil {
		t.Error("taken without a check")
	}
	if err := r.Health(); err == nil || !strings.Contains(err.Error(), "the file is missing") {
		t.Errorf("health %v", err)
	}
	mu.Lock()
	fails = false
	mu.Unlock()
	if err := d.Write(t.Context(), []byte("one\n")); err != nil {
		t.Error(err)
	}
	if err := r.Health(); err != nil {
		t.Error(err)
	}
	d.Client.CloseIdleConnections()
}

// Large bodies that are sent at the same time take bounded memory.
func TestManyLargeBodies(t *testing.T) {
	m := newMemory()
	c := httpConfig()
	c.MaxLine = 16 << 20 // all together: about 128 MiB
	r := open(t, c, Deps{Inbox: m})
	for range 20 {
		conn := dial(t, r)
		_, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", 16<<20, strings.Repeat("x", 9<<20))
		if err != nil || r.Stats().RefusedMemory > 0 {
			break
		}
	}
	until(t, "a body is refused", func() bool { return r.Stats().RefusedMemory > 0 })
	if held := r.http.bodies.Load(); held > r.http.mostBodies() {
		t.Errorf("%d bytes for bodies", held)
	}
}

// A connection that is used all the time is closed by an answer, so that no request fails.
func TestHTTPEnd(t *testing.T) {
	m := newMemory()
	g := newGenerations(t, "tcp", 0)
	g.c.Kind, g.inbox = HTTP, m
	g.start()
	var sending sync.WaitGroup
	done := make(chan struct{})
	var mu sync.Mutex
	accepted, failed := 0, 0
	for i := range 4 {
		sending.Go(func() {
			d := &device.HTTP{URL: "http://" + g.c.Address}
			for n := 0; ; n++ {
				select {
				case <-done:
					d.Client.CloseIdleConnections()
					return
				default:
				}
				err := d.Write(t.Context(), fmt.Appendf(nil, "%d-%d\n", i, n))
				mu.Lock()
				if err == nil {
					accepted++
				} else {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	for range 5 {
		time.Sleep(20 * time.Millisecond)
		g.stop()
		g.start()
	}
	close(done)
	sending.Wait()
	g.stop()
	got := m.all()
	t.Logf("%d accepted, %d failed, %d lines", accepted, failed, len(got))
	if len(got) < accepted {
		t.Errorf("%d lines of %d", len(got), accepted)
	}
	if failed > 0 {
		t.Errorf("%d requests failed", failed)
	}
}

// A sender that stops in the middle is cut off, in the header and in the body.
func TestSlowHTTP(t *testing.T) {
	for name, text := range map[string]string{
		"in the header": "POST / HTTP/1.1\r\nHost: x\r\nContent-",
		"in the body":   "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			r, err := Listen(httpConfig(), Deps{Inbox: m})
			if err != nil {
				t.Fatal(err)
			}
			s := r.http.server
			if s.ReadHeaderTimeout != headerTimeout || s.ReadTimeout != headerTimeout {
				t.Errorf("%v for the header, %v for all", s.ReadHeaderTimeout, s.ReadTimeout)
			}
			s.ReadHeaderTimeout, s.ReadTimeout = 300*time.Millisecond, 300*time.Millisecond
			r.Start()
			t.Cleanup(func() { stop(t, r) })
			conn := dial(t, r)
			send(t, conn, text)
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := io.ReadAll(conn); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Error(err)
			}
			if got := m.all(); len(got) > 0 {
				t.Errorf("got %q", got)
			}
		})
	}
}

func FuzzHTTP(f *testing.F) {
	for _, p := range recordedPosts(f) {
		f.Add(p.bytes())
	}
	f.Add("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\non\r\n2\r\ne\n\r\n0\r\n\r\n")
	m := newMemory()
	c := httpConfig()
	c.MaxLine = 1 << 10
	r, err := Listen(c, Deps{Inbox: m})
	if err != nil {
		f.Fatal(err)
	}
	r.Start()
	f.Cleanup(func() { stop(f, r) })
	f.Fuzz(func(t *testing.T, text string) {
		m.reset()
		conn := dial(t, r)
		io.WriteString(conn, text)
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn)
		conn.Close()
		for _, l := range m.all() {
			if l == "" || strings.Contains(l, "\n") {
				t.Errorf("line %q", l)
			}
		}
	})
}
