package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/publish"
)

// eventsPath is where events are published.
const eventsPath = "/api/v1/events"

// edge is what the intake counts these events under.
const edge = "http"

// Bounds of publishing. One event is bounded by the limits of the journal.
const (
	maxEventsBody    = 8 << 20  // bytes of a body as it is sent
	maxEventsContent = 16 << 20 // bytes of a body after decompression
	maxEvents        = 10_000   // of a request
	maxBodiesBytes   = 64 << 20 // of all bodies that are held at once
	maxIDBytes       = 256      // of an id in an answer

	// publishTimeout bounds how long a request waits for the disk.
	publishTimeout = 30 * time.Second
	// bodiesRetry is when a body that found no memory may be sent again.
	bodiesRetry = time.Second
	// slowBody is how long it may take to receive a body before the token is looked at
	// again.
	slowBody = time.Second
)

// publisher is what the API has to publish events; see [API.events].
type publisher struct {
	intake *publish.Intake
	bodies *bodies
	events *metrics.Component
}

// publication is a request to publish, while it is served.
type publication struct {
	r         *http.Request
	namespace string
	id        access.Identity
	partial   bool
	mode      event.ContentMode
	encoding  string // empty: none

	body   *content
	began  bool           // the body was read from
	events []*event.Event // well-formed ones; the others are in refused
	broken []*publish.Refusal
}

// answered is the answer to a request of which something was stored.
type answered struct {
	Accepted   int       `json:"accepted"`
	Duplicates int       `json:"duplicates"`
	Warnings   []warning `json:"warnings,omitempty"`
	Refused    []refused `json:"refused,omitempty"`
}

type warning struct {
	Index   int    `json:"index"`
	Message string `json:"message"`
}

type refused struct {
	Index   int          `json:"index"`
	ID      string       `json:"id"`
	Code    publish.Code `json:"code"`
	Message string       `json:"message"`
}

// events serves POST /api/v1/events: CloudEvents 1.0.2 in their HTTP protocol binding, one
// event (binary or structured mode) or a batch, compressed with gzip or zstd or not. With
// partial=true in the query the events that are not refused are stored also when others
// are.
//
//	200  {"accepted":N,"duplicates":M}, after all are durable; also "warnings"
//	207  the same and "refused", if some were refused; only with partial=true
//	400, 403, 413  {"errors":[...],"refused":[...]}: nothing was stored; 403 if all that
//	     were refused are denied or reserved, 413 if all are too large
//	413  the body is too large
//	415  neither a CloudEvent nor in an encoding that is understood
//	429  too many bodies at once, or producers faster than the disk; with Retry-After
//	503  the journal is full or unavailable; with Retry-After
//
// OPTIONS answers the handshake of the CloudEvents webhook specification.
func (a *API) events(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
	case http.MethodOptions:
		allowWebhook(w, r)
		return
	default:
		w.Header().Set("Allow", "POST, OPTIONS")
		fail(w, http.StatusMethodNotAllowed, "the method is "+strconv.Quote(clip(r.Method, 20))+", it must be POST")
		return
	}
	p := publication{r: r, body: a.publisher.bodies.new()}
	defer p.body.free()
	result, err := a.publish(&p)
	var all *publish.RefusedError
	switch {
	case err == nil:
		a.recordDenied(p.attempt(), result.Refused)
		answerEvents(w, &result)
	case errors.As(err, &all):
		a.recordDenied(p.attempt(), all.Refused)
		answerRefused(w, all.Refused)
	default:
		a.refusePublication(w, &p, err)
	}
}

// allowWebhook answers whether events may be sent here (HTTP 1.1 Web Hooks for Event Delivery
// 1.0.2, section 4). They may, from everywhere and as often as one likes, because the
// token decides. A callback is not called: the answer has the permission.
func allowWebhook(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Allow", "POST, OPTIONS")
	h.Set("Accept-Encoding", encodings)
	if r.Header.Get("WebHook-Request-Origin") != "" {
		h.Set("WebHook-Allowed-Origin", "*")
		h.Set("WebHook-Allowed-Rate", "*")
	}
	w.WriteHeader(http.StatusOK)
}

// publish reads and stores the events of a request. The error is a [*refusal], or one
// that [API.publicationRefusal] knows.
func (a *API) publish(p *publication) (publish.Result, error) {
	if err := a.admitPublication(p); err != nil {
		return publish.Result{}, err
	}
	if err := p.readHeader(); err != nil {
		return publish.Result{}, err
	}
	begin := time.Now()
	if err := p.readBody(); err != nil {
		return publish.Result{}, err
	}
	if time.Since(begin) > slowBody && a.hasEnded(p.id) {
		return publish.Result{}, invalidToken(access.Token(p.r))
	}
	if err := p.parse(); err != nil {
		return publish.Result{}, err
	}
	a.countBroken(p)
	if len(p.broken) > 0 && !p.partial {
		return publish.Result{}, &publish.RefusedError{Refused: p.broken}
	}
	return a.store(p)
}

// admitPublication finds out who publishes.
func (a *API) admitPublication(p *publication) error {
	namespace, refused := headerNamespace(p.r)
	if refused == nil {
		namespace, refused = joinNamespace(namespace, "")
	}
	if refused != nil {
		return refused
	}
	p.namespace = namespace
	id, refused := a.authenticate(p.r, namespace)
	if refused == nil {
		refused = a.use(p.r, id)
	}
	if refused != nil {
		return refused
	}
	p.id = id
	return nil
}

// hasEnded says whether a token has ended since it was presented, other than by its last
// use.
func (a *API) hasEnded(id access.Identity) bool {
	var yes atomic.Bool
	a.authority.Follow(id, func() {}, func(why access.Ended) {
		// New policies are asked anyway.
		yes.Store(why != access.EndedUsedUp && why != access.EndedPolicies)
	})()
	return yes.Load()
}

// readHeader understands everything but the body.
func (p *publication) readHeader() error {
	if p.r.URL.RawQuery != "" {
		if raw := p.r.URL.Query().Get("partial"); raw != "" {
			partial, err := strconv.ParseBool(raw)
			if err != nil {
				return badRequest("invalid parameter partial: %q is neither true nor false", clip(raw, 20))
			}
			p.partial = partial
		}
	}
	types := p.r.Header.Values("Content-Type")
	if len(types) > 1 {
		return badRequest("there are several headers Content-Type")
	}
	contentType := strings.Join(types, "")
	var err error
	if p.mode, err = event.ContentModeOf(contentType); err != nil {
		return &refusal{status: http.StatusUnsupportedMediaType, text: "Content-Type: " + err.Error()}
	}
	if p.mode == event.BinaryMode && !hasAttributes(p.r.Header) {
		return &refusal{status: http.StatusUnsupportedMediaType, text: fmt.Sprintf("the Content-Type is %q, and there are no headers ce-*: send "+
			"application/cloudevents+json, application/cloudevents-batch+json, or the attributes of an event in headers beginning with ce-", clip(contentType, 100))}
	}
	p.encoding, err = contentEncoding(p.r)
	return err
}

// hasAttributes says whether some header could be that of an event in binary mode.
func hasAttributes(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "Ce-") {
			return true
		}
	}
	return false
}

// readBody reads the body and decompresses it.
func (p *publication) readBody() error {
	if p.r.ContentLength > maxEventsBody {
		return errBodyTooLarge
	}
	p.began = true
	if err := p.body.fill(p.r.Body, maxEventsBody); err != nil {
		if errors.Is(err, errBodyTooLarge) || errors.Is(err, errBodiesTooMany) {
			return err
		}
		return badRequest("the body cannot be read: %v", err)
	}
	if p.encoding == "" {
		return nil
	}
	err := p.body.decode(p.r.Context(), p.encoding, maxEventsContent)
	if wrong, ok := errors.AsType[*encodingError](err); ok {
		return badRequest("%v", wrong)
	}
	if errors.Is(err, errBodyTooLarge) {
		return &refusal{status: http.StatusRequestEntityTooLarge,
			text: fmt.Sprintf("the body has more than %d bytes after decompression; send less at once", maxEventsContent)}
	}
	return err
}

// parse makes events of the body, which is given back.
func (p *publication) parse() error {
	text := p.body.bytes
	if err := p.body.reserve(len(text)); err != nil {
		return err
	}
	defer p.body.drop()
	var e *event.Event
	var err error
	switch p.mode {
	case event.BatchMode:
		return p.parseBatch(text)
	case event.StructuredMode:
		e, err = event.ParseCloudEvent(text)
	default:
		e, err = event.ParseBinaryCloudEvent(p.r.Header, text)
	}
	if err != nil {
		p.refuse(0, "", err)
		return nil
	}
	p.events = []*event.Event{e}
	return nil
}

func (p *publication) parseBatch(text []byte) error {
	events, broken, err := event.ParseCloudEventBatch(text, maxEvents)
	switch {
	case errors.Is(err, event.ErrTooLarge):
		return &refusal{status: http.StatusRequestEntityTooLarge, text: err.Error() + "; send fewer at once"}
	case err != nil:
		return badRequest("%v", err)
	}
	for i := range broken {
		p.refuse(broken[i].Index, broken[i].ID, broken[i].Err)
	}
	p.events = events
	if len(broken) > 0 {
		p.events = slices.DeleteFunc(events, func(e *event.Event) bool { return e == nil })
	}
	return nil
}

func (p *publication) refuse(index int, id string, err error) {
	code := publish.Invalid
	if errors.Is(err, event.ErrTooLarge) {
		code = publish.TooLarge
	}
	p.broken = append(p.broken, &publish.Refusal{Index: index, ID: id, Code: code, Text: err.Error()})
}

// store gives the events to the intake and waits until they are durable.
func (a *API) store(p *publication) (publish.Result, error) {
	ctx, cancel := context.WithTimeout(p.r.Context(), publishTimeout)
	defer cancel()
	receipt, err := a.publisher.intake.Submit(ctx, publish.Request{By: p.id, Edge: edge, Namespace: p.namespace, Events: p.events, Partial: p.partial})
	if err != nil {
		return publish.Result{}, err
	}
	p.body.free() // the journal has what it needs
	result, err := receipt.Wait(ctx)
	if err != nil || len(p.broken) == 0 {
		return result, err
	}
	// The intake has counted without the events that were broken.
	index := p.indices()
	for _, r := range result.Refused {
		r.Index = index[r.Index]
	}
	for i := range result.Warnings {
		result.Warnings[i].Index = index[result.Warnings[i].Index]
	}
	result.Refused = append(result.Refused, p.broken...)
	slices.SortFunc(result.Refused, func(a, b *publish.Refusal) int { return a.Index - b.Index })
	return result, nil
}

// indices returns where the events that were not broken are in the request.
func (p *publication) indices() []int {
	all := make([]int, 0, len(p.events))
	broken := p.broken
	for i := 0; len(all) < len(p.events); i++ {
		if len(broken) > 0 && broken[0].Index == i {
			broken = broken[1:]
			continue
		}
		all = append(all, i)
	}
	return all
}

// answerEvents says what became of a request of which something was stored, or nothing
// had to be.
func answerEvents(w http.ResponseWriter, r *publish.Result) {
	w.Header().Set("Content-Type", "application/json")
	if len(r.Refused) == 0 && len(r.Warnings) == 0 { // nearly always
		b := append(make([]byte, 0, 64), `{"accepted":`...)
		b = append(strconv.AppendInt(b, int64(r.Accepted), 10), `,"duplicates":`...)
		b = append(strconv.AppendInt(b, int64(r.Duplicates), 10), "}\n"...)
		_, _ = w.Write(b)
		return
	}
	answer := answered{Accepted: r.Accepted, Duplicates: r.Duplicates, Refused: refusedList(r.Refused)}
	for _, one := range r.Warnings {
		answer.Warnings = append(answer.Warnings, warning{one.Index, one.Text})
	}
	if len(r.Refused) > 0 {
		w.WriteHeader(http.StatusMultiStatus)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// maxErrors bounds the texts under "errors", which repeat for people what "refused" has.
const maxErrors = 10

// answerRefused says why nothing of a request was stored.
func answerRefused(w http.ResponseWriter, all []*publish.Refusal) {
	answer := struct {
		Errors  []string  `json:"errors"`
		Refused []refused `json:"refused"`
	}{Refused: refusedList(all)}
	denied, large := true, true
	for i, one := range all {
		denied = denied && (one.Code == publish.Denied || one.Code == publish.Reserved)
		large = large && one.Code == publish.TooLarge
		switch {
		case i < maxErrors:
			answer.Errors = append(answer.Errors, one.Error())
		case i == maxErrors:
			answer.Errors = append(answer.Errors, fmt.Sprintf("and %d more events were refused", len(all)-i))
		}
	}
	status := http.StatusBadRequest
	switch {
	case denied:
		status = http.StatusForbidden
	case large:
		status = http.StatusRequestEntityTooLarge
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func refusedList(all []*publish.Refusal) []refused {
	list := make([]refused, len(all))
	for i, r := range all {
		list[i] = refused{r.Index, clip(r.ID, maxIDBytes), r.Code, r.Text}
	}
	return list
}

// clip shortens s to about maxBytes.
func clip(s string, maxBytes int) string {
	if len(s) <= maxBytes {
		return s
	}
	return strings.ToValidUTF8(s[:maxBytes], "") + "..."
}

// countBroken counts the events that the intake does not see.
func (a *API) countBroken(p *publication) {
	if len(p.broken) == 0 {
		return
	}
	unseen := len(p.broken)
	if !p.partial {
		unseen += len(p.events)
	}
	a.publisher.events.Received.Add(float64(unseen))
	for _, r := range p.broken {
		a.publisher.events.Refused(string(r.Code)).Inc()
	}
}

// recordDenied records once that events of a request in a namespace were denied.
func (a *API) recordDenied(t attempt, all []*publish.Refusal) {
	first, count := publish.Forbidden(all)
	if first == nil {
		return
	}
	t.count = count
	t.path += first.Type
	if _, cannotBe := joinNamespace(first.Namespace, ""); cannotBe == nil && strings.HasPrefix(first.Namespace, t.namespace) {
		t.namespace = first.Namespace
	}
	a.recordRefusal(t, &refusal{status: http.StatusForbidden, text: first.Text})
}

// publishAttempt is what is recorded of a request to publish that was denied before its
// events were judged.
func publishAttempt(r *http.Request, namespace string, id access.Identity) attempt {
	return attempt{what: "publish-denied", namespace: namespace, path: publish.PathPrefix, operation: "publish", id: id, request: r}
}

func (p *publication) attempt() attempt { return publishAttempt(p.r, p.namespace, p.id) }

// refusePublication answers a request that was refused before its events were judged, or
// that could not be stored now.
func (a *API) refusePublication(w http.ResponseWriter, p *publication, err error) {
	refused := a.publicationRefusal(err)
	a.requests.Refused(refused.reason()).Inc()
	if n := len(p.events); n > 0 { // else it is not known how many
		a.publisher.events.Refused(refused.reason()).Add(float64(n))
	}
	a.recordRefusal(p.attempt(), refused)
	p.answer(w, refused)
}

// answer refuses a request. What the client still sends is read first, within bounds, so
// that it gets to read the answer.
func (p *publication) answer(w http.ResponseWriter, refused *refusal) {
	if refused.status == http.StatusRequestEntityTooLarge {
		w.Header().Set("Connection", "close")
	}
	if refused.status == http.StatusUnsupportedMediaType {
		w.Header().Set("Accept-Encoding", encodings)
	}
	// A client that waits to be asked for its body need not send it.
	if p.began || p.r.Header.Get("Expect") == "" {
		switch {
		case p.id.Entry() != nil:
			discard(p.r.Body, maxEventsContent)
		case refused.status != http.StatusTooManyRequests:
			discard(p.r.Body, maxUnread)
		}
	}
	refused.answer(w)
}

// publicationRefusal returns how an error of publishing is answered.
func (a *API) publicationRefusal(err error) *refusal {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused
	}
	after := time.Second
	if pushback, ok := errors.AsType[*journal.PushbackError](err); ok {
		after = pushback.RetryAfter
	}
	switch {
	case errors.Is(err, errBodyTooLarge):
		return &refusal{status: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("the body has more than %d bytes; send less at once, or compress it", maxEventsBody)}
	case errors.Is(err, errBodiesTooMany):
		return &refusal{status: http.StatusTooManyRequests, why: "bodies", after: bodiesRetry, text: "too many requests with events are being received at the moment; try again"}
	case errors.Is(err, journal.ErrBusy):
		return &refusal{status: http.StatusTooManyRequests, why: "busy", after: after, text: "events come faster than the disk takes them; send the same request again later"}
	case errors.Is(err, journal.ErrFull):
		return &refusal{status: http.StatusServiceUnavailable, why: "full", after: after, text: "there is no space left for events; send the same request again later"}
	case errors.Is(err, journal.ErrPushback), errors.Is(err, journal.ErrClosed):
		a.warn("events cannot be stored at the moment", "error", err)
		return &refusal{status: http.StatusServiceUnavailable, why: "unavailable", after: after, text: "events cannot be stored at the moment; send the same request again later"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &refusal{status: http.StatusServiceUnavailable, why: "unavailable", after: after, text: "the events may be stored or not; send the same request again"}
	case errors.Is(err, event.ErrTooLarge):
		return &refusal{status: http.StatusRequestEntityTooLarge, text: err.Error() + "; send fewer events at once"}
	}
	a.log.Error("events cannot be published", "error", err)
	return &refusal{status: http.StatusInternalServerError, text: "internal error; the log of the server has more"}
}
