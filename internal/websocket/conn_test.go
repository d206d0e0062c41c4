package websocket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
)

// accept starts a server that upgrades every request and hands the connection to
// serve, after the handler has returned.
func accept(t *testing.T, o Options, serve func(*Conn)) *httptest.Server {
	t.Helper()
	done := make(chan struct{}, 16)
	started := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, err := Check(r, o)
		if err != nil {
			var e *HandshakeError
			if !errors.As(err, &e) {
				t.Errorf("error %T", err)
			}
			http.Error(w, err.Error(), e.Status)
			return
		}
		w.Header().Set("X-Extra", "with us")
		w.Header().Set("Connection", "close") // ours stays
		c, err := h.Accept(w)
		if err != nil {
			t.Error(err)
			return
		}
		started++
		go func() { serve(c); done <- struct{}{} }()
	}))
	t.Cleanup(func() {
		s.Close()
		for range started {
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Error("a connection is still served")
			}
		}
	})
	return s
}

// echo is a complete little server.
func echo(c *Conn) {
	for {
		op, payload, err := c.Next()
		var closed *PeerClosedError
		var bad *ViolationError
		switch {
		case err == nil && op == Ping:
			c.Write(AppendFrame(nil, Pong, payload))
		case err == nil && op != Pong:
			c.Write(AppendFrame(nil, op, payload))
		case errors.As(err, &closed):
			c.Write(AppendClose(nil, closed.Code, ""))
			c.Close()
			return
		case errors.As(err, &bad):
			c.Write(AppendClose(nil, bad.Code, bad.Reason))
			c.Linger(5 * time.Second)
			return
		case err != nil:
			c.Close()
			return
		}
	}
}

// TestInterop talks to another implementation, with and without an offer of
// compression.
func TestInterop(t *testing.T) {
	s := accept(t, Options{MaxMessageBytes: 1 << 20}, echo)
	for _, mode := range []coder.CompressionMode{coder.CompressionDisabled, coder.CompressionNoContextTakeover, coder.CompressionContextTakeover} {
		t.Run(fmt.Sprintf("compression mode %d", mode), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c, res, err := coder.Dial(ctx, s.URL, &coder.DialOptions{CompressionMode: mode, CompressionThreshold: 1})
			if err != nil {
				t.Fatal(err)
			}
			if res.Header.Get("X-Extra") != "with us" || res.Header.Get("Sec-WebSocket-Extensions") != "" || len(res.Header.Values("Connection")) != 1 {
				t.Errorf("header %v", res.Header)
			}
			c.SetReadLimit(1 << 20)
			for _, n := range []int{0, 1, 125, 126, 4096, 65535, 65536, 1 << 20} {
				want := strings.Repeat("x", n)
				if err := c.Write(ctx, coder.MessageText, []byte(want)); err != nil {
					t.Fatal(err)
				}
				if typ, got, err := c.Read(ctx); err != nil || typ != coder.MessageText || string(got) != want {
					t.Fatalf("%d bytes: %v, %d bytes, %v", n, typ, len(got), err)
				}
			}
			ctx = c.CloseRead(ctx)
			if err := c.Ping(ctx); err != nil {
				t.Error(err)
			}
			if err := c.Close(4001, "done"); err != nil {
				t.Errorf("closing handshake: %v", err)
			}
		})
	}
	t.Run("message too big", func(t *testing.T) {
		c, _, err := coder.Dial(t.Context(), s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		go c.Write(t.Context(), coder.MessageBinary, make([]byte, 1<<20+1))
		if _, _, err := c.Read(t.Context()); coder.CloseStatus(err) != coder.StatusMessageTooBig {
			t.Errorf("got %v, want close code 1009", err)
		}
	})
	t.Run("not UTF-8", func(t *testing.T) {
		c, _, err := coder.Dial(t.Context(), s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		c.Write(t.Context(), coder.MessageText, []byte("\xff"))
		if _, _, err := c.Read(t.Context()); coder.CloseStatus(err) != coder.StatusInvalidFramePayloadData {
			t.Errorf("got %v, want close code 1007", err)
		}
	})
}

// TestEarlyFrame: a client that does not wait for the answer loses nothing, as
// long as it is a frame or two.
func TestEarlyFrame(t *testing.T) {
	const request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	h, err := Check(mustRequest(t, request), Options{MaxMessageBytes: 100})
	if err != nil {
		t.Fatal(err)
	}
	early := frame(0x81, mask, "early")
	server, client := net.Pipe()
	defer client.Close()
	w := &hijacked{server, bufio.NewReadWriter(bufio.NewReader(strings.NewReader(string(early)+"\x81")), bufio.NewWriter(server)), http.Header{}}
	w.buf.Reader.Peek(1) // fills the buffer
	go func() {
		client.Write(frame(0x81, mask, "later")[1:]) // the first byte came early
	}()
	answered := make(chan string, 1)
	go func() {
		res, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			answered <- err.Error()
			return
		}
		answered <- res.Header.Get("Sec-WebSocket-Accept")
	}()
	c, err := h.Accept(w)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := <-answered; got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // RFC 6455 section 1.3
		t.Errorf("accept key %q", got)
	}
	for _, want := range []string{"early", "later"} {
		if op, payload, err := c.Next(); op != Text || string(payload) != want || err != nil {
			t.Errorf("got %v %q %v, want %q", op, payload, err, want)
		}
	}

	flood := strings.NewReader(strings.Repeat("x", 1000))
	server2, client2 := net.Pipe()
	defer client2.Close()
	w = &hijacked{server2, bufio.NewReadWriter(bufio.NewReader(flood), bufio.NewWriter(server2)), http.Header{}}
	w.buf.Reader.Peek(1)
	if _, err := h.Accept(w); err == nil {
		t.Error("a flood before the answer was accepted")
	}
}

func mustRequest(t *testing.T, text string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type hijacked struct {
	conn   net.Conn
	buf    *bufio.ReadWriter
	header http.Header
}

func (h *hijacked) Header() http.Header                          { return h.header }
func (h *hijacked) Write([]byte) (int, error)                    { return 0, http.ErrHijacked }
func (h *hijacked) WriteHeader(int)                              {}
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.conn, h.buf, nil }

// TestCheckWithoutHijack: a server that cannot give the connection away.
func TestCheckWithoutHijack(t *testing.T) {
	if _, err := (&Handshake{}).Accept(httptest.NewRecorder()); err == nil {
		t.Error("no error")
	}
	r := mustRequest(t, "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	var e *HandshakeError
	if _, err := Check(r, Options{}); !errors.As(err, &e) || e.Status != http.StatusUpgradeRequired {
		t.Errorf("HTTP/1.0: %v", err)
	}
}

// TestLinger: the peer gets the close frame although it is still sending, and the
// connection ends even if the peer does not close it.
func TestLinger(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := NewConn(server, 0)
	client.Write(make([]byte, 10_000))
	last := AppendClose(nil, StatusPolicyViolation, "enough")
	c.Write(last)
	c.Linger(20 * time.Millisecond)
	got, err := io.ReadAll(client)
	if err != nil || string(got) != string(last) {
		t.Errorf("got %q %v", got, err)
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection is open: %v", err)
	}
}

func ExampleCheck() {
	http.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		handshake, err := Check(r, Options{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		conn, err := handshake.Accept(w)
		if err != nil {
			return
		}
		defer conn.Close()
		conn.Write(AppendFrame(nil, Text, []byte("hello")))
		conn.Write(AppendClose(nil, StatusNormal, ""))
		conn.Linger(5 * time.Second)
	})
}
