// Package telemetry sends what is encoded already to receivers of telemetry, over HTTP and
// over gRPC, once, and says what became of it. It understands the answers of OTLP 1.x,
// whatever the signal is. What is sent is the business of those who encode it.
package telemetry

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
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
	// Timeout bounds one request.
	Timeout time.Duration
	// UserAgent is what the receiver is told that sends.
	UserAgent string
	// Dial connects to a host and port; nil: to wherever that is.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Sender is what people know as who sends, for reasons; default "exporter".
	Sender string
}

func (c *Connection) sender() string { return cmp.Or(c.Sender, "exporter") }

// Outcome is what became of a batch.
type Outcome uint8

const (
	// Delivered: the receiver has it, or has said of how much it does not take
	// (Answer.Rejected) that it never will.
	Delivered Outcome = iota
	// Retry: it cannot be delivered now. Also what somebody has to repair first, such as a
	// wrong address or an expired key, is Retry: nothing is lost by it.
	Retry
	// Doubtful: the receiver failed, and it may be because of this batch.
	Doubtful
	// TooLarge: the receiver may take it in smaller parts.
	TooLarge
	// Never: the receiver understood the batch and does not take it.
	Never
)

// Answer says what became of a batch.
type Answer struct {
	Outcome Outcome
	// After is how long to wait at least before anything is sent again; 0: the
	// receiver does not say.
	After time.Duration
	// Rejected is how many spans, or log records, of a delivered batch the receiver did not
	// take.
	Rejected int
	// Reason is for people, and names what to do where that is known. It has no secrets,
	// is one line, and is bounded. A delivered batch may have one, too.
	Reason string
}

// Header is a header, or a piece of gRPC metadata, of every request.
type Header struct {
	Name string
	// Value returns the value. It is called for each request, so a file with a secret
	// may change.
	Value func() (string, error)
}

// Fixed returns a header whose value never changes.
func Fixed(name, value string) Header {
	return Header{Name: name, Value: func() (string, error) { return value, nil }}
}

// values returns the values of headers, in their order.
func values(headers []Header) ([]string, error) {
	list := make([]string, len(headers))
	for i, h := range headers {
		value, err := h.Value()
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", h.Name, err)
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }) {
			return nil, fmt.Errorf("header %s: its value has characters that do not fit into a header", h.Name)
		}
		list[i] = value
	}
	return list, nil
}

// shortest is the length from which the value of a header counts as a secret that could
// stand in an answer. Anything shorter would make all texts unreadable.
const shortest = 4

// reason makes the text of an answer: without the values of headers, should the receiver
// have repeated them, on one line, and not longer than a log message may be.
func reason(secrets []string, format string, args ...any) string {
	return Printable(hide(secrets, fmt.Sprintf(format, args...)))
}

// hide takes secrets out of a text, and the beginning of one at which the text was cut.
func hide(secrets []string, text string) string {
	const hidden = "<secret>"
	for _, s := range secrets {
		for _, part := range strings.Fields(s) { // "Bearer xyz" is in two parts
			if len(part) < shortest {
				continue
			}
			text = strings.ReplaceAll(text, part, hidden)
			kept, cut := strings.CutSuffix(text, "...") // by Printable
			for n := min(len(part), len(kept)); cut && n >= shortest; n-- {
				if before, found := strings.CutSuffix(kept, part[:n]); found {
					text = before + hidden
					break
				}
			}
		}
	}
	return text
}

// failed is the answer for a request that was not answered.
func failed(ctx context.Context, timeout time.Duration, secrets []string, err error) Answer {
	switch {
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return Answer{Outcome: Retry, Reason: "interrupted"}
	case errors.Is(err, context.DeadlineExceeded):
		return Answer{Outcome: Retry, Reason: fmt.Sprintf("no answer within %v", timeout)}
	}
	var record tls.RecordHeaderError
	remedy := ""
	switch text := err.Error(); {
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		remedy = "it does not speak TLS; is it http://?"
	case strings.Contains(text, `malformed HTTP response "\x00\x00`):
		remedy = "it speaks HTTP/2 only; is it the port of gRPC?"
	}
	if remedy != "" {
		return Answer{Outcome: Retry, Reason: reason(secrets, "%s (%v)", remedy, err)}
	}
	return Answer{Outcome: Retry, Reason: reason(secrets, "%v", err)}
}

// judge says what an HTTP status means to who sends.
func judge(status int, who string) (o Outcome, remedy string) {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return Never, ""
	case http.StatusRequestEntityTooLarge:
		return TooLarge, ""
	case http.StatusUnauthorized, http.StatusForbidden:
		return Retry, "check the key or the headers of the " + who
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType:
		return Retry, "check the url and the type of the " + who
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return Retry, ""
	}
	switch {
	case status/100 == 2:
		return Delivered, ""
	case status/100 == 3:
		return Retry, "it redirects to another URL, which is not followed; write the final one into the configuration"
	case status/100 == 5:
		return Doubtful, ""
	}
	return Retry, "check the url and the headers of the " + who
}

// ServiceName returns the name of the service that a source of events is: that of a server
// that requests go to, or the source itself.
func ServiceName(source string) string {
	if name, ok := strings.CutPrefix(source, "vault://"); ok && name != "" {
		return name
	}
	if source == "" {
		return "unknown_service"
	}
	return source
}
