package export

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tocsin-events/tocsin/internal/telemetry"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
	"github.com/tocsin-events/tocsin/internal/trace/tracetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "hc-key-0123456789"

// request is what a receiver got.
type request struct {
	path   string
	header http.Header
	body   []byte
}

// receive starts an HTTP server that answers as a test says.
func receive(t *testing.T, answer http.HandlerFunc) (url string, last func() request) {
	t.Helper()
	var mu sync.Mutex
	var got request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzip, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unzip
		}
		b, err := io.ReadAll(body)
		if err != nil && r.Context().Err() == nil {
			t.Error(err)
		}
		mu.Lock()
		got = request{r.URL.Path, r.Header, b}
		mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() request { mu.Lock(); defer mu.Unlock(); return got }
}

func fine(w http.ResponseWriter, _ *http.Request) {}

func connection(url string) Connection {
	return Connection{
		URL: url, Gzip: true, Timeout: 5 * time.Second, UserAgent: "tocsin/1.2.3",
		Headers: []Header{Fixed("X-Key", secret), Fixed("Authorization", "Bearer "+secret)},
	}
}

var options = otlp.Options{Version: "1.2.3"}

func closed(t *testing.T, e Exporter, err error) Exporter {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func TestHTTPRequests(t *testing.T) {
	spans := tracetest.Spans()
	encoder := otlp.NewEncoder(options)
	for name, test := range map[string]struct {
		make              func(Connection) (Exporter, error)
		path, contentType string
		body              []byte
	}{
		"otlp":      {func(c Connection) (Exporter, error) { return NewOTLPHTTP(c, Protobuf, options) }, "/v1/traces", "application/x-protobuf", encoder.AppendProtobuf(nil, spans)},
		"otlp json": {func(c Connection) (Exporter, error) { return NewOTLPHTTP(c, JSON, options) }, "/v1/traces", "application/json", encoder.AppendJSON(nil, spans)},
		"zipkin":    {NewZipkin, "/api/v2/spans", "application/json", nil},
		"honeycomb": {func(c Connection) (Exporter, error) {
			return NewHoneycomb(c, Honeycomb{Key: func() (string, error) { return secret, nil }, Dataset: "vault"}, options)
		}, "/v1/traces", "application/x-protobuf", encoder.AppendProtobuf(nil, spans)},
	} {
		t.Run(name, func(t *testing.T) {
			url, last := receive(t, fine)
			for _, path := range []string{"", "/", "/custom/path"} {
				for _, compressed := range []bool{true, false} {
					c := connection(url + path)
					c.Gzip = compressed
					e, err := test.make(c)
					closed(t, e, err)
					p := e.Encode(spans)
					e.Encode(tracetest.Numbered(1, 100)) // leaves p alone
					if a := e.Export(t.Context(), p); a != (Answer{}) {
						t.Fatalf("%+v", a)
					}
					got := last()
					want := test.path
					if path == "/custom/path" {
						want = path
					}
					if got.path != want || got.header.Get("Content-Type") != test.contentType || got.header.Get("User-Agent") != "tocsin/1.2.3" ||
						got.header.Get("X-Key") != secret || got.header.Get("Authorization") != "Bearer "+secret {
						t.Errorf("%s %v", got.path, got.header)
					}
					if test.body != nil && !bytes.Equal(got.body, test.body) {
						t.Errorf("other bytes: %.200q", got.body)
					}
					if name == "zipkin" && !json.Valid(got.body) {
						t.Errorf("%.200q", got.body)
					}
					if name == "honeycomb" && (got.header.Get("X-Honeycomb-Team") != secret || got.header.Get("X-Honeycomb-Dataset") != "vault") {
						t.Errorf("%v", got.header)
					}
				}
			}
		})
	}
}

func field(b []byte, n protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), content)
}

// TestHTTPAnswers: what each status and body means.
func TestHTTPAnswers(t *testing.T) {
	const protobuf, text = "application/x-protobuf", "text/plain"
	partial := field(nil, 1, field(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 2), 2, []byte("2 are too old")))
	for name, test := range map[string]struct {
		status            int
		contentType, body string
		header            string // Retry-After
		want              Answer
	}{
		"200":              {200, protobuf, "", "", Answer{}},
		"202":              {202, "", "", "", Answer{}},
		"partly":           {200, protobuf, string(partial), "", Answer{Rejected: 2, Reason: "2 are too old"}},
		"partly, JSON":     {200, "application/json", `{"partialSuccess":{"rejectedSpans":"99999","errorMessage":"all"}}`, "", Answer{Rejected: 3, Reason: "all"}},
		"200, garbage":     {200, protobuf, "\xff\xff", "", Answer{}},
		"400":              {400, text, "bad spans", "60", Answer{Outcome: Never, Reason: "HTTP 400 Bad Request: bad spans"}},
		"400, OTLP":        {400, protobuf, string(field(nil, 2, []byte("bad spans"))), "", Answer{Outcome: Never, Reason: "HTTP 400 Bad Request: bad spans"}},
		"413":              {413, text, "", "", Answer{Outcome: TooLarge, Reason: "HTTP 413 Request Entity Too Large"}},
		"401":              {401, text, "unknown API key", "", Answer{Outcome: Retry, Reason: "check the key or the headers of the exporter (HTTP 401 Unauthorized: unknown API key)"}},
		"404":              {404, text, "", "", Answer{Outcome: Retry, Reason: "check the url and the type of the exporter (HTTP 404 Not Found)"}},
		"429":              {429, text, "", "7", Answer{Outcome: Retry, After: 7 * time.Second, Reason: "HTTP 429 Too Many Requests"}},
		"429, for a week":  {429, text, "", "604800", Answer{Outcome: Retry, After: telemetry.MaxRetryAfter, Reason: "HTTP 429 Too Many Requests"}},
		"503, RetryInfo":   {503, "application/json", `{"message":"full","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"3s"}]}`, "", Answer{Outcome: Retry, After: 3 * time.Second, Reason: "HTTP 503 Service Unavailable: full"}},
		"500":              {500, "text/html", "<h1>oops</h1>\n<p>", "", Answer{Outcome: Doubtful, Reason: "HTTP 500 Internal Server Error: <h1>oops</h1> <p>"}},
		"echoes":           {400, text, "key " + secret + " of Bearer " + secret + " is bad", "", Answer{Outcome: Never, Reason: "HTTP 400 Bad Request: key <secret> of <secret> <secret> is bad"}},
		"echoes, cut":      {200, "application/json", `{"partialSuccess":{"rejectedSpans":"1","errorMessage":"` + strings.Repeat("x", 290) + " " + secret + `"}}`, "", Answer{Rejected: 1, Reason: strings.Repeat("x", 290) + " <secret>"}},
		"control letters":  {400, text, "a\x1b[31mb\x00c\r\nd\xff", "", Answer{Outcome: Never, Reason: "HTTP 400 Bad Request: a[31mbc d"}},
		"a strange status": {299, text, "", "", Answer{}},
		"418":              {418, text, "", "", Answer{Outcome: Retry, Reason: "check the url and the headers of the exporter (HTTP 418 I'm a teapot)"}},
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := receive(t, func(w http.ResponseWriter, r *http.Request) {
				if test.contentType != "" {
					w.Header().Set("Content-Type", test.contentType)
				}
				if test.header != "" {
					w.Header().Set("Retry-After", test.header)
				}
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			})
			e, err := NewOTLPHTTP(connection(url), Protobuf, options)
			closed(t, e, err)
			if a := e.Export(t.Context(), e.Encode(tracetest.Spans())); a != test.want {
				t.Errorf("got  %+v\nwant %+v", a, test.want)
			}
		})
	}
}

// TestRedirect: neither the spans nor the key go where an answer says.
func TestRedirect(t *testing.T) {
	elsewhere, last := receive(t, fine)
	for _, status := range []int{301, 302, 303, 307, 308} {
		url, _ := receive(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, status) })
		e, err := NewZipkin(connection(url))
		closed(t, e, err)
		a := e.Export(t.Context(), e.Encode(tracetest.Spans()))
		if a.Outcome != Retry || !strings.Contains(a.Reason, "it redirects to another URL") {
			t.Errorf("%d: %+v", status, a)
		}
	}
	if got := last(); got.header != nil {
		t.Errorf("it was followed: %v", got.header)
	}
}

func TestHugeAnswer(t *testing.T) {
	url, _ := receive(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		for range 1000 {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
				return
			}
		}
	})
	e, err := NewZipkin(connection(url))
	closed(t, e, err)
	if a := e.Export(t.Context(), e.Encode(tracetest.Spans())); a.Outcome != Never || len(a.Reason) > telemetry.MaxText+3 {
		t.Errorf("%+v", a)
	}
}

func TestNoAnswer(t *testing.T) {
	release := make(chan struct{})
	url, _ := receive(t, func(w http.ResponseWriter, r *http.Request) { <-release })
	defer close(release)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	l.Close()
	for name, makeExporter := range map[string]func(Connection) (Exporter, error){
		"http": NewZipkin, "grpc": func(c Connection) (Exporter, error) { return NewOTLPGRPC(c, options) },
	} {
		c := connection(url)
		c.Timeout = 100 * time.Millisecond
		e, err := makeExporter(c)
		closed(t, e, err)
		if a := e.Export(t.Context(), e.Encode(tracetest.Spans())); a.Outcome != Retry || name == "http" && a.Reason != "no answer within 100ms" {
			t.Errorf("%s, silent: %+v", name, a)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if a := e.Export(ctx, e.Encode(tracetest.Spans())); a.Outcome != Retry || a.Reason != "interrupted" {
			t.Errorf("%s, interrupted: %+v", name, a)
		}
		e, err = makeExporter(connection(nobody))
		closed(t, e, err)
		a := e.Export(t.Context(), e.Encode(tracetest.Spans()))
		if a.Outcome != Retry || !strings.Contains(a.Reason, "connection refused") || strings.Contains(a.Reason, secret) {
			t.Errorf("%s, nobody there: %+v", name, a)
		}
	}
}

// TestSecretsChange: a key is read for every request, and while it cannot be, nothing is
// lost.
// TestClosedWhileIdle: a receiver may close an idle connection in the moment in which it is
// used again.
func TestClosedWhileIdle(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for n := 1; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for requests := 1; ; requests++ {
					request, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, request.Body)
					if key, sent := request.Header["Idempotency-Key"]; sent {
						t.Errorf("a header that means nothing to it: %q", key)
					}
					if n == 1 && requests == 2 {
						return
					}
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	e, err := NewZipkin(Connection{URL: "http://" + l.Addr().String(), Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	for range 2 {
		if a := e.Export(t.Context(), e.Encode(tracetest.Numbered(1, 3))); a.Outcome != Delivered {
			t.Errorf("%+v", a)
		}
	}
}

func TestSecretsChange(t *testing.T) {
	url, last := receive(t, fine)
	value, failure := "first", error(nil)
	c := connection(url)
	c.Headers = []Header{{Name: "X-Key", Value: func() (string, error) { return value, failure }}}
	e, err := NewZipkin(c)
	closed(t, e, err)
	p := e.Encode(tracetest.Spans())
	e.Export(t.Context(), p)
	value = "second"
	e.Export(t.Context(), p)
	if got := last().header.Get("X-Key"); got != "second" {
		t.Errorf("%q", got)
	}
	failure = errors.New("read secret: no such file")
	if a := e.Export(t.Context(), p); a.Outcome != Retry || a.Reason != "header X-Key: read secret: no such file" {
		t.Errorf("%+v", a)
	}
	value, failure = "two\nlines", nil
	if a := e.Export(t.Context(), p); a.Outcome != Retry || strings.Contains(a.Reason, "two") {
		t.Errorf("%+v", a)
	}
}

func TestURLs(t *testing.T) {
	for _, url := range []string{"", "localhost:9411", "ftp://a", "http://", "http://user:hunter2@a", "http://user:hunter2%@a", "http://a?key=hunter2", "http://a#hunter2", "http://:80"} {
		for name, makeExporter := range map[string]func(Connection) (Exporter, error){
			"zipkin": NewZipkin, "grpc": func(c Connection) (Exporter, error) { return NewOTLPGRPC(c, options) },
		} {
			if _, err := makeExporter(connection(url)); err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s %q: %v", name, url, err)
			}
		}
	}
	if _, err := NewOTLPGRPC(connection("http://a/v1/traces"), options); err == nil || !strings.Contains(err.Error(), "otlp_http") {
		t.Error(err)
	}
}

func TestHoneycomb(t *testing.T) {
	key := func(k string) Honeycomb { return Honeycomb{Key: func() (string, error) { return k, nil }} }
	c := connection("")
	for k, classic := range map[string]bool{
		strings.Repeat("0a", 16): true, "hcaic_" + strings.Repeat("0", 58): true, "hcaik_" + strings.Repeat("0", 58): false, "abcdefghijklmnopqrstuv": false,
	} {
		e, err := NewHoneycomb(c, key(k), options)
		if (err != nil) != classic {
			t.Errorf("%s: %v", k, err)
			continue
		}
		if classic {
			h := key(k)
			h.Dataset = "vault"
			e, err = NewHoneycomb(c, h, options)
		}
		closed(t, e, err)
		if url := e.(*httpExporter).http.Endpoint(); url != "https://api.honeycomb.io/v1/traces" {
			t.Error(url)
		}
	}
	h := key("x")
	h.EU = true
	e, err := NewHoneycomb(c, h, options)
	closed(t, e, err)
	if url := e.(*httpExporter).http.Endpoint(); url != "https://api.eu1.honeycomb.io/v1/traces" {
		t.Error(url)
	}
	if len(c.Headers) != 2 {
		t.Error("the headers of the caller were changed")
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			w.WriteHeader(400)
		}
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ca := write("ca.pem", "CERTIFICATE", s.Certificate().Raw)
	pair := s.TLS.Certificates[0]
	cert := write("cert.pem", "CERTIFICATE", pair.Certificate[0])
	key := write("key.pem", "PRIVATE KEY", marshalKey(t, pair.PrivateKey))
	for name, test := range map[string]struct {
		settings TLS
		want     Outcome
		reason   string
	}{
		"unknown authority":  {TLS{}, Retry, "certificate signed by unknown authority"},
		"another name":       {TLS{CAFile: ca, ServerName: "other.test"}, Retry, "not other.test"},
		"no certificate":     {TLS{CAFile: ca}, Never, "400"},
		"client certificate": {TLS{CAFile: ca, CertFile: cert, KeyFile: key}, Delivered, ""},
	} {
		c := connection(s.URL)
		settings, err := test.settings.Config()
		if err != nil {
			t.Fatal(err)
		}
		c.TLS = settings
		e, err := NewZipkin(c)
		closed(t, e, err)
		if a := e.Export(t.Context(), e.Encode(tracetest.Spans())); a.Outcome != test.want || !strings.Contains(a.Reason, test.reason) {
			t.Errorf("%s: %+v", name, a)
		}
		e.Close()
	}
	for _, bad := range []TLS{{CAFile: filepath.Join(dir, "missing")}, {CAFile: key}, {CertFile: cert, KeyFile: cert}} {
		if _, err := bad.Config(); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func marshalKey(t *testing.T, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// collector is a gRPC server that takes any call.
type collector struct {
	mu       sync.Mutex
	answer   func() ([]byte, error)
	method   string
	metadata metadata.MD
	body     []byte
}

func startCollector(t *testing.T) (*collector, string) {
	t.Helper()
	c := &collector{answer: func() ([]byte, error) { return nil, nil }}
	s := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var body []byte
		if err := stream.RecvMsg(&body); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.method, _ = grpc.MethodFromServerStream(stream)
		c.metadata, _ = metadata.FromIncomingContext(stream.Context())
		c.body = body
		answer, err := c.answer()
		if err != nil {
			return err
		}
		return stream.SendMsg(&answer)
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return c, "http://" + l.Addr().String()
}

func TestGRPC(t *testing.T) {
	server, url := startCollector(t)
	spans := tracetest.Spans()
	for _, compressed := range []bool{true, false} {
		c := connection(url)
		c.Gzip = compressed
		e, err := NewOTLPGRPC(c, options)
		closed(t, e, err)
		p := e.Encode(spans)
		if a := e.Export(t.Context(), p); a != (Answer{}) {
			t.Fatalf("%+v", a)
		}
		md := server.metadata
		if server.method != method || !bytes.Equal(server.body, otlp.NewEncoder(options).AppendProtobuf(nil, spans)) {
			t.Errorf("%s: %.200q", server.method, server.body)
		}
		if md.Get("x-key")[0] != secret || md.Get("authorization")[0] != "Bearer "+secret || !strings.HasPrefix(md.Get("user-agent")[0], "tocsin/1.2.3 ") {
			t.Errorf("%v", md)
		}
	}
}

func TestGRPCAnswers(t *testing.T) {
	server, url := startCollector(t)
	e, err := NewOTLPGRPC(connection(url), options)
	closed(t, e, err)
	p := e.Encode(tracetest.Spans())
	fail := func(code codes.Code, text string) func() ([]byte, error) {
		return func() ([]byte, error) { return nil, status.Error(code, text) }
	}
	retry := func(code codes.Code, after time.Duration) func() ([]byte, error) {
		return func() ([]byte, error) {
			s, err := status.New(code, "full").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
			if err != nil {
				t.Error(err)
			}
			return nil, s.Err()
		}
	}
	partial := field(nil, 1, field(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1), 2, []byte("too old")))
	for name, test := range map[string]struct {
		answer func() ([]byte, error)
		want   Answer
	}{
		"partly":       {func() ([]byte, error) { return partial, nil }, Answer{Rejected: 1, Reason: "too old"}},
		"invalid":      {fail(codes.InvalidArgument, "bad "+secret), Answer{Outcome: Never, Reason: "gRPC InvalidArgument: bad <secret>"}},
		"unavailable":  {retry(codes.Unavailable, 3*time.Second), Answer{Outcome: Retry, After: 3 * time.Second, Reason: "gRPC Unavailable: full"}},
		"a year":       {retry(codes.ResourceExhausted, 365*24*time.Hour), Answer{Outcome: Retry, After: telemetry.MaxRetryAfter, Reason: "gRPC ResourceExhausted: full"}},
		"too large":    {fail(codes.ResourceExhausted, "grpc: received message larger than max (5 vs. 4)"), Answer{Outcome: TooLarge, Reason: "gRPC ResourceExhausted: grpc: received message larger than max (5 vs. 4)"}},
		"java":         {fail(codes.ResourceExhausted, "gRPC message exceeds maximum size 4194304: 5000000"), Answer{Outcome: TooLarge, Reason: "gRPC ResourceExhausted: gRPC message exceeds maximum size 4194304: 5000000"}},
		"rust":         {fail(codes.OutOfRange, "Error, decoded message length too large: found 5 bytes"), Answer{Outcome: TooLarge, Reason: "gRPC OutOfRange: Error, decoded message length too large: found 5 bytes"}},
		"out of range": {fail(codes.OutOfRange, "oops"), Answer{Outcome: Doubtful, Reason: "gRPC OutOfRange: oops"}},
		"precondition": {fail(codes.FailedPrecondition, "oops"), Answer{Outcome: Doubtful, Reason: "gRPC FailedPrecondition: oops"}},
		"exists":       {fail(codes.AlreadyExists, "oops"), Answer{Outcome: Doubtful, Reason: "gRPC AlreadyExists: oops"}},
		"data loss":    {fail(codes.DataLoss, "oops"), Answer{Outcome: Doubtful, Reason: "gRPC DataLoss: oops"}},
		"aborted":      {fail(codes.Aborted, "oops"), Answer{Outcome: Retry, Reason: "gRPC Aborted: oops"}},
		"cancelled":    {fail(codes.Canceled, "oops"), Answer{Outcome: Retry, Reason: "gRPC Canceled: oops"}},
		"internal":     {fail(codes.Internal, "oops"), Answer{Outcome: Doubtful, Reason: "gRPC Internal: oops"}},
		"no right":     {fail(codes.Unauthenticated, "who?"), Answer{Outcome: Retry, Reason: "check the headers of the exporter (gRPC Unauthenticated: who?)"}},
		"another port": {fail(codes.Unimplemented, "unknown service"), Answer{Outcome: Retry, Reason: "check the url and the type of the exporter (gRPC Unimplemented: unknown service)"}},
		"fine again":   {func() ([]byte, error) { return nil, nil }, Answer{}},
	} {
		server.mu.Lock()
		server.answer = test.answer
		server.mu.Unlock()
		if a := e.Export(t.Context(), p); a != test.want {
			t.Errorf("%s: got  %+v\nwant %+v", name, a, test.want)
		}
	}
}

func TestWriter(t *testing.T) {
	spans := tracetest.Spans()
	for form, want := range map[Form]int{TextLines: 3, JSONLines: 3, OTLPLines: 1} {
		var b bytes.Buffer
		e := NewWriter(&b, form, options)
		if a := e.Export(t.Context(), e.Encode(spans)); a != (Answer{}) || bytes.Count(b.Bytes(), []byte("\n")) != want {
			t.Errorf("%s: %+v\n%s", form, a, &b)
		}
		e.Close()
	}
	r, w := io.Pipe()
	r.CloseWithError(errors.New("gone"))
	e := NewWriter(w, TextLines, options)
	if a := e.Export(t.Context(), e.Encode(spans)); a.Outcome != Retry || a.Reason != "gone" {
		t.Errorf("%+v", a)
	}
}

// raw leaves messages as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}
