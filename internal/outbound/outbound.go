// Package outbound is the HTTP client of sinks. It sends a request once, and says what
// became of it in the terms of package deliver.
//
// It goes to places that people have written into a configuration, or given to the API of a
// hub that stands inside a network. So what it may connect to is decided by a [Guard] at the
// moment of connecting, it never follows a redirect, it takes no proxy from the environment,
// and it reads no more of an answer than it needs.
package outbound

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

const (
	// MaxAnswerBytes is how much of the body of an answer is read.
	MaxAnswerBytes = 64 << 10
	// DefaultTimeout is how long a request may take if nothing else is said.
	DefaultTimeout = 20 * time.Second

	maxDial      = 10 * time.Second // to connect, and for the handshake of TLS after it
	maxHeaders   = 64 << 10         // of an answer
	idleConns    = 90 * time.Second
	replays      = 2           // over another connection, when one was closed while it was idle
	successGrace = time.Second // for the rest of an answer that has said yes
)

// Secret returns a secret. It is called for each request, so the file that it is in may
// change. The error does not have the secret.
type Secret = func() (string, error)

// Header is a header of every request.
type Header struct {
	Name  string
	Value Secret
	fixed bool // no secret
}

// Fixed returns a header whose value never changes, and is no secret.
func Fixed(name, value string) Header {
	return Header{Name: name, Value: func() (string, error) { return value, nil }, fixed: true}
}

// Options say how receivers are reached.
type Options struct {
	// Guard decides what may be connected to; nil: only public addresses.
	Guard *Guard
	// Proxy is the URL of an HTTP proxy (http://), through which everything goes; empty: none.
	// It is connected to whatever the guard says. It then is what looks up names and decides
	// where requests may go; of the guard, only what [Guard.CheckURL] says remains.
	Proxy string
	// TLS is for https.
	TLS TLS
	// Headers, and one of Bearer and Username with Password, are sent with each request.
	Headers  []Header
	Bearer   Secret
	Username string
	Password Secret
	// Timeout bounds a request from looking up the name to the end of the answer; 0:
	// [DefaultTimeout].
	Timeout time.Duration
	// Concurrency is how many requests will be on their way at the same time, usually: so
	// many connections are kept open; 0: 16.
	Concurrency int
	// UserAgent is "tocsin/VERSION".
	UserAgent string
	// Resolver looks names up; nil: that of the system.
	Resolver *net.Resolver
}

// Client sends requests. It is safe for concurrent use.
type Client struct {
	options Options
	timeout time.Duration
	proxy   *url.URL // nil: none
	dialer  net.Dialer

	userAgent []string
	checked   atomic.Pointer[url.URL] // by the guard, last

	mu        sync.Mutex
	transport *http.Transport
	loaded    [sha256.Size]byte               // the hash of what the transport has
	looked    time.Time                       // when that was compared last
	running   map[*sending]context.CancelFunc // nil: closed
}

// New returns a client. It reads the files of secrets once, so that what is wrong with them
// is told at once, but does not connect. An error names the option.
func New(o Options) (*Client, error) {
	c := &Client{options: o, timeout: o.Timeout, userAgent: []string{o.UserAgent}, running: make(map[*sending]context.CancelFunc)}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if o.Proxy != "" {
		proxy, err := ParseURL(o.Proxy)
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		if proxy.Scheme != "http" {
			return nil, errors.New("proxy: only http:// is supported; what goes to https:// receivers is encrypted through it all the same")
		}
		c.proxy = proxy
	}
	if o.Bearer != nil && o.Username != "" {
		return nil, errors.New("only one of bearer token and user name can be sent")
	}
	if (o.Username == "") != (o.Password == nil) {
		return nil, errors.New("user name and password belong together")
	}
	if strings.Contains(o.Username, ":") {
		return nil, errors.New("the user name has a colon, which basic authentication does not allow")
	}
	if _, err := c.credentials(); err != nil {
		return nil, err
	}
	c.dialer = net.Dialer{Timeout: min(maxDial, c.timeout), KeepAlive: 30 * time.Second, Resolver: o.Resolver}
	if _, err := c.current(time.Now()); err != nil {
		return nil, err
	}
	return c, nil
}

var errClosed = errors.New("the sink was closed")

// Request is what to send.
type Request struct {
	Method string // empty: POST
	// URL is as [ParseURL] returns it. Nobody changes it.
	URL *url.URL
	// Header becomes the client's, which adds to it what the options say.
	Header http.Header
	Body   []byte
	// Release, if set, is called before [Client.Do] returns if Body is not in use any more, so
	// that its memory may be used again. Otherwise, as after some failures, it is not called.
	Release func()
	// Secrets are further texts that a reason must not repeat.
	Secrets []string
}

// Answer is what came back.
type Answer struct {
	Status int
	Header http.Header
	// Body is the beginning of the body, as it was sent: it is not decompressed.
	Body []byte
	// Cut says that there was more, or that the rest did not come.
	Cut bool

	secrets []string
}

// Send is [Client.Do] and [Client.Result].
func (c *Client) Send(ctx context.Context, r *Request) deliver.Result {
	answer, err := c.Do(ctx, r)
	return c.Result(ctx, r, answer, err)
}

// Result says what an answer, or the error of a request without one, means: see [Classify]
// and [Failed].
func (c *Client) Result(ctx context.Context, r *Request, answer *Answer, err error) deliver.Result {
	if err != nil {
		return Failed(ctx, err)
	}
	return Classify(answer, time.Now())
}

// Do sends a request once and reads the answer. An error is a [*Failure].
//
// A connection that was open already may turn out to be closed by the receiver, without a
// sign whether it has read the request. Then the request is sent over another one, at
// most twice: it has the id of its event, so that a receiver can tell.
func (c *Client) Do(ctx context.Context, r *Request) (*Answer, error) {
	body := newSending(r.Body)
	defer func() {
		if r.Release != nil && body.done() {
			r.Release()
		}
	}()
	fail := func(err error) (*Answer, error) { return nil, &Failure{err: err} }
	if c.checked.Load() != r.URL {
		if err := c.options.Guard.CheckURL(r.URL); err != nil {
			return fail(err)
		}
		c.checked.Store(r.URL)
	}
	secrets, err := c.credentials()
	if err != nil {
		return fail(err)
	}
	transport, err := c.current(time.Now())
	if err != nil {
		return fail(err)
	}
	attempt, cancel := c.bound(ctx)
	defer cancel()
	if !c.begin(body, cancel) {
		return fail(errClosed)
	}
	defer c.finish(body)
	request := c.request(httptrace.WithClientTrace(attempt, &body.trace), r, secrets)
	body.attach(request)
	response, err := transport.RoundTrip(request)
	switch {
	case err != nil && attempt.Err() != nil && c.isClosed():
		return fail(errClosed)
	case err != nil:
		return nil, &Failure{place: place(r.URL), err: err, timeout: c.timeout, tls: r.URL.Scheme == "https", sent: body.sent(), secrets: secrets.all(r)}
	}
	answer := &Answer{Status: response.StatusCode, Header: response.Header}
	answer.read(response, cancel)
	if answer.Status/100 != 2 {
		answer.secrets = secrets.all(r)
	}
	return answer, nil
}

// bound makes a request end in time. Most who send have a deadline of their own.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if at, ok := ctx.Deadline(); ok && time.Until(at) <= c.timeout {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.timeout)
}

// blank is what all requests have in common.
var blank = http.Request{Method: http.MethodPost, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}

// request makes the request.
func (c *Client) request(ctx context.Context, r *Request, secrets credentials) *http.Request {
	header := r.Header
	if header == nil {
		header = make(http.Header, 4+len(secrets.headers))
	}
	header["User-Agent"] = c.userAgent
	request := blank.WithContext(ctx) // a copy
	request.URL, request.Host, request.Header = r.URL, r.URL.Host, header
	if r.Method != "" {
		request.Method = r.Method
	}
	if secrets.authorization != "" {
		header["Authorization"] = []string{secrets.authorization}
	}
	for i, h := range c.options.Headers {
		if strings.EqualFold(h.Name, "Host") {
			request.Host = secrets.headers[i]
			continue
		}
		header.Set(h.Name, secrets.headers[i])
	}
	// Not sent: it lets the transport use another connection, should the receiver have closed
	// this one while it was idle.
	header["Idempotency-Key"] = nil
	return request
}

// read takes as much of the body as there is to know. That a receiver that has said yes
// then dawdles, or breaks off, changes nothing, and is not waited for.
func (a *Answer) read(response *http.Response, cancel context.CancelFunc) {
	defer response.Body.Close()
	if response.ContentLength == 0 {
		return
	}
	if a.Status/100 == 2 {
		defer time.AfterFunc(successGrace, cancel).Stop()
	}
	limit := MaxAnswerBytes
	size := min(max(int(response.ContentLength)+1, 512), limit)
	if response.ContentLength > int64(limit) {
		size = limit
	}
	a.Body = make([]byte, 0, size)
	for {
		if len(a.Body) == limit {
			var one [1]byte
			n, err := io.ReadFull(response.Body, one[:])
			a.Cut = n > 0 || err != io.EOF
			return
		}
		if len(a.Body) == cap(a.Body) {
			a.Body = append(a.Body, 0)[:len(a.Body)]
		}
		n, err := response.Body.Read(a.Body[len(a.Body):min(cap(a.Body), limit)])
		a.Body = a.Body[:len(a.Body)+n]
		if err != nil {
			a.Cut = err != io.EOF
			return
		}
	}
}

// begin remembers how to end a request; it is false when the client is closed.
func (c *Client) begin(s *sending, cancel context.CancelFunc) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		return false
	}
	c.running[s] = cancel
	return true
}

func (c *Client) finish(s *sending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, s)
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running == nil
}

// Close ends the requests that are on their way, and releases the connections.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.running {
		cancel()
	}
	c.running = nil
	c.transport.CloseIdleConnections()
	return nil
}

// dial connects to where the guard allows it.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := c.dialer
	if c.proxy == nil {
		host := hostOf(address)
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			return c.options.Guard.checkConnection(host, address)
		}
	}
	return dialer.DialContext(ctx, network, address)
}

// newTransport makes the connections with the given certificates.
func (c *Client) newTransport(m material) (*http.Transport, error) {
	config, err := c.options.TLS.config(m)
	if err != nil {
		return nil, err
	}
	keep := c.options.Concurrency
	if keep <= 0 {
		keep = 16
	}
	t := &http.Transport{
		DialContext:            c.dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    min(maxDial, c.timeout),
		MaxIdleConns:           4 * keep,
		MaxIdleConnsPerHost:    keep,
		IdleConnTimeout:        idleConns,
		MaxResponseHeaderBytes: maxHeaders,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		WriteBufferSize:        16 << 10,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		// The proxy's answer is foreign text.
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode != http.StatusOK {
				return &proxyError{answer.StatusCode}
			}
			return nil
		},
	}
	if c.proxy != nil {
		t.Proxy = http.ProxyURL(c.proxy)
	}
	return t, nil
}
