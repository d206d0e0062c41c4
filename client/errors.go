package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What a [StatusError] wraps, for errors.Is.
var (
	// ErrPermission: the token is missing, unknown or may not do this.
	ErrPermission = errors.New("permission denied")
	// ErrBadRequest: the event type, a filter, a namespace or since is malformed.
	ErrBadRequest = errors.New("bad request")
	// ErrNotFound: the server has no event notifications, or does not take events.
	ErrNotFound = errors.New("no event notifications at this address")
	// ErrUnavailable: the server cannot serve now; a later attempt may succeed.
	ErrUnavailable = errors.New("server is not available")
)

// ErrTooLarge means that an event is larger than [Options.MaxMessageBytes].
var ErrTooLarge = errors.New("event is larger than the limit of the subscription")

// ErrClosed is returned by Next after Close.
var ErrClosed = errors.New("subscription is closed")

// StatusError is the answer of a server that refuses a subscription or a request to
// publish. It wraps
// one of ErrPermission (401, 403), ErrNotFound (404), ErrBadRequest (other 4xx)
// and ErrUnavailable (408, 429, 5xx).
type StatusError struct {
	StatusCode int
	// Messages is what the server said, possibly nothing.
	Messages []string
	// RetryAfter is how long the server asks to wait; 0 when it does not.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("server answered %d", e.StatusCode)
	if len(e.Messages) > 0 {
		return text + ": " + strings.Join(e.Messages, "; ")
	}
	return text + " " + http.StatusText(e.StatusCode)
}

// Unwrap returns the sentinel of the status.
func (e *StatusError) Unwrap() error {
	switch c := e.StatusCode; {
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		return ErrPermission
	case c == http.StatusNotFound:
		return ErrNotFound
	case c == http.StatusRequestTimeout || c == http.StatusTooManyRequests || c >= 500:
		return ErrUnavailable
	case c >= 400:
		return ErrBadRequest
	}
	return nil
}

// EndedError means that the server has ended a subscription for good, with close
// code 1008: the token was revoked or has expired, or its policies do not allow the
// subscription any more. It wraps ErrPermission.
type EndedError struct {
	// Reason is what the server said, possibly nothing.
	Reason string
}

func (e *EndedError) Error() string {
	if e.Reason == "" {
		return "the server ended the subscription and does not say why"
	}
	return "the server ended the subscription: " + e.Reason
}

// Unwrap returns ErrPermission.
func (e *EndedError) Unwrap() error { return ErrPermission }

// statusError reads the answer to a handshake. The body is at most 1,024 bytes:
// JSON {"errors":[...]} or plain text.
func statusError(r *http.Response) *StatusError {
	e := &StatusError{StatusCode: r.StatusCode}
	if n, err := strconv.Atoi(r.Header.Get("Retry-After")); err == nil && n > 0 {
		e.RetryAfter = min(time.Duration(n), 3600) * time.Second
	}
	if r.Body == nil {
		return e
	}
	text, _ := io.ReadAll(io.LimitReader(r.Body, 1024)) // what was read is better than nothing
	var body struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal(text, &body) == nil {
		e.Messages = body.Errors
	} else if s := strings.TrimSpace(string(text)); s != "" {
		e.Messages = []string{s}
	}
	for i, m := range e.Messages {
		e.Messages[i] = printable(m)
	}
	return e
}

// printable replaces control characters: the text is printed on terminals and
// comes from whoever answers at the address.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s))
}

// retryable reports whether another attempt to connect can succeed.
func retryable(err error) bool {
	return !errors.Is(err, ErrPermission) && !errors.Is(err, ErrBadRequest) && !errors.Is(err, ErrNotFound)
}
