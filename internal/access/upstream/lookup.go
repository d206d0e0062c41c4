package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
)

// maxAnswerBytes bounds an answer of the server.
const maxAnswerBytes = 1 << 20

var errTooSlow = errors.New("no answer in time")

func isDenied(err error) bool { return errors.Is(err, access.ErrDenied) }

// unavailable returns the error of a question that could not be answered. It is for
// clients: what exactly went wrong is in the log.
func (p *Provider) unavailable(what string) error {
	return fmt.Errorf("%w: the token cannot be checked now, because the server %s at %s %s; try again, or see the log of the hub for the cause",
		access.ErrUnavailable, p.name, p.address, what)
}

// interrupted returns the error of a question that ended with ctx.
func (p *Provider) interrupted(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, errTooSlow) {
		return fmt.Errorf("%w: asking the server %s: %w", access.ErrUnavailable, p.name, cause)
	}
	return p.unavailable("does not answer in time")
}

// lookup asks about a token in one namespace.
func (p *Provider) lookup(ctx context.Context, value, namespace string) (*access.External, error) {
	leave, ok := p.circuit.enter()
	if !ok {
		return nil, p.unavailable("does not answer")
	}
	asked := time.Now()
	status, header, body, err := p.ask(ctx, value, namespace)
	switch {
	case err == nil || errors.Is(err, errTooLarge):
		p.report(leave(answered), nil)
	case errors.Is(ctx.Err(), context.Canceled):
		leave(unknown)
		return nil, p.interrupted(ctx)
	default:
		p.report(leave(silent), err)
		if ctx.Err() != nil {
			return nil, p.interrupted(ctx)
		}
		return nil, p.unavailable("cannot be reached")
	}
	if err != nil {
		return nil, p.nonsense(status, err.Error())
	}
	return p.judge(status, header, body, value, asked)
}

var errTooLarge = fmt.Errorf("the answer is larger than %d bytes", maxAnswerBytes)

// ask sends the question and returns the answer. Its errors do not contain the token.
func (p *Provider) ask(ctx context.Context, value, namespace string) (status int, h http.Header, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.endpoint, nil)
	if err != nil {
		return 0, nil, nil, err
	}
	request.Header.Set("X-Vault-Request", "true")
	request.Header.Set("X-Vault-Token", value)
	if namespace != "" {
		request.Header.Set("X-Vault-Namespace", strings.TrimSuffix(namespace, "/"))
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "tocsin")
	client := http.Client{Transport: p.connections.current(), CheckRedirect: noRedirects}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes+1))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("read the answer: %w", err)
	}
	if len(body) > maxAnswerBytes {
		return response.StatusCode, nil, nil, errTooLarge
	}
	return response.StatusCode, response.Header, body, nil
}

// judge turns an answer into an identity or an error.
func (p *Provider) judge(status int, h http.Header, body []byte, value string, asked time.Time) (*access.External, error) {
	switch status {
	case http.StatusOK, http.StatusForbidden, http.StatusNotFound, http.StatusInternalServerError:
	default:
		return nil, p.nonsense(status, statusAdvice(status))
	}
	if encoding := h.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, p.nonsense(status, "the answer is compressed, which was not asked for")
	}
	if mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return nil, p.nonsense(status, "the answer is not JSON; "+isItOne)
	}
	if status == http.StatusOK {
		a, err := decode(body)
		if err != nil {
			return nil, p.nonsense(status, err.Error())
		}
		return p.identity(a, value, asked)
	}
	texts, err := decodeErrors(body)
	if err != nil {
		return nil, p.nonsense(status, err.Error())
	}
	// A token whose part after the last "." names no namespace of the server (any
	// longer) is answered with status 500. It would be wrong to call that an outage.
	if status == http.StatusInternalServerError && !strings.Contains(strings.Join(texts, " "), "no namespace") {
		return nil, p.nonsense(status, statusAdvice(status))
	}
	return nil, access.ErrDenied
}

// isItOne is advice about an answer that such a server does not give.
const isItOne = "is the address that of a Vault or OpenBao server?"

func statusAdvice(status int) string {
	switch {
	case status/100 == 3:
		return "the server redirects, which is not followed with a token; configure the address of the active node, or of a load balancer that finds it"
	case status == http.StatusTooManyRequests:
		return "the server limits the rate of requests"
	case status == http.StatusPreconditionFailed:
		return "the node of the server has not heard of the newest changes yet"
	case status == http.StatusServiceUnavailable:
		return "the server is sealed, or has no active node"
	case status >= 500:
		return "the server has an error; see its log"
	}
	return isItOne
}

// nonsense reports an answer that does not tell whose token it is.
func (p *Provider) nonsense(status int, why string) error {
	if skipped, ok := p.failures.Allow(); ok {
		p.log.Warn("the server does not say whose a token is", "address", p.address, "status", status, "reason", why, "skipped", skipped)
	}
	return p.unavailable(fmt.Sprintf("gave no usable answer (status %d)", status))
}

// refuse reports a token that is valid there but cannot be used here.
func (p *Provider) refuse(a *answer, why string) error {
	if skipped, ok := p.refusals.Allow(); ok {
		p.log.Info("a token of the server cannot be used here", "accessor", a.Accessor, "reason", why, "skipped", skipped)
	}
	return access.ErrDenied
}

// report logs that the server does not answer, or does so again.
func (p *Provider) report(t transition, err error) {
	switch {
	case t.failed:
		p.log.Warn("the server does not answer; until it does, its tokens cannot be used by newcomers",
			"address", p.address, "error", err)
	case t.recovered:
		p.log.Info("the server answers again", "address", p.address, "after", t.after.Round(time.Millisecond), "not_asked", t.refused)
	}
}

// decodeErrors decodes the body of a refusal.
func decodeErrors(body []byte) ([]string, error) {
	var refusal struct {
		Errors *[]string `json:"errors"`
	}
	if err := json.Unmarshal(body, &refusal); err != nil || refusal.Errors == nil {
		return nil, errors.New("a refusal without a list of errors; " + isItOne)
	}
	return *refusal.Errors, nil
}
