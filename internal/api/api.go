// Package api is the HTTP edge: it checks requests, asks other packages, and
// writes answers. It holds no state of its own.
//
//	GET /v1/[namespace/]sys/events/subscribe/{type}   WebSocket, see subscribe.go
//	GET /api/v1/payloads/{name}                       bytes that events refer to by dataref; root only
//	GET /api/v1/health                                all checks; 200 when all pass, else 503
//	GET /api/v1/health/live, /api/v1/health/ready     the same, 200 when live, when ready
//	GET /metrics                                      Prometheus
//
// Everything under /v1/ is Vault's API, with Vault's status codes and bodies:
// errors are {"errors":["text"]}, also for all other paths. A request with a token
// in its URL is refused everywhere.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// Authenticator turns the token of a request into an identity. The error is
// access.ErrDenied for a token that is not valid; another one means that it could
// not be found out.
type Authenticator interface {
	Authenticate(r *http.Request) (access.Identity, error)
}

// Positions finds the position after which a reader gets what since asks for; see
// [journal.Journal.Since].
type Positions interface {
	Since(ctx context.Context, since string, now time.Time) (journal.Position, error)
}

// Payloads has the bytes that were too large for an event. The error wraps
// fs.ErrNotExist for a name that there is not.
type Payloads interface {
	Open(ctx context.Context, name string) (*Payload, error)
}

// Payload is an open payload; whoever has it closes Body.
type Payload struct {
	Body        io.ReadCloser
	Size        int64 // in bytes; negative: not known
	ContentType string
}

// Options configure an API. Hub, Positions and Auth are required.
type Options struct {
	Hub       *hub.Hub
	Positions Positions
	Auth      Authenticator
	// Payloads, Health and Metrics may be nil; their paths are then unknown.
	Payloads Payloads
	Health   *health.Registry
	Metrics  http.Handler
	// AllowedOrigins are the foreign web pages that may subscribe; see
	// [websocket.Options].
	AllowedOrigins []string
	// Counters count refused requests; nil keeps them private.
	Counters *metrics.Metrics
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

// API is the handler of all requests. It is safe for concurrent use.
type API struct {
	hub       *hub.Hub
	positions Positions
	auth      Authenticator
	payloads  Payloads
	websocket websocket.Options
	refused   *metrics.Component
	searches  chan struct{} // one element for each search that runs
	log       *slog.Logger
	mux       *http.ServeMux
}

// New returns the handler.
func New(o Options) *API {
	if o.Counters == nil {
		o.Counters = metrics.New(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	a := &API{
		hub: o.Hub, positions: o.Positions, auth: o.Auth, payloads: o.Payloads,
		websocket: websocket.Options{AllowedOrigins: o.AllowedOrigins},
		refused:   o.Counters.Component("hub", "subscribe"),
		searches:  make(chan struct{}, maxSearches),
		log:       o.Logger,
		mux:       http.NewServeMux(),
	}
	a.mux.HandleFunc("/", unknownPath)
	a.mux.HandleFunc("/v1/", a.vault)
	if o.Payloads != nil {
		a.mux.Handle("/api/v1/payloads/{name...}", getOnly(http.HandlerFunc(a.payload)))
	}
	if o.Health != nil {
		a.mux.Handle("/api/v1/health", getOnly(o.Health.Handler()))
		a.mux.Handle("/api/v1/health/live", getOnly(o.Health.LiveHandler()))
		a.mux.Handle("/api/v1/health/ready", getOnly(o.Health.ReadyHandler()))
	}
	if o.Metrics != nil {
		a.mux.Handle("/metrics", getOnly(o.Metrics))
	}
	return a
}

// ServeHTTP serves one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if access.TokenInURL(r) {
		a.refused.Refused("token in URL").Inc()
		fail(w, http.StatusBadRequest, access.ErrTokenInURL.Error())
		return
	}
	a.mux.ServeHTTP(w, r)
}

// Shutdown ends all subscriptions with close code 1001 and waits for them; those
// that have not ended when ctx does are cut, and the error is that of ctx. It
// refuses new ones from its beginning on. Ordinary requests are the server's.
func (a *API) Shutdown(ctx context.Context) error { return a.hub.Shutdown(ctx) }

// Limits of [NewServer].
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = time.Minute
	writeTimeout      = 10 * time.Minute
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// NewServer returns a server with limits on what a client can make it wait for
// and keep. Subscriptions leave these limits with their handshake.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// vault serves Vault's API.
func (a *API) vault(w http.ResponseWriter, r *http.Request) {
	namespace, typ, ok := splitSubscribe(strings.TrimPrefix(r.URL.Path, "/v1/"))
	if !ok {
		// The text is Vault's, also for a subscribe path without its last slash.
		fail(w, http.StatusNotFound, "1 error occurred:\n\t* unsupported path\n\n")
		return
	}
	a.subscribe(w, r, namespace, typ)
}

// payload serves the bytes of one payload.
func (a *API) payload(w http.ResponseWriter, r *http.Request) {
	id, ok := a.authenticate(w, r)
	if !ok {
		return
	}
	if !id.Root() {
		fail(w, http.StatusForbidden, access.ErrDenied.Error())
		return
	}
	name := r.PathValue("name")
	p, err := a.payloads.Open(r.Context(), name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fail(w, http.StatusNotFound, "there is no payload "+strconv.Quote(name)+"; retention may have removed it")
		return
	case err != nil:
		a.log.Warn("cannot read payload", "name", name, "error", err)
		unavailable(w, "the payload cannot be read at the moment")
		return
	}
	defer p.Body.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	if p.ContentType != "" {
		h.Set("Content-Type", p.ContentType)
	}
	h.Set("X-Content-Type-Options", "nosniff")
	if p.Size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(p.Size, 10))
	}
	if r.Method == http.MethodHead {
		return
	}
	if _, err := io.Copy(w, p.Body); err != nil {
		a.log.Debug("payload was not sent completely", "name", name, "error", err)
		panic(http.ErrAbortHandler) // so that the client does not take it for whole
	}
}

// authenticate returns who makes the request, or answers it.
func (a *API) authenticate(w http.ResponseWriter, r *http.Request) (access.Identity, bool) {
	id, err := a.auth.Authenticate(r)
	switch {
	case err == nil:
		return id, true
	case errors.Is(err, access.ErrDenied):
		a.refused.Refused("denied").Inc()
		fail(w, http.StatusForbidden, access.ErrDenied.Error())
	default:
		a.log.Error("cannot validate token", "error", err)
		a.refused.Refused("error").Inc()
		fail(w, http.StatusInternalServerError, "error validating token")
	}
	return access.Identity{}, false
}

func unknownPath(w http.ResponseWriter, r *http.Request) {
	fail(w, http.StatusNotFound, "unknown path "+strconv.Quote(r.URL.Path)+"; there are /v1/sys/events/subscribe/{type}, /api/v1/health and /metrics")
}

func getOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			fail(w, http.StatusMethodNotAllowed, "the method is "+strconv.Quote(r.Method)+", it must be GET")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// fail answers with an error in Vault's form.
func fail(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	writeErrors(w, text)
}

func writeErrors(w io.Writer, text string) {
	_ = json.NewEncoder(w).Encode(struct {
		Errors []string `json:"errors"`
	}{[]string{text}})
}

// unavailable answers that the same request may succeed soon.
func unavailable(w http.ResponseWriter, text string) {
	w.Header().Set("Retry-After", "1")
	fail(w, http.StatusServiceUnavailable, text)
}
