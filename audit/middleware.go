package audit

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// MiddlewareOptions say what [Middleware] logs. The zero value logs every request, with the
// address of who connects.
type MiddlewareOptions struct {
	// Select says which requests are logged; nil: all.
	Select func(*http.Request) bool
	// Identify says who asks, if that is known before the handler runs. A handler, or a
	// middleware behind this one, may say it with [Draft.SetActor], one in front of it with
	// [WithActor]. IP and UserAgent are filled where they are empty.
	Identify func(*http.Request) Actor
	// Describe may change the event before the handler runs. It has the action "read",
	// "create", "update" or "delete" by the method, and the target {Type: "http", ID: path}.
	Describe func(*http.Request, *Event)
	// Proxies are the proxies that may tell the address of a client.
	Proxies Proxies
	// RequestIDHeader is the header with the id of a request; empty means X-Request-Id. Where there is
	// none, one is made, which [RequestFrom] returns. That of [WithRequest] goes first.
	RequestIDHeader string
	// Timeout bounds how long a request waits at its end until its event is in the queue; 0 means
	// 5 seconds. That the client has gone away does not end it.
	Timeout time.Duration
	// OnError is told about an event that could not be logged. Nil: the Log of the logger is.
	OnError func(*http.Request, error)
}

const (
	maxRequestIDBytes = 128
	defaultRequestID  = "X-Request-Id"
	metaMethod        = "http_method"
	metaStatus        = "http_status"
	metaRoute         = "http_route"
	reasonPanic       = "the handler has panicked"
)

// Middleware makes an event of each request: who asked, for what, from where, and what became
// of it. The outcome follows from the status: 2xx and 3xx are [Success], 401 and 403
// [Denied], others of 4xx [Failure], 5xx and a panic [Error]. The handler may add to the event
// with [Current]. A panic goes on as it came.
//
// The query of a URL is not logged, because secrets stand there.
func Middleware(l *Logger, o MiddlewareOptions) func(http.Handler) http.Handler {
	if o.RequestIDHeader == "" {
		o.RequestIDHeader = defaultRequestID
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if o.Select != nil && !o.Select(r) {
				next.ServeHTTP(w, r)
				return
			}
			o.serve(l, next, w, r)
		})
	}
}

func (o *MiddlewareOptions) serve(l *Logger, next http.Handler, w http.ResponseWriter, r *http.Request) {
	e := Event{Action: actionOf(r.Method), Target: Target{Type: "http", ID: r.URL.Path}, Metadata: map[string]string{metaMethod: r.Method}}
	if o.Identify != nil {
		e.Actor = o.Identify(r)
	}
	e.FillFrom(r.Context())
	if e.Actor.IP == "" {
		if addr := o.Proxies.ClientAddr(r.RemoteAddr, r.Header); addr.IsValid() {
			e.Actor.IP = addr.String()
		}
	}
	take(&e.Actor.UserAgent, cut(r.UserAgent(), MaxTextBytes))
	e.fillRequest(RequestOf(r.Header, o.RequestIDHeader))
	if o.Describe != nil {
		o.Describe(r, &e)
	}
	ctx, draft := NewDraft(r.Context(), e)
	rec := &recorder{ResponseWriter: w}
	inner := r.WithContext(ctx)
	returned := false
	defer func() {
		status, reason := rec.status, ""
		outcome := OutcomeOf(status)
		switch {
		case !returned: // without recover, so that the panic is reported with where it was
			outcome, reason = Error, reasonPanic
		case status == 0 && rec.hijacked:
			outcome = Success
		case status == 0:
			status, outcome = http.StatusOK, Success // as net/http does
		}
		if status > 0 {
			draft.SetMetadata(metaStatus, strconv.Itoa(status))
		}
		if inner.Pattern != "" {
			draft.SetMetadata(metaRoute, inner.Pattern)
		}
		var onError func(error)
		if o.OnError != nil {
			onError = func(err error) { o.OnError(r, err) }
		}
		draft.End(ctx, l, outcome, reason, o.Timeout, onError)
	}()
	next.ServeHTTP(rec.wrapped(), inner)
	returned = true
}

// OutcomeOf returns what the status of an HTTP response says: [Success] for 2xx and 3xx,
// [Denied] for 401 and 403, [Failure] for the rest of 4xx, else [Error]. A switch of
// protocols (101) is a success.
func OutcomeOf(status int) Outcome {
	switch {
	case status == http.StatusSwitchingProtocols, status >= 200 && status < 400:
		return Success
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Denied
	case status >= 400 && status < 500:
		return Failure
	}
	return Error
}

// actionOf is the action of a method.
func actionOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, "":
		return "read"
	case http.MethodPost:
		return "create"
	case http.MethodPut, http.MethodPatch:
		return "update"
	case http.MethodDelete:
		return "delete"
	}
	if action := strings.ToLower(method); isName(action) {
		return action
	}
	return "other"
}

// RequestOf reads the headers that say which request, and which trace, a request belongs to:
// the id in the header idHeader, or a new one, and Traceparent and Tracestate.
// What is malformed is passed over, as W3C Trace Context asks for.
func RequestOf(h http.Header, idHeader string) Request {
	r := Request{ID: h.Get(idHeader)}
	if r.ID == "" || len(r.ID) > maxRequestIDBytes || !isVisible(r.ID) {
		r.ID = event.NewID()
	}
	if parents := h.Values("Traceparent"); len(parents) == 1 && isTraceparent(parents[0]) {
		r.Traceparent = parents[0]
		if state := strings.Join(h.Values("Tracestate"), ","); len(state) <= maxTracestate && isPrintable(state) {
			r.Tracestate = state
		}
	}
	return r
}

// recorder is a response writer that notes the status.
type recorder struct {
	http.ResponseWriter
	status   int
	hijacked bool
}

// Unwrap is for [http.ResponseController].
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	// Informational ones come before the real one.
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) begun() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.begun()
	return w.ResponseWriter.Write(b)
}

// flusher, hijacker and readerFrom are what the writer below can do besides.
type flusher struct{ *recorder }

func (f flusher) Flush() {
	f.begun()
	f.ResponseWriter.(http.Flusher).Flush()
}

// FlushError is what [http.ResponseController] prefers.
func (f flusher) FlushError() error {
	f.begun()
	return http.NewResponseController(f.ResponseWriter).Flush()
}

type hijacker struct{ *recorder }

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := h.ResponseWriter.(http.Hijacker).Hijack()
	h.hijacked = h.hijacked || err == nil
	return conn, rw, err
}

type readerFrom struct{ *recorder }

func (r readerFrom) ReadFrom(from io.Reader) (int64, error) {
	r.begun()
	return r.ResponseWriter.(io.ReaderFrom).ReadFrom(from)
}

// wrapped returns the recorder as a writer that can do what the one below can, also for those
// who ask with a type assertion.
func (w *recorder) wrapped() http.ResponseWriter {
	_, flushes := w.ResponseWriter.(http.Flusher)
	_, hijacks := w.ResponseWriter.(http.Hijacker)
	_, reads := w.ResponseWriter.(io.ReaderFrom)
	type (
		flush interface {
			Flush()
			FlushError() error
		}
		hijack = http.Hijacker
		read   = io.ReaderFrom
	)
	f, h, r := flusher{w}, hijacker{w}, readerFrom{w}
	switch {
	case flushes && hijacks && reads:
		return struct {
			*recorder
			flush
			hijack
			read
		}{w, f, h, r}
	case flushes && hijacks:
		return struct {
			*recorder
			flush
			hijack
		}{w, f, h}
	case flushes && reads:
		return struct {
			*recorder
			flush
			read
		}{w, f, r}
	case hijacks && reads:
		return struct {
			*recorder
			hijack
			read
		}{w, h, r}
	case flushes:
		return struct {
			*recorder
			flush
		}{w, f}
	case hijacks:
		return struct {
			*recorder
			hijack
		}{w, h}
	case reads:
		return struct {
			*recorder
			read
		}{w, r}
	}
	return w
}
