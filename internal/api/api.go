// Package api is the HTTP edge: it checks requests, asks other packages, and
// writes answers. What may be done is decided by package access; api only asks, and
// records in the trail what was done and what was refused.
//
// Everything under /v1/ is Vault's API, as far as it concerns tokens, policies and
// events, with its status codes and bodies, so that Vault's and OpenBao's own clients
// work. PUT and POST are the same; LIST is also GET with list=true. Every path may
// have a namespace before it, and the header X-Vault-Namespace before that. Marked
// with * are those that need no token.
//
//	GET     /v1/sys/events/subscribe/{type}    WebSocket, see subscribe.go
//	POST    /v1/auth/token/create              also create-orphan
//	GET     /v1/auth/token/lookup-self
//	POST    /v1/auth/token/lookup              also GET, lookup-accessor
//	POST    /v1/auth/token/renew               also renew-self, renew-accessor
//	POST    /v1/auth/token/revoke              also revoke-self, revoke-accessor,
//	                                           and with sudo revoke-orphan
//	LIST    /v1/auth/token/accessors           with sudo
//	POST  * /v1/auth/{name}/login              a token for a JWT, see login.go
//	LIST    /v1/sys/policies/acl
//	GET     /v1/sys/policies/acl/{name}        also POST, DELETE
//	LIST    /v1/sys/policy                     the older spelling, also GET
//	GET     /v1/sys/policy/{name}              also POST, DELETE
//	POST    /v1/sys/capabilities               also capabilities-self, -accessor
//	GET   * /v1/sys/health                     also HEAD
//	GET   * /v1/sys/seal-status, /v1/sys/leader, /v1/sys/init
//	GET     /v1/sys/experiments
//	GET     /v1/sys/mounts, /v1/sys/auth       also {path} with POST, DELETE, and {path}/tune
//	        /v1/sys/plugins/catalog            with sudo; also reload, see plugins.go
//	        /v1/{mount}/...                    of hosted plugins, see hosted.go
//	GET   * /v1/sys/internal/ui/mounts         of those whom the token shows
//	GET     /v1/sys/internal/ui/mounts/{path}
//
// Our own:
//
//	POST    /api/v1/events                     CloudEvents in, see publish.go; also OPTIONS
//	POST    /api/v1/audit/{server}/entries     lines of an old audit log, see importing.go; also GET
//	GET     /api/v1/payloads/{name}            bytes that events refer to by dataref; root only
//	GET     /api/v1/event-types                the catalogue, see eventtypes.go
//	GET     /api/v1/event-types/{type}         one of it, with example and schema
//	GET     /api/v1/sinks                      the sinks, see sinks.go; also /api/v1/sink-kinds
//	GET     /api/v1/sinks/{name}               also PUT, DELETE, and below it POST test, pause,
//	                                           disable, resume, replay, GET attempts, replays,
//	                                           dead-letters, POST dead-letters/redrive
//	GET     /api/v1/plugin-sources             how the source plugins are, see pluginsources.go
//	GET     /api/v1/plugin-sources/{name}
//	GET   * /api/v1/health                     all checks; 200 when all pass, else 503
//	GET   * /api/v1/health/live                the same, 200 when live; also /ready
//	GET   * /metrics                           Prometheus
//
// gRPC calls are requests of the type application/grpc, see grpc.go.
//
// Errors are {"errors":["text"]}, for all paths. A request with a token in its URL is
// refused everywhere. Whoever fails to authenticate too often is refused with 429 for
// a while, see limit.go.
//
// A change is made first, then recorded, then answered. So the trail has nothing that
// was not done, and nothing was answered as done that the trail does not have. When
// a change cannot be recorded the answer is 503 and says so. A client that does not wait
// for its answer does not keep a change from being recorded; only a crash between the
// two does.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/alerting"
	"github.com/tocsin-events/tocsin/internal/catalog"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/fields"
	"github.com/tocsin-events/tocsin/internal/grpcapi"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/metrics"
	"github.com/tocsin-events/tocsin/internal/pluginhost"
	"github.com/tocsin-events/tocsin/internal/publish"
	"github.com/tocsin-events/tocsin/internal/throttle"
	"github.com/tocsin-events/tocsin/internal/trail"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// Positions finds the position after which a reader gets what since asks for; see
// [journal.Journal.Since].
type Positions interface {
	Since(ctx context.Context, since string, now time.Time) (journal.Position, error)
}

// Options configure an API. Hub, Positions, Authority and Trail are required.
type Options struct {
	Hub       *hub.Hub
	Positions Positions
	Authority *access.Authority
	Trail     *trail.Trail
	// Logins are those who know JWTs, by the name of the login path:
	// auth/{name}/login.
	Logins map[string]access.Provider
	// Intake, AuditLogs, Flipt, Payloads, EventTypes, Sinks, PluginSources, Health and Metrics may be nil; their paths are then
	// unknown.
	Intake     *publish.Intake
	AuditLogs  AuditLogs    // needs Intake
	Flipt      FliptSources // needs Intake
	Payloads   Payloads
	EventTypes *catalog.Catalog
	Sinks      *manager.Manager
	// PluginSources are the plugins that are sources.
	PluginSources PluginSources
	// Fields knows the fields of plugins that filters of subscriptions may have. It is that of
	// the hub; nil: there are none.
	Fields *fields.Registry
	// Rules judge events; nil: there are none.
	Rules   *alerting.Alerting
	Health  *health.Registry
	Metrics http.Handler
	// GRPC serves gRPC calls; nil: there are none. Who made it shuts it down.
	GRPC *grpcapi.Server
	// Plugins hosts plugins; nil: there are none, and none can be mounted.
	Plugins *pluginhost.Host
	// AllowedOrigins are the foreign web pages that may subscribe; see
	// [websocket.Options].
	AllowedOrigins []string
	// Failures limits failed authentications.
	Failures Failures
	// Version is the semantic version of the program, for clients that ask; a leading
	// "v" is left out, as in Vault.
	Version string
	// Counters count refused requests; nil keeps them private.
	Counters *metrics.Metrics
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

// API is the handler of all requests. It is safe for concurrent use.
type API struct {
	hub       *hub.Hub
	positions Positions
	authority *access.Authority
	trail     *trail.Trail
	logins    map[string]access.Provider
	publisher publisher
	unproven  *bodies          // of those who have not shown yet that they may send
	fields    *fields.Registry // nil: filters have none of plugins
	rules     *alerting.Alerting
	plugins   *pluginhost.Host
	payloads  Payloads
	auditLogs AuditLogs
	flipt     FliptSources
	types     *catalog.Catalog
	sinks     *manager.Manager

	pluginSources PluginSources

	health    *health.Registry
	grpc      *grpcapi.Server
	websocket websocket.Options
	limiter   *limiter // of failed authentications
	denials   *limiter // of records of denials
	lookups   *limiter // of records of logins by looking the own token up
	known     *known
	version   string
	refused   *metrics.Component // subscriptions
	requests  *metrics.Component // all others
	searches  chan struct{}      // one element for each search that runs
	log       *slog.Logger
	warned    throttle.Throttle
	routes    []route
	mux       *http.ServeMux
}

// New returns the handler. [API.Shutdown] ends it.
func New(o Options) *API {
	if o.Counters == nil {
		o.Counters = metrics.New(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Version = strings.TrimPrefix(o.Version, "v"); o.Version == "" {
		o.Version = "0.0.0"
	}
	a := &API{
		hub: o.Hub, positions: o.Positions, authority: o.Authority, trail: o.Trail, logins: o.Logins,
		plugins: o.Plugins, payloads: o.Payloads, auditLogs: o.AuditLogs, flipt: o.Flipt, types: o.EventTypes, sinks: o.Sinks, pluginSources: o.PluginSources, health: o.Health, grpc: o.GRPC, fields: o.Fields, rules: o.Rules,
		websocket: websocket.Options{AllowedOrigins: o.AllowedOrigins},
		known:     newKnown(),
		version:   o.Version,
		refused:   o.Counters.Component("hub", "subscribe"),
		requests:  o.Counters.Component("api", "vault"),
		searches:  make(chan struct{}, maxSearches),
		log:       o.Logger,
		mux:       http.NewServeMux(),
	}
	a.limiter = newLimiter(o.Failures, a.recordLimited)
	a.denials = newLimiter(Failures{}, a.recordDenials)
	a.lookups = newLimiter(Failures{}, a.recordLogins)
	a.routes = a.vaultRoutes()
	a.mux.HandleFunc("/", unknownPath)
	a.mux.HandleFunc("/v1/", a.vault)
	if o.Intake != nil {
		a.publisher = publisher{o.Intake, newBodies(maxBodiesBytes), o.Counters.Component("publish", "http")}
		a.mux.HandleFunc(eventsPath, a.events)
	}
	if o.AuditLogs != nil {
		a.mux.HandleFunc("/api/v1/audit/{server}/entries", a.importEntries)
	}
	if o.Flipt != nil {
		a.unproven = newBodies(maxUnprovenBytes)
		a.mux.HandleFunc("/api/v1/ingest/flipt", a.fliptWebhook)
		a.mux.HandleFunc("/api/v1/ingest/flipt/{source}", a.fliptWebhook)
		a.mux.HandleFunc("/api/v1/ingest/flipt/{source}/entries", a.fliptEntries)
	}
	if o.Payloads != nil {
		a.mux.Handle("/api/v1/payloads/{name...}", getOnly(http.HandlerFunc(a.payload)))
	}
	if o.EventTypes != nil {
		a.mux.Handle("/api/v1/event-types", getOnly(http.HandlerFunc(a.eventTypes)))
		a.mux.Handle("/api/v1/event-types/{type...}", getOnly(http.HandlerFunc(a.eventType)))
	}
	if o.Sinks != nil {
		a.handleSinks()
	}
	if o.PluginSources != nil {
		a.handlePluginSources()
	}
	a.handleRules()
	if o.Fields != nil {
		a.mux.Handle("/api/v1/rule-fields", getOnly(http.HandlerFunc(a.getRuleFields)))
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
		a.requests.Refused("token in URL").Inc()
		fail(w, http.StatusBadRequest, access.ErrTokenInURL.Error())
		return
	}
	if a.grpc != nil && grpcapi.Is(r) {
		a.serveGRPC(w, r)
		return
	}
	a.mux.ServeHTTP(w, r)
}

// Shutdown ends all subscriptions with close code 1001 and waits for them; those
// that have not ended when ctx does are cut, and the error is that of ctx. It
// refuses new ones from its beginning on. Ordinary requests are the server's. After
// it, what has to be recorded about subscriptions and failed authentications was
// given to the trail.
func (a *API) Shutdown(ctx context.Context) error {
	err := a.hub.Shutdown(ctx)
	a.limiter.close()
	a.denials.close()
	a.lookups.close()
	return err
}

func unknownPath(w http.ResponseWriter, r *http.Request) {
	fail(w, http.StatusNotFound, "unknown path "+strconv.Quote(r.URL.Path)+"; there are /v1/sys/events/subscribe/{type}, /api/v1/events, /api/v1/health and /metrics")
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
