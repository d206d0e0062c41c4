package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Read reads an answer: how much was rejected of what was taken, what the receiver says,
// and how long it wants to be left alone. ok says that the status is one of success.
type Read func(ok bool, header http.Header, body []byte) (rejected int64, message string, after time.Duration)

// HTTP posts bodies. It is safe for concurrent use.
type HTTP struct {
	connection  Connection
	endpoint    string
	contentType string
	read        Read
	client      *http.Client
}

// NewHTTP returns what posts bodies of a content type. A URL without a path gets the given
// one. It does not connect yet.
func NewHTTP(c Connection, path, contentType string, read Read) (*HTTP, error) {
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
	if c.Dial != nil {
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, c.Timeout)
			defer cancel()
			return c.Dial(ctx, network, address)
		}
	}
	if c.Proxy != "" {
		proxy, err := ParseURL(c.Proxy)
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		transport.Proxy = http.ProxyURL(proxy)
	}
	return &HTTP{
		connection: c, endpoint: u.String(), contentType: contentType, read: read,
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

// Compressor compresses bodies, one at a time.
type Compressor struct{ gzip *gzip.Writer }

// Compress returns a body in gzip. An audit log compresses 16 to 1; spans of it do nearly
// as well.
func (c *Compressor) Compress(plain []byte) []byte {
	body := bytes.NewBuffer(make([]byte, 0, len(plain)/8+256))
	if c.gzip == nil {
		c.gzip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level exists
	}
	c.gzip.Reset(body)
	c.gzip.Write(plain) // a buffer takes everything
	c.gzip.Close()
	return body.Bytes()
}

// Send posts a body, compressed if the connection says so, and says what became of it,
// within the timeout of the connection. It has so many spans, or log records. When ctx ends
// the answer is [Retry].
func (e *HTTP) Send(ctx context.Context, body []byte, items int) Answer {
	c := &e.connection
	secrets, err := values(c.Headers)
	if err != nil {
		return Answer{Outcome: Retry, Reason: reason(nil, "%v", err)}
	}
	attempt, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(attempt, http.MethodPost, e.endpoint, bytes.NewReader(body))
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
	said, err := io.ReadAll(io.LimitReader(response.Body, MaxAnswer))
	outcome, remedy := judge(response.StatusCode, c.sender())
	if err != nil && outcome != Delivered {
		said = nil
	}
	rejected, message, after := e.read(outcome == Delivered, response.Header, said)
	message = hide(secrets, message) // which may have been cut, and becomes a part of a text
	answer := Answer{Outcome: outcome}
	if outcome == Delivered {
		// Its status is the answer. That the rest of it was cut changes nothing.
		answer.Rejected = int(min(rejected, int64(items)))
		if message != "" {
			answer.Reason = reason(secrets, "%s", message)
		}
		return answer
	}
	answer.After = after
	if wait, ok := ParseRetryAfter(response.Header.Get("Retry-After"), time.Now()); ok && outcome != Never {
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

// Close releases connections.
func (e *HTTP) Close() { e.client.CloseIdleConnections() }

// ReadText reads an answer that is text for people, if it is an error.
func ReadText(ok bool, _ http.Header, body []byte) (int64, string, time.Duration) {
	if ok {
		return 0, "", 0
	}
	return 0, Printable(string(body)), 0
}

// ReadOTLP reads an answer of OTLP in its binary form, or in what its content type says.
func ReadOTLP(ok bool, header http.Header, body []byte) (int64, string, time.Duration) {
	switch {
	case strings.HasPrefix(header.Get("Content-Type"), "application/json"):
		return ReadOTLPJSON(ok, header, body)
	case !strings.HasPrefix(header.Get("Content-Type"), "application/x-protobuf"):
		return ReadText(ok, header, body)
	case ok:
		p, _ := ParsePartial(body)
		return p.Rejected, p.Message, 0
	}
	f, err := ParseFailure(body)
	if err != nil {
		return ReadText(ok, header, body)
	}
	return 0, f.Message, f.RetryAfter
}

// ReadOTLPJSON reads an answer of OTLP in its JSON form.
func ReadOTLPJSON(ok bool, header http.Header, body []byte) (int64, string, time.Duration) {
	if ok {
		p, _ := ParsePartialJSON(body)
		return p.Rejected, p.Message, 0
	}
	f, err := ParseFailureJSON(body)
	if err != nil || f == (Failure{}) {
		return ReadText(ok, header, body)
	}
	return 0, f.Message, f.RetryAfter
}

// Endpoint returns the URL to which bodies are posted.
func (e *HTTP) Endpoint() string { return e.endpoint }
