package outbound

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loopback allows what tests connect to.
var loopback, _ = NewGuard("127.0.0.0/8", "::1")

func client(t testing.TB, o Options) *Client {
	t.Helper()
	if o.Guard == nil {
		o.Guard = loopback
	}
	if o.UserAgent == "" {
		o.UserAgent = "tocsin/test"
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func parseURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := ParseURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// serve starts a server for one test.
func serve(t testing.TB, h http.HandlerFunc) *url.URL {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return parseURL(t, s.URL+"/hook")
}

// listen accepts connections and hands them to each, in a goroutine that is waited for.
func listen(t testing.TB, each func(n int, c net.Conn)) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				each(n, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return parseURL(t, "http://"+l.Addr().String()+"/hook")
}

// readRequest reads one request from a connection to its end.
func readRequest(c net.Conn) error {
	var head []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if _, err := io.ReadFull(c, one); err != nil {
			return err
		}
		head = append(head, one[0])
	}
	_, length, found := strings.Cut(string(head), "Content-Length: ")
	if !found {
		return nil
	}
	length, _, _ = strings.Cut(length, "\r\n")
	n, err := strconv.Atoi(length)
	if err != nil {
		return err
	}
	_, err = io.CopyN(io.Discard, c, int64(n))
	return err
}

func wait(c net.Conn) { io.Copy(io.Discard, c) } // until the other side is gone

func TestRequest(t *testing.T) {
	var got *http.Request
	var body []byte
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got, body = r, nil
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, "thanks")
	})
	secret := "one"
	c := client(t, Options{
		Bearer:  func() (string, error) { return secret, nil },
		Headers: []Header{Fixed("X-Env", "prod"), {Name: "x-key", Value: func() (string, error) { return "key of " + secret, nil }}, Fixed("Host", "hooks.internal")},
	})
	for _, secret = range []string{"one", "two"} {
		released := make(chan bool, 1)
		answer, err := c.Do(t.Context(), &Request{
			URL: u, Body: []byte("payload"), Header: http.Header{"Content-Type": {"text/plain"}}, Release: func() { released <- true },
		})
		if err != nil {
			t.Fatal(err)
		}
		<-released
		if answer.Status != 202 || string(answer.Body) != "thanks" || answer.Cut {
			t.Errorf("%+v", answer)
		}
		want := map[string]string{
			"Content-Type": "text/plain", "Content-Length": "7", "User-Agent": "tocsin/test", "Authorization": "Bearer " + secret, "X-Env": "prod", "X-Key": "key of " + secret,
		}
		for name, value := range want {
			if got.Header.Get(name) != value {
				t.Errorf("%s: %q, want %q", name, got.Header.Get(name), value)
			}
		}
		if len(got.Header) != len(want) {
			t.Errorf("further headers: %v", got.Header)
		}
		if got.Method != "POST" || got.URL.Path != "/hook" || got.Host != "hooks.internal" || string(body) != "payload" || got.TransferEncoding != nil {
			t.Errorf("%s %s %s %q %v", got.Method, got.URL, got.Host, body, got.TransferEncoding)
		}
	}
	if _, err := c.Do(t.Context(), &Request{URL: u, Method: "PUT"}); err != nil || got.Method != "PUT" || got.ContentLength != 0 {
		t.Errorf("%v %s %d", err, got.Method, got.ContentLength)
	}
}

func TestBasic(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "tocsin" || password != "pässword: x" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	c := client(t, Options{Username: "tocsin", Password: func() (string, error) { return "pässword: x", nil }})
	if r := c.Send(t.Context(), &Request{URL: u}); r.Outcome != deliver.Delivered {
		t.Errorf("%+v", r)
	}
}

func TestBadOptions(t *testing.T) {
	fail := func() (string, error) { return "", errors.New("is not there") }
	ok := func() (string, error) { return "x", nil }
	for name, o := range map[string]Options{
		"proxy: is not": {Proxy: "http://a:port"}, "proxy: only http": {Proxy: "https://proxy.example:3128"}, "proxy: has a user": {Proxy: "http://u:p@proxy.example:3128"},
		"bearer token: is not there": {Bearer: fail}, "header X: is not there": {Headers: []Header{{Name: "X", Value: fail}}},
		"do not fit":       {Headers: []Header{Fixed("X", "a\r\nb: c")}},
		"only one of":      {Bearer: ok, Username: "u", Password: ok},
		"belong together":  {Username: "u"},
		"belong together ": {Password: ok},
		"a colon":          {Username: "u:v", Password: ok},
		"tls: ca has no":   {TLS: TLS{CA: ok}},
		"tls: cert and":    {TLS: TLS{Cert: ok}},
		"tls: the client":  {TLS: TLS{Cert: ok, Key: ok}},
		"tls: key: is not": {TLS: TLS{Cert: ok, Key: fail}},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSecretIsGone is about one that cannot be read any more: nothing is sent without it.
func TestSecretIsGone(t *testing.T) {
	asked := false
	u := serve(t, func(http.ResponseWriter, *http.Request) { asked = true })
	gone := false
	c := client(t, Options{Bearer: func() (string, error) {
		if gone {
			return "", errors.New("open /run/token: no such file")
		}
		return "t", nil
	}})
	gone = true
	if r := c.Send(t.Context(), &Request{URL: u}); r.Outcome != deliver.Retry || r.Reason != "bearer token: open /run/token: no such file" || asked {
		t.Errorf("%+v, %v", r, asked)
	}
}

func TestTransportErrors(t *testing.T) {
	closed := serve(t, func(http.ResponseWriter, *http.Request) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Host = l.Addr().String()
	l.Close()
	silent := listen(t, func(_ int, c net.Conn) { wait(c) })
	stalls := listen(t, func(_ int, c net.Conn) {
		if readRequest(c) == nil {
			io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n")
			wait(c)
		}
	})
	garbage := listen(t, func(_ int, c net.Conn) {
		if readRequest(c) == nil {
			io.WriteString(c, "220 mail.example ESMTP s3cret-token\r\n")
		}
	})
	hangsUp := listen(t, func(_ int, c net.Conn) { readRequest(c) })
	closesFirst := listen(t, func(_ int, c net.Conn) { c.(*net.TCPConn).SetLinger(0) })
	slowReader := listen(t, func(_ int, c net.Conn) {
		c.(*net.TCPConn).SetReadBuffer(1 << 10)
		one := make([]byte, 1)
		c.Read(one)
		<-t.Context().Done()
	})
	plain := parseURL(t, "https://"+silent.Host+"/")
	notTLS := listen(t, func(_ int, c net.Conn) {
		io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		wait(c)
	})
	notTLS.Scheme = "https"
	huge := make([]byte, 64<<20)
	tests := []struct {
		name    string
		url     *url.URL
		body    []byte
		outcome deliver.Outcome
		reason  string // a part of it
	}{
		{"refused", closed, nil, deliver.Retry, closed.Host + " refuses connections"},
		{"accepts and never answers", silent, nil, deliver.Retry, "no answer from " + silent.Host + " within 200ms"},
		{"sends headers and stalls", stalls, nil, deliver.Retry, "no answer from " + stalls.Host + " within 200ms"},
		{"never ends the handshake", plain, nil, deliver.Retry, "within 200ms"},
		{"is not HTTP", garbage, nil, deliver.Retry, "malformed HTTP"},
		{"is not TLS", notTLS, nil, deliver.Retry, "does not speak TLS"},
		{"hangs up", hangsUp, []byte("x"), deliver.Doubtful, hangsUp.Host + " has closed the connection without an answer"},
		{"hangs up early", closesFirst, huge, deliver.Retry, closesFirst.Host},
		{"does not read", slowReader, huge, deliver.Retry, "no answer from " + slowReader.Host + " within 200ms"},
	}
	c := client(t, Options{Timeout: 200 * time.Millisecond, Bearer: func() (string, error) { return "s3cret-token", nil }})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			// Whoever still reads what was released is found by the race detector.
			result := c.Send(t.Context(), &Request{URL: tt.url, Body: tt.body, Release: func() { clear(tt.body) }})
			if result.Outcome != tt.outcome || !strings.Contains(result.Reason, tt.reason) || strings.Contains(result.Reason, "s3cret") || result.Status != 0 {
				t.Errorf("%+v, want %v %q", result, tt.outcome, tt.reason)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestAnswerThatStops is about receivers that say yes and then do not end.
func TestAnswerThatStops(t *testing.T) {
	stalls := listen(t, func(_ int, c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		wait(c)
	})
	breaks := listen(t, func(_ int, c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
	})
	breaksNo := listen(t, func(_ int, c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 500 Oops\r\nContent-Length: 10\r\n\r\nabc")
	})
	drips := listen(t, func(_ int, c net.Conn) {
		readRequest(c)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			if _, err := io.WriteString(c, "1\r\nx\r\n"); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	c := client(t, Options{Timeout: time.Minute})
	for _, tt := range []struct {
		url    *url.URL
		status int
	}{{stalls, 200}, {breaks, 200}, {breaksNo, 500}, {drips, 200}} {
		start := time.Now()
		answer, err := c.Do(t.Context(), &Request{URL: tt.url, Body: []byte("x")})
		if err != nil || answer.Status != tt.status || !answer.Cut {
			t.Errorf("%+v, %v", answer, err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("the end of an answer was waited for: %v", took)
		}
	}
}

func TestLargeAnswers(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 10<<20))
	z.Close()
	kind := ""
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			t.Error("compressed answers are asked for")
		}
		switch kind {
		case "gzip":
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(400)
			w.Write(bomb.Bytes())
		case "exact":
			w.Write(make([]byte, MaxAnswerBytes))
		case "endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		case "text":
			w.WriteHeader(422)
			io.WriteString(w, strings.Repeat("no \x1b[31mway\x00\xff\u202e\n", 10_000))
		case "headers":
			w.Header().Set("X", strings.Repeat("x", 2*maxHeaders))
		}
	})
	c := client(t, Options{})
	for _, tt := range []struct {
		kind   string
		size   int
		cut    bool
		reason string
	}{
		{"gzip", bomb.Len(), false, "HTTP 400 Bad Request: (compressed text of " + strconv.Itoa(bomb.Len()) + " bytes)"},
		{"exact", MaxAnswerBytes, false, ""},
		{"endless", MaxAnswerBytes, true, ""},
		{"text", MaxAnswerBytes, true, `HTTP 422 Unprocessable Entity: "no [31mway no [31mway `},
	} {
		kind = tt.kind
		answer, err := c.Do(t.Context(), &Request{URL: u})
		if err != nil || len(answer.Body) != tt.size || answer.Cut != tt.cut {
			t.Errorf("%s: %d bytes, cut %v, %v", kind, len(answer.Body), answer.Cut, err)
			continue
		}
		result := Classify(answer, time.Now())
		if !strings.HasPrefix(result.Reason, tt.reason) || len(result.Reason) > deliver.MaxReasonBytes || strings.ContainsAny(result.Reason, "\n\x1b\x00\u202e") {
			t.Errorf("%s: %q", kind, result.Reason)
		}
	}
	kind = "headers"
	if result := c.Send(t.Context(), &Request{URL: u}); result.Outcome != deliver.Retry {
		t.Errorf("%+v", result)
	}
}

// TestSecretsAreNotRepeated is about a receiver that repeats what it was sent.
func TestSecretsAreNotRepeated(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(404)
		fmt.Fprintf(w, "Cannot %s %s %s %s %v %s", r.Method, r.URL.Path, r.URL, r.URL.Query().Get("key"), r.Header, r.URL.EscapedPath())
	})
	u = parseURL(t, "http://"+u.Host+"/services/T000/B000/s3cretpathelement?key=s3cret%20query&x=1")
	c := client(t, Options{
		Username: "u", Password: func() (string, error) { return "s3cretpassword", nil },
		Headers: []Header{{Name: "X-Api", Value: func() (string, error) { return "Token s3cretheader", nil }}},
	})
	result := c.Send(t.Context(), &Request{URL: u, Secrets: []string{"s3cretsignature"}, Header: http.Header{"X-Signature": {"s3cretsignature"}}})
	if strings.Contains(result.Reason, "s3cret") || strings.Contains(result.Reason, "czNjcmV0") || !strings.Contains(result.Reason, "Cannot POST <secret>") {
		t.Errorf("%s", result.Reason)
	}
}

// TestConnectionsAreKept counts connections, and what happens when they were closed.
func TestConnectionsAreKept(t *testing.T) {
	var opened, requests atomic.Int32
	u := listen(t, func(_ int, c net.Conn) {
		opened.Add(1)
		for readRequest(c) == nil {
			requests.Add(1)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	c := client(t, Options{Concurrency: 4})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if result := c.Send(t.Context(), &Request{URL: u, Body: []byte("x")}); result.Outcome != deliver.Delivered {
					t.Errorf("%+v", result)
				}
			}
		})
	}
	wg.Wait()
	if opened.Load() > 8 || requests.Load() != 200 {
		t.Errorf("%d connections for %d requests", opened.Load(), requests.Load())
	}
}

// TestClosedBetweenRequests is about a server that closes connections after each answer
// without saying so, at a moment that the client cannot know. Nothing is lost, and nothing
// is reported as failed.
func TestClosedBetweenRequests(t *testing.T) {
	var requests atomic.Int32
	u := listen(t, func(_ int, c net.Conn) {
		if readRequest(c) != nil {
			return
		}
		requests.Add(1)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		readRequest(c) // the next one is read, and not answered
	})
	c := client(t, Options{Concurrency: 4})
	for i := range 20 {
		var released atomic.Int32
		body := []byte("x")
		result := c.Send(t.Context(), &Request{URL: u, Body: body, Release: func() { released.Add(1); clear(body) }})
		if result.Outcome != deliver.Delivered {
			t.Fatalf("%d: %+v", i, result)
		}
		if requests.Load() != int32(i+1) || released.Load() > 1 {
			t.Fatalf("%d: answered %d times, released %d times", i, requests.Load(), released.Load())
		}
	}
}

// TestPoison is about an event that makes the receiver hang up: it is not tried on one
// connection after the other.
func TestPoison(t *testing.T) {
	var poisoned atomic.Int32
	ready, answer := make(chan bool), make(chan bool)
	u := listen(t, func(_ int, c net.Conn) {
		for {
			b := make([]byte, 4096)
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if bytes.Contains(b[:n], []byte("poison")) {
				poisoned.Add(1)
				return
			}
			ready <- true
			<-answer
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	const connections = 8
	c := client(t, Options{Concurrency: connections})
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() { c.Send(t.Context(), &Request{URL: u, Body: []byte("x")}) })
	}
	for range connections { // all of them are open
		<-ready
	}
	for range connections {
		answer <- true
	}
	wg.Wait()
	result := c.Send(t.Context(), &Request{URL: u, Body: []byte("poison")})
	if result.Outcome != deliver.Doubtful || poisoned.Load() > 1+replays {
		t.Errorf("%+v, sent %d times", result, poisoned.Load())
	}
}

// TestStorm is about many 429 at once.
func TestStorm(t *testing.T) {
	u := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		io.WriteString(w, "slow down")
	})
	c := client(t, Options{Concurrency: 8})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				result := c.Send(t.Context(), &Request{URL: u, Body: []byte("x")})
				if result.Outcome != deliver.Retry || result.After != 7*time.Second || result.Status != 429 || result.Reason != `HTTP 429 Too Many Requests: "slow down"` {
					t.Errorf("%+v", result)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestCancelAndClose(t *testing.T) {
	came := make(chan bool, 10)
	u := listen(t, func(_ int, c net.Conn) {
		readRequest(c)
		came <- true
		wait(c)
	})
	c := client(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-came; cancel() }()
	if result := c.Send(ctx, &Request{URL: u, Body: []byte("x")}); result.Outcome != deliver.Retry || result.Reason != "interrupted" {
		t.Errorf("%+v", result)
	}
	go func() { <-came; c.Close() }()
	for range 2 {
		if result := c.Send(t.Context(), &Request{URL: u, Body: []byte("x")}); result.Outcome != deliver.Retry || result.Reason != "the sink was closed" {
			t.Errorf("%+v", result)
		}
	}
	if c.Close() != nil {
		t.Error("closed twice")
	}
}
