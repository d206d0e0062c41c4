package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func compressor(encoding string, w io.Writer, options ...zstd.EOption) io.WriteCloser {
	if encoding == encodingGzip {
		return gzip.NewWriter(w)
	}
	z, err := zstd.NewWriter(w, append(options, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		panic(err)
	}
	return z
}

// TestBodies fills memory from readers that give a little at a time.
func TestBodies(t *testing.T) {
	b := newBodies(1 << 20)
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		text := make([]byte, random.IntN(300<<10))
		for i := range text {
			text[i] = byte(random.Uint32())
		}
		m := b.new()
		err := m.fill(&dribble{text: text, random: random}, 256<<10)
		switch {
		case len(text) > 256<<10 && !errors.Is(err, errBodyTooLarge), len(text) <= 256<<10 && (err != nil || !bytes.Equal(m.bytes, text)):
			t.Fatalf("%d bytes: %d, %v", len(text), len(m.bytes), err)
		case b.used.Load() != int64(cap(m.bytes)):
			t.Fatalf("%d bytes are counted for %d", b.used.Load(), cap(m.bytes))
		}
		m.free()
	}
	// The sum is bounded, and what does not fit leaves nothing behind.
	var held []*content
	for {
		m := b.new()
		if err := m.fill(strings.NewReader(strings.Repeat("x", 100<<10)), 256<<10); err != nil {
			if !errors.Is(err, errBodiesTooMany) {
				t.Fatal(err)
			}
			m.free()
			break
		}
		held = append(held, m)
	}
	if len(held) != 7 { // of 128 KiB each, and the one that did not fit needed 64 besides
		t.Errorf("%d bodies", len(held))
	}
	for _, m := range held {
		m.free()
		m.free() // does nothing
	}
	if used := b.used.Load(); used != 0 {
		t.Errorf("%d bytes are still counted", used)
	}
}

// dribble gives a text in pieces.
type dribble struct {
	text   []byte
	random *rand.Rand
}

func (d *dribble) Read(b []byte) (int, error) {
	if len(d.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b, d.text[:min(len(d.text), 1+d.random.IntN(8<<10))])
	d.text = d.text[n:]
	if len(d.text) == 0 && d.random.IntN(2) == 0 {
		return n, io.EOF
	}
	return n, nil
}

func TestDecode(t *testing.T) {
	b := newBodies(64 << 20)
	text := made("1", `,"data":"`+strings.Repeat("abc", 100_000)+`"`)
	zeros := strings.Repeat("\x00", 1<<20)
	bomb := func(encoding string, megabytes int, options ...zstd.EOption) string {
		var out strings.Builder
		w := compressor(encoding, &out, options...)
		for range megabytes {
			io.WriteString(w, zeros)
		}
		w.Close()
		return out.String()
	}
	truncated := func(encoding string) string { s := compressed(encoding, text); return s[:len(s)-5] }
	for _, tt := range []struct {
		name, encoding, in string
		want               string // in the error; empty: text
	}{
		{"gzip", "gzip", compressed("gzip", text), ""},
		{"zstd", "zstd", compressed("zstd", text), ""},
		{"gzip in two members", "gzip", compressed("gzip", text[:1000]) + compressed("gzip", text[1000:]), ""},
		{"zstd in two frames", "zstd", compressed("zstd", text[:1000]) + compressed("zstd", text[1000:]), ""},
		{"gzip bomb", "gzip", bomb("gzip", 40), errBodyTooLarge.Error()},
		{"zstd bomb", "zstd", bomb("zstd", 200), errBodyTooLarge.Error()},
		{"zstd window", "zstd", bomb("zstd", 40, zstd.WithWindowSize(32<<20)), "its window is larger than 8 MiB"},
		{"gzip truncated", "gzip", truncated("gzip"), "the body is not gzip: it ends too early"},
		{"zstd truncated", "zstd", truncated("zstd"), "the body is not zstd: it ends too early"},
		{"gzip empty", "gzip", "", "the body is not gzip: it ends too early"},
		{"gzip that is none", "gzip", text, "the body is not gzip: gzip: invalid header"},
		{"zstd that is none", "zstd", text, "the body is not zstd: invalid input"},
		{"gzip with more behind it", "gzip", compressed("gzip", text) + "x", "the body is not gzip"},
		{"gzip with a wrong checksum", "gzip", strings.TrimSuffix(compressed("gzip", text), "\x00") + "\x01", "the body is not gzip"},
	} {
		m := b.new()
		if err := m.fill(strings.NewReader(tt.in), maxEventsBody); err != nil {
			t.Fatal(err)
		}
		err := m.decode(t.Context(), tt.encoding, maxEventsContent)
		if tt.want == "" && (err != nil || string(m.bytes) != text) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if used := b.used.Load(); used != int64(cap(m.bytes)) {
			t.Errorf("%s: %d bytes are counted for %d", tt.name, used, cap(m.bytes))
		}
		m.free()
	}
	// Nobody waits for a decoder longer than they want to.
	var all []*decoder
	for range cap(b.decoders) {
		all = append(all, <-b.decoders)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.new().decode(ctx, "gzip", 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, d := range all {
		b.decoders <- d
	}
}

func TestPublishLargeBodies(t *testing.T) {
	n := startNode(t, nil)
	spaces := strings.Repeat(" ", maxEventsBody)
	for _, tt := range []struct {
		name   string
		q      ask
		status int
		text   string
	}{
		{"as large as allowed", n.post(batched, spaces[2:]+"[]"), 200, `"accepted":0`},
		{"larger", n.post(batched, spaces+"[]"), 413, "the body has more than 8388608 bytes"},
		{"larger after decompression", n.post(batched, compressed("gzip", spaces+spaces+"[]"), "Content-Encoding", "gzip"), 413, "more than 16777216 bytes after decompression"},
		{"as large as allowed after decompression", n.post(batched, compressed("zstd", spaces[2:]+spaces+"[]"), "Content-Encoding", "zstd"), 200, `"accepted":0`},
		{"not compressed", n.post(batched, "[]", "Content-Encoding", "gzip"), 400, "the body is not gzip"},
		{"x-gzip", n.post(batched, compressed("gzip", "[]"), "Content-Encoding", "x-gzip"), 200, ""},
		{"identity", n.post(batched, "[]", "Content-Encoding", "Identity"), 200, ""},
	} {
		if status, raw, _ := n.try(tt.q); status != tt.status || !strings.Contains(string(raw), tt.text) {
			t.Errorf("%s: %d %s", tt.name, status, raw)
		}
	}
	// Without Content-Length, larger.
	conn, r := n.open(request("POST", eventsPath, "Content-Type: "+batched, "Transfer-Encoding: chunked"))
	go func() {
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<20, strings.Repeat(" ", 1<<20))
		for range 9 {
			if _, err := io.WriteString(conn, chunk); err != nil {
				return
			}
		}
		io.WriteString(conn, "0\r\n\r\n")
	}()
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 413 || !res.Close {
		t.Errorf("chunked: %v, %v", res, err)
	}
	if used := n.api.publisher.bodies.used.Load(); used != 0 {
		t.Errorf("%d bytes of bodies are still held", used)
	}
}

// open sends the beginning of a request.
func (n *node) open(head string) (net.Conn, *bufio.Reader) {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, head); err != nil {
		n.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func TestExpectContinue(t *testing.T) {
	n := startNode(t, nil)
	body := made("1", "")
	length := fmt.Sprintf("Content-Length: %d", len(body))
	conn, r := n.open(request("POST", eventsPath, "Content-Type: "+structured, "Expect: 100-continue", length))
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != 100 {
		t.Fatalf("%v %v", res, err)
	}
	io.WriteString(conn, body)
	if res, err = http.ReadResponse(r, nil); err != nil || res.StatusCode != 200 {
		t.Errorf("%v %v", res, err)
	}
	// Who is refused need not send the body.
	for status, headers := range map[int][]string{
		403: {"Content-Type: " + structured, length, "X-Vault-Token: nope"},
		413: {"Content-Type: " + structured, "Content-Length: 100000000"},
		415: {"Content-Type: text/plain", length},
	} {
		_, r := n.open(request("POST", eventsPath, append(headers, "Expect: 100-continue")...))
		if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != status {
			t.Errorf("want %d: %v %v", status, res, err)
		}
	}
}

// TestBrokenBodies: who breaks off or is too slow stores nothing and holds no memory.
func TestBrokenBodies(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	server := NewServer(n.api, n.api.log)
	server.ReadTimeout = 300 * time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() { server.Close(); <-served })
	n.addr = ln.Addr().String()
	for name, headers := range map[string][]string{
		"length":  {"Content-Length: 1000"},
		"chunked": {"Transfer-Encoding: chunked"},
		"gzip":    {"Content-Length: 1000", "Content-Encoding: gzip"},
	} {
		head := request("POST", eventsPath, append(headers, "Content-Type: "+batched)...)
		text := "[" + made("1", "") + "]"
		if name == "chunked" {
			text = fmt.Sprintf("%x\r\n%s\r\n", len(text), text)
		}
		_, r := n.open(head + text)
		if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 400 {
			t.Errorf("%s, slow: %v %v", name, res, err)
		}
		conn, _ := n.open(head + text)
		conn.Close()
	}
	_, r := n.open(request("POST", eventsPath, "Content-Type: "+batched, "Transfer-Encoding: chunked") + "zz\r\n")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 400 {
		t.Errorf("broken chunk: %v %v", res, err)
	}
	n.awaitBodies(func(used int64) bool { return used == 0 })
	if got := n.stored(); len(got) != 0 {
		t.Errorf("stored %s", ids(got))
	}
}

// awaitBodies waits for a number of bytes in bodies.
func (n *node) awaitBodies(enough func(used int64) bool) {
	n.t.Helper()
	for deadline := time.Now().Add(time.Minute); !enough(n.api.publisher.bodies.used.Load()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%d bytes of bodies are held", n.api.publisher.bodies.used.Load())
		}
	}
}

// TestManySlowBodies: bodies together are bounded, and those who send little take little.
func TestManySlowBodies(t *testing.T) {
	n := startNode(t, nil)
	n.api.publisher.bodies = newBodies(1 << 20)
	head := request("POST", eventsPath, "Content-Type: "+structured, "Content-Length: 8000000")
	var slow []net.Conn
	for range 60 {
		conn, _ := n.open(head + "{")
		slow = append(slow, conn)
	}
	n.awaitBodies(func(used int64) bool { return used == 60*minBodyBytes })
	q := n.post(structured, made("1", ""))
	n.must(q)
	for range 4 {
		conn, _ := n.open(head + "{")
		slow = append(slow, conn)
	}
	n.awaitBodies(func(used int64) bool { return used == 64*minBodyBytes })
	status, raw, header := n.try(q)
	if status != 429 || header.Get("Retry-After") != "1" || !strings.Contains(string(raw), "too many requests with events are being received") {
		t.Errorf("%d %s %v", status, raw, header)
	}
	if status, raw, _ := n.try(n.post(batched, strings.Repeat(" ", 6<<20))); status != 429 {
		t.Errorf("a large body: %d %s", status, raw)
	}
	for _, conn := range slow {
		conn.Close()
	}
	n.awaitBodies(func(used int64) bool { return used == 0 })
	n.must(q)
}

// TestRevokedWhileSending: a token that ends while a body is being sent publishes
// nothing.
func TestRevokedWhileSending(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	token := n.newToken(`{"policies":["root"],"ttl":"1h"}`)
	body := made("1", "")
	conn, r := n.open(request("POST", eventsPath, "Content-Type: "+structured, fmt.Sprintf("Content-Length: %d", len(body)), "X-Vault-Token: "+token) + body[:5])
	n.awaitBodies(func(used int64) bool { return used > 0 })
	begin := time.Now()
	n.must(ask{method: "POST", path: "/v1/auth/token/revoke", body: `{"token":"` + token + `"}`})
	for time.Since(begin) <= slowBody {
		time.Sleep(slowBody / 10)
	}
	io.WriteString(conn, body[5:])
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 403 {
		t.Errorf("%v %v", res, err)
	}
	if got := n.stored(); len(got) != 0 {
		t.Errorf("stored %s", ids(got))
	}
}

// FuzzPublish sends any content type, encoding, headers and body: the answer is JSON and is
// no error of the server.
func FuzzPublish(f *testing.F) {
	n := startNode(f, nil)
	f.Add(structured, "", "", []byte(made("1", "")))
	f.Add(batched, "gzip", "partial=1", []byte(compressed("gzip", "["+made("1", "")+",{}]")))
	f.Add(batched, "zstd", "", []byte(compressed("zstd", "["+made("1", "")+"]")))
	f.Add("text/plain\nce-id: 1\nce-type: t\nce-source: %20\nce-specversion: 1.0", "identity", "partial=x", []byte("x"))
	f.Fuzz(func(t *testing.T, headers, encoding, query string, body []byte) {
		r := httptest.NewRequest("POST", eventsPath, bytes.NewReader(body))
		r.URL = &url.URL{Path: eventsPath, RawQuery: query}
		r.Header = http.Header{"X-Vault-Token": {"root"}, "Content-Encoding": {encoding}}
		contentType, more, _ := strings.Cut(headers, "\n")
		r.Header["Content-Type"] = []string{contentType}
		for line := range strings.SplitSeq(more, "\n") {
			name, value, _ := strings.Cut(line, ":")
			r.Header[http.CanonicalHeaderKey(name)] = []string{strings.TrimSpace(value)}
		}
		w := httptest.NewRecorder()
		n.api.ServeHTTP(w, r)
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code >= 500 || (w.Code > 299) != (answer["errors"] != nil) {
			t.Errorf("%d %q: %v", w.Code, w.Body, err)
		}
		if used := n.api.publisher.bodies.used.Load(); used != 0 {
			t.Errorf("%d bytes of bodies are still held", used)
		}
	})
}
