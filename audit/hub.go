package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/address"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

// HubOptions say how a hub is reached.
type HubOptions struct {
	// Token is sent in the header X-Vault-Token, never in the URL: [SecretFile], [SecretEnv] or
	// a function of your own, asked for each request. It needs the capability "create" on
	// "sys/events/publish/SERVICE/*".
	Token Secret
	// Namespace is that of the request; empty for root. Events that have a namespace of their own
	// keep it.
	Namespace string
	// HTTPClient makes the requests, for example with a private CA or a client certificate. Unless
	// it has a CheckRedirect of its own, redirects are followed, as the standby nodes of a cluster
	// answer them, but none from https to http.
	HTTPClient *http.Client
}

// ToHub brings events to a Tocsin hub: many in one request, in their order, and again until
// the hub says that it has stored them. It recognises those that it has by their IDs. A hub
// refuses single events, for example those of a type that the token may not publish: they
// become dead letters.
//
// The address is as in "https://tocsin.example:8280". The name of the output is "hub".
func ToHub(hub string, o HubOptions) Output {
	return Output{Name: "hub", batch: 1000, batchBytes: 512 << 10, make: func(l *Logger) (deliver.Sink, error) { return newHubSink(hub, o) }}
}

// hubSink publishes to a hub.
type hubSink struct {
	options HubOptions
	target  string
	host    string
	http    *http.Client
	own     *http.Transport // nil: the client is the caller's
	life    context.Context // until Close
	end     context.CancelFunc
}

func newHubSink(hub string, o HubOptions) (*hubSink, error) {
	u, err := address.Parse(hub)
	if err != nil {
		return nil, err
	}
	s := &hubSink{options: o, host: u.Host}
	if o.HTTPClient != nil {
		client := *o.HTTPClient
		s.http = &client
	} else {
		t, ok := http.DefaultTransport.(*http.Transport)
		if !ok {
			return nil, errors.New("http.DefaultTransport is not an *http.Transport; give an HTTPClient")
		}
		s.own = t.Clone()
		s.own.DisableCompression = true // answers are short
		s.http = &http.Client{Transport: s.own}
	}
	if s.http.CheckRedirect == nil {
		s.http.CheckRedirect = func(r *http.Request, via []*http.Request) error {
			switch {
			case len(via) > 10:
				return errors.New("stopped after 10 redirects")
			case via[0].URL.Scheme == "https" && r.URL.Scheme != "https":
				return errors.New("the hub redirects from https to http, which would send the token unencrypted")
			}
			return nil
		}
	}
	u.Path += "/api/v1/events"
	u.RawQuery = "partial=true"
	s.target = u.String()
	s.life, s.end = context.WithCancel(context.Background())
	if _, err := s.token(); err != nil {
		s.end()
		return nil, fmt.Errorf("read the token: %w", err)
	}
	return s, nil
}

func (s *hubSink) token() (string, error) {
	if s.options.Token == nil {
		return "", nil
	}
	return s.options.Token()
}

// maxAnswerBytes bounds the body of an answer.
const maxAnswerBytes = 16 << 20

// Send implements [deliver.Sink].
func (s *hubSink) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	body := make([]byte, 0, 1024*len(b.Items))
	for i := range b.Items {
		body = append(body, ",["[btoi(i == 0)])
		body = event.AppendCloudEvent(body, b.Items[i].Event, "")
	}
	body = append(body, ']')
	retry := func(format string, args ...any) deliver.Result {
		return deliver.Result{Outcome: deliver.Retry, Reason: printable(fmt.Sprintf(format, args...))}
	}
	token, err := s.token()
	if err != nil {
		return retry("no token: %v", innermost(err))
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.target, bytes.NewReader(body))
	if err != nil {
		return retry("%v", innermost(err))
	}
	r.Header.Set("X-Vault-Request", "true")
	if token != "" {
		r.Header.Set("X-Vault-Token", token)
	}
	if s.options.Namespace != "" {
		r.Header.Set("X-Vault-Namespace", s.options.Namespace)
	}
	r.Header.Set("Content-Type", "application/cloudevents-batch+json")
	r.Header.Set("Accept", "application/json")
	r.Header["Idempotency-Key"] = nil // net/http may repeat it on a new connection; the header is not sent
	response, err := s.http.Do(r)
	if err != nil {
		return retry("no answer from %s: %v", s.host, innermost(err))
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return retry("the answer of %s broke off: %v", s.host, innermost(err))
	}
	return understand(response, text, b)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// hubAnswer is what a hub says to published events.
type hubAnswer struct {
	Accepted   int `json:"accepted"`
	Duplicates int `json:"duplicates"`
	Refused    []struct {
		Index   int    `json:"index"`
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"refused"`
	Errors []string `json:"errors"`
}

// tellsOfAll reports whether an answer tells of each event once.
func (a *hubAnswer) tellsOfAll(events int) bool {
	if a.Accepted < 0 || a.Duplicates < 0 || a.Accepted > events || a.Duplicates > events || a.Accepted+a.Duplicates+len(a.Refused) != events {
		return false
	}
	last := -1
	for _, r := range a.Refused {
		if r.Index <= last || r.Index >= events {
			return false
		}
		last = r.Index
	}
	return true
}

// understand reads what a hub answers. Events are settled only by what makes sense: after an
// answer that is not a hub's they are sent again.
func understand(response *http.Response, text []byte, b *deliver.Batch) deliver.Result {
	var said hubAnswer
	noJSON := json.Unmarshal(text, &said)
	code := response.StatusCode
	result := deliver.Result{Outcome: deliver.Retry, Status: code, After: retryAfter(response.Header, time.Now())}
	result.Reason = printable(fmt.Sprintf("the hub answers %d: %s", code, cmp.Or(strings.Join(said.Errors, "; "), http.StatusText(code))))
	refusals := func() deliver.Result {
		for _, r := range said.Refused {
			b.Decide(r.Index, deliver.Result{Outcome: deliver.Refused, Status: code, Reason: printable(cmp.Or(r.Code, "refused") + ": " + r.Message)})
		}
		return deliver.Result{Outcome: deliver.Delivered, Status: code}
	}
	switch code {
	case http.StatusOK, http.StatusMultiStatus:
		if noJSON != nil || !said.tellsOfAll(len(b.Items)) {
			result.Reason = fmt.Sprintf("the answer %d is not that of a hub; is the address right?", code)
			return result
		}
		return refusals()
	case http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge:
		said.Accepted, said.Duplicates = 0, 0
		switch {
		case noJSON == nil && len(said.Refused) > 0 && said.tellsOfAll(len(b.Items)):
			return refusals()
		case code == http.StatusRequestEntityTooLarge:
			result.Outcome = deliver.Refused
		case code == http.StatusBadRequest:
			result.Outcome = deliver.Doubtful
		}
	}
	return result
}

// retryAfter reads the header field, RFC 9110 section 10.2.3.
func retryAfter(h http.Header, now time.Time) time.Duration {
	const most = 24 * time.Hour
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, most)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), most)
	}
	return 0
}

// innermost returns an error without the URL that net/http puts around it.
func innermost(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// printable makes one line of a text, without what looks like a secret.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, clean(s, deliver.MaxReasonBytes-8))
	return alwaysMasked(s)
}

// String and GoString show nothing that belongs to connections.
func (s *hubSink) String() string { return "hub at " + s.host }

func (s *hubSink) GoString() string { return s.String() }

// Close implements [deliver.Sink].
func (s *hubSink) Close() error {
	s.end()
	if s.own != nil {
		s.own.CloseIdleConnections()
	}
	return nil
}
