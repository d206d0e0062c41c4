package flipt

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// SignatureHeader has the signature of a webhook.
const SignatureHeader = "X-Flipt-Webhook-Signature"

const (
	headerContentType = "Content-Type"
	mediaTypeJSON     = "application/json"
)

// Sign returns what [SignatureHeader] has: the HMAC with SHA-256 of the body, in lower-case
// hexadecimal digits.
func Sign(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// Verify reports whether a signature is that of body under one of the secrets, of which there are
// several while they are changed. It takes the same time wherever it differs. Nothing is signed
// with an empty secret.
func Verify(signature string, body []byte, secrets ...string) bool {
	given, err := hex.DecodeString(signature)
	if err != nil || len(given) != sha256.Size {
		return false
	}
	good := false
	for _, secret := range secrets {
		if secret == "" { // one that was forgotten to be set; everybody could sign with it
			continue
		}
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		good = hmac.Equal(mac.Sum(nil), given) || good
	}
	return good
}

// WebhookOptions configure a [WebhookSink]. URL is required.
type WebhookOptions struct {
	URL string
	// SigningSecret is the key of the signature; empty: there is none.
	SigningSecret string
	// Budget is how often one event is tried.
	Budget Budget
	// Client sends the requests; nil: one of its own.
	Client *http.Client
	// Header is sent besides.
	Header http.Header
}

// WebhookSink posts each event, as encoding/json writes it, to a URL.
type WebhookSink struct {
	o       WebhookOptions
	retrier *Retrier
}

// NewWebhookSink returns a sink. It does not connect.
func NewWebhookSink(o WebhookOptions) (*WebhookSink, error) {
	if err := checkURL(o.URL); err != nil {
		return nil, err
	}
	return &WebhookSink{o, NewRetrier(o.Client, o.Budget)}, nil
}

func checkURL(text string) error {
	if text == "" {
		return errors.New("the URL of the webhook is empty")
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("the URL of the webhook is none; write for example https://example.com/audit")
	}
	return nil
}

// SendAudits posts the events one after the other.
func (s *WebhookSink) SendAudits(ctx context.Context, events []Event) error {
	return each(ctx, SinkWebhook, events, func(ctx context.Context, e *Event) (bool, error) {
		body, err := json.Marshal(e)
		if err != nil {
			return false, fmt.Errorf("encode the event: %w", err)
		}
		return post(ctx, s.retrier, body, s.create)
	})
}

func (s *WebhookSink) create(ctx context.Context, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("make the request of the webhook: the URL is none")
	}
	for name, values := range s.o.Header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	if request.Header.Get(headerContentType) == "" {
		request.Header.Set(headerContentType, mediaTypeJSON)
	}
	if s.o.SigningSecret != "" {
		request.Header.Set(SignatureHeader, Sign(s.o.SigningSecret, body))
	}
	return request, nil
}

// post sends a body and says whether sending it later can help.
func post(ctx context.Context, r *Retrier, body []byte, create RequestCreator) (temporary bool, err error) {
	err = r.RequestRetry(ctx, body, create)
	if failed, ok := errors.AsType[*GiveUpError](err); ok {
		return failed.Temporary, err
	}
	return false, err
}

// Close closes connections that are not in use.
func (s *WebhookSink) Close() error { return s.retrier.close() }

// close closes connections that are not in use.
func (r *Retrier) close() error {
	r.client.CloseIdleConnections()
	return nil
}

// String returns "webhook".
func (s *WebhookSink) String() string { return SinkWebhook }
