package flipt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"text/template"
)

// WebhookTemplate is a request that is made of each event.
type WebhookTemplate struct {
	URL string
	// Body is a text/template for a JSON text. Its data is the event: .Version, .Type, .Action,
	// .Metadata.Actor.{Authentication,IP,Email,Name,Picture}, .Payload.NAME with the names that
	// it has in JSON, .Timestamp, .Status. Beside what text/template brings there is toJson.
	Body string
	// Headers are sent as they are. A Content-Type of application/json is added when there is
	// none.
	Headers map[string]string
}

// TemplateOptions configure a [TemplateSink]. Templates are required.
type TemplateOptions struct {
	Templates []WebhookTemplate
	// Verbatim puts values into the body as they are, as Flipt does: a value with a quote breaks the
	// JSON, and a crafted one can add members. Otherwise values are escaped by where they
	// stand: within quotes as a part of a text, elsewhere as JSON; what toJson made stays as it is.
	Verbatim bool
	// SigningSecret is the key of the signature; empty: there is none. Flipt signs no templates.
	SigningSecret string
	// Budget is how often one event is tried.
	Budget Budget
	// Client sends the requests; nil: one of its own.
	Client *http.Client
}

// TemplateSink posts each event to each template, in their order. One that fails does not stop
// the next. A [Fanout] gives every template a queue of its own.
type TemplateSink struct{ each []*templateSink }

// NewTemplateSink returns a sink. The error of a template that cannot be parsed is that of
// text/template. When values are escaped, a text must not begin in one branch of a template and
// end in another.
func NewTemplateSink(o TemplateOptions) (*TemplateSink, error) {
	if len(o.Templates) == 0 {
		return nil, errors.New("there is no template")
	}
	s := new(TemplateSink)
	retrier := NewRetrier(o.Client, o.Budget)
	for i := range o.Templates {
		t := &o.Templates[i]
		if err := checkURL(t.URL); err != nil {
			return nil, fmt.Errorf("template %d: %w", i, err)
		}
		parsed, err := template.New("").Funcs(functions).Parse(t.Body)
		if err == nil && !o.Verbatim {
			err = escapeTemplates(parsed)
		}
		if err != nil {
			return nil, err
		}
		s.each = append(s.each, &templateSink{*t, parsed, o.SigningSecret, retrier})
	}
	return s, nil
}

// SendAudits sends the events, each to every template.
func (s *TemplateSink) SendAudits(ctx context.Context, events []Event) error {
	return each(ctx, SinkTemplates, events, func(ctx context.Context, e *Event) (temporary bool, err error) {
		temporary = true
		for _, t := range s.each {
			again, failed := t.send(ctx, e)
			if failed != nil {
				temporary = temporary && again
				err = errors.Join(err, failed)
			}
		}
		return temporary, err
	})
}

// Split returns a sink for each template.
func (s *TemplateSink) Split() []Sink {
	all := make([]Sink, len(s.each))
	for i, t := range s.each {
		all[i] = t
	}
	return all
}

// Close closes connections that are not in use.
func (s *TemplateSink) Close() error { return s.each[0].Close() }

// String returns "templates".
func (s *TemplateSink) String() string { return SinkTemplates }

// templateSink is one template.
type templateSink struct {
	WebhookTemplate
	body    *template.Template
	secret  string
	retrier *Retrier
}

func (t *templateSink) SendAudits(ctx context.Context, events []Event) error {
	return each(ctx, SinkTemplates, events, t.send)
}

func (t *templateSink) Close() error   { return t.retrier.close() }
func (t *templateSink) String() string { return SinkTemplates }

func (t *templateSink) send(ctx context.Context, e *Event) (temporary bool, err error) {
	body, err := t.execute(e)
	if err != nil {
		return false, err
	}
	return post(ctx, t.retrier, body, t.create)
}

// maxQuotedBody is how much of a body an error quotes.
const maxQuotedBody = 4 << 10

// execute makes the body for an event.
func (t *templateSink) execute(e *Event) ([]byte, error) {
	data, err := e.Generic()
	if err != nil {
		return nil, err
	}
	if data.Metadata.Actor == nil { // what a template asks for is then empty
		data.Metadata.Actor = new(Actor)
	}
	var b bytes.Buffer
	if err := t.body.Execute(&b, &data); err != nil {
		return nil, fmt.Errorf("execute the template: %w", err)
	}
	if !json.Valid(b.Bytes()) {
		quoted := b.Bytes()
		return nil, fmt.Errorf("invalid JSON: %s", quoted[:min(len(quoted), maxQuotedBody)])
	}
	return b.Bytes(), nil
}

func (t *templateSink) create(ctx context.Context, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("make the request of the template: the URL is none")
	}
	for name, value := range t.Headers {
		request.Header.Set(name, value)
	}
	if request.Header.Get(headerContentType) == "" {
		request.Header.Set(headerContentType, mediaTypeJSON)
	}
	if t.secret != "" {
		request.Header.Set(SignatureHeader, Sign(t.secret, body))
	}
	return request, nil
}

// functions are those of templates. The last two are put in by escapeTemplates.
var functions = template.FuncMap{
	"toJson":      toJSON,
	escapeInText:  jsonInText,
	escapeAsValue: jsonAsValue,
}

const (
	escapeInText  = "tocsinText"
	escapeAsValue = "tocsinValue"
)

// jsonValue is a text that is JSON already.
type jsonValue string

func toJSON(v any) (jsonValue, error) {
	b, err := json.Marshal(v)
	return jsonValue(b), err
}

// jsonAsValue returns v as JSON.
func jsonAsValue(v any) (string, error) {
	if made, ok := v.(jsonValue); ok {
		return string(made), nil
	}
	var b bytes.Buffer
	j := json.NewEncoder(&b)
	j.SetEscapeHTML(false)
	if err := j.Encode(v); err != nil {
		return "", err
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// jsonInText returns what text/template prints for v, as a part of a JSON text.
func jsonInText(v any) (string, error) {
	text := "<no value>"
	switch v := v.(type) {
	case nil:
	case string:
		text = v
	case float64: // as in JSON
		b, err := json.Marshal(v)
		if err != nil {
			return "", err
		}
		text = string(b)
	case *string:
		if v != nil {
			text = *v
		}
	default:
		text = fmt.Sprint(v)
	}
	quoted, err := jsonAsValue(text)
	if err != nil {
		return "", err
	}
	return quoted[1 : len(quoted)-1], nil
}
