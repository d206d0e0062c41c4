// Package template is the sink that makes a request of its own for each event: method, URL,
// headers and body are templates, whose values cannot break what is made of them (package
// safetemplate). It has presets for Slack, PagerDuty and Alertmanager.
// docs/sink-template.md says what templates can do.
package template

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/safetemplate"
	"github.com/tocsin-events/tocsin/internal/standardwebhooks"
)

// Options say what is sent where. Connection is required, and one of URL, SecretURL and a
// preset that knows where to.
type Options struct {
	// URL is a template, whose scheme and host are no part of.
	URL string
	// SecretURL is instead of URL, for one that is itself a secret. It is no template.
	SecretURL outbound.Secret
	// Connection says how receivers are reached. Its headers are those with secrets.
	Connection outbound.Options
	// Headers have templates as values. They go before those of the preset.
	Headers []Header
	// Preset is a ready body.
	Preset Preset
	// Method is a template; default POST.
	Method string
	// Body is a template. With a preset it may be empty, or only define parts that replace
	// those of the preset.
	Body string
	// Text: the body is text, not JSON.
	Text bool
	// RoutingKey is what templates have as .RoutingKey, a secret.
	RoutingKey outbound.Secret
	// SigningKeys are keys of Standard Webhooks. Each signs.
	SigningKeys []outbound.Secret
	// Samples are events of all types that the sink will get. The templates are tried on each.
	Samples []*event.Event
	// Describe says what a type means, in one sentence; nil or "": not known.
	Describe func(eventType string) string
}

// Header is a header whose value is a template.
type Header struct{ Name, Value string }

// Sink sends events.
type Sink struct {
	url      *safetemplate.Template // nil: the URL is a secret
	fixed    *url.URL               // the URL of a template that does not depend on events
	secret   outbound.Secret
	path     string // of URLs without one
	method   *safetemplate.Template
	headers  []header
	body     *safetemplate.Template
	text     bool
	key      outbound.Secret
	keys     *standardwebhooks.Keyring
	describe func(string) string
	client   *outbound.Client
	now      func() time.Time
}

type header struct {
	name  string
	value *safetemplate.Template
}

// New returns a sink. It parses and tries the templates and reads secrets, but does not
// connect.
func New(o Options) (*Sink, error) {
	s := &Sink{secret: o.SecretURL, text: o.Text, key: o.RoutingKey, describe: o.Describe, now: time.Now}
	p, err := o.Preset.find()
	if err != nil {
		return nil, err
	}
	s.path = p.path
	if err := s.parse(o, p); err != nil {
		return nil, err
	}
	if s.keys, err = standardwebhooks.NewKeyring(o.SigningKeys); err != nil {
		return nil, err
	}
	if o.RoutingKey != nil {
		if _, err := o.RoutingKey(); err != nil {
			return nil, fmt.Errorf("routing_key: %w", err)
		}
	} else if p.needsKey {
		return nil, fmt.Errorf("the preset %s needs a routing_key; write routing_key: {file: PATH}", o.Preset)
	}
	if s.secret != nil {
		if _, err := s.secretURL(); err != nil {
			return nil, err
		}
	}
	if s.client, err = outbound.New(o.Connection); err != nil {
		return nil, err
	}
	if err := s.try(o.Samples, o.Connection.Guard); err != nil {
		s.client.Close()
		return nil, err
	}
	return s, nil
}

// parse parses all templates.
func (s *Sink) parse(o Options, p preset) (err error) {
	switch {
	case o.URL != "" && o.SecretURL != nil:
		return errors.New("has a url and a secret_url; leave one out")
	case o.SecretURL != nil:
	case o.URL == "" && p.url == "":
		return errors.New("has no url; write where events go: url: https://..., or secret_url: {file: PATH} if it is a secret")
	default:
		text := o.URL
		if text == "" {
			text = p.url
		}
		if s.url, err = safetemplate.Parse(safetemplate.URL, safetemplate.Source{Name: "url", Text: text}); err != nil {
			return err
		}
		if !strings.Contains(text, "{{") {
			if s.fixed, err = s.parseURL(text); err != nil {
				return fmt.Errorf("url %w", err)
			}
		}
	}
	method := o.Method
	if method == "" {
		method = http.MethodPost
	}
	if s.method, err = safetemplate.Parse(safetemplate.Text, safetemplate.Source{Name: "method", Text: method}); err != nil {
		return err
	}
	if err := s.parseHeaders(o.Headers); err != nil {
		return err
	}
	form := safetemplate.JSON
	if o.Text {
		if p.body != "" {
			return fmt.Errorf("text: true does not go with the preset %s, whose body is JSON", o.Preset)
		}
		form = safetemplate.Text
	}
	sources := []safetemplate.Source{{Name: "body", Text: o.Body}}
	if p.body != "" {
		sources = slices.Insert(sources, 0, safetemplate.Source{Name: "preset " + string(o.Preset), Text: p.body})
	} else if strings.TrimSpace(o.Body) == "" {
		return errors.New("has no body; write one, for example body: '{\"text\": {{.Summary}}}', or choose a preset")
	}
	s.body, err = safetemplate.Parse(form, sources...)
	return err
}

func (s *Sink) parseHeaders(list []Header) error {
	hasType := false
	for _, h := range list {
		if !isHeaderName(h.Name) {
			return fmt.Errorf("%.40q is no name of a header", h.Name)
		}
		name := textproto.CanonicalMIMEHeaderKey(h.Name)
		if reserved[name] || strings.HasPrefix(name, "Tocsin-") {
			return fmt.Errorf("the header %s is set by the sink itself; leave it out", name)
		}
		if slices.ContainsFunc(s.headers, func(o header) bool { return o.name == name }) {
			return fmt.Errorf("the header %s is there twice", name)
		}
		t, err := safetemplate.Parse(safetemplate.Text, safetemplate.Source{Name: "header " + name, Text: h.Value})
		if err != nil {
			return err
		}
		hasType = hasType || name == "Content-Type"
		s.headers = append(s.headers, header{name, t})
	}
	if hasType {
		return nil
	}
	value := "application/json"
	if s.text {
		value = "text/plain; charset=utf-8"
	}
	t, err := safetemplate.Parse(safetemplate.Text, safetemplate.Source{Name: "header Content-Type", Text: value})
	s.headers = append(s.headers, header{"Content-Type", t})
	return err
}

// reserved are headers that belong to the sink or to HTTP.
var reserved = map[string]bool{
	"Content-Length": true, "Transfer-Encoding": true, "Connection": true, "Te": true, "Trailer": true, "Upgrade": true, "Keep-Alive": true,
	"Host": true, "User-Agent": true, "Content-Encoding": true,
	standardwebhooks.HeaderID: true, standardwebhooks.HeaderTimestamp: true, standardwebhooks.HeaderSignature: true,
}

// parseURL reads a URL, and gives it the path of the preset if it has none.
func (s *Sink) parseURL(text string) (*url.URL, error) {
	u, err := outbound.ParseURL(text)
	if err != nil {
		return nil, err
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = s.path
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return nil, errors.New("has a . or .. in its path, which would lead elsewhere")
		}
	}
	return u, nil
}

func (s *Sink) secretURL() (*url.URL, error) {
	text, err := s.secret()
	if err != nil {
		return nil, fmt.Errorf("secret_url: %w", err)
	}
	u, err := s.parseURL(text)
	if err != nil {
		return nil, fmt.Errorf("secret_url %w", err)
	}
	return u, nil
}

// notTried is the result of events behind one that could not be delivered.
var notTried = deliver.Result{Outcome: deliver.Retry, Reason: "not tried, because what comes before was not delivered"}

// Send implements [deliver.Sink]: a request for each event, one after the other, until the
// endpoint fails.
func (s *Sink) Send(ctx context.Context, b *deliver.Batch) deliver.Result {
	for i := range b.Items {
		result := s.send(ctx, b, i)
		if i == len(b.Items)-1 {
			return result
		}
		b.Decide(i, result)
		switch result.Outcome {
		case deliver.Retry, deliver.Doubtful, deliver.Gone:
			return notTried
		}
	}
	return deliver.Result{} // of nothing
}

// failure is why a request cannot be made.
type failure struct {
	outcome deliver.Outcome
	err     error
}

// send sends one event.
func (s *Sink) send(ctx context.Context, b *deliver.Batch, i int) deliver.Result {
	e := b.Items[i].Event
	r, fail := s.request(b.Items[i], b)
	if fail != nil {
		return deliver.Result{Outcome: fail.outcome, Reason: fail.err.Error()}
	}
	keys, err := s.keys.Keys()
	if err != nil {
		return deliver.Result{Outcome: deliver.Retry, Reason: err.Error()}
	}
	r.Header.Set("Tocsin-Attempt", strconv.Itoa(max(b.Attempt, 1)))
	if b.Replay != "" {
		r.Header.Set("Tocsin-Replay", url.PathEscape(b.Replay))
	}
	if b.Redriven {
		r.Header.Set("Tocsin-Redriven", "true")
	}
	id, now := outbound.EventID(e), s.now()
	r.Header.Set(standardwebhooks.HeaderID, id)
	r.Header.Set(standardwebhooks.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	if len(keys) > 0 {
		r.Header.Set(standardwebhooks.HeaderSignature, string(standardwebhooks.AppendSignatures(nil, keys, id, now, r.Body)))
	}
	return s.client.Send(ctx, r)
}

// Bounds of what templates make.
const (
	maxMethodBytes = 32
	maxHeaderBytes = 4 << 10
)

// request makes the request for an event.
func (s *Sink) request(item deliver.Item, b *deliver.Batch) (*outbound.Request, *failure) {
	v := newView(item, b)
	v.describe = s.describe
	r := &outbound.Request{Header: make(http.Header, len(s.headers)+4)}
	if s.key != nil {
		key, err := s.key()
		if err != nil {
			return nil, &failure{deliver.Retry, fmt.Errorf("routing_key: %w", err)}
		}
		v.key = key
		r.Secrets = append(r.Secrets, key)
	}
	impossible := func(format string, args ...any) (*outbound.Request, *failure) {
		return nil, &failure{deliver.Impossible, fmt.Errorf(format, args...)}
	}
	var err error
	switch {
	case s.secret != nil:
		if r.URL, err = s.secretURL(); err != nil {
			return nil, &failure{deliver.Retry, err}
		}
		r.Secrets = append(r.Secrets, r.URL.String())
	case s.fixed != nil:
		r.URL = s.fixed
	default:
		text, err := s.url.Execute(nil, v)
		if err != nil {
			return impossible("%w", err)
		}
		if r.URL, err = s.parseURL(string(text)); err != nil {
			return impossible("url %w", err)
		}
	}
	method, err := s.method.Execute(nil, v)
	if err != nil {
		return impossible("%w", err)
	}
	r.Method = string(method)
	if len(method) > maxMethodBytes || !isMethod(r.Method) {
		return impossible("method: it does not make a method of HTTP, such as POST")
	}
	for _, h := range s.headers {
		value, err := h.value.Execute(nil, v)
		if err != nil {
			return impossible("%w", err)
		}
		if len(value) > maxHeaderBytes {
			return impossible("header %s: it makes more than %d KiB", h.name, maxHeaderBytes>>10)
		}
		if slices.ContainsFunc(value, func(c byte) bool { return c < ' ' && c != '\t' || c >= 0x7f }) {
			return impossible("header %s: it makes what no header can have, such as a new line; use urlquery or base64", h.name)
		}
		r.Header.Set(h.name, string(value))
	}
	if r.Body, err = s.body.Execute(nil, v); err != nil {
		return impossible("%w", err)
	}
	return r, nil
}

// isHeaderName reports whether s is a token of HTTP.
func isHeaderName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("()<>@,;:\\\"/[]?={}", r)
	})
}

func isMethod(s string) bool {
	return s != "" && s != http.MethodConnect && s != http.MethodTrace && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// maxShown is how many types an error names.
const maxShown = 5

// try makes a request of each sample. The error names the first types for which that is
// not possible.
func (s *Sink) try(samples []*event.Event, guard *outbound.Guard) error {
	var shown []string
	failed := 0
	for _, e := range samples {
		item := deliver.Item{Event: e}
		r, fail := s.request(item, &deliver.Batch{Items: []deliver.Item{item}, Attempt: 1})
		var err error
		if fail != nil {
			err = fail.err
		} else {
			err = guard.CheckURL(r.URL)
		}
		if err == nil {
			continue
		}
		if failed++; len(shown) < maxShown {
			shown = append(shown, fmt.Sprintf("%s: %v", e.Type, err))
		}
	}
	if failed == 0 {
		return nil
	}
	text := strings.Join(shown, "; ")
	if more := failed - len(shown); more > 0 {
		text += fmt.Sprintf("; and %d more types", more)
	}
	return fmt.Errorf("the templates do not work for events of the sink. Change them, or select other events under events: %s", text)
}

// Close implements [deliver.Sink].
func (s *Sink) Close() error { return s.client.Close() }
