// Package vaultclient makes requests to the JSON API that Vault, OpenBao and Tocsin
// share, for the commands of this program. It knows the envelope of answers and
// errors and no endpoint. Requests are bounded in time and size; none is repeated, and
// no redirect is followed.
package vaultclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/address"
)

const (
	// Timeout bounds one request, with its answer.
	Timeout = 30 * time.Second
	// MaxAnswerBytes bounds the body of an answer.
	MaxAnswerBytes = 16 << 20
)

// Options say which server is asked, and as whom. Address is required.
type Options struct {
	// Address is the URL of the server; see package address.
	Address string
	// Token is sent in the header X-Vault-Token; empty for none.
	Token string
	// Namespace is the namespace of the requests; empty for root.
	Namespace string
	// Transport is [http.DefaultTransport] if nil.
	Transport http.RoundTripper
}

// Client makes requests. It is safe for concurrent use.
type Client struct {
	options Options
	base    url.URL
	http    *http.Client
}

// New returns a client; it does not connect.
func New(o Options) (*Client, error) {
	base, err := address.Parse(o.Address)
	if err != nil {
		return nil, err
	}
	base.Path += "/v1/"
	return &Client{options: o, base: *base, http: &http.Client{
		Transport:     o.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Answer is what the server said.
type Answer struct {
	// Body is the whole of it, a JSON object; nil if there is none.
	Body []byte `json:"-"`
	// Data is what was asked for.
	Data json.RawMessage `json:"data"`
	// Auth is of requests that make or renew a token, else nil.
	Auth     *Auth    `json:"auth"`
	Warnings []string `json:"warnings"`
}

// Auth is a token that was made or renewed.
type Auth struct {
	ClientToken   string            `json:"client_token"`
	Accessor      string            `json:"accessor"`
	Policies      []string          `json:"policies"`
	TokenPolicies []string          `json:"token_policies"`
	Metadata      map[string]string `json:"metadata"`
	LeaseDuration int64             `json:"lease_duration"` // seconds; 0: for ever
	Renewable     bool              `json:"renewable"`
	EntityID      string            `json:"entity_id"`
	TokenType     string            `json:"token_type"`
	Orphan        bool              `json:"orphan"`
	NumUses       int               `json:"num_uses"`
}

// ErrTooLarge means that an answer is larger than MaxAnswerBytes, or than was asked for.
var ErrTooLarge = errors.New("the answer is too large")

// ErrNoAnswer means that what answered does not speak the API.
var ErrNoAnswer = errors.New("the answer is not of Vault's API")

// Do makes one request. The path is below /v1/ and not escaped; a query and a body,
// which is encoded as JSON unless it is a [Raw], are optional. The error is a [*client.StatusError] when
// the server refuses; it never has the token or the body of the request.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body any) (*Answer, error) {
	text, err := c.ask(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	return parse(text)
}

// Raw is a body that is sent as it is.
type Raw struct {
	ContentType string
	Text        []byte
}

// Own makes one request to the hub's own API: the path is below /api/v1/, and the answer is
// the whole body, which has no envelope. Otherwise it is like Do.
func (c *Client) Own(ctx context.Context, method, path string, query url.Values, body any) ([]byte, error) {
	own := *c
	own.base.Path = strings.TrimSuffix(c.base.Path, "v1/") + "api/v1/"
	return own.ask(ctx, method, path, query, body)
}

// Send makes one request to the hub's own API with a body of bytes, and waits for the
// answer as long as ctx allows. Otherwise it is like Own.
func (c *Client) Send(ctx context.Context, path string, query url.Values, header http.Header, body []byte) ([]byte, error) {
	own := *c
	own.base.Path = strings.TrimSuffix(c.base.Path, "v1/") + "api/v1/"
	request, err := own.request(ctx, http.MethodPost, path, query, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	response, text, err := own.send(request)
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode >= 300:
		return nil, statusError(response, text)
	}
	return text, nil
}

// payloadTimeout bounds a request for a payload.
const payloadTimeout = 5 * time.Minute

// Payload gets a payload that an event refers to, from the hub's own API. ErrTooLarge means
// that it has more than most bytes.
func (c *Client) Payload(ctx context.Context, name string, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, payloadTimeout, fmt.Errorf("no answer within %v", payloadTimeout))
	defer cancel()
	own := *c
	own.base.Path = strings.TrimSuffix(c.base.Path, "v1/") + "api/v1/payloads/"
	request, err := own.request(ctx, http.MethodGet, name, nil, nil)
	if err != nil {
		return nil, err
	}
	response, body, err := own.sendFor(request, most)
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode >= 300:
		return nil, statusError(response, body)
	}
	return body, nil
}

// ask makes one request and returns the body of an answer that is no refusal.
func (c *Client) ask(ctx context.Context, method, path string, query url.Values, body any) ([]byte, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	request, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	response, text, err := c.send(request)
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode >= 300:
		return nil, statusError(response, text)
	}
	return text, nil
}

// Fetch gets a page of the server outside the API, without the token. A status that is
// no success is no error.
func (c *Client) Fetch(ctx context.Context, page string) (status int, body []byte, err error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	u := c.base
	u.Path = strings.TrimSuffix(u.Path, "v1/") + page
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, nil, fmt.Errorf("make request: %w", err)
	}
	response, body, err := c.send(request)
	if err != nil {
		return 0, nil, err
	}
	return response.StatusCode, body, nil
}

func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, Timeout, fmt.Errorf("no answer within %v", Timeout))
}

// send makes a request and reads the whole answer.
func (c *Client) send(r *http.Request) (*http.Response, []byte, error) {
	return c.sendFor(r, MaxAnswerBytes)
}

// sendFor is send for an answer of at most so many bytes.
func (c *Client) sendFor(r *http.Request, most int64) (*http.Response, []byte, error) {
	response, err := c.http.Do(r)
	if err != nil {
		return nil, nil, c.connectError(r.Context(), err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	switch {
	case err != nil:
		return nil, nil, c.connectError(r.Context(), err)
	case int64(len(text)) > most:
		return nil, nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, most)
	}
	return response, text, nil
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	u := c.base
	u.Path += path
	u.RawQuery = query.Encode()
	var content io.Reader
	kind := "application/json"
	switch body := body.(type) {
	case nil:
	case Raw:
		content, kind = bytes.NewReader(body.Text), body.ContentType
	default:
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), content)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("X-Vault-Request", "true")
	if body != nil {
		r.Header.Set("Content-Type", kind)
	}
	if c.options.Token != "" {
		r.Header.Set("X-Vault-Token", c.options.Token)
	}
	if c.options.Namespace != "" {
		r.Header.Set("X-Vault-Namespace", c.options.Namespace)
	}
	return r, nil
}

// connectError says what was not reached, without the rest of the URL.
func (c *Client) connectError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	return fmt.Errorf("connect to %s: %w", c.base.Host, err)
}

func parse(text []byte) (*Answer, error) {
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return &Answer{}, nil
	}
	a := Answer{Body: text}
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	for i, w := range a.Warnings {
		a.Warnings[i] = Printable(w)
	}
	return &a, nil
}

// maxMessage bounds what is repeated of an error that is not in the usual form.
const maxMessage = 500

func statusError(r *http.Response, text []byte) error {
	e := &client.StatusError{StatusCode: r.StatusCode}
	var body struct{ Errors []string }
	switch {
	case json.Unmarshal(text, &body) == nil:
		e.Messages = body.Errors
	case r.StatusCode < 400 && r.Header.Get("Location") != "":
		e.Messages = []string{"it redirects to " + r.Header.Get("Location")}
	case len(bytes.TrimSpace(text)) > 0:
		e.Messages = []string{string(text[:min(len(text), maxMessage)])}
	}
	for i, m := range e.Messages {
		e.Messages[i] = Printable(m)
	}
	return e
}

// Printable returns a text of a server as one line without control characters, which
// would move the cursor of a terminal.
func Printable(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' {
			return ' '
		}
		return r
	}, s)), " ")
}
