package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/filter"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/websocket"
)

// sinceTimeout bounds the search for the place where a subscription begins.
const sinceTimeout = 30 * time.Second

// maxSearches bounds how many searches for an event id run at once; the others
// wait. A search for an id that there is not reads the whole journal, which takes
// a core about a second per 600 MB.
const maxSearches = 1

// subscribePath is what follows the namespace in the path of a subscription, and
// goes before the event type.
const subscribePath = "sys/events/subscribe/"

// subscribe serves GET /v1/[namespace/]sys/events/subscribe/{type}. Parameters of
// the query as in Vault:
//
//	json=BOOL        text messages in Vault's JSON envelope instead of protobuf
//	namespaces=GLOB  also from these namespaces below the one of the request; repeatable
//	filter=EXPR      only events for which the expression is true
//
// and beyond Vault:
//
//	since=WHERE      first what is in the journal after a position, event id, time
//	                 or within a duration
//	sequence=BOOL    the position of each event as the attribute "sequence"
//	follow=BOOL      false: end with the close code 1000 behind what the journal has now
//	format=NAME      "json", "protobuf" or "cloudevents" (correct CloudEvents 1.0 JSON)
//
// The order of the checks is Vault's, so that a client sees the same error for a
// request with several.
//
// The right to connect and to see is asked again whenever it may have changed: when a
// policy takes it away or the token ends, the connection is closed with code 1008 and
// the reason, and no further event is sent.
func (a *API) subscribe(w http.ResponseWriter, r *http.Request, namespace, typ string) {
	typ = strings.TrimSpace(typ)
	refuse := func(refused *refusal, reason string) {
		a.refused.Refused(reason).Inc()
		refused.answer(w)
	}
	id, refused := a.authenticate(r, namespace)
	path, parameters := namespace+subscribePath+typ, map[string]any(queryArguments(r.URL.Query()))
	mayConnect := func() bool { return id.Allows(policy.Read, path, parameters) }
	if refused == nil && typ != "" && !mayConnect() {
		refused = permissionDenied()
	}
	if refused != nil {
		a.recordRefusal(attempt{what: "subscribe-denied", namespace: namespace, path: subscribePath + typ, operation: "subscribe", id: id, request: r}, refused)
		if refused.status == http.StatusForbidden {
			refused.text = "permission denied" // without the list, as Vault's handler says it
		}
		refuse(refused, refused.reason())
		return
	}
	request, refused := a.readSubscription(r, namespace, typ)
	if refused != nil {
		refuse(refused, cmp.Or(refused.why, "bad request"))
		return
	}
	handshake, err := websocket.Check(r, a.websocket)
	if err != nil {
		a.refused.Refused("handshake").Inc()
		a.refuseHandshake(w, err)
		return
	}
	if request.After, refused = a.begin(r); refused != nil {
		refuse(refused, "since")
		return
	}
	if namespace, _ := headerNamespace(r); namespace != "" {
		w.Header().Set("X-Vault-Namespace", namespace)
	}
	story := newStory(a, id, r, namespace, typ, request)
	request.Allow, request.AccessKey, request.Ended = id.MaySee, id.Key(), story.ended
	// From here on nothing is missed, so the client may be told that it is
	// connected.
	subscription, err := a.hub.Subscribe(*request)
	switch {
	case errors.Is(err, hub.ErrSelection):
		refuse(badRequest("%v", err), "bad request")
		return
	case err != nil: // the hub has counted it
		unavailable(w, err.Error())
		return
	}
	story.follow(a.authority.Follow(id, func() {
		if !mayConnect() {
			subscription.Revoke(string(access.EndedPolicies))
		}
	}, func(reason access.Ended) { subscription.Revoke(string(reason)) }))
	conn, err := handshake.Accept(w)
	if err != nil {
		subscription.Cancel()
		a.log.Debug("handshake was not completed", "client", r.RemoteAddr, "error", err)
		return
	}
	a.log.Debug("subscription began", "type", typ, "client", r.RemoteAddr, "format", request.Format.String())
	story.began()
	subscription.Serve(conn)
}

// readSubscription reads everything but who asks and since when.
func (a *API) readSubscription(r *http.Request, namespace, typ string) (*hub.Request, *refusal) {
	if typ == "" {
		return nil, badRequest("did not specify eventType to subscribe to")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query of the URL cannot be parsed: %v", err)
	}
	request := &hub.Request{Format: hub.Protobuf}
	if raw := query.Get("json"); raw != "" {
		json, err := strconv.ParseBool(raw)
		if err != nil {
			return nil, badRequest("invalid parameter for JSON: %s", raw)
		}
		if json {
			request.Format = hub.VaultJSON
		}
	}
	expression, err := filter.CompileFields(query.Get("filter"), a.checkField)
	if err != nil {
		// Vault says no more than the first line.
		return nil, &refusal{status: http.StatusBadRequest, text: "Error subscribing\n" + err.Error(), plain: true}
	}
	if names := expression.Fields(); len(names) > 0 {
		if err := a.fields.Known(names...); err != nil {
			return nil, &refusal{status: http.StatusServiceUnavailable, text: "Error subscribing\nfilter: " + err.Error() + "; try again when it has", plain: true, why: "fields", after: fieldsRetry}
		}
	}
	request.Selection = hub.Selection{Type: typ, Namespaces: hub.Namespaces(namespace, query["namespaces"]), Filter: expression}
	switch name := query.Get("format"); name {
	case "":
	case "json":
		request.Format = hub.VaultJSON
	case "protobuf":
		request.Format = hub.Protobuf
	case "cloudevents":
		request.Format = hub.CloudEvents
	default:
		return nil, badRequest("unknown format %q; there are json, protobuf and cloudevents", name)
	}
	if raw := query.Get("sequence"); raw != "" {
		if request.Sequence, err = strconv.ParseBool(raw); err != nil {
			return nil, badRequest("invalid parameter sequence: %q is neither true nor false", raw)
		}
		if request.Sequence && request.Format == hub.Protobuf {
			return nil, badRequest("sequence=true needs json=true or format=cloudevents: the protobuf message has no place for it")
		}
	}
	if raw := query.Get("follow"); raw != "" {
		follow, err := strconv.ParseBool(raw)
		if err != nil {
			return nil, badRequest("invalid parameter follow: %q is neither true nor false", raw)
		}
		request.NoFollow = !follow
	}
	return request, nil
}

// fieldsRetry is when somebody asks again for fields of a plugin that has not been started yet.
const fieldsRetry = time.Second

// checkField says whether filters may ask for a field of plugins.
func (a *API) checkField(field string, equals *string) error {
	if a.fields == nil {
		return errors.New("fields of plugins cannot be used here")
	}
	return a.fields.Check(field, equals)
}

// begin returns the position after which the subscription begins.
func (a *API) begin(r *http.Request) (journal.Position, *refusal) {
	since := r.URL.Query().Get("since")
	if since == "" {
		return a.hub.End(), nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), sinceTimeout)
	defer cancel()
	after, err := a.find(ctx, since)
	switch {
	case err == nil:
		return after, nil
	case errors.Is(err, journal.ErrBadSince):
		return after, badRequest("%v; since takes the sequence or id of an event, an RFC 3339 time such as 2026-01-02T15:04:05Z, "+
			"a duration such as 15m, or \"oldest\"", err)
	case errors.Is(err, journal.ErrNotFound):
		return after, &refusal{status: http.StatusGone, text: fmt.Sprintf(
			"since: %v; it was removed by retention or belongs to another server. since=oldest begins with the oldest event that there is", err)}
	}
	a.log.Warn("cannot find where a subscription begins", "since", since, "error", err)
	return after, &refusal{status: http.StatusServiceUnavailable, text: "the journal cannot be searched at the moment; try again"}
}

// find is Since of the journal, with searches one after the other.
func (a *API) find(ctx context.Context, since string) (journal.Position, error) {
	if isEventID(since) {
		select {
		case a.searches <- struct{}{}:
			defer func() { <-a.searches }()
		case <-ctx.Done():
			return journal.Position{}, fmt.Errorf("wait for other searches: %w", ctx.Err())
		}
	}
	return a.positions.Since(ctx, since, time.Now())
}

// isEventID says whether since is none of what is found without a search.
func isEventID(since string) bool {
	if since == journal.Oldest {
		return false
	}
	if _, err := journal.ParsePosition(since); err == nil {
		return false
	}
	if _, err := time.ParseDuration(since); err == nil {
		return false
	}
	_, err := time.Parse(time.RFC3339Nano, since)
	return err != nil
}

// refuseHandshake answers a request that is no WebSocket handshake: the reason as
// text and then, as Vault does, an error in JSON.
func (a *API) refuseHandshake(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	var handshake *websocket.HandshakeError
	if errors.As(err, &handshake) {
		status = handshake.Status
		for name, value := range handshake.Header {
			w.Header().Set(name, value)
		}
	}
	http.Error(w, err.Error(), status)
	writeErrors(w, "could not accept as websocket")
}
