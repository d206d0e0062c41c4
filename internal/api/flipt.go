package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/audit/flipt"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/publish"
	"github.com/tocsin-events/tocsin/internal/source/fliptaudit"
)

// FliptSources are the Flipt servers that may send.
type FliptSources interface {
	// Source returns one that is configured; nil for none. The name "" is that of the only one.
	Source(name string) *fliptaudit.Source
	// Log returns what takes in log files under a name. The error wraps ErrNoAuditLog for a name
	// that no server can have.
	Log(name string) (*fliptaudit.Source, error)
}

// fliptPath begins the paths that say who may import logs of Flipt servers.
const fliptPath = "sys/flipt/"

// fliptWebhook serves /api/v1/ingest/flipt/{source}, and without the name when there is one source
// only: a Flipt server posts its audit events here, one at a time.
//
//	200  the event is durable; also when it is no event of Flipt, and was quarantined
//	405  not POST
//	429  too many bodies at once, or too many failures from the address; with Retry-After
//	503  everything else: it cannot be stored now, the signature is wrong, there is no such
//	     source, the body is too large
//
// Flipt up to v1.44 tries again after everything but exactly 200; from v1.45 it takes every
// answer from 400 to 499 but 429 as delivered, without a word in its log. So there is none of
// these for what a Flipt server may send: it tries again for some seconds, and then says in its
// log that the event is lost.
func (a *API) fliptWebhook(w http.ResponseWriter, r *http.Request) {
	// A redirect made this of a POST; the server is to notice that the event is lost.
	redirected := r.Method == http.MethodGet && r.Header.Get("Referer") != ""
	if r.Method != http.MethodPost && !redirected {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "the method is "+strconv.Quote(clip(r.Method, 20))+", it must be POST")
		return
	}
	name := r.PathValue("source")
	s := a.flipt.Source(name)
	p := publication{r: r, body: a.publisher.bodies.new()}
	defer p.body.free()
	receipt, err := a.receiveFlipt(&p, s, redirected)
	if err == nil {
		receipt.Done(answerFlipt(w, r, receipt))
		return
	}
	refused := a.publicationRefusal(err)
	if refused.status != http.StatusTooManyRequests && refused.status != http.StatusServiceUnavailable {
		refused = &refusal{status: http.StatusServiceUnavailable, why: refused.reason(), after: refused.after, text: refused.text}
	}
	a.requests.Refused(refused.reason()).Inc()
	if s != nil {
		s.Refused(refused.reason())
		name = s.Name()
	}
	a.warn("a webhook of Flipt was refused", "source", clip(name, 80), "address", remote(r), "reason", refused.text)
	a.recordRefusal(attempt{what: "request-denied", path: fliptPath + clip(name, 80), operation: "update", id: p.id, request: r}, refused)
	p.body.free()
	p.answer(w, refused)
}

// receiveFlipt takes an event in.
func (a *API) receiveFlipt(p *publication, s *fliptaudit.Source, redirected bool) (*fliptaudit.Receipt, error) {
	r := p.r
	switch {
	case redirected:
		return nil, &refusal{status: http.StatusServiceUnavailable, why: "redirected", text: "this is a GET after a redirect, without the event; let the Flipt server post to this URL itself"}
	case s == nil:
		// Whoever asks for names is slowed down like those who try tokens.
		if refused := a.limited(r, ""); refused != nil {
			return nil, refused
		}
		a.failed(r, "")
		return nil, &refusal{status: http.StatusServiceUnavailable, why: "unknown source", text: "there is no source of the type flipt with this name"}
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return nil, &refusal{status: http.StatusServiceUnavailable, why: "encoding", text: "the body is compressed; Flipt does not do that"}
	}
	// Before a large body is read for somebody who may send nothing.
	signatures := r.Header.Values(flipt.SignatureHeader)
	signed := len(signatures) > 0
	if !signed {
		if err := a.admitUnsigned(p, s); err != nil {
			return nil, err
		}
	}
	if err := p.readBody(); err != nil {
		return nil, err
	}
	if signed {
		good := false
		if len(signatures) == 1 {
			var err error
			if good, err = s.Verify(signatures[0], p.body.bytes); err != nil {
				a.warn("a signature cannot be checked", "source", s.Name(), "error", err)
				return nil, &refusal{status: http.StatusServiceUnavailable, why: "secret", after: time.Second, text: "the signature cannot be checked at the moment; send the same request again later"}
			}
		}
		if !good {
			if refused := a.limited(r, ""); refused != nil {
				return nil, refused
			}
			a.failed(r, "")
			return nil, &refusal{status: http.StatusServiceUnavailable, why: wrongSignature, text: "the signature is wrong; signing_secret of the Flipt server and signing_secrets of the source must be the same"}
		}
	}
	if err := p.body.reserve(2 * len(p.body.bytes)); err != nil {
		return nil, err
	}
	body := slices.Clone(p.body.bytes)
	p.body.drop()
	if !signed && s.Unsigned() == fliptaudit.WithToken {
		if path := publish.PathPrefix + fliptaudit.TypeOf(body); !p.id.Allows(policy.Create, path, nil) {
			return nil, &refusal{status: http.StatusServiceUnavailable, why: wrongSignature, text: fmt.Sprintf("the token needs the capability create on %q", path)}
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), publishTimeout)
	defer cancel()
	return s.Receive(ctx, body)
}

// admitUnsigned returns how a request without a signature is refused.
func (a *API) admitUnsigned(p *publication, s *fliptaudit.Source) error {
	switch s.Unsigned() {
	case fliptaudit.FromLoopback:
		if isLocal(p.r) {
			return nil
		}
	case fliptaudit.WithToken:
		if access.Token(p.r) == "" {
			break
		}
		id, refused := a.authenticate(p.r, "")
		if refused == nil {
			refused = a.use(p.r, id)
		}
		if refused != nil {
			if refused.status == http.StatusForbidden {
				refused.why = wrongSignature
			}
			return refused
		}
		p.id = id
		return nil
	}
	if refused := a.limited(p.r, ""); refused != nil {
		return refused
	}
	a.failed(p.r, "")
	return &refusal{status: http.StatusServiceUnavailable, why: wrongSignature, text: "the request has no signature; set signing_secret at the Flipt server, or see unsigned of the source"}
}

// isLocal reports whether a request comes from a program on this machine: not by way of a
// proxy on it, and not from a page that somebody looks at in a browser on it, wherever that page
// is from.
func isLocal(r *http.Request) bool {
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "Sec-Fetch-") {
			return false
		}
	}
	for _, name := range []string{"Forwarded", "X-Real-Ip", "Via", "Origin"} {
		if len(r.Header.Values(name)) > 0 {
			return false
		}
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback()
}

// answerFlipt answers an event that is durable, and reports whether the client was there to
// be answered.
func answerFlipt(w http.ResponseWriter, r *http.Request, receipt *fliptaudit.Receipt) bool {
	body := []byte(`{"accepted":1}` + "\n")
	switch {
	case receipt.Repeat:
		body = []byte(`{"accepted":0,"duplicates":1}` + "\n")
	case receipt.Quarantined != nil:
		body = []byte(`{"accepted":1,"quarantined":1}` + "\n")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if _, err := w.Write(body); err != nil {
		return false
	}
	return http.NewResponseController(w).Flush() == nil && r.Context().Err() == nil
}

// fliptEntries serves /api/v1/ingest/flipt/{source}/entries: lines of an old log come in,
// each behind the number of equal events before it in the log and a space, compressed with gzip or
// zstd or not. The name need not be that of a configured source. It needs the
// capabilities update and sudo on sys/flipt/{source}. With dry_run=true nothing is stored.
//
//	200  {"lines":N,"accepted":N,"duplicates":N,"quarantined":N,"skipped":N}, after all is
//	     durable
//	400  a line has no number
//	413, 415, 429, 503  as for events
func (a *API) fliptEntries(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "the method is "+strconv.Quote(clip(r.Method, 20))+", it must be POST")
		return
	}
	name := r.PathValue("source")
	p := publication{r: r, body: a.publisher.bodies.new()}
	defer p.body.free()
	counted, err := a.importFlipt(w, &p, name)
	if err == nil {
		answerJSON(w, counted)
		return
	}
	refused := a.fliptRefusal(err)
	a.requests.Refused(refused.reason()).Inc()
	a.recordRefusal(attempt{what: "request-denied", path: fliptPath + clip(name, 100), operation: "update", id: p.id, request: r}, refused)
	p.body.free()
	p.answer(w, refused)
}

func (a *API) importFlipt(w http.ResponseWriter, p *publication, name string) (c fliptaudit.Counted, err error) {
	r := p.r
	id, refused := a.authenticate(r, "")
	if refused == nil {
		p.id = id
		refused = a.use(r, id)
	}
	if refused == nil && !id.Allows(policy.Update|policy.Sudo, fliptPath+name, nil) {
		refused = permissionDenied()
	}
	if refused != nil {
		return c, refused
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // else a dry run could become a real one
		return c, badRequest("the query cannot be read: %v", err)
	}
	dry := false
	if text := q.Get("dry_run"); text != "" {
		if dry, err = strconv.ParseBool(text); err != nil {
			return c, badRequest("invalid parameter dry_run: %q is neither true nor false", clip(text, 20))
		}
	}
	log, err := a.flipt.Log(name)
	if err != nil {
		return c, err
	}
	if p.encoding, err = contentEncoding(r); err != nil {
		return c, err
	}
	begin := time.Now()
	if err := p.readBody(); err != nil {
		return c, err
	}
	if time.Since(begin) > slowBody && a.hasEnded(id) {
		return c, invalidToken(access.Token(r))
	}
	if err := p.body.reserve(3 * len(p.body.bytes)); err != nil {
		return c, err
	}
	data := slices.Clone(p.body.bytes) // events keep parts of it
	p.body.drop()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(importTimeout + time.Minute))
	ctx, cancel := context.WithTimeout(r.Context(), importTimeout)
	defer cancel()
	return log.Import(ctx, data, dry)
}

func (a *API) fliptRefusal(err error) *refusal {
	switch {
	case errors.Is(err, fliptaudit.ErrTooMany):
		return &refusal{status: http.StatusUnprocessableEntity, text: err.Error()}
	case errors.Is(err, fliptaudit.ErrChunk), errors.Is(err, ErrNoAuditLog):
		return badRequest("%v", err)
	}
	return a.publicationRefusal(err)
}
