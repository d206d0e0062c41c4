// Package webhook is the sink that posts events to a URL: one in each request or several
// together, signed as Standard Webhooks and as Flipt do. docs/sink-webhook.md says what a
// receiver gets.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

// Body is what a request has.
type Body string

// What a request has.
const (
	One              Body = "event"             // one event
	Array            Body = "array"             // a JSON array of events
	Lines            Body = "lines"             // a line for each event
	CloudEventsBatch Body = "cloudevents_batch" // a batch of CloudEvents, which is an array with a media type of its own
)

// Standard is the form {"type", "timestamp", "data"} that Standard Webhooks recommends. All
// others are those of package format.
const Standard format.Format = "standard"

// DefaultMaxBytes is how large a body may be if nothing else is said.
const DefaultMaxBytes = 8 << 20

// Headers of every request. Those of one event are only in requests with one.
const (
	headerEventID   = "Tocsin-Event-Id"
	headerEventType = "Tocsin-Event-Type"
	headerEvents    = "Tocsin-Events"
	headerAttempt   = "Tocsin-Attempt"
	headerReplay    = "Tocsin-Replay"
	headerRedriven  = "Tocsin-Redriven"
	headerFlipt     = "X-Flipt-Webhook-Signature"
)

// Options say what is sent where. URL and Connection are required.
type Options struct {
	URL        string
	Connection outbound.Options
	Body       Body          // default One
	Format     format.Format // default Standard
	// Gzip compresses bodies. They are signed as they are sent: compressed.
	Gzip bool
	// MaxBytes bounds a body before it is compressed; default [DefaultMaxBytes]. An event
	// that does not fit cannot be sent; several that do not fit go in several requests.
	MaxBytes int
	// SigningKeys are keys of Standard Webhooks. Each signs.
	SigningKeys []outbound.Secret
	// FliptSecret signs as Flipt does, too; nil: not.
	FliptSecret outbound.Secret
}

// Sink posts events.
type Sink struct {
	url    *url.URL
	client *outbound.Client
	body   Body
	format format.Format
	gzip   bool
	max    int
	keys   *standardwebhooks.Keyring
	flipt  fliptSigner
	now    func() time.Time
	// headers is how many a request has, about.
	headers int
}

// New returns a sink. It reads secrets, but does not connect.
func New(o Options) (*Sink, error) {
	u, err := outbound.ParseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("url %w", err)
	}
	if err := o.Connection.Guard.CheckURL(u); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	s := &Sink{url: u, body: o.Body, format: o.Format, gzip: o.Gzip, max: o.MaxBytes, now: time.Now}
	if s.body == "" {
		s.body = One
	}
	if s.format == "" {
		s.format = Standard
	}
	if s.max <= 0 {
		s.max = DefaultMaxBytes
	}
	if s.format != Standard {
		if _, err := format.Named(string(s.format)); err != nil {
			return nil, err
		}
	}
	switch s.body {
	case One, Array, Lines:
	case CloudEventsBatch:
		if s.format != format.CloudEvents {
			return nil, errors.New("a body of cloudevents_batch needs the format cloudevents")
		}
	default:
		return nil, fmt.Errorf("unknown body %.40q; it is one of event, array, lines, cloudevents_batch", string(s.body))
	}
	if s.keys, err = standardwebhooks.NewKeyring(o.SigningKeys); err != nil {
		return nil, err
	}
	s.flipt.secret = o.FliptSecret
	if _, err := s.flipt.load(); err != nil {
		return nil, err
	}
	if s.client, err = outbound.New(o.Connection); err != nil {
		return nil, err
	}
	s.headers = 8 + len(o.Connection.Headers)
	for _, more := range []bool{s.gzip, len(o.SigningKeys) > 0, o.FliptSecret != nil, o.Connection.Bearer != nil, o.Connection.Username != ""} {
		if more {
			s.headers++
		}
	}
	return s, nil
}

// notTried is the result of events behind one that could not be delivered.
var notTried = deliver.Result{Outcome: deliver.Retry, Reason: "not tried, because what comes before was not delivered"}

// Send implements [deliver.Sink]. What does not fit into one request goes in several, one
// after the other, until the endpoint fails.
func (s *Sink) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	var memory [16]int
	for from := 0; from < len(b.Items); {
		p := newPacket()
		next := s.fill(p, b, from)
		items := append(memory[:0], p.items...)
		if len(items) == 0 { // they are decided
			p.release()
			break
		}
		result := s.post(ctx, b, p)
		if len(items) == len(b.Items) {
			return result // the usual case
		}
		from = next
		failed := result.Outcome != deliver.Delivered && (result.Outcome != deliver.Refused || len(items) > 1)
		if failed {
			for i := next; i < len(b.Items); i++ {
				b.Decide(i, notTried)
			}
		}
		if failed && len(items) > 1 {
			return result // of these, nobody knows which
		}
		for _, i := range items {
			b.Decide(i, result)
		}
		if failed {
			return result
		}
	}
	return deliver.Result{} // of nothing
}

// post sends a packet, and releases it.
func (s *Sink) post(ctx context.Context, b *deliver.Batch, p *packet) deliver.Result {
	keys, err := s.keys.Keys()
	var flipt *fliptKey
	if err == nil {
		flipt, err = s.flipt.load()
	}
	if err != nil {
		p.release()
		return deliver.Result{Outcome: deliver.Retry, Reason: err.Error()}
	}
	body := p.plain
	if s.gzip {
		body = p.compress()
	}
	now := s.now()
	id := p.id(b)
	h := newHeaders(s.headers)
	h.set("Content-Type", s.contentType(b, p))
	if s.gzip {
		h.set("Content-Encoding", "gzip")
	}
	h.set(standardwebhooks.HeaderID, id)
	h.set(standardwebhooks.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	if len(keys) > 0 {
		p.text = standardwebhooks.AppendSignatures(p.text[:0], keys, id, now, body)
		h.set(standardwebhooks.HeaderSignature, string(p.text))
	}
	if flipt != nil {
		h.set(headerFlipt, flipt.sign(body))
	}
	if s.body == One {
		e := b.Items[p.items[0]].Event
		if e.ID != id {
			h.setEncoded(headerEventID, e.ID)
		}
		h.setEncoded(headerEventType, e.Type)
	} else {
		h.set(headerEvents, strconv.Itoa(len(p.items)))
	}
	h.set(headerAttempt, strconv.Itoa(max(b.Attempt, 1)))
	if b.Replay != "" {
		h.setEncoded(headerReplay, b.Replay)
	}
	if b.Redriven {
		h.set(headerRedriven, "true")
	}
	return s.client.Send(ctx, &outbound.Request{URL: s.url, Header: h.header, Body: body, Release: p.release})
}

// Close implements [deliver.Sink].
func (s *Sink) Close() error { return s.client.Close() }

// contentType is the media type of a packet.
func (s *Sink) contentType(b *deliver.Batch, p *packet) string {
	switch {
	case s.body == Lines:
		return format.LinesContentType
	case s.format == Standard:
		return "application/json"
	case s.body != One:
		return s.format.ArrayContentType()
	}
	t := s.format.ContentType(b.Items[p.items[0]].Event)
	if !isHeaderValue(t) {
		return "application/octet-stream"
	}
	return t
}

// headers are those of a request, with few allocations.
type headers struct {
	header http.Header
	values []string
}

func newHeaders(n int) headers {
	return headers{make(http.Header, n), make([]string, 0, n)}
}

// set sets a header whose name is in its canonical form.
func (h *headers) set(name, value string) {
	n := len(h.values)
	h.values = append(h.values, value)
	h.header[name] = h.values[n : n+1 : n+1]
}

// maxHeaderText bounds what headers repeat of events. Longer texts are left out: they are in
// the body.
const maxHeaderText = 1 << 10

// setEncoded sets a header to any text, encoded as CloudEvents headers are: what is not
// visible ASCII, and " and %, as %XX.
func (h *headers) setEncoded(name, text string) {
	const digits = "0123456789ABCDEF"
	special := func(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '%' }
	n := 0
	for i := range len(text) {
		if special(text[i]) {
			n++
		}
	}
	switch {
	case text == "" || len(text)+2*n > maxHeaderText:
		return
	case n == 0:
		h.set(name, text)
		return
	}
	var encoded strings.Builder
	encoded.Grow(len(text) + 2*n)
	for i := range len(text) {
		if c := text[i]; special(c) {
			encoded.Write([]byte{'%', digits[c>>4], digits[c&15]})
		} else {
			encoded.WriteByte(c)
		}
	}
	h.set(name, encoded.String())
}

// isHeaderValue reports whether a media type of an event can be sent as it is.
func isHeaderValue(s string) bool {
	return s != "" && len(s) <= maxHeaderText && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f })
}
