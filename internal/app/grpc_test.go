package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/config"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// dialGRPC returns a client's connection; settings is nil for none of TLS.
func dialGRPC(t *testing.T, a *App, settings *tls.Config) *grpc.ClientConn {
	t.Helper()
	c := insecure.NewCredentials()
	if settings != nil {
		c = credentials.NewTLS(settings)
	}
	conn, err := grpc.NewClient(a.Addr().String(), grpc.WithTransportCredentials(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// asRoot is a context for calls that end with the test at the latest.
func asRoot(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "x-vault-token", root)
}

func publishOne(t *testing.T, conn *grpc.ClientConn, id string) error {
	_, err := tocsinv1.NewPublisherClient(conn).Publish(asRoot(t), &tocsinv1.PublishRequest{
		Events: []*tocsinv1.Event{{Id: id, Source: "/shop", Type: "shop/order-placed", Subject: "orders/1"}}})
	return err
}

func TestGRPC(t *testing.T) {
	server, clients := newAuthority(t, "server"), newAuthority(t, "clients")
	certificate, err := tls.X509KeyPair(clients.issue(t, 7))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		auth     config.ClientAuth // "": no TLS
		settings *tls.Config
		ok       bool
	}{
		"plain":                        {"", nil, true},
		"TLS":                          {config.ClientAuthNone, &tls.Config{RootCAs: server.pool()}, true},
		"TLS and nobody trusted":       {config.ClientAuthNone, &tls.Config{RootCAs: clients.pool()}, false},
		"TLS expected, there is none":  {"", &tls.Config{RootCAs: server.pool()}, false},
		"no TLS and it is needed":      {config.ClientAuthNone, nil, false},
		"certificate needed and there": {config.ClientAuthRequire, &tls.Config{RootCAs: server.pool(), Certificates: []tls.Certificate{certificate}}, true},
		"certificate needed":           {config.ClientAuthRequire, &tls.Config{RootCAs: server.pool()}, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			if tt.auth != "" {
				c := tlsFiles(t)
				c.ClientAuth = tt.auth
				server.writeServer(t, c, 1)
				if tt.auth != config.ClientAuthNone {
					c.ClientCAFile = filepath.Join(t.TempDir(), "ca.pem")
					writeFile(t, c.ClientCAFile, clients.pem())
				}
				o.Config.Listen.TLS = c
			}
			a, _ := start(t, o)
			err := publishOne(t, dialGRPC(t, a, tt.settings), "1")
			if (err == nil) != tt.ok {
				t.Errorf("published with %v", err)
			}
		})
	}
}

// What came by gRPC is seen by a subscriber on the same port, with a client that would
// speak HTTP/2 if it were for it.
func TestGRPCBesideWebSocket(t *testing.T) {
	ca := newAuthority(t, "ca")
	o := options(t)
	o.Config.Listen.TLS = tlsFiles(t)
	ca.writeServer(t, o.Config.Listen.TLS, 1)
	a, _ := start(t, o)
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool()}, ForceAttemptHTTP2: true}}
	defer h.CloseIdleConnections()
	r, err := h.Get(a.URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, r.Body)
	r.Body.Close()
	if r.ProtoMajor != 2 {
		t.Errorf("an ordinary request was made with %s", r.Proto)
	}
	for proto, want := range map[string]string{"h2": "h2", "http/1.1": "http/1.1", "": ""} {
		settings := &tls.Config{RootCAs: ca.pool()}
		if proto != "" {
			settings.NextProtos = []string{proto}
		}
		conn, err := tls.Dial("tcp", a.Addr().String(), settings)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != want {
			t.Errorf("offered %q, agreed on %q", proto, got)
		}
		conn.Close()
	}
	s := subscribe(t, a, client.Options{HTTPClient: h}, "shop/*")
	if err := publishOne(t, dialGRPC(t, a, &tls.Config{RootCAs: ca.pool()}), "1"); err != nil {
		t.Fatal(err)
	}
	if _, got := next(t, s); !strings.HasPrefix(got, "shop/order-placed ") {
		t.Errorf("event %q", got)
	}
}

// A connection of HTTP/2 counts once, whatever is done on it, until it ends.
func TestGRPCConnections(t *testing.T) {
	o := options(t)
	o.Config.Listen.MaxConnections, o.Config.Listen.MaxPerAddress = 16, 2
	a, _ := start(t, o)
	first := dialGRPC(t, a, nil)
	for i := range 3 {
		if err := publishOne(t, first, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := tocsinv1.NewPublisherClient(first).PublishStream(asRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, stream, 1)
	await(t, a.URL()+"/metrics", "tocsin_http_connections 2") // with that of await
	if err := publishOne(t, dialGRPC(t, a, nil), "x"); status.Code(err) != codes.Unavailable {
		t.Errorf("a third connection: %v", err)
	}
	first.Close()
	await(t, a.URL()+"/metrics", "tocsin_http_connections 1")
	if err := publishOne(t, dialGRPC(t, a, nil), "y"); err != nil {
		t.Error(err)
	}
}

func exchange(t *testing.T, stream grpc.BidiStreamingClient[tocsinv1.PublishStreamRequest, tocsinv1.PublishStreamResponse], sequence uint64) {
	t.Helper()
	err := stream.Send(&tocsinv1.PublishStreamRequest{Sequence: sequence, Events: []*tocsinv1.Event{{Id: fmt.Sprint("stream-", sequence), Source: "/shop", Type: "shop/order-placed"}}})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || r.AcknowledgedSequence != sequence || r.Accepted != 1 {
		t.Fatalf("request %d: %v, %v", sequence, r, err)
	}
}

// The limits of ordinary requests do not end a stream, and do end a call without a
// token that does nothing.
func TestStreamsOutliveRequests(t *testing.T) {
	a, err := New(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	const limit = 300 * time.Millisecond
	a.server.ReadTimeout, a.server.WriteTimeout = limit, limit
	run(t, a)
	conn := dialGRPC(t, a, nil)
	stream, err := tocsinv1.NewPublisherClient(conn).PublishStream(asRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, stream, 1)
	open, err := conn.NewStream(asRoot(t), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := open.RecvMsg(new(tocsinv1.PublishResponse)); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("a call that does nothing ended after %v with %v", time.Since(began), err)
	}
	if time.Since(began) < limit/2 {
		t.Errorf("it ended after %v already", time.Since(began))
	}
	exchange(t, stream, 2)
}

// However streams are used, the end of the program is orderly and in time, and they are
// told.
func TestCloseWithStreams(t *testing.T) {
	t.Parallel()
	a, err := New(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	c := tocsinv1.NewPublisherClient(dialGRPC(t, a, nil))
	idle, err := c.PublishStream(asRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, idle, 1)
	// One whose client does not read what is refused.
	deaf, err := tocsinv1.NewPublisherClient(dialGRPC(t, a, nil)).PublishStream(asRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	bad := make([]*tocsinv1.Event, 5000)
	for i := range bad {
		bad[i] = new(tocsinv1.Event)
	}
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		for i := uint64(1); ; i++ {
			if deaf.Send(&tocsinv1.PublishStreamRequest{Sequence: i, Events: bad}) != nil {
				return
			}
		}
	}()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, page := get(t, a.URL()+"/metrics"); strings.Contains(page, `tocsin_refused_total{component="publish",name="grpc",reason="invalid"}`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was refused")
		}
	}
	http.DefaultClient.CloseIdleConnections()

	began := time.Now()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if took := time.Since(began); took > stopTimeout/2 {
		t.Errorf("it took %v", took)
	}
	if _, err := idle.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the server stops") {
		t.Errorf("the idle stream ended with %v", err)
	}
	<-sending
}

// h2 is a client of HTTP/2 that can do what others do not.
type h2 struct {
	conn   net.Conn
	framer *http2.Framer
	hpack  *hpack.Encoder
	buffer bytes.Buffer
}

func dialH2(t *testing.T, a *App) *h2 {
	t.Helper()
	c := &h2{conn: dial(t, a)}
	c.conn.SetDeadline(time.Now().Add(time.Minute))
	c.framer = http2.NewFramer(c.conn, c.conn)
	c.hpack = hpack.NewEncoder(&c.buffer)
	if _, err := io.WriteString(c.conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *h2) headers(more ...string) []byte {
	c.buffer.Reset()
	fields := append([]string{":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/tocsin.v1.Publisher/PublishStream",
		"content-type", "application/grpc", "te", "trailers", "x-vault-token", root}, more...)
	for i := 0; i < len(fields); i += 2 {
		c.hpack.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(c.buffer.Bytes())
}

// count reads frames until the connection ends or enough are of a kind.
func (c *h2) count(enough int, is func(http2.Frame) bool) (n int, err error) {
	for n < enough {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return n, err
		}
		if is(f) {
			n++
		}
	}
	return n, nil
}

// TestHostileHTTP2: what a connection can make the server keep and do is bounded.
func TestHostileHTTP2(t *testing.T) {
	t.Parallel()
	a, _ := start(t, options(t))
	t.Run("many streams", func(t *testing.T) {
		c := dialH2(t, a)
		for i := range 150 {
			if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: c.headers(), EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
		}
		n, err := c.count(50, func(f http2.Frame) bool {
			r, ok := f.(*http2.RSTStreamFrame)
			return ok && r.ErrCode == http2.ErrCodeRefusedStream
		})
		if n != 50 {
			t.Errorf("%d of 150 streams were refused, %v", n, err)
		}
	})
	t.Run("large headers", func(t *testing.T) {
		c := dialH2(t, a)
		block := c.headers("x-a", strings.Repeat("x", 60<<10), "x-b", strings.Repeat("y", 60<<10))
		if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:16<<10]}); err != nil {
			t.Fatal(err)
		}
		for block = block[16<<10:]; len(block) > 0; {
			n := min(len(block), 16<<10)
			if c.framer.WriteContinuation(1, n == len(block), block[:n]) != nil {
				return // cut while sending
			}
			block = block[n:]
		}
		var answer string
		decoder := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
			if f.Name == ":status" {
				answer = f.Value
			}
		})
		_, err := c.count(1, func(f http2.Frame) bool {
			h, ok := f.(*http2.HeadersFrame)
			if ok {
				decoder.Write(h.HeaderBlockFragment())
			}
			return ok
		})
		if err == nil && answer != "431" {
			t.Errorf("answered with status %q", answer)
		}
	})
	t.Run("headers without end", func(t *testing.T) {
		c := dialH2(t, a)
		if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.headers()}); err != nil {
			t.Fatal(err)
		}
		sent := 0
		for ; sent < 64<<20; sent += 16 << 10 {
			if err := c.framer.WriteContinuation(1, false, bytes.Repeat([]byte{0}, 16<<10)); err != nil {
				break
			}
		}
		if sent >= 64<<20 {
			t.Error("64 MiB of headers were taken")
		}
	})
	if err := publishOne(t, dialGRPC(t, a, nil), "after"); err != nil {
		t.Errorf("after all that: %v", err)
	}
}
