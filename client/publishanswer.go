package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// answer is what came of an attempt: either the hub said of every event what became of
// it, or err is set and the events have to be sent again.
type answer struct {
	accepted, duplicates int
	refused              []refusal
	warnings             []warning

	err   error
	split bool // half of the events may do better
	// doubtful means that the request may be wrong, for example its namespace, and no event.
	doubtful bool
}

type refusal struct {
	Index   int    `json:"index"`
	ID      string `json:"id"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

type warning struct {
	Index   int    `json:"index"`
	Message string `json:"message"`
}

// refusedAll is the answer that refuses so many events for one reason.
func refusedAll(events int, code, message string) (a answer) {
	for i := range events {
		a.refused = append(a.refused, refusal{Index: i, Code: code, Message: message})
	}
	return a
}

// maxAnswerBytes bounds the body of an answer.
const maxAnswerBytes = 16 << 20

// attempt makes one request with a JSON array of so many events.
func (p *Publisher) attempt(b *body, events int) answer {
	ctx, cancel := context.WithTimeoutCause(p.running, p.timing.attempt, fmt.Errorf("no answer within %v", p.timing.attempt))
	defer cancel()
	failed := func(what string, err error) answer {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return answer{err: fmt.Errorf("%s: %w", what, innermost(err))}
	}
	token := p.options.Token
	if f := p.options.TokenFunc; f != nil {
		var err error
		if token, err = f(ctx); err != nil {
			return failed("get a token", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.target, nil)
	if err != nil {
		return failed("publish", err)
	}
	connection := Options{Token: token, Namespace: p.options.Namespace}
	r.Header = connection.header()
	r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	r.Header.Set("Accept", "application/json")
	r.Header["Idempotency-Key"] = nil // net/http may repeat it on a new connection; the header is not sent
	r.ContentLength = int64(len(b.text))
	r.GetBody = func() (io.ReadCloser, error) { return b.open(), nil }
	r.Body = b.open()
	response, err := p.http.Do(r)
	if err != nil {
		return failed("publish to "+r.URL.Host, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return failed("publish to "+r.URL.Host, err)
	}
	return understand(response, text, events)
}

// understand reads what a hub answers. Events are settled only by what makes sense: an
// answer that is not a hub's leaves them to be sent again.
func understand(response *http.Response, text []byte, events int) answer {
	var said struct {
		Accepted   int       `json:"accepted"`
		Duplicates int       `json:"duplicates"`
		Refused    []refusal `json:"refused"`
		Warnings   []warning `json:"warnings"`
		Errors     []string  `json:"errors"`
	}
	noJSON := json.Unmarshal(text, &said)
	response.Body = io.NopCloser(bytes.NewReader(text))
	status := statusError(response)
	a := answer{accepted: said.Accepted, duplicates: said.Duplicates, refused: said.Refused, warnings: said.Warnings}
	switch code := response.StatusCode; code {
	case http.StatusOK, http.StatusMultiStatus:
		if noJSON != nil || !complete(a, events) {
			return answer{err: fmt.Errorf("publish: the answer %d to %d events is not that of a hub: %.200q", code, events, printable(string(text[:min(len(text), 200)])))}
		}
		return a
	case http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge:
		a.accepted, a.duplicates = 0, 0
		switch {
		case noJSON == nil && len(a.refused) > 0 && complete(a, events):
			return a
		case code == http.StatusForbidden && len(a.refused) == 0:
			return answer{err: status}
		case events == 0, code == http.StatusBadRequest && (noJSON != nil || len(said.Errors) == 0):
			return answer{err: status} // something on the way says so
		case events > 1:
			return answer{err: status, split: true, doubtful: code == http.StatusBadRequest}
		}
		reason := "invalid"
		if code == http.StatusRequestEntityTooLarge {
			reason = "too-large"
		}
		a = refusedAll(1, reason, strings.Join(status.Messages, "; "))
		a.doubtful = code == http.StatusBadRequest
		return a
	}
	return answer{err: status}
}

// complete reports whether an answer tells of each event once.
func complete(a answer, events int) bool {
	if a.accepted < 0 || a.duplicates < 0 || a.accepted > events || a.duplicates > events ||
		a.accepted+a.duplicates+len(a.refused) != events {
		return false
	}
	last := -1
	for _, r := range a.refused {
		if r.Index <= last || r.Index >= events {
			return false
		}
		last = r.Index
	}
	return true
}

// body is the text of requests. Its memory may be used again when nobody reads it: a
// transport may go on reading after it has returned the answer.
type body struct {
	text    []byte
	readers atomic.Int32
}

func (b *body) unused() bool { return b.readers.Load() == 0 }

func (b *body) open() io.ReadCloser {
	b.readers.Add(1)
	return &bodyReader{Reader: bytes.NewReader(b.text), body: b}
}

type bodyReader struct {
	*bytes.Reader
	body   *body
	closed atomic.Bool
}

func (r *bodyReader) Close() error {
	if !r.closed.Swap(true) {
		r.body.readers.Add(-1)
	}
	return nil
}

// elements returns the texts of the events in a JSON array.
func elements(array []byte) (texts []json.RawMessage, err error) {
	err = json.Unmarshal(array, &texts)
	return texts, err
}

// arrayOf is the inverse of elements.
func arrayOf(texts []json.RawMessage) []byte {
	array := []byte{'['}
	for i, t := range texts {
		if i > 0 {
			array = append(array, ',')
		}
		array = append(array, t...)
	}
	return append(array, ']')
}
