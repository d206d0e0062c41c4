package export

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/trace"
	"github.com/tocsin-events/tocsin/internal/trace/otlp"
	"github.com/tocsin-events/tocsin/internal/trace/zipkin"
)

// Connection is how a receiver is reached.
type Connection struct {
	// URL of the receiver, with https:// or http://, without user, query or fragment.
	URL string
	// Proxy is the URL of an HTTP proxy; empty: none, whatever the environment says.
	// gRPC has none.
	Proxy string
	// TLS for https; nil: the authorities of the system.
	TLS     *tls.Config
	Headers []Header
	// Gzip compresses what is sent.
	Gzip bool
	// Timeout bounds one Export.
	Timeout time.Duration
	// UserAgent is what the receiver is told that sends.
	UserAgent string
}

// Encoding is the form of OTLP over HTTP.
type Encoding string

// The forms of OTLP over HTTP.
const (
	Protobuf Encoding = "protobuf"
	JSON     Encoding = "json"
)

// NewOTLPHTTP returns an exporter to the URL of OTLP over HTTP. A URL without a path gets
// the usual one, /v1/traces.
func NewOTLPHTTP(c Connection, encoding Encoding, o otlp.Options) (Exporter, error) {
	encoder := otlp.NewEncoder(o)
	if encoding == JSON {
		return newHTTP(c, "/v1/traces", "application/json", encoder.AppendJSON, readOTLPJSON)
	}
	return newHTTP(c, "/v1/traces", "application/x-protobuf", encoder.AppendProtobuf, readOTLP)
}

// NewZipkin returns an exporter to the API of Zipkin, version 2. A URL without a path gets
// the usual one, /api/v2/spans.
func NewZipkin(c Connection) (Exporter, error) {
	return newHTTP(c, "/api/v2/spans", "application/json", zipkin.AppendJSON, readText)
}

// httpExporter posts bodies.
type httpExporter struct {
	connection  Connection
	endpoint    string
	contentType string
	encode      func([]byte, []*trace.Span) []byte
	read        func(ok bool, header http.Header, body []byte) (rejected int64, message string, after time.Duration)
	client      *http.Client

	plain    []byte // of the last batch, used again
	compress *gzip.Writer
}

func newHTTP(c Connection, path, contentType string, encode func([]byte, []*trace.Span) []byte,
	read func(bool, http.Header, []byte) (int64, string, time.Duration)) (*httpExporter, error) {
	u, err := ParseURL(c.URL)
	if err != nil {
		return nil, err
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = path
	}
	transport := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: c.Timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        c.TLS,
		TLSHandshakeTimeout:    c.Timeout,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
	}
	if c.Proxy != "" {
		proxy, err := ParseURL(c.Proxy)
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	return &httpExporter{
		connection: c, endpoint: u.String(), contentType: contentType, encode: encode, read: read,
		// A receiver must not be able to send the spans, and the key, somewhere else.
		client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

// ParseURL reads the URL of a receiver. What may be a secret is not repeated in the error.
func ParseURL(text string) (*url.URL, error) {
	const example = "write one like http://127.0.0.1:4318"
	u, err := url.Parse(text)
	switch {
	case text == "":
		return nil, errors.New("is empty; " + example)
	case err != nil:
		return nil, errors.New("is not a URL; " + example)
	case u.User != nil:
		return nil, errors.New("has a user name or password in it, which would be seen in logs; leave it out and send it as a header: {name: Authorization, secret: {file: PATH}} with the value \"Basic BASE64\"")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Hostname() == "":
		return nil, errors.New("has no http:// or https://, or no host; " + example)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("has a query or fragment, which would be seen in logs; leave it out, and send keys as headers")
	}
	return u, nil
}

// Encode implements [Exporter].
func (e *httpExporter) Encode(spans []*trace.Span) Payload {
	e.plain = e.encode(e.plain[:0], spans)
	if !e.connection.Gzip {
		return Payload{Body: bytes.Clone(e.plain), Spans: len(spans)}
	}
	// An audit log compresses 16 to 1; spans of it do nearly as well.
	body := bytes.NewBuffer(make([]byte, 0, len(e.plain)/8+256))
	if e.compress == nil {
		e.compress, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level exists
	}
	e.compress.Reset(body)
	e.compress.Write(e.plain) // a buffer takes everything
	e.compress.Close()
	return Payload{Body: body.Bytes(), Spans: len(spans)}
}

// Export implements [Exporter].
func (e *httpExporter) Export(ctx context.Context, p Payload) Answer {
	c := &e.connection
	secrets, err := values(c.Headers)
	if err != nil {
		return Answer{Outcome: Retry, Reason: reason(nil, "%v", err)}
	}
	attempt, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(attempt, http.MethodPost, e.endpoint, bytes.NewReader(p.Body))
	if err != nil {
		return Answer{Outcome: Retry, Reason: reason(secrets, "%v", err)}
	}
	request.Header.Set("Content-Type", e.contentType)
	request.Header.Set("User-Agent", c.UserAgent)
	// Not sent: it lets the transport use another connection, should the receiver have closed
	// this one while it was idle. Spans have ids, so they may come twice.
	request.Header["Idempotency-Key"] = nil
	if c.Gzip {
		request.Header.Set("Content-Encoding", "gzip")
	}
	for i, h := range c.Headers {
		request.Header.Set(h.Name, secrets[i])
		if strings.EqualFold(h.Name, "Host") {
			request.Host = secrets[i]
		}
	}
	response, err := e.client.Do(request)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // the URL is known
		}
		return failed(ctx, c.Timeout, secrets, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, otlp.MaxAnswer))
	outcome, remedy := judge(response.StatusCode)
	if err != nil && outcome != Delivered {
		body = nil
	}
	rejected, message, after := e.read(outcome == Delivered, response.Header, body)
	message = hide(secrets, message) // which may have been cut, and becomes a part of a text
	answer := Answer{Outcome: outcome}
	if outcome == Delivered {
		// Its status is the answer. That the rest of it was cut changes nothing.
		answer.Rejected = int(min(rejected, int64(p.Spans)))
		if message != "" {
			answer.Reason = reason(secrets, "%s", message)
		}
		return answer
	}
	answer.After = after
	if wait, ok := otlp.ParseRetryAfter(response.Header.Get("Retry-After"), time.Now()); ok && outcome != Never {
		answer.After = wait
	}
	text := "HTTP " + response.Status
	if message != "" {
		text += ": " + message
	}
	if remedy != "" {
		text = remedy + " (" + text + ")"
	}
	answer.Reason = reason(secrets, "%s", text)
	return answer
}

// Close implements [Exporter].
func (e *httpExporter) Close() { e.client.CloseIdleConnections() }

// readText reads an answer that is text for people, if it is an error.
func readText(ok bool, _ http.Header, body []byte) (int64, string, time.Duration) {
	if ok {
		return 0, "", 0
	}
	return 0, otlp.Printable(string(body)), 0
}

func readOTLP(ok bool, header http.Header, body []byte) (int64, string, time.Duration) {
	switch {
	case strings.HasPrefix(header.Get("Content-Type"), "application/json"):
		return readOTLPJSON(ok, header, body)
	case !strings.HasPrefix(header.Get("Content-Type"), "application/x-protobuf"):
		return readText(ok, header, body)
	case ok:
		p, _ := otlp.ParsePartial(body)
		return p.Rejected, p.Message, 0
	}
	f, err := otlp.ParseFailure(body)
	if err != nil {
		return readText(ok, header, body)
	}
	return 0, f.Message, f.RetryAfter
}

func readOTLPJSON(ok bool, header http.Header, body []byte) (int64, string, time.Duration) {
	if ok {
		p, _ := otlp.ParsePartialJSON(body)
		return p.Rejected, p.Message, 0
	}
	f, err := otlp.ParseFailureJSON(body)
	if err != nil || f == (otlp.Failure{}) {
		return readText(ok, header, body)
	}
	return 0, f.Message, f.RetryAfter
}
